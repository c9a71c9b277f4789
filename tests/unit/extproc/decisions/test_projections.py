"""Partitions, scores and bands: from readings to what rules can name."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from extproc.decisions.namespace import Namespace
from extproc.decisions.projections import (
    Level,
    Projected,
    ProjectionConfig,
    Projections,
    ScoreConfig,
    band_of,
)
from extproc.decisions.rules import AnyRule, Not, holds
from extproc.signals import KeywordConfig, LanguageConfig, SignalConfig
from extproc.signals.base import Reading

thorough = settings(deadline=None, max_examples=200)
written: TypeAdapter[Any] = TypeAdapter(ProjectionConfig)
SIGNALS = {name: KeywordConfig(type="keyword", any=(name,)) for name in ("a", "b", "c", "d")}
YES, NO = Reading(match=True, score=1.0), Reading(match=False, score=0.0)


def namespace(**projections: Mapping[str, Any]) -> Namespace:
    return Namespace(
        SIGNALS, {name: written.validate_python(each) for name, each in projections.items()}
    )


def built(*wanted: str, **projections: Mapping[str, Any]) -> Projections:
    """The projections that are needed for the names that are wanted."""
    return namespace(**projections).build(wanted)[0]


def readings(**known: bool | None) -> Mapping[str, Reading]:
    return {
        name: Reading(match=match, score=float(match))
        for name, match in known.items()
        if match is not None
    }


def scored(**scores: float) -> Mapping[str, Reading]:
    return {name: Reading(match=score > 0, score=score) for name, score in scores.items()}


class TestPriority:
    TASK: Mapping[str, Any] = {"type": "partition", "members": ["a", "b", "c"], "default": "chat"}

    def project(self, **known: bool | None) -> Projected:
        return built("task.a", task=self.TASK).project(readings(**known))

    @pytest.mark.parametrize(
        ("known", "winner"),
        [
            pytest.param({"a": True, "b": True, "c": True}, "a", id="the-first"),
            pytest.param({"a": False, "b": True, "c": True}, "b", id="the-first-that-holds"),
            pytest.param({"a": False, "b": False, "c": False}, "chat", id="none"),
            pytest.param({"a": True, "b": None, "c": None}, "a", id="unknown-but-too-late"),
            pytest.param({"a": None, "b": True, "c": False}, "chat", id="unknown-may-have-won"),
            pytest.param({"a": False, "b": None, "c": True}, "chat", id="unknown-in-the-middle"),
            pytest.param({}, "chat", id="nothing-known"),
        ],
    )
    def test_one_of_them_wins(self, known: dict[str, bool | None], winner: str) -> None:
        """The first member that holds; the default if none does, or if one that is unknown may have."""
        projected = self.project(**known)
        assert projected.shapes["task"].winner == winner
        assert projected.truths[f"task.{winner}"] is True

    def test_the_others_are_ruled_out(self) -> None:
        """Members exclude each other, the default among them."""
        truths = self.project(a=False, b=True, c=True).truths
        assert [truths[f"task.{each}"] for each in ("a", "b", "c", "chat")] == [F, T, F, F]

    def test_the_default_for_want_of_a_reading_rules_out_only_what_is_known(self) -> None:
        """Neither a member that is unknown nor its negation fires anything."""
        truths = self.project(a=False, b=None, c=True).truths
        assert [truths[f"task.{each}"] for each in ("a", "b", "c", "chat")] == [F, None, None, T]

    def test_a_member_may_hang_on_a_rule(self) -> None:
        """A shape is what several signals say together."""
        task = {
            "type": "partition",
            "members": {"both": {"all": ["a", "b"]}, "odd": {"any": ["a", {"not": "b"}]}},
            "default": "rest",
        }
        made = built("task.both", task=task)
        winners = [
            made.project(readings(a=a, b=b)).shapes["task"].winner
            for a, b in [(True, True), (True, False), (False, True)]
        ]
        assert winners == ["both", "odd", "rest"]

    def test_the_default_may_be_a_member(self) -> None:
        """What nothing speaks for may be treated as one of the shapes."""
        made = built("task.a", task={**self.TASK, "default": "b"})
        projected = made.project(readings(a=False, b=False, c=False))
        assert projected.shapes["task"].winner == "b"
        assert projected.truths == {"a": F, "b": F, "c": F, "task.a": F, "task.b": T, "task.c": F}


class TestSoftmax:
    TASK: Mapping[str, Any] = {
        "type": "partition", "members": ["a", "b"], "default": "chat", "semantics": "softmax",
        "temperature": 0.1,
    }  # fmt: skip

    def winner(self, known: Mapping[str, Reading], **changes: Any) -> str:
        return built("task.a", task={**self.TASK, **changes}).project(known).shapes["task"].winner

    @pytest.mark.parametrize(
        ("a", "b", "winner"),
        [
            pytest.param(0.9, 0.2, "a", id="the-greater"),
            pytest.param(0.2, 0.9, "b", id="whatever-the-order"),
            pytest.param(0.5, 0.5, "a", id="a-tie-goes-by-order"),
            pytest.param(0.0, 0.3, "b", id="one-does-not-hold"),
            pytest.param(0.0, 0.0, "chat", id="none-holds"),
        ],
    )
    def test_the_greatest_share_wins(self, a: float, b: float, winner: str) -> None:
        """Among the members that hold, the best score; the first of equals."""
        assert self.winner(scored(a=a, b=b)) == winner

    def test_a_share_may_be_too_small(self) -> None:
        """Where the best is hardly better than the next, nobody wins."""
        assert self.winner(scored(a=0.6, b=0.5), at_least=0.9) == "chat"
        assert self.winner(scored(a=0.6, b=0.5), at_least=0.7) == "a"
        assert self.winner(scored(a=0.5, b=0.5), at_least=0.5) == "a"

    def test_without_all_readings_there_are_no_shares(self) -> None:
        """Shares are of a whole: one that is missing may have been the greatest."""
        assert self.winner(scored(a=0.9)) == "chat"

    @thorough
    @given(
        st.lists(st.floats(0, 1), min_size=2, max_size=2),
        st.floats(min_value=1e-300, max_value=1e3),
    )
    def test_shares_add_up(self, values: list[float], temperature: float) -> None:
        """To 1, however hot or cold."""
        known = scored(a=values[0], b=values[1])
        made = built("task.a", task={**self.TASK, "temperature": temperature}).project(known)
        shares = made.shapes["task"].shares
        assert shares is not None
        assert math.isclose(math.fsum(shares.values()), 1)


T, F = True, False
BANDS = [{"easy": 0.35}, {"medium": 0.65}, {"hard": 1}]


class TestScore:
    def level(self, known: Mapping[str, Reading], **settings: Any) -> Level:
        config = {"type": "score", "bands": BANDS, **settings}
        return built("level.easy", level=config).project(known).levels["level"]

    @pytest.mark.parametrize(
        ("known", "value", "band"),
        [
            pytest.param({"a": F, "b": F, "c": F}, 0.0, "easy", id="nothing"),
            pytest.param({"a": T, "b": F, "c": F}, 0.5, "medium", id="one"),
            pytest.param({"a": T, "b": T, "c": F}, 0.8, "hard", id="two"),
            pytest.param({"a": T, "b": T, "c": T}, 1.0, "hard", id="all-of-it"),
        ],
    )
    def test_weights_of_what_matches_are_added_up(
        self, known: dict[str, bool], value: float, band: str
    ) -> None:
        """By default a match counts in full and anything else not at all."""
        level = self.level(readings(**known), weights={"a": 0.5, "b": 0.3, "c": 0.2})
        assert (level.value, level.band) == (value, band)

    def test_each_contribution_is_kept(self) -> None:
        """For whoever asks why."""
        level = self.level(readings(a=T, b=F, c=None), weights={"a": 0.5, "b": 0.3, "c": 0.2})
        assert level == Level(None, None, {"a": 0.5, "b": 0.0, "c": None})

    def test_what_is_missing_may_count_as_nothing(self) -> None:
        """If the operator says so; otherwise the score is unknown, and so is each of its bands."""
        weights = {"a": 0.5, "b": 0.5}
        assert self.level(readings(a=T), weights=weights, missing=0).band == "medium"
        config = {"type": "score", "bands": BANDS, "weights": weights}
        truths = built("level.easy", level=config).project(readings(a=T)).truths
        assert {truths[f"level.{band}"] for band in ("easy", "medium", "hard")} == {None}

    @pytest.mark.parametrize(
        ("weights", "value"),
        [
            pytest.param({"a": 5}, 1.0, id="above"),
            pytest.param({"a": -5}, 0.0, id="below"),
            pytest.param({"a": 1000, "b": -1000}, 0.0, id="both"),
        ],
    )
    def test_a_sum_is_clamped(self, weights: dict[str, float], value: float) -> None:
        """What is added up may leave 0 to 1, a score never does."""
        assert self.level(readings(a=T, b=T), weights=weights).value == value

    def test_a_score_or_a_value_may_count_instead(self) -> None:
        """A score as it is; a value in proportion, and no more than in full."""
        known = {
            "a": Reading(match=False, score=0.5),
            "b": Reading(match=True, score=1, value=4000),
        }
        level = self.level(
            known,
            weights={
                "a": {"weight": 0.4, "of": "score"},
                "b": {"weight": 0.4, "of": "value", "per": "16k"},
            },
        )
        assert level.contributions == {"a": 0.2, "b": 0.1}
        more = {**known, "b": Reading(match=True, score=1, value=1e9)}
        weights = {"b": {"weight": 0.4, "of": "value", "per": 16000}}
        assert self.level(more, weights=weights).value == 0.4

    def test_scores_feed_scores(self) -> None:
        """A score counts with its value, a band or a partition's member as a match."""
        made = built(
            "top.hard",
            low={"type": "score", "weights": {"a": 0.5}, "bands": BANDS},
            task={"type": "partition", "members": ["b"], "default": "chat"},
            top={
                "type": "score",
                "weights": {"low": 0.5, "low.medium": 0.25, "task.b": 0.5},
                "bands": BANDS,
            },
        )
        level = made.project(readings(a=T, b=T)).levels["top"]
        assert level.contributions == {"low": 0.25, "low.medium": 0.25, "task.b": 0.5}

    def test_rounding_never_moves_a_score_across_a_bound(self) -> None:
        """0.7 and 0.1 are 0.8 to whoever wrote them, and so the next band."""
        level = self.level(
            readings(a=T, b=T), weights={"a": 0.7, "b": 0.1}, bands=[{"low": 0.8}, {"high": 1}]
        )
        assert (level.value, level.band) == (0.8, "high")

    def test_only_what_is_wanted_is_made(self) -> None:
        """A projection that no rule hangs on costs nothing, and neither do its signals."""
        made, signals = namespace(
            used={"type": "score", "weights": {"a": 1}, "bands": BANDS},
            above={"type": "score", "weights": {"used": 1, "b": 1}, "bands": BANDS},
            other={"type": "score", "weights": {"c": 1}, "bands": BANDS},
        ).build(["above.hard", "d"])
        assert [step.name for step in made.steps] == ["used", "above"]
        assert signals == {"a", "b", "d"}


class TestBands:
    @thorough
    @given(
        st.lists(st.floats(0.001, 0.999), min_size=0, max_size=6, unique=True).map(sorted),
        st.floats(0, 1),
    )
    def test_every_value_is_in_exactly_one_band(self, bounds: list[float], value: float) -> None:
        """Bands cover 0 to 1 without gap or overlap: below its bound, and not below the one before."""
        named = [(f"b{at}", bound) for at, bound in enumerate([*bounds, 1.0])]
        config = ScoreConfig.model_validate(
            {"type": "score", "weights": {"a": 1}, "bands": [{n: b} for n, b in named]}
        )
        band = band_of(value, config.bounds)
        at = [name for name, _ in named].index(band)
        assert value < named[at][1] or value == 1
        assert at == 0 or value >= named[at - 1][1]

    @thorough
    @given(st.floats(0, 1), st.floats(0, 1))
    def test_more_is_never_a_lower_band(self, a: float, b: float) -> None:
        """Bands go up with the score."""
        bounds = [("x", 0.2), ("y", 0.5), ("z", 1.0)]
        order = [name for name, _ in bounds]
        low, high = sorted((a, b))
        assert order.index(band_of(low, bounds)) <= order.index(band_of(high, bounds))

    @pytest.mark.parametrize(
        ("bands", "problem"),
        [
            pytest.param([{"a": 0.5}], "must end at 1", id="a-gap-at-the-end"),
            pytest.param([{"a": 0.5}, {"b": 0.4}, {"c": 1}], "'b' ends at 0.4", id="disorder"),
            pytest.param([{"a": 0.5}, {"b": 0.5}, {"c": 1}], "'b' ends at 0.5", id="empty"),
            pytest.param([{"a": 0.5}, {"a": 1}], "named twice", id="a-name-twice"),
            pytest.param([{"a": 0.5, "b": 1}], "one name", id="two-in-one"),
            pytest.param([{}], "one name", id="none"),
            pytest.param([], "at least 1", id="no-band"),
            pytest.param([{"a": 0}, {"b": 1}], "greater than 0", id="nothing-below-zero"),
            pytest.param([{"a": 0.5}, {"b": 1.5}], "less than or equal to 1", id="beyond"),
            pytest.param([{"a": float("nan")}, {"b": 1}], "less than or", id="no-number"),
        ],
    )
    def test_gaps_and_disorder_are_mistakes(self, bands: Any, problem: str) -> None:
        """Whoever leaves a score without a band hears of it when the file is read."""
        with pytest.raises(ValidationError, match=problem):
            written.validate_python({"type": "score", "weights": {"a": 1}, "bands": bands})


class TestProblems:
    TASK: Mapping[str, Any] = {"type": "partition", "members": ["a"], "default": "chat"}
    LEVEL: Mapping[str, Any] = {"type": "score", "weights": {"a": 1}, "bands": BANDS}

    def problems(self, **projections: Mapping[str, Any]) -> list[tuple[str, str]]:
        found = namespace(**projections).problems()
        return [(".".join(map(str, path)), text) for path, text in found]

    def test_a_name_has_one_meaning(self) -> None:
        """A projection may not be called what a signal is called."""
        assert self.problems(a=self.TASK) == [("projections.a", "'a' is also the name of a signal")]

    @pytest.mark.parametrize(
        ("changes", "where", "text"),
        [
            pytest.param({"members": ["aa"]}, "task.members.aa", "did you mean 'a'?", id="signal"),
            pytest.param(
                {"members": {"x": {"not": "levl.easy"}}}, "task.members.x.not", "mean 'level.easy'?", id="band"
            ),
            pytest.param({"members": {"x": "level"}}, "task.members.x", "such as 'level.easy'", id="bare-score"),
            pytest.param({"members": {"x": "a.label"}}, "task.members.x", "unknown name 'a.label'", id="no-labels"),
            pytest.param(
                {"members": {"x": {"not": "a"}}, "semantics": "softmax"}, "task.members.x", "name a signal", id="rule"
            ),
            pytest.param(
                {"members": {"x": "level.easy"}, "semantics": "softmax"}, "task.members.x", "a signal", id="score"
            ),
        ],
    )  # fmt: skip
    def test_members(self, changes: Mapping[str, Any], where: str, text: str) -> None:
        """A name that refers to nothing is found, with what was probably meant."""
        found = self.problems(task={**self.TASK, **changes}, level=self.LEVEL)
        assert [path for path, _ in found] == [f"projections.{where}"]
        assert text in found[0][1]

    @pytest.mark.parametrize(
        ("weights", "text"),
        [
            pytest.param({"ab": 1}, "unknown signal 'ab'", id="signal"),
            pytest.param({"task": 1}, "such as 'task.a'", id="bare-partition"),
            pytest.param({"task.b": 1}, "did you mean 'task.a'?", id="member"),
            pytest.param({"low": {"weight": 1, "of": "score"}}, "leave out `of`", id="of-a-score"),
            pytest.param({"low.easy": {"weight": 1, "of": "score"}}, "only signals", id="of-a-band"),
        ],
    )  # fmt: skip
    def test_weights(self, weights: Mapping[str, Any], text: str) -> None:
        """The same goes for what a score adds up."""
        level = {**self.LEVEL, "weights": weights}
        ((path, problem),) = self.problems(task=self.TASK, low=self.LEVEL, level=level)
        assert path.startswith("projections.level.weights.")
        assert text in problem

    @pytest.mark.parametrize(
        "weights",
        [
            {"a": {"weight": 1, "of": "value"}},
            {"a": {"weight": 1, "per": 5}},
            {"a": {"weight": 1, "of": "value", "per": 0}},
            {"a": float("inf")}, {"a": float("nan")}, {"a": 1e9}, {"a": "x"}, {"a": None}, {},
        ],
        ids=repr,
    )  # fmt: skip
    def test_weights_that_mean_nothing(self, weights: Any) -> None:
        """A value has no measure of its own; and a weight is a number."""
        with pytest.raises(ValidationError):
            written.validate_python({**self.LEVEL, "weights": weights})

    def test_a_projection_cannot_hang_on_itself(self) -> None:
        """Whatever the way round."""
        found = self.problems(
            x={**self.LEVEL, "weights": {"y": 1}},
            y={**self.LEVEL, "weights": {"task.t": 1}},
            task={**self.TASK, "members": {"t": "x.easy"}},
        )
        assert len(found) == 1
        assert "hangs on itself" in found[0][1]
        assert all(f" {name}" in f" {found[0][1]}" for name in ("x", "y", "task"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"temperature": 2.0}, {"at_least": 0.5}, {"semantics": "softmax", "temperature": 0},
            {"members": []}, {"members": ["a", "a"]}, {"members": [{"all": ["a"]}]},
            {"members": {"x.y": "a"}}, {"default": None}, {"semantics": "exclusive"},
        ],
        ids=repr,
    )  # fmt: skip
    def test_partitions_that_mean_nothing(self, changes: Mapping[str, Any]) -> None:
        """What cannot be meant is refused."""
        with pytest.raises(ValidationError):
            written.validate_python({**self.TASK, **changes})


LABELLED: Mapping[str, SignalConfig] = {
    **SIGNALS,
    "lang": LanguageConfig(type="language", any=("de",)),
}


class TestLabels:
    """Of a signal that says more than yes or no, such as in which languages a text is written."""

    def project(
        self, name: str, *, labels: Mapping[str, float] | None, **projections: Any
    ) -> Projected:
        known = {} if labels is None else {"lang": Reading(match=True, score=1.0, labels=labels)}
        parsed_ = {each: written.validate_python(config) for each, config in projections.items()}
        made, _ = Namespace(LABELLED, parsed_).build([name])
        return made.project(known)

    @pytest.mark.parametrize(
        ("labels", "held"),
        [
            pytest.param({"de": 0.5}, True, id="half"),
            pytest.param({"de": 0.49, "en": 0.51}, False, id="less-than-half"),
            pytest.param({"en": 1.0}, False, id="another"),
            pytest.param(None, None, id="no-reading"),
        ],
    )
    def test_a_rule_can_name_one(
        self, labels: Mapping[str, float] | None, held: bool | None
    ) -> None:
        """It holds if the reading says more for it than against it."""
        assert self.project("lang.de", labels=labels).truths["lang.de"] is held

    @pytest.mark.parametrize(
        ("weight", "value"),
        [(0.5, 0.5), ({"weight": 0.5, "of": "score"}, 0.4)],
        ids=["match", "score"],
    )
    def test_a_score_can_add_one(self, weight: Any, value: float) -> None:
        """As a match, or with the part that it has."""
        config = {"type": "score", "weights": {"lang.de": weight}, "bands": BANDS}
        found = self.project("x.easy", labels={"de": 0.8}, x=config)
        assert found.levels["x"].value == value

    def test_labels_compete_by_softmax(self) -> None:
        """With their own scores."""
        task = {
            "type": "partition", "members": {"german": "lang.de", "english": "lang.en"},
            "default": "other", "semantics": "softmax", "temperature": 0.1,
        }  # fmt: skip
        found = self.project("task.german", labels={"de": 0.4, "en": 0.6}, task=task)
        assert found.shapes["task"].winner == "english"

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            pytest.param("lang.dd", "did you mean 'lang.", id="no-such-label"),
            pytest.param("a.de", "unknown name 'a.de'", id="a-signal-without-labels"),
            pytest.param("lang.de", None, id="known"),
        ],
    )
    def test_what_a_signal_cannot_say_is_a_mistake(self, name: str, problem: str | None) -> None:
        """Labels are known when the file is read."""
        found = Namespace(LABELLED, {}).problem(name)
        assert found is None if problem is None else problem in (found or "")

    def test_a_label_has_no_value(self) -> None:
        """Only readings as a whole have."""
        weights = {"lang.de": {"weight": 1, "of": "value", "per": 5}}
        config = written.validate_python({"type": "score", "weights": weights, "bands": BANDS})
        ((_, text),) = Namespace(LABELLED, {"x": config}).problems()
        assert "a label has a score" in text


# Kleene's laws over everything that a rule can name: signals, members and bands, of readings that may be missing.

EVERYTHING: Mapping[str, Mapping[str, Any]] = {
    "low": {"type": "score", "weights": {"a": 0.4, "b": 0.6}, "bands": BANDS},
    "task": {"type": "partition", "members": {"x": "a", "y": {"all": ["b", "c"]}}, "default": "z"},
    "top": {"type": "score", "weights": {"low": 0.5, "task.x": 0.3, "c": 0.2}, "bands": BANDS},
}
SURE = ["a", "b", "c", "low.easy", "low.medium", "low.hard"]
"""Names that only become more certain by more readings; a default, by contrast, gives way to a member."""

ALL_NAMES = [*SURE, "task.x", "task.y", "task.z", "top.easy", "top.medium", "top.hard"]
PROJECTIONS = built(*ALL_NAMES, **EVERYTHING)
facts = st.fixed_dictionaries({name: st.sampled_from([True, False, None]) for name in "abc"})
Facts = Mapping[str, bool | None]


def rules_over(names: Iterable[str]) -> st.SearchStrategy[AnyRule]:
    raw = st.recursive(
        st.sampled_from(list(names)),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts})
            | st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts})
            | inner.map(lambda part: {"not": part})
        ),
        max_leaves=6,
    )
    return raw.map(lambda rule: rule if isinstance(rule, str) else parsed(rule))


def parsed(rule: object) -> AnyRule:
    inner: AnyRule = Not.model_validate({"not": rule}).not_
    return inner


def evaluate(rule: AnyRule, known: Facts) -> bool | None:
    return holds(rule, PROJECTIONS.project(readings(**known)).truths)


class TestLaws:
    @thorough
    @given(rules_over(ALL_NAMES), rules_over(ALL_NAMES), facts)
    def test_de_morgan_and_double_negation(self, a: AnyRule, b: AnyRule, known: Facts) -> None:
        """Not all is any not, not any is all not, and not not is nothing."""
        raw_a, raw_b = ({"not": each} for each in (a, b))
        both, either = parsed({"all": [a, b]}), parsed({"any": [a, b]})
        assert evaluate(parsed({"not": both}), known) is evaluate(
            parsed({"any": [raw_a, raw_b]}), known
        )
        assert evaluate(parsed({"not": either}), known) is evaluate(
            parsed({"all": [raw_a, raw_b]}), known
        )
        assert evaluate(parsed({"not": {"not": a}}), known) is evaluate(a, known)

    @thorough
    @given(rules_over(SURE), facts, st.sampled_from("abc"), st.booleans())
    def test_information_never_changes_what_was_certain(
        self, rule: AnyRule, known: Facts, name: str, more: bool
    ) -> None:
        """A reading that comes on top settles what was open, and turns nothing around."""
        before = evaluate(rule, {**known, name: None})
        after = evaluate(rule, {**known, name: more})
        assert before is None or before is after

    @thorough
    @given(facts)
    def test_a_partition_has_exactly_one_winner(self, known: Facts) -> None:
        """Whatever is unknown, and nothing else is certain to be it."""
        truths = PROJECTIONS.project(readings(**known)).truths
        assert [truths[f"task.{each}"] for each in "xyz"].count(True) == 1

    @thorough
    @given(facts, st.sampled_from("abc"), st.booleans())
    def test_a_members_word_stands(self, known: Facts, name: str, more: bool) -> None:
        """A member that has won, or is ruled out, stays so; only the default gives way to better knowledge."""
        before = PROJECTIONS.project(readings(**{**known, name: None})).truths
        after = PROJECTIONS.project(readings(**{**known, name: more})).truths
        for member in ("task.x", "task.y"):
            assert before[member] is None or before[member] is after[member]

    @thorough
    @given(facts, st.randoms())
    def test_readings_in_any_order_make_the_same_facts(self, known: Facts, random: Any) -> None:
        """Projections are pure: which signal answers first changes nothing."""
        found = readings(**known)
        names = random.sample(list(found), len(found))
        shuffled = {name: found[name] for name in names}
        assert PROJECTIONS.project(found) == PROJECTIONS.project(shuffled)
