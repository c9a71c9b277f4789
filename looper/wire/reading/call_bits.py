"""Calls of tools as backends send them, whole or bit by bit: told apart, and each with an id, a type and one name.

Bits belong together by their id first, then by their index, then by their order. Backends give all calls the same
index, none, or an empty id, and name the tool again in each bit.
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import msgspec

ToolCall = dict[str, Any]
GIVEN = {"function": "arguments", "custom": "input"}
"""What a call is of, and what its tool is given, which comes a bit at a time."""

_LOOKED_AT = 16 << 10
"""Characters of arguments above which it is not looked whether they are complete."""


def call_id() -> str:
    """A new id, for a call that came without one."""
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class _Bit:
    """What a backend says of a call at once, without what nobody can make sense of."""

    id: str | None
    place: int | None
    kind: str
    type: str
    name: str | None
    given: str
    said: ToolCall
    """All else that it says, of vendors' own."""

    @classmethod
    def of(cls, said: ToolCall) -> Self:
        kind = (
            "custom" if said.get("type") == "custom" or _is_object(said, "custom") else "function"
        )
        called = said[kind] if _is_object(said, kind) else {}
        type = said.get("type")
        own = {name: part for name, part in said.items() if name not in _READ}
        more = {name: part for name, part in called.items() if name not in ("name", GIVEN[kind])}
        return cls(
            _id(said.get("id")),
            _index(said.get("index")),
            kind,
            type if isinstance(type, str) and type not in ("", *GIVEN) else kind,
            called["name"] if isinstance(called.get("name"), str) and called["name"] else None,
            _text(called.get(GIVEN[kind])),
            {**own, **({kind: more} if more else {})},
        )

    def shown(self, head: ToolCall, given: str | None = None) -> ToolCall:
        """The bit behind `head`, with what else it says."""
        text = self.given if given is None else given
        called = {**head.get(self.kind, {}), GIVEN[self.kind]: text, **self.said.get(self.kind, {})}
        return {**self.said, **head, self.kind: called}


_READ = ("id", "index", "type", "function", "custom")


def _is_object(said: ToolCall, name: str) -> bool:
    return isinstance(said.get(name), dict)


def _id(said: object) -> str | None:
    if isinstance(said, int) and not isinstance(said, bool):
        return str(said)
    return said if isinstance(said, str) and said else None


def _index(said: object) -> int | None:
    if isinstance(said, str) and said.isascii() and said.isdigit() and len(said) < 6:
        return int(said)
    return said if isinstance(said, int) and not isinstance(said, bool) and said >= 0 else None


def _text(given: object) -> str:
    """What a tool is given. There are servers that write the object that it is the text of."""
    if given is None or isinstance(given, str):
        return given or ""
    return msgspec.json.encode(given).decode()


def whole_calls(said: Iterable[ToolCall]) -> list[ToolCall]:
    """The calls of a complete answer, each of them by itself."""
    known: set[str] = set()
    calls: list[ToolCall] = []
    for bit in map(_Bit.of, said):
        id = bit.id if bit.id is not None and bit.id not in known else call_id()
        known.add(id)
        named = {} if bit.name is None else {"name": bit.name}
        calls.append(bit.shown({"id": id, "type": bit.type, bit.kind: named}))
    return calls


@dataclass(slots=True)
class _Call:
    """A call as far as it has come. `index` is the one that clients read, `place` the backend's."""

    index: int
    place: int | None
    id: str | None
    kind: str
    name: str | None = None
    given: list[str] = field(default_factory=list)
    size: int = 0
    shown: bool = False

    def hear(self, bit: _Bit, given: str) -> None:
        """Another bit of it has come."""
        self.id = self.id or bit.id
        self.name = self.name or bit.name
        self.place = bit.place if self.place is None else self.place
        if given:
            self.given.append(given)
            self.size += len(given)

    def complete(self) -> bool:
        """Whether what the tool is given is a whole object, behind which nothing of it can follow."""
        if self.kind != "function" or not 0 < self.size <= _LOOKED_AT:
            return False
        if not self.given[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(msgspec.json.decode("".join(self.given)), dict)
        except (msgspec.DecodeError, RecursionError):
            return False

    def repeated_by(self, bit: _Bit) -> bool:
        """Whether a bit says the whole once more, as there are servers that do at the end."""
        if bit.id is None or bit.id != self.id or len(bit.given) != self.size:
            return False
        return bit.given.startswith("{") and bit.given == "".join(self.given)


class CallBits:
    """Reads the bits of one choice's calls in the order in which they come."""

    def __init__(self) -> None:
        self._calls: dict[
            int, _Call
        ] = {}  # by the index that clients read, in the order of their beginnings
        self._by_id: dict[str, dict[int | None, _Call]] = {}
        self._by_place: dict[int, _Call] = {}
        self._last: _Call | None = None
        self._ids: set[str] = set()
        self._next = 0

    def read(self, said: Sequence[ToolCall]) -> list[ToolCall]:
        """The bits as clients read them: id, type and name stand in the first one of each call, and only there.

        A call whose name has not come yet waits for it.
        """
        read: list[ToolCall] = []
        now: set[int] = set()  # the calls of which something stands in this very list
        for at, each in enumerate(said):
            bit = _Bit.of(each)
            if bit.place is None and bit.id is None and len(said) > 1:
                bit = replace(bit, place=at)
            call = self._candidate(bit)
            if call is None or _begins_another(bit, call, listed=call.index in now):
                call = self._begin(bit, call)
            now.add(call.index)
            self._last = call
            read += self._show(call, bit)
        return read

    def nameless(self) -> list[ToolCall]:
        """What is left, at the end, of calls that never said which tool they call."""
        left = [call for call in self._calls.values() if not call.shown]
        for call in left:
            call.shown = True
        return [
            {"index": call.index, call.kind: {GIVEN[call.kind]: "".join(call.given)}}
            for call in left
        ]

    def _candidate(self, bit: _Bit) -> _Call | None:
        """The call that a bit is of by what it says; one that names a tool may begin another all the same."""
        if bit.id is not None and (same := self._by_id.get(bit.id)):
            return same[bit.place] if bit.place in same else list(same.values())[-1]
        if bit.place is None:
            return self._last if bit.id is None or bit.name is None else None
        if bit.place in self._by_place:
            return self._by_place[bit.place]
        return self._last if bit.name is None and bit.id is None else None

    def _begin(self, bit: _Bit, before: _Call | None) -> _Call:
        free = bit.place is not None and bit.place not in self._calls
        index = bit.place if free and bit.place is not None else self._next
        self._next = max(self._next, index + 1)
        # What follows a complete call without a word of which tool is for the same one.
        name = before.name if before is not None and bit.name is None else None
        call = self._calls[index] = _Call(index, bit.place, bit.id, bit.kind, name)
        return call

    def _show(self, call: _Call, bit: _Bit) -> Iterator[ToolCall]:
        given = "" if call.repeated_by(bit) else bit.given
        call.hear(bit, given)
        if call.place is not None:
            self._by_place[call.place] = call
        if call.id is not None:
            self._by_id.setdefault(call.id, {})[call.place] = call
        if call.shown:
            if given or bit.said:
                yield bit.shown({"index": call.index}, given)
        elif call.name is not None:
            call.shown = True
            id = call.id if call.id is not None and call.id not in self._ids else call_id()
            self._ids.add(id)
            head = {"index": call.index, "id": id, "type": bit.type, call.kind: {"name": call.name}}
            yield bit.shown(head, "".join(call.given))


def _begins_another(bit: _Bit, call: _Call, *, listed: bool) -> bool:
    """Whether a bit that seems to be of a call is of one that only looks like it."""
    if bit.name is not None:
        moved = None not in (bit.place, call.place) and bit.place != call.place
        other = None not in (bit.id, call.id) and bit.id != call.id
        if listed or moved or other or call.name not in (None, bit.name):
            return True
    if not bit.given.lstrip().startswith("{") or call.repeated_by(bit):
        return False
    return call.complete()
