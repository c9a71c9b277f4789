import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from random import Random
from typing import Any

import pytest

from looper.calling.budget import Budget, Ledger
from looper.calling.models import Model
from looper.contract import ChoiceConfig, Terms
from looper.errors import InvalidField, LooperError
from looper.patterns.confidence import Confidence, ConfidenceConfig
from looper.run import Deadline, Run
from looper.wire.chat import ChatRequest, Completion
from looper.wire.events import Delta, Done, Event, Finish, Grounds, Progress
from tests.fakes.clock import timeless
from tests.fakes.models import (
    USAGE,
    After,
    Answers,
    Asked,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    chunks,
    completion,
    in_turn,
    last_chunk,
    model,
    refused,
)

CATALOGUE: Mapping[str, Model] = {
    "small": model("small", rating=0.65),
    "other": model("other", rating=0.66),
    "third": model("third", rating=0.68),
    "large": model("large", rating=0.72),
    "huge": model("huge", rating=0.97),
    "plain": model("plain", rating=0.65, capabilities=["tools"]),
    "judge": model("judge"),
}
CHOICE = ChoiceConfig(type="choice", values=("A", "B", "C", "D")).build()
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def confidence(*stages: Any, **settings: Any) -> Confidence:
    return Confidence(
        ConfidenceConfig.model_validate(
            {
                "type": "confidence",
                "stages": stages or ["small", "large"],
                "confidence_method": "avg_logprob",
                **({"threshold": 0.8} if "confidence_method" not in settings else {}),
                **settings,
            }
        )
    )


def sure(text: str, score: float, *, pieces: Sequence[str] = (), **message: Any) -> Completion:
    """An answer whose mean log-probability makes this score."""
    logprob = 3 * (score - 1)
    tokens = [
        {"token": piece, "logprob": logprob, "top_logprobs": []} for piece in pieces or [text]
    ]
    return completion(text, logprobs={"content": tokens}, **message)


def streamed(text: str, score: float, *, finish: str = "stop") -> Stream:
    """The same as a stream, a character at a time."""
    logprob = 3 * (score - 1)
    bits = [
        chunk(each, logprobs={"content": [{"token": each, "logprob": logprob}]}) for each in text
    ]
    return Stream([*bits, chunk(finish=finish), last_chunk(USAGE)])


class Played:
    """A run, with what came of it."""

    def __init__(self, client: ScriptedClient, run: Run) -> None:
        self.client = client
        self.run = run
        self.events: list[Event] = []

    @property
    def text(self) -> str:
        return "".join(self.said("content"))

    def said(self, kind: str) -> list[Any]:
        deltas = (event for event in self.events if isinstance(event, Delta))
        return [event.value for event in deltas if event.kind == kind]

    @property
    def done(self) -> Done:
        assert [event for event in self.events if isinstance(event, Done)] == self.events[-1:]
        assert isinstance(self.events[-1], Done)
        return self.events[-1]

    @property
    def verdicts(self) -> list[tuple[str, float | None, str | None]]:
        return [
            (
                record.model,
                record.score if record.score is None else round(record.score, 3),
                record.verdict,
            )
            for record in self.run.trace.calls
            if record.role == "candidate"
        ]


async def gather(events: AsyncGenerator[Event], into: list[Event]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401  # what came before an error is kept


async def play(
    pattern: Confidence,
    script: Mapping[str, Step],
    *,
    contract: Any = None,
    calls: int | None = None,
    bands: Mapping[str, str] | None = None,
    **members: Any,
) -> Played:
    client = ScriptedClient(script)
    messages = [{"role": "user", "content": "why?"}]
    request = ChatRequest.parse(
        json.dumps({"model": "looper/auto", "messages": messages, **members}).encode()
    )
    run = Run(
        "r", CATALOGUE, client, Ledger(Budget(calls=calls)), Deadline.after(100), Random(1),
        terms=Terms(contract), bands=bands or {},
    )  # fmt: skip
    played = Played(client, run)
    await gather(pattern.run(request, run), played.events)
    return played


class TestScores:
    async def test_what_is_sure_enough_is_published(self) -> None:
        """An answer at the threshold ends the chain, and nobody else is asked."""
        played = await play(confidence(), {"small": sure("yes", 0.8)})
        assert played.client.names == ["small"]
        assert played.text == "yes"
        assert played.done.outcome == "ok"
        assert played.done.confidence == pytest.approx(0.8)
        assert played.verdicts == [("small", 0.8, "accepted at 0.8")]

    async def test_what_is_not_is_escalated(self) -> None:
        """One below it is not, and the next stage answers."""
        played = await play(confidence(), {"small": sure("no", 0.79), "large": sure("yes", 0.9)})
        assert played.text == "yes"
        assert played.verdicts == [("small", 0.79, "below 0.8"), ("large", 0.9, "accepted at 0.8")]

    async def test_the_threshold_is_met_by_its_own_mean(self) -> None:
        """A mean of -0.6 is a score of 0.8, whatever floating point makes of (-0.6 + 3) / 3."""
        logprobs = {"content": [{"token": "yes", "logprob": -0.6, "top_logprobs": []}]}
        played = await play(confidence(), {"small": completion("yes", logprobs=logprobs)})
        assert played.client.names == ["small"]

    async def test_others_go_on_while_many_tokens_are_read(self) -> None:
        """A long answer with the probabilities of its tokens does not stop the process."""
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        long = sure("x" * 40_000, 0.9, pieces=["x"] * 40_000)
        async with asyncio.TaskGroup() as group:
            other = group.create_task(tick())
            played = await play(confidence(), {"small": long})
            other.cancel()
        assert played.done.confidence == pytest.approx(0.9)
        assert ticks > 100

    @timeless
    async def test_long_answers_are_read_in_time_that_jumps(self) -> None:
        """In an evaluation, whose clock runs ahead of real work, they are read at once."""
        long = sure("x" * 40_000, 0.9, pieces=["x"] * 40_000)
        played = await play(confidence(), {"small": long})
        assert played.done.confidence == pytest.approx(0.9)

    async def test_a_threshold_of_zero_accepts_everything(self) -> None:
        """An explicit 0 is 0."""
        played = await play(confidence(threshold=0), {"small": sure("no", 0.0)})
        assert (played.text, played.done.outcome) == ("no", "ok")

    @pytest.mark.parametrize(
        ("method", "top", "accepted"),
        [
            ("margin", [-0.1, -5.1], True),
            ("margin", [-0.1, -1.1], False),
            ("hybrid", [-0.1, -9.0], True),
            ("hybrid", [-0.1, -1.1], False),
        ],
    )
    async def test_the_gap_counts_where_it_is_to(
        self, method: str, top: list[float], accepted: bool
    ) -> None:
        """Alternatives are asked for, and how far the best was ahead decides."""
        alternatives = [{"token": f"t{at}", "logprob": each} for at, each in enumerate(top)]
        token = {"token": "t0", "logprob": top[0], "top_logprobs": alternatives}
        script: dict[str, Step] = {
            "small": completion("t0", logprobs={"content": [token]}),
            "large": sure("yes", 1),
        }
        pattern = confidence(confidence_method=method, threshold=0.7)
        played = await play(pattern, script)
        assert ("large" not in played.client.names) == accepted
        assert played.client.asked[0].body["top_logprobs"] == 2

    async def test_the_answers_own_tokens_count(self) -> None:
        """`answer_span` looks at the tokens of what the contract reads, and at no others."""
        tokens = [{"token": "ANSWER:", "logprob": -2.0}, {"token": " B", "logprob": -0.05}]
        script: dict[str, Step] = {"small": completion("ANSWER: B", logprobs={"content": tokens})}
        pattern = confidence(confidence_method="answer_span", threshold=0.9)
        assert (await play(pattern, script, contract=CHOICE)).client.names == ["small"]

    async def test_a_calibrated_score_is_a_probability(self) -> None:
        """With knots it is what a score is worth that counts, for each model by itself."""
        knots = {"small": {"knots": [[0.5, 0.1], [1.0, 0.6]]}, "other": {"knots": [[0.0, 0.9]]}}
        pattern = confidence(
            "small", "other", "large", confidence_method="avg_logprob", calibration=knots
        )
        script: dict[str, Step] = {"small": sure("no", 0.99), "other": sure("yes", 0.2)}
        played = await play(pattern, script)
        assert played.text == "yes"
        assert played.done.confidence == pytest.approx(0.9)
        assert played.done.grounds == Grounds("avg_logprob", 0.7)

    async def test_what_was_enough_is_a_probability_too(self) -> None:
        """A raw score that `max_accepted_error` comes to is told as what it is worth, as the answer's score is."""
        accepted = [{"score": 0.6, "answers": 100, "wrong": 2}]
        small = {"knots": [[0.0, 0.0], [1.0, 1.0]], "accepted": accepted}
        large = {"knots": [[0.4, 0.5], [0.6, 0.9]], "accepted": accepted}
        pattern = confidence(
            confidence_method="avg_logprob",
            calibration={"small": small, "large": large},
            max_accepted_error=0.1,
        )
        played = await play(pattern, {"small": sure("no", 0.5), "large": sure("yes", 0.7)})
        assert played.verdicts == [("small", 0.5, "below 0.6"), ("large", 0.9, "accepted at 0.9")]
        assert played.done.grounds == Grounds("avg_logprob", 0.9)

    async def test_nothing_is_said_to_be_enough_where_nothing_is(self) -> None:
        """A calibration without outcomes shows of no score that it is."""
        knots = {"knots": [[0.0, 0.0], [1.0, 0.9]]}
        pattern = confidence(
            confidence_method="avg_logprob",
            calibration={"small": knots, "large": knots},
            max_accepted_error=0.1,
        )
        played = await play(pattern, {"small": sure("no", 0.5), "large": sure("yes", 1.0)})
        assert played.done.lack == "unsure"
        assert [verdict for _, _, verdict in played.verdicts] == ["never enough"] * 2
        assert played.done.grounds == Grounds("avg_logprob", None)

    @pytest.mark.parametrize(
        ("token_filter", "names"), [("tool_call_args", ["small"]), ("all", ["small", "large"])]
    )
    async def test_arguments_are_what_counts_of_a_call(
        self, token_filter: str, names: list[str]
    ) -> None:
        """Of an answer that calls tools its arguments are scored, and every call of it survives."""
        functions = [{"name": "weather", "arguments": f'{{"at":{at}}}'} for at in (1, 2)]
        calls = [
            {"id": f"c{at}", "type": "function", "function": function}
            for at, function in enumerate(functions)
        ]
        logprobs = {
            "content": [
                {"token": "<call>weather", "logprob": -9.0}, {"token": '{"at":1}', "logprob": -0.1},
                {"token": "<call>weather", "logprob": -9.0}, {"token": '{"at":2}', "logprob": -0.1},
            ]
        }  # fmt: skip
        answer = completion(tool_calls=calls, finish="tool_calls", logprobs=logprobs)
        script: dict[str, Step] = {"small": answer, "large": sure("hm", 0.1)}
        played = await play(confidence(token_filter=token_filter), script, tools=TOOLS)
        assert played.client.names == names
        if token_filter == "tool_call_args":
            assert [each["function"] for each in played.said("tool_calls")[0]] == functions
            assert played.said("logprobs") == []


class TestUnknown:
    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(completion("hm"), id="no-logprobs"),
            pytest.param(completion("hm", logprobs={"content": [1]}), id="nonsense"),
        ],
    )
    async def test_no_evidence_escalates(self, answer: Completion) -> None:
        """Without probabilities nobody knows, and the next stage is asked."""
        played = await play(confidence(threshold=0.1), {"small": answer, "large": sure("yes", 0.9)})
        assert played.text == "yes"
        assert played.verdicts[0] == ("small", None, "unknown")

    async def test_silence_is_told_from_the_unknown(self) -> None:
        """Who refuses has no score, and the trace says why."""
        script: dict[str, Step] = {"small": completion(refusal="no"), "large": sure("yes", 0.9)}
        played = await play(confidence(), script)
        assert played.verdicts[0] == ("small", None, "silent")

    async def test_what_is_unknown_stays_eligible(self) -> None:
        """When the next stage is down, the answer that nobody could judge is the best there is."""
        played = await play(confidence(), {"small": completion("hm"), "large": refused(500)})
        assert (played.text, played.done.outcome) == ("hm", "degraded")
        assert played.done.confidence is None

    async def test_a_model_without_logprobs_is_not_asked_for_any(self) -> None:
        """Nor does that make its answer a bad one."""
        script: dict[str, Step] = {"plain": completion("hm"), "large": refused(500)}
        played = await play(confidence("plain", "large"), script)
        assert "logprobs" not in played.client.asked[0].body
        assert played.text == "hm"


class TestNobodyPasses:
    async def test_the_best_score_is_published(self) -> None:
        """Not the last one, but the surest one, and the outcome says so."""
        script: dict[str, Step] = {"small": sure("better", 0.7), "large": sure("worse", 0.3)}
        played = await play(confidence(), script)
        assert (played.text, played.done.outcome) == ("better", "degraded")
        assert played.done.confidence == pytest.approx(0.7)

    @pytest.mark.parametrize(
        ("scores", "winner"),
        [
            pytest.param((0.2, None), "large", id="unknown-behind-known"),
            pytest.param((None, 0.2), "large", id="known-behind-unknown"),
            pytest.param((None, None), "large", id="nothing-known"),
            pytest.param((0.5, 0.3, None), "large", id="unknown-last"),
            pytest.param((0.5, None, 0.3), "other", id="unknown-between"),
            pytest.param((0.3, None, 0.5), "large", id="best-last"),
            pytest.param((0.3, None, None), "large", id="two-unknown"),
        ],
    )
    @whole_and_streamed
    async def test_escalation_says_that_an_answer_will_not_do(
        self, stream: bool, scores: tuple[float | None, ...], winner: str
    ) -> None:
        """A later answer of which nothing is known is more than one that was known not to be enough."""
        names = ("small", "large") if len(scores) == 2 else ("small", "other", "large")
        script: dict[str, Step] = {
            name: completion(name) if score is None else sure(name, score)
            for name, score in zip(names, scores, strict=True)
        }
        last = script["large"]
        if stream and winner != "large":
            return  # its words were out before anything was known of them
        if stream:
            assert isinstance(last, Completion)
            last = streamed("large", scores[-1]) if scores[-1] else Stream(chunks("large"))
        played = await play(confidence(*names), {**script, "large": last}, stream=stream)
        assert (played.text, played.done.outcome) == (winner, "degraded")

    @whole_and_streamed
    async def test_a_verifier_that_cannot_be_read_does_not_undo_an_escalation(
        self, stream: bool
    ) -> None:
        """What was rejected is not published because nobody graded the answer behind it."""
        pattern = confidence(confidence_method="verifier", verifier_model="judge", threshold=0.7)
        script: dict[str, Step] = {
            "small": "no",
            "large": Stream(chunks("yes")) if stream else "yes",
            "judge": in_turn('{"confidence": 0.2}', "hm"),
        }
        assert (await play(pattern, script, stream=stream)).text == "yes"

    @pytest.mark.parametrize("score", [0.9, None], ids=["sure", "unknown"])
    @whole_and_streamed
    async def test_the_last_answer_may_be_cut(self, stream: bool, score: float | None) -> None:
        """By its own limit: that is an answer, and says that it was cut."""
        cut: Step = completion("yes", finish="length")
        if score is not None:
            cut = sure("yes", score, finish="length")
        if stream:
            cut = (
                streamed("yes", score, finish="length")
                if score
                else Stream(chunks("yes", finish="length"))
            )
        played = await play(confidence(), {"small": sure("no", 0.1), "large": cut}, stream=stream)
        assert played.text == "yes"
        assert Finish("length") in played.events
        assert played.done.outcome == ("ok" if score else "degraded")

    async def test_an_earlier_answer_that_was_cut_is_the_last_resort(self) -> None:
        """Where its own limit cut it; one that the client's cut is what the client asked for."""
        script: dict[str, Step] = {
            "small": sure("half an", 0.9, finish="length"),
            "large": refused(500),
        }
        played = await play(confidence(), script)
        assert (played.text, played.client.names) == ("half an", ["small", "large"])
        played = await play(confidence(), script, max_tokens=9)
        assert (played.text, played.client.names) == ("half an", ["small"])

    async def test_a_cut_answer_counts_for_the_quorum(self) -> None:
        pattern = confidence(["small", "other"], min_successful_responses=2, below_quorum="fail")
        script: dict[str, Step] = {
            "small": sure("yes", 0.9), "other": completion("half", finish="length"),
        }  # fmt: skip
        assert (await play(pattern, script)).text == "yes"

    async def test_under_a_contract_everybodys_vote_decides(self) -> None:
        """Votes are pooled: two early stages that agree outweigh the last one."""
        script: dict[str, Step] = {
            "small": sure("ANSWER: A", 0.1), "other": sure("ANSWER: A", 0.1), "large": sure("ANSWER: B", 0.5),
        }  # fmt: skip
        played = await play(confidence("small", "other", "large"), script, contract=CHOICE)
        assert (played.text, played.done.outcome) == ("ANSWER: A", "degraded")

    async def test_unless_a_dominant_member_answered(self) -> None:
        """Beside a stage that is far better than the others it alone is heard."""
        script: dict[str, Step] = {
            "small": sure("ANSWER: A", 0.1), "other": sure("ANSWER: A", 0.1), "huge": sure("ANSWER: B", 0.5),
        }  # fmt: skip
        played = await play(confidence("small", "other", "huge"), script, contract=CHOICE)
        assert played.text == "ANSWER: B"

    @whole_and_streamed
    async def test_when_nobody_answers_the_error_is_typed(self, stream: bool) -> None:
        """A chain whose stages are all down is an error of their kind."""
        with pytest.raises(LooperError) as caught:
            await play(confidence(), {"small": refused(429), "large": refused(429)}, stream=stream)
        assert caught.value.code == "rate_limited"


class TestPosterior:
    async def test_voters_who_agree_are_enough(self) -> None:
        """Under a contract `auto` is the posterior of the vote: two peers who agree are enough."""
        pattern = confidence(["small", "other"], "large", confidence_method="auto")
        script: dict[str, Step] = {"small": "ANSWER: A", "other": "So: A"}
        played = await play(pattern, script, contract=CHOICE)
        assert played.text == "So: A"
        assert played.done.confidence is not None
        assert played.done.confidence > 0.7
        assert not any("logprobs" in asked.body for asked in played.client.asked)

    async def test_voters_who_contradict_each_other_are_not(self) -> None:
        """Then a third one is asked, and what the two said still counts."""
        pattern = confidence(["small", "other"], "third", confidence_method="auto")
        script: dict[str, Step] = {"small": "ANSWER: A", "other": "ANSWER: B", "third": "ANSWER: A"}
        played = await play(pattern, script, contract=CHOICE)
        assert played.text == "ANSWER: A"
        assert [verdict for _, _, verdict in played.verdicts][1] == "other"


class TestAgreement:
    @whole_and_streamed
    async def test_all_of_several_voters(self, stream: bool) -> None:
        """Two of two who agree pass 0.7; their words reach the client as they came."""
        pattern = confidence(["small", "other"], "large", confidence_method="agreement")
        script: dict[str, Step] = {"small": "ANSWER: A", "other": "\nA"}
        played = await play(pattern, script, contract=CHOICE, stream=stream)
        assert played.text == "\nA"
        assert played.done.confidence == pytest.approx(0.75)

    async def test_one_alone_says_little(self) -> None:
        """A single answer agrees with itself, which is no evidence."""
        pattern = confidence(confidence_method="agreement")
        script: dict[str, Step] = {"small": "ANSWER: A", "large": "ANSWER: A"}
        played = await play(pattern, script, contract=CHOICE)
        assert played.client.names == ["small", "large"]
        assert played.done.outcome == "ok"

    async def test_samples_of_one_model(self) -> None:
        """k samples with seeds of their own, of which most must agree."""
        pattern = confidence(confidence_method="agreement", samples=4, threshold=0.65)
        script: dict[str, Step] = {"small": in_turn("A", "A", "B", "A"), "large": "D"}
        played = await play(pattern, script, contract=CHOICE, seed=1)
        assert played.done.confidence == pytest.approx(4 / 6)
        assert len({asked.body["seed"] for asked in played.client.asked}) == 4

    @pytest.mark.parametrize(
        ("other", "names"), [("the capital is Ottawa", 2), ("Bananas grow on trees", 3)]
    )
    async def test_free_texts_agree_in_their_words(self, other: str, names: int) -> None:
        """Without a contract two texts of the same words agree."""
        pattern = confidence(["small", "other"], "large", confidence_method="agreement")
        script: dict[str, Step] = {
            "small": "The capital is Ottawa.",
            "other": other,
            "large": "Ottawa",
        }
        assert len((await play(pattern, script)).client.names) == names

    async def test_what_most_agree_on_is_published_though_they_are_too_few(self) -> None:
        """When no stage is sure, texts and calls of tools are not forgotten over a last one that says otherwise."""
        pattern = confidence(
            ["small", "other"], "large", confidence_method="agreement", threshold=0.9
        )
        texts: dict[str, Step] = {
            "small": "The capital is Ottawa.", "other": "the capital is Ottawa", "large": "Bananas",
        }  # fmt: skip
        played = await play(pattern, texts)
        assert played.text in (texts["small"], texts["other"])
        assert played.done.outcome == "degraded"
        assert played.done.confidence == pytest.approx(3 / 5)
        calls: dict[str, Step] = {
            name: completion(
                tool_calls=[{"id": name, "function": {"name": "weather", "arguments": at}}]
            )
            for name, at in (("small", "{}"), ("other", "{}"), ("large", '{"at":1}'))
        }
        played = await play(pattern, calls, tools=TOOLS)
        assert played.said("tool_calls")[0][0]["id"] == "other"

    async def test_prompts_are_voters_of_their_own(self) -> None:
        """One model that is asked in two ways is two voters."""
        stage = {"models": ["small"], "prompts": ["", "Write a program."]}
        pattern = confidence(stage, "large", confidence_method="agreement")
        played = await play(pattern, {"small": "A"}, contract=CHOICE)
        assert [asked.prompt for asked in played.client.asked] == [
            "why?",
            "why?\n\nWrite a program.",
        ]
        assert played.done.outcome == "ok"


class TestVerification:
    @pytest.mark.parametrize(
        ("verdict", "names"),
        [
            ('{"confidence": 0.9}', ["small", "judge"]),
            ('{"confidence": 0.2}', ["small", "judge", "large", "judge"]),
        ],
    )
    async def test_a_verifier_decides(self, verdict: str, names: list[str]) -> None:
        """What another model thinks of the answer is the score."""
        pattern = confidence(confidence_method="verifier", verifier_model="judge", threshold=0.7)
        script: dict[str, Step] = {
            "small": "yes",
            "large": "no",
            "judge": in_turn(verdict, '{"confidence": 0.8}'),
        }
        played = await play(pattern, script)
        assert played.client.names == names
        assert {asked.role for asked in played.client.calls_of("judge")} == {"verifier"}

    async def test_a_verdict_that_is_none_is_unknown(self) -> None:
        """After one re-ask nobody knows, and the next stage is asked; its answer may pass."""
        pattern = confidence(confidence_method="verifier", verifier_model="judge", threshold=0.7)
        script: dict[str, Step] = {
            "small": "hm", "large": "yes",
            "judge": in_turn('{"confidence": 95}', "1. Wrong.", '{"confidence": 0.9}'),
        }  # fmt: skip
        played = await play(pattern, script)
        assert (played.text, played.done.confidence) == ("yes", 0.9)
        assert played.verdicts[0] == ("small", None, "unknown")

    async def test_a_model_grades_itself(self) -> None:
        """`self_verify` asks the same model, whose grade is no answer of the client's."""
        pattern = confidence("small", confidence_method="self_verify", threshold=0.5)
        played = await play(pattern, {"small": in_turn("yes", '{"confidence": 0.6}')})
        assert [asked.role for asked in played.client.asked] == ["candidate", "verifier"]
        assert played.text == "yes"

    async def test_auto_reads_probabilities_and_else_has_the_model_grade_itself(self) -> None:
        """Without a contract the tokens decide; where there are none, the model."""
        top = [{"token": "yes", "logprob": -0.01}, {"token": "no", "logprob": -9}]
        token = {"token": "yes", "logprob": -0.01, "top_logprobs": top}
        pattern = confidence("small", "large", confidence_method="auto", threshold=0.7)
        played = await play(pattern, {"small": completion("yes", logprobs={"content": [token]})})
        assert played.client.names == ["small"]
        played = await play(pattern, {"small": in_turn("yes", '{"confidence": 0.9}')})
        assert [asked.role for asked in played.client.asked] == ["candidate", "verifier"]


class TestStreaming:
    @whole_and_streamed
    async def test_streamed_and_whole_are_the_same(self, stream: bool) -> None:
        """An accepted answer reads the same, however it is asked for; probabilities are taken out."""
        script: dict[str, Step] = {
            "small": sure(" é→😀 \n", 0.9, reasoning_content="hm", finish="length")
        }
        played = await play(confidence(), script, stream=stream, max_tokens=9)
        assert [event for event in played.events if not isinstance(event, Progress)][:-1] == [
            Delta("reasoning_content", "hm"), Delta("content", " é→😀 \n"), Finish("length"),
        ]  # fmt: skip

    async def test_the_last_answer_goes_out_as_it_is_written(self) -> None:
        """Where nothing could keep it from the client, the last stage is streamed; the others are not."""
        script: dict[str, Step] = {"small": sure("no", 0.1), "large": streamed("yes", 0.9)}
        played = await play(confidence(), script, stream=True)
        assert [asked.streamed for asked in played.client.asked] == [False, True]
        assert played.said("content") == ["y", "e", "s"]
        assert played.said("logprobs") == []
        assert played.done.outcome == "ok"
        assert played.done.confidence == pytest.approx(0.9)
        assert played.verdicts[-1] == ("large", 0.9, "accepted at 0.8")

    async def test_and_is_doubted_if_its_tokens_are(self) -> None:
        """What was published whatever it says may not have been sure enough."""
        script: dict[str, Step] = {"small": sure("no", 0.1), "large": streamed("hm", 0.5)}
        played = await play(confidence(), script, stream=True)
        assert (played.text, played.done.outcome) == ("hm", "degraded")

    async def test_under_a_contract_it_waits_for_the_pool(self) -> None:
        """What the vote may still decide is held back."""
        script: dict[str, Step] = {"small": sure("ANSWER: A", 0.1), "large": sure("ANSWER: A", 0.9)}
        played = await play(confidence(), script, stream=True, contract=CHOICE)
        assert not any(asked.streamed for asked in played.client.asked)

    async def test_a_last_stage_that_is_down_is_replaced(self) -> None:
        """Before its first word the best of the others stands in."""
        script: dict[str, Step] = {"small": sure("hm", 0.1), "large": refused(500)}
        played = await play(confidence(), script, stream=True)
        assert (played.text, played.done.outcome) == ("hm", "degraded")

    @whole_and_streamed
    async def test_a_substitute_writes_in_its_place(self, stream: bool) -> None:
        """However it is asked for, who stands in for the last stage's model is asked before others are heard."""
        written = streamed("yes", 0.9) if stream else sure("yes", 0.9)
        script: dict[str, Step] = {
            "small": sure("no", 0.1), "large": refused(500), "other": written,
        }  # fmt: skip
        played = await play(confidence(substitutes=["other"]), script, stream=stream)
        assert (played.text, played.done.outcome) == ("yes", "ok")
        assert played.done.confidence == pytest.approx(0.9)
        assert played.verdicts[-1] == ("other", 0.9, "accepted at 0.8")

    @whole_and_streamed
    @pytest.mark.parametrize("settings", [{"on_error": "fail"}, {"below_quorum": "fail"}])
    async def test_a_failure_that_is_to_end_the_run_does(
        self, stream: bool, settings: dict[str, Any]
    ) -> None:
        """However the answer is asked for, nobody else stands in then."""
        script: dict[str, Step] = {"small": sure("hm", 0.1), "large": refused(500)}
        with pytest.raises(LooperError):
            await play(confidence(**settings), script, stream=stream)

    @whole_and_streamed
    @timeless
    async def test_a_round_has_its_time(self, stream: bool) -> None:
        """Also the last one, which is not waited for longer because the client reads along."""
        script: dict[str, Step] = {"small": sure("hm", 0.1), "large": Hang()}
        began = asyncio.get_running_loop().time()
        played = await play(confidence(round_timeout="3s"), script, stream=stream)
        assert asyncio.get_running_loop().time() - began == pytest.approx(3)
        assert (played.text, played.done.outcome) == ("hm", "degraded")

    async def test_probabilities_go_to_a_client_that_asks(self) -> None:
        """As many alternatives as it asked for, not as many as were needed here."""
        top = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -9}]
        token = {"token": "a", "logprob": -0.1, "top_logprobs": top}
        pattern = confidence(confidence_method="margin", threshold=0.5)
        script: dict[str, Step] = {"small": completion("a", logprobs={"content": [token]})}
        played = await play(pattern, script, logprobs=True, top_logprobs=1)
        (found,) = played.said("logprobs")
        assert found["content"][0]["top_logprobs"] == top[:1]


class TestEarly:
    async def test_a_hopeless_answer_is_given_up(self) -> None:
        """Read while it is written, an answer that can hardly pass any more is broken off; tokens are saved."""
        script: dict[str, Step] = {"small": streamed("x" * 400, 0.1), "large": sure("yes", 0.9)}
        played = await play(confidence(escalate_early=True), script)
        assert played.client.cancelled == ["small"]
        assert played.text == "yes"
        assert played.verdicts[0] == ("small", None, "given up")
        # One character is a token here: 16 of the 400 were paid for.
        spent = played.run.trace.calls[0].usage
        assert spent is not None
        assert spent.completion_tokens <= 16
        assert "logprobs" in played.client.asked[0].body

    @whole_and_streamed
    async def test_who_was_given_up_for_nobody_is_asked_again(self, stream: bool) -> None:
        """When all others are down a poor answer is better than none, if the budget has room for it."""
        poor = streamed("x" * 400, 0.1)
        script: dict[str, Step] = {
            "small": in_turn(poor, poor if stream else sure("x" * 400, 0.1)), "large": refused(500),
        }  # fmt: skip
        pattern = confidence(escalate_early=True)
        played = await play(pattern, script, stream=stream)
        assert played.client.names == ["small", "large", "small"]
        assert (played.text, played.done.outcome) == ("x" * 400, "degraded")
        assert played.done.confidence == pytest.approx(0.1)
        with pytest.raises(LooperError):
            await play(pattern, script, stream=stream, calls=2)

    async def test_a_good_one_is_read_to_its_end(self) -> None:
        """What can still pass is not touched, and published as if it had come in one piece."""
        script: dict[str, Step] = {"small": streamed("x" * 400, 0.85)}
        played = await play(confidence(escalate_early=True), script)
        assert played.client.cancelled == []
        assert (played.text, played.done.outcome) == ("x" * 400, "ok")

    async def test_one_that_may_recover_is_not_given_up(self) -> None:
        """A poor beginning is made up for by a sure end."""
        poor = [chunk("x", logprobs={"content": [{"token": "x", "logprob": -0.8}]})] * 20
        fine = [chunk("y", logprobs={"content": [{"token": "y", "logprob": -0.01}]})] * 100
        script: dict[str, Step] = {
            "small": Stream([*poor, *fine, chunk(finish="stop"), last_chunk()])
        }
        played = await play(confidence(escalate_early=True), script)
        assert played.client.names == ["small"]
        assert played.done.outcome == "ok"

    async def test_thoughts_are_not_judged(self) -> None:
        """A model may doubt as long as it thinks."""
        logprobs = {"content": [{"token": "h", "logprob": -3.0}]}
        thoughts = [chunk(reasoning_content="h", logprobs=logprobs)] * 100
        answer = [chunk("y", logprobs={"content": [{"token": "y", "logprob": -0.01}]})] * 20
        script: dict[str, Step] = {
            "small": Stream([*thoughts, *answer, chunk(finish="stop"), last_chunk()])
        }
        played = await play(confidence(escalate_early=True), script)
        assert played.client.names == ["small"]
        assert played.text == "y" * 20

    async def test_the_last_stage_is_not_given_up(self) -> None:
        """Nobody would answer in its place."""
        script: dict[str, Step] = {"small": sure("x" * 50, 0.1)}
        played = await play(confidence("small", escalate_early=True), script)
        assert (played.text, played.done.outcome) == ("x" * 50, "degraded")


class TestOverlap:
    @timeless
    async def test_the_next_stage_begins_beside_a_slow_one(self) -> None:
        """After a while the next stage is asked too; the first that is sure wins, and the other is cancelled."""
        script: dict[str, Step] = {"small": Hang(), "large": After(1, sure("yes", 0.9))}
        begun = asyncio.get_running_loop().time()
        played = await play(confidence(overlap_after="2s"), script)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(3)
        assert played.text == "yes"
        assert played.client.cancelled == ["small"]

    @timeless
    async def test_the_slow_one_may_still_win(self) -> None:
        """If it is sure before the next one has answered, that one is cancelled."""
        script: dict[str, Step] = {"small": After(3, sure("yes", 0.9)), "large": Hang()}
        played = await play(confidence(overlap_after="2s"), script)
        assert played.text == "yes"
        assert played.client.cancelled == ["large"]

    @timeless
    async def test_a_quick_one_is_alone(self) -> None:
        """Who answers in time is not overlapped."""
        script: dict[str, Step] = {"small": After(1, sure("yes", 0.9)), "large": Hang()}
        played = await play(confidence(overlap_after="2s"), script)
        assert played.client.names == ["small"]

    @timeless
    async def test_one_that_fails_is_followed_at_once(self) -> None:
        """A stage that is over is not waited for."""
        script: dict[str, Step] = {
            "small": After(1, refused(500)),
            "large": After(1, sure("yes", 0.9)),
        }
        begun = asyncio.get_running_loop().time()
        played = await play(confidence(overlap_after="5s"), script)
        assert asyncio.get_running_loop().time() - begun == pytest.approx(2)
        assert played.text == "yes"


class TestBeginning:
    @pytest.mark.parametrize(
        ("bands", "names"),
        [
            ({"difficulty": "hard"}, ["large"]),
            ({"difficulty": "easy"}, ["small", "large"]),
            ({}, ["small", "large"]),
        ],
    )
    async def test_difficulty_chooses_where_to_begin(
        self, bands: Mapping[str, str], names: list[str]
    ) -> None:
        """A request that is known to be hard goes to the strong stage at once."""
        script: dict[str, Step] = {"small": sure("no", 0.1), "large": sure("yes", 0.9)}
        pattern = confidence(start_stage_by={"difficulty.hard": "large"})
        assert (await play(pattern, script, bands=bands)).client.names == names


class TestFailure:
    async def test_a_stage_that_is_down_is_passed_over(self) -> None:
        """The next one is asked."""
        played = await play(confidence(), {"small": refused(500), "large": sure("yes", 0.9)})
        assert (played.text, played.done.outcome) == ("yes", "ok")

    async def test_or_ends_the_run_if_that_is_wanted(self) -> None:
        """With `on_error: fail` the first failure is the run's."""
        with pytest.raises(LooperError):
            await play(
                confidence(on_error="fail"), {"small": refused(500), "large": sure("yes", 0.9)}
            )

    async def test_fewer_than_the_minimum_are_not_enough(self) -> None:
        """A stage of which too few say something does not pass, however sure they are."""
        pattern = confidence(["small", "other"], "large", min_successful_responses=2)
        script: dict[str, Step] = {
            "small": sure("yes", 1.0),
            "other": refused(500),
            "large": sure("no", 0.9),
        }
        assert (await play(pattern, script)).client.names == ["small", "other", "large"]

    async def test_a_budget_that_is_spent_ends_with_the_best(self) -> None:
        """What cannot be afforded is not asked, and the best so far is published."""
        script: dict[str, Step] = {"small": sure("hm", 0.1), "large": sure("yes", 0.9)}
        played = await play(confidence(), script, calls=1)
        assert played.client.names == ["small"]
        assert (played.text, played.done.outcome) == ("hm", "degraded")

    async def test_one_choice_only(self) -> None:
        """More than one cannot be had."""
        with pytest.raises(InvalidField) as caught:
            await play(confidence(), {}, n=2)
        assert caught.value.param == "n"

    async def test_silence_escalates(self) -> None:
        """A refusal is no answer to be sure of, but better than none."""
        script: dict[str, Step] = {"small": completion(refusal="no"), "large": refused(500)}
        played = await play(confidence(), script)
        assert played.said("refusal") == ["no"]
        assert played.done.outcome == "degraded"

    async def test_tools_reach_every_candidate(self) -> None:
        """The client's tools go to each stage."""
        script: dict[str, Step] = {"small": sure("no", 0.1), "large": sure("yes", 0.9)}
        played = await play(confidence(), script, tools=TOOLS)
        assert all(asked.body["tools"] == TOOLS for asked in played.client.asked)


async def test_a_verifier_reads_what_it_grades() -> None:
    """Each candidate of a stage is graded by itself, side by side."""
    seen: list[str] = []

    def judge(asked: Asked) -> str:
        seen.append("red" if "red" in asked.prompt else "blue")
        return json.dumps({"confidence": 0.9 if "blue" in asked.prompt else 0.1})

    pattern = confidence(
        ["small", "other"], "large", confidence_method="verifier", verifier_model="judge", threshold=0.8
    )  # fmt: skip
    script: dict[str, Step] = {"small": "red", "other": "blue", "judge": Answers(judge)}
    played = await play(pattern, script)
    assert sorted(seen) == ["blue", "red"]
    assert played.text == "blue"
