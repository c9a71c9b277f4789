import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.errors import ProtocolError
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import (
    Action,
    CloseStream,
    OpenStream,
    PassBody,
    PassHeaders,
    PassResponseHeaders,
    PassResponseTrailers,
    PassTrailers,
    Respond,
    Rewrite,
    StreamData,
)
from extproc.protocol.events import (
    BodyMode,
    Event,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
)
from looper.calling.calls import CallFailed, Failure
from looper.errors import UpstreamFailed
from looper.run import Pattern, Run
from looper.wire.chat import ChatRequest, Choice, Completion, Reply, Usage
from looper.wire.events import Delta, Done, Finish, Grounds, Progress
from looper.wire.events import Event as LoopEvent
from looper.wire.sse import DONE, EventReader
from tests.fakes.channel import ABORT, BEGIN, ScriptedChannel, body, exchange_of, exchanged, opening
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Asked,
    Crash,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    completion,
    in_turn,
    refused,
)

FDS, BUFFERED = BodyMode.FULL_DUPLEX, BodyMode.BUFFERED
both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)

CONFIG = """
version: 1
egress: unix:/run/egress.sock
heartbeat: 10s
limits: {max_body: 1000B}
models:
  - {name: small, upstream_model: qwen3-8b, url: "http://small/v1", price: {input: 1, output: 2}}
  - {name: other, url: "http://other/v1"}
  - {name: large, url: "http://large/v1", price: {input: 10, output: 20}}
  - {name: open, upstream_model: gpt-oss, url: "http://open/v1", public: true}
recipes:
  auto:
    signals:
      team: {type: keyword, any: [team]}
    decisions:
      - name: panel
        when: team
        algorithm: {type: fusion, analysis_models: [small, other], judge_model: large}
        budget: {deadline: 60s}
      - {name: default, algorithm: {type: single, model: small}}
  plain:
    decisions:
      - {name: only, algorithm: {type: single, model: other}}
  strict:
    decisions:
      - {name: always, algorithm: {type: fusion, analysis_models: [small], judge_model: large}}
  tools:
    decisions:
      - name: team
        algorithm: {type: fusion, analysis_models: [small], judge_model: large}
        tools: {bypass: other}
entrypoints: {looper/auto: auto, looper/plain: plain, looper/strict: strict, looper/tools: tools}
"""

JUDGED = '{"winner": 1, "agreement": 1}'
SCRIPT: Mapping[str, Step] = {
    "small": "first draft",
    "other": "second draft",
    "large": in_turn(JUDGED, "the answer"),
}


def runtime(client: ScriptedClient | None = None, **patterns: Pattern) -> Runtime:
    """The configuration above at work; a pattern given by a decision's name takes the place of its own."""
    built = build(parse_config(CONFIG, "test.yaml"), client or ScriptedClient({}))
    swapped = {key: patterns.get(key[1], pattern) for key, pattern in built.patterns.items()}
    return replace(built, patterns=swapped)


def chat(model: str = "looper/auto", text: str = "hi", **members: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, **members}).encode()


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def error_of(response: Respond) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(response.body)["error"]
    return error


def frames(sse: bytes) -> list[Any]:
    """The data of each frame of a complete stream, [DONE] left out, which must stand last and only there."""
    reader = EventReader()
    events = [event.data for event in reader.feed(sse)]
    reader.close()
    assert events.index(DONE) == len(events) - 1
    return [json.loads(data) for data in events[:-1]]


def text_of(sse: bytes) -> str:
    deltas = [frame["choices"][0]["delta"] for frame in frames(sse) if frame.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


class TestRouting:
    async def test_in_full_duplex_the_request_is_rewritten_in_one_go(self) -> None:
        """Nothing is said before the whole body was read; then headers and body are sent as one rewrite."""
        data = chat(temperature=0.1)
        channel = await exchanged(runtime(), opening(), body(data))
        rewrite = channel.only(Rewrite)
        assert rewrite.body == data.replace(b"looper/auto", b"qwen3-8b")
        assert not rewrite.trailers
        headers = dict(rewrite.headers)
        assert headers["x-looper-model"] == "small"
        assert headers["x-looper-run"] == rewrite.metadata["run"]

    async def test_buffered_lets_the_headers_go_first(self) -> None:
        """Envoy sends the body only after its headers were answered."""
        data = chat()
        channel = await exchanged(runtime(), opening(mode=BUFFERED), body(data))
        first, rewrite = channel.sent
        assert first == PassHeaders()
        assert isinstance(rewrite, Rewrite)
        assert rewrite.body == data.replace(b"looper/auto", b"qwen3-8b")

    @both_modes
    async def test_says_in_metadata_what_was_decided(self, mode: BodyMode) -> None:
        """Statistics and response headers are made from what a rewrite says of its decision."""
        channel = await exchanged(runtime(), opening(mode=mode), body(chat()))
        run = channel.rewrite.metadata["run"]
        assert channel.rewrite.metadata == {
            "decision": "default", "recipe": "auto", "algorithm": "single", "model": "small", "run": run,
        }  # fmt: skip

    @both_modes
    async def test_never_begins_a_run(self, mode: BodyMode) -> None:
        """What costs nothing here may be replayed by Envoy after a crash."""
        client = ScriptedClient({})
        channel = await exchanged(runtime(client), opening(mode=mode), body(chat()))
        assert not channel.began
        assert client.asked == []

    async def test_run_ids_differ(self) -> None:
        """Each exchange can be told from any other."""
        runs = [
            (await exchanged(runtime(), opening(), body(chat()))).rewrite.metadata["run"]
            for _ in range(20)
        ]
        assert len(set(runs)) == 20

    async def test_the_decision_follows_what_the_user_wrote(self) -> None:
        """A signal's words in another role's message decide nothing."""
        messages = [
            {"role": "system", "content": "work as a team"},
            {"role": "user", "content": "hi"},
        ]
        data = json.dumps({"model": "looper/auto", "messages": messages}).encode()
        channel = await exchanged(runtime(), opening(), body(data))
        assert channel.rewrite.metadata["decision"] == "default"

    @both_modes
    async def test_a_public_model_is_routed_to_by_its_own_name(self, mode: BodyMode) -> None:
        """A model that the configuration makes public needs no entrypoint."""
        channel = await exchanged(runtime(), opening(mode=mode), body(chat("open")))
        assert json.loads(channel.rewrite.body)["model"] == "gpt-oss"
        assert dict(channel.rewrite.headers)["x-looper-model"] == "open"

    async def test_the_routes_recipe_takes_the_place_of_the_entrypoints(self) -> None:
        """Envoy's route table may choose the recipe, whatever public name the client used."""
        channel = await exchanged(runtime(), opening(), body(chat()), recipe="plain")
        assert channel.rewrite.metadata["recipe"] == "plain"
        assert json.loads(channel.rewrite.body)["model"] == "other"

    async def test_a_route_that_names_an_unknown_recipe_is_a_mistake_of_the_filter(self) -> None:
        """Another recipe in its place could let through what it was there to stop."""
        exchange, channel = exchange_of(runtime(), opening(), body(chat()), recipe="nope")
        with pytest.raises(ProtocolError, match="recipe"):
            await exchange.run()
        assert channel.sent == []

    async def test_an_unknown_model_stays_unknown_with_a_recipe(self) -> None:
        """A recipe says how a public name is answered, not that any name is one."""
        channel = await exchanged(runtime(), opening(), body(chat("gpt-9")), recipe="plain")
        assert channel.only(Respond).status == 404


TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


class TestFunctions:
    MIXED: Mapping[str, Any] = {"functions": [{"name": "f"}], "tools": [TOOL]}

    @both_modes
    async def test_of_a_routed_request_stay_as_they_are(self, mode: BodyMode) -> None:
        """One model answers whatever it is asked in, and whatever is wrong with that is its business."""
        data = chat(**self.MIXED, function_call={"name": "g"})
        channel = await exchanged(runtime(), opening(mode=mode), body(data))
        assert channel.rewrite.body == data.replace(b"looper/auto", b"qwen3-8b")

    @both_modes
    async def test_beside_tools_are_refused_by_a_team(self, mode: BodyMode) -> None:
        """The client is told which member is wrong, and nobody is asked."""
        client = ScriptedClient(SCRIPT)
        data = chat(text="team", **self.MIXED)
        channel = await exchanged(runtime(client), opening(mode=mode), body(data))
        *_, response = channel.sent
        assert isinstance(response, Respond)
        assert response.status == 400
        assert error_of(response)["param"] == "tools"
        assert client.asked == []

    @both_modes
    async def test_are_tools_to_a_team(self, mode: BodyMode) -> None:
        """The stage that may call them gets them in the newer API, and the client an answer in the older one."""
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        final = completion(None, finish="tool_calls", tool_calls=[call])
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, final)})
        data = chat(text="team", functions=[{"name": "f"}])
        channel = await exchanged(runtime(client), opening(mode=mode), body(data))
        *_, response = channel.sent
        assert isinstance(response, Respond)
        choice = json.loads(response.body)["choices"][0]
        assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}
        assert choice["finish_reason"] == "function_call"
        assert client.asked[-1].body["tools"] == [TOOL]
        assert not any("functions" in asked.body for asked in client.asked)


class TestToolTurns:
    @both_modes
    @pytest.mark.parametrize(
        "members",
        [
            pytest.param({"tools": [TOOL]}, id="offered"),
            pytest.param({"functions": [{"name": "f"}]}, id="functions"),
            pytest.param(
                {"messages": [
                    {"role": "user", "content": "team"},
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "c", "content": "1"},
                ]},
                id="called-before",
            ),
        ],
    )  # fmt: skip
    async def test_may_bypass_a_team(self, mode: BodyMode, members: dict[str, Any]) -> None:
        """One model answers whenever tools are in play, and what was decided is said all the same."""
        client = ScriptedClient({})
        data = chat("looper/tools", text="team", **members)
        channel = await exchanged(runtime(client), opening(mode=mode), body(data))
        rewrite = channel.rewrite
        assert json.loads(rewrite.body)["model"] == "other"
        assert rewrite.metadata["algorithm"] == "fusion"
        assert rewrite.metadata["outcome"] == "bypass"
        assert client.asked == []

    @pytest.mark.parametrize("members", [{}, {"tools": []}, {"tools": None}], ids=str)
    async def test_are_none_without_tools(self, members: dict[str, Any]) -> None:
        """An empty list of tools offers none."""
        client = ScriptedClient(SCRIPT)
        data = chat("looper/tools", **members)
        await exchanged(runtime(client), opening(), body(data))
        assert client.asked


class TestReceiving:
    @both_modes
    async def test_trailers_end_a_request(self, mode: BodyMode) -> None:
        """A body whose last piece does not end the request is followed by trailers, which go on as well."""
        channel = await exchanged(runtime(), opening(mode=mode), body(chat(), trailers=True))
        if mode is FDS:
            assert channel.only(Rewrite).trailers
        else:
            passed, rewrite, trailers = channel.sent
            assert (passed, trailers) == (PassHeaders(), PassTrailers())
            assert isinstance(rewrite, Rewrite)
            assert not rewrite.trailers

    @pytest.mark.parametrize("size", [1, 7, 50], ids="pieces-of-{}".format)
    async def test_a_body_may_come_in_any_pieces(self, size: int) -> None:
        """How the body is cut, empty pieces at its end included, changes nothing."""
        data = chat()
        pieces: list[Event] = [
            RequestBody(data[at : at + size], False) for at in range(0, len(data), size)
        ]
        channel = await exchanged(runtime(), opening(), [*pieces, RequestBody(b"", True)])
        assert channel.only(Rewrite).body == data.replace(b"looper/auto", b"qwen3-8b")

    @pytest.mark.parametrize(
        "later",
        [
            pytest.param([RequestBody(b"", True)], id="a-second-end"),
            pytest.param([RequestBody(b"x" * 5000, True)], id="more-body"),
            pytest.param([RequestTrailers()], id="trailers"),
            pytest.param([RequestBody(b"x", False), RequestTrailers()], id="all-of-it"),
        ],
    )
    async def test_nothing_after_the_first_end_is_looked_at(self, later: list[Event]) -> None:
        """Envoy is known to say twice that a body has ended."""
        channel = await exchanged(runtime(), opening(), [*body(chat()), *later])
        channel.only(Rewrite)
        assert channel.received == 1 + len(later)

    @both_modes
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
    async def test_a_post_without_a_body_is_refused(self, mode: BodyMode, path: str) -> None:
        """Where Envoy announces that there is no body, none is waited for and only headers are answered."""
        first = opening(path, mode=mode, end_of_stream=True)
        response = (await exchanged(runtime(), first)).only(Respond)
        assert (response.status, error_of(response)["code"]) == (400, "invalid_json")

    @both_modes
    async def test_a_body_over_the_limit_is_413(self, mode: BodyMode) -> None:
        """A body is read no further than the limit."""
        channel = await exchanged(runtime(), opening(mode=mode), body(chat(text="x" * 1000)))
        assert channel.respond.status == 413
        assert error_of(channel.respond)["code"] == "body_too_large"

    async def test_a_body_over_the_limit_is_refused_before_its_end(self) -> None:
        """What is too large already is answered without waiting for the rest, which is then dropped."""
        pieces: list[Event] = [RequestBody(b"x" * 400, False) for _ in range(10)]
        exchange, channel = exchange_of(runtime(), opening(), pieces)
        channel.events = pieces[:3]
        await exchange.run()
        assert channel.only(Respond).status == 413

    async def test_a_body_of_exactly_the_limit_is_taken(self) -> None:
        """The limit itself is allowed."""
        data = chat(text="x" * (1000 - len(chat(text=""))))
        assert len(data) == 1000
        (await exchanged(runtime(), opening(), body(data))).only(Rewrite)

    @both_modes
    @pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate, gzip"])
    async def test_a_compressed_body_is_refused(self, mode: BodyMode, encoding: str) -> None:
        """What cannot be read cannot be decided on; headers are answered at once."""
        first = opening(mode=mode, headers={"content-encoding": encoding})
        response = (await exchanged(runtime(), first, body(b"\x1f\x8b"))).only(Respond)
        assert (response.status, error_of(response)["code"]) == (400, "invalid_request")

    async def test_the_identity_encoding_is_none(self) -> None:
        """A client may say that it does not compress."""
        first = opening(headers={"content-encoding": "identity"})
        (await exchanged(runtime(), first, body(chat()))).only(Rewrite)

    @pytest.mark.parametrize(
        ("events", "text"),
        [
            pytest.param([ResponseHeaders()], "ResponseHeaders", id="a-response"),
            pytest.param([opening()], "RequestHeaders", id="headers-again"),
        ],
    )
    async def test_what_does_not_belong_into_a_request_is_a_mistake_of_the_filter(
        self, events: list[Event], text: str
    ) -> None:
        """What Envoy should never send is told to Envoy, not to a client."""
        exchange, channel = exchange_of(runtime(), opening(), events)
        with pytest.raises(ProtocolError, match=text):
            await exchange.run()
        assert channel.sent == []

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/files"])
    @pytest.mark.parametrize(
        ("mode", "events"),
        [
            pytest.param(FDS, [], id="full-duplex-headers"),
            pytest.param(FDS, [RequestBody(b"{", False)], id="full-duplex-half-a-body"),
            pytest.param(BUFFERED, [], id="buffered-headers"),
        ],
    )
    async def test_a_client_that_leaves_before_the_end_gets_no_answer(
        self, path: str, mode: BodyMode, events: list[Event]
    ) -> None:
        """Half a request is not decided on, and that it stays half is nobody's mistake."""
        channel = await exchanged(runtime(), opening(path, mode=mode), events)
        assert not [action for action in channel.sent if isinstance(action, Respond | Rewrite)]

    @pytest.mark.parametrize(
        ("data", "status", "code", "param"),
        [
            pytest.param(b"nope", 400, "invalid_json", None, id="not-json"),
            pytest.param(b'{"model": "looper/auto"}', 400, "invalid_field", "messages", id="no-messages"),
            pytest.param(chat("gpt-9"), 404, "model_not_found", "model", id="unknown-model"),
            pytest.param(chat("small"), 404, "model_not_found", "model", id="a-model-that-is-not-public"),
            pytest.param(chat(text="team", n=2), 400, "invalid_field", "n", id="several-choices-of-a-team"),
            pytest.param(chat(text="team", stream="x"), 400, "invalid_field", "stream", id="stream"),
            pytest.param(
                chat(text="team", stream=True, stream_options=1), 400, "invalid_field", "stream_options", id="options"
            ),
        ],
    )  # fmt: skip
    @both_modes
    async def test_what_a_client_does_wrong_it_is_told(
        self, mode: BodyMode, data: bytes, status: int, code: str, param: str | None
    ) -> None:
        """A mistake of the client is answered in OpenAI's shape, with the member that is wrong."""
        client = ScriptedClient({})
        channel = await exchanged(runtime(client), opening(mode=mode), body(data))
        error = error_of(channel.respond)
        assert channel.respond.status == status
        assert (error["type"], error["code"], error["param"]) == (
            "invalid_request_error",
            code,
            param,
        )
        assert channel.respond.details == f"looper.{code}"
        assert client.asked == []


class TestPassing:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/v1/files"),
            ("PUT", "/v1/chat/completions"),
            ("POST", "/v1/chat/completionsx"),
            ("POST", "/V1/chat/completions"),
            ("DELETE", "/v1/models"),
            ("POST", ""),
        ],
    )
    async def test_what_is_not_ours_passes_byte_for_byte(self, method: str, path: str) -> None:
        """Anything else goes on piece by piece, as it comes, whatever it holds and however large it is."""
        pieces = [b"\xff" * 900, b"", b"{" * 900]
        events = [RequestBody(data, at == 2) for at, data in enumerate(pieces)]
        channel = await exchanged(runtime(), opening(path, method=method), events)
        assert channel.sent == [
            PassHeaders(), PassBody(pieces[0], False), PassBody(b"", False), PassBody(pieces[2], True),
        ]  # fmt: skip

    @both_modes
    async def test_a_request_without_a_body_has_only_its_headers_answered(
        self, mode: BodyMode
    ) -> None:
        """An answer to a body that never comes would be an error to Envoy."""
        first = opening("/health", method="GET", mode=mode, end_of_stream=True)
        (await exchanged(runtime(), first)).only(PassHeaders)

    @both_modes
    async def test_trailers_pass_behind_the_body(self, mode: BodyMode) -> None:
        """With trailers to come, the body does not end the request."""
        first = opening("/v1/files", mode=mode)
        channel = await exchanged(runtime(), first, body(b"x", trailers=True))
        assert channel.sent == [PassHeaders(), PassBody(b"x", False), PassTrailers()]

    @pytest.mark.parametrize("headers", [{"content-encoding": "gzip"}, {}], ids=["gzip", "plain"])
    async def test_what_is_not_ours_may_be_compressed(self, headers: dict[str, str]) -> None:
        """Only what must be read must be readable."""
        first = opening("/v1/files", headers=headers)
        channel = await exchanged(runtime(), first, body(b"\x1f\x8b"))
        assert channel.sent == [PassHeaders(), PassBody(b"\x1f\x8b", True)]

    @both_modes
    async def test_what_a_filter_sends_of_the_response_is_answered(self, mode: BodyMode) -> None:
        """Envoy holds a response until its headers and trailers are answered, should it send them."""
        events = [*body(chat()), ResponseHeaders(), ResponseTrailers()]
        channel = await exchanged(runtime(), opening(mode=mode), events)
        assert channel.sent[-2:] == [PassResponseHeaders(), PassResponseTrailers()]


class TestModels:
    @both_modes
    async def test_lists_the_public_names(self, mode: BodyMode) -> None:
        """Entrypoints and public models can be asked for; the rest of the catalogue is nobody's business."""
        first = opening("/v1/models", method="GET", mode=mode, end_of_stream=True)
        response = (await exchanged(runtime(), first)).only(Respond)
        listed = json.loads(response.body)
        assert response.status == 200
        assert ("content-type", "application/json") in response.headers
        assert listed["object"] == "list"
        names = [entry["id"] for entry in listed["data"]]
        assert names == ["looper/auto", "looper/plain", "looper/strict", "looper/tools", "open"]
        assert all(entry["object"] == "model" and entry["created"] > 0 for entry in listed["data"])

    async def test_a_query_does_not_matter(self) -> None:
        """The path decides, and what follows a question mark is no part of it."""
        first = opening("/v1/models?limit=3", method="GET", end_of_stream=True)
        (await exchanged(runtime(), first)).only(Respond)


ALIASED = ["/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]


class TestAliased:
    @both_modes
    @pytest.mark.parametrize("path", ALIASED)
    async def test_a_name_that_one_model_answers_for_is_resolved(
        self, mode: BodyMode, path: str
    ) -> None:
        """Where there is nothing to decide, other kinds of request find their model by its public name."""
        data = b'{"input": 1.10, "model": "looper/plain"}'
        channel = await exchanged(runtime(), opening(path, mode=mode), body(data))
        assert channel.rewrite.body == b'{"input": 1.10, "model": "other"}'
        assert dict(channel.rewrite.headers)["x-looper-model"] == "other"
        assert not channel.began

    @both_modes
    @pytest.mark.parametrize("model", ["looper/auto", "looper/strict"])
    async def test_a_team_answers_chat_only(self, mode: BodyMode, model: str) -> None:
        """A name behind which a team may stand is refused, whatever the text would have decided."""
        data = json.dumps({"model": model, "input": "hi"}).encode()
        channel = await exchanged(runtime(), opening("/v1/embeddings", mode=mode), body(data))
        assert channel.respond.status == 400
        assert error_of(channel.respond)["code"] == "chat_only"
        assert error_of(channel.respond)["param"] == "model"

    async def test_a_public_model_is_resolved(self) -> None:
        """A public model goes by its upstream's name behind us, on every path."""
        channel = await exchanged(
            runtime(), opening("/v1/embeddings"), body(b'{"model": "open", "input": 1}')
        )
        assert channel.only(Rewrite).body == b'{"model": "gpt-oss", "input": 1}'

    @pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
    async def test_a_foreign_model_passes_in_full_duplex(self, trailers: bool) -> None:
        """What names a model that is not ours goes on untouched, after it was read."""
        data = b'{ "model": "foreign" , "input": 1e400}'
        first = opening("/v1/embeddings")
        channel = await exchanged(runtime(), first, body(data, trailers=trailers))
        expected: list[Action] = [PassHeaders(), PassBody(data, not trailers)]
        assert channel.sent == [*expected, PassTrailers()] if trailers else expected

    @pytest.mark.parametrize("trailers", [False, True], ids=["", "trailers"])
    async def test_a_foreign_model_passes_in_buffered(self, trailers: bool) -> None:
        """As in full duplex, but for the headers, which have gone on already."""
        data = b'{ "model": "foreign" , "input": 1e400}'
        first = opening("/v1/embeddings", mode=BUFFERED)
        channel = await exchanged(runtime(), first, body(data, trailers=trailers))
        assert channel.sent[0] == PassHeaders()
        assert isinstance(channel.sent[1], PassBody)
        assert channel.sent[2:] == ([PassTrailers()] if trailers else [])

    @pytest.mark.parametrize(
        ("data", "code"),
        [(b"nope", "invalid_json"), (b"{}", "invalid_field")],
        ids=["not-json", "no-model"],
    )
    async def test_what_names_no_model_is_refused(self, data: bytes, code: str) -> None:
        """These paths need a model, and say so as chat does."""
        channel = await exchanged(runtime(), opening("/v1/embeddings"), body(data))
        assert error_of(channel.only(Respond))["code"] == code


def loop(text: str = "team, please", **members: Any) -> list[Event]:
    return body(chat(text=text, **members))


class TestLoop:
    @both_modes
    async def test_an_unstreamed_answer_is_one_response(self, mode: BodyMode) -> None:
        """A team's answer is a completion by the name that the client asked for."""
        client = ScriptedClient(SCRIPT)
        response = (await exchanged(runtime(client), opening(mode=mode), loop())).respond
        answer = json.loads(response.body)
        assert response.status == 200
        assert answer["model"] == "looper/auto"
        assert answer["choices"][0]["message"]["content"] == "the answer"
        assert answer["usage"]["total_tokens"] == 4 * 15
        assert client.running == []

    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_begins_before_the_first_call(self, mode: BodyMode, stream: bool) -> None:
        """Once a call may cost money, Envoy must not replay the exchange: it is told before, and once."""
        journal: list[object] = []
        client = ScriptedClient(SCRIPT, journal)
        await exchanged(runtime(client), opening(mode=mode), loop(stream=stream), journal=journal)
        first = next(at for at, entry in enumerate(journal) if isinstance(entry, Asked))
        assert journal.index(BEGIN) < first
        assert journal.count(BEGIN) == 1

    async def test_a_response_says_what_was_run(self) -> None:
        """Headers name the decision, the algorithm, the run and the outcome."""
        response = (await exchanged(runtime(ScriptedClient(SCRIPT)), opening(), loop())).respond
        headers = dict(response.headers)
        assert headers["content-type"] == "application/json"
        assert headers["x-looper-decision"] == "panel"
        assert headers["x-looper-algorithm"] == "fusion"
        assert headers["x-looper-run"] == response.metadata["run"]
        assert headers["x-looper-outcome"] == "ok"

    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_the_last_message_says_what_it_cost(self, mode: BodyMode, stream: bool) -> None:
        """Calls, tokens and micro-USD of the run are in the metadata of its last message."""
        client = ScriptedClient(SCRIPT)
        channel = await exchanged(runtime(client), opening(mode=mode), loop(stream=stream))
        last = channel.sent[-1]
        assert isinstance(last, Respond | CloseStream)
        assert {**last.metadata, "run": ""} == {
            "decision": "panel", "recipe": "auto", "algorithm": "fusion", "run": "", "outcome": "ok",
            "calls": 4, "prompt_tokens": 40, "completion_tokens": 20, "cost_microusd": 10 + 10 + 2 * (100 + 100),
            "prompt_tokens.panel": 20, "completion_tokens.panel": 10, "prompt_tokens.judge": 10,
            "completion_tokens.judge": 5, "prompt_tokens.final": 10, "completion_tokens.final": 5,
            **({"first_token_ms": last.metadata["first_token_ms"]} if stream else {}),
        }  # fmt: skip
        assert 0 <= int(last.metadata.get("first_token_ms", 0)) < 5000

    async def test_the_clients_tracing_headers_go_with_each_call(self) -> None:
        """A trace is continued; credentials and anything else of the client's stay here."""
        client = ScriptedClient(SCRIPT)
        headers = {
            "x-request-id": "r", "traceparent": TRACEPARENT, "tracestate": "s", "x-tenant": "acme",
            "authorization": "Bearer secret", "cookie": "c", "x-looper-model": "small",
        }  # fmt: skip
        await exchanged(runtime(client), opening(headers=headers), loop())
        spans = {asked.headers["traceparent"] for asked in client.asked}
        assert len(spans) == 4
        assert {span.split("-")[1] for span in spans} == {TRACEPARENT.split("-")[1]}
        rest = [
            {name: value for name, value in asked.headers.items() if name != "traceparent"}
            for asked in client.asked
        ]
        assert rest == [{"x-request-id": "r", "tracestate": "s"}] * 4

    async def test_other_headers_go_with_each_call_if_the_configuration_says_so(self) -> None:
        client = ScriptedClient(SCRIPT)
        config = parse_config(f"forward_headers: [X-Tenant]\n{CONFIG}", "test.yaml")
        headers = {"x-request-id": "r", "x-tenant": "acme", "authorization": "Bearer secret"}
        await exchanged(build(config, client), opening(headers=headers), loop())
        assert [asked.headers for asked in client.asked] == [{"x-tenant": "acme"}] * 4

    @timeless
    async def test_the_deadline_is_the_decisions(self) -> None:
        """When nobody answers in time, the client has a 504 by then."""
        begun = asyncio.get_running_loop().time()
        client = ScriptedClient({"small": Hang(), "other": Hang(), "large": Hang()})
        channel = await exchanged(runtime(client), opening(), loop())
        assert channel.only(Respond).status == 504
        assert asyncio.get_running_loop().time() - begun <= 60
        assert client.running == []

    @pytest.mark.parametrize(
        ("step", "status", "headers"),
        [
            pytest.param(refused(500), 502, {"x-should-retry": "false"}, id="down"),
            pytest.param(refused(429, 7), 429, {"x-should-retry": "false", "retry-after": "7"}, id="rate-limited"),
            pytest.param(refused(400), 400, {}, id="refused"),
            pytest.param(refused(401), 502, {"x-should-retry": "false"}, id="misconfigured"),
        ],
    )  # fmt: skip
    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_a_failure_before_anything_was_said_is_a_status(
        self, mode: BodyMode, stream: bool, step: CallFailed, status: int, headers: dict[str, str]
    ) -> None:
        """As long as the client has seen nothing, it gets a real HTTP error, with what SDKs read of it."""
        client = ScriptedClient({"small": step, "other": step})
        first = opening(mode=mode)
        response = (await exchanged(runtime(client), first, loop(stream=stream))).respond
        assert response.status == status
        assert response.metadata["outcome"] == "failed"
        said = dict(response.headers)
        assert said["content-type"] == "application/json"
        assert said["x-looper-decision"] == "panel"
        assert {name: said[name] for name in headers} == headers

    @pytest.mark.parametrize("status", [400, 401, 429, 500])
    async def test_every_error_after_a_call_tells_sdks_not_to_retry(self, status: int) -> None:
        """SDKs retry by themselves, and what a team has cost once would cost the same again."""
        client = ScriptedClient({"small": refused(status), "other": refused(status)})
        response = (await exchanged(runtime(client), opening(), loop())).respond
        assert ("x-should-retry", "false") in response.headers

    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_an_error_tells_how_each_call_ended(self, mode: BodyMode, stream: bool) -> None:
        """By the model's name in the catalogue and the kind of end: no address, and no word of an upstream."""
        client = ScriptedClient({"small": refused(500), "other": CallFailed(Failure.CONNECT)})
        first = opening(mode=mode)
        response = (await exchanged(runtime(client), first, loop(stream=stream))).respond
        assert json.loads(response.body)["error"]["looper"] == {
            "attempts": [
                {"model": "small", "result": "failed", "status": 500},
                {"model": "other", "result": "failed"},
            ]
        }
        assert b"http" not in response.body

    @both_modes
    async def test_a_client_that_leaves_ends_every_call(self, mode: BodyMode) -> None:
        """When the exchange is cancelled, nothing of it runs on and nothing more is sent."""
        client = ScriptedClient({"small": Hang(), "other": Hang()})
        exchange, channel = exchange_of(runtime(client), opening(mode=mode), loop(stream=True))
        async with asyncio.TaskGroup() as group:
            task = group.create_task(exchange.run())
            while len(client.running) < 2:
                await asyncio.sleep(0)
            before = list(channel.sent)
            task.cancel()
        assert client.running == []
        assert sorted(client.cancelled) == ["other", "small"]
        assert channel.sent == before

    async def test_a_mistake_in_the_client_is_not_hidden(self) -> None:
        """What is no failure of a model is logged as what it is, with the lines it came through."""
        client = ScriptedClient({"small": Crash(), "other": "x"})
        with capture_logs() as events:
            channel = await exchanged(runtime(client), opening(), loop())
        assert error_of(channel.respond)["code"] == "internal_error"
        assert [each["event"] for each in events] == ["exchange.crashed", "exchange.finished"]


GARBAGE = [b'["a"]', b'"x"', b"5", b"true", b'{"content": 5}', b'{"content": [1e400]}', b"1e400"]


class TestGarbage:
    @pytest.mark.parametrize("logprobs", GARBAGE, ids=bytes.decode)
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_where_logprobs_belong_costs_nobody_the_answer(
        self, stream: bool, logprobs: bytes
    ) -> None:
        """What a backend sends beside its answer cannot crash a run, whether it is passed on or not."""
        choice = Choice(
            message=Reply(content="hi"),
            delta=Reply(content="hi"),
            finish_reason="stop",
            logprobs=msgspec.Raw(logprobs),
        )
        final = Completion(choices=[choice])
        step: Step = Stream([final]) if stream else final
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, step)})
        channel = await exchanged(runtime(client), opening(), loop(stream=stream))
        if stream:
            assert text_of(channel.streamed) == "hi"
        else:
            answer = json.loads(channel.only(Respond).body)
            assert answer["choices"][0]["message"]["content"] == "hi"


class TestLiveStream:
    async def test_is_opened_once_and_closed_once(self) -> None:
        """A streamed answer is one opening, its frames, and one close."""
        client = ScriptedClient(SCRIPT)
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        assert text_of(channel.streamed) == "the answer"

    async def test_begins_with_headers_that_keep_it_from_being_buffered(self) -> None:
        """What stands between us and the client is told that this is a stream."""
        channel = await exchanged(runtime(ScriptedClient(SCRIPT)), opening(), loop(stream=True))
        opened = channel.sent[0]
        assert isinstance(opened, OpenStream)
        headers = dict(opened.headers)
        assert opened.status == 200
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-looper-decision"] == "panel"
        assert headers["x-looper-run"] == opened.metadata["run"]
        assert opened.metadata["outcome"] == "started"

    async def test_each_chunk_goes_out_as_it_comes(self) -> None:
        """The final model's chunks are handed on one by one, not gathered."""
        bits = [chunk("a"), chunk("b"), chunk("c", finish="stop")]
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, Stream(bits))})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        data = [action.data for action in channel.sent if isinstance(action, StreamData)]
        assert [text_of(each + b"data: [DONE]\n\n") for each in data] == ["a", "b", "c", ""]

    @timeless
    async def test_a_silence_opens_the_stream(self) -> None:
        """After the heartbeat's time without a word the client gets status 200, the role and a comment."""
        client = ScriptedClient({**SCRIPT, "small": After(15, "late")})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        opened, first = channel.sent[:2]
        assert isinstance(opened, OpenStream)
        assert isinstance(first, StreamData)
        assert opened.status == 200
        role, comment = first.data.split(b"\n\n")[:2]
        assert (
            json.loads(role.removeprefix(b"data: "))["choices"][0]["delta"]["role"] == "assistant"
        )
        assert comment.startswith(b":")

    @timeless
    async def test_the_role_is_said_once(self) -> None:
        """Comments in between do not make the stream begin again."""
        client = ScriptedClient({**SCRIPT, "small": After(31, "late")})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        roles = [
            frame for frame in frames(channel.streamed) if "role" in frame["choices"][0]["delta"]
        ]
        assert len(roles) == 1
        assert channel.streamed.count(b"\n: ") + channel.streamed.startswith(b":") == 3
        assert text_of(channel.streamed) == "the answer"

    @timeless
    async def test_an_error_after_the_opening_is_an_event_of_the_stream(self) -> None:
        """Once status 200 was sent, the client reads an error object, then [DONE], and the stream is closed."""
        client = ScriptedClient({"small": After(15, refused(500)), "other": refused(500)})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        assert frames(channel.streamed)[-1]["error"]["code"] == "upstream_failed"
        closed = channel.sent[-1]
        assert isinstance(closed, CloseStream)
        assert closed.metadata["outcome"] == "failed"

    @timeless
    async def test_the_deadline_closes_the_stream(self) -> None:
        """A stream that was opened is closed when time is up, with the reason."""
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, Stream([chunk("a")], Hang()))})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        assert text_of(channel.streamed) == "a"
        assert frames(channel.streamed)[-1]["error"]["code"] == "deadline_exceeded"

    async def test_a_stream_that_breaks_is_closed(self) -> None:
        """What the client has read stays; an error follows."""
        broken = Stream([chunk("half")], CallFailed(Failure.BROKEN))
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, broken)})
        channel = await exchanged(runtime(client), opening(), loop(stream=True))
        assert text_of(channel.streamed) == "half"
        assert frames(channel.streamed)[-1]["error"]["type"] == "upstream_error"

    @pytest.mark.parametrize("wanted", [False, True], ids=["unasked", "asked-for"])
    async def test_usage_is_streamed_only_if_asked_for(self, wanted: bool) -> None:
        """The usage chunk has no choices, and is there only for clients that expect it."""
        options = {"include_usage": wanted}
        client = ScriptedClient(SCRIPT)
        asked = loop(stream=True, stream_options=options)
        channel = await exchanged(runtime(client), opening(), asked)
        usages = [frame["usage"] for frame in frames(channel.streamed) if frame.get("usage")]
        assert [usage["total_tokens"] for usage in usages] == ([60] if wanted else [])


class TestBufferedStream:
    async def test_is_one_response_that_holds_the_whole_stream(self) -> None:
        """Where Envoy cannot take a stream from us, the client still reads one, if late."""
        client = ScriptedClient(SCRIPT)
        channel = await exchanged(runtime(client), opening(mode=BUFFERED), loop(stream=True))
        first, response = channel.sent
        assert first == PassHeaders()
        assert isinstance(response, Respond)
        assert response.status == 200
        assert dict(response.headers)["content-type"] == "text/event-stream"
        assert text_of(response.body) == "the answer"

    @timeless
    async def test_silence_adds_nothing(self) -> None:
        """There is nobody to whom a comment could show anything."""
        client = ScriptedClient({**SCRIPT, "small": After(31, "late")})
        channel = await exchanged(runtime(client), opening(mode=BUFFERED), loop(stream=True))
        assert b": " not in channel.respond.body.replace(b"data: ", b"")

    async def test_a_break_is_a_real_error(self) -> None:
        """As nothing was sent yet, a final stage that breaks off midway is a status."""
        broken = Stream([chunk("half")], CallFailed(Failure.BROKEN))
        client = ScriptedClient({**SCRIPT, "large": in_turn(JUDGED, broken)})
        channel = await exchanged(runtime(client), opening(mode=BUFFERED), loop(stream=True))
        assert channel.respond.status == 502

    async def test_says_the_same_as_a_live_stream(self) -> None:
        """But for ids and times, both modes send the same frames."""

        def plain(sse: bytes) -> list[Any]:
            return [{**frame, "id": "", "created": 0} for frame in frames(sse)]

        live = await exchanged(runtime(ScriptedClient(SCRIPT)), opening(), loop(stream=True))
        whole = await exchanged(
            runtime(ScriptedClient(SCRIPT)), opening(mode=BUFFERED), loop(stream=True)
        )
        assert plain(live.streamed) == plain(whole.respond.body)


class Says:
    """A pattern that says what it is told to, then waits or fails, and may fail once more when it is closed."""

    def __init__(
        self,
        *events: LoopEvent,
        then: BaseException | float = 0,
        closing: BaseException | None = None,
    ) -> None:
        self._events = events
        self._then = then
        self._closing = closing

    async def run(self, request: ChatRequest, run: Run) -> AsyncGenerator[LoopEvent]:
        try:
            for event in self._events:
                yield event
            if isinstance(self._then, BaseException):
                raise self._then
            await asyncio.sleep(self._then)
        finally:
            if self._closing is not None:
                raise self._closing


ANSWER = (Delta("content", "hi"), Finish("stop"), Done(Usage(1, 2), "ok"))


class TestConfidence:
    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    @pytest.mark.parametrize(
        ("known", "told"), [(0.8237, 824), (0.0, 0), (1.0, 1000), (None, None)]
    )
    async def test_is_told_in_permille_where_it_is_known(
        self, mode: BodyMode, stream: bool, known: float | None, told: int | None
    ) -> None:
        """To Envoy and in the log, with calls, usage, cost and outcome."""
        done = Done(Usage(1, 2), "degraded", confidence=known)
        pattern = Says(Delta("content", "hi"), Finish("stop"), done)
        with capture_logs() as logs:
            channel = await exchanged(
                runtime(panel=pattern), opening(mode=mode), loop(stream=stream)
            )
        last = [each for each in channel.sent if isinstance(each, Respond | CloseStream)][-1]
        assert last.metadata.get("confidence_permille") == told
        assert last.metadata["outcome"] == "degraded"
        (line,) = [log for log in logs if log["event"] == "exchange.finished"]
        assert line.get("confidence_permille") == told

    @pytest.mark.parametrize(
        ("grounds", "told"),
        [
            (None, {}),
            (Grounds("agreement"), {"confidence_method": "agreement"}),
            (
                Grounds("posterior", 0.7004),
                {"confidence_method": "posterior", "threshold_permille": 700},
            ),
        ],
    )
    async def test_is_told_with_what_it_was_measured_by(
        self, grounds: Grounds | None, told: dict[str, Any]
    ) -> None:
        """And with what would have been enough, where anything hangs on that."""
        done = Done(Usage(1, 2), "ok", confidence=0.8, grounds=grounds)
        pattern = Says(Delta("content", "hi"), Finish("stop"), done)
        channel = await exchanged(runtime(panel=pattern), opening(), loop())
        (last,) = [each for each in channel.sent if isinstance(each, Respond)]
        named = {"confidence_method", "threshold_permille"}
        assert {key: last.metadata[key] for key in named & last.metadata.keys()} == told


class TestEstimates:
    @both_modes
    async def test_all_that_tell_of_usage_agree(self, mode: BodyMode) -> None:
        """A stream that breaks off among its thoughts is followed by another: both are paid for, one as an estimate."""
        config = CONFIG.replace(
            "{type: single, model: small}", "{type: single, model: small, fallbacks: [other]}"
        )
        broken = Stream([chunk(reasoning_content="hm" * 20)], CallFailed(Failure.BROKEN))
        built = build(
            parse_config(config, "test.yaml"), ScriptedClient({"small": broken, "other": "hi"})
        )
        asked = body(chat(stream=True, stream_options={"include_usage": True}))
        channel = await exchanged(built, opening(mode=mode), asked)

        last = [each for each in channel.sent if isinstance(each, Respond | CloseStream)][-1]
        data = channel.streamed if isinstance(last, CloseStream) else last.body
        usage = frames(data)[-1]["usage"]
        (record,) = built.runs
        first, second = record["calls"]
        guessed = usage["looper"]["estimated_tokens"]
        assert first["estimated"]
        assert "estimated" not in second
        assert first["usage"]["total_tokens"] == guessed == last.metadata["estimated_tokens"]
        assert first["usage"]["completion_tokens"] == 10
        assert second["usage"]["total_tokens"] == 15
        assert usage["total_tokens"] == guessed + 15 == record["usage"]["total_tokens"]
        for name in ("prompt_tokens", "completion_tokens"):
            assert last.metadata[name] == usage[name] == record[name]
        assert record["cost_microusd"] == first["usage"]["prompt_tokens"] + 2 * 10


class TestLastResort:
    """After a mistake of ours the exchange ends in a way that says no more than that there was one."""

    async def crash(
        self, pattern: Pattern, *, mode: BodyMode = FDS, stream: bool = True
    ) -> ScriptedChannel:
        with capture_logs() as events:
            channel = await exchanged(
                runtime(panel=pattern), opening(mode=mode), loop(stream=stream)
            )
        assert [each["event"] for each in events] == ["exchange.crashed", "exchange.finished"]
        return channel

    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_before_anything_was_said_it_is_a_500(self, mode: BodyMode, stream: bool) -> None:
        """The client reads that there was a mistake, and no more."""
        channel = await self.crash(
            Says(Progress("panel"), then=ZeroDivisionError("secret")), mode=mode, stream=stream
        )
        assert channel.respond.status == 500
        assert error_of(channel.respond)["code"] == "internal_error"
        assert b"secret" not in channel.respond.body

    async def test_in_a_stream_it_is_an_error_event(self) -> None:
        """A stream that was opened is closed, whatever happened."""
        channel = await self.crash(Says(Delta("content", "hi"), then=ZeroDivisionError("secret")))
        assert text_of(channel.streamed) == "hi"
        assert frames(channel.streamed)[-1]["error"]["code"] == "internal_error"
        assert b"secret" not in channel.streamed

    async def test_after_the_stream_was_closed_it_adds_nothing(self) -> None:
        """An answer that is complete stays as it is."""
        channel = await self.crash(Says(*ANSWER, closing=ZeroDivisionError()))
        assert text_of(channel.streamed) == "hi"

    @both_modes
    async def test_after_a_whole_answer_it_adds_nothing(self, mode: BodyMode) -> None:
        """As for a stream: Envoy is not sent a second response to the same request."""
        channel = await self.crash(
            Says(*ANSWER, closing=ZeroDivisionError()), mode=mode, stream=False
        )
        assert channel.respond.status == 200

    async def test_before_a_run_began_it_is_a_500(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A mistake while deciding is answered as well."""

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        built = runtime()
        monkeypatch.setattr(type(built), "policy", broken)
        assert (await exchanged(built, opening(), loop())).only(Respond).status == 500

    @pytest.mark.parametrize("when", ["begin", "send"])
    async def test_where_nothing_can_be_said_any_more_the_stream_is_aborted(
        self, when: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A transport with a mistake of its own: a broken answer, and never silence."""

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        built = runtime()
        monkeypatch.setattr(ScriptedChannel, when, broken)
        with capture_logs() as events:
            channel = await exchanged(built, opening(), loop())
        assert channel.journal[-1] == ABORT
        assert events[-1]["end"] == "aborted"
        assert built.process.tally.aborted == 1


class TestPatterns:
    """The exchange with patterns that behave as badly as they may."""

    @timeless
    async def test_nothing_is_sent_after_the_close(self) -> None:
        """A pattern that lingers behind its last event makes no heartbeat go into a closed stream."""
        channel = await exchanged(
            runtime(panel=Says(*ANSWER, then=25)), opening(), loop(stream=True)
        )
        assert text_of(channel.streamed) == "hi"

    @timeless
    async def test_a_deadline_after_the_last_event_changes_nothing(self) -> None:
        """The answer was sent; that its pattern then hangs until the deadline is no error of the client's."""
        channel = await exchanged(runtime(panel=Says(*ANSWER, then=100)), opening(), loop())
        assert channel.only(Respond).status == 200

    async def test_an_error_of_the_pattern_keeps_its_status(self) -> None:
        """What a pattern raises reaches the client as it is."""
        channel = await exchanged(
            runtime(panel=Says(then=UpstreamFailed("no"))), opening(), loop(stream=True)
        )
        assert channel.only(Respond).status == 502
        assert error_of(channel.respond)["message"] == "no"

    async def test_an_answer_without_a_word_is_a_stream_all_the_same(self) -> None:
        """A run that is done without any delta opens its stream to close it."""
        channel = await exchanged(
            runtime(panel=Says(Done(Usage(), "ok"))), opening(), loop(stream=True)
        )
        assert text_of(channel.streamed) == ""


def test_the_path_of_an_exchange_has_no_query() -> None:
    """What stands behind a question mark is no part of the path."""
    assert opening("/v1/models?x=/v1/files").path == "/v1/models"


def test_an_exchange_without_pseudo_headers_has_an_empty_path() -> None:
    """A filter that forwards no pseudo headers is no mistake here; nothing is ours then."""
    assert RequestHeaders({}, True, FDS).path == RequestHeaders({}, True, FDS).method == ""
