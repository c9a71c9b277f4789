from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.errors import ProtocolError
from extproc.protocol._pb import ext_proc_pb2 as pb
from extproc.protocol.actions import (
    Action,
    CloseStream,
    Headers,
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
from extproc.protocol.codec import MAX_CHUNK, METHOD, decode, decode_first, encode
from extproc.protocol.events import (
    BodyMode,
    Event,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
)

FDS, BUFFERED = BodyMode.FULL_DUPLEX, BodyMode.BUFFERED
both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)
thorough = settings(deadline=None, max_examples=60)

# Bodies around the size of a piece, without drawing their bytes one by one.
bodies = st.builds(
    lambda seed, size: (seed * (size // len(seed) + 1))[:size],
    st.binary(min_size=1, max_size=5),
    st.integers(0, 5) | st.integers(MAX_CHUNK - 2, MAX_CHUNK + 2) | st.integers(0, 4 * MAX_CHUNK),
)


def messages(action: Action, mode: BodyMode = FDS) -> list[pb.ProcessingResponse]:
    return [pb.ProcessingResponse.FromString(message) for message in encode(action, mode)]


def one(action: Action, mode: BodyMode = FDS) -> pb.ProcessingResponse:
    (message,) = messages(action, mode)
    return message


def kinds(action: Action, mode: BodyMode = FDS) -> list[str | None]:
    return [message.WhichOneof("response") for message in messages(action, mode)]


def headers_of(mutation: pb.HeaderMutation) -> dict[str, bytes]:
    assert not mutation.remove_headers
    return {option.header.key: option.header.raw_value for option in mutation.set_headers}


def metadata_of(message: pb.ProcessingResponse) -> dict[str, object]:
    assert set(message.dynamic_metadata.fields) <= {"looper", "looper.rewritten"}
    return dict(message.dynamic_metadata.fields["looper"].struct_value)


REWRITE = Rewrite((("x-looper-model", "small"),), b"{}", {"decision": "d", "calls": 3})


class TestPassing:
    @both_modes
    def test_headers_are_answered_alone(self, mode: BodyMode) -> None:
        """A header reply changes nothing but the choice of the route, which is made again."""
        message = one(PassHeaders(), mode)
        assert message.WhichOneof("response") == "request_headers"
        assert message.request_headers.response.clear_route_cache
        assert not message.request_headers.response.HasField("header_mutation")
        assert message.request_headers.response.status == pb.CommonResponse.CONTINUE

    @pytest.mark.parametrize("end", [False, True])
    def test_a_body_in_full_duplex_is_a_streamed_response(self, end: bool) -> None:
        """Full duplex takes nothing but streamed pieces in answer to a body."""
        message = one(PassBody(b"x", end))
        streamed = message.request_body.response.body_mutation.streamed_response
        assert (streamed.body, streamed.end_of_stream) == (b"x", end)

    @pytest.mark.parametrize("end", [False, True])
    def test_an_empty_piece_is_answered_too(self, end: bool) -> None:
        """The last piece is often empty, and the end of the request hangs on it."""
        streamed = one(PassBody(b"", end)).request_body.response.body_mutation.streamed_response
        assert (streamed.body, streamed.end_of_stream) == (b"", end)

    @pytest.mark.parametrize("end", [False, True])
    def test_a_body_in_buffered_stays(self, end: bool) -> None:
        """Envoy still has the body: it is told to keep it, in one reply to its one message."""
        message = one(PassBody(b"x" * 200_000, end), BUFFERED)
        assert message.WhichOneof("response") == "request_body"
        assert not message.request_body.response.HasField("body_mutation")

    @both_modes
    @pytest.mark.parametrize(
        ("action", "kind"),
        [
            (PassTrailers(), "request_trailers"),
            (PassResponseHeaders(), "response_headers"),
            (PassResponseTrailers(), "response_trailers"),
        ],
        ids=["trailers", "response-headers", "response-trailers"],
    )
    def test_the_rest_is_answered_in_kind(self, action: Action, kind: str, mode: BodyMode) -> None:
        """Each message of Envoy has one reply, which changes nothing."""
        message = one(action, mode)
        assert message.WhichOneof("response") == kind
        assert message.ByteSize() == 2

    @both_modes
    @thorough
    @given(bodies, st.booleans())
    def test_pieces_add_up_to_the_body(self, mode: BodyMode, data: bytes, end: bool) -> None:
        """Whatever the size, nothing is lost, no piece is too large, and the last one alone may end."""
        if mode is BUFFERED:
            assert len(messages(PassBody(data, end), mode)) == 1
            return
        check_pieces(messages(PassBody(data, end), mode), data, end=end)


def check_pieces(pieces: list[pb.ProcessingResponse], data: bytes, *, end: bool) -> None:
    streamed = [piece.request_body.response.body_mutation.streamed_response for piece in pieces]
    assert b"".join(piece.body for piece in streamed) == data
    assert max(len(piece.body) for piece in streamed) <= 62_000
    assert [piece.end_of_stream for piece in streamed] == [False] * (len(pieces) - 1) + [end]
    for piece in pieces:
        mutation = piece.request_body.response.body_mutation
        assert mutation.WhichOneof("mutation") == "streamed_response"


class TestRewrite:
    def test_in_full_duplex_headers_come_first_and_once(self) -> None:
        """A body before its headers, or headers twice, would be an error to Envoy."""
        assert kinds(REWRITE) == ["request_headers", "request_body"]
        large = Rewrite((), b"x" * 200_000, {})
        assert kinds(large) == ["request_headers"] + ["request_body"] * 4

    def test_in_full_duplex_the_headers_choose_the_route(self) -> None:
        """The header reply sets the headers, has the route chosen again, and carries the metadata."""
        first = messages(REWRITE)[0]
        common = first.request_headers.response
        assert headers_of(common.header_mutation) == {"x-looper-model": b"small"}
        assert common.clear_route_cache
        assert metadata_of(first) == {"decision": "d", "calls": 3}

    def test_in_full_duplex_nothing_hangs_on_the_body(self) -> None:
        """Envoy ignores headers and metadata of routes in the reply to a body there, so none are sent."""
        for piece in messages(Rewrite((), b"x" * 200_000, {"a": 1}))[1:]:
            assert not piece.request_body.response.HasField("header_mutation")
            assert not piece.HasField("dynamic_metadata")

    def test_in_full_duplex_no_length_is_promised_by_a_header(self) -> None:
        """Envoy's route makes the header of what the metadata say, where one can tell that the two agree."""
        first = messages(REWRITE)[0]
        assert "content-length" not in headers_of(first.request_headers.response.header_mutation)
        assert dict(first.dynamic_metadata.fields["looper.rewritten"].struct_value) == {
            "length": str(len(REWRITE.body))
        }

    @thorough
    @given(bodies, st.booleans())
    def test_in_full_duplex_pieces_add_up_to_the_body(self, data: bytes, trailers: bool) -> None:
        """The last piece ends the request, unless trailers do: an end on both would hang it."""
        pieces = messages(Rewrite((), data, {}, trailers=trailers))[1:]
        if trailers:
            assert pieces.pop().WhichOneof("response") == "request_trailers"
        check_pieces(pieces, data, end=not trailers)

    @pytest.mark.parametrize("size", [0, 2, 200_000])
    def test_in_buffered_it_is_one_reply_to_the_body(self, size: int) -> None:
        """The headers have gone on by then; body, headers and length are changed in one message."""
        message = one(Rewrite((("x-looper-model", "small"),), b"x" * size, {"a": 1}), BUFFERED)
        common = message.request_body.response
        assert common.body_mutation.WhichOneof("mutation") == "body"
        assert common.body_mutation.body == b"x" * size
        assert common.clear_route_cache
        assert headers_of(common.header_mutation) == {
            "x-looper-model": b"small", "content-length": str(size).encode(),
        }  # fmt: skip
        assert common.status == pb.CommonResponse.CONTINUE
        assert metadata_of(message) == {"a": 1}

    def test_in_buffered_trailers_are_answered_when_they_come(self) -> None:
        """Envoy asks about them after the body, so that nothing is said of them before."""
        assert kinds(Rewrite((), b"{}", {}, trailers=True), BUFFERED) == ["request_body"]


class TestRespond:
    @both_modes
    @pytest.mark.parametrize("body", [b"", b"{}", b"x" * 200_000], ids=["empty", "small", "large"])
    def test_is_one_message(self, mode: BodyMode, body: bytes) -> None:
        """An immediate response is whole, whatever its size."""
        action = Respond(429, (("retry-after", "7"),), body, "looper.rate_limited", {"calls": 2})
        message = one(action, mode)
        immediate = message.immediate_response
        assert message.WhichOneof("response") == "immediate_response"
        assert (immediate.status.code, immediate.body) == (429, body)
        assert immediate.details == "looper.rate_limited"
        assert headers_of(immediate.headers) == {"retry-after": b"7"}
        assert metadata_of(message) == {"calls": 2}


class TestStream:
    def test_opens_with_its_status(self) -> None:
        """Without `:status` Envoy would answer 502 itself."""
        message = one(OpenStream((("content-type", "text/event-stream"),), {"outcome": "started"}))
        opening = message.streamed_immediate_response.headers_response
        assert not opening.end_of_stream
        assert [(header.key, header.raw_value) for header in opening.headers.headers] == [
            (":status", b"200"), ("content-type", b"text/event-stream"),
        ]  # fmt: skip
        assert metadata_of(message) == {"outcome": "started"}

    @thorough
    @given(bodies)
    def test_data_adds_up_and_never_ends_the_stream(self, data: bytes) -> None:
        """Pieces of a stream are as small as those of a body; only the close ends it."""
        pieces = [
            message.streamed_immediate_response.body_response
            for message in messages(StreamData(data))
        ]
        assert b"".join(piece.body for piece in pieces) == data
        assert all(0 < len(piece.body) <= 62_000 and not piece.end_of_stream for piece in pieces)

    @thorough
    @given(bodies)
    def test_the_close_ends_it_whatever_it_holds(self, data: bytes) -> None:
        """A stream that is not ended would leave the client waiting, so even an empty close says it."""
        sent = messages(CloseStream(data, {"calls": 5}))
        pieces = [message.streamed_immediate_response.body_response for message in sent]
        assert b"".join(piece.body for piece in pieces) == data
        assert max(len(piece.body) for piece in pieces) <= 62_000
        assert [piece.end_of_stream for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert [metadata_of(message) for message in sent] == [{}] * (len(sent) - 1) + [{"calls": 5}]

    def test_every_message_is_of_a_streamed_response(self) -> None:
        """Nothing else may come between the opening and the close."""
        for action in (OpenStream(()), StreamData(b"x" * 100_000), CloseStream(b"x" * 100_000)):
            assert set(kinds(action)) == {"streamed_immediate_response"}


VALUE = "a\r\nb\0c\td\x7fe é"
CLEAN = "abcde é".encode()


class TestHeaders:
    @pytest.mark.parametrize(
        ("action", "mode"),
        [
            pytest.param(Rewrite((("x", VALUE),), b"", {}), FDS, id="rewrite-full-duplex"),
            pytest.param(Rewrite((("x", VALUE),), b"", {}), BUFFERED, id="rewrite-buffered"),
            pytest.param(Respond(200, (("x", VALUE),), b"", ""), FDS, id="respond"),
            pytest.param(OpenStream((("x", VALUE),)), FDS, id="open-stream"),
        ],
    )
    def test_control_characters_are_taken_out(self, action: Action, mode: BodyMode) -> None:
        """One of them in one value would make Envoy refuse the whole message."""
        message = messages(action, mode)[0]
        sets = (
            message.request_headers.response.header_mutation,
            message.request_body.response.header_mutation,
            message.immediate_response.headers,
        )
        values = {name: value for mutation in sets for name, value in headers_of(mutation).items()}
        opened = message.streamed_immediate_response.headers_response.headers.headers
        values |= {header.key: header.raw_value for header in opened}
        assert values["x"] == CLEAN

    @thorough
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_no_text_gets_a_control_character_through(self, value: str) -> None:
        """Whatever stands in a value, what is sent has no byte below space and no DEL."""
        (option,) = one(
            Respond(200, (("x", value),), b"", "")
        ).immediate_response.headers.set_headers
        assert all(byte >= 0x20 and byte != 0x7F for byte in option.header.raw_value)
        assert option.header.raw_value.decode() == "".join(
            c for c in value if ord(c) >= 0x20 and ord(c) != 0x7F
        )

    def test_values_are_sent_raw(self) -> None:
        """Envoy reads `raw_value`; a header with both would be refused."""
        (option,) = one(Respond(200, (("x", "1"),), b"", "")).immediate_response.headers.set_headers
        assert option.header.value == ""

    def test_each_header_overwrites(self) -> None:
        """A client's copy of a header of ours must not survive beside it."""
        (option,) = messages(REWRITE)[0].request_headers.response.header_mutation.set_headers
        assert not option.HasField("append")


class TestMetadata:
    def test_none_is_not_sent(self) -> None:
        """An empty namespace would be noise in every message."""
        assert not one(Respond(200, (), b"", "")).HasField("dynamic_metadata")

    def test_text_and_numbers_keep_their_kind(self) -> None:
        """Envoy's counters take numbers and nothing else."""
        fields = messages(REWRITE)[0].dynamic_metadata["looper"]
        assert isinstance(fields, type(messages(REWRITE)[0].dynamic_metadata))
        assert fields.fields["decision"].WhichOneof("kind") == "string_value"
        assert fields.fields["calls"].WhichOneof("kind") == "number_value"


def first_message(
    request_mode: int = pb.ProcessingMode.FULL_DUPLEX_STREAMED,
    response_mode: int = pb.ProcessingMode.NONE,
    *,
    config: bool = True,
    end_of_stream: bool = False,
    headers: tuple[tuple[str, bytes], ...] = ((":path", b"/v1/models"), (":method", b"GET")),
) -> bytes:
    request = pb.ProcessingRequest()
    request.request_headers.end_of_stream = end_of_stream
    for key, value in headers:
        request.request_headers.headers.headers.add(key=key, raw_value=value)
    if config:
        request.protocol_config.request_body_mode = request_mode  # type: ignore[assignment]
        request.protocol_config.response_body_mode = response_mode  # type: ignore[assignment]
    return request.SerializeToString()


class TestDecodeFirst:
    def test_a_header_that_comes_several_times_is_one_value(self) -> None:
        """As HTTP has it: what came last does not hide what came first."""
        event = decode_first(
            first_message(headers=(("x-role", b"a"), ("x", b""), ("x-role", b"b")))
        )
        assert event.headers == {"x-role": "a, b", "x": ""}

    def test_attributes_and_metadata_are_plain_values(self) -> None:
        """Whatever kinds Envoy knows; numbers are those of JSON."""
        said: dict[str, Any] = {
            "claims": {"plan": "gold", "groups": ["a", 1.5, None, {"b": True}], "n": 3, "no": []}
        }
        request = pb.ProcessingRequest.FromString(first_message())
        request.attributes["envoy.filters.http.ext_proc"].update({"xds.route_name": "chat"})
        request.metadata_context.filter_metadata["jwt"].update(said)
        event = decode_first(request.SerializeToString())
        assert event.attributes == {"xds.route_name": "chat", "metadata": {"jwt": said}}

    def test_without_any_there_are_none(self) -> None:
        """Which is how it is unless a signal asks."""
        assert decode_first(first_message()).attributes == {}

    @pytest.mark.parametrize(
        ("wire", "mode"),
        [
            (pb.ProcessingMode.FULL_DUPLEX_STREAMED, FDS),
            (pb.ProcessingMode.BUFFERED, BUFFERED),
        ],
        ids=["full-duplex", "buffered"],
    )
    @pytest.mark.parametrize("end_of_stream", [False, True])
    def test_says_how_the_filter_is_set_up(
        self, wire: int, mode: BodyMode, end_of_stream: bool
    ) -> None:
        """The first message carries the headers, whether anything follows, and the body mode."""
        event = decode_first(first_message(wire, end_of_stream=end_of_stream))
        assert (event.path, event.method) == ("/v1/models", "GET")
        assert (event.mode, event.end_of_stream) == (mode, end_of_stream)

    @pytest.mark.parametrize("name", ["NONE", "STREAMED", "BUFFERED_PARTIAL", "GRPC"])
    def test_refuses_other_request_body_modes(self, name: str) -> None:
        """A body that comes in another way than we answer would hang or be lost."""
        with pytest.raises(ProtocolError, match=f"request_body_mode {name} ") as caught:
            decode_first(first_message(pb.ProcessingMode.BodySendMode.Value(name)))
        assert "FULL_DUPLEX_STREAMED or BUFFERED" in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED", "GRPC"]
    )
    def test_refuses_other_response_body_modes(self, name: str) -> None:
        """Nobody would answer to them."""
        mode = pb.ProcessingMode.BodySendMode.Value(name)
        with pytest.raises(ProtocolError, match=f"response_body_mode {name} "):
            decode_first(first_message(response_mode=mode))

    def test_refuses_a_filter_that_does_not_say(self) -> None:
        """Without `protocol_config` there is no telling how to answer."""
        with pytest.raises(ProtocolError, match="protocol_config"):
            decode_first(first_message(config=False))

    @pytest.mark.parametrize("mode", [6, 99])
    def test_refuses_a_mode_that_is_not_known_yet(self, mode: int) -> None:
        """A later Envoy may have modes that this API has no name for."""
        with pytest.raises(ProtocolError):
            decode_first(first_message(mode))

    @pytest.mark.parametrize(
        "message",
        [
            pb.ProcessingRequest(request_body=pb.HttpBody(body=b"x")),
            pb.ProcessingRequest(response_headers=pb.HttpHeaders()),
            pb.ProcessingRequest(),
        ],
        ids=["body", "response", "nothing"],
    )
    def test_refuses_a_stream_that_begins_otherwise(self, message: pb.ProcessingRequest) -> None:
        """A filter that skips the request's headers cannot be served."""
        with pytest.raises(ProtocolError, match="request_header_mode"):
            decode_first(message.SerializeToString())

    @pytest.mark.parametrize("decoder", [decode_first, decode])
    def test_refuses_what_is_no_message(self, decoder: object) -> None:
        """Bytes that are not of this protocol are refused as such."""
        assert callable(decoder)
        with pytest.raises(ProtocolError, match="not a ProcessingRequest"):
            decoder(b"\xff\xff\xff")

    @pytest.mark.parametrize(
        ("raw", "text"),
        [(b"plain", "plain"), ("é".encode(), "é"), (b"a\xffb", "a\ufffdb"), (b"", "")],
        ids=["ascii", "utf-8", "not-utf-8", "empty"],
    )
    def test_reads_header_values_that_are_not_text_as_well_as_it_can(
        self, raw: bytes, text: str
    ) -> None:
        """A header may hold any bytes, and none of them ends an exchange."""
        assert decode_first(first_message(headers=(("x", raw),))).headers["x"] == text

    def test_reads_header_values_sent_as_text(self) -> None:
        """Should Envoy fill `value`, it is read too."""
        request = pb.ProcessingRequest.FromString(first_message(headers=()))
        request.request_headers.headers.headers.add(key="x", value="é")
        assert decode_first(request.SerializeToString()).headers["x"] == "é"


class TestDecode:
    @pytest.mark.parametrize(
        ("message", "event"),
        [
            (
                pb.ProcessingRequest(request_body=pb.HttpBody(body=b"\xff", end_of_stream=True)),
                RequestBody(b"\xff", True),
            ),
            (pb.ProcessingRequest(request_body=pb.HttpBody()), RequestBody(b"", False)),
            (pb.ProcessingRequest(request_trailers=pb.HttpTrailers()), RequestTrailers()),
            (pb.ProcessingRequest(response_headers=pb.HttpHeaders()), ResponseHeaders()),
            (pb.ProcessingRequest(response_trailers=pb.HttpTrailers()), ResponseTrailers()),
        ],
        ids=["last-body", "empty-body", "trailers", "response-headers", "response-trailers"],
    )
    def test_each_message_is_an_event(self, message: pb.ProcessingRequest, event: Event) -> None:
        """What Envoy says after the first message, as a value."""
        assert decode(message.SerializeToString()) == event

    @pytest.mark.parametrize(
        "message",
        [
            pb.ProcessingRequest(request_headers=pb.HttpHeaders()),
            pb.ProcessingRequest(),
        ],
        ids=["headers-again", "nothing"],
    )
    def test_refuses_what_the_filter_should_not_send(self, message: pb.ProcessingRequest) -> None:
        """A message that nobody would answer is an error at once, not a request that hangs."""
        with pytest.raises(ProtocolError, match="unexpected message"):
            decode(message.SerializeToString())

    @thorough
    @given(st.binary(max_size=40))
    def test_no_bytes_do_worse_than_be_refused(self, data: bytes) -> None:
        """Whatever comes in, it is an event or a ProtocolError."""
        for decoder in (decode_first, decode):
            with suppress(ProtocolError):
                decoder(data)


def test_the_method_is_envoys() -> None:
    """The name of the service is what Envoy calls."""
    assert METHOD == "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
PAIRS = st.lists(st.tuples(st.sampled_from(["x-a", "x-b"]), WORDS), max_size=3).map(tuple)
RUNS = st.text("0123456789abcdef", min_size=16, max_size=16)


@thorough
@given(
    headers=PAIRS,
    appended=PAIRS,
    removed=st.lists(st.sampled_from(["x-c", "x-d"]), max_size=2).map(tuple),
    facts=st.dictionaries(
        st.sampled_from(["decision", "model", "score"]), WORDS | st.integers(0, 9)
    ),
    runs=st.lists(RUNS, min_size=2, max_size=2),
)
def test_each_run_has_its_own_reply(
    headers: Headers,
    appended: Headers,
    removed: tuple[str, ...],
    facts: dict[str, str | int],
    runs: list[str],
) -> None:
    """What is built once for a decision says the same as what is built for each request."""
    for run in runs:
        ours = (*headers, ("x-looper-run", run))
        metadata = {**facts, "run": run}
        action = Rewrite(ours, b"", metadata, appended=appended, removed=removed)
        expected = pb.ProcessingResponse()
        common = expected.request_headers.response
        common.clear_route_cache = True
        for name, value in (*ours, *appended):
            clean = value.encode().translate(None, bytes([*range(0x20), 0x7F]))
            common.header_mutation.set_headers.add().header.MergeFrom(
                pb.HeaderValue(key=name, raw_value=clean)
            )
        for option in common.header_mutation.set_headers[len(ours) :]:
            option.append.value = True
        common.header_mutation.remove_headers.extend(removed)
        expected.dynamic_metadata.update({"looper": metadata, "looper.rewritten": {"length": "0"}})
        assert messages(action)[0] == expected
