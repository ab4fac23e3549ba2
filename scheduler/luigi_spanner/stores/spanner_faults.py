"""What goes wrong on the way to Spanner, told apart by status code and by the type of the resource in the error's details."""

from __future__ import annotations

import enum
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2


class Meaning(enum.Enum):
    """What a failed call means to the store."""

    PASSING = "passing"
    """Another try may succeed. Of a commit that was sent, nothing is known."""
    SLOW = "slow"
    """No answer in time. Of a commit that was sent, nothing is known."""
    TAKEN = "taken"
    """The inserted row is there already."""
    MISSING = "missing"
    """A row, table or column is not there."""
    NO_SESSION = "no session"
    """The session has ended; another can be made."""
    NO_DATABASE = "no database"
    """The database or its instance does not exist."""
    REFUSED = "refused"
    """The request can never succeed."""
    BLOCKED = "blocked"
    """The database is in no state to do it, which may pass: an encryption key was revoked, say."""
    BARRED = "barred"
    """This caller may not, or the server offers no such call."""
    CLOSED = "closed"
    """The store was closed here, while or before the call ran."""


MEANINGS: dict[grpc.StatusCode, Meaning] = {
    grpc.StatusCode.ABORTED: Meaning.PASSING,
    grpc.StatusCode.UNAVAILABLE: Meaning.PASSING,
    # Quota or load at the server: what is too large never leaves this process.
    grpc.StatusCode.RESOURCE_EXHAUSTED: Meaning.PASSING,
    # A stream reset on the way shows as one of these.
    grpc.StatusCode.INTERNAL: Meaning.PASSING,
    grpc.StatusCode.UNKNOWN: Meaning.PASSING,
    grpc.StatusCode.CANCELLED: Meaning.PASSING,
    grpc.StatusCode.DATA_LOSS: Meaning.PASSING,
    grpc.StatusCode.DEADLINE_EXCEEDED: Meaning.SLOW,
    grpc.StatusCode.ALREADY_EXISTS: Meaning.TAKEN,
    grpc.StatusCode.NOT_FOUND: Meaning.MISSING,
    grpc.StatusCode.INVALID_ARGUMENT: Meaning.REFUSED,
    grpc.StatusCode.OUT_OF_RANGE: Meaning.REFUSED,
    grpc.StatusCode.FAILED_PRECONDITION: Meaning.BLOCKED,
    grpc.StatusCode.PERMISSION_DENIED: Meaning.BARRED,
    grpc.StatusCode.UNAUTHENTICATED: Meaning.BARRED,
    grpc.StatusCode.UNIMPLEMENTED: Meaning.BARRED,
}
"""Of each status code but OK."""

IN_DOUBT = frozenset({Meaning.PASSING, Meaning.SLOW, Meaning.CLOSED})
"""A commit that was sent and failed so may have landed, or may still land."""

_RESOURCES = {
    "google.spanner.v1.Session": Meaning.NO_SESSION,
    "google.spanner.admin.database.v1.Database": Meaning.NO_DATABASE,
    "google.spanner.admin.instance.v1.Instance": Meaning.NO_DATABASE,
}

_DETAILS = "grpc-status-details-bin"


class Fault(Exception):
    """A call to Spanner that failed. Never leaves the stores; `reason` is for people, `meaning` for the code, `code` for metrics:
    the status of the reply where there was one.

    `in_doubt`: an attempt of the same commit may have landed, whatever its last one met.
    """

    def __init__(self, meaning: Meaning, reason: str, *, in_doubt: bool = False, code: str = "") -> None:
        super().__init__(f"{meaning.value}: {reason}")
        self.meaning = meaning
        self.reason = reason
        self.in_doubt = in_doubt
        self.code = code or meaning.value.replace(" ", "_")


def fault(error: grpc.aio.AioRpcError) -> Fault:
    """What `error` means."""
    meaning = MEANINGS[error.code()]
    if meaning is Meaning.MISSING:
        meaning = _RESOURCES.get(_missing_resource(error), meaning)
    return Fault(meaning, f"{error.code().name}: {error.details()}", code=error.code().name.lower())


def _missing_resource(error: grpc.aio.AioRpcError) -> str:
    """Type of the resource that a NOT_FOUND names in its details, "" when it names none: a missing row has none."""
    trailer: Any
    for name, trailer in error.trailing_metadata() or ():
        if name == _DETAILS:
            for detail in status_pb2.Status.FromString(trailer).details:
                resource = error_details_pb2.ResourceInfo()
                if detail.Unpack(resource):
                    return str(resource.resource_type.rpartition("/")[2])
    return ""
