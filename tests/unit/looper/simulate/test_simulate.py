import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from click.testing import CliRunner
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter, ValidationError

from looper.simulate.answers import (
    KNOWN,
    VERDICT_KEYS,
    ChatBody,
    KnownQuestion,
    Voice,
    candidates,
    choose,
    find_question,
    instance,
    judge_reply,
)
from looper.simulate.server import Cut, Fault, Hang, Reset, SimulatedModel, Simulator, Status, main

CAPITAL = next(question for question in KNOWN if question.right == "Canberra")
CHOICE = next(question for question in KNOWN if question.is_choice)
MODELS = (
    SimulatedModel(name="right", skill=1.0),
    SimulatedModel(name="wrong", skill=0.0),
    SimulatedModel(name="thinker", skill=1.0, reasoning=True),
    SimulatedModel(name="slow", latency=30.0),
    SimulatedModel(name="typist", token_latency=0.002),
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


@dataclass(frozen=True)
class Backends:
    simulator: Simulator
    url: str
    http: aiohttp.ClientSession
    client: openai.AsyncOpenAI

    async def ask(self, text: str, model: str = "right", **members: Any) -> ChatCompletion:
        messages: Any = [{"role": "user", "content": text}]
        answer = await self.client.chat.completions.create(
            model=model, messages=messages, **members
        )
        assert isinstance(answer, ChatCompletion)
        return answer

    async def stream(
        self, text: str, model: str = "right", **members: Any
    ) -> list[ChatCompletionChunk]:
        messages: Any = [{"role": "user", "content": text}]
        chunks: Any = await self.client.chat.completions.create(
            model=model, messages=messages, stream=True, **members
        )
        return [chunk async for chunk in chunks]

    def post(self, model: str = "right", **members: Any) -> Any:
        """A plain request: a context manager whose value is aiohttp's response."""
        messages = [{"role": "user", "content": CAPITAL.text}]
        body = {"model": model, "messages": messages, **members}
        return self.http.post(f"{self.url}/v1/chat/completions", json=body)


@pytest.fixture
async def backends() -> AsyncIterator[Backends]:
    simulator = Simulator(MODELS)
    async with (
        simulator.serve() as server,
        aiohttp.ClientSession() as http,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield Backends(simulator, server.url, http, client)


def said(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def joined(chunks: list[ChatCompletionChunk], name: str = "content", index: int = 0) -> str:
    deltas = [c.delta for chunk in chunks for c in chunk.choices if c.index == index]
    return "".join(getattr(delta, name, None) or "" for delta in deltas)


def body(*texts: str, **members: Any) -> ChatBody:
    messages = [{"role": "user", "content": text} for text in texts]
    return msgspec.convert({"messages": messages, **members}, ChatBody)


# Known questions and chance


@pytest.mark.parametrize(
    ("skill", "right"),
    [pytest.param(0.0, 0, id="never"), pytest.param(1.0, len(KNOWN), id="always")],
)
def test_skill_is_how_often_a_known_question_is_answered_rightly(skill: float, right: int) -> None:
    """A model without skill is always wrong, one with full skill always right."""
    voice = Voice("m", skill, 0, "None")
    texts = [(q, choose(voice, body(q.text), KNOWN).message["content"]) for q in KNOWN]
    assert sum(question.given(text) == question.right for question, text in texts) == right


def test_skill_in_between_is_a_share() -> None:
    """Over many samples the share of right answers is the skill."""
    voices = [Voice("m", 0.7, 0, str(sample)) for sample in range(1000)]
    texts = [choose(voice, body(CAPITAL.text), KNOWN).message["content"] for voice in voices]
    assert 0.65 < sum(CAPITAL.given(text) == CAPITAL.right for text in texts) / 1000 < 0.75


def test_the_bank_is_varied_and_unambiguous() -> None:
    """Every known question is found by its own text, and its values can be told apart."""
    assert len(KNOWN) >= 24
    for question in KNOWN:
        assert find_question([f"Please: {question.text} Thanks!"], KNOWN) is question
        assert len({question.right, *question.wrong}) >= 3
        for value in (question.right, *question.wrong):
            assert question.given(f"It might be so. I say {value}.") == value


async def test_the_same_request_has_the_same_answer(backends: Backends) -> None:
    """Chance depends on the request alone; the id is new each time."""
    first, second = await backends.ask(CAPITAL.text), await backends.ask(CAPITAL.text)
    assert said(first) == said(second)
    assert first.id != second.id


@pytest.mark.parametrize("differs", ["model", "seed", "sample"])
def test_luck_differs(differs: str) -> None:
    """Other models, model seeds and request seeds are other throws of the dice."""
    common = {"model": "m", "skill": 0.5, "seed": 0, "sample": "0"}
    voices = [Voice(**{**common, differs: n}) for n in range(50)]  # type: ignore[arg-type]
    answers = {choose(v, body(CAPITAL.text), KNOWN).message["content"] for v in voices}
    assert len(answers) > 4


async def test_a_choice_is_marked(backends: Backends) -> None:
    """An answer to a multiple-choice question ends with a line that says which."""
    assert said(await backends.ask(CHOICE.text)).endswith(f"\nANSWER: {CHOICE.right}")


async def test_a_question_is_recognised_in_parts_and_anywhere() -> None:
    """A known question counts when it stands in a content part, or in an earlier message."""
    parts = [{"type": "text", "text": f"Well: {CAPITAL.text}"}]
    voice = Voice("m", 1.0, 0, "")
    assert "Canberra" in choose(voice, body(parts), KNOWN).message["content"]  # type: ignore[arg-type]
    assert "Canberra" in choose(voice, body(CAPITAL.text, "Go on."), KNOWN).message["content"]


async def test_what_is_not_known_is_said_to_be_simulated(backends: Backends) -> None:
    """An unknown prompt gets an echo that cannot be taken for an answer."""
    text = said(await backends.ask("Write me a poem about rain."))
    assert text.startswith("This is a simulated answer to: “Write me a poem about rain.”")


async def test_a_bank_can_be_given() -> None:
    """A test can bring its own questions."""
    bank = (KnownQuestion("What is it?", "blue", ("red", "green")),)
    simulator = Simulator([SimulatedModel(name="m", skill=1.0)], known=bank)
    async with simulator.serve() as server, aiohttp.ClientSession() as http:
        messages = [{"role": "user", "content": "What is it?"}]
        request = {"model": "m", "messages": messages}
        async with http.post(f"{server.url}/v1/chat/completions", json=request) as answer:
            assert "blue" in await answer.text()


# Judges, finals, JSON


PROMPTS = {
    "brackets": "[candidate {n} 7f3a9c1d2b4e6f80]\n{text}\n[end of candidate {n} 7f3a9c1d2b4e6f80]",
    "fence": "=== 7f3a9c1d Answer #{n} ===\n{text}\n=== 7f3a9c1d end ===",
    "element": '<response id="{n}">\n{text}\n</response>',
    "heading": "### Candidate {n}\n{text}",
    "number": "[{n}]\n{text}",
}


def judged(style: str, *texts: str, first: int = 1) -> str:
    blocks = [PROMPTS[style].format(n=n, text=text) for n, text in enumerate(texts, first)]
    keys = ", ".join(VERDICT_KEYS)
    return "\n\n".join([CAPITAL.text, *blocks, f"Compare. Answer with JSON: {keys}"])


@pytest.mark.parametrize("style", PROMPTS)
def test_candidates_are_found_by_their_numbers(style: str) -> None:
    """However a prompt fences and numbers its candidates, each has its own text."""
    found = candidates(judged(style, "I say Sydney.\nANSWER: 42", "Canberra it is."))
    assert list(found) == [1, 2]
    assert found[1] == "I say Sydney.\nANSWER: 42"
    assert found[2].startswith("Canberra it is.")


@pytest.mark.parametrize("style", PROMPTS)
@pytest.mark.parametrize("first", [0, 1, 5])
def test_the_winner_is_the_candidate_that_is_right(style: str, first: int) -> None:
    """A judge names the right candidate by the number the prompt gave it."""
    prompt = judged(style, "I say Sydney.", "It is Canberra.", "Sydney, surely.", first=first)
    analysis = json.loads(judge_reply(prompt, KNOWN))
    assert tuple(analysis) == VERDICT_KEYS
    assert analysis["winner"] == first + 1
    assert analysis["scores"] == [4.0, 9.0, 4.0]
    assert analysis["agreement"] == pytest.approx(2 / 3, abs=0.001)
    assert all(isinstance(item, str) for key in VERDICT_KEYS[:5] for item in analysis[key])


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(judged("fence", "Sydney.", "Perth."), id="all-wrong"),
        pytest.param(judged("fence", "a", "b").replace(CAPITAL.text, "Eh?"), id="unknown"),
        pytest.param("Compare these.", id="no-candidates"),
    ],
)
def test_there_may_be_no_winner(prompt: str) -> None:
    """Without a right candidate there is no winner, and the analysis is complete all the same."""
    analysis = json.loads(judge_reply(prompt, KNOWN))
    assert analysis["winner"] is None
    assert tuple(analysis) == VERDICT_KEYS


async def test_a_judge_is_recognised(backends: Backends) -> None:
    """Naming the keys in the prompt, or in a schema, makes the model a judge."""
    by_text = said(await backends.ask(judged("fence", "Sydney", "Canberra")))
    schema = {"type": "object", "properties": {key: {} for key in VERDICT_KEYS}}
    wanted = {"type": "json_schema", "json_schema": {"name": "judge", "schema": schema}}
    prompt = judged("fence", "Sydney", "Canberra").partition("Compare")[0]
    by_schema = said(await backends.ask(prompt, response_format=wanted))
    assert json.loads(by_text) == json.loads(by_schema)
    assert json.loads(by_text)["winner"] == 2


def test_a_final_without_the_skill_follows_the_majority() -> None:
    """A final that does not know takes what most candidates say, right or not."""
    final = Voice("m", 0.0, 0, "")
    for texts, expected in [
        (["It is Perth.", "Perth.", "Canberra."], "Perth"),
        (["Canberra.", "Canberra!", "Sydney."], "Canberra"),
    ]:
        prompt = judged("fence", *texts).partition("Compare")[0] + "Write the answer."
        assert CAPITAL.given(choose(final, body(prompt), KNOWN).message["content"]) == expected


def test_a_final_with_the_skill_is_right() -> None:
    """A final that knows better contradicts its candidates."""
    prompt = judged("fence", "Perth.", "Perth.").partition("Compare")[0]
    text = choose(Voice("m", 1.0, 0, ""), body(prompt), KNOWN).message["content"]
    assert CAPITAL.given(text) == "Canberra"


def test_a_final_echoes_the_question() -> None:
    """Of an unknown question with quoted candidates, the question is echoed and not the prompt."""
    prompt = judged("fence", "a", "b").partition("Compare")[0].replace(CAPITAL.text, "Merge:")
    text = choose(Voice("m", 1.0, 0, ""), body("Why is it so?", prompt), KNOWN).message["content"]
    assert "“Why is it so?”" in text


async def test_json_is_what_the_schema_wants(backends: Backends) -> None:
    """A client's schema is satisfied, and its property `answer` has the answer."""
    schema = {
        "type": "object",
        "properties": {
            "answer": {"type": "string"},
            "kind": {"enum": ["city", "river"]},
            "notes": {"type": "array", "items": {"$ref": "#/$defs/note"}},
            "score": {"type": ["number", "null"], "minimum": 2},
        },
        "$defs": {"note": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}},
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = json.loads(said(await backends.ask(CAPITAL.text, response_format=wanted)))
    assert answer == {"answer": "Canberra", "kind": "city", "notes": [True], "score": 2}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        pytest.param({"type": "array"}, [], id="bare-array"),
        pytest.param({"type": "object"}, {}, id="bare-object"),
        pytest.param({"type": "null"}, None, id="null"),
        pytest.param({}, "simulated value", id="anything"),
        pytest.param({"const": 3}, 3, id="const"),
        pytest.param({"properties": {"answer": {"type": "integer"}}}, {"answer": 7}, id="number"),
        pytest.param({"$ref": "#/$defs/none"}, "simulated value", id="lost-reference"),
        pytest.param(
            {
                "properties": {"again": {"$ref": "#"}, "list": {"items": {"$ref": "#"}}},
                "required": ["list"],
            },
            {
                "again": {"again": None, "list": []},
                "list": [{"again": None, "list": []}],
            },
            id="refers-to-itself",
        ),
    ],
)
def test_instances_of_schemas(schema: dict[str, Any], expected: object) -> None:
    """Odd schemas have plain values too, and one that refers to itself comes to an end."""
    assert instance(schema, schema, answer="7") == expected


async def test_json_without_a_schema_is_an_object(backends: Backends) -> None:
    """`json_object` from a client who is no judge is a small object with the answer."""
    answer = await backends.ask(CAPITAL.text, response_format={"type": "json_object"})
    assert json.loads(said(answer)) == {"answer": "Canberra"}


# The shapes of the API


async def test_every_part_says_that_it_is_simulated(backends: Backends) -> None:
    """Answers and chunks carry the fingerprint, the model asked for, one id and the time."""
    answer, chunks = await backends.ask("Hi"), await backends.stream("Hi")
    parts: list[ChatCompletion | ChatCompletionChunk] = [answer, *chunks]
    for part in parts:
        assert part.system_fingerprint == "simulated:right"
        assert part.model == "right"
        assert abs(part.created - time.time()) < 5
    assert len({chunk.id for chunk in chunks}) == 1
    assert answer.object == "chat.completion"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


@pytest.mark.parametrize("model", ["right", "wrong", "thinker", "typist"])
@pytest.mark.parametrize(
    "members",
    [
        pytest.param({}, id="plain"),
        pytest.param({"n": 2}, id="two-choices"),
        pytest.param({"max_tokens": 4}, id="limited"),
        pytest.param({"stop": ["answer", " a"]}, id="stopped"),
    ],
)
async def test_a_stream_says_what_the_whole_answer_says(
    backends: Backends, model: str, members: dict[str, Any]
) -> None:
    """Joined deltas are the unstreamed text, thoughts too, and the endings are the same."""
    whole = await backends.ask(CAPITAL.text, model, **members)
    chunks = await backends.stream(CAPITAL.text, model, **members)
    for choice in whole.choices:
        assert joined(chunks, "content", choice.index) == choice.message.content
        thought = getattr(choice.message, "reasoning_content", "")
        assert joined(chunks, "reasoning_content", choice.index) == thought
        parts = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        assert [c.finish_reason for c in parts if c.finish_reason] == [choice.finish_reason]
        assert parts[-1].finish_reason
        assert [part.delta.role for part in parts] == ["assistant"] + [None] * (len(parts) - 1)


async def test_thoughts_come_first(backends: Backends) -> None:
    """A reasoning model thinks before it speaks, and its thoughts are counted."""
    deltas = [c.choices[0].delta for c in await backends.stream(CAPITAL.text, "thinker")]
    kinds = ["content" if d.content else "thought" for d in deltas[1:-1]]
    assert kinds == sorted(kinds, reverse=True)
    usage = (await backends.ask(CAPITAL.text, "thinker")).usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == kinds.count("thought")
    assert usage.completion_tokens == len(kinds)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_token_limit_is_kept(backends: Backends, name: str) -> None:
    """An answer that does not fit ends early and says so; thoughts use the limit up first."""
    answer = await backends.ask(CAPITAL.text, extra_body={name: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 3
    thinker = await backends.ask(CAPITAL.text, "thinker", extra_body={name: 3})
    assert said(thinker) == ""
    assert thinker.choices[0].finish_reason == "length"


async def test_stop_ends_before_itself(backends: Backends) -> None:
    """Nothing from the first stop sequence on is said."""
    text = said(await backends.ask(CAPITAL.text))
    assert said(await backends.ask(CAPITAL.text, stop="the answer")) == text.split("the answer")[0]


async def test_usage_adds_up(backends: Backends) -> None:
    """The total is the sum, and a longer prompt costs more."""
    short, long = (await backends.ask("Hi")).usage, (await backends.ask("Hi " * 50)).usage
    assert short
    assert long
    assert short.total_tokens == short.prompt_tokens + short.completion_tokens
    assert long.prompt_tokens > short.prompt_tokens


@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_has_usage_only_if_asked(backends: Backends, asked: bool) -> None:
    """`include_usage` adds one last chunk without choices; without it there is none."""
    chunks = await backends.stream("Hi", stream_options={"include_usage": True} if asked else None)
    with_usage = [chunk for chunk in chunks if chunk.usage is not None]
    assert with_usage == (chunks[-1:] if asked else [])
    assert all(chunk.choices for chunk in chunks[: -1 if asked else None])
    whole = (await backends.ask("Hi")).usage
    assert not asked or (chunks[-1].usage == whole and chunks[-1].choices == [])


async def test_a_stream_ends_with_done(backends: Backends) -> None:
    """What the wire carries is server-sent events, the last of which is `[DONE]`."""
    async with backends.post(stream=True) as response:
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_logprobs_have_their_shape(backends: Backends, streamed: bool) -> None:
    """Tokens join to the text, alternatives are as many as asked and add up to less than one."""
    members: dict[str, Any] = {"logprobs": True, "top_logprobs": 3}
    if streamed:
        chunks = await backends.stream(CAPITAL.text, **members)
        found = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
        entries = [entry for part in found for entry in part.content or ()]
        text = joined(chunks)
    else:
        answer = await backends.ask(CAPITAL.text, **members)
        logprobs = answer.choices[0].logprobs
        assert logprobs
        entries, text = logprobs.content or [], said(answer)
    assert "".join(entry.token for entry in entries) == text
    assert bytes(b for entry in entries for b in entry.bytes or ()).decode() == text
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert sum(2.718281828**top.logprob for top in entry.top_logprobs) <= 1.0


async def test_logprobs_are_lower_when_wrong(backends: Backends) -> None:
    """Every token of a wrong answer is less probable than any of a right one."""
    right = (await backends.ask(CAPITAL.text, "right", logprobs=True)).choices[0].logprobs
    wrong = (await backends.ask(CAPITAL.text, "wrong", logprobs=True)).choices[0].logprobs
    assert right
    assert wrong
    least = min(entry.logprob for entry in right.content or ())
    assert max(entry.logprob for entry in wrong.content or ()) < least
    assert (await backends.ask(CAPITAL.text)).choices[0].logprobs is None


# Tools


@pytest.mark.parametrize(
    ("text", "choice", "called"),
    [
        pytest.param("Use get_weather please.", None, True, id="mentioned"),
        pytest.param("Use get_weather please.", "none", False, id="mentioned-but-none"),
        pytest.param("Hello", None, False, id="not-mentioned"),
        pytest.param("Hello", "required", True, id="required"),
        pytest.param(
            "Hello", {"type": "function", "function": {"name": "get_weather"}}, True, id="named"
        ),
    ],
)
async def test_when_a_tool_is_called(
    backends: Backends, text: str, choice: Any, called: bool
) -> None:
    """A tool is called when it must be or is mentioned, with arguments that fit its schema."""
    members = {"tools": [WEATHER]} | ({"tool_choice": choice} if choice else {})
    answer = (await backends.ask(text, **members)).choices[0]
    assert bool(answer.message.tool_calls) is called
    assert answer.finish_reason == ("tool_calls" if called else "stop")
    for call in answer.message.tool_calls or ():
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"city": "simulated city", "days": 1}


async def test_streamed_tool_calls_come_in_pieces(backends: Backends) -> None:
    """Each call begins with id and name; its arguments are joined by its index."""
    tide = {"type": "function", "function": {"name": "get_tide"}}
    chunks = await backends.stream("get_weather and get_tide!", tools=[WEATHER, tide])
    pieces = [p for chunk in chunks for c in chunk.choices for p in c.delta.tool_calls or ()]
    begun = [piece for piece in pieces if piece.id]
    assert [(piece.index, piece.function and piece.function.name) for piece in begun] == [
        (0, "get_weather"),
        (1, "get_tide"),
    ]
    first = [p.function.arguments or "" for p in pieces if p.index == 0 and p.function]
    assert len(first) > 2
    assert json.loads("".join(first)) == {"city": "simulated city", "days": 1}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_a_tool_result_is_quoted(backends: Backends) -> None:
    """After the tool has answered, the model says what it said, even if a tool is required."""
    called = (await backends.ask("Use get_weather", tools=[WEATHER])).choices[0].message
    assert called.tool_calls
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "21 °C, dry"}
    messages: Any = [{"role": "user", "content": "Use get_weather"}, called.to_dict(), result]
    tools: Any = [WEATHER]
    answer = await backends.client.chat.completions.create(
        model="right", messages=messages, tools=tools, tool_choice="required"
    )
    assert "21 °C, dry" in said(answer)


@pytest.mark.parametrize(
    ("text", "choice", "called"),
    [
        pytest.param("Use get_weather please.", None, True, id="mentioned"),
        pytest.param("Use get_weather please.", "none", False, id="mentioned-but-none"),
        pytest.param("Hello", "auto", False, id="not-mentioned"),
        pytest.param("Hello", {"name": "get_weather"}, True, id="named"),
    ],
)
async def test_when_a_function_is_called(
    backends: Backends, text: str, choice: Any, called: bool
) -> None:
    """Whoever asks in the older API is answered in it, whole and in pieces."""
    members = {"functions": [WEATHER["function"]]} | ({"function_call": choice} if choice else {})
    answer = (await backends.ask(text, **members)).choices[0]
    assert answer.finish_reason == ("function_call" if called else "stop")
    assert answer.message.tool_calls is None
    assert bool(answer.message.function_call) is called
    chunks = await backends.stream(text, **members)
    pieces = [c.delta.function_call for chunk in chunks for c in chunk.choices]
    said_ = [piece for piece in pieces if piece]
    assert bool(said_) is called
    if answer.message.function_call:
        arguments = "".join(piece.arguments or "" for piece in said_)
        assert arguments == answer.message.function_call.arguments
        assert json.loads(arguments) == {"city": "simulated city", "days": 1}
        assert [piece.name for piece in said_ if piece.name] == ["get_weather"]
    assert chunks[-1].choices[0].finish_reason == answer.finish_reason


async def test_a_functions_result_is_quoted(backends: Backends) -> None:
    """As a tool's is."""
    call = {"name": "get_weather", "arguments": "{}"}
    messages: Any = [
        {"role": "user", "content": "Use get_weather"},
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "21 °C, dry"},
    ]
    functions: Any = [WEATHER["function"]]
    answer = await backends.client.chat.completions.create(
        model="right", messages=messages, functions=functions
    )
    assert "21 °C, dry" in said(answer)
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


# The other endpoints, and refusals


async def test_models_are_listed(backends: Backends) -> None:
    """`GET /v1/models` names every model."""
    names = [model.id async for model in backends.client.models.list()]
    assert names == [model.name for model in MODELS]


async def test_legacy_completions(backends: Backends) -> None:
    """A text completion answers its prompt, whole or streamed."""
    whole = await backends.client.completions.create(model="right", prompt=CAPITAL.text)
    stream = await backends.client.completions.create(
        model="right", prompt=CAPITAL.text, stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert CAPITAL.given(whole.choices[0].text) == "Canberra"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_embeddings(backends: Backends, encoding: Any) -> None:
    """Embeddings are unit vectors, deterministic, and nearer for texts that share words."""
    texts = ["a cat sat there", "the cat sat here", "quantum flux"]
    members = {"encoding_format": encoding} if encoding else {}
    answer = await backends.client.embeddings.create(model="right", input=texts, **members)
    vectors: list[Any] = [entry.embedding for entry in answer.data]
    if encoding == "base64":
        assert all(isinstance(vector, str) for vector in vectors)
        return

    def near(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert near(vectors[0], vectors[0]) == pytest.approx(1.0, abs=1e-5)
    assert near(vectors[0], vectors[1]) > near(vectors[0], vectors[2])
    single = await backends.client.embeddings.create(
        model="right", input="quantum flux", encoding_format="float", dimensions=64
    )
    assert single.data[0].embedding == pytest.approx(vectors[2], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "content", "status", "code"),
    [
        pytest.param("/v1/chat/completions", b"{", 400, "invalid_json", id="not-json"),
        pytest.param("/v1/chat/completions", b"[]", 400, "invalid_json", id="not-an-object"),
        pytest.param(
            "/v1/chat/completions", b'{"model":"right"}', 400, "invalid_field", id="no-messages"
        ),
        pytest.param(
            "/v1/chat/completions", b'{"model":"x","messages":[]}', 404, "model_not_found", id="who"
        ),
        pytest.param("/v1/images", b"{}", 404, "unknown_url", id="elsewhere"),
    ],
)
async def test_refusals_have_the_shape_of_errors(
    backends: Backends, path: str, content: bytes, status: int, code: str
) -> None:
    """What cannot be answered is refused as OpenAI does it, and recorded."""
    async with backends.http.post(f"{backends.url}{path}", data=content) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error["code"] == code
    assert error["type"] == "invalid_request_error"
    assert backends.simulator.calls[0].body == content


async def test_the_sdk_knows_the_refusal(backends: Backends) -> None:
    """The SDK raises its own error for an unknown model."""
    with pytest.raises(openai.NotFoundError) as error:
        await backends.ask("Hi", "nobody")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize("prefix", ["", "/openai/v1", "/a/b/v1beta"])
async def test_any_prefix_will_do(backends: Backends, prefix: str) -> None:
    """Only the end of the path counts; the query is kept in the record."""
    url = f"{backends.url}{prefix}/chat/completions?version=1"
    request = {"model": "right", "messages": [{"role": "user", "content": "Hi"}]}
    async with backends.http.post(url, json=request) as response:
        assert response.status == 200
    assert backends.simulator.calls[0].path == f"{prefix}/chat/completions?version=1"


async def test_large_bodies_are_taken(backends: Backends) -> None:
    """A body of many megabytes is read and answered."""
    assert said(await backends.ask("word " * 1_000_000))


def test_the_sync_sdk_works_too() -> None:
    """The synchronous client parses answers and streams alike."""

    async def ask() -> tuple[str, str]:
        async with Simulator(MODELS).serve() as server:
            return await asyncio.to_thread(ask_in_a_thread, server.url)

    def ask_in_a_thread(url: str) -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            messages: Any = [{"role": "user", "content": CAPITAL.text}]
            whole = client.chat.completions.create(model="right", messages=messages)
            stream = client.chat.completions.create(model="right", messages=messages, stream=True)
            return said(whole), joined(list(stream))

    whole, streamed = asyncio.run(ask())
    assert whole == streamed != ""


# Scripts


async def test_a_script_is_used_up(backends: Backends) -> None:
    """Scripted replies come in order, one per call, and then the model is itself again."""
    backends.simulator.script("right", "one", "two")
    texts = [said(await backends.ask(CAPITAL.text)) for _ in range(3)]
    assert texts[:2] == ["one", "two"]
    assert "Canberra" in texts[2]


async def test_a_script_may_be_a_message(backends: Backends) -> None:
    """A whole message is sent as it is, whole or streamed."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    entry = {"token": "Hm", "logprob": -1.5, "bytes": [72, 109], "top_logprobs": []}
    message = {
        "content": "Hm",
        "refusal": "I would rather not.",
        "tool_calls": [call],
        "logprobs": {"content": [entry], "refusal": None},
        "finish_reason": "content_filter",
    }
    backends.simulator.script("right", message, message)
    whole = (await backends.ask("x")).choices[0]
    chunks = await backends.stream("x")
    assert whole.message.content == joined(chunks) == "Hm"
    assert whole.message.refusal == joined(chunks, "refusal") == "I would rather not."
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == "content_filter"
    assert whole.logprobs
    assert whole.logprobs.to_dict()["content"] == [entry]
    assert [call_.id for call_ in whole.message.tool_calls or ()] == ["call_1"]


async def test_a_script_may_be_a_function(backends: Backends) -> None:
    """A function is given the request; one that is awaited lets a test decide when."""
    go = asyncio.Event()

    async def later(request: dict[str, Any]) -> str:
        await go.wait()
        return "at last"

    backends.simulator.script("right", lambda request: request["messages"][0]["content"][::-1])
    backends.simulator.script("right", later)
    assert said(await backends.ask("abc")) == "cba"
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(backends.ask("abc"))
        await backends.simulator.wait_for(lambda: backends.simulator.running() == 1)
        go.set()
    assert said(waiting.result()) == "at last"


async def test_a_script_may_be_a_fault(backends: Backends) -> None:
    """A fault in a script hits its call only, and what follows in the script is kept."""
    backends.simulator.script("right", Status(status=503), "well again")
    with pytest.raises(openai.InternalServerError):
        await backends.ask("x")
    assert said(await backends.ask("x")) == "well again"


# Faults


@pytest.mark.parametrize("after", [None, 0, 2])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_hang_and_a_peer_that_leaves(
    backends: Backends, after: int | None, stream: bool
) -> None:
    """A hanging call goes on until its peer leaves, which is noticed at once and recorded."""
    backends.simulator.fault("right", Hang(after_chunks=after))
    simulator = backends.simulator
    async with asyncio.TaskGroup() as group:

        async def ask() -> None:
            async with backends.post(stream=stream) as response:
                assert after is not None
                await response.read()

        peer = group.create_task(ask())
        await simulator.wait_for(lambda: simulator.running("right") == 1)
        if after is not None:
            await simulator.wait_for(lambda: simulator.calls[0].first_byte_at is not None)
        left = time.monotonic()
        peer.cancel()
    await simulator.wait_for(lambda: simulator.running() == 0)
    call = simulator.calls[0]
    assert call.outcome == "disconnected"
    assert (call.first_byte_at is None) is (after is None)
    assert call.finished_at is not None
    assert left <= call.finished_at < left + 1.0


@pytest.mark.parametrize("model", ["slow", "typist"])
async def test_a_peer_that_leaves_a_healthy_model(backends: Backends, model: str) -> None:
    """Leaving is noticed before the first token, and in the middle of a stream."""
    simulator = backends.simulator
    simulator.script(model, "word " * 5000)
    async with asyncio.TaskGroup() as group:

        async def ask() -> None:
            async with backends.post(model, stream=True) as response:
                await response.read()

        peer = group.create_task(ask())
        begun = (lambda: simulator.calls[0].first_byte_at) if model == "typist" else simulator.count
        await simulator.wait_for(lambda: simulator.count() == 1 and bool(begun()))
        peer.cancel()
    await simulator.wait_for(lambda: simulator.running() == 0)
    assert simulator.calls[0].outcome == "disconnected"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("after", [None, 0, 2])
async def test_reset(backends: Backends, after: int | None, stream: bool) -> None:
    """The connection breaks before the headers, or after as many chunks as wanted."""
    backends.simulator.fault("right", Reset(after_chunks=after))
    seen = ""
    try:
        async with backends.post(stream=stream) as response:
            seen = "headers"
            await response.read()
            seen = "everything"
    except aiohttp.ClientError:
        pass
    assert seen == ("" if after is None else "headers")
    await backends.simulator.wait_for(lambda: backends.simulator.running() == 0)
    assert backends.simulator.calls[0].outcome == "faulted"


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, openai.AuthenticationError), (429, openai.RateLimitError), (500, openai.APIStatusError)],
)
async def test_status(backends: Backends, status: int, error: type[openai.APIStatusError]) -> None:
    """An HTTP error has OpenAI's shape, and says when to come back if the fault says so."""
    backends.simulator.fault("right", Status(status=status, code="out", retry_after=7))
    with pytest.raises(error) as raised:
        await backends.ask("x")
    assert raised.value.status_code == status
    assert raised.value.code == "out"
    assert raised.value.response.headers["retry-after"] == "7"
    assert backends.simulator.calls[0].outcome == "faulted"
    backends.simulator.fault("right", Status(status=status))
    async with backends.post() as response:
        assert "retry-after" not in response.headers


@pytest.mark.parametrize("chunks", [0, 1, 3, 1000])
async def test_cut_stream(backends: Backends, chunks: int) -> None:
    """A cut stream ends properly after its chunks and has no `[DONE]`."""
    async with backends.post(stream=True) as response:
        whole = (await response.text()).split("\n\n")[:-2]
    backends.simulator.fault("right", Cut(after_chunks=chunks))
    async with backends.post(stream=True) as response:
        events = (await response.text()).split("\n\n")[:-1]
    assert len(events) == min(chunks, len(whole))
    assert "data: [DONE]" not in events


async def test_cut_body(backends: Backends) -> None:
    """A cut answer that is not streamed is good HTTP around half a JSON text."""
    backends.simulator.fault("right", Cut())
    async with backends.post() as response:
        text = await response.text()
    assert text.startswith('{"id":')
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


async def test_a_fault_may_end(backends: Backends) -> None:
    """A fault that hits n times leaves later calls alone, other models always, and the script."""
    backends.simulator.fault("right", Status(times=2))
    backends.simulator.script("right", "scripted")
    statuses = []
    for model in ("right", "wrong", "right", "right"):
        async with backends.post(model) as response:
            statuses.append(response.status)
            text = await response.text()
    assert statuses == [500, 200, 500, 200]
    assert "scripted" in text


def test_faults_are_a_closed_set() -> None:
    """A fault is read from JSON by its type; unknown types and members are errors."""
    reader: TypeAdapter[Fault] = TypeAdapter(Fault)
    assert reader.validate_python({"type": "hang", "after_chunks": 0}) == Hang(after_chunks=0)
    for wrong in ({"type": "sulk"}, {"type": "cut", "chunks": 1}, {"type": "hang", "times": 0}):
        with pytest.raises(ValidationError):
            reader.validate_python(wrong)


# Records, and the same from outside


async def test_calls_are_recorded(backends: Backends) -> None:
    """A record has what was asked, with which headers, and when what happened."""
    before = time.monotonic()
    await backends.ask("Hi", extra_headers={"X-Looper-Role": "panel"})
    await backends.ask("Hi", "wrong")
    assert backends.simulator.count() == 2
    assert backends.simulator.count("right") == 1
    assert backends.simulator.running() == 0
    call = backends.simulator.calls[0]
    assert (call.model, call.path, call.outcome) == ("right", "/v1/chat/completions", "finished")
    assert call.headers["x-looper-role"] == "panel"
    assert json.loads(call.body) == call.parsed
    assert call.first_byte_at is not None
    assert call.finished_at is not None
    assert before <= call.started <= call.first_byte_at <= call.finished_at <= time.monotonic()


async def test_reset_forgets(backends: Backends) -> None:
    """After a reset there are no calls, scripts, faults or changed models."""
    simulator = backends.simulator
    simulator.script("right", "scripted")
    simulator.fault("right", Status())
    simulator.put(SimulatedModel(name="right", skill=0.0))
    simulator.put(SimulatedModel(name="new"))
    simulator.reset()
    assert simulator.calls == []
    assert list(simulator.models.values()) == list(MODELS)
    assert "Canberra" in said(await backends.ask(CAPITAL.text))


async def test_waiting_gives_up() -> None:
    """What does not come true in time is a TimeoutError."""
    with pytest.raises(TimeoutError):
        await Simulator().wait_for(lambda: False, timeout=0.01)


async def test_calls_are_shown(backends: Backends) -> None:
    """`GET /_simulator/calls` shows the records, with bodies only if asked."""
    await backends.ask("Hi", extra_headers={"x-looper-role": "judge"})
    async with backends.http.get(f"{backends.url}/_simulator/calls") as response:
        (call,) = (await response.json())["calls"]
    assert (call["model"], call["role"], call["outcome"]) == ("right", "judge", "finished")
    assert call["headers"]["x-looper-role"] == "judge"
    assert call["started"] <= call["first_byte_at"] <= call["finished_at"]
    assert "body" not in call
    async with backends.http.get(f"{backends.url}/_simulator/calls?bodies=1") as response:
        (call,) = (await response.json())["calls"]
    assert call["body"]["messages"] == [{"role": "user", "content": "Hi"}]


async def test_faults_and_models_are_changed_from_outside(backends: Backends) -> None:
    """Faults and skills can be set by HTTP, and reset undoes them."""

    async def change(what: str, **members: Any) -> int:
        async with backends.http.post(f"{backends.url}/_simulator/{what}", json=members) as done:
            return done.status

    async def status() -> int:
        async with backends.post() as response:
            answer: int = response.status
            return answer

    assert await change("faults", model="right", fault={"type": "status", "status": 418}) == 200
    assert await status() == 418
    assert await change("faults", model="right", fault=None) == 200
    assert await status() == 200
    assert await change("models", name="right", skill=0.0) == 200
    assert CAPITAL.given(said(await backends.ask(CAPITAL.text))) != "Canberra"
    assert await change("reset") == 200
    assert backends.simulator.calls == []
    assert CAPITAL.given(said(await backends.ask(CAPITAL.text))) == "Canberra"


@pytest.mark.parametrize(
    ("what", "members", "status"),
    [
        pytest.param("faults", {"model": "x", "fault": None}, 400, id="unknown-model"),
        pytest.param("faults", {"model": "right", "fault": {"type": "x"}}, 400, id="bad-fault"),
        pytest.param("models", {"name": "right", "skill": 2}, 400, id="bad-skill"),
        pytest.param("models", {}, 400, id="no-name"),
        pytest.param("moods", {}, 404, id="unknown-change"),
    ],
)
async def test_bad_changes_are_refused(
    backends: Backends, what: str, members: dict[str, Any], status: int
) -> None:
    """A change that makes no sense changes nothing."""
    async with backends.http.post(f"{backends.url}/_simulator/{what}", json=members) as done:
        assert done.status == status
    assert list(backends.simulator.models.values()) == list(MODELS)


# Running


async def test_leaving_the_block_ends_hanging_calls_quickly() -> None:
    """The server stops at once although calls hang, and its port is free again."""
    simulator = Simulator([SimulatedModel(name="m", fault=Hang(after_chunks=1))])
    async with aiohttp.ClientSession() as http:
        async with asyncio.TaskGroup() as group, simulator.serve() as server:
            request = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}

            async def ask() -> None:
                url = f"{server.url}/v1/chat/completions"
                with pytest.raises(aiohttp.ClientError):
                    async with http.post(url, json={**request, "stream": True}) as response:
                        await response.read()

            for _ in range(5):
                group.create_task(ask())
            await simulator.wait_for(lambda: simulator.running() == 5)
            leaving = time.monotonic()
        assert time.monotonic() - leaving < 10
        await simulator.wait_for(lambda: simulator.running() == 0)
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"{server.url}/v1/models")


async def test_many_calls_at_once_take_the_time_of_one() -> None:
    """Two hundred concurrent calls of 100 ms do not wait for each other."""
    simulator = Simulator([SimulatedModel(name="m", latency=0.1)])
    connector = aiohttp.TCPConnector(limit=0)
    async with simulator.serve() as server, aiohttp.ClientSession(connector=connector) as http:
        request = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}

        async def ask() -> None:
            url = f"{server.url}/v1/chat/completions"
            async with http.post(url, json=request) as response:
                assert (await response.read()).endswith(b"data: [DONE]\n\n")

        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(ask())
        assert time.monotonic() - begun < 15  # one after another it would be 20


async def test_latencies_are_kept() -> None:
    """The first byte comes after the latency, the last after the tokens' time."""
    model = SimulatedModel(name="m", skill=1.0, latency=0.05, token_latency=0.005)
    simulator = Simulator([model])
    async with simulator.serve() as server, aiohttp.ClientSession() as http:
        messages = [{"role": "user", "content": CAPITAL.text}]
        request = {"model": "m", "messages": messages, "stream": True}
        async with http.post(f"{server.url}/v1/chat/completions", json=request) as response:
            chunks = (await response.text()).count("data: ")
    (call,) = simulator.calls
    assert call.first_byte_at is not None
    assert call.finished_at is not None
    assert call.first_byte_at - call.started >= 0.05
    assert call.finished_at - call.first_byte_at >= 0.005 * (chunks - 1) * 0.9


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_the_command_serves_until_it_is_told_to_stop(name: str) -> None:
    """The command prints where it listens, serves the models it was given, and ends with 0."""
    arguments = ["-m", "looper.simulate", "--model", "fast:1:0:0", "--model", "plain"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    url = json.loads(await process.stdout.readline())["url"]
    async with aiohttp.ClientSession() as http, http.get(f"{url}/v1/models") as response:
        names = [model["id"] for model in (await response.json())["data"]]
    process.send_signal(getattr(signal, name))
    assert names == ["fast", "plain"]
    assert await process.wait() == 0


@pytest.mark.parametrize("model", ["m:2", "m:0.5:soon", "m:1:0:0:0", ""])
def test_the_command_refuses_bad_models(model: str) -> None:
    """A model that makes no sense is a usage error that quotes it."""
    result = CliRunner().invoke(main, ["--model", model])
    assert result.exit_code == 2
    assert f"{model}: " in result.output
