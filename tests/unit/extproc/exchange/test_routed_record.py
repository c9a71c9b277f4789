"""The record of a request that Envoy routes to one model."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from extproc.config.trace import TraceSettings
from extproc.process.runtime import Runtime
from extproc.process.schema import RunRecord
from extproc.protocol.events import RequestHeaders, ResponseHeaders
from tests.fakes.channel import body, exchanged, opening
from tests.unit.extproc.exchange.test_exchange import chat, runtime
from tests.unit.extproc.exchange.test_exchange_response import (
    CHUNK,
    JSON,
    LAST,
    SSE,
    USAGE,
    metered,
    pieces,
)

WHOLE = f'{{"model":"qwen3-8b","choices":[],"usage":{USAGE}}}'
DOWN = ResponseHeaders({":status": "503", "content-type": "application/json"})


async def recorded(
    work: Runtime, first: RequestHeaders, request: bytes, *answer: Any
) -> dict[str, Any]:
    """The only record, which has to be what the schema says."""
    await exchanged(work, first, [*body(request), *answer])
    (record,) = work.runs
    jsonschema.validate(record, RunRecord.model_json_schema())
    return record


async def test_it_says_what_was_decided_when_and_how_long_that_took() -> None:
    """Of an answer that goes straight to the client, nothing is known."""
    headers = {"x-request-id": "abc"}
    record = await recorded(runtime(), opening(headers=headers), chat(stream=True, max_tokens=7))
    known = {name: record[name] for name in ("kind", "decision", "algorithm", "model")}
    assert known == {
        "kind": "routed", "decision": "default", "algorithm": "single", "model": "small"
    }  # fmt: skip
    assert record["request_id"] == "abc"
    assert 0 <= record["routing"] < 5
    asked = record["request"]
    assert (asked["stream"], asked["messages"], asked["max_tokens"]) == (True, 1, 7)
    assert asked["prompt_tokens"] > 0
    assert not {"seconds", "outcome", "completion_tokens", "messages", "why"} & record.keys()


@pytest.mark.parametrize(
    ("stream", "answer"),
    [(False, [JSON, *pieces(WHOLE)]), (True, [SSE, *pieces(CHUNK, LAST)])],
    ids=["whole", "streamed"],
)
async def test_of_a_metered_answer_it_knows_tokens_cost_and_time(
    stream: bool, answer: list[Any]
) -> None:
    record = await recorded(runtime(), metered(), chat(stream=stream), *answer)
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 4)
    assert record["cost_microusd"] == 11
    assert record["seconds"] >= record["routing"]
    assert ("first_token" in record) == stream
    assert "outcome" not in record


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([DOWN, *pieces("{}")], {"outcome": "failed", "status": 503}),
        ([SSE, *pieces(CHUNK, CHUNK)[:1]], {"outcome": "abandoned"}),
        ([SSE, *pieces(CHUNK, CHUNK)], {}),
    ],
    ids=["refused by its backend", "left by its client", "well"],
)
async def test_of_a_metered_answer_it_knows_how_it_ended(
    answer: list[Any], expected: dict[str, Any]
) -> None:
    record = await recorded(runtime(), metered(), chat(stream=True), *answer)
    assert {name: record[name] for name in ("outcome", "status") if name in record} == expected
    assert ("first_token" in record) == ("status" not in expected)


async def test_only_a_full_record_holds_what_was_said_and_why() -> None:
    work = runtime()
    work.runs.follow(TraceSettings(record="full"))
    record = await recorded(work, opening(), chat())
    assert record["messages"][0]["role"] == "user"
    assert record["why"]["action"]["decision"] == "default"


async def test_requests_that_are_no_chats_leave_one_too() -> None:
    work = runtime()
    request = b'{"model": "looper/plain", "input": "x"}'
    record = await recorded(work, opening("/v1/embeddings"), request)
    assert record["model"] == "other"
    assert "messages" not in record["request"]


async def test_what_is_routed_nowhere_leaves_none() -> None:
    work = runtime()
    await exchanged(work, opening(), body(b'{"model": "nobody", "messages": [{"role": "user"}]}'))
    await exchanged(work, opening("/elsewhere"), body(b"{}"))
    assert list(work.runs) == []
