"""Recipes that come from elsewhere: a shipped one, or a file beside the configuration, with changes by name."""

import os
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from extproc.config import Config, load_config, parse_config
from extproc.errors import ConfigError
from extproc.signals import KeywordConfig
from looper.patterns.confidence import ConfidenceConfig
from looper.patterns.fusion import FusionConfig
from looper.patterns.single import SingleConfig

HEAD = """\
version: 1
egress: unix:/e.sock
models:
  - {name: small, url: "http://small/v1"}
  - {name: large, url: "http://large/v1"}
entrypoints: {looper/auto: mine}
recipes:
"""
OWN = """\
# a team
models:
  cheap: answers what is easy
  strong: answers the rest
recipe:
  signals:
    hard: {type: keyword, any: [prove]}
    code: {type: keyword, any: [def]}
  projections:
    task: {type: partition, members: [code], default: chat}
  decisions:
    - name: hard
      when: hard
      algorithm: {type: fusion, analysis_models: [cheap, strong], judge_model: strong}
      budget: {calls: 6, deadline: 90s}
      overload: cheap
    - {name: code, when: code, algorithm: {type: single, model: strong}}
    - {name: default, algorithm: {type: single, model: cheap}}
"""
INCLUDE = """\
  mine:
    include: team.yaml
    models: {cheap: small, strong: large}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "team.yaml").write_text(OWN)
    return tmp_path


def load(folder: Path, recipe: str) -> Config:
    path = folder / "looper.yaml"
    path.write_text(HEAD + recipe)
    return load_config(path)


def problems(folder: Path, recipe: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, recipe)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_a_file_beside_the_configuration_is_included_with_its_models_named(folder: Path) -> None:
    """Wherever the file names a role, the configuration's own model stands."""
    hard, code, default = load(folder, INCLUDE).recipes["mine"].decisions

    assert isinstance(hard.algorithm, FusionConfig)
    assert [each.model for each in hard.algorithm.analysis_models] == ["small", "large"]
    assert (hard.algorithm.judge_model, hard.overload) == ("large", "small")
    assert isinstance(code.algorithm, SingleConfig)
    assert isinstance(default.algorithm, SingleConfig)
    assert (code.algorithm.model, default.algorithm.model) == ("large", "small")


def test_a_shipped_recipe_is_included_by_its_name() -> None:
    """A recipe that comes with the product needs no path, and says no more than who its models are."""
    more = "".join(
        f'  - {{name: {name}, url: "http://{name}/v1"}}\n' for name in ("other", "third")
    )
    text = HEAD.replace("entrypoints", f"{more}entrypoints")
    models = "{cheap: small, mid: other, other: third, strong: large}"
    text += f"  mine: {{include: general, models: {models}}}"
    decisions = parse_config(text, "looper.yaml").recipes["mine"].decisions

    named = {name for decision in decisions for _, name in decision.members()}
    assert named == {"small", "other", "third", "large"}


def test_a_model_with_the_roles_name_need_not_be_mentioned(folder: Path) -> None:
    """A role that nobody is named for is taken by the model of that name."""
    (folder / "team.yaml").write_text(OWN.replace("cheap", "small"))

    default = load(folder, "  mine: {include: team.yaml, models: {strong: large}}")
    assert default.recipes["mine"].decisions[-1].algorithm == SingleConfig(
        type="single", model="small"
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(
            "{type: single, models: [{model: cheap, weight: 3}, {model: strong}]}", id="single"
        ),
        pytest.param(
            "{type: fusion, analysis_models: [cheap, {model: strong, samples: 2}], judge_model: strong}",
            id="panel",
        ),
        pytest.param("{type: remom, models: [cheap, {model: strong, weight: 2}]}", id="proposers"),
        pytest.param(
            "{type: ratings, models: [cheap, strong], substitutes: [cheap]}", id="substitutes"
        ),
        pytest.param(
            "{type: workflows, mode: static, steps: [{id: a, models: [cheap], prompt: x}], final: {model: strong}}",
            id="steps",
        ),
    ],
)
def test_roles_are_found_wherever_a_model_can_stand(folder: Path, algorithm: str) -> None:
    """In lists, beside settings of its own, and deep inside; no role's name is left."""
    old = "{type: fusion, analysis_models: [cheap, strong], judge_model: strong}"
    assert old in OWN
    (folder / "team.yaml").write_text(OWN.replace(old, algorithm))

    named = [name for _, name in load(folder, INCLUDE).recipes["mine"].members()]
    assert set(named) == {"small", "large"}


def test_two_roles_may_swap_names(folder: Path) -> None:
    """Every role is replaced once, also by a model that is called like another role."""
    (folder / "team.yaml").write_text(OWN.replace("cheap", "large").replace("strong", "small"))

    recipe = load(folder, "  mine: {include: team.yaml, models: {large: small, small: large}}")
    code, default = recipe.recipes["mine"].decisions[1:]
    assert code.algorithm == SingleConfig(type="single", model="large")
    assert default.algorithm == SingleConfig(type="single", model="small")


def test_signals_and_decisions_are_replaced_removed_and_added_by_name(folder: Path) -> None:
    """What is given of a decision replaces that key alone; null removes; new decisions come before the others."""
    changes = """\
    signals:
      hard: {type: keyword, any: [theorem]}
      code: null
      poem: {type: keyword, any: [poem]}
    decisions:
      code: null
      hard: {budget: {calls: 9}, overload: null}
      verse: {when: poem, algorithm: {type: single, model: large}}
    projections: {task: null, kind: {type: partition, members: [hard], default: chat}}
    signals_deadline: 1s
"""
    recipe = load(folder, INCLUDE + changes).recipes["mine"]

    assert set(recipe.signals) == {"hard", "poem"}
    assert set(recipe.projections) == {"kind"}
    replaced = recipe.signals["hard"]
    assert isinstance(replaced, KeywordConfig)
    assert replaced.any == ("theorem",)
    assert [decision.name for decision in recipe.decisions] == ["verse", "hard", "default"]
    hard = recipe.decisions[1]
    assert (hard.when, hard.budget.calls, hard.overload) == ("hard", 9, None)
    assert hard.budget.deadline.total_seconds() == 240
    assert isinstance(hard.algorithm, FusionConfig)
    assert recipe.signals_deadline.total_seconds() == 1


def test_recipes_beside_each_other_may_include_the_same_file(folder: Path) -> None:
    """Each has models and changes of its own."""
    second = INCLUDE.replace("mine", "other").replace("strong: large", "strong: small")
    config = load(folder, INCLUDE + second)

    assert config.recipes["mine"].decisions[1].algorithm == SingleConfig(
        type="single", model="large"
    )
    assert config.recipes["other"].decisions[1].algorithm == SingleConfig(
        type="single", model="small"
    )


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        pytest.param(
            "  mine:\n    include: generel\n",
            "looper.yaml:9: recipes.mine.include: unknown recipe 'generel': did you mean 'general'?",
            id="no-such-recipe",
        ),
        pytest.param(
            "  mine:\n    include: absent.yaml\n",
            "looper.yaml:9: recipes.mine.include: absent.yaml cannot be read: No such file or directory",
            id="no-such-file",
        ),
        pytest.param(
            INCLUDE.replace("cheap: small", "cheep: small"),
            "looper.yaml:10: recipes.mine.models.cheep: unknown role 'cheep': did you mean 'cheap'?",
            id="no-such-role",
        ),
        pytest.param(
            INCLUDE.replace("cheap: small, ", ""),
            "looper.yaml:10: recipes.mine.models: no model for 'cheap', which answers what is easy",
            id="role-without-model",
        ),
        pytest.param(
            INCLUDE.replace("strong: large", "strong: lrge"),
            "looper.yaml:10: recipes.mine.models.strong: unknown model 'lrge': did you mean 'large'?",
            id="no-such-model",
        ),
        pytest.param(
            INCLUDE + "    decisions:\n      hrad: null\n",
            "looper.yaml:12: recipes.mine.decisions.hrad: unknown decision 'hrad': did you mean 'hard'?",
            id="removes-no-decision",
        ),
        pytest.param(
            INCLUDE + "    signals:\n      coed: null\n",
            "looper.yaml:12: recipes.mine.signals.coed: unknown signal 'coed': did you mean 'code'?",
            id="removes-no-signal",
        ),
        pytest.param(
            INCLUDE + "    signals:\n      hard: null\n",
            "team.yaml:13: recipe.decisions[0].when: unknown signal 'hard': known: code, task.chat, task.code",
            id="removes-what-the-file-needs",
        ),
        pytest.param(
            INCLUDE + "    decisions:\n      hard:\n        budgt: {calls: 9}\n",
            "looper.yaml:13: recipes.mine.decisions.hard.budgt: unknown key; did you mean 'budget'?",
            id="misspelt-change",
        ),
        pytest.param(
            INCLUDE + "    decisions:\n      hard:\n        budget: {calls: many}\n",
            "looper.yaml:13: recipes.mine.decisions.hard.budget.calls: must be a whole number",
            id="wrong-change",
        ),
        pytest.param(
            INCLUDE + "    decisions: []\n",
            "looper.yaml:11: recipes.mine.decisions: beside `include`, a mapping: "
            "`NAME: {…}` changes or adds, `NAME: null` removes",
            id="no-mapping",
        ),
        pytest.param(
            INCLUDE + "    signls: {}\n",
            "looper.yaml:11: recipes.mine.signls: unknown key; did you mean 'signals'?",
            id="misspelt-key",
        ),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(
    folder: Path, recipe: str, expected: str
) -> None:
    """An error names the configuration for what stands there, and the included file for what stands in that."""
    assert expected in problems(folder, recipe)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param(
            "any: [def]",
            "ayn: [def]",
            "team.yaml:8: recipe.signals.code.ayn: unknown key; did you mean 'any'?",
            id="misspelt",
        ),
        pytest.param(
            "model: strong}}",
            "model: storng}}",
            "team.yaml:17: recipe.decisions[1].algorithm.model: "
            "unknown model 'storng': did you mean 'strong'?",
            id="no-such-role",
        ),
        pytest.param("recipe:", "recipes:", "team.yaml:5: recipes: unknown key", id="no-recipe"),
        pytest.param("models:", "models: [", ": not YAML: ", id="no-yaml"),
    ],
)
def test_what_is_wrong_in_an_included_file_is_said_there(
    folder: Path, old: str, new: str, expected: str
) -> None:
    """The line is the included file's own."""
    (folder / "team.yaml").write_text(OWN.replace(old, new, 1))

    assert any(expected in line for line in problems(folder, INCLUDE))


@pytest.mark.parametrize(
    "content",
    [
        "root:$y$canary:19000:0:99999:7:::\ndaemon:*:19000::::::\n",
        "password: canary\n",
        "- canary\n",
        "a: *canary\n",
        "canary: [\n",
        "!canary b\n",
        "a: 'canary\n",
        "canary\n",
    ],
)
def test_nothing_of_somebody_elses_file_is_told(folder: Path, content: str) -> None:
    """What is included may be no file of ours: an error says that, and quotes nothing of it."""
    (folder / "team.yaml").write_text(content)
    said = problems(folder, INCLUDE)
    assert said
    assert not any("canary" in line for line in said)


def test_a_pipe_is_no_recipe(folder: Path) -> None:
    """What would be waited for is not read."""
    (folder / "team.yaml").unlink()
    os.mkfifo(folder / "team.yaml")
    assert any(
        "team.yaml cannot be read: not a regular file" in line for line in problems(folder, INCLUDE)
    )


def test_all_is_said_at_once(folder: Path) -> None:
    """Problems of the configuration come first, then those of the files that it includes."""
    (folder / "team.yaml").write_text(OWN.replace("any: [def]", "ayn: [def]"))
    found = problems(folder, INCLUDE.replace("cheap:", "cheep:") + "debgu: true\n")

    assert [line.partition(": ")[0] for line in found] == [
        "looper.yaml:10",
        "looper.yaml:10",
        "looper.yaml:11",
        "team.yaml:8",
    ]


def test_the_schema_describes_inclusion() -> None:
    """An editor knows both ways to write a recipe."""
    schema = Config.model_json_schema(by_alias=True)
    good = HEAD + INCLUDE + "    decisions: {hard: {budget: {calls: 9}}, code: null}\n"
    jsonschema.validate(yaml.safe_load(good), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(good.replace("budget", "bugdet")), schema)


@pytest.mark.parametrize(
    ("stages", "meant"),
    [
        pytest.param("[cheap, strong]", [["small"], ["large"]], id="names"),
        pytest.param("[[cheap, strong], strong]", [["small", "large"], ["large"]], id="lists"),
        pytest.param("[{models: [cheap]}, {models: [strong]}]", [["small"], ["large"]], id="mappings"),
    ],
)  # fmt: skip
def test_stages_of_an_included_chain_have_the_configurations_models(
    folder: Path, stages: str, meant: list[list[str]]
) -> None:
    """However shortly a stage is written, its roles are replaced."""
    (folder / "chain.yaml").write_text(
        "models: {cheap: first, strong: then}\n"
        "recipe:\n"
        "  decisions:\n"
        f"    - {{name: it, algorithm: {{type: confidence, stages: {stages}, confidence_method: verifier, "
        "verifier_model: strong, threshold: 0.7}}\n"
    )
    (decision,) = load(folder, INCLUDE.replace("team.yaml", "chain.yaml")).recipes["mine"].decisions
    assert isinstance(decision.algorithm, ConfidenceConfig)
    assert [list(stage.models) for stage in decision.algorithm.stages] == meant
    assert decision.algorithm.verifier_model == "large"
