import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from looper.calling.budget import Budget, Ledger
from looper.calling.calls import CallFailed, Failure
from looper.calling.cost import floors, planned_calls
from looper.calling.models import Model
from looper.contract import ChoiceConfig, Terms
from looper.errors import InvalidField, LooperError
from looper.patterns.workflows import WorkflowsConfig
from looper.run import Deadline, Heartbeat, Run, drive
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Event, Progress
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Crash,
    Hang,
    ScriptedClient,
    Step,
    completion,
    in_turn,
    model,
    refused,
)

CATALOGUE: Mapping[str, Model] = {
    "a": model("a", upstream_model="vendor/a-9b", rating=0.5),
    "b": model("b", upstream_model="vendor/b-9b", rating=0.9),
    "c": model("c", upstream_model="vendor/c-9b", rating=0.7),
    "v": model("v", capabilities=["json_schema"]),
    "f": model("f"),
    "p": model("p", upstream_model="vendor/planner"),
}
PASS = json.dumps({"verdict": "pass"})
FAIL = json.dumps({"verdict": "fail", "reasons": ["the sign is wrong"]})
SCRIPT: Mapping[str, Step] = {
    "a": "said by a",
    "b": "said by b",
    "c": "said by c",
    "v": PASS,
    "f": "the answer",
}
FENCE = "0123456789abcdef"
both = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def step(id: str, *models: str, **members: Any) -> dict[str, Any]:
    return {"id": id, "models": [*models], "prompt": f"do {id}", **members}


def verifier(id: str = "check", *needs: str, **members: Any) -> dict[str, Any]:
    return step(id, "v", role="verifier", needs=[*needs], **members)


def static(*steps: dict[str, Any], **settings: Any) -> WorkflowsConfig:
    final = {"model": "f"}
    return WorkflowsConfig.model_validate(
        {"type": "workflows", "steps": steps, "final": final, **settings}
    )


def dynamic(**settings: Any) -> WorkflowsConfig:
    return WorkflowsConfig.model_validate(
        {
            "type": "workflows",
            "mode": "dynamic",
            "planner": {"model": "p"},
            "models": ["a", "b", "c"],
            "final": {"model": "f"},
            **settings,
        }
    )


def plan(*steps: dict[str, Any], **members: Any) -> str:
    return json.dumps({"steps": steps, **members})


def client_of(**steps: Step) -> ScriptedClient:
    return ScriptedClient({**SCRIPT, **steps})


def run_of(client: ScriptedClient, *, calls: int | None = None, planned: int = 0) -> Run:
    ledger = Ledger(Budget(calls=calls), planned_calls=planned)
    return Run("r", CATALOGUE, client, ledger, Deadline.after(100), Random(1), fence=FENCE)


async def events_of(
    client: ScriptedClient, config: WorkflowsConfig, *, run: Run | None = None, **members: Any
) -> list[Event]:
    body = {"model": "m", "messages": [{"role": "user", "content": "why?"}], **members}
    request = ChatRequest.parse(json.dumps(body).encode())
    events: list[Event] = []

    async def emit(event: Event | Heartbeat) -> None:
        assert not isinstance(event, Heartbeat)
        events.append(event)

    await drive(config.build(), request, run or run_of(client), emit, heartbeat=1000)
    return events


def text_of(events: list[Event]) -> str:
    deltas = (event for event in events if isinstance(event, Delta))
    return "".join(delta.value for delta in deltas if delta.kind == "content")


def done_of(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def stages_of(events: list[Event]) -> list[str]:
    return [event.stage for event in events if isinstance(event, Progress)]


class TestStaticPlan:
    @both
    async def test_steps_are_worked_on_and_a_final_model_answers(self, stream: bool) -> None:
        """Each agent is asked once, then the final model, whose text is the answer; usage is the sum."""
        client = client_of()
        config = static(step("one", "a", "b"), step("two", "c", needs=["one"]))
        events = await events_of(client, config, stream=stream)

        assert [(asked.name, asked.role) for asked in client.asked] == [
            ("a", "worker"), ("b", "worker"), ("c", "worker"), ("f", "final"),
        ]  # fmt: skip
        assert text_of(events) == "the answer"
        assert done_of(events).outcome == "ok"
        assert done_of(events).usage == Usage(40, 20)
        assert client.role("final").streamed is stream

    async def test_it_says_which_step_is_at_work(self) -> None:
        """Each step is told of when it begins, also those that begin beside others, and never a model."""
        config = static(step("one", "a"), step("two", "b"), step("three", "c", needs=["one"]))
        events = await events_of(client_of(), config)

        assert stages_of(events) == ["one", "two", "three", "final"]

    @timeless
    async def test_independent_steps_are_worked_on_at_once(self) -> None:
        """What does not need each other takes as long as its slowest part; what does, waits for just that."""
        client = client_of(a=After(10, "slow"), b=After(1, "quick"), c=After(5, "third"))
        config = static(step("slow", "a"), step("quick", "b"), step("third", "c", needs=["quick"]))
        began = asyncio.get_running_loop().time()
        await events_of(client, config)

        assert asyncio.get_running_loop().time() - began == pytest.approx(10)
        assert client.most_at_once == 2
        assert client.names == ["a", "b", "c", "f"]

    @timeless
    async def test_no_more_than_max_parallel_calls_at_once(self) -> None:
        """The bound holds over all steps together."""
        client = client_of(**{name: After(1, "x") for name in "abc"})
        await events_of(client, static(step("x", "a", "b"), step("y", "c", "a"), max_parallel=2))

        assert client.most_at_once == 2

    @pytest.mark.parametrize(
        ("sees", "shown"),
        [
            (None, {"said by b", "said by c"}),
            ([], set()),
            (["first"], {"said by a"}),
            (["second.2", "first"], {"said by c", "said by a"}),
        ],
    )
    async def test_a_step_sees_what_the_plan_says_and_nothing_else(
        self, sees: list[str] | None, shown: set[str]
    ) -> None:
        """By default the answers of what it needs; else just those that `sees` names, of steps further back too."""
        client = client_of(v="last")
        config = static(
            step("first", "a"),
            step("second", "b", "c", needs=["first"]),
            step("third", "v", needs=["second"], sees=sees),
        )
        await events_of(client, config)
        (asked,) = client.calls_of("v")
        prompts = json.dumps(asked.body["messages"])

        assert {
            text for text in ("said by a", "said by b", "said by c") if text in prompts
        } == shown

    async def test_what_others_wrote_is_fenced_and_names_no_model(self) -> None:
        """Answers stand between fences of this run, behind the conversation, and no model's name is in a prompt."""
        client = client_of()
        await events_of(client, static(step("one", "a"), step("two", "b", needs=["one"])))
        (asked,) = client.calls_of("b")

        assert asked.prompt.startswith("why?\n\n")
        assert (
            f"[answer 1 {FENCE}] the answer of one.1\nsaid by a\n[end of answer 1 {FENCE}]"
            in asked.prompt
        )
        assert asked.prompt.endswith("do two")
        assert "vendor" not in json.dumps([each.body["messages"] for each in client.asked])

    async def test_the_final_stage_sees_what_its_plan_says(self) -> None:
        """`final.sees` and `final.prompt` are the last stage's own."""
        client = client_of()
        final = {"model": "f", "prompt": "In one word.", "sees": ["two"]}
        await events_of(client, static(step("one", "a"), step("two", "b"), final=final))

        assert "said by b" in client.role("final").prompt
        assert "said by a" not in client.role("final").prompt
        assert client.role("final").prompt.endswith("In one word.")

    async def test_a_model_that_is_named_twice_is_asked_with_two_seeds(self) -> None:
        """Two agents of one model are two samples."""
        client = client_of()
        await events_of(client, static(step("one", "a", "a")), seed=5)

        first, second = (asked.body["seed"] for asked in client.calls_of("a"))
        assert first == 5
        assert second != 5

    @timeless
    async def test_a_step_has_a_timeout_of_its_own(self) -> None:
        """`timeout` of a step, or `step_timeout` for all, ends a call, and the run goes on without it."""
        client = client_of(a=Hang(), b=Hang())
        config = static(step("one", "a", timeout="2s"), step("two", "b"), step_timeout="5s")
        began = asyncio.get_running_loop().time()
        events = await events_of(client, config)

        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        assert [asked.deadline - began for asked in client.asked[:2]] == [2, 5]
        assert done_of(events).lack == "failed"

    @pytest.mark.parametrize(
        ("steps", "heard"),
        [
            pytest.param([step("one", "a", "b")], {"a", "b", "f"}, id="one-step"),
            pytest.param([step("one", "a"), step("two", "b")], {"f"}, id="parts"),
            pytest.param([step("one", "a"), verifier("check", "one")], {"f"}, id="verified"),
        ],
    )
    async def test_who_does_a_part_is_not_told_of_the_whole(
        self, steps: list[dict[str, Any]], heard: set[str]
    ) -> None:
        """The form of the answer is for whoever writes it, and needs no capability of those who do not."""
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        members: dict[str, Any] = {
            "response_format": schema,
            "stop": ["END"],
            "n": 1,
            "logprobs": True,
            "seed": 7,
        }
        client = client_of()
        await events_of(client, static(*steps), **members)
        workers = [asked for asked in client.asked if asked.role in ("worker", "final")]

        for name in ("response_format", "stop"):
            assert {asked.name for asked in workers if name in asked.body} == heard
        assert not any("n" in asked.body for asked in workers)
        assert {asked.name for asked in workers if "logprobs" in asked.body} == {"f"}
        assert all("seed" in asked.body for asked in workers)

    async def test_more_than_one_choice_is_refused(self) -> None:
        """`n` must be 1, and nothing is called."""
        client = client_of()
        with pytest.raises(InvalidField):
            await events_of(client, static(step("one", "a")), n=2)
        assert client.asked == []


class TestFailures:
    @both
    async def test_a_failed_agent_is_left_out(self, stream: bool) -> None:
        """As long as a step has one answer, the run goes on with it, degraded."""
        client = client_of(a=refused(500))
        events = await events_of(client, static(step("one", "a", "b")), stream=stream)

        assert text_of(events) == "the answer"
        assert done_of(events).outcome == "degraded"

    async def test_a_failed_step_that_nobody_needs_is_done_without(self) -> None:
        """The final stage is no step: it writes with what there is."""
        client = client_of(a=refused(500))
        events = await events_of(client, static(step("one", "a"), step("two", "b")))

        assert text_of(events) == "the answer"
        assert done_of(events).outcome == "degraded"

    async def test_a_failed_step_that_another_needs_ends_the_run_with_the_best_so_far(self) -> None:
        """What needs it never begins, and the best answer there is is published as it is."""
        client = client_of(a=refused(500))
        config = static(step("one", "a"), step("two", "b", "c"), step("three", "c", needs=["one"]))
        events = await events_of(client, config)

        assert text_of(events) == "said by b"
        assert done_of(events).lack == "step"
        assert client.names == ["a", "b", "c"]

    async def test_without_any_answer_the_error_says_why(self) -> None:
        """When nothing came of anything, the client reads what happened everywhere."""
        client = client_of(a=refused(429))
        with pytest.raises(LooperError) as caught:
            await events_of(client, static(step("one", "a"), step("two", "b", needs=["one"])))
        assert caught.value.status == 429

    @both
    async def test_a_final_model_that_fails_is_replaced_by_the_best_answer(
        self, stream: bool
    ) -> None:
        """The answer of the best-rated model of the last step stands in, as a fallback."""
        client = client_of(f=CallFailed(Failure.CONNECT))
        events = await events_of(client, static(step("one", "a", "b", "c")), stream=stream)

        assert text_of(events) == "said by b"
        assert done_of(events).outcome == "fallback"

    @pytest.mark.parametrize(
        ("steps", "published"),
        [
            pytest.param([step("one", "a", "b", "c")], "It is B.", id="side-by-side"),
            pytest.param([step("x", "a"), step("y", "b"), step("z", "c")], "It is B.", id="steps"),
            pytest.param(
                [step("one", "b", "c"), step("two", "a", needs=["one"])],
                "It is C.",
                id="a-later-one-has-seen-them",
            ),
            pytest.param(
                [step("one", "b", "c"), step("two", "a", needs=["one"], sees=[])],
                "It is B.",
                id="a-later-one-has-not-seen-them",
            ),
            pytest.param(
                [step("one", "b", "c"), verifier("check", "one"), step("two", "a")],
                "It is C.",
                id="rejected",
            ),
        ],
    )
    @both
    async def test_under_a_contract_the_workers_vote(
        self, stream: bool, steps: list[dict[str, Any]], published: str
    ) -> None:
        """What most of those say who may still be right is the best answer, not that of whoever stands first."""
        equal = {**CATALOGUE, **{name: model(name) for name in "abc"}}
        said: Mapping[str, Step] = {"a": "It is C.", "b": "It is B.", "c": "It is B."}
        client = client_of(**said, v=FAIL, f=refused(500))
        contract = ChoiceConfig(type="choice", values=("A", "B", "C")).build()
        run = replace(run_of(client), models=equal, terms=Terms(contract))
        events = await events_of(client, static(*steps), run=run, stream=stream)

        assert text_of(events) == published
        assert done_of(events).outcome == "fallback"

    @timeless
    async def test_on_error_fail_fails_at_the_first_failure(self) -> None:
        """At once: nobody else is waited for, and no step that was still to come begins."""
        client = client_of(a=After(1, refused(429, 9)), b=After(50, "late"))
        config = static(step("one", "a", "b"), step("two", "c", needs=["one"]), on_error="fail")
        began = asyncio.get_running_loop().time()
        with pytest.raises(LooperError) as caught:
            await events_of(client, config)

        assert caught.value.status == 429
        assert asyncio.get_running_loop().time() - began == pytest.approx(1)
        assert client.cancelled == ["b"]
        assert client.names == ["a", "b"]

    @pytest.mark.parametrize("said", [refused(500), "fine with me"])
    async def test_a_verifier_is_one_whose_failure_counts(self, said: Step) -> None:
        """Also one whose verdict cannot be read, asked again or not."""
        client = client_of(v=said)
        config = static(step("one", "a"), verifier("check", "one"), on_error="fail")
        with pytest.raises(LooperError) as caught:
            await events_of(client, config)
        assert caught.value.code == "upstream_failed"
        assert "f" not in client.names

    async def test_so_is_a_planner(self) -> None:
        """Nobody works by a plan that was not made."""
        client = client_of(p="no plan")
        with pytest.raises(LooperError) as caught:
            await events_of(client, dynamic(on_error="fail"))
        assert caught.value.code == "upstream_failed"
        assert set(client.names) == {"p"}

    async def test_who_was_never_asked_has_not_failed(self) -> None:
        """A model that cannot take the request is left out, whatever `on_error` says."""
        run = run_of(client := client_of())
        blind = model("a", capabilities=["tools"])
        run = replace(run, models={**CATALOGUE, "a": blind})
        image = {"type": "image_url", "image_url": {"url": "https://x.test/i.png"}}
        messages = [{"role": "user", "content": [image]}]
        config = static(step("one", "a", "b"), on_error="fail")
        events = await events_of(client, config, run=run, messages=messages)

        assert text_of(events) == "the answer"
        assert client.names == ["b", "f"]

    @pytest.mark.parametrize("calls", [1, 2, 3])
    async def test_a_small_budget_leaves_what_it_bought(self, calls: int) -> None:
        """No call beyond the budget; what there is is published."""
        client = client_of()
        run = run_of(client, calls=calls)
        events = await events_of(client, static(step("one", "a", "b", "c")), run=run)

        assert len(client.asked) == calls
        assert text_of(events).startswith("said by")
        assert done_of(events).outcome == "fallback"

    @pytest.mark.parametrize(
        "steps",
        [
            pytest.param([step("one", "a", "b", "c")], id="side-by-side"),
            pytest.param([step("x", "a"), step("y", "b"), step("z", "c")], id="steps"),
        ],
    )
    @timeless
    async def test_who_works_at_once_shares_a_budget(self, steps: list[dict[str, Any]]) -> None:
        """Everybody has the same part of the tokens, and the final model its own."""
        client, config = client_of(**{name: After(1, name) for name in "abc"}), static(*steps)
        ledger = Ledger(Budget(tokens=4000), floors=floors(config.planned(), CATALOGUE, 5))
        run = replace(run_of(client), ledger=ledger)
        events = await events_of(client, config, run=run)

        assert text_of(events) == "the answer"
        limits = [asked.body["max_tokens"] for asked in client.asked[:3]]
        assert max(limits) - min(limits) <= 1
        assert limits[0] > 1000

    async def test_max_calls_keeps_one_for_the_final_stage(self) -> None:
        """Revisions stop where the bound on calls begins; the final stage always has its call."""
        client = client_of(v=FAIL)
        config = static(step("one", "a", "b"), verifier("check", "one"), max_calls=5)
        run = run_of(client)
        events = await events_of(client, config, run=run)

        assert len(client.asked) == 5
        assert "max_calls leaves no call for one.2" in run.trace.notes
        assert text_of(events) == "the answer"

    @timeless
    async def test_max_calls_has_room_for_a_plan_that_takes_just_that(self) -> None:
        """Retries that Envoy may make beside it take nothing of what the plan needs."""
        client = client_of(a=After(1, "by a"))
        events = await events_of(client, static(step("one", *["a"] * 8), max_calls=9))

        assert client.names == [*["a"] * 8, "f"]
        assert all(asked.call.retries == 0 for asked in client.asked)
        assert done_of(events).outcome == "ok"

    async def test_asking_again_is_held_to_max_calls(self) -> None:
        """A verifier that writes no JSON is not asked once more, and a final model not to mend its answer."""
        client = client_of(v="no JSON", f="neither")
        contract = ChoiceConfig.model_validate({"type": "choice", "values": ["A", "B"]}).build()
        run = replace(run_of(client), terms=Terms(contract))
        await events_of(
            client, static(step("one", "a"), verifier("check", "one"), max_calls=3), run=run
        )

        assert client.names == ["a", "v", "f"]

    async def test_a_blank_answer_is_none(self) -> None:
        """Thoughts and white space are nothing that others can be shown."""
        client = client_of(a=" \n", b=completion("<think>hm</think>"))
        events = await events_of(client, static(step("one", "a", "b", "c")))

        assert client.role("final").prompt.count(f"[answer {1} {FENCE}]") == 1
        assert "[answer 2" not in client.role("final").prompt
        assert done_of(events).outcome == "degraded"

    async def test_a_mistake_of_ours_is_no_quiet_failure(self) -> None:
        """A bug in a client is raised as it is, and whatever runs beside it is cancelled."""
        client = client_of(a=Crash(), b=Hang())
        with pytest.raises(ZeroDivisionError):
            await events_of(client, static(step("one", "a", "b")))
        assert client.running == []


class TestVerifiers:
    async def test_what_passes_goes_to_the_final_stage(self) -> None:
        """A verifier sees what it needs, as JSON says whether it is right, and the final model sees its verdict."""
        client = client_of()
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        asked = client.role("verifier")
        assert "said by a" in asked.prompt
        assert asked.body["response_format"]["type"] == "json_schema"
        assert f"[answer 2 {FENCE}] the verdict of check.1\npass\n" in client.role("final").prompt
        assert done_of(events).outcome == "ok"

    async def test_what_is_rejected_is_revised_once(self) -> None:
        """The worker gets its own answer and the reasons, answers again, and is verified again."""
        client = client_of(a=in_turn("wrong", "mended"), v=in_turn(FAIL, PASS))
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert client.names == ["a", "v", "a", "v", "f"]
        first, second = (asked.body["messages"] for asked in client.calls_of("a"))
        assert second[: len(first)] == first
        assert second[-2] == {"role": "assistant", "content": "wrong"}
        assert "the sign is wrong" in second[-1]["content"]
        assert "mended" in client.calls_of("v")[1].prompt
        assert (
            "wrong"
            not in client.calls_of("v")[1].prompt.replace("is right", "").partition("Your task")[0]
        )
        assert "mended" in client.role("final").prompt
        assert done_of(events).outcome == "ok"

    async def test_there_is_one_revision_and_no_second(self) -> None:
        """What is rejected again goes on as it is, told to the final stage, and the outcome says so."""
        client = client_of(v=FAIL)
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert client.names == ["a", "v", "a", "v", "f"]
        assert "the sign is wrong" in client.role("final").prompt
        assert done_of(events).lack == "verifier"

    async def test_a_revision_that_fails_leaves_the_answer(self) -> None:
        """The answer that was there stays, and is not verified again."""
        client = client_of(a=in_turn("first", refused(500)), v=FAIL)
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert client.names == ["a", "v", "a", "f"]
        assert "first" in client.role("final").prompt
        assert done_of(events).outcome == "degraded"

    async def test_two_verifiers_revise_once_together(self) -> None:
        """An answer is revised once in a run, however many verifiers there are."""
        client = client_of(v=FAIL)
        config = static(step("one", "a"), verifier("x", "one"), verifier("y", "one"))
        await events_of(client, config)

        assert len(client.calls_of("a")) == 2

    @timeless
    @pytest.mark.parametrize("seconds", [(1, 1), (1, 2), (2, 1), (1, 9)], ids=str)
    async def test_two_verifiers_at_once_have_one_revision(self, seconds: tuple[int, int]) -> None:
        """Whoever is first sends the answer back, and in the end both have said what they think of the new one."""
        x, y = (After(each, FAIL) for each in seconds)
        client = client_of(a=in_turn("first", After(3, "second")), v=x, c=y)
        other = {**verifier("y", "one"), "models": ["c"]}
        await events_of(client, static(step("one", "a"), verifier("x", "one"), other))

        _, again = (asked.body["messages"] for asked in client.calls_of("a"))
        assert [each["role"] for each in again] == ["user", "assistant", "user"]
        for name in "vc":
            assert "second" in client.calls_of(name)[-1].prompt
        assert len(client.asked) <= 7

    async def test_only_what_a_verifier_sees_is_sent_back(self) -> None:
        """What it has found says nothing of an answer that it was not shown, nor to whom that belongs."""
        client = client_of(a=in_turn("wrong", "mended"), v=in_turn(FAIL, PASS))
        sees_one = verifier("check", "one", "two", sees=["one"])
        events = await events_of(client, static(step("one", "a"), step("two", "b"), sees_one))

        assert client.names == ["a", "b", "v", "a", "v", "f"]
        assert done_of(events).outcome == "ok"

    async def test_the_budget_keeps_room_for_a_revision(self) -> None:
        """A budget of just what the plan may take has room for all of it."""
        client = client_of(v=in_turn(FAIL, PASS))
        config = static(step("one", "a"), verifier("check", "one"))
        planned = planned_calls(config.planned())
        await events_of(client, config, run=run_of(client, calls=planned, planned=planned))

        assert client.names == ["a", "v", "a", "v", "f"]
        assert len(client.asked) == planned

    async def test_on_verify_fail_continue_revises_nothing(self) -> None:
        """Then the final model is told, and that is all."""
        client = client_of(v=FAIL)
        config = static(step("one", "a"), verifier("check", "one"), on_verify_fail="continue")
        events = await events_of(client, config)

        assert client.names == ["a", "v", "f"]
        assert done_of(events).outcome == "degraded"

    @pytest.mark.parametrize(
        "said", [FAIL, json.dumps({"verdict": "unsure"}), "fine with me", refused(500)]
    )
    async def test_on_verify_fail_fail_publishes_nothing_that_did_not_pass(
        self, said: Step
    ) -> None:
        """What was rejected, or for whatever reason not vouched for, is an error; nothing is revised or written."""
        client = client_of(v=said)
        config = static(step("one", "a"), verifier("check", "one"), on_verify_fail="fail")
        with pytest.raises(LooperError) as caught:
            await events_of(client, config)

        assert (caught.value.status, caught.value.code) == (502, "verification_failed")
        assert client.names.count("a") == 1
        assert "f" not in client.names
        assert text_of(await events_of(client_of(), config)) == "the answer"

    async def test_unsure_is_not_rejected(self) -> None:
        """A verifier that cannot tell has nothing revised, and the outcome says that nobody vouches for it."""
        client = client_of(v=json.dumps({"verdict": "unsure", "reasons": []}))
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert client.names == ["a", "v", "f"]
        assert done_of(events).lack == "verifier"

    async def test_one_reason_is_a_list_of_one(self) -> None:
        """A verifier that has one thing to say need not make a list of it."""
        client = client_of(v=json.dumps({"verdict": "fail", "reasons": "the sum is wrong"}))
        await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert [asked.prompt for asked in client.calls_of("a")][1].count("the sum is wrong") == 1
        assert len(client.calls_of("v")) == 2  # once before the revision, once behind it

    @pytest.mark.parametrize("said", [refused(500), "fine with me", '{"verdict": "great"}'])
    async def test_a_verifier_that_says_nothing_is_done_without(self, said: Step) -> None:
        """One re-ask for what is no verdict; then the run goes on without one."""
        client = client_of(v=said)
        events = await events_of(client, static(step("one", "a"), verifier("check", "one")))

        assert text_of(events) == "the answer"
        assert "the verdict" not in client.role("final").prompt
        assert done_of(events).outcome == "degraded"

    async def test_what_a_verifier_rejected_is_no_good_stand_in(self) -> None:
        """When the final model fails, an answer that passed comes before one that did not."""
        client = client_of(v=FAIL, f=refused(500))
        config = static(step("one", "a"), step("two", "b", needs=["one"]), verifier("check", "two"))
        events = await events_of(client, config)

        assert text_of(events) == "said by a"


class TestPlanner:
    async def test_the_plan_is_the_planners(self) -> None:
        """Its steps are worked on, its `final` is followed, and it knows models by labels only."""
        written = plan(
            step("dig", "m2"),
            step("sum_up", "m1", needs=["dig"]),
            final={"prompt": "Be brief.", "sees": ["sum_up"]},
        )
        client = client_of(p=written)
        events = await events_of(client, dynamic())

        assert client.names == ["p", "b", "a", "f"]
        assert stages_of(events) == ["planner", "dig", "sum_up", "final"]
        planner = client.role("planner")
        assert "- m2: right in 90% of cases" in planner.prompt
        assert "vendor" not in planner.prompt
        assert client.role("final").prompt.endswith("Be brief.")
        assert "said by b" not in client.role("final").prompt
        assert done_of(events).outcome == "ok"

    async def test_its_limits_are_its_own(self) -> None:
        """The client's limit and effort are not the planner's, nor are the planner's the final's."""
        planner = {"model": "p", "max_output": 700, "reasoning_effort": "low", "prompt": "Keep it small."}  # fmt: skip
        client = client_of(p=plan(step("dig", "m1")))
        await events_of(client, dynamic(planner=planner), max_tokens=5000, reasoning_effort="high")

        asked, final = client.role("planner"), client.role("final")
        assert asked.body["max_tokens"] == 700
        assert asked.body["reasoning_effort"] == "low"
        assert "Keep it small." in asked.prompt
        assert final.body["max_tokens"] == 5000
        assert final.body["reasoning_effort"] == "high"

    async def test_a_bad_plan_is_sent_back_once_with_all_that_is_wrong(self) -> None:
        """The planner reads each problem, and its second plan counts."""
        bad = plan(step("x", "m9"), step("y", "m1", needs=["z"]))
        client = client_of(p=in_turn(bad, plan(step("dig", "m1"))))
        events = await events_of(client, dynamic())

        again = client.calls_of("p")[1].prompt
        assert "steps.0.models.0: there is no model 'm9': there are: m1, m2, m3" in again
        assert "steps.1.needs.0: there is no step 'z'" in again
        assert client.names == ["p", "p", "a", "f"]
        assert done_of(events).outcome == "ok"

    @pytest.mark.parametrize(
        "said",
        [refused(500), refused(400), CallFailed(Failure.CONNECT), "no plan", plan(step("x", "m9"))],
        ids=["500", "400", "down", "prose", "invalid"],
    )
    @both
    async def test_without_a_plan_every_model_solves_the_task(
        self, said: Step, stream: bool
    ) -> None:
        """A planner that is down, or twice of no use: all solve it side by side, and the final model sums up."""
        client = client_of(p=said)
        events = await events_of(client, dynamic(), stream=stream)

        workers = [asked.name for asked in client.asked if asked.role == "worker"]
        assert workers == ["a", "b", "c"]
        assert text_of(events) == "the answer"
        assert done_of(events).lack == "planner"

    async def test_a_budget_smaller_than_all_that_a_plan_may_be_has_room_to_ask_again(self) -> None:
        """What a plan takes is known when there is one; before that, room is kept for doing without."""
        client = client_of(p=in_turn("no plan", plan(step("dig", "m1"))))
        config = dynamic()
        planned = planned_calls(config.planned())
        assert planned > 6
        run = run_of(client, calls=6, planned=planned)
        await events_of(client, config, run=run)

        assert client.names == ["p", "p", "a", "f"]

    async def test_a_plan_is_held_to_what_the_budget_has(self) -> None:
        """The planner is told how much it may spend, and a plan that takes more is none."""
        large, small = (plan(step("dig", *["m1"] * count)) for count in (5, 4))
        client = client_of(p=in_turn(large, small))
        events = await events_of(client, dynamic(), run=run_of(client, calls=7))

        first, again = client.calls_of("p")
        assert "at most 4 models over all steps" in first.prompt
        assert "the plan takes 6 calls, and at most 5 are allowed" in again.prompt
        assert client.names == ["p", "p", *["a"] * 4, "f"]
        assert done_of(events).outcome == "ok"

    async def test_nothing_is_asked_before_the_plan_is_checked(self) -> None:
        """No step of a plan begins that has a fault anywhere."""
        bad = plan(step("good", "m1"), step("bad", "m2", needs=["good", "ghost"]))
        client = client_of(p=in_turn(bad, bad))
        await events_of(client, dynamic())

        assert "do good" not in "".join(asked.prompt for asked in client.asked)

    @pytest.mark.parametrize(
        "steps",
        [
            [step(f"s{number}", "m1") for number in range(4)],
            [step("s", *["m1"] * 5)],
            [step("s", "m1", prompt="x" * 8193)],
        ],
        ids=["steps", "calls", "prompt"],
    )
    async def test_bounds_are_the_operators(self, steps: list[dict[str, Any]]) -> None:
        """More steps, calls or bytes than are allowed are no plan."""
        client = client_of(p=plan(*steps))
        config = dynamic(max_steps=3, max_calls=7)
        await events_of(client, config)

        assert len(client.calls_of("p")) == 2
        assert len(client.asked) <= 7


class TestTrace:
    async def test_it_shows_the_plan_and_its_agents(self) -> None:
        """Steps, who worked on them and what came of it, and whose each call was; nothing of what was said."""
        client = client_of(a=in_turn("wrong", "mended"), b=refused(500), v=in_turn(FAIL, PASS))
        run = run_of(client)
        await events_of(client, static(step("one", "a", "b"), verifier("check", "one")), run=run)
        shown = run.trace.to_dict()

        assert shown["plan"] == [
            {"step": "one", "role": "worker", "models": ["a", "b"], "needs": []},
            {"step": "check", "role": "verifier", "models": ["v"], "needs": ["one"]},
        ]
        assert shown["agents"] == [
            {"agent": "one.1", "model": "a", "state": "done", "turns": 0, "revised": True},
            {"agent": "one.2", "model": "b", "state": "failed", "turns": 0},
            {"agent": "check.1", "model": "v", "state": "done", "turns": 0, "verdict": "pass"},
        ]
        assert [call["agent"] for call in shown["calls"]] == [
            "one.1", "one.2", "check.1", "one.1", "check.1", "final",
        ]  # fmt: skip
        assert not [
            word
            for word in ("mended", "the sign", "do one", "why?", "the answer")
            if word in json.dumps(shown)
        ]

    async def test_a_planners_words_are_not_in_it(self) -> None:
        """A planner's ids could be words of the conversation: the trace counts steps instead."""
        client = client_of(p=plan(step("ottawa", "m1"), step("canada", "m2", needs=["ottawa"])))
        run = run_of(client)
        await events_of(client, dynamic(), run=run)
        shown = json.dumps(run.trace.to_dict())

        assert "ottawa" not in shown
        assert "canada" not in shown
        assert [stage["stage"] for stage in run.trace.to_dict()["stages"]] == [
            "planner", "step1", "step2", "final",
        ]  # fmt: skip


class TestPlan:
    def test_of_a_static_plan_is_known_to_the_call(self) -> None:
        """Agents, a final call, and room for a revision of what a verifier may reject."""
        config = static(step("one", "a", "b"), verifier("check", "one"))
        calls = config.planned()

        assert planned_calls(calls) == 2 + 1 + 1 + 3
        assert calls[-1].role == "final"
        assert calls[-1].need == "always"
        assert len(calls) == config.max_calls

    def test_of_a_dynamic_plan_is_its_bounds(self) -> None:
        """A planner's plan is at most what its bounds allow."""
        config = dynamic(max_calls=10)

        assert planned_calls(config.planned()) == 10
        assert sum(call.need == "always" for call in config.planned()) == 3
