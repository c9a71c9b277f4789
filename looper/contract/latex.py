"""Mathematics as models write it, in plain characters, as far as it is about numbers."""

import re

from looper.contract.extraction import plain_characters

# Each rewrites one notation; quantifiers are bounded, so that each is one pass.
_NUMBER = r"[+-]?\s?\d[\d,.]{0,40}"
_BRACED = rf"\s?(?:\{{\s?({_NUMBER})\s?\}}|(\d))"
_FRACTION = re.compile(rf"(\d?)\s?\\[dtc]?frac{_BRACED}{_BRACED}")
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\[$%&#]"), lambda found: found[0][1]),  # type: ignore[assignment]
    (re.compile(r"\{([,.])\}"), r"\1"),
    (re.compile(r"\\[,;:!>]|\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])"), ""),
    (re.compile(r"\\[()\[\] ]|~"), " "),
    (re.compile(r"\^\s?\{?\s?(?:\\circ(?![A-Za-z])|°)\s?\}?|\\degree(?![A-Za-z])|°"), " "),
    (
        re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|operatorname|boxed|fbox)\s?\{([^{}]{0,200})\}"),
        r" \1 ",
    ),
)
