"""Halves of surrogate pairs: text that some clients and backends write, and that is no Unicode.

JSON can say one as an escape, and JavaScript cuts texts so. Nothing can be done with it but to replace it by U+FFFD.
"""

import re

_ESCAPED = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"  # a half
    rb"|\\."  # another escape: what follows it is none
)
_HALF = re.compile("[\ud800-\udfff]")


def without_halves(data: bytes) -> bytes:
    """JSON with U+FFFD in place of each half; as many bytes as before, so that everything stays where it was."""
    if b"\\ud" not in data and b"\\uD" not in data:
        return data
    return _ESCAPED.sub(lambda found: rb"\ufffd" if found[1] else found[0], data)


def mended(text: str) -> str:
    """A text with U+FFFD in place of each half."""
    return _HALF.sub("\ufffd", text)
