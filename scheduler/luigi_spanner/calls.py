"""A call on its way: who asks for what, and the ways in which it can end other than with a reply.

Errors::

    CallError
    ├── BadRequest      400  the arguments can never be accepted; nothing changed
    ├── UnknownMethod   404  Luigi has no such method
    ├── UnknownTask     404  there is no task of that id; nothing changed
    ├── TooLarge        413  more than the server or the store can hold; nothing changed
    ├── RuleFailed      500  a rule of the scheduler raised; the call was undone
    └── StoreDown       503  the outcome is unknown: the store did not answer in time
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from luigi_spanner.history import History
from luigi_spanner.journal import CallRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who calls. Everybody is anonymous until identity is configured."""

    name: str = "anonymous"


ANONYMOUS = Principal()
SYSTEM = Principal(name="system")
"""The replica itself: prunes, liveness, joins."""


@dataclass(kw_only=True, slots=True)
class Call:
    """One call of one caller. `arguments` are the keyword arguments of the method, already validated.

    `abandoned` is set when the caller's connection has closed: a call that has not run is then dropped (I13). `span` is its
    OpenTelemetry span, where there are traces.
    """

    request_id: str
    method: str
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)  # nor in the log: some parameters are nobody's business
    principal: Principal = ANONYMOUS
    abandoned: bool = False
    span: Any = field(default=None, repr=False, compare=False)

    def record(self, time: float) -> CallRecord:
        """What the audit trail keeps of this call, run at `time` (seconds since the epoch)."""
        return CallRecord(
            request_id=self.request_id,
            principal=self.principal.name,
            method=self.method,
            task=self._text("task_id"),
            worker=self._text("worker"),
            time=time,
        )

    def _text(self, name: str) -> str | None:
        value = self.arguments.get(name)
        return value if isinstance(value, str) else None


REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the call that runs or is answered, for lines of the log that are written meanwhile."""


class CallError(Exception):
    """The call ended without a reply. `status` is the HTTP status, `code` a stable name, the message a sentence for people."""

    status = 500
    code = "internal"


class BadRequest(CallError):
    status = 400
    code = "bad_request"


class UnknownMethod(CallError):
    status = 404
    code = "unknown_method"


class UnknownTask(CallError):
    status = 404
    code = "unknown_task"


class TooLarge(CallError):
    status = 413
    code = "too_large"


class RuleFailed(CallError):
    status = 500
    code = "rule_failed"


class StoreDown(CallError):
    """The outcome is unknown. `retry_after`: whole seconds after which the caller may try again."""

    status = 503
    code = "store_down"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Where a replica stands. `reasons` say in words why it is not ready; empty when `ready`. `applied` is the seq in memory.

    `store_down_since`: seconds since the epoch, None while the store answers.
    """

    ready: bool
    reasons: tuple[str, ...]
    replica: str
    namespace: str
    applied: int
    watermark: int
    store_down_since: float | None = None


class Scheduling(Protocol):
    """What a server needs of whoever answers the calls."""

    async def call(self, call: Call) -> bytes:
        """The reply's value as JSON, once it is durable. Raises CallError."""
        ...

    async def status(self) -> Status:
        """Where it stands, after asking the store."""
        ...

    async def ended(self) -> str:
        """Returns once it can answer no more, with the reason as a sentence."""
        ...

    @property
    def history(self) -> History | None:
        """What has happened to tasks; None where that is not written down."""
        ...

    async def metrics(self) -> tuple[bytes, str] | None:
        """What monitoring is told, and its content type; None when there is nothing to tell."""
        ...

    def observe(self, method: str, outcome: str, seconds: float) -> None:
        """A call has got its reply: ok or the code of an error, so long after its request was complete."""
        ...

    async def start(self) -> None:
        """Begin to answer. Raises StoreError."""
        ...

    async def stop(self) -> None:
        """Answer what was accepted, then release the store."""
        ...
