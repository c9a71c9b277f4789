"""In which way a team's weights are found: by how often each would have been right, on questions held out."""

from collections.abc import Mapping
from math import sqrt

import numpy as np

from looper.evaluate.fitting.logit import Flags
from looper.evaluate.fitting.team import FOLDS, HeldOut, Way, fold_of

_USUAL: Way = "ratings"
_ALONE: Way = "one member"


def chosen(held: Mapping[Way, HeldOut]) -> Way:
    """The way that is right most often; of equals the ratings, which need no fit.

    One member alone only where it is ahead by more than a standard error: with few questions it often seems to be.
    """
    together = [_USUAL, *(way for way in held if way not in (_USUAL, _ALONE))]
    best = max(together, key=lambda way: int(held[way].right.sum()))
    lead = held[_ALONE].right.astype(float) - held[best].right
    return _ALONE if lead.mean() > lead.std() / sqrt(len(lead)) else best


def promised(held: Mapping[Way, HeldOut]) -> Flags:
    """Which questions are decided rightly by the way that is chosen on the other folds.

    What the best of several comes to on the very questions that it was chosen on is more than it keeps.
    """
    folds = fold_of(len(held[_USUAL].right))
    right = np.zeros(len(folds), dtype=bool)
    for fold in range(FOLDS):
        inside = folds == fold
        way = chosen({each: found.only(~inside) for each, found in held.items()})
        right[inside] = held[way].right[inside]
    return right
