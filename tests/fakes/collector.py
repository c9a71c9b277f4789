"""A collector of traces: takes spans over OTLP, both ways, in the test's own process."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import grpc
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

SECONDS = 10.0
"""How long a test waits for spans that must come."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A span as it came."""

    service: str
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    start: int
    end: int
    status: int
    why: str
    attributes: Mapping[str, Any]
    events: Sequence[tuple[str, Mapping[str, Any]]]
    links: Sequence[tuple[str, str]]
    state: str
    resource: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


@dataclass
class Collector:
    """What has come so far. `endpoint` is where it is reached by gRPC, `http` where by HTTP."""

    endpoint: str = ""
    http: str = ""
    spans: list[Seen] = field(default_factory=list)
    metadata: list[Mapping[str, str]] = field(default_factory=list)
    silent: bool = False
    """Take everything, and never answer."""
    over: Event = field(default_factory=Event)
    raw: list[bytes] = field(default_factory=list)

    def otlp(self, protocol: str) -> dict[str, str]:
        """The setting that leads here."""
        return {
            "protocol": protocol,
            "endpoint": self.endpoint if protocol == "grpc" else self.http,
        }

    def take(self, request: ExportTraceServiceRequest, said: Mapping[str, str]) -> None:
        if self.silent:
            self.over.wait()
        self.raw.append(request.SerializeToString())
        self.metadata.append(dict(said))
        for group in request.resource_spans:
            resource = _plain(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += (_seen(span, resource) for span in scope.spans)

    async def until(self, holds: Callable[[list[Seen]], bool]) -> list[Seen]:
        """The spans once `holds` says so: they come a while after what they tell of."""
        async with asyncio.timeout(SECONDS):
            while not holds(self.spans):
                await asyncio.sleep(0.02)
        return list(self.spans)

    async def trace(self, of: Callable[[Seen], bool], *, spans: int) -> "Tree":
        """The trace of the span that `of` picks, once that has so many spans."""

        def found(seen: list[Seen]) -> list[Seen]:
            traces = {span.trace for span in seen if of(span)}
            return [span for span in seen if span.trace in traces]

        return Tree(found(await self.until(lambda seen: len(found(seen)) >= spans)))


class Tree:
    """The spans of one trace."""

    def __init__(self, spans: Iterable[Seen]) -> None:
        self.spans = list(spans)

    def __getitem__(self, name: str) -> Seen:
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def named(self, name: str) -> list[Seen]:
        return [span for span in self.spans if span.name == name]

    def below(self, parent: Seen) -> list[Seen]:
        return [span for span in self.spans if span.parent == parent.id]

    def above(self, span: Seen) -> Seen:
        (parent,) = (each for each in self.spans if each.id == span.parent)
        return parent

    def drawn(self) -> str:
        """The whole as lines, for who looks at a test that fails."""
        known = {span.id for span in self.spans}
        roots = [span for span in self.spans if span.parent not in known]
        return "\n".join(line for root in roots for line in self._lines(root, 0))

    def _lines(self, span: Seen, depth: int) -> Iterable[str]:
        yield f"{'  ' * depth}{span.service}: {span.name} {(span.end - span.start) / 1e6:.1f} ms"
        for each in sorted(self.below(span), key=lambda each: each.start):
            yield from self._lines(each, depth + 1)


@asynccontextmanager
async def run_collector(tls: Path | None = None) -> AsyncIterator[Collector]:
    """Both ways in, at free ports, while the context is open; over TLS with `server.pem` of a folder."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TraceServiceServicer_to_server(_Service(collector), server)  # type: ignore[no-untyped-call]
    scheme = "http" if tls is None else "https"
    port = _listen(server, tls)
    collector.endpoint = f"{scheme}://127.0.0.1:{port}"
    server.start()
    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/traces", _posted(collector))
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    context = None if tls is None else _context(tls)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    collector.http = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        collector.over.set()
        await runner.cleanup()
        await asyncio.to_thread(server.stop(0).wait)


def _listen(server: grpc.Server, tls: Path | None) -> int:
    if tls is None:
        return int(server.add_insecure_port("127.0.0.1:0"))
    pair = (tls / "server.key").read_bytes(), (tls / "server.pem").read_bytes()
    return int(server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair])))


def _context(tls: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    return context


class _Service(TraceServiceServicer):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def Export(
        self, request: ExportTraceServiceRequest, context: Any
    ) -> ExportTraceServiceResponse:
        self._collector.take(request, dict(context.invocation_metadata()))
        return ExportTraceServiceResponse()


def _posted(collector: Collector) -> Callable[[web.Request], Any]:
    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        if body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in request.headers.items()}
        await asyncio.to_thread(collector.take, ExportTraceServiceRequest.FromString(body), headers)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    return post


def _seen(span: SpanMessage, resource: Mapping[str, Any]) -> Seen:
    return Seen(
        service=str(resource.get("service.name", "")),
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=span.status.code,
        why=span.status.message,
        attributes=_plain(span.attributes),
        events=[(event.name, _plain(event.attributes)) for event in span.events],
        links=[(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        state=span.trace_state,
        resource=resource,
    )


def _plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)
