"""The replica: the commit loop. Calls that wait together run together and become durable together, or not at all.

`_settle` is the whole protocol: run, commit, on a conflict undo and catch up, then release effects and answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from luigi_spanner import batch as batches
from luigi_spanner import collector
from luigi_spanner.batch import Draft, Load, Ran, Waiting
from luigi_spanner.calls import CallError, StoreDown, TooLarge
from luigi_spanner.calm import Calm
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.ledger import Divergence
from luigi_spanner.graph.tracker import Effect
from luigi_spanner.journal import Entry
from luigi_spanner.journal_client import EntryRefused, JournalClient, LostTrack
from luigi_spanner.metrics.meter import Meter
from luigi_spanner.offset import Offset
from luigi_spanner.stores import READ_BYTES, READ_LIMIT, Closed, Store, StoreError, Truncated
from luigi_spanner.tracing import NO_TRACING, Tracing
from luigi_spanner.truncation import Truncation
from luigi_spanner.turns import TRY, Requests, Sent, Turns
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

PRESSED_SECONDS = 0.01
"""A batch that follows the last one so soon, or within a commit's time, is part of a stream of calls: a worker takes as long
between two."""

KNOWN_TRIPS = 2
"""For how many commits' time a look at the journal tells where it ends, while others commit too."""

FORESEEN = (Divergence, StoreError, CallError)
"""Faults whose words are ours; those of others may quote what callers sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much. `journal_keep`: entries that truncation leaves; `offset_bound`: seconds beyond which a clock is corrected;
    `spare`: what a commit carries while nobody waits."""

    journal_keep: int = 100_000
    offset_bound: float = math.inf
    spare: Load = Load.IDLE


class Replica:
    """One replica of a namespace: a graph in memory that follows the journal and adds to it.

    `ids()` gives a new random id, `clock()` seconds since the epoch, `sleep(s)` pauses; all are passed in so that a run can
    be repeated. `meter` counts what happens.
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
        meter: Meter | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.graph = graph
        self.limits = limits or Limits()
        self._fault: Exception | None = None
        self._store = store
        self._ids = ids
        self._clock = clock
        self._sleep = sleep
        self._tracing = tracing
        self._queue: deque[Waiting] = deque()
        self._wake = asyncio.Event()
        self.failed = asyncio.Event()
        self._stopping = False
        self.offset = Offset(clock, self.limits.offset_bound)
        self._meter = meter or Meter(CollectorRegistry(), namespace)
        self._journal = JournalClient(store, clock=clock, sleep=sleep, offset=self.offset, meter=self._meter)
        self._turns = Turns(name, clock)
        self._requests = Requests(name, store, self.offset.now)
        self._truncation = Truncation(store, graph.ledger, self.limits.journal_keep)
        self._live = False
        self._began = -math.inf
        self._calm = Calm(self._turns, clock)
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def failure(self) -> str | None:
        """Why the replica serves no more, None while it does."""
        if self._fault is None:
            return None
        return str(self._fault) if isinstance(self._fault, FORESEEN) else f"it met a bug ({type(self._fault).__name__})"

    @property
    def contact(self) -> float:
        """When the last question was sent that the store has answered."""
        return self._journal.contact

    @property
    def head(self) -> int:
        """Seq of the journal's newest entry, as far as this replica has heard."""
        return max(self._journal.head, self.graph.ledger.applied)

    @property
    def queued(self) -> int:
        """How many calls wait for the next batch."""
        return len(self._queue)

    @property
    def store_lost(self) -> float | None:
        """Since when the store does not answer, or does not take what is to be written; None while it does both."""
        return min((lost for lost in (self._journal.reading.lost, self._journal.writing.lost) if lost is not None), default=None)

    @property
    def writes_lost(self) -> bool:
        """Whether the store has not taken what was last to be written, as far as is known."""
        return self._journal.writing.lost is not None

    @property
    def settled(self) -> float:
        """Until when all that has run in memory is durable: now, or when the batch began whose outcome is not known yet."""
        return self._began if self.graph.tracker.undo else self._clock()

    # The commit loop

    async def load(self) -> None:
        """Take the state from the tables and the journal after the watermark. Raises StoreError, Divergence."""
        with collector.paused():
            self.graph.ledger.load(await self._journal.load())
        self.graph.refill()

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
        self._live = True
        while self._queue or not self._stopping:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                await self.settle(self._gather([]))
                await self._truncate()
            if self._owes() and not self._calm.wait():
                await self._flush_some()
            if self._owes() and self._alarm is None:
                self._alarm = asyncio.get_running_loop().call_later(self._calm.wait(), self._look_again)
        if self._alarm is not None:
            self._alarm.cancel()
        await self._flush()

    def _look_again(self) -> None:
        self._alarm = None
        self._wake.set()

    def _gather(self, batch: list[Waiting]) -> list[Waiting]:
        """The batch with those who have come meanwhile. After an outage many have gone again: they cost nobody a look at the
        journal, else those who are there would wait for them until they go, too."""
        while self._queue and len(batch) < batches.BATCH_CALLS:
            waiting = self._queue.popleft()
            waiting.drop() if waiting.dropped else batch.append(waiting)
        return batch

    async def settle(self, batch: list[Waiting], *, alone: bool = False) -> None:
        """Answer every call of `batch`, each once; StoreDown for all if the replica fails. `alone`: nobody may join them."""
        try:
            while batch and self._fault is None:
                with self._tracing.batch(batch):
                    batch = await self._settle(batch, alone)
        except Exception as error:  # Whatever it is, nobody may be told that all is well: this replica has come to its end.
            self.fail(error)
        except BaseException:
            # Ctrl-C, or the end of the event loop: whether a commit under way will land cannot be waited for.
            self.fail(Closed("interrupted while a call was under way; what it did is known to the store only"))
            raise
        finally:
            for waiting in batch:
                if not waiting.done:
                    # Whatever a run in memory gave, it was never held against the journal.
                    down = StoreDown(self.failure or "this replica is stopping")
                    waiting.error = self._fault if self._fault is not None and not waiting.encoded else down
                    waiting.answer()

    async def _settle(self, batch: list[Waiting], alone: bool) -> list[Waiting]:
        """Make `batch` durable and answer it, in as many tries as it takes; returns the calls that did not fit."""
        turn, losses, missed = self._ids(), 0, 0
        sent: Sent | None = None
        self._began = self._clock()
        fresh = await self._take_turn(batch, alone)
        while True:
            began = self._clock()
            ran = self._run(batch)
            if not ran.changed:
                if fresh or not await self._catch_up():
                    break
                fresh = True
                continue
            if self._live and self._turns.asks_after(losses):
                # In case that it is lost again.
                sent = self._requests.send(turn, losses, self.graph.ledger.applied + 2, missed + 1)
            try:
                with self._tracing.commit(self.graph.ledger.applied + 1) as step:
                    found = await self._commit_batch(ran, turn, losses)
                    step.ends(outcome="committed" if found is None else "conflict")
            except EntryRefused as refused:
                return await self._refuse(ran, str(refused))
            except LostTrack:
                return await self._give_up(ran)
            if found is None:
                self._turns.took(self._clock() - began)
                break
            losses += 1
            missed = await self._catch_up(await self._with_requests(found, sent))
            if not self._live and self._turns.asks_after(losses - 1):
                await self._requests.commit(turn, self.graph.ledger.applied + 1)
                await self._catch_up()
            fresh = await self._take_turn(batch, alone)
        self._calm.used = self._clock()
        self._meter.batch(len(ran.calls), losses + 1)
        self._release(self.graph.tracker.settle())
        for waiting in ran.calls:
            waiting.answer()
        if sent is not None:
            sent.needless = True
            for entry in await sent.known(self._journal.round_trip):
                # Else the next batch would lose against our own request.
                if entry.seq == self.graph.ledger.applied + 1:
                    self._apply(entry)
        return ran.left

    async def _with_requests(self, found: list[Entry], sent: Sent | None) -> list[Entry]:
        """What was found in the journal, and our own requests that have landed right after it."""
        for entry in await sent.known(self._journal.round_trip) if sent is not None else ():
            if found and entry.seq == found[-1].seq + 1:
                found.append(entry)
        return found

    async def _take_turn(self, batch: list[Waiting], alone: bool) -> bool:
        """Give way to those who asked before, and let calls join that came meanwhile. Whether memory stood at the journal's head
        after all of them had come."""
        await self._turns.await_ours(self._sleep, self._catch_up)
        if self._live and not alone:
            self._gather(batch)
        if self._turns.contended and self._clock() - self.contact > KNOWN_TRIPS * self._journal.round_trip:
            # Somebody has probably committed since: a look costs less than a commit that is lost.
            await self._catch_up()
            return True
        return False

    async def _commit_batch(self, ran: Ran, turn: str, losses: int) -> list[Entry] | None:
        """As `JournalClient.commit`. A refusal may be a row's that an older entry owes, so it is tried without rows too."""
        draft = self._draft(ran, Load.LEAN if losses else self._load(), f"{turn}{TRY}{losses}")
        try:
            found = await self._journal.commit(draft.entry, draft.rows)
        except EntryRefused:
            if not draft.rows:
                raise
            draft = self._draft(ran, Load.LEAN, f"{turn}{TRY}{losses}{TRY}")
            found = await self._journal.commit(draft.entry, draft.rows)
        if found is None:
            self._adopt(draft)
        return found

    async def _catch_up(self, found: Sequence[Entry] = ()) -> int:
        """As `_follow`."""
        with self._tracing.catch_up() as step:
            count = await self._follow(found)
            step.ends(entries=count)
        return count

    async def _follow(self, found: Sequence[Entry]) -> int:
        """Undo what is not committed and apply what others have; how many entries. One strong read tells (I1), unless `found` has
        come after the last entry applied."""
        count = 0
        while True:
            try:
                entries = found or await self._journal.read_after(self.graph.ledger.applied)
            except Truncated:
                logger.warning("This replica is behind the journal's oldest entry; loading the tables again")
                self._undo()
                await self._journal.insist(self.load)
                return count + 1
            if entries:
                self._undo()
                for entry in entries:
                    self._apply(entry)
                self.graph.refill()
                self._meter.caught_up(len(entries), self.offset.now() - entries[0].clock)
            count += len(entries)
            found = ()
            if len(entries) < READ_LIMIT and sum(len(entry.changes) for entry in entries) < READ_BYTES:
                return count

    async def _refuse(self, ran: Ran, reason: str) -> list[Waiting]:
        """The store can never hold what these calls changed: each is tried alone, and the one at fault is answered so."""
        self._undo()
        if len(ran.calls) == 1:
            (waiting,) = ran.calls
            waiting.error = TooLarge(reason)
            waiting.answer()
        else:
            for waiting in ran.calls:
                await self.settle([waiting], alone=True)
        return ran.left

    async def _give_up(self, ran: Ran) -> list[Waiting]:
        """Nobody can tell any more whether these calls happened, and running them again might double them."""
        self._undo()
        await self._journal.insist(self.load)
        for waiting in ran.calls:
            waiting.error = StoreDown("the store was away for so long that the outcome is no longer known")
            waiting.answer()
        return ran.left

    # What nobody waits for

    async def tidy(self) -> None:
        """What `run` does between batches, for whoever drives `settle` by hand."""
        await self._truncate()
        await self._flush()

    async def _flush(self) -> None:
        """Write all rows that the tables owe, as long as nobody waits and no other replica commits."""
        while self._owes() and not self._calm.foreign_wait():
            if not await self._flush_some():
                return

    async def _flush_some(self) -> bool:
        """Write some of the rows that the tables owe, as an entry that changes nothing (I8). Whether that is possible."""
        began = self._clock()
        possible = True
        try:
            await self._turns.await_ours(self._sleep, self._catch_up)
            draft = self._draft(Ran(), self.limits.spare, self._ids())
            found = await self._journal.commit(draft.entry, draft.rows)
            if found is None:
                self._adopt(draft)
            else:
                await self._catch_up(found)
        except (EntryRefused, LostTrack) as error:
            logger.error("Rows that the tables owe cannot be written: %r", error)
            possible = False
        except Exception as error:  # As in `settle`.
            self.fail(error)
        self._calm.flushed(began, possible)
        return possible

    def _owes(self) -> bool:
        return bool(self.graph.ledger.pending) and not self._queue and self._fault is None

    def _in_use(self) -> bool:
        """Whether somebody called a moment ago and will probably call again in a moment: rows then wait for the end of it, when
        whatever changed several times is written once."""
        return bool(self._queue) or (self._live and self._calm.in_use)

    async def _truncate(self) -> None:
        if self._fault is None:
            await self._truncation.look()

    # Its steps in memory

    def _run(self, batch: list[Waiting]) -> Ran:
        return batches.run(self.graph, batch, self.graph.ledger.applied + 1)

    def _load(self) -> Load:
        return Load.BUSY if self._in_use() else self.limits.spare

    def _draft(self, ran: Ran, load: Load, commit_id: str) -> Draft:
        turn = ran.changed and self._live and self._turns.contended and self._is_pressed()
        return batches.draft(
            self.graph, ran, replica=self.name, commit_id=commit_id, clock=self.offset.now(), load=load, turn=turn
        )

    def _is_pressed(self) -> bool:
        """Whether the next batch will probably follow this one at once: calls wait, or this one followed the last at once."""
        return bool(self._queue) or self._began - self._calm.used < max(PRESSED_SECONDS, self._journal.round_trip)

    def _adopt(self, draft: Draft) -> None:
        self.graph.ledger.committed(draft.entry.seq, draft.entry.watermark, draft.changed, draft.written)
        self._turns.seen(draft.entry)

    def _apply(self, entry: Entry) -> None:
        self.graph.run(self.graph.ledger.apply, {"entry": entry})
        self._turns.seen(entry)

    def _undo(self) -> None:
        self.graph.tracker.rollback(batches.START)

    def _release(self, effects: list[Effect]) -> None:
        for effect in effects:
            try:
                effect.run()
            except Exception as error:  # A collector or a mailer may raise anything; the change it tells of stands.
                logger.error("An effect failed", exc_info=without_words(error))

    def fail(self, error: Exception) -> None:
        """Serve no more: the fault is logged, and every call is answered with it."""
        if not isinstance(error, Closed):
            foreseen = isinstance(error, FORESEEN)
            what = error if foreseen else type(error).__name__
            logger.critical("This replica stops serving: %s", what, exc_info=None if foreseen else without_words(error))
        self._fault = error
        self.failed.set()
        self._undo()
