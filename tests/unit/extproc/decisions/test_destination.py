"""The one model that a request is routed to."""

import json
from typing import Any

import pytest

from extproc.decisions.destination import destination, takes
from extproc.decisions.recipe import Decision
from looper.calling.models import Model
from looper.errors import LooperError
from looper.wire.chat import ChatRequest
from tests.fakes.models import model

BODY: dict[str, Any] = {"model": "looper/auto", "messages": [{"role": "user", "content": "hi"}]}


def request(**members: Any) -> ChatRequest:
    return ChatRequest.parse(json.dumps({**BODY, **members}).encode())


def decision(**algorithm: Any) -> Decision:
    return Decision.model_validate({"name": "d", "algorithm": {"type": "single", **algorithm}})


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
        shares = decision(models=[{"model": name} for name in ABLE])
        for number in range(20):
            messages = [{"role": "user", "content": f"{number}"}]
            asked = request(tools=[TOOL], messages=messages)
            found = destination(shares, asked, models)
            assert found is not None
            assert found.name == "able"

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
            destination(decision(model="m"), asked, {"m": model("m", **settings)})
        assert (caught.value.status, caught.value.code) == (400, code)


ABLE = {"blind": ["vision"], "able": ["tools"], "neither": []}


class TestIsNobody:
    @pytest.mark.parametrize(
        "action",
        [
            {"algorithm": {"type": "single", "model": "m", "fallbacks": ["n"]}},
            {"algorithm": {"type": "single", "model": "m"}, "contract": {"type": "code"}},
            {"algorithm": {"type": "fusion", "analysis_models": ["m"], "judge_model": "n"}},
            {"respond": {"message": "x"}},
        ],
        ids=["fallbacks", "contract", "team", "respond"],
    )
    def test_where_envoy_alone_is_not_enough(self, action: dict[str, Any]) -> None:
        """What somebody has to watch over is not routed."""
        models: dict[str, Model] = {"m": model("m"), "n": model("n")}
        made = Decision.model_validate({"name": "d", **action})
        assert destination(made, request(tools=[TOOL]), models) is None
