"""The SQLite store: one file, in WAL mode, synced at each commit, open in as many processes as like.

Writers take turns by SQLite's own lock; readers never wait for a writer, nor it for them. Where commits and reads take well
under a millisecond, handing them to a thread costs as much as they do: small ones run on the event loop itself. On a slower disk,
when the lock is taken, and for whatever is long, the work runs on one thread of the store's own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from luigi_spanner import migrate
from luigi_spanner.journal import Entry, Row
from luigi_spanner.stores import (
    Closed,
    Committed,
    Conflict,
    InvalidStore,
    Outcome,
    Retried,
    SchemaMismatch,
    Snapshot,
    StoreError,
    Unavailable,
    Unknown,
    bounds,
    ignore,
    sqlite_faults,
    sqlite_file,
    sqlite_sql,
)
from luigi_spanner.stores.location import sqlite_url

logger = logging.getLogger(__name__)

DEADLINE = 5.0
"""Seconds within which a call succeeds or is given up: half of a worker's timeout of 10 s, so that it can be told."""

PROMPT_SECONDS = 0.002
"""Work that lately took longer than this goes to the thread. Measured: the hand-over costs 0.1 to 0.2 ms, a commit on a local
disk 0.25 ms."""

PROMPT_ROWS = 64
"""Commits that write or delete more rows than this are the thread's. Measured on a local disk: 64 rows take 0.9 ms, 256 take
3 ms, 1,024 take 11 ms, nearly all of it processor time; 64 is what stays below PROMPT_SECONDS with room for a slower machine."""

PROMPT_BYTES = 256 * 1024
"""Commits with a larger payload (the rows' bodies, the entry's calls and changes) are the thread's. Measured on a local disk:
256 KiB take 1.3 ms, 1 MiB takes 6.5 ms."""

TRUST = 0.1
"""Weight of the latest duration in the running mean that is compared with PROMPT_SECONDS."""

RELIEF = 100
"""After how many calls on the thread the store looks again whether the disk is quick."""

PAUSE = 0.005
"""Seconds between two tries after a fault that may pass (a lock, a full disk)."""

INTERRUPT_STEPS = 10_000
"""Steps of SQLite's machine between two looks at whether the store was closed: some milliseconds of a long read."""

_T = TypeVar("_T")
Work = Callable[[sqlite3.Connection], _T]


async def open(
    path: str, namespace: str, *, deadline: float = DEADLINE, prepare: bool = True, retried: Retried = ignore
) -> SqliteStore:
    """Open the file, created if missing, bring its schema up to date, and have the first load find out whether it can be written;
    without `prepare` open it as it is. Raises InvalidStore, SchemaMismatch, Unavailable."""
    store = SqliteStore(path, namespace, deadline=deadline, retried=retried)
    try:
        if prepare:
            await store.prepare()
    except BaseException:
        await store.close()
        raise
    return store


class SqliteStore:
    """One namespace of one SQLite file; see `Store`. `deadline` is in seconds, by the monotonic clock; `retried` as it says."""

    def __init__(self, path: str, namespace: str, *, deadline: float = DEADLINE, retried: Retried = ignore) -> None:
        self._path = self._file = path
        self._namespace = namespace
        self._deadline = deadline
        self._retried = retried
        self._closing = threading.Event()
        # The thread starts with the first call, and the file is opened on it: nothing of either crosses an earlier fork.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="luigi-spanner-sqlite")
        self._connection: sqlite3.Connection | None = None
        self._identity: sqlite_file.Identity | None = None
        self._schema_seen: int | None = None
        self._broken: InvalidStore | None = None
        self._unproved = False
        self._outstanding: list[Future[Any]] = []
        self._handed_over = 0
        self._duration = 0.0

    async def prepare(self) -> None:
        """Create what is missing, and have the first load find out whether the file can be written."""
        await self._run(self._prepare)

    async def has_namespace(self) -> bool:
        """Whether the namespace has been created. Raises as reads do."""
        return await self._run(lambda: self._attempt(lambda connection: sqlite_sql.has_namespace(connection, self._namespace)))

    async def load(self) -> Snapshot:
        return await self._run(lambda: self._attempt(self._load))

    async def read_after(self, seq: int) -> list[Entry]:
        found = self._at_once(lambda connection: self._read_head(connection, seq))
        if found is not None:
            return found
        return await self._run(lambda: self._attempt(lambda connection: self._read_after(connection, seq)))

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if seq != entry.seq:
            raise ValueError(f"entry {entry.seq} cannot be committed under number {seq}")
        if _is_small(entry, rows):
            refused = bounds.check(self._namespace, entry, rows)
            if refused is not None:
                return refused
            outcome = self._at_once(lambda connection: self._commit_small(connection, entry, rows), syncs=True)
            if outcome is not None:
                return outcome
        return await self._run(lambda: self._commit_patiently(entry, rows))

    async def truncate(self, before: int) -> None:
        await self._run(lambda: self._attempt(lambda connection: self._truncate(connection, before)))

    async def close(self) -> None:
        if not self._closing.is_set():
            self._closing.set()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
            self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        """Do `work` on the thread."""
        if self._closing.is_set():
            raise Closed(f"The store on {self._path} was closed.")
        future = self._thread.submit(work)
        # Whoever awaits it may be cancelled while the thread goes on: only the future itself tells when that is done.
        self._outstanding = [*self._unfinished(), future]
        return await asyncio.wrap_future(future)

    def _unfinished(self) -> list[Future[Any]]:
        return [future for future in self._outstanding if not future.done()]

    def _at_once(self, work: Work[_T], *, syncs: bool = False) -> _T | None:
        """Do `work` on the event loop if that is quick. `syncs`: it tells how quick the disk is.

        None when it is not quick, when `work` says so, and when it met a fault: it did nothing then, and the thread has the
        patience to try again and tell the faults apart.
        """
        if not self._is_prompt():
            return None
        begun = time.monotonic()
        try:
            answer = work(self._connect())
            if answer is None:
                return None
        except (sqlite3.Error, StoreError):
            answer = None
        if syncs:
            self._duration += TRUST * (time.monotonic() - begun - self._duration)
        return answer

    def _is_prompt(self) -> bool:
        if self._closing.is_set() or self._connection is None or self._unfinished():
            return False  # the connection is the thread's
        if self._broken is not None:
            return False  # the thread tells of it
        if self._duration > PROMPT_SECONDS:
            self._handed_over += 1
            if self._handed_over % RELIEF:
                return False
        return True

    # Everything below runs on the store's thread, or on the event loop while nothing runs there.

    def _prepare(self) -> None:
        migrate.upgrade_sqlite(self._path)
        self._connect()
        self._unproved = True

    def _load(self, connection: sqlite3.Connection) -> Snapshot:
        with sqlite_sql.transaction(connection):
            self._check_schema(connection)
            snapshot = sqlite_sql.snapshot(connection, self._namespace)
        if self._unproved:
            sqlite_file.prove(self._path, connection)  # not before all of it was read: what is damaged is left as it is
            self._unproved = False
        if snapshot is not None:
            return snapshot
        with sqlite_sql.transaction(connection, "IMMEDIATE"):
            sqlite_sql.create_namespace(connection, self._namespace)
        return self._load(connection)

    def _read_after(self, connection: sqlite3.Connection, seq: int) -> list[Entry]:
        with sqlite_sql.transaction(connection):
            self._check_schema(connection)
            return sqlite_sql.entries_after(connection, self._namespace, seq)

    def _read_head(self, connection: sqlite3.Connection, seq: int) -> list[Entry] | None:
        """No entries when `seq` is the head. None when it is not: what follows may be long, or no longer there."""
        with sqlite_sql.transaction(connection):
            self._check_schema(connection)
            return [] if sqlite_sql.head(connection, self._namespace) == seq else None

    def _truncate(self, connection: sqlite3.Connection, before: int) -> None:
        with sqlite_sql.transaction(connection, "IMMEDIATE"):
            self._check_schema(connection)
            sqlite_sql.truncate(connection, self._namespace, before)

    def _commit_patiently(self, entry: Entry, rows: Sequence[Row]) -> Outcome:
        refused = bounds.check(self._namespace, entry, rows)
        if refused is not None:
            return refused
        try:
            return self._attempt(lambda connection: self._commit(connection, entry, rows))
        except InvalidStore as error:
            self._broken = error  # whoever asked resolves it by a read, which need not come by the damaged place
            return Unknown(reason=str(error))
        except StoreError as error:
            if not isinstance(error, Closed):
                logger.debug("Entry %d could not be written: %s", entry.seq, error)
            return Unknown(reason=str(error))

    def _commit_small(self, connection: sqlite3.Connection, entry: Entry, rows: Sequence[Row]) -> Outcome | None:
        """None, and nothing is done, when the rows that delete a whole prefix would take many along."""
        if sqlite_sql.count_deleted(connection, self._namespace, rows, PROMPT_ROWS + 1) > PROMPT_ROWS:
            return None
        return self._commit(connection, entry, rows)

    def _commit(self, connection: sqlite3.Connection, entry: Entry, rows: Sequence[Row]) -> Outcome:
        try:
            with sqlite_sql.transaction(connection, "IMMEDIATE"):
                self._check_schema(connection)
                sqlite_sql.append(connection, self._namespace, entry)
                sqlite_sql.write(connection, self._namespace, rows)
                if self._closing.is_set():
                    raise Closed("The store was closed during the commit.")
        except sqlite_sql.Taken:
            return Conflict()
        return Committed()

    def _check_schema(self, connection: sqlite3.Connection) -> None:
        """Another release may have changed the schema since this store was opened (I11)."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if version == self._schema_seen:
            return  # nobody else has written anything since it was looked at
        found = migrate.read_sqlite(connection)
        mismatch = migrate.compatible(found.revision, found.min_compatible, self._url)
        if mismatch is not None:
            raise SchemaMismatch(mismatch)
        self._schema_seen = version

    def _attempt(self, work: Work[_T]) -> _T:
        """Do `work`, again and again while it meets faults that may pass. Raises Unavailable, Closed, InvalidStore."""
        end = time.monotonic() + self._deadline
        while not self._closing.is_set():
            if self._broken is not None:
                raise self._broken
            try:
                return work(self._connect())
            except sqlite3.Error as error:
                if not sqlite_faults.may_pass(error):
                    raise sqlite_faults.meaning(self._path, error) from error
                if time.monotonic() > end:
                    raise Unavailable(str(sqlite_faults.meaning(self._path, error))) from error
                self._retried("locked" if sqlite_faults.is_locked(error) else "disk")
            self._closing.wait(PAUSE)
        raise Closed(f"The store on {self._path} was closed.")

    def _connect(self) -> sqlite3.Connection:
        """The connection, opened if need be. Raises InvalidStore if its file is no longer the one that others would open."""
        if self._connection is None:
            return self._use(sqlite_file.connect(self._path))
        if sqlite_file.identity(self._file) != self._identity:
            raise InvalidStore(
                f"The SQLite file {self._file} was removed or replaced while it was in use: start again on the one that is to be."
            )
        return self._connection

    def _use(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        sqlite_file.wait_for_locks(connection, 0.0)
        connection.set_progress_handler(self._closing.is_set, INTERRUPT_STEPS)
        self._file = os.path.abspath(self._path)
        self._identity = sqlite_file.identity(self._file)
        self._connection = connection
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def _url(self) -> str:
        return sqlite_url(self._path)


def _is_small(entry: Entry, rows: Sequence[Row]) -> bool:
    """Whether the commit is short enough for the event loop, as far as that shows without the database."""
    if len(rows) > PROMPT_ROWS:
        return False
    return len(entry.calls) + len(entry.changes) + sum(len(row.body or b"") for row in rows) <= PROMPT_BYTES
