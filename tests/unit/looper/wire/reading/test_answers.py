import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from looper.calling.calls import usable
from looper.wire.answer import Chunks, Whole
from looper.wire.chat import ChatRequest, Completion, WireUsage
from looper.wire.deltas import Gathering, bits
from looper.wire.events import Delta
from looper.wire.finish import broke_off
from looper.wire.reading.answers import AnswerReader, NoAnswer
from looper.wire.sse import EventReader
from looper.wire.tool_calls import ToolCalls

CALL = {"name": "f", "arguments": '{"x": 1}'}
OWN = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}", "x": 1}, "y": 2}


def read(*chunks: dict[str, Any] | Sequence[dict[str, Any]]) -> list[Completion]:
    """What is made of chunks, each with the one choice or the choices that are given."""
    reader = AnswerReader()
    said = [list(chunk) if isinstance(chunk, Sequence) else [chunk] for chunk in chunks]
    whole = len(said) == 1 and any("message" in choice for choice in said[0])
    read = reader.whole if whole else reader.chunk
    return [read(json.dumps({"choices": choices}).encode()) for choices in said]


def streamed(*deltas: dict[str, Any], index: int = 0) -> list[dict[str, Any]]:
    return [{"index": index, "delta": delta} for delta in deltas]


def calls_in(completions: Sequence[Completion], index: int = 0) -> list[dict[str, Any]]:
    replies = [
        choice.delta or choice.message
        for completion in completions
        for choice in completion.choices
        if choice.index == index
    ]
    return [call for reply in replies if reply for call in reply.tool_calls or ()]


def test_a_whole_answer_calls_a_tool() -> None:
    """The function is the tool's, the id is new, and the answer is one that can be used."""
    message = {"role": "assistant", "content": None, "function_call": CALL}
    (answer,) = read({"message": message, "finish_reason": "function_call"})
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message is not None
    assert choice.message.function_call is None
    [call] = choice.message.tool_calls or []
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.pop("id"))
    assert call == {"type": "function", "function": CALL}
    assert usable(answer)


def test_a_streamed_answer_calls_one_tool() -> None:
    """Only the first bit has the id, so that whoever joins them has one call."""
    bits = streamed(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}},
        {"function_call": {"arguments": '{"x"'}},
        {"function_call": {"arguments": ": 1}"}},
    )
    answer = read(*bits, {"delta": {}, "finish_reason": "function_call"})
    calls = calls_in(answer)
    assert [call["index"] for call in calls] == [0, 0, 0]
    assert ["id" in call for call in calls] == [True, False, False]
    gathering = Gathering()
    for chunk in answer:
        gathering.add(chunk)
    (choice,) = gathering.completion().choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message is not None
    [call] = choice.message.tool_calls or []
    assert call["function"] == CALL


def test_each_choice_has_its_own_call() -> None:
    """Two choices in one answer, and in one stream, have ids that differ."""
    two = [{"index": at, "message": {"function_call": CALL}} for at in (0, 1)]
    for answer in (
        read(two),
        read(*streamed({"function_call": CALL}, index=1), *streamed({"function_call": CALL})),
    ):
        ids = {calls_in(answer, at)[0]["id"] for at in (0, 1)}
        assert len(ids) == 2  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        pytest.param({"content": "hi", "function_call": {}}, id="nothing-in-it"),
        pytest.param({"tool_calls": [OWN], "function_call": CALL}, id="beside-tools"),
    ],
)
def test_tools_are_what_counts(message: dict[str, Any]) -> None:
    """Of servers that say it in both ways the newer one is read, and an empty call is none."""
    (answer,) = read({"message": message})
    said = answer.choices[0].message
    assert said is not None
    assert (said.tool_calls, said.function_call) == (message.get("tool_calls"), None)


def test_the_end_alone_is_read_too() -> None:
    """The chunk that ends a stream has no delta worth the name."""
    (answer,) = read({"delta": {}, "finish_reason": "function_call"})
    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param('{"x": 1}', '{"x": 1}', id="text"),
        pytest.param({"x": "é"}, '{"x":"é"}', id="object"),
        pytest.param([1, 2], "[1,2]", id="list"),
        pytest.param({}, "{}", id="empty"),
    ],
)
@pytest.mark.parametrize("older", [False, True], ids=["tool", "function"])
def test_arguments_are_a_text(arguments: object, text: str, older: bool) -> None:
    """Some servers write the object in its place."""
    function = {"name": "f", "arguments": arguments}
    message = {"function_call": function} if older else {"tool_calls": [{"function": function}]}
    (call,) = calls_in(read({"message": message}))
    assert call["function"] == {"name": "f", "arguments": text}


CUSTOM = {"id": "c", "type": "custom", "custom": {"name": "py", "input": "[1]"}}


def function(name: str, arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("came", "shown"),
    [
        pytest.param(OWN, OWN, id="as-it-came"),
        pytest.param({**OWN, "index": None}, OWN, id="index-null"),
        pytest.param({**OWN, "index": "0"}, OWN, id="index-a-text"),
        pytest.param({**OWN, "type": None}, OWN, id="type-null"),
        pytest.param({**CUSTOM, "type": "function"}, CUSTOM, id="type-of-another"),
        pytest.param({**OWN, "type": "builtin"}, {**OWN, "type": "builtin"}, id="type-of-a-vendor"),
        pytest.param({**OWN, "id": 7}, {**OWN, "id": "7"}, id="id-a-number"),
        pytest.param({**CUSTOM, "custom": {"name": "py", "input": [1]}}, CUSTOM, id="custom"),
        pytest.param({"function": {"name": "f", "arguments": 1}}, function("f", "1"), id="a-number"),
        pytest.param({"function": {"name": "f"}}, function("f", ""), id="nothing-given"),
    ],
)  # fmt: skip
def test_a_call_is_read_as_it_is_meant(came: dict[str, Any], shown: dict[str, Any]) -> None:
    """Members of a vendor's own are kept; what is missing or of another type is mended."""
    (call,) = calls_in(read({"message": {"content": None, "tool_calls": [came]}}))
    assert {**shown, "id": call["id"]} == call
    assert call["id"] == shown.get("id", call["id"])
    assert call["id"]


@pytest.mark.parametrize(
    "call",
    [{"function": "f"}, {"function": {"name": 1}}, {"custom": "f"}, {"function": {}}, {}],
    ids=["function", "name", "custom", "empty", "nothing"],
)
def test_what_names_no_tool_costs_only_itself(call: dict[str, Any]) -> None:
    """The text beside it stands."""
    (answer,) = read({"message": {"content": "hi", "tool_calls": [call]}})
    (choice,) = ToolCalls(allowed=True).read(answer).choices
    assert choice.message is not None
    assert (choice.message.content, choice.message.tool_calls) == ("hi", None)


F, G = ("f", '{"x": 1}'), ("g", '{"y": [{}, "}"]}')


def bit(index: int | None, id: str | None, name: str | None, given: str, **more: Any) -> Any:
    """A bit of a call, without the members that are None."""
    called = {"name": name, "arguments": given}
    said = {"index": index, "id": id, **more}
    shown = {name: part for name, part in said.items() if part is not None}
    return {**shown, "function": {key: part for key, part in called.items() if part is not None}}


def in_bits(
    call: tuple[str, str],
    index: int | None,
    id: str | None,
    *,
    named: bool = False,
    identified: bool = False,
) -> list[dict[str, Any]]:
    """A call in bits of three characters, the first of them with the name alone."""
    name, given = call
    pieces = [given[at : at + 3] for at in range(0, len(given), 3)]
    later = (
        bit(index, id if identified else None, name if named else None, piece) for piece in pieces
    )
    return [bit(index, id, name, ""), *later]


def called(chunks: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The calls of a stream as its client puts them together, by their index."""
    deltas = streamed(*({"tool_calls": list(items)} for items in chunks))
    gathering = Gathering()
    for chunk in read(*deltas, {"delta": {}, "finish_reason": "tool_calls"}):
        for choice in chunk.choices:
            for each in (choice.delta and choice.delta.tool_calls) or ():
                assert ("id" in each) == ("type" in each) == ("name" in each["function"])
        gathering.add(chunk)
    message = gathering.completion().choices[0].message
    assert message is not None
    return message.tool_calls or []


STREAMS = {
    "by-index": [[b] for b in (*in_bits(F, 0, "a"), *in_bits(G, 1, "b"))],
    "same-index": [[b] for b in (*in_bits(F, 0, "a"), *in_bits(G, 0, "b"))],
    "same-index-and-id": [[b] for b in (*in_bits(F, 0, "a"), *in_bits(G, 0, "a"))],
    "same-id": [[b] for b in (*in_bits(F, 0, "a"), *in_bits(G, 1, "a"))],
    "empty-ids": [[b] for b in (*in_bits(F, 0, ""), *in_bits(G, 1, ""))],
    "empty-ids-same-index": [[b] for b in (*in_bits(F, 0, ""), *in_bits(G, 0, ""))],
    "no-ids": [[b] for b in (*in_bits(F, 0, None), *in_bits(G, 1, None))],
    "no-index": [[b] for b in (*in_bits(F, None, "a"), *in_bits(G, None, "b"))],
    "neither": [[b] for b in (*in_bits(F, None, None), *in_bits(G, None, None))],
    "names-repeated": [
        [b] for b in (*in_bits(F, 0, "a", named=True), *in_bits(G, 1, "b", named=True))
    ],
    "all-repeated": [
        [b] for call, id in ((F, "a"), (G, "b")) for b in in_bits(call, 0, id, named=True, identified=True)
    ],
    "ids-alone": [
        [b] for call, id in ((F, "a"), (G, "b")) for b in in_bits(call, None, id, identified=True)
    ],
    "in-turn": [[b] for both in zip_longest(in_bits(F, 0, "a"), in_bits(G, 1, "b")) for b in both if b],
    "at-once": [[bit(0, "a", *F), bit(0, "b", *G)]],
    "at-once-same-id": [[bit(0, "a", *F), bit(0, "a", *G)]],
    "at-once-bare": [[bit(None, None, *F), bit(None, None, *G)]],
    "whole-each": [[bit(0, "", *F)], [bit(0, "", *G)]],
    "said-again": [[b] for b in (*in_bits(F, 0, "a"), bit(0, "a", None, F[1]), *in_bits(G, 1, "b"))],
    "name-later": [
        [bit(0, "a", None, "")], [bit(0, None, "f", "")], [bit(0, None, None, F[1])], [bit(1, "b", *G)],
    ],
    "gaps": [[b] for b in (*in_bits(F, 1, "a"), *in_bits(G, 5, "b"))],
    "other-ids": [[bit(0, "a", "f", "")], [bit(0, "z", None, F[1])], [bit(1, "b", *G)]],
}  # fmt: skip


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS.keys())
def test_calls_that_differ_are_different_calls(chunks: list[list[dict[str, Any]]]) -> None:
    """Each has an id of its own, a type, one name, and what it was given, however it came in bits."""
    one, other = called(chunks)
    told = [(each["function"]["name"], each["function"]["arguments"]) for each in (one, other)]
    assert told == [F, G]
    assert {each["type"] for each in (one, other)} == {"function"}
    assert one["id"] != other["id"]
    assert all((one["id"], other["id"]))


names = st.sampled_from(["f", "g", "h"])
arguments = st.dictionaries(st.sampled_from("xy"), st.sampled_from([1, "}", {"z": []}]), min_size=1)


@given(
    st.lists(st.tuples(names, arguments), min_size=1, max_size=4),
    st.integers(1, 6),
    st.sampled_from(["all", "first"]),
    st.sampled_from(["dense", "zero", "none"]),
    st.sampled_from(["own", "empty", "none"]),
)
def test_any_calls_come_through(
    calls: list[tuple[str, dict[str, Any]]], size: int, named: str, index: str, id: str
) -> None:
    """One after the other, in bits of any size, named and numbered in any of the ways that are known."""
    chunks = []
    for at, (name, given_) in enumerate(calls):
        text = json.dumps(given_)
        place = {"dense": at, "zero": 0, "none": None}[index]
        own = {"own": f"id{at}", "empty": "", "none": None}[id]
        chunks.append([bit(place, own, name, text[:size])])
        for start in range(size, len(text), size):
            again = name if named == "all" else None
            chunks.append([bit(place, own, again, text[start : start + size])])
    read = called(chunks)
    told = [(each["function"]["name"], json.loads(each["function"]["arguments"])) for each in read]
    assert told == calls
    assert len({each["id"] for each in read}) == len(calls)


def test_what_never_says_its_tool_is_no_call() -> None:
    """An end in calls is none then, and the client is not told to run anything."""
    reader, calls = AnswerReader(), ToolCalls(allowed=True)
    bits = [{"tool_calls": [bit(0, "a", None, "{}")]}]
    ends = [*streamed(*bits), {"delta": {}, "finish_reason": "tool_calls"}]
    heard = [calls.read(reader.chunk(json.dumps({"choices": [end]}).encode())) for end in ends]
    assert calls_in(heard) == []
    assert heard[-1].choices[0].finish_reason == "stop"


# What stands beside an answer.

STRANGE = {
    "usage-a-list": ('"usage": [1]', "usage"),
    "details-objects": ('"usage": {"prompt_tokens_details": {"a": {"b": 1}}}', "usage.prompt_tokens_details.a"),
    "details-fractions": ('"usage": {"completion_tokens_details": {"a": 0.5}}', "usage.completion_tokens_details.a"),
    "details-texts": ('"usage": {"prompt_tokens_details": "none"}', "usage.prompt_tokens_details"),
    "details-lists": ('"usage": {"prompt_tokens_details": [1]}', "usage.prompt_tokens_details"),
    "count-a-text": ('"usage": {"prompt_tokens": "12"}', "usage.prompt_tokens"),
    "object-a-number": ('"object": 1', "object"),
    "refusal-false": ('"refusal": false', "choices[].{}.refusal"),
    "calls-a-text": ('"tool_calls": ""', "choices[].{}.tool_calls"),
    "call-a-text": ('"tool_calls": ["f"]', "choices[].{}.tool_calls[]"),
    "function-a-text": ('"function_call": "f"', "choices[].{}.function_call"),
    "reasoning-an-object": ('"reasoning": {"steps": 3}', "choices[].{}.reasoning"),
    "role-a-number": ('"role": 1', None),
    "index-null": ('"index": null', None),
    "index-a-text": ('"index": "x"', "choices[].index"),
    "finish-a-number": ('"finish_reason": 3', "choices[].finish_reason"),
    "unlikely": ('"logprobs": {"content": [{"token": "hi", "logprob": -Infinity}]}', None),
    "no-number": ('"logprobs": {"content": [{"token": "hi", "logprob": NaN}]}', None),
    "out-of-range": ('"logprobs": {"content": [{"token": "hi", "logprob": 1e999}]}', None),
}  # fmt: skip
IN_REPLY = ("refusal", "tool_calls", "function_call", "reasoning", "role")
IN_CHOICE = ("index", "finish_reason", "logprobs")


@pytest.mark.parametrize("place", ["message", "delta"])
@pytest.mark.parametrize(("member", "left_out"), STRANGE.values(), ids=STRANGE.keys())
def test_a_strange_member_costs_itself(member: str, left_out: str | None, place: str) -> None:
    """Never the answer, and it is said which one was not understood."""
    name = member.partition(":")[0].strip('"')
    in_reply = f", {member}" if name in IN_REPLY else ""
    choice = f", {member}" if name in IN_CHOICE else ""
    outside = f", {member}" if name not in (*IN_REPLY, *IN_CHOICE) else ""
    said = f'{{"choices": [{{"{place}": {{"content": "hi"{in_reply}}}{choice}}}]{outside}}}'
    reader = AnswerReader()
    answer = (reader.whole if place == "message" else reader.chunk)(said.encode())
    (choice_,) = answer.choices
    reply = choice_.message or choice_.delta
    assert reply is not None
    assert (reply.content, choice_.index) == ("hi", 0)
    assert reader.unread == (() if left_out is None else (left_out.format(place),))


@pytest.mark.parametrize(
    ("logprob", "read"), [("-Infinity", -9999.0), ("NaN", None), ("-0.5", -0.5)]
)
def test_probabilities_are_numbers_or_nothing(logprob: str, read: float | None) -> None:
    """A token that is as good as impossible has what OpenAI's own models give it."""
    token = f'{{"token": "hi", "logprob": {logprob}}}'
    said = (
        f'{{"choices": [{{"message": {{"content": "hi"}}, "logprobs": {{"content": [{token}]}}}}]}}'
    )
    (choice,) = AnswerReader().whole(said.encode()).choices
    found = [delta.value for delta in bits(choice) if delta.kind == "logprobs"]
    assert [value["content"][0]["logprob"] for value in found] == [read]


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b'\xef\xbb\xbf{"choices": [{"message": {"content": "hi"}}]}', id="bom"),
        pytest.param(b' \n{"choices": [{"message": {"content": "hi"}}]}\n', id="blank"),
        pytest.param(b'{"choices": [{"message": {"content": "hi"}}]}\0\0<!-- -->', id="followed"),
        pytest.param(b'{"choices": [{"delta": {"content": "hi"}}]}', id="delta"),
        pytest.param(b'{"choices": [{"message": {"content": "hi"}, "delta": {"content": "hi"}}]}', id="both"),
        pytest.param(b'{"choices": [{"message": {"content": [{"type": "text", "text": "hi"}]}}]}', id="part"),
        pytest.param(b'{"choices": [{"message": {"content": {"type": "text", "text": "hi"}}}]}', id="bare-part"),
        pytest.param(b'{"choices": [{"message": {"content": ["h", {"text": "i"}, 3, {"type": "x"}]}}]}', id="parts"),
        pytest.param(b'{"choices": [{"message": {"content": [{"type": "text", "text": {"value": "hi"}}]}}]}', id="v"),
        pytest.param(b'{"choices": [{"message": null}, {"message": {"content": "hi"}}, 3, null]}', id="no-choices"),
    ],
)  # fmt: skip
def test_an_answer_is_found(said: bytes) -> None:
    """Wherever it stands, and whatever stands around it."""
    answer = AnswerReader().whole(said)
    assert [d.value for each in answer.choices for d in bits(each) if d.kind == "content"] == ["hi"]


@pytest.mark.parametrize("said", [b"", b"null", b"[]", b"3", b'"hi"', b"{", b"<html>", b'{"a": }'])
def test_what_is_no_object_is_no_answer(said: bytes) -> None:
    """Nothing can be found in it."""
    with pytest.raises(NoAnswer):
        AnswerReader().whole(said)


@pytest.mark.parametrize(
    "thinking",
    [
        {"type": "thinking", "thinking": "hm"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "reasoning", "text": "hm"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
    ],
)
@pytest.mark.parametrize("place", ["message", "delta"])
def test_content_in_parts_is_text_and_thoughts(thinking: dict[str, Any], place: str) -> None:
    """As thinking models answer where content has parts."""
    parts = [thinking, {"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    said = json.dumps({"choices": [{place: {"role": "assistant", "content": parts}}]}).encode()
    reader = AnswerReader()
    (choice,) = (reader.whole if place == "message" else reader.chunk)(said).choices
    assert list(bits(choice)) == [Delta("reasoning_content", "hm"), Delta("content", "hi")]


def test_json_in_place_of_its_text_is_text() -> None:
    """As some servers write what they were given a schema for."""
    (choice,) = (
        AnswerReader().whole(b'{"choices": [{"message": {"content": {"city": "Rome"}}}]}').choices
    )
    assert list(bits(choice)) == [Delta("content", '{"city": "Rome"}')]


BESIDE = {
    "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.test"}}],
    "reasoning_details": [{"type": "reasoning.text", "text": "hm"}],
    "audio": {"id": "a", "data": "QUJD"},
    "provider_specific_fields": {"citations": [1]},
    "images": [{"image_url": {"url": "data:"}}],
}


@given(st.dictionaries(st.sampled_from(list(BESIDE)) | st.text("xyz", min_size=1), st.just(0)))
def test_members_that_nobody_knows_are_handed_on(names: dict[str, int]) -> None:
    """With the answer they belong to, whole and streamed, as they came."""
    members = {name: BESIDE.get(name, {"a": 1}) for name in names}
    request = ChatRequest.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
    for place in ("message", "delta"):
        said = json.dumps({"choices": [{place: {"content": "hi", **members, "null": None}}]})
        reader = AnswerReader()
        answer = (reader.whole if place == "message" else reader.chunk)(said.encode())
        whole, chunks = Whole(request), Chunks(request)
        shown: dict[str, Any] = {}
        for delta in bits(answer.choices[0]):
            whole.add(delta)
            for event in EventReader().feed(chunks.frames(delta)):
                shown |= json.loads(event.data)["choices"][0]["delta"]
        assert shown == {"content": "hi", **members}
        message = json.loads(whole.to_json())["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "hi", **members}
        assert reader.unread == ()


def test_members_in_bits_are_put_together() -> None:
    """Lists and texts go on, objects are put together, and what names them is said once."""
    said = [
        {"audio": {"id": "a", "data": "QU"}, "x": [1]},
        {"audio": {"id": "a", "data": "JD"}, "x": [2]},
    ]
    gathering = Gathering()
    for chunk in read(*streamed(*said)):
        gathering.add(chunk)
    message = gathering.completion().choices[0].message
    assert message is not None
    found = {name: json.loads(bytes(raw)) for name, raw in message.beside.items()}
    assert found == {"audio": {"id": "a", "data": "QUJD"}, "x": [1, 2]}


@pytest.mark.parametrize("more", [{}, {"index": None}], ids=["fast", "by-member"])
def test_usage_may_stand_in_a_choice(more: dict[str, Any]) -> None:
    """Whole, and in the last chunk of a stream."""
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    for place in ("message", "delta"):
        (answer,) = read({place: {"content": "hi"}, "usage": usage, **more})
        assert answer.usage == WireUsage(3, 4)


# An answer is said once.

H_, I_, HI = {"content": "h"}, {"content": "i"}, {"content": "hi"}


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([{"delta": H_}, {"delta": I_}, {"message": HI}], id="last"),
        pytest.param([{"delta": H_, "message": H_}, {"delta": I_, "message": HI}], id="beside"),
        pytest.param(
            [{"delta": HI}, {"delta": {}, "message": HI, "finish_reason": "stop"}], id="empty"
        ),
        pytest.param([{"delta": {"role": "assistant"}}, {"message": {"content": "hi"}}], id="deltas-say-nothing"),
        pytest.param([{"message": {"content": "hi"}, "delta": None}], id="only-once"),
        pytest.param([{"message": {"content": "h"}}, {"message": {"content": "i"}}], id="no-deltas"),
    ],
)  # fmt: skip
def test_an_answer_is_said_once(chunks: list[dict[str, Any]]) -> None:
    """A delta wins wherever there was one; the whole message counts if nothing else says anything."""
    reader, gathering = AnswerReader(), Gathering()
    for choice in chunks:
        gathering.add(reader.chunk(json.dumps({"choices": [choice]}).encode()))
    if (rest := reader.rest()) is not None:
        gathering.add(rest)
    message = gathering.completion().choices[0].message
    assert message is not None
    assert message.content == "hi"


# How it ends, and its letters.


@pytest.mark.parametrize(
    ("native", "told"),
    [
        ("eos", "stop"), ("eos_token", "stop"), ("end_turn", "stop"), ("COMPLETE", "stop"), ("STOP", "stop"),
        ("max_tokens", "length"), ("MAX_TOKENS", "length"), ("model_length", "length"),
        ("model_context_window_exceeded", "length"), ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"), ("sensitive", "content_filter"), ("refusal", "content_filter"),
        ("RECITATION", "content_filter"), ("whatever", "stop"),
    ],
)  # fmt: skip
def test_ends_are_said_in_openais_words(native: str, told: str) -> None:
    """The backend's own word stands beside it."""
    for place in ("message", "delta"):
        (answer,) = read({place: {"content": "hi"}, "finish_reason": native})
        (choice,) = answer.choices
        assert (choice.finish_reason, choice.native_finish_reason) == (told, native)


@pytest.mark.parametrize("word", ["stop", "length", "content_filter", "tool_calls"])
def test_openais_own_words_stand_alone(word: str) -> None:
    """Nothing is said beside them."""
    (answer,) = read({"message": {"content": "hi"}, "finish_reason": word})
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.native_finish_reason) == (word, None)


@pytest.mark.parametrize(
    "word", ["error", "network_error", "insufficient_system_resource", "abort", "timeout", "MALFORMED_FUNCTION_CALL"]
)  # fmt: skip
def test_what_broke_off_is_not_called_an_end(word: str) -> None:
    """Whoever reads it knows that it is a failure."""
    (answer,) = read({"message": {"content": "hi"}, "finish_reason": word})
    assert broke_off(answer.choices[0].finish_reason)


halves = st.sampled_from(
    [rb"\ud83d", rb"\uDE00", rb"\ud83d\ude00", rb"a", rb"\\", rb"\\ud83d", rb"\n", b"\xc3\xa9"]
)


@given(st.lists(halves, max_size=6).map(b"".join))
def test_half_a_character_is_text(text: bytes) -> None:
    """It is replaced where it stands, and nothing else is."""
    said = b'{"choices": [{"message": {"content": "<%b>"}}]}' % text
    (choice,) = AnswerReader().whole(said).choices
    assert choice.message is not None
    raw = json.loads(b'"<%b>"' % text)
    assert choice.message.content == re.sub("[\ud800-\udfff]", "\ufffd", raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
member_names = st.sampled_from([
    "role", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call", "annotations", "x",
])  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(member_names, json_values, max_size=3),
    st.dictionaries(st.sampled_from(["index", "finish_reason", "logprobs", "x"]), json_values, max_size=2),
    st.dictionaries(st.sampled_from(["usage", "object", "id", "x"]), json_values, max_size=2),
    st.sampled_from(["message", "delta"]),
)  # fmt: skip
def test_no_member_beside_it_costs_an_answer(
    reply: dict[str, Any], choice: dict[str, Any], outside: dict[str, Any], place: str
) -> None:
    """Whatever stands there, the text is read, and can be written again."""
    said = {"choices": [{place: {"content": "hi", **reply}, **choice}], **outside}
    reader = AnswerReader()
    answer = (reader.whole if place == "message" else reader.chunk)(json.dumps(said).encode())
    (found,) = answer.choices
    text = found.message or found.delta
    assert text is not None
    assert text.content == "hi"
    request = ChatRequest.parse(b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}')
    whole = Whole(request)
    for delta in bits(found):
        whole.add(delta)
    json.loads(whole.to_json())
