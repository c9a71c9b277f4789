import os
from pathlib import Path

import pytest

from looper.settings.files import read, read_text


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("größer".encode())
    (tmp_path / "b").symlink_to("a")  # as a mounted ConfigMap has it
    assert read_text(tmp_path / "b") == "größer"
    assert read(tmp_path / "a", 8) == "größer".encode()


def test_what_hangs_or_never_ends_is_no_file(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device, a folder: refused at once, and said to be what they are not."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)
    with pytest.raises(OSError, match="not a regular file"):
        read(tmp_path)


def test_what_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * (1 << 20) + b"y")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read(tmp_path / "large", 1 << 20)
    with pytest.raises(OSError, match="not UTF-8"):
        read_text(tmp_path / "bytes")
