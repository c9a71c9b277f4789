"""Every series that is documented, with the value that it has to have: all algorithms, outcomes, reasons and errors."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
import pytest_asyncio

from extproc.statistics import series
from extproc.statistics.table import every
from looper.algorithms import AlgorithmConfig
from looper.calling.trace import Breach
from looper.simulate.server import (
    Fault,
    Hang,
    Huge,
    ReasoningOnly,
    SimulatedModel,
    Simulator,
    Status,
    UsageHabit,
)
from looper.wire.events import Lack
from tests.contract.test_catalogue import kinds
from tests.envoy.series import count, of
from tests.envoy.test_reload import admin, facts
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PRICES = {"a": 1, "b": 2, "c": 3, "w": 10, "dear": 1000, "tiny": 1}
"""Of prompts, in USD per million tokens; answers are two USD."""

CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}
TEAM = ["a", "b", "c"]
FUSION = {"type": "fusion", "analysis_models": TEAM, "judge_model": "w", "skip_judge_when": "never"}
RATINGS = {"type": "ratings", "models": TEAM, "stop": "all"}
REMOM = {"type": "remom", "models": TEAM, "breadth_schedule": [3], "synthesis_model": "w"}
STEPS = [
    {"id": "solve", "models": ["a", "b"], "prompt": "Solve it."},
    {"id": "check", "role": "verifier", "models": ["c"], "needs": ["solve"], "prompt": "Check it."},
]
WORKFLOW = {
    "type": "workflows",
    "steps": STEPS,
    "final": {"model": "w"},
    "on_verify_fail": "continue",
}
CHAIN = {
    "type": "confidence",
    "stages": [["a", "b"], "w"],
    "confidence_method": "agreement",
    "threshold": 0.9,
}
PLANNED = {
    "type": "workflows",
    "mode": "dynamic",
    "planner": {"model": "w"},
    "models": ["a", "b"],
    "final": {"model": "w"},
}
PANEL = "a:panel b:panel c:panel"
VOTED = "a:member b:member c:member"
PROPOSED = "a:proposer b:proposer c:proposer"
WORKED = "a:worker b:worker c:verifier w:final"
JUDGED = json.dumps({"scores": [5, 5, 5], "consensus": ["They agree."]})
TOKENS = ("prompt_tokens", "completion_tokens")
CALLED = "envoy_looper_egress"
STILL = {
    "looper_config_valid": 1,
    "looper_config_envoy_stale": 0,
    'looper_config_reloads_total{result="ok"}': 0,
    'looper_config_reloads_total{result="refused"}': 0,
    "looper_open_runs": 0,
    "looper_max_runs": 1,
    "looper_waiting_runs": 0,
    "looper_inflight_bytes": 0,
    "looper_max_inflight_bytes": 512 * 2**20,
    "looper_exchanges_aborted_total": 0,
    "looper_identity_missing_total": 0,
}
"""Of a process that nobody asks anything, and that nothing has happened to. It takes one team at a time."""

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
A, B, C = "ANSWER: A", "ANSWER: B", "ANSWER: C"


@dataclass(frozen=True)
class Case:
    """A decision of its own, one request for it, and what has to be counted.

    `calls` are the processor's, as `model:role`, with `=code` where that is not 200, and `=?` where two clocks run
    out at once. `says` and `faults` are what models do.
    """

    name: str
    decision: Mapping[str, Any]
    calls: str = ""
    outcome: str = "ok"
    status: int = 200
    model: str = ""
    says: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 1
    lack: str | None = None
    breach: str | None = None
    error: str | None = None
    sure: bool = False

    @property
    def algorithm(self) -> str:
        return str(self.decision.get("algorithm", {}).get("type", "respond"))

    @property
    def made(self) -> list[tuple[str, str, str]]:
        """The model, role and code of each call."""
        parts = (re.fullmatch(r"(\w+):(\w+)(?:=(.+))?", each) for each in self.calls.split())
        return [(found[1], found[2], found[3] or "200") for found in parts if found]


def answers(algorithm: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"algorithm": algorithm, **more}


ALONE = {"type": "single", "model": "a"}
ONE = answers(ALONE)
BACKUP = answers({"type": "single", "model": "a", "fallbacks": ["b"]})
STREAMED = {"stream": True}
LONG = {"messages": [{"role": "user", "content": "Why? " * 500}]}
DOWN = Status(status=500)


def degraded(lack: str, decision: Mapping[str, Any], calls: str, **more: Any) -> Case:
    return Case(lack, decision, calls, outcome="degraded", lack=lack, **more)


def refused(error: str, decision: Mapping[str, Any], calls: str, status: int, **more: Any) -> Case:
    """One that the processor answers with an error; before a run has begun there is no outcome."""
    outcome = "" if error == "invalid_field" else "failed"
    return Case(error, decision, calls, outcome=outcome, status=status, error=error, **more)


def everybody(code: str) -> str:
    return " ".join(f"{name}:panel={code}" for name in TEAM)


def all_of(fault: Fault) -> dict[str, Fault]:
    return dict.fromkeys(TEAM, fault)


CASES = [
    # Each algorithm...
    Case("routed", ONE, model="a", outcome=""),
    Case("routed-stream", ONE, model="a", outcome="", asked=STREAMED),
    Case("tried-again", ONE, model="a", outcome="", faults={"a": Status(status=503, times=1)}, tries=2),
    Case("backup", BACKUP, "a:single"),
    Case("fusion", answers(FUSION), f"{PANEL} w:judge w:final", says={"w": [JUDGED]}),
    Case("fusion-stream", answers(FUSION), f"{PANEL} w:judge w:final", says={"w": [JUDGED]}, asked=STREAMED),
    Case("ratings", answers(RATINGS, contract=CHOICE), VOTED, says={name: [A] for name in TEAM}, sure=True),
    Case("estimated", answers(RATINGS, contract=CHOICE), VOTED, says={name: [A] for name in TEAM}, sure=True,
         faults=all_of(UsageHabit(kind="missing"))),
    Case("remom", answers(REMOM), f"{PROPOSED} w:synthesis"),
    Case("remom-stream", answers(REMOM), f"{PROPOSED} w:synthesis", asked=STREAMED),
    Case("confidence", answers(CHAIN), "a:candidate b:candidate w:candidate",
         says={"a": ["Yes."], "b": ["No, never."]}, asked=STREAMED),
    Case("workflows", answers(WORKFLOW), WORKED, says={"c": ['{"verdict": "pass"}']}),
    Case("workflows-stream", answers(WORKFLOW), WORKED, says={"c": ['{"verdict": "pass"}']}, asked=STREAMED),
    Case("respond", {"respond": {"message": "No."}}, outcome=""),
    Case("respond-error", {"respond": {"message": "No.", "status": 403, "code": "no"}}, outcome="", status=403),
    # ... one model in a team's place...
    Case("bypass", answers(FUSION, tools={"bypass": "b"}), outcome="bypass", model="b", asked={"tools": [TOOL]}),
    # ... why answers are degraded, or somebody else's...
    Case("fallback", BACKUP, "a:single=500 b:single", outcome="fallback", faults={"a": DOWN}),
    degraded("failed", answers(FUSION), "a:panel=500 b:panel c:panel w:judge w:final",
             says={"w": [JUDGED]}, faults={"a": DOWN}),
    degraded("late", answers({**FUSION, "round_timeout": "1s"}), "a:panel=? b:panel c:panel w:judge w:final",
             says={"w": [JUDGED]}, faults={"a": Hang()}),
    degraded("refused", answers(FUSION), "a:panel=400 b:panel c:panel w:judge w:final",
             says={"w": [JUDGED]}, faults={"a": Status(status=400, code="content_filter")}),
    degraded("unsuitable", answers({**FUSION, "analysis_models": ["tiny", "b", "c"]}),
             "b:panel c:panel w:judge w:final", says={"w": [JUDGED]}, asked=LONG),
    degraded("unpaid", answers({**RATINGS, "models": ["dear", "b", "c"]}, contract=CHOICE, budget={"cost_usd": 0.003}),
             "b:member c:member", says={"b": [A], "c": [A]}, sure=True),
    degraded("quorum", answers({**RATINGS, "min_successful_responses": 3}, contract=CHOICE), VOTED,
             says={"a": [A], "b": [A], "c": ["Who knows?"]}, sure=True),
    degraded("judge", answers(FUSION), f"{PANEL} w:judge w:judge w:final", says={"w": ["Hm.", "Hm."]}),
    degraded("planner", answers(PLANNED),
             "w:planner w:planner a:worker b:worker w:final", says={"w": ["Hm.", "Hm."]}),
    degraded("step", answers({**WORKFLOW, "steps": [
        {"id": "one", "models": ["a"], "prompt": "Do."}, {"id": "two", "models": ["b"], "prompt": "Do."},
        {"id": "three", "models": ["c"], "needs": ["two"], "prompt": "Do."}]}),
        "a:worker b:worker=500", faults={"b": DOWN}),
    degraded("verifier", answers(WORKFLOW), WORKED, says={"c": ['{"verdict": "unsure"}']}),
    degraded("unsure", answers(RATINGS, contract=CHOICE), VOTED, says={"a": [A], "b": [B], "c": [C]}, sure=True),
    degraded("contract", answers(ALONE, contract=CHOICE), "a:single a:repair",
             says={"a": ["Hm.", "Hm."]}, breach="published"),
    degraded("thoughts", BACKUP, "a:single b:single",
             faults=dict.fromkeys("ab", ReasoningOnly(finish="length"))),
    # ... what becomes of contracts that are broken...
    Case("mended", answers(ALONE, contract={**CHOICE, "render": "ANSWER: {choice}"}), "a:single",
         says={"a": ["It must be **B**."]}, breach="mended"),
    Case("repaired", answers(ALONE, contract=CHOICE), "a:single a:repair",
         says={"a": ["Hm.", A]}, breach="repaired"),
    Case("replaced", answers(BACKUP["algorithm"], contract=CHOICE), "a:single a:repair b:single",
         outcome="fallback", says={"a": ["Hm.", "Hm."], "b": [A]}, breach="replaced"),
    refused("contract_violated", answers(ALONE, contract=CHOICE, on_violation="fail"),
            "a:single a:repair", 502, says={"a": ["Hm.", "Hm."]}, breach="failed"),
    # ... and errors.
    refused("upstream_failed", answers(FUSION), everybody("500"), 502, faults=all_of(DOWN)),
    refused("rate_limited", answers(FUSION), everybody("429"), 429, faults=all_of(Status(status=429)), tries=2),
    refused("invalid_request", answers(FUSION), everybody("400"), 400, faults=all_of(Status(status=400))),
    refused("content_filter", answers(FUSION), everybody("400"), 400,
            faults=all_of(Status(status=400, code="content_filter"))),
    refused("context_length_exceeded", answers(FUSION), everybody("400"), 400,
            faults=all_of(Status(status=400, code="context_length_exceeded"))),
    refused("unsupported_by_model", answers(FUSION), everybody("400"), 400,
            faults=all_of(Status(status=400, code="unsupported_value"))),
    refused("upstream_misconfigured", answers(FUSION), everybody("401"), 502, faults=all_of(Status(status=401))),
    refused("answer_too_large", BACKUP, "a:single b:single", 502, faults=all_of(Huge(size=2 << 20))),
    refused("deadline_exceeded", answers(BACKUP["algorithm"], budget={"deadline": "1s"}), "a:single=? b:single=?", 504,
            faults=all_of(Hang())),
    refused("budget_exhausted", answers(BACKUP["algorithm"], budget={"tokens": 300}), "", 402,
            asked=LONG),
    refused("verification_failed", answers({**WORKFLOW, "on_verify_fail": "fail"}), "a:worker b:worker c:verifier",
            502, says={"c": ['{"verdict": "fail"}']}),
    refused("invalid_field", BACKUP, "", 400, asked={"max_tokens": "many"}),
]  # fmt: skip


POLICY = {
    "signals": {
        "code": {"type": "keyword", "any": ["code"]},
        "proof": {"type": "keyword", "any": ["prove"]},
        "wants": {"type": "model", "model": "w", "labels": {"math": "numbers"}},
    },
    "projections": {
        "task": {"type": "partition", "members": ["code"], "default": "chat"},
        "difficulty": {
            "type": "score",
            "weights": {"proof": 0.7, "task.code": 0.3},
            "bands": [{"easy": 0.2}, {"hard": 1}],
        },
    },
    "decisions": [
        {"name": "trial", "when": "difficulty.hard", "shadow": True, **answers({"type": "single", "model": "b"})},
        {"name": "code", "when": "task.code", **answers({"type": "single", "model": "b"})},
        {"name": "math", "when": "wants.math", **ONE},
        {"name": "other", **ONE},
    ],
}  # fmt: skip
SAID = {
    "code": ("code", {"task": "code", "difficulty": "hard"}),
    "prove this code": ("code", {"task": "code", "difficulty": "hard"}),
    "prove it": ("math", {"task": "chat", "difficulty": "hard"}),
    "Hello": ("other", {"task": "chat", "difficulty": "easy"}),
}
"""What is said to that recipe, which decision answers, and what its projections find. Where no code is, a model is
asked: at first it says that it is about numbers, and then nothing that could be read.
"""

LABELLED = 2
"""How often that model is asked."""


@dataclass
class Told:
    """What came of a case: its record, if it was a team's, what its client was told, and what its backends billed."""

    case: Case
    usage: Mapping[str, Any]
    billed: Counter[str]
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def estimated(self) -> int:
        """Of how many tokens its client, or its record, says that no backend reported them."""
        said = self.usage.get("looper", self.record)
        return int(said.get("estimated_tokens", 0))


@dataclass(frozen=True)
class Seen:
    """All cases, and the series afterwards: Envoy's, and the processor's own."""

    told: Mapping[str, Told]
    series: Mapping[str, float]
    process: Mapping[str, float]

    def about(self, decision: str) -> dict[tuple[str, ...], float]:
        """Every series of a decision, by its own name and the labels' values, in the order of the labels' names."""
        found: dict[tuple[str, ...], float] = {}
        for name, labels, value in of(self.series, decision=decision):
            if not name.endswith(("_bucket", "_sum")):
                rest = [labels[label] for label in sorted(labels.keys() - {"decision"})]
                found[name.removeprefix("envoy_looper_"), *rest] = value
        return found


def config() -> dict[str, Any]:
    """Each case with a recipe, a decision and a public name of its own."""
    return {
        "models": [
            {"name": name, "url": "", "rating": 0.7, "price": {"input": price, "output": 2},
             **({"context_window": 300} if name == "tiny" else {})}
            for name, price in PRICES.items()
        ],
        "limits": {"max_answer_bytes": 1 << 20, "max_runs": 1, "max_waiting": 0},
        "recipes": {
            **{case.name: {"decisions": [{"name": case.name, **case.decision}]} for case in CASES},
            "policy": POLICY,
        },
        "entrypoints": {name: name for name in (*(case.name for case in CASES), "policy")},
    }  # fmt: skip


async def drive(stack: Stack, case: Case) -> Told:
    """Send the request of a case, and see what was billed for it."""
    simulator = stack.simulator
    simulator.reset()
    for name, said in case.says.items():
        simulator.script(name, *said)
    for name, fault in case.faults.items():
        simulator.fault(name, fault)
    body = {"model": case.name, "messages": [{"role": "user", "content": "A, B, C or D?"}]}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json={**body, **case.asked}
    ) as response:
        answer = await response.read()
        assert response.status == case.status, answer
    await simulator.wait_for(lambda: simulator.running() == 0)
    billed = Counter[str]()
    for call in simulator.calls:
        billed.update({kind: (call.usage or {}).get(kind, 0) for kind in TOKENS})
    streamed = case.asked.get("stream")
    return Told(case, {} if streamed else json.loads(answer).get("usage") or {}, billed)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def seen() -> Seen:
    async with run_stack(Simulator(map(model, PRICES)), config()) as stack:
        told = {case.name: await drive(stack, case) for case in CASES}
        for record in await admin(stack, "/runs"):
            if record["kind"] == "team":
                told[record["decision"]].record = record
        await decide(stack)
        decisions = Counter(decision for decision, _ in SAID.values())
        series = await all_over(stack, {**dict.fromkeys(told, 1), **decisions})
        assert "non-number" not in stack.envoy.log.read_text()
        return Seen(told, series, await facts(stack))


async def decide(stack: Stack) -> None:
    """Send what signals and projections are about."""
    stack.simulator.reset()
    stack.simulator.script("w", '{"label": "math", "confidence": 0.9}', "I cannot tell.")
    for text, (decision, _) in SAID.items():
        body = {"model": "policy", "messages": [{"role": "user", "content": text}]}
        async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
            assert response.headers["x-looper-decision"] == decision


def model(name: str) -> SimulatedModel:
    return SimulatedModel(name=name, latency=0, token_latency=0)


async def all_over(stack: Stack, requests: Mapping[str, int]) -> Mapping[str, float]:
    """The series when so many requests of these decisions are counted, in histograms too: Envoy shows what these have
    observed from their next flush on, and flushes every five seconds.
    """
    names = ("envoy_looper_requests_total", "envoy_looper_request_ms_count")
    return await stack.until_series(
        lambda series: all(
            count(series, name, decision=decision) == number
            for decision, number in requests.items()
            for name in names
        ),
        timeout=20,
    )


def expected(told: Told) -> dict[tuple[str, ...], float]:
    """What has to be counted of a case, and nothing else."""
    case, by = told.case, told.case.algorithm
    counts: dict[tuple[str, ...], float] = {
        ("requests_total", by, str(case.status), case.model, case.outcome): 1,
        ("request_ms_count", by): 1,
    }
    if case.asked.get("stream"):
        counts["first_token_ms_count", by] = 1
    if case.model:
        counts["attempts_total", by, case.model] = case.tries
    named = {
        "errors": case.error,
        "degradations": case.lack,
        "contract_violations": case.breach,
    }
    counts |= {(f"{name}_total", by, word): 1 for name, word in named.items() if word}
    if case.sure:
        counts["confidence_permille_count",] = 1
    for kind in TOKENS if told.usage else ():
        counts[f"{kind}_total", by, case.model] = told.usage[kind]
    if estimated := told.estimated:
        counts["estimated_tokens_total", by, ""] = estimated
    return counts | (_of_a_run(by, told.record) if told.record else {})


def _of_a_run(by: str, record: Mapping[str, Any]) -> dict[tuple[str, ...], float]:
    """What its calls took, by its record."""
    counts: dict[tuple[str, ...], float] = dict.fromkeys(
        ((f"{kind}_total", by, "") for kind in TOKENS), 0.0
    )
    by_role: Counter[tuple[str, ...]] = Counter()
    for call in record["calls"]:
        for kind in TOKENS if "usage" in call else ():
            used = call["usage"][kind]
            counts[f"{kind}_total", by, ""] += used
            by_role["role_tokens_total", by, kind.removesuffix("_tokens"), call["role"]] += used
    counts["cost_microusd_total", by, ""] = record["cost_microusd"]
    counts["calls_total", by, ""] = record["spent"]["calls"]
    return {**counts, **by_role}


@pytest.mark.parametrize("name", [case.name for case in CASES])
async def test_what_a_request_counts(seen: Seen, name: str) -> None:
    """All that is known of it, and nothing else, with each number as its answer and its record have it."""
    told = seen.told[name]
    assert seen.about(name) == expected(told)
    if told.usage and told.record:
        assert {kind: told.usage[kind] for kind in TOKENS} == {
            kind: told.record[kind] for kind in TOKENS
        }


@pytest.mark.parametrize("name", [case.name for case in CASES if case.calls])
async def test_what_a_run_says_of_itself(seen: Seen, name: str) -> None:
    """Its calls are those that were to be made, and where all reported what they used, it is what was billed."""
    told = seen.told[name]
    calls = [
        call
        for call in told.record["calls"]
        if call.get("reason") not in ("context_window", "cost_usd")
    ]
    assert Counter((call["model"], call["role"]) for call in calls) == Counter(
        (model, role) for model, role, _ in told.case.made
    )
    if told.case.outcome == "ok" and not told.estimated:
        assert {kind: told.record[kind] for kind in TOKENS} == dict(told.billed)


async def test_what_calls_count(seen: Seen) -> None:
    """By model, role and code; each is timed; Envoy tries those once more that it may, and says so in flags."""
    made = [each for case in CASES for each in case.made]
    sure = Counter(each for each in made if each[2] != "?")
    retried = {(model, role) for model, role, code in made if code == "429"}
    for (model, role, code), number in sure.items():
        labels = {"model": model, "role": role, "code": code}
        assert count(seen.series, f"{CALLED}_calls_total", **labels) == number
    limited = of(seen.series, code="429", role="panel")
    assert all("URX" in labels["flags"].split(",") for _, labels, _ in limited)
    for at, number in Counter((model, role) for model, role, _ in made).items():
        labels = {"model": at[0], "role": at[1]}
        assert count(seen.series, f"{CALLED}_calls_total", **labels) == number
        tries = number + (at in retried)
        assert count(seen.series, f"{CALLED}_attempts_total", **labels) == tries
    assert count(seen.series, f"{CALLED}_calls_total") == len(made) + LABELLED
    labelled = Counter({"w": LABELLED})
    for name, number in (Counter(model for model, _, _ in made) + labelled).items():
        assert count(seen.series, f"{CALLED}_call_ms_count", model=name) == number


async def test_what_the_processor_counts(seen: Seen) -> None:
    """Each run by its outcome, and its cost by its ledger; and how the process is."""
    runs = [told.record for told in seen.told.values() if told.record]
    for record in runs:
        names = {name: record[name] for name in ("recipe", "decision", "algorithm")}
        outcome = record["outcome"]
        assert count(seen.process, "looper_runs_total", **names, outcome=outcome) == 1
        cost = count(seen.process, "looper_spend_microusd_total", **names)
        assert cost == record["cost_microusd"]
    assert count(seen.process, "looper_runs_total") == len(runs)
    assert {key: value for key, value in seen.process.items() if key in STILL} == STILL
    assert 0 <= seen.process["looper_event_loop_lag_seconds"] < 5
    for name in ("cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes"):
        assert seen.process[f"process_{name}"] > 0
    assert 0 < seen.process["process_open_fds"] < seen.process["process_max_fds"]


async def test_how_sure_teams_are(seen: Seen) -> None:
    """In thousandths, as the record of the run has it; a histogram adds up roughly."""
    for name in [case.name for case in CASES if case.sure]:
        observed = count(seen.series, "envoy_looper_confidence_permille_sum", decision=name)
        sure = seen.told[name].record["confidence_permille"]
        assert observed == pytest.approx(sure, rel=0.1)


async def test_buckets_are_for_models(seen: Seen) -> None:
    """From 10 ms to 10 minutes, of whole answers, first tokens and calls."""
    for name in ("request_ms", "first_token_ms", "egress_call_ms"):
        bounds = {
            float(labels["le"])
            for each, labels, _ in of(seen.series)
            if each == f"envoy_looper_{name}_bucket"
        }
        assert (min(bounds), max(bounds - {float("inf")})) == (10, 600_000)


async def test_what_is_found_on_the_way(seen: Seen) -> None:
    """For each request, once: the band of each score, the shape of each partition, and decisions that only watch; and
    what signals ask of models, which is no run's.
    """
    found = Counter(each for _, shapes in SAID.values() for each in shapes.items())
    for (projection, value), number in found.items():
        labels = {"recipe": "policy", "projection": projection, "found": value}
        assert count(seen.series, "envoy_looper_projections_total", **labels) == number
    assert count(seen.series, "envoy_looper_projections_total") == found.total()
    hard = {"recipe": "policy", "decision": "trial"}
    assert count(seen.series, "envoy_looper_shadow_total", **hard) == found["difficulty", "hard"]
    assert count(seen.series, "envoy_looper_requests_total", decision="trial") == 0
    assert count(seen.series, f"{CALLED}_calls_total", model="w", role="label") == LABELLED
    assert count(seen.process, "looper_signal_calls_total", model="w") == LABELLED
    assert count(seen.process, "looper_signal_spend_microusd_total", model="w") > 0
    failures = {"recipe": "policy", "signal": "wants"}
    assert count(seen.process, "looper_signal_failures_total", **failures) == 1


async def test_nothing_is_left_out(seen: Seen) -> None:
    """Every series but that of profile `metered` and those of tenants, every algorithm, every reason for a degraded
    answer, and everything that becomes of a broken contract.
    """
    there = {name.removesuffix("_count") for name, _, _ in of({**seen.series, **seen.process})}
    tenants = (series.TENANT_REQUESTS, series.TENANT_TOKENS, series.TENANT_COST_MICROUSD)
    elsewhere = {each.name for each in (series.UNMETERED, *tenants)}
    assert {each.name for each in every()} - there == elsewhere
    assert {case.algorithm for case in CASES} == kinds(AlgorithmConfig) | {"respond"}
    assert {case.lack for case in CASES if case.lack} == set(get_args(Lack))
    assert {case.breach for case in CASES if case.breach} == {*get_args(Breach), "failed"}
