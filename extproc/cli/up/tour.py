"""The tour of `looper up`: three requests, and what became of each."""

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from extproc.cli.up.local import Addresses
from extproc.config import Config
from looper.wire.sse import DONE, EventReader

DEMO = Path(__file__).with_name("demo.yaml")
"""The configuration that is used without one: a team of simulated models."""

REAL = DEMO.with_name("real.yaml")
"""The one that is used for a real model."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A request of the tour. `answer` is a pattern that right ones have, `decision` what the demo must come to."""

    title: str
    prompt: str
    stream: bool
    decision: str
    answer: str


STOPS = (
    Stop("one model", "What is the capital of Canada?", False, "default", r"\bOttawa\b"),
    Stop(
        "a team",
        "Think step by step: What is the time complexity of binary search?",
        False,
        "panel",
        r"\bO\}?\(\s*(log|lg)(_?\{?2\}?|₂)?\s*[({]*n",
    ),
    Stop(
        "a team, streamed",
        "Think step by step: What is 15 percent of 240?",
        True,
        "panel",
        r"(?<![\d.])36(\.0+)?(?!\.?\d)",
    ),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw. Times are in seconds; `code` is that of an error, also in a stream that had begun."""

    status: int
    code: str | None
    decision: str
    algorithm: str
    text: str
    total: float
    first_token: float | None


def announce(config: Config, addresses: Addresses) -> None:
    """Say where everything listens, and how to ask."""
    click.echo(f"Console    http://{addresses.console}/  (runs as they happen; a playground)")
    click.echo(f"Envoy      http://{addresses.ingress}  (OpenAI API at {addresses.base_url})")
    click.echo(f"Statistics http://{addresses.stats}/stats/prometheus")
    admin = addresses.admin.removeprefix("unix:")
    click.echo(f"Admin      curl --unix-socket {admin} http://envoy/help  (Envoy's)")
    click.echo(f"Models     {addresses.models or 'as configured'}")
    click.echo(f"Files      {addresses.folder}")
    body = json.dumps({"model": _entrypoint(config), "messages": [_user(STOPS[1].prompt)]})
    click.echo(f"\n  curl {addresses.base_url}/chat/completions -d '{body}'\n")


async def tour(config: Config, addresses: Addresses, *, known: bool) -> bool:
    """Send the requests and print a table of what came of them. Whether every reply was right.

    `known`: the models are those of the demo, which know the answers. Others may not: that is no failure.
    """
    table = Table(title="A short tour", show_lines=True, expand=True)
    for column, ratio in (("question", 4), ("answered by", 4), ("answer", 5)):
        table.add_column(column, ratio=ratio)
    all_right = True
    async with aiohttp.ClientSession() as session:
        for stop in STOPS:
            before = await _calls(session, addresses)
            seen = await _visit(session, config, addresses, stop)
            called = await _calls(session, addresses) - before
            verdict = judged(stop, seen, known=known)
            all_right = all_right and verdict.good
            table.add_row(*_row(stop, seen, called, verdict))
    Console().print(table)
    _say_what_next(config, addresses)
    return all_right


def _row(
    stop: Stop, seen: Seen, called: Mapping[tuple[str, str], int], verdict: "Verdict"
) -> tuple[Text, Text, Text]:
    question = Text(stop.prompt).append(f"\n{stop.title}", "dim")
    by = Text(seen.decision, "bold").append(f" {seen.algorithm}", "dim")
    for model, role in called:
        by.append(f"\n{model}").append(f" {role}", "dim")
    by.append(f"\n{seen.total * 1000:.0f} ms", "dim")
    if seen.first_token is not None:
        by.append(f", first token {seen.first_token * 1000:.0f} ms", "dim")
    return question, by, Text(ending(seen.text)).append(f"\n{verdict.words}", verdict.tone)


_SHOWN = 160
"""Characters of an answer that the tour has room for."""


def ending(text: str) -> str:
    """The end of an answer, where what counts stands, from a whole word on."""
    plain = " ".join(text.split())
    if len(plain) <= _SHOWN:
        return plain
    words = plain[-_SHOWN:].partition(" ")[2]
    return f"… {words or plain[-_SHOWN:]}"


def _say_what_next(config: Config, addresses: Addresses) -> None:
    click.echo("\nWhat to try next:")
    click.echo(
        f"  http://{addresses.console}/  each of these runs on a time axis, and a playground"
    )
    click.echo(f"  looper top --admin {addresses.console}")
    click.echo(f"  looper runs --admin {addresses.console} --follow")
    click.echo(f"  looper explain {addresses.folder}/looper.yaml {json.dumps(STOPS[1].prompt)}\n")


class Verdict(NamedTuple):
    """What became of a request, in words, and whether the tour has seen what it was to see."""

    words: str
    tone: str
    good: bool


def judged(stop: Stop, seen: Seen, *, known: bool) -> Verdict:
    """An answer is right only if it says what is right; a failure has a name."""
    if seen.status != 200 or seen.code is not None:
        return Verdict(f"wrong ({seen.status} {seen.code or 'without a code'})", "red", False)
    if not seen.text:
        return Verdict("wrong (empty)", "red", False)
    if known and seen.decision != stop.decision:
        return Verdict(f"wrong (decided {seen.decision}, not {stop.decision})", "red", False)
    if re.search(stop.answer, _plain(seen.text), re.IGNORECASE):
        return Verdict("right", "green", True)
    return Verdict("wrong", "red", False) if known else Verdict("not what we know", "yellow", True)


def _plain(text: str) -> str:
    """Without the marks of Markdown and LaTeX."""
    return re.sub(r"\\(?:mathcal|mathrm|text|left|right)?|[*`$]", "", text)


def _entrypoint(config: Config) -> str:
    return next(iter(config.entrypoints))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


async def _visit(
    session: aiohttp.ClientSession, config: Config, addresses: Addresses, stop: Stop
) -> Seen:
    body = {"model": _entrypoint(config), "messages": [_user(stop.prompt)], "stream": stop.stream}
    began = time.perf_counter()
    first: float | None = None
    text = ""
    code: str | None = None
    async with session.post(f"{addresses.base_url}/chat/completions", json=body) as response:
        if stop.stream and response.status == 200:
            reader = EventReader()
            async for data in response.content.iter_any():
                for event in reader.feed(data):
                    code = code or _code(event.data)
                    piece = _piece(event.data)
                    if piece and first is None:
                        first = time.perf_counter() - began
                    text += piece
        elif response.status == 200:
            text = (await response.json())["choices"][0]["message"]["content"] or ""
        else:
            code = _code(await response.read())
        headers = response.headers
        return Seen(
            response.status,
            code,
            headers.get("x-looper-decision", "-"),
            headers.get("x-looper-algorithm", "-"),
            text,
            time.perf_counter() - began,
            first,
        )


def _code(data: bytes) -> str | None:
    """That of an error in OpenAI's shape, if it is one."""
    try:
        return str(json.loads(data)["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return None


def _piece(data: bytes) -> str:
    if data == DONE:
        return ""
    chunk: dict[str, Any] = json.loads(data)
    return "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))


_SERIES = re.compile(r"^envoy_looper_(?:requests|egress_calls)_total\{(.*)\} (\d+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def _calls(session: aiohttp.ClientSession, addresses: Addresses) -> Counter[tuple[str, str]]:
    """How often each model was called in each role, as Envoy counts it: routed requests, and calls of teams."""
    async with session.get(f"http://{addresses.stats}/stats/prometheus") as response:
        exposition = await response.text()
    calls: Counter[tuple[str, str]] = Counter()
    for labels, value in _SERIES.findall(exposition):
        named = dict(_LABEL.findall(labels))
        if model := named.get("model"):
            calls[model, named.get("role", "routed")] += int(value)
    return calls
