"""A request that Envoy routes to one model, and what comes back of it if its answer is metered."""

from extproc.decisions.recipe import Decision
from extproc.exchange.metering import AnswerMeter
from extproc.exchange.routing import rewrite
from extproc.process.runtime import Runtime
from extproc.protocol.actions import Metadata, PassResponseBody, Rewrite
from extproc.protocol.events import ResponseBody, ResponseHeaders
from looper.calling.models import Model
from looper.wire.chat import ChatRequest, Request


class Routed:
    """One request on its way to one model."""

    def __init__(self, runtime: Runtime, request: Request, model: Model, *, metered: bool) -> None:
        self._runtime = runtime
        self._request = request
        self._model = model
        self._meter = AnswerMeter(request, model) if metered else None

    def rewrite(self, decision: Decision, metadata: Metadata, *, trailers: bool) -> Rewrite:
        """What Envoy is told, so that the request reaches its model."""
        changes = self._meter.request_changes if self._meter is not None else {}
        return rewrite(self._request, self._model, decision, metadata, changes, trailers=trailers)

    def begin(self, answer: ResponseHeaders) -> None:
        """The answer's headers have come."""
        if self._meter is not None:
            self._meter.begin(answer.headers)

    def piece(self, piece: ResponseBody) -> PassResponseBody:
        """What becomes of a piece of the answer, and what is known by then of its usage."""
        if self._meter is None:
            return PassResponseBody()
        data = self._meter.feed(piece.data, piece.end_of_stream)
        report = self._meter.report()
        reported = "prompt_tokens" in report and "estimated_tokens" not in report
        if isinstance(self._request, ChatRequest) and reported:
            self._runtime.learn(self._request, [int(report["prompt_tokens"])])
        return PassResponseBody(None if data == piece.data else data, report)
