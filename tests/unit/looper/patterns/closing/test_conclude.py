import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydantic import TypeAdapter

from looper.calling.budget import Budget, Ledger
from looper.calling.cost import planned_calls
from looper.contract import ContractConfig, OnViolation, Terms
from looper.errors import ContractViolated, LooperError
from looper.patterns.fusion import FusionConfig
from looper.patterns.single import SingleConfig
from looper.run import Deadline, Run, seeded
from looper.wire.chat import ChatRequest
from looper.wire.events import Delta, Done, Event, Finish
from tests.fakes.models import (
    ScriptedClient,
    Step,
    Stream,
    chunk,
    completion,
    in_turn,
    model,
    refused,
)

CHOICE = {"type": "choice", "values": ["A", "B", "C"], "render": "ANSWER: {choice}"}
SINGLE = {"type": "single", "model": "a", "fallbacks": ["b"]}
FUSION = {"type": "fusion", "analysis_models": ["a", "b"], "judge_model": "j", "final_model": "f"}
JUDGED = json.dumps({"winner": 1, "agreement": 0.5})
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@dataclass
class Answered:
    """What a run said, and what it asked for."""

    client: ScriptedClient
    run: Run
    events: list[Event] = field(default_factory=list)
    error: LooperError | None = None

    def text(self, kind: str = "content") -> str:
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return "".join(delta.value for delta in deltas if delta.kind == kind)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if isinstance(event, Delta)]

    @property
    def outcome(self) -> str:
        last = self.events[-1]
        assert isinstance(last, Done)
        return last.outcome


async def answer(
    script: Mapping[str, Step],
    *,
    algorithm: Mapping[str, Any] = SINGLE,
    contract: Mapping[str, Any] | None = CHOICE,
    prompt: str | None = None,
    on_violation: OnViolation = "pass",
    stream: bool = False,
    calls: int | None = None,
    **members: Any,
) -> Answered:
    body = {"model": "m", "messages": [{"role": "user", "content": "A, B or C?"}], "stream": stream}
    request = ChatRequest.parse(json.dumps({**body, **members}).encode())
    client = ScriptedClient(script)
    built: Any = None
    if contract is not None:
        config: Any = TypeAdapter(ContractConfig).validate_python(contract)
        built = config.build()
    kinds: Mapping[str, type[SingleConfig | FusionConfig]] = {
        "single": SingleConfig,
        "fusion": FusionConfig,
    }
    pattern = kinds[algorithm["type"]].model_validate(algorithm)
    run = Run(
        "r",
        {name: model(name) for name in "abjf"},
        client,
        Ledger(Budget(calls=calls), planned_calls=planned_calls(pattern.planned())),
        Deadline.after(60),
        seeded(request),
        terms=Terms(built, prompt, on_violation),
    )
    answered = Answered(client, run)
    try:
        async for event in pattern.build().run(request, run):
            answered.events.append(event)  # what came before an error is kept
    except LooperError as error:
        answered.error = error
    return answered


class TestOneModel:
    @both_ways
    async def test_an_answer_that_keeps_its_contract_is_published_as_it_is(
        self, stream: bool
    ) -> None:
        """Nothing is added or taken away, and nobody is asked again."""
        said = await answer({"a": "I think so.\nANSWER: B"}, stream=stream)
        assert said.text() == "I think so.\nANSWER: B"
        assert said.outcome == "ok"
        assert said.client.names == ["a"]

    @both_ways
    async def test_machinery_mends_what_it_can(self, stream: bool) -> None:
        """An answer whose value is plain gets its form without another call."""
        said = await answer({"a": "The answer is **B**."}, stream=stream)
        assert said.text().endswith("ANSWER: B")
        assert said.outcome == "ok"
        assert said.client.names == ["a"]

    @both_ways
    async def test_a_mended_answer_has_no_probabilities_of_another_text(self, stream: bool) -> None:
        """Logprobs of what was replaced would be a lie."""
        step = completion("The answer is B.", logprobs={"content": [{"token": "The"}]})
        streamed = Stream(
            [chunk("The answer is B.", logprobs={"content": []}), chunk(finish="stop")]
        )
        said = await answer({"a": streamed if stream else step}, stream=stream, logprobs=True)
        assert said.text().endswith("ANSWER: B")
        assert "logprobs" not in said.kinds()

    @both_ways
    async def test_a_model_mends_what_machinery_cannot(self, stream: bool) -> None:
        """One more call shows the model its answer and quotes what is wrong with it."""
        said = await answer({"a": in_turn("I cannot decide.", "ANSWER: C")}, stream=stream)
        assert (said.text(), said.outcome) == ("ANSWER: C", "ok")
        first, repair = said.client.asked
        assert (repair.name, repair.role, repair.streamed) == ("a", "repair", False)
        assert [each["content"] for each in repair.body["messages"][-2:-1]] == ["I cannot decide."]
        assert "does not have the form" in repair.prompt
        assert repair.body["messages"][:-2] == first.body["messages"]

    @both_ways
    async def test_the_next_model_answers_in_place_of_one_that_cannot(self, stream: bool) -> None:
        """After a repair that does not help, a fallback may do better."""
        said = await answer({"a": "I cannot decide.", "b": "ANSWER: A"}, stream=stream)
        assert (said.text(), said.outcome) == ("ANSWER: A", "fallback")
        assert said.client.names == ["a", "a", "b"]

    @both_ways
    async def test_where_nobody_keeps_it_the_first_answer_passes(self, stream: bool) -> None:
        """`on_violation: pass`: an answer in the wrong form is better than none, and is called degraded."""
        said = await answer({"a": "I cannot decide.", "b": "Nor can I."}, stream=stream)
        assert (said.text(), said.outcome) == ("I cannot decide.", "degraded")

    @both_ways
    async def test_where_nobody_keeps_it_the_run_may_fail(self, stream: bool) -> None:
        """`on_violation: fail`: the client reads an error, and nothing of the answers."""
        script = {"a": "I cannot decide.", "b": "Nor can I."}
        said = await answer(script, stream=stream, on_violation="fail")
        assert isinstance(said.error, ContractViolated)
        assert said.events == []

    async def test_a_plan_without_a_spare_call_has_no_repair(self) -> None:
        """The fallback's call is not spent on mending."""
        said = await answer({"a": "I cannot decide.", "b": "ANSWER: A"}, calls=2)
        assert said.text() == "ANSWER: A"
        assert said.client.names == ["a", "b"]

    async def test_thoughts_are_not_held_back(self) -> None:
        """A stream under a contract still shows what its model thinks, as it thinks it."""
        steps = [
            chunk(reasoning_content="Hm."),
            chunk("ANSWER: "),
            chunk("A"),
            chunk(finish="stop"),
        ]
        said = await answer({"a": Stream(steps)}, stream=True)
        assert said.kinds() == ["reasoning_content", "content", "content"]

    async def test_a_stream_that_breaks_off_has_said_nothing(self) -> None:
        """What was held back is not published in part: the next model answers."""
        broken = Stream([chunk("ANSWER: A and then")], end=refused(500))
        said = await answer({"a": broken, "b": "ANSWER: B"}, stream=True)
        assert (said.text(), said.outcome) == ("ANSWER: B", "fallback")

    @both_ways
    @pytest.mark.parametrize(
        ("step", "kind"),
        [
            pytest.param({"tool_calls": [CALL]}, "tool_calls", id="tool-call"),
            pytest.param({"refusal": "I will not."}, "refusal", id="refusal"),
        ],
    )
    async def test_what_is_no_content_breaks_no_contract(
        self, stream: bool, step: dict[str, Any], kind: str
    ) -> None:
        """Tool calls and refusals are published as they are."""
        streamed = Stream([chunk(**step), chunk(finish="stop")])
        said = await answer({"a": streamed if stream else completion(**step)}, stream=stream)
        assert said.kinds() == [kind]
        assert said.outcome == "ok"

    async def test_each_of_several_choices_is_held_to_it(self) -> None:
        """Where one model gives several answers, machinery mends each."""
        both = completion("It is A.")
        (choice,) = both.choices
        second = completion("It is B.").choices[0]
        several = type(both)(
            choices=[choice, type(second)(1, second.message, finish_reason="stop")]
        )
        said = await answer({"a": several}, n=2)
        texts = [event.value for event in said.events if isinstance(event, Delta)]
        assert [text.splitlines()[-1] for text in texts] == ["ANSWER: A", "ANSWER: B"]
        assert [event.choice for event in said.events if isinstance(event, Finish)] == [0, 1]


class TestTeam:
    @both_ways
    async def test_a_final_that_breaks_the_contract_is_replaced(self, stream: bool) -> None:
        """The judge's winner comes next; the first answer that keeps the contract is published."""
        script: dict[str, Step] = {
            "a": "I cannot say.", "b": "It is B.", "j": JUDGED, "f": "It depends on many things.",
        }  # fmt: skip
        said = await answer(script, algorithm=FUSION, stream=stream)
        assert said.text().endswith("ANSWER: B")
        assert said.outcome == "fallback"
        assert [asked.role for asked in said.client.asked][-2:] == ["final", "repair"]

    @both_ways
    async def test_a_final_that_fails_is_replaced_by_what_keeps_the_contract(
        self, stream: bool
    ) -> None:
        """The best answer stands in only if it has the form."""
        script: dict[str, Step] = {
            "a": "I cannot say.", "b": "It is B.", "j": JUDGED, "f": refused(500),
        }  # fmt: skip
        said = await answer(script, algorithm=FUSION, stream=stream, on_violation="fail")
        assert said.text().endswith("ANSWER: B")
        assert said.outcome == "fallback"

    async def test_each_that_answers_is_told_of_the_contract(self) -> None:
        """`contract_prompt` goes to panel, final and repair; never to the judge, whose answer has another form."""
        script: dict[str, Step] = {
            "a": "A", "b": "B", "j": JUDGED, "f": in_turn("Hm.", "ANSWER: A"),
        }  # fmt: skip
        said = await answer(script, algorithm=FUSION, prompt="End with ANSWER: X.")
        told = {
            asked.role: "End with ANSWER: X." in asked.call.body.decode()
            for asked in said.client.asked
        }
        assert told == {"panel": True, "judge": False, "final": True, "repair": True}

    @both_ways
    async def test_without_a_contract_nothing_changes(self, stream: bool) -> None:
        """The final answer is published whatever it says."""
        script: dict[str, Step] = {"a": "A", "b": "B", "j": JUDGED, "f": "It depends."}
        said = await answer(script, algorithm=FUSION, contract=None, stream=stream)
        assert (said.text(), said.outcome) == ("It depends.", "ok")


@pytest.mark.parametrize(
    "said", ["ANSWER: B", "The answer is B.", "no idea", "```\nANSWER: A\n```", "(C)"]
)
async def test_streamed_and_whole_are_the_same(said: str) -> None:
    """However the client takes the answer, it reads the same text."""
    script = {"a": said, "b": "Nor do I."}
    whole, streamed = await answer(script), await answer(script, stream=True)
    assert whole.text() == streamed.text()
    assert whole.outcome == streamed.outcome
