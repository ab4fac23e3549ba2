"""The journal as a replica needs it: it asks until the store answers, and knows of every entry sent what became of it (I3)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import Enum, auto
from typing import TypeVar

from luigi_spanner.journal import Entry, Row
from luigi_spanner.metrics.meter import Meter
from luigi_spanner.offset import Offset
from luigi_spanner.reach import Reach
from luigi_spanner.stores import Committed, Refused, Snapshot, Store, StoreError, Truncated, Unavailable, Unknown

T = TypeVar("T")

RETRY_SECONDS = (0.02, 1.0)
"""First and longest pause between attempts to reach a store that does not answer; each pause doubles."""


LONGEST_TRIP = 1.0
"""Seconds beyond which a commit says nothing about the way to the store: the process stood still, or the clock was set."""

SMOOTHING = 0.2
"""Weight of the last commit in the round trip."""


class EntryRefused(Exception):
    """The store can never hold the entry."""


class LostTrack(Exception):
    """The entry may have landed, and the journal no longer tells."""


class Fate(Enum):
    """What became of an entry whose commit did not end well."""

    OURS = auto()
    """It is in the journal."""
    ANOTHER = auto()
    """Another entry has its number, or it is too old to tell: it can never land."""
    ABSENT = auto()
    """It is not there, and may still land."""


class JournalClient:
    """Reads and commits. `clock()` gives seconds since the epoch, `sleep(s)` pauses.

    `contact` is when the last question was sent that the store has answered, `round_trip` how long a commit took, smoothed, in
    seconds, `head` the seq of the newest entry heard of. `reading` and `writing`: whether the store does that.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        offset: Offset,
        meter: Meter,
    ) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep
        self._offset = offset
        self._meter = meter
        self.head = 0
        self.reading = Reach(clock, "The store answers again")
        self.writing = Reach(clock, "Entries are written again")
        self.contact = clock()
        self.round_trip = 0.0

    async def load(self) -> Snapshot:
        """The whole state. Raises StoreError."""
        asked = self._clock()
        snapshot = await self._store.load()
        self.contact = asked
        self.head = max(self.head, snapshot.seq)
        return snapshot

    async def commit(self, entry: Entry, rows: Sequence[Row]) -> list[Entry] | None:
        """None once the entry is durable. Otherwise it never will be, and the journal goes on with these entries instead, as far
        as they were read. While that is unknown, nothing else happens (I3).

        Raises EntryRefused, LostTrack.
        """
        pause = RETRY_SECONDS[0]
        doubt = False
        while True:
            sent = self._clock()
            try:
                outcome = await self._store.commit(entry.seq, entry, rows)
            except BaseException:
                self._meter.commit(None, self._clock() - sent)
                raise
            received = self._clock()
            self._meter.commit(outcome, received - sent)
            match outcome:
                case Committed(at=at):
                    self.contact = sent
                    self.head = max(self.head, entry.seq)
                    self._offset.measure(at, sent, received)
                    self._note_round_trip(received - sent)
                    self.writing.works()
                    return None
                case Refused(reason=reason) if not doubt:
                    raise EntryRefused(reason)
                case Unknown(reason=reason):
                    doubt = True
                    self.writing.fails(f"The store has not confirmed entry {entry.seq}, which waits", reason, sent)
            fate, found = await self._fate(entry, doubt)
            if fate is Fate.OURS or not isinstance(outcome, Unknown):
                # That another's entry was found says nothing about ours: what this replica writes may be lost all the time.
                self.writing.works()
            if fate is not Fate.ABSENT:
                return None if fate is Fate.OURS else found
            if isinstance(outcome, Refused):
                raise EntryRefused(outcome.reason)
            await self._sleep(pause)
            pause = min(2 * pause, RETRY_SECONDS[1])

    async def _fate(self, entry: Entry, doubt: bool) -> tuple[Fate, list[Entry]]:
        """What became of the entry, and what is there from its number on. `doubt`: an attempt may have landed."""
        try:
            found = await self.read_after(entry.seq - 1)
        except Truncated:
            if doubt:
                raise LostTrack from None
            return Fate.ANOTHER, []
        if not found:
            return Fate.ABSENT, found
        return Fate.OURS if found[0].commit_id == entry.commit_id else Fate.ANOTHER, found

    def _note_round_trip(self, seconds: float) -> None:
        seconds = min(max(seconds, 0.0), LONGEST_TRIP)
        self.round_trip = self.round_trip + SMOOTHING * (seconds - self.round_trip) if self.round_trip else seconds

    async def read_after(self, seq: int) -> list[Entry]:
        """The store's answer, however long it takes. Raises Truncated."""

        async def read() -> list[Entry]:
            # What the answer says was so when the question was sent: a process may have stood still since.
            asked = self._clock()
            entries = await self._store.read_after(seq)
            self.contact = asked
            if entries:
                self.head = max(self.head, entries[-1].seq)
            return entries

        return await self.insist(read)

    async def insist(self, read: Callable[[], Awaitable[T]]) -> T:
        """What `read` gives, tried until the store answers."""
        pause = RETRY_SECONDS[0]
        while True:
            try:
                answer = await read()
            except StoreError as error:
                self._meter.store_error(error)
                if not isinstance(error, Unavailable):
                    raise
                self.reading.fails("The store does not answer", error, self.contact)
                await self._sleep(pause)
                pause = min(2 * pause, RETRY_SECONDS[1])
            else:
                self.reading.works()
                return answer
