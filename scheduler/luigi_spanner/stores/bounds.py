"""What a commit may hold, on any database: checked before a database is touched, so that every store refuses the same.

The limits are Spanner's, with some room below them; see the constants in `luigi_spanner.stores`. A value of a projected
column must fit the column's type here: whoever builds rows writes None where it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Boolean, DateTime, Float, LargeBinary, String, Table

from luigi_spanner import schema
from luigi_spanner.journal import Entry, Key, Row
from luigi_spanner.stores import CELL_BYTES, COMMIT_BYTES, COMMIT_ROWS, KEY_BYTES, Refused

INT64_MAX = 2**63 - 1
"""Largest integer of a column, on Spanner (INT64) and SQLite alike; the smallest is -INT64_MAX - 1."""

STRING_CHARACTERS = 2_621_440
"""Longest STRING of Spanner, in characters (quotas page)."""

NUMBER_BYTES = 8
"""What Spanner counts for a number, INT64 or FLOAT64."""

_NUMBERS_OF_ENTRY = 6 * NUMBER_BYTES


class _Misfit(Exception):
    """A value that no store can hold; the message is the reason of the refusal."""


def check(namespace: str, entry: Entry, rows: Sequence[Row]) -> Refused | None:
    """Why `entry` with `rows` can never be committed, or None. A row of no known table or column is a KeyError: a bug."""
    if len(rows) > COMMIT_ROWS:
        return Refused(reason=f"{len(rows)} rows in one commit, at most {COMMIT_ROWS} are allowed")
    try:
        size = _entry_bytes(namespace, entry) + sum(_row_bytes(namespace, row) for row in rows)
    except _Misfit as misfit:
        return Refused(reason=str(misfit))
    if size > COMMIT_BYTES:
        return Refused(reason=f"a commit of {size} bytes, at most {COMMIT_BYTES} are allowed")
    return None


def _entry_bytes(namespace: str, entry: Entry) -> int:
    columns = _columns("journal")
    size = _text_bytes("namespace", namespace, KEY_BYTES) + _NUMBERS_OF_ENTRY
    for name in ("seq", "commit_id", "replica", "clock", "watermark", "digest", "version"):
        size += _value_bytes(f"journal.{name}", columns[name], getattr(entry, name))
    return size + len(entry.calls) + len(entry.changes)


def _row_bytes(namespace: str, row: Row) -> int:
    size = _key_bytes(namespace, row.table, row.key)
    if row.body is None:
        return size
    columns = _columns(row.table)
    if len(row.body) > CELL_BYTES:
        raise _Misfit(f"a row of {row.table} of {len(row.body)} bytes, at most {CELL_BYTES} are allowed")
    size += len(row.body)
    for name, value in row.columns.items():
        if value is not None:
            size += _value_bytes(f"{row.table}.{name}", columns[name], value)
    return size


def _key_bytes(namespace: str, table: str, key: Key) -> int:
    size = _text_bytes("namespace", namespace, KEY_BYTES)
    columns = _columns(table)
    for name, value in zip(_key_columns(table), key, strict=False):
        size += _value_bytes(f"{table}.{name}", columns[name], value)
    if size > KEY_BYTES:
        raise _Misfit(f"a key of {table} of {size} bytes, at most {KEY_BYTES} are allowed")
    return size


def _value_bytes(where: str, column: tuple[type[Any], int | None], value: Any) -> int:
    kind, length = column
    if kind is str and isinstance(value, str):
        return _text_bytes(where, value, length)
    if kind is bytes and isinstance(value, bytes):
        return _cell_bytes(where, len(value))
    if kind is bool and isinstance(value, bool):
        return 1
    if kind is int and isinstance(value, int):
        if not -INT64_MAX - 1 <= value <= INT64_MAX:
            raise _Misfit(f"{where} is out of range: integers have 64 bits")
        return NUMBER_BYTES
    if kind is float and isinstance(value, (int, float)):
        return _float_bytes(where, value)
    raise _Misfit(f"{where} cannot hold a value of type {type(value).__name__}")


def _float_bytes(where: str, value: float) -> int:
    try:
        float(value)
    except OverflowError:
        raise _Misfit(f"{where} is out of range: the number is larger than any float") from None
    return NUMBER_BYTES


def _text_bytes(where: str, value: str, length: int | None) -> int:
    if len(value) > (length or STRING_CHARACTERS):
        raise _Misfit(f"{where} has {len(value)} characters, at most {length or STRING_CHARACTERS} are allowed")
    if value.isascii():
        return _cell_bytes(where, len(value))
    try:
        return _cell_bytes(where, len(value.encode()))
    except UnicodeEncodeError:
        raise _Misfit(f"{where} is text that cannot be encoded as UTF-8") from None


def _cell_bytes(where: str, size: int) -> int:
    if size > CELL_BYTES:
        raise _Misfit(f"{where} has {size} bytes, at most {CELL_BYTES} are allowed")
    return size


@cache
def _columns(table: str) -> dict[str, tuple[type[Any], int | None]]:
    """Of each column: the Python type that it holds, and the most characters of text."""
    return {column.name: _kind(column.type) for column in _table(table).columns}


@cache
def _key_columns(table: str) -> list[str]:
    return schema.key_columns(_table(table))


def _table(name: str) -> Table:
    return schema.journal if name == schema.journal.name else schema.ROW_TABLES[name]


def _kind(column_type: Any) -> tuple[type[Any], int | None]:
    if isinstance(column_type, String):
        return str, column_type.length
    for base, kind in ((LargeBinary, bytes), (Boolean, bool), (BigInteger, int), (Float, float), (DateTime, str)):
        if isinstance(column_type, base):
            return kind, None
    return type(None), None
