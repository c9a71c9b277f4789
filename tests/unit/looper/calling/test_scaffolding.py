"""What stood around the evidence in a prompt, taken out of what its reader writes: in one piece, and chunk by chunk."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.calling.scaffolding import Scaffold, Sieve, scaffold_of, without_scaffold
from looper.patterns.closing.evidence import fenced
from looper.wire.chat import ABSENT, Choice, Completion, Reply
from looper.wire.messages import message

MARK = "0a1b2c3d4e5f6071"
NOTES = [" the answer of solve.1", " the answer of solve.2, cut off: its end is missing"]
PROMPT = fenced(["four", "five"], MARK, room=None, label="answer", notes=NOTES)
OURS = (message("user", f"Lines with {MARK}.\n{PROMPT}\nYour task: write."),)


def scaffold() -> Scaffold:
    found = scaffold_of(OURS)
    assert found is not None
    return found


def streamed(pieces: Iterable[str], name: str = "content") -> str:
    """What comes out of a stream of these pieces."""
    sieve = Sieve(scaffold())
    chunks = [Completion(choices=[Choice(delta=_delta(name, piece))]) for piece in pieces]
    out = [sieve.read(chunk) for chunk in [*chunks, Completion(choices=[END])]]
    assert sieve.rest() is None
    return "".join(getattr(each.choices[0].delta, name) or "" for each in out)


END = Choice(delta=Reply(), finish_reason="stop")


def _delta(name: str, text: str) -> Reply:
    return msgspec.structs.replace(Reply(), **{name: text})


CASES: list[tuple[str, str]] = [
    ("The answer is four.", "The answer is four."),
    (f"[answer 1 {MARK}] the answer of solve.1\nfour\n[end of answer 1 {MARK}]", "four\n"),
    (f"[answer 1 {MARK}]\n\nFour.\n\n[end of answer 1 {MARK}]\n", "\nFour.\n\n"),
    (f"**[Answer 2 {MARK.upper()}]**\nFour.", "Four."),
    (f"> [answer 7 {MARK}] the answer of solve.2, cut off: its end is missing\nFour.", "Four."),
    (f"{MARK}\nFour.\n{MARK}", "Four.\n"),
    ("[answer 1]\nFour.\n[end of answer 1]", "Four.\n"),
    ("As answer 1 of solve.1 says, four.", "As says, four."),
    ("By the answer of solve.2 it is four.", "By it is four."),
    ("As answer 1 of solve.9 says, four.", "As answer 1 of solve.9 says, four."),
    ("The answer of 2.5 and the answer of solve.12", "The answer of 2.5 and the answer of solve.12"),
    ("Answer 1: a [note] on [answers].", "Answer 1: a [note] on [answers]."),
    (f"Four.\n[end of answer 1 {MARK[:5]}", "Four.\n"),
    (f"[answer 1 {MARK}]\n---\n[end of answer 1 {MARK}]", ""),
    (f"[end of answer 2 {MARK}]", ""),
    ("👍", "👍"),
    ("---\n***", "---\n***"),
    ("- one\n- two\n\n    code()\n", "- one\n- two\n\n    code()\n"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "left"), CASES)
class TestBoth:
    def test_whole(self, text: str, left: str) -> None:
        """Lines that carry a mark go, as do our names; where only signs are left, nothing is."""
        assert scaffold().cleaned(text) == left

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
    @pytest.mark.parametrize("name", ["content", "reasoning_content"])
    def test_streamed(self, text: str, left: str, size: int, name: str) -> None:
        """However it is cut into chunks."""
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert streamed(pieces, name) == left


PIECES = [
    *("Four. ", "the ", "answer ", "[", "]", "1 ", "\n", "- ", "of ", "solve.1 ", MARK[:6], MARK, "x" * 90),
    *(f"\n[answer 1 {MARK}]\n", f"\n[end of answer 1 {MARK}]\n"),
    f"[answer 2 {MARK}] the answer of solve.2\n",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=20), st.integers(1, 30))
def test_no_mark_comes_out(pieces: list[str], size: int) -> None:
    """Whatever stands around it, and wherever the chunks are cut."""
    text = "".join(pieces)
    out = streamed(text[at : at + size] for at in range(0, len(text), size))
    for said in (out, scaffold().cleaned(text)):
        assert MARK not in said
        assert "answer 1 of solve.1" not in said


@given(st.text(alphabet="ab[]\n -*1answerofed.t", max_size=80), st.integers(1, 9))
def test_what_is_not_ours_is_said_as_it_came(text: str, size: int) -> None:
    """Nothing is lost of an answer that repeats nothing."""
    if scaffold().cleaned(text) == text:
        assert streamed(text[at : at + size] for at in range(0, len(text), size)) == text


@pytest.mark.parametrize(
    ("said", "now"),
    [
        (["Fo"], "Fo"),
        (["Four. ", "Well"], "Four. Well"),
        (["Four.\n[answer 1 0a"], "Four.\n"),
        (["Four.\n[answer 1 0a", "nd more"], "Four.\n[answer 1 0and more"),
        (["It is 0a1b2"], "It is "),
        ([" \n- "], ""),
    ],
)
def test_no_more_is_held_back_than_may_be_ours(said: list[str], now: str) -> None:
    """Words go out as they come."""
    sieve = Sieve(scaffold())
    out = [
        sieve.read(Completion(choices=[Choice(delta=Reply(content=each))])).choices[0].delta
        for each in said
    ]
    assert "".join((each and each.content) or "" for each in out) == now


def _tokens(*words: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({"content": [{"token": each} for each in words]}))


def _words(raw: msgspec.Raw) -> list[str]:
    read: dict[str, Any] = {"content": []} if raw == ABSENT else msgspec.json.decode(raw)
    return [each["token"] for each in read["content"]]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["Fo", "ur", "."], ["Fo", "ur", "."]),
        (["Four", "\n", "- ", "more"], ["Four", "\n", "- ", "more"]),
        (["Four", "\n", f"[answer 1 {MARK}", "]"], ["Four", "\n"]),
    ],
)
def test_probabilities_go_with_their_words(words: list[str], left: list[str]) -> None:
    """They are held back with them, and with them taken out."""
    sieve = Sieve(scaffold())
    chunks = [
        Completion(choices=[Choice(delta=Reply(content=each), logprobs=_tokens(each))])
        for each in words
    ]
    out = [sieve.read(chunk) for chunk in [*chunks, Completion(choices=[END])]]
    assert [token for each in out for token in _words(each.choices[0].logprobs)] == left


def test_a_whole_answer_loses_the_probabilities_of_what_it_was_before() -> None:
    """They name the mark, too. An answer that has none is the same object."""
    said = [
        Completion(choices=[Choice(message=Reply(content=text), logprobs=_tokens("x"))])
        for text in ("Four.", f"[answer 1 {MARK}]\nFour.")
    ]
    plain, marked = (without_scaffold(each, scaffold()).choices[0] for each in said)
    assert plain is said[0].choices[0]
    assert (marked.message and marked.message.content, marked.logprobs) == ("Four.", ABSENT)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f'{{"a": ["[answer 1 {MARK}] is right"]}}', '{"a": ["answer 1 is right"]}'),
        (f'{{"a": ["the mark {MARK}"]}}', '{"a": ["the mark "]}'),
        ('{"a": ["answer 1 is right"]}', '{"a": ["answer 1 is right"]}'),
    ],
)
def test_json_for_another_model_keeps_the_names(text: str, left: str) -> None:
    """Who reads it is shown the same answers by these names."""
    assert scaffold().unmarked(text) == left


def test_without_evidence_there_is_nothing_to_take_out() -> None:
    """Nobody else pays for it."""
    assert scaffold_of([message("user", "Write [end of story].")]) is None
    assert scaffold_of([]) is None
