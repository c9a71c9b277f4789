"""The response phase, which a filter of profile `metered` sends."""

import pytest

from extproc.errors import Overtaken, ProtocolError
from extproc.protocol._pb import ext_proc_pb2 as pb
from extproc.protocol.actions import PassResponseBody
from extproc.protocol.codec import decode, decode_first, encode
from extproc.protocol.events import BodyMode, ResponseBody, ResponseHeaders

STREAMED, NONE = pb.ProcessingMode.STREAMED, pb.ProcessingMode.NONE
both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)


def first(
    response_mode: pb.ProcessingMode.BodySendMode, *, kind: str = "request_headers"
) -> pb.ProcessingRequest:
    request = pb.ProcessingRequest()
    getattr(request, kind).SetInParent()
    request.protocol_config.request_body_mode = pb.ProcessingMode.FULL_DUPLEX_STREAMED
    request.protocol_config.response_body_mode = response_mode
    return request


def encoded(action: PassResponseBody, mode: BodyMode = BodyMode.FULL_DUPLEX) -> pb.BodyResponse:
    """The one reply to a piece of a response."""
    (message,) = encode(action, mode)
    response = pb.ProcessingResponse.FromString(message)
    assert response.WhichOneof("response") == "response_body"
    return response.response_body


class TestDecodeFirst:
    @pytest.mark.parametrize(("mode", "metered"), [(STREAMED, True), (NONE, False)])
    def test_says_whether_the_answer_will_come_by(
        self, mode: pb.ProcessingMode.BodySendMode, metered: bool
    ) -> None:
        """The filter announces it with the first message."""
        assert decode_first(first(mode).SerializeToString()).metered is metered

    def test_says_which_modes_would_do(self) -> None:
        """The error helps to set the filter up."""
        with pytest.raises(ProtocolError, match=r"response_body_mode BUFFERED .* NONE or STREAMED"):
            decode_first(first(pb.ProcessingMode.BUFFERED).SerializeToString())

    def test_an_answer_may_come_before_its_request(self) -> None:
        """Envoy refuses a body over its limit without telling us of the request, and then sends the refusal."""
        with pytest.raises(Overtaken):
            decode_first(first(STREAMED, kind="response_headers").SerializeToString())

    @pytest.mark.parametrize("kind", ["response_body", "response_trailers", "request_body"])
    def test_nothing_else_may(self, kind: str) -> None:
        """What begins in another way cannot be followed."""
        with pytest.raises(ProtocolError, match="request_header_mode"):
            decode_first(first(STREAMED, kind=kind).SerializeToString())

    def test_unmetered_not_even_that(self) -> None:
        """A filter that sends no bodies of responses has no reason to begin with one."""
        with pytest.raises(ProtocolError, match="request_header_mode"):
            decode_first(first(NONE, kind="response_headers").SerializeToString())


class TestDecode:
    @pytest.mark.parametrize("end", [False, True])
    def test_headers_say_what_the_answer_is(self, end: bool) -> None:
        """Status and headers come with the event, and whether anything follows."""
        message = pb.ProcessingRequest()
        message.response_headers.end_of_stream = end
        headers = message.response_headers.headers.headers
        headers.add(key=":status", raw_value=b"200")
        headers.add(key="x", raw_value=b"a\xff")
        event = decode(message.SerializeToString())
        assert event == ResponseHeaders({":status": "200", "x": "a\ufffd"}, end)

    @pytest.mark.parametrize("end", [False, True])
    def test_a_piece_of_the_body_is_an_event(self, end: bool) -> None:
        """Any bytes, and whether they are the last."""
        body = pb.HttpBody(body=b"\xff", end_of_stream=end)
        message = pb.ProcessingRequest(response_body=body)
        assert decode(message.SerializeToString()) == ResponseBody(b"\xff", end)


class TestEncode:
    @both_modes
    def test_a_piece_goes_on_as_it_is(self, mode: BodyMode) -> None:
        """What does not change is not sent back."""
        assert encoded(PassResponseBody(), mode) == pb.BodyResponse()

    @both_modes
    def test_a_piece_is_replaced(self, mode: BodyMode) -> None:
        """However large it is, there is one reply to one piece."""
        reply = encoded(PassResponseBody(b"x" * 200_000), mode)
        assert reply.response.body_mutation.body == b"x" * 200_000

    def test_a_piece_is_taken_out(self) -> None:
        """To replace it by nothing has a word of its own."""
        mutation = encoded(PassResponseBody(b"")).response.body_mutation
        assert mutation.WhichOneof("mutation") == "clear_body"

    @pytest.mark.parametrize("replacement", [None, b"", b"x"])
    def test_metadata_goes_with_any_of_them(self, replacement: bytes | None) -> None:
        """What is known of the usage goes with the piece that said it."""
        (message,) = encode(
            PassResponseBody(replacement, {"prompt_tokens": 3}), BodyMode.FULL_DUPLEX
        )
        response = pb.ProcessingResponse.FromString(message)
        fields = response.dynamic_metadata.fields["looper"].struct_value
        assert dict(fields) == {"prompt_tokens": 3}
        assert response.WhichOneof("response") == "response_body"
        body = response.response_body.response.HasField("body_mutation")
        assert body is (replacement is not None)
