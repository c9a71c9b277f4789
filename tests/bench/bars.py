"""The bars that the project has set itself, and whether a run met them. Nothing fails over a bar."""

from dataclasses import dataclass

from tests.bench.results import Results
from tests.bench.sample import Spread


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure of a case should be: `most` or `least`, and a goal beyond it."""

    what: str
    case: str
    figure: str
    most: float | None = None
    least: float | None = None
    goal: float | None = None

    @property
    def wanted(self) -> str:
        sign, limit = ("≤", self.most) if self.least is None else ("≥", self.least)
        return f"{sign} {limit:g}" + (f" (goal {self.goal:g})" if self.goal is not None else "")

    def holds(self, value: float) -> bool:
        return (self.most is None or value <= self.most) and (
            self.least is None or value >= self.least
        )


_ROUTED = "routed/fast/full_duplex"
_ADDED = "added p50 ÷ echo's"
_RATE = "rps ÷ echo's"
_PATH = "p50 ÷ critical path"

BARS = (
    Bar("added by routing 1 kB, c=1", f"{_ROUTED}/1kB/c1", _ADDED, most=1.6, goal=1.3),
    Bar("routed throughput, c=32", f"{_ROUTED}/1kB/c32", _RATE, least=0.6, goal=0.75),
    Bar("routed throughput to LiteLLM's", "litellm/1kB/c32", "rps ÷ LiteLLM's", least=20),
    Bar("220 kB routed, c=8", f"{_ROUTED}/220kB/c8", _RATE, least=1.1),
    Bar("4 MB routed, c=8", f"{_ROUTED}/4MB/c8", _RATE, least=0.5),
    Bar("fifteen signals to one", "signals/1kB/c1", "p50 ÷ one signal's", most=1.25),
    Bar(
        "a shipped recipe to one signal", "signals/1kB/c1", "shipped p50 ÷ one signal's", most=1.25
    ),
    Bar("Fusion alone", "fusion/1", _PATH, most=1.05),
    Bar("Fusion, 100 open runs", "fusion/100", _PATH, most=1.3),
    Bar("first token behind the model's", "first-token/c1", "delay ÷ added by routing", most=2.0),
    Bar("routed beside 1,000 open runs", "open-runs", "routed p50 ÷ idle's", most=2.0),
    Bar("lost of 1,000 open runs", "open-runs", "lost", most=0),
    Bar("RSS with 1,000 open runs, MiB", "open-runs", "RSS, MiB", most=400),
    Bar("start to healthy", "start", "time ÷ imports'", most=2.0),
    Bar("idle RSS, MiB", "start", "idle RSS, MiB", most=120),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: Bar
    value: Spread | None
    """None: not measured."""
    why: str

    @property
    def word(self) -> str:
        if self.value is None:
            return f"not measured: {self.why}"
        return "met" if self.bar.holds(self.value.median) else "MISSED"


def judge(results: Results) -> list[Verdict]:
    """Every bar, by the medians of the rounds."""
    return [_judge(bar, results) for bar in BARS]


def _judge(bar: Bar, results: Results) -> Verdict:
    case = results.case(bar.case)
    if case is None:
        return Verdict(bar, None, "not chosen")
    value = case.figure(bar.figure)
    return Verdict(bar, value, case.missing or ("it failed" if case.failed else "no such figure"))


def add_first_token(results: Results) -> None:
    """The one figure that two cases make: the first token's delay beside what routing adds."""
    token, routed = results.case("first-token/c1"), results.case(f"{_ROUTED}/1kB/c1")
    if token is None or routed is None:
        return
    added = routed.figure("added p50, ms")
    if added is not None and added.median > 0:
        delays = token.figures.get("delay, ms", [])
        token.figures["delay ÷ added by routing"] = [
            None if delay is None else delay / added.median for delay in delays
        ]
