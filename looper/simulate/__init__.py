"""Simulated backends, which behave and misbehave as real ones do: the demo's models and the tests' fixture.

Imports nothing of `looper`, so that it cannot share its mistakes. README.md says what it can be told to do. To add a
fault: a class in `faults`, a line in its union, what it does in `misbehaviour`; the matrix of tests finds it there.
"""
