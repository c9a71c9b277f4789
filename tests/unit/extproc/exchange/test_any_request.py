"""Whatever a client sends: what a decision makes of it is a request, or an error of the client's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.decisions.destination import destination
from extproc.decisions.recipe import Decision
from extproc.exchange.routing import rewrite
from looper.errors import InvalidRequest
from looper.functions import goes_on, with_tools
from looper.wire.chat import ChatRequest
from looper.wire.dialects import DIALECTS
from tests.fakes.models import model

PARAMETERS = {
    "max_tokens": {"default": 10, "cap": 100},
    "temperature": {"default": 0.5, "cap": 1},
    "reasoning_effort": {"default": "low", "cap": "medium"},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])}, optional={"text": JSON}
)
CALLS = st.fixed_dictionaries({"id": JSON, "type": st.just("function"), "function": JSON})
NAMED = st.fixed_dictionaries({"name": st.sampled_from("fg") | JSON})
CALLED = st.fixed_dictionaries(
    {"name": st.just("f"), "arguments": st.text(" \t{}", max_size=200) | JSON}
)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(ROLES) | JSON},
    optional={
        "content": JSON | st.lists(PART, max_size=2),
        "tool_calls": st.lists(CALLS, max_size=2) | JSON,
        "tool_call_id": JSON,
        "name": st.just("f") | JSON,
        "function_call": CALLED | JSON,
    },
)
MEMBERS = (
    *("max_tokens", "max_completion_tokens", "temperature", "reasoning_effort", "tools"),
    *("chat_template_kwargs", "thinking", "response_format", "stream", "seed", "vendor"),
)
BODY = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(MESSAGE, min_size=1, max_size=4)},
    optional={
        **dict.fromkeys(MEMBERS, JSON),
        "functions": st.lists(NAMED, max_size=3) | JSON,
        "function_call": st.sampled_from(["none", "auto"]) | NAMED | JSON,
    },
)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@given(mode=st.sampled_from(["insert", "append", "replace"]), body=BODY)
def test_is_written_for_a_model_or_refused(mode: str, dialect: str, body: dict[str, Any]) -> None:
    """There is no third way; and what nobody named is as it was."""
    settings = {**PARAMETERS, "system_prompt": {"text": "Ours.", "mode": mode}}
    decision = Decision.model_validate(
        {"name": "d", "algorithm": {"type": "single", "model": "m"}, "parameters": settings}
    )
    models = {"m": model("m", dialect=dialect, capabilities=["tools", "vision", "json_schema"])}
    try:
        request = decision.parameters.applied(ChatRequest.parse(json.dumps(body).encode()))
        found = destination(decision, request, models)
        assert found is not None
        made = rewrite(request, found, decision, {"run": "r"}, {}, trailers=False)
    except InvalidRequest:
        return

    sent = json.loads(made.body)
    limits = [sent[name] for name in ("max_tokens", "max_completion_tokens") if sent.get(name)]
    assert limits
    assert max(limits) <= 100
    assert "Ours." in str(sent["messages"])
    assert sent.get("vendor") == body.get("vendor")


@given(body=BODY)
def test_is_put_in_the_api_of_tools_or_refused(body: dict[str, Any]) -> None:
    """A team sees nothing of functions, and as much of everything else as before."""
    try:
        request = ChatRequest.parse(json.dumps(body).encode())
        goes_on(request)
        asked = with_tools(request)
    except InvalidRequest:
        return

    made = json.loads(asked.body)
    assert with_tools(asked) is asked
    assert not {"functions", "function_call"} & set(made)
    assert not any(message["role"] == "function" for message in made["messages"])
    said = [each for each in body["messages"] if each["role"] not in ("function", "assistant")]
    kept = [each for each in made["messages"] if each["role"] not in ("tool", "assistant")]
    assert kept == [each for each in said if each["role"] != "tool"]
    assert len(made["messages"]) >= len(body["messages"])
    assert made.get("vendor") == body.get("vendor")
