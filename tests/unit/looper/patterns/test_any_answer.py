"""Whatever backends answer, a chain and a vote come to an answer or to an error that a client can read."""

import asyncio
import json
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from looper.algorithms import AlgorithmConfig
from looper.calling.budget import Budget, Ledger
from looper.contract import ContractConfig, Terms
from looper.errors import LooperError
from looper.run import Deadline, Run
from looper.wire.answer import Whole
from looper.wire.chat import ChatRequest
from looper.wire.events import Done
from looper.wire.reading.answers import AnswerReader
from tests.fakes.models import ScriptedClient, Step, model, refused

MODELS = {
    name: model(name, rating=rating)
    for name, rating in (("a", 0.7), ("b", 0.72), ("large", 0.8), ("judge", 0.9))
}
TEXTS = (
    "",
    "A",
    "ANSWER: B",
    "A or B",
    '{"a": 1}',
    "```python\nx\n```",
    "<think>hm</think>A",
    "é😀 ",
    "<think>A",
)
VERDICTS = (
    '{"confidence": 0.9}',
    '{"confidence": 9}',
    '{"scores": [1, 2, 3]}',
    '{"scores": [1]}',
    "hm",
)
functions = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["f", None]),
        "arguments": st.sampled_from(["", "{}", "{", None, 3, {"x": 1}]),
    },
)
calls = st.fixed_dictionaries(
    {},
    optional={
        "id": st.just("c"),
        "function": functions | st.none(),
        "custom": st.just({"input": "x"}),
    },
)
logprobs = st.sampled_from([-1e308, -2.0, -0.1, 1e308])
alternatives = st.fixed_dictionaries(
    {"token": st.sampled_from(["A", "\ufffd"]), "logprob": logprobs}
)
tokens = st.fixed_dictionaries(
    {"token": st.sampled_from(["A", "\ufffd"]), "logprob": logprobs},
    optional={"bytes": st.just([240]), "top_logprobs": st.lists(alternatives, max_size=3)},
)
choices = st.fixed_dictionaries({
    "message": st.fixed_dictionaries(
        {"content": st.sampled_from([*TEXTS, *VERDICTS, None])},
        optional={
            "reasoning_content": st.sampled_from(["hm", None]), "refusal": st.sampled_from(["no", None]),
            "tool_calls": st.lists(calls, max_size=2),
        },
    ),
    "finish_reason": st.sampled_from([None, "stop", "length", "content_filter", "tool_calls"]),
    "logprobs": st.none() | st.just([1]) | st.fixed_dictionaries({"content": st.lists(tokens, max_size=20)}),
})  # fmt: skip


def read(choice: dict[str, Any]) -> Step:
    """What the egress client makes of an answer."""
    return AnswerReader().whole(json.dumps({"choices": [choice]}).encode())


steps = st.builds(read, choices) | st.just(refused(500))
CHAIN = {"type": "confidence", "stages": [["a", "b"], "large"], "threshold": 0.8}
TEAM = {"type": "ratings", "models": ["a", "b"]}
ALGORITHMS = [
    *(
        {**CHAIN, "confidence_method": method}
        for method in ("auto", "hybrid", "answer_span", "self_verify")
    ),
    {**CHAIN, "confidence_method": "verifier", "verifier_model": "judge"},
    {**CHAIN, "confidence_method": "agreement", "samples": 2},
    *({**TEAM, "aggregate": aggregate} for aggregate in ("similarity", "all")),
    {**TEAM, "aggregate": "judge", "judge_model": "judge"},
    {**TEAM, "escalate_to": ["large"], "samples": 2},
]
CONTRACTS: list[dict[str, Any] | None] = [
    None, {"type": "choice", "values": ["A", "B"]}, {"type": "number"}, {"type": "json"},
    {"type": "code", "language": "python"}, {"type": "text", "max_chars": 5},
]  # fmt: skip


async def answered(
    algorithm: Mapping[str, Any], contract: Mapping[str, Any] | None, script: Mapping[str, Step]
) -> tuple[Run, Done, dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": "A or B?"}]}
    request = ChatRequest.parse(json.dumps(body).encode())
    adapter: Any = TypeAdapter(ContractConfig)
    built = None if contract is None else adapter.validate_python(contract).build()
    run = Run(
        "r", MODELS, ScriptedClient(script), Ledger(Budget()), Deadline.after(100), Random(1), terms=Terms(built)
    )  # fmt: skip
    config: Any = TypeAdapter(AlgorithmConfig).validate_python(algorithm)
    whole, done = Whole(request), None
    async for event in config.build().run(request, run):
        whole.add(event)
        done = event
    assert isinstance(done, Done)
    return run, done, json.loads(whole.to_json())


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda contract: contract and contract["type"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    algorithm=st.sampled_from(ALGORITHMS),
    script=st.fixed_dictionaries(dict.fromkeys(MODELS, steps)),
)
def test_there_is_an_answer_or_an_error(
    contract: dict[str, Any] | None, algorithm: dict[str, Any], script: dict[str, Step]
) -> None:
    """Something is said in every choice, and how sure one may be of it is a probability or unknown."""
    try:
        run, done, answer = asyncio.run(answered(algorithm, contract, script))
    except LooperError:
        return
    for choice in answer["choices"]:
        said = choice["message"]
        assert said.get("content") or said.get("tool_calls") or said.get("refusal")
    scores = [done.confidence, *(call.score for call in run.trace.calls)]
    assert all(score is None or 0 <= score <= 1 for score in scores)
    assert json.dumps(run.trace.to_dict(), allow_nan=False)
