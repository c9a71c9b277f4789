"""What spans an exchange leaves: whose they are, what they say, and what they never say."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from structlog.testing import capture_logs

from extproc.config import parse_config
from extproc.config.tracing import TracingSettings
from extproc.process.process import Process
from extproc.process.runtime import Runtime, build
from extproc.protocol.actions import Rewrite
from extproc.protocol.events import Event, ResponseHeaders
from extproc.tracing.sending import Sending
from extproc.tracing.spans import SpanTracer
from looper.calling.calls import CallFailed, Failure
from looper.calling.propagation import read_traceparent
from tests.fakes.channel import body, exchange_of, exchanged, opening
from tests.fakes.clock import timeless
from tests.fakes.models import (
    After,
    Hang,
    ScriptedClient,
    Step,
    Stream,
    chunk,
    completion,
    in_turn,
    last_chunk,
)
from tests.unit.extproc.exchange.test_exchange import CONFIG, SCRIPT, TRACEPARENT, chat, loop
from tests.unit.extproc.exchange.test_exchange_response import CHUNK, LAST, SSE, metered, pieces
from tests.unit.extproc.exchange.test_paused_exchange import CALLING, OURS, READ

TRACE, PARENT = TRACEPARENT.split("-")[1:3]
SECRET = "xyzzy-what-was-said"


class Traced:
    """A runtime whose spans are kept, and what it left."""

    def __init__(
        self, script: Mapping[str, Step], config: str = CONFIG, sample: float = 1.0
    ) -> None:
        otlp = {"endpoint": "http://127.0.0.1:4317"}
        settings = TracingSettings.model_validate({"otlp": otlp, "sample": sample})
        self._exporter = InMemorySpanExporter()
        self.tracer = SpanTracer(settings, Sending(self._exporter, 10_000))
        written = f"tracing: {{otlp: {{endpoint: '{otlp['endpoint']}'}}}}\n{config}"
        parsed = parse_config(written, "test.yaml")
        process = Process.of(parsed, tracer=self.tracer)
        self.client = ScriptedClient(script)
        self.runtime: Runtime = build(parsed, self.client, process)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """All that was made; nothing can be made after that."""
        self.tracer.close()
        return self._exporter.get_finished_spans()


def named(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    return sorted(
        (span for span in spans if span.name == name), key=lambda span: span.start_time or 0
    )


def one(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    (span,) = named(spans, name)
    return span


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_span_id(span.context.span_id)


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format_trace_id(span.context.trace_id)


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format_span_id(span.parent.span_id)


def said(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


async def test_a_team_leaves_its_whole_course() -> None:
    """Exchange, signals, stages and calls, each below what it belongs to; a call has the id that was sent with it."""
    traced = Traced(SCRIPT)
    await exchanged(
        traced.runtime,
        opening(headers={"traceparent": TRACEPARENT, "tracestate": "v=1"}),
        loop(),
    )
    spans = traced.spans
    assert {trace_of(span) for span in spans} == {TRACE}
    exchange = one(spans, "chat looper/auto")
    assert (parent_of(exchange), exchange.kind) == (PARENT, SpanKind.SERVER)
    below = {"signals", "stage panel", "stage judge", "stage final"}
    assert {span.name for span in spans if parent_of(span) == id_of(exchange)} == below
    calls = {
        stage: sorted(
            str(said(span)["looper.role"])
            for span in spans
            if parent_of(span) == id_of(one(spans, f"stage {stage}"))
        )
        for stage in ("panel", "judge", "final")
    }
    assert calls == {"panel": ["panel", "panel"], "judge": ["judge"], "final": ["final"]}
    sent = [asked.headers["traceparent"] for asked in traced.client.asked]
    assert sorted(sent) == sorted(
        f"00-{TRACE}-{id_of(span)}-01" for span in spans if span.kind is SpanKind.CLIENT
    )
    assert {asked.headers["tracestate"] for asked in traced.client.asked} == {"v=1"}


async def test_no_span_reaches_beyond_what_it_is_in() -> None:
    """Each lies within its parent, and none ends before it begins."""
    traced = Traced(SCRIPT)
    await exchanged(traced.runtime, opening(), loop(stream=True))
    spans = {id_of(span): span for span in traced.spans}
    for span in spans.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
        if (parent := spans.get(parent_of(span) or "")) is not None:
            assert (parent.start_time or 0) <= span.start_time
            assert span.end_time <= (parent.end_time or 0)


async def test_a_call_says_what_it_was_by_the_conventions() -> None:
    traced = Traced(SCRIPT)
    await exchanged(traced.runtime, opening(), loop())
    call = one(traced.spans, "chat small")
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "qwen3-8b",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "looper.model": "small",
        "looper.role": "panel",
        "looper.state": "ok",
    }.items() <= said(call).items()
    assert call.status.status_code is StatusCode.UNSET


@timeless
async def test_a_streamed_answer_says_when_it_began() -> None:
    """The exchange as the client saw it, the call as we did; both end when the answer has."""
    answer = Stream([chunk("one"), chunk(" two"), chunk(finish="stop"), last_chunk()], apart=1.0)
    traced = Traced({**SCRIPT, "large": in_turn('{"winner": 1, "agreement": 1}', answer)})
    await exchanged(traced.runtime, opening(), loop(stream=True))
    spans = traced.spans
    final = named(spans, "chat large")[-1]
    assert said(final)["gen_ai.request.stream"] is True
    assert [event.name for event in final.events] == ["first_token"]
    for span in (final, one(spans, "chat looper/auto")):
        assert said(span)["gen_ai.response.time_to_first_chunk"] >= 0


FAILING: Mapping[str, tuple[Step, str, str]] = {
    "status": (CallFailed(Failure.STATUS, status=503), "failed", "status"),
    "connect": (CallFailed(Failure.CONNECT), "failed", "connect"),
    "empty": (completion(""), "unusable", "unusable"),
    "hangs": (Hang(), "timed_out", "timeout"),
}


@timeless
@pytest.mark.parametrize("how", FAILING)
async def test_a_call_that_came_to_nothing_says_why(how: str) -> None:
    step, state, why = FAILING[how]
    traced = Traced({**SCRIPT, "other": step})
    await exchanged(traced.runtime, opening(), loop())
    call = one(traced.spans, "chat other")
    assert (said(call)["looper.state"], said(call)["error.type"]) == (state, why)
    assert call.status.status_code is StatusCode.ERROR
    assert call.status.description == ("time was up" if how == "hangs" else why)
    if how == "status":
        assert said(call)["http.response.status_code"] == 503


ROUND = """
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://small/v1"}
  - {name: other, url: "http://other/v1"}
  - {name: spare, url: "http://spare/v1"}
  - {name: large, url: "http://large/v1"}
recipes:
  auto:
    decisions:
      - name: panel
        algorithm:
          type: fusion
          analysis_models: [small, other]
          judge_model: large
          %s
entrypoints: {looper/auto: auto}
"""


@timeless
async def test_who_stands_in_for_another_is_named_so() -> None:
    """The call that failed, and that of the substitute."""
    config = ROUND % "substitutes: [spare]"
    script = {**SCRIPT, "other": CallFailed(Failure.STATUS, status=500), "spare": "instead"}
    traced = Traced(script, config)
    await exchanged(traced.runtime, opening(), loop())
    spans = traced.spans
    assert one(spans, "chat other").status.status_code is StatusCode.ERROR
    assert said(one(spans, "chat spare"))["looper.stands_in"] == "substitute"


@timeless
async def test_of_two_calls_for_one_place_the_slower_was_cancelled_and_says_so() -> None:
    """A hedge that wins: the first call is no error, but was left, and why."""
    config = ROUND % "hedge_after: 1s"
    script = {**SCRIPT, "other": in_turn(Hang(), "quick")}
    traced = Traced(script, config)
    await exchanged(traced.runtime, opening(), loop())
    left, hedge = named(traced.spans, "chat other")
    assert said(hedge)["looper.stands_in"] == "hedge"
    assert said(hedge)["looper.state"] == "ok"
    assert said(left)["looper.state"] == "cancelled"
    assert said(left)["looper.reason"] == "the other call was quicker"
    assert left.status.status_code is StatusCode.UNSET


@timeless
async def test_an_answer_that_fails_is_an_error_of_the_exchange() -> None:
    traced = Traced({name: CallFailed(Failure.STATUS, status=500) for name in SCRIPT})
    await exchanged(traced.runtime, opening(), loop())
    exchange = one(traced.spans, "chat looper/auto")
    assert exchange.status.status_code is StatusCode.ERROR
    assert said(exchange)["looper.outcome"] == "failed"
    assert said(exchange)["error.type"] == said(exchange)["looper.code"]
    assert said(exchange)["http.response.status_code"] >= 500


@timeless
async def test_a_client_that_leaves_ends_its_spans() -> None:
    """Nobody has failed then; the calls that were left are told of."""
    traced = Traced({**SCRIPT, "other": After(60, "late")})
    exchange, _ = exchange_of(traced.runtime, opening(), loop())
    async with asyncio.TaskGroup() as group:
        task = group.create_task(exchange.run())
        await asyncio.sleep(1)
        task.cancel()
    spans = traced.spans
    assert said(one(spans, "chat looper/auto"))["looper.end"] == "abandoned"
    assert one(spans, "chat looper/auto").status.status_code is StatusCode.UNSET
    assert said(one(spans, "chat other"))["looper.state"] == "cancelled"


@pytest.mark.parametrize("model", ["looper/plain", "open"])
async def test_a_routed_request_goes_on_in_the_trace(model: str) -> None:
    """One span of ours; the request that Envoy routes belongs to it, whatever the client's did."""
    traced = Traced({})
    sent = {"traceparent": "none", "tracestate": "stale=1"}
    channel = await exchanged(traced.runtime, opening(headers=sent), body(chat(model)))
    exchange = one(traced.spans, f"chat {model}")
    rewrite = channel.only(Rewrite)
    assert dict(rewrite.headers)["traceparent"] == f"00-{trace_of(exchange)}-{id_of(exchange)}-01"
    assert "tracestate" in rewrite.removed
    assert said(exchange)["looper.model"] in ("other", "open")


@pytest.mark.parametrize(
    ("traceparent", "sample", "flag", "kept"),
    [
        (None, 1.0, "01", True),
        (None, 0.0, "00", False),
        (f"00-{TRACE}-{PARENT}-00", 1.0, "00", False),
        (f"00-{TRACE}-{PARENT}-01", 0.0, "01", True),
        (f"00-{TRACE}-{PARENT}-03", 0.0, "03", True),
        ("00-0-0-01", 0.0, "00", False),
    ],
    ids=["begun", "not begun", "told not to", "told to", "told to by chance", "told nothing"],
)
async def test_who_begins_a_trace_decides_whether_it_is_kept(
    traceparent: str | None, sample: float, flag: str, kept: bool
) -> None:
    """What is not kept is handed on as such, so that nobody else keeps a part of it."""
    traced = Traced(SCRIPT, sample=sample)
    headers = {} if traceparent is None else {"traceparent": traceparent}
    await exchanged(traced.runtime, opening(headers=headers), loop())
    assert bool(traced.spans) is kept
    flags = {asked.headers["traceparent"].rsplit("-")[-1] for asked in traced.client.asked}
    assert flags == {flag}


async def test_every_call_is_in_the_trace_whatever_else_is_forwarded() -> None:
    traced = Traced(SCRIPT, f"forward_headers: []\n{CONFIG}")
    await exchanged(traced.runtime, opening(headers={"traceparent": TRACEPARENT}), loop())
    traces = [asked.headers["traceparent"].split("-")[1] for asked in traced.client.asked]
    assert traces == [TRACE] * 4


LABELLED = CONFIG.replace(
    "team: {type: keyword, any: [team]}",
    "team: {type: model, model: other, labels: {hard: what is hard}}",
)


@pytest.mark.parametrize("answer", ['{"label": "hard"}', "no label"], ids=["read", "unread"])
async def test_a_signals_call_is_below_the_signals(answer: str) -> None:
    traced = Traced({**SCRIPT, "other": in_turn(answer, "second draft")}, LABELLED)
    await exchanged(traced.runtime, opening(), loop())
    spans = traced.spans
    signals = one(spans, "signals")
    call = next(span for span in spans if said(span).get("looper.role") == "label")
    assert parent_of(call) == id_of(signals)
    assert traced.client.role("label").headers["traceparent"].split("-")[2] == id_of(call)
    told = {name: list(said(signals)[f"looper.signals.{name}"]) for name in ("matched", "unread")}
    read = answer.startswith("{")
    assert told == {"matched": ["team"] * read, "unread": ["team"] * (not read)}


OTHERS = [
    (opening("/v1/models", method="GET", end_of_stream=True), [], "GET /v1/models"),
    (opening("/v1/models/secret-name", method="GET", end_of_stream=True), [], "GET other"),
    (opening(f"/v1/{SECRET}", method=SECRET), [], "_OTHER other"),
    (opening(), body(chat(SECRET)), "POST /v1/chat/completions"),
    (
        opening("/v1/embeddings"),
        body(b'{"model": "looper/plain", "input": "x"}'),
        "embeddings looper/plain",
    ),
]


@pytest.mark.parametrize(("first", "rest", "name"), OTHERS, ids=[name for *_, name in OTHERS])
async def test_what_a_client_calls_things_is_no_name_of_a_span(
    first: Any, rest: list[Event], name: str
) -> None:
    traced = Traced({})
    await exchanged(traced.runtime, first, rest)
    (span,) = (span for span in traced.spans if span.kind is SpanKind.SERVER)
    assert span.name == name
    assert SECRET not in span.to_json()


@pytest.mark.parametrize("record", ["metadata", "full"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_what_was_said_is_in_no_span(record: str, stream: bool) -> None:
    """Neither prompts nor answers, nor a judge's words, whatever else is kept."""
    judged = f'{{"winner": 1, "agreement": 1, "consensus": ["{SECRET}"]}}'
    script: Mapping[str, Step] = {
        "small": SECRET,
        "other": f"other {SECRET}",
        "large": in_turn(judged, f"the answer {SECRET}"),
    }
    traced = Traced(script, f"trace: {{record: {record}}}\n{CONFIG}")
    await exchanged(
        traced.runtime,
        opening(headers={"x-request-id": SECRET, "user-agent": SECRET}),
        body(chat(text=f"team {SECRET}", user=SECRET, stream=stream)),
    )
    spans = traced.spans
    assert len(spans) == 9
    assert not [span for span in spans if SECRET in span.to_json()]


async def test_spans_have_their_limits() -> None:
    """No more attributes, and none longer, than a collector takes."""
    for span in await _of_a_long_run():
        assert len(said(span)) <= 64
        assert all(len(each) <= 256 for each in said(span).values() if isinstance(each, str))


async def _of_a_long_run() -> Sequence[ReadableSpan]:
    traced = Traced(SCRIPT)
    exchange, _ = exchange_of(traced.runtime, opening(), loop())
    exchange._facts |= {f"band.p{n}": "x" * 1000 for n in range(100)}
    await exchange.run()
    return traced.spans


async def test_a_metered_answer_is_told_of_to_its_end() -> None:
    """When it began, what it used, and how it was answered: by the exchange, as there is no call of ours."""
    traced = Traced({})
    events = [*body(chat(stream=True)), SSE, *pieces(CHUNK, LAST, "")]
    await exchanged(traced.runtime, metered(), events)
    exchange = said(one(traced.spans, "chat looper/auto"))
    assert (exchange["gen_ai.usage.input_tokens"], exchange["gen_ai.usage.output_tokens"]) == (3, 4)
    assert exchange["gen_ai.response.time_to_first_chunk"] >= 0
    assert exchange["http.response.status_code"] == 200


@pytest.mark.parametrize(("status", "code"), [("404", StatusCode.UNSET), ("503", StatusCode.ERROR)])
async def test_a_backend_that_fails_is_an_error_of_a_metered_exchange(
    status: str, code: StatusCode
) -> None:
    traced = Traced({})
    events = [*body(chat()), ResponseHeaders({":status": status}), *pieces("no")]
    await exchanged(traced.runtime, metered(), events)
    exchange = one(traced.spans, "chat looper/auto")
    assert said(exchange)["http.response.status_code"] == int(status)
    assert exchange.status.status_code is code
    assert said(exchange).get("error.type") == (status if code is StatusCode.ERROR else None)
    assert "gen_ai.response.time_to_first_chunk" not in said(exchange)


WORKFLOW = """
version: 1
egress: unix:/run/egress.sock
models:
  - {name: small, url: "http://small/v1"}
  - {name: other, url: "http://other/v1"}
  - {name: large, url: "http://large/v1"}
recipes:
  team:
    decisions:
      - name: team
        algorithm:
          type: workflows
          steps:
            - {id: one, models: [small], prompt: "Find out."}
            - {id: two, models: [other], prompt: "Find out."}
          final: {model: large}
entrypoints: {team: team}
"""


async def test_calls_of_steps_that_go_on_at_once_are_below_their_own() -> None:
    traced = Traced({"small": "a", "other": "b", "large": "c"}, WORKFLOW)
    await exchanged(traced.runtime, opening(), body(chat("team")))
    spans = traced.spans
    for step, model in (("one", "small"), ("two", "other"), ("final", "large")):
        stage = one(spans, f"stage {step}")
        assert parent_of(one(spans, f"chat {model}")) == id_of(stage)


async def test_a_run_that_goes_on_has_a_link_to_where_it_began() -> None:
    """Each turn is a request, and a trace, of its own."""
    script: Mapping[str, Step] = {
        "small": in_turn(CALLING, "by small"),
        "other": "b",
        "large": "the answer",
    }
    traced = Traced(script, WORKFLOW)
    first = await exchanged(
        traced.runtime,
        opening(headers={"traceparent": TRACEPARENT}),
        body(asking()),
    )
    ids = list(dict.fromkeys(OURS.findall(first.respond.body.decode())))
    await exchanged(traced.runtime, opening(), body(asking(*ids)))
    began, went_on = named(traced.spans, "chat team")
    (link,) = went_on.links
    assert began.context is not None
    assert (link.context.trace_id, link.context.span_id) == (
        began.context.trace_id, began.context.span_id,
    )  # fmt: skip
    assert trace_of(began) == TRACE != trace_of(went_on)
    assert said(went_on)["looper.resumes"] == said(began)["looper.run"]
    assert not began.links


def asking(*ids: str) -> bytes:
    """The question, or what came of the tools that were called with these ids."""
    results = [{"role": "tool", "tool_call_id": id, "content": "x"} for id in ids]
    said = [{"role": "assistant", "content": None}] if ids else []
    messages = [{"role": "user", "content": "hi"}, *said, *results]
    return json.dumps({"model": "team", "messages": messages, "tools": [READ]}).encode()


async def test_a_mistake_in_making_spans_is_no_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(SCRIPT)
    monkeypatch.setattr("extproc.tracing.spans._tell_call", lambda *_: 1 / 0)
    with capture_logs() as logs:
        channel = await exchanged(traced.runtime, opening(), loop())
    assert channel.respond.status == 200
    assert [each["event"] for each in logs if each["log_level"] == "error"] == ["spans.crashed"]


HEADER = st.text(st.characters(codec="latin-1"), max_size=80)
ALMOST = st.from_regex(
    r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?", fullmatch=True
)


@given(ALMOST | HEADER, HEADER | st.from_regex(r"([a-z@]{1,9}=.{0,9},){0,40}", fullmatch=True))
def test_whatever_a_client_calls_a_trace_an_exchange_has_a_span(parent: str, state: str) -> None:
    """And what goes on from there is W3C's, in the client's trace if it named one."""
    traced = Traced({})
    span = traced.tracer.begin({"traceparent": parent, "tracestate": state})
    told = span.context
    went_on = read_traceparent(told["traceparent"])
    assert went_on == told["traceparent"]
    if (read := read_traceparent(parent)) is not None:
        assert went_on[:36] == read[:36]
        assert int(went_on[-2:], 16) & 1 == int(read[-2:], 16) & 1
    assert all(value.isprintable() for value in told.values())
    traced.tracer.close()
