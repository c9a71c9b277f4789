"""What is secret, and what is said, turns up in no log, error, header, statistic, record or name of a file."""

import base64
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from looper.simulate.faults import (
    AnyFault,
    Beside,
    ErrorObject,
    Garbage,
    Refusal,
    Reset,
    Status,
    Strange,
)
from looper.simulate.server import SimulatedModel, Simulator
from tests.fakes.stack import Stack, run_stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAMES = ("p", "q", "r", "j")
MEMBERS = ["p", "q", "r"]
TEAMS: dict[str, dict[str, Any]] = {
    "single": {"type": "single", "model": "p"},
    "chain": {
        "type": "confidence",
        "stages": ["p", "q"],
        "confidence_method": "self_verify",
        "threshold": 0.8,
    },
    "vote": {"type": "ratings", "models": MEMBERS},
    "rounds": {"type": "remom", "models": MEMBERS, "breadth_schedule": [3]},
    "panel": {"type": "fusion", "analysis_models": MEMBERS, "judge_model": "j", "final_model": "j"},
    "flow": {
        "type": "workflows",
        "steps": [{"id": "one", "models": ["p"], "prompt": "Do it."}],
        "final": {"model": "j"},
    },
}


def canary(kind: str) -> str:
    return f"canary-{kind}-{secrets.token_hex(6)}"


@dataclass(slots=True)
class Canaries:
    """Each with a name, so that it is told which one has flown where."""

    key: str = field(default_factory=lambda: canary("key"))
    state: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(32)).decode())
    credential: str = field(default_factory=lambda: canary("credential"))
    cookie: str = field(default_factory=lambda: canary("cookie"))
    prompt: str = field(default_factory=lambda: canary("prompt"))
    tool: str = field(default_factory=lambda: canary("tool"))
    schema: str = field(default_factory=lambda: canary("schema"))
    user: str = field(default_factory=lambda: canary("user"))
    answer: str = field(default_factory=lambda: canary("answer"))
    error: str = field(default_factory=lambda: canary("error"))

    def flown_into(self, text: str) -> list[str]:
        """The names of those that stand in a text."""
        return [each.name for each in fields(self) if getattr(self, each.name) in text]


CANARIES = Canaries()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "key").write_text(CANARIES.key)
    (folder / "state").write_text(CANARIES.state)
    change = {
        "models": [
            {"name": name, "url": "", "api_key": {"file": str(folder / "key")}} for name in NAMES
        ],
        "recipes": {
            name: {"decisions": [{"name": name, "algorithm": algorithm}]}
            for name, algorithm in TEAMS.items()
        },
        "entrypoints": {name: name for name in TEAMS},
        "state": {"type": "memory", "keys": [{"file": str(folder / "state")}]},
        "debug": True,
    }
    models = [SimulatedModel(name=name, latency=0, token_latency=0) for name in NAMES]
    async with run_stack(Simulator(models), change, runs_file=True) as running:
        yield running


FAULTS: list[AnyFault | None] = [
    None,
    Status(status=500, message=CANARIES.error, code=CANARIES.error),
    Status(status=400, message=CANARIES.error),
    Status(status=401, message=CANARIES.error),
    ErrorObject(message=CANARIES.error, code=CANARIES.error),
    ErrorObject(message=CANARIES.error, after_chunks=1, shape="text"),
    Refusal(text=CANARIES.answer),
    Garbage(),
    Strange(),
    Beside(),
    Reset(),
]


def body(team: str, **members: Any) -> dict[str, Any]:
    tool = {"type": "function", "function": {"name": "look", "description": CANARIES.tool}}
    said = {"role": "user", "content": f"{CANARIES.prompt} Think step by step."}
    return {"model": team, "messages": [said], "tools": [tool], "user": CANARIES.user, **members}


BAD: list[tuple[str, bytes]] = [
    ("chat/completions", b'{"model": "vote", "messages": "%s"' % CANARIES.prompt.encode()),
    ("chat/completions", b'{"model": "vote", "messages": [{"role": "user", "content": 5}], "x": "%s"}'
     % CANARIES.prompt.encode()),
    ("chat/completions", json.dumps(body("vote", max_tokens=CANARIES.user)).encode()),
    ("chat/completions", json.dumps(body("vote", n=CANARIES.user)).encode()),
    ("chat/completions", json.dumps(body("vote", response_format={"type": CANARIES.schema})).encode()),
    ("chat/completions", json.dumps(body("vote", response_format={
        "type": "json_schema", "json_schema": {"name": "x", "schema": {"const": CANARIES.schema}},
    })).encode()),
    ("chat/completions", json.dumps(body("vote", messages=[{"role": CANARIES.user}])).encode()),
    ("chat/completions", json.dumps({CANARIES.user: 1, "model": "vote", "messages": 7}).encode()),
    ("chat/completions", b"\xff" + CANARIES.prompt.encode()),
    ("embeddings", json.dumps({"model": "vote", "input": CANARIES.prompt}).encode()),
]  # fmt: skip

HEADERS = {
    "authorization": f"Bearer {CANARIES.credential}",
    "cookie": f"a={CANARIES.cookie}",
    "looper-debug": "1",
    "content-type": "application/json",
}


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told, and in which case."""

    case: str
    status: int
    text: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def told(stack: Stack) -> list[Told]:
    """Every team with every fault of its members, whole and streamed; and requests that are refused."""
    heard: list[Told] = []
    for team, fault, stream in product(TEAMS, FAULTS, (False, True)):
        stack.simulator.reset()
        for name in NAMES:
            stack.simulator.script(name, *[CANARIES.answer] * 4)
            stack.simulator.fault(name, fault)
        sent = json.dumps(body(team, stream=stream)).encode()
        case = f"{team} {stream} {fault!r}"
        heard.append(await hear(stack, "chat/completions", sent, case))
    stack.simulator.reset()
    return heard + [await hear(stack, path, sent, f"bad {sent[:80]!r}") for path, sent in BAD]


async def hear(stack: Stack, path: str, sent: bytes, case: str) -> Told:
    url = f"{stack.base_url}/{path}"
    async with stack.session.post(url, data=sent, headers=HEADERS) as response:
        text = ""
        with suppress(aiohttp.ClientPayloadError):
            text = await response.text(errors="replace")
        headers = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        return Told(case, response.status, headers if response.status == 200 else headers + text)


async def test_clients_are_told_nothing(told: list[Told]) -> None:
    """Errors and headers repeat neither what was said nor what is secret. A routed backend's own error passes."""
    flown = [
        (each.case, kind)
        for each in told
        if not each.case.startswith("single")
        for kind in CANARIES.flown_into(each.text)
    ]
    assert not flown
    assert {each.status for each in told} >= {200, 400, 502}


async def pages(stack: Stack) -> AsyncIterator[tuple[str, str]]:
    """All that an operator sees."""
    for log in stack.folder.glob("*.log"):
        yield log.name, log.read_text()
    yield "records", (stack.folder / "runs.jsonl").read_text()
    async with stack.session.get(f"{stack.stats}/stats/prometheus") as response:
        yield "statistics", await response.text()
    connector = aiohttp.UnixConnector(str(stack.processor.admin))
    async with aiohttp.ClientSession("http://looper", connector=connector) as session:
        for path in ("/metrics", "/config", "/runs", "/api/runs", "/api/about", "/api/overview"):
            async with session.get(path) as response:
                assert response.status == 200
                yield path, await response.text()
    yield "names of files", "\n".join(map(str, stack.folder.rglob("*")))


async def test_operators_see_nothing(stack: Stack, told: list[Told]) -> None:
    """At default settings, after all of that."""
    assert told
    seen = {where: text async for where, text in pages(stack)}
    assert not [
        (where, CANARIES.flown_into(text))
        for where, text in seen.items()
        if CANARIES.flown_into(text)
    ]
    assert all(text for where, text in seen.items() if where != "envoy.log")
