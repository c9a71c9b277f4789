import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.wire.chat import Completion
from looper.wire.deltas import Gathering, bits
from looper.wire.events import Delta
from tests.fakes.models import USAGE, chunk, chunks, completion, last_chunk


def gathered(pieces: Sequence[Completion]) -> Completion:
    gathering = Gathering()
    for piece in pieces:
        gathering.add(piece)
    return gathering.completion()


def call(index: int, **function: str) -> dict[str, Any]:
    return {"index": index, "id": f"call_{index}", "type": "function", "function": function}


class TestGathering:
    @given(st.text(min_size=1))
    def test_a_stream_is_the_whole(self, text: str) -> None:
        """The chunks of an answer put together are the answer, its end and its usage."""
        assert gathered(chunks(text)) == completion(text)

    def test_each_kind_of_text_by_itself(self) -> None:
        """Thoughts, refusals and content do not mix."""
        pieces = [
            chunk(reasoning_content="h"), chunk("a"), chunk(reasoning_content="m"), chunk("b"),
            chunk(refusal="no"), chunk(finish="length"), last_chunk(),
        ]  # fmt: skip
        assert gathered(pieces) == completion(
            "ab", reasoning_content="hm", refusal="no", finish="length"
        )

    @pytest.mark.parametrize(
        "said", [{"reasoning": "hm"}, {"reasoning_content": "hm", "reasoning": "hm"}]
    )
    def test_thoughts_have_two_names(self, said: dict[str, str]) -> None:
        """Newer backends call it `reasoning`; some say it twice. A client reads it once."""
        raw = json.dumps({"choices": [{"message": {"content": "yes", **said}}]}).encode()
        answer = msgspec.json.decode(raw, type=Completion)
        assert list(bits(answer.choices[0])) == [
            Delta("reasoning_content", "hm"), Delta("content", "yes"),
        ]  # fmt: skip

    def test_calls_at_once_stay_apart(self) -> None:
        """Bits of several calls are put together by their index, in its order."""
        pieces = [
            chunk(tool_calls=[call(1, name="g", arguments="{")]),
            chunk(tool_calls=[call(0, name="f", arguments="[")]),
            chunk(tool_calls=[{"index": 1, "function": {"arguments": "}"}}]),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": "]"}}]),
        ]
        message = gathered(pieces).choices[0].message
        assert message is not None
        assert message.tool_calls is not None
        assert [each["function"] for each in message.tool_calls] == [
            {"name": "f", "arguments": "[]"}, {"name": "g", "arguments": "{}"},
        ]  # fmt: skip

    def test_what_custom_tools_are_given_is_put_together(self) -> None:
        """A tool that takes plain text is told it in bits, too."""
        pieces = [
            chunk(tool_calls=[{"index": 0, "id": "c", "type": "custom", "custom": {"name": "py", "input": "1"}}]),
            chunk(tool_calls=[{"index": 0, "custom": {"input": "+1"}}]),
        ]  # fmt: skip
        message = gathered(pieces).choices[0].message
        assert message is not None
        assert message.tool_calls == [
            {"id": "c", "type": "custom", "custom": {"name": "py", "input": "1+1"}}
        ]

    def test_probabilities_are_strung_together_and_counted(self) -> None:
        """Tokens come with the chunks, and how many came is known at any time."""
        token = {"token": "a", "logprob": -0.1}
        gathering = Gathering()
        for at in range(3):
            gathering.add(chunk("a", logprobs={"content": [token] * at, "refusal": None}))
        found = gathering.completion().choices[0].logprobs
        assert gathering.tokens == 3
        assert found is not None
        assert json.loads(bytes(found)) == {"content": [token] * 3, "refusal": None}

    def test_what_has_come_can_be_asked_for_at_any_time(self) -> None:
        """To look at an answer half-way changes nothing of it."""
        gathering = Gathering()
        gathering.add(chunk("a", logprobs={"content": [{"token": "a", "logprob": -0.1}]}))
        assert gathering.completion() == gathering.completion()
        gathering.add(chunk("b", finish="stop", usage=USAGE))
        assert gathering.completion().choices[0].message == completion("ab").choices[0].message

    def test_other_choices_are_left_out(self) -> None:
        """One choice was asked for; what a backend adds to it is not read."""
        other = msgspec.structs.replace(chunk("b").choices[0], index=1)
        assert gathered([chunk("a"), Completion(choices=[other])]).choices[0].message == (
            completion("a").choices[0].message
        )
