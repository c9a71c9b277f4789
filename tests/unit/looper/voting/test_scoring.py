import json
import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.contract import ChoiceConfig, NumberConfig
from looper.voting.scoring import (
    Token,
    agreement,
    answer_span,
    answer_tokens,
    avg_logprob,
    hybrid,
    margin,
    span_tokens,
    tokens_of,
)
from looper.wire.chat import Choice, Reply

logprobs = st.floats(-50, 0)
gaps = st.floats(0, 50)
tokens = st.lists(st.builds(Token, st.just(b"x"), logprobs, gaps | st.none()), max_size=20)


def sure(*values: float) -> list[Token]:
    return [Token(b"x", value) for value in values]


def apart(*values: float | None) -> list[Token]:
    return [Token(b"x", -0.1, value) for value in values]


def choice(
    text: str | None,
    pieces: list[tuple[str, float]],
    *,
    calls: list[dict[str, Any]] | None = None,
    reasoning: str | None = None,
) -> Choice:
    """An answer with the tokens that its backend reports for it."""
    content = [{"token": token, "logprob": logprob} for token, logprob in pieces]
    return Choice(
        message=Reply(content=text, tool_calls=calls, reasoning_content=reasoning),
        logprobs=msgspec.Raw(json.dumps({"content": content}).encode()),
    )


def call(arguments: str, name: str = "weather") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": "c", "type": "function", "function": function}


def said(found: list[Token]) -> str:
    return b"".join(token.data for token in found).decode()


class TestFormulas:
    @pytest.mark.parametrize(
        ("values", "score"),
        [
            pytest.param((-0.3,), 0.9, id="-0.3"),
            pytest.param((-0.84,), 0.72, id="-0.84"),
            pytest.param((0.0,), 1.0, id="certain"),
            pytest.param((-1.0,), 0.666667, id="-1"),
            pytest.param((-1.5,), 0.5, id="half"),
            pytest.param((-3.0,), 0.0, id="-3"),
            pytest.param((-7.0,), 0.0, id="below"),
            pytest.param((-0.1, -0.2, -0.6), 0.9, id="mean"),
            pytest.param((-0.01, -2.5), 0.581667, id="one-doubt"),
        ],
    )
    def test_avg_logprob(self, values: tuple[float, ...], score: float) -> None:
        """The mean log-probability, with -3 as 0 and 0 as 1."""
        assert avg_logprob(sure(*values)) == pytest.approx(score, abs=1e-6)

    @pytest.mark.parametrize(
        ("values", "score"),
        [
            pytest.param((3.0,), 0.632121, id="3"),
            pytest.param((0.0,), 0.0, id="none-ahead"),
            pytest.param((0.5,), 0.153518, id="0.5"),
            pytest.param((1.0,), 0.283469, id="1"),
            pytest.param((6.0,), 0.864665, id="6"),
            pytest.param((9.0,), 0.950213, id="9"),
            pytest.param((1.0, 5.0), 0.632121, id="mean"),
            pytest.param((1.0, None, 5.0), 0.632121, id="one-without"),
            pytest.param((1.0, None, 5.0, None), 0.632121, id="half-of-them-without"),
            pytest.param((1.0, None, None), None, id="most-of-them-without"),
            pytest.param((9.0, *[None] * 9), None, id="one-of-ten"),
        ],
    )
    def test_margin(self, values: tuple[float | None, ...], score: float | None) -> None:
        """1 - e^(-m/3), with m the mean gap over the tokens that have one, at least half of all."""
        found = margin(apart(*values))
        assert found == (None if score is None else pytest.approx(score, abs=1e-6))

    @pytest.mark.parametrize(
        ("weights", "score"),
        [
            pytest.param((), 0.766060, id="half-and-half"),
            pytest.param((0.6, 0.4), 0.792848, id="0.6-and-0.4"),
            pytest.param((1.0, 0.0), 0.9, id="the-mean-alone"),
            pytest.param((0.0, 1.0), 0.632121, id="the-gap-alone"),
        ],
    )
    def test_hybrid(self, weights: tuple[float, ...], score: float) -> None:
        """The weighted sum of the mean (0.9) and of the gap (0.632121)."""
        assert hybrid([Token(b"x", -0.3, 3.0)], *weights) == pytest.approx(score, abs=1e-6)

    @pytest.mark.parametrize(
        ("values", "score"),
        [
            pytest.param((-0.1,), 0.904837, id="one-token"),
            pytest.param((-0.1, -1.2, 0.0), 0.301194, id="the-least-likely"),
            pytest.param((0.0,), 1.0, id="certain"),
        ],
    )
    def test_answer_span(self, values: tuple[float, ...], score: float) -> None:
        """The probability of the least likely token."""
        assert answer_span(sure(*values)) == pytest.approx(score, abs=1e-6)

    @pytest.mark.parametrize(
        ("agreeing", "voters", "score"),
        [(1, 1, 0.666667), (2, 2, 0.75), (2, 3, 0.6), (3, 3, 0.8), (4, 5, 0.714286), (0, 2, 0.25)],
    )
    def test_agreement(self, agreeing: int, voters: int, score: float) -> None:
        """The share that agrees counts for more with more voters: two of two pass the default of 0.7, one alone not."""
        assert agreement(agreeing, voters) == pytest.approx(score, abs=1e-6)

    def test_no_evidence_is_unknown(self) -> None:
        """Without tokens, alternatives or voters there is no score, which is not a score of zero."""
        assert avg_logprob([]) is None
        assert margin([]) is None
        assert margin(sure(-0.1)) is None
        assert hybrid(sure(-0.1)) is None
        assert answer_span([]) is None
        assert agreement(0, 0) is None

    @given(tokens)
    def test_scores_are_between_0_and_1(self, some: list[Token]) -> None:
        """Whatever a backend reports, a score is a number in 0..1, or unknown."""
        for score in (avg_logprob(some), margin(some), hybrid(some), answer_span(some)):
            assert score is None or 0 <= score <= 1

    @given(st.lists(logprobs, min_size=1), st.data())
    def test_a_likelier_token_never_lowers_a_score(
        self, values: list[float], data: st.DataObject
    ) -> None:
        """Scores rise with the probability of any token."""
        at = data.draw(st.integers(0, len(values) - 1))
        likelier = [*values[:at], data.draw(st.floats(values[at], 0)), *values[at + 1 :]]
        for score in (avg_logprob, answer_span):
            before, after = score(sure(*values)), score(sure(*likelier))
            assert before is not None
            assert after is not None
            assert after >= before - 1e-12

    @given(st.integers(0, 50), st.integers(1, 50))
    def test_one_more_voice_in_favour_never_lowers_agreement(self, agree: int, others: int) -> None:
        """Agreement rises with each voter that agrees and falls with each that does not."""
        now = agreement(agree, agree + others)
        more, fewer = agreement(agree + 1, agree + others + 1), agreement(agree, agree + others + 1)
        assert now is not None
        assert more is not None
        assert fewer is not None
        assert fewer < now < more


class TestTokens:
    def test_the_gap_is_between_the_two_likeliest(self) -> None:
        """The two best of what is listed and of the token itself, each counted once, whatever their order."""
        entry = {
            "token": "a",
            "logprob": -0.2,
            "top_logprobs": [
                {"token": "c", "logprob": -4.0},
                {"token": "a", "logprob": -0.2},
                {"token": "b", "logprob": -2.2},
            ],
        }
        (token,) = tokens_of(msgspec.Raw(json.dumps({"content": [entry]}).encode()))
        assert token.gap == pytest.approx(2.0)

    def test_two_bytes_that_are_shown_alike_are_two_tokens(self) -> None:
        """Pieces of a character have no text of their own: what they are is what their bytes say."""
        shown = [(0xE5, -0.7), (0xE6, -0.8), (0x61, -5.0)]
        top = [{"token": "\ufffd", "bytes": [byte], "logprob": said} for byte, said in shown]
        (token,) = tokens_of(
            msgspec.Raw(json.dumps({"content": [{**top[0], "top_logprobs": top}]}).encode())
        )
        assert token.gap == pytest.approx(0.1)

    def test_an_alternative_without_bytes_is_known_by_its_text(self) -> None:
        """The token itself is among its alternatives, though they say less of themselves."""
        top = [{"token": "a", "logprob": -0.1}, {"token": "b", "logprob": -1.1}]
        entry = {"token": "a", "bytes": [97], "logprob": -0.1, "top_logprobs": top}
        (token,) = tokens_of(msgspec.Raw(json.dumps({"content": [entry]}).encode()))
        assert token.gap == pytest.approx(1.0)

    def test_one_alternative_beside_another_token_is_a_gap(self) -> None:
        """A backend that lists one alternative lists the best, which need not be the token that was chosen."""
        entry = {
            "token": "a",
            "logprob": -1.5,
            "top_logprobs": [{"token": "b", "logprob": -0.5}],
        }
        (token,) = tokens_of(msgspec.Raw(json.dumps({"content": [entry]}).encode()))
        assert token.gap == pytest.approx(1.0)

    @pytest.mark.parametrize("top", [None, [], [{"token": "a", "logprob": -0.2}]])
    def test_without_an_alternative_there_is_no_gap(self, top: object) -> None:
        """Nothing to compare with is unknown."""
        entry = {"token": "a", "logprob": -0.2, "top_logprobs": top}
        (token,) = tokens_of(msgspec.Raw(json.dumps({"content": [entry]}).encode()))
        assert token.gap is None

    @pytest.mark.parametrize(
        "logprobs",
        [
            b"null", b"{}", b"[]", b'"x"', b'{"content": null}', b'{"content": [1]}', b"{",
            b'{"content": [{"token": "a", "logprob": null}]}',
            b'{"content": [{"token": "a", "logprob": "-1"}]}',
            b'{"content": [{"token": "a", "logprob": -1, "bytes": [256]}]}',
            b'{"content": [{"token": "a", "logprob": NaN}]}',
        ],
    )  # fmt: skip
    def test_what_is_no_logprobs_is_no_evidence(self, logprobs: bytes) -> None:
        """A backend's nonsense is unknown, not an error and not zero."""
        assert tokens_of(msgspec.Raw(logprobs)) == []

    def test_a_probability_is_at_most_1(self) -> None:
        """Some backends round above."""
        (token,) = tokens_of(msgspec.Raw(b'{"content": [{"token": "a", "logprob": 0.01}]}'))
        assert token.logprob == 0

    def test_what_cannot_be_is_as_unlikely_as_can_be(self) -> None:
        """Numbers that no model means end no run: beside the largest of them others can still be added up."""
        entry = (
            '{"token": "a", "logprob": -1e308, "top_logprobs": [{"token": "b", "logprob": 1e308}]}'
        )
        found = tokens_of(msgspec.Raw(f'{{"content": [{entry}, {entry}]}}'.encode()))
        assert avg_logprob(found) == 0
        assert margin(found) == pytest.approx(1)
        assert answer_span(found) == 0


class TestAnswerTokens:
    def test_thoughts_do_not_count(self) -> None:
        """What was thought before the answer is no part of it, wherever the backend puts it."""
        pieces = [("hm", -9.0), (" no", -9.0), ("</think>", -0.1), ("yes", -0.2), (".", -0.3)]
        for answer in (
            choice("yes.", pieces, reasoning="hm no"),
            choice("<think>hm no</think>yes.", [("<think>", -0.1), *pieces]),
        ):
            assert said(answer_tokens(answer)) == "yes."

    def test_the_end_of_a_turn_does_not_count(self) -> None:
        """A special token behind the text is no part of the text."""
        answer = choice("yes", [("yes", -0.1), ("<|end|>", -5.0)])
        assert said(answer_tokens(answer)) == "yes"

    def test_characters_in_two_tokens_are_found(self) -> None:
        """A character may be cut by its tokens, which then come as bytes."""
        content = [
            {"token": "\\xf0\\x9f", "logprob": -0.1, "bytes": [0xF0, 0x9F]},
            {"token": "\\x91\\x8d", "logprob": -0.3, "bytes": [0x91, 0x8D]},
            {"token": "<end>", "logprob": -7.0, "bytes": None},
        ]
        raw = msgspec.Raw(json.dumps({"content": content}).encode())
        answer = Choice(message=Reply(content="👍"), logprobs=raw)
        assert avg_logprob(answer_tokens(answer)) == pytest.approx(1 - 0.2 / 3)

    def test_tokens_that_spell_something_else_are_all_counted(self) -> None:
        """Where a backend's tokens are not the text's, as of one that names them by number, all of them count."""
        assert len(answer_tokens(choice("yes", [("id:1", -0.1), ("id:2", -0.2)]))) == 2

    def test_thoughts_that_cannot_be_told_apart_are_unknown(self) -> None:
        """Where some of the tokens are thoughts and nobody knows which, there is no evidence."""
        assert answer_tokens(choice("yes", [("id:1", -0.1)], reasoning="hm")) == []


class TestToolCalls:
    pieces = (
        ('{"name": "weather", "arguments": ', -9.0), ('{"city":', -0.1), (' "Rome"}', -0.2), ("}", -9.0),
        ('{"name": "weather", "arguments": ', -9.0), ('{"city": "Oslo"}', -0.6), ("}", -9.0),
    )  # fmt: skip

    def test_arguments_are_what_counts(self) -> None:
        """Of an answer that calls tools the arguments' values count, of every call."""
        calls = [call('{"city": "Rome"}'), call('{"city":"Oslo"}')]
        found = answer_tokens(choice(None, list(self.pieces), calls=calls))
        assert [token.logprob for token in found] == [-0.2, -0.6]
        assert avg_logprob(found) == pytest.approx(1 - 0.4 / 3)

    @pytest.mark.parametrize(
        ("arguments", "values"),
        [
            ('{"ci|ty"|: "|Pa|ris|", |"days"|: |3|}', ["Pa", "ris", "3"]),
            ('{"|a|": |[|-1.5|, |true|, |null|]|}', ["-1.5", "true", "null"]),
            ('{"a|":| {"b|":| "|x: y|"}}', ["x: y"]),
            (r'{"a": "|the \"best\": |one|"}', [r"the \"best\": ", "one"]),
            ('{"a": "|to be cont', ["to be cont"]),
            ('{|"a"|:| {|}|}', []),
            ("{}", []),
        ],
    )
    def test_only_values_of_arguments_count(self, arguments: str, values: list[str]) -> None:
        """Keys and braces are sure whatever the values are."""
        pieces = arguments.split("|")
        answer = choice(None, [(each, -1.0) for each in pieces], calls=[call("".join(pieces))])
        assert [token.data.decode() for token in answer_tokens(answer)] == values

    def test_doubtful_values_among_sure_braces_are_doubtful(self) -> None:
        pieces = [
            ('{"city": "', 0.0),
            ("Rome", -1.5),
            ('", "days": ', 0.0),
            ("3", -1.5),
            ("}", 0.0),
        ]
        arguments = "".join(piece for piece, _ in pieces)
        found = answer_tokens(choice(None, pieces, calls=[call(arguments)]))
        assert avg_logprob(found) == pytest.approx(0.5)

    def test_all_is_every_token(self) -> None:
        """With the filter `all` names and braces count too."""
        answer = choice(None, list(self.pieces), calls=[call('{"city": "Rome"}')])
        assert len(answer_tokens(answer, "all")) == len(self.pieces)

    def test_arguments_that_no_token_spells_are_unknown(self) -> None:
        """Of a call whose arguments cannot be found nothing is known, nor then of the answer."""
        calls = [call('{"city": "Rome"}'), call('{"city": "Paris"}')]
        assert answer_tokens(choice(None, list(self.pieces), calls=calls)) == []

    @pytest.mark.parametrize("broken", [{}, {"function": None}, {"function": {"arguments": 3}}])
    def test_a_call_that_is_none_has_no_arguments(self, broken: dict[str, Any]) -> None:
        """A malformed call is no error."""
        assert answer_tokens(choice(None, list(self.pieces), calls=[broken])) == []


class TestSpan:
    pieces = (("Let", -2.0), (" A", -2.0), (" be", -2.0), ("\n\nANSWER:", -2.0), (" A", -0.4), (".", -3.0))  # fmt: skip

    def test_the_answers_own_tokens_count(self) -> None:
        """Of all tokens those that spell the answer where it is said last."""
        found = span_tokens(choice("Let A be\n\nANSWER: A.", list(self.pieces)), "A")
        assert [token.logprob for token in found] == [-0.4]
        assert answer_span(found) == pytest.approx(math.exp(-0.4))

    @pytest.mark.parametrize(
        "behind",
        ["\n\nThis is a good one.", "\n\nNote that A is not B.", " A is right, as I said."],
    )
    def test_the_answer_is_where_the_contract_finds_it(self, behind: str) -> None:
        """Not where the same letter, or the article, stands once more."""
        contract = ChoiceConfig(type="choice", values=("A", "B")).build()
        text = f"Is it A? Yes. ANSWER: A{behind}"
        pieces = [("Is it", -3.0), (" A", -3.0), ("? Yes. ANSWER:", -3.0), (" A", -0.4)]
        spelt = [(letter, -3.0) for letter in behind]
        assert contract.extract(text) == "A"
        found = span_tokens(choice(text, [*pieces, *spelt]), "A", contract)
        assert [token.logprob for token in found] == [-0.4]

    def test_a_number_is_where_the_contract_finds_it(self) -> None:
        """In the box, and not where the sum is checked."""
        contract = NumberConfig(type="number").build()
        pieces = [
            ("So \\boxed{", -3.0),
            ("12", -0.4),
            ("}, as ", -3.0),
            ("12", -3.0),
            ("=5+7.", -3.0),
        ]
        text = "".join(piece for piece, _ in pieces)
        value = contract.extract(text)
        assert value == 12
        found = span_tokens(choice(text, pieces), value, contract)
        assert [token.logprob for token in found] == [-0.4]

    @pytest.mark.parametrize(
        ("pieces", "counted"),
        [
            ([("Half of it.\n", -3.0), ("ANSWER: ", -0.1), ("1/2", -0.4), ("\nas I said", -3.0)], 2),
            ([("Half.\n", -3.0), ("**ANSWER:**\n\n", -0.1), ("1/2", -0.4), ("\nas I said", -3.0)], 2),
            ([("So ", -3.0), ("\\boxed{", -0.1), ("\\frac{1}{2}", -0.4), ("}.", -0.2), ("\nQED", -3.0)], 3),
        ],
    )  # fmt: skip
    def test_a_value_in_another_form_is_its_line(
        self, pieces: list[tuple[str, float]], counted: int
    ) -> None:
        """A fraction is no decimal, but it stands where the contract reads it, and not all over the answer."""
        contract = NumberConfig(type="number").build()
        text = "".join(piece for piece, _ in pieces)
        value = contract.extract(text)
        assert value == Fraction(1, 2)
        found = span_tokens(choice(text, pieces), value, contract)
        assert len(found) == counted
        assert answer_span(found) == pytest.approx(math.exp(-0.4))

    def test_a_value_is_found_as_the_contract_writes_it(self) -> None:
        """Where nobody knows the place, a capital letter is no article."""
        pieces = [("It is", -3.0), (" A", -0.4), (", a", -3.0), (" good one", -3.0)]
        found = span_tokens(choice("It is A, a good one", pieces), "A")
        assert [token.logprob for token in found] == [-0.4]

    @pytest.mark.parametrize("value", [Fraction(1500), Fraction(-1500)])
    def test_a_number_is_found_as_it_is_written(self, value: Fraction) -> None:
        """Digits count, however they are grouped."""
        pieces = [("It is 15", -3.0), (" or ", -3.0), ("1,", -0.1), ("500", -0.2), (" m", -3.0)]
        found = span_tokens(choice("It is 15 or 1,500 m", pieces), value)
        assert [token.logprob for token in found] == [-0.1, -0.2]

    def test_what_stands_nowhere_is_all_of_it(self) -> None:
        """A value in another form than the text's, such as canonical JSON, is spelt by the whole answer."""
        found = span_tokens(choice('{"a": 1}', [('{"a":', -0.1), (" 1}", -0.2)]), '{"a":1,}')
        assert len(found) == 2

    def test_a_call_is_its_arguments(self) -> None:
        """The span of an answer that calls tools is the values of its arguments."""
        pieces = list(TestToolCalls.pieces[:4])
        found = span_tokens(choice(None, pieces, calls=[call('{"city": "Rome"}')]), object())
        assert [token.logprob for token in found] == [-0.2]
