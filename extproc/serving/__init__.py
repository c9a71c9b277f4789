"""Sockets, health, reloading, and the admin interface.

May import `exchange` and below; starts the process's parts and ends them in order.
"""
