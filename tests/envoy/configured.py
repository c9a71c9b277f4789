"""Envoy's bootstrap file as an operator would have edited it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Bootstrap = dict[str, Any]


def edited(change: Callable[[Bootstrap], None]) -> Callable[[Path], None]:
    """Have Envoy start from another bootstrap file than ours."""

    def edit(folder: Path) -> None:
        path = folder / "bootstrap.yaml"
        bootstrap = yaml.safe_load(path.read_text())
        change(bootstrap)
        path.write_text(yaml.safe_dump(bootstrap))

    return edit


def manager_of(bootstrap: Bootstrap, name: str) -> dict[str, Any]:
    (listener,) = (
        each for each in bootstrap["static_resources"]["listeners"] if each["name"] == name
    )
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager
