"""Patterns as JSON Schema has them, in the dialect of JavaScript, written for RE2."""

import re

_SPACES = r"\t-\r \x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_OTHERS = (
    r"\x{0}-\x{8}\x{e}-\x{1f}!-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027}"
    r"\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{fefe}\x{ff00}-\x{10ffff}"
)
_PIECE = re.compile(
    r"""\\u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})
    |\\u(?P<unit>[0-9a-fA-F]{4})
    |\\c(?P<control>[A-Za-z])
    |\\(?P<class>[sS])
    |\\.?|(?P<bracket>[][])|[^][\\]+""",
    re.VERBOSE | re.DOTALL,
)


def as_re2(source: str) -> str:
    """White space is what JavaScript takes for it, and characters may be written as it writes them.

    RE2 then says whether it takes the rest; what the two read differently beyond that, hardly anybody writes.
    """
    inside = False
    written: list[str] = []
    for piece in _PIECE.finditer(source):
        if piece["bracket"]:
            inside = piece[0] == "[" or (inside and piece[0] != "]")
        written.append(_piece(piece, inside=inside))
    return "".join(written)


def _piece(piece: re.Match[str], *, inside: bool) -> str:
    if piece["class"]:
        spelled = _SPACES if piece["class"] == "s" else _OTHERS
        outside = f"[{_SPACES}]" if piece["class"] == "s" else f"[^{_SPACES}]"
        return spelled if inside else outside
    if piece["high"]:
        pair = ((int(piece["high"], 16) & 0x3FF) << 10) + (int(piece["low"], 16) & 0x3FF)
        return rf"\x{{{pair + 0x10000:x}}}"
    if piece["unit"]:
        return rf"\x{{{piece['unit']}}}"
    if piece["control"]:
        return rf"\x{{{ord(piece['control'].upper()) & 31:x}}}"
    return piece[0]
