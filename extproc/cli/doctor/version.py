"""Whether the Envoy that runs has what its files, and the processor, need of it."""

import re
from collections.abc import Iterator

import msgspec

from extproc.cli.doctor.findings import Finding, State
from extproc.config import Config
from extproc.config.envoy_versions import FEATURES, OLDEST, number

_VERSION = re.compile(r"/(\d+\.\d+)\.\d+")


class Server(msgspec.Struct, frozen=True):
    """`/server_info`."""

    version: str = ""

    @property
    def number(self) -> str | None:
        """Such as 1.40, without its patch."""
        found = _VERSION.search(self.version)
        return found and found[1]


def examine_version(server: Server, config: Config) -> Iterator[Finding]:
    """The first is whether it is new enough at all; each other is something that it lacks."""
    running = server.number
    if running is None:
        return
    if number(running) < number(OLDEST):
        advice = f"upgrade Envoy to {OLDEST} or newer: older ones cannot stream a team's answer"
        yield Finding("envoy", "version", "fail", running, advice)
        return
    yield Finding("envoy", "version", "ok", running)
    wanted = config.envoy.version
    for feature in FEATURES:
        if not feature.is_in(running):
            advice = f'upgrade Envoy to {feature.since}, or say `envoy: {{version: "{running}"}}`'
            state: State = "warn" if feature.is_in(wanted) else "ok"
            how = advice if state == "warn" else ""
            yield Finding("envoy", feature.name, state, feature.lost, how)
