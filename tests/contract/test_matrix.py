"""Every loop, through a real Envoy, with each of its stages misbehaving in every way that a backend can."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate import faults as faults
from looper.simulate.server import AnyFault, SimulatedModel, Simulator
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

DEADLINE = 0.6
ROOM = 5.0
"""Seconds of a real clock, on a machine that may be busy: what does not end in time does not end for minutes."""
QUESTION = "What is the capital of Canada?"
SECRETS = (QUESTION, "Ottawa", "simulated_failure", "This failure is simulated.")

STAGES = {
    "panel": ("fusion", "p1"),
    "judge": ("fusion", "j"),
    "final": ("fusion", "f"),
    "proposer": ("remom", "p1"),
    "synthesis": ("remom", "f"),
    "single": ("single", "s"),
    "fallback": ("single", "t"),
    "planner": ("planned", "w-planner"),
    "worker": ("workflows", "w1"),
    "verifier": ("workflows", "w-verifier"),
    "written": ("workflows", "w-final"),
    "member": ("ratings", "r1"),
    "rater": ("judged", "r-judge"),
    "gate": ("confidence", "c1"),
    "last": ("confidence", "c2"),
    "grader": ("graded", "c-judge"),
}
"""Stage: the decision that runs it, and the model that nothing but this stage calls."""

WHOLE = (
    "panel",
    "proposer",
    "judge",
    "planner",
    "worker",
    "verifier",
    "member",
    "rater",
    "gate",
    "grader",
)
"""Stages whose answers are never streamed to the client."""

MODELS = (
    "p1", "p2", "j", "f", "s", "t", "w1", "w2", "w-planner", "w-verifier", "w-final",
    "r1", "r2", "r-judge", "c1", "c2", "c-judge",
)  # fmt: skip
ALGORITHMS: dict[str, Any] = {
    "single": {"type": "single", "model": "s", "fallbacks": ["t"]},
    "fusion": {
        "type": "fusion",
        "analysis_models": ["p1", "p2"],
        "judge_model": "j",
        "final_model": "f",
    },
    "ratings": {"type": "ratings", "models": ["r1", "r2"]},
    "confidence": {
        "type": "confidence",
        "stages": ["c1", "c2"],
        "confidence_method": "avg_logprob",
        "threshold": 1,
    },
    "graded": {
        "type": "confidence",
        "stages": ["c1", "c2"],
        "confidence_method": "verifier",
        "verifier_model": "c-judge",
        "threshold": 0.7,
    },
    "judged": {
        "type": "ratings",
        "models": ["r1", "r2"],
        "aggregate": "judge",
        "judge_model": "r-judge",
    },
    "remom": {
        "type": "remom",
        "models": ["p1", "p2"],
        "breadth_schedule": [2],
        "synthesis_model": "f",
    },
    "workflows": {
        "type": "workflows",
        "steps": [
            {"id": "draft", "models": ["w1", "w2"], "prompt": "Answer."},
            {
                "id": "check",
                "role": "verifier",
                "models": ["w-verifier"],
                "needs": ["draft"],
                "prompt": "Check.",
            },
        ],
        "final": {"model": "w-final"},
    },
    "planned": {
        "type": "workflows",
        "mode": "dynamic",
        "planner": {"model": "w-planner"},
        "models": ["w1", "w2"],
        "final": {"model": "w-final"},
    },
}
"""Public name: the algorithm behind it."""

FAULTS: tuple[AnyFault, ...] = (
    faults.Hang(),
    faults.Hang(after_chunks=0),
    faults.Hang(after_chunks=2),
    faults.Reset(),
    faults.Reset(after_chunks=2),
    *(faults.Status(status=status) for status in (400, 401, 404, 413, 422, 429, 500, 503)),
    faults.Status(status=503, retry_after=1),
    faults.Status(status=400, code="context_length_exceeded"),
    faults.Status(status=403, code="content_filter"),
    faults.Cut(),
    faults.Torn(),
    faults.Garbage(kind="bytes"),
    faults.Garbage(kind="html"),
    faults.ErrorObject(shape="nested"),
    faults.ErrorObject(shape="flat"),
    faults.OtherMode(),
    *(faults.Blank(kind=kind) for kind in ("empty", "whitespace", "null_content", "null_message", "no_choices")),
    faults.ReasoningOnly(where="reasoning_content"),
    faults.ReasoningOnly(where="content"),
    faults.Refusal(kind="refusal"),
    faults.Refusal(kind="content_filter"),
    faults.Length(),
    faults.Comments(count=100_000),
    faults.EmptyFirst(),
    *(faults.Ending(kind=kind) for kind in ("done_twice", "without_done", "chunks_after_done")),
    *(faults.UsageHabit(kind=kind) for kind in ("twice", "missing", "nulls")),
    *(faults.UsageHabit(kind=kind) for kind in ("empty", "negative", "impossible")),
    faults.EarlyFinish(),
    faults.Framing(kind="crlf"),
    faults.ReasoningOnly(finish="length"),
    faults.BrokenOff(word="error"),
    faults.ErrorObject(named=True, after_chunks=2),
    faults.Strange(),
    faults.InParts(thinking=True),
    faults.Beside(),
    *(faults.SaidTwice(kind=kind) for kind in ("at_the_end", "beside")),
    *(faults.NoChunks(kind=kind) for kind in ("between", "no_blank_line", "garbage_at_the_end")),
    faults.OtherEnd(),
)  # fmt: skip


def cases() -> Iterator[Any]:
    for stage, fault, streamed in product(STAGES, FAULTS, (False, True)):
        fields = fault.model_dump(exclude_defaults=True, exclude={"type"})
        name = "-".join([stage, fault.type, *(str(value) for value in fields.values())])
        yield pytest.param(
            stage, fault, streamed, id=f"{name}-{'streamed' if streamed else 'whole'}"
        )


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def matrix() -> AsyncIterator[Stack]:
    models = [SimulatedModel(name=name, skill=1.0) for name in MODELS]
    budget = {"deadline": f"{int(DEADLINE * 1000)}ms", "calls": 12}
    change = {
        "models": [
            {"name": model.name, "price": {"input": 1, "output": 2}, "url": ""} for model in models
        ],
        "recipes": {
            name: {"decisions": [{"name": name, "algorithm": algorithm, "budget": budget}]}
            for name, algorithm in ALGORITHMS.items()
        },
        "entrypoints": {name: name for name in ALGORITHMS},
    }
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture(scope="module")
def seen_ids() -> set[str]:
    return set()


@pytest.mark.parametrize(("stage", "fault", "streamed"), list(cases()))
async def test_whatever_a_backend_does(
    matrix: Stack, seen_ids: set[str], stage: str, fault: AnyFault, streamed: bool
) -> None:
    """A run ends in an answer or in a typed error, in time, and its usage is what the backends billed."""
    matrix.simulator.reset()
    decision, model = STAGES[stage]
    matrix.simulator.fault(model, fault)
    if stage == "fallback":  # which is only asked when the first has failed
        matrix.simulator.fault("s", faults.Status(status=500))
    body = {
        "model": decision,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": streamed,
        **({"stream_options": {"include_usage": True}} if streamed else {}),
    }
    began = time.monotonic()
    async with matrix.session.post(f"{matrix.base_url}/chat/completions", json=body) as response:
        raw = await response.read()
        took = time.monotonic() - began
    assert took < DEADLINE + ROOM

    answer = read(raw, response.headers["content-type"])
    assert answer["id"] not in seen_ids
    seen_ids.add(answer["id"])
    if "error" in answer:
        assert answer["error"]["code"] in ERRORS
        attempts = answer["error"]["looper"]["attempts"]
        assert attempts
        assert all(attempt.keys() <= {"model", "result", "status"} for attempt in attempts)
        assert response.status == (200 if answer["begun"] else ERRORS[answer["error"]["code"]])
        if not answer["begun"]:
            assert response.headers["x-should-retry"] == "false"
    else:
        assert response.status == 200
        assert answer["text"].strip() or answer["refusal"]
        guessed = answer["usage"].get("looper", {}).get("estimated_tokens", 0)
        reported = answer["usage"]["total_tokens"] - guessed
        # While Envoy waits to try again, as it was told to, the call's time passes.
        waited = isinstance(fault, faults.Status) and fault.retry_after is not None
        if guessed and (waited or isinstance(fault, faults.Hang)):
            # What the deadline cut may have been billed in the same moment, and is estimated.
            assert reported <= billed(matrix)
        else:
            assert reported == billed(matrix)
        assert not guessed or waited or isinstance(fault, UNBILLED)
    assert matrix.simulator.count() <= 12
    await matrix.simulator.wait_for(lambda: matrix.simulator.running() == 0, timeout=10)
    assert not any(secret.encode() in raw for secret in SECRETS[2:])


UNBILLED = (faults.Hang, faults.Reset, faults.Cut, faults.Torn, faults.UsageHabit)
"""What ends before its usage is told, or does not tell it: that is estimated."""

ERRORS = {
    "invalid_request": 400,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "unsupported_by_model": 400,
    "upstream_failed": 502,
    "upstream_misconfigured": 502,
    "rate_limited": 429,
    "deadline_exceeded": 504,
    "answer_too_large": 502,
}


def read(raw: bytes, content_type: str) -> dict[str, Any]:
    """An answer, however it came: its id, text, refusal and usage, or its error and whether it had begun."""
    if not content_type.startswith("text/event-stream"):
        whole = json.loads(raw)
        if "error" in whole:
            return {"id": object(), "error": whole["error"], "begun": False}
        message = whole["choices"][0]["message"]
        return {
            "id": whole["id"],
            "text": message["content"] or "",
            "refusal": message.get("refusal"),
            "usage": whole["usage"],
        }
    events = EventReader().feed(raw)
    assert events[-1].data == DONE
    assert sum(event.data == DONE for event in events) == 1
    chunks = [json.loads(event.data) for event in events[:-1]]
    if "error" in chunks[-1]:
        return {"id": chunks[0]["id"], "error": chunks[-1]["error"], "begun": True}
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    finishes = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert sum(finish is not None for finish in finishes) == 1
    assert len({chunk["id"] for chunk in chunks}) == 1
    return {
        "id": chunks[0]["id"],
        "text": "".join(delta.get("content") or "" for delta in deltas),
        "refusal": "".join(delta.get("refusal") or "" for delta in deltas),
        "usage": chunks[-1]["usage"],
    }


def billed(stack: Stack) -> int:
    usages = [call.usage for call in stack.simulator.calls if call.usage is not None]
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)


async def test_nothing_that_was_said_is_in_the_log(matrix: Stack) -> None:
    """After all that, the processor's log holds no prompt, no answer, no word of a backend, and no crash."""
    log = matrix.processor.log.read_text()
    assert not [secret for secret in SECRETS if secret in log]
    assert "exchange.crashed" not in log
