"""Simulated models, a real processor and a real Envoy, wired together for tests."""

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import yaml

from extproc import bootstrap
from extproc.config import EnvoySettings, parse_config
from looper.simulate.server import Address, Simulator
from tests.fakes.envoy import EnvoyProcess, envoy_version, free_port, run_envoy
from tests.fakes.relocate import relocate

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "extproc" / "cli" / "up" / "demo.yaml"
READY_SECONDS = 20


@dataclass(slots=True)
class Processor:
    """`looper serve` as a process of its own, which a test may kill and start again."""

    config: Path
    socket: Path
    log: Path
    transport: str = "native"
    console: str | None = None
    """Where its interface is for browsers, in place of a socket."""
    envoy: str | None = None
    """Where the console's playground sends requests."""
    metrics: str | None = None
    """Where Prometheus has a page of its own."""
    process: asyncio.subprocess.Process | None = None

    @property
    def admin(self) -> Path:
        return self.socket.with_name(f"admin-{self.socket.name}")

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "extproc", "serve", "-c", str(self.config)),
                *("--listen", f"unix:{self.socket}", "--drain", "0", "--grace", "0.2"),
                *("--admin", self.console or f"unix:{self.admin}"),
                *(("--playground", self.envoy) if self.envoy else ()),
                *(("--metrics", self.metrics) if self.metrics else ()),
                *("--transport", self.transport),
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(READY_SECONDS):
            while not self.socket.exists():
                if self.process.returncode is not None:
                    raise AssertionError(f"the processor ended:\n{self.log.read_text()}")
                await asyncio.sleep(0.02)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(how)
            await self.process.wait()


@dataclass(slots=True)
class Stack:
    """Everything that a test talks to."""

    simulator: Simulator
    processors: tuple[Processor, ...]
    envoy: EnvoyProcess
    ingress: str
    stats: str
    folder: Path
    session: aiohttp.ClientSession = field(repr=False)

    @property
    def processor(self) -> Processor:
        return self.processors[0]

    @property
    def base_url(self) -> str:
        return f"{self.ingress}/v1"

    async def until_ready(self) -> None:
        """Until a request is answered, which shows that Envoy has reached the processor."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                async with self.session.get(f"{self.base_url}/models") as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.02)

    async def series(self) -> dict[str, float]:
        """What Envoy's statistics listener exposes."""
        async with self.session.get(f"{self.stats}/stats/prometheus") as response:
            assert response.status == 200
            lines = (await response.text()).splitlines()
        pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    async def until_series(
        self, holds: Callable[[dict[str, float]], bool], timeout: float = 5.0
    ) -> dict[str, float]:
        """The series once `holds` says so: Envoy counts a request when it is over, a moment after its client."""
        async with asyncio.timeout(timeout):
            while not holds(series := await self.series()):
                await asyncio.sleep(0.02)
        return series


@asynccontextmanager
async def run_stack(
    simulator: Simulator,
    change: Mapping[str, Any] | None = None,
    *,
    models_at: Address | None = None,
    shipped: bool = False,
    runs_file: bool = False,
    edit: Callable[[Path], None] | None = None,
    processor_change: Mapping[str, Any] | None = None,
    processors: int = 1,
    console: bool = False,
    transport: str = "native",
    files: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    metrics: str | None = None,
) -> AsyncIterator[Stack]:
    """Start a stack with the demo's configuration, some of its top-level members changed.

    With `models_at`, models are there, and nobody asks the simulator.

    `edit` may change Envoy's files, whose folder it is given, before Envoy reads them.

    With `runs_file`, runs are written to `runs.jsonl` in the stack's folder.
    With `processor_change`, the processor has other top-level members than what Envoy's files are made from.
    With `console`, the first processor's interface is at a port, with a playground.
    With `metrics`, its page for Prometheus is at this address, else at a socket of Envoy's.
    So many `processors` are processes of their own, behind one cluster of Envoy's.
    `files` stand beside the configuration; where they lead to the demo's models, they lead to `simulator` here.
    Its client sends `headers`, and has `tls` where the ingress speaks that.
    With `shipped`, Envoy runs the files in `envoy/` with only addresses and paths replaced.
    """
    async with AsyncExitStack() as stack:
        # Paths of sockets are limited to about 100 bytes.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="lo-", dir="/tmp")))
        models = models_at
        if models is None:
            models = await stack.enter_async_context(simulator.serve())
        names = ("", *(str(number) for number in range(2, processors + 1)))
        places: dict[str, Any] = {
            "ingress": f"127.0.0.1:{free_port()}",
            "stats": f"127.0.0.1:{free_port()}",
            "processors": [f"unix:{folder}/extproc{name}.sock" for name in names],
            "metrics": metrics or f"unix:{folder}/metrics.sock",
        }
        demo = yaml.safe_load(DEMO.read_text())
        config = {**demo, **(change or {}), "egress": f"unix:{folder}/egress.sock"}
        admin = f"unix:{folder}/envoy-admin.sock"
        config["envoy"] = {
            "version": envoy_version(),
            "admin": admin,
            **config.get("envoy", {}),
            **places,
        }
        if runs_file:
            config["trace"] = {**config.get("trace", {}), "file": f"{folder}/runs.jsonl"}
        _lead_to(models, config["models"])
        _write_files(folder, files or {}, models)
        path = folder / "looper.yaml"
        path.write_text(yaml.safe_dump(config))
        parsed = parse_config(path.read_text(), str(path))
        envoy_folder = folder / "envoy"
        bootstrap.write(parsed, envoy_folder)
        if shipped:
            _install_shipped(envoy_folder, config, models)
        if edit is not None:
            edit(envoy_folder)
        path.write_text(yaml.safe_dump({**config, **(processor_change or {})}))
        started = tuple(
            Processor(
                path, folder / f"extproc{name}.sock", folder / f"processor{name}.log", transport
            )
            for name in names
        )
        if console:
            started[0].console = f"127.0.0.1:{free_port()}"
            started[0].envoy = f"http://{places['ingress']}"
        started[0].metrics = str(places["metrics"])
        for processor in started:
            await processor.start()
            stack.push_async_callback(processor.stop)
        envoy = await stack.enter_async_context(
            run_envoy(envoy_folder / "bootstrap.yaml", log_level="warning")
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=30),
                headers=headers,
                connector=aiohttp.TCPConnector(ssl=tls or True),
            )
        )
        port = places["ingress"].rpartition(":")[2]
        ingress = f"http://{places['ingress']}" if tls is None else f"https://localhost:{port}"
        running = Stack(
            simulator=simulator,
            processors=started,
            envoy=envoy,
            ingress=ingress,
            stats=f"http://{places['stats']}",
            folder=folder,
            session=session,
        )
        await running.until_ready()
        yield running


def _lead_to(place: Address, models: Sequence[dict[str, Any]]) -> None:
    """Models whose address a test has not chosen."""
    for model in models:
        if "cluster" not in model and not model.get("url", "").startswith("https:"):
            path, mark, query = model.get("url", "").partition("?")
            model["url"] = (
                f"{place.url}{urlsplit(path).path}?{query}" if mark else f"{place.url}/v1"
            )


def _write_files(folder: Path, files: Mapping[str, str], models: Address) -> None:
    for name, text in files.items():
        there = text.replace("port_value: 8001", f"port_value: {models.port}")
        (folder / name).write_text(there)


def _install_shipped(folder: Path, config: Mapping[str, Any], models: Address) -> None:
    """The files in `envoy/`, which are made for `/etc/envoy`, `/run/looper` and the demo's ports."""
    shipped, here = EnvoySettings(), config["envoy"]
    relocate(
        ROOT / "envoy",
        folder,
        {
            shipped.ingress: here["ingress"],
            shipped.stats: here["stats"],
            "127.0.0.1:8001": f"{models.host}:{models.port}",
        },
        {"/etc/envoy": str(folder), "/run/looper": str(folder.parent)},
    )
