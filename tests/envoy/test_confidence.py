"""A chain of stages, through a real Envoy."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Hang, SimulatedModel, Simulator, Status
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODELS = {"small": 0.65, "other": 0.66, "large": 0.75, "judge": 0.9}
CHOICE = {"type": "choice", "values": ["A", "B", "C", "D"]}


def decision(
    contract: Any = None, stages: Any = ("small", "large"), **settings: Any
) -> dict[str, Any]:
    algorithm = {"type": "confidence", "stages": list(stages), **settings}
    agreed = {} if contract is None else {"contract": contract}
    only = {"name": "climb", "algorithm": algorithm, "budget": {"deadline": "10s"}, **agreed}
    return {"decisions": [only]}


RECIPES = {
    "raw": decision(confidence_method="avg_logprob", threshold=0.8),
    "early": decision(confidence_method="avg_logprob", threshold=0.8, escalate_early=True),
    "overlap": decision(confidence_method="avg_logprob", threshold=0.8, overlap_after="100ms"),
    "verified": decision(confidence_method="verifier", verifier_model="judge", threshold=0.7),
    "vote": decision(CHOICE, stages=(["small", "other"], "large")),
    "banded": {
        "signals": {"proof": {"type": "keyword", "any": ["prove"]}},
        "projections": {
            "difficulty": {
                "type": "score",
                "weights": {"proof": 1},
                "bands": [{"easy": 0.5}, {"hard": 1}],
            }
        },
        **decision(
            confidence_method="avg_logprob",
            threshold=0.8,
            start_stage_by={"difficulty.hard": "large"},
        ),
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def chains() -> AsyncIterator[Stack]:
    change = {
        "models": [{"name": name, "rating": rating, "url": ""} for name, rating in MODELS.items()],
        "recipes": RECIPES,
        "entrypoints": {name: name for name in RECIPES},
        "debug": True,
    }
    async with run_stack(
        Simulator([SimulatedModel(name=name) for name in MODELS]), change
    ) as stack:
        yield stack


@pytest.fixture
def chain(chains: Stack) -> Stack:
    chains.simulator.reset()
    return chains


def sure(text: str, score: float) -> dict[str, Any]:
    """An answer whose mean log-probability makes this score."""
    token = {"token": text, "logprob": 3 * (score - 1), "top_logprobs": []}
    return {"content": text, "logprobs": {"content": [token]}}


def body(model: str, text: str, **members: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **members}


async def ask(
    stack: Stack, model: str, text: str = "Which?", **members: Any
) -> tuple[int, Any, Any]:
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body(model, text, **members)
    ) as response:
        return response.status, response.headers, await response.json()


async def stream(stack: Stack, model: str, **members: Any) -> tuple[list[Any], float | None, float]:
    """The chunks, when the first word came, and when the last one did."""
    first, reader, chunks = None, EventReader(), []
    async with stack.session.post(
        f"{stack.base_url}/chat/completions",
        json=body(model, "Which?", stream=True, **members),
        headers={"looper-debug": "1"},
    ) as response:
        assert response.status == 200, await response.text()
        async for data in response.content.iter_any():
            for event in reader.feed(data):
                if event.data != DONE:
                    chunks.append(json.loads(event.data))
                    if first is None and content(chunks):
                        first = time.monotonic()
    return chunks, first, time.monotonic()


def content(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def text(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_only_what_is_not_sure_is_escalated(chain: Stack) -> None:
    """A sure answer of the small model ends it; an unsure one is asked of the large model."""
    chain.simulator.script("small", sure("easy", 0.9))
    _, headers, answer = await ask(chain, "raw")
    assert text(answer) == "easy"
    assert headers["x-looper-algorithm"] == "confidence"
    assert headers["x-looper-outcome"] == "ok"
    assert chain.simulator.count() == 1

    chain.simulator.script("small", sure("hm", 0.3))
    chain.simulator.script("large", sure("hard", 0.9))
    _, headers, answer = await ask(chain, "raw")
    assert text(answer) == "hard"
    assert headers["x-looper-outcome"] == "ok"
    assert answer["choices"][0]["logprobs"] is None


async def test_when_nobody_is_sure_the_best_is_published(chain: Stack) -> None:
    """The surest answer, not the last one, and the outcome is degraded."""
    chain.simulator.script("small", sure("better", 0.7))
    chain.simulator.script("large", sure("worse", 0.2))
    status, headers, answer = await ask(chain, "raw")
    assert (status, text(answer)) == (200, "better")
    assert headers["x-looper-outcome"] == "degraded"


async def test_a_last_stage_that_is_down_is_not_an_error(chain: Stack) -> None:
    """What was said before is published, also to a client that reads along."""
    chain.simulator.fault("large", Status(status=500))
    chain.simulator.script("small", sure("hm", 0.3), sure("hm", 0.3))
    status, headers, answer = await ask(chain, "raw")
    assert (status, text(answer), headers["x-looper-outcome"]) == (200, "hm", "degraded")
    chunks, _, _ = await stream(chain, "raw")
    assert content(chunks) == "hm"


async def test_the_last_stage_is_streamed_live(chain: Stack) -> None:
    """Its words reach the client while its backend still speaks."""
    large = chain.simulator.models["large"]
    chain.simulator.put(large.model_copy(update={"token_latency": 0.03}))
    chain.simulator.script("small", sure("hm", 0.3))
    chain.simulator.script("large", "one two three four five six seven eight nine ten")

    chunks, first, last = await stream(chain, "raw")

    call = chain.simulator.calls[-1]
    assert content(chunks).startswith("one two three")
    assert first is not None
    assert call.finished_at is not None
    assert first < call.finished_at <= last + 0.01
    assert all(choice["logprobs"] is None for chunk in chunks for choice in chunk["choices"])


@pytest.mark.parametrize("score", [0.9, 0.3])
async def test_streamed_and_whole_say_the_same(chain: Stack, score: float) -> None:
    """An accepted answer and an escalated one read the same either way."""
    for _ in range(2):
        chain.simulator.script("small", sure("é→😀 first", score))
        chain.simulator.script("large", sure("é→😀 second", 0.95))
    _, _, answer = await ask(chain, "raw")
    if score > 0.8:
        chain.simulator.reset()
        chain.simulator.script("small", sure("é→😀 first", score))
    chunks, _, _ = await stream(chain, "raw")
    assert content(chunks) == text(answer)


async def test_a_hopeless_answer_is_broken_off(chain: Stack) -> None:
    """The small model's socket is closed in the middle of its answer, and most of its tokens are saved."""
    small = chain.simulator.models["small"]
    chain.simulator.put(small.model_copy(update={"token_latency": 0.05}))
    words = [f" word{at}" for at in range(300)]
    tokens = [{"token": word, "logprob": -2.5, "top_logprobs": []} for word in words]
    chain.simulator.script("small", {"content": "".join(words), "logprobs": {"content": tokens}})
    chain.simulator.script("large", sure("yes", 0.9))
    began = time.monotonic()

    chunks, _, _ = await stream(chain, "early")

    assert content(chunks) == "yes"
    assert time.monotonic() - began < 10  # all of it would be 15
    facts = next(chunk["looper"] for chunk in chunks if "looper" in chunk)
    given_up = facts["trace"]["calls"][0]
    assert given_up["verdict"] == "given up"
    assert 16 <= given_up["usage"]["completion_tokens"] < 100
    small_call = chain.simulator.calls[0]
    assert small_call.outcome == "disconnected"
    assert small_call.usage is None


async def test_a_slow_stage_is_overlapped_and_the_loser_cancelled(chain: Stack) -> None:
    """The large model begins while the small one hangs; when it is sure, the small one's socket is closed."""
    chain.simulator.fault("small", Hang())
    chain.simulator.script("large", sure("yes", 0.9))
    began = time.monotonic()

    _, _, answer = await ask(chain, "overlap")
    took = time.monotonic() - began
    await chain.simulator.wait_for(lambda: chain.simulator.running() == 0)

    assert text(answer) == "yes"
    assert took < 10
    assert {call.model: call.outcome for call in chain.simulator.calls} == {
        "small": "disconnected",
        "large": "finished",
    }


async def test_a_verifier_decides(chain: Stack) -> None:
    """A verdict out of range is asked for once more; a low one escalates."""
    chain.simulator.script("small", "first")
    chain.simulator.script(
        "judge", '{"confidence": 95}', '{"confidence": 0.2}', '{"confidence": 0.8}'
    )
    chain.simulator.script("large", "second")

    _, headers, answer = await ask(chain, "verified")

    assert (text(answer), headers["x-looper-outcome"]) == ("second", "ok")
    assert [call.model for call in chain.simulator.calls] == [
        "small", "judge", "judge", "large", "judge",
    ]  # fmt: skip


async def test_a_verdict_is_read_as_models_write_it(chain: Stack) -> None:
    """With LaTeX in its JSON, or where a server keeps thoughts; who had no room for one gets more of it."""
    chain.simulator.script("small", "first", "first", "first")
    written = {"content": None, "reasoning_content": 'So: {"confidence": 0.9}'}
    chain.simulator.script(
        "judge",
        r'For x in {1, 2}: {"confidence": 0.9, "reason": "\(x\) is `one`"}',
        written,
        {"content": "", "finish_reason": "length"},
        '{"confidence": 0.9}',
    )
    for _ in range(3):
        _, headers, answer = await ask(chain, "verified")
        assert (text(answer), headers["x-looper-outcome"]) == ("first", "ok")
    limits = [call.parsed["max_tokens"] for call in chain.simulator.calls if call.model == "judge"]
    assert len(limits) == 4
    assert limits[3] == 2 * limits[2] == 2 * limits[0]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_what_was_rejected_is_not_published_for_want_of_a_grade(
    chain: Stack, streamed: bool
) -> None:
    """The last answer, which nobody could grade, is the client's, however it asks."""
    chain.simulator.script("small", "first")
    chain.simulator.script("judge", '{"confidence": 0.2}', "hm", "hm")
    chain.simulator.script("large", "second")
    if streamed:
        chunks, _, _ = await stream(chain, "verified")
        assert content(chunks) == "second"
    else:
        _, headers, answer = await ask(chain, "verified")
        assert (text(answer), headers["x-looper-outcome"]) == ("second", "degraded")


async def test_votes_are_pooled(chain: Stack) -> None:
    """Two that contradict each other are settled by the third, and what they said counts."""
    chain.simulator.script("small", "ANSWER: A")
    chain.simulator.script("other", "ANSWER: B")
    chain.simulator.script("large", "I think\nANSWER: A")
    _, _, answer = await ask(chain, "vote")
    assert text(answer) == "I think\nANSWER: A"
    assert chain.simulator.count() == 3

    chain.simulator.script("small", "ANSWER: C")
    chain.simulator.script("other", "ANSWER: C")
    _, _, answer = await ask(chain, "vote")
    assert text(answer) == "ANSWER: C"
    assert chain.simulator.count("large") == 1


async def test_a_band_chooses_where_to_begin(chain: Stack) -> None:
    """What a projection calls hard goes to the strong stage at once, though no rule names the projection."""
    chain.simulator.script("large", "proof")
    await ask(chain, "banded", "Please prove it.")
    assert [call.model for call in chain.simulator.calls] == ["large"]

    chain.simulator.script("small", sure("easy", 0.9))
    await ask(chain, "banded", "Please say it.")
    assert [call.model for call in chain.simulator.calls] == ["large", "small"]


async def test_a_client_that_leaves_ends_every_call(chain: Stack) -> None:
    """When the client goes, the stage that is at work is cancelled, and the next one never begins."""
    chain.simulator.fault("small", Hang())
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(ask(chain, "raw"))
        await chain.simulator.wait_for(lambda: chain.simulator.running() == 1)
        asking.cancel()
    await chain.simulator.wait_for(lambda: chain.simulator.running() == 0)
    assert [call.outcome for call in chain.simulator.calls] == ["disconnected"]
    assert chain.simulator.count("large") == 0


async def test_scores_and_verdicts_are_in_the_trace(chain: Stack) -> None:
    """A client that may ask what its run did reads each candidate's score, and what followed from it."""
    chain.simulator.script("small", sure("hm", 0.3))
    chain.simulator.script("large", sure("yes", 0.9))

    chunks, _, _ = await stream(chain, "raw")

    facts = next(chunk["looper"] for chunk in chunks if "looper" in chunk)
    calls = [
        (call["model"], call.get("score"), call.get("verdict")) for call in facts["trace"]["calls"]
    ]
    assert calls == [("small", 0.3, "below 0.8"), ("large", 0.9, "accepted at 0.8")]
