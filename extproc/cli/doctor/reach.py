"""Who may connect to what only the processor, or only the operator, is to reach."""

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

from extproc.cli.doctor.dump import Address, Dump, Pipe
from extproc.cli.doctor.findings import Finding, State
from extproc.cli.doctor.ways import Way

_TO_CONNECT = 0o022
"""Whoever may write to a socket may connect to it: group, and all others."""

_SOCKET = (
    "have it listen at a socket of its owner's alone: `pipe: {path: …, mode: 384}`, which is 0600"
)


class _Reached(NamedTuple):
    state: State
    found: str


def examine_reach(way: Way) -> Finding:
    """Whether calls of models, with our keys, are the processor's alone."""
    reached = _worst([_by_whom(each) for each in way.manager.listener.addresses])
    if reached.state == "ok":
        return Finding(way.about, "reach", *reached)
    if way.manager.chain.wants_certificates:
        return Finding(way.about, "reach", "ok", f"{reached.found}, with a certificate")
    found = f"{reached.found}: whoever connects calls every model, with your keys"
    return Finding(way.about, "reach", reached.state, found, _SOCKET)


def examine_admin(dump: Dump) -> Iterator[Finding]:
    """Whether Envoy's own interface, which can end it, is the operator's alone."""
    reached = _by_whom(dump.admin)
    if reached.state == "fail":
        found = f"{reached.found}: whoever connects reads all, and can end Envoy"
        yield Finding("envoy admin", "reach", "fail", found, _SOCKET)
    elif dump.admin != Address():
        yield Finding("envoy admin", "reach", "ok", reached.found)


def _worst(reached: list[_Reached]) -> _Reached:
    states: tuple[State, ...] = ("ok", "warn", "fail")
    return max(reached, key=lambda each: states.index(each.state))


def _by_whom(address: Address) -> _Reached:
    if address.pipe is not None:
        return _by_file(address.pipe)
    if address.socket_address is None:
        return _Reached("ok", "Envoy itself")
    host = address.socket_address.address
    found = f"{host}:{address.socket_address.port_value}"
    return _Reached("ok" if _is_local(host) else "fail", found)


def _by_file(pipe: Pipe) -> _Reached:
    if pipe.path.startswith("@"):
        return _Reached("warn", f"{pipe.path}, which has no mode")
    if not pipe.mode:
        return _Reached("warn", f"{pipe.path}, with whatever mode Envoy's umask leaves")
    found = f"{pipe.path}, mode {pipe.mode:04o}"
    if pipe.mode & _TO_CONNECT & 0o007:
        return _Reached("fail", found)
    return _Reached("warn" if pipe.mode & _TO_CONNECT else "ok", found)


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
