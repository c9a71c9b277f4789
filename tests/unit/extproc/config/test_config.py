import re
from pathlib import Path
from typing import Any

import pytest

from extproc.config import Config, load_config, parse, parse_config, warnings
from extproc.errors import ConfigError
from looper.patterns.fusion import FusionConfig
from looper.patterns.single import SingleConfig

ROOT = Path(__file__).parents[4]
SECRET = "sk-s3cr3t"

GOOD = """\
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://small/v1"}
  - {name: large, url: "https://large/v1", api_key: {env: LARGE_KEY}}
recipes:
  general:
    signals:
      hard: {type: keyword, any: [prove]}
    decisions:
      - name: panel
        when: {any: [hard]}
        algorithm: {type: fusion, analysis_models: [small, large], judge_model: large}
      - name: default
        algorithm: {type: single, model: small}
entrypoints:
  looper/auto: general
"""


def edited(*edits: tuple[str, str]) -> str:
    """The good file with each old text, which must be in it, replaced by a new one."""
    text = GOOD
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


class TestGood:
    def test_a_short_file_is_a_configuration(self) -> None:
        """What is not said has a default; what is said is there."""
        config = parse_config(GOOD, "f.yaml")
        panel, default = config.recipes["general"].decisions
        assert isinstance(panel.algorithm, FusionConfig)
        assert isinstance(default.algorithm, SingleConfig)
        assert [each.model for each in panel.algorithm.analysis_models] == ["small", "large"]
        assert config.entrypoints == {"looper/auto": "general"}
        assert config.limits.max_body == 32 << 20
        assert config.heartbeat.total_seconds() == 10
        assert config.envoy.body_mode == "full_duplex"

    @pytest.mark.parametrize(
        "path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name
    )
    def test_the_examples_load(self, path: Path) -> None:
        """What is shipped to be copied is right."""
        assert isinstance(load_config(path), Config)

    def test_a_configuration_never_changes(self) -> None:
        """A request keeps the version that it began with, so nobody may change it."""
        config = parse_config(GOOD, "f.yaml")
        with pytest.raises(ValueError, match="frozen"):
            config.egress = "x"  # type: ignore[misc]

    @pytest.mark.parametrize(
        "edit",
        [
            pytest.param(("egress: unix:/run/egress.sock", "egress: http://127.0.0.1:9000"), id="egress-over-tcp"),
            pytest.param(("version: 1", "version: 1\nlimits: {max_body: 64KiB}"), id="limits"),
            pytest.param(("version: 1", "version: 1\nheartbeat: 250ms"), id="heartbeat"),
            pytest.param(("when: {any: [hard]}", "when: {not: {all: [hard, {not: hard}]}}"), id="nested-rule"),
            pytest.param(("when: {any: [hard]}", "when: hard\n        priority: -3"), id="priority"),
            pytest.param(("version: 1", "version: 1\nenvoy: {ingress: 'unix:/a', admin: '127.0.0.1:1'}"), id="envoy"),
        ],
    )  # fmt: skip
    def test_variations_are_configurations_too(self, edit: tuple[str, str]) -> None:
        """Each setting takes what its description says."""
        assert parse_config(edited(edit), "f.yaml")


# What is wrong, and the one line that says so.
P = "recipes.general.projections"
TASK = "{type: partition, members: [hard], default: chat}"
D0, D1 = "recipes.general.decisions[0]", "recipes.general.decisions[1]"
WRONG = [
    ("unknown-key", ("version: 1", "version: 1\nheartbeet: 10s"),
     2, "heartbeet: unknown key; did you mean 'heartbeat'?"),
    ("unknown-key-unlike-any", ("version: 1", "version: 1\nxyzzy: 1"), 2, "xyzzy: unknown key"),
    ("unknown-key-in-a-model", ('url: "http://small/v1"', 'url: "http://small/v1", ratng: 1'),
     4, "models[0].ratng: unknown key; did you mean 'rating'?"),
    ("unknown-key-in-an-algorithm", ("judge_model: large", "judge_model: large, max_concurent: 3"),
     13, f"{D0}.algorithm.max_concurent: unknown key; did you mean 'max_concurrent'?"),
    ("key-of-another-algorithm", ("judge_model: large", "judge_model: large, model: small"),
     13, f"{D0}.algorithm.model: unknown key; did you mean 'judge_model'?"),
    ("key-of-another-algorithm-alone", ("model: small}", "model: small, judge_model: large}"),
     15, f"{D1}.algorithm.judge_model: unknown key"),
    ("unknown-key-in-a-signal", ("any: [prove]", "any: [prove], non: [x]"),
     9, "recipes.general.signals.hard.non: unknown key; did you mean 'none'?"),
    ("unknown-key-in-a-secret", ("{env: LARGE_KEY}", "{value: x, env: LARGE_KEY}"),
     5, "models[1].api_key.value: unknown key"),
    ("missing-key", ("version: 1\n", ""), 1, "version: is missing"),
    ("missing-key-in-a-model", ("name: small, ", ""), 4, "models[0].name: is missing"),
    ("other-version", ("version: 1", "version: 2"), 1, "version: must be 1"),
    ("wrong-type", ("- name: panel", "- name: [panel]"), 11, f"{D0}.name: "),
    ("no-models", ("models:\n", "models: []\nx:\n"), 3, "models: "),
    ("bad-url", ("http://small/v1", "small/v1"), 4, "models[0].url: a URL is http:// or https://"),
    ("bad-name", ("name: small,", "name: 'sm all',"), 4, "models[0].name: "),
    ("bad-duration", ("version: 1", "version: 1\nheartbeat: 10"), 2, "heartbeat: a duration is a number and a unit"),
    ("zero-heartbeat", ("version: 1", "version: 1\nheartbeat: 0s"), 2, "heartbeat: "),
    ("endless-duration", ("version: 1", "version: 1\nheartbeat: 999999999999h"), 2, "heartbeat: "),
    ("bad-size", ("version: 1", "version: 1\nlimits:\n  max_body: 32MB"), 3, "limits.max_body: a size is a number"),
    ("bad-egress", ("unix:/run/egress.sock", "ftp://x"), 2, "egress: "),
    ("bad-address", ("version: 1", "version: 1\nenvoy:\n  body_mode: buffered\n  ingress: x"), 4, "envoy.ingress: "),
    ("forwarded-credential", ("version: 1", "version: 1\nforward_headers: [x-tenant, Authorization]"),
     2, "forward_headers[1]: authorization is never forwarded: Envoy's routes take it away"),
    ("forwarded-own-header", ("version: 1", "version: 1\nforward_headers: [x-looper-model]"),
     2, "forward_headers[0]: "),
    ("forwarded-clock", ("version: 1", "version: 1\nforward_headers: [x-envoy-max-retries]"),
     2, "forward_headers[0]: "),
    ("forwarded-hop", ("version: 1", "version: 1\nforward_headers: [Connection]"),
     2, "forward_headers[0]: connection is"),
    ("forwarded-pseudo-header", ("version: 1", "version: 1\nforward_headers: [':path']"), 2, "forward_headers[0]: "),
    ("no-secret", ("{env: LARGE_KEY}", "{header: x-key}"),
     5, "models[1].api_key: give exactly one of `env` and `file`"),
    ("rating-in-words", ('small/v1"', 'small/v1", rating: high'), 4, "models[0].rating: "),
    ("rating-of-a-category", ('small/v1"', 'small/v1", rating: {math: 2}'), 4, "models[0].rating.math: "),
    ("unknown-algorithm", ("type: single", "type: singel"), 15, f"{D1}.algorithm: "),
    ("no-algorithm", ("{type: single, model: small}", "{model: small}"), 15, f"{D1}.algorithm: "),
    ("unknown-signal-kind", ("type: keyword", "type: keywrd"), 9, "recipes.general.signals.hard"),
    ("misspelt-word", ("judge_model: large", "judge_model: large, on_error: fial"),
     13, f"{D0}.algorithm.on_error: must be 'skip' or 'fail'; did you mean 'fail'?"),
    ("neither-word-nor-number", ("judge_model: large", "judge_model: large, skip_judge_when: posterior>=2"),
     13, f"{D0}.algorithm.skip_judge_when: it is unanimous, never, or posterior>= and a number from 0 to 1"),
    ("empty-signal", (", any: [prove]", ""), 9, "recipes.general.signals.hard: give at least one of"),
    ("number-for-a-word", ("[prove]", "[prove, 5]"), 9, "recipes.general.signals.hard.any[1]: "),
    ("yes-for-a-word", ("[prove]", "[yes]"), 9, "recipes.general.signals.hard.any[0]: "),
    ("rule-is-a-list", ("{any: [hard]}", "[hard]"), 12, f"{D0}.when: "),
    ("rule-is-a-number", ("{any: [hard]}", "5"), 12, f"{D0}.when: "),
    ("rule-with-an-unknown-key", ("{any: [hard]}", "{ani: [hard]}"), 12, f"{D0}.when: "),
    ("rule-without-parts", ("{any: [hard]}", "{any: []}"), 12, f"{D0}.when.any: "),
    ("rule-with-a-word-for-parts", ("{any: [hard]}", "{any: hard}"), 12, f"{D0}.when.any: "),
    ("rule-with-two-keys", ("{any: [hard]}", "{any: [hard], all: [hard]}"), 12, f"{D0}.when.any: unknown key"),
    ("rule-with-a-number", ("{any: [hard]}", "{any: [hard, {not: 5}]}"), 12, f"{D0}.when.any[1].not: "),
    ("dangling-signal", ("{any: [hard]}", "{any: [hard, {not: herd}]}"),
     12, f"{D0}.when.any[1].not: unknown signal 'herd': did you mean 'hard'?"),
    ("dangling-model", ("model: small}", "model: smal}"),
     15, f"{D1}.algorithm.model: unknown model 'smal': did you mean 'small'?"),
    ("entrypoint-for-a-model", ("model: small}", "model: looper/auto}"),
     15, f"{D1}.algorithm.model: 'looper/auto' is an entrypoint, which clients ask for and no model; models: large"),
    ("words-for-a-number", ("judge_model: large", "judge_model: large, max_concurrent: many"),
     13, f"{D0}.algorithm.max_concurrent: must be a whole number"),
    ("too-small-a-number", ("judge_model: large", "judge_model: large, max_concurrent: 0"),
     13, f"{D0}.algorithm.max_concurrent: must be at least 1"),
    ("too-large-a-number", ("version: 1", "version: 1\ntrace: {sample: 2}"), 2, "trace.sample: must be at most 1"),
    ("word-for-a-switch", ("version: 1", "version: 1\ndebug: maybe"), 2, "debug: must be true or false"),
    ("text-for-keys", ("version: 1", "version: 1\nlimits: large"), 2, "limits: must have keys and values"),
    ("text-for-a-list", ("[small, large]", "small"), 13, f"{D0}.algorithm.analysis_models: must be a list"),
    ("no-kind-like-that", ("type: single", "type: singel"), 15,
     f"{D1}.algorithm: there is no type 'singel'; expected 'single', "),
    ("dangling-panel-model", ("[small, large]", "[small, xyzzy]"),
     13, f"{D0}.algorithm.analysis_models[1]: unknown model 'xyzzy': known: large, small"),
    ("dangling-judge", ("judge_model: large", "judge_model: larg"), 13, f"{D0}.algorithm.judge_model: unknown model"),
    ("dangling-final", ("judge_model: large", "judge_model: large, final_model: x"),
     13, f"{D0}.algorithm.final_model: unknown model"),
    ("dangling-recipe", ("looper/auto: general", "looper/auto: generl"),
     17, "entrypoints.looper/auto: unknown recipe 'generl': did you mean 'general'?"),
    ("entrypoint-like-a-model", ("looper/auto: general", "small: general"),
     17, "entrypoints.small: 'small' is also the name of a model"),
    ("bad-entrypoint", ("looper/auto: general", "loo per: general"), 17, "entrypoints.loo per: "),
    ("number-for-an-entrypoint", ("looper/auto: general", "5: general"), 17, "entrypoints"),
    ("model-named-twice", ("name: large,", "name: small,"), 5, "models[1].name: the model 'small' is named twice"),
    ("decision-named-twice", ("name: default", "name: panel"), 14, f"{D1}.name: the decision 'panel' is named twice"),
    ("no-end", ("      - name: default\n        algorithm: {type: single, model: small}\n", ""),
     11, f"{D0}: the last decision must be unconditional"),
    ("no-end-but-a-shadow", ("{type: single, model: small}", "{type: single, model: small}\n        shadow: true"),
     14, f"{D1}: the last decision must be unconditional"),
    ("no-end-but-for-some", ("{type: single, model: small}", "{type: single, model: small}\n        percent: 99.9"),
     14, f"{D1}: the last decision must be unconditional"),
    ("percent-over-100", ("when: {any: [hard]}", "percent: 101"), 12, f"{D0}.percent: "),
    ("a-dot-in-a-signal", ("hard: {type", "har.d: {type"), 9, "recipes.general.signals.har.d: "),
    *((name, ("    decisions:", f"    projections: {{{text}}}\n    decisions:"), 10, f"{P}.{problem}")
      for name, text, problem in [
        ("clash", f"hard: {TASK}", "hard: 'hard' is also the name of a signal"),
        ("unknown-kind", "x: {type: scor}", "x: "),
        ("dangling-member", "x: {type: partition, members: [herd], default: y}",
         "x.members.herd: unknown signal 'herd'"),
        ("dangling-rule", "x: {type: partition, members: {y: {all: [hard, {not: herd}]}}, default: z}",
         "x.members.y.all[1].not: unknown signal 'herd': did you mean 'hard'?"),
        ("member-rule-of-two-keys", "x: {type: partition, members: {y: {all: [hard], any: [hard]}}, default: z}",
         "x.members.y.any: unknown key"),
        ("dangling-weight", "x: {type: score, weights: {hrd: 1}, bands: [{a: 1}]}",
         "x.weights.hrd: unknown signal 'hrd': did you mean 'hard'?"),
        ("key-of-a-weight", "x: {type: score, weights: {hard: {weight: 1, pr: 5}}, bands: [{a: 1}]}",
         "x.weights.hard.pr: unknown key; did you mean 'per'?"),
        ("band-out-of-order", "x: {type: score, weights: {hard: 1}, bands: [{a: 0.5}, {b: 0.4}, {c: 1}]}",
         "x.bands: 'b' ends at 0.4, and must end above 'a' (0.5)"),
        ("cycle", "x: {type: score, weights: {x: 1}, bands: [{a: 1}]}", "x: hangs on itself: x → x"),
    ]),
    ("dangling-member-in-a-rule", ("decisions:\n      - name: panel\n        when: {any: [hard]}",
     f"projections: {{task: {TASK}}}\n    decisions:\n      - name: panel\n        when: {{any: [task.hrd]}}"),
     13, f"{D0}.when.any[0]: unknown name 'task.hrd': did you mean 'task.hard'?"),
    ("dangling-category", ("{type: fusion, analysis_models: [small, large], judge_model: large}",
                           "{type: ratings, models: [small, large], category: task}"),
     13, f"{D0}.algorithm.category: unknown projection 'task': known: none"),
    ("state-without-a-type", ("version: 1", "version: 1\nstate: {ttl: 5m}"), 2, "state: `type` is missing"),
    ("state-with-a-password-in-its-url", ("version: 1",
     "version: 1\nstate: {type: redis, url: 'redis://:secret@r', keys: [{env: K}]}"),
     2, "state.url: must not carry a credential: use `username` and `password`"),
    ("state-in-redis-without-keys", ("version: 1", "version: 1\nstate: {type: redis, url: 'redis://r', keys: []}"),
     2, "state.keys: must have at least 1 item"),
    *((f"passthrough-{name}", ("version: 1", f"version: 1\npassthrough: [{{{rule}}}]"), 2, f"passthrough[0].{problem}")
      for name, rule, problem in [
        ("without-a-model", "paths: [/v1/files]", "model: is missing"),
        ("to-nobody", "model: smal, paths: [/v1/files]", "model: unknown model 'smal': did you mean 'small'?"),
        ("of-nothing", "model: small, paths: []", "paths: must have at least 1 item"),
        ("of-chats", "model: small, paths: [/v1/chat/completions/x]", "paths[0]: /v1/chat/completions is answered"),
        ("of-models", "model: small, paths: [/v1/models]", "paths[0]: /v1/models is answered here"),
        ("of-everything", "model: small, paths: [/]", "paths[0]: '/' is no path such as /v1/files"),
        ("with-a-query", "model: small, paths: ['/v1/x?a']", "paths[0]: '/v1/x?a' is no path"),
        ("that-climbs", "model: small, paths: [/v1/../x]", "paths[0]: '/v1/../x' is no path"),
        ("of-no-slash", "model: small, paths: [v1/files]", "paths[0]: 'v1/files' is no path"),
        ("twice", "model: small, paths: [/v1/files, /v1/files/*]", "paths[1]: /v1/files leads somewhere already"),
    ]),
    ("key-twice", ("version: 1", "version: 1\nversion: 1"), 2, "version: the key stands twice"),
    ("not-yaml", ("version: 1", "version: [1"), None, ""),
    ("impossible-date", ("version: 1", "version: 2020-13-45"), 1, ""),
]  # fmt: skip


class TestWrong:
    @pytest.mark.parametrize(
        ("edit", "line", "text"),
        [pytest.param(edit, line, text, id=name) for name, edit, line, text in WRONG],
    )
    def test_is_said_with_line_path_and_suggestion(
        self, edit: tuple[str, str], line: int | None, text: str
    ) -> None:
        """A mistake has a line of its own: file, line, where in the tree, what, and what may have been meant."""
        said = problems(edited(edit))
        expected = "f.yaml:" if line is None else f"f.yaml:{line}: {text}"
        assert [problem for problem in said if problem.startswith(expected)], said

    @pytest.mark.parametrize(
        "edit",
        [
            pytest.param(edit, id=name)
            for name, edit, *_ in WRONG
            # A bracket that is not closed, and what replaces the models, have consequences.
            if name not in ("not-yaml", "no-models", "dangling-model", "model-named-twice")
        ],
    )
    def test_is_said_once(self, edit: tuple[str, str]) -> None:
        """One mistake is one line: how the schema is built inside is not an operator's business."""
        assert len(problems(edited(edit))) == 1

    @pytest.mark.parametrize("edit", [pytest.param(edit, id=name) for name, edit, *_ in WRONG])
    def test_every_path_is_of_the_file(self, edit: tuple[str, str]) -> None:
        """A path names keys that an operator wrote or left out, never types or tags of the schema."""
        for problem in problems(edited(edit)):
            path = re.fullmatch(r"f\.yaml:\d+: (?:([^:]*(?:/[^:]*)?): )?.*", problem)
            assert path is not None, problem
            assert not re.search(r"constrained|\[key\]|dict\[|\.name\.name|any\.any|all\.all|\.fusion|\.single",
                                 path[1] or ""), problem  # fmt: skip

    def test_all_are_said_at_once_in_the_order_of_the_file(self) -> None:
        """An operator mends a file in one go, from top to bottom."""
        text = edited(
            ("version: 1", "version: 2"), ("http://small/v1", "nope"), ("type: keyword", "type: kw"),
            ("model: small}", "modell: small}"), ("looper/auto", "loo per"),
        )  # fmt: skip
        said = problems(text)
        lines = [int(problem.split(":")[1]) for problem in said]
        assert lines == sorted(lines)
        assert {1, 4, 9, 15, 17} <= set(lines)

    def test_all_that_refers_to_nothing_is_said_at_once(self) -> None:
        """Dangling names are found in one go as well."""
        text = edited(
            ("{any: [hard]}", "herd"), ("[small, large]", "[smal, larg]"), ("looper/auto: general", "looper/auto: x"),
        )  # fmt: skip
        assert [int(problem.split(":")[1]) for problem in problems(text)] == [12, 13, 13, 17]

    @pytest.mark.parametrize("text", ["", "# nothing\n", "[]", "5", "text", "- a: 1"], ids=repr)
    def test_what_is_no_mapping_is_no_configuration(self, text: str) -> None:
        """A file that is empty, or something else, is told what a configuration looks like."""
        (problem,) = problems(text)
        assert problem.startswith("f.yaml:1: a configuration is a mapping")

    @pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "not-utf-8"])
    def test_a_file_that_cannot_be_read_is_a_problem(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        """There is no traceback for a wrong path."""
        path = tmp_path / "looper.yaml"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.problems[0].startswith(f"{path}: cannot be read")

    def test_a_file_is_called_by_its_path(self, tmp_path: Path) -> None:
        """An editor can open what an error names."""
        path = tmp_path / "looper.yaml"
        path.write_text("version: 1\n")
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.problems[0].startswith(f"{path}:1: ")


def doubts_of_budgets(text: str) -> list[str]:
    return [found for found in warnings(parse(text, "f.yaml")) if "budget" in found]


class TestBudgets:
    """A plan is compared with its budget when the file is read. The judge is always asked."""

    AT = "f.yaml:11: recipes.general.decisions[0]:"
    SMALL = 'small, url: "http://small/v1"'
    LARGE = 'large, url: "https://large/v1"'
    BOUNDED = ((SMALL, SMALL + ", max_output: 1k"), (LARGE, LARGE + ", max_output: 2k"))
    JUDGE = "judge_model: large}"
    ALWAYS = "judge_model: large, skip_judge_when: never}"

    @pytest.mark.parametrize(
        ("budget", "limit", "needed"),
        [
            pytest.param("{calls: 3}", "calls", "4", id="calls"),
            pytest.param("{tokens: 1000}", "tokens", "1024, and the prompts", id="tokens"),
            pytest.param(
                "{cost_usd: 0.001}", "cost_usd", "0.001536, and what the prompts cost", id="money"
            ),
        ],
    )
    def test_one_without_room_for_a_good_run_is_wrong(
        self, budget: str, limit: str, needed: str
    ) -> None:
        """Two members, a judge and a final model: four calls, of 256 tokens at the least."""
        price = (self.LARGE, self.LARGE + ", price: {input: 1, output: 2}")
        text = edited(price, (self.JUDGE, f"{self.ALWAYS}\n        budget: {budget}"))
        (problem,) = problems(text)
        assert problem.startswith("f.yaml:14: recipes.general.decisions[0].budget." + limit)
        assert "no room for even one run" in problem
        assert f"that takes at least {needed}" in problem

    @pytest.mark.parametrize(
        ("budget", "warned"),
        [
            pytest.param("{calls: 4, tokens: 41k, cost_usd: 0.07}", None, id="enough"),
            pytest.param("{tokens: 5k}", "may need 41000 tokens", id="tokens"),
            pytest.param("{cost_usd: 0.01}", "may cost 0.062 USD", id="money"),
        ],
    )
    def test_what_a_run_may_need_beyond_it_is_a_warning(
        self, budget: str, warned: str | None
    ) -> None:
        """The judge answers thrice, 2k at the most, and reads up to three answers of up to 2k."""
        prices = (
            (self.SMALL, self.SMALL + ", price: {input: 1, output: 2}"),
            (self.LARGE, self.LARGE + ", price: {input: 1, output: 3}"),
        )
        text = edited(
            *self.BOUNDED, *prices, (self.JUDGE, f"{self.ALWAYS}\n        budget: {budget}")
        )
        found = [each for each in doubts_of_budgets(text) if "pays for" not in each]
        assert len(found) == (warned is not None)
        for text in found:
            assert text.startswith(f"{self.AT} {warned} for a prompt of 1000 tokens, ")
            assert text.endswith(" and its budget has 5000") or text.endswith(
                " and its budget has 0.01"
            )

    @pytest.mark.parametrize(
        ("budget", "paid"),
        [
            pytest.param("{tokens: 6512}", None, id="both"),
            pytest.param("{tokens: 6511}", "1 of 2", id="one"),
            pytest.param("{tokens: 4511}", "0 of 2", id="none"),
            pytest.param("{cost_usd: 0.009512}", None, id="both-in-money"),
            pytest.param("{cost_usd: 0.009511}", "1 of 2", id="one-in-money"),
        ],
    )
    def test_how_many_members_it_pays_is_said(self, budget: str, paid: str | None) -> None:
        """Each with a prompt and an answer of 1000 tokens, judge and final model with the least answer."""
        prices = (
            (self.SMALL, self.SMALL + ", price: {input: 1, output: 1}"),
            (self.LARGE, self.LARGE + ", price: {input: 2, output: 1}"),
        )
        text = edited(*prices, (self.JUDGE, f"{self.ALWAYS}\n        budget: {budget}"))
        said = (
            f"{self.AT} its budget pays for {paid} calls of role panel with 1000 tokens of prompt"
        )
        found = [each for each in doubts_of_budgets(text) if "pays for" in each]
        assert found == ([] if paid is None else [f"{said} and 1000 of answer each"])

    def test_stand_ins_need_room_too(self) -> None:
        algorithm = f"substitutes: [small], {self.ALWAYS}\n        budget: {{calls: 5}}"
        (found,) = doubts_of_budgets(edited((self.JUDGE, algorithm)))
        assert found == f"{self.AT} may need 6 calls, and its budget has 5"

    def test_what_nothing_but_the_budget_bounds_is_said(self) -> None:
        text = edited((self.JUDGE, f"{self.ALWAYS}\n        budget: {{tokens: 9M, cost_usd: 9}}"))
        assert doubts_of_budgets(text) == [
            f"{self.AT} its budget is in money, and has no price for small, large",
            f"{self.AT} only its budget of tokens bounds what these models answer: small, large",
        ]


class TestState:
    """Where runs wait has to be found by the process that their clients come back to."""

    SEVERAL = ("version: 1", "version: 1\nenvoy: {processors: ['unix:/a', 'unix:/b']}")
    PAUSES = (
        "{type: fusion, analysis_models: [small, large], judge_model: large}",
        "{type: workflows, steps: [{id: a, models: [small], prompt: x}], final: {model: large}}",
    )
    MEMORY = ("egress:", "state: {type: memory}\negress:")
    REDIS = ("egress:", "state: {type: redis, url: 'redis://r', keys: [{env: K}]}\negress:")

    @pytest.mark.parametrize("said", [(), (MEMORY,)], ids=["by-default", "said"])
    def test_several_processes_have_no_common_memory(self, said: Any) -> None:
        """With workflows that is an error, at the place that says it, or at the beginning of the file."""
        (problem,) = problems(edited(self.SEVERAL, self.PAUSES, *said))
        line = 3 if said else 1
        text = (
            "state: workflows of several processors need `state: {type: redis}`: each has a memory"
        )
        assert problem.startswith(f"f.yaml:{line}: {text}")

    @pytest.mark.parametrize(
        "edits",
        [(SEVERAL, PAUSES, REDIS), (SEVERAL, MEMORY), (PAUSES, MEMORY)],
        ids=["in-redis", "nobody-waits", "one-process"],
    )
    def test_what_is_no_error(self, edits: Any) -> None:
        """A store that all share; nothing to keep; a process that everybody comes back to."""
        assert parse_config(edited(*edits), "f.yaml")


class TestSecrets:
    @pytest.mark.parametrize(
        "edit",
        [
            pytest.param(("{env: LARGE_KEY}", SECRET), id="for-the-reference"),
            pytest.param(("{env: LARGE_KEY}", f"{{value: {SECRET}}}"), id="under-a-key-of-its-own"),
            pytest.param(("{env: LARGE_KEY}", f"{{env: {SECRET}}}"), id="for-the-name-of-a-variable"),
            pytest.param(("{env: LARGE_KEY}", f"{{file: {SECRET}}}"), id="for-the-path-of-a-file"),
            pytest.param(("{env: LARGE_KEY}", f"{{env: A, prefix: [{SECRET}]}}"), id="for-a-prefix"),
            pytest.param(("{env: LARGE_KEY}", f"{{env: A, header: 'Authorization: {SECRET}'}}"), id="in-a-header"),
            pytest.param(("{env: LARGE_KEY}", f"[{SECRET}]"), id="in-a-list"),
            pytest.param(("https://large/v1", f"https://user:{SECRET}@large/v1"), id="in-a-url"),
            pytest.param(("https://large/v1", f"https://large/v1?key={SECRET}"), id="in-a-query"),
            pytest.param(("https://large/v1", f"large/{SECRET}"), id="in-a-bad-url"),
            pytest.param(("api_key:", f"headers: {{x-key: [{SECRET}]}}, api_key:"), id="in-headers"),
            pytest.param(("api_key:", f"price: {SECRET}, api_key:"), id="for-a-price"),
            pytest.param(("egress: unix:/run/egress.sock", f"egress: https://user:{SECRET}@x"), id="in-the-egress"),
            pytest.param(("version: 1", f"version: {SECRET}"), id="for-the-version"),
            pytest.param(("version: 1", f"version: 1\nheartbeat: {SECRET}"), id="for-a-duration"),
        ],
    )  # fmt: skip
    def test_are_not_said_in_errors(self, edit: tuple[str, str]) -> None:
        """Who writes a key where a reference belongs does not find it in a log."""
        assert SECRET not in "\n".join(problems(edited(edit)))

    def test_are_not_in_the_configuration(self) -> None:
        """A configuration holds where a secret is to be found, and nothing more."""
        config = parse_config(GOOD, "f.yaml")
        key = config.models[1].api_key
        assert key is not None
        assert (key.env, key.file) == ("LARGE_KEY", None)


def test_a_bomb_is_no_configuration() -> None:
    """A file whose aliases would unfold without end is refused, or read, in moments."""
    lines = ["a0: &a0 {k: x}"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 4)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError):
        parse_config("version: 1\n" + "\n".join(lines), "f.yaml")


def test_the_schema_describes_every_setting() -> None:
    """The JSON Schema for editors can be made, and has the top-level keys."""
    schema: dict[str, Any] = Config.model_json_schema()
    assert {"version", "egress", "models", "recipes", "entrypoints"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
