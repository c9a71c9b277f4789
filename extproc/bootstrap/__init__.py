"""Envoy's side of a configuration: the files that make Envoy route, call and count as the config says.

The one room that knows Envoy's complete API, the extra `envoy`. May import `process` and below; no request needs it.
"""

from extproc.bootstrap.files import left_out, render, write
from extproc.bootstrap.fragments import FRAGMENTS, fragment
from extproc.bootstrap.watch import Follower, watch

__all__ = ["FRAGMENTS", "Follower", "fragment", "left_out", "render", "watch", "write"]
