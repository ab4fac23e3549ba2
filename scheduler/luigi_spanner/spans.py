"""Traces made of OpenTelemetry's spans. Import this only where an exporter is configured.

A call is a server span that joins the caller's trace. A batch is a part of the first of its calls that is sampled, and linked
with the others; commits and catch-ups are parts of the batch. What the replica does by itself is not traced, nor are pings, which
are answered from memory. Spans hold ids of tasks and workers and never arguments, so exceptions are told by their kind alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, TypeVar

from luigi.scheduler import RPC_METHODS
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode

from luigi_spanner._version import __version__
from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call
from luigi_spanner.methods import OURS
from luigi_spanner.reach import Reach
from luigi_spanner.tracing import NO_CALL, NO_STEP, CallStep, Step, Tracing

CLOSE_SECONDS = 3.0
"""How long the end of the process waits for what is left to be sent: a collector that is away must not keep it."""

GROUP = "opentelemetry_traces_exporter"
"""Under which packages register the exporters that they bring."""

PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""What OTLP may be sent by, and how OpenTelemetry registers it."""

UNTRACED = frozenset({"/api/ping"})

ROUTES = frozenset(f"/api/{name}" for name in OURS.union(RPC_METHODS))


P = TypeVar("P", bound="_Part")


class NoExporter(Exception):
    """An exporter that is asked for cannot be had. The message is one sentence for the person who configured it."""


def exporter_named(name: str, environ: Mapping[str, str]) -> SpanExporter:
    """The exporter that OTEL_TRACES_EXPORTER calls so. It reads its own variables. Raises NoExporter."""
    registered = name
    if name == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        registered = PROTOCOLS.get(protocol or "http/protobuf", "")
        if not registered:
            raise NoExporter(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, which is none of {', '.join(PROTOCOLS)}")
    found = next(iter(entry_points(group=GROUP, name=registered)), None)
    if found is None:
        get = "pip install 'luigi-spanner[tracing]'" if registered == PROTOCOLS["http/protobuf"] else "install its package"
        raise NoExporter(f"the environment asks for the exporter {registered}, which is not there; {get}")
    try:
        exporter: SpanExporter = found.load()()
    except Exception as error:  # it reads a dozen variables, and complains of each in its own way
        raise NoExporter(f"the exporter {registered} cannot be used: {type(error).__name__}: {error}") from error
    return exporter


class _Watched(SpanExporter):
    """An exporter of which the log says once that its collector takes nothing, and once that it does again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._reach = Reach(time.time, "Spans are sent again")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.SUCCESS:
            self._reach.works()
        else:
            self._reach.fails("Spans cannot be sent and are lost", "the logger opentelemetry.exporter says why, at level WARNING")
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class Spans(Tracing):
    """Sends to `exporters`, from a thread of each; sampled and limited as the standard variables say."""

    def __init__(self, exporters: Sequence[SpanExporter], environ: Mapping[str, str], *, namespace: str, replica: str) -> None:
        about = {"service.version": __version__, "service.instance.id": replica, "luigi.namespace": namespace}
        if not environ.get("OTEL_SERVICE_NAME") and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
            about["service.name"] = "luigi-spanner"
        # Ours alone: the one that all of a process share would also get the spans of Spanner's client, which tell the same again.
        self._provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(_Watched(exporter)))
        self._tracer = self._provider.get_tracer("luigi_spanner", __version__)

    def call(self, verb: str, target: str, headers: Mapping[str, str], connection: object) -> CallStep:
        path = target.partition("?")[0]
        if path in UNTRACED:
            return NO_CALL
        route = path if path in ROUTES else "/api/{method}"
        attributes = {
            "http.request.method": verb,
            "http.route": route,
            "url.scheme": "http",
            "client.address": str(getattr(connection, "remote_ip", "")),
            **({"url.path": path} if route == path else {}),  # what is no method may be anything
            **({"user_agent.original": headers["User-Agent"]} if "User-Agent" in headers else {}),
        }
        parent = propagate.extract(headers)
        return _Call(self._tracer.start_span(f"{verb} {route}", context=parent, kind=SpanKind.SERVER, attributes=attributes))

    def batch(self, calls: Sequence[Waiting]) -> Step:
        first = next(iter(_spans(calls)), None)
        return NO_STEP if first is None else _Batch(self._start("batch", trace.set_span_in_context(first)), first, calls)

    def commit(self, seq: int) -> Step:
        return self._part("commit", {"luigi.entry.seq": seq})

    def catch_up(self) -> Step:
        return self._part("catch up")

    def _part(self, name: str, attributes: Mapping[str, Any] | None = None) -> Step:
        """A part of the batch that is under way, if that is traced."""
        return _Part(self._start(name, None, attributes)) if trace.get_current_span().is_recording() else NO_STEP

    def _start(self, name: str, context: Context | None, attributes: Mapping[str, Any] | None = None) -> Span:
        return self._tracer.start_span(name, context=context, attributes=attributes)

    def close(self) -> None:
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class _Part(Step):
    """A step that is a span, and the current one inside."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._current = trace.use_span(span, record_exception=False, set_status_on_exception=False)

    def __enter__(self: P) -> P:
        self._current.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._current.__exit__(None, None, None)
        if kind is not None:
            self._span.set_attribute("error.type", kind.__name__)
            self._span.set_status(StatusCode.ERROR)
        self._finish()
        self._span.end()

    def _finish(self) -> None:
        """The last chance to say something."""

    def ends(self, **facts: str | int) -> None:
        self._span.set_attributes({f"luigi.{name}": value for name, value in facts.items()})


class _Batch(_Part):
    def __init__(self, span: Span, parent: Span, calls: Sequence[Waiting]) -> None:
        super().__init__(span)
        self._parent = parent
        self._calls = calls

    def _finish(self) -> None:
        self._span.set_attribute("luigi.batch.calls", len(self._calls))
        for other in _spans(self._calls):
            if other is not self._parent:
                self._span.add_link(other.get_span_context())
                other.add_link(self._span.get_span_context())


class _Call(CallStep):
    def __init__(self, span: Span) -> None:
        self._span = span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._span.end()

    def runs(self, call: Call) -> None:
        call.span = self._span
        self._span.set_attribute("luigi.request_id", call.request_id)
        for name, attribute in (("task_id", "luigi.task_id"), ("worker", "luigi.worker")):
            value = call.arguments.get(name)
            if isinstance(value, str):
                self._span.set_attribute(attribute, value)

    def answered(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            self._span.set_attribute("error.type", str(status))
            self._span.set_status(StatusCode.ERROR)


def _spans(calls: Sequence[Waiting]) -> list[Span]:
    """Of those calls that are sampled and not yet answered."""
    spans = (waiting.call.span for waiting in calls)
    return [span for span in spans if span is not None and span.is_recording()]
