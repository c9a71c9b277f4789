"""`single` with several models: each has its part of all conversations, and a conversation keeps its model."""

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from looper.patterns.single import SingleConfig
from looper.wire.chat import ChatRequest

MANY = 4000


def config(**weights: float) -> SingleConfig:
    models = [{"model": name, "weight": weight} for name, weight in weights.items()]
    return SingleConfig.model_validate({"type": "single", "models": models})


def request(*turns: str, system: str | None = None) -> ChatRequest:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return ChatRequest.parse(json.dumps({"model": "m", "messages": messages}).encode())


REQUESTS = [request(f"question {number}") for number in range(MANY)]


def chosen(config: SingleConfig) -> list[str]:
    return [config.ranked(each)[0] for each in REQUESTS]


class TestShares:
    @pytest.mark.parametrize(
        "weights",
        [{"a": 1, "b": 1}, {"a": 9, "b": 1}, {"a": 1, "b": 2, "c": 7}, {"a": 0.02, "b": 0.98}],
        ids=str,
    )
    def test_are_as_large_as_the_weights_say(self, weights: dict[str, float]) -> None:
        """Of 4000 conversations each model has its part, within four standard deviations."""
        counts = Counter(chosen(config(**weights)))
        total = sum(weights.values())
        for name, weight in weights.items():
            part = weight / total
            assert abs(counts[name] / MANY - part) < 4 * (part * (1 - part) / MANY) ** 0.5

    def test_are_kept_by_a_conversation_in_every_turn(self) -> None:
        """The prefix that a backend has in its cache is of use to nobody else."""
        one = config(a=1, b=1, c=1)
        for number in range(50):
            first = request(f"q{number}", system="s")
            later = request(f"q{number}", "yes?", "and then?", "so.", "well", system="s")
            assert one.ranked(first) == one.ranked(later)

    def test_do_not_depend_on_the_order_of_the_file(self) -> None:
        """A model is where it is because of its name and weight."""
        assert chosen(config(a=1, b=2, c=3)) == chosen(config(c=3, a=1, b=2))

    def test_move_only_to_a_model_whose_weight_grows(self) -> None:
        """No conversation goes from one of the others to another of the others, and few go at all."""
        before, after = chosen(config(a=4, b=3, c=3)), chosen(config(a=5, b=3, c=3))
        moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert {new for _, new in moved} == {"a"}
        assert 0.03 < len(moved) / MANY < 0.08  # from 4/10 to 5/11, which is 5.5 %

    def test_move_only_from_a_model_that_is_taken_out(self) -> None:
        """The others keep theirs."""
        before, after = chosen(config(a=1, b=1, c=1)), chosen(config(a=1, b=1))
        for old, new in zip(before, after, strict=True):
            assert old in ("c", new)

    def test_of_weight_0_are_none(self) -> None:
        """A model can be kept in the file and out of traffic."""
        one = config(a=1, b=0, c=1)
        assert "b" not in {name for each in REQUESTS[:200] for name in one.ranked(each)}
        assert [name for _, name in one.members()] == ["a", "b", "c"]

    @given(st.text(max_size=50), st.lists(st.floats(0.001, 1000), min_size=1, max_size=6))
    def test_always_rank_every_model_once(self, text: str, weights: list[float]) -> None:
        """Whatever is said, and however unequal the weights are."""
        named = {f"m{at}": weight for at, weight in enumerate(weights)}
        assert sorted(config(**named).ranked(request(text))) == sorted(named)

    def test_the_main_one_is_that_of_the_greatest_weight(self) -> None:
        """What is no conversation, such as embeddings, must not be spread."""
        assert config(a=1, b=3, c=3).main == "b"
        assert SingleConfig(type="single", model="x").main == "x"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "give exactly one of `model` and `models`"),
        ({"model": "a", "models": [{"model": "b"}]}, "give exactly one of `model` and `models`"),
        ({"models": [{"model": "a"}, {"model": "a"}]}, "the model 'a' stands twice in `models`"),
        ({"models": [{"model": "a", "weight": 0}]}, "one of the weights must be above 0"),
        ({"models": [{"model": "a", "weight": -1}]}, "greater than or equal to 0"),
    ],
)
def test_what_shares_nothing_out_is_wrong(settings: dict[str, Any], text: str) -> None:
    """There has to be a model, once, with a part of something."""
    with pytest.raises(ValidationError, match=text):
        SingleConfig.model_validate({"type": "single", **settings})
