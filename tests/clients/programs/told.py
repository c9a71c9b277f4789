"""What each of the programs beside this file does: it uses a client as its users do, and prints what it was told.

A program has one argument, the base URL. It prints one JSON object: of each model what each step came to.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

MODELS = ("looper/one", "looper/team")
SLOW = "looper/slow"
QUESTION = "What is the capital of Canada?"
TOOL_QUESTION = "Use lookup. What is the capital of Canada?"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}  # fmt: skip
TOOL: Any = {
    "type": "function",
    "function": {"name": "lookup", "description": "Looks it up.", "parameters": PARAMETERS},
}
RESULT = "It is Ottawa, says the tool."
USER: Any = {"role": "user", "content": QUESTION}


def base_url() -> str:
    return sys.argv[1]


def tell(leave: Callable[[str], object] | None, **steps: Callable[[str], object]) -> None:
    """Take each step with each model, then leave a stream after its first piece."""
    told: dict[str, dict[str, object]] = {
        model: {name: step(model) for name, step in steps.items()} for model in MODELS
    }
    if leave is not None:
        told[SLOW] = {"leave": leave(SLOW)}
    print(json.dumps(told))  # noqa: T201


def refused(ask: Callable[[], object]) -> str:
    """What a client says of an error."""
    try:
        ask()
    except Exception as error:
        return f"{getattr(error, 'status_code', '')} {error}"
    return "no error"
