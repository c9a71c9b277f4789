"""What a team's answers count as in a vote, and which of them speaks for the team."""

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from looper.calling.calls import Result
from looper.contract import Contract, Free, canonical, json_text
from looper.voting import UNKNOWN, Ballot, Electorate, Features, Verdict, decide
from looper.voting.ballots import Same
from looper.voting.medoid import Text, medoid

Value = Hashable
"""What is compared: a contract's value, the calls of tools, or TEXT."""


class Kind(Enum):
    """What an answer is where its value is no contract's."""

    TEXT = "text"


TEXT = Kind.TEXT
"""Text that nothing compares. In a vote it is one group: it says that the answer is text, and not which."""


@dataclass(frozen=True, slots=True)
class ToolCalls:
    """Calls of tools as a vote compares them: names, and arguments as canonical JSON."""

    calls: tuple[tuple[str, str], ...]


def value_of(result: Result, contract: Contract[Any] | None) -> Value | None:
    """What an answer counts as; None for one that is silent.

    Silent is what failed, is blank, refuses, breaks the contract, or was cut off before it said anything that can be
    compared. Answers that call tools are compared by the calls.
    """
    message = result.message
    if result.state != "ok" or message is None or message.refusal:
        return None
    if message.tool_calls:
        calls = tuple(_call(call) for call in message.tool_calls)
        broken = not all(json_text.is_json(arguments) for _, arguments in calls)
        return None if broken and _was_cut(result) else ToolCalls(calls)
    value = canonical(contract, message.content or "")
    if isinstance(value, Free):
        return None if _was_cut(result) else TEXT
    return value


def _was_cut(result: Result) -> bool:
    """Whether an answer ended before its end: for want of tokens, or by a provider's filter."""
    return result.finish in ("length", "content_filter")


def _call(call: dict[str, Any]) -> tuple[str, str]:
    """A call's name and arguments; of one that is no function's, all that is said but its id."""
    function = call.get("function")
    if isinstance(function, dict):
        return str(function.get("name")), _canonical_json(function.get("arguments"))
    said = {name: value for name, value in call.items() if name not in ("id", "index")}
    return str(call.get("type")), _canonical_json(said)


def _canonical_json(said: object) -> str:
    text = said if isinstance(said, str) else json.dumps(said or {})
    try:
        return json_text.canonical(json_text.parse(text if text.strip() else "{}"))
    except json_text.NotJson:
        return text


_OWN = (ToolCalls, Kind)
"""Values that are no contract's."""


def same_by(contract: Contract[Any] | None) -> Same[Value]:
    """Whether two values are one answer, by the contract; text and calls of tools never are."""

    def same(one: Value, other: Value) -> bool:
        if contract is None or isinstance(one, _OWN) or isinstance(other, _OWN):
            return one == other
        return contract.same(one, other)

    return same


About = Callable[[Result, Value | None, Contract[Any] | None], Features]


def nothing_more(result: Result, value: Value | None, contract: Contract[Any] | None) -> Features:
    """The features of an answer about which nothing more is known."""
    return UNKNOWN


_SURE = 0.7
_DIGITS = 6
_UNHEARD = ("cancelled", "not_started")


@dataclass(frozen=True)
class Vote:
    """A team's answers, and what follows from them."""

    results: tuple[Result, ...]
    values: tuple[Value | None, ...]
    ballots: tuple[Ballot[Value], ...]
    electorate: Electorate
    verdict: Verdict[Value]
    same: Same[Value]
    contract: Contract[Any] | None

    @classmethod
    def on(
        cls,
        results: Sequence[Result],
        electorate: Electorate,
        contract: Contract[Any] | None,
        asked: Sequence[str] = (),
        about: About = nothing_more,
    ) -> "Vote":
        """A vote on `results`. `asked` are the models that are asked in all, if that is more; `about` is what is known
        of an answer beside what it says.
        """
        cast = Ballots(contract, asked or [result.model.name for result in results], about)
        ballots = tuple(cast.cast(result) for result in results)
        verdict = decide(ballots, electorate, cast.same)
        values = tuple(ballot.value for ballot in ballots)
        return cls(tuple(results), values, ballots, electorate, verdict, cast.same, contract)

    def told(self) -> dict[str, Any] | None:
        """The vote as a trace shows it: who stands where with which weight, not for what; None if it compared none."""
        if all(value is None or value is TEXT for value in self.values):
            return None
        calls = {
            id(ballot): result.number
            for ballot, result in zip(self.ballots, self.results, strict=True)
        }
        pairs = zip(self.results, self.values, strict=True)
        silent = [each for each, value in pairs if value is None and each.state not in _UNHEARD]
        return {
            "confidence": round(self.verdict.confidence, _DIGITS),
            "none": round(self.verdict.none, _DIGITS),
            "groups": [
                {
                    "posterior": round(each.posterior, _DIGITS),
                    "ballots": [
                        self._told(ballot, calls[id(ballot)]) for ballot in each.group.ballots
                    ],
                }
                for each in self.verdict.groups
            ],
            "silent": [each.number for each in silent if each.number is not None],
        }

    def _told(self, ballot: Ballot[Value], call: int | None) -> dict[str, Any]:
        voter = self.electorate[ballot.member]
        weight = round(voter.says(ballot.features) * ballot.share, _DIGITS)
        return {"call": call, "model": ballot.member, "weight": weight, "votes": voter.votes}

    @property
    def comparable(self) -> bool:
        """Whether answers are compared by what they say."""
        return self.contract is not None and self.contract.comparable

    @property
    def silent(self) -> int:
        """How many said nothing that counts; not those that were not let finish."""
        pairs = zip(self.results, self.values, strict=True)
        return sum(value is None and result.state not in _UNHEARD for result, value in pairs)

    @property
    def unanimous(self) -> bool:
        """Whether two at least have spoken, all of them the same, and nobody was silent."""
        said = [value for value in self.values if value is not None]
        return self.verdict.unanimous and len(said) > 1 and TEXT not in said and not self.silent

    def place(self, value: Value | None) -> int | None:
        """Where the group with this value stands in the verdict; None for a value that nobody gave."""
        for at, scored in enumerate(self.verdict.groups):
            if any(self._is(value, ballot.value) for ballot in scored.group.ballots):
                return at
        return None

    def _is(self, one: Value | None, other: Value | None) -> bool:
        return one is not None and other is not None and self.same(one, other)

    def is_text(self, result: Result) -> bool:
        """Whether an answer is text that nothing compares."""
        pairs = zip(self.results, self.values, strict=True)
        return any(each is result and value is TEXT for each, value in pairs)

    def probability(self, value: Value | None) -> float | None:
        """How probably a value is right; None for one that nobody gave, and for free text."""
        place = None if value is TEXT else self.place(value)
        return None if place is None else self.verdict.groups[place].posterior

    def weigh(self, text: str) -> float | None:
        """How probably a text is right by what it says, whoever wrote it."""
        return self.probability(self._said(text))

    def contradicts(self, text: str) -> bool:
        """Whether a text says what nobody of the team does, although the team is sure."""
        sure = self.verdict.confidence >= _SURE
        return sure and self.comparable and self.place(self._said(text)) is None

    def _said(self, text: str) -> Value | None:
        value = canonical(self.contract, text)
        return TEXT if isinstance(value, Free) else value

    def voices(self) -> list[list[Result]]:
        """The groups, and behind them each text that was cut before it said anything that counts."""
        counted = {id(each) for group in self.groups() for each in group}
        cut = [each for each in self.results if each.is_cut and id(each) not in counted]
        return [*self.groups(), *([each] for each in sorted(cut, key=self._rank))]

    def groups(self) -> Iterator[list[Result]]:
        """The answers by what they say, the leading group first and in each the best-rated first, those last that were
        cut.

        Each free text is a group of its own, the one that the others are most like first.
        """
        return iter(self._groups)

    @cached_property
    def _groups(self) -> list[list[Result]]:
        grouped: list[list[Result]] = [[] for _ in self.verdict.groups]
        pairs = zip(self.results, self.values, strict=True)
        for result, value in sorted(pairs, key=lambda pair: self._rank(pair[0])):
            if (place := self.place(value)) is not None:
                grouped[place].append(result)
        texts = self.place(TEXT)
        if texts is not None:
            grouped[texts : texts + 1] = ([each] for each in self._by_likeness(grouped[texts]))
        return grouped

    def _rank(self, result: Result) -> tuple[bool, float, int]:
        return (result.is_cut, *self.electorate.rank(result.model.name))

    def ranked(self) -> list[Result]:
        """All usable results, best first: those that count by their groups, then the rest, whole ones first."""
        counted = [result for group in self.groups() for result in group]
        known = {id(each) for each in counted}
        rest = [each for each in self.results if each.state == "ok" and id(each) not in known]
        rest.sort(key=self._rank)
        return [*counted, *rest]

    def _by_likeness(self, results: list[Result]) -> list[Result]:
        """The one that the others are most like first, the rest as they are. Who does not vote counts here neither."""
        voters = [(each, self.electorate[each.model.name]) for each in results]
        deciding = [(each, voter) for each, voter in voters if voter.votes] or voters
        if not deciding:
            return []
        texts = [Text(each.text, voter.weight, voter.rating) for each, voter in deciding]
        best = deciding[medoid(texts)][0]
        return [best, *(each for each in results if each is not best)]


class Ballots:
    """Casts ballots for answers. What an answer says is read once, however often it is asked for.

    `asked` are the models that are asked in all: who is asked several times has as many shares of one vote.
    """

    def __init__(
        self,
        contract: Contract[Any] | None,
        asked: Sequence[str],
        about: About = nothing_more,
    ) -> None:
        self.same = same_by(contract)
        self.transitive = contract is None or contract.transitive
        self._contract = contract
        self._shares = {name: 1 / asked.count(name) for name in set(asked)}
        self._about = about
        self._cast: dict[int, tuple[Result, Ballot[Value]]] = {}

    def share(self, name: str) -> float:
        return self._shares.get(name, 1.0)

    def cast(self, result: Result) -> Ballot[Value]:
        """The ballot of an answer."""
        if id(result) not in self._cast:
            value = value_of(result, self._contract)
            name = result.model.name
            features = self._about(result, value, self._contract)
            ballot = Ballot(name, value, features, self.share(name))
            self._cast[id(result)] = result, ballot  # which keeps the id its own
        return self._cast[id(result)][1]
