"""Addresses that Envoy listens on or connects to: what it refuses at its start is refused here first."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

_LONGEST_PATH = 107
"""Bytes of a socket's path: the system has room for no more, and for a zero behind it."""

_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?\.?")


def check_address(address: str) -> str:
    """Raise ValueError unless `address` is `unix:/path` or `host:port`."""
    if address.startswith("unix:/"):
        return _check_path(address)
    host, port = parted(address)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is neither unix:/path nor host:port")
    if not is_ip(host) and not _NAME.fullmatch(host):
        raise ValueError(f"{address!r} has no host that could be found")
    return address


def parted(address: str) -> tuple[str, str]:
    """Host, without brackets, and port."""
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    return (host[1:-1] if bracketed else host), port


def is_ip(host: str) -> bool:
    """Whether it is an address that Envoy takes: one of a single interface, such as `fe80::1%eth0`, is none."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def is_local(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


def _check_path(address: str) -> str:
    path = address.removeprefix("unix:").encode("utf-8", "surrogatepass")
    if len(path) > _LONGEST_PATH or b"\0" in path:
        raise ValueError(f"the path of a socket has at most {_LONGEST_PATH} bytes, none of them 0")
    return address


def _check_listened(address: str) -> str:
    check_address(address)
    if not address.startswith("unix:/") and not is_ip(parted(address)[0]):
        raise ValueError(f"{address!r} has a name: Envoy listens on addresses, such as 127.0.0.1")
    return address


def _check_egress(egress: str) -> str:
    # What stands there is not repeated: it may be a URL with a credential in it.
    if "@" in egress and not egress.startswith("unix:/"):
        raise ValueError("must not carry a credential")
    if egress.startswith("unix:/"):
        return _check_path(egress)
    there = egress.removeprefix("http://").removesuffix("/")
    try:
        _check_listened(there)
    except ValueError:
        egress = ""
    # Calls go to it, so that port 0, any that is free, leads nowhere.
    if not egress.startswith("http://") or int(parted(there)[1]) == 0:
        raise ValueError("neither unix:/path nor http://host:port, with the address of a host")
    return egress


Address = Annotated[str, AfterValidator(check_address)]
Listened = Annotated[str, AfterValidator(_check_listened)]
"""An address that Envoy listens on, or that must be known to it before it can look names up."""

Egress = Annotated[str, AfterValidator(_check_egress)]
