"""`looper drain`: what a pod's hook does before Envoy is ended."""

import asyncio
from pathlib import Path

import aiohttp
import click

from extproc.cli.envoy_admin import admin_session
from extproc.cli.options import configured, reporting

_SECONDS = 5.0


@click.command("drain")
@configured()
@click.option("--admin", default=None, help="Envoy's admin interface. Default: `envoy.admin`.")
def command(path: Path, admin: str | None) -> None:
    """Have Envoy ask its clients to connect elsewhere before it ends.

    Each of its answers says so from then on, and `/ready` that it is not. What is under way goes on.
    """
    from extproc.config import load_config

    with reporting():
        address = admin or load_config(path).envoy.admin
    try:
        asyncio.run(_drain(address))
    except (aiohttp.ClientError, TimeoutError, OSError):
        raise click.ClickException(
            f"{address} does not answer as Envoy's admin interface."
        ) from None
    click.echo(f"{address}: draining")


async def _drain(address: str) -> None:
    # Every answer then says `connection: close`, or is followed by GOAWAY; nothing that is under way is cut.
    async with (
        admin_session(address, _SECONDS) as session,
        session.post("/healthcheck/fail"),
    ):
        pass
