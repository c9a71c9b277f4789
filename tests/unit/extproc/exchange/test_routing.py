"""How a request is written that Envoy routes."""

import json
from typing import Any

import pytest

from extproc.exchange.routing import written_for
from looper.wire.chat import ChatRequest, Request
from tests.fakes.models import model

BODY: dict[str, Any] = {"model": "looper/auto", "messages": [{"role": "user", "content": "hi"}]}


TEMPLATE = {"effort": "enable_thinking", "open": True, "max_tokens": "max_tokens"}
OWN = {"chat_template_kwargs": {"x": 1}}
NULL = {"max_completion_tokens": None}


def request(**members: Any) -> ChatRequest:
    return ChatRequest.parse(json.dumps({**BODY, **members}).encode())


def sent(dialect: str | dict[str, Any] | None, **members: Any) -> dict[str, Any]:
    settings = {} if dialect is None else {"dialect": dialect}
    body: dict[str, Any] = json.loads(written_for(model("m", **settings), request(**members), {}))
    assert body.pop("model") == "m"
    assert body.pop("messages") == members.get("messages", BODY["messages"])
    return body


class TestDialects:
    @pytest.mark.parametrize(
        ("dialect", "said", "expected"),
        [
            ("openai", {"max_tokens": 5}, {"max_completion_tokens": 5}),
            ("openai", {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
            ("vllm", {"max_completion_tokens": 5}, {"max_tokens": 5}),
            ("vllm", {"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
            ("vllm", {"max_completion_tokens": None, "max_tokens": 9}, NULL | {"max_tokens": 9}),
            ("vllm", NULL, NULL),
            ("openai", {}, {}),
            (None, {"max_completion_tokens": 5}, {"max_completion_tokens": 5}),
            (None, {"max_tokens": 5}, {"max_tokens": 5}),
        ],
    )  # fmt: skip
    def test_the_token_limit_has_one_name(
        self, dialect: str | None, said: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """A declared dialect says which of the two names holds; without one, the client's word does."""
        assert sent(dialect, **said) == expected

    @pytest.mark.parametrize(
        ("dialect", "said", "expected"),
        [
            ("openai", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
            ("vllm", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
            (TEMPLATE, {"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
            (TEMPLATE, {"reasoning_effort": "high"}, {"chat_template_kwargs": {"enable_thinking": True}}),
            (TEMPLATE, {"reasoning_effort": None}, {}),
            ("mistral", {"seed": 5}, {"random_seed": 5}),
            ("mistral", {"seed": 5, "random_seed": 6}, {"seed": 5, "random_seed": 6}),
            (TEMPLATE, {"reasoning_effort": "low", **OWN}, OWN),
            ("anthropic-compat", {"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            ("anthropic-compat", {"reasoning_effort": "odd"}, {"reasoning_effort": "odd"}),
            ("mistral", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
            (None, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ],
    )  # fmt: skip
    def test_effort_is_said_in_the_models_way(
        self, dialect: str | None, said: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        """What a model cannot be told is left to it to refuse: nothing of a client's is lost without a word."""
        assert sent(dialect, **said) == expected

    def test_several_members_may_change_at_once(self) -> None:
        """Limit and effort go, under other names they come, and all else stays where it was."""
        said = {"max_completion_tokens": 5, "x": 1, "reasoning_effort": "high", "y": 2}
        assert sent(TEMPLATE, **said) == {
            "x": 1, "y": 2, "max_tokens": 5, "chat_template_kwargs": {"enable_thinking": True},
        }  # fmt: skip

    @pytest.mark.parametrize("dialect", [None, "openai", "vllm", "mistral"])
    def test_without_a_need_nothing_but_the_name_changes(self, dialect: str | None) -> None:
        """Every other byte is the client's own."""
        data = b'{ "a" :1.10, "model":"looper/auto","messages":[ {"role":"user","content":"\\u00e9"} ], "top_p":7}'
        settings = {} if dialect is None else {"dialect": dialect}
        body = written_for(model("m", **settings), ChatRequest.parse(data), {})
        assert body == data.replace(b"looper/auto", b"m")

    def test_other_kinds_of_request_keep_their_members(self) -> None:
        """A dialect is one of chat completions."""
        data = b'{"model": "looper/auto", "input": "x", "max_completion_tokens": 1}'
        body = written_for(model("m", dialect="vllm"), Request.parse(data), {})
        assert body == data.replace(b"looper/auto", b"m")
