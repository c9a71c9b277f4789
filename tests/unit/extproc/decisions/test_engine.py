import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.decisions.engine import Policy, fires
from extproc.decisions.recipe import Recipe
from extproc.signals import LocalSignal, Reading, Subject
from extproc.signals.read import Question, Signals
from extproc.signals.text import LONGEST_TEXT
from looper.wire.chat import ChatRequest

SINGLE = {"type": "single", "model": "m"}
ALWAYS = {"name": "always", "algorithm": SINGLE}


def decision(name: str, when: Any, **settings: Any) -> dict[str, Any]:
    return {"name": name, "when": when, "algorithm": SINGLE, **settings}


def policy(
    *decisions: dict[str, Any],
    signals: dict[str, str] | None = None,
    projections: dict[str, Any] | None = None,
) -> Policy:
    """A policy whose signals each look for one word, by default their own name."""
    words = signals or {name: name for name in ("a", "b", "c")}
    read = {name: {"type": "keyword", "any": [word]} for name, word in words.items()}
    recipe = {"signals": read, "projections": projections or {}, "decisions": list(decisions)}
    return Policy("p", Recipe.model_validate(recipe))


def subject_of(*messages: tuple[str, str]) -> Subject:
    body = {
        "model": "m",
        "messages": [{"role": role, "content": text} for role, text in messages],
    }
    return Subject(ChatRequest.parse(json.dumps(body).encode()))


async def decided(asked: Policy, text: str) -> str:
    return (await asked.decide(subject_of(("user", text)))).decision.name


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
        assert (await asked.decide(subject)).decision.name == "always"

    async def test_words_of_different_turns_count_together(self) -> None:
        """A decision is about the conversation, not about its last turn."""
        asked = policy(decision("first", {"all": ["a", "b"]}), ALWAYS)
        subject = subject_of(("user", "a"), ("assistant", "x"), ("user", "b"))
        assert (await asked.decide(subject)).decision.name == "first"

    async def test_a_word_does_not_reach_from_one_turn_into_the_next(self) -> None:
        """Turns are apart: the end of one and the beginning of the next make no word."""
        asked = policy(decision("first", "a"), ALWAYS, signals={"a": "ab"})
        assert (
            await asked.decide(subject_of(("user", "a"), ("user", "b")))
        ).decision.name == "always"

    @pytest.mark.parametrize(
        ("guard", "name"),
        [
            ({"on_unknown": "act"}, "guard"),
            ({"on_unknown": "skip"}, "used"),
            (None, "used"),
        ],
        ids=["act", "skip", "no-guard"],
    )
    async def test_what_was_not_read_makes_a_guard_unknown(
        self, guard: dict[str, Any] | None, name: str
    ) -> None:
        """Padding does not hide a word from a decision that answers by itself; for routing, the ends are enough."""
        respond = {"name": "guard", "when": "a", "respond": {"message": "No."}}
        guards = [] if guard is None else [{**respond, **guard}]
        asked = policy(*guards, decision("used", {"not": "b"}), ALWAYS)
        padding = "x " * LONGEST_TEXT
        assert await decided(asked, f"{padding}a{padding}") == name
        if guard is not None:
            assert await decided(asked, f"a {padding}") == "guard"

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
        self.texts.append(subject.user.folded)
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


class Broken:
    """A signal that cannot be read."""

    def read(self, subject: Subject) -> Reading:
        raise RuntimeError


class TestUnknown:
    @pytest.mark.parametrize(
        ("on_unknown", "name"), [(None, "always"), ("skip", "always"), ("act", "guard")]
    )
    @pytest.mark.parametrize("when", ["a", {"not": "a"}], ids=["plain", "negated"])
    async def test_a_guard_says_what_happens_then(
        self, when: Any, on_unknown: str | None, name: str
    ) -> None:
        """A decision that hangs on a reading which is missing fires only if it says so, negated or not."""
        asked = policy(decision("guard", when, on_unknown=on_unknown), ALWAYS)
        asked.signals = Signals(local=(Question("a", Broken()),))
        assert await decided(asked, "a") == name

    async def test_what_is_known_is_not_unknown(self) -> None:
        """`act` is for want of a reading, not for one that says no."""
        asked = policy(decision("guard", "a", on_unknown="act"), ALWAYS)
        assert await decided(asked, "x") == "always"


class TestShadow:
    async def test_it_is_counted_and_the_next_answers(self) -> None:
        """A decision on trial changes nothing for clients, and is seen in metadata and log."""
        asked = policy(decision("trial", "a", shadow=True), decision("first", "a"), ALWAYS)
        found = await asked.decide(subject_of(("user", "a")))
        assert found.decision.name == "first"
        assert found.facts["shadow.trial"] == 1

    @pytest.mark.parametrize(
        "trial",
        [
            pytest.param(decision("trial", "b", shadow=True), id="does-not-hold"),
            pytest.param(decision("trial", "a", shadow=True, priority=-1), id="would-not-answer"),
            pytest.param(decision("trial", "a", shadow=True, percent=0), id="for-nobody"),
        ],
    )
    async def test_only_what_would_have_answered_is_counted(self, trial: dict[str, Any]) -> None:
        """Behind a decision that answers, or without its rule, it would have done nothing."""
        asked = policy(trial, decision("first", "a"), ALWAYS)
        found = await asked.decide(subject_of(("user", "a")))
        assert (found.decision.name, found.shadows) == ("first", ())

    async def test_one_without_a_rule_is_no_end(self) -> None:
        """An unconditional decision on trial lets every other one be reached."""
        trial = {**ALWAYS, "name": "trial", "shadow": True, "priority": 9}
        asked = policy(trial, decision("first", "a"), ALWAYS)
        assert await decided(asked, "a") == "first"


class TestPercent:
    CONVERSATIONS = 2000

    async def taken(self, percent: float, name: str = "trial") -> set[int]:
        asked = policy(decision(name, None, percent=percent), ALWAYS)
        return {
            number
            for number in range(self.CONVERSATIONS)
            if await decided(asked, f"question {number}") == name
        }

    @pytest.mark.parametrize("percent", [0, 1, 10, 50, 100])
    async def test_it_takes_its_part_of_conversations(self, percent: float) -> None:
        """As near as chance lets it: within four standard deviations."""
        share = percent / 100
        spread = 4 * (self.CONVERSATIONS * share * (1 - share)) ** 0.5
        assert abs(len(await self.taken(percent)) - self.CONVERSATIONS * share) <= spread

    async def test_more_percent_takes_the_same_and_more(self) -> None:
        """Raising it moves no conversation back."""
        few, many = await self.taken(10), await self.taken(40)
        assert few < many

    async def test_decisions_take_independently(self) -> None:
        """Two trials of a half each do not always meet the same conversations."""
        one, other = await self.taken(50), await self.taken(50, "other")
        assert 0.4 < len(one & other) / len(one) < 0.6

    async def test_a_conversation_stays(self) -> None:
        """Its later turns go where its first one went."""
        asked = policy(decision("trial", None, percent=50), ALWAYS)
        for number in range(50):
            first = [("system", "s"), ("user", f"question {number}")]
            later = [*first, ("assistant", "well"), ("user", f"and {number * 7}")]
            ends = [(await asked.decide(subject_of(*turns))).decision for turns in (first, later)]
            assert ends[0] == ends[1]


class TestFacts:
    async def test_they_say_the_decision_and_what_led_to_it(self) -> None:
        """Bands and shapes by the names of their projections; what nobody could tell is unknown."""
        projections = {
            "task": {"type": "partition", "members": ["b"], "default": "chat"},
            "level": {"type": "score", "weights": {"b": 1}, "bands": [{"low": 0.5}, {"high": 1}]},
            "blind": {"type": "score", "weights": {"a": 1}, "bands": [{"low": 0.5}, {"high": 1}]},
        }
        rule = {"any": ["blind.high", "level.high", "task.chat"]}
        asked = policy(decision("first", rule), ALWAYS, projections=projections)
        broken = (Question[LocalSignal]("a", Broken()), *asked.signals.local[1:])
        asked.signals = Signals(local=broken)
        assert (await asked.decide(subject_of(("user", "b")))).facts == {
            "decision": "first",
            "recipe": "p",
            "algorithm": "single",
            "band.blind": "unknown",
            "band.level": "high",
            "shape.task": "b",
        }


async def test_a_projection_that_only_an_algorithm_asks_for_is_made() -> None:
    """The category of a vote's weights need not stand in any rule."""
    team = {"type": "ratings", "models": ["m", "n"], "category": "task"}
    projections = {"task": {"type": "partition", "members": ["b"], "default": "chat"}}
    asked = policy({"name": "all", "algorithm": team}, projections=projections)
    assert (await asked.decide(subject_of(("user", "b")))).bands == {"task": "b"}


@st.composite
def policies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Decisions of any priority, on trial or not, that hang on any of three signals."""
    rules = st.sampled_from(["a", "b", "c", {"not": "a"}, {"all": ["a", "b"]}, {"any": ["b", "c"]}])
    settings = st.fixed_dictionaries(
        {
            "when": rules,
            "priority": st.integers(-1, 1),
            "shadow": st.booleans(),
            "percent": st.sampled_from([0, 30, 100]),
            "on_unknown": st.sampled_from([None, "act", "skip"]),
        }
    )
    drawn = draw(st.lists(settings, max_size=6))
    return [decision(f"d{at}", **each) for at, each in enumerate(drawn)]


class TestOrder:
    @settings(deadline=None, max_examples=200)
    @given(
        policies(),
        st.sets(st.sampled_from("abc")),
        st.sets(st.sampled_from("abc")),
        st.text(max_size=3),
    )
    def test_it_is_total_and_each_request_has_one_decision(
        self, decisions: list[dict[str, Any]], matching: set[str], missing: set[str], text: str
    ) -> None:
        """The highest of those that fire, the first declared of equals; the same every time it is asked."""
        asked = policy(*decisions, {**ALWAYS, "priority": -2})
        subject = subject_of(("user", text))
        readings = {
            name: Reading(match=name in matching, score=1.0)
            for name in asked.signals.names
            if name not in missing
        }
        found = asked.judge(subject, readings)
        truths = found.projected.truths
        firing = [each for each in asked.decisions if fires(each, truths, subject)]
        acting = [each for each in firing if not each.shadow]
        declared = [each["name"] for each in [*decisions, ALWAYS]]
        best = min(acting, key=lambda each: (-each.priority, declared.index(each.name)))
        assert found.decision == best
        assert [each.name for each in found.shadows] == [
            each.name for each in firing[: firing.index(best)]
        ]
        assert found == policy(*decisions, {**ALWAYS, "priority": -2}).judge(subject, readings)
