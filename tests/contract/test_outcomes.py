"""One meaning of outcomes, of failures that are to end a run, and of answers that were cut, in every pattern."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from looper.algorithms import AlgorithmConfig
from looper.calling.budget import Budget, Ledger
from looper.calling.calls import CallFailed, Failure
from looper.calling.models import Model
from looper.contract import ChoiceConfig, Terms
from looper.errors import LooperError
from looper.run import Deadline, Pattern, Run
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Answers,
    Asked,
    Hang,
    ScriptedClient,
    Step,
    completion,
    model,
    refused,
)

MODELS: Mapping[str, Model] = {
    name: model(name, rating=0.7) for name in ("a", "b", "c", "s", "w", "last")
}
CHOICE = ChoiceConfig(type="choice", values=("A", "B", "C", "D")).build()
TEAM = ["a", "b", "c"]

ROUNDS: Mapping[str, dict[str, Any]] = {
    "ratings": {"models": TEAM, "stop": "all"},
    "judged": {"type": "ratings", "models": TEAM, "aggregate": "judge", "judge_model": "w"},
    "all": {"type": "ratings", "models": TEAM, "aggregate": "all"},
    "fusion": {"analysis_models": TEAM, "judge_model": "w", "skip_judge_when": "never"},
    "remom": {"models": TEAM, "breadth_schedule": [3], "synthesis_model": "w"},
    "confidence": {"stages": [TEAM, "last"], "confidence_method": "agreement", "threshold": 0.5},
}
"""Patterns with a round of three members, and settings for it."""


def writes(asked: Asked) -> Step:
    """A judge who gives scores, a verifier who is content, and a writer who writes."""
    if asked.role == "judge":
        count = asked.prompt.count("[end of candidate")
        return json.dumps({"consensus": [], "scores": [5] * count})
    return "ANSWER: A"


DOWN = Answers(lambda asked: writes(asked) if asked.role == "judge" else refused(500))
"""A writer who does not write."""


@dataclass
class Played:
    events: list[Event] = field(default_factory=list)
    client: ScriptedClient = field(default_factory=lambda: ScriptedClient({}))
    took: float = 0.0

    @property
    def done(self) -> Done:
        assert isinstance(self.events[-1], Done)
        return self.events[-1]

    @property
    def ended(self) -> tuple[str, str | None]:
        """The outcome, and what is lacking."""
        return self.done.outcome, self.done.lack

    @property
    def text(self) -> str:
        deltas = (event for event in self.events if isinstance(event, Delta))
        return "".join(event.value for event in deltas if event.kind == "content")

    @property
    def finishes(self) -> list[str]:
        return [event.reason for event in self.events if isinstance(event, Finish)]


def built(kind: str, settings: dict[str, Any]) -> Pattern:
    algorithm = {"type": kind} | ROUNDS.get(kind, {}) | settings
    config: AlgorithmConfig = TypeAdapter(AlgorithmConfig).validate_python(algorithm)
    return config.build()


async def play(
    kind: str,
    script: Mapping[str, Step],
    *,
    contract: Any = CHOICE,
    models: Mapping[str, Model] = MODELS,
    budget: Budget | None = None,
    **settings: Any,
) -> Played:
    """What came of a pattern whose members answer A, but for those that the script has do something else."""
    said: dict[str, Step] = dict.fromkeys((*TEAM, "s", "last"), "ANSWER: A")
    played = Played(client=ScriptedClient({**said, "w": Answers(writes), **script}))
    request = ChatRequest.parse(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "why?"}]}).encode()
    )
    run = Run(
        "r", models, played.client, Ledger(budget or Budget()), Deadline.after(100), Random(1), terms=Terms(contract)
    )  # fmt: skip
    began = run.deadline.now()
    try:
        async with aclosing(built(kind, settings).run(request, run)) as events:
            async for event in events:
                played.events.append(event)
    finally:
        played.took = run.deadline.now() - began
    return played


everywhere = pytest.mark.parametrize("kind", ROUNDS)


class TestOutcomes:
    @everywhere
    @timeless
    async def test_all_went_well(self, kind: str) -> None:
        assert (await play(kind, {})).done.outcome == "ok"

    @everywhere
    @timeless
    async def test_a_straggler_is_nobody_who_is_missing(self, kind: str) -> None:
        """Two are enough, and the third is not waited for."""
        settings: dict[str, Any] = {"min_successful_responses": 2, "straggler_factor": 2}
        script: dict[str, Step] = {
            "a": After(1, "ANSWER: A"),
            "b": After(2, "ANSWER: A"),
            "c": Hang(),
        }
        played = await play(kind, script, **settings)
        assert played.client.cancelled == ["c"]
        assert played.done.outcome == "ok"

    @timeless
    async def test_nor_is_who_is_left_by_an_early_stop(self) -> None:
        script: dict[str, Step] = {
            "a": After(1, "ANSWER: A"),
            "b": After(1, "ANSWER: A"),
            "c": Hang(),
        }
        played = await play("ratings", script, stop="settled")
        assert (played.client.cancelled, played.done.outcome) == (["c"], "ok")
        settings: dict[str, Any] = {
            "adaptive": True,
            "breadth_schedule": [5],
            "model_distribution": "round_robin",
        }
        played = await play("remom", {}, **settings)
        assert len(played.client.asked) < 5
        assert played.done.outcome == "ok"

    @pytest.mark.parametrize("why", ["failed", "blank", "unsuitable", "unpaid"])
    @pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "missing"])
    @everywhere
    def test_who_is_missing_degrades_a_run_unless_replaced(
        self, kind: str, replaced: bool, why: str
    ) -> None:
        """However a member was lost: its substitute makes up for it."""

        @timeless
        async def test() -> None:
            models, script = dict(MODELS), dict[str, Step]()
            budget = Budget()
            match why:
                case "failed":
                    script["a"] = refused(500)
                case "blank":
                    script["a"] = completion(" ")
                case "unsuitable":
                    models["a"] = model("a", rating=0.7, context_window=1)
                case _:
                    models["a"] = model("a", rating=0.7, price={"input": 1, "output": 1000})
                    budget = Budget(cost_usd="0.001")
            settings: dict[str, Any] = {"substitutes": ["s"]} if replaced else {}
            played = await play(kind, script, models=models, budget=budget, **settings)
            assert ("s" in played.client.names) == replaced
            lack = why if why in ("unsuitable", "unpaid") else "failed"
            assert played.ended == (("ok", None) if replaced else ("degraded", lack))

        test()

    @everywhere
    @timeless
    async def test_who_is_late_is_missing(self, kind: str) -> None:
        played = await play(kind, {"c": Hang()}, round_timeout="5s")
        assert played.ended == ("degraded", "late")

    @everywhere
    @timeless
    async def test_a_refusal_is_told_from_a_failure(self, kind: str) -> None:
        too_long = CallFailed(Failure.STATUS, status=400, refusal="context_length_exceeded")
        assert (await play(kind, {"c": too_long})).ended == ("degraded", "refused")

    @timeless
    async def test_a_round_that_is_lost_degrades_a_run(self) -> None:
        """Though the one before it stands, and is written up."""
        script: dict[str, Step] = {
            name: Answers(lambda asked: refused(500) if "references" in asked.prompt else "ANSWER: A")
            for name in TEAM
        }  # fmt: skip
        played = await play("remom", script, breadth_schedule=[3, 3])
        assert (played.text, *played.ended) == ("ANSWER: A", "degraded", "failed")

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [("ratings", {}), ("fusion", {"skip_judge_when": "posterior>=0.1"})],
    )
    @timeless
    async def test_a_vote_that_is_hardly_sure_is_degraded(
        self, kind: str, settings: dict[str, Any]
    ) -> None:
        """Three that contradict each other are more probably wrong than right."""
        script: dict[str, Step] = {"a": "ANSWER: A", "b": "ANSWER: B", "c": "ANSWER: C"}
        played = await play(kind, script, **settings)
        assert played.done.confidence is not None
        assert played.done.confidence < 0.5
        assert played.ended == ("degraded", "unsure")

    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            ("fusion", {}),
            ("fusion", {"final_model": "last", "final_fallbacks": ["s"]}),
            ("remom", {}),
            (
                "workflows",
                {"steps": [{"id": "x", "models": ["a"], "prompt": "p"}], "final": {"model": "w"}},
            ),
            ("single", {"model": "w", "fallbacks": ["a"]}),
        ],
        ids=["fusion", "final_fallbacks", "remom", "workflows", "single"],
    )
    @timeless
    async def test_another_author_is_a_fallback(self, kind: str, settings: dict[str, Any]) -> None:
        """Whoever it is: the next writer, or the best of those who were to inform it."""
        down = {
            "w": Answers(lambda asked: refused(500) if asked.role != "judge" else writes(asked))
        }
        played = await play(kind, {**down, "last": refused(500)}, **settings)
        assert (played.text, played.done.outcome) == ("ANSWER: A", "fallback")

    @timeless
    async def test_a_later_stage_stands_in_for_what_is_missing_before(self) -> None:
        """Of a chain the stage counts that was sure enough."""
        settings: dict[str, Any] = {"stages": ["a", ["b", "c"]], "threshold": 0.7}
        played = await play("confidence", {"a": refused(500)}, **settings)
        assert played.done.outcome == "ok"


FAILING: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ROUNDS},
    "workflows": {"steps": [{"id": "x", "models": TEAM, "prompt": "p"}], "final": {"model": "w"}},
}


class TestFailing:
    @pytest.mark.parametrize("kind", FAILING)
    @timeless
    async def test_the_first_failure_is_the_runs_at_once(self, kind: str) -> None:
        """Whoever has answered by then, and whoever still would."""
        script: dict[str, Step] = {
            "a": After(1, "ANSWER: A"),
            "b": After(2, refused(500)),
            "c": Hang(),
        }
        began = asyncio.get_running_loop().time()
        with pytest.raises(LooperError) as caught:
            await play(kind, script, on_error="fail", **FAILING[kind])
        assert caught.value.status == 502
        assert asyncio.get_running_loop().time() - began == pytest.approx(2)

    @everywhere
    @timeless
    async def test_who_is_late_has_failed(self, kind: str) -> None:
        with pytest.raises(LooperError) as caught:
            await play(kind, {"c": Hang()}, on_error="fail", round_timeout="5s")
        assert caught.value.status == 504

    @everywhere
    @timeless
    async def test_who_was_replaced_has_not(self, kind: str) -> None:
        settings: dict[str, Any] = {"on_error": "fail", "substitutes": ["s"]}
        assert (await play(kind, {"b": refused(500)}, **settings)).done.outcome == "ok"

    @everywhere
    @timeless
    async def test_nor_has_who_cannot_be_asked(self, kind: str) -> None:
        models = {**MODELS, "a": model("a", rating=0.7, context_window=1)}
        played = await play(kind, {}, models=models, on_error="fail")
        assert "a" not in played.client.names
        assert played.ended == ("degraded", "unsuitable")


CUT = completion("half a thought", finish="length")
FREE: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ROUNDS},
    "confidence": {"threshold": 0.1},
}


class TestCutAnswers:
    @everywhere
    @timeless
    async def test_they_count_for_the_quorum(self, kind: str) -> None:
        settings = {**FREE[kind], "min_successful_responses": 3, "below_quorum": "fail"}
        played = await play(kind, {"c": CUT}, contract=None, **settings)
        assert played.done.outcome == "ok"

    @pytest.mark.parametrize("kind", ["judged", "fusion", "remom"])
    @pytest.mark.parametrize("all_of_them", [True, False], ids=["all", "one"])
    def test_they_are_shown_as_cut(self, kind: str, all_of_them: bool) -> None:
        """Once for each that was cut, beside its number and not in its words."""

        @timeless
        async def test() -> None:
            names = TEAM if all_of_them else ["c"]
            cut = {each: completion(f"half of {each}", finish="length") for each in names}
            script: dict[str, Step] = {"a": "one", "b": "two", **cut}
            played = await play(kind, script, contract=None)
            prompts = [asked.prompt for asked in played.client.calls_of("w")]
            # A judge reads the two best once more, if they are close.
            for prompt in prompts[:1] if kind == "judged" else prompts:
                assert prompt.count("(cut off: its end is missing)\n") == len(names)
                assert all(f"half of {each}" in prompt for each in names)

        test()

    @pytest.mark.parametrize("kind", [*ROUNDS, "workflows"])
    @timeless
    async def test_they_lose_against_whole_ones(self, kind: str) -> None:
        """However good their author is, and whatever a judge says of them."""
        if kind == "all":
            return  # where every answer is published
        models = {**MODELS, "a": model("a", rating=0.95), "b": model("b", rating=0.95)}
        settings = {**FAILING[kind], **FREE.get(kind, {})}
        script: dict[str, Step] = {
            "a": CUT,
            "b": CUT,
            "c": "whole",
            "last": refused(500),
            "w": DOWN,
        }
        played = await play(kind, script, models=models, contract=None, **settings)
        assert (played.text, played.finishes) == ("whole", ["stop"])

    @pytest.mark.parametrize("kind", [*ROUNDS, "workflows"])
    @timeless
    async def test_where_nothing_else_is_left_the_best_of_them_is_published(
        self, kind: str
    ) -> None:
        """And says that it was cut."""
        if kind == "all":
            return
        settings = {**FAILING[kind], **FREE.get(kind, {})}
        script: dict[str, Step] = {**dict.fromkeys(TEAM, CUT), "last": refused(500), "w": DOWN}
        played = await play(kind, script, contract=None, **settings)
        assert (played.text, played.finishes) == ("half a thought", ["length"])


@pytest.mark.parametrize(
    ("kind", "most", "settings"),
    [
        ("ratings", 3, {}),
        ("ratings", 4, {"escalate_to": ["s"]}),
        ("fusion", 3, {}),
        ("fusion", 4, {"on_disagreement": "escalate", "escalate_to": ["s"]}),
        ("remom", 3, {}),
        ("remom", 6, {"breadth_schedule": [3, 6]}),
        ("remom", 3, {"breadth_schedule": [3, 6], "below_quorum": "fail"}),
        ("confidence", 3, {}),
    ],
)
def test_more_than_can_answer_is_refused(kind: str, most: int, settings: dict[str, Any]) -> None:
    """A quorum that no round can have is a mistake of the file, which says so."""
    built(kind, {**settings, "min_successful_responses": most})
    with pytest.raises(ValidationError, match="min_successful_responses"):
        built(kind, {**settings, "min_successful_responses": most + 1})
