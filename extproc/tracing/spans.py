"""Spans by OpenTelemetry's SDK: of exchanges, and what happened in them.

An exchange and its signals have a span while they go on. Stages and calls get theirs when the exchange is over, from
what its run has noted anyway: so teams know nothing of spans, and nothing is made of what nobody collects.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from extproc.config.tracing import TracingSettings
from extproc.signals.base import Reading
from extproc.tracing import Told, names
from extproc.tracing.sending import Sending, exporter_to
from looper.calling.models import Model
from looper.calling.propagation import read_traceparent
from looper.calling.trace import CallRecord, Trace
from looper.run import Run

_log = structlog.get_logger()

_LIMITS = SpanLimits(
    max_span_attributes=64,
    max_events=64,
    max_links=8,
    max_event_attributes=16,
    max_link_attributes=4,
    max_attribute_length=256,
    max_span_attribute_length=256,
)

_PRODUCT = "envoy-looper"
_VERSION = version(_PRODUCT)

_FAILED = ("failed", "timed_out", "unusable")
"""How calls end that somebody waited for, in vain."""

_BROKEN = 500
"""The status from which on an error is the server's."""

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

_W3C = TraceContextTextMapPropagator()

Attributes = dict[str, AttributeValue]


def tracer_to(settings: TracingSettings, headers: Mapping[str, str]) -> "SpanTracer":
    """A tracer that sends its spans where the settings say. Raises OSError for a file that cannot be read."""
    sending = Sending(exporter_to(settings.otlp, headers), settings.queue)
    return SpanTracer(settings, sending)


class SpanTracer:
    """Makes the spans of a process."""

    def __init__(self, settings: TracingSettings, sending: Sending) -> None:
        self._sending = sending
        self._flush = settings.flush.total_seconds()
        self._ids = _Ids()
        provider = TracerProvider(
            # Whoever began a trace has decided whether it is kept.
            sampler=ParentBased(TraceIdRatioBased(settings.sample)),
            resource=Resource.create(
                {"service.name": settings.service, "service.version": _VERSION}
            ),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=_LIMITS,
        )
        provider.add_span_processor(sending)
        self._tracer = provider.get_tracer(_PRODUCT, _VERSION)

    def begin(self, headers: Mapping[str, str]) -> "ExchangeSpan":
        return ExchangeSpan(_Making(self._tracer, self._ids), headers)

    @property
    def sent(self) -> int:
        return self._sending.sent

    @property
    def dropped(self) -> Mapping[str, int]:
        return self._sending.dropped

    def close(self) -> None:
        """Send what waits, within the time that is set for that."""
        self._sending.close(self._flush)


class _Ids(IdGenerator):
    """Random ids; but a call's span has the one that was sent with the call."""

    def __init__(self) -> None:
        self._random = RandomIdGenerator()
        self.next: int | None = None

    def generate_span_id(self) -> int:
        given, self.next = self.next, None
        return self._random.generate_span_id() if given is None else given

    def generate_trace_id(self) -> int:
        return self._random.generate_trace_id()


class _Making:
    """Makes the spans of one exchange, whose times are told on the monotonic clock."""

    def __init__(self, tracer: OtelTracer, ids: _Ids) -> None:
        self._tracer = tracer
        self._ids = ids
        self.began = time.monotonic()
        self._wall = time.time_ns()

    def at(self, moment: float) -> int:
        """A moment in nanoseconds since the epoch."""
        return self._wall + int((moment - self.began) * 1e9)

    def now(self) -> int:
        return self.at(time.monotonic())

    def span(
        self,
        name: str,
        context: Context,
        began: float,
        attributes: Mapping[str, AttributeValue] | None = None,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        id: str | None = None,
    ) -> Span:
        self._ids.next = None if id is None else int(id, 16)
        return self._tracer.start_span(
            name, context, kind=kind, attributes=attributes, start_time=self.at(began)
        )


class ExchangeSpan:
    """One exchange, and all that belongs to it."""

    def __init__(self, making: _Making, headers: Mapping[str, str]) -> None:
        self._making = making
        parent = _context(headers)
        self._span = making.span("exchange", parent, making.began, kind=SpanKind.SERVER)
        self._inside = set_span_in_context(self._span, Context())
        self.context = _headers(self._span)
        self.is_recording = self._span.is_recording()

    @contextmanager
    def signals(self, models: Mapping[str, Model]) -> Iterator["SignalsSpan"]:
        signals = SignalsSpan(self._making, self._inside, models)
        try:
            yield signals
        finally:
            signals.end()

    def end(self, told: Told) -> None:
        try:
            self._tell(told)
        except Exception:  # a mistake of ours here is no reason for a request to fail
            _log.exception("spans.crashed")

    def _tell(self, told: Told) -> None:
        span = self._span
        span.update_name(_name(told))
        span.set_attributes(_of_exchange(told))
        if told.run is not None:
            self._tell_run(told.run, stream=told.stream)
        elif told.stream and told.first is not None:
            span.set_attribute(names.FIRST_CHUNK, round(told.first - self._making.began, 6))
        if told.resumes is not None:
            link = get_current_span(_context({"traceparent": told.resumes})).get_span_context()
            span.add_link(link, {"looper.link": "resumes"})
        if (why := _what_broke(told)) is not None:
            span.set_attribute(names.ERROR_TYPE, why)
            span.set_status(Status(StatusCode.ERROR, why))
        span.end(self._making.now())

    def _tell_run(self, run: Run, *, stream: bool) -> None:
        trace, making = run.trace, self._making
        if stream and trace.first_word is not None:
            first = trace.began + trace.first_word - making.began
            self._span.set_attribute(names.FIRST_CHUNK, round(first, 6))
        if trace.notes:
            self._span.set_attribute("looper.notes", trace.notes[:16])
        for check in trace.checks:
            self._tell_check(check, making.at(trace.began + check["at"]))
        stages = [_Stage(name, at) for name, at in trace.stages]
        for record in trace.calls:
            _stage_of(record, stages).calls.append(record)
        for stage, after in zip(stages, [*stages[1:], None], strict=True):
            self._tell_stage(stage, after, run)

    def _tell_check(self, check: Mapping[str, AttributeValue | None], at: int) -> None:
        """Whether what was said was sure enough: what escalations hang on."""
        said = {name: value for name, value in check.items() if value is not None and name != "at"}
        self._span.add_event(
            "looper.check", {f"looper.{name}": value for name, value in said.items()}, at
        )

    def _tell_stage(self, stage: "_Stage", after: "_Stage | None", run: Run) -> None:
        making, began = self._making, run.trace.began
        span = making.span(
            f"stage {stage.name}", self._inside, began + stage.at, {"looper.stage": stage.name}
        )
        inside = set_span_in_context(span, Context())
        for record in stage.calls:
            _tell_call(making, inside, run, record)
        span.end(making.at(began + stage.end(after, run.trace)))


class SignalsSpan:
    """The signals of one exchange."""

    def __init__(self, making: _Making, inside: Context, models: Mapping[str, Model]) -> None:
        self._making = making
        self._span = making.span("signals", inside, time.monotonic())
        self._inside = set_span_in_context(self._span, Context())
        self._runs: list[Run] = []
        self.context = _headers(self._span)

    def asked(self, run: Run) -> None:
        self._runs.append(run)

    def read(self, readings: Mapping[str, Reading], names: tuple[str, ...]) -> None:
        self._span.set_attributes(
            {
                "looper.signals.matched": [name for name in names if _matches(readings, name)],
                "looper.signals.unread": [name for name in names if name not in readings],
            }
        )

    def end(self) -> None:
        for run in self._runs:
            for record in run.trace.calls:
                _tell_call(self._making, self._inside, run, record)
        self._span.end(self._making.now())


def _matches(readings: Mapping[str, Reading], name: str) -> bool:
    return name in readings and readings[name].match


class _Stage:
    """A stage of a run, and its calls."""

    def __init__(self, name: str, at: float) -> None:
        self.name = name
        self.at = at
        self.calls: list[CallRecord] = []

    def end(self, after: "_Stage | None", trace: Trace) -> float:
        """When the last of its calls was over. One without calls goes on until the next begins, or the run is over."""
        ends = [record.ended for record in self.calls if record.ended is not None]
        if ends:
            return max(ends)
        return trace.elapsed if after is None else after.at


def _stage_of(record: CallRecord, stages: list[_Stage]) -> _Stage:
    """The stage of a call: of several that go on at once the one of its agent, or else the last that had begun."""
    if not stages:
        stages.append(_Stage("calls", record.started))
    begun = [stage for stage in stages if stage.at <= record.started] or stages[:1]
    step = (record.agent or "").partition(".")[0]
    return next((stage for stage in reversed(begun) if stage.name == step), begun[-1])


def _tell_call(making: _Making, inside: Context, run: Run, record: CallRecord) -> None:
    """The span of a call. Its id is the one that Envoy, and the model's server, were told."""
    began = run.trace.began
    model = run.models.get(record.model)
    span = making.span(
        f"{names.CHAT if model is not None else record.role} {record.model}",
        inside,
        began + record.started,
        {**_of_model(model), **_of_call(record)},
        kind=SpanKind.CLIENT,
        id=record.span,
    )
    if record.first_token is not None:
        span.add_event("first_token", timestamp=making.at(began + record.first_token))
    if record.state in _FAILED:
        why = names.TIMEOUT if record.state == "timed_out" else record.reason or record.state
        span.set_attribute(names.ERROR_TYPE, why)
        span.set_status(Status(StatusCode.ERROR, record.reason or why))
    ended = making.now() if record.ended is None else making.at(began + record.ended)
    span.end(ended)


def _of_model(model: Model | None) -> Attributes:
    """What a call's span says of whom it asks; nothing of a verifier, which is no model."""
    if model is None:
        return {}
    return {
        names.OPERATION: names.CHAT,
        names.PROVIDER: names.provider(model),
        names.REQUEST_MODEL: model.upstream,
    }


def _of_call(record: CallRecord) -> Attributes:
    """What is known of a call, and was not said in it."""
    usage, first = record.usage, record.first_token
    facts: dict[str, AttributeValue | None] = {
        names.INPUT_TOKENS: None if usage is None else usage.prompt_tokens,
        names.OUTPUT_TOKENS: None if usage is None else usage.completion_tokens,
        names.FIRST_CHUNK: None if first is None else round(first - record.started, 6),
        names.REQUEST_STREAM: None if first is None else True,
        names.STATUS: record.status,
        "looper.model": record.model,
        "looper.role": record.role,
        "looper.call": record.number,
        "looper.state": record.state,
        "looper.reason": record.reason,
        "looper.stands_in": record.stands_in,
        "looper.agent": record.agent,
        "looper.queued": round(record.queued, 4) or None,
        "looper.score": record.score,
        "looper.verdict": record.verdict,
        "looper.cost_microusd": None if record.cost is None else float(record.cost),
        "looper.estimated": bool(usage and usage.estimated) or None,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _of_exchange(told: Told) -> Attributes:
    """What is known of an exchange: the facts that its log line has, and whose they are."""
    facts: Attributes = {f"looper.{name}": value for name, value in told.facts.items()}
    facts["looper.end"] = told.end
    facts["looper.path"] = told.path
    if told.method in _METHODS:
        facts[names.METHOD] = told.method
    if told.model is not None:
        facts[names.REQUEST_MODEL] = told.model
        facts[names.REQUEST_STREAM] = told.stream
    if (operation := names.OPERATIONS.get(told.path)) is not None:
        facts[names.OPERATION] = operation
    if (status := _status(told)) is not None:
        facts[names.STATUS] = status
    if told.run is None:
        facts |= _usage(told)
    return facts


def _usage(told: Told) -> Attributes:
    """The tokens of a routed request, which no span of a call tells of."""
    said = {names.INPUT_TOKENS: "prompt_tokens", names.OUTPUT_TOKENS: "completion_tokens"}
    return {name: told.facts[fact] for name, fact in said.items() if fact in told.facts}


def _name(told: Told) -> str:
    operation = names.OPERATIONS.get(told.path)
    if operation is not None and told.model is not None:
        return f"{operation} {told.model}"
    return f"{told.method if told.method in _METHODS else '_OTHER'} {told.path}"


def _what_broke(told: Told) -> str | None:
    """Why an exchange has failed, if that is nobody's doing but ours and the models'."""
    if told.end == "aborted":
        return "aborted"
    status = _status(told)
    if status is not None and status >= _BROKEN:
        return str(told.facts.get("code", status))
    return None


def _status(told: Told) -> int | None:
    """What the client was answered with, where that is known: our own status, or a metered backend's."""
    status = told.facts.get("status", told.answered)
    return status if isinstance(status, int) else None


def _context(headers: Mapping[str, str]) -> Context:
    """The span that headers name; none if they name none as W3C has it."""
    traced = read_traceparent(headers.get("traceparent", ""))
    if traced is None:
        return Context()
    return _W3C.extract({**_state(headers), "traceparent": traced}, Context())


def _state(headers: Mapping[str, str]) -> Mapping[str, str]:
    return {"tracestate": headers["tracestate"]} if "tracestate" in headers else {}


def _headers(span: Span) -> Mapping[str, str]:
    context = span.get_span_context()
    if not context.is_valid:
        return {}
    ids = f"{format_trace_id(context.trace_id)}-{format_span_id(context.span_id)}"
    told = {"traceparent": f"00-{ids}-{context.trace_flags:02x}"}
    state = context.trace_state.to_header() if context.trace_state else ""
    return {**told, "tracestate": state} if state else told
