"""A request that Envoy routes to one model, what comes back of it if its answer is metered, and its record."""

import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from extproc.decisions.explain import Explanation
from extproc.decisions.recipe import Decision
from extproc.exchange.metering import AnswerMeter
from extproc.exchange.routing import rewrite
from extproc.process.records import Routed as Record
from extproc.process.records import asked_of_one, conversation
from extproc.process.runtime import Runtime
from extproc.protocol.actions import Metadata, PassResponseBody, Rewrite
from extproc.protocol.events import ResponseBody, ResponseHeaders
from looper.calling.budget import Amount
from looper.calling.models import Model
from looper.wire.chat import ChatRequest, Request

Why = Callable[[], Explanation]
"""Tells how it was decided."""

_OUTCOMES = {
    "abandoned": "abandoned",
    "stopped": "abandoned",
    "aborted": "failed",
    "refused": "failed",
}
"""By how an exchange ended that did not end well."""


class Routed:
    """One request on its way to one model."""

    def __init__(
        self,
        runtime: Runtime,
        request: Request,
        model: Model,
        *,
        metered: bool,
        why: Why | None = None,
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._model = model
        self._meter = AnswerMeter(request, model) if metered else None
        self._at = time.time()
        self._sent = time.monotonic()
        self.answered: int | None = None
        """The status of a metered answer."""
        self.spoke: float | None = None
        """When its body began."""
        self._said: Mapping[str, Any] = conversation(request) if runtime.runs.full else {}
        self._why = why() if runtime.runs.full and why is not None else None

    def rewrite(self, decision: Decision, metadata: Metadata, *, trailers: bool) -> Rewrite:
        """What Envoy is told, so that the request reaches its model."""
        changes = self._meter.request_changes if self._meter is not None else {}
        return rewrite(self._request, self._model, decision, metadata, changes, trailers=trailers)

    def begin(self, answer: ResponseHeaders) -> None:
        """The answer's headers have come."""
        if self._meter is not None:
            self.answered = answer.status
            self._meter.begin(answer.headers)

    def piece(self, piece: ResponseBody) -> PassResponseBody:
        """What becomes of a piece of the answer, and what is known by then of its usage."""
        if self._meter is None:
            return PassResponseBody()
        if self.spoke is None and piece.data:
            self.spoke = time.monotonic()
        data = self._meter.feed(piece.data, piece.end_of_stream)
        report = self._meter.report()
        reported = "prompt_tokens" in report and "estimated_tokens" not in report
        if isinstance(self._request, ChatRequest) and reported:
            self._runtime.learn(self._request, [int(report["prompt_tokens"])])
        return PassResponseBody(None if data == piece.data else data, report)

    def remember(self, facts: Metadata, trail: Mapping[str, str], end: str, began: float) -> None:
        """The exchange is over: keep what is known of it. `began` is when, by the clock that times are taken from."""
        runs = self._runtime.runs
        if not runs.wants_routed():
            return
        request = asked_of_one(self._request)
        metered = self._meter is not None
        routing = self._sent - began
        refused = self._status >= 400  # what its body says is no word of an answer
        first_token = None if self.spoke is None or refused else self.spoke - self._sent
        runs.add(
            Record(
                facts if end == "answered" and not refused else self._failed(facts, end),
                trail,
                request,
                self._at - routing,
                routing,
                time.monotonic() - began if metered else None,
                first_token if request["stream"] else None,
                self._why,
                self._said,
            )
        )

    @property
    def _status(self) -> int:
        """Where it does not pass by, it is taken for a good one."""
        return self.answered or 200

    def _failed(self, facts: Metadata, end: str) -> Metadata:
        """What a backend answers instead, and how it ended for the client. Where it does not pass by, nobody knows."""
        outcome = _OUTCOMES.get(end, "failed")
        status = {"status": self._status} if self._status >= 400 else {}
        return {**status, **facts, "outcome": outcome}


def used(facts: Metadata) -> Amount:
    """What a routed request took beside its call, as far as it is known."""
    tokens = sum(int(facts.get(name, 0)) for name in ("prompt_tokens", "completion_tokens"))
    return Amount(0, tokens, Decimal(facts.get("cost_microusd", 0)))
