"""Traces: where spans begin and end, and whether anybody wants them.

Nothing of OpenTelemetry is imported here: `spans` is, by `open_tracing`, once the standard variables configure an exporter. Else
the methods below are all there is, and what they cost is a call each.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from luigi_spanner.batch import Waiting
    from luigi_spanner.calls import Call

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables that ask for the exporter `otlp` where OTEL_TRACES_EXPORTER names none. OpenTelemetry's own default is to send to
this machine's port 4318 whether or not anybody listens there."""


S = TypeVar("S", bound="Step")


class Step:
    """A part of what is traced, as a context; here of a trace that nobody wants."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def ends(self, **facts: str | int) -> None:
        """What came of it, as attributes whose names begin with `luigi.`."""


class CallStep(Step):
    """The answering of one request."""

    def runs(self, call: Call) -> None:
        """The request is this call, and what the replica does for it is part of the step."""

    def answered(self, status: int) -> None:
        """The HTTP status of the reply."""


NO_STEP = Step()
NO_CALL = CallStep()


class Tracing:
    """Makes the steps. This one makes none."""

    def call(self, verb: str, target: str, headers: Mapping[str, str], connection: object) -> CallStep:
        """Of a request with this line and these headers; `connection` has the caller's address as `remote_ip`."""
        return NO_CALL

    def batch(self, calls: Sequence[Waiting]) -> Step:
        """Of a batch, a part of its calls. Others may join until it ends."""
        return NO_STEP

    def commit(self, seq: int) -> Step:
        """Of an attempt to commit entry `seq`, a part of the batch."""
        return NO_STEP

    def catch_up(self) -> Step:
        """Of reading and applying others' entries, a part of the batch."""
        return NO_STEP

    def close(self) -> None:
        """Send what is left, within a bounded time."""


NO_TRACING = Tracing()


def exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The exporters that the environment asks for, by OpenTelemetry's names for them."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    named = [name.strip() for name in environ.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    if not named and any(environ.get(variable) for variable in ENDPOINTS):
        return ("otlp",)
    return tuple(name for name in named if name != "none")


def open_tracing(environ: Mapping[str, str], *, namespace: str, replica: str) -> Tracing:
    """What the environment asks for. That it cannot be had is no reason not to serve: the log says so. Call it after any fork."""
    names = exporters(environ)
    if not names:
        return NO_TRACING
    from luigi_spanner.spans import NoExporter, Spans, exporter_named

    try:
        return Spans([exporter_named(name, environ) for name in names], environ, namespace=namespace, replica=replica)
    except NoExporter as error:
        logger.warning("There are no traces: %s", error)
        return NO_TRACING
