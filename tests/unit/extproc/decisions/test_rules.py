from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from extproc.decisions.rules import All, Any_, Not, Rule, entails, holds, implied, names

thorough = settings(deadline=None, max_examples=200)
AnyRule = str | All | Any_ | Not


def negated(rule: AnyRule) -> Not:
    return Not.model_validate({"not": rule})


NAMES = ["a", "b", "c"]
rules: st.SearchStrategy[AnyRule] = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: All(all=tuple(parts)))
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: Any_(any=tuple(parts)))
        | inner.map(negated)
    ),
    max_leaves=6,
)
# What each signal says: yes, no, or nothing.
facts = st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in NAMES})
Facts = Mapping[str, bool | None]


def evaluate(rule: AnyRule, known: Facts) -> bool | None:
    return holds(rule, known)


def all_of(*parts: AnyRule) -> All:
    return All(all=parts)


def any_of(*parts: AnyRule) -> Any_:
    return Any_(any=parts)


T, F, U = True, False, None
TABLE = {
    "true-true": (T, T, T, T), "true-false": (T, F, F, T), "true-unknown": (T, U, U, T),
    "false-false": (F, F, F, F), "false-unknown": (F, U, F, U), "unknown-unknown": (U, U, U, U),
}  # fmt: skip
table = pytest.mark.parametrize(("a", "b", "both", "either"), TABLE.values(), ids=list(TABLE))


class TestTruth:
    @table
    def test_all(self, a: Any, b: Any, both: Any, either: Any) -> None:
        """One that does not hold is enough; else one that is unknown leaves it open."""
        assert evaluate(all_of("a", "b"), {"a": a, "b": b}) is both
        assert evaluate(all_of("b", "a"), {"a": a, "b": b}) is both

    @table
    def test_any(self, a: Any, b: Any, both: Any, either: Any) -> None:
        """One that holds is enough; else one that is unknown leaves it open."""
        assert evaluate(any_of("a", "b"), {"a": a, "b": b}) is either
        assert evaluate(any_of("b", "a"), {"a": a, "b": b}) is either

    @pytest.mark.parametrize(
        ("a", "other"), [(T, F), (F, T), (U, U)], ids=["true", "false", "unknown"]
    )
    def test_not(self, a: Any, other: Any) -> None:
        """Turns yes and no around; what is unknown stays so."""
        assert evaluate(negated("a"), {"a": a}) is other

    def test_a_missing_reading_never_fires_negated_or_not(self) -> None:
        """ "Not an attack" is no conclusion from a guard that did not answer."""
        assert not evaluate("a", {})
        assert not evaluate(negated("a"), {})
        assert not evaluate(negated(negated("a")), {})


class TestLaws:
    @thorough
    @given(rules, facts)
    def test_double_negation(self, rule: AnyRule, known: Facts) -> None:
        """Not not is nothing."""
        assert evaluate(negated(negated(rule)), known) is evaluate(rule, known)

    @thorough
    @given(rules, rules, facts)
    def test_de_morgan(self, a: AnyRule, b: AnyRule, known: Facts) -> None:
        """Not all is any not, and not any is all not."""
        assert evaluate(negated(all_of(a, b)), known) is evaluate(
            any_of(negated(a), negated(b)), known
        )
        assert evaluate(negated(any_of(a, b)), known) is evaluate(
            all_of(negated(a), negated(b)), known
        )

    @thorough
    @given(st.lists(rules, min_size=1, max_size=4), st.randoms(), facts)
    def test_order_does_not_matter(self, parts: list[AnyRule], random: Any, known: Facts) -> None:
        """How an operator sorts the parts of a rule changes nothing."""
        shuffled = random.sample(parts, len(parts))
        for rule in (all_of, any_of):
            assert evaluate(rule(*parts), known) is evaluate(rule(*shuffled), known)

    @thorough
    @given(rules, rules, rules, facts)
    def test_all_and_any_are_associative_and_distribute(
        self, a: AnyRule, b: AnyRule, c: AnyRule, known: Facts
    ) -> None:
        """How parts are nested changes nothing."""
        for one, other in ((all_of, any_of), (any_of, all_of)):
            assert evaluate(one(a, one(b, c)), known) is evaluate(one(a, b, c), known)
            assert evaluate(one(a, other(b, c)), known) is evaluate(
                other(one(a, b), one(a, c)), known
            )

    @thorough
    @given(rules, facts)
    def test_repetition_and_absorption(self, rule: AnyRule, known: Facts) -> None:
        """To say a thing twice is to say it once."""
        value = evaluate(rule, known)
        assert evaluate(all_of(rule, rule), known) is value
        assert evaluate(any_of(rule, rule), known) is value
        assert evaluate(all_of(rule, any_of(rule, "a")), known) is value

    @thorough
    @given(rules, facts, st.sampled_from(NAMES), st.booleans())
    def test_more_knowledge_never_changes_a_verdict(
        self, rule: AnyRule, known: Facts, name: str, answer: bool
    ) -> None:
        """What holds, or does not, while a signal is missing stays so whatever that signal says in the end."""
        before = evaluate(rule, {**known, name: None})
        if before is not None:
            assert evaluate(rule, {**known, name: answer}) is before

    @thorough
    @given(rules, st.fixed_dictionaries({name: st.booleans() for name in NAMES}))
    def test_with_all_readings_there_is_a_verdict(
        self, rule: AnyRule, known: dict[str, bool]
    ) -> None:
        """Only what is missing can leave a rule open."""
        assert evaluate(rule, known) is not None


class TestNames:
    def test_have_their_place_below_the_rule(self) -> None:
        """A name that refers to nothing can be reported where it stands."""
        rule = all_of("a", any_of("b", negated("c")))
        assert list(names(rule)) == [
            (("all", 0), "a"), (("all", 1, "any", 0), "b"), (("all", 1, "any", 1, "not"), "c"),
        ]  # fmt: skip

    def test_of_a_bare_name_is_the_rule_itself(self) -> None:
        """The simplest rule is a name."""
        assert list(names("a")) == [((), "a")]

    @thorough
    @given(rules)
    def test_are_all_that_a_rule_hangs_on(self, rule: AnyRule) -> None:
        """What a rule does not name makes no difference to it."""
        named = {name for _, name in names(rule)}
        everything: dict[str, bool | None] = dict.fromkeys(NAMES, True)
        only = dict.fromkeys(named, True)
        assert evaluate(rule, everything) is evaluate(rule, only)


written: TypeAdapter[AnyRule] = TypeAdapter(Rule)


class TestWritten:
    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            pytest.param("a", "a", id="name"),
            pytest.param({"all": ["a", "b"]}, all_of("a", "b"), id="all"),
            pytest.param({"any": ["a"]}, any_of("a"), id="any"),
            pytest.param({"not": "a"}, negated("a"), id="not"),
            pytest.param({"not": {"any": ["a", {"not": "b"}]}}, negated(any_of("a", negated("b"))), id="nested"),
        ],
    )  # fmt: skip
    def test_reads_as_it_is_meant(self, text: Any, rule: AnyRule) -> None:
        """A name, or a mapping with one of three keys."""
        assert written.validate_python(text) == rule

    @pytest.mark.parametrize(
        "text",
        [
            {"al": ["a"]}, {}, {"all": []}, {"all": "a"}, {"any": [["a"]]}, {"all": ["a"], "any": ["b"]},
            {"not": ["a"]}, {"not": None}, ["a"], 5, True, None, {"all": [5]}, {"all": [None]}, {"any": [{}]},
        ],
        ids=repr,
    )  # fmt: skip
    def test_anything_else_is_a_mistake(self, text: Any) -> None:
        """What is no rule is refused as configuration is, never with a crash."""
        with pytest.raises(ValidationError):
            written.validate_python(text)


class TestEntailment:
    @thorough
    @given(rules, rules, facts)
    def test_it_is_never_wrong(self, rule: AnyRule, other: AnyRule, known: Facts) -> None:
        """Where one rule holds, all that it entails holds, and every name that it implies."""
        if evaluate(rule, known) is True:
            assert not entails(rule, other) or evaluate(other, known) is True
            assert all(known[name] is True for name in implied(rule))

    @pytest.mark.parametrize(
        ("rule", "other"),
        [
            pytest.param("a", "a", id="itself"),
            pytest.param(all_of("a", "b"), "b", id="part-of-all"),
            pytest.param(all_of("a", "b"), all_of("b", "a"), id="in-another-order"),
            pytest.param("a", any_of("b", "a"), id="one-of-any"),
            pytest.param(any_of("a", "b"), any_of("c", "b", "a"), id="more-of-any"),
            pytest.param(all_of("c", any_of("a", "b")), any_of("b", "a"), id="inside"),
            pytest.param(all_of("a", negated("b")), negated("b"), id="not"),
        ],
    )
    def test_what_is_plain_to_see_is_seen(self, rule: AnyRule, other: AnyRule) -> None:
        """And not the other way round, unless both say the same."""
        assert entails(rule, other)

    @pytest.mark.parametrize(
        ("rule", "other"),
        [
            pytest.param("a", "b", id="another"),
            pytest.param("a", all_of("a", "b"), id="more"),
            pytest.param(any_of("a", "b"), "a", id="perhaps-another"),
            pytest.param(negated("a"), "a", id="opposite"),
        ],
    )
    def test_what_need_not_hold_is_not_entailed(self, rule: AnyRule, other: AnyRule) -> None:
        """There are facts for which only the first holds."""
        assert not entails(rule, other)
