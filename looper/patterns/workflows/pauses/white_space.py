"""Ids of calls as white space, for clients of OpenAI's older API, in which a call has no place for an id.

JSON may end in white space, and whoever reads a function's arguments ignores it. Each letter of an id is three of the
four characters that JSON knows as white space, and so is each letter of a sum over all of it: white space that models
write by themselves is not taken for an id.
"""

import hashlib
import re
from itertools import product

from looper.patterns.workflows.pauses.ids import DIGITS, LETTERS, PREFIX, base62, is_ours

_CODES = dict(zip(DIGITS, map("".join, product(" \t\n\r", repeat=3)), strict=False))
_LETTERS = {code: letter for letter, code in _CODES.items()}
_SUM = 5
_LENGTH = 3 * (LETTERS + _SUM)
_THREE = re.compile(r"[ \t\n\r]{3}")


def written(id: str) -> str:
    """An id of ours as white space."""
    letters = id.removeprefix(PREFIX)
    return "".join(_CODES[letter] for letter in letters + _sum(letters))


def read(arguments: str) -> tuple[str, str | None]:
    """What stands before an id of ours, and that id; None if there is none at the end."""
    end = arguments[-_LENGTH:]
    if not end.isspace():
        return arguments, None
    letters = "".join(_LETTERS.get(code, "") for code in _THREE.findall(end))
    id, said = PREFIX + letters[:LETTERS], letters[LETTERS:]
    if not is_ours(id) or said != _sum(letters[:LETTERS]):
        return arguments, None
    return arguments[:-_LENGTH], id


def _sum(letters: str) -> str:
    digest = hashlib.blake2b(letters.encode(), digest_size=8, person=b"white space").digest()
    return base62(int.from_bytes(digest), _SUM)
