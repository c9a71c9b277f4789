"""Rules that every kind of signal obeys. A new kind joins by having an example in the catalogue."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from extproc.signals import Egress, LocalSignal, Reading, SignalConfig, Subject
from extproc.signals.base import RemoteSetting
from extproc.signals.read import Signals, read_local, read_signals
from looper.errors import InvalidRequest
from looper.wire.chat import ChatRequest
from tests.contract.test_catalogue import SIGNALS, sections
from tests.fakes.models import ScriptedClient, model

_config: TypeAdapter[SignalConfig] = TypeAdapter(SignalConfig)

TEXTS = {
    "empty": "",
    "words": "Prove that the trade-off holds, step by step.",
    "cyrillic": "Докажи, что это верно?\nА) да\nБ) нет",
    "chinese": "请证明这个命题,然后写代码。为什么?",
    "japanese": "これを証明してください。\n① はい\n② いいえ",
    "arabic": "أثبت أن هذا صحيح خطوة بخطوة؟",
    "thai": "ช่วยพิสูจน์ข้อนี้ให้หน่อย",
    "hindi": "कृपया इसे सिद्ध करो।",
    "unicode": "été ١٢٣ 日本語 ß ﬁ \u0000 \ud7ff 🤖",
}
"""Of each script, something that is asked."""

OTHERS: list[dict[str, Any]] = [
    {"type": "keyword", "any": [{"regex": r"(a|aa)+b"}, {"regex": r"\d+(,\d+)*;"}]},
    {"type": "keyword", "any": [{"fuzzy": "derivative", "distance": 2}, {"fuzzy": "wavelet"}]},
    {"type": "keyword", "all": ["aaa", "bb"], "none": ["x" * 50]},
    {"type": "structure", "of": "fences", "at_least": 900},
    {"type": "structure", "of": "questions", "at_least": 900},
    {"type": "structure", "regex": r"(?s)a.*b|\w", "at_least": 1000},
    {"type": "structure", "regex": r"x(.*y)?", "measure": "density", "at_least": 1},
    {"type": "structure", "words": ["a", "aa", "prov"], "at_least": 900},
    {"type": "structure", "sequence": ["a", ["b", "c"], "d", "e"]},
    {"type": "conversation", "of": "reask"},
    {"type": "conversation", "of": "tool_calls"},
    {"type": "conversation", "of": "turns"},
    {"type": "conversation", "of": "tools"},
    {"type": "language", "any": ["zh", "de"], "at_least": 0.1},
    {"type": "request", "path": "messages.0.content", "prefix": "x"},
    {"type": "request", "path": "tools.0.function.name", "in": ["f"]},
]
"""Ways to set local signals up that the catalogue does not show."""


def block(kind: str) -> dict[str, Any]:
    """The catalogue's example of a kind."""
    text = sections(SIGNALS)[kind].partition("```yaml\n")[2].partition("```")[0]
    (value,) = yaml.safe_load(text).values()
    return dict(value)


def configured(value: dict[str, Any]) -> SignalConfig:
    return _config.validate_python(value)


EXAMPLES = {kind: block(kind) for kind in sections(SIGNALS)}
LOCAL = {
    f"{value['type']}-{at}": value
    for at, value in enumerate([*EXAMPLES.values(), *OTHERS])
    if not isinstance(configured(value), RemoteSetting)
}
ALL = Signals.build({name: configured(value) for name, value in LOCAL.items()})
SAYS = '{"label": "math", "confidence": 0.9}'
EGRESS = Egress(ScriptedClient({"small": SAYS}), {"small": model("small")})


def subject(text: str) -> Subject:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return Subject(ChatRequest.parse(json.dumps(body).encode()))


async def reading_of(kind: str, asked: Subject) -> Reading:
    """The reading by the catalogue's example."""
    signals = Signals.build({"it": configured(EXAMPLES[kind])})
    deadline = asyncio.get_running_loop().time() + 60
    return (await read_signals(signals, asked, deadline, EGRESS))["it"]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", EXAMPLES)
async def test_a_reading_is_repeatable(kind: str, text: str) -> None:
    """A signal answers any text, with a score from 0 to 1, and the same way twice."""
    reading = await reading_of(kind, subject(text))

    assert 0 <= reading.score <= 1
    assert all(0 <= score <= 1 for score in reading.labels.values())
    assert reading == await reading_of(kind, subject(text))


@pytest.mark.parametrize("kind", EXAMPLES)
async def test_hits_never_quote_the_prompt(kind: str) -> None:
    """What a signal publishes as hits comes from its configuration: a prompt's own words stay private."""
    secret = "MiXeD-secret-7319"
    reading = await reading_of(kind, subject(f"Prove {secret} step by step, compare {secret}."))

    assert not any(secret.casefold() in hit.casefold() for hit in reading.hits)
    assert not any(secret.casefold() in label.casefold() for label in reading.labels)


@pytest.mark.parametrize("kind", EXAMPLES)
async def test_labels_are_known_beforehand(kind: str) -> None:
    """Rules may name those that a signal says it has, and it has no others."""
    names = configured(EXAMPLES[kind]).label_names()
    for text in TEXTS.values():
        labels = (await reading_of(kind, subject(text))).labels
        assert names is None or set(labels) <= set(names)


# Work is bounded...


def filled(part: str) -> Callable[[int], str]:
    """A body whose text is one part, over and over."""

    def body(size: int) -> str:
        said = [{"role": "user", "content": part * (size // len(part.encode()))}]
        return json.dumps({"model": "m", "messages": said}, ensure_ascii=False)

    return body


def different_words(size: int) -> str:
    words = " ".join(f"wavele{at}" for at in range(size // 12))
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": words}]})


def many_turns(size: int) -> str:
    call = {"role": "assistant", "tool_calls": [{"id": "1"}] * 3}
    turn = [{"role": "user", "content": "a"}, call]
    return json.dumps({"model": "m", "messages": turn * (size // 120)})


def many_members(size: int) -> str:
    tools = [{"function": {"name": "f"}}] * (size // 40)
    said = [{"role": "user", "content": [{"type": "text", "text": "a"}] * (size // 80)}]
    return json.dumps({"model": "m", "messages": said, "tools": tools})


BODIES: dict[str, Callable[[int], str]] = {
    "letters": filled("a"),
    "near-misses": filled("prov "),
    "lines": filled("A) b\n"),
    "fences": filled("```\n"),
    "questions": filled("a? "),
    "expensive-patterns": filled("xy\nab "),
    "digits": filled("1,"),
    "cyrillic": filled("код прове "),
    "chinese": filled("代码证明"),
    "thai": filled("โค้ดหน่อย"),
    "accents": filled("a\u0301"),
    "different-words": different_words,
    "many-turns": many_turns,
    "many-members": many_members,
}
"""Bodies of about a size, each the worst for something."""

SLACK = 0.003
"""Seconds: what a measurement may be off by for no reason."""


def cost(signal: LocalSignal, body: bytes) -> float:
    """CPU seconds of this thread for one reading, with all that it needs of the subject; the least of three."""
    costs = []
    for _ in range(3):
        asked = Subject(ChatRequest.parse(body))
        began = time.thread_time()
        signal.read(asked)
        costs.append(time.thread_time() - began)
    return min(costs)


@pytest.mark.parametrize("name", LOCAL)
def test_work_grows_no_faster_than_the_body(name: str) -> None:
    """A tenfold body costs ten times as much at most, and a megabyte no more than may be spent beside others."""
    (question,) = (each for each in ALL.local if each.name == name)
    for kind, body in BODIES.items():
        small, large, huge = (body(size).encode() for size in (10_000, 100_000, 1_000_000))
        costs = [cost(question.signal, each) for each in (small, large, huge)]
        assert costs[1] < 25 * costs[0] + SLACK, (kind, costs)
        assert costs[2] < 25 * costs[1] + SLACK, (kind, costs)


# ... and nothing that a client can send makes it fail.

NAMES = """model messages role content type text image_url tools functions tool_calls function name stream max_tokens
response_format metadata reasoning_effort temperature"""
KEYS = st.sampled_from(NAMES.split()) | st.text(max_size=5)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=40)
    | st.sampled_from(["user", "assistant", "tool", "system", "text", "image_url", "json_schema"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool", "developer"])},
        optional={"content": VALUES, "tool_calls": VALUES, "name": VALUES},
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None, max_examples=400)
@given(MESSAGES, st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_body_makes_a_signal_fail(messages: list[Any], members: dict[str, Any]) -> None:
    """Whatever a client sends is refused as no request, or every signal has an answer to it, soon."""
    body = json.dumps({**members, "model": "m", "messages": messages})
    try:
        asked = Subject(ChatRequest.parse(body.encode()))
    except InvalidRequest:
        return
    began = time.thread_time()
    readings = read_local(ALL, asked)
    assert time.thread_time() - began < 2
    assert set(readings) == set(LOCAL)


@pytest.mark.parametrize("depth", [1, 100, 900])
@pytest.mark.parametrize("member", ["tools", "metadata", "response_format", "tool_choice"])
def test_nor_does_one_that_is_nested_deeply(member: str, depth: int) -> None:
    """As deep as a request may be at all."""
    nested = '{"0":[' * (depth // 2) + "1" + "]}" * (depth // 2)
    said = '[{"role": "user", "content": "x"}]'
    body = f'{{"model": "m", "messages": {said}, "{member}": {nested}}}'
    assert set(read_local(ALL, Subject(ChatRequest.parse(body.encode())))) == set(LOCAL)
