"""From scores and outcomes to calibration knots that never fall: pool adjacent violators."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from looper.voting.calibration import Calibration

_BINS = 40
_PER_BIN = 10
_DIGITS = 6


def calibrate(scored: Sequence[tuple[float, bool]]) -> Calibration | None:
    """What scores are worth, from pairs of a score and whether the answer was right; None without any."""
    if not scored:
        return None
    bins = _bins(sorted(scored))
    return Calibration(knots=_knots(_pooled(bins)))


class _Bin:
    """Neighbouring scores: their mean, how many there are, and how many of them were right."""

    def __init__(self, scored: Sequence[tuple[float, bool]]) -> None:
        self.total = sum(score for score, _ in scored)
        self.count = len(scored)
        self.right = sum(right for _, right in scored)

    @property
    def score(self) -> float:
        return self.total / self.count

    @property
    def probability(self) -> float:
        """With one right and one wrong answer more, as a few answers show nothing for certain."""
        return (self.right + 1) / (self.count + 2)

    def join(self, other: "_Bin") -> None:
        self.total += other.total
        self.count += other.count
        self.right += other.right


def _bins(scored: Sequence[tuple[float, bool]]) -> list[_Bin]:
    """Bins of about the same size. Equal scores are in one."""
    size = max(_PER_BIN, -(-len(scored) // _BINS))
    bins: list[list[tuple[float, bool]]] = [[]]
    for _, equal in groupby(scored, key=lambda each: round(each[0], _DIGITS)):
        if len(bins[-1]) >= size:
            bins.append([])
        bins[-1] += equal
    if len(bins) > 1 and len(bins[-1]) < size // 2:
        rest = bins.pop()
        bins[-1] += rest
    return [_Bin(each) for each in bins]


def _pooled(bins: Iterable[_Bin]) -> list[_Bin]:
    """Bins joined where a probability would fall."""
    rising: list[_Bin] = []
    for each in bins:
        rising.append(each)
        while len(rising) > 1 and rising[-1].probability <= rising[-2].probability:
            last = rising.pop()
            rising[-1].join(last)
    return rising


def _knots(rising: Sequence[_Bin]) -> tuple[tuple[float, float], ...]:
    knots: dict[float, float] = {}
    for each in rising:
        knots[round(each.score, _DIGITS)] = round(each.probability, _DIGITS)
    return tuple(knots.items())
