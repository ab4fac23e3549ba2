"""The replica: the commit loop. Calls that wait together run together and become durable together, or not at all.

`_settle` is the whole protocol: run, commit, on a conflict undo and catch up, then release effects and answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeVar

from luigi_spanner import batch as batches
from luigi_spanner import collector
from luigi_spanner.batch import Draft, Load, Ran, Waiting
from luigi_spanner.calls import CallError, StoreDown, TooLarge
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.ledger import Divergence
from luigi_spanner.graph.tracker import Effect
from luigi_spanner.journal import Entry
from luigi_spanner.offset import Offset
from luigi_spanner.stores import (
    READ_BYTES,
    READ_LIMIT,
    Closed,
    Committed,
    Refused,
    Store,
    StoreError,
    Truncated,
    Unavailable,
    Unknown,
)
from luigi_spanner.turns import Turns

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.02, 1.0)
"""First and longest pause between attempts to reach a store that does not answer; each pause doubles."""

QUIET_SECONDS = 2.0
"""After how long without another replica's entry the rows that it left are written by whoever notices."""

CALM_SECONDS = 0.05
"""How long nobody must have called for the rows that the tables owe to be written: several times what a worker takes between
two calls."""

TRUNCATE_EVERY = 1000
"""Entries between two truncations of the journal."""


class _RefusedEntry(Exception):
    """The store can never hold the entry."""


class _LostTrack(Exception):
    """The entry may have landed, and the journal no longer tells."""


class Fate(Enum):
    """What became of an entry whose commit did not end well."""

    OURS = auto()
    """It is in the journal."""
    ANOTHER = auto()
    """Another entry has its number, or it is too old to tell: it can never land."""
    ABSENT = auto()
    """It is not there, and may still land."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much. `journal_keep`: entries that truncation leaves; `offset_bound`: seconds beyond which a clock is corrected."""

    journal_keep: int = 100_000
    offset_bound: float = math.inf


class Replica:
    """One replica of a namespace: a graph in memory that follows the journal and adds to it.

    `ids()` gives a new random id, `clock()` seconds since the epoch, `sleep(s)` pauses; all are passed in so that a run can
    be repeated. `release_slow(run)` takes an effect that may block out of the way.
    """

    def __init__(
        self,
        *,
        name: str,
        namespace: str,
        store: Store,
        graph: Graph,
        ids: Callable[[], str],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        limits: Limits | None = None,
        release_slow: Callable[[Callable[[], object]], None] | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.graph = graph
        self.limits = limits or Limits()
        self._fault: Exception | None = None
        self.contact = clock()
        self._store = store
        self._ids = ids
        self._clock = clock
        self._sleep = sleep
        self._release_slow = release_slow or (lambda run: run())
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self.failed = asyncio.Event()
        self._stopping = False
        self._turns = Turns(name, clock)
        self.offset = Offset(clock, self.limits.offset_bound)
        self._truncated = 0
        self._foreign = -math.inf
        self._defers = False
        self._used = -math.inf
        self._calm: asyncio.TimerHandle | None = None

    @property
    def failure(self) -> str | None:
        """Why the replica serves no more, None while it does."""
        return None if self._fault is None else str(self._fault) or type(self._fault).__name__

    # The commit loop

    async def load(self) -> None:
        """Take the state from the tables and the journal after the watermark. Raises StoreError, Divergence."""
        asked = self._clock()
        with collector.paused():
            self.graph.ledger.load(await self._store.load())
        self.graph.refill()
        self.contact = asked

    def submit(self, waiting: Waiting) -> None:
        """Let a call wait for the next batch."""
        self._queue.append(waiting)
        self._wake.set()

    def stop(self) -> None:
        """Let `run` end once everything submitted is answered."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Answer what is submitted, a batch at a time, until stopped."""
        self._defers = True
        while self._queue or not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self.settle([self._queue.popleft() for _ in range(min(len(self._queue), batches.BATCH_CALLS))])
                await self._truncate()
            if not self._in_use():
                await self._flush()
            elif self.graph.ledger.pending and self._calm is None:
                self._calm = asyncio.get_running_loop().call_later(CALM_SECONDS, self._look_again)
        if self._calm is not None:
            self._calm.cancel()
        await self._flush()

    def _look_again(self) -> None:
        self._calm = None
        self._wake.set()

    def _in_use(self) -> bool:
        """Whether somebody called a moment ago and will probably call again in a moment: rows then wait for the end of it, when
        whatever changed several times is written once."""
        return bool(self._queue) or (self._defers and 0 <= self._clock() - self._used < CALM_SECONDS)

    async def settle(self, batch: list[Waiting]) -> None:
        """Answer every call of `batch`, each once; StoreDown for all if the replica fails."""
        try:
            while batch and self._fault is None:
                batch = await self._settle(batch)
        except Exception as error:  # Whatever it is, nobody may be told that all is well: this replica has come to its end.
            self.fail(error)
        except BaseException:
            # Ctrl-C, or the end of the event loop: whether a commit under way will land cannot be waited for.
            self.fail(Closed("interrupted while a call was under way; what it did is known to the store only"))
            raise
        finally:
            for waiting in batch:
                down = StoreDown(self.failure or "this replica is stopping")
                waiting.error = waiting.error or (self._fault if self._fault is not None and not waiting.encoded else down)
                waiting.answer()

    async def _settle(self, batch: list[Waiting]) -> list[Waiting]:
        """Make `batch` durable and answer it, in as many tries as it takes; returns the calls that did not fit."""
        losses = 0
        fresh = False
        while True:
            await self._turns.await_ours(self._sleep, self._catch_up)
            ran = self._run(batch)
            if not ran.changed:
                if fresh or not await self._catch_up():
                    break
                fresh = True
                continue
            try:
                if await self._commit_batch(ran, Load.LEAN if losses else self._load()):
                    break
            except _RefusedEntry as refused:
                return await self._refuse(ran, str(refused))
            except _LostTrack:
                return await self._give_up(ran)
            self._undo()
            await self._catch_up()
            losses += 1
            fresh = True
            if self._turns.asks_after(losses):
                await self._ask_for_turn()
        self._used = self._clock()
        self._release(self.graph.tracker.settle())
        for waiting in ran.calls:
            waiting.answer()
        return ran.left

    async def _commit_batch(self, ran: Ran, load: Load) -> bool:
        """Whether the batch is durable. A refusal may be a row's that an older entry owes, so it is tried without rows too."""
        draft = self._draft(ran, load)
        try:
            committed = await self._commit(draft)
        except _RefusedEntry:
            if not draft.rows:
                raise
            draft = self._draft(ran, Load.LEAN)
            committed = await self._commit(draft)
        if committed:
            self._adopt(draft)
        return committed

    async def _commit(self, draft: Draft) -> bool:
        """Whether the entry is durable; if not, it never will be. While that is unknown, nothing else happens (I3)."""
        pause = RETRY_SECONDS[0]
        doubt = False
        while True:
            sent = self._clock()
            outcome = await self._store.commit(draft.entry.seq, draft.entry, draft.rows)
            match outcome:
                case Committed(at=at):
                    self.contact = sent
                    self.offset.measure(at, sent, self._clock())
                    return True
                case Refused(reason=reason) if not doubt:
                    raise _RefusedEntry(reason)
                case Unknown():
                    doubt = True
            fate = await self._fate(draft.entry, doubt)
            if fate is not Fate.ABSENT:
                return fate is Fate.OURS
            if isinstance(outcome, Refused):
                raise _RefusedEntry(outcome.reason)
            await self._sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _fate(self, entry: Entry, doubt: bool) -> Fate:
        """What became of the entry. `doubt`: an attempt may have landed."""
        try:
            found = await self._read_after(entry.seq - 1)
        except Truncated:
            if doubt:
                raise _LostTrack from None
            return Fate.ANOTHER
        if not found:
            return Fate.ABSENT
        return Fate.OURS if found[0].commit_id == entry.commit_id else Fate.ANOTHER

    async def _catch_up(self) -> bool:
        """Undo what is not committed and apply what others have; whether there was anything. One strong read tells (I1)."""
        caught_up = False
        while True:
            try:
                entries = await self._read_after(self.graph.ledger.applied)
            except Truncated:
                logger.warning("This replica is behind the journal's oldest entry; loading the tables again")
                self._undo()
                await self._insist(self.load)
                return True
            if entries:
                caught_up = True
                self._foreign = self._clock()
                self._undo()
                for entry in entries:
                    self.graph.run(self.graph.ledger.apply, {"entry": entry})
                    self._turns.seen(entry)
                self.graph.refill()
            if len(entries) < READ_LIMIT and sum(len(entry.changes) for entry in entries) < READ_BYTES:
                return caught_up

    async def _read_after(self, seq: int) -> list[Entry]:
        """The store's answer, however long it takes. Raises Truncated."""

        async def read() -> list[Entry]:
            # What the answer says was so when the question was sent: a process may have stood still since.
            asked = self._clock()
            entries = await self._store.read_after(seq)
            self.contact = asked
            return entries

        return await self._insist(read)

    async def _insist(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gives, tried until the store answers."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                return await read()
            except Unavailable as error:
                logger.warning("The store does not answer: %s", error)
                await self._sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS[1])

    async def _ask_for_turn(self) -> None:
        """Commit a tiny entry that asks the others to give way (I14); if it loses too, the next try asks again."""
        draft = self._draft(Ran(), Load.LEAN, turn=True)
        try:
            if await self._commit(draft):
                self._adopt(draft)
            else:
                await self._catch_up()
        except _RefusedEntry as refused:
            logger.warning("The store refuses a request for a turn: %s", refused)
        except _LostTrack:
            # Whether it landed or not, it says nothing that could be doubled.
            await self._catch_up()

    async def _refuse(self, ran: Ran, reason: str) -> list[Waiting]:
        """The store can never hold what these calls changed: each is tried alone, and the one at fault is answered so."""
        self._undo()
        if len(ran.calls) == 1:
            (waiting,) = ran.calls
            waiting.error = TooLarge(reason)
            waiting.answer()
        else:
            for waiting in ran.calls:
                await self.settle([waiting])
        return ran.left

    async def _give_up(self, ran: Ran) -> list[Waiting]:
        """Nobody can tell any more whether these calls happened, and running them again might double them."""
        self._undo()
        await self._insist(self.load)
        for waiting in ran.calls:
            waiting.error = StoreDown("the store was away for so long that the outcome is no longer known")
            waiting.answer()
        return ran.left

    async def _flush(self) -> None:
        """While nobody waits, write the rows that the tables owe, as entries that change nothing (I8). What another replica left
        is its own to write, unless it has been quiet."""
        while self._may_flush():
            try:
                await self._turns.await_ours(self._sleep, self._catch_up)
                draft = self._draft(Ran(), Load.IDLE)
                if await self._commit(draft):
                    self._adopt(draft)
                else:
                    await self._catch_up()
            except (_RefusedEntry, _LostTrack) as error:
                logger.error("Rows that the tables owe cannot be written: %r", error)
                return
            except Exception as error:  # As in `settle`.
                self.fail(error)

    def _may_flush(self) -> bool:
        quiet = self._clock() - self._foreign >= QUIET_SECONDS
        return bool(self.graph.ledger.pending) and not self._queue and quiet and self._fault is None

    async def tidy(self) -> None:
        """What `run` does between batches, for whoever drives `settle` by hand."""
        await self._truncate()
        await self._flush()

    async def _truncate(self) -> None:
        """Now and then forget the journal's oldest entries; never beyond the watermark (I9)."""
        ledger = self.graph.ledger
        before = min(ledger.watermark, ledger.applied - self.limits.journal_keep)
        if before - self._truncated >= TRUNCATE_EVERY and self._fault is None:
            self._truncated = before
            try:
                await self._store.truncate(before)
            except StoreError as error:
                logger.warning("The journal could not be truncated: %s", error)

    # Its steps in memory

    def _run(self, batch: list[Waiting]) -> Ran:
        return batches.run(self.graph, batch, self.graph.ledger.applied + 1)

    def _load(self) -> Load:
        return Load.BUSY if self._in_use() else Load.IDLE

    def _draft(self, ran: Ran, load: Load, *, turn: bool = False) -> Draft:
        return batches.draft(
            self.graph, ran, replica=self.name, commit_id=self._ids(), clock=self.offset.now(), load=load, turn=turn
        )

    def _adopt(self, draft: Draft) -> None:
        self.graph.ledger.committed(draft.entry.seq, draft.entry.watermark, draft.changed, draft.written)
        self._turns.seen(draft.entry)

    def _undo(self) -> None:
        self.graph.tracker.rollback(batches.START)

    def _release(self, effects: list[Effect]) -> None:
        for effect in effects:
            try:
                self._release_slow(effect.run) if effect.slow else effect.run()
            except Exception:  # A collector or a mailer may raise anything; the change it tells of stands.
                logger.exception("An effect failed")

    def fail(self, error: Exception) -> None:
        """Serve no more: the fault is logged, and every call is answered with it."""
        if not isinstance(error, Closed):
            foreseen = isinstance(error, (Divergence, StoreError, CallError))
            logger.critical("This replica stops serving: %s", error, exc_info=None if foreseen else error)
        self._fault = error
        self.failed.set()
        self._undo()
