"""Ids of tool calls that only this program can have made, and that say which paused run they belong to."""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Sequence

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_STATE = 12
_NUMBER = 4
_TAG = 16
LETTERS = _STATE + _NUMBER + _TAG
"""How many digits an id has behind its prefix."""
PREFIX = "call_"
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{LETTERS}}}")
_HEX = re.compile(rf"{PREFIX}(?:[0-9a-f]+|[0-9A-F]+)")


class Forged(Exception):
    """An id has the form of ours and was not made with any of our keys."""


class Ids:
    """Makes ids of 37 characters, `call_` and 32 of base62: twelve for the run's state, four for the call, and a tag.

    The first key makes them; any of them may have made one that comes back.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = [hashlib.sha256(b"ids of tool calls\0" + key).digest() for key in keys]

    def state(self) -> str:
        """A new id of a state, which nobody can guess."""
        return "".join(secrets.choice(DIGITS) for _ in range(_STATE))

    def make(self, state: str, number: int) -> str:
        """The id of a call of a paused run."""
        while True:
            name = state + base62(number, _NUMBER)
            id = f"{PREFIX}{name}{_tag(self._keys[0], name)}"
            if not _HEX.fullmatch(id):
                return id
            number += len(DIGITS) ** 3  # once in 10¹⁸ ids: it would not be known for one of ours

    def read(self, id: str) -> str | None:
        """The state that an id belongs to; None if it is none of ours. Raises Forged."""
        if not is_ours(id):
            return None
        name, tag = id[len(PREFIX) : -_TAG], id[-_TAG:]
        if not any(hmac.compare_digest(_tag(key, name), tag) for key in self._keys):
            raise Forged
        return name[:_STATE]


def is_ours(id: str) -> bool:
    """Whether an id has the form of ours. Others are shorter or longer, or hexadecimal."""
    return _FORM.fullmatch(id) is not None and _HEX.fullmatch(id) is None


def _tag(key: bytes, name: str) -> str:
    digest = hmac.digest(key, name.encode(), "sha256")
    return base62(int.from_bytes(digest), _TAG)


def base62(number: int, length: int) -> str:
    """The last `length` digits of a number."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(DIGITS))
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))
