"""Small configurations with something changed in them."""

from typing import Any

import yaml

SMALL: dict[str, Any] = {
    "version": 1,
    "egress": "unix:/run/looper/egress.sock",
    "models": [{"name": "m", "url": "http://10.0.0.1:8000/v1"}],
    "recipes": {"r": {"decisions": [{"name": "d", "algorithm": {"type": "single", "model": "m"}}]}},
    "entrypoints": {"looper/auto": "r"},
}


def written(change: dict[str, Any]) -> str:
    """The text of a file."""
    return yaml.safe_dump({**SMALL, **change}, allow_unicode=True)
