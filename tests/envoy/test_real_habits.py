"""What real models and their servers do, taught to the simulator: every pattern copes with it, through a real Envoy."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from looper.simulate.server import Ending, Length, SimulatedModel, Simulator
from looper.wire.sse import DONE, EventReader
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUESTION = "What is the capital of Canada?"
STRICT = ("a", "b", "c", "w")
"""Models whose chat template wants roles to alternate, and knows no developer."""

TEMPLATE: dict[str, Any] = {"roles": {"developer": "system"}, "merge": True}
MODELS: list[dict[str, Any]] = [
    *({"name": name, "rating": 0.7} for name in STRICT),
    {"name": "merging", "dialect": TEMPLATE},
    {"name": "own", "dialect": {"apart": True}},
    {"name": "wordless", "dialect": {"finish_reason": False}},
    {"name": "cut"},
    {"name": "vllm", "dialect": "vllm"},
    {"name": "guided", "dialect": {"constrain": "guided"}},
    {"name": "thinking", "dialect": {"constrain": "structured_outputs", "thinks_outside": True}},
    {"name": "able", "capabilities": ["json_schema"]},
    *({"name": name} for name in ("slow-a", "slow-b")),
]
NOT_SURE: dict[str, Any] = {"confidence_method": "self_verify", "threshold": 0.9}
PATTERNS: dict[str, dict[str, Any]] = {
    "ratings": {"models": ["a", "b", "c"], "aggregate": "judge", "judge_model": "w"},
    "fusion": {"analysis_models": ["a", "b", "c"], "judge_model": "w"},
    "remom": {"models": ["a", "b"], "breadth_schedule": [2, 2], "synthesis_model": "w"},
    "confidence": {"stages": ["a", "b"], **NOT_SURE},
    "workflows": {
        "steps": [
            {"id": "solve", "models": ["a", "b"], "prompt": "Solve it."},
            {"id": "check", "role": "verifier", "models": ["c"], "needs": ["solve"], "prompt": "Check it."},
        ],
        "final": {"model": "w"},
    },
    "planned": {"mode": "dynamic", "planner": {"model": "c"}, "models": ["a", "b"], "final": {"model": "w"}},
}  # fmt: skip


def decision(contract: dict[str, Any] | None = None, **algorithm: Any) -> dict[str, Any]:
    told = {"contract": contract, "contract_prompt": "One word."} if contract else {}
    return {"decisions": [{"name": "only", "algorithm": algorithm, **told}]}


PANEL: dict[str, Any] = {"analysis_models": ["slow-a", "slow-b"], "judge_model": "w"}
SLOWLY: dict[str, dict[str, Any]] = {
    "fusion": PANEL,
    "ratings": {"models": ["slow-a", "slow-b"], "aggregate": "judge", "judge_model": "w"},
    "remom": {"models": ["slow-a", "slow-b"], "breadth_schedule": [2, 2], "synthesis_model": "w"},
    "confidence": {"stages": ["slow-a"], "confidence_method": "verifier", "verifier_model": "w", "threshold": 0.5,
                   "verifier_share": 0.5},
    "workflows": {
        "steps": [
            {"id": "solve", "models": ["slow-a", "slow-b"], "prompt": "Solve it."},
            {"id": "check", "role": "verifier", "models": ["w"], "needs": ["solve"], "prompt": "Check it."},
        ],
        "final": {"model": "w"},
    },
}  # fmt: skip


def slowly(deadline: str, **algorithm: Any) -> dict[str, Any]:
    only = {"name": "only", "algorithm": algorithm, "budget": {"deadline": deadline}}
    return {"decisions": [only]}


CHOICE: dict[str, Any] = {"type": "choice", "values": ["Ottawa", "Toronto"]}
BARE = {**CHOICE, "extract": {"mode": "exact"}}
SCHEMA = {"type": "object", "required": ["answer"], "properties": {"answer": {"type": "string"}}}
JUDGED: dict[str, Any] = {
    "analysis_models": ["own", "cut"],
    "judge_model": "able",
    "judge_max_output": 700,
}


def answered_by(model: str, contract: dict[str, Any]) -> dict[str, Any]:
    return decision(contract, type="single", model=model)


RECIPES = {
    "ratings-text": decision(type="ratings", models=["a", "b", "c"]),
    "bound": answered_by("vllm", BARE),
    "bound-guided": answered_by("guided", BARE),
    "bound-free": answered_by("vllm", CHOICE),
    "bound-thinking": answered_by("thinking", CHOICE),
    "bound-unable": answered_by("a", CHOICE),
    "bound-json": answered_by("able", {"type": "json", "schema": SCHEMA}),
    "bound-judge": decision(type="fusion", **JUDGED, final_model="own"),
    "bound-judge-writes": decision(type="fusion", **JUDGED),
    **{f"slow-{name}": slowly("10s", type=name, **each) for name, each in SLOWLY.items()},
    "slower": slowly("2s", type="fusion", **PANEL),
    **{
        name: decision(**{"type": "workflows" if name == "planned" else name, **settings})
        for name, settings in PATTERNS.items()
    },
    "handed-on": decision(
        type="workflows",
        steps=[
            {"id": "one", "models": ["a"], "prompt": "Solve it."},
            {"id": "two", "models": ["b"], "needs": ["one"], "prompt": "Improve it."},
        ],
        final={"model": "w", "sees": ["two"]},
    ),
    "single": decision({"type": "text", "max_chars": 9000}, type="single", model="a"),
    "apart": decision({"type": "text", "max_chars": 9000}, type="single", model="own"),
    "routed": decision(type="single", model="merging"),
    "streaming": decision(type="single", model="cut", fallbacks=["a"]),
    "endless": decision(type="single", model="wordless", fallbacks=["a"]),
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stacks() -> AsyncIterator[Stack]:
    strict = {"alternates": True, "roles": ("system", "user", "assistant", "tool")}
    models = [
        SimulatedModel(name=each["name"], skill=1, **(strict if each["name"] in {*STRICT, "merging"} else {}))
        for each in MODELS
    ]  # fmt: skip
    models += [SimulatedModel(name=name, skill=1, latency=7.0 + at) for at, name in enumerate(SLOW)]
    change = {
        "models": [{**each, "url": ""} for each in MODELS],
        "recipes": RECIPES,
        "entrypoints": {name: name for name in RECIPES},
        "debug": True,
    }
    async with run_stack(Simulator(models), change) as stack:
        yield stack


@pytest.fixture
def team(stacks: Stack) -> Stack:
    stacks.simulator.reset()
    return stacks


@dataclass(frozen=True)
class Answered:
    """What a client got."""

    status: int
    text: str
    finish: str | None
    raw: bytes
    facts: dict[str, Any]

    @property
    def outcome(self) -> str | None:
        return self.facts.get("outcome")


async def ask(
    stack: Stack, model: str, messages: Any = None, *, stream: bool = False, **members: Any
) -> Answered:
    conversation = messages or [{"role": "user", "content": QUESTION}]
    body = {"model": model, "messages": conversation, "stream": stream, **members}
    async with stack.session.post(
        f"{stack.base_url}/chat/completions", json=body, headers={"looper-debug": "1"}
    ) as response:
        raw = await response.read()
    if stream and response.status == 200:
        events = [each.data for each in EventReader().feed(raw) if each.data != DONE]
        chunks = [json.loads(data) for data in events]
    else:
        chunks = [json.loads(raw)]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    said = [choice.get("delta") or choice.get("message") or {} for choice in choices]
    return Answered(
        response.status,
        "".join(each.get("content") or "" for each in said),
        next((each["finish_reason"] for each in choices if each.get("finish_reason")), None),
        raw,
        next((chunk["looper"] for chunk in chunks if "looper" in chunk), {}),
    )


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


class TestTemplates:
    """Chat templates that want roles to alternate."""

    @both_ways
    @pytest.mark.parametrize("name", [*PATTERNS, "single"])
    @pytest.mark.parametrize(
        "last",
        [
            {"content": QUESTION},
            {"content": QUESTION, "name": "ann"},
            {"content": [{"type": "text", "text": QUESTION}]},
        ],
        ids=["text", "named", "parts"],
    )
    async def test_take_every_stage_of_every_pattern(
        self, team: Stack, name: str, last: dict[str, Any], stream: bool
    ) -> None:
        """What we tell a model ends the client's last message: no call is refused."""
        before = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."},
                  {"role": "assistant", "content": "Hi."}]  # fmt: skip
        answered = await ask(team, name, [*before, {"role": "user", **last}], stream=stream)

        assert answered.status == 200
        assert "Ottawa" in answered.text
        assert team.simulator.calls
        assert all(call.status == 200 for call in team.simulator.calls)

    async def test_a_dialect_may_want_ours_apart(self, team: Stack) -> None:
        """Then the client's last message stays as it is."""
        assert (await ask(team, "apart")).status == 200
        (call,) = team.simulator.calls
        assert [each["content"] for each in call.parsed["messages"]] == [QUESTION, "One word."]

    async def test_take_what_a_client_is_routed_with(self, team: Stack) -> None:
        """Where the dialect says so, neighbours are merged and a developer is the system, on Envoy's route too."""
        messages = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hello.", "name": "ann"},
            {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
        ]
        assert (await ask(team, "routed", messages)).status == 200
        (call,) = team.simulator.calls
        assert call.parsed["messages"] == [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Hello."},
                    {"type": "text", "text": QUESTION},
                ],
            },
        ]

    async def test_are_left_alone_by_other_dialects(self, team: Stack) -> None:
        """The client's own neighbours stay as they are."""
        messages = [{"role": "user", "content": "Hello."}, {"role": "user", "content": QUESTION}]
        assert (await ask(team, "apart", messages)).status == 200
        (call,) = team.simulator.calls
        assert call.parsed["messages"][:2] == messages


class TestEndings:
    """Streams that end with [DONE], and do not say how their answer ended."""

    @pytest.mark.parametrize(("name", "status"), [("streaming", "error"), ("endless", "ok")])
    async def test_such_a_stream_is_broken_unless_the_dialect_says_so(
        self, team: Stack, name: str, status: str
    ) -> None:
        """Its client hears that it broke off, and no `stop` that nobody said."""
        for each in ("cut", "wordless"):
            team.simulator.fault(each, Ending(kind="without_finish"))
        answered = await ask(team, name, stream=True)

        assert "Ottawa" in answered.text
        assert (answered.finish, b'"error"' in answered.raw) == (
            ("stop", False) if status == "ok" else (None, True)
        )


FENCE = re.compile(r"\[(?:candidate|answer|reference) 1 ([0-9a-f]{16})\]")


def told(request: dict[str, Any]) -> str:
    """All that a model was told."""
    contents = [message["content"] for message in request["messages"]]
    return "\n".join(each if isinstance(each, str) else each[-1]["text"] for each in contents)


def mark_in(request: dict[str, Any]) -> str:
    found = FENCE.search(told(request))
    assert found is not None
    return found[1]


def repeating(text: str) -> Callable[[dict[str, Any]], str]:
    """Says this, with the lines and the mark that stand in its prompt, as small models do."""

    def say(request: dict[str, Any]) -> str:
        found = FENCE.search(told(request))
        assert found is not None
        name = found[0].split()[0][1:]
        return text.format(mark=found[1], begin=found[0], end=f"[end of {name} 1 {found[1]}]")

    return say


REPEATED = "{begin}\nIt is Ottawa.\n{end}\n\nThat is all.\n{mark}"
WRITERS = ("fusion", "remom", "workflows", "planned")
"""Patterns in which a model writes the answer that has read others'."""


class TestScaffolding:
    """What small models repeat of their prompts: the lines around others' answers, and how these are called."""

    @both_ways
    @pytest.mark.parametrize("name", WRITERS)
    async def test_never_reaches_a_client(self, team: Stack, name: str, stream: bool) -> None:
        """Lines with the run's mark are left out of what is published, in one piece and in chunks."""
        team.simulator.script("w", *[repeating(REPEATED)] * 3)
        if name == "fusion":
            team.simulator.script("w", '{"scores": [1, 1, 1], "winner": 1}', repeating(REPEATED))
        answered = await ask(team, name, stream=stream)

        assert answered.text == "It is Ottawa.\n\nThat is all.\n"
        assert answered.finish == "stop"
        assert not FENCE.search(answered.raw.decode())

    @both_ways
    @pytest.mark.parametrize("name", WRITERS)
    async def test_where_nothing_else_is_left_another_answer_is_published(
        self, team: Stack, name: str, stream: bool
    ) -> None:
        """An answer of nothing but marks is none."""
        team.simulator.script("w", *[repeating("{begin}\n---\n{end}")] * 3)
        if name == "fusion":
            team.simulator.script(
                "w", '{"scores": [1, 1, 1], "winner": 1}', repeating("{begin}\n---\n{end}")
            )
        answered = await ask(team, name, stream=stream)

        assert answered.status == 200
        assert "Ottawa" in answered.text
        assert "---" not in answered.text

    @both_ways
    async def test_nor_do_the_names_of_agents(self, team: Stack, stream: bool) -> None:
        """They are of a plan that no client knows."""
        team.simulator.script("w", "As answer 1 of solve.1 says, it is Ottawa.")
        answered = await ask(team, "workflows", stream=stream)
        assert answered.text == "As says, it is Ottawa."

    async def test_reaches_no_other_model(self, team: Stack) -> None:
        """Not what a worker repeats, nor a judge's findings, which go on by the names that both know."""
        team.simulator.script("b", repeating(REPEATED))
        await ask(team, "handed-on")
        (last,) = [call.parsed for call in team.simulator.calls if call.model == "w"]
        mark = mark_in(last)
        shown = "It is Ottawa.\n\nThat is all."
        assert f"[answer 1 {mark}] the answer of two.1\n{shown}" in told(last)

        def judge(request: dict[str, Any]) -> str:
            said = f"[candidate 1 {mark_in(request)}] is right, see {mark_in(request)}"
            return json.dumps({"consensus": [said], "scores": [1, 1, 1], "winner": 1})

        team.simulator.reset()
        team.simulator.script("w", judge, "Ottawa.")
        await ask(team, "fusion")
        final = [call.parsed for call in team.simulator.calls if call.model == "w"][-1]
        assert '"candidate 1 is right, see "' in told(final)


SLOW = ("slow-a", "slow-b")
"""Models that need 7 of the 10 seconds that a run has: more than their stage's share."""


class TestSlowModels:
    @both_ways
    async def test_a_first_answer_may_take_the_time_of_those_behind_it(
        self, team: Stack, stream: bool
    ) -> None:
        """In every pattern: judge, verifier and final have nothing to do until then, and are not asked any more."""
        names = [f"slow-{name}" for name in SLOWLY]
        answers = await asyncio.gather(*(ask(team, name, stream=stream) for name in names))

        for name, answered in zip(names, answers, strict=True):
            assert (name, answered.status) == (name, 200)
            assert "Ottawa" in answered.text
            assert answered.finish == "stop"
        asked = {call.model for call in team.simulator.calls if call.outcome == "finished"}
        assert asked <= {*SLOW, "w"}
        assert {"slow-a"} <= asked

    async def test_who_is_too_slow_all_the_same_is_said_to_be(self, team: Stack) -> None:
        """The error says whose time was up."""
        answered = await ask(team, "slower")
        assert answered.status == 504
        error = json.loads(answered.raw)["error"]
        assert error["code"] == "deadline_exceeded"
        assert "its stage's share of the deadline" in error["message"]


def constraint(request: dict[str, Any]) -> Any:
    """What the server is told that an answer is to be."""
    told = {
        name: request.get(name)
        for name in ("response_format", "structured_outputs", "guided_choice")
    }
    return {name: said for name, said in told.items() if said is not None}


CHOICE_OF = {"choice": ["Ottawa", "Toronto"]}


class TestGrammars:
    """Contracts hold a model while it writes, where its server can see to that and nothing is lost by it."""

    @pytest.mark.parametrize(
        ("name", "members", "first", "again"),
        [
            ("bound", {}, {"structured_outputs": CHOICE_OF}, None),
            (
                "bound",
                {"response_format": {"type": "text"}},
                {"response_format": {"type": "text"}},
                None,
            ),
            ("bound-guided", {}, {"guided_choice": ["Ottawa", "Toronto"]}, None),
            ("bound-free", {}, {}, {"structured_outputs": CHOICE_OF}),
            ("bound-thinking", {}, {"structured_outputs": CHOICE_OF}, None),
            ("bound-unable", {}, {}, {}),
        ],
    )
    async def test_bind_an_answer_only_where_that_takes_nothing_away(
        self, team: Stack, name: str, members: dict[str, Any], first: Any, again: Any
    ) -> None:
        """Always the repair; else an answer that is to be the value, or of a model that thinks outside of it."""
        for each in ("vllm", "guided", "thinking", "a"):
            team.simulator.script(each, "It is hard to say.")
        await ask(team, name, **members)
        calls = [constraint(call.parsed) for call in team.simulator.calls]
        assert calls[0] == first
        if again is not None:
            assert calls[1] == again

    async def test_mend_what_a_model_would_not(self, team: Stack) -> None:
        """A repair that is bound brings the value."""
        team.simulator.script("vllm", "It is hard to say.")
        answered = await ask(team, "bound-free")
        assert answered.text == "Ottawa"

    async def test_are_schemas_where_json_is_wanted(self, team: Stack) -> None:
        """For models that can, under the contract's own schema; a client's own stays as it came."""
        await ask(team, "bound-json")
        wanted = {"type": "json_object"}
        await ask(team, "bound-json", response_format=wanted)
        ours, theirs = (call.parsed["response_format"] for call in team.simulator.calls)
        assert ours["json_schema"]["schema"]["required"] == ["answer"]
        assert theirs == wanted

    async def test_keep_private_json_within_bounds(self, team: Stack) -> None:
        """A judge that is bound to a schema cannot go on for ever, nor judge what it was not shown."""
        await ask(team, "bound-judge")
        (judge,) = [call.parsed for call in team.simulator.calls if call.model == "able"]
        schema = judge["response_format"]["json_schema"]["schema"]["properties"]
        assert schema["scores"]["maxItems"] == schema["winner"]["anyOf"][0]["maximum"] == 2
        assert schema["consensus"]["maxItems"]
        assert schema["consensus"]["items"]["maxLength"]
        assert judge["max_tokens"] == 700

    async def test_a_judge_that_was_cut_off_is_told_so(self, team: Stack) -> None:
        """And has more room."""
        cut = {"content": '{"consensus": ["a', "finish_reason": "length"}
        team.simulator.script("able", cut, '{"scores": [1, 2], "winner": 2}', "Ottawa.")
        await ask(team, "bound-judge-writes")
        first, again = [call.parsed for call in team.simulator.calls if call.model == "able"][:2]
        assert "cut off after" in told(again)
        assert "tokens" in told(again)
        assert again["max_tokens"] == 2 * first["max_tokens"]


class TestCutByLength:
    """Answers of small models often end where their limit does."""

    @pytest.mark.parametrize("name", ["ratings-text", "fusion", "remom", "confidence", "workflows"])
    async def test_half_an_answer_loses_against_a_whole_one(self, team: Stack, name: str) -> None:
        """Where nobody writes the answer up, a whole one is published; a writer is told that one is cut."""
        team.simulator.fault("a", Length(tokens=2))
        answered = await ask(team, name)
        assert answered.status == 200
        assert "Ottawa" in answered.text
        assert answered.finish == "stop"
        writing = [call.parsed for call in team.simulator.calls if call.model == "w"]
        if name in ("fusion", "remom", "workflows"):
            assert "cut off: its end is missing" in told(writing[-1])

    @both_ways
    @pytest.mark.parametrize("name", ["ratings-text", *PATTERNS])
    async def test_where_all_are_cut_the_best_is_published_and_says_so(
        self, team: Stack, name: str, stream: bool
    ) -> None:
        """Nobody is told that it is whole."""
        for each in STRICT:
            team.simulator.fault(each, Length(tokens=2))
        answered = await ask(team, name, stream=stream)
        assert (answered.status, answered.finish) == (200, "length")
        assert answered.text
