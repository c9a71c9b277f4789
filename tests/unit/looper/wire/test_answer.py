import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from looper.errors import UpstreamFailed
from looper.wire.answer import Chunks, Whole, completion_id
from looper.wire.chat import ChatRequest, Usage
from looper.wire.events import Delta, Done, Event, Finish, Progress, Speaker
from looper.wire.sse import DONE, EventReader

USAGE = Usage(3, 4, {"cached_tokens": 1}, {"reasoning_tokens": 2})


def request_of(**members: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "x"}]
    return ChatRequest.parse(
        json.dumps({"model": "looper/auto", "messages": messages, **members}).encode()
    )


def wanting(usage: bool) -> ChatRequest:
    return request_of(stream=True, stream_options={"include_usage": usage})


def whole(*events: Event) -> dict[str, Any]:
    answer = Whole(request_of())
    for event in events:
        answer.add(event)
    completion: dict[str, Any] = json.loads(answer.to_json())
    return completion


def message(*events: Event) -> dict[str, Any]:
    said: dict[str, Any] = whole(*events)["choices"][0]["message"]
    return said


def stream(*events: Event, request: ChatRequest | None = None) -> bytes:
    chunks = Chunks(request or wanting(usage=False))
    return chunks.opening() + b"".join(chunks.frames(event) for event in events)


def frames(sse: bytes) -> list[Any]:
    reader = EventReader()
    events = [event.data for event in reader.feed(sse)]
    reader.close()
    return [data if data == DONE else json.loads(data) for data in events]


def chunks_of(sse: bytes) -> list[dict[str, Any]]:
    *chunks, done = frames(sse)
    assert done == DONE
    return chunks


def tool_call(index: int = 0, **members: Any) -> Delta:
    return Delta("tool_calls", [{"index": index, **members}])


class TestWhole:
    def test_is_a_completion(self) -> None:
        """One JSON object in OpenAI's shape, by the name that the client asked for."""
        answer = whole(Delta("content", "hi"), Finish("stop"), Done(USAGE, "ok"))
        assert answer.pop("id").startswith("chatcmpl-")
        assert answer.pop("created") > 1_700_000_000
        assert answer == {
            "object": "chat.completion",
            "model": "looper/auto",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "hi"},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
                "prompt_tokens_details": {"cached_tokens": 1}, "completion_tokens_details": {"reasoning_tokens": 2},
            },
        }  # fmt: skip

    @pytest.mark.parametrize("kind", ["content", "reasoning_content", "refusal"])
    def test_text_is_put_together(self, kind: Any) -> None:
        """Bits of text are one text, each kind for itself."""
        assert message(Delta(kind, "a"), Delta(kind, " b"), Delta(kind, "é"))[kind] == "a bé"

    def test_without_text_the_content_is_null(self) -> None:
        """SDKs expect the member, and null where there is only a refusal or a tool call."""
        said = message(Delta("refusal", "no"))
        assert said == {"role": "assistant", "content": None, "refusal": "no"}

    def test_what_was_not_said_is_not_there(self) -> None:
        """No tool calls are no member, not an empty list."""
        assert set(message(Delta("content", "x"))) == {"role", "content"}

    @pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
    def test_the_finish_reason_is_the_backends(self, reason: str) -> None:
        """Why an answer ended is for the client to know."""
        assert whole(Delta("content", "x"), Finish(reason))["choices"][0]["finish_reason"] == reason

    def test_progress_is_no_part_of_the_answer(self) -> None:
        """What the team does meanwhile is not its answer."""
        assert message(Progress("panel"), Delta("content", "x"))["content"] == "x"

    def test_a_tool_call_is_put_together_from_its_bits(self) -> None:
        """Id, type and name come once; arguments are strung together."""
        said = message(
            tool_call(id="c", type="function", function={"name": "f", "arguments": ""}),
            tool_call(function={"arguments": '{"a":'}),
            tool_call(function={"arguments": " 1}"}),
        )
        assert said["tool_calls"] == [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
        ]

    def test_tool_calls_at_once_stay_apart(self) -> None:
        """Each bit belongs to the call of its index, in whatever order bits come."""
        said = message(
            tool_call(1, id="b", function={"name": "g", "arguments": "{"}),
            tool_call(0, id="a", function={"name": "f", "arguments": "["}),
            tool_call(1, function={"arguments": "}"}),
            tool_call(0, function={"arguments": "]"}),
        )
        assert [(call["id"], call["function"]["arguments"]) for call in said["tool_calls"]] == [
            ("a", "[]"), ("b", "{}"),
        ]  # fmt: skip

    def test_several_tool_calls_may_come_in_one_delta(self) -> None:
        """A backend may say all its calls at once."""
        calls = [{"index": at, "id": str(at), "function": {"name": "f"}} for at in range(3)]
        assert [call["id"] for call in message(Delta("tool_calls", calls))["tool_calls"]] == [
            "0", "1", "2",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "repeated",
        [
            {"id": None, "type": None, "function": {"name": None, "arguments": "}"}},
            {"id": None, "function": {"arguments": "}"}},
            {"function": {"name": None, "arguments": "}"}},
        ],
        ids=["all-null", "null-id", "null-name"],
    )
    def test_null_says_nothing_new(self, repeated: dict[str, Any]) -> None:
        """Some backends repeat a call's members as null with each bit."""
        said = message(
            tool_call(id="c", type="function", function={"name": "f", "arguments": "{"}),
            tool_call(**repeated),
        )
        assert said["tool_calls"] == [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]

    def test_a_tool_call_has_no_index(self) -> None:
        """The index is for streams only."""
        assert "index" not in message(tool_call(id="c"))["tool_calls"][0]

    def test_what_vendors_add_to_a_tool_call_is_kept(self) -> None:
        """Some backends need their own members back in the next turn."""
        call = tool_call(id="c", extra_content={"signature": "s"}, function={"name": "f"})
        assert message(call)["tool_calls"][0]["extra_content"] == {"signature": "s"}

    def test_logprobs_are_strung_together(self) -> None:
        """Each bit's tokens follow those before; what is no list stays as it is."""
        bits = [
            {"content": [{"token": "a", "logprob": -1.5}], "refusal": None},
            {"content": [{"token": "b", "logprob": -0.25}], "refusal": None},
        ]
        logprobs = whole(*(Delta("logprobs", bit) for bit in bits))["choices"][0]["logprobs"]
        assert logprobs == {"content": [*bits[0]["content"], *bits[1]["content"]], "refusal": None}  # type: ignore[misc]

    def test_ids_differ(self) -> None:
        """No two answers have the same id, and ids are as long as clients expect."""
        ids = {completion_id() for _ in range(1000)}
        assert len(ids) == 1000
        assert all(name.startswith("chatcmpl-") and 20 < len(name) < 64 for name in ids)


class TestSpeakers:
    events = (
        Speaker("small", 0), Delta("content", "one", 0), Finish("stop", 0),
        Speaker("large", 1), Delta("content", "two", 1), Finish("length", 1),
    )  # fmt: skip

    def test_each_choice_of_a_whole_names_its_model(self) -> None:
        """Choices of different models say whose they are; the completion keeps the name that the client used."""
        answer = whole(*self.events)
        assert answer["model"] == "looper/auto"
        assert [
            (choice["model"], choice["message"]["content"], choice["finish_reason"])
            for choice in answer["choices"]
        ] == [("small", "one", "stop"), ("large", "two", "length")]

    def test_each_frame_of_a_stream_names_its_choices_model(self) -> None:
        """So does every chunk behind the stream's opening, and each choice has one role, first."""
        _, *choices = [chunk["choices"][0] for chunk in frames(stream(*self.events))]
        assert [choice["model"] for choice in choices] == [
            "small",
            "small",
            "large",
            "large",
            "large",
        ]
        assert [choice["delta"].get("role") for choice in choices if choice["index"] == 1] == [
            "assistant", None, None,
        ]  # fmt: skip

    def test_one_voice_has_no_name(self) -> None:
        """An answer of the team is nobody's."""
        assert "model" not in whole(Delta("content", "one"))["choices"][0]


class TestChunks:
    def test_are_a_stream_of_chunks(self) -> None:
        """Role first, then each bit, one finish, and [DONE] at the end."""
        sse = stream(
            Delta("content", "a"), Delta("content", "b"), Finish("stop"), Done(USAGE, "ok")
        )
        choices = [chunk["choices"][0] for chunk in chunks_of(sse)]
        assert [(choice["delta"], choice["finish_reason"]) for choice in choices] == [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "a"}, None),
            ({"content": "b"}, None),
            ({}, "stop"),
        ]
        assert all(choice["index"] == 0 for choice in choices)

    def test_have_one_id_one_time_and_the_clients_model(self) -> None:
        """SDKs tell streams apart by the id of their chunks."""
        sse = stream(
            Delta("content", "a"), Finish("stop"), Done(USAGE, "ok"), request=wanting(usage=True)
        )
        chunks = chunks_of(sse)
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk["model"] for chunk in chunks} == {"looper/auto"}
        assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1

    def test_ids_differ_from_stream_to_stream(self) -> None:
        """No two streams share an id."""
        ids = {chunks_of(stream(Done(USAGE, "ok")))[0]["id"] for _ in range(100)}
        assert len(ids) == 100

    def test_usage_is_left_out_unless_it_was_asked_for(self) -> None:
        """Clients that did not ask would stumble over a chunk without choices."""
        chunks = chunks_of(stream(Delta("content", "a"), Finish("stop"), Done(USAGE, "ok")))
        assert not any("usage" in chunk for chunk in chunks)
        assert all(chunk["choices"] for chunk in chunks)

    def test_usage_comes_last_and_is_null_before(self) -> None:
        """Where it was asked for, each chunk has the member, and only the last one a value."""
        request = wanting(usage=True)
        events = (Delta("content", "a"), Delta("logprobs", {"content": []}), Finish("stop"))
        *before, last = chunks_of(stream(*events, Done(USAGE, "ok"), request=request))
        assert [chunk["usage"] for chunk in before] == [None] * 4
        assert last["choices"] == []
        assert last["usage"] == USAGE.to_dict()

    @pytest.mark.parametrize("usage", [False, True])
    def test_there_is_one_done(self, usage: bool) -> None:
        """The end is said once, and nothing behind it."""
        sse = stream(Finish("stop"), Done(USAGE, "ok"), request=wanting(usage))
        assert sse.count(b"[DONE]") == 1
        assert sse.endswith(b"data: [DONE]\n\n")

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("content", 'a\nb\r\n"c" é😀'),
            ("reasoning_content", "hm"),
            ("refusal", "no"),
            ("tool_calls", [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]),
        ],
        ids=["content", "reasoning", "refusal", "tool-calls"],
    )
    def test_each_bit_is_a_delta_of_its_kind(self, kind: Any, value: Any) -> None:
        """What a backend's delta says stands in ours under the same name, in one frame."""
        (frame,) = frames(Chunks(wanting(usage=False)).frames(Delta(kind, value)))
        assert frame["choices"][0]["delta"] == {kind: value}

    def test_logprobs_stand_beside_the_delta(self) -> None:
        """They belong to the choice, as in OpenAI's chunks."""
        logprobs = {"content": [{"token": "a", "logprob": -1}]}
        (frame,) = frames(Chunks(wanting(usage=False)).frames(Delta("logprobs", logprobs)))
        assert frame["choices"][0]["logprobs"] == logprobs
        assert frame["choices"][0]["delta"] == {}

    def test_progress_is_nothing(self) -> None:
        """Which stage begins is not said."""
        assert Chunks(wanting(usage=False)).frames(Progress("panel")) == b""

    def test_a_comment_is_skipped_by_readers(self) -> None:
        """What shows that something goes on is no event."""
        comment = Chunks(wanting(usage=False)).comment()
        assert comment.startswith(b":")
        assert comment.endswith(b"\n\n")
        assert frames(comment) == []

    def test_a_failure_ends_the_stream(self) -> None:
        """An error object in OpenAI's shape, then [DONE], so that no client waits for more."""
        error, done = frames(Chunks(wanting(usage=True)).failed(UpstreamFailed("no")))
        assert error == {
            "error": {"message": "no", "type": "upstream_error", "param": None, "code": "upstream_failed"}
        }  # fmt: skip
        assert done == DONE


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
tool_calls = st.builds(
    lambda index, id, name, arguments: tool_call(
        index, **({"id": id} if id else {}), function={**({"name": name} if name else {}), "arguments": arguments}
    ),
    st.integers(0, 2), st.sampled_from(["", "c1", "c2"]), st.sampled_from(["", "f", "g"]), texts,
)  # fmt: skip
logprobs = st.builds(
    lambda tokens: Delta("logprobs", {"content": [{"token": token} for token in tokens]}),
    st.lists(texts, max_size=2),
)
deltas = st.lists(
    st.builds(Delta, st.sampled_from(["content", "reasoning_content", "refusal"]), texts)
    | tool_calls
    | logprobs
    | st.just(Progress("panel")),
    max_size=8,
)


def folded(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A client's view of a stream: its chunks put together, written without a look at ours."""
    said: dict[str, Any] = {"role": None, "content": None}
    calls: dict[int, dict[str, Any]] = {}
    tokens: list[Any] | None = None
    finish = None
    for chunk in chunks:
        for choice in chunk["choices"]:
            finish = choice["finish_reason"] or finish
            if choice["logprobs"]:
                tokens = (tokens or []) + choice["logprobs"]["content"]
            for key, value in choice["delta"].items():
                if key == "tool_calls":
                    fold_calls(calls, value)
                elif value or key == "role":
                    said[key] = (said.get(key) or "") + value
    if calls:
        said["tool_calls"] = [calls[index] for index in sorted(calls)]
    logprobs = None if tokens is None else {"content": tokens}
    return {"index": 0, "message": said, "logprobs": logprobs, "finish_reason": finish}


def fold_calls(calls: dict[int, dict[str, Any]], bits: list[dict[str, Any]]) -> None:
    for bit in bits:
        call = calls.setdefault(bit["index"], {"function": {"arguments": ""}})
        function = bit["function"]
        call["function"]["arguments"] += function["arguments"]
        if "name" in function:
            call["function"]["name"] = function["name"]
        if "id" in bit:
            call["id"] = bit["id"]


@settings(deadline=None, max_examples=100)
@given(deltas, st.sampled_from(["stop", "length", "tool_calls"]))
def test_a_stream_folded_back_is_the_whole(said: list[Event], reason: str) -> None:
    """Whatever was said, a client that gathers the chunks has the answer that the other client got whole."""
    events = (*said, Finish(reason), Done(USAGE, "ok"))
    *chunks, last = chunks_of(stream(*events, request=wanting(usage=True)))
    answer = whole(*events)
    assert folded(chunks) == answer["choices"][0]
    assert last["usage"] == answer["usage"]
