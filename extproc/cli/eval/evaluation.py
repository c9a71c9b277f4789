"""`looper eval`: a configuration's decisions and teams, unchanged, over recorded answers of models."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from extproc.config import Config
from extproc.decisions.budgets import kept
from extproc.decisions.canned import Canned
from extproc.decisions.engine import Decided
from extproc.decisions.recipe import Decision
from extproc.errors import ConfigError, unknown
from extproc.process.runtime import Runtime, build
from extproc.signals import Subject
from looper.calling.budget import Ledger
from looper.contract import Contract
from looper.errors import LooperError
from looper.evaluate import virtual
from looper.evaluate.dataset import Item
from looper.evaluate.outcomes import Outcomes, OutcomesError, Question
from looper.evaluate.replay import Recorded, Replay
from looper.evaluate.report import Graded, Report
from looper.run import Deadline, Heartbeat, Pattern, Run, drive, seeded
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event

_NEVER = 1e9


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom the questions are put to: a public name, or one decision whatever its rule says."""

    model: str
    decision: str | None = None


def evaluate(
    config: Config, pairs: Sequence[tuple[Item, Question]], recorded: Outcomes, asked: Asked
) -> Report:
    """Put every question to the configuration. Raises OutcomesError, and ConfigError for names that do not exist."""
    names = _recorded_as(config, recorded.models)
    replay = Replay(names)
    runtime = build(config, replay)
    _check(runtime, asked)
    return virtual.run(_ask_all(runtime, replay, pairs, asked))


def _check(runtime: Runtime, asked: Asked) -> None:
    if asked.model not in runtime.entries:
        raise ConfigError([unknown("model", asked.model, runtime.entries)])
    decisions = [each.name for each in runtime.policy(asked.model, None).decisions]
    if asked.decision is not None and asked.decision not in decisions:
        raise ConfigError([unknown("decision", asked.decision, decisions)])


def _team(runtime: Runtime, asked: Asked) -> frozenset[str]:
    """Every model that a question may come to."""
    decisions = runtime.policy(asked.model, None).decisions
    named = [each for each in decisions if asked.decision in (None, each.name)]
    return frozenset(name for decision in named for _, name in decision.members())


def _recorded_as(config: Config, models: Iterable[str]) -> dict[str, str]:
    """Which recorded model each model of the catalogue is: the one of its name, or of its name upstream."""
    known = set(models)
    found = {
        model.name: next(name for name in (model.name, model.upstream) if name in known)
        for model in config.models
        if {model.name, model.upstream} & known
    }
    if not found:
        name = config.models[0].upstream
        raise OutcomesError(
            f"no model of the configuration was recorded: {unknown('model', name, known)}"
        )
    return found


async def _ask_all(
    runtime: Runtime, replay: Replay, pairs: Sequence[tuple[Item, Question]], asked: Asked
) -> Report:
    graded: list[Graded] = []
    team = _team(runtime, asked)
    for item, row in pairs:
        replay.learn(item, row)
        result = await _ask(runtime, replay, item, row, asked, team)
        graded += [] if result is None else [result]
    if not graded:
        raise OutcomesError("no question came to a decision that models answer")
    return Report(graded, len(pairs) - len(graded))


async def _ask(
    runtime: Runtime,
    replay: Replay,
    item: Item,
    row: Question,
    asked: Asked,
    team: Collection[str],
) -> Graded | None:
    """One question; None if it is answered without a model."""
    body = {"model": asked.model, "messages": item.conversation()}
    request = ChatRequest.parse(json.dumps(body).encode())
    decided = await _decide(runtime, request, asked)
    decision = decided.decision
    if isinstance(decision.action, Canned):
        return None
    request = decision.parameters.applied(request)
    run = _begin(runtime, request, decided)
    spent, began = replay.microusd, run.deadline.now()
    heard = await _hear(_pattern(runtime, decided), request, run)
    contract = run.terms.contract
    members = {name: each for name, each in replay.names.items() if name in team}
    return Graded(
        id=item.id,
        decision=decision.name,
        algorithm=decision.label,
        outcome=heard.outcome,
        right=_is_right(heard.text, item, row, contract, replay.names),
        calls=run.ledger.calls,
        microusd=replay.microusd - spent,
        seconds=run.deadline.now() - began,
        members={
            name: _is_right(row.answers.get(recorded, ""), item, row, contract, replay.names)
            for name, recorded in members.items()
        },
        alone=_alone(runtime, members, item, row),
    )


async def _decide(runtime: Runtime, request: ChatRequest, asked: Asked) -> Decided:
    policy = runtime.policy(asked.model, None)
    subject = Subject(request)
    if asked.decision is None:
        return await policy.decide(subject)
    readings = await policy.read(subject)
    (decision,) = (each for each in policy.decisions if each.name == asked.decision)
    return policy.judge(subject, readings).of(decision)


def _begin(runtime: Runtime, request: ChatRequest, decided: Decided) -> Run:
    """A run as an exchange begins one, but for what comes from a client's headers."""
    decision, recipe = decided.decision, decided.recipe
    planned = runtime.planned_calls.get((recipe, decision.name), 1)
    return Run(
        id="eval",
        models=runtime.models,
        client=runtime.client,
        ledger=Ledger(
            decision.budget,
            planned_calls=planned,
            floors=kept(decision, runtime.models, request),
        ),
        deadline=Deadline.after(decision.budget.deadline.total_seconds()),
        random=seeded(request),
        terms=runtime.terms(recipe, decision.name, request),
        bands=decided.bands,
    )


def _pattern(runtime: Runtime, decided: Decided) -> Pattern:
    """What answers: a loop, or a team of the one model that Envoy would have routed to."""
    decision: Decision = decided.decision
    if decision.algorithm is not None and decision.is_routed:
        return decision.algorithm.build()
    return runtime.pattern(decided.recipe, decision.name)


async def _hear(pattern: Pattern, request: ChatRequest, run: Run) -> "_Heard":
    heard = _Heard()
    try:
        await drive(pattern, request, run, heard.hear, heartbeat=_NEVER)
    except LooperError as error:
        heard.outcome = error.code
    return heard


class _Heard:
    """What a run says: its text and how it ends."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.outcome = "failed"

    async def hear(self, event: Event | Heartbeat) -> None:
        match event:
            case Delta(kind="content", choice=0):
                self._pieces.append(event.value)
            case Done():
                self.outcome = event.outcome
            case _:
                pass

    @property
    def text(self) -> str:
        return "".join(self._pieces)


def _is_right(
    text: str,
    item: Item,
    row: Question,
    contract: Contract[object] | None,
    names: Mapping[str, str],
) -> bool:
    """Whether a text says what is right, by the contract; else by a recorded answer that says the same."""
    said = _value(text, contract)
    if said is None:
        return False
    gold = item.gold if item.gold is not None else row.gold
    if gold is not None and _same(said, _value(gold, contract), contract):
        return True
    correct = row.correct or {}
    return any(
        bool(correct.get(name))
        and _same(said, _value(row.answers.get(name, ""), contract), contract)
        for name in names.values()
    )


def _value(text: str, contract: Contract[object] | None) -> object | None:
    if contract is None or not contract.comparable:
        return text.strip() or None
    return contract.extract(text)


def _same(one: object, other: object | None, contract: Contract[object] | None) -> bool:
    if other is None:
        return False
    if contract is None or not contract.comparable:
        return one == other
    return contract.same(one, other)


def _alone(
    runtime: Runtime, names: Mapping[str, str], item: Item, row: Question
) -> dict[str, float]:
    """What each member's own answer costs."""
    prompt = "\n".join(str(message.get("content")) for message in item.conversation())
    return {
        name: Recorded.of(row, recorded, prompt).microusd(runtime.models[name])
        for name, recorded in names.items()
    }


def show(report: Report, console: Console) -> None:
    """The report, for people."""
    for line in _lines(report):
        console.print(line, highlight=False, soft_wrap=True)
    for table in _tables(report):
        console.print(table)


def _lines(report: Report) -> Iterator[str]:
    accuracy = report.accuracy()
    yield (
        f"{len(report.questions)} questions: {_percent(accuracy.mean)} right "
        f"({_percent(accuracy.low)} - {_percent(accuracy.high)})"
    )
    if report.skipped:
        yield f"{report.skipped} more were answered without a model"
    if (best := report.best_member()) is not None:
        yield _beside(report, best)
    median, late = report.seconds()
    yield (
        f"{report.calls():.2f} calls and {report.cost():.1f} micro-USD for each; "
        f"{median:.2f} s (median), {late:.2f} s (95 %)"
    )


def _tables(report: Report) -> Iterator[Table]:
    for title, rows in (
        ("decision", report.by(lambda each: each.decision)),
        ("outcome", report.by(lambda each: each.outcome)),
    ):
        table = Table(title, "questions", "right")
        for name, (count, share) in rows.items():
            table.add_row(name, str(count), _percent(share))
        yield table
    table = Table("member alone", "right", "micro-USD")
    for name, share in sorted(report.members().items(), key=lambda each: -each[1]):
        table.add_row(name, _percent(share), f"{report.cost_of(name):.1f}")
    yield table


def _beside(report: Report, best: str) -> str:
    difference, cost = report.difference(best), report.cost_of(best)
    beside = f"{best}, the best member, alone: {_percent(report.members()[best])}; the team has "
    beside += f"{100 * difference.mean:+.2f} points ({100 * difference.low:+.2f} - {100 * difference.high:+.2f})"
    return beside + (f" at {report.cost() / cost:.2f} x its cost" if cost else "")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
