"""Runs that wait for the client's tools: their ids, where they wait, sealed, and who goes on with them.

A store of another kind is a file here and a line in `state.AnyState`. May import what patterns may, and nothing of the
workflows that wait.
"""
