"""What SQLite's errors mean, in one sentence for the person who runs the file: what is wrong, and what to do.

SQLite's own words for a file that may not be written, a full disk or a missing permission overlap and name no cause. So the
cause is looked for where it can be seen: in permissions and free space.
"""

from __future__ import annotations

import os
import pwd
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from luigi_spanner.stores import InvalidStore, StoreError, Unavailable

WAL_BYTES = 4 * 1024 * 1024
"""Size that SQLite's write-ahead log comes to: it is checkpointed after 1,000 pages of 4 KiB (`wal_autocheckpoint`). A disk that
has not so much left is full."""

_LOCKED = {5: "database is locked", 6: "database table is locked"}
"""SQLITE_BUSY and SQLITE_LOCKED, with SQLite's texts (sqlite3_errstr) for Python 3.10, whose exceptions carry no code."""

_PASSING = {
    **_LOCKED,
    8: "attempt to write a readonly database",
    9: "interrupted",
    10: "disk I/O error",
    13: "database or disk is full",
    14: "unable to open database file",
    15: "locking protocol",
}
"""What somebody may mend while the file stays as it is."""

_PRIMARY = 0xFF
"""The low byte of an extended result code is the primary one."""

_SIDECARS = ("-wal", "-shm")
"""What SQLite keeps beside a file in WAL mode."""


@contextmanager
def faults(path: str) -> Iterator[None]:
    """Turn SQLite's errors into the store's: Unavailable for a lock that stays, InvalidStore for all else."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter: the name of a damaged table
        raise meaning(path, error) from error


def meaning(path: str, error: Exception) -> StoreError:
    """What `error` on the file says to the person who runs it."""
    file = os.path.abspath(path)
    if is_locked(error):
        return Unavailable(f"Another process keeps the SQLite file {file} locked: wait for it, or end it.")
    if not may_pass(error):
        return InvalidStore(
            f"The file {file} is no SQLite database or is damaged ({error}): keep a copy of it, with its -wal if there is one, "
            "and restore a backup or name another file with --store."
        )
    return no_use(path, str(error))


def no_use(path: str, reason: str) -> InvalidStore:
    """The file cannot be used: for what can be seen to be in the way, else for `reason`."""
    file = os.path.abspath(path)
    return InvalidStore(f"Cannot use the SQLite file {file}: {_obstacle(file) or reason}.")


def is_locked(error: Exception) -> bool:
    """Whether another connection's lock is in the way: the statement did nothing and may be tried again."""
    return _is_one_of(error, _LOCKED)


def may_pass(error: Exception) -> bool:
    """Whether the same may succeed later; else the file is damaged, or is none of SQLite's."""
    return _is_one_of(error, _PASSING)


def _is_one_of(error: Exception, known: Mapping[int, str]) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return str(error) in known.values() if code is None else code & _PRIMARY in known


def _obstacle(file: str) -> str | None:
    """What can be seen to be in the way of reading and writing, and its remedy."""
    directory = os.path.dirname(file)
    who = f"user {_user()}"
    if not _may(directory, os.X_OK):
        return f"{who} may not enter the directory {directory}; give that user access to it"
    for name in (file, *(file + suffix for suffix in _SIDECARS)):
        which = "it" if name == file else name
        if os.path.exists(name) and not _may(name, os.R_OK):
            return f"{who} may not read {which}; give that user permission to read and write it"
        if os.path.exists(name) and not _may(name, os.W_OK):
            return f"{which} is read-only for {who}; give that user permission to write it"
    if not _may(directory, os.W_OK):
        return f"the directory {directory}, where SQLite keeps its log, is read-only for {who}; let that user write there"
    free = os.statvfs(directory)
    if free.f_bavail * free.f_frsize < WAL_BYTES:
        return f"its disk is full, {free.f_bavail * free.f_frsize // 1024} KiB are free; make room"
    return None


def _may(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # an id without a name, as containers have
        return str(os.geteuid())
