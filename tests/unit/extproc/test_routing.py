"""How a request is written that Envoy routes, and which model gets it."""

import json
from typing import Any

import pytest

from extproc.routing import first_that_takes, takes, written_for
from looper.chat import ChatRequest, Request
from looper.errors import LooperError
from tests.fakes.models import model

BODY: dict[str, Any] = {"model": "looper/auto", "messages": [{"role": "user", "content": "hi"}]}


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
            ("vllm", {"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}),
            ("vllm", {"reasoning_effort": "high"}, {"chat_template_kwargs": {"enable_thinking": True}}),
            ("vllm", {"reasoning_effort": None}, {}),
            ("vllm", {"reasoning_effort": "low", "chat_template_kwargs": {"x": 1}}, {"chat_template_kwargs": {"x": 1}}),
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
        assert sent("vllm", **said) == {
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


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
SEES = [{"role": "user", "content": [IMAGE]}]
TOOL = {"type": "function", "function": {"name": "f"}}


class TestWhoTakesIt:
    @pytest.mark.parametrize(
        ("settings", "members", "expected"),
        [
            pytest.param({}, {"messages": SEES, "tools": [TOOL]}, True, id="nothing-known"),
            pytest.param({"capabilities": []}, {}, True, id="nothing-needed"),
            pytest.param({"capabilities": ["tools"]}, {"tools": [TOOL]}, True, id="tools"),
            pytest.param({"capabilities": ["vision"]}, {"tools": [TOOL]}, False, id="no-tools"),
            pytest.param({"capabilities": ["tools"]}, {"messages": SEES}, False, id="no-vision"),
            pytest.param(
                {"capabilities": ["tools"]},
                {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
                False,
                id="no-schema",
            ),
            pytest.param(
                {"context_window": 1000},
                {"messages": [{"role": "user", "content": "word " * 500}]},
                True,
                id="short-enough",
            ),
            pytest.param(
                {"context_window": 1000},
                {"messages": [{"role": "user", "content": "word " * 800}]},
                False,
                id="too-long",
            ),
            pytest.param(
                {"context_window": 1000},
                {"messages": [{"role": "user", "content": "\U0001f680" * 390}]},
                False,
                id="too-many-emoji",
            ),
        ],
    )
    def test_follows_from_what_is_known_of_the_model(
        self, settings: dict[str, Any], members: dict[str, Any], expected: bool
    ) -> None:
        """A model is not asked for what it is known not to do."""
        assert takes(request(**members), model("m", **settings)) is expected

    def test_is_the_first_that_can(self) -> None:
        """The others are passed over without a call."""
        models = {name: model(name, capabilities=able) for name, able in ABLE.items()}
        asked = request(tools=[TOOL])
        assert first_that_takes(asked, ["blind", "able", "too"], models).name == "able"

    @pytest.mark.parametrize(
        ("settings", "code"),
        [
            ({"capabilities": []}, "unsupported_by_model"),
            ({"context_window": 1000}, "context_length_exceeded"),
        ],
    )
    def test_is_nobody_then_the_client_is_told_why(
        self, settings: dict[str, Any], code: str
    ) -> None:
        """Nobody who can is the client's mistake, and says which."""
        asked = request(tools=[TOOL], messages=[{"role": "user", "content": "word " * 2000}])
        with pytest.raises(LooperError) as caught:
            first_that_takes(asked, ["m"], {"m": model("m", **settings)})
        assert (caught.value.status, caught.value.code) == (400, code)


ABLE = {"blind": ["vision"], "able": ["tools"], "too": ["tools"]}
