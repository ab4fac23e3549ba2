"""A batch: calls that wait together, run together, and become durable together."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from luigi_spanner.calls import BadRequest, Call, CallError, RuleFailed, StoreDown, TooLarge
from luigi_spanner.digest import format_digest
from luigi_spanner.graph.graph import Graph, RulesMismatch
from luigi_spanner.graph.ledger import Unstorable
from luigi_spanner.graph.pending import Pending
from luigi_spanner.graph.tracker import RowId, Savepoint
from luigi_spanner.journal import CallRecord, Entry, Row, encode, pack
from luigi_spanner.stores import COMMIT_BYTES, COMMIT_ROWS

logger = logging.getLogger(__name__)

BATCH_CALLS = 1000
"""Most calls of one batch: it bounds the time that the event loop is busy, and the entry's audit trail."""

RIDE_ALONG = 48
"""Up to how many rows are written by the commit that changes them. Measured on the emulator: 10 rows double a commit, 50 make it
eight times as long, so a busy replica lets them wait."""

OWED_ROWS = 2000
"""From how many waiting rows on even a busy commit takes some along."""

ROWS_BYTES = 16 * 1024 * 1024
"""About how many bytes of rows one commit takes along; an entry's own payload has what COMMIT_BYTES leaves."""

CHANGES_BYTES = COMMIT_BYTES - 2 * ROWS_BYTES
"""About how many bytes of changes one batch gathers. A single call may have more, up to COMMIT_BYTES, and takes no rows along."""

START = Savepoint(undo=0, effects=0)
"""Before the batch."""


@dataclass(eq=False, slots=True)
class Waiting:
    """A call that waits for its answer: a reply or an error, once. `encoded`: the reply is wanted as JSON text.

    `answered` is called with it then, and again is harmless. A call that was given up before it ran is never run (I13).
    """

    call: Call
    run: Callable[..., Any]
    encoded: bool = True
    answered: Callable[[Waiting], None] | None = None
    given_up: bool = False
    reply: Any = None
    error: Exception | None = None

    @property
    def dropped(self) -> bool:
        return self.given_up or self.call.abandoned

    def answer(self) -> None:
        if self.answered is not None:
            self.answered(self)


@dataclass(eq=False, slots=True)
class Ran:
    """A batch that has run in memory: what it changed, and the calls whose changes these are."""

    calls: list[Waiting] = field(default_factory=list)
    left: list[Waiting] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    row_ids: dict[RowId, None] = field(default_factory=dict)
    records: list[CallRecord] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.texts)


def run(graph: Graph, batch: Iterable[Waiting], seq: int) -> Ran:
    """Run each call of `batch` that is still wanted, as part of entry `seq`. One that raises is undone alone (I4)."""
    ran = Ran()
    size = 0
    graph.tracker.begin(seq)
    calls = iter(batch)
    for waiting in calls:
        if waiting.dropped:
            waiting.error = StoreDown("the caller has gone")
            waiting.answer()
            continue
        savepoint = graph.tracker.savepoint()
        text = _run_one(graph, waiting, ran)
        size += len(text)
        if size > CHANGES_BYTES and ran.texts:
            graph.tracker.rollback(savepoint)
            ran.left = [waiting, *calls]
            break
        ran.calls.append(waiting)
        if text:
            ran.texts.append(text)
    if ran.texts:
        _fold_liveness(graph, ran)
    return ran


def _run_one(graph: Graph, waiting: Waiting, ran: Ran) -> str:
    savepoint = graph.tracker.savepoint()
    waiting.reply = waiting.error = None
    try:
        result = graph.run(waiting.run, waiting.call.arguments)
        waiting.reply = json.dumps(result) if waiting.encoded else result
        sealed = graph.ledger.seal()
    except Exception as error:  # Luigi's rules may raise anything: the call ends with it, its neighbours are unharmed.
        graph.tracker.rollback(savepoint)
        waiting.error = error if not waiting.encoded else _as_call_error(waiting.call, error)
        return ""
    if sealed:
        ran.records.append(waiting.call.record(graph.now()))
        ran.row_ids.update(dict.fromkeys(sealed.row_ids))
    return sealed.text


def _fold_liveness(graph: Graph, ran: Ran) -> None:
    """Take the liveness of workers along in an entry that is written anyway (I7)."""
    graph._state.fold_liveness(min(1.0, graph._state.grain / 2))
    sealed = graph.ledger.seal()
    if sealed:
        ran.texts.append(sealed.text)
        ran.row_ids.update(dict.fromkeys(sealed.row_ids))


def _as_call_error(call: Call, error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, Unstorable):
        return TooLarge(str(error))
    if isinstance(error, RulesMismatch):
        return BadRequest(str(error))
    logger.exception("Call %s of request %s failed and was undone", call.method, call.request_id)
    return RuleFailed(f"the scheduler failed on {call.method}; the log has request {call.request_id}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An entry about to be committed, the rows that ride along, and what the tables owe once it is durable."""

    entry: Entry
    rows: list[Row]
    pending: Pending


def draft(graph: Graph, ran: Ran, *, replica: str, commit_id: str, clock: float, busy: bool, turn: bool = False) -> Draft:
    """The entry that makes `ran` durable. `busy`: others wait, so rows may follow later (I8)."""
    ledger = graph.ledger
    seq = ledger.applied + 1
    pending = ledger.pending.copy()
    pending.add(ran.row_ids, seq)
    changes = pack(f"[{','.join(ran.texts)}]".encode("ascii"))
    rows = [] if len(changes) > CHANGES_BYTES else _choose(ledger.rows, pending, busy=busy)
    entry = Entry(
        seq=seq,
        commit_id=commit_id,
        replica=replica,
        clock=clock,
        watermark=pending.watermark_without(len(rows), seq),
        digest=format_digest(ledger.digest),
        turn=turn,
        calls=encode([[r.request_id, r.principal, r.method, r.task, r.worker, r.time] for r in ran.records]),
        changes=changes,
    )
    pending.written(len(rows))
    return Draft(entry=entry, rows=rows, pending=pending)


def _choose(rows_of: Callable[[Iterable[RowId]], list[Row]], pending: Pending, *, busy: bool) -> list[Row]:
    """The rows to take along, oldest first: all when they are few, some when many wait, none when the replica is busy."""
    if busy and RIDE_ALONG < len(pending) <= OWED_ROWS:
        return []
    limit = COMMIT_ROWS if len(pending) > OWED_ROWS or not busy else RIDE_ALONG
    rows: list[Row] = []
    size = 0
    for row_id in pending.oldest(limit):
        (row,) = rows_of([row_id])
        size += len(row.body or b"") + sum(len(value) for value in row.columns.values() if isinstance(value, str))
        if rows and size > ROWS_BYTES:
            break
        rows.append(row)
    return rows
