"""Paused runs as they are stored where others could read them: encrypted, and bound to their id."""

import hashlib
import secrets
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_NAME = 4


class Unreadable(Exception):
    """A stored run was not encrypted with any of our keys, or not for this id."""


class Seal:
    """AES-256-GCM. The first key encrypts; all of them are tried by their fingerprint when something is read."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        derived = [hashlib.sha256(b"states of runs\0" + key).digest() for key in keys]
        self._ciphers = {_name(key): AESGCM(key) for key in derived}
        self._first = _name(derived[0])

    def close(self, id: str, state: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._ciphers[self._first].encrypt(nonce, state, id.encode())
        return self._first + nonce + sealed

    def open(self, id: str, stored: bytes) -> bytes:
        """What was stored under this id. Raises Unreadable."""
        name, nonce = stored[:_NAME], stored[_NAME : _NAME + _NONCE]
        cipher = self._ciphers.get(name)
        if cipher is None or len(nonce) < _NONCE:
            raise Unreadable
        try:
            return cipher.decrypt(nonce, stored[_NAME + _NONCE :], id.encode())
        except InvalidTag:
            raise Unreadable from None


def _name(key: bytes) -> bytes:
    """What tells one key from another, and says nothing of it."""
    return hashlib.sha256(b"name of a key\0" + key).digest()[:_NAME]
