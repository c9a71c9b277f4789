"""Decisions that answer by themselves, and public models, which are no way around them."""

import json
from typing import Any

import pytest

from extproc.config import parse, parse_config, warnings
from extproc.errors import ConfigError
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import PassBody, Respond, Rewrite
from extproc.protocol.events import BodyMode
from looper.wire.sse import DONE, EventReader
from tests.fakes.channel import ScriptedChannel, body, exchanged, opening
from tests.fakes.models import ScriptedClient

CONFIG = """\
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://small/v1", tags: [own, eu]}
  - {name: open, url: "http://open/v1", public: guarded, tags: [own]}
recipes:
  guarded:
    signals:
      secret: {type: keyword, any: [password], roles: all}
      greeting: {type: keyword, any: [hello], roles: all}
    decisions:
      - name: guard
        when: secret
        respond: {status: 403, message: Not here., code: policy_violation}
        on_unknown: act
      - name: greet
        when: greeting
        respond: {message: "Hello to you, too."}
        on_unknown: skip
      - {name: default, algorithm: {type: single, model: small}}
  plain:
    decisions:
      - {name: only, algorithm: {type: single, model: small}}
entrypoints: {looper/auto: guarded, looper/plain: plain}
"""

both_modes = pytest.mark.parametrize("mode", BodyMode, ids=lambda mode: mode.value)


def edited(*edits: tuple[str, str]) -> str:
    text = CONFIG
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def runtime(*edits: tuple[str, str]) -> Runtime:
    return build(parse_config(edited(*edits), "f.yaml"), ScriptedClient({}))


def problems(*edits: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(edited(*edits), "f.yaml")
    return caught.value.problems


def chat(text: str, model: str = "looper/auto", **members: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return json.dumps({"model": model, "messages": messages, **members}).encode()


async def asked(
    text: str,
    *,
    mode: BodyMode = BodyMode.FULL_DUPLEX,
    recipe: str | None = None,
    at: Runtime | None = None,
    **members: Any,
) -> ScriptedChannel:
    data = chat(text, **members)
    return await exchanged(at or runtime(), opening(mode=mode), body(data), recipe=recipe)


def frames(response: Respond) -> list[Any]:
    reader = EventReader()
    events = [event.data for event in reader.feed(response.body)]
    reader.close()
    assert events[-1] == DONE
    assert events.count(DONE) == 1
    return [json.loads(event) for event in events[:-1]]


class TestAnswers:
    @both_modes
    async def test_with_a_completion(self, mode: BodyMode) -> None:
        """Words with status 200 are what an assistant would have said, for nothing."""
        response = (await asked("hello", mode=mode)).respond
        answer = json.loads(response.body)
        assert response.status == 200
        assert dict(response.headers)["content-type"] == "application/json"
        assert answer["object"] == "chat.completion"
        assert answer["model"] == "looper/auto"
        (choice,) = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Hello to you, too."}
        assert choice["finish_reason"] == "stop"
        assert answer["usage"]["total_tokens"] == 0

    @both_modes
    @pytest.mark.parametrize("usage", [False, True], ids=["", "include_usage"])
    async def test_with_a_stream(self, mode: BodyMode, usage: bool) -> None:
        """Role first, one finish, the usage only for those who asked, and one [DONE]."""
        options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
        response = (await asked("hello", mode=mode, stream=True, **options)).respond
        role, words, finish, *last = frames(response)
        assert dict(response.headers)["content-type"] == "text/event-stream"
        assert role["choices"][0]["delta"]["role"] == "assistant"
        assert words["choices"][0]["delta"] == {"content": "Hello to you, too."}
        assert finish["choices"][0]["finish_reason"] == "stop"
        assert len({frame["id"] for frame in (role, words, finish, *last)}) == 1
        assert [frame["usage"]["total_tokens"] for frame in last] == ([0] if usage else [])

    @both_modes
    @pytest.mark.parametrize("stream", [False, True], ids=["", "stream"])
    async def test_with_an_error(self, mode: BodyMode, stream: bool) -> None:
        """An error is a status and OpenAI's shape, stream or not, and not worth a second try."""
        response = (await asked("my password", mode=mode, stream=stream)).respond
        assert response.status == 403
        assert json.loads(response.body)["error"] == {
            "message": "Not here.",
            "type": "permission_error",
            "param": None,
            "code": "policy_violation",
        }
        assert dict(response.headers)["x-should-retry"] == "false"

    async def test_says_what_was_decided(self) -> None:
        """Headers and statistics treat it like any other decision."""
        response = (await asked("hello")).respond
        metadata, headers = response.metadata, dict(response.headers)
        assert metadata == {
            "decision": "greet", "recipe": "guarded", "algorithm": "respond", "run": metadata["run"],
        }  # fmt: skip
        assert headers["x-looper-decision"] == "greet"
        assert headers["x-looper-algorithm"] == "respond"
        assert headers["x-looper-run"] == metadata["run"]

    async def test_a_bad_request_is_still_one(self) -> None:
        """Whether to stream has to be known, whoever answers."""
        assert (await asked("hello", stream="yes")).respond.status == 400


class TestPublicModels:
    @pytest.mark.parametrize(
        ("text", "status"), [("my password", 403), ("hello", 200)], ids=["guard", "greeting"]
    )
    async def test_meet_the_guards_of_their_recipe(self, text: str, status: int) -> None:
        """A model's own name is no way around what a recipe does not let through."""
        assert (await asked(text, model="open")).only(Respond).status == status

    async def test_answer_what_the_guards_let_through(self) -> None:
        """No other decision has a say: the client has chosen its model."""
        rewrite = (await asked("hi", model="open")).only(Rewrite)
        assert json.loads(rewrite.body)["model"] == "open"
        assert rewrite.metadata["decision"] == "public"
        assert rewrite.metadata["recipe"] == "guarded"

    async def test_of_a_recipe_that_answers_everything_itself_are_closed(self) -> None:
        """A guard without a condition guards the public names as well."""
        closed = (
            "{name: default, algorithm: {type: single, model: small}}",
            "{name: closed, respond: {status: 503, message: Closed.}}",
        )
        assert (await asked("hi", model="open", at=runtime(closed))).only(Respond).status == 503

    async def test_meet_the_guards_of_the_routes_recipe_instead(self) -> None:
        """Where Envoy's route names the recipe, that one guards."""
        channel = await asked("my password", model="open", recipe="plain")
        assert channel.only(Rewrite).metadata["recipe"] == "plain"

    async def test_do_not_exist_where_their_tags_are_not_allowed(self) -> None:
        """A route's recipe may allow other models than the one that its client knows."""
        strict = runtime(("  plain:\n", "  plain:\n    allow_tags: [eu]\n"))
        channel = await asked("hi", model="open", recipe="plain", at=strict)
        assert channel.only(Respond).status == 404

    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings", "/v1/responses"])
    async def test_with_guards_answer_chat_only(self, path: str) -> None:
        """Guards read conversations; what they cannot read must not pass them by."""
        data = b'{"model": "open", "input": "my password"}'
        response = (await exchanged(runtime(), opening(path), body(data))).only(Respond)
        assert json.loads(response.body)["error"]["code"] == "chat_only"

    async def test_without_guards_answer_everything(self) -> None:
        """Where there is nothing to decide, other kinds of request find their model."""
        data = b'{"model": "open", "input": 1}'
        bare = runtime(("public: guarded", "public: plain"))
        channel = await exchanged(bare, opening("/v1/embeddings"), body(data))
        assert channel.only(Rewrite).body == data

    async def test_whose_tags_are_not_allowed_are_foreign_to_other_paths(self) -> None:
        """What is not ours passes, and Envoy has no route for it."""
        strict = runtime(("  plain:\n", "  plain:\n    allow_tags: [eu]\n"))
        data = b'{"model": "open", "input": 1}'
        channel = await exchanged(strict, opening("/v1/embeddings"), body(data), recipe="plain")
        assert isinstance(channel.sent[-1], PassBody)


GUARD = "recipes.guarded.decisions[0]"
ONLY = "recipes.plain.decisions[0]"
NOT_ALLOWED = "the model 'small' has none of the tags that this recipe allows: us"
ASKS = (
    "  plain:\n",
    "  plain:\n    signals: {asked: {type: model, model: smal, labels: {code: a program}}}\n",
)
US = ("  plain:\n", "  plain:\n    allow_tags: [us]\n")
OPEN_IS_US = ("public: guarded, tags: [own]", "tags: [us]")
ANSWERS = "{name: only, algorithm: {type: single, model: small}}"


def answered_by(algorithm: str, more: str = "") -> tuple[str, str]:
    return ANSWERS, f"{{name: only, algorithm: {{{algorithm}}}{more}}}"


WRONG = [
    pytest.param(
        [("        on_unknown: act\n", "")],
        f"{GUARD}: `respond` must say `on_unknown: act` or `skip`",
        id="no-on-unknown",
    ),
    pytest.param([("status: 403", "status: 302")], f"{GUARD}.respond.status: ", id="status"),
    pytest.param([("Not here.", '""')], f"{GUARD}.respond.message: ", id="no-message"),
    pytest.param([("policy_violation", "Policy!")], f"{GUARD}.respond.code: ", id="code"),
    pytest.param(
        [("        on_unknown: act", "        on_unknown: act\n        overload: small")],
        f"{GUARD}: `overload` goes with `algorithm`",
        id="about-models",
    ),
    pytest.param(
        [("{name: only, ", "{name: only, respond: {message: x}, ")],
        f"{ONLY}: give exactly one of `algorithm` and `respond`",
        id="both",
    ),
    pytest.param(
        [("public: guarded", "public: garded")],
        "models[1].public: unknown recipe 'garded': did you mean 'guarded'?",
        id="public-recipe",
    ),
    pytest.param(
        [("public: guarded", "public: true")],
        "models[1].public: name the recipe whose guards it meets, such as `public: guarded`",
        id="public-ambiguous",
    ),
    pytest.param([US], f"{ONLY}.algorithm.model: {NOT_ALLOWED}", id="tags-of-a-single"),
    pytest.param(
        [US, OPEN_IS_US, answered_by("type: single, model: open, fallbacks: [small]")],
        f"{ONLY}.algorithm.fallbacks[0]: {NOT_ALLOWED}",
        id="tags-of-a-fallback",
    ),
    pytest.param(
        [US, OPEN_IS_US, answered_by("type: fusion, analysis_models: [open], judge_model: small")],
        f"{ONLY}.algorithm.judge_model: {NOT_ALLOWED}",
        id="tags-of-a-judge",
    ),
    pytest.param(
        [
            US,
            OPEN_IS_US,
            answered_by(
                "type: fusion, analysis_models: [open], judge_model: open, substitutes: [small]"
            ),
        ],
        f"{ONLY}.algorithm.substitutes[0]: {NOT_ALLOWED}",
        id="tags-of-a-substitute",
    ),
    pytest.param(
        [US, OPEN_IS_US, answered_by("type: single, model: open", ", overload: small")],
        f"{ONLY}.overload: {NOT_ALLOWED}",
        id="tags-of-a-stand-in",
    ),
    pytest.param(
        [ASKS],
        "recipes.plain.signals.asked.model: unknown model 'smal': did you mean 'small'?",
        id="model-of-a-signal",
    ),
    pytest.param(
        [
            US,
            OPEN_IS_US,
            answered_by("type: single, model: open"),
            (ASKS[0], ASKS[1].replace("smal,", "small,")),
        ],
        f"recipes.plain.signals.asked.model: {NOT_ALLOWED}",
        id="tags-of-a-signal",
    ),
    pytest.param(
        [US, OPEN_IS_US, answered_by("type: single, model: open", ", tools: {bypass: small}")],
        f"{ONLY}.tools.bypass: {NOT_ALLOWED}",
        id="tags-of-a-bypass",
    ),
    pytest.param(
        [answered_by("type: single, model: open", ", tools: {bypass: smal}")],
        f"{ONLY}.tools.bypass: unknown model 'smal': did you mean 'small'?",
        id="bypass",
    ),
    pytest.param(
        [
            answered_by(
                "type: single, model: open", ", tools: {bypass: open}, contract: {type: code}"
            )
        ],
        f"{ONLY}: a `contract` holds for every answer",
        id="contract-and-bypass",
    ),
    pytest.param(
        [("public: guarded", "public: plain"), ("  plain:\n", "  plain:\n    allow_tags: [eu]\n")],
        "models[1].public: the model 'open' has none of the tags",
        id="tags-of-a-public-model",
    ),
]


class TestWrong:
    @pytest.mark.parametrize(("edits", "text"), WRONG)
    def test_is_said_with_its_path(self, edits: list[tuple[str, str]], text: str) -> None:
        """A mistake is one line, with the place where it stands."""
        (problem,) = problems(*edits)
        file, line, said = problem.split(":", 2)
        assert (file, line.isdigit()) == ("f.yaml", True)
        assert said.strip().startswith(text)

    def test_one_of_several_tags_is_enough(self) -> None:
        """A recipe allows a model by any tag that both name."""
        assert runtime(("  plain:\n", "  plain:\n    allow_tags: [eu, us]\n"))

    def test_a_tag_that_nobody_has_is_a_warning(self) -> None:
        """It may be meant for models to come, or be misspelt."""
        text = edited(("  plain:\n", "  plain:\n    allow_tags: [eu, ue]\n"))
        (found,) = warnings(parse(text, "f.yaml"))
        assert found.endswith(": recipes.plain.allow_tags: no model has the tag 'ue'")

    def test_without_guards_and_tags_any_recipe_may_stand_for_a_public_model(self) -> None:
        """Where nothing is kept from models, there is nothing to name."""
        a, b = CONFIG.index("      - name: guard"), CONFIG.index("      - {name: default")
        text = (CONFIG[:a] + CONFIG[b:]).replace("public: guarded", "public: true")
        assert parse_config(text, "f.yaml").entries()["open"] == "guarded"
