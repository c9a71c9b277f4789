"""Probes: what is asked of a policy offline, and what is reported."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner, Result

from extproc.cli.main import main
from extproc.cli.probe.probing import probe
from extproc.decisions.engine import Policy
from extproc.decisions.probe import Probe, Probed, run
from extproc.decisions.recipe import Recipe
from extproc.errors import ConfigError
from looper.wire.tokens import estimate

SINGLE = {"type": "single", "model": "small"}
RECIPE: dict[str, Any] = {
    "signals": {
        "proof": {"type": "keyword", "any": ["prove"]},
        "long": {"type": "context", "at_least": "8k"},
        "tools": {"type": "conversation", "of": "tools", "at_least": 2},
        "vip": {"type": "header", "name": "x-tier", "in": ["gold"]},
    },
    "projections": {
        "task": {"type": "partition", "members": ["proof", "tools"], "default": "chat"},
        "level": {
            "type": "score",
            "weights": {"proof": 0.5, "vip": 0.5},
            "bands": [{"easy": 0.5}, {"hard": 1}],
        },
    },
    "decisions": [
        {"name": "trial", "when": "vip", "shadow": True, "algorithm": SINGLE},
        {"name": "hard", "when": "level.hard", "algorithm": SINGLE},
        {"name": "tools", "when": "task.tools", "algorithm": SINGLE},
        {"name": "long", "when": "long", "algorithm": SINGLE},
        {"name": "default", "algorithm": SINGLE},
    ],
}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy("p", Recipe.model_validate(RECIPE))


async def probed(policy: Policy, **settings: Any) -> Probed:
    return await run(policy, Probe.model_validate(settings))


class TestProbe:
    @pytest.mark.parametrize(
        ("asked", "decision"),
        [
            pytest.param({"text": "hello"}, "default", id="text"),
            pytest.param({"text": "PROVE it"}, "hard", id="keyword"),
            pytest.param({"text": "hello", "tools": ["a", "b"]}, "tools", id="tools"),
            pytest.param({"text": "hello", "padding": "8k"}, "long", id="padding"),
            pytest.param({"text": "hello", "padding": "7k"}, "default", id="less-padding"),
            pytest.param({"text": "hello", "headers": {"X-Tier": "gold"}}, "hard", id="header"),
            pytest.param({"text": "hello", "assume": {"proof": True}}, "hard", id="assumed"),
            pytest.param({"text": "prove", "assume": {"proof": None}}, "default", id="no-reading"),
            pytest.param({"text": "prove", "assume": {"proof": {"x": 1}}}, "hard", id="labels"),
            pytest.param(
                {
                    "messages": [
                        {"role": "system", "content": "prove"},
                        {"role": "user", "content": "x"},
                    ]
                },
                "default",
                id="conversation",
            ),
        ],
    )
    async def test_it_asks_what_a_client_would(
        self, policy: Policy, asked: dict[str, Any], decision: str
    ) -> None:
        """By text or conversation, with tools, headers and as long as it has to be."""
        found = await probed(policy, **asked, expect={"decision": decision})
        assert (found.decision, found.problems) == (decision, ())

    def test_padding_is_about_as_long_as_it_says(self) -> None:
        """Never shorter, and little longer."""
        asked = Probe.model_validate({"text": "x", "padding": "20k", "expect": {"decision": "d"}})
        assert 20_000 <= estimate(asked.request().text) < 23_000

    @pytest.mark.parametrize(
        ("expect", "problems"),
        [
            pytest.param(
                {"decision": ["x", "default"]},
                ["unknown decision 'x': known: default, hard, long, tools, trial"],
                id="no-such-decision",
            ),
            pytest.param({"decision": "default"}, ["decision is hard, not default"], id="decision"),
            pytest.param({"decision": ["default", "hard"]}, [], id="one-of"),
            pytest.param(
                {"algorithm": "fusion"}, ["algorithm is single, not fusion"], id="algorithm"
            ),
            pytest.param({"bands": {"level": "easy"}}, ["level is hard, not easy"], id="band"),
            pytest.param(
                {"bands": {"level": "eesy"}},
                ["unknown level 'eesy': did you mean 'easy'?"],
                id="no-such-band",
            ),
            pytest.param(
                {"bands": {"levl": "easy"}},
                ["unknown projection 'levl': did you mean 'level'?"],
                id="no-such-score",
            ),
            pytest.param({"bands": {"task": "chat"}}, ["task is proof, not chat"], id="member"),
            pytest.param({"bands": {"task": "proof", "level": "hard"}}, [], id="both-right"),
            pytest.param({"signals": ["long", "proof"]}, ["long does not hold"], id="signal"),
            pytest.param({"not_signals": ["proof"]}, ["proof holds"], id="not-a-signal"),
            pytest.param(
                {"not_signals": ["vip", "task.chat", "level.easy"]}, [], id="any-name-of-a-rule"
            ),
            pytest.param(
                {"signals": "prof"},
                ["unknown name 'prof': did you mean 'proof'?"],
                id="no-such-name",
            ),
        ],
    )
    async def test_it_says_what_is_otherwise(
        self, policy: Policy, expect: dict[str, Any], problems: list[str]
    ) -> None:
        """All of it, and what does not exist."""
        found = await probed(policy, text="prove it", expect=expect)
        assert list(found.problems) == problems

    async def test_unknown_is_not_the_same_as_not(self, policy: Policy) -> None:
        """`not_signals` asks for a reading that says no."""
        found = await probed(
            policy, text="x", assume={"proof": None}, expect={"not_signals": ["proof"]}
        )
        assert found.problems == ("proof is unknown",)


PROBES: dict[str, Any] = {
    "probes": [
        {"text": "hello", "tags": ["negative", "en"], "expect": {"decision": "default"}},
        {"text": "prove it", "headers": {"x-tier": "gold"}, "expect": {"decision": "hard"}},
        {"text": "prove \u0001", "tags": "wrong", "expect": {"decision": "default"}},
    ]
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    recipe = {"models": {"small": "answers"}, "recipe": RECIPE}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "mine.probes.yaml").write_text(yaml.safe_dump(PROBES))
    config = {
        "version": 1,
        "egress": "unix:/e.sock",
        "models": [{"name": "small", "url": "http://s/v1"}],
        "recipes": {
            "mine": {"include": "mine.yaml"},
            "other": {"decisions": [{"name": "only", "algorithm": SINGLE}]},
        },
        "entrypoints": {"looper/auto": "mine"},
    }
    (tmp_path / "looper.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["probe", *map(str, arguments)], env={"COLUMNS": "160"})


class TestFiles:
    @pytest.mark.parametrize("name", ["mine.yaml", "mine.probes.yaml"])
    async def test_a_recipe_and_its_probes_belong_together(self, folder: Path, name: str) -> None:
        """Whichever of the two is named."""
        report = await probe(folder / name)
        assert [each.decision for each in report.probed] == ["default", "hard", "hard"]
        assert report.failed == 1

    async def test_it_says_what_was_reached(self, folder: Path) -> None:
        """How often each decision answered, or would have on trial, and which were left out."""
        report = await probe(folder / "mine.yaml")
        reached = {name: times for (_, name), times in report.reached.items()}
        assert reached == {"trial": 1, "hard": 2, "tools": 0, "long": 0, "default": 1}
        assert [name for _, name in report.unreached] == ["tools", "long"]

    async def test_a_configuration_has_probes_too(self, folder: Path) -> None:
        """For each of its recipes, by name; by default for the first entrypoint's."""
        probes = [
            {"text": "hello", "expect": {"decision": "default"}},
            {"text": "hello", "recipe": "other", "expect": {"decision": "only"}},
        ]
        (folder / "looper.probes.yaml").write_text(yaml.safe_dump({"probes": probes}))
        report = await probe(folder / "looper.yaml")
        assert report.failed == 0
        assert report.reached["other", "only"] == 1

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            pytest.param(
                "probes: [{text: x, expect: {decison: y}}]",
                "1: probes[0].expect.decison: unknown key; did you mean 'decision'?",
                id="key",
            ),
            pytest.param(
                "probes:\n- {text: x, expect: {}}",
                "2: probes[0].expect: expect something",
                id="nothing",
            ),
            pytest.param(
                "probes:\n- {expect: {decision: d}}", "2: probes[0]: give either", id="no-text"
            ),
            pytest.param("probes: []", "1: probes: ", id="no-probes"),
            pytest.param(
                "recipe: min\nprobes: [{text: x, expect: {decision: d}}]",
                " unknown recipe 'min': did you mean 'mine'?",
                id="recipe",
            ),
            pytest.param(
                "probes: [{text: x, members: {messages: 5}, expect: {decision: d}}]",
                " probes[0]: no request: ",
                id="no-request",
            ),
            pytest.param("probes: [", "1: not YAML", id="no-yaml"),
        ],
    )
    async def test_what_is_wrong_with_a_file_is_said(
        self, folder: Path, text: str, problem: str
    ) -> None:
        """With its line and path, as for configurations."""
        path = folder / "mine.probes.yaml"
        path.write_text(text)
        with pytest.raises(ConfigError) as caught:
            await probe(path)
        assert f"{path}:{problem}" in str(caught.value)

    async def test_a_recipe_that_is_wrong_is_said_to_be(self, folder: Path) -> None:
        """In its own file, and its own line."""
        path = folder / "mine.yaml"
        text = path.read_text().replace("when: level.hard", "when: level.hrd")
        path.write_text(text)
        line = text[: text.index("level.hrd")].count("\n") + 1
        with pytest.raises(ConfigError, match=r"level\.hard") as caught:
            await probe(path)
        assert f"{path}:{line}: " in str(caught.value)

    async def test_without_a_file_there_are_no_probes(self, folder: Path) -> None:
        """That is a mistake, not a success."""
        with pytest.raises(ConfigError, match=r"looper\.probes\.yaml: cannot be read"):
            await probe(folder / "looper.yaml")


class TestCommand:
    def test_a_table_of_what_failed(self, folder: Path) -> None:
        """And the status that stops a pipeline."""
        result = invoke(folder / "mine.yaml")
        assert result.exit_code == 1
        assert "2 passed, 1 failed" in result.stdout
        assert "decision is hard, not default" in result.stdout
        assert "hello" not in result.stdout
        assert "hello" in invoke("--all", folder / "mine.yaml").stdout

    def test_success_is_status_zero_unless_decisions_are_left_out(self, folder: Path) -> None:
        """The second only if it is asked for."""
        good = {"probes": PROBES["probes"][:2]}
        (folder / "mine.probes.yaml").write_text(yaml.safe_dump(good))
        assert invoke(folder / "mine.yaml").exit_code == 0
        assert invoke("--strict", folder / "mine.yaml").exit_code == 1

    @pytest.mark.parametrize(
        ("tags", "titles"),
        [
            pytest.param(["en"], ["hello"], id="one"),
            pytest.param(["en", "negative"], ["hello"], id="both"),
            pytest.param(["en", "wrong"], [], id="none-has-both"),
        ],
    )
    def test_tags_choose(self, folder: Path, tags: list[str], titles: list[str]) -> None:
        """Only probes that have all that are named."""
        options = [option for tag in tags for option in ("--tag", tag)]
        (file,) = json.loads(invoke("--json", *options, folder / "mine.yaml").stdout)
        assert [each["title"] for each in file["probes"]] == titles

    def test_json(self, folder: Path) -> None:
        """All of it, of every file."""
        (file,) = json.loads(invoke("--json", folder / "mine.yaml").stdout)
        assert file["failed"] == 1
        assert [each["decision"] for each in file["probes"]] == ["default", "hard", "hard"]
        assert {"recipe": "mine", "decision": "long", "probes": 0} in file["decisions"]

    def test_junit(self, folder: Path) -> None:
        """A case for each probe, whatever characters it has."""
        path = folder / "junit.xml"
        invoke("--junit", path, folder / "mine.yaml", folder / "mine.probes.yaml")
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314  # our own
        assert [suite.attrib["tests"] for suite in root] == ["3", "3"]
        failures = root.findall("./testsuite/testcase/failure")
        assert [each.attrib["message"] for each in failures] == [
            "decision is hard, not default"
        ] * 2

    def test_a_file_that_is_wrong(self, folder: Path) -> None:
        """A line on standard error, and a status."""
        (folder / "mine.probes.yaml").write_text("probes: 5")
        result = invoke(folder / "mine.yaml")
        assert result.exit_code == 1
        assert "mine.probes.yaml:1: probes: " in result.stderr
