"""Files that a configuration names: regular ones, of a bounded size, and nothing that hangs or never ends."""

import errno
import os
import stat
from pathlib import Path

LARGEST = 4 << 20
"""Bytes of a file that is written by hand."""


def read(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a file. Raises OSError, also for a device, a pipe or a folder, and for what is too large."""
    # Without O_NONBLOCK a pipe that nobody writes to would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise OSError(errno.EFBIG, f"larger than {largest >> 20} MiB", str(path))
    return data


def read_text(path: Path, largest: int = LARGEST) -> str:
    """The text of a file. Raises OSError as `read` does, also for what is no UTF-8."""
    try:
        return read(path, largest).decode("utf-8")
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "not UTF-8", str(path)) from None
