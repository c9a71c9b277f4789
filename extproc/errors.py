"""Errors of the Envoy side that never reach a client."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path


class ProtocolError(Exception):
    """Envoy speaks to us in a way that its filter should not have been configured for. The text goes to Envoy."""


class Abandoned(Exception):
    """The client left before its request was complete, or before its answer was. Nobody is there to be told."""


class Overtaken(Exception):
    """Envoy has answered by itself before we had the whole request, and lets that answer pass through us."""


class ConfigError(Exception):
    """A configuration that cannot be used; one line for each problem, in the order of the file.

    `files` are those that it includes, in which the problem may be.
    """

    def __init__(self, problems: list[str], files: Sequence[Path] = ()) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
        self.files = tuple(files)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """`unknown model 'smal': did you mean 'small'?`"""
    choices = list(known)
    close = get_close_matches(name, choices, n=1)
    hint = (
        f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(choices)) or 'none'}"
    )
    return f"unknown {kind} {name!r}: {hint}"
