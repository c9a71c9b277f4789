"""Everything that is measured, started together: models, the processor, its C++ peer, and Envoy before them."""

import asyncio
import resource
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import msgspec
import yaml

from tests.bench import front, workload
from tests.bench.backend import Backend, run_backend
from tests.bench.echo import build, run_peer
from tests.bench.front import Listener, Side
from tests.bench.processes import BenchFailed, running, tail
from tests.fakes.envoy import EnvoyProcess, run_envoy
from tests.fakes.stack import Processor

_READY_SECONDS = 30
_FINAL_SECONDS = 0.02
"""What the final model of a streamed loop waits before its first token."""


@dataclass(frozen=True, slots=True)
class Rig:
    """What a case measures with."""

    folder: Path
    config: Path
    backend: Backend
    simulator: str
    envoy: EnvoyProcess
    processor: int
    others: Mapping[Side, int]
    """Processes of other processors than ours."""
    places: dict[Listener, str]

    def url(self, listener: Listener, path: str = "/v1/chat/completions") -> str:
        return self.places[listener] + path

    def body(self, name: str, content: bytes) -> Path:
        """A file with a request's body, for those who read bodies from files."""
        path = self.folder / f"{name.replace('/', '-')}.json"
        path.write_bytes(content)
        return path


@asynccontextmanager
async def run_rig(*, slow_seconds: float, peer: str | None = None) -> AsyncIterator[Rig]:
    """Start everything and wait until each way through Envoy answers; on leaving, end every process.

    `peer` is the command of a processor beside the C++ peer: in it {socket}, {config} and {model} are filled in.
    """
    _allow_sockets()
    binary = await build()
    async with AsyncExitStack() as stack:
        # Paths of sockets are limited to about 100 bytes.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="lb-", dir="/tmp")))
        backend = await stack.enter_async_context(
            run_backend(folder / "models", slow_seconds=slow_seconds)
        )
        simulator = await stack.enter_async_context(_run_simulator(folder))
        config = workload.config(folder, backend, simulator)
        path = folder / "looper.yaml"
        path.write_text(yaml.safe_dump(config))
        sockets: dict[Side, Path] = {"echo": folder / "echo.sock"}
        if peer is not None:
            sockets["peer"] = folder / "peer.sock"
        places = front.write(config, folder / "envoy", sockets, workload.ROUTED)
        processor = Processor(path, folder / "extproc.sock", folder / "processor.log")
        stack.push_async_callback(processor.stop)
        await processor.start()
        assert processor.process is not None
        others: dict[Side, int] = {}
        for side, socket in sockets.items():
            command = _command(peer or "", socket, path) if side == "peer" else None
            command = command or [str(binary), f"unix:{socket}", workload.ROUTED]
            others[side] = await stack.enter_async_context(run_peer(command, socket))
        envoy = await stack.enter_async_context(
            run_envoy(folder / "envoy" / "bootstrap.yaml", log_level="error")
        )
        rig = Rig(folder, path, backend, simulator, envoy, processor.process.pid, others, places)
        await _until_ready(rig)
        yield rig


def _command(template: str, socket: Path, config: Path) -> list[str]:
    filled = {"socket": str(socket), "config": str(config), "model": workload.ROUTED}
    return [word.format(**filled) for word in shlex.split(template)]


def _allow_sockets() -> None:
    """A thousand open runs are nine thousand connections of Envoy's."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@asynccontextmanager
async def _run_simulator(folder: Path) -> AsyncIterator[str]:
    """Simulated models that stream; gives their URL."""
    names = [f"live-{number}" for number in range(workload.PANEL)]
    models = [*(f"{name}:1:0:0" for name in names), "live-judge:1:0:0"]
    models.append(f"live-final:1:{_FINAL_SECONDS}:0")
    options = [word for model in models for word in ("--model", model)]
    command = (sys.executable, "-m", "looper.simulate", *options)
    log = folder / "simulator.log"
    async with running(command, log, stdout=asyncio.subprocess.PIPE) as process:
        assert process.stdout is not None
        async with asyncio.timeout(_READY_SECONDS):
            line = await process.stdout.readline()
        if not line:
            raise BenchFailed(f"the simulator ended:\n{tail(log)}")
        yield str(msgspec.json.decode(line)["url"])


async def _until_ready(rig: Rig) -> None:
    body = workload.chat(workload.AUTO)
    async with aiohttp.ClientSession() as session, asyncio.timeout(_READY_SECONDS):
        for listener in rig.places:
            while not await _answers(session, rig.url(listener), body):
                await asyncio.sleep(0.05)


async def _answers(session: aiohttp.ClientSession, url: str, body: bytes) -> bool:
    headers = {"content-type": "application/json"}
    async with session.post(url, data=body, headers=headers) as response:
        return response.status == 200
