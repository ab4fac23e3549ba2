"""The meter: what one replica counts and times while it works. The parts that do the work tell it; nothing is looked up twice."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from luigi_spanner.metrics import families
from luigi_spanner.metrics.families import Family
from luigi_spanner.metrics.histogram import Histogram
from luigi_spanner.stores import (
    Closed,
    Committed,
    Conflict,
    InvalidStore,
    Outcome,
    Refused,
    SchemaMismatch,
    StoreError,
    Truncated,
    Unavailable,
    Unknown,
)

_OUTCOMES: dict[type[Outcome] | None, str] = {
    Committed: "committed",
    Conflict: "conflict",
    Unknown: "unknown",
    Refused: "refused",
    None: "failed",
}
"""How a commit ends; `failed`: the store could not even be asked."""

_ERRORS: dict[type[StoreError], str] = {
    Unavailable: "unavailable",
    Truncated: "truncated",
    SchemaMismatch: "schema_mismatch",
    InvalidStore: "invalid_store",
    Closed: "closed",
    StoreError: "other",
}

_UNCLEAR: dict[type[Outcome], str] = {Unknown: "unknown", Refused: "refused"}
"""Outcomes of a commit that count as errors of the store."""


class Meter:
    """Counters and histograms of one replica, in a registry of its own. Told from the event loop, but for `retried`."""

    def __init__(self, registry: CollectorRegistry, namespace: str) -> None:
        self._registry = registry
        self._namespace = namespace
        self._calls = self._histogram(families.CALL_SECONDS)
        self._batch_calls = self._histogram(families.BATCH_CALLS).series()
        self._batch_tries = self._histogram(families.BATCH_TRIES).series()
        commits = self._histogram(families.COMMIT_SECONDS)
        self._commits = {outcome: commits.series(name) for outcome, name in _OUTCOMES.items()}
        errors = self._counter(families.STORE_ERRORS)
        self._errors = {kind: errors.labels(namespace, name) for kind, name in (*_ERRORS.items(), *_UNCLEAR.items())}
        self._retries = self._counter(families.STORE_RETRIES)
        self._caught_up = self._counter(families.CATCH_UP_ENTRIES).labels(namespace)
        self._lag = self._histogram(families.CATCH_UP_LAG).series()

    def call(self, method: str, outcome: str, seconds: float) -> None:
        """A call has its reply. `method` is one that there is, or `other`; `outcome` as in `server.api.Reply`."""
        self._calls.series(method, outcome).observe(seconds)

    def batch(self, calls: int, tries: int) -> None:
        """A batch of so many calls is durable after so many tries."""
        self._batch_calls.observe(calls)
        self._batch_tries.observe(tries)

    def commit(self, outcome: Outcome | None, seconds: float) -> None:
        """An attempt to commit has ended; None: with an error."""
        kind = None if outcome is None else type(outcome)
        self._commits[kind].observe(max(seconds, 0.0))
        if kind in _UNCLEAR:
            self._errors[kind].inc()

    def store_error(self, error: StoreError) -> None:
        """The store has raised `error`."""
        self._errors.get(type(error), self._errors[StoreError]).inc()

    def retried(self, kind: str) -> None:
        """The store's driver has met a passing fault of that kind and tries again. From any thread."""
        self._retries.labels(self._namespace, kind).inc()

    def caught_up(self, entries: int, seconds: float) -> None:
        """So many entries of other replicas were applied, the oldest of them so old."""
        self._caught_up.inc(entries)
        self._lag.observe(max(seconds, 0.0))

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, ("namespace", *family.labels), registry=self._registry)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(family, self._namespace, self._registry)
