"""Unix sockets whose path can be taken over from a predecessor that is still at work."""

import fcntl
import os
import secrets
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of a socket's other end, as Linux tells them."""


@contextmanager
def bindable(address: str) -> Iterator[str]:
    """Where to bind in place of `address`, which `publish` then makes lead there.

    gRPC unlinks a socket's path when it stops, whoever holds it by then, and a second bind takes a live path away
    without a word. So each process binds a path of its own, and `address` is a link that points to the newest.
    """
    if not address.startswith("unix:"):
        yield address
        return
    path = Path(address.removeprefix("unix:"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(f"{path} exists and is not a socket")
    # Not the process's id: two containers that share the folder may have the same.
    own = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    try:
        yield f"unix:{own}"
    finally:
        if path.is_symlink() and path.readlink() == Path(own.name):
            path.unlink()
        own.unlink(missing_ok=True)


def publish(address: str, bound: str, *, replace: bool = False) -> None:
    """Have new connections to `address` come to us, who listen at `bound`.

    Raises OSError if somebody listens there already, unless we are to `replace` them. They keep what is open.
    """
    if not address.startswith("unix:"):
        return
    path, own = (Path(each.removeprefix("unix:")) for each in (address, bound))
    own.chmod(0o660)
    with _alone_in(path.parent):
        if not replace and (listener := _listener(path)) is not None:
            raise OSError(f"{address} is served by {listener}: end that first, or use --replace")
        before = path.readlink() if path.is_symlink() else None
        link = own.with_name(f"{own.name}.link")
        link.symlink_to(own.name)
        link.replace(path)
    if before is not None and _listener(path.with_name(before.name)) is None:
        path.with_name(before.name).unlink(missing_ok=True)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Of several that look who listens and then take the path, one at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _listener(path: Path) -> str | None:
    """Who listens at a socket; a socket that a killed process left behind refuses."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return None
        said = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, _, _ = _CREDENTIALS.unpack(said)
    return f"process {process}" if process else "a process that cannot be seen from here"
