"""Stores: one small driver per database behind one narrow protocol.

`Store` has five methods and nothing more. `commit` ends in exactly one of four outcomes, each a type: `Committed`,
`Conflict`, `Unknown`, `Refused`. Reads raise `Unavailable` when the database does not answer within the deadline.
Driver exceptions never leave this package. Passing faults (aborted, unavailable before sending) are retried
inside, within the deadline.

Errors::

    StoreError
    ├── Unavailable      the database did not answer in time; try again
    ├── Truncated        the entry after the one asked for is no longer in the journal; load again
    ├── SchemaMismatch   the database has another schema; the message names the command that mends it
    ├── InvalidStore     the store can never work as given: bad URL, no permission, corrupt file
    └── Closed           the store was closed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from luigi_spanner.journal import Entry, Key, Row

GENESIS = 0
"""Seq of the entry that a namespace is born with. It says nothing; entry 1 links to it (I9)."""


class StoreError(Exception):
    """Base of every error that a store raises."""


class Unavailable(StoreError):
    """The database did not answer within the deadline. Nothing is known to be wrong; try again."""


class Truncated(StoreError):
    """Entry `seq + 1` has been truncated: a replica this far behind loads again (I10)."""


class SchemaMismatch(StoreError):
    """The database's schema does not fit this release. The message names the command that mends it."""


class InvalidStore(StoreError):
    """The store can never work as given. The message is one sentence for the person who configured it."""


class Closed(StoreError):
    """The store was closed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed:
    """The entry is durable. `at`: the store's commit time in seconds since the epoch, None if it has no clock of its own."""

    at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """Another entry has that number, or its predecessor has been truncated (I9). Nothing of the batch was written by
    this attempt; an earlier attempt with the same commit id may be the entry that is there (I3)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Unknown:
    """It may or may not have happened, and may still happen."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """It can never succeed: too large, out of range, not encodable. Nothing was written."""

    reason: str


Outcome = Committed | Conflict | Unknown | Refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The state at one point in time.

    `tables` maps a table's name to its rows as (key, body). `head` is the newest entry that says where the tables stand (see
    `Entry.only_asks`). `entries` are all after its watermark, contiguous, those that follow it included.
    """

    head: Entry
    tables: dict[str, list[tuple[Key, bytes]]] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    @property
    def seq(self) -> int:
        """Number of the journal's last entry."""
        return self.entries[-1].seq if self.entries else self.head.seq


class Store(Protocol):
    """One namespace of one database. Every method may be called from one event loop only."""

    async def load(self) -> Snapshot:
        """The whole state at one timestamp, while others commit. A namespace that does not exist is created first, with its
        genesis entry (seq 0, empty commit id, zero digest). Raises Unavailable."""
        ...

    async def read_after(self, seq: int) -> list[Entry]:
        """Entries after `seq` in order, by a strong read: it sees every commit acknowledged before it began. At most
        `READ_LIMIT` entries or about `READ_BYTES` bytes; none means that `seq` is the head. Raises Truncated if entry `seq` is
        no longer there, Unavailable."""
        ...

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        """Insert `entry` under number `seq` (== entry.seq), link its predecessor to it, write `rows`: all or nothing."""
        ...

    async def truncate(self, before: int) -> None:
        """Forget the entries with seq < `before`, by an explicit range delete. The caller stays behind the watermark and
        leaves the newest. Raises Unavailable."""
        ...

    async def close(self) -> None:
        """Release what the store holds. A call under way ends with Unknown (commit) or Closed (reads). Idempotent."""
        ...


Retried = Callable[[str], object]
"""Is told, from any thread, of each passing fault after which a driver tries again by itself, by what kind of fault it was."""


def ignore(kind: str) -> None:
    """Nobody wants to know."""


READ_LIMIT = 1000
"""Entries that one `read_after` returns at most, so that catching up is done in bounded steps."""

READ_BYTES = 64 * 1024 * 1024
"""Payload bytes after which `read_after` stops adding entries (it always returns at least one)."""

PART_BYTES = 8 * 1024 * 1024
"""Largest piece of an entry's payload in one cell; Spanner's limit is 10 MiB a cell."""

COMMIT_BYTES = 70 * 1024 * 1024
"""Largest commit; `Refused` above it. Spanner's limit is 100 MiB for the message, where payloads are a third larger (base64)."""

CELL_BYTES = 9 * 1024 * 1024
"""Largest row body; Spanner's limit is 10 MiB a cell. `Refused` above it."""

KEY_BYTES = 8 * 1024 - 256
"""Largest primary key, in UTF-8 bytes with the namespace; Spanner's limit is 8 KiB. `Refused` above it."""

COMMIT_ROWS = 2000
"""Most rows of one commit. Spanner's limit is 80,000 mutations a commit, one for each column of a row and each index entry;
the widest table stays below 40."""
