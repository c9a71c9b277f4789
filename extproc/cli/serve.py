"""`looper serve`: the processor."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from extproc.cli.options import INTERVAL, configured, environment, reporting

if TYPE_CHECKING:
    from extproc.serving.calls import Transport

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("serve")
@configured()
@click.option(
    "--listen",
    multiple=True,
    default=("unix:/run/looper/extproc.sock",),
    show_default=True,
    help="Where Envoy connects: unix:/path or host:port. May be repeated.",
)
@click.option(
    "--health", default=None, help="gRPC health on a port of its own, such as 0.0.0.0:9004."
)
@click.option(
    "--admin",
    default=None,
    help="HTTP: the console, /metrics, /config, /runs… unix:/path or 127.0.0.1:port.",
)
@click.option(
    "--admin-token-file",
    "token_file",
    default=None,
    type=click.Path(path_type=Path),
    help="A bearer token for it, which other addresses than this machine's need.",
)
@click.option(
    "--admin-name",
    "names",
    multiple=True,
    help="A host name by which browsers may call it, beside localhost and addresses.",
)
@click.option(
    "--playground",
    is_flag=False,
    flag_value="",
    default=None,
    metavar="[URL]",
    help="Let the console send requests, which cost money, to Envoy. Default: at `envoy.ingress`.",
)
@click.option(
    "--metrics",
    default=None,
    help="/metrics, and nothing else, for Prometheus: 0.0.0.0:9905, or unix:/path of `envoy.metrics`.",
)
@click.option(
    "--drain", default=1.5, show_default=True, help="Seconds of NOT_SERVING before the end."
)
@click.option(
    "--grace", default=120.0, show_default=True, help="Seconds that open exchanges may take then."
)
@click.option(
    "--replace", is_flag=True, help="Take sockets over from a process that serves them still."
)
@click.option(
    "--reload",
    "interval",
    type=click.FloatRange(min=0.05),
    default=INTERVAL,
    show_default=True,
    help="Seconds between looks at FILE.",
)
@click.option(
    "--transport",
    type=click.Choice(["native", "grpcio"]),
    default="native",
    show_default=True,
    help="What speaks gRPC: `native` takes a fraction of the time of `grpcio`.",
)
@click.option(
    "--tls",
    "tls",
    nargs=2,
    type=_FILE,
    default=None,
    metavar="CERTIFICATE KEY",
    help="PEM files: TLS at every --listen that is host:port.",
)
@click.option(
    "--tls-clients",
    "clients",
    type=_FILE,
    default=None,
    help="CAs: only clients with a certificate from one of them get in.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"], case_sensitive=False),
    default="info",
    show_default=True,
)
def command(
    path: Path,
    listen: tuple[str, ...],
    health: str | None,
    admin: str | None,
    token_file: Path | None,
    names: tuple[str, ...],
    playground: str | None,
    metrics: str | None,
    drain: float,
    grace: float,
    replace: bool,
    interval: float,
    transport: str,
    tls: tuple[Path, Path] | None,
    clients: Path | None,
    log_level: str,
) -> None:
    """Run the processor that Envoy's ext_proc filter talks to."""
    from extproc.config import check_address, load
    from extproc.process import telemetry
    from extproc.serving.admin import Access, token_in
    from extproc.serving.calls import Tls
    from extproc.serving.serve import Service, serve

    telemetry.set_up(log_level)
    with reporting():
        loaded = load(path)
        for address in (*listen, health, admin, metrics):
            if address is not None:
                check_address(address)
        access = None
        if admin is not None:
            token = None if token_file is None else token_in(token_file)
            envoy = playground or (None if playground is None else loaded.config.envoy.url)
            access = Access(admin, token, names, envoy)
    if clients is not None and tls is None:
        raise click.UsageError("--tls-clients needs --tls")
    service = Service(
        listen,
        health,
        access,
        metrics,
        drain,
        grace,
        _transport(transport, loaded.config.limits.max_body),
        None if tls is None else Tls(*tls, clients),
        replace,
    )
    try:
        with reporting():
            asyncio.run(serve(loaded, path, service, lambda: None, interval, environment()))
    except OSError as error:
        raise click.ClickException(str(error)) from None


def _transport(name: str, body: int) -> "Transport":
    """By that name, for bodies of that size. Only the one that is wanted is imported."""
    if name == "grpcio":
        from extproc.serving.grpcio import GrpcioServer

        return GrpcioServer
    from extproc.serving.http2.bounds import with_room_for
    from extproc.serving.http2.server import Server

    return partial(Server, bounds=with_room_for(body))
