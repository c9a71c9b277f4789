"""The configuration that `looper init` writes."""

import re
from collections.abc import Sequence

import yaml

from extproc.cli.init.finding import Listed, Server

_FEW = 3
"""Models of one server that are taken when none is asked for."""

_NO_CHAT = re.compile(
    r"embed|rerank|moderation|whisper|tts|transcri|audio|realtime|image|dall-e|sora|guard|ocr|bge",
    re.I,
)
"""What says by its name that it is no chat model."""


def written(listed: Sequence[Listed], wanted: Sequence[str]) -> str | None:
    """The text of a configuration with these models; None if there is none to take."""
    chosen = [
        (each.server, model) for each in listed for model in _chosen(each.models, tuple(wanted))
    ]
    if not chosen:
        return None
    names = _names([model for _, model in chosen])
    models = [_model(name, *pair) for name, pair in zip(names, chosen, strict=True)]
    config = {
        "version": 1,
        "egress": "unix:/run/looper/egress.sock",
        "models": models,
        "recipes": {"general": {**_signals(names), "decisions": _decisions(names)}},
        "entrypoints": {"looper/auto": "general"},
    }
    others = sorted({model for each in listed for model in each.models} - {m for _, m in chosen})
    return "".join(
        (
            "# yaml-language-server: $schema=looper.schema.json\n",
            "# Written by `looper init`. Prices, windows and ratings are not known: with them, `looper cost` can say\n"
            "# what a team may cost, and votes who is to be heard.\n",
            yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=110),
            *(f"# also listed: {other}\n" for other in others),
        )
    )


def _chosen(models: Sequence[str], wanted: Sequence[str]) -> list[str]:
    if wanted:
        return [model for model in models if model in wanted]
    return [model for model in models if not _NO_CHAT.search(model)][:_FEW]


def _names(models: Sequence[str]) -> list[str]:
    """Names of ours: the last part of what the server says, told apart by a number where two are the same."""
    names: list[str] = []
    for model in models:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.rpartition("/")[2]).strip("-.") or "model"
        same = sum(other == name or other.startswith(f"{name}-") for other in names)
        names.append(f"{name}-{same + 1}" if name in names else name)
    return names


def _model(name: str, server: Server, model: str) -> dict[str, object]:
    told: dict[str, object] = {"name": name, "url": server.url, "upstream_model": model}
    if server.variable is not None:
        told["api_key"] = {"env": server.variable}
    if server.dialect is not None:
        told["dialect"] = server.dialect
    return told


def _signals(names: Sequence[str]) -> dict[str, object]:
    if len(names) == 1:
        return {}
    hard = {"type": "keyword", "any": ["prove", "compare", "trade-off", "step by step"]}
    return {"signals": {"hard": hard}}


def _decisions(names: Sequence[str]) -> list[dict[str, object]]:
    first, last = names[0], names[-1]
    plain: dict[str, object] = {"name": "default", "algorithm": {"type": "single", "model": first}}
    if len(names) == 1:
        return [plain]
    # A judge that is no member has no answer of its own to prefer.
    members = list(names[:-1] if len(names) > 2 else names)
    panel = {"type": "fusion", "analysis_models": members[:4], "judge_model": last}
    budget = {"calls": 6, "deadline": "120s"}
    return [{"name": "panel", "when": "hard", "algorithm": panel, "budget": budget}, plain]
