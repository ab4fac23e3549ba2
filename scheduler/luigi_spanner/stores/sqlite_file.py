"""One SQLite file: how it is opened, and what its faults mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from luigi_spanner.stores import InvalidStore, Unavailable

OPEN_SECONDS = 10.0
"""How long opening a file waits for its lock: another process may be creating the schema, which takes about a second."""

_LOCKED = ("database is locked", "database table is locked")
"""SQLite's texts for SQLITE_BUSY and SQLITE_LOCKED (sqlite3_errstr), for Python 3.10, whose exceptions carry no code."""

_PRIMARY = 0xFF
"""The low byte of an extended result code is the primary one."""

_PAUSE = 0.01

WAL_BYTES = 4 * 1024 * 1024
"""Size that SQLite's write-ahead log comes to: it is checkpointed after 1,000 pages of 4 KiB (`wal_autocheckpoint`)."""


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


@contextmanager
def faults(path: str) -> Iterator[None]:
    """Turn SQLite's errors into the store's: Unavailable for a lock that stays, InvalidStore for all else."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise Unavailable(f"The SQLite file {path} is locked by another process.") from error
        raise InvalidStore(f"Cannot use the SQLite file {path}: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise InvalidStore(f"The file {path} is no SQLite database or is damaged: {error}.") from error


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another connection's lock is in the way: the statement did nothing and may be tried again."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return str(error) in _LOCKED
    return code & _PRIMARY in (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED: the sqlite3 module names them since 3.11 only


def _require_place(path: str) -> None:
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise InvalidStore(f"Cannot use the SQLite file {path}: there is no directory {directory}.")
    if os.path.isdir(path):
        raise InvalidStore(f"Cannot use the SQLite file {path}: it is a directory.")


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
        raise InvalidStore(f"Cannot use the SQLite file {path}: its file system cannot share memory (no WAL mode).")


def grow_wal(path: str, connection: sqlite3.Connection) -> None:
    """Give the write-ahead log its full size now. Syncing a file that grows takes twice as long as one that is overwritten
    (0.36 and 0.17 ms a commit, measured on ext4), and SQLite overwrites its log once it has been checkpointed."""
    # Somebody may hold the lock, or the disk be full: it is only slower then.
    with suppress(OSError, sqlite3.OperationalError):
        try:
            if os.path.getsize(f"{path}-wal") >= WAL_BYTES:
                return
            connection.execute("CREATE TABLE IF NOT EXISTS filler (bytes BLOB)")
            connection.execute("INSERT INTO filler VALUES (zeroblob(?))", (WAL_BYTES,))
        finally:
            # Each statement commits by itself: whoever was killed or locked out between two left the table to the next.
            connection.execute("DROP TABLE IF EXISTS filler")
        connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
