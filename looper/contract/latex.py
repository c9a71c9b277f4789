"""Mathematics as models write it, in plain characters, as far as it is about numbers."""

import re

from looper.contract.extraction import plain_characters

# Quantifiers are bounded, so that each rewriting is one pass.
_BRACED = r"\s?(?:\{\s?([+-]?\d[\d,.]{0,40})\s?\}|(\d))"
_FRACTION = re.compile(rf"(\d?)\s?\\[dtc]?frac{_BRACED}{_BRACED}")
_POWER = r"10\s?\^\s?(?:\{\s?([+-]?\d{1,4})\s?\}|([+-]?\d{1,4}))"
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|boxed|fbox)\s?\{([^{}]{0,200})\}"
)
_REWRITINGS = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\([$%&#])", r"\1"),
        (r"\{([,.])\}", r"\1"),
        (r"\\[,;:!>]|\\(?:left|right|displaystyle)(?![A-Za-z])", ""),
        (r"\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])|°", " "),
        (r"\\(?:approx|implies|Rightarrow|rightarrow|to|therefore)(?![A-Za-z])", " = "),
        (r"\\(?:quad|qquad)(?![A-Za-z])|\\[()\[\] ]|[~$€£¥]", " "),
        (_WRAPPED.pattern, r" \1 "),
        (_WRAPPED.pattern, r" \1 "),  # once more for what was inside
        (rf"(\d)\s?(?:\\times|\\cdot|×|·|\*)\s?{_POWER}", r"\1e\2\3"),
        (rf"(?<![\w.^*×·]){_POWER}", r"1e\1\2"),
    )
)


def plain_math(text: str) -> str:
    """Fractions as `3/4`, powers of ten as `1e5`, and no spacing, delimiters, currencies or text commands."""
    plain = plain_characters(text)
    for pattern, replacement in _REWRITINGS:
        plain = pattern.sub(replacement, plain)
    return _FRACTION.sub(_fraction, plain)


def _fraction(found: re.Match[str]) -> str:
    whole, above, a, below, b = found.groups(default="")
    # A digit before a fraction makes it a mixed number.
    return f"{whole}{' ' * bool(whole)}{above or a}/{below or b}"
