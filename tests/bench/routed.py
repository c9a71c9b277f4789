"""Requests that Envoy routes or the processor answers at once, through each listener in turn."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import h2load, workload
from tests.bench.front import BodyMode, Listener, Profile, Side, unavailable
from tests.bench.meter import metered
from tests.bench.plan import Plan, Rounds, in_order, processes
from tests.bench.results import Measured
from tests.bench.rig import Rig
from tests.bench.sample import Figures, Numbers, ratio

_KB = 1000
_WARM_UP = 0.5


@dataclass(frozen=True, slots=True)
class Way:
    """What one side of a case sends, and where."""

    listener: Listener
    path: str = "/v1/chat/completions"
    body: bytes | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class Paired:
    """A load on several ways, in turn, round after round."""

    name: str
    ways: dict[str, Way]
    connections: int
    figures: Callable[[dict[str, Numbers]], Figures]
    """Of the sides of one round."""
    missing: str | None = None

    async def measure(self, rig: Rig, plan: Plan) -> Measured:
        files = {
            side: None if way.body is None else rig.body(f"{self.name}-{side}", way.body)
            for side, way in self.ways.items()
        }
        if not plan.short:
            for side in self.ways:
                await self._slice(rig, plan, side, files[side], _WARM_UP)
        rounds: Rounds = {side: [] for side in self.ways}
        for round_ in range(plan.rounds):
            for side in in_order(tuple(self.ways), round_):
                numbers = await self._slice(rig, plan, side, files[side], plan.seconds)
                rounds[side].append(numbers)
        return Measured(self.name, rounds, self._figures(plan, rounds))

    def _figures(self, plan: Plan, rounds: Rounds) -> dict[str, list[float | None]]:
        made = [
            self.figures({side: numbers[round_] for side, numbers in rounds.items()})
            for round_ in range(plan.rounds)
        ]
        return {name: [figures[name] for figures in made] for name in made[0]}

    async def _slice(
        self, rig: Rig, plan: Plan, side: str, body: Path | None, seconds: float
    ) -> Numbers:
        way = self.ways[side]
        load = h2load.Load(
            rig.url(way.listener, way.path),
            self.connections,
            body,
            seconds,
            plan.requests,
            way.status,
        )
        return await metered(
            processes(rig, way.listener.side), lambda: h2load.drive(load, rig.folder)
        )


def routed(
    size: str, connections: int, mode: BodyMode, profile: Profile, *, peer: bool = False
) -> Paired:
    """The same request without a processor, through ours, through the C++ peer, and perhaps through another one."""
    body = workload.chat(workload.AUTO, SIZES[size])
    sides: tuple[Side, ...] = ("none", "ours", "echo", *(("peer",) if peer else ()))
    return Paired(
        f"routed/{profile}/{mode}/{size}/c{connections}",
        {side: Way(Listener(side, mode, profile), body=body) for side in sides},
        connections,
        _against_both if peer else _against_echo,
        unavailable(profile),
    )


SIZES = {"1kB": _KB, "32kB": 32 * _KB, "220kB": 220 * _KB, "4MB": 4000 * _KB}


CPU = "processor CPU ÷ echo's"


def _against_echo(sides: dict[str, Numbers]) -> Figures:
    none, ours, echo = sides["none"], sides["ours"], sides["echo"]
    return {
        "added p50 ÷ echo's": ratio(
            ours["p50_ms"] - none["p50_ms"], echo["p50_ms"] - none["p50_ms"]
        ),
        "p50 ÷ echo's": ratio(ours["p50_ms"], echo["p50_ms"]),
        "p99 ÷ echo's": ratio(ours["p99_ms"], echo["p99_ms"]),
        "rps ÷ echo's": ratio(ours["rps"], echo["rps"]),
        "rps ÷ no filter": ratio(ours["rps"], none["rps"]),
        CPU: ratio(ours["processor_cpu_us"], echo["processor_cpu_us"]),
        "processor context switches": ours["processor_switches"],
        "Envoy CPU ÷ with echo": ratio(ours["envoy_cpu_us"], echo["envoy_cpu_us"]),
        "added p50, ms": ours["p50_ms"] - none["p50_ms"],
    }


def _against_both(sides: dict[str, Numbers]) -> Figures:
    """The same figures of another processor, in ours' place, beside ours."""
    theirs = _against_echo({**sides, "ours": sides["peer"]})
    peers = {f"peer's {name}": value for name, value in theirs.items()}
    return {**_against_echo(sides), **peers}


def immediate(connections: int) -> Paired:
    """`GET /v1/models`, which both processors answer themselves."""
    sides: tuple[Side, ...] = ("ours", "echo")
    return Paired(
        f"immediate/models/c{connections}",
        {side: Way(Listener(side), path="/v1/models") for side in sides},
        connections,
        _ours_to_echo,
    )


def unknown_model(connections: int) -> Paired:
    """A model that does not exist: our 404 beside a request that the echo routes."""
    body = workload.chat("no/such-model")
    return Paired(
        f"immediate/unknown/c{connections}",
        {
            "ours": Way(Listener("ours"), body=body, status=404),
            "echo": Way(Listener("echo"), body=body),
        },
        connections,
        _ours_to_echo,
    )


def _ours_to_echo(sides: dict[str, Numbers]) -> Figures:
    ours, echo = sides["ours"], sides["echo"]
    return {
        "p50 ÷ echo's": ratio(ours["p50_ms"], echo["p50_ms"]),
        "rps ÷ echo's": ratio(ours["rps"], echo["rps"]),
    }


def signals() -> Paired:
    """The same routed request by recipes of one keyword signal, of fifteen of all kinds, and one with projections."""
    models = {"one": workload.ONE, "many": workload.MANY, "shipped": workload.SHIPPED}
    return Paired(
        "signals/1kB/c1",
        {side: Way(Listener("ours"), body=workload.chat(model)) for side, model in models.items()},
        1,
        lambda sides: {
            "p50 ÷ one signal's": ratio(sides["many"]["p50_ms"], sides["one"]["p50_ms"]),
            "shipped p50 ÷ one signal's": ratio(sides["shipped"]["p50_ms"], sides["one"]["p50_ms"]),
        },
    )
