"""The one model that a request is routed to, if it is one: what a decision comes to for this very request."""

from collections.abc import Iterable, Mapping

from extproc.decisions.recipe import Decision
from looper.calling.calls import CallFailed, Failure
from looper.calling.failures import why_no_answer
from looper.calling.models import Model
from looper.patterns.single import SingleConfig
from looper.wire.chat import ChatRequest

_MOST_TOKENS_PER_BYTE = 0.5
"""Of all texts, emoji have the most: two in four bytes."""


def destination(
    decision: Decision, request: ChatRequest, models: Mapping[str, Model]
) -> Model | None:
    """The model that Envoy routes a request to; None if no model answers, or a team, or one with others behind it.

    Raises the client's error if those that it may be routed to cannot take it.
    """
    if decision.tools is not None and decision.bypasses(request):
        return _first_that_takes(request, [decision.tools.bypass], models)
    match decision.algorithm:
        case SingleConfig() as single if decision.is_routed:
            return _first_that_takes(request, single.ranked(request), models)
        case _:
            return None


def takes(request: ChatRequest, model: Model) -> bool:
    """Whether a model can take a request, as far as is known."""
    return _lacks(request, model) is None


def _first_that_takes(
    request: ChatRequest, names: Iterable[str], models: Mapping[str, Model]
) -> Model:
    failures: list[CallFailed] = []
    for name in names:
        if (lacks := _lacks(request, models[name])) is None:
            return models[name]
        failures.append(CallFailed(Failure.UNSUITABLE, reason=lacks, attempts=0))
    raise why_no_answer(failures)


def _lacks(request: ChatRequest, model: Model) -> str | None:
    if model.capabilities is None and model.context_window is None:
        return None
    return model.lacks(request.needs, _length(request, model))


def _length(request: ChatRequest, model: Model) -> int:
    """The request's tokens, estimated only if they might be too many for the model."""
    window = model.context_window
    most = len(request.body) * _MOST_TOKENS_PER_BYTE
    if window is None or ("vision" not in request.needs and most < window // 2):
        return 0
    return request.prompt_tokens
