"""Unix sockets whose path can be taken over from a predecessor that is still at work."""

import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def publish(address: str, bound: str) -> None:
    """Have new connections to `address` come to us, who listen at `bound`."""
    if not address.startswith("unix:"):
        return
    path, own = (Path(each.removeprefix("unix:")) for each in (address, bound))
    own.chmod(0o660)
    before = path.readlink() if path.is_symlink() else None
    link = own.with_name(f"{own.name}.link")
    link.symlink_to(own.name)
    link.replace(path)
    if before is not None and not _answers(path.with_name(before.name)):
        path.with_name(before.name).unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    """Whether somebody listens at a socket; one that a killed process left behind refuses."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
