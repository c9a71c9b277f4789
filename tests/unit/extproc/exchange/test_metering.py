import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.exchange import metering
from extproc.exchange.metering import AnswerMeter
from looper.calling.models import Model
from looper.wire.chat import ChatRequest, Request
from looper.wire.json_object import JsonObject

thorough = settings(deadline=None, max_examples=150)

MODEL = Model.model_validate(
    {"name": "small", "url": "http://small/v1", "price": {"input": 0.5, "output": 2}}
)
FREE = Model.model_validate({"name": "small", "url": "http://small/v1"})
SSE = {":status": "200", "content-type": "text/event-stream; charset=utf-8"}
JSON = {":status": "200", "content-type": "application/json"}
USAGE = b'{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}'
REPORT = {"prompt_tokens": 3, "completion_tokens": 4, "cost_microusd": 10}  # 1.5 + 8, rounded up
ASKED: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def chat(**members: Any) -> ChatRequest:
    messages = [{"role": "user", "content": "hi"}]
    request = {"model": "looper/auto", "messages": messages, **members}
    return ChatRequest.parse(json.dumps(request).encode())


def meter(
    headers: Mapping[str, str], model: Model = MODEL, request: Request | None = None, **members: Any
) -> AnswerMeter:
    """A meter whose answer has begun; `members` are those of a chat request."""
    made = AnswerMeter(request or chat(**members), model)
    made.begin(headers)
    return made


def passed(meter: AnswerMeter, pieces: Iterable[bytes]) -> list[bytes]:
    """What goes on for each piece of an answer, the last of which ends it."""
    *before, last = pieces
    return [*(meter.feed(piece, False) for piece in before), meter.feed(last, True)]


@st.composite
def pieces(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The data in pieces of any size, empty ones included."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


# Events as backends may write them, each with what the client gets if it did not ask for the usage.

Event = tuple[bytes, bytes]
OTHER = [
    *(": ping", "retry: 10", "data: [DONE]", "data: 5", "data", "data:{", "data: [1]", "x"),
    *('data: {"error":{"code":"x"}}', 'data: {"model":5}', "data: a|data: b"),
]
ODDMENTS = [
    *(b"\n", b"\r", b"\r\n", b"data:", b" ", b"{", b"}", b":", b'"model"', b'"x"', b",", b"\xff"),
    *(b'data:{"model":"x"}\n\n', b'"usage":null', b'"choices":[]', b"\xef\xbb\xbf"),
]
NOT_EDITED = [
    *(b"", b" ", b"hello", b"[1]", b'"x"', b"{", b'{"model":"x"', b"{}\xff"),
    *(b'{"model":"x","model":"y"}', b'{"model":5}', b'{"a":"\xff","model":"x"}'),
]
LINE_ENDS = ["\n", "\r\n", "\r"]
fillers = st.lists(
    st.sampled_from(['"id":"x"', '"choices": [{"model":"small","usage":null}]', '"m":"\\"é}"']),
    unique=True,
)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[str, str]:
    """A chunk with a model and perhaps a `usage` of null, in any order."""
    gap = draw(st.sampled_from(["", " "]))
    written = draw(st.sampled_from(['"small"', '"qwen\\u00e9"', '""']))
    members = [*draw(fillers), f'"model":{gap}{written}']
    null = '"usage":null'
    if draw(st.booleans()):
        members.append(null)
    members = draw(st.permutations(members))
    seen = [
        f'"model":{gap}"looper/auto"' if member.startswith('"model"') else member
        for member in members
        if member != null
    ]
    return f"{{{f',{gap}'.join(members)}}}", f"{{{f',{gap}'.join(seen)}}}"


@st.composite
def events(draw: st.DrawFn) -> Event:
    end = draw(st.sampled_from(LINE_ENDS))
    kind = draw(st.sampled_from(["chunk", "usage", "other"]))
    if kind == "other":
        lines = draw(st.sampled_from(OTHER)).replace("|", end)
        return (lines + end + end).encode(), (lines + end + end).encode()
    head = draw(st.sampled_from(["data:", "data: ", "id: 7|data: ", "event: m|data: "]))
    sent, seen = draw(chunks()) if kind == "chunk" else (_usage_only(draw), "")
    head = head.replace("|", end)
    tail = draw(st.sampled_from([f"{end}{end}", f" {end}{end}", f"{end}retry: 1{end}{end}"]))
    return f"{head}{sent}{tail}".encode(), f"{head}{seen}{tail}".encode() if seen else b""


def _usage_only(draw: st.DrawFn) -> str:
    choices = draw(st.sampled_from(["[]", "[ ]", "null"]))
    return f'{{"model":"small","choices":{choices},"usage":{USAGE.decode()}}}'


class TestStream:
    @thorough
    @given(st.lists(events(), max_size=6), st.data())
    def test_however_it_is_cut_only_names_and_usage_change(
        self, written: list[Event], draw: st.DataObject
    ) -> None:
        """Every byte of a stream arrives as it was, but for the model's name and the usage nobody asked for."""
        sent = b"".join(event for event, _ in written)
        seen = b"".join(event for _, event in written)
        assert b"".join(passed(meter(SSE, stream=True), draw.draw(pieces(sent)))) == seen

    @thorough
    @given(st.lists(events(), max_size=5), st.data())
    def test_who_asked_for_the_usage_sees_all_of_it(
        self, written: list[Event], draw: st.DataObject
    ) -> None:
        """Nothing is hidden from a client that asked for it."""
        sent = b"".join(event for event, _ in written)
        out = b"".join(passed(meter(SSE, **ASKED), draw.draw(pieces(sent))))
        assert out.count(b"usage") == sent.count(b"usage")
        assert out.count(b'"looper/auto"') == sum(b'"model":' in event for event, _ in written) - (
            sent.count(b'{"model":5}')
        )

    @thorough
    @given(
        st.lists(st.sampled_from(ODDMENTS), max_size=12).map(b"".join),
        st.data(),
    )
    def test_whatever_it_is_cuts_make_no_difference(self, data: bytes, draw: st.DataObject) -> None:
        """What goes on depends on the bytes alone, and no bytes are too strange."""
        whole = b"".join(passed(meter(SSE, stream=True), [data]))
        made = meter(SSE, stream=True)
        assert b"".join(passed(made, draw.draw(pieces(data)))) == whole
        assert "unmetered" not in made.report()

    @thorough
    @given(st.lists(events().filter(lambda event: b"\r" not in event[0]), max_size=5))
    def test_an_event_goes_on_with_the_piece_that_completes_it(self, written: list[Event]) -> None:
        """No token waits for the next one."""
        made = meter(SSE, stream=True)
        for sent, seen in written:
            assert made.feed(sent[:-1], False) == b""
            assert made.feed(sent[-1:], False) == seen

    def test_a_mark_at_the_beginning_is_no_obstacle(self) -> None:
        """A byte order mark stays, and the first event is edited all the same."""
        made = meter(SSE, stream=True)
        assert made.feed(b'\xef\xbb\xbfdata: {"model":"x"}\n\n', False) == (
            b'\xef\xbb\xbfdata: {"model":"looper/auto"}\n\n'
        )

    @pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\r\n"])
    def test_a_last_event_without_its_blank_line_is_edited_too(self, tail: bytes) -> None:
        """What the end of the stream leaves is an event to most clients."""
        data = b'data: {"model":"x"}' + tail
        assert passed(meter(SSE, stream=True), [data]) == [b'data: {"model":"looper/auto"}' + tail]

    @pytest.mark.parametrize("size", [101, 1000])
    @pytest.mark.parametrize("cut", [1, 50, 10_000])
    def test_what_is_too_large_passes_and_so_does_the_rest(
        self, monkeypatch: pytest.MonkeyPatch, size: int, cut: int
    ) -> None:
        """From an event over the bound on, everything passes as it is, however it is cut, and that is said once."""
        monkeypatch.setattr(metering, "MAX_EVENT", 100)
        small = b'data: {"model":"x"}\n\n'
        large = b'data: {"model":"x","a":"%b"}\n\n' % (b"y" * size)
        data = small + large + small
        made = meter(SSE, stream=True)
        out = b"".join(passed(made, [data[at : at + cut] for at in range(0, len(data), cut)]))
        assert out == small.replace(b'"x"', b'"looper/auto"') + large + small
        assert made.report() == {"unmetered": 1}

    def test_what_is_held_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A line that does not end is let go."""
        monkeypatch.setattr(metering, "MAX_EVENT", 100)
        made = meter(SSE, stream=True)
        assert [made.feed(b"x" * 60, False), made.feed(b"x" * 60, False)] == [b"", b"x" * 120]
        assert made.feed(b"x", False) == b"x"

    def test_usage_is_reported_with_the_event_that_says_it(self) -> None:
        """The report does not wait for the end, which a client may not wait for either; the last word counts."""
        made = meter(SSE, stream=True)
        chunk = b'data: {"choices":[{}],"usage":%b}\n\n'
        made.feed(chunk % b"null", False)
        assert made.report() == {}
        made.feed(chunk % b'{"prompt_tokens":3,"completion_tokens":1}', False)
        assert made.report() == {**REPORT, "completion_tokens": 1, "cost_microusd": 4}
        made.feed(chunk % USAGE, False)
        assert (made.report(), made.report()) == (REPORT, {})


class TestWhole:
    @thorough
    @given(chunks(), st.booleans(), st.data())
    def test_is_held_until_it_is_complete(
        self, written: tuple[str, str], usage: bool, draw: st.DataObject
    ) -> None:
        """However it is cut, an answer goes on in one piece, with nothing but the model's name changed."""
        text = written[0][:-1] + (f',"u":{USAGE.decode()}}}' if usage else "}")
        sent = text.encode()
        value = json.loads(sent)["model"]
        out = passed(meter(JSON), draw.draw(pieces(sent)))
        assert len([piece for piece in out if piece]) == 1
        assert json.loads(b"".join(out)) == json.loads(sent) | {"model": "looper/auto"}
        if value == "small":
            # The nested `model` keeps the backend's name.
            assert b"".join(out).count(b"small") == sent.count(b"small") - 1

    @pytest.mark.parametrize("size", [1, 5, 1000])
    def test_does_not_wait_for_an_end_that_may_not_come(self, size: int) -> None:
        """Where trailers follow, Envoy never says that the body has ended: what is complete goes on."""
        sent = b'{"choices":[{}],"model":"small","usage":%b}\n' % USAGE
        made = meter(JSON)
        out = [made.feed(sent[at : at + size], False) for at in range(0, len(sent), size)]
        assert b"".join(out) == sent.replace(b"small", b"looper/auto")
        assert made.report() == REPORT

    @pytest.mark.parametrize("data", NOT_EDITED)
    @pytest.mark.parametrize("cut", [1, 100])
    def test_what_cannot_be_edited_passes(self, data: bytes, cut: int) -> None:
        """What is no object, or not a plain one, arrives byte for byte."""
        sent = [data[at : at + cut] for at in range(0, len(data), cut)] or [b""]
        assert b"".join(passed(meter(JSON), sent)) == data

    def test_what_is_no_object_is_not_held(self) -> None:
        """Nothing waits for an end that it does not need."""
        made = meter(JSON)
        assert [made.feed(b"\n", False), made.feed(b"<html>", False)] == [b"", b"\n<html>"]
        assert made.feed(b"{", False) == b"{"

    @pytest.mark.parametrize("cut", [1, 30, 1000])
    def test_what_is_too_large_passes(self, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
        """Over the bound, what was held and all that follows passes as it is, and that is said."""
        monkeypatch.setattr(metering, "MAX_WHOLE", 100)
        sent = b'{"model":"x","a":"%b"}' % (b"y" * 200)
        made = meter(JSON)
        out = passed(made, [sent[at : at + cut] for at in range(0, len(sent), cut)])
        assert b"".join(out) == sent
        assert made.report() == {"unmetered": 1}

    def test_reading_takes_linear_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer that looks complete at every piece is not parsed at every piece."""
        tries = []
        parse = JsonObject.parse

        def counted(data: bytes) -> JsonObject:
            tries.append(len(data))
            return parse(data)

        monkeypatch.setattr(JsonObject, "parse", counted)
        made = meter(JSON)
        item = b'{"a":"%b"},{}' % (b"x" * 300)
        out = passed(made, [b'{"model":"x","a":[', *[item] * 5000, b"]}"])
        assert out[-1].startswith(b'{"model":"x"')  # which is no JSON: a comma is missing
        assert sum(tries) < 10 * len(out[-1])


class TestUntouched:
    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {**JSON, ":status": "400"},
            {**SSE, ":status": "500"},
            {**JSON, "content-encoding": "gzip"},
            {":status": "200"},
            {":status": "200", "content-type": "text/plain"},
            {":status": "200", "content-type": "application/jsonl"},
        ],
    )
    def test_what_is_no_plain_answer_passes_piece_by_piece(self, headers: dict[str, str]) -> None:
        """Errors, other encodings and other types are not looked at."""
        data = [b'{"model":"x",', b'"usage":', USAGE, b"}", b'data: {"model":"x"}\n\n']
        made = meter(headers, stream=True)
        assert passed(made, data) == data
        assert made.report() == {}

    def test_what_is_no_chat_completion_is_read_only(self) -> None:
        """Embeddings pass piece by piece, and their usage is read."""
        request = Request.parse(b'{"model":"looper/auto","input":"x"}')
        data = [b'{"model":"small","usage":', b'{"prompt_tokens":3,"total_tokens":3}}', b""]
        made = meter(JSON, request=request)
        assert passed(made, data) == data
        assert made.report() == {"prompt_tokens": 3, "completion_tokens": 0, "cost_microusd": 2}

    def test_a_stream_that_is_no_chat_completion_is_not_read(self) -> None:
        """Other APIs have other events."""
        request = Request.parse(b'{"model":"looper/auto","stream":true}')
        data = [b'data: {"model":"small"}\n\n']
        made = meter(SSE, request=request)
        assert passed(made, data) == data
        assert made.request_changes == {}

    @pytest.mark.parametrize("headers", [JSON, SSE], ids=["whole", "streamed"])
    def test_a_mistake_of_ours_costs_nobody_the_answer(
        self, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
    ) -> None:
        """If metering itself fails, what was held and all that follows passes as it is."""
        made = meter(headers, stream=True)
        data = [b'data: {"model"' if headers is SSE else b'{"model"', b':"x"}\n\n', b"{}\n\n"]
        out = [made.feed(data[0], False)]
        monkeypatch.setattr(JsonObject, "parse", lambda _: 1 / 0)
        out += [made.feed(data[1], False), made.feed(data[2], True)]
        assert out == [b"", data[0] + data[1], data[2]]
        assert made.report() == {"unmetered": 1}


class TestUsage:
    @pytest.mark.parametrize(
        ("usage", "report"),
        [
            pytest.param(USAGE, REPORT, id="both"),
            pytest.param(b"null", {}, id="null"),
            pytest.param(b"{}", {}, id="empty"),
            pytest.param(b'{"prompt_tokens":null}', {}, id="nulls"),
            pytest.param(b'{"prompt_tokens":-1,"completion_tokens":-4}', {}, id="negative"),
            pytest.param(b'{"prompt_tokens":1e30}', {}, id="float"),
            pytest.param(b'{"prompt_tokens":%b}' % (b"9" * 40), {}, id="huge"),
            pytest.param(b'{"prompt_tokens":true}', {}, id="bool"),
            pytest.param(b'"7"', {}, id="text"),
            pytest.param(b"[" * 10_000 + b"]" * 10_000, {}, id="deep"),
            pytest.param(b'{"prompt_tokens":3,"completion_tokens":4,"x":{"y":[]}}', REPORT, id="details"),
        ],
    )  # fmt: skip
    def test_only_what_can_be_counted_is_reported(
        self, usage: bytes, report: dict[str, int]
    ) -> None:
        """Envoy's counters never recover from an absurd number, and an answer passes whatever its usage is."""
        made = meter(JSON)
        data = b'{"model":"x","usage":%b}' % usage
        out = b"".join(passed(made, [data]))
        assert out in (data, data.replace(b'"x"', b'"looper/auto"', 1))
        assert made.report() == report

    @pytest.mark.parametrize(
        ("usage", "written"),
        [
            pytest.param(None, 3, id="absent"),
            pytest.param(b"null", 3, id="null"),
            pytest.param(b"{}", 3, id="empty"),
            pytest.param(b'{"prompt_tokens":null,"completion_tokens":null}', 3, id="nulls"),
            pytest.param(b'{"prompt_tokens":-1,"completion_tokens":-1}', 3, id="negative"),
            pytest.param(b'{"prompt_tokens":%b}' % (b"9" * 30), 3, id="impossible"),
            pytest.param(b'{"prompt_tokens":1e30,"completion_tokens":[]}', 3, id="strange"),
            pytest.param(b'{"prompt_tokens":0,"completion_tokens":0}', 3, id="nothing"),
            pytest.param(b'{"completion_tokens":7}', 7, id="half"),
        ],
    )
    @pytest.mark.parametrize("end", ["done", "end-of-stream", "whole"])
    def test_what_is_not_reported_is_estimated(
        self, usage: bytes | None, written: int, end: str
    ) -> None:
        """Once, at the end, as for teams, and marked: a third of a client's words counts for what it weighs."""
        said = {"role": "assistant", "content": "x" * 12}
        made = meter(JSON if end == "whole" else SSE, stream=end != "whole")
        kind = "message" if end == "whole" else "delta"
        choices = json.dumps([{"index": 0, kind: said, "finish_reason": "stop"}]).encode()
        rest = b"" if usage is None else b',"usage":' + usage
        data = b'{"choices":%b,"model":"x"%b}' % (choices, rest)
        if end == "whole":
            made.feed(data, False)
        else:
            made.feed(b"data: " + data + b"\n\n", False)
            assert made.report() == {}
            made.feed(*((b"data: [DONE]\n\n", False) if end == "done" else (b"", True)))
        prompt = chat().prompt_tokens
        guessed = prompt + (written if written == 3 else 0)
        assert made.report() == {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "estimated_tokens": guessed,
            "cost_microusd": math.ceil(prompt * 0.5 + written * 2),
        }
        made.feed(b"", True)
        assert made.report() == {}

    def test_no_answer_is_taken_for_longer_than_it_may_be(self) -> None:
        """A limit holds, for each choice."""
        made = meter(JSON, max_tokens=5, n=2)
        choices = [{"index": at, "message": {"content": "x" * 4000}} for at in range(2)]
        made.feed(json.dumps({"choices": choices}).encode(), True)
        assert made.report()["completion_tokens"] == 10

    def test_a_first_word_of_nothing_is_not_the_last(self) -> None:
        """What a backend says it has used before it has written anything."""
        made = meter(SSE, stream=True)
        made.feed(b'data: {"usage":{"prompt_tokens":3,"completion_tokens":0}}\n\n', False)
        assert made.report()["completion_tokens"] == 0
        made.feed(b'data: {"choices":[{"delta":{"content":"12345678"}}]}\n\n', False)
        made.feed(b"", True)
        assert made.report() == {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "estimated_tokens": 2,
            "cost_microusd": 6,
        }

    def test_an_error_has_used_nothing(self) -> None:
        made = meter(JSON)
        made.feed(b'{"error":{"message":"no"}}', True)
        assert made.report() == {}

    def test_without_a_price_there_is_no_cost(self) -> None:
        """Unknown is not nothing."""
        made = meter(JSON, FREE)
        made.feed(b'{"usage":%b}' % USAGE, True)
        assert made.report() == {"prompt_tokens": 3, "completion_tokens": 4}


class TestRequest:
    @pytest.mark.parametrize(
        ("members", "changes"),
        [
            pytest.param({}, {}, id="unstreamed"),
            pytest.param({"stream": False}, {}, id="stream-false"),
            pytest.param({"stream": True}, '{"include_usage":true}', id="nothing-said"),
            pytest.param(
                {"stream": True, "stream_options": None}, '{"include_usage":true}', id="null"
            ),
            pytest.param(
                {"stream": True, "stream_options": {}}, '{"include_usage":true}', id="empty"
            ),
            pytest.param(
                {"stream": True, "stream_options": {"include_usage": False, "a": 1}},
                '{"include_usage": true, "a": 1}',
                id="false",
            ),
            pytest.param(
                {"stream": True, "stream_options": {"include_usage": None}},
                '{"include_usage": true}',
                id="usage-null",
            ),
            pytest.param(ASKED, {}, id="asked"),
            pytest.param({"stream": "yes"}, {}, id="stream-is-text"),
            pytest.param({"stream": True, "stream_options": 5}, {}, id="options-are-a-number"),
            pytest.param(
                {"stream": True, "stream_options": {"include_usage": 1}}, {}, id="usage-is-a-number"
            ),
        ],
    )
    def test_asks_for_the_usage_of_a_stream_unless_the_client_does(
        self, members: dict[str, Any], changes: object
    ) -> None:
        """One member of the request may change; a request that is wrong is left for the backend to refuse."""
        expected = {"stream_options": changes.encode()} if isinstance(changes, str) else changes
        assert AnswerMeter(chat(**members), MODEL).request_changes == expected

    def test_asks_for_nothing_that_the_dialect_drops(self) -> None:
        """The backend would refuse it, and the whole request with it."""
        options = {
            "name": "small",
            "url": "http://small/v1",
            "dialect": {"drop": ["stream_options"]},
        }
        assert AnswerMeter(chat(stream=True), Model.model_validate(options)).request_changes == {}

    def test_options_that_say_it_twice_are_left_alone(self) -> None:
        """Nobody can tell which of the two the backend would take."""
        body = (
            b'{"model":"m","messages":[{"role":"user"}],"stream":true,'
            b'"stream_options":{"a":1,"a":2}}'
        )
        assert AnswerMeter(ChatRequest.parse(body), MODEL).request_changes == {}
