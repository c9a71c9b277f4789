"""How sure a model was of its answer, by the probabilities of the tokens. Unknown is None, never zero."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean
from typing import Annotated, Any, Literal

import msgspec

from looper.contract.base import Contract, visible
from looper.wire.chat import Choice, Reply

TokenFilter = Literal["all", "tool_call_args"]
"""Which tokens of an answer that calls tools count: every one, or those of the arguments' values."""

_SCALE = 3.0
"""Nats: a mean log-probability of -3 is a score of 0, and a mean gap of 3 is one of 1 - 1/e."""

_COVERED = 0.5
"""The share of an answer's tokens that must have alternatives for `margin` to say anything of it."""

# --- The formulas: 0..1, or None without evidence ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its backend reports it. `gap` is between the two likeliest; None where no alternatives came."""

    data: bytes
    logprob: float
    gap: float | None = None


def avg_logprob(tokens: Sequence[Token]) -> float | None:
    """The mean log-probability, from -3 to 0, as 0..1."""
    if not tokens:
        return None
    return from_mean(fmean(token.logprob for token in tokens))


def from_mean(logprob: float) -> float:
    """A mean log-probability as a score."""
    return min(1.0, max(0.0, (logprob + _SCALE) / _SCALE))


def margin(tokens: Sequence[Token]) -> float | None:
    """How far the likeliest token was ahead of the next one, on average; unknown if too few tokens say so."""
    gaps = [token.gap for token in tokens if token.gap is not None]
    enough = gaps and len(gaps) >= _COVERED * len(tokens)
    return -math.expm1(-fmean(gaps) / _SCALE) if enough else None


def hybrid(
    tokens: Sequence[Token], logprob_weight: float = 0.5, margin_weight: float = 0.5
) -> float | None:
    """Both, weighted. The weights add up to 1."""
    mean, ahead = avg_logprob(tokens), margin(tokens)
    if mean is None or ahead is None:
        return None
    return logprob_weight * mean + margin_weight * ahead


def answer_span(tokens: Sequence[Token]) -> float | None:
    """The probability of the least likely token. To be given those of the extracted answer only."""
    return math.exp(min(token.logprob for token in tokens)) if tokens else None


def agreement(agreeing: int, voters: int) -> float | None:
    """The share of voters that agree, shrunk toward a half: one voter alone says little, ten say much."""
    return (agreeing + 1) / (voters + 2) if voters else None


ALTERNATIVES: Mapping[str, int] = {"avg_logprob": 0, "answer_span": 0, "margin": 2, "hybrid": 2}
"""How many alternatives beside each token a method needs."""


def token_score(
    method: str,
    choice: Choice,
    value: object = None,
    contract: Contract[Any] | None = None,
    *,
    which: TokenFilter = "tool_call_args",
    weights: tuple[float, float] = (0.5, 0.5),
) -> float | None:
    """The score of an answer, which as its contract reads it says `value`."""
    if method == "answer_span":
        return answer_span(span_tokens(choice, value, contract))
    return mean_score(method, answer_tokens(choice, which), weights)


def mean_score(
    method: str, tokens: Sequence[Token], weights: tuple[float, float] = (0.5, 0.5)
) -> float | None:
    """A score that is a mean over tokens; None for any other."""
    match method:
        case "avg_logprob":
            return avg_logprob(tokens)
        case "margin":
            return margin(tokens)
        case "hybrid":
            return hybrid(tokens, *weights)
        case _:
            return None


def at_best(tokens: Sequence[Token], limit: int | None) -> list[Token]:
    """What an answer may become that begins with these tokens: half as many again, each as sure as can be.

    It may well become longer. Then it is given up too early at worst, and another model is asked.
    """
    more = len(tokens) // 2
    if limit is not None:
        more = min(more, max(0, limit - len(tokens)))
    return [*tokens, *(_SURE_TOKEN for _ in range(more))]


_SURE_TOKEN = Token(b"", 0.0, 7.0)


# --- The tokens -------------------------------------------------------------------------------------


_Bytes = list[Annotated[int, msgspec.Meta(ge=0, le=255)]] | None


class _Alternative(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: _Bytes = None


class _Entry(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: _Bytes = None
    top_logprobs: list[_Alternative] | None = None

    def read(self) -> Token:
        data = self.token.encode("utf-8", "replace") if self.bytes is None else bytes(self.bytes)
        return Token(data, _within_reason(self.logprob), self._gap())

    def _gap(self) -> float | None:
        beside = self.top_logprobs or []
        if not beside:
            return None
        said = [each.logprob for each in beside]
        if not any(self._is(each) for each in beside):
            said.append(self.logprob)
        best = sorted(map(_within_reason, said), reverse=True)
        return best[0] - best[1] if len(best) > 1 else None

    def _is(self, other: _Alternative) -> bool:
        """Whether an alternative is this token: pieces of several characters may be shown by the same text."""
        known = self.bytes is not None and other.bytes is not None
        return self.bytes == other.bytes if known else self.token == other.token


_IMPOSSIBLE = -10_000.0
"""Less than what backends say of a token that cannot be."""


def _within_reason(logprob: float) -> float:
    return max(_IMPOSSIBLE, min(0.0, logprob))


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[_Entry] | None = None


_logprobs = msgspec.json.Decoder(_Logprobs)


def tokens_of(logprobs: msgspec.Raw) -> list[Token]:
    """Every token that a backend reports. None, if what it sends is not what it should be."""
    if bytes(logprobs) in (b"", b"null"):
        return []
    try:
        return [entry.read() for entry in _logprobs.decode(logprobs).content or ()]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def answer_tokens(choice: Choice, which: TokenFilter = "tool_call_args") -> list[Token]:
    """The tokens of an answer: of its arguments' values if it calls tools, else of its text without thoughts.

    None, if they cannot be told from the others.
    """
    tokens = tokens_of(choice.logprobs)
    reply = choice.message or choice.delta or Reply()
    if reply.tool_calls:
        return list(tokens) if which == "all" else _argument_tokens(tokens, reply)
    found = _span(tokens, visible(reply.content or ""))
    if found is not None:
        return _within(tokens, [found])
    thinks = reply.thought or visible(reply.content or "") != reply.content
    return [] if thinks else tokens


def span_tokens(
    choice: Choice, value: object, contract: Contract[Any] | None = None
) -> list[Token]:
    """The tokens that spell `value`, an answer as its contract extracts it, where it does; if it does not stand there
    as it is (1/2 for 0.5), those of the line; all of the answer's if nobody knows where.
    """
    reply = choice.message or choice.delta or Reply()
    text = visible(reply.content or "")
    begins = None if contract is None or reply.tool_calls else contract.begins(text)
    place = None if reply.tool_calls else _place(value, text, begins)
    if place is None and begins is not None:
        place = _line(text, begins)
    tokens = answer_tokens(choice)
    if place is None:
        return tokens
    found = _span(tokens, text)
    if found is None:
        return tokens
    start, stop = (found[0] + len(_bare(text[:at].encode())) for at in place)
    return _within(tokens, [(start, stop)])


def _argument_tokens(tokens: Sequence[Token], reply: Reply) -> list[Token]:
    """Those that carry values in every call's arguments; none if one call's cannot be found."""
    joined = b"".join(_bare(token.data) for token in tokens)
    spans: list[tuple[int, int]] = []
    at = 0
    for arguments in _arguments(reply):
        bare = _bare(arguments.encode("utf-8", "replace"))
        start = joined.find(bare, at)
        if start < 0:
            return []
        at = start + len(bare)
        spans += ((start + begin, start + end) for begin, end in _values(bare))
    return _within(tokens, spans)


def _arguments(reply: Reply) -> Iterator[str]:
    for call in reply.tool_calls or ():
        function = call.get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        yield arguments if isinstance(arguments, str) else ""


_VALUE = re.compile(rb'"(?P<text>(?:[^"\\]|\\.)*+)"(?P<key>:)?|(?P<plain>[^]["{},:]++)')


def _values(arguments: bytes) -> Iterator[tuple[int, int]]:
    """Where values stand in JSON without blanks: the insides of strings, numbers, literals. Broken ones too."""
    for found in _VALUE.finditer(arguments):
        if not found["key"]:
            yield found.span("plain" if found["plain"] else "text")


def _span(tokens: Iterable[Token], text: str) -> tuple[int, int] | None:
    """Where `text` stands last in what the tokens spell, blanks left out: some backends trim them."""
    joined = b"".join(_bare(token.data) for token in tokens)
    wanted = _bare(text.encode("utf-8", "replace"))
    # Backwards, as searching from the end takes quadratic time for some texts.
    behind = joined[::-1].find(wanted[::-1])
    stop = len(joined) - behind
    return (stop - len(wanted), stop) if wanted and behind >= 0 else None


def _within(tokens: Iterable[Token], spans: Iterable[tuple[int, int]]) -> list[Token]:
    """The tokens with a character of theirs in one of the spans, which are ordered offsets into the text without
    blanks.
    """
    ahead = iter(spans)
    start, stop = next(ahead, (0, 0))
    found: list[Token] = []
    at = 0
    for token in tokens:
        end = at + len(_bare(token.data))
        while at >= stop and (following := next(ahead, None)) is not None:
            start, stop = following
        if max(at, start) < min(end, stop):
            found.append(token)
        at = end
    return found


def _bare(data: bytes) -> bytes:
    return data.translate(None, b" \t\r\n")


_NUMBER = re.compile(r"\d[\d.,]*\d|\d")


def _place(value: object, text: str, begins: int | None) -> tuple[int, int] | None:
    """Where a text says `value` first from an offset on; without one, where it says it last."""
    if begins is None:
        return next(iter(list(_mentions(value, text, 0))[::-1]), None)
    return next(_mentions(value, text, begins), None)


_LINE = re.compile(r"[^\n]{0,200}?:[\s*_`]{0,12}\n\s{0,12}[^\n]{1,200}|[^\n]{0,200}")


def _line(text: str, begins: int) -> tuple[int, int] | None:
    """The line from an offset on; the next one with it, if the value only stands there."""
    found = _LINE.match(text, begins)
    return found.span() if found else None


def _mentions(value: object, text: str, begins: int) -> Iterator[tuple[int, int]]:
    """Where a text says `value`, as it is written in the contract if it does so anywhere, else in either case."""
    match value:
        case str() if value:
            word = rf"(?<!\w){re.escape(value)}(?!\w)"
            exact = re.compile(word)
            found = exact if exact.search(text, begins) else re.compile(word, re.IGNORECASE)
            yield from (each.span() for each in found.finditer(text, begins))
        case Fraction():
            numbers = _NUMBER.finditer(text, begins)
            yield from (each.span() for each in numbers if _reads(each[0]) == abs(value))
        case _:
            return


def _reads(digits: str) -> Fraction | None:
    plain = digits.replace(",", "")
    return Fraction(plain) if len(plain) < 64 and plain.count(".") < 2 else None
