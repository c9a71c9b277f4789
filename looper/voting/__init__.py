"""From what a team's members said to one answer, and how sure of it one may be. Pure functions, no I/O.

A ballot (`ballots`) is weighed (`weights`, `electorate`), counted (`posterior`) and perhaps settled early (`stopping`);
`votes` makes ballots of results, `scoring` and `calibration` say how sure a model was. May import `calling` and below.
"""

from looper.voting.ballots import UNKNOWN, Ballot, Features, Group, Same, group
from looper.voting.electorate import UNKNOWN_VOTER, Electorate, Voter, rated
from looper.voting.medoid import medoid, similarity
from looper.voting.posterior import Verdict, decide
from looper.voting.stopping import Outstanding, majority_certainty, settled
from looper.voting.weights import (
    Advice,
    Length,
    MemberWeights,
    Method,
    Provenance,
    TeamWeights,
    Weights,
    WeightsError,
    read_weights,
)

__all__ = [
    "UNKNOWN",
    "UNKNOWN_VOTER",
    "Advice",
    "Ballot",
    "Electorate",
    "Features",
    "Group",
    "Length",
    "MemberWeights",
    "Method",
    "Outstanding",
    "Provenance",
    "Same",
    "TeamWeights",
    "Verdict",
    "Voter",
    "Weights",
    "WeightsError",
    "decide",
    "group",
    "majority_certainty",
    "medoid",
    "rated",
    "read_weights",
    "settled",
    "similarity",
]
