"""Reasoning that models write into their answers, between tags of their own."""

OPEN, CLOSE = "<think>", "</think>"


def without_thoughts(text: str) -> str:
    """What is left of an answer without its thoughts; one that never ends takes the rest of the text with it."""
    if OPEN not in text:
        # Some templates open the thought in the prompt, so that the answer only closes it.
        return text.rpartition(CLOSE)[2] if CLOSE in text else text
    kept = []
    while (at := text.find(OPEN)) >= 0:
        kept.append(text[:at])
        end = text.find(CLOSE, at)
        text = text[end + len(CLOSE) :] if end >= 0 else ""
    return "".join([*kept, text])
