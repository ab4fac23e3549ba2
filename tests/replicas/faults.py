"""A memory store that fails as told: each fault is what the real stores can only be brought to by luck."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from luigi_spanner.journal import Entry, Row
from luigi_spanner.stores import Committed, Conflict, Outcome, Snapshot, Store, Unavailable, Unknown
from luigi_spanner.stores.memory import Database, MemoryStore

Attempt = Callable[[], Awaitable[Outcome]]
"""Carries out the commit."""

Fault = Callable[[Attempt], Awaitable[Outcome]]


async def lost_reply(attempt: Attempt) -> Outcome:
    """It is committed, and nobody learns of it."""
    assert isinstance(await attempt(), Committed)
    return Unknown(reason="the reply was lost")


async def lost_request(attempt: Attempt) -> Outcome:
    """It never reached the store."""
    return Unknown(reason="the request was lost")


async def own_conflict(attempt: Attempt) -> Outcome:
    """The driver's own retry finds the entry that its first attempt wrote."""
    assert isinstance(await attempt(), Committed)
    return Conflict()


class FaultyStore:
    """Passes everything on to a memory store, except where a fault is due: one for each commit, in order."""

    def __init__(self, database: Database) -> None:
        self.inner: Store = MemoryStore(namespace="default", database=database)
        self.faults: list[Fault | None] = []
        self.before_commit: Callable[[], None] | None = None
        self.unavailable = 0
        self.load_unavailable = 0
        self.reads = 0
        self.commits: list[Entry] = []
        self.rows: list[list[Row]] = []

    async def load(self) -> Snapshot:
        if self.load_unavailable:
            self.load_unavailable -= 1
            raise Unavailable("it does not answer")
        return await self.inner.load()

    async def read_after(self, seq: int) -> list[Entry]:
        self.reads += 1
        if self.unavailable:
            self.unavailable -= 1
            raise Unavailable("it does not answer")
        return await self.inner.read_after(seq)

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if self.before_commit is not None:
            happens, self.before_commit = self.before_commit, None
            happens()
        self.commits.append(entry)
        self.rows.append(list(rows))
        fault = self.faults.pop(0) if self.faults else None
        if fault is None:
            return await self.inner.commit(seq, entry, rows)
        return await fault(lambda: self.inner.commit(seq, entry, rows))

    async def truncate(self, before: int) -> None:
        await self.inner.truncate(before)

    async def close(self) -> None:
        await self.inner.close()
