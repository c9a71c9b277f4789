"""Records of runs, as many as a test wants."""

from typing import Any


def record(number: int = 0, **members: Any) -> dict[str, Any]:
    """A team's record with two calls, some of its members changed."""
    call = {
        "model": "small",
        "role": "panel",
        "state": "ok",
        "at": 0.0,
        "seconds": 0.5,
        "first_token": 0.1,
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
        "cost_microusd": 15.0,
    }
    return {
        "version": 1,
        "kind": "team",
        "run": f"{number:016x}",
        "time": "2026-01-01T00:00:00.000+00:00",
        "recipe": "general",
        "decision": "panel",
        "algorithm": "fusion",
        "outcome": "ok",
        "request_id": f"request-{number}",
        "seconds": 1.0 + number,
        "confidence_permille": 730,
        "cost_microusd": 30,
        "request": {
            "model": "looper/auto",
            "stream": True,
            "messages": 1,
            "prompt_tokens": 100,
            "tools": False,
        },
        "budget": {"calls": 5, "seconds": 60.0},
        "spent": {"calls": 2, "tokens": 300, "cost_microusd": 30},
        "stages": [{"stage": "panel", "at": 0.0}, {"stage": "final", "at": 0.5}],
        "calls": [call, {**call, "model": "large", "role": "final", "at": 0.5}],
        "notes": [],
        **members,
    }
