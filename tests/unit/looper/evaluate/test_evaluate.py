import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.calling.calls import Call, CallFailed, Failure, Role
from looper.evaluate import virtual
from looper.evaluate.dataset import Item, joined, read_dataset
from looper.evaluate.outcomes import OutcomesError, Question
from looper.evaluate.replay import Replay
from looper.evaluate.report import Graded, Report, bootstrap
from tests.fakes.models import model

PRICED = model("small", price={"input": 1, "output": 2})
ITEM = Item(id="q1", text="Which?", options=["red", "blue"])
ROW = Question(
    id="q1", gold="B", prompt_chars=400, answers={"rec": "B", "mute": ""}, chars={"rec": 240},
    latency={"rec": 2.0}, logprob={"rec": -0.25},
)  # fmt: skip


class TestDataset:
    def write(self, folder: Path, *lines: str, packed: bool = False) -> Path:
        path = folder / "data.jsonl"
        data = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(data) if packed else data)
        return path

    @pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
    def test_questions_are_read(self, tmp_path: Path, packed: bool) -> None:
        """Text with options becomes one message with letters; messages stay as they are."""
        one = '{"id": "a", "text": "Which?", "options": ["red", "blue"], "gold": "A"}'
        two = '{"id": "b", "messages": [{"role": "user", "content": "Hm?"}], "more": 1}'
        first, second = read_dataset(self.write(tmp_path, one, "", two, packed=packed))
        assert first.conversation() == [{"role": "user", "content": "Which?\nA) red\nB) blue"}]
        assert second.conversation() == [{"role": "user", "content": "Hm?"}]

    @pytest.mark.parametrize(
        ("lines", "complaint"),
        [
            pytest.param(["{"], ":1: ", id="no-json"),
            pytest.param(['{"text": "x"}'], ":1: ", id="no-id"),
            pytest.param(['{"id": "a", "text": "x"}', '{"id": "b"}'], ":2: neither `text`", id="no-question"),
            pytest.param(['{"id": "a", "text": "x"}'] * 2, "`id` stands twice", id="twice"),
            pytest.param([""], "no questions", id="empty"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_with_its_line(
        self, tmp_path: Path, lines: list[str], complaint: str
    ) -> None:
        """The first line that is no question is named."""
        with pytest.raises(OutcomesError, match=complaint):
            read_dataset(self.write(tmp_path, *lines))

    def test_questions_meet_their_records(self) -> None:
        """By id; what was not recorded is left out."""
        other = Item(id="q2", text="What?")
        assert joined([other, ITEM], [ROW]) == [(ITEM, ROW)]
        with pytest.raises(OutcomesError, match="no question"):
            joined([other], [ROW])

    def test_somebody_must_say_what_is_right(self) -> None:
        """Neither the dataset nor the record does."""
        with pytest.raises(OutcomesError, match="q1: nobody says"):
            joined([ITEM], [Question(id="q1", answers={"rec": "B"})])


def call(
    role: Role = "member", *, behind: str | None = None, text: str = "Which?\nA) red\nB) blue"
) -> Call:
    messages = [{"role": "user", "content": text}]
    if behind is not None:
        messages.append({"role": "user", "content": behind})
    return Call(PRICED, role, json.dumps({"messages": messages}).encode())


def replay(names: Mapping[str, str] | None = None) -> Replay:
    made = Replay(names or {"small": "rec"})
    made.learn(ITEM, ROW)
    return made


class TestReplay:
    def test_says_what_was_recorded_in_its_time_at_its_price(self) -> None:
        """Text, usage, log-probability, seconds and cost are the record's."""
        models = replay()

        async def work() -> tuple[Any, float]:
            answer = await models.complete(call(), {}, deadline=100)
            return answer.completion, virtual_now()

        completion, took = virtual.run(work())
        (choice,) = completion.choices
        assert choice.message.content == "B"
        assert completion.usage.read().prompt_tokens == 100
        assert completion.usage.read().completion_tokens == 60
        assert json.loads(bytes(choice.logprobs))["content"][0]["logprob"] == -0.25
        assert took == pytest.approx(2.0)
        assert models.microusd == pytest.approx(100 + 2 * 60)

    def test_our_instruction_may_stand_behind_the_question(self) -> None:
        """A call is known by what it begins with."""
        answer = virtual.run(replay().complete(call(behind="End with a letter."), {}, deadline=100))
        assert answer.completion.choices[0].message is not None

    def test_a_stream_says_the_same(self) -> None:
        """One chunk, an end, and the usage with it."""

        async def work() -> list[Any]:
            return [each.completion async for each in replay().stream(call(), {}, deadline=100)]

        said, end = virtual.run(work())
        assert said.choices[0].delta.content == "B"
        assert end.choices[0].finish_reason == "stop"
        assert end.usage is not None

    @pytest.mark.parametrize(
        ("names", "asked"),
        [
            pytest.param({"small": "rec"}, call(text="Something else?"), id="unknown-question"),
            pytest.param({"large": "rec"}, call(), id="unknown-model"),
            pytest.param({"small": "rec"}, call("judge"), id="private-stage"),
            pytest.param({"small": "rec"}, call("synthesis"), id="synthesis"),
        ],
    )
    def test_what_was_not_recorded_fails(self, names: dict[str, str], asked: Call) -> None:
        """A replayed model makes nothing up."""
        with pytest.raises(CallFailed) as caught:
            virtual.run(replay(names).complete(asked, {}, deadline=100))
        assert caught.value.reason == "not recorded"

    def test_a_deadline_comes_first(self) -> None:
        """A call that is cut off costs its prompt and the part of its answer that it had time for."""
        models = replay()
        with pytest.raises(CallFailed) as caught:
            virtual.run(models.complete(call(), {}, deadline=1.0))
        assert caught.value.failure is Failure.TIMEOUT
        assert models.microusd == pytest.approx(100 + 2 * 60 / 2)

    def test_without_a_record_time_and_tokens_follow_from_lengths(self) -> None:
        """Four characters to a token, and so many tokens a second."""
        models = replay()
        long = Question(id="q9", answers={"rec": "x" * 240})
        models.learn(Item(id="q9", text="Long?"), long)

        async def work() -> float:
            await models.complete(call(text="Long?"), {}, deadline=100)
            return virtual_now()

        assert virtual.run(work()) == pytest.approx(0.3 + 1.0)


def virtual_now() -> float:
    import asyncio

    return asyncio.get_running_loop().time()


class TestReport:
    def graded(self, right: bool, **members: bool) -> Graded:
        alone = dict.fromkeys(members, 10.0)
        return Graded("q", "d", "ratings", "ok", right, 3, 20.0, 1.0, members, alone)

    def test_what_is_reported(self) -> None:
        """Accuracy, the best member, the paired difference, cost and calls."""
        report = Report(
            [self.graded(True, a=True, b=False), self.graded(True, a=False, b=False)] * 50,
            skipped=3,
        )
        told = report.to_dict()
        assert told["questions"] == 100
        assert told["skipped"] == 3
        assert told["accuracy"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
        assert told["best_member"] == "a"
        assert told["difference"]["mean"] == 0.5
        assert 0.35 < told["difference"]["low"] < 0.5 < told["difference"]["high"] < 0.65
        assert told["microusd_per_question"] == 20
        assert told["members"]["b"] == {"accuracy": 0.0, "microusd": 10.0}

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
    def test_an_interval_holds_its_mean(self, values: list[float]) -> None:
        """And lies between the least and the greatest value."""
        found = bootstrap(values)
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
        assert found.low - 1e-9 <= found.mean <= found.high + 1e-9 or len(set(values)) > 1

    def test_an_interval_narrows_with_more_questions(self) -> None:
        """Four times as many questions halve it, more or less."""
        few, many = bootstrap([0.0, 1.0] * 50), bootstrap([0.0, 1.0] * 200)
        assert 1.6 < (few.high - few.low) / (many.high - many.low) < 2.5
        assert few == bootstrap([0.0, 1.0] * 50)
