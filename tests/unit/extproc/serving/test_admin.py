"""The interface for operators: who may ask, and what they are told."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from extproc.config import load_config
from extproc.serving.admin import Access, Facts, admin, scraped, token_in
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import at_work
from looper.wire.sse import EventReader
from tests.fakes.envoy import free_port
from tests.fakes.records import record
from tests.fakes.stack import DEMO

TOKEN = "a token of some length"


@asynccontextmanager
async def served(address: str = "", **access: Any) -> AsyncIterator[tuple[Facts, str]]:
    """The interface of a process, and its URL."""
    address = address or f"127.0.0.1:{free_port()}"
    async with at_work(load_config(DEMO)) as versions:
        facts = Facts(versions, Reloads(), Lag())
        async with admin(facts, Access(address, **access)):
            yield facts, f"http://{address}"


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize(
    ("headers", "access", "status"),
    [
        pytest.param({}, {}, 200, id="this-machine"),
        pytest.param({"host": "localhost:1"}, {}, 200, id="localhost"),
        pytest.param({"host": "10.1.2.3:9100"}, {}, 200, id="an-address"),
        pytest.param({"host": "[::1]:9100"}, {}, 200, id="ipv6"),
        pytest.param({"host": "evil.example"}, {}, 403, id="rebound-name"),
        pytest.param({"host": "127.0.0.1.evil.example"}, {}, 403, id="name-like-an-address"),
        pytest.param({"host": "ops.example:1"}, {"names": ["ops.example"]}, 200, id="own-name"),
        pytest.param({"origin": "http://evil.example"}, {}, 403, id="other-origin"),
        pytest.param({"origin": "null"}, {}, 403, id="null-origin"),
        pytest.param({"host": "localhost:7", "origin": "http://localhost:7"}, {}, 200, id="own-origin"),
        pytest.param({"host": "localhost:7", "origin": "http://localhost:8"}, {}, 403, id="other-port"),
        pytest.param({"sec-fetch-site": "cross-site"}, {}, 403, id="cross-site"),
        pytest.param({"sec-fetch-site": "same-site"}, {}, 403, id="same-site"),
        pytest.param(
            {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, {}, 200, id="a-link"
        ),
        pytest.param({"sec-fetch-site": "same-origin"}, {}, 200, id="same-origin"),
        pytest.param({}, {"token": TOKEN}, 401, id="no-token"),
        pytest.param({"authorization": "Bearer x"}, {"token": TOKEN}, 401, id="wrong-token"),
        pytest.param({"authorization": f"Basic {TOKEN}"}, {"token": TOKEN}, 401, id="not-bearer"),
        pytest.param({"authorization": f"bearer {TOKEN}"}, {"token": TOKEN}, 200, id="token"),
        pytest.param(
            {"authorization": f"Bearer {TOKEN}", "origin": "http://evil.example"},
            {"token": TOKEN}, 403, id="token-of-another-origin",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/runs", "/api/runs", "/api/overview", "/config", "/metrics"])
async def test_who_may_ask(
    session: aiohttp.ClientSession, headers: dict[str, str], access: Any, status: int, path: str
) -> None:
    async with served(**access) as (_, url), session.get(f"{url}{path}", headers=headers) as answer:
        assert answer.status == status


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
async def test_what_is_not_there_is_not_told_to_strangers_either(
    session: aiohttp.ClientSession, method: str
) -> None:
    async with (
        served() as (_, url),
        session.request(
            method, f"{url}/explain", headers={"origin": "http://evil.example"}
        ) as answer,
    ):
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/console/app.js", "/runs", "/nothing", "/api/about"]
)
async def test_every_response_is_hardened(session: aiohttp.ClientSession, path: str) -> None:
    """Also errors: nothing can be framed, sniffed, or run that is not the console's own."""
    async with served() as (_, url), session.get(f"{url}{path}") as answer:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_page_itself_needs_no_token(session: aiohttp.ClientSession) -> None:
    """It holds nothing, and asks for the token; health is for whoever restarts the process."""
    async with served(token=TOKEN) as (_, url):
        for path, status in [
            ("/", 200),
            ("/console/app.js", 200),
            ("/healthz", 200),
            ("/runs", 401),
        ]:
            async with session.get(f"{url}{path}") as answer:
                assert answer.status == status, path


async def test_the_pages_files_are_asked_for_once(session: aiohttp.ClientSession) -> None:
    async with served() as (_, url):
        async with session.get(f"{url}/console/app.js") as answer:
            etag = answer.headers["etag"]
        async with session.get(f"{url}/console/app.js", headers={"if-none-match": etag}) as answer:
            assert answer.status == 304


@pytest.mark.parametrize("address", ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example.org:1"])
def test_beyond_this_machine_a_token_is_needed(address: str) -> None:
    with pytest.raises(ValueError, match="token"):
        Access(address)
    assert TOKEN not in repr(Access(address, TOKEN))


@pytest.mark.parametrize(("text", "good"), [("x" * 15, False), ("", False), (f"{TOKEN}\n", True)])
def test_a_token_is_none_that_can_be_guessed(tmp_path: Path, text: str, good: bool) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    if good:
        assert token_in(path) == TOKEN
    else:
        with pytest.raises(ValueError, match="16 characters"):
            token_in(path)


async def test_lines_of_runs_are_short_and_the_newest_first(session: aiohttp.ClientSession) -> None:
    async with served() as (facts, url):
        for number in range(3):
            facts.process.runs.add(record(number, messages=[{"content": "secret"}]))
        async with session.get(f"{url}/api/runs?limit=2") as answer:
            text = await answer.text()
        async with session.get(f"{url}/runs/{2:016x}") as answer:
            whole = await answer.json()
    told = json.loads(text)
    assert [line["number"] for line in told["runs"]] == [3, 2]
    assert told["runs"][0]["models"] == ["small", "large"]
    assert told["last"] == 3
    assert "secret" not in text
    assert whole["messages"] == [{"content": "secret"}]


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    reader = EventReader()
    async for data in answer.content.iter_any():
        for event in reader.feed(data):
            yield event.event or "", json.loads(event.data)


async def until(found: AsyncIterator[tuple[str, Any]], kind: str) -> Any:
    async with asyncio.timeout(10):
        async for event, data in found:
            if event == kind:
                return data
    raise AssertionError(f"no {kind}")


async def test_who_listens_hears_of_runs_and_of_the_configuration(
    session: aiohttp.ClientSession,
) -> None:
    """At once, and again whenever something changes; whoever comes back hears what has been missed."""
    async with served() as (facts, url):
        facts.process.runs.add(record(1))
        async with session.get(f"{url}/api/events") as answer:
            heard = frames(answer)
            assert (await until(heard, "configuration"))["valid"]
            facts.process.runs.add(record(2))
            assert (await until(heard, "run"))["number"] == 2
            facts.reloads.problems = ["looper.yaml:7: nonsense"]
            assert (await until(heard, "configuration"))["problems"] == ["looper.yaml:7: nonsense"]
        async with session.get(f"{url}/api/events", headers={"last-event-id": "0"}) as answer:
            heard = frames(answer)
            assert [(await until(heard, "run"))["number"] for _ in range(2)] == [1, 2]


async def test_who_was_away_too_long_is_told_what_memory_has_lost(
    session: aiohttp.ClientSession,
) -> None:
    async with served() as (facts, url):
        for number in range(facts.process.runs.keep + 5):
            facts.process.runs.add(record(number))
        async with session.get(f"{url}/api/events?after=0") as answer:
            heard = frames(answer)
            assert (await until(heard, "missed")) == {"runs": 5}
            assert (await until(heard, "run"))["number"] == 6


async def test_the_end_of_the_process_waits_for_no_listener(session: aiohttp.ClientSession) -> None:
    async with served() as (_, url):
        answer = await session.get(f"{url}/api/events")
    async with asyncio.timeout(10):
        await answer.read()


async def test_without_leave_nothing_is_sent_to_envoy(session: aiohttp.ClientSession) -> None:
    async with served() as (_, url), session.post(f"{url}/api/playground", json={}) as answer:
        assert answer.status == 404


@asynccontextmanager
async def upstream() -> AsyncIterator[tuple[str, list[bytes]]]:
    """What stands in Envoy's place."""
    asked: list[bytes] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.read())
        return web.Response(text="data: hi\n\n", headers={"x-looper-run": "r", "x-secret": "s"})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "status"),
    [("application/json", 200), ("text/plain", 415), ("multipart/form-data", 415)],
)
async def test_the_playground_hands_on_what_envoy_answers(
    session: aiohttp.ClientSession, kind: str, status: int
) -> None:
    """And what no page could send without asking first: nothing else reaches Envoy."""
    async with (
        upstream() as (envoy, asked),
        served(playground=envoy) as (_, url),
        session.post(f"{url}/api/playground", data=b"{}", headers={"content-type": kind}) as answer,
    ):
        text = await answer.text()
        assert answer.status == status
        assert (text == "data: hi\n\n") is (status == 200)
        assert asked == ([b"{}"] if status == 200 else [])
        assert "x-secret" not in answer.headers


async def test_the_playground_says_when_envoy_is_not_there(session: aiohttp.ClientSession) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    async with (
        served(playground=gone) as (_, url),
        session.post(f"{url}/api/playground", json={}) as answer,
    ):
        assert answer.status == 502


async def test_prometheus_has_a_page_of_its_own(session: aiohttp.ClientSession) -> None:
    """It is the one of the interface, for whoever asks; there is nothing else at its address."""
    address = f"127.0.0.1:{free_port()}"
    async with served(token=TOKEN) as (facts, _), scraped(facts, address):
        async with session.get(f"http://{address}/metrics", headers={"host": "looper"}) as answer:
            assert answer.status == 200
            assert "looper_config_valid 1.0" in await answer.text()
            assert answer.headers["x-content-type-options"] == "nosniff"
        for path in ("/", "/runs", "/config", "/load", "/healthz", "/api/about", "/metrics/"):
            async with session.get(f"http://{address}{path}") as answer:
                assert answer.status == 404, path
