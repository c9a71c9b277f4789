"""`make observe`: the demo with requests that never end, Prometheus with our rules, and where to look at both.

With `--page DIR` it only writes the page of plots, for a Prometheus of yours: `prometheus --web.user-assets=DIR`.
"""

import asyncio
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Any

import aiohttp
import click
import yaml

from extproc import console
from extproc.cli.options import environment, reporting
from extproc.cli.up.local import Addresses, Child, UpFailed, everything, free_port, running
from looper.settings.files import read_text

HERE = Path(__file__).resolve().parent
DEMO = HERE / "demo.yaml"
_SCRAPED_EVERY = "5s"
_READY_WITHIN = 30.0
_OF_THE_CONSOLE = ("console.css", "dom.js", "theme.js", "icon.svg")
_QUESTIONS = (
    "What is the capital of Canada?",
    "Think step by step: What is the time complexity of binary search?",
    "Which planet has the shortest year?\nA) Mercury\nB) Venus\nC) Mars\nD) Jupiter",
    "What is 15 percent of 240?",
    "Think step by step: What is the sum of the whole numbers from 1 to 100?",
    "What does Python's len('héllo') return?",
    "Which wave is the longest?\nA) X-ray\nB) visible light\nC) radio\nD) ultraviolet",
    "What is the capital of Australia?",
)
_PAUSE = 0.35
_MISHAP_EVERY = 40
"""Questions between two mishaps, in which a model fails a few times."""


@click.command(help=__doc__)
@click.option(
    "-c",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Models of your own; send requests yourself.",
)
@click.option(
    "--page",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the page of plots there, and end.",
)
def main(path: Path | None, page: Path | None) -> None:
    if page is not None:
        write_page(page)
        return
    try:
        with reporting():
            asyncio.run(observe(path, dict(environment())))
    except (UpFailed, OSError) as error:
        raise click.ClickException(str(error)) from None


def write_page(folder: Path) -> None:
    """The plots, the dashboard that they show, and what they share with the console."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = Path(console.__file__).parent / "static"
    for file in (
        HERE / "dashboard.json",
        *(HERE / "plots").iterdir(),
        *(shared / name for name in _OF_THE_CONSOLE),
    ):
        shutil.copy(file, folder)


async def observe(path: Path | None, environment: Mapping[str, str]) -> None:
    """Start all of it, say where it is, and stay up until Ctrl-C."""
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        raise UpFailed("no prometheus found (Debian: apt-get install prometheus)")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    file = path or DEMO
    async with AsyncExitStack() as stack:
        _, addresses = await stack.enter_async_context(
            everything(
                read_text(file),
                name=str(file),
                models="simulated" if path is None else "configured",
                port=8080,
                envoy=None,
                environment=environment,
            )
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="looper-observe-")))
        url = await stack.enter_async_context(watching(prometheus, addresses, folder, environment))
        grafana = await stack.enter_async_context(drawing(url, folder, environment))
        _announce(addresses, url, grafana)
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(_ask(addresses))] if path is None else []
            await stop.wait()
            for task in asking:
                task.cancel()


def _announce(addresses: Addresses, prometheus: str, grafana: str | None) -> None:
    click.echo(f"Plots      {prometheus}/user/")
    click.echo(f"Grafana    {grafana or 'not on the path; the plots show the same'}")
    click.echo(f"Prometheus {prometheus}/alerts")
    click.echo(f"Console    http://{addresses.console}/")
    click.echo(f"Envoy      {addresses.base_url}")
    click.echo("Everything stays up until Ctrl-C.")


# Prometheus, which also serves the plots...


@asynccontextmanager
async def watching(
    program: str, addresses: Addresses, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[str]:
    """Prometheus with the shipped configuration, at these addresses: its URL."""
    write_page(folder / "page")
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump(_watched(addresses)), encoding="utf-8")
    address = f"127.0.0.1:{free_port(9090)}"
    command = [
        *(program, f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"),
        *(
            f"--web.listen-address={address}",
            f"--web.user-assets={folder}/page",
            "--log.level=warn",
        ),
    ]
    async with running("prometheus", command, folder, environment) as child:
        await _until_it_answers(f"http://{address}/-/ready", child)
        yield f"http://{address}"


def _watched(addresses: Addresses) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(read_text(HERE / "prometheus-static.yaml"))
    targets = {"looper-envoy": addresses.stats, "looper-processor": addresses.console}
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["global"]["scrape_interval"] = _SCRAPED_EVERY
    config["rule_files"] = [str(HERE / "rules" / "*.yaml")]
    return config


# ... Grafana, where there is one...


@asynccontextmanager
async def drawing(
    prometheus: str, folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[str | None]:
    """Grafana with the dashboard, for whoever looks: its URL. None where it is not installed."""
    program = shutil.which("grafana")
    if program is None:
        yield None
        return
    port = free_port(3000)
    command = [program, "server", "--homepath", _home(Path(program))]
    settings = {
        "GF_PATHS_PROVISIONING": str(_provisioned(prometheus, folder / "grafana")),
        "GF_PATHS_DATA": str(folder / "grafana" / "data"),
        "GF_PATHS_LOGS": str(folder / "grafana" / "logs"),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    }
    async with running("grafana", command, folder, {**environment, **settings}) as child:
        url = f"http://127.0.0.1:{port}"
        await _until_it_answers(f"{url}/api/health", child)
        yield f"{url}/d/envoy-looper"


def _home(program: Path) -> str:
    """Where a package puts Grafana's own files, or an archive beside the program."""
    packaged = Path("/usr/share/grafana")
    return str(packaged if packaged.is_dir() else program.resolve().parent.parent)


def _provisioned(prometheus: str, folder: Path) -> Path:
    """A folder that tells Grafana of Prometheus and of the dashboard."""
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": prometheus,
        "isDefault": True,
    }
    source["jsonData"] = {"timeInterval": _SCRAPED_EVERY}
    shown = folder / "shown"
    provider = {"name": "looper", "type": "file", "options": {"path": str(shown)}}
    for kind, said in (
        ("datasources", {"apiVersion": 1, "datasources": [source]}),
        ("dashboards", {"apiVersion": 1, "providers": [provider]}),
    ):
        (folder / kind).mkdir(parents=True)
        (folder / kind / "looper.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    shown.mkdir()
    shutil.copy(HERE / "dashboard.json", shown)
    return folder


async def _until_it_answers(url: str, child: Child) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(_READY_WITHIN):
        while True:
            if child.process.returncode is not None:
                raise child.died()
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


# ... and something to see.


async def _ask(addresses: Addresses) -> None:
    """Questions of every kind for ever, one after the other, streamed by turns; now and then a model fails."""
    async with aiohttp.ClientSession() as session:
        for number, question in zip(count(1), cycle(_QUESTIONS)):
            if number % _MISHAP_EVERY == 0:
                await _mishap(session, addresses, number // _MISHAP_EVERY)
            body = {
                "model": "looper/auto",
                "messages": [{"role": "user", "content": question}],
                "stream": number % 2 == 0,
            }
            try:
                async with session.post(
                    f"{addresses.base_url}/chat/completions", json=body
                ) as response:
                    await response.read()
            except aiohttp.ClientError:
                pass  # what Envoy cannot do is for the plots to show
            await asyncio.sleep(_PAUSE)


async def _mishap(session: aiohttp.ClientSession, addresses: Addresses, number: int) -> None:
    """A model has errors for a few calls; it is another one each time."""
    model = ("third", "small", "large")[number % 3]
    fault = {"type": "status", "status": 503, "times": 6}
    async with session.post(
        f"{addresses.models}/_simulator/faults", json={"model": model, "fault": fault}
    ) as response:
        response.raise_for_status()


if __name__ == "__main__":
    main()
