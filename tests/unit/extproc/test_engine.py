import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from extproc.decisions.engine import Policy
from extproc.decisions.recipe import Recipe
from extproc.signals import Reading, Subject
from extproc.signals.read import Question, Signals
from looper.chat import ChatRequest

SINGLE = {"type": "single", "model": "m"}
ALWAYS = {"name": "always", "algorithm": SINGLE}


def decision(name: str, when: Any, **settings: Any) -> dict[str, Any]:
    return {"name": name, "when": when, "algorithm": SINGLE, **settings}


def policy(*decisions: dict[str, Any], signals: dict[str, str] | None = None) -> Policy:
    """A policy whose signals each look for one word, by default their own name."""
    words = signals or {name: name for name in ("a", "b", "c")}
    read = {name: {"type": "keyword", "any": [word]} for name, word in words.items()}
    return Policy("p", Recipe.model_validate({"signals": read, "decisions": list(decisions)}))


def subject_of(*messages: tuple[str, str]) -> Subject:
    body = {
        "model": "m",
        "messages": [{"role": role, "content": text} for role, text in messages],
    }
    return Subject(ChatRequest.parse(json.dumps(body).encode()))


async def decided(asked: Policy, text: str) -> str:
    return (await asked.decide(subject_of(("user", text)))).name


class TestDecide:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            pytest.param("a", "first", id="first"),
            pytest.param("b", "second", id="second"),
            pytest.param("a b", "first", id="the-first-that-holds"),
            pytest.param("x", "always", id="none-but-the-last"),
            pytest.param("", "always", id="no-text"),
        ],
    )
    async def test_takes_the_first_whose_rule_holds(self, text: str, name: str) -> None:
        """Decisions are tried in their order, and the last one always holds."""
        asked = policy(decision("first", "a"), decision("second", "b"), ALWAYS)
        assert await decided(asked, text) == name

    @pytest.mark.parametrize(
        ("priorities", "order"),
        [
            pytest.param((0, 0, 0), ["d0", "d1", "d2", "always"], id="equal-as-declared"),
            pytest.param((0, 5, 1), ["d1", "d2", "d0", "always"], id="higher-first"),
            pytest.param((1, 2, 2), ["d1", "d2", "d0", "always"], id="equal-among-higher"),
            pytest.param((0, -1, 0), ["d0", "d2", "always"], id="below-the-last-is-out-of-reach"),
        ],
    )
    def test_higher_priority_comes_first_then_the_order_of_the_file(
        self, priorities: tuple[int, ...], order: list[str]
    ) -> None:
        """What has no priority has 0, and what stands behind an unconditional decision is left out."""
        decisions = [
            decision(f"d{at}", "a", priority=priority) for at, priority in enumerate(priorities)
        ]
        ranked = policy(*decisions, ALWAYS).decisions
        assert [each.name for each in ranked] == order

    async def test_an_unconditional_decision_of_high_priority_answers_for_all(self) -> None:
        """An operator may put everything on hold with one line."""
        asked = policy(decision("first", "a"), {**ALWAYS, "priority": 9}, {**ALWAYS, "name": "z"})
        assert await decided(asked, "a") == "always"
        assert len(asked.decisions) == 1

    async def test_only_the_users_words_count(self) -> None:
        """What others said in the conversation is read by no signal."""
        asked = policy(decision("first", "a"), ALWAYS)
        subject = subject_of(("system", "a"), ("user", "x"), ("assistant", "a"))
        assert (await asked.decide(subject)).name == "always"

    async def test_words_of_different_turns_count_together(self) -> None:
        """A decision is about the conversation, not about its last turn."""
        asked = policy(decision("first", {"all": ["a", "b"]}), ALWAYS)
        subject = subject_of(("user", "a"), ("assistant", "x"), ("user", "b"))
        assert (await asked.decide(subject)).name == "first"

    async def test_a_word_does_not_reach_from_one_turn_into_the_next(self) -> None:
        """Turns are apart: the end of one and the beginning of the next make no word."""
        asked = policy(decision("first", "a"), ALWAYS, signals={"a": "ab"})
        assert (await asked.decide(subject_of(("user", "a"), ("user", "b")))).name == "always"

    async def test_case_does_not_matter(self) -> None:
        """Text is folded once, for all signals."""
        asked = policy(decision("first", "a"), ALWAYS, signals={"a": "Prove"})
        assert await decided(asked, "PROVE it") == "first"


@dataclass
class Counted:
    """A signal that counts how often it is asked."""

    match: bool = True
    texts: list[str] = field(default_factory=list)

    def read(self, subject: Subject) -> Reading:
        self.texts.append(subject.text)
        return Reading(match=self.match, score=float(self.match))


class TestRead:
    async def test_only_signals_that_a_decision_needs_are_there(self) -> None:
        """What nothing hangs on is never asked."""
        asked = policy(decision("first", {"any": ["a", {"not": "c"}]}), ALWAYS)
        assert set(asked.signals.names) == {"a", "c"}
        assert set(await asked.read(subject_of(("user", "x")))) == {"a", "c"}

    def test_signals_of_decisions_out_of_reach_are_not_needed(self) -> None:
        """Nothing behind an unconditional decision is asked for its sake."""
        late = decision("late", "b", priority=-1)
        asked = policy(decision("first", "a"), late, ALWAYS)
        assert set(asked.signals.names) == {"a"}

    async def test_without_signals_nothing_is_read(self) -> None:
        """A recipe that decides nothing does not look at the text."""
        assert await policy(ALWAYS).read(subject_of(("user", "a"))) == {}

    async def test_each_signal_is_asked_once_with_the_folded_text(self) -> None:
        """However many rules name it, and for one request."""
        asked = policy(decision("first", "a"), decision("second", {"all": ["a", "a"]}), ALWAYS)
        counted = Counted(match=False)
        asked.signals = Signals(local=(Question("a", counted),))
        await asked.decide(subject_of(("user", "STRASSE"), ("user", "Straße")))
        assert counted.texts == ["strasse\nstrasse"]
