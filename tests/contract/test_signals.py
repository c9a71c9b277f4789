"""Rules that every kind of signal obeys. A new kind joins by having an example in the catalogue."""

import json
import time

import pytest
import yaml
from pydantic import TypeAdapter

from extproc.signals import LocalSignal, SignalConfig, Subject
from looper.chat import ChatRequest
from tests.contract.test_catalogue import SIGNALS, sections

BOUND_SECONDS = 0.5
"""Generous, as this is no benchmark: what grows with the square of the text takes minutes."""

TEXTS = {
    "empty": "",
    "words": "Prove that the trade-off holds, step by step.",
    "unicode": "été ١٢٣ 日本語 ß ﬁ \u0000 \ud7ff 🤖",
    "megabyte": "a" * 1_000_000,
    "near-misses": "prov " * 200_000,
}


def example(kind: str) -> LocalSignal:
    block = sections(SIGNALS)[kind].partition("```yaml\n")[2].partition("```")[0]
    (value,) = yaml.safe_load(block).values()
    built: LocalSignal = TypeAdapter(SignalConfig).validate_python(value).build()
    return built


def request(text: str) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
    return ChatRequest.parse(json.dumps(body).encode())


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("kind", sections(SIGNALS))
def test_a_reading_is_bounded_and_repeatable(kind: str, text: str) -> None:
    """A signal answers any text soon, with a score from 0 to 1, and the same way twice."""
    signal, asked = example(kind), Subject(request(text))
    began = time.perf_counter()
    reading = signal.read(asked)
    took = time.perf_counter() - began

    assert 0 <= reading.score <= 1
    assert all(0 <= score <= 1 for score in reading.labels.values())
    assert reading == signal.read(asked)
    assert took < BOUND_SECONDS


@pytest.mark.parametrize("kind", sections(SIGNALS))
def test_hits_never_quote_the_prompt(kind: str) -> None:
    """What a signal publishes as hits comes from its configuration: a prompt's own words stay private."""
    secret = "MiXeD-secret-7319"
    asked = Subject(request(f"Prove {secret} step by step, compare {secret}."))
    reading = example(kind).read(asked)

    assert not any(secret.casefold() in hit.casefold() for hit in reading.hits)
