import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.config import parse_config
from extproc.errors import ConfigError
from looper.patterns.workflows.plan import (
    MAX_PROMPT,
    Bounds,
    Planned,
    Step,
    in_order,
    planned_type,
    problems,
    seen,
)
from looper.wire.model_json import NotRead, read_json

POOL = ("m1", "m2", "m3")
PLAN = planned_type(POOL, Bounds(max_steps=4, max_calls=8))


def step(id: Any, *needs: str, **members: Any) -> dict[str, Any]:
    return {"id": id, "models": ["m1"], "prompt": "work", "needs": [*needs], **members}


def read(*steps: dict[str, Any], **members: Any) -> Planned | NotRead:
    return read_json(json.dumps({"steps": steps, **members}), PLAN)


def plan(*steps: dict[str, Any], **members: Any) -> Planned:
    found = read(*steps, **members)
    assert isinstance(found, Planned), found
    return found


def why(*steps: dict[str, Any], **members: Any) -> str:
    found = read(*steps, **members)
    assert isinstance(found, NotRead)
    return found.why


def test_a_good_plan_is_read_as_it_was_written() -> None:
    """Steps, their agents and what they see are what the planner wrote."""
    found = plan(
        step("draft", models=["m1", "m2"]),
        step("check", "draft", role="verifier", sees=["draft.2"]),
        final={"prompt": "be brief", "sees": ["draft"]},
    )

    assert found.steps[0].agents == ("draft.1", "draft.2")
    assert found.steps[1].sees == ("draft.2",)
    assert found.final.prompt == "be brief"


@pytest.mark.parametrize(
    ("steps", "members", "text"),
    [
        ([step("a"), step("a")], {}, "steps.1.id: two steps have the id 'a'"),
        ([step("final")], {}, "steps.0.id: 'final' is no id for a step"),
        ([step("A b")], {}, "steps.0.id: String should match"),
        ([step("x" * 33)], {}, "steps.0.id: String should match"),
        ([step("a", models=["m9"])], {}, "steps.0.models.0: there is no model 'm9': there are: m1, m2, m3"),
        ([step("a", models=[])], {}, "steps.0.models: Tuple should have at least 1 item"),
        ([step("a", models=["m1"] * 9)], {}, "steps.0.models: Tuple should have at most 8 items"),
        ([step("a", models="m1")], {}, "steps.0.models: must be a list"),
        ([step("research"), step("b", "reserch")], {}, "there is no step 'reserch': did you mean 'research'?"),
        ([step("a", "a")], {}, "steps.0.needs.0: 'a' needs itself"),
        ([step("a"), step("b", "a", "a")], {}, "steps.1.needs.1: 'a' stands twice"),
        ([step("a", "b"), step("b", "a")], {}, "these steps wait for each other: 'a' needs 'b' needs 'a'"),
        ([step("a", sees=["b"]), step("b")], {}, "steps.0.sees.0: 'b' is not over by then"),
        ([step("a"), step("b", sees=["a"])], {}, "steps.1.sees.0: 'a' is not over by then"),
        ([step("a"), step("b", "a", sees=["a.2"])], {}, "'a.2': the step 'a' has 1 agents"),
        ([step("a"), step("b", "a", sees=["a.0"])], {}, "steps.1.sees.0: String should match"),
        ([step("a", role="verifier")], {}, "a verifier needs at least one step of role 'worker'"),
        ([step("a"), step("b", "a", role="verifier", sees=[])], {}, "steps.1.sees: a verifier sees at least one"),
        ([step("a"), step("c", "a"), step("b", "c", role="verifier", sees=["a"])], {}, "steps.2.sees: a verifier sees"),
        ([step("a", role="judge")], {}, "steps.0.role: Input should be 'worker' or 'verifier'"),
        ([step("a", prompt=" ")], {}, "a prompt must say something"),
        ([step("a", prompt="é" * (MAX_PROMPT // 2 + 1))], {}, f"at most {MAX_PROMPT} bytes, and this one has"),
        ([step("a", model="m1")], {}, "steps.0.model: Extra inputs are not permitted"),
        ([step("a")], {"finl": {}}, "finl: Extra inputs are not permitted"),
        ([step("a")], {"final": {"sees": ["b"]}}, "final.sees.0: there is no step 'b': there are: a"),
        ([step(name) for name in "abcde"], {}, "steps.4.id: 5 steps, and at most 4 are allowed"),
        ([step("a", models=["m1"] * 8)], {}, "the plan takes 9 calls, and at most 8 are allowed"),
        ([], {}, "steps: Tuple should have at least 1 item"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    steps: Sequence[dict[str, Any]], members: dict[str, Any], text: str
) -> None:
    """Each way in which a plan can be wrong has its place and its words."""
    assert text in why(*steps, **members)


def test_all_that_is_wrong_is_said_at_once() -> None:
    """A planner that is asked once more only learns of every problem, of steps and between them."""
    found = why(step("a", "x", models=["m7"]), step("b", prompt=""), step("c", "b", "d"))

    assert [part.partition(":")[0] for part in found.split("; ")] == [
        "steps.1.prompt",
        "steps.0.models.0",
        "steps.0.needs.0",
        "steps.2.needs.1",
    ]


def test_more_than_a_planner_could_mend_is_not_said() -> None:
    """Of a plan in which all is wrong it reads the beginning, and how much more there is; nobody looks for it all."""
    ghosts = [f"ghost-{number}" for number in range(200)]
    steps = [step(f"s{number}", sees=ghosts) for number in range(3)]
    found = why(*steps, step("x", extra=1))

    assert len(found.split("; ")) == 33
    assert found.endswith("and 1 more")
    assert "is a list of 257, and no list has more than 256" in why(step("a", sees=["b"] * 257))


def test_what_a_wrong_step_is_needed_for_is_not_wrong_for_that() -> None:
    """Of a step that cannot be used the id is known all the same."""
    assert (
        why(step("a", prompt=""), step("b", "a")) == "steps.0.prompt: a prompt must say something"
    )


def test_no_prompt_is_repeated_in_what_is_said() -> None:
    """A message may quote ids and names of the plan, never its prompts."""
    assert "secret" not in why(step("a", "b", prompt="secret " * 2000), step("b", "c"))


@pytest.mark.parametrize("text", ["", "no plan", "[]", "7", '{"steps": 7}', '{"steps": [7, null]}'])
def test_what_is_no_plan_is_none(text: str) -> None:
    """Whatever a planner says instead of a plan is refused with a reason."""
    assert isinstance(read_json(text, PLAN), NotRead)


MEMBERS = ("steps", "final", "id", "needs", "models", "sees", "prompt")
IDS = st.sampled_from("abcdef")
STEPS = st.lists(
    st.builds(
        step,
        IDS,
        models=st.lists(st.sampled_from((*POOL, "m9")), max_size=3),
        needs=st.lists(IDS, max_size=3),
        role=st.sampled_from(("worker", "verifier")),
        sees=st.none() | st.lists(st.sampled_from(("a", "b.1", "c.2", "d")), max_size=3),
    ),
    max_size=6,
)


@given(STEPS)
def test_what_passes_can_be_worked_through(steps: list[dict[str, Any]]) -> None:
    """Of a plan that passes, every step can begin once those before it are over, and sees only what is over then."""
    found = read(*steps)
    if isinstance(found, NotRead):
        assert found.why
        return
    over: list[Step] = []
    for each in in_order(found.steps):
        assert {need.id for need in over} >= set(each.needs)
        shown = seen(each.sees, each.needs, found.steps)
        assert set(shown) <= {agent for step in over for agent in step.agents}
        assert set(each.models) <= set(POOL)
        over.append(each)
    assert sum(len(each.models) for each in over) < 8
    assert len(over) <= 4


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=10),
)
def test_steps_that_need_earlier_ones_only_are_never_refused(earlier: list[list[int]]) -> None:
    """A plan without faults has no problems, however its steps are ordered in the file."""
    steps = [
        Step(
            id=f"s{at}",
            models=("m",),
            prompt="p",
            needs=tuple({f"s{need % at}": None for need in needs}) if at else (),
        )
        for at, needs in enumerate(earlier)
    ]
    assert list(problems([*reversed(steps)], None, Bounds())) == []
    assert sorted(in_order([*reversed(steps)]), key=lambda each: each.id) == sorted(
        steps, key=lambda each: each.id
    )


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
))  # fmt: skip
def test_no_json_breaks_the_check(value: Any) -> None:
    """Whatever JSON a planner writes, it is a plan or it is refused."""
    assert isinstance(read_json(json.dumps(value), PLAN), Planned | NotRead)


CONFIG = """\
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://h/v1"}
  - {name: large, url: "http://h/v1"}
recipes:
  general:
    decisions:
      - name: team
        algorithm:
          type: workflows
          ALGORITHM
entrypoints: {looper/auto: general}
"""


def complaints(*lines: str) -> list[str]:
    text = CONFIG.replace("ALGORITHM", "\n          ".join(lines))
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "looper.yaml")
    return caught.value.problems


def test_a_static_plan_is_checked_when_the_file_is_read() -> None:
    """Every problem of a plan in the file has its line, its path and its words."""
    where = "recipes.general.decisions[0].algorithm"
    assert complaints(
        "steps:",
        "  - {id: one, models: [small], prompt: p, needs: [two]}",
        "  - {id: two, models: [small], prompt: p, needs: [one], sees: [three]}",
        "  - {id: check, role: verifier, models: [large], prompt: p, needs: [onne]}",
        "final: {model: large, sees: [two.2]}",
    ) == [
        f"looper.yaml:13: {where}.steps[0].needs: these steps wait for each other: 'one' needs 'two' needs 'one'",
        f"looper.yaml:14: {where}.steps[1].sees[0]: there is no step 'three': there are: check, one, two",
        f"looper.yaml:15: {where}.steps[2].needs[0]: there is no step 'onne': did you mean 'one'?",
        f"looper.yaml:16: {where}.final.sees[0]: 'two.2': the step 'two' has 1 agents",
    ]  # fmt: skip


def test_models_of_a_plan_are_models_of_the_file() -> None:
    """A model that a step, the planner, the pool or the final stage names must be in the catalogue."""
    (static,) = complaints(
        "steps: [{id: a, models: [small, larg], prompt: p}]", "final: {model: large}"
    )
    dynamic = complaints(
        "mode: dynamic",
        "planner: {model: plan}",
        "models: [small, big]",
        "final: {model: lage}",
    )

    assert static.endswith("steps[0].models[1]: unknown model 'larg': did you mean 'large'?")
    assert [line.partition(": unknown ")[2][:12] for line in dynamic] == [
        "model 'plan'",
        "model 'big':",
        "model 'lage'",
    ]


def test_each_mode_has_what_it_needs_and_nothing_else() -> None:
    """A static plan has steps and no planner, a dynamic one a planner and a pool."""
    static = complaints("planner: {model: small}", "final: {model: large}")
    dynamic = complaints(
        "mode: dynamic",
        "steps: [{id: a, models: [small], prompt: p}]",
        "final: {model: large, sees: [a]}",
    )

    assert [line.partition("algorithm")[2] for line in static] == [
        ".steps: is missing",
        ".planner: has no place in a plan that is static",
    ]
    assert sorted(line.partition("algorithm")[2] for line in dynamic) == [
        ".final.sees: has no place in a plan that is dynamic",
        ".models: is missing",
        ".planner: is missing",
        ".steps: has no place in a plan that is dynamic",
    ]


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        pytest.param(
            "max_steps: 1", ".max_steps: is 1, and `steps` are 2: give at least that", id="steps"
        ),
        pytest.param(
            "max_calls: 3",
            ".max_calls: is 3, and the plan takes 4 calls: give at least that",
            id="calls",
        ),
    ],
)
def test_a_bound_that_is_too_small_is_named(bound: str, said: str) -> None:
    """With the number that would do: it is the operator who wrote both."""
    (line,) = complaints(
        "steps: [{id: a, models: [small, large], prompt: p}, {id: b, models: [small], prompt: p}]",
        bound,
        "final: {model: large}",
    )
    assert line.endswith(said)


def test_a_plan_of_a_planner_fits_into_max_calls() -> None:
    """Fewer calls than any plan takes are no bound but a mistake."""
    (line,) = complaints(
        "mode: dynamic",
        "planner: {model: small}",
        "models: [small]",
        "max_calls: 3",
        "final: {model: large}",
    )
    assert line.endswith(
        ".max_calls: must be at least 4: two for the planner, one for a worker, one for the answer"
    )
