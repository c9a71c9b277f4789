"""Profile `metered`: the answers of single models pass through the processor, in both body modes."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Mapping
from io import BytesIO
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
import yaml

from extproc.exchange.metering import MAX_WHOLE
from looper.simulate.server import (
    Cut,
    EmptyFirst,
    Ending,
    ErrorObject,
    Fault,
    Framing,
    Garbage,
    GzipBomb,
    Hang,
    Huge,
    OtherMode,
    Reset,
    Status,
    Strange,
    Torn,
    UsageHabit,
)
from looper.wire.sse import DONE, EventReader
from tests.envoy.conftest import quick_models
from tests.envoy.requests import TEAM, body, chat
from tests.envoy.series import count
from tests.fakes.stack import DEMO, Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAIN = {"decisions": [{"name": "plain", "algorithm": {"type": "single", "model": "small"}}]}
COUNTED = ("prompt_tokens", "completion_tokens", "cost_microusd")
BIG = b" " * ((32 << 20) + 1)
ROUTED = {"decision": "default", "algorithm": "single", "model": "small"}


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["full_duplex", "buffered"])
async def shared(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    demo = yaml.safe_load(DEMO.read_text())
    change = {
        "envoy": {"profile": "metered", "body_mode": request.param},
        "recipes": {**demo["recipes"], "plain": PLAIN},
        "entrypoints": {**demo["entrypoints"], "looper/small": "plain"},
    }
    async with run_stack(quick_models(), change) as stack:
        yield stack
        series = await stack.series()
        for name in ("streams_failed", "spurious_msgs_received", "rejected_header_mutations"):
            assert count(series, f"envoy_http_ext_proc_looper_{name}") == 0, name
        assert '"level":"error"' not in stack.processor.log.read_text()


@pytest.fixture
def metered(shared: Stack) -> Stack:
    shared.simulator.reset()
    return shared


async def ask(stack: Stack, **members: Any) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of the answer to a request that one model answers."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=chat(**members)
    ) as response:
        return response.status, response.headers, await response.read()


def chunks(stream: bytes) -> list[dict[str, Any]]:
    """The chunks of a complete stream without its end."""
    *events, done = EventReader().feed(stream)
    assert done.data == DONE
    return [json.loads(event.data) for event in events]


def text(stream: bytes) -> str:
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(stream) if chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def names(stream: bytes) -> set[str]:
    return {chunk["model"] for chunk in chunks(stream)}


async def counted(stack: Stack, before: dict[str, float]) -> dict[str, float]:
    """What one routed request added to the statistics, once it is counted."""

    def added(now: dict[str, float], name: str) -> float:
        series = f"envoy_looper_{name}_total"
        return count(now, series, **ROUTED) - count(before, series, **ROUTED)

    now = await stack.until_series(lambda now: added(now, "requests") == 1)
    told = (*COUNTED, "estimated_tokens", "unmetered")
    return {name: added(now, name) for name in told if added(now, name)}


def bill(stack: Stack) -> dict[str, float]:
    """What the statistics should say of the one call that was made."""
    (call,) = stack.simulator.calls
    assert call.usage is not None
    prompt, completion = call.usage["prompt_tokens"], call.usage["completion_tokens"]
    cost = -(-(prompt * 5 + completion * 20) // 100)  # the demo's price, rounded up
    return dict(zip(COUNTED, (prompt, completion, cost), strict=True))


class TestWhole:
    async def test_has_the_clients_name_of_the_model(self, metered: Stack) -> None:
        """An unstreamed answer names the model as the client did; its usage stays in it, and is counted."""
        before = await metered.series()
        status, headers, answer = await ask(metered)

        read = json.loads(answer)
        assert (status, read["model"]) == (200, "looper/auto")
        assert "Ottawa" in read["choices"][0]["message"]["content"]
        assert headers["x-looper-decision"] == "default"
        assert await counted(metered, before) == bill(metered)
        assert read["usage"]["prompt_tokens"] == bill(metered)["prompt_tokens"]

    async def test_may_be_large(self, metered: Stack) -> None:
        """An answer of 5 MB arrives whole, with the client's name in it, and is counted."""
        metered.simulator.fault("small", Huge(size=5_000_000))
        before = await metered.series()
        _, _, answer = await ask(metered)

        read = json.loads(answer)
        assert read["model"] == "looper/auto"
        assert len(read["choices"][0]["message"]["content"]) == 5_000_000
        assert (await counted(metered, before)).keys() == set(COUNTED)

    async def test_passes_where_it_is_too_large_to_be_held(self, metered: Stack) -> None:
        """An answer over the bound arrives whole and unedited, and it is counted that it was not metered."""
        metered.simulator.fault("small", Huge(size=MAX_WHOLE))
        before = await metered.series()
        _, _, answer = await ask(metered)

        read = json.loads(answer)
        assert read["model"] == "small"
        assert len(read["choices"][0]["message"]["content"]) == MAX_WHOLE
        assert await counted(metered, before) == {"unmetered": 1}

    async def test_passes_compressed(self, metered: Stack) -> None:
        """An answer that the backend compressed unasked passes as it is."""
        metered.simulator.fault("small", GzipBomb(size=1000))
        status, headers, answer = await ask(metered)

        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert json.loads(answer)["model"] == "small"  # the test's own client has decompressed it


class TestStream:
    async def test_hides_the_usage_that_nobody_asked_for(self, metered: Stack) -> None:
        """The backend is asked for the usage, which is counted; the client sees nothing of that."""
        before = await metered.series()
        _, headers, stream = await ask(metered, stream=True)

        assert headers["content-type"].startswith("text/event-stream")
        assert names(stream) == {"looper/auto"}
        assert "Ottawa" in text(stream)
        assert b"usage" not in stream
        assert all(chunk["choices"] for chunk in chunks(stream))
        assert await counted(metered, before) == bill(metered)

    async def test_shows_the_usage_that_was_asked_for(self, metered: Stack) -> None:
        """A client that asks for the usage gets it as the backend says it."""
        before = await metered.series()
        _, _, stream = await ask(metered, stream=True, stream_options={"include_usage": True})

        *rest, last = chunks(stream)
        assert names(stream) == {"looper/auto"}
        assert last["usage"]["prompt_tokens"] == bill(metered)["prompt_tokens"]
        assert all(chunk["usage"] is None for chunk in rest)
        assert await counted(metered, before) == bill(metered)

    @pytest.mark.parametrize(
        ("said", "sent"),
        [
            pytest.param(b"}", b',"stream_options":{"include_usage":true}}', id="without-options"),
            pytest.param(
                b', "stream_options" : { "x": 1.0 } }',
                b', "stream_options" : { "x": 1.0,"include_usage":true } }',
                id="other-options",
            ),
            pytest.param(
                b',"stream_options":{"include_usage":true}}',
                b',"stream_options":{"include_usage":true}}',
                id="asked",
            ),
        ],
    )
    async def test_asks_with_as_few_bytes_as_possible(
        self, metered: Stack, said: bytes, sent: bytes
    ) -> None:
        """In the request too, nothing changes but the model's name and the wish for the usage."""
        request = body(stream=True)[:-1]
        async with metered.session.post(
            f"{metered.base_url}/chat/completions", data=request + said
        ) as response:
            assert response.status == 200
            await response.read()

        (call,) = metered.simulator.calls
        assert call.body == request.replace(b"looper/auto", b"small", 1) + sent

    async def test_a_token_does_not_wait_for_the_next(self, metered: Stack) -> None:
        """The first chunk is at the client while the backend still writes."""
        slow = metered.simulator.models["small"].model_copy(update={"token_latency": 0.2})
        metered.simulator.put(slow)
        async with metered.session.post(
            f"{metered.base_url}/chat/completions", json=chat(stream=True)
        ) as response:
            reader = EventReader()
            while not reader.feed(await response.content.readany()):
                pass
            assert metered.simulator.running() == 1
            await response.read()

    async def test_a_client_that_leaves_ends_the_call(self, metered: Stack) -> None:
        """The backend notices at once that nobody listens any more."""
        metered.simulator.fault("small", Hang(after_chunks=2))
        async with metered.session.post(
            f"{metered.base_url}/chat/completions", json=chat(stream=True)
        ) as response:
            await response.content.readany()
            response.close()

        await metered.simulator.wait_for(lambda: metered.simulator.running() == 0)

    @pytest.mark.parametrize(
        "habit",
        [
            Framing(kind="crlf"),
            Framing(kind="cr"),
            Framing(kind="no_space"),
            EmptyFirst(),
            UsageHabit(kind="twice"),
            UsageHabit(kind="missing"),
            UsageHabit(kind="nulls"),
        ],
        ids=lambda habit: f"{habit.type}-{getattr(habit, 'kind', '')}",
    )
    async def test_puts_up_with_habits(self, metered: Stack, habit: Fault) -> None:
        """However a backend writes its stream, the client reads the same answer under the same name."""
        metered.simulator.fault("small", habit)
        _, _, stream = await ask(metered, stream=True)

        assert names(stream) == {"looper/auto"}
        assert "Ottawa" in text(stream)
        assert b'"prompt_tokens":' not in stream

    @pytest.mark.parametrize(
        "fault",
        [
            Cut(after_chunks=2),
            Torn(after_chunks=2),
            Ending(kind="without_both"),
            ErrorObject(after_chunks=1),
            Garbage(after_chunks=1),
        ],
        ids=lambda fault: fault.type,
    )
    async def test_a_stream_that_goes_wrong_goes_wrong_for_the_client(
        self, metered: Stack, fault: Fault
    ) -> None:
        """What arrived of a broken stream is passed on, under the client's name, and nothing is made up."""
        metered.simulator.fault("small", fault)
        status, _, stream = await ask(metered, stream=True)

        assert status == 200
        events = [
            event.data for event in EventReader().feed(stream)
        ]  # what was torn is not one of them
        assert any(b'"model":"looper/auto"' in data for data in events)
        assert not any(b'"model":"small"' in data for data in events)

    async def test_a_connection_that_breaks_breaks_for_the_client(self, metered: Stack) -> None:
        """A reset in the middle of a stream is no proper end; without any answer yet, it is a 502."""
        metered.simulator.fault("small", Reset(after_chunks=2))
        try:
            status, _, _ = await ask(metered, stream=True)
        except aiohttp.ClientPayloadError:
            return
        assert status == 502


@pytest.mark.parametrize("kind", ["missing", "nulls", "empty", "negative", "impossible"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_usage_that_is_not_told_is_estimated(metered: Stack, kind: Any, stream: bool) -> None:
    """As a team's is, and counted as that, too; the client reads what its backend says."""
    metered.simulator.fault("small", UsageHabit(kind=kind))
    before = await metered.series()
    status, _, answer = await ask(metered, stream=stream)
    assert status == 200
    assert b"Ottawa" in answer if not stream else "Ottawa" in text(answer)

    added = await counted(metered, before)
    assert added["estimated_tokens"] == added["prompt_tokens"] + added["completion_tokens"]
    assert min(added[name] for name in COUNTED) > 0


class TestUntouched:
    @pytest.mark.parametrize("status", [401, 403])
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_a_credential_of_ours_is_not_the_clients_to_mend(
        self, metered: Stack, status: int, stream: bool
    ) -> None:
        """What refuses our key is told in our words, in this profile too."""
        metered.simulator.fault("small", Status(status=status))
        answered, headers, answer = await ask(metered, stream=stream)
        error = json.loads(answer)["error"]
        assert (answered, error["code"]) == (502, "upstream_misconfigured")
        assert error["type"] == "upstream_error"
        assert headers["x-should-retry"] == "false"
        assert headers["x-looper-decision"] == "default"

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_errors_of_a_backend_pass(self, metered: Stack, stream: bool) -> None:
        """What a backend refuses, it refuses in its own words; there is no usage to count."""
        metered.simulator.fault("small", Status(status=400, code="context_length_exceeded"))
        before = await metered.series()
        status, _, answer = await ask(metered, stream=stream)

        assert status == 400
        assert json.loads(answer)["error"]["code"] == "context_length_exceeded"
        now = await metered.until_series(
            lambda now: (
                count(now, "envoy_looper_requests_total", code="400")
                > count(before, "envoy_looper_requests_total", code="400")
            )
        )
        for name in COUNTED:
            series = f"envoy_looper_{name}_total"
            assert count(now, series) == count(before, series)

    async def test_errors_of_envoy_pass(self, metered: Stack) -> None:
        """A backend that cannot be reached is reported in OpenAI's shape."""
        metered.simulator.fault("small", Reset())
        status, _, answer = await ask(metered)

        assert status in (502, 503)
        assert json.loads(answer)["error"]["type"] in ("upstream_error", "server_error")

    @pytest.mark.parametrize(
        "fault", [Garbage(kind="html"), Garbage(), Garbage(kind="content_type")]
    )
    async def test_what_is_no_completion_passes(self, metered: Stack, fault: Garbage) -> None:
        """Answers that cannot be read are the client's to read."""
        metered.simulator.fault("small", fault)
        status, _, answer = await ask(metered)

        assert status == 200
        assert answer

    async def test_a_stream_where_none_was_asked_for_is_metered_all_the_same(
        self, metered: Stack
    ) -> None:
        """It is the answer's content type that says how it is to be read."""
        metered.simulator.fault("small", OtherMode())
        before = await metered.series()
        _, _, answer = await ask(metered, stream=True)

        assert json.loads(answer)["model"] == "looper/auto"
        assert await counted(metered, before) == bill(metered)

    async def test_embeddings_pass_and_are_counted(self, metered: Stack) -> None:
        """Beside chat completions nothing is edited, but the usage is read."""
        before = await metered.series()
        async with metered.session.post(
            f"{metered.base_url}/embeddings", json={"model": "looper/small", "input": "hello"}
        ) as response:
            answer = await response.json()

        assert answer["model"] == "small"
        series = "envoy_looper_prompt_tokens_total"
        tokens = answer["usage"]["prompt_tokens"]
        await metered.until_series(
            lambda now: (
                count(now, series, decision="plain")
                == count(before, series, decision="plain") + tokens
            )
        )

    @pytest.mark.parametrize(
        ("method", "path", "data", "status"),
        [
            pytest.param("POST", "/v1/chat/completions", BIG, 413, id="413"),
            pytest.param("POST", "/v1%2Fchat/completions", b"{}", 400, id="escaped-slash"),
            pytest.param("POST", "/v1/chat/completions", b"{", 400, id="not-json"),
            pytest.param("POST", "/v1/audio/speech", b"bytes", 404, id="no-route"),
            pytest.param("GET", "/elsewhere", None, 404, id="no-path"),
            pytest.param("GET", "/v1/models", None, 200, id="models"),
        ],
    )
    async def test_what_no_model_answers_is_as_in_the_other_profile(
        self, metered: Stack, method: str, path: str, data: bytes | None, status: int
    ) -> None:
        """Envoy's own answers pass through the processor too, some of them before it saw the request."""
        async with metered.session.request(
            method, f"{metered.ingress}{path}", data=data and BytesIO(data)
        ) as response:
            answer = await response.json()

        assert response.status == status
        assert ("error" in answer) == (status != 200)

    async def test_an_upload_that_is_broken_off_leaves_nothing_behind(self, metered: Stack) -> None:
        """A client that leaves in the middle of its body is nobody's error."""
        host, _, port = metered.ingress.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
        )
        await writer.drain()
        await asyncio.sleep(0.05)  # until Envoy has passed the beginning on
        writer.close()
        await writer.wait_closed()

        assert (await ask(metered))[0] == 200

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
    async def test_a_teams_answer_is_its_own(self, metered: Stack, stream: bool) -> None:
        """What the processor answers itself does not come by again, and is counted once."""
        labels = {"decision": "panel", "outcome": "ok"}
        before = await metered.series()
        async with metered.session.post(
            f"{metered.base_url}/chat/completions", json=chat(TEAM, stream=stream)
        ) as response:
            answer = await response.read()

        assert response.status == 200
        assert b"O(log n)" in answer or "O(log n)" in text(answer)
        series = "envoy_looper_requests_total"
        await metered.until_series(
            lambda now: count(now, series, **labels) == count(before, series, **labels) + 1
        )

    async def test_many_at_once(self, metered: Stack) -> None:
        """Requests side by side do not disturb each other."""

        async def one(number: int) -> str:
            _, _, answer = await ask(metered, text=f"number {number}", stream=True)
            assert names(answer) == {"looper/auto"}
            return text(answer)

        answers = await asyncio.gather(*(one(number) for number in range(100)))
        assert all(f"number {number}" in answer for number, answer in enumerate(answers))


async def test_an_answer_breaks_off_when_the_processor_is_lost() -> None:
    """A stream that nobody meters any more is not ended as if it were complete, and its call is ended too."""
    simulator = quick_models()
    simulator.fault("small", Hang(after_chunks=2))
    async with run_stack(simulator, {"envoy": {"profile": "metered"}}) as stack:
        async with stack.session.post(
            f"{stack.base_url}/chat/completions", json=chat(stream=True)
        ) as response:
            await response.content.readany()
            await stack.processor.stop(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

        await simulator.wait_for(lambda: simulator.running() == 0)


@pytest.mark.parametrize("limit", [-1, 0, 1.5, "256"])
async def test_a_limit_that_is_none_is_refused(metered: Stack, limit: object) -> None:
    """What is counted has a limit that is one, or none."""
    status, _, raw = await ask(metered, max_tokens=limit)
    error = json.loads(raw)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_field", "max_tokens")
    assert metered.simulator.count() == 0


async def test_usage_that_nobody_asked_for_is_hidden_whatever_is_beside_it(metered: Stack) -> None:
    """Such as choices that are null; and what is strange in it costs the client nothing."""
    metered.simulator.fault("small", Strange(kind="usage"))
    status, _, raw = await ask(metered, stream=True)
    read = chunks(raw)
    assert status == 200
    assert read
    assert all(chunk["choices"] for chunk in read)
    assert not any(chunk.get("usage") for chunk in read)


async def test_the_first_token_of_a_stream_is_timed(metered: Stack) -> None:
    """As in profile `fast`, and only of what is an answer, and streamed."""
    metered.simulator.script("small", Status(status=400))

    def settled(now: dict[str, float]) -> bool:
        """Envoy shows what histograms have got every five seconds, and counters at once."""
        shown = count(now, "envoy_looper_request_ms_count", decision="default")
        return shown == count(now, "envoy_looper_requests_total", decision="default")

    before = await metered.until_series(settled, timeout=15)
    for stream in (True, False, True):
        await ask(metered, stream=stream)

    def observed(now: dict[str, float], name: str) -> float:
        series = f"envoy_looper_{name}_count"
        return count(now, series, decision="default") - count(before, series, decision="default")

    now = await metered.until_series(lambda now: observed(now, "request_ms") >= 3, timeout=15)
    assert observed(now, "first_token_ms") == 1
    assert "non-number" not in metered.envoy.log.read_text()
