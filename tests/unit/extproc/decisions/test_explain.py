"""Explanations: on the command line and on the admin port, by the policy that decides live traffic."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from click.testing import CliRunner, Result
from rich.console import Console

from extproc.cli.main import main
from extproc.cli.offline import asking
from extproc.config import Config, parse_config
from extproc.decisions.display import as_tree
from extproc.decisions.engine import Policy
from extproc.decisions.explain import DecisionFound, Explanation, RuleFound, explain
from extproc.serving.admin import Access, Facts, admin
from extproc.serving.lag import Lag
from extproc.serving.reload import Reloads
from extproc.serving.versions import at_work
from extproc.signals import Egress, LocalSignal, Reading, Subject
from extproc.signals.read import Question, Signals
from looper.calling.models import Model
from looper.patterns.single import SingleConfig
from looper.wire.chat import ChatRequest
from tests.fakes.envoy import free_port
from tests.fakes.models import ScriptedClient

SECRET = "s3cr3t-of-the-user"
CONFIG = """\
version: 1
egress: unix:/nowhere/egress.sock
limits: {max_body: 4KiB}
models:
  - {name: small, url: "http://s/v1", price: {input: 1, output: 2}, max_output: 1k}
  - {name: large, url: "http://l/v1", price: {input: 4, output: 8}, max_output: 1k, public: true}
recipes:
  general:
    signals:
      code: {type: keyword, any: [code]}
      proof: {type: keyword, any: [prove]}
      unused: {type: keyword, any: [xyzzy]}
      vip: {type: header, name: x-tier, in: [gold]}
    projections:
      task: {type: partition, members: [code, proof], default: chat}
      level:
        type: score
        weights: {proof: 0.5, vip: 0.2}
        bands: [{easy: 0.3}, {medium: 0.6}, {hard: 1}]
    decisions:
      - {name: trial, when: task.proof, shadow: true, algorithm: {type: single, model: large}}
      - name: panel
        when: {all: [level.hard, {not: code}]}
        algorithm: {type: fusion, analysis_models: [small, small], judge_model: large}
      - {name: some, when: code, percent: 0, algorithm: {type: single, model: large}}
      - {name: medium, when: level.medium, algorithm: {type: single, model: large}}
      - {name: late, when: proof, algorithm: {type: single, model: large}}
      - {name: default, algorithm: {type: single, model: small}}
  other:
    decisions: [{name: only, algorithm: {type: single, model: large}}]
entrypoints: {looper/auto: general}
"""


@pytest.fixture(scope="module")
def config() -> Config:
    return parse_config(CONFIG, "f.yaml")


def policy(config: Config) -> Policy:
    return Policy("general", config.recipes["general"])


async def found(config: Config, text: str, **headers: str) -> Explanation:
    subject = Subject(asking(text, "looper/auto"), {f"x-{name}": headers[name] for name in headers})
    return await explain(policy(config), subject, {model.name: model for model in config.models})


def verdicts(explanation: Explanation) -> dict[str, str]:
    return {each.name: each.verdict for each in explanation.decisions}


class TestExplain:
    async def test_it_says_what_becomes_of_each_decision(self, config: Config) -> None:
        """In the order in which they are tried."""
        assert verdicts(await found(config, "prove it")) == {
            "trial": "watches",
            "panel": "does not hold",
            "some": "does not hold",
            "medium": "answers",
            "late": "would be next",
            "default": "would be next",
        }
        assert verdicts(await found(config, "code"))["some"] == "for other conversations"

    async def test_it_says_what_was_read_and_what_it_came_to(self, config: Config) -> None:
        """Readings with hits, members, contributions, and how far the next bands are."""
        explained = await found(config, "PROVE it", tier="gold")
        signals = {each.name: (each.match, each.hits) for each in explained.signals}
        assert signals["proof"] == (True, ("prove",))
        assert signals["code"] == (False, ())
        assert signals.keys() == {"code", "proof", "vip"}
        (task,), (level,) = explained.partitions, explained.scores
        assert (task.winner, task.members) == ("proof", {"code": False, "proof": True})
        assert (level.value, level.band) == (0.7, "hard")
        assert level.contributions == {"proof": 0.5, "vip": 0.2}
        assert (level.to_lower, level.to_upper) == (0.1, None)

    async def test_on_a_bound_there_is_no_way_to_the_band_below(self, config: Config) -> None:
        """Bounds belong to the band above."""
        text = CONFIG.replace("{easy: 0.3}", "{easy: 0.5}")
        (level,) = (await found(parse_config(text, "f.yaml"), "prove it")).scores
        assert (level.band, level.to_lower, level.to_upper) == ("medium", 0.0, 0.1)

    async def test_rules_are_told_part_by_part(self, config: Config) -> None:
        """With what held of each."""
        panel = (await found(config, "prove it")).decisions[1]
        assert isinstance(panel, DecisionFound)
        assert panel.when == RuleFound(
            "all",
            False,
            (
                RuleFound("level.hard", False),
                RuleFound("not", True, (RuleFound("code", False),)),
            ),
        )

    async def test_it_says_what_would_be_done_and_what_that_may_take(self, config: Config) -> None:
        """Models by name, and the worst case for a request of this size."""
        action = (await found(config, "prove it", tier="gold")).action
        assert (action.decision, action.algorithm) == ("panel", "fusion")
        assert action.models == ("small", "large")
        assert action.calls is not None
        assert action.calls >= 4
        assert action.cost_usd is not None
        assert float(action.cost_usd) > 0

    @pytest.mark.parametrize(
        ("action", "expected"),
        [
            pytest.param(
                "algorithm: {type: single, models: [{model: small, weight: 0}, {model: large}]}",
                ((("large",), True), None),
                id="share",
            ),
            pytest.param(
                "algorithm: {type: single, model: small, fallbacks: [large]}",
                ((("small", "large"), False), None),
                id="fallbacks",
            ),
            pytest.param(
                "respond: {status: 403, message: Not here.}",
                (((), False), (403, "Not here.")),
                id="respond",
            ),
            pytest.param(
                "algorithm: {type: single, model: large}, parameters: {system_prompt: {text: 'word word word'}}",
                ((("large",), True), None),
                id="parameters",
            ),
        ],
    )
    async def test_it_says_what_that_comes_to_for_this_request(
        self, action: str, expected: tuple[Any, Any]
    ) -> None:
        """Which model it is routed to, or what is answered without one."""
        default = "{name: default, algorithm: {type: single, model: small}}"
        assert default in CONFIG
        config = parse_config(CONFIG.replace(default, f"{{name: default, {action}}}"), "f.yaml")
        does = (await found(config, "hi")).action
        says = None if does.status is None else (does.status, does.message)
        assert ((does.models, does.routed), says) == expected

    async def test_a_team_that_is_bypassed_costs_one_call(self) -> None:
        """What it may take is what this request takes."""
        default = "{name: default, algorithm: {type: single, model: small}}"
        team = "algorithm: {type: fusion, analysis_models: [small, small], judge_model: large}"
        bypass = "tools: {bypass: large}, parameters: {max_tokens: {cap: 100}}"
        text = CONFIG.replace(default, f"{{name: default, {team}, {bypass}}}")
        config = parse_config(text, "f.yaml")
        body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}'
        subject = Subject(ChatRequest.parse(body))
        models = {model.name: model for model in config.models}
        action = (await explain(policy(config), subject, models)).action
        assert (action.models, action.routed, action.calls) == (("large",), True, 1)
        assert action.tokens == subject.tokens + 100

    async def test_it_says_why_nobody_can_answer(self, config: Config) -> None:
        """The error that a client would get is part of what is explained."""
        text = CONFIG.replace(
            '{name: small, url: "http://s/v1",',
            '{name: small, url: "http://s/v1", context_window: 300,',
        )
        action = (await found(parse_config(text, "f.yaml"), "word " * 500)).action
        assert (action.status, action.models) == (400, ())

    async def test_a_signal_without_a_reading_is_unknown(self, config: Config) -> None:
        """And so is what hangs on it."""

        class Broken:
            def read(self, subject: Subject) -> Reading:
                raise RuntimeError

        broken = policy(config)
        code, *rest = broken.signals.local
        question = Question[LocalSignal](code.name, Broken())
        broken = broken.reading(Signals(local=(question, *rest)))
        explained = await explain(
            broken, Subject(asking("prove", "m")), {m.name: m for m in config.models}
        )
        assert explained.signals[0].match is None
        assert (explained.signals[0].milliseconds or 0) > 0
        assert explained.partitions[0].unsure
        assert verdicts(explained)["some"] == "unknown"
        assert question.failures == 0, "an explanation is no traffic"

    @pytest.mark.parametrize(
        "text", ["", "code", "prove", "prove code", "x" * 5000, "日本語 prove"]
    )
    @pytest.mark.parametrize("tier", ["gold", "none"])
    async def test_it_decides_as_live_traffic_is_decided(
        self, config: Config, text: str, tier: str
    ) -> None:
        """The same decision, by the same policy."""
        live = await policy(config).decide(Subject(asking(text, "m"), {"x-tier": tier}))
        explained = await found(config, text, tier=tier)
        assert explained.action.decision == live.decision.name
        assert [name for name, each in verdicts(explained).items() if each == "watches"] == [
            decision.name for decision in live.shadows
        ]

    async def test_no_word_of_the_prompt_is_in_it(self, config: Config) -> None:
        """Whoever reads explanations need not be allowed to read prompts."""
        explained = await found(config, f"prove {SECRET} code")
        out = io.StringIO()
        Console(file=out, width=200).print(as_tree(explained))
        assert SECRET not in out.getvalue() + repr(explained)

    async def test_the_tree_shows_all_of_it(self, config: Config) -> None:
        """Every signal, projection, decision and name of a rule, and the winner."""
        out = io.StringIO()
        Console(file=out, width=200).print(as_tree(await found(config, "prove it")))
        tree = out.getvalue()
        for text in (
            *("code", "hits 'prove'", "task = proof", "level = 0.5", "+0.5  proof", "0.2 above"),
            *("0.1 below", "trial  watches", "panel  does not hold", "✗ level.hard"),
            "→ medium: single routed to large",
        ):
            assert text in tree


def run(tmp_path: Path, *arguments: str, stdin: str | bytes = "") -> Result:
    path = tmp_path / "looper.yaml"
    path.write_text(CONFIG)
    return CliRunner().invoke(main, ["explain", str(path), *arguments], input=stdin)


class TestCommand:
    def test_a_text(self, tmp_path: Path) -> None:
        """The shortest way to ask."""
        result = run(tmp_path, "prove it")
        assert result.exit_code == 0
        assert "medium  answers" in result.stdout

    def test_json(self, tmp_path: Path) -> None:
        """The same for machines."""
        result = run(tmp_path, "--json", "prove it")
        data = json.loads(result.stdout)
        assert data["action"]["decision"] == "medium"
        assert data["scores"][0]["contributions"] == {"proof": 0.5, "vip": 0.0}

    @pytest.mark.parametrize("way", [["-"], ["--request", "-"]], ids=["text", "request"])
    def test_standard_input(self, tmp_path: Path, way: list[str]) -> None:
        """A text, or a whole request."""
        body = {"model": "looper/auto", "messages": [{"role": "user", "content": "prove it"}]}
        stdin = "prove it" if way == ["-"] else json.dumps(body)
        result = run(tmp_path, "--json", *way, stdin=stdin)
        assert json.loads(result.stdout)["action"]["decision"] == "medium"

    def test_headers(self, tmp_path: Path) -> None:
        """As Envoy would forward them: the case of their names does not count."""
        result = run(tmp_path, "--json", "--header", "X-Tier: gold", "prove it")
        assert json.loads(result.stdout)["action"]["decision"] == "panel"

    def test_a_recipe(self, tmp_path: Path) -> None:
        """As Envoy's route would name it."""
        result = run(tmp_path, "--json", "--recipe", "other", "prove it")
        assert json.loads(result.stdout)["action"]["decision"] == "only"

    @pytest.mark.parametrize(
        ("arguments", "stdin", "text"),
        [
            pytest.param(["--recipe", "genral", "x"], "", "did you mean 'general'?", id="recipe"),
            pytest.param(["--request", "-"], "{", "not", id="no-json"),
            pytest.param(["--request", "-"], '{"model": "m"}', "no `messages`", id="no-messages"),
            pytest.param(
                ["--request", "-"],
                '{"model": "loper/auto", "messages": [{"role": "user", "content": "x"}]}',
                "did you mean 'looper/auto'?",
                id="model",
            ),
            pytest.param([], "", "either TEXT or --request", id="nothing"),
            pytest.param(["x", "--request", "-"], "", "either TEXT or --request", id="both"),
        ],
    )
    def test_what_cannot_be_explained_is_said(
        self, tmp_path: Path, arguments: list[str], stdin: str, text: str
    ) -> None:
        """In a line, and with a status."""
        result = run(tmp_path, *arguments, stdin=stdin)
        assert result.exit_code != 0
        assert text in result.stderr


@pytest.fixture
async def port(config: Config) -> AsyncIterator[str]:
    address = f"127.0.0.1:{free_port()}"
    async with (
        at_work(config) as versions,
        admin(Facts(versions, Reloads(), Lag()), Access(address)),
    ):
        yield f"http://{address}/explain"


def body(text: str, model: str = "looper/auto") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


async def post(url: str, **request: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, **request) as response:
        return response.status, await response.json()


class TestAdmin:
    async def test_it_explains_a_request_as_a_client_would_send_it(
        self, port: str, tmp_path: Path
    ) -> None:
        """With its headers, and the same facts as the command, times apart."""
        status, data = await post(port, json=body("prove it"), headers={"X-Tier": "gold"})
        arguments = ("--json", "--header", "x-tier: gold", "prove it")
        shown = json.loads((await asyncio.to_thread(run, tmp_path, *arguments)).stdout)
        for each in (*data["signals"], *shown["signals"]):
            del each["milliseconds"]
        assert status == 200
        assert data == shown

    async def test_a_route_may_name_the_recipe(self, port: str) -> None:
        """As gRPC metadata would."""
        status, data = await post(f"{port}?recipe=other", json=body("prove it"))
        assert (status, data["action"]["decision"]) == (200, "only")

    @pytest.mark.parametrize(
        ("path", "request_", "status"),
        [
            pytest.param("", {"data": b"{"}, 400, id="no-json"),
            pytest.param("", {"json": body("x" * 5000)}, 413, id="too-large"),
            pytest.param("", {"json": body("x", "unknown")}, 404, id="no-such-model"),
            pytest.param("?recipe=none", {"json": body("x")}, 404, id="no-such-recipe"),
        ],
    )
    async def test_what_cannot_be_explained_is_refused(
        self, port: str, path: str, request_: dict[str, Any], status: int
    ) -> None:
        """As the data path would refuse it."""
        answered, data = await post(port + path, **request_)
        assert (answered, "error" in data) == (status, True)

    @pytest.mark.parametrize(
        "odd",
        [
            {"tools": 5}, {"tools": [[]]}, {"tools": [{"function": {"name": {"x": []}}}]}, {"stream": "x"},
            {"max_tokens": "many"}, {"n": []}, {"response_format": 1}, {"messages": [{"role": ""}]},
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]},
            {"messages": [{"role": "tool", "content": None, "tool_call_id": 5}]}, {"messages": [5]}, {"messages": {}},
            {"messages": [{"role": "assistant", "tool_calls": {"x": 1}}]}, {"metadata": [1], "seed": {}},
        ],
        ids=repr,
    )  # fmt: skip
    async def test_no_body_is_too_odd(self, port: str, odd: dict[str, Any]) -> None:
        """It is explained or refused, and never a mistake of ours."""
        status, data = await post(port, json={**body("prove it"), **odd})
        assert (status, "error" in data) in ((200, False), (400, True))

    async def test_nothing_is_logged(self, port: str, capfd: pytest.CaptureFixture[str]) -> None:
        """A prompt that is explained stays as private as one that is answered."""
        with structlog.testing.capture_logs() as events:
            await post(port, json=body(f"prove {SECRET}"))
        out, err = capfd.readouterr()
        assert SECRET not in out + err + repr(events)


def test_a_text_becomes_a_request_of_one_turn() -> None:
    """Whatever characters are in it."""
    request = asking('say "\\" \u0000 日本', "m")
    assert isinstance(request, ChatRequest)
    assert request.text == 'say "\\" \u0000 日本'


ASKING = """\
version: 1
egress: unix:/nowhere/egress.sock
models: [{name: small, url: "http://s/v1"}, {name: large, url: "http://l/v1"}]
recipes:
  general:
    signals:
      wants: {type: model, model: small, labels: {math: a calculation, code: a program}}
    decisions:
      - {name: refused, when: wants.code, on_unknown: skip, respond: {message: Not here.}}
      - name: maths
        when: wants.math
        algorithm: {type: single, models: [{model: small, weight: 1}, {model: large, weight: 1}]}
      - {name: default, algorithm: {type: single, model: small}}
entrypoints: {looper/auto: general}
"""


def asking_policy(said: str) -> tuple[Policy, ScriptedClient, Mapping[str, Model]]:
    """A policy whose signal asks a model, which answers so."""
    config = parse_config(ASKING, "f.yaml")
    client = ScriptedClient({"small": said})
    models = {model.name: model for model in config.models}
    return Policy("general", config.recipes["general"], Egress(client, models)), client, models


class TestSignalsThatAsk:
    async def test_the_model_is_asked_as_for_live_traffic(self) -> None:
        """Once, and the time that it took is told."""
        asked, client, models = asking_policy('{"label": "math", "confidence": 0.9}')
        explained = await explain(asked, Subject(asking("1 + 1?", "m")), models)
        (wants,) = explained.signals
        assert (wants.labels, wants.match) == ({"math": 0.9}, True)
        assert (wants.milliseconds or 0) > 0
        assert explained.action.decision == "maths"
        assert len(client.asked) == 1

    def test_the_command_asks_nobody_unless_it_is_told_to(self, tmp_path: Path) -> None:
        """Then there is no reading, and what hangs on it is unknown."""
        path = tmp_path / "looper.yaml"
        path.write_text(ASKING)
        result = CliRunner().invoke(main, ["explain", str(path), "--json", "1 + 1?"])
        data = json.loads(result.stdout)
        assert data["signals"][0]["match"] is None
        assert [each["verdict"] for each in data["decisions"]] == ["unknown", "unknown", "answers"]

    async def test_an_answer_of_ours_asks_no_model(self) -> None:
        """What is said of the action then: `respond`, and that it costs nothing."""
        asked, _, models = asking_policy('{"label": "code", "confidence": 0.9}')
        explained = await explain(asked, Subject(asking("code!", "m")), models)
        action = explained.action
        assert (action.decision, action.algorithm, action.models) == ("refused", "respond", ())
        assert (action.calls, action.tokens) == (0, 0)

    async def test_a_conversations_own_model_stands_first(self) -> None:
        """Of those that share a decision, by the same draw as live traffic."""
        asked, _, models = asking_policy('{"label": "math", "confidence": 0.9}')
        single = asked.decisions[1].algorithm
        assert isinstance(single, SingleConfig)
        first = set()
        for number in range(16):
            request = asking(f"{number} + 1?", "m")
            explained = await explain(asked, Subject(request), models)
            assert explained.action.models[0] == single.ranked(request)[0]
            first.add(explained.action.models[0])
        assert first == {"small", "large"}
