from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from looper.calling.calls import Result
from looper.contract import ContractConfig
from looper.voting import rated
from looper.voting.votes import TEXT, ToolCalls, Vote, value_of
from looper.wire.chat import Completion
from tests.fakes.models import completion, model

MODELS = [model("a", rating=0.7), model("b", rating=0.8), model("c", rating=0.75)]
CHOICE: Any = {"type": "choice", "values": ["A", "B", "C", "D"]}


def contract(settings: Any) -> Any:
    config: Any = TypeAdapter(ContractConfig).validate_python(settings)
    return config.build()


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "x", "type": "function", "function": {"name": name, "arguments": arguments}}


def result(name: str, said: str | Completion | None) -> Result:
    (found,) = (each for each in MODELS if each.name == name)
    if said is None:
        return Result(found, "member", "failed")
    answer = completion(said) if isinstance(said, str) else said
    return Result(found, "member", "ok", answer)


def vote(said: Sequence[tuple[str, str | Completion | None]], settings: Any = CHOICE) -> Vote:
    held_to = None if settings is None else contract(settings)
    results = [result(name, text) for name, text in said]
    electorate = rated({each.name: each.known_rating for each in MODELS})
    return Vote.on(results, electorate, held_to)


class TestValues:
    @pytest.mark.parametrize(
        ("said", "value"),
        [
            pytest.param("The answer is B.", "B", id="a-choice"),
            pytest.param("I do not know.", None, id="no-choice"),
            pytest.param(completion(refusal="No."), None, id="refusal"),
            pytest.param(completion("So far", finish="length"), None, id="cut-off"),
            pytest.param(completion("ANSWER: B", finish="length"), "B", id="cut-off-behind-the-answer"),
            pytest.param(None, None, id="failed"),
        ],
    )  # fmt: skip
    def test_what_an_answer_counts_as(self, said: str | Completion | None, value: object) -> None:
        """A contract's value; nothing for whoever said none."""
        assert value_of(result("a", said), contract(CHOICE)) == value

    def test_text_without_a_contract_is_text(self) -> None:
        """Free text counts as being text; what was cut off is silent."""
        assert value_of(result("a", "So it goes."), None) is TEXT
        for end in ("length", "content_filter"):
            assert value_of(result("a", completion("So it", finish=end)), None) is None

    def test_calls_of_tools_are_compared_by_name_and_arguments(self) -> None:
        """The order of JSON's keys and its blanks do not matter, and ids do not."""
        one = result("a", completion(tool_calls=[call("look", '{"x": 1, "y": 2}')]))
        same = result("b", completion(tool_calls=[call("look", '{"y":2,"x":1}')]))
        other = result("c", completion(tool_calls=[call("look", '{"x": 1, "y": 3}')]))
        assert value_of(one, None) == value_of(same, None)
        assert value_of(one, None) != value_of(other, None)
        assert isinstance(value_of(one, None), ToolCalls)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            pytest.param('{"x": 1}', '{"x": 1.0}', id="numbers"),
            pytest.param('{"x": 1e2}', '{"x": 100}', id="exponents"),
            pytest.param('{"x": "é"}', '{"x": "\\u00e9"}', id="characters"),
            pytest.param("", " {} ", id="nothing"),
            pytest.param({"x": 1}, '{"x":1}', id="an-object"),
        ],
    )
    def test_arguments_are_the_same_however_they_are_written(self, one: Any, other: str) -> None:
        """What counts is the value, also where a backend sends an object in place of its text."""
        values = [
            value_of(result("a", completion(tool_calls=[call("look", arguments)])), None)
            for arguments in (one, other)
        ]
        assert values[0] == values[1] is not None

    def test_calls_of_other_tools_are_compared_by_all_they_say(self) -> None:
        """A tool that takes plain text is no function; what it is given counts."""
        one, same, other = (
            completion(tool_calls=[{"id": name, "type": "custom", "custom": {"input": said}}])
            for name, said in (("a", "x=1"), ("b", "x=1"), ("c", "x=2"))
        )
        assert value_of(result("a", one), None) == value_of(result("b", same), None)
        assert value_of(result("a", one), None) != value_of(result("c", other), None)

    def test_a_call_that_is_cut_off_is_silent(self) -> None:
        """Arguments without an end are no answer; whole ones are, and so is nonsense that a model means."""
        broken = completion(tool_calls=[call("look", '{"x": ')], finish="length")
        assert value_of(result("a", broken), None) is None
        whole = completion(tool_calls=[call("look", '{"x": 1}')], finish="length")
        assert value_of(result("a", whole), None) is not None
        meant = completion(tool_calls=[call("look", "x=1")], finish="tool_calls")
        assert value_of(result("a", meant), None) is not None


class TestVote:
    def test_the_leading_group_comes_first_and_its_best_member_speaks(self) -> None:
        """Two peers outvote the best-rated; of the two the better-rated one's answer is the team's."""
        ranked = vote([("a", "ANSWER: A"), ("b", "ANSWER: B"), ("c", "It is A.")]).ranked()
        assert [each.model.name for each in ranked] == ["c", "a", "b"]

    def test_the_silent_stand_last(self) -> None:
        """Who keeps no contract comes behind all who do; who failed is not there."""
        ranked = vote([("a", "ANSWER: A"), ("b", "Who knows?"), ("c", None)]).ranked()
        assert [each.model.name for each in ranked] == ["a", "b"]

    @pytest.mark.parametrize(
        ("said", "unanimous"),
        [
            pytest.param([("a", "A"), ("b", "A"), ("c", "(A)")], True, id="all-the-same"),
            pytest.param([("a", "A"), ("b", "B"), ("c", "A")], False, id="one-dissents"),
            pytest.param([("a", "A"), ("b", "A"), ("c", "?")], False, id="one-is-silent"),
            pytest.param([("a", "A")], False, id="one-alone"),
        ],
    )
    def test_unanimous(self, said: list[tuple[str, str]], unanimous: bool) -> None:
        """Two at least, all of them the same, nobody silent."""
        assert vote(said).unanimous is unanimous

    def test_free_texts_are_never_unanimous(self) -> None:
        """Nothing compares them, even word for word."""
        assert not vote([("a", "Hello."), ("b", "Hello.")], None).unanimous

    def test_of_free_texts_the_one_most_like_the_others_comes_first(self) -> None:
        """The medoid speaks for a team whose answers are text."""
        said = [
            ("b", "Birds sing in the trees at night."),
            ("a", "The capital of Canada is Ottawa, on the river."),
            ("c", "The capital of Canada is Ottawa."),
        ]
        ranked = vote(said, None).ranked()
        assert ranked[0].model.name in ("a", "c")

    def test_text_and_calls_of_tools_are_different_groups(self) -> None:
        """Where most call a tool, the team calls it, whatever the best-rated writes."""
        look = completion(tool_calls=[call("look", "{}")])
        said: list[tuple[str, str | Completion]] = [
            ("b", "I need no tool."),
            ("a", look),
            ("c", look),
        ]
        groups = [[each.model.name for each in group] for group in vote(said, None).groups()]
        assert groups == [["c", "a"], ["b"]]

    def test_probabilities_are_of_values(self) -> None:
        """What most say is likelier than what one says; what nobody says has none."""
        cast = vote([("a", "A"), ("b", "A"), ("c", "B")])
        agreed, alone = cast.probability("A"), cast.probability("B")
        assert agreed is not None
        assert alone is not None
        assert agreed > 0.5 > alone
        assert cast.probability("C") is None
        assert cast.probability(None) is None

    def test_several_samples_of_a_model_share_its_vote(self) -> None:
        """A model asked three times does not outvote two others."""
        said = [("b", "A"), ("b", "A"), ("b", "A"), ("a", "B"), ("c", "B")]
        assert vote(said).ranked()[0].text == "B"


def test_a_vote_is_told_by_numbers_of_calls_and_no_word_of_what_was_said() -> None:
    """Who stands together, with which weight and how probably they are right; and who said nothing that counts."""
    said = [("a", "Answer: C"), ("b", "Answer: B"), ("c", "Answer: B"), ("c", "hm")]
    results = [replace(result(*each), number=at) for at, each in enumerate(said)]
    ballots = vote(said)
    told = Vote.on(results, ballots.electorate, contract(CHOICE)).told()
    assert told is not None
    assert [[each["call"] for each in group["ballots"]] for group in told["groups"]] == [
        [1, 2],
        [0],
    ]
    assert told["silent"] == [3]
    posteriors = [group["posterior"] for group in told["groups"]]
    assert sum(posteriors) + told["none"] == pytest.approx(1, abs=1e-5)
    weights = [each["weight"] for each in told["groups"][0]["ballots"]]
    whole = [ballots.electorate[name].weight for name in ("b", "c")]
    assert weights == [round(whole[0], 6), round(whole[1] / 2, 6)]  # c was asked twice


def test_a_vote_on_texts_that_nothing_compares_is_not_told() -> None:
    assert vote([("a", "some words"), ("b", "others")], None).told() is None
