"""Model calls, over HTTP to Envoy's egress listener, which adds the key, TLS and retries."""

import asyncio
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Self

import aiohttp
from aiohttp.payload import BytesIOPayload, BytesPayload, Payload

from looper.calling.calls import RATE_LIMITED, TOO_LARGE, Answer, Call, CallFailed, Failure
from looper.calling.refusals import MAX_BODY, READ, is_rate_limit, named, refusal, said
from looper.wire.chat import Completion
from looper.wire.deltas import GatheredAnswer
from looper.wire.dialects import Dialect
from looper.wire.reading.answers import AnswerReader, NoAnswer
from looper.wire.sse import DONE, EventReader, EventTooLarge, ServerSentEvent

MAX_ANSWER = 32 << 20
"""Bytes that an upstream's answer may have, unless it is said how many."""

MAX_VERDICT = 64 << 10
_CHAT = "/v1/chat/completions"
_EVENTS = "text/event-stream"
_LARGE = 64 << 10
"""Bytes of a body that are copied with the headers into one write."""

_MOMENT = 1.0
"""Seconds that the body of an error may take: what it says is not worth a deadline."""

_LAST_WORDS = 5.0
"""Seconds that a stream may take to end whose answer is complete: what is missing is its usage, at the most."""

_UNREACHED = frozenset({"UF", "UH", "DF"})
"""Envoy's flags of an answer of its own: no connection, nobody there that is healthy, no address."""

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
_BOM = b"\xef\xbb\xbf"
_NOT_TEXT = re.compile(rb"[{\x00-\x08\x0e-\x1f\x80-\xff]")


class EgressClient:
    """Sends calls to the egress listener. One for each process; `async with` opens and closes it."""

    def __init__(self, egress: str, most: int = MAX_ANSWER) -> None:
        self._most = most
        self._path = egress.removeprefix("unix:") if egress.startswith("unix:") else None
        self._base = "http://egress" if self._path else egress.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # aiohttp's defaults would queue the 101st call, end an answer after five minutes and ask for gzip.
        connector = (
            aiohttp.UnixConnector(self._path, limit=0)
            if self._path
            else aiohttp.TCPConnector(limit=0)
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"accept-encoding": "identity", "content-type": "application/json"},
            skip_auto_headers=("user-agent",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nobody asked for compression, and a small body may unpack to a huge one
            max_line_size=65_536,
            max_field_size=65_536,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def complete(self, call: Call, headers: Mapping[str, str], *, deadline: float) -> Answer:
        """One unstreamed answer. `deadline` is in the loop's time. Raises CallFailed."""
        async with self._post(call, headers, deadline) as response:
            attempts = _attempts(response)
            pieces = _Pieces(response, deadline, self._most)
            with _counting(attempts):
                if _is_stream(await pieces.beginning(), response.content_type):
                    # It always streams, whatever it was asked for.
                    return await _gathered(pieces, attempts, call.model.dialect)
                return _whole(await pieces.all(), attempts)

    async def stream(
        self, call: Call, headers: Mapping[str, str], *, deadline: float
    ) -> AsyncGenerator[Answer]:
        """The chunks of a streamed answer, as they come. Raises CallFailed, also for a stream that was cut."""
        async with self._post(call, headers, deadline) as response:
            attempts = _attempts(response)
            pieces = _Pieces(response, deadline, self._most)
            with _counting(attempts):
                if response.content_type == "application/json":
                    # It does not stream, and answers all the same.
                    yield _whole(await pieces.all(), attempts)
                    return
                reader = AnswerReader()
                async for chunk in _chunks(pieces, reader, call.model.dialect):
                    yield Answer(chunk, attempts, reader.unread)

    async def post(
        self, call: Call, path: str, headers: Mapping[str, str], *, deadline: float
    ) -> bytes:
        """What is answered at another path than models' is, up to `MAX_VERDICT`. Raises CallFailed."""
        async with self._post(call, headers, deadline, path) as response:
            return await _Pieces(response, deadline, MAX_VERDICT).all()

    @asynccontextmanager
    async def _post(
        self, call: Call, headers: Mapping[str, str], deadline: float, path: str = _CHAT
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response once its headers are there and say 200; closed, not reused, unless it was read to its end."""
        response = await self._send(call, headers, deadline, path)
        try:
            if response.status != 200:
                raise await _refused(response, deadline)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise CallFailed(Failure.UNUSABLE, attempts=_attempts(response))
            yield response
        finally:
            response.close()

    async def _send(
        self, call: Call, headers: Mapping[str, str], deadline: float, path: str
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        remaining = deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise CallFailed(Failure.TIMEOUT, attempts=0)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._session.post(
                    f"{self._base}{path}",
                    data=_payload(call.body),
                    headers={**headers, **_for_envoy(call, remaining)},
                    allow_redirects=False,  # a conversation goes where the route says, and nowhere else
                )
        except TimeoutError:
            raise CallFailed(Failure.TIMEOUT) from None
        except aiohttp.ClientConnectorError:
            raise CallFailed(Failure.CONNECT) from None
        except aiohttp.ClientError:
            raise CallFailed(Failure.BROKEN) from None


def _payload(body: bytes) -> Payload:
    """A body as it is sent: in one piece with the headers, unless it is so large that it is to go out bit by bit."""
    return BytesPayload(body) if len(body) < _LARGE else BytesIOPayload(BytesIO(body))


def _for_envoy(call: Call, remaining: float) -> dict[str, str]:
    """Whose call it is, how long it may take, and how often it may be tried again."""
    return {
        "x-looper-model": call.model.name,
        "x-looper-role": call.role,
        "x-envoy-upstream-rq-timeout-ms": str(max(1, int(remaining * 1000))),
        "x-envoy-max-retries": str(call.retries),
    }


@contextmanager
def _counting(attempts: int) -> Iterator[None]:
    """What fails behind the headers has been tried as often as they say."""
    try:
        yield
    except CallFailed as error:
        error.attempts = attempts
        raise


def _is_stream(beginning: bytes, content_type: str) -> bool:
    """Whether a body is one of events: what it begins with says more than its type."""
    if beginning.startswith((b"{", b"[")):
        return False
    return content_type == _EVENTS or beginning.startswith((b"data:", b"event:", b":"))


async def _gathered(pieces: "_Pieces", attempts: int, dialect: Dialect) -> Answer:
    """A complete answer that comes as a stream. Raises CallFailed, with what had been said by then."""
    reader, answer = AnswerReader(), GatheredAnswer()
    try:
        async for chunk in _chunks(pieces, reader, dialect):
            answer.add(chunk)
    except CallFailed as error:
        error.said = answer.completion()
        raise
    return Answer(answer.completion(), attempts, reader.unread)


async def _chunks(
    pieces: "_Pieces", reader: AnswerReader, dialect: Dialect
) -> AsyncGenerator[Completion]:
    """The chunks of a stream. Raises CallFailed, also for one that was cut."""
    stream = _Stream(reader, pieces.most)
    while (events := await stream.next(pieces)) is not None:
        for event in events:
            if (chunk := stream.read(event)) is not None:
                yield chunk
            if stream.over:
                break
    if (rest := reader.rest()) is not None:
        yield rest
    # Some backends leave out [DONE]; one that has not finished was cut. Servers say [DONE], too, when they are
    # interrupted, so that it is no end to an answer that has begun.
    if not (stream.finished or (stream.over and (stream.is_silent or not dialect.finish_reason))):
        raise CallFailed(Failure.BROKEN)


class _Stream:
    """How far a stream of chunks has come. An answer that is complete stands, whatever follows it but an error."""

    def __init__(self, reader: AnswerReader, most: int) -> None:
        self._reader = reader
        self._events = EventReader(max_event=most)
        self._open: set[int] = set()
        self._closed: set[int] = set()
        self._ended = False
        self.over = False

    @property
    def finished(self) -> bool:
        """Whether every choice that has begun has said how it ended."""
        return bool(self._closed) and not self._open

    @property
    def is_silent(self) -> bool:
        """Whether no choice has begun."""
        return not (self._open or self._closed)

    async def next(self, pieces: "_Pieces") -> Sequence[ServerSentEvent] | None:
        """The events that the next piece completes; None at the end. Raises CallFailed."""
        if self.over or self._ended:
            return None
        try:
            if self.finished:
                pieces.hurry(_LAST_WORDS)
            if piece := await pieces.next():
                return self._events.feed(piece)
            self._ended = True
            last = self._events.rest()
            return [] if last is None else [last]
        except EventTooLarge:
            raise CallFailed(Failure.UNUSABLE, reason=TOO_LARGE) from None
        except CallFailed as error:
            if self.finished and error.failure in (Failure.BROKEN, Failure.TIMEOUT):
                return None
            raise

    def read(self, event: ServerSentEvent) -> Completion | None:
        """The chunk that an event is; None for one that is none. Raises CallFailed for an error, or a broken chunk."""
        if event.event == "error":
            raise _error_in(event.data)
        data = event.data.strip()
        if data == DONE:
            self.over = True
            return None
        try:
            chunk = self._reader.chunk(data)
        except NoAnswer:
            if self.finished or not _NOT_TEXT.search(data):
                return None  # as servers say that they are still there
            raise CallFailed(Failure.BROKEN if self._ended else Failure.UNUSABLE) from None
        if chunk.is_error:
            raise _error_in(event.data)
        self._count(chunk)
        return chunk

    def _count(self, chunk: Completion) -> None:
        for choice in chunk.choices:
            if choice.finish_reason:
                self._closed.add(choice.index)
                self._open.discard(choice.index)
            elif choice.index not in self._closed:
                self._open.add(choice.index)


class _Pieces:
    """A response's body, piece by piece, within its deadline and a size."""

    def __init__(self, response: aiohttp.ClientResponse, deadline: float, most: int) -> None:
        self.most = most
        self._response = response
        self._deadline = deadline
        self._left = most
        self._ahead = b""

    async def beginning(self) -> bytes:
        """The first piece that says anything, which is still to be read. Raises CallFailed."""
        while (piece := await self.next()) and not piece.strip():
            pass
        self._ahead = piece
        return piece.removeprefix(_BOM).lstrip()

    async def next(self) -> bytes:
        """The next piece; empty at the end. Raises CallFailed."""
        if ahead := self._ahead:
            self._ahead = b""
            return ahead
        content = self._response.content
        if content.at_eof() and content.exception() is None:
            return b""
        try:
            async with asyncio.timeout_at(self._deadline):
                piece = await content.readany()
        except TimeoutError:
            raise CallFailed(Failure.TIMEOUT) from None
        except aiohttp.ClientError:
            raise CallFailed(Failure.BROKEN) from None
        self._left -= len(piece)
        if self._left < 0:
            raise CallFailed(Failure.UNUSABLE, reason=TOO_LARGE)
        return piece

    def hurry(self, seconds: float) -> None:
        """Wait no longer than this from now on."""
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + seconds)

    async def all(self) -> bytes:
        """The whole body. Raises CallFailed."""
        pieces: list[bytes] = []
        try:
            while piece := await self.next():
                pieces.append(piece)
        except CallFailed as error:
            error.seen = sum(map(len, pieces))
            raise
        return b"".join(pieces)


async def _refused(response: aiohttp.ClientResponse, deadline: float) -> CallFailed:
    """What an upstream's body says becomes a word of ours: it is not ours to show."""
    status, attempts = response.status, _attempts(response)
    if status == 504:
        return CallFailed(Failure.TIMEOUT, status=504, attempts=attempts)
    if not _UNREACHED.isdisjoint(response.headers.get("x-looper-flags", "").split(",")):
        return CallFailed(Failure.CONNECT, status=status, attempts=attempts)
    body = await _beginning(response, deadline) if status in READ else b""
    limited = status in READ and is_rate_limit(body)
    return CallFailed(
        Failure.STATUS,
        status=status,
        retry_after=retry_after(response.headers.get("retry-after", "")),
        reason=RATE_LIMITED if limited else None,
        refusal=refusal(status, body) if status in READ and not limited else None,
        param=named(body),
        attempts=attempts,
    )


async def _beginning(response: aiohttp.ClientResponse, deadline: float) -> bytes:
    """As much of an error's body as is worth reading, and as comes in a moment."""
    pieces: list[bytes] = []
    left = MAX_BODY
    moment = asyncio.get_running_loop().time() + _MOMENT
    try:
        async with asyncio.timeout_at(min(deadline, moment)):
            while left > 0 and (piece := await response.content.read(left)):
                pieces.append(piece)
                left -= len(piece)
    except (TimeoutError, aiohttp.ClientError):
        pass  # what has come by then will do
    return b"".join(pieces)


def _attempts(response: aiohttp.ClientResponse) -> int:
    return _count(response.headers.get("x-envoy-attempt-count", "")) or 1


def _count(text: str) -> int | None:
    """A header's number, if it is one of a sensible size."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def retry_after(text: str) -> int | None:
    """The seconds that a Retry-After asks for, said as a number or as a date."""
    if (found := _SECONDS.fullmatch(text.strip())) is not None:
        return math.ceil(float(found[0]))
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0, math.ceil((aware - datetime.now(UTC)).total_seconds()))


def _whole(body: bytes, attempts: int) -> Answer:
    """A complete answer. Raises CallFailed."""
    reader = AnswerReader()
    try:
        completion = reader.whole(body)
    except NoAnswer:
        raise CallFailed(Failure.UNUSABLE) from None
    if completion.is_error:
        raise _error_in(body)
    return Answer(completion, attempts, reader.unread)


def _error_in(body: bytes) -> CallFailed:
    """What an answer fails with that is an error, in spite of its status."""
    if is_rate_limit(body):
        return CallFailed(Failure.UNUSABLE, reason=RATE_LIMITED)
    return CallFailed(Failure.UNUSABLE, refusal=said(body), param=named(body))
