"""Load that h2load cannot make: streams whose first token is timed, and many long requests begun one by one."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.bench.processes import BenchFailed
from tests.bench.sample import Sample

_TOKEN = re.compile(rb'"content":\s*"[^"]')
_OUTCOME = re.compile(rb"x-looper-outcome: *(\w+)")
_TIMEOUT = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; times are `time.monotonic()` seconds, `token_at` that of the first bit of content."""

    right: bool
    """Status 200; and a team's answer came about as it should, with every member."""
    status: int
    began: float
    token_at: float | None
    ended: float
    body: bytes


class Connection:
    """One HTTP/1.1 connection, as plain as can be, so that the client's own work does not count."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def post(self, path: str, body: bytes) -> Answer:
        began = time.monotonic()
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        outcome = _OUTCOME.search(head)
        answer, token_at = bytearray(), None
        async for piece in self._pieces(head):
            answer += piece
            if token_at is None and _TOKEN.search(answer):
                token_at = time.monotonic()
        right = status == 200 and (outcome is None or outcome[1] == b"ok")
        return Answer(right, status, began, token_at, time.monotonic(), bytes(answer))

    async def _pieces(self, head: bytes) -> AsyncIterator[bytes]:
        length = re.search(rb"content-length: *(\d+)", head)
        if length is not None:
            yield await self._reader.readexactly(int(length[1]))
            return
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]
        await self._reader.readexactly(2)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Callable[[bytes], Awaitable[Answer]]]:
    """A connection of its own; what it gives sends a body to `url`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 24)
    connection = Connection(reader, writer, parts.netloc)
    try:
        yield lambda body: connection.post(parts.path, body)
    finally:
        writer.close()


async def in_turn(url: str, body: bytes, *, seconds: float, least: int) -> list[Answer]:
    """Send one request after the other for `seconds`, but `least` in any case."""
    answers: list[Answer] = []
    end = time.monotonic() + seconds
    async with asyncio.timeout(_TIMEOUT), connected(url) as send:
        while len(answers) < least or time.monotonic() < end:
            answers.append(await send(body))
    return answers


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many clients, of which the first begins now and the last after `spread` seconds.

    Each sends request after request until `seconds` later, but one in any case. What has begun by then is waited for.
    """

    clients: int
    seconds: float
    spread: float


async def at_once(url: str, body: bytes, crowd: Crowd) -> Sample:
    """Each client sends the same request, on a connection of its own."""
    return await _many(lambda end: _client(url, body, end), crowd)


async def chains(urls: Sequence[str], body: bytes, crowd: Crowd) -> Sample:
    """What is timed is one request to each of `urls`, in turn."""
    return await _many(lambda end: _chain(urls, body, end), crowd)


async def _many(client: Callable[[float], Awaitable[list[Answer]]], crowd: Crowd) -> Sample:
    began = time.monotonic()
    end = began + crowd.spread + crowd.seconds

    async def later(delay: float) -> list[Answer]:
        await asyncio.sleep(delay)
        return await client(end)

    delays = (crowd.spread * number / crowd.clients for number in range(crowd.clients))
    async with asyncio.timeout(_TIMEOUT), asyncio.TaskGroup() as group:
        tasks = [group.create_task(later(delay)) for delay in delays]
    answers = [answer for task in tasks for answer in task.result()]
    good = [answer.ended - answer.began for answer in answers if answer.right]
    if not good:
        raise BenchFailed(f"status {answers[0].status}: {answers[0].body[:200]!r}")
    last = max(answer.ended for answer in answers)
    return Sample(good, last - began, errors=len(answers) - len(good))


async def _client(url: str, body: bytes, end: float) -> list[Answer]:
    answers: list[Answer] = []
    async with connected(url) as send:
        while not answers or time.monotonic() < end:
            answers.append(await send(body))
    return answers


async def _chain(urls: Sequence[str], body: bytes, end: float) -> list[Answer]:
    answers: list[Answer] = []
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(connected(url)) for url in urls]
        while not answers or time.monotonic() < end:
            each = [await send(body) for send in links]
            right = all(answer.right for answer in each)
            last = each[-1]
            answers.append(Answer(right, last.status, each[0].began, None, last.ended, last.body))
    return answers
