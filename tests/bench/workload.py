"""The configuration of the processor that is measured, and the requests that it is sent."""

from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.bench.backend import Backend
from tests.fakes.envoy import free_port

ROUTED = "small"
"""The model that every routed request ends at."""

AUTO, ONE, MANY, SHIPPED, FUSION, STREAM, SLOW = (
    f"looper/{name}" for name in ("auto", "one", "many", "shipped", "fusion", "stream", "slow")
)
PANEL = 4
_DEMO = Path(__file__).parents[2] / "extproc" / "cli" / "up" / "demo.yaml"


def config(folder: Path, backend: Backend, simulator: str) -> dict[str, Any]:
    """The demo's recipe for routed requests, and one recipe for each loop."""
    demo = yaml.safe_load(_DEMO.read_text())
    names = sorted({each["name"] for each in demo["models"]})
    models = [{"name": name, "url": backend.url("instant")} for name in names]
    for team, paths in (("stage", ("stage", "judge")), ("slow", ("slow", "judge"))):
        models += [_model(f"{team}-{number}", backend.url(paths[0])) for number in range(PANEL)]
        models += [_model(f"{team}-judge", backend.url(paths[1]))]
        models += [_model(f"{team}-final", backend.url("stage"))]
    models += [_model(f"live-{number}", f"{simulator}/v1") for number in range(PANEL)]
    models += [_model("live-judge", f"{simulator}/v1"), _model("live-final", f"{simulator}/v1")]
    return {
        "version": 1,
        "egress": f"unix:{folder}/egress.sock",
        "envoy": {
            "ingress": "127.0.0.1:0",
            "stats": "127.0.0.1:0",
            "admin": f"127.0.0.1:{free_port()}",
            "processors": [f"unix:{folder}/extproc.sock"],
        },
        "models": models,
        "recipes": {
            **demo["recipes"],
            "one": _one(),
            "many": _routed(SIGNALS),
            "shipped": {
                "include": "general",
                "models": {"cheap": ROUTED, "mid": "other", "other": "third", "strong": "large"},
            },
            "fusion": _fusion("stage"),
            "stream": _fusion("live"),
            "slow": _fusion("slow"),
        },
        "entrypoints": {
            AUTO: demo["entrypoints"]["looper/auto"],
            **{
                f"looper/{name}": name
                for name in ("one", "many", "shipped", "fusion", "stream", "slow")
            },
        },
    }


def _model(name: str, url: str) -> dict[str, Any]:
    # More than the default, so that 1,000 open runs fit beside other calls.
    breaker = {"max_requests": 8192, "max_pending": 8192, "max_connections": 8192}
    return {
        "name": name,
        "url": url,
        "breaker": breaker,
        "capabilities": ["json_schema"],
        "price": {"input": 0.1, "output": 0.4},
    }


SIGNALS: dict[str, dict[str, Any]] = {
    "topic": {
        "type": "keyword",
        "any": ["proof", "lemma", "compiler", "more tensors", "no genome"],
    },
    "numbered": {"type": "keyword", "any": [{"regex": r"(theorem|lemma) \d+"}]},
    "misspelt": {"type": "keyword", "any": [{"fuzzy": "derivative", "distance": 2}]},
    "long": {"type": "context", "at_least": "16k"},
    "options": {"type": "structure", "of": "options", "at_least": 3},
    "code": {"type": "structure", "of": "fences"},
    "questions": {"type": "structure", "of": "questions", "at_least": 3},
    "listed": {"type": "structure", "regex": r"(?m)^\s*[-*] ", "at_least": 3},
    "steps": {"type": "structure", "sequence": ["first", ["then", "next"], "finally"]},
    "agent": {"type": "conversation", "of": "tool_loop"},
    "again": {"type": "conversation", "of": "reask"},
    "german": {"type": "language", "any": ["de"]},
    "json": {"type": "request", "path": "response_format.type", "equals": "json_schema"},
    "tenant": {"type": "header", "name": "x-tenant", "in": ["acme", "globex"]},
    "plan": {"type": "attribute", "metadata": "bench", "path": "plan", "equals": "gold"},
}
"""Of every kind that needs nobody, and none of them holds for the requests below."""


def _one() -> dict[str, Any]:
    """A single keyword signal, which does not match."""
    return _routed({"topic": {"type": "keyword", "any": ["proof", "lemma", "compiler"]}})


def _routed(signals: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A decision that asks for all of these signals, and one for when none of them holds."""
    return {
        "signals": signals,
        "decisions": [
            {
                "name": "rare",
                "when": {"any": list(signals)},
                "algorithm": {"type": "single", "model": "large"},
            },
            {"name": "default", "algorithm": {"type": "single", "model": ROUTED}},
        ],
    }


def _fusion(team: str) -> dict[str, Any]:
    algorithm = {
        "type": "fusion",
        "analysis_models": [f"{team}-{number}" for number in range(PANEL)],
        "judge_model": f"{team}-judge",
        "final_model": f"{team}-final",
    }
    return {
        "decisions": [{"name": team, "algorithm": algorithm, "budget": {"deadline": "280s"}}],
    }


def chat(model: str, size: int = 1000, *, stream: bool = False) -> bytes:
    """A chat request of `size` bytes: short turns of prose, as a long conversation has them."""
    turn = "Please tell me what the weather in Ghent will be like on Tuesday; thank you. "
    head: dict[str, Any] = {"model": model, "temperature": 0.2, "max_tokens": 256}
    if stream:
        head["stream"] = True
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    roles = ("user", "assistant")
    room = size - len(_body(head, messages))
    while room > 0:
        empty = {"role": roles[len(messages) % 2 - 1], "content": ""}
        fits = min(room - len(_body({}, [empty])) + 12, 4000)
        text = (turn * (fits // len(turn) + 1))[: max(1, fits)]
        messages.append({**empty, "content": text})
        room = size - len(_body(head, messages))
    if messages[-1]["role"] != "user":
        messages[-1]["role"] = "user"
    return _body(head, messages)


def _body(head: dict[str, Any], messages: list[dict[str, str]]) -> bytes:
    return msgspec.json.encode({**head, "messages": messages})
