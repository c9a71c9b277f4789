"""The generation of a configuration: a short fingerprint by which its two readers can tell whether they agree.

Envoy's routes announce theirs to the processor, and the models that they lead to.
"""

import hashlib
import json

from extproc.config import Config

Reach = frozenset[str]
"""Models, each by a fingerprint of its name and of where it is."""


def generation(config: Config) -> str:
    """12 hex digits that depend on what the configuration says, not on how its file is laid out."""
    text = json.dumps(
        config.model_dump(exclude_defaults=True),
        default=_plain,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def reach(config: Config) -> Reach:
    """The models of a configuration, and whatever else is called as they are."""
    return frozenset(fingerprint(each.name, each.place) for each in config.upstreams())


def fingerprint(name: str, place: str) -> str:
    return hashlib.sha256(f"{name} {place}".encode()).hexdigest()[:8]


def announcement(generation: str, models: Reach) -> str:
    """What routes of this generation announce."""
    return f"{generation};{','.join(sorted(models))}"


def heard(announced: str) -> tuple[str, Reach | None]:
    """The generation that was announced, and the models; None if nothing was said of them."""
    name, _, models = announced.partition(";")
    return name, frozenset(models.split(",")) if models else None


def _plain(value: object) -> object:
    # The order of a set changes from process to process, which would make equal configurations differ.
    return sorted(value) if isinstance(value, frozenset) else str(value)
