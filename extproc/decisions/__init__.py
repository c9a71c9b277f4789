"""Decisions: from readings to what is done with a request.

Pure: signals are read before. May import `signals` and below. README.md says how a decision is found.
"""
