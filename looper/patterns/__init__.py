"""How a team of models answers: one file or folder for each pattern.

A pattern knows a run and no other pattern; what several share is in `closing`. May import `run`, `voting` and below. To
add one: its configuration and its code here, a line in the union of `looper/algorithms.py`, a section in the README, a
test; the contract tests find it by the union.
"""
