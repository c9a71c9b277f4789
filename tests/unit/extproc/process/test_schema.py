"""Records of runs are what their schema says, whatever ran."""

import json
from functools import cache
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from extproc.config import parse_config
from extproc.process.runtime import build
from extproc.process.schema import RunRecord
from looper.calling.calls import CallFailed, Failure
from tests.fakes.channel import body, exchanged, opening
from tests.fakes.models import ScriptedClient, Step, in_turn, refused
from tests.fakes.records import record

JUDGED = '{"consensus": ["x"], "winner": 1, "scores": [8, 3, 2], "agreement": 0.5}'
ALGORITHMS: dict[str, dict[str, Any]] = yaml.safe_load("""
fusion: {algorithm: {type: fusion, analysis_models: [small, other, third], judge_model: large}}
ratings:
  algorithm: {type: ratings, models: [small, other, third], escalate_to: [large]}
  contract: {type: choice, values: [A, B, C]}
judged: {algorithm: {type: ratings, models: [small, other], aggregate: judge, judge_model: large}}
confidence:
  algorithm: {type: confidence, stages: [[small, other], large]}
  contract: {type: choice, values: [A, B, C]}
tokens:
  algorithm: {type: confidence, stages: [small, large], confidence_method: avg_logprob, threshold: 0.8}
remom:
  algorithm: {type: remom, models: [small, other], breadth_schedule: [3]}
  contract: {type: choice, values: [A, B, C]}
workflows:
  algorithm:
    type: workflows
    steps:
      - {id: look, models: [small, other], prompt: Look.}
      - {id: check, role: verifier, models: [large], prompt: Check., needs: [look]}
    final: {model: large, prompt: Answer.}
fallbacks:
  algorithm: {type: single, model: third, fallbacks: [small]}
  budget: {calls: 3, tokens: 9000, cost_usd: 1}
""")
SCRIPT: dict[str, Step] = {
    "small": "ANSWER: A",
    "other": "ANSWER: B",
    "third": refused(500),
    "large": in_turn(JUDGED, '{"verdict": "pass", "reasons": []}', "ANSWER: A"),
}
FAILS: dict[str, Step] = {name: CallFailed(Failure.CONNECT) for name in SCRIPT}


def config(algorithm: str, record: str) -> Any:
    settings = ALGORITHMS[algorithm]
    data = {
        "version": 1,
        "egress": "unix:/tmp/none.sock",
        "trace": {"record": record},
        "models": [
            {"name": name, "url": "http://x/v1", "price": {"input": 1, "output": 2}, "rating": 0.7}
            for name in SCRIPT
        ],
        "recipes": {
            "r": {
                "signals": {"hard": {"type": "keyword", "any": ["hard"]}},
                "projections": {
                    "task": {"type": "partition", "members": {"hard": "hard"}, "default": "easy"},
                    "level": {
                        "type": "score",
                        "weights": {"hard": 1},
                        "bands": [{"low": 0.5}, {"high": 1}],
                    },
                },
                "decisions": [
                    {
                        "name": "trial",
                        "when": "task.hard",
                        "shadow": True,
                        **settings,
                    },
                    {"name": "d", "when": {"not": "level.low"}, **settings},
                    {"name": "e", **settings},
                ],
            }
        },
        "entrypoints": {"m": "r"},
    }
    return parse_config(yaml.safe_dump(data), "test.yaml")


@cache
def schema() -> dict[str, Any]:
    return RunRecord.model_json_schema()


def check(found: dict[str, Any]) -> RunRecord:
    jsonschema.validate(found, schema(), cls=jsonschema.Draft202012Validator)
    return RunRecord.model_validate(found)


@pytest.mark.parametrize("said", ["hard", "easy"])
@pytest.mark.parametrize("script", [SCRIPT, FAILS], ids=["answers", "fails"])
@pytest.mark.parametrize("kept", ["metadata", "full"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_whatever_runs_its_record_is_what_the_schema_says(
    algorithm: str, kept: str, script: dict[str, Step], said: str
) -> None:
    """With every member in its place, and without `full` no word of what was said."""
    built = build(config(algorithm, kept), ScriptedClient(dict(script)))
    asked = {
        "model": "m",
        "messages": [{"role": "user", "content": f"{said} secret"}],
        "user": "u",
        "stream": True,
    }
    headers = {"x-request-id": "i" * 1000}
    await exchanged(built, opening(headers=headers), body(json.dumps(asked).encode()))
    (found,) = built.runs
    read = check(found)
    assert (read.recipe, read.kind, read.outcome is None) == ("r", "team", False)
    assert read.why is not None
    assert read.request_id == "i" * 128
    assert ("secret" in str(found)) is (kept == "full")
    assert (read.members == {"model": "m", "user": "u", "stream": True}) is (kept == "full")


@pytest.mark.parametrize("unknown", ["surprise", "band", "shadow"])
def test_what_the_schema_does_not_know_is_no_record(unknown: str) -> None:
    check(record())
    with pytest.raises(jsonschema.ValidationError):
        check({**record(), unknown: "x"})


def test_a_routed_request_has_a_place() -> None:
    """Its model, status and tokens; no calls."""
    known = (
        "version",
        "kind",
        "run",
        "time",
        "recipe",
        "decision",
        "algorithm",
        "seconds",
        "request",
    )
    routed = {name: value for name, value in record(kind="routed").items() if name in known}
    read = check(
        {**routed, "model": "small", "status": 200, "prompt_tokens": 5, "completion_tokens": 7}
    )
    assert (read.kind, read.calls) == ("routed", ())


def test_what_members_mean_is_told() -> None:
    """Each of a record's parts says what it is."""
    found = schema()
    assert all("description" in part for part in found["$defs"].values())
    assert found["additionalProperties"] is False
