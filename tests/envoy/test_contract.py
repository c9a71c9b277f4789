"""Answers that have to have a form, through a real Envoy."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import SimulatedModel, Simulator
from looper.wire.sse import DONE, EventReader
from tests.envoy.requests import chat
from tests.envoy.test_runs import runs_of
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])

CHOICE = {"type": "choice", "values": ["A", "B"], "render": "ANSWER: {choice}"}
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WANTED = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}


def recipe(algorithm: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"decisions": [{"name": "only", "algorithm": algorithm, **members}]}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def strict() -> AsyncIterator[Stack]:
    one = {"type": "single", "model": "s"}
    team = {
        "type": "fusion",
        "analysis_models": ["p", "s"],
        "judge_model": "j",
        "final_model": "f",
    }
    names = ("s", "p", "j", "f")
    change = {
        "models": [{"name": name, "url": ""} for name in names],
        "recipes": {
            "one": recipe(one, contract=CHOICE, on_violation="fail"),
            "team": recipe(team, contract=CHOICE, contract_prompt="End with ANSWER: A or B."),
            "free": recipe(team),
            "firm": recipe(one, contract=CHOICE, on_violation="fail", contract_wins="decision"),
        },
        "entrypoints": {"one": "one", "team": "team", "free": "free", "firm": "firm"},
    }
    models = [SimulatedModel(name=name, latency=0, token_latency=0) for name in names]
    async with run_stack(Simulator(models), change) as stack:
        yield stack


async def ask(
    stack: Stack, model: str, *, streamed: bool, **members: Any
) -> tuple[int, str, dict[str, Any]]:
    """Status, text, and the error or the last facts of an answer."""
    body = {**chat("A or B?", **members), "model": model, "stream": streamed}
    async with stack.session.post(f"{stack.base_url}/chat/completions", json=body) as response:
        raw = await response.read()
        if not response.headers["content-type"].startswith("text/event-stream"):
            whole = json.loads(raw)
            if "error" in whole:
                return response.status, "", whole["error"]
            return (
                response.status,
                whole["choices"][0]["message"]["content"],
                dict(response.headers),
            )
        chunks = [json.loads(each.data) for each in EventReader().feed(raw) if each.data != DONE]
    deltas = [choice["delta"] for each in chunks for choice in each.get("choices", ())]
    return response.status, "".join(delta.get("content") or "" for delta in deltas), chunks[-1]


@both_ways
async def test_one_model_is_held_to_a_contract(strict: Stack, streamed: bool) -> None:
    """Its answer is mended by machinery where that is enough, else by itself in one more call."""
    strict.simulator.reset()
    strict.simulator.script("s", "It must be **B**.", "I do not know.", "ANSWER: A")

    status, text, _ = await ask(strict, "one", streamed=streamed)
    assert (status, text.splitlines()[-1]) == (200, "ANSWER: B")
    status, text, _ = await ask(strict, "one", streamed=streamed)
    assert (status, text) == (200, "ANSWER: A")
    assert strict.simulator.count() == 3
    roles = [call.headers.get("x-looper-role") for call in strict.simulator.calls]
    assert roles == [None] * 3  # which are Envoy's business, and nobody else's


@both_ways
async def test_an_answer_without_its_form_may_be_an_error(strict: Stack, streamed: bool) -> None:
    """`on_violation: fail` gives 502 `contract_violated` before anything was said, streamed or not."""
    strict.simulator.reset()
    strict.simulator.script("s", "I do not know.", "I still do not know.")

    status, text, error = await ask(strict, "one", streamed=streamed)

    assert (status, text, error["code"]) == (502, "", "contract_violated")
    assert "know" not in error["message"]
    attempts = error["looper"]["attempts"]
    assert [(each["result"], each.get("contract")) for each in attempts] == [("ok", "broken")] * 2


@both_ways
async def test_a_team_publishes_what_keeps_the_contract(strict: Stack, streamed: bool) -> None:
    """A synthesis that breaks the form, and is not mended by its model, gives way to an answer that has it."""
    strict.simulator.reset()
    strict.simulator.script("p", "Surely A.")
    strict.simulator.script("s", "No idea.")
    strict.simulator.script("f", "There is much to say.", "And more.")

    status, text, _ = await ask(strict, "team", streamed=streamed)

    assert (status, text.splitlines()[-1]) == (200, "ANSWER: A")
    told = ["End with ANSWER: A or B." in call.body.decode() for call in strict.simulator.calls]
    asked = [call.model for call in strict.simulator.calls]
    assert {model for model, each in zip(asked, told, strict=True) if not each} == {"j"}


@both_ways
async def test_a_clients_schema_is_a_contract(strict: Stack, streamed: bool) -> None:
    """A team's answer to a request with `json_schema` is that JSON, and nothing around it."""
    strict.simulator.reset()
    strict.simulator.script("p", '{"city": "Toronto"}')
    strict.simulator.script("s", '{"city": "Ottawa"}')
    strict.simulator.script("f", 'Here you are:\n```json\n{"city": "Ottawa"}\n```')

    status, text, _ = await ask(strict, "free", streamed=streamed, response_format=WANTED)

    assert status == 200
    assert json.loads(text) == {"city": "Ottawa"}


OLD = "http://json-schema.org/draft-04/schema#"
TUPLE = {"items": [{"type": "string"}, {"$ref": "#/definitions/n"}], "additionalItems": False}
OLDER = [
    pytest.param({"minimum": 0, "exclusiveMinimum": True}, "0", "1", None, id="draft-4"),
    pytest.param({**TUPLE, "definitions": {"n": {"type": "null"}}}, '["a", 1]', '["a",null]', None, id="tuple"),
    pytest.param({"$schema": OLD, "dependencies": {"a": ["b"]}}, '{"a": 1}', '{"a":1,"b":2}', None, id="dependencies"),
    pytest.param({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, '{"b": 1}', '{"a":1}', None,
                 id="unevaluated"),
    pytest.param({"$ref": "http://127.0.0.1:9/x", "type": "array"}, "1", "[1]", "$ref", id="remote"),
    pytest.param({"title": "x" * 200_000}, "no JSON", '{"any":1}',
                 "a schema larger than 128 KiB", id="too-large"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "broken", "kept", "unchecked"), OLDER)
async def test_schemas_are_checked_as_they_are_meant(
    strict: Stack, schema: Any, broken: str, kept: str, unchecked: str | None
) -> None:
    """An answer that breaks one is asked for again; what cannot be checked refuses neither it nor the request."""
    strict.simulator.reset()
    for name in ("p", "s"):
        strict.simulator.script(name, broken)
    strict.simulator.script("f", broken, kept)
    wanted = {"type": "json_schema", "json_schema": {"name": "old", "schema": schema}}

    status, text, facts = await ask(strict, "free", streamed=False, response_format=wanted)

    assert (status, text) == (200, kept)
    async with asyncio.timeout(5):  # a run is noted a moment after its client has its answer
        while (run := (await runs_of(strict))[0])["run"] != facts["x-looper-run"]:
            await asyncio.sleep(0.02)
    named = [each for each in run.get("notes", ()) if "not checked" in each]
    assert named == ([f"of the schema this is not checked: {unchecked}"] if unchecked else [])


async def test_a_schema_that_is_none_is_the_clients_mistake(strict: Stack) -> None:
    """400 `invalid_field`, and no model is asked."""
    strict.simulator.reset()
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}

    status, _, error = await ask(strict, "free", streamed=False, response_format=wanted)

    assert (status, error["code"], error["param"]) == (400, "invalid_field", "response_format")
    assert strict.simulator.count() == 0


@both_ways
async def test_a_client_cannot_choose_a_form_where_the_decision_insists(
    strict: Stack, streamed: bool
) -> None:
    """A `response_format` that contradicts the contract is told so before any model is called; without one it holds."""
    strict.simulator.reset()
    strict.simulator.script("s", "It is B.")
    for wanted in (WANTED, {"type": "json_object"}):
        status, _, error = await ask(strict, "firm", streamed=streamed, response_format=wanted)
        assert (status, error["code"], error["param"]) == (400, "invalid_field", "response_format")
    assert strict.simulator.count() == 0

    plain = {"type": "text"}
    status, text, _ = await ask(strict, "firm", streamed=streamed, response_format=plain)
    assert (status, text) == (200, "It is B.\n\nANSWER: B")
