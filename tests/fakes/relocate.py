"""The shipped Envoy files, with only addresses and paths replaced by those of a test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def relocate(
    source: Path, target: Path, sockets: Mapping[str, str], texts: Mapping[str, str]
) -> None:
    """Copy the YAML files of `source` to `target`.

    `sockets` replaces socket addresses (`host:port` by `host:port`), `texts` replaces beginnings of other strings.
    """
    target.mkdir(parents=True, exist_ok=True)
    for path in target.glob("*.yaml"):
        path.unlink()
    for path in source.glob("*.yaml"):
        moved = _move(yaml.safe_load(path.read_text()), sockets, texts)
        (target / path.name).write_text(yaml.safe_dump(moved, sort_keys=False))


def _move(value: Any, sockets: Mapping[str, str], texts: Mapping[str, str]) -> Any:
    match value:
        case {"address": str(host), "port_value": int(port), **rest}:
            new_host, _, new_port = sockets[f"{host}:{port}"].rpartition(":")
            return {"address": new_host, "port_value": int(new_port), **rest}
        case dict():
            return {key: _move(each, sockets, texts) for key, each in value.items()}
        case list():
            return [_move(each, sockets, texts) for each in value]
        case str():
            for old, new in texts.items():
                if value.startswith(old):
                    return new + value.removeprefix(old)
            return value
        case _:
            return value
