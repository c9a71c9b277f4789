"""Figures as people read them in a terminal."""

from math import floor, log10

from rich.text import Text

_TONES = {
    "ok": "green",
    "running": "blue",
    "degraded": "yellow",
    "fallback": "yellow",
    "overload": "yellow",
    "failed": "red",
    "timed_out": "red",
    "unusable": "red",
}


def toned(word: str) -> Text:
    """An outcome, or how a call ended."""
    return Text(word.replace("_", " "), tone(word))


def tone(word: str) -> str:
    return _TONES.get(word, "dim")


def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 1:
        return f"{value * 1000:.3g} ms" if value < 0.001 else f"{value * 1000:.0f} ms"
    return f"{value:.2f} s"


def usd(micro: float | None) -> str:
    """Micro-USD as USD, with two digits that count. Whole ones have none behind the sixth."""
    if micro is None:
        return "–"
    value = micro / 1e6
    digits = 2 if value <= 0 else max(2, 1 - floor(log10(value)))
    if micro == floor(micro):
        digits = min(digits, 6)
    return f"${value:.{digits}f}"


def permille(value: int | None) -> str:
    return "–" if value is None else f"{value / 10:.0f} %"
