"""What the tour of `looper up` calls right."""

from dataclasses import replace

import pytest

from extproc.cli.up.tour import STOPS, Seen, Stop, judged

CAPITAL, SEARCH, PERCENT = STOPS


def seen(text: str, stop: Stop, status: int = 200, code: str | None = None) -> Seen:
    return Seen(status, code, stop.decision, "single", text, 0.1, None)


@pytest.mark.parametrize(
    ("stop", "text", "right"),
    [
        (CAPITAL, "The capital is **Ottawa**.", True),
        (CAPITAL, "Toronto, of course.", False),
        (SEARCH, "It is O(log n).", True),
        (SEARCH, r"Therefore $O(\log n)$.", True),
        (SEARCH, r"$\mathcal{O}(\log_2 n)$", True),
        (SEARCH, r"\(O(\log_2 n)\)", True),
        (SEARCH, "O(n log n)", False),
        (SEARCH, "O(n)", False),
        (PERCENT, "15 % of 240 is 36.", True),
        (PERCENT, "= 36.0", True),
        (PERCENT, "= 36.5", False),
        (PERCENT, "= 136", False),
        (PERCENT, "= 360", False),
        (PERCENT, "= 0.36", False),
    ],
)
def test_an_answer_is_right_only_if_it_says_so(stop: Stop, text: str, right: bool) -> None:
    """What models of somebody else answer is none of our failures, and called right only if it is."""
    assert judged(stop, seen(text, stop), known=True).good == right
    theirs = judged(stop, seen(text, stop), known=False)
    assert (theirs.words == "right", theirs.good) == (right, True)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (502, "upstream_failed", "wrong (502 upstream_failed)"),
        (401, "invalid_api_key", "wrong (401 invalid_api_key)"),
        (503, None, "wrong (503 without a code)"),
        (200, "deadline_exceeded", "wrong (200 deadline_exceeded)"),
    ],
)
def test_a_failure_is_named_by_its_code(
    known: bool, status: int, code: str | None, words: str
) -> None:
    """Also one in a stream that had begun."""
    verdict = judged(CAPITAL, seen("Ottawa", CAPITAL, status, code), known=known)
    assert (verdict.words, verdict.good) == (words, False)


def test_nothing_is_no_answer() -> None:
    assert not judged(CAPITAL, seen("", CAPITAL), known=False).good


def test_the_demo_knows_which_decision_it_has_to_be() -> None:
    told = replace(seen("Ottawa", CAPITAL), decision="panel")
    assert not judged(CAPITAL, told, known=True).good
    assert judged(CAPITAL, told, known=False).words == "right"
