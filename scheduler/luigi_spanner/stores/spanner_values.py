"""Rows as Spanner's API writes them: mutations out, streamed results in.

An INT64 is a decimal string and BYTES are base64, both in the protobuf Value's string; a FLOAT64 is its number, but NaN
and the infinities are strings (Spanner API reference, TypeCode).
"""

from __future__ import annotations

import math
from binascii import a2b_base64, b2a_base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from functools import cache
from typing import Any

from google.cloud.spanner_v1 import types
from sqlalchemy import Boolean, DateTime, Float, Integer, LargeBinary, Table

from luigi_spanner import schema
from luigi_spanner.journal import Entry, Key, Row
from luigi_spanner.stores import entries

COMMIT_TIMESTAMP = "spanner.commit_timestamp()"
"""Written to a TIMESTAMP column that allows it, becomes the commit's own time."""

JOURNAL_PAYLOAD = ("calls", "changes")

JOURNAL_COLUMNS = ("seq", "commit_id", "replica", "clock", "watermark", "digest", "turn", "version", "parts", *JOURNAL_PAYLOAD)
"""The journal's columns that make an Entry, in the order in which they are read."""

Put = Callable[[Any, Any], None]


def put_entry(mutations: Any, namespace: str, entry: Entry, *, link: bool = True) -> None:
    """Insert `entry` and, with `link`, point its predecessor at it: a missing predecessor then fails the commit (I9)."""
    cells = entries.split(entry)
    seq = entry.seq
    values = [seq, entry.commit_id, entry.replica, entry.clock, entry.watermark, entry.digest, entry.turn, entry.version]
    columns = ["namespace", *JOURNAL_COLUMNS, "committed_at"]
    row = [namespace, *values, len(cells.parts), cells.calls, cells.changes, COMMIT_TIMESTAMP]
    _put(mutations.add().insert, schema.journal, columns, [row])
    if link:
        linked = [namespace, seq - 1, entry.commit_id]
        _put(mutations.add().update, schema.journal, ["namespace", "seq", "next"], [linked])
    if cells.parts:
        parts = [[namespace, seq, part, payload] for part, payload in cells.parts]
        _put(mutations.add().insert_or_update, schema.journal_parts, ["namespace", "seq", "part", "payload"], parts)


def put_rows(mutations: Any, namespace: str, rows: Sequence[Row]) -> None:
    """Write state rows in their order, in full: NULL where a row gives no value. Neighbours of one table share a mutation."""
    before: tuple[Any, ...] = ()
    mutation: Any = None
    for row in rows:
        table = schema.ROW_TABLES[row.table]
        shape = (row.table, row.body is None)
        if shape != before:
            mutation, before = mutations.add(), shape
        if row.body is None:
            _put_delete(mutation.delete, table, namespace, row.key)
        else:
            projected = _projected(table)
            columns = ["namespace", *schema.key_columns(table), *projected, "body"]
            values = [namespace, *row.key, *(row.columns.get(name) for name in projected), row.body]
            _put(mutation.insert_or_update, table, columns, [values])


def put_truncation(mutations: Any, namespace: str, before: int) -> None:
    """Delete every entry with seq < `before`, and its parts."""
    for table in (schema.journal_parts, schema.journal):
        delete = mutations.add().delete
        delete.table = table.name
        only = delete.key_set.ranges.add()
        _put_values(only.start_closed, table, ["namespace"], [namespace])
        _put_values(only.end_open, table, ["namespace", "seq"], [namespace, before])


def put_namespace(mutations: Any, namespace: str) -> None:
    """Insert the namespace with its genesis entry."""
    _put(mutations.add().insert, schema.namespaces, ["namespace", "created_at"], [[namespace, COMMIT_TIMESTAMP]])
    put_entry(mutations, namespace, entries.genesis(), link=False)


def put_keys(key_set: Any, table: Table, namespace: str, first: Key = (), last: Key = ()) -> None:
    """Select the keys of `namespace` from `first` to `last`, both included; () leaves that end open."""
    columns = ["namespace", *schema.key_columns(table)]
    selected = key_set.ranges.add()
    _put_values(selected.start_closed, table, columns, [namespace, *first])
    _put_values(selected.end_closed, table, columns, [namespace, *last])


async def rows_of(results: AsyncIterator[Any]) -> AsyncGenerator[list[Any], None]:
    """Rows, as lists of Python values, from a stream of PartialResultSets: a value may be split across any of them."""
    take: list[Callable[[Any], Any]] = []
    row: list[Any] = []
    piece = ""
    async for result in results:
        if not take:
            take = [_TAKE.get(field.type_.code, _text) for field in result.metadata.row_type.fields]
        values = list(result.values)
        last = values.pop().string_value if result.chunked_value else None
        for value in values:
            if piece:
                value.string_value, piece = piece + value.string_value, ""
            row.append(take[len(row)](value))
            if len(row) == len(take):
                yield row
                row = []
        if last is not None:
            piece += last


def entry_of(row: Sequence[Any], parts: Iterable[tuple[int, bytes]]) -> Entry:
    """The Entry in a row of JOURNAL_COLUMNS with its parts."""
    seq, commit_id, replica, clock, watermark, digest, turn, version, _, calls, changes = row
    calls, changes = entries.join(calls, changes, parts)
    return Entry(
        seq=seq,
        commit_id=commit_id,
        replica=replica,
        clock=clock,
        watermark=watermark,
        digest=digest,
        turn=turn,
        version=version,
        calls=calls,
        changes=changes,
    )


def _put(write: Any, table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    if not write.columns:
        write.table = table.name
        write.columns.extend(columns)
    for row in rows:
        _put_values(write.values.add(), table, columns, row)


def _put_delete(delete: Any, table: Table, namespace: str, key: Key) -> None:
    delete.table = table.name
    if len(key) < len(schema.key_columns(table)):
        put_keys(delete.key_set, table, namespace, key, key)
    else:
        columns = ["namespace", *schema.key_columns(table)]
        _put_values(delete.key_set.keys.add(), table, columns, [namespace, *key])


def _put_values(values: Any, table: Table, columns: Sequence[str], row: Sequence[Any]) -> None:
    puts = _puts(table)
    for name, value in zip(columns, row, strict=False):
        target = values.values.add()
        if value is None:
            target.null_value = 0
        else:
            puts[name](target, value)


@cache
def _projected(table: Table) -> tuple[str, ...]:
    """Names of the columns after the key, without the body."""
    apart = {"namespace", *schema.key_columns(table), "body"}
    return tuple(column.name for column in table.columns if column.name not in apart)


@cache
def _puts(table: Table) -> dict[str, Put]:
    """How a value of each column is written."""
    return {column.name: _put_of(column.type) for column in table.columns}


def _put_of(column_type: Any) -> Put:
    for base, put in (
        (LargeBinary, _put_bytes),
        (Integer, _put_integer),
        (Float, _put_float),
        (Boolean, _put_boolean),
        (DateTime, _put_text),
    ):
        if isinstance(column_type, base):
            return put
    return _put_text


def _put_text(target: Any, value: str) -> None:
    target.string_value = value


def _put_integer(target: Any, value: int) -> None:
    target.string_value = str(int(value))


def _put_float(target: Any, value: float) -> None:
    if math.isfinite(value):
        target.number_value = value
    else:
        target.string_value = "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _put_boolean(target: Any, value: bool) -> None:
    target.bool_value = value


def _put_bytes(target: Any, value: bytes) -> None:
    target.string_value = b2a_base64(value, newline=False).decode("ascii")


def _is_null(value: Any) -> bool:
    return bool(value.WhichOneof("kind") == "null_value")


def _text(value: Any) -> str | None:
    # Only what is empty can be null: the kind is asked for then, these are the hot ones.
    text: str = value.string_value
    return text if text else (None if _is_null(value) else "")


def _integer(value: Any) -> int | None:
    text = value.string_value
    return int(text) if text else None


def _float(value: Any) -> float | None:
    if _is_null(value):
        return None
    return float(value.string_value or value.number_value)


def _boolean(value: Any) -> bool | None:
    return None if _is_null(value) else value.bool_value


def _bytes(value: Any) -> bytes | None:
    text = value.string_value
    return a2b_base64(text) if text else (None if _is_null(value) else b"")


_TAKE: dict[int, Callable[[Any], Any]] = {
    int(types.TypeCode.BOOL): _boolean,
    int(types.TypeCode.INT64): _integer,
    int(types.TypeCode.FLOAT64): _float,
    int(types.TypeCode.BYTES): _bytes,
}
"""How a value of each type is read; every other type is text to us."""
