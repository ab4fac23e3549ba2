"""The metric families of a replica: their names, types, labels and help texts. docs/operations.md has the same as a table.

Each carries the label `namespace` before its own. Luigi's own families, which count tasks, are in `tasks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Bounds of durations: from a quick commit to a worker's patience."""

CALLS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
"""Bounds of a batch's size, which is 1,000 calls at most (`batch.BATCH_CALLS`)."""

TRIES = (1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One metric family. `labels` are those after the namespace, `buckets` the upper bounds of a histogram."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(name=f"luigi_spanner_{name}", kind="counter", help=help, labels=labels)


def _gauge(name: str, help: str, *labels: str) -> Family:
    return Family(name=f"luigi_spanner_{name}", kind="gauge", help=help, labels=labels)


def _histogram(name: str, buckets: tuple[float, ...], help: str, *labels: str) -> Family:
    return Family(name=f"luigi_spanner_{name}", kind="histogram", help=help, labels=labels, buckets=buckets)


CALL_SECONDS = _histogram(
    "call_duration_seconds",
    SECONDS,
    "Time from a complete request of a call to its reply, by method and by ok or the code of the error.",
    "method",
    "outcome",
)
BATCH_CALLS = _histogram("batch_calls", CALLS, "Calls that were answered together.")
BATCH_TRIES = _histogram("batch_tries", TRIES, "How often a batch was run until it was durable; more than once after conflicts.")
COMMIT_SECONDS = _histogram(
    "commit_duration_seconds", SECONDS, "Time that the store took for one attempt to commit an entry, by outcome.", "outcome"
)
STORE_ERRORS = _counter("store_errors_total", "Times that the store did not do what it was asked, by kind of error.", "kind")
STORE_RETRIES = _counter(
    "store_retries_total", "Attempts that the store's driver made again by itself, by what went wrong.", "kind"
)
CATCH_UP_ENTRIES = _counter("catch_up_entries_total", "Entries of other replicas that this one has applied.")
CATCH_UP_LAG = _histogram(
    "catch_up_lag_seconds", SECONDS, "Age of the oldest entry each time that this replica caught up with others."
)

HEAD = _gauge("journal_head_seq", "Number of the journal's newest entry that this replica has heard of.")
APPLIED = _gauge("journal_applied_seq", "Number of the journal entry that this replica's memory stands at.")
WATERMARK = _gauge("journal_watermark_seq", "Number of the journal entry up to which the tables are complete.")
ROWS_OWED = _gauge("rows_owed", "Rows that the tables still lack.")
CONTACT_AGE = _gauge("store_contact_age_seconds", "Time since the last question was sent that the store has answered.")
QUEUED = _gauge("queued_calls", "Calls that wait for the next batch.")
EFFECTS = _gauge("effects_pending", "Effects of the batch under way, to be released once it is durable.")
OFFSET = _gauge("clock_offset_seconds", "How far this machine's clock is behind the store's.")
SERVING = _gauge("serving", "1 while the replica serves, 0 once it can serve no more.")

MAILS = _counter("mails_total", "Mails that this replica has queued, refused, sent, failed to send or given up.", "event")

TASKS = _gauge("tasks", "Tasks by status.", "status")
READY = _gauge("ready_tasks", "Pending tasks whose dependencies are all done.")
LONGEST_RUN = _gauge("longest_running_seconds", "How long the task that has been RUNNING for longest has been; 0 without one.")
WORKERS = _gauge("workers", "Workers by state: active, disabled, or leaving, which is dead and being let go of.", "state")
REPLICAS = _gauge("replicas", "Replicas that are entered in the namespace.")
MAILS_WAITING = _gauge("mails_waiting", "Mails in the outbox.")
PAUSED = _gauge("paused", "1 while the scheduler is paused.")
RESOURCE_LIMIT = _gauge(
    "resource_limit", "How much there is of a resource; those without a place of their own are other.", "resource"
)
RESOURCE_USED = _gauge("resource_used", "How much of a resource running tasks hold.", "resource")

BUILD = _gauge("build_info", "1, labelled with the versions of luigi-spanner, luigi and Python.", "version", "luigi", "python")
REPLICA = _gauge("replica_info", "1, labelled with the replica's name and the kind of its store.", "replica", "store")

COUNTED = (
    CALL_SECONDS,
    BATCH_CALLS,
    BATCH_TRIES,
    COMMIT_SECONDS,
    STORE_ERRORS,
    STORE_RETRIES,
    CATCH_UP_ENTRIES,
    CATCH_UP_LAG,
)
"""What is counted as it happens; see `meter`."""

GAUGES = (
    HEAD,
    APPLIED,
    WATERMARK,
    ROWS_OWED,
    CONTACT_AGE,
    QUEUED,
    EFFECTS,
    OFFSET,
    SERVING,
    MAILS,
    TASKS,
    READY,
    LONGEST_RUN,
    WORKERS,
    REPLICAS,
    MAILS_WAITING,
    PAUSED,
    RESOURCE_LIMIT,
    RESOURCE_USED,
    BUILD,
    REPLICA,
)
"""What is looked up when somebody asks; see `gauges`."""
