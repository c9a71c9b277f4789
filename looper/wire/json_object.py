"""A JSON object as the bytes that it came in: its members, and where each of them stands."""

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Self

import msgspec

from looper.errors import InvalidJson
from looper.wire.reading.surrogates import without_halves

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SPACE = re.compile(rb"[ \t\n\r]*")
_KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\n\r]*:[ \t\n\r]*')
_BEHIND = re.compile(rb"[ \t\n\r]*([,}])")
TOO_DEEP = "The body is nested too deeply."


class JsonObject:
    """Members as they were written, and edits that leave every other byte as it was."""

    def __init__(
        self, data: bytes, members: Mapping[str, msgspec.Raw], values: Mapping[str, slice]
    ) -> None:
        self.data = data
        self.members = members
        self._values = values

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raises InvalidJson if `data` is no JSON object or has a key twice.

        Half a surrogate pair is read as U+FFFD, and stays in `data` as it came.
        """
        read, members = _parse_members(data)
        return cls(data, MappingProxyType(members), dict(_locate(read, members)))

    def edited(self, changes: Mapping[str, bytes], *, without: str | None = None) -> bytes:
        """With other values for some members, which stand at the end if they are new, and one member left out."""
        pieces: list[bytes] = []
        at = 0
        for name, value in self._values.items():
            if name == without:
                start, stop = self._extent(name)
                pieces.append(self.data[at:start])
                at = stop
            elif name in changes:
                pieces += self.data[at : value.start], changes[name]
                at = value.stop
        if changes.keys() - self._values.keys():
            end = max(at, self._end())
            pieces += self.data[at:end], self._new(changes, without)
            at = end
        return b"".join((*pieces, self.data[at:]))

    def _end(self) -> int:
        """Where the last value ends, or the opening brace if there is none."""
        return max(
            (value.stop for value in self._values.values()), default=self.data.find(b"{") + 1
        )

    def _new(self, changes: Mapping[str, bytes], without: str | None) -> bytes:
        """What is to stand behind the last member."""
        members = [
            b"%b:%b" % (msgspec.json.encode(name), value)
            for name, value in changes.items()
            if name not in self._values
        ]
        return b",".join(members if not self._values.keys() - {without} else [b"", *members])

    def _extent(self, name: str) -> tuple[int, int]:
        """The member with one of the commas beside it."""
        names = list(self._values)
        index = names.index(name)
        stop = self._values[name].stop
        if index:
            return self._values[names[index - 1]].stop, stop
        first = _skip(self.data, self.data.index(b"{") + 1)
        return first, stop if len(names) == 1 else _skip(self.data, _skip(self.data, stop) + 1)


def _parse_members(body: bytes) -> tuple[bytes, dict[str, msgspec.Raw]]:
    """The members, and the bytes that they were read from, in which each stands where it stands in `body`."""
    try:
        if not body.isascii():
            body.decode()  # what is kept raw would otherwise pass with invalid UTF-8 in it
        try:
            return body, _members.decode(body)
        except msgspec.DecodeError:
            if (mended := without_halves(body)) == body:
                raise
            return mended, _members.decode(mended)
    except UnicodeDecodeError:
        raise InvalidJson("The body is not valid UTF-8.") from None
    except RecursionError:
        raise InvalidJson(TOO_DEEP) from None
    except msgspec.ValidationError:
        raise InvalidJson("The body is not a JSON object.") from None
    except msgspec.DecodeError as error:
        raise InvalidJson(f"The body is not valid JSON: {error}.") from None


def _locate(body: bytes, members: Mapping[str, msgspec.Raw]) -> Iterator[tuple[str, slice]]:
    """Where each member's value stands in `body`, which is known to be a JSON object.

    The decoder kept the last value of a key that stands twice. Walking the members beside the body finds that out:
    either the value at a key is another one than was kept, or the key has been passed already.
    """
    seen: set[str] = set()
    at = _skip(body, 0) + 1
    while (key := _KEY.match(body, at)) is not None:  # behind the last one there is none
        name: str = msgspec.json.decode(key[1])
        start = key.end()
        value = members[name]
        stop = start + len(memoryview(value))
        behind = _BEHIND.match(body, stop)
        # Without anything behind it, what stands here only begins like the value that was kept.
        if name in seen or not body.startswith(value, start) or behind is None:
            raise _twice(name)
        seen.add(name)
        yield name, slice(start, stop)
        at = behind.end()


def _twice(name: str) -> InvalidJson:
    return InvalidJson(f"The key `{name[:64]}` stands twice in the body.")


def _skip(body: bytes, at: int) -> int:
    space = _SPACE.match(body, at)
    assert space is not None
    return space.end()
