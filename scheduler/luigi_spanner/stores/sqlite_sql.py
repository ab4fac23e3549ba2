"""The SQL of the SQLite store, made from the schema's tables. Every function works on an open transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from sqlalchemy import Float, Table

from luigi_spanner import schema
from luigi_spanner.journal import Entry, Key, Row
from luigi_spanner.stores import READ_BYTES, READ_LIMIT, InvalidStore, Snapshot, Truncated, entries

_ENTRY = "seq, commit_id, replica, clock, watermark, digest, turn, version, parts, calls, changes"

_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
"""SQLite's own clock, in UTC, in the form in which SQLAlchemy keeps and reads a DateTime there."""

_INSERT_NAMESPACE = f"INSERT INTO namespaces (namespace, created_at) VALUES (?, {_NOW}) ON CONFLICT (namespace) DO NOTHING"

_INSERT_ENTRY = (
    f"INSERT INTO journal (namespace, committed_at, {_ENTRY}) VALUES (?, {_NOW}, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, seq) DO NOTHING"
)

_LINK = "UPDATE journal SET next = ? WHERE namespace = ? AND seq = ?"

_INSERT_PART = "INSERT OR REPLACE INTO journal_parts (namespace, seq, part, payload) VALUES (?, ?, ?, ?)"

_PARTS = "SELECT part, payload FROM journal_parts WHERE namespace = ? AND seq = ?"

_AFTER = f"SELECT {_ENTRY} FROM journal WHERE namespace = ? AND seq > ? ORDER BY seq"

_HEAD_SEQ = "SELECT seq FROM journal WHERE namespace = ? ORDER BY seq DESC LIMIT 1"

_HEAD = f"SELECT {_ENTRY} FROM journal WHERE namespace = ? AND digest <> '' ORDER BY seq DESC LIMIT 1"


class Taken(Exception):
    """The entry's number is taken, or its predecessor is gone: nothing may be written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Statements:
    """What one state table needs. `columns` are those after the key, with whether they hold a float."""

    upsert: str
    select: str
    columns: list[tuple[str, bool]]


@contextmanager
def transaction(connection: sqlite3.Connection, kind: Literal["DEFERRED", "IMMEDIATE"] = "DEFERRED") -> Iterator[None]:
    """A transaction around the block. IMMEDIATE takes the write lock at once; DEFERRED reads one point in time, with no lock."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        # SQLite may have rolled back by itself, as it does on a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def create_namespace(connection: sqlite3.Connection, namespace: str) -> None:
    """Create it with its genesis entry, unless another process was faster. It is never given a second genesis."""
    if connection.execute(_INSERT_NAMESPACE, (namespace,)).rowcount:
        _insert(connection, namespace, entries.genesis())


def has_namespace(connection: sqlite3.Connection, namespace: str) -> bool:
    return connection.execute("SELECT 1 FROM namespaces WHERE namespace = ?", (namespace,)).fetchone() is not None


def append(connection: sqlite3.Connection, namespace: str, entry: Entry) -> None:
    """Insert `entry` and link its predecessor to it (I9). Raises Taken."""
    if not _insert(connection, namespace, entry):
        raise Taken
    if not connection.execute(_LINK, (entry.commit_id, namespace, entry.seq - 1)).rowcount:
        raise Taken


def write(connection: sqlite3.Connection, namespace: str, rows: Sequence[Row]) -> None:
    """Apply `rows` in order."""
    for row in rows:
        if row.body is None:
            connection.execute(_delete(row.table, len(row.key)), (namespace, *row.key))
        else:
            statements = _statements(row.table)
            connection.execute(statements.upsert, (namespace, *row.key, *_values(statements, row), row.body))


def count_deleted(connection: sqlite3.Connection, namespace: str, rows: Sequence[Row], limit: int) -> int:
    """How many rows go with those of `rows` that delete a whole prefix; it counts up to `limit` and stops there."""
    count = 0
    for row in rows:
        if row.body is None and len(row.key) < _key_length(row.table):
            query = _count(row.table, len(row.key))
            count += connection.execute(query, (namespace, *row.key, limit - count)).fetchone()[0]
            if count >= limit:
                break
    return count


def truncate(connection: sqlite3.Connection, namespace: str, before: int) -> None:
    for table in ("journal_parts", "journal"):
        connection.execute(f"DELETE FROM {table} WHERE namespace = ? AND seq < ?", (namespace, before))


def head(connection: sqlite3.Connection, namespace: str) -> int | None:
    """The number of the newest entry, None when there is none."""
    found = connection.execute(_HEAD_SEQ, (namespace,)).fetchone()
    return None if found is None else int(found[0])


def entries_after(connection: sqlite3.Connection, namespace: str, seq: int) -> list[Entry]:
    """As `Store.read_after`. Raises Truncated."""
    if not connection.execute("SELECT 1 FROM journal WHERE namespace = ? AND seq = ?", (namespace, seq)).fetchone():
        raise Truncated(f"Entry {seq} of namespace {namespace} is no longer in the journal.")
    found: list[Entry] = []
    size = 0
    for entry in _entries(connection, f"{_AFTER} LIMIT {READ_LIMIT}", (namespace, seq)):
        size += len(entry.calls) + len(entry.changes)
        if found and size > READ_BYTES:
            break
        found.append(entry)
    return found


def snapshot(connection: sqlite3.Connection, namespace: str) -> Snapshot | None:
    """The whole state, None when there is no such namespace. Raises InvalidStore."""
    heads = list(_entries(connection, _HEAD, (namespace,)))
    if not heads:
        if has_namespace(connection, namespace):
            raise InvalidStore(f"The journal of namespace {namespace} is empty: it was deleted by hand.")
        return None
    newest = heads[0]
    later = list(_entries(connection, _AFTER, (namespace, newest.watermark)))
    last = head(connection, namespace) or newest.seq
    if [entry.seq for entry in later] != list(range(newest.watermark + 1, last + 1)):
        raise InvalidStore(f"The journal of namespace {namespace} has gaps after entry {newest.watermark}.")
    tables = {name: _rows(connection, namespace, name) for name in schema.STATE_TABLES}
    return Snapshot(head=newest, tables=tables, entries=later)


def _insert(connection: sqlite3.Connection, namespace: str, entry: Entry) -> bool:
    """Whether the journal row could be inserted: False when its number is taken."""
    cells = entries.split(entry)
    numbers = (entry.watermark, entry.digest, entry.turn, entry.version, len(cells.parts))
    values = (namespace, entry.seq, entry.commit_id, entry.replica, float(entry.clock), *numbers, cells.calls, cells.changes)
    if not connection.execute(_INSERT_ENTRY, values).rowcount:
        return False
    if cells.parts:
        connection.executemany(_INSERT_PART, [(namespace, entry.seq, part, payload) for part, payload in cells.parts])
    return True


def _entries(connection: sqlite3.Connection, query: str, values: tuple[Any, ...]) -> Iterator[Entry]:
    for seq, commit_id, replica, clock, watermark, digest, turn, version, parts, calls, changes in connection.execute(
        query, values
    ):
        if parts:
            calls, changes = entries.join(calls, changes, connection.execute(_PARTS, (values[0], seq)))
        yield Entry(
            seq=seq,
            commit_id=commit_id,
            replica=replica,
            clock=clock,
            watermark=watermark,
            digest=digest,
            turn=bool(turn),
            version=version,
            calls=calls,
            changes=changes,
        )


def _rows(connection: sqlite3.Connection, namespace: str, name: str) -> list[tuple[Key, bytes]]:
    return [(tuple(key), body) for *key, body in connection.execute(_statements(name).select, (namespace,))]


def _values(statements: _Statements, row: Row) -> Iterator[Any]:
    """The projection in the table's order, NULL where the row gives none. SQLite takes no integer beyond 64 bits as a float."""
    for name, is_float in statements.columns:
        value = row.columns.get(name)
        yield float(value) if is_float and value is not None else value


@cache
def _statements(name: str) -> _Statements:
    table = schema.ROW_TABLES[name]
    keys = ["namespace", *schema.key_columns(table)]
    others = [column.name for column in table.columns if column.name not in keys and column.name != "body"]
    columns = [*keys, *others, "body"]
    updates = ", ".join(f"{column} = excluded.{column}" for column in [*others, "body"])
    insert = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    return _Statements(
        upsert=f"{insert} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {updates}",
        select=f"SELECT {', '.join([*keys[1:], 'body'])} FROM {name} WHERE namespace = ? ORDER BY {', '.join(keys)}",
        columns=[(other, _is_float(table, other)) for other in others],
    )


@cache
def _key_length(name: str) -> int:
    return len(schema.key_columns(schema.ROW_TABLES[name]))


@cache
def _delete(name: str, length: int) -> str:
    return f"DELETE FROM {name} WHERE {_prefix(name, length)}"


@cache
def _count(name: str, length: int) -> str:
    return f"SELECT count(*) FROM (SELECT 1 FROM {name} WHERE {_prefix(name, length)} LIMIT ?)"


def _prefix(name: str, length: int) -> str:
    keys = ["namespace", *schema.key_columns(schema.ROW_TABLES[name])][: length + 1]
    return " AND ".join(f"{key} = ?" for key in keys)


def _is_float(table: Table, column: str) -> bool:
    return isinstance(table.columns[column].type, Float)
