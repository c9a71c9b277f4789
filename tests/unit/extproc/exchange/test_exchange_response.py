"""The answer of a routed request, as it comes by where the filter is set up for it."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.exchange.channel import wave_through
from extproc.process.runtime import build
from extproc.protocol.actions import (
    Action,
    PassHeaders,
    PassResponseBody,
    PassResponseHeaders,
    PassResponseTrailers,
    Respond,
)
from extproc.protocol.events import (
    BodyMode,
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
)
from tests.fakes.channel import ScriptedChannel, body, exchanged, opening
from tests.fakes.models import ScriptedClient
from tests.unit.extproc.exchange.test_exchange import CONFIG, chat, runtime

FDS, BUFFERED = BodyMode.FULL_DUPLEX, BodyMode.BUFFERED
both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)

SSE = ResponseHeaders({":status": "200", "content-type": "text/event-stream"})
JSON = ResponseHeaders({":status": "200", "content-type": "application/json"})
USAGE = '{"prompt_tokens":3,"completion_tokens":4}'
REPORT = {"prompt_tokens": 3, "completion_tokens": 4, "cost_microusd": 11}
CHUNK = 'data: {"model":"qwen3-8b","choices":[{}],"usage":null}\n\n'
LAST = f'data: {{"model":"qwen3-8b","choices":[],"usage":{USAGE}}}\n\n'


def metered(path: str = "/v1/chat/completions", **settings: Any) -> RequestHeaders:
    return replace(opening(path, **settings), metered=True)


def pieces(*texts: str) -> list[Event]:
    """The pieces of an answer, the last of which is its end."""
    last = len(texts) - 1
    return [ResponseBody(text.encode(), at == last) for at, text in enumerate(texts)]


async def answered(
    first: RequestHeaders, request: bytes, headers: ResponseHeaders, *texts: str
) -> list[Action]:
    """What was done with the answer."""
    channel = await exchanged(runtime(), first, [*body(request), headers, *pieces(*texts)])
    at = channel.sent.index(PassResponseHeaders())
    return channel.sent[at + 1 :]


class TestRoutedChat:
    @both_modes
    async def test_each_piece_has_one_reply(self, mode: BodyMode) -> None:
        """A stream goes on piece by piece: names restored, usage hidden, and reported as soon as it is known."""
        replies = await answered(
            metered(mode=mode), chat(stream=True), SSE, CHUNK, CHUNK[:9], CHUNK[9:], LAST, ""
        )
        seen = b'data: {"model":"looper/auto","choices":[{}]}\n\n'
        assert replies == [
            PassResponseBody(seen),
            PassResponseBody(b""),
            PassResponseBody(seen),
            PassResponseBody(b"", REPORT),
            PassResponseBody(),
        ]

    @both_modes
    async def test_the_backend_is_asked_for_the_usage(self, mode: BodyMode) -> None:
        """Only a stream has to be asked, and only if the client did not ask already."""
        asking = b',"stream_options":{"include_usage":true}}'
        for members, added in (
            ({"stream": True}, asking),
            ({}, b"}"),
            ({"stream": True, "stream_options": {"include_usage": True}}, b"}"),
        ):
            request = chat(**members)
            channel = await exchanged(runtime(), metered(mode=mode), body(request))
            sent = request[:-1].replace(b"looper/auto", b"qwen3-8b")
            assert channel.rewrite.body == sent + added

    @both_modes
    async def test_ids_of_tool_calls_fit_what_the_upstream_takes(self, mode: BodyMode) -> None:
        """On the way there each id is one that fits, call and result still paired; those it gives are its own."""
        strict = CONFIG.replace("name: small,", "name: small, dialect: mistral,")
        id = "call_" + "x" * 30
        called = {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": id, "content": "5"},
        ]
        request = chat(stream=True, messages=messages)
        chunk = 'data: {"choices":[{"delta":{"tool_calls":[{"id":"AbCdEfGh1"}]}}],"usage":null}\n\n'
        events = [*body(request), SSE, *pieces(chunk, "")]
        works = build(parse_config(strict, "test.yaml"), ScriptedClient({}))
        channel = await exchanged(works, metered(mode=mode), events)
        sent = json.loads(channel.rewrite.body)
        _, calling, answering = sent["messages"]
        assert calling["tool_calls"][0]["id"] == answering["tool_call_id"]
        assert re.fullmatch("[A-Za-z0-9]{9}", answering["tool_call_id"])
        assert "stream_options" not in sent
        answers = [each.replacement for each in channel.sent if isinstance(each, PassResponseBody)]
        assert answers == [None, None]  # as they came

    async def test_nothing_is_asked_for_where_the_answer_does_not_come_by(self) -> None:
        """In profile `fast` nothing changes but the name of the model."""
        request = chat(stream=True)
        channel = await exchanged(runtime(), opening(), body(request))
        assert channel.rewrite.body == request.replace(b"looper/auto", b"qwen3-8b")

    @both_modes
    async def test_an_unstreamed_answer_goes_on_when_it_is_complete(self, mode: BodyMode) -> None:
        """Its pieces are taken out, and the last one's place is taken by all of it."""
        text = f'{{"model":"qwen3-8b","usage":{USAGE}}}'
        replies = await answered(metered(mode=mode), chat(), JSON, text[:9], text[9:])
        whole = text.replace("qwen3-8b", "looper/auto").encode()
        assert replies == [PassResponseBody(b""), PassResponseBody(whole, REPORT)]

    async def test_an_error_is_not_touched(self) -> None:
        """A backend's own words about what is wrong are the client's."""
        headers = ResponseHeaders({**JSON.headers, ":status": "400"})
        replies = await answered(metered(), chat(), headers, '{"model":"x"', "}")
        assert replies == [PassResponseBody(), PassResponseBody()]

    async def test_trailers_pass(self) -> None:
        """A filter may send trailers too."""
        events: list[Event] = [*body(chat()), JSON, ResponseTrailers()]
        channel = await exchanged(runtime(), metered(), events)
        assert channel.sent[-1] == PassResponseTrailers()

    async def test_the_event_of_the_exchange_says_the_usage(self) -> None:
        """What was used is part of what is logged once for each exchange."""
        with capture_logs() as logs:
            await answered(metered(), chat(), JSON, f'{{"usage":{USAGE}}}')
        (finished,) = (entry for entry in logs if entry["event"] == "exchange.finished")
        assert REPORT.items() <= finished.items()
        assert finished["end"] == "answered"

    @pytest.mark.parametrize("come", [0, 1, 2])
    async def test_a_client_that_leaves_before_its_end_has_not_been_answered(
        self, come: int
    ) -> None:
        """As long as an answer passes by here, its end is what counts."""
        events: list[Event] = [*body(chat(stream=True)), SSE, *pieces(CHUNK, CHUNK, LAST)[:come]]
        with capture_logs() as logs:
            await exchanged(runtime(), metered(), events)
        (finished,) = (entry for entry in logs if entry["event"] == "exchange.finished")
        assert finished["end"] == "abandoned"


class TestEverythingElse:
    @pytest.mark.parametrize(
        ("path", "request_body"),
        [
            pytest.param("/v1/files", b"x", id="not-ours"),
            pytest.param("/v1/embeddings", b'{"model":"foreign"}', id="foreign-model"),
        ],
    )
    @both_modes
    async def test_answers_to_what_was_not_routed_pass(
        self, mode: BodyMode, path: str, request_body: bytes
    ) -> None:
        """What we let through on its way there, we let through on its way back."""
        replies = await answered(
            metered(path, mode=mode), request_body, JSON, '{"model":"x"}', "more"
        )
        assert replies == [PassResponseBody(), PassResponseBody()]

    async def test_usage_of_embeddings_is_reported(self) -> None:
        """Routed, though no chat: the answer passes, and its usage is read."""
        request = json.dumps({"model": "looper/plain", "input": "x"}).encode()
        text = '{"model":"other","usage":{"prompt_tokens":3,"total_tokens":3}}'
        replies = await answered(metered("/v1/embeddings"), request, JSON, text)
        usage: Mapping[str, int] = {"prompt_tokens": 3, "completion_tokens": 0}
        assert replies == [PassResponseBody(None, usage)]

    async def test_our_own_answers_do_not_come_by(self) -> None:
        """An error is answered as in the other profile."""
        channel = await exchanged(runtime(), metered(), body(b"{"))
        assert channel.only(Respond).status == 400


class TestOvertaken:
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/files"])
    async def test_envoy_may_answer_in_the_middle_of_a_request(self, path: str) -> None:
        """When a clock of Envoy's ends an upload, its answer passes, and ours is not wanted any more."""
        error = ResponseHeaders({":status": "408"})
        events: list[Event] = [RequestBody(b"{", False), error, *pieces("too", "late")]
        with capture_logs() as logs:
            channel = await exchanged(runtime(), metered(path), events)
        ours = [action for action in channel.sent if isinstance(action, PassHeaders)]
        assert len(ours) == (path == "/v1/files")
        assert channel.sent[-3:] == [PassResponseHeaders(), PassResponseBody(), PassResponseBody()]
        assert logs[-1]["end"] == "overtaken"

    async def test_or_before_we_know_of_it(self) -> None:
        """Then there is nothing to do but to let the answer pass."""
        events: list[Event] = [RequestTrailers(), *pieces("a", "b"), ResponseTrailers()]
        channel = ScriptedChannel(events)
        await wave_through(channel)
        assert channel.sent == [
            PassResponseHeaders(),
            PassResponseBody(),
            PassResponseBody(),
            PassResponseTrailers(),
        ]
