"""The examination: models by the egress and Envoy by its admin interface, side by side."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import msgspec

from extproc.cli.doctor.dump import Dump
from extproc.cli.doctor.envoy import examine_envoy
from extproc.cli.doctor.findings import Finding
from extproc.cli.doctor.models import Examination
from extproc.cli.doctor.version import Server, examine_version
from extproc.cli.envoy_admin import admin_session
from extproc.config import Config
from looper.calling.client import EgressClient

_ADMIN_SECONDS = 10.0
_UNREACHABLE = "is this its admin interface? it is `envoy.admin` unless --admin says otherwise"


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. Without `egress` no model is asked, without `admin` Envoy is not."""

    egress: str | None
    admin: str | None
    seconds: float


async def examine(config: Config, places: Places) -> list[Finding]:
    """Everything that was found, Envoy first."""
    async with asyncio.TaskGroup() as group:
        envoy = group.create_task(_envoy(config, places.admin))
        models = group.create_task(_models(config, places.egress, places.seconds))
    return [*envoy.result(), *models.result()]


async def _models(config: Config, egress: str | None, seconds: float) -> list[Finding]:
    if egress is None:
        return []
    async with EgressClient(egress) as client:
        examination = Examination(client, seconds)
        # One after the other: several names may be of one small server, which then is slow for each.
        return [finding for model in config.models for finding in await examination.of(model)]


async def _envoy(config: Config, admin: str | None) -> Sequence[Finding]:
    if admin is None:
        return []
    try:
        dump, server, stats = await _read(admin)
    except (aiohttp.ClientError, TimeoutError, OSError):
        return [Finding("envoy", "admin", "fail", f"{admin} does not answer", _UNREACHABLE)]
    except msgspec.MsgspecError:
        found = f"what {admin} answers is no configuration of Envoy's"
        return [Finding("envoy", "admin", "fail", found, _UNREACHABLE)]
    return [
        *examine_version(server, config),
        *examine_envoy(dump, config),
        *_rejected(stats),
    ]


async def _read(admin: str) -> tuple[Dump, Server, str]:
    async with admin_session(admin, _ADMIN_SECONDS) as session:
        async with session.get("/config_dump") as response:
            dump = msgspec.json.decode(await response.read(), type=Dump)
        async with session.get("/server_info") as response:
            server = msgspec.json.decode(await response.read(), type=Server)
        async with session.get("/stats?filter=update_rejected$") as response:
            return dump, server, await response.text()


def _rejected(stats: str) -> list[Finding]:
    """Whether Envoy has refused files: then it goes on with what it had."""
    counts = [line.rpartition(": ") for line in stats.splitlines() if ": " in line]
    refused = [name for name, _, count in counts if count.isdigit() and int(count)]
    if not refused:
        return [Finding("envoy", "updates", "ok", "none was rejected")]
    advice = "see Envoy's log for the reason; until it is mended, Envoy goes on with what it had"
    return [Finding("envoy", "updates", "warn", f"rejected: {', '.join(refused)}", advice)]
