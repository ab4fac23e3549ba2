"""A batch: calls that wait together, run together, and become durable together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice
from typing import Any

from luigi_spanner.calls import REQUEST_ID, BadRequest, Call, CallError, RuleFailed, StoreDown, TooLarge, UnknownTask
from luigi_spanner.graph.coordination import RulesMismatch
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.ledger import Ledger, Sealed, Unstorable
from luigi_spanner.graph.state import NoSuchBatch
from luigi_spanner.graph.tracker import RowId, Savepoint
from luigi_spanner.graph.why import NoSuchTask
from luigi_spanner.journal import CallRecord, Entry, Row, compact, encode, pack
from luigi_spanner.stores import COMMIT_BYTES, COMMIT_ROWS
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

BATCH_CALLS = 1000
"""Most calls of one batch: it bounds the time that the event loop is busy, and the entry's audit trail."""

RIDE_ALONG = 48
"""How many rows a busy commit takes along at least when the tables are late. Measured on the emulator: 10 rows double a commit,
50 make it eight times as long, so as long as they are not late a busy replica lets them wait; a row that changes again
meanwhile is written once."""

IDLE_ROWS = 250
"""Most rows of a commit for which nobody waits. Measured on the emulator: 200 rows take 15 ms, and a call may come meanwhile."""

OWED_ROWS = 20_000
"""From how many waiting rows on the tables are late: a restart puts them in order again, at some 0.04 ms a row (measured)."""

LATE_ENTRIES = 2000
"""From how many entries behind on the tables are late: a restart replays what they lack, at some 0.1 ms an entry and what
OWED_ROWS says."""

OWED_LOOKED_AT = 100_000
"""Most owed rows that one commit looks at; a dead worker's are many and go with one write."""

ROWS_BYTES = 16 * 1024 * 1024
"""About how many bytes of rows one commit takes along; an entry's own payload has what COMMIT_BYTES leaves."""

CHANGES_BYTES = COMMIT_BYTES - 2 * ROWS_BYTES
"""About how many bytes of changes one batch gathers. A single call may have more, up to COMMIT_BYTES, and takes no rows along."""

START = Savepoint(undo=0, effects=0)
"""Before the batch."""


@dataclass(eq=False, slots=True)
class Waiting:
    """A call that waits for its answer: a reply or an error, once. `encoded`: the reply is wanted as JSON in bytes.

    `answered` is called with it then, and again is harmless. A call that was given up before it ran is never run (I13).
    """

    call: Call
    run: Callable[..., Any]
    encoded: bool = True
    answered: Callable[[Waiting], None] | None = None
    given_up: bool = False
    reply: Any = field(default=None, repr=False)
    error: Exception | None = None
    done: bool = False

    @property
    def dropped(self) -> bool:
        return self.given_up or self.call.abandoned

    def drop(self) -> None:
        """Answer a call that nobody waits for."""
        self.error = StoreDown("the caller has gone")
        self.answer()

    def answer(self) -> None:
        if self.done:
            return
        self.done = True
        if isinstance(self.error, RuleFailed):
            # Not before: on the state that the replica had before it caught up, a rule may fail for a call that then succeeds.
            cause = self.error.__cause__ or self.error
            about = {"request_id": self.call.request_id}
            message = "Call %s of request %s failed and was undone"
            logger.error(message, self.call.method, self.call.request_id, exc_info=without_words(cause), extra=about)
        if self.answered is not None:
            self.answered(self)


@dataclass(eq=False, slots=True)
class Ran:
    """A batch that has run in memory: what it changed, and the calls whose changes these are."""

    calls: list[Waiting] = field(default_factory=list)
    left: list[Waiting] = field(default_factory=list)
    texts: list[str] = field(default_factory=list, repr=False)
    row_ids: dict[RowId, None] = field(default_factory=dict)
    records: list[CallRecord] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.texts)

    def add(self, sealed: Sealed) -> None:
        if sealed:
            self.texts.append(sealed.text)
            self.row_ids.update(dict.fromkeys(sealed.row_ids))


def run(graph: Graph, batch: Iterable[Waiting], seq: int) -> Ran:
    """Run each call of `batch` that is still wanted, as part of entry `seq`. One that raises is undone alone (I4)."""
    ran = Ran()
    size = 0
    graph.tracker.begin(seq)
    calls = iter(batch)
    for waiting in calls:
        if waiting.dropped:
            waiting.drop()
            continue
        savepoint = graph.tracker.savepoint()
        sealed = _run_one(graph, waiting)
        size += len(sealed.text)
        if size > CHANGES_BYTES and ran.texts:
            graph.tracker.rollback(savepoint)
            ran.left = [waiting, *calls]
            break
        ran.calls.append(waiting)
        if sealed:
            ran.add(sealed)
            ran.records.append(waiting.call.record(graph.now()))
    if ran.texts:
        # The liveness of workers goes along in an entry that is written anyway (I7).
        graph._state.fold_liveness(min(1.0, graph._state.grain / 2))
        ran.add(graph.ledger.seal())
    return ran


def _run_one(graph: Graph, waiting: Waiting) -> Sealed:
    savepoint = graph.tracker.savepoint()
    waiting.reply = waiting.error = None
    about = REQUEST_ID.set(waiting.call.request_id)
    try:
        result = graph.run(waiting.run, waiting.call.arguments)
        waiting.reply = compact(result).encode("ascii") if waiting.encoded else result
        return graph.ledger.seal()
    except Exception as error:  # Luigi's rules may raise anything: the call ends with it, its neighbours are unharmed.
        graph.tracker.rollback(savepoint)
        waiting.error = error if not waiting.encoded else _as_call_error(waiting.call, error)
        return Sealed(text="", row_ids=())
    finally:
        REQUEST_ID.reset(about)


def _as_call_error(call: Call, error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, Unstorable):
        return TooLarge(str(error))
    if isinstance(error, (NoSuchBatch, RulesMismatch)):
        return BadRequest(str(error))
    if isinstance(error, NoSuchTask):
        return UnknownTask(str(error))
    failed = RuleFailed(f"the scheduler failed on {call.method}; the log has request {call.request_id}")
    failed.__cause__ = error
    return failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An entry about to be committed, the rows that ride along, and which rows it changes and writes."""

    entry: Entry
    rows: list[Row]
    changed: Collection[RowId]
    written: Collection[RowId]


def draft(graph: Graph, ran: Ran, *, replica: str, commit_id: str, clock: float, load: Load, turn: bool = False) -> Draft:
    """The entry that makes `ran` durable, with the rows that it takes along."""
    ledger = graph.ledger
    seq = ledger.applied + 1
    changes = pack(f"[{','.join(ran.texts)}]".encode("ascii"))
    chosen = Chosen() if len(changes) > CHANGES_BYTES else _choose(ledger, ran.row_ids, load)
    entry = Entry(
        seq=seq,
        commit_id=commit_id,
        replica=replica,
        clock=clock,
        watermark=ledger.pending.watermark_without(chosen.owed, ran.row_ids, seq),
        digest=ledger.digest,
        turn=turn,
        calls=encode([[r.request_id, r.principal, r.method, r.task, r.worker, r.time] for r in ran.records]),
        changes=changes,
    )
    return Draft(entry=entry, rows=chosen.rows, changed=ran.row_ids, written=chosen.owed)


class Load(Enum):
    """How much a commit may carry besides its changes."""

    IDLE = auto()
    """Nobody waits: as many rows as may hold up whoever comes meanwhile."""
    BUSY = auto()
    """Others wait, or will in a moment: rows only when the tables are late."""
    LEAN = auto()
    """No rows: the commit must be quick."""
    BULK = auto()
    """Nobody is served: as many rows as a commit may carry."""


@dataclass(eq=False, slots=True)
class Chosen:
    """Rows to take along, and which of the owed rows, the oldest, they settle."""

    rows: list[Row] = field(default_factory=list)
    owed: dict[RowId, None] = field(default_factory=dict)


def _choose(ledger: Ledger, changed: Mapping[RowId, None], load: Load) -> Chosen:
    """The rows to take along, oldest first: all when nobody waits, as many as come in when too many wait, else none."""
    limit = _limit(ledger, len(changed), load)
    chosen = Chosen()
    size = 0
    whole: set[RowId] = set()
    for row_id in islice(ledger.pending.with_new(changed), OWED_LOOKED_AT if limit else 0):
        row = ledger.row(row_id)
        if (row.table, row.key) not in whole:
            size += len(row.body or b"") + sum(len(value) for value in row.columns.values() if isinstance(value, str))
            if len(chosen.rows) >= limit or (chosen.rows and size > ROWS_BYTES):
                break
            chosen.rows.append(row)
            if row.key != row_id[1]:
                whole.add((row.table, row.key))
        chosen.owed[row_id] = None
    return chosen


def _limit(ledger: Ledger, changed: int, load: Load) -> int:
    """Most rows that the commit takes along."""
    if load in (Load.IDLE, Load.BULK):
        return IDLE_ROWS if load is Load.IDLE else COMMIT_ROWS
    late = ledger.applied - ledger.watermark > LATE_ENTRIES or len(ledger.pending) > OWED_ROWS
    if load is Load.LEAN or not late:
        return 0
    # Twice what comes in, so that the tables come nearer however busy the replica is.
    return min(max(RIDE_ALONG, 2 * changed), COMMIT_ROWS)
