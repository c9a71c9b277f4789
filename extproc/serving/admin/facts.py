"""What there is to tell of a process."""

from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from extproc.process.process import Process
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import Versions


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to tell of a process."""

    versions: Versions
    reloads: Reloads
    lag: Lag

    @property
    def process(self) -> Process:
        return self.versions.process


FACTS: web.AppKey[Facts] = web.AppKey("facts", Facts)


def configuration(facts: Facts) -> dict[str, Any]:
    """Which configuration is at work, what is wrong with the file if it is another, and which one Envoy runs."""
    return {
        "generation": facts.versions.newest.generation,
        "since": facts.reloads.since,
        "valid": facts.reloads.is_valid,
        "problems": list(facts.reloads.problems),
        "envoy": {"generation": facts.versions.envoy, "stale": facts.versions.is_stale},
    }


def as_json(data: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(data)
    return web.Response(body=body, status=status, content_type="application/json")
