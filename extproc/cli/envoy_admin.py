"""Envoy's admin interface, for the commands that ask it: a socket, unless its operator wants a port."""

import aiohttp


def admin_session(admin: str, seconds: float) -> aiohttp.ClientSession:
    """For requests to Envoy at `unix:/path`, `host:port` or a URL, each of which raises unless it is answered well."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    if admin.startswith("unix:"):
        connector = aiohttp.UnixConnector(admin.removeprefix("unix:"))
        return aiohttp.ClientSession(
            "http://envoy", connector=connector, timeout=timeout, raise_for_status=True
        )
    base = admin if "://" in admin else f"http://{admin}"
    return aiohttp.ClientSession(base, timeout=timeout, raise_for_status=True)
