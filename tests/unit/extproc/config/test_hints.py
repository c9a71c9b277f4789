"""What `looper check` says of what can never be, and of what YAML or an operator read otherwise."""

import pytest

from extproc.config import parse, warnings
from extproc.errors import ConfigError

TEXT = """\
version: 1
egress: unix:/run/looper/egress.sock
models:
  - {name: small, url: "http://10.0.0.11:8000/v1", capabilities: [tools]}
  - {name: large, url: "http://10.0.0.12:8000/v1"}
recipes:
  general:
    signals:
      hard: {type: keyword, any: [prove]}
      code: {type: keyword, any: [def]}
    projections:
      difficulty: {type: score, weights: {hard: 0.4, code: 0.2}, bands: [{easy: 0.15}, {medium: 0.5}, {tough: 1}]}
    decisions:
      - name: chain
        when: {any: [hard, code]}
        algorithm: {type: confidence, stages: [small, large], confidence_method: avg_logprob, threshold: 0.7}
      - name: by_band
        when: difficulty.tough
        algorithm: {type: single, model: large}
      - name: default
        algorithm: {type: single, model: small}
entrypoints: {looper/auto: general}
"""
MUTE = "which small cannot give by their `capabilities`"


def said(old: str = "", new: str = "") -> str:
    assert old in TEXT
    try:
        return "\n".join(warnings(parse(TEXT.replace(old, new, 1), "looper.yaml")))
    except ConfigError as error:
        return "\n".join(error.problems)


@pytest.mark.parametrize(
    ("old", "new", "reached"),
    [
        ("hard: 0.4", "hard: 0.2", False),
        ("hard: 0.4", "hard: 0.5", True),
        ("hard: 0.4, code: 0.2", "hard: 0.2, code: {weight: 0.2, of: score}", False),
        ("hard: 0.4, code: 0.2", "hard: 0.6, code: -0.5", True),
        ("difficulty.tough", "difficulty.medium", True),
        ("difficulty.tough", "{not: difficulty.tough}", True),
    ],
)
def test_a_band_that_weights_cannot_reach(old: str, new: str, reached: bool) -> None:
    assert ("can never be reached: the weights of difficulty" in said(old, new)) is not reached


@pytest.mark.parametrize(
    ("old", "new", "mute"),
    [
        ("", "", True),
        ("capabilities: [tools]", "capabilities: [tools, logprobs]", False),
        (", capabilities: [tools]", "", False),
        ("stages: [small, large]", "stages: [large, small]", False),
        ("avg_logprob", "hybrid", True),
        ("avg_logprob", "self_verify, verifier_model: large", False),
    ],
)
def test_scores_of_probabilities_that_a_model_does_not_give(old: str, new: str, mute: bool) -> None:
    assert (MUTE in said(old, new)) is mute


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("[prove]", "[prove, yes]", "any[1]: must be a text: YAML reads words such as yes, no, on and off as true"),
        ("[prove]", "[off]", "as false; put it in quotes"),
        ("[prove]", "[42]", "any[0]: must be a text: put it in quotes"),
        ("{any: [hard, code]}", "{or: [hard, code]}", "did you mean `any`?"),
        ("{any: [hard, code]}", "{AND: [hard, code]}", "did you mean `all`?"),
        ("{any: [hard, code]}", "[hard, code]", "of a list, is it `all` or `any`?"),
        ("{any: [hard, code]}", "{any: [hard, {and: [code]}]}", "did you mean `all`?"),
        ("{any: [hard, code]}", "{hard: true}", "a rule is a name, or one of `all: […]`"),
    ],
)  # fmt: skip
def test_what_was_meant(old: str, new: str, hint: str) -> None:
    assert hint in said(old, new)


@pytest.mark.parametrize(
    ("url", "back"),
    [
        ("http://127.0.0.1:8080/v1", True),
        ("http://localhost:8080/v1", True),
        ("http://[::1]:8080/v1", True),
        ("http://127.0.0.1:8081/v1", False),
        ("http://10.0.0.11:8080/v1", False),
    ],
)
def test_a_model_that_leads_back(url: str, back: bool) -> None:
    assert ("leads back to `envoy.ingress`" in said("http://10.0.0.11:8000/v1", url)) is back
