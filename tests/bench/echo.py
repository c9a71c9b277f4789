"""The C++ peer: built once for each version of its source, and started like a processor."""

import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench.processes import BenchFailed, output_of, running, until_exists

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".bench"
_SOURCE = Path(__file__).with_name("peer_echo")
_PROTO = ROOT / "proto"

PACKAGES = (
    "g++",
    "libgrpc++-dev",
    "make",
    "nghttp2-client",
    "nlohmann-json3-dev",
    "pkg-config",
    "protobuf-compiler",
    "protobuf-compiler-grpc",
)
"""What a benchmark needs of Debian."""

_TOOLS = ("h2load", "g++", "make", "pkg-config", "protoc", "grpc_cpp_plugin")


def missing_tools() -> list[str]:
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def install_hint() -> str:
    return f"apt-get install {' '.join(PACKAGES)}"


async def build() -> Path:
    """The peer's binary, from the cache if its source and libraries are the ones it was built from."""
    if missing := missing_tools():
        raise BenchFailed(f"not found: {', '.join(missing)}; {install_hint()}")
    out = CACHE / f"echo-{await _fingerprint()}"
    binary = out / "echo"
    if not binary.exists():
        make_cache()
        sys.stderr.write(f"building {binary.relative_to(ROOT)}\n")
        await output_of("make", "-C", str(_SOURCE), f"PROTO={_PROTO}", f"OUT={out}")
    return binary


def make_cache() -> None:
    """The folder for what is built or installed once; it keeps itself out of version control."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")


async def _fingerprint() -> str:
    versions = [
        await output_of("g++", "-dumpfullversion"),
        await output_of("pkg-config", "--modversion", "grpc++", "protobuf"),
    ]
    digest = hashlib.sha256("".join(versions).encode())
    for path in (_SOURCE / "Makefile", _SOURCE / "echo.cc", _PROTO / "ext_proc.proto"):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@asynccontextmanager
async def run_peer(command: Sequence[str], socket: Path) -> AsyncIterator[int]:
    """Run another processor than ours until it serves on `socket`; gives its pid."""
    log = socket.with_suffix(".log")
    async with running(command, log) as process:
        await until_exists(socket, process, log)
        yield process.pid
