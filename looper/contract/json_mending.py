"""JSON as models get it almost right, made right in one pass: quotes, commas, comments and Python's literals.

A repairer that guesses more takes a time that explodes on some texts, and closes what broke off; this one gives up.
"""

import json
import re

_TOKEN = re.compile(
    r"""(?P<blank>\s++|//[^\n]*+|\#[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)
    |(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|“[^”]*+”)
    |(?P<word>[-+]?[0-9.][\w.+-]*+|[^\W\d]\w*+)
    |(?P<mark>[][{},:])""",
    re.VERBOSE | re.DOTALL,
)
_LITERALS = {"True": "true", "False": "false", "None": "null"}
_CLOSED_BY = {"{": "}", "[": "]"}


def mend(text: str) -> str | None:
    """The JSON from the first bracket of a text to the last; None if it is not clear what it was meant to be."""
    first = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    last = max(text.rfind("}"), text.rfind("]"))
    tokens = _tokens(text[first : last + 1])
    return _join(tokens) if tokens and _is_balanced(tokens) else None


def _tokens(text: str) -> list[str]:
    """The tokens, each as JSON has it; none at all if there is one that JSON has not."""
    tokens: list[str] = []
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return []
        at = found.end()
        if found["blank"] is None:
            tokens.append(_plain(found))
    return tokens


def _plain(found: re.Match[str]) -> str:
    if found["string"]:
        return _string(found["string"])
    if found["word"]:
        return _LITERALS.get(found["word"], found["word"])
    return found["mark"]


def _string(written: str) -> str:
    inside = written[1:-1]
    if written[0] != '"':
        inside = re.sub(r'\\.|"', lambda found: _UNUSUAL.get(found[0], found[0]), inside)
    return '"' + re.sub(r"[\x00-\x1f]", lambda found: json.dumps(found[0])[1:-1], inside) + '"'


_UNUSUAL = {"\\'": "'", '"': '\\"'}


def _is_balanced(tokens: list[str]) -> bool:
    """Whether every bracket is closed: what breaks off must not be closed by guessing."""
    open: list[str] = []
    for token in tokens:
        if token in _CLOSED_BY:
            open.append(_CLOSED_BY[token])
        elif token in ("}", "]") and (not open or open.pop() != token):
            return False
    return not open


def _join(tokens: list[str]) -> str:
    """The tokens with a comma between any two values and none behind the last, and with keys in quotes."""
    written: list[str] = []
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if token == "," and following in ("}", "]", ","):
            continue
        if following == ":" and token[0].isidentifier():
            token = f'"{token}"'
        if written and _ends_value(written[-1]) and _begins_value(token):
            written.append(",")
        written.append(token)
    return "".join(written)


def _ends_value(token: str) -> bool:
    return token not in ("{", "[", ",", ":")


def _begins_value(token: str) -> bool:
    return token not in ("}", "]", ",", ":")
