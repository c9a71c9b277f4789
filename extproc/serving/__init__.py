"""Sockets, health, reloading, and the admin interface; `http2` is the transport of our own.

May import `exchange` and below; starts the process's parts and ends them in order.
"""
