"""A real model, which says what it likes: what is looked at is the shape of answers and the books, never content."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from looper.simulate.server import Address, Simulator
from looper.wire.sse import DONE, EventReader
from tests.envoy.test_runs import run_of
from tests.fakes.envoy import free_port
from tests.fakes.stack import Stack, run_stack
from tests.real.conftest import CONFIG, TEAM
from tests.real.server import ROOM, Server, run_server

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

QUESTION = "Name a colour of the sky."
SHORT = 16
"""Tokens of an answer: what a real model says is of no interest here."""

PATIENCE = aiohttp.ClientTimeout(total=120)

ENDLESS: dict[str, Any] = {"max_tokens": ROOM - 100, "ignore_eos": True}
"""Has a real model go on for a time that no test waits for."""


def body(model: str, text: str = QUESTION, **members: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": SHORT, **members}


async def ask(stack: Stack, model: str, text: str = QUESTION, **members: Any) -> tuple[Any, Any]:
    """Headers and JSON of an answer."""
    status, headers, answer = await attempt(stack, model, text, **members)
    assert status == 200, answer
    return headers, answer


async def attempt(stack: Stack, model: str, text: str = QUESTION, **members: Any) -> Any:
    async with stack.session.post(
        f"{stack.base_url}/chat/completions",
        json=body(model, text, **members),
        headers={"looper-debug": "1"},
        timeout=PATIENCE,
    ) as response:
        return response.status, response.headers, json.loads(await response.read())


async def stream(stack: Stack, model: str, **members: Any) -> list[Any]:
    """The chunks of a streamed answer with its usage, and that it ended as it should."""
    async with stack.session.post(
        f"{stack.base_url}/chat/completions",
        json=body(model, stream=True, stream_options={"include_usage": True}, **members),
        timeout=PATIENCE,
    ) as response:
        assert response.status == 200, await response.text()
        events = EventReader().feed(await response.read())
    assert events[-1].data == DONE
    return [json.loads(event.data) for event in events[:-1]]


async def test_an_answer_is_routed_whole_and_streamed(stack: Stack, server: Server) -> None:
    """What the server says reaches the client: text, end and usage are the same as without us."""
    settings: dict[str, Any] = {"temperature": 0, "seed": 1, "cache_prompt": False}
    own = await server.chat(**body("plain", **settings))
    _, whole = await ask(stack, "routed", **settings)
    chunks = await stream(stack, "routed", **settings)

    assert whole["choices"] == own["choices"]
    assert {**whole["usage"], "prompt_tokens_details": 0} == {
        **own["usage"],
        "prompt_tokens_details": 0,
    }
    assert said(chunks) == own["choices"][0]["message"]["content"]
    assert [ended(chunks)] == [own["choices"][0]["finish_reason"]]
    assert chunks[-1]["usage"]["total_tokens"] == own["usage"]["total_tokens"]


async def test_a_score_is_that_of_the_probabilities_that_the_server_sent(stack: Stack) -> None:
    """The confidence of a published answer follows from the probabilities that are published with it."""
    # The token that ends an answer is none of its words: this one goes on to its limit.
    wishes: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "ignore_eos": True}
    headers, answer = await ask(stack, "first", **wishes)

    tokens = answer["choices"][0]["logprobs"]["content"]
    mean = sum(token["logprob"] for token in tokens) / len(tokens)
    record = await run_of(stack, headers["x-looper-run"])
    assert len(tokens) == answer["usage"]["completion_tokens"] == SHORT
    assert record["calls"][0]["score"] == pytest.approx(max(0, (mean + 3) / 3), abs=1e-5)
    assert [call["model"] for call in record["calls"]] == ["plain"]


async def test_an_unsure_answer_is_given_up_while_it_is_written(
    stack: Stack, server: Server
) -> None:
    """`escalate_early` leaves the first stage before its last word, and the server is told."""
    before = await server.predicted()
    headers, _ = await ask(stack, "early", **ENDLESS | {"max_tokens": 40})

    first, *rest = (await run_of(stack, headers["x-looper-run"]))["calls"]
    assert first["state"] == "cancelled"
    assert [call["model"] for call in rest] == ["terse"]
    await server.until_idle()
    assert await server.predicted() - before < 80


async def test_a_vote_counts_those_who_keep_the_contract(stack: Stack) -> None:
    """Real answers are read by the contract: each is a value, or is said to be none."""
    status, headers, answer = await attempt(
        stack, "vote", "Is water A) dry or B) wet? Answer with one letter.", logprobs=True
    )
    record = await run_of(stack, headers["x-looper-run"])
    assert len(record["calls"]) >= len(TEAM)
    if status == 200:
        assert answer["choices"][0]["message"]["content"]
        assert 0 < record["confidence_permille"] <= 1000
    else:
        assert (status, answer["error"]["code"]) == (502, "contract_violated")


@pytest.mark.parametrize(
    ("model", "roles"),
    [
        ("remom", ["proposer"] * 3 + ["synthesis"]),
        ("fusion", ["panel"] * 3 + ["judge", "final"]),
        ("workflow", ["worker"] * 3 + ["final"]),
    ],
)
async def test_a_team_of_real_models_ends_with_an_answer_and_its_books_balance(
    stack: Stack, server: Server, model: str, roles: list[str]
) -> None:
    """Each stage is asked, its answer is used, and what was used is what the server counted."""
    await server.until_idle()  # what a test before this one gave up
    before = await server.predicted()
    headers, answer = await ask(stack, model)
    record = await run_of(stack, headers["x-looper-run"])

    calls = record["calls"]
    asked = [call["role"] for call in calls if call["role"] != "judge"]
    assert calls
    assert asked == [role for role in roles if role != "judge"]
    assert ("judge" in roles) == any(call["role"] == "judge" for call in calls)
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    written = sum(call["usage"]["completion_tokens"] for call in calls)
    assert not any(call.get("estimated") for call in calls)
    assert answer["usage"]["completion_tokens"] == written
    assert written == await server.predicted() - before


async def test_a_streamed_team_says_its_usage_and_its_end(stack: Stack) -> None:
    """The chunks of a team's last model reach the client as its answer."""
    chunks = await stream(stack, "remom")
    assert said(chunks).strip()
    assert ended(chunks) in ("stop", "length")
    assert chunks[-1]["usage"]["completion_tokens"] > SHORT


async def test_a_signal_asks_a_real_model(stack: Stack) -> None:
    """Whatever it says is one of the labels, or none of them: the request is decided and answered."""
    headers, _ = await ask(stack, "signal", "What is 3 times 4?")
    assert headers["x-looper-decision"] in ("labelled", "other")


@pytest.mark.parametrize("model", ["called", "fusion", "remom"])
async def test_a_conversation_that_no_member_has_room_for_is_the_clients_business(
    stack: Stack, model: str
) -> None:
    """The server's own refusal becomes the error that clients know."""
    status, _, answer = await attempt(stack, model, "word " * ROOM)
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(("model", "calls"), [("routed", 1), ("endless", 1), ("endless-team", 2)])
async def test_a_client_that_leaves_frees_the_servers_slots(
    stack: Stack, server: Server, model: str, calls: int
) -> None:
    """Nobody writes on for a client that has gone."""
    sending = asyncio.ensure_future(attempt(stack, model, **ENDLESS))  # noqa: TID251
    await server.until_busy(calls)
    sending.cancel()
    await server.until_idle()


async def test_a_server_that_is_not_there_yet_and_one_that_still_loads(tmp_path: Path) -> None:
    """Without a server it could not be reached; while it loads it says 503; then it answers."""
    at = Address("127.0.0.1", free_port())
    async with run_stack(Simulator(), CONFIG, models_at=at) as stack:
        status, _, answer = await attempt(stack, "fusion")
        assert (status, answer["error"]["code"]) == (502, "upstream_failed")
        assert "could not be reached" in answer["error"]["message"]

        async with run_server(tmp_path / "server.log", at.port) as late:
            await late.until(503)
            routed, team = await asyncio.gather(attempt(stack, "routed"), attempt(stack, "fusion"))
            assert (routed[0], routed[2]["error"]["message"]) == (503, "Loading model")
            assert team[0] == 502
            assert {each["status"] for each in team[2]["error"]["looper"]["attempts"]} == {503}

            await late.until(200)
            assert (await attempt(stack, "routed"))[0] == 200


def said(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def ended(chunks: list[Any]) -> str | None:
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return next(filter(None, reasons), None)
