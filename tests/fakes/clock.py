"""Tests of minutes that take moments, and always the same course."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

from looper.evaluate import virtual

P = ParamSpec("P")


def timeless(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test in time that passes only while everything waits."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        virtual.run(test(*args, **kwargs))

    return run
