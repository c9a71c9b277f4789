"""The generation of a configuration: a short fingerprint by which its two readers can tell whether they agree."""

import hashlib
import json

from extproc.config import Config


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


def _plain(value: object) -> object:
    # The order of a set changes from process to process, which would make equal configurations differ.
    return sorted(value) if isinstance(value, frozenset) else str(value)
