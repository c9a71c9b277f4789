"""Sockets, health, reloading, and the admin interface."""
