"""One SQLite file: how it is looked at, opened, and proved to be writable."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from urllib.parse import quote

from luigi_spanner.stores import InvalidStore
from luigi_spanner.stores.sqlite_faults import WAL_BYTES, faults, is_locked, no_use
from luigi_spanner.stores.sqlite_sql import transaction

OPEN_SECONDS = 8.0
"""How long opening a file waits for its lock: another process may be creating the schema, which takes about a second. With what
else a start takes, whoever waits for it is told within 10 s."""

PROOF_BYTES = 256 * 1024
"""How much is written to see that a file can be: several times what a replica writes as it enters a namespace."""

FILLER = "filler"
"""The table that takes up room for a moment. Whoever is killed between two statements leaves it to the next."""

_PAUSE = 0.01

Identity = tuple[int, int]
"""Device and inode."""


def look(path: str) -> sqlite3.Connection:
    """A connection to an existing file as it is: its mode is not changed, and no other application's file is touched.

    Raises InvalidStore, Unavailable.
    """
    _require_place(path)
    with faults(path):
        uri = f"file:{quote(os.path.abspath(path))}?mode=rw"
        return sqlite3.connect(uri, uri=True, timeout=OPEN_SECONDS, isolation_level=None)


def connect(path: str, *, seconds: float = OPEN_SECONDS) -> sqlite3.Connection:
    """A connection in WAL mode that syncs each commit and begins no transaction by itself. It waits up to `seconds` for a lock.

    Raises InvalidStore, Unavailable.
    """
    _require_place(path)
    with faults(path):
        # Whoever opens it sees to it that only one thread uses it at a time.
        connection = sqlite3.connect(path, timeout=seconds, isolation_level=None, check_same_thread=False)
        try:
            _require_wal(connection, path, seconds)
            connection.execute("PRAGMA synchronous = FULL")
            # On macOS only F_FULLFSYNC reaches the medium, fsync stops at the drive's cache; elsewhere these do nothing.
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA checkpoint_fullfsync = ON")
        except BaseException:
            connection.close()
            raise
        return connection


def identity(path: str) -> Identity | None:
    """Which file lies there, None without one that can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_there(path: str) -> bool:
    """Whether there is such a file. Raises InvalidStore where that cannot be seen."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise no_use(path, str(error)) from error
    except OSError:
        return False
    return True


def wait_for_locks(connection: sqlite3.Connection, seconds: float) -> None:
    """How long SQLite itself waits for a lock. A store waits for itself: it looks whether it was closed meanwhile."""
    connection.execute(f"PRAGMA busy_timeout = {int(1000 * seconds)}")


def prove(path: str, connection: sqlite3.Connection) -> None:
    """Write something and take it back: SQLite opens what it may only read without a word, and a full disk shows when it is
    written to. Then give the log its full size. Raises InvalidStore, Unavailable."""
    with faults(path):
        wait_for_locks(connection, OPEN_SECONDS)
        _fill(connection, PROOF_BYTES)
        wait_for_locks(connection, 0.0)
    grow_wal(path, connection)


def grow_wal(path: str, connection: sqlite3.Connection) -> None:
    """Give the write-ahead log its full size now. Syncing a file that grows takes twice as long as one that is overwritten
    (0.36 and 0.17 ms a commit, measured on ext4), and SQLite overwrites its log once it has been checkpointed. Raises
    InvalidStore for a damaged file."""
    # Somebody may hold the lock, or the disk have no room for it: it is only slower then.
    with faults(path), suppress(OSError, sqlite3.OperationalError):
        if os.path.getsize(f"{path}-wal") < WAL_BYTES:
            _fill(connection, WAL_BYTES)
            connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()


def _fill(connection: sqlite3.Connection, size: int) -> None:
    """Write `size` bytes and take them back, in two transactions: what one takes back itself is never written."""
    with transaction(connection, "IMMEDIATE"):
        connection.execute(f"CREATE TABLE IF NOT EXISTS {FILLER} (bytes BLOB)")
        connection.execute(f"INSERT INTO {FILLER} VALUES (zeroblob(?))", (size,))
    connection.execute(f"DROP TABLE IF EXISTS {FILLER}")


def _require_place(path: str) -> None:
    file = os.path.abspath(path)
    directory = os.path.dirname(file)
    if not os.path.isdir(directory):
        raise InvalidStore(f"Cannot use the SQLite file {file}: there is no directory {directory}; create it or correct --store.")
    if os.path.isdir(file):
        raise InvalidStore(f"Cannot use the SQLite file {file}: it is a directory; name a file in it.")


def _require_wal(connection: sqlite3.Connection, path: str, seconds: float) -> None:
    """Set WAL mode, which stays with the file. SQLite does not wait for this lock, so several first openers try again here."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if not is_locked(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
    if mode != "wal":
        raise InvalidStore(
            f"Cannot use the SQLite file {os.path.abspath(path)}: its file system cannot share memory (no WAL mode); "
            "put it on a local disk."
        )
