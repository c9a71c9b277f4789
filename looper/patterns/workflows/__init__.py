"""Workflows: a plan of steps, whose agents may use the client's tools, under bounds."""

from looper.patterns.workflows.run import Workflows, WorkflowsConfig

__all__ = ["Workflows", "WorkflowsConfig"]
