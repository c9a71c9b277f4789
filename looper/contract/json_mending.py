"""JSON as models get it almost right, made right in one pass: quotes, commas, comments, Python's literals, and
backslashes of LaTeX, which JSON takes for escapes.

A repairer that guesses more takes a time that explodes on some texts, and closes what broke off; this one gives up.
"""

import json
import re

_TOKEN = re.compile(
    r"""(?P<blank>\s++|//[^\n]*+|\#[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/)
    |(?P<string>"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'|“[^”]*+”|`(?:[^`\\]|\\.)*+`)
    |(?P<word>[-+]?[0-9.][\w.+-]*+|[^\W\d]\w*+)
    |(?P<mark>[][{},:])""",
    re.VERBOSE | re.DOTALL,
)
_LITERALS = {"True": "true", "False": "false", "None": "null"}
_CLOSED_BY = {"{": "}", "[": "]"}


_BEGINNING = re.compile(r"""[\[{]\s*["'“`]|\[\s*[\[{]""")
"""A bracket of JSON, and hardly one of prose."""


def mend(text: str) -> str | None:
    """The JSON from the first bracket of a text to the last, or from the first that is hardly one of the prose before.
    None if it is not clear what it was meant to be.
    """
    first = min((at for at in (text.find("{"), text.find("[")) if at >= 0), default=len(text))
    stop = max(text.rfind("}"), text.rfind("]")) + 1
    mended = _mended(text[first:stop])
    if mended is None and (meant := _BEGINNING.search(text, first, stop)) is not None:
        mended = _mended(text[meant.start() : stop])
    return mended


def _mended(text: str) -> str | None:
    tokens = _tokens(text)
    return _join(tokens) if tokens and _is_whole(tokens) else None


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
        inside = _QUOTE.sub(lambda found: '\\"' if found[0] == '"' else found[0], inside)
    is_latex = any(not each["known"] for each in _ESCAPE.finditer(inside))
    inside = _ESCAPE.sub(lambda found: _escape(found, is_latex=is_latex), inside)
    return '"' + re.sub(r"[\x00-\x1f]", lambda found: json.dumps(found[0])[1:-1], inside) + '"'


def _escape(found: re.Match[str], *, is_latex: bool) -> str:
    """An escape as JSON has it. A backslash that begins none stands for itself, and beside such a one so does that of
    what may be a command (frac, beta).
    """
    if found["quote"]:
        return found["quote"]
    itself = not found["known"] or (is_latex and found["command"])
    return f"\\{found[0]}" if itself else found[0]


_QUOTE = re.compile(r'\\.|"', re.DOTALL)
_ESCAPE = re.compile(
    r"""\\(?:(?P<known>["\\/nrt]|u[0-9a-fA-F]{4}|(?P<quote>['`])|(?P<command>[bf](?=[a-zA-Z]))|[bf])|.|$)""",
    re.DOTALL,
)


def _is_whole(tokens: list[str]) -> bool:
    """Whether every bracket is closed, the first one last: what breaks off must not be closed by guessing."""
    open: list[str] = []
    for at, token in enumerate(tokens):
        if at and not open:
            return False
        if token in _CLOSED_BY:
            open.append(_CLOSED_BY[token])
        elif token in ("}", "]") and open.pop() != token:
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
