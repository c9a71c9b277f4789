"""What is no error in a configuration, but hardly meant."""

from pathlib import Path

import pytest

from extproc.config import absences, parse, warnings
from extproc.errors import ConfigError

HEAD = """\
version: 1
egress: unix:/e.sock
models:
  - {name: small, url: "http://small/v1", capabilities: [logprobs], context_window: 8k}
  - {name: large, url: "http://large/v1", capabilities: [vision]}
entrypoints: {looper/auto: general}
recipes:
  general:
"""
DEFAULT = "      - {name: default, algorithm: {type: single, model: small}}\n"
BOTH = "      - {name: big, algorithm: {type: single, model: large}, when: big}\n" + DEFAULT


def found(recipe: str, head: str = HEAD) -> list[str]:
    return [line.removeprefix("f.yaml:") for line in warnings(parse(head + recipe, "f.yaml"))]


def of_signals(*signals: str) -> list[str]:
    """What is found where each signal is used by a decision."""
    names = [f"s{number}" for number in range(len(signals))]
    lines = "".join(f"      {name}: {text}\n" for name, text in zip(names, signals, strict=True))
    rule = f"{{any: [{', '.join(names)}]}}"
    used = f"      - {{name: used, when: {rule}, algorithm: {{type: single, model: large}}}}\n"
    return found(f"    signals:\n{lines}    decisions:\n{used}{DEFAULT}")


def test_a_plain_configuration_raises_no_doubts() -> None:
    """Nothing is said where there is nothing to say."""
    assert of_signals("{type: keyword, any: [prove, compare]}") == []


@pytest.mark.parametrize(
    ("signal", "told"),
    [
        ("{type: keyword, any: [x]}", "`roles: all` looks at every message"),
        ("{type: structure, of: fences}", "only `keyword` takes `roles`"),
        ("{type: language, any: [de]}", "only `keyword` takes `roles`"),
        ("{type: keyword, any: [x], roles: all}", None),
        ("{type: keyword, any: [x], roles: [user, system]}", None),
        ("{type: header, name: x-team, exists: true}", None),
    ],
)
def test_guards_that_read_only_the_user_are_told(signal: str, told: str | None) -> None:
    """Whoever writes a message of another role passes them by."""
    guard = "      - {name: guard, when: g, on_unknown: act, respond: {message: Not here.}}\n"
    said = found(f"    signals:\n      g: {signal}\n    decisions:\n{guard}{DEFAULT}")
    guards = [each for each in said if "a `respond` hangs on it" in each]
    assert len(guards) == (told is not None)
    assert all(told is not None and told in each for each in guards)


def configured(more: str = "", model: str = "", egress: str = "unix:/e.sock") -> str:
    """A small configuration with something in it."""
    url = "" if "url:" in model else 'url: "http://small/v1", '
    return (
        f"version: 1\negress: {egress}\n{more}\nmodels:\n  - {{name: small, {url}{model}}}\n"
        f"entrypoints: {{looper/auto: general}}\nrecipes:\n  general:\n    decisions:\n{DEFAULT}"
    )


KEY = "api_key: {env: KEY}"
REDIS = "keys: [{env: K}]"
SHOWING = "{otlp: {endpoint: '%s', headers: {authorization: {env: K}}}}"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (configured(egress="http://0.0.0.0:9900"), "egress"),
        (configured(egress="http://10.0.0.1:9900"), "egress"),
        (configured("envoy: {admin: '0.0.0.0:9901'}"), "envoy.admin"),
        (configured("envoy: {admin: '[::]:9901'}"), "envoy.admin"),
        (configured("envoy: {admin: '127.0.0.1:9901'}"), "envoy.admin"),
        (configured("envoy: {admin: '[::1]:9901'}"), "envoy.admin"),
        (configured("envoy: {admin: 'unix:/run/looper/a.sock'}"), None),
        (configured(model=KEY), "models[0].url"),
        (configured(f"state: {{type: redis, url: 'redis://r:1/0', {REDIS}}}"), "state.url"),
        (configured("state: {type: memory, identity: {header: x-user}}"), "state.identity.header"),
        (configured("heartbeat: 1ms"), "heartbeat"),
        (configured("forward_headers: [x_team]"), "forward_headers"),
        (configured(f"tracing: {SHOWING % 'http://c:4317'}"), "tracing.otlp.endpoint"),
        (configured("envoy: {tracing: {otlp: {endpoint: 'http://c:4317'}}}"), "envoy.tracing"),
        (configured(f"tracing: {SHOWING % 'https://c:4317'}"), None),
        (configured(f"tracing: {SHOWING % 'http://localhost:4317'}"), None),
        (configured("tracing: {otlp: {endpoint: 'http://c:4317'}}"), None),
        (configured(egress="http://127.0.0.1:9900"), None),
        (configured(egress="http://[::1]:9900"), None),
        (configured(model=f'{KEY}, url: "https://a.example/v1"'), None),
        (configured(model=f'{KEY}, url: "http://127.0.0.2:1/v1"'), None),
        (configured(f"state: {{type: redis, url: 'rediss://r:1/0', {REDIS}}}"), None),
        (configured(f"state: {{type: redis, url: 'redis://localhost:1/0', {REDIS}}}"), None),
        (configured("heartbeat: 1s"), None),
    ],
)
def test_what_is_laid_open_is_told(text: str, path: str | None) -> None:
    """Whatever others may reach or read that is the operator's."""
    told = [each for each in warnings(parse(text, "f.yaml")) if "no recipe names" not in each]
    assert len(told) == (path is not None)
    assert all(f": {path}: " in each for each in told)


def test_what_is_not_on_this_machine_is_told_apart(tmp_path: Path) -> None:
    """It may be where Envoy runs, so that it is no warning of the configuration."""
    (tmp_path / "key").touch()
    there = f'api_key: {{file: {tmp_path}/key}}, url: "https://h/v1", tls: {{ca: {tmp_path}/ca}}'
    tracing = f"tracing: {{otlp: {{endpoint: 'https://c', ca: {tmp_path}/roots}}}}"
    loaded = parse(configured(tracing, there, f"unix:{tmp_path}/run/e.sock"), "f.yaml")
    assert warnings(loaded) == []
    told = [each.split(": ")[1] for each in absences(loaded)]
    assert sorted(told) == ["egress", "models[0].tls.ca", "tracing.otlp.ca"]


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("budget: {calls: 2, deadline: 9s}", "budget.calls"),
        ("budget: {tokens: 2k}", "budget.tokens"),
        ("budget: {cost_usd: 1}", "budget.cost_usd"),
        ("overload: small", "overload"),
        ("progress: reasoning", "progress"),
        ("keepalive: whitespace", "keepalive"),
        ("contract_prompt: x", "contract_prompt"),
    ],
)
def test_what_does_nothing_where_envoy_routes_is_told(setting: str, key: str) -> None:
    """A deadline is honoured there; what is of answers that we write, is not."""
    line = f"      - {{name: default, algorithm: {{type: single, model: small}}, {setting}}}\n"
    told = [each for each in found(f"    decisions:\n{line}") if "routes requests" in each]
    assert [each for each in told if key in each] == told != []


def test_headers_are_kept_for_models_that_exist() -> None:
    (told,) = [
        each
        for each in found(
            f"    decisions:\n{DEFAULT}", "envoy: {keep_headers: {smal: [x-a]}}\n" + HEAD
        )
        if "keep_headers" in each
    ]
    assert "did you mean 'small'?" in told


KEEPING = "drop_headers: [x-mine*], keep_headers: {small: [x-auth-token, x-mine-kept]}"


@pytest.mark.parametrize(
    ("decision", "settings", "key"),
    [
        ("headers: {set: {x-auth-token: a}}", "", "headers.set.x-auth-token"),
        ("headers: {append: {x-real-ip: a}}", "", "headers.append.x-real-ip"),
        ("headers: {set: {x-auth-request-a: a}}", "", "headers.set.x-auth-request-a"),
        ("headers: {set: {x-mine-a: a}}", KEEPING, "headers.set.x-mine-a"),
        ("headers: {set: {x-auth-token: a}}", KEEPING, None),
        ("headers: {set: {x-mine-kept: a}}", KEEPING, None),
        ("headers: {set: {x-team: a}}", "", None),
        ("headers: {remove: [x-auth-token]}", "", None),
    ],
)
def test_headers_that_routed_requests_lose_again_are_told(
    decision: str, settings: str, key: str | None
) -> None:
    line = f"      - {{name: default, algorithm: {{type: single, model: small}}, {decision}}}\n"
    head = f"envoy: {{{settings}}}\n" + HEAD if settings else HEAD
    told = [each for each in found(f"    decisions:\n{line}", head) if "Envoy drops it" in each]
    assert [key in each for each in told if key] == [True] * (key is not None)
    assert not told or "on the way to small" in told[0]


def test_a_teams_own_calls_lose_no_headers() -> None:
    """Only what Envoy routes past it does, such as to a model that answers in its place."""
    team = "name: default, algorithm: {type: ratings, models: [small]}"
    said = "headers: {set: {x-auth-token: a}}"
    told = [
        [
            each
            for each in found(f"    decisions:\n      - {{{team}, {said}{more}}}\n")
            if "drops" in each
        ]
        for more in ("", ", tools: {bypass: small}")
    ]
    assert [len(each) for each in told] == [0, 1]


class TestLiterals:
    @pytest.mark.parametrize(
        ("signal", "expected"),
        [
            pytest.param(
                "{type: keyword, any: [prove, Prove]}",
                ".any[1]: changes nothing: 'prove' is there",
                id="case",
            ),
            pytest.param(
                '{type: keyword, any: ["step by step", step]}',
                ".any[0]: changes nothing: 'step' is there",
                id="longer",
            ),
            pytest.param(
                '{type: keyword, none: [x, "x y"]}',
                ".none[1]: changes nothing: 'x' is there",
                id="none",
            ),
            pytest.param(
                '{type: keyword, all: [step, "step by step"]}',
                ".all[0]: changes nothing: 'step by step' is there",
                id="shorter-of-all",
            ),
            pytest.param(
                '{type: keyword, any: [prove, "dis prove"], none: [prove]}',
                ".any[0]: can never count: it has 'prove' in it, which is in `none`",
                id="forbidden",
            ),
            pytest.param(
                "{type: keyword, any: [ÉTÉ, été]}",
                ".any[1]: changes nothing: 'ÉTÉ' is there",
                id="not-ascii",
            ),
        ],
    )
    def test_one_that_changes_nothing_is_named(self, signal: str, expected: str) -> None:
        """Whatever the text is, the signal says the same without it."""
        assert f"10: recipes.general.signals.s0{expected}" in of_signals(signal)

    @pytest.mark.parametrize(
        "signal",
        [
            pytest.param("{type: keyword, any: [prove, improve]}", id="part-of-a-word"),
            pytest.param("{type: keyword, any: [def, define]}", id="beginning"),
            pytest.param("{type: keyword, any: [code], none: [codec]}", id="longer-in-none"),
            pytest.param("{type: keyword, any: [a, b], all: [a]}", id="other-lists"),
        ],
    )
    def test_one_that_counts_is_not(self, signal: str) -> None:
        """A word within a word is another word."""
        assert of_signals(signal) == []


class TestUnused:
    def test_signals_and_projections(self) -> None:
        """What no decision hangs on is never read; what a used projection hangs on is."""
        recipe = """\
    signals:
      a: {type: keyword, any: [a]}
      b: {type: keyword, any: [b]}
      c: {type: keyword, any: [c]}
    projections:
      used: {type: partition, members: [a], default: rest}
      idle: {type: partition, members: [b], default: rest}
    decisions:
      - {name: big, when: used.a, algorithm: {type: single, model: large}}
"""
        nobody = "no decision that can be reached hangs on it"
        assert found(recipe + DEFAULT) == [
            f"11: recipes.general.signals.b: {nobody}",
            f"12: recipes.general.signals.c: {nobody}",
            f"15: recipes.general.projections.idle: {nobody}",
        ]

    def test_a_projection_that_is_a_category_is_used(self) -> None:
        """Ratings by category are looked up by what it finds."""
        recipe = """\
    signals: {a: {type: keyword, any: [a]}}
    projections: {field: {type: partition, members: [a], default: rest}}
    decisions:
      - {name: all, algorithm: {type: ratings, models: [small, large], category: field}}
"""
        assert found(recipe) == []

    def test_models(self) -> None:
        """One that neither a recipe nor a client can ask for."""
        assert found("    decisions:\n" + DEFAULT) == [
            "5: models[1]: no recipe names 'large', and clients may not either"
        ]
        public = HEAD.replace("capabilities: [vision]", "public: true")
        assert found("    decisions:\n" + DEFAULT, public) == []

    def test_decisions_that_cannot_be_reached(self) -> None:
        """One behind another that always holds, and what only it hangs on."""
        recipe = "    signals: {big: {type: keyword, any: [x]}}\n    decisions:\n"
        late = "      - {name: late, when: big, priority: -1, algorithm: {type: single, model: large}}\n"
        assert found(recipe + late + DEFAULT) == [
            "9: recipes.general.signals.big: no decision that can be reached hangs on it",
            "11: recipes.general.decisions[0]: can never be reached",
        ]


class TestOutOfReach:
    RECIPE = """\
    signals: {a: {type: keyword, any: [a]}, b: {type: keyword, any: [b]}}
    projections: {task: {type: partition, members: [a, b], default: rest}}
    decisions:
      - {name: first, when: FIRST, algorithm: {type: single, model: large}}
      - {name: second, when: SECOND, algorithm: {type: single, model: large}}
"""

    def said(self, first: str, second: str) -> list[str]:
        recipe = self.RECIPE.replace("FIRST", first).replace("SECOND", second) + DEFAULT
        return [line for line in found(recipe) if "never be reached" in line]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            pytest.param("a", "a", id="the-same"),
            pytest.param("a", "{all: [a, b]}", id="narrower"),
            pytest.param("{any: [a, b]}", "b", id="one-of"),
        ],
    )
    def test_a_rule_that_only_holds_where_an_earlier_one_does(
        self, first: str, second: str
    ) -> None:
        """The earlier decision is always the one that is made."""
        text = "'first' comes first, and holds whenever it does"
        at = "13: recipes.general.decisions[1]: can never be reached: "
        assert self.said(first, second) == [at + text]

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            pytest.param("{all: [a, b]}", "a", id="wider"),
            pytest.param("a, shadow: true", "a", id="first-only-watches"),
            pytest.param("a, percent: 50", "a", id="first-takes-a-part"),
            pytest.param("a", "a, on_unknown: act", id="second-acts-on-unknown"),
            pytest.param("a", "a, priority: 1", id="second-ranks-first"),
        ],
    )
    def test_a_rule_that_may_hold_alone(self, first: str, second: str) -> None:
        """There is nothing to say where both may be made."""
        assert not any("decisions[1]" in line for line in self.said(first, second))

    def test_a_rule_that_never_holds(self) -> None:
        """A partition makes one thing of a request."""
        assert self.said("b", "{all: [task.a, task.b]}") == [
            "13: recipes.general.decisions[1]: can never be reached: task is never both a and b"
        ]


class TestMembers:
    @pytest.mark.parametrize(
        ("signal", "model", "lacks"),
        [
            pytest.param("{type: conversation, of: images}", "small", "vision", id="images"),
            pytest.param("{type: conversation, of: tools}", "large", "tools", id="tools"),
            pytest.param("{type: context, at_least: 16k}", "small", "context_window", id="length"),
        ],
    )
    def test_that_can_never_take_what_comes(self, signal: str, model: str, lacks: str) -> None:
        """The rule says what a request has that comes to the decision; none of its members can take that."""
        recipe = (
            f"    signals: {{s: {signal}, t: {{type: keyword, any: [t]}}}}\n    decisions:\n"
            f"      - {{name: it, when: RULE, algorithm: {{type: single, model: {model}}}}}\n"
            "      - {name: rest, algorithm: {type: single, model: large, fallbacks: [small]}}\n"
        )
        text = f"no member can take what comes to it: they lack {lacks}"
        certain = found(recipe.replace("RULE", "{all: [s, t]}"))
        assert certain == [f"11: recipes.general.decisions[0]: {text}"]
        assert found(recipe.replace("RULE", "{any: [s, t]}")) == []
        assert found(recipe.replace("RULE", "{all: [{not: s}, t]}")) == []

    def test_one_who_can_is_enough(self) -> None:
        """A fallback that can take it will."""
        recipe = (
            "    signals: {big: {type: conversation, of: images}}\n    decisions:\n"
            "      - {name: it, when: big, algorithm: {type: single, model: small, fallbacks: [large]}}\n"
        )
        assert found(recipe + DEFAULT) == []

    @pytest.mark.parametrize(
        ("algorithm", "expected"),
        [
            pytest.param(
                "{type: fusion, analysis_models: [small, large], judge_model: large}",
                ".judge_model: large is one of the panel, and may prefer its own answer",
                id="judge-of-its-own",
            ),
            pytest.param(
                "{type: ratings, models: [small, large], aggregate: judge, judge_model: small}",
                ".judge_model: small is one of the candidates, and may prefer its own answer",
                id="judge-among-candidates",
            ),
            pytest.param(
                "{type: ratings, models: [small, large]}",
                ".models: small only counts if all who are rated better are silent",
                id="outvoted",
            ),
            pytest.param(
                "{type: single, model: large, fallbacks: [small, large]}",
                ".fallbacks: large has failed already by then",
                id="falls-back-on-itself",
            ),
        ],
    )
    def test_that_can_never_matter(self, algorithm: str, expected: str) -> None:
        """Whoever is asked and cannot change the answer is named, with the reason."""
        rated = HEAD.replace("capabilities: [logprobs]", "rating: 0.3").replace(
            "capabilities: [vision]", "rating: 0.95"
        )
        recipe = f"    decisions:\n      - {{name: it, algorithm: {algorithm}}}\n"
        assert f"10: recipes.general.decisions[0].algorithm{expected}" in found(recipe, rated)


def test_a_category_has_to_exist() -> None:
    """Nobody could look up ratings by what nothing finds."""
    recipe = """\
    signals: {s: {type: keyword, any: [s]}}
    projections: {field: {type: partition, members: [s], default: rest}}
    decisions:
      - {name: it, algorithm: {type: ratings, models: [small, large], category: feild}}
"""
    with pytest.raises(ConfigError, match=r"unknown projection 'feild': did you mean 'field'\?"):
        parse(HEAD + recipe, "f.yaml")


def test_doubts_are_said_of_the_file_they_are_in(tmp_path: Path) -> None:
    """A recipe that is included has lines of its own."""
    (tmp_path / "own.yaml").write_text(
        "models: {a: answers}\nrecipe:\n  signals:\n    s: {type: keyword, any: [x, X]}\n"
        "  decisions:\n    - {name: it, when: s, algorithm: {type: single, model: a}}\n"
        "    - {name: rest, algorithm: {type: single, model: a}}\n"
    )
    text = HEAD.replace("  general:\n", "  general: {include: own.yaml, models: {a: small}}\n")
    name = str(tmp_path / "looper.yaml")
    assert warnings(parse(text, name)) == [
        f"{name}:5: models[1]: no recipe names 'large', and clients may not either",
        f"{tmp_path / 'own.yaml'}:4: recipe.signals.s.any[1]: changes nothing: 'x' is there",
    ]


@pytest.mark.parametrize(
    ("tenants", "more", "told"),
    [
        ("{acme: {calls: 5}, other: {calls: 1}}", "", []),
        ("{acme: {}}", "", []),
        ("{acme: {calls: 5}}", "", ["limits.tenants: whoever is not named here"]),
        (
            "{acme: {calls: 5}, other: {calls: 1}}",
            'envoy: {processors: ["unix:/a.sock", "unix:/b.sock"]}\n',
            ["limits.tenants: each of the processors counts for itself"],
        ),
        (
            "{acme: {tokens: 5}, other: {calls: 1}}",
            "",
            ["limits.tenants.acme: routed answers do not count"],
        ),
        ("{acme: {tokens: 5}, other: {calls: 1}}", "envoy: {profile: metered}\n", []),
    ],
)
def test_limits_that_hold_for_less_than_they_seem_to_are_told(
    tenants: str, more: str, told: list[str]
) -> None:
    said = tenancy(TENANT, f"limits: {{tenants: {tenants}}}\n{more}")
    assert len(said) == len(told)
    assert all(text in line for text, line in zip(told, said, strict=True))


TENANT = (
    "{looper/auto: {recipe: general, tenant: {attribute: connection.subject_peer_certificate}}}"
)


def tenancy(entrypoints: str, more: str) -> list[str]:
    """What is found of tenants."""
    head = HEAD.replace("entrypoints: {looper/auto: general}", f"entrypoints: {entrypoints}")
    lines = found("    decisions:\n" + DEFAULT, more + head)
    return [line for line in lines if "tenant" in line]


def test_ways_around_tenants_are_told() -> None:
    limits = "limits: {tenants: {acme: {calls: 5}, other: {calls: 1}}}\n"
    for entrypoints, text in (
        (TENANT[:-1] + ", looper/free: general}", "entrypoints.looper/free: has no `tenant`"),
        ("{looper/auto: general}", "limits.tenants: no entrypoint says"),
        (
            TENANT.replace("attribute: connection.subject_peer_certificate", "header: x-team"),
            "a client may send it",
        ),
    ):
        (line,) = tenancy(entrypoints, limits)
        assert text in line


def test_tenants_have_to_be_on_a_list() -> None:
    with pytest.raises(
        ConfigError, match=r"looper/auto.*tenant: name the tenants in `limits.tenants`"
    ):
        tenancy(TENANT, "")
