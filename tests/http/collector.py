"""An OpenTelemetry collector on loopback: it takes spans over HTTP in OTLP, as protobuf, and keeps them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from serving import PATIENCE


@dataclass(frozen=True, kw_only=True)
class Received:
    """One span, as it came. `resource`: attributes of what sent it, `scope`: of which library it is."""

    name: str
    kind: int
    trace: str
    span: str
    parent: str
    links: frozenset[str]
    attributes: dict[str, Any]
    events: tuple[str, ...]
    status: int
    scope: str
    resource: dict[str, Any]
    begin: int
    end: int


@dataclass
class Collector:
    """`raw` is all that came, uncompressed."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, body: bytes) -> None:
        self.raw.append(body)
        for sender in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _values(sender.resource.attributes)
            for scope in sender.scope_spans:
                self.spans.extend(_received(span, scope.scope.name, resource) for span in scope.spans)

    def named(self, name: str) -> list[Received]:
        return [span for span in list(self.spans) if span.name == name]

    def awaited(self, name: str, times: int = 1) -> list[Received]:
        """The spans of that name, once there are so many."""
        deadline = time.monotonic() + PATIENCE
        while len(self.named(name)) < times:
            assert time.monotonic() < deadline, [span.name for span in self.spans]
            time.sleep(0.02)
        return self.named(name)


def _received(span: Any, scope: str, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        span=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        links=frozenset(link.span_id.hex() for link in span.links),
        attributes=_values(span.attributes),
        events=tuple(event.name for event in span.events),
        status=span.status.code,
        scope=scope,
        resource=resource,
        begin=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in attributes}


@contextmanager
def collecting(port: int = 0) -> Iterator[Collector]:
    """A collector, until the block ends; on a free port unless told which."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            collector.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    collector.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
