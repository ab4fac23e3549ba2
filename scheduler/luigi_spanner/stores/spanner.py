"""The store on Cloud Spanner: every replica's commit is one conditional Commit call, with no transaction around it.

The INSERT of journal row `(namespace, seq)` is the compare-and-swap; the UPDATE of its predecessor keeps a truncated number
from being taken again (I9). Everything rides in that one call, so it happens in full or not at all.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, repeat
from typing import Any, TypeVar

from google.cloud.spanner_v1 import types

from luigi_spanner import migrate, schema
from luigi_spanner.journal import Entry, Row
from luigi_spanner.stores import (
    GENESIS,
    READ_BYTES,
    READ_LIMIT,
    Closed,
    Committed,
    Conflict,
    InvalidStore,
    Outcome,
    Refused,
    Retried,
    SchemaMismatch,
    Snapshot,
    StoreError,
    Truncated,
    Unavailable,
    Unknown,
    bounds,
    ignore,
    spanner_sentences,
    spanner_values,
)
from luigi_spanner.stores.spanner_faults import IN_DOUBT, Fault, Meaning
from luigi_spanner.stores.spanner_view import View
from luigi_spanner.stores.spanner_wire import MESSAGE_BYTES, TAG, Attempt, Pace, Wire, connector

logger = logging.getLogger(__name__)

HEAVY_BYTES = 64 * 1024
"""A head with more payload than this is not fetched again by each strong read that only asks whether it still is the head."""

SCHEMA_SECONDS = 60.0
"""How often a read looks again whether the schema still fits (I11): it stays usable for the release before, so this is early."""

T = TypeVar("T")
Read = Callable[[Attempt], Awaitable[T]]


async def open(
    database: str,
    namespace: str,
    ids: Callable[[], str] | None = None,
    *,
    pace: Pace | None = None,
    prepare: bool = True,
    retried: Retried = ignore,
) -> SpannerStore:
    """Open `namespace` in `database`, named projects/P/instances/I/databases/D. `ids` gives random text, which seeds the jitter
    of retries; `pace` says how long calls may take, `retried` is told as it says. Without `prepare` nobody asks whether it can be
    written.

    With SPANNER_EMULATOR_HOST set it is the emulator's database. Raises SchemaMismatch, InvalidStore, Unavailable.
    """
    connect = await asyncio.to_thread(connector)
    wire = Wire(database, connect, random.Random(ids() if ids else None), pace or Pace(), retried)
    store = SpannerStore(wire, namespace)
    try:
        await store.check_schema()
        if prepare:
            await store.prove()
    except BaseException:
        await store.close()
        raise
    return store


class SpannerStore:
    """One namespace of one Spanner database; see `luigi_spanner.stores.Store`. Made by `open`."""

    def __init__(self, wire: Wire, namespace: str) -> None:
        self.namespace = namespace
        self._wire = wire
        self._heavy: int | None = None
        self._schema_seen = -math.inf
        self._proved = False

    async def check_schema(self) -> None:
        """Raise SchemaMismatch unless this release can use the database as it is (I11), InvalidStore, Unavailable."""
        try:
            revision, min_compatible = await self._wire.attempts(self._revision, patient=True)
        except Fault as fault:
            raise self._error(fault) from fault
        mismatch = migrate.compatible(revision, min_compatible, self._url())
        if mismatch:
            raise SchemaMismatch(mismatch)
        self._schema_seen = asyncio.get_running_loop().time()

    async def prove(self) -> None:
        """Find out now whether this process may write, by a truncation that takes nothing. Raises as `check_schema` does."""
        await self.truncate(GENESIS)
        self._proved = True

    async def has_namespace(self) -> bool:
        """Whether the namespace has been created. Raises as reads do."""
        return await self._reading(lambda attempt: self._view(attempt).exists())

    async def load(self) -> Snapshot:
        seconds = self._wire.pace.load
        snapshot = await self._reading(self._snapshot, seconds)
        if snapshot is None:
            await self._create_namespace()
            snapshot = await self._reading(self._snapshot, seconds)
        if snapshot is None:
            raise InvalidStore(f"The namespace {self.namespace} of {self._wire.database} has lost its whole journal.")
        return snapshot

    async def read_after(self, seq: int) -> list[Entry]:
        # What was too much for one attempt is too much for the next one, so that asks for less.
        limits = chain((READ_LIMIT, 32), repeat(1))
        return await self._reading(lambda attempt: self._after(attempt, seq, next(limits)))

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        """Insert `entry`, link its predecessor to it, write `rows`: all or nothing.

        A passing fault is retried with the same commit id. So Conflict may mean that the entry which is there is this very
        one, landed by an attempt whose reply was lost: the caller compares commit ids (I3). Raises Closed if it was before.
        """
        if seq != entry.seq:
            raise ValueError(f"entry {entry.seq} cannot be committed under number {seq}")
        if self._wire.closed:
            raise Closed("the store is closed")
        refused = bounds.check(self.namespace, entry, rows)
        if refused is not None:
            return refused
        request = _commit_request()
        spanner_values.put_entry(request.mutations, self.namespace, entry)
        spanner_values.put_rows(request.mutations, self.namespace, rows)
        size = request.ByteSize()
        if size > MESSAGE_BYTES:
            return Refused(reason=f"a commit of {size} bytes as Spanner takes it, at most {MESSAGE_BYTES} are allowed")
        try:
            at = await self._send(request, size, patient=False)
        except Fault as fault:
            return await self._outcome(seq, fault)
        self._note_weight(entry)
        return Committed(at=at)

    async def truncate(self, before: int) -> None:
        request = _commit_request()
        spanner_values.put_truncation(request.mutations, self.namespace, before)
        try:
            await self._send(request, request.ByteSize(), patient=True)
        except Fault as fault:
            raise self._error(fault) from fault

    async def close(self) -> None:
        await self._wire.close()

    async def _send(self, request: Any, size: int, *, patient: bool) -> float:
        """Commit `request`; the commit's time in seconds since the epoch. Raises Fault, in doubt if any attempt was."""
        in_doubt = False

        async def once(attempt: Attempt) -> Any:
            nonlocal in_doubt
            request.session = attempt.session
            try:
                return await self._commit_once(request, attempt.timeout)
            except Fault as fault:
                in_doubt = in_doubt or fault.meaning in IN_DOUBT
                raise

        try:
            at = await self._wire.attempts(once, patient=patient, size=size)
        except Fault as fault:
            fault.in_doubt = in_doubt
            raise
        return float(at.seconds + at.nanos / 1e9)

    async def _commit_once(self, request: Any, timeout: float) -> Any:
        reply = await self._wire.call("Commit", request, types.CommitResponse.pb(), timeout)
        while reply.HasField("precommit_token"):  # not committed yet: Spanner asks for the same again with its token
            request.precommit_token.CopyFrom(reply.precommit_token)
            reply = await self._wire.call("Commit", request, types.CommitResponse.pb(), timeout)
        return reply.commit_timestamp

    async def _outcome(self, seq: int, fault: Fault) -> Outcome:
        if fault.meaning is Meaning.TAKEN:
            return Conflict()
        if fault.meaning is Meaning.REFUSED:
            return _refused(fault)
        if fault.meaning is Meaning.MISSING:
            return await self._outcome_of_missing(seq, fault)
        if fault.meaning is not Meaning.CLOSED:
            logger.debug("Nobody knows yet whether entry %d was written: %s", seq, fault.reason)
        return Unknown(reason=fault.reason)

    async def _outcome_of_missing(self, seq: int, fault: Fault) -> Outcome:
        """A missing predecessor and a missing table or column look alike: look whether it is the predecessor."""

        async def predecessor(attempt: Attempt) -> list[int]:
            return await self._view(attempt).seqs(seq - 1, 1)

        try:
            found = await self._wire.attempts(predecessor, patient=True)
        except Fault as second:
            return Unknown(reason=second.reason)
        return _refused(fault) if found == [seq - 1] else Conflict()

    async def _reading(self, once: Read[T], deadline: float = 0.0) -> T:
        if asyncio.get_running_loop().time() - self._schema_seen > SCHEMA_SECONDS:
            await self.check_schema()
        try:
            return await self._wire.attempts(once, patient=True, deadline=deadline)
        except Fault as fault:
            raise self._error(fault) from fault

    def _error(self, fault: Fault) -> StoreError:
        database = self._wire.database
        if fault.meaning is Meaning.CLOSED:
            return Closed("the store is closed")
        if fault.meaning is Meaning.NO_DATABASE:
            return SchemaMismatch(spanner_sentences.missing(database))
        if fault.meaning is Meaning.MISSING:
            remedy = f"`luigi-spanner db upgrade --store {self._url()}`"
            return SchemaMismatch(f"The database's schema is not this release's ({fault.reason}): run {remedy}.")
        if fault.meaning is Meaning.BARRED:
            # Later it is an outage: credentials are renewed and permissions mended while replicas wait.
            kind = Unavailable if self._proved else InvalidStore
            return kind(spanner_sentences.barred(database, fault.reason))
        if fault.meaning in (Meaning.REFUSED, Meaning.TAKEN):
            return InvalidStore(spanner_sentences.refused(database, fault.reason))
        return Unavailable(spanner_sentences.silent(database, fault.reason))

    def _url(self) -> str:
        return spanner_sentences.url(self._wire.database)

    def _view(self, attempt: Attempt) -> View:
        return View(wire=self._wire, namespace=self.namespace, attempt=attempt)

    async def _revision(self, attempt: Attempt) -> tuple[str | None, int | None]:
        view = self._view(attempt)
        revisions = await _unless_missing(view.column("alembic_version", "version_num"))
        oldest = await _unless_missing(view.column("compatibility", "min_compatible"))
        return max(revisions, default=None), max(oldest, default=None)

    async def _snapshot(self, attempt: Attempt) -> Snapshot | None:
        """The state at one timestamp, None without a journal."""
        view = await self._view(attempt).frozen()
        found = await view.head()
        if found is None:
            return None
        head, watermark = found
        tables = {name: await view.table(table) for name, table in schema.STATE_TABLES.items()}
        first = min(watermark + 1, head)
        entries = await view.entries(first)
        if [entry.seq for entry in entries] != list(range(first, max(head + 1, first + len(entries)))):
            raise InvalidStore(f"The journal of namespace {self.namespace} lacks entries between {first} and {head}.")
        self._note_weight(entries[-1])
        return Snapshot(head=entries[head - first], tables=tables, entries=entries if watermark < head else entries[1:])

    async def _after(self, attempt: Attempt, seq: int, limit: int) -> list[Entry]:
        view = self._view(attempt)
        now = asyncio.get_running_loop().time()
        if seq == self._heavy and await view.seqs(seq, 2) == [seq]:
            return []
        # Entry `seq` is read as well, to see that it is there.
        enough = (now + attempt.until) / 2  # on a slow way, some entries now rather than all of them too late
        found = await view.entries(seq, limit=1 + limit, room=READ_BYTES, enough=enough, known=seq)
        if not found or found[0].seq != seq:
            raise Truncated(f"Entry {seq} of namespace {self.namespace} is no longer in the journal.")
        self._note_weight(found[-1])
        return found[1:]

    def _note_weight(self, head: Entry) -> None:
        self._heavy = head.seq if _payload_bytes(head) > HEAVY_BYTES else None

    async def _create_namespace(self) -> None:
        """Create the namespace with its genesis entry, unless another replica just did."""
        request = _commit_request()
        spanner_values.put_namespace(request.mutations, self.namespace)
        try:
            await self._send(request, request.ByteSize(), patient=True)
        except Fault as fault:
            if fault.meaning is not Meaning.TAKEN:
                raise self._error(fault) from fault


async def _unless_missing(column: Awaitable[list[T]]) -> list[T]:
    """A column's values, none if there is no such table."""
    try:
        return await column
    except Fault as fault:
        if fault.meaning is Meaning.MISSING:
            return []
        raise


def _refused(fault: Fault) -> Outcome:
    """What a refusal says: of its own attempt nothing was written, but an earlier one may have landed."""
    return Unknown(reason=fault.reason) if fault.in_doubt else Refused(reason=fault.reason)


def _payload_bytes(entry: Entry) -> int:
    return len(entry.calls) + len(entry.changes)


def _commit_request() -> Any:
    request = types.CommitRequest.pb()()
    request.single_use_transaction.read_write.SetInParent()
    # A commit is known by its transaction tag in the statistics, by its request tag in the trace.
    request.request_options.request_tag = TAG.format("commit")
    request.request_options.transaction_tag = TAG.format("commit")
    return request
