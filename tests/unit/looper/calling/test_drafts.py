import json
from typing import Any

import msgspec
import pytest

from looper.calling.drafts import Draft, answering, private
from looper.calling.models import Model
from looper.wire.chat import ChatRequest
from looper.wire.dialects import DIALECTS
from tests.fakes.models import model

NAMED = list(DIALECTS)
CLOSED = [name for name, dialect in DIALECTS.items() if not dialect.open]
each_dialect = pytest.mark.parametrize("dialect", NAMED)
SAMPLING = {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 0.1, "frequency_penalty": 0.1}
TEMPLATE = {"effort": "enable_thinking", "open": True}
LOGPROBS = {"logprobs": True, "top_logprobs": 3, "logit_bias": {"1": 2}}
OPENAI_ONLY = {
    "store": True,
    "metadata": {"a": "b"},
    "service_tier": "flex",
    "prediction": {"type": "content", "content": "x"},
    "web_search_options": {},
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "verbosity": "low",
    "user": "u",
}
VENDOR: dict[str, Any] = {"top_k": 5, "guided_choice": ["a"], "x": {"y": [1]}}


def request(text: str = "hi", **members: Any) -> ChatRequest:
    messages = [{"role": "user", "content": text}]
    return ChatRequest.parse(json.dumps({"model": "m", "messages": messages, **members}).encode())


def speaks(dialect: Any, **settings: Any) -> Model:
    return model("m", dialect=dialect, **settings)


def sent(draft: Draft, max_tokens: int | None = None) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(draft.call(max_tokens).body)
    return body


def answer(dialect: Any, **members: Any) -> Draft:
    return answering(request(**members), speaks(dialect), "panel", tools=True, logprobs=True)


class TestTokenLimit:
    @pytest.mark.parametrize(
        ("dialect", "name"),
        [
            ("openai", "max_completion_tokens"),
            ("openai-reasoning", "max_completion_tokens"),
            ("vllm", "max_tokens"),
            ("mistral", "max_tokens"),
            ("anthropic-compat", "max_tokens"),
            ("gemini-compat", "max_tokens"),
            ({}, "max_tokens"),
            ({"max_tokens": "max_completion_tokens"}, "max_completion_tokens"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize(
        "wished",
        [{}, {"max_tokens": 9}, {"max_completion_tokens": 9}, {"max_tokens": 8, "max_completion_tokens": 9}],
        ids=["unset", "old-name", "new-name", "both"],
    )  # fmt: skip
    def test_has_the_one_name_that_the_upstream_knows(
        self, dialect: Any, name: str, wished: dict[str, int]
    ) -> None:
        """Under whichever name the client limits its answer, the ledger's limit goes under one."""
        body = sent(answer(dialect, **wished), max_tokens=7)
        limits = {key: body[key] for key in ("max_tokens", "max_completion_tokens") if key in body}
        assert limits == {name: 7}

    @each_dialect
    def test_is_not_sent_where_there_is_none(self, dialect: str) -> None:
        """What nothing limits is left to the upstream."""
        body = sent(answer(dialect, max_tokens=None), max_tokens=None)
        assert not {"max_tokens", "max_completion_tokens"} & body.keys()

    @each_dialect
    def test_is_nothing_that_the_dialect_drops(self, dialect: str) -> None:
        """The client's limit is kept to, so it is not lost, whatever its name."""
        assert list(answer(dialect, max_tokens=9, max_completion_tokens=9).dropped()) == []


class TestNames:
    @pytest.mark.parametrize(
        ("dialect", "name"), [("mistral", "random_seed"), ("openai", "seed"), ("vllm", "seed")]
    )
    def test_a_seed_has_the_name_that_the_upstream_knows(self, dialect: str, name: str) -> None:
        body = sent(answer(dialect, seed=7))
        assert {each: body[each] for each in ("seed", "random_seed") if each in body} == {name: 7}

    @each_dialect
    def test_what_says_nothing_is_not_sent(self, dialect: str) -> None:
        """Many servers refuse a null where they take the member to be left out."""
        nulls = (
            "seed",
            "stop",
            "temperature",
            "logit_bias",
            "response_format",
            "user",
            "tool_choice",
        )
        body = sent(answer(dialect, **dict.fromkeys(nulls)))
        assert body.keys() == {
            "model",
            "messages",
            *({"max_tokens", "max_completion_tokens"} & body.keys()),
        }


class TestMatrix:
    @pytest.mark.parametrize(
        ("dialect", "gone"),
        [
            ("openai", set()),
            ("openai-reasoning", {*SAMPLING, *LOGPROBS, "stop"}),
            ("vllm", {"store", "metadata", "service_tier", "prediction", "web_search_options"}),
            ("sglang", {"store", "metadata", "service_tier", "prediction", "web_search_options"}),
            ("mistral", {*OPENAI_ONLY, "logit_bias", "seed"} - {"metadata", "prediction", "prompt_cache_key"}),
            (
                "anthropic-compat",
                {*OPENAI_ONLY, *LOGPROBS, "seed", "response_format", "presence_penalty", "frequency_penalty"},
            ),
            ("gemini-compat", {*OPENAI_ONLY, *LOGPROBS, "parallel_tool_calls"}),
            ({}, set()),
            ({"drop": ["seed", "stop"]}, {"seed", "stop"}),
        ],
        ids=lambda value: "" if isinstance(value, set) else str(value),
    )  # fmt: skip
    def test_what_a_dialect_refuses_is_left_out_and_named(
        self, dialect: Any, gone: set[str]
    ) -> None:
        """Of OpenAI's members each upstream gets those that it takes; the others are in the trace."""
        members: dict[str, Any] = {
            **SAMPLING,
            **LOGPROBS,
            **OPENAI_ONLY,
            "seed": 1,
            "stop": ["x"],
            "response_format": {"type": "json_object"},
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        }
        draft = answer(dialect, **members)
        body = sent(draft)
        assert members.keys() - body.keys() == gone
        renamed = {"seed"} if dialect == "mistral" else set()
        assert list(draft.dropped()) == sorted(gone - renamed)
        assert {name: body[name] for name in members.keys() - gone} == {
            name: members[name] for name in members.keys() - gone
        }

    @pytest.mark.parametrize("dialect", ["vllm", {"open": True}], ids=str)
    def test_vendors_members_pass_where_it_is_open(self, dialect: Any) -> None:
        """Who may know more than OpenAI is sent more, byte for byte."""
        draft = answer(dialect, **VENDOR)
        assert VENDOR.items() <= sent(draft).items()
        assert list(draft.dropped()) == []

    def test_a_model_without_a_dialect_is_open(self) -> None:
        """As long as nobody says otherwise nothing is lost."""
        draft = answering(request(**VENDOR), model("m"), "panel")
        assert VENDOR.items() <= sent(draft).items()

    @pytest.mark.parametrize("dialect", [*CLOSED, {}], ids=str)
    def test_vendors_members_are_dropped_where_it_is_closed(self, dialect: Any) -> None:
        """Who refuses what it does not know is not sent it, and the trace says so."""
        draft = answer(dialect, **VENDOR)
        assert not VENDOR.keys() & sent(draft).keys()
        assert list(draft.dropped()) == sorted(VENDOR)

    def test_numbers_pass_as_they_are_written(self) -> None:
        """Big integers and odd numbers are not read and written again."""
        body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"seed":123456789012345678901,"x":1.10}'
        called = answering(ChatRequest.parse(body), speaks("vllm"), "panel").call(None).body
        assert b'"seed":123456789012345678901' in called
        assert b'"x":1.10' in called

    def test_what_is_refused_is_not_sent_for_the_runtimes_own_sake_either(self) -> None:
        """Usage is asked for in streams, but not of an upstream that refuses a request for it."""
        draft = answering(request(), speaks({"drop": ["stream_options"]}), "panel", stream=True)
        assert "stream_options" not in sent(draft)
        assert sent(draft)["stream"] is True

    def test_messages_are_in_the_dialect_too(self) -> None:
        """Roles have the upstream's names."""
        messages = [{"role": "developer", "content": "a"}]
        body = sent(answer("mistral", messages=messages))
        assert body["messages"] == [{"role": "system", "content": "a"}]

    def test_the_model_has_the_upstreams_name(self) -> None:
        """And not the one that the client asked for."""
        draft = answering(request(), speaks("openai", upstream_model="gpt-x"), "panel")
        assert sent(draft)["model"] == "gpt-x"


class TestEffort:
    @pytest.mark.parametrize(
        ("dialect", "effort", "said"),
        [
            ("openai", "low", {"reasoning_effort": "low"}),
            ("openai-reasoning", "high", {"reasoning_effort": "high"}),
            ("gemini-compat", "medium", {"reasoning_effort": "medium"}),
            ("vllm", "xhigh", {"reasoning_effort": "xhigh"}),
            ("sglang", "none", {"reasoning_effort": "none"}),
            (TEMPLATE, "high", {"chat_template_kwargs": {"enable_thinking": True}}),
            (TEMPLATE, "none", {"chat_template_kwargs": {"enable_thinking": False}}),
            ("anthropic-compat", "low", {"thinking": {"type": "enabled", "budget_tokens": 1024}}),
            ("anthropic-compat", "high", {"thinking": {"type": "enabled", "budget_tokens": 16384}}),
            ("anthropic-compat", "none", {}),
            ("mistral", "high", {"reasoning_effort": "high"}),
            ({"effort": "none"}, "high", {}),
        ],
    )
    def test_is_said_in_the_way_of_the_upstream(
        self, dialect: Any, effort: str, said: dict[str, Any]
    ) -> None:
        """One wish, under four names, or none."""
        body = sent(answer(dialect, reasoning_effort=effort))
        names = ("reasoning_effort", "chat_template_kwargs", "thinking")
        assert {name: body[name] for name in names if name in body} == said

    @each_dialect
    @pytest.mark.parametrize("absent", [{}, {"reasoning_effort": None}], ids=["unset", "null"])
    def test_is_not_made_up(self, dialect: str, absent: dict[str, Any]) -> None:
        """Whoever does not say how much to think leaves it to the model."""
        body = sent(answer(dialect, **absent))
        assert body.get("reasoning_effort") is None
        assert not {"chat_template_kwargs", "thinking"} & body.keys()

    def test_the_clients_own_words_win(self) -> None:
        """A client that speaks the upstream's dialect knows better."""
        own = {"enable_thinking": False, "x": 1}
        body = sent(answer(TEMPLATE, reasoning_effort="high", chat_template_kwargs=own))
        assert body["chat_template_kwargs"] == own

    @each_dialect
    @pytest.mark.parametrize("effort", [5, ["low"], {"a": 1}, True, ""], ids=str)
    def test_of_a_strange_kind_is_no_mistake_of_ours(self, dialect: str, effort: Any) -> None:
        """What no upstream understands is refused there, or not sent."""
        assert sent(answer(dialect, reasoning_effort=effort))["model"] == "m"

    @each_dialect
    def test_that_is_no_value_to_us_is_no_mistake_of_ours(self, dialect: str) -> None:
        """A number that Python has no room for is refused upstream, or not sent."""
        body = b'{"model": "m", "messages": [{"role": "user"}], "reasoning_effort": 1e400}'
        draft = answering(ChatRequest.parse(body), speaks(dialect), "panel")
        assert b'"model":"m"' in draft.call(None).body
        assert {*draft.dropped()} <= {"reasoning_effort"}

    def test_that_cannot_be_said_is_named(self) -> None:
        """A wish that the upstream has no word for is in the trace."""
        assert list(answer({"effort": "none"}, reasoning_effort="high").dropped()) == [
            "reasoning_effort"
        ]


IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}


class TestSuitability:
    @pytest.mark.parametrize(
        ("members", "needed"),
        [
            pytest.param({"messages": IMAGE}, "vision", id="vision"),
            pytest.param({"tools": TOOLS}, "tools", id="tools"),
            pytest.param({"functions": [{"name": "f"}]}, "tools", id="functions"),
            pytest.param({"response_format": SCHEMA}, "json_schema", id="json_schema"),
        ],
    )
    def test_a_model_must_have_what_the_request_needs(
        self, members: dict[str, Any], needed: str
    ) -> None:
        """What it is known to lack it is not asked for; what is not known of it, it is."""
        others = {"vision", "tools", "json_schema", "logprobs"} - {needed}
        for capabilities, lacks in (
            (others, needed), ({needed}, None), (set(), needed), (None, None),
        ):  # fmt: skip
            asked = model("m", capabilities=capabilities)
            assert answering(request(**members), asked, "panel", tools=True).unsuitable() == lacks

    @pytest.mark.parametrize(
        "members",
        [
            pytest.param({}, id="plain"),
            pytest.param({"response_format": {"type": "json_object"}}, id="json-without-a-schema"),
            pytest.param({"tools": None}, id="tools-that-are-null"),
            pytest.param({"tools": []}, id="no-tools-at-all"),
            pytest.param({"logprobs": True}, id="logprobs"),
        ],
    )
    def test_other_requests_suit_everybody(self, members: dict[str, Any]) -> None:
        """A member that asks for nothing special keeps no model from answering."""
        asked = model("m", capabilities=[])
        assert answering(request(**members), asked, "panel", tools=True).unsuitable() is None

    def test_tools_that_are_taken_out_are_not_needed(self) -> None:
        """A stage without tools may be given to a model without them."""
        asked = model("m", capabilities=[])
        assert answering(request(tools=TOOLS), asked, "panel").unsuitable() is None

    def test_a_private_stage_needs_only_eyes(self) -> None:
        """It sees the conversation, but neither tools nor form of the answer concern it."""
        asked = model("m", capabilities=[])
        wanted = request(messages=IMAGE, tools=TOOLS, response_format=SCHEMA)
        draft = private(wanted, asked, "judge", instruction="x", schema=None)
        assert draft.unsuitable() == "vision"
        assert draft.to(model("n", capabilities=["vision"])).unsuitable() is None

    @pytest.mark.parametrize(
        ("window", "size", "lacks"),
        [
            pytest.param(None, 10_000_000, None, id="unknown"),
            pytest.param(1000, 744, None, id="just-room-for-a-short-answer"),
            pytest.param(1000, 751, "context_window", id="no-room-for-an-answer"),
            pytest.param(100, 75, None, id="a-small-window"),
            pytest.param(100, 76, "context_window", id="a-small-window-that-is-full"),
        ],
    )
    def test_a_prompt_must_leave_room_for_an_answer(
        self, window: int | None, size: int, lacks: str | None
    ) -> None:
        """A model whose window the prompt fills is not asked."""
        draft = Draft(model("m", context_window=window), "panel", {"messages": []}, size)
        assert draft.unsuitable() == lacks

    def test_an_instruction_counts(self) -> None:
        """What is appended has to fit as well."""
        asked = model("m", context_window=500)
        assert answering(request(), asked, "panel").unsuitable() is None
        draft = answering(request(), asked, "panel", instruction="x" * 4000)
        assert draft.unsuitable() == "context_window"


class TestSeeds:
    def test_the_first_sample_has_the_clients(self) -> None:
        """As it is written, and none if there is none."""
        asked = model("m")
        assert sent(answering(request(seed=5), asked, "panel"))["seed"] == 5
        assert "seed" not in sent(answering(request(), asked, "panel"))

    def test_differ_from_sample_to_sample_and_role_to_role(self) -> None:
        """Or the same would be said twice."""
        asked = model("m")
        seeds = [
            sent(answering(request(seed=5), asked, role, sample=sample))["seed"]
            for role in ("panel", "final")
            for sample in range(1, 9)
        ]
        assert len({*seeds, 5}) == 17
        assert all(0 <= seed < 2**31 for seed in seeds)

    @pytest.mark.parametrize("members", [{}, {"seed": 7}, {"seed": 2**70}], ids=str)
    def test_are_the_same_for_the_same_request(self, members: dict[str, Any]) -> None:
        """A replay samples what was sampled before."""
        bodies = [
            answering(request(**members), model("m"), "panel", sample=2).call(None) for _ in "ab"
        ]
        assert bodies[0].body == bodies[1].body  # fmt: skip

    def test_follow_the_clients_seed_and_else_its_words(self) -> None:
        """With a seed the wording does not matter; without one it does."""

        def seed(text: str, **members: Any) -> Any:
            return sent(answering(request(text, **members), model("m"), "panel", sample=1))["seed"]

        assert seed("a", seed=1) == seed("b", seed=1) != seed("a", seed=2)
        assert seed("a") != seed("b")

    def test_of_a_private_stage_is_its_own(self) -> None:
        """A judge does not draw what the panel drew."""
        draft = private(request(seed=5), model("m"), "judge", instruction="x", schema=None)
        assert sent(draft)["seed"] not in (5, None)


class TestChoices:
    def test_are_one_unless_the_stage_gives_more(self) -> None:
        """`n` is the client's wish for its own answer, not for each stage's."""
        asked = model("m")
        assert "n" not in sent(answering(request(n=3), asked, "panel"))
        assert sent(answering(request(n=3), asked, "single", choices=True))["n"] == 3
        assert "n" not in sent(answering(request(), asked, "single", choices=True))
        assert "n" not in sent(private(request(n=3), asked, "judge", instruction="x", schema=None))


class TestTo:
    def test_is_the_same_for_another_model(self) -> None:
        """In that model's name and dialect; the first draft stays as it was."""
        first = answering(request(top_k=5, store=True), speaks("vllm"), "panel", stream=True)
        other = first.to(model("n", dialect="openai", upstream_model="gpt"))
        assert sent(first, 9)["max_tokens"] == sent(other, 9)["max_completion_tokens"] == 9
        assert (sent(first)["model"], sent(other)["model"]) == ("m", "gpt")
        assert (list(first.dropped()), list(other.dropped())) == (["store"], ["top_k"])
        assert (sent(first)["top_k"], sent(other)["store"]) == (5, True)
        assert sent(other)["stream"] is True

    def test_suits_or_not_by_the_other_model(self) -> None:
        """What one lacks the other may have."""
        draft = answering(
            request(tools=[{"type": "function"}]), model("m", capabilities=[]), "panel", tools=True
        )
        assert draft.unsuitable() == "tools"
        assert draft.to(model("n", capabilities=["tools"])).unsuitable() is None  # fmt: skip


class TestLogprobs:
    @pytest.mark.parametrize(
        ("wished", "sent_"),
        [
            ({}, {"logprobs": True, "top_logprobs": 2}),
            ({"logprobs": True}, {"logprobs": True, "top_logprobs": 2}),
            ({"logprobs": True, "top_logprobs": 5}, {"logprobs": True, "top_logprobs": 5}),
            ({"logprobs": False}, {"logprobs": True, "top_logprobs": 2}),
        ],
    )
    def test_are_asked_for_as_they_are_needed(
        self, wished: dict[str, Any], sent_: dict[str, Any]
    ) -> None:
        """Where we need probabilities they are asked for, with the client's alternatives if it wants more of them."""
        draft = answering(request(**wished), model("m"), "panel", logprobs=True, alternatives=2)
        body = sent(draft)
        assert {name: body[name] for name in LOGPROBS if name in body} == sent_

    def test_no_alternatives_are_no_member(self) -> None:
        """Where the tokens' own probabilities will do, no alternatives are asked for."""
        body = sent(answering(request(), model("m"), "panel", alternatives=0))
        assert body["logprobs"] is True
        assert "top_logprobs" not in body

    @pytest.mark.parametrize(
        "settings", [{"capabilities": ["tools"]}, {"dialect": "gemini-compat"}]
    )
    def test_are_not_asked_of_a_model_without(self, settings: dict[str, Any]) -> None:
        """A model that has none answers all the same, and nothing counts as dropped that no client sent."""
        draft = answering(request(), model("m", **settings), "panel", alternatives=2)
        assert "logprobs" not in sent(draft)
        assert list(draft.dropped()) == []
