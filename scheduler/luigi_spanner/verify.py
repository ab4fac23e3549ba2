"""Verify: read a namespace as it lies in the store and check it against itself.

The journal is contiguous, every entry's digest is what its changes make it, and the tables with the entries after the
watermark equal what the digest and a replay say. Nothing of the scheduler runs here: rows are plain JSON, so a bug in the
graph cannot hide itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from luigi_spanner.digest import EMPTY, MODULUS, format_digest, row_digest
from luigi_spanner.journal import Entry, Key, canonical, decode, unpack
from luigi_spanner.schema import STATE_TABLES, key_columns
from luigi_spanner.stores import GENESIS, Snapshot, Store, Truncated
from luigi_spanner.stores.location import open_store

_KEY_LENGTHS = {name: len(key_columns(table)) for name, table in STATE_TABLES.items()}

Row = dict[str, Any]


@dataclass(kw_only=True)
class Report:
    """What was checked, and the first difference of each check. `replayed`: the journal reaches back to its beginning."""

    namespace: str
    head: int = 0
    entries: int = 0
    rows: int = 0
    replayed: bool = False
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.differences

    def lines(self) -> list[str]:
        """The report for people."""
        reach = "from the beginning" if self.replayed else "as far back as the journal reaches"
        found = self.differences or [f"clean: the digest of every entry and of the tables fits, {reach}"]
        return [f"namespace {self.namespace}: head {self.head}, {self.entries} entries, {self.rows} rows", *found]


class Rows:
    """A state as plain rows, with its digest."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Key, Row]] = {name: {} for name in STATE_TABLES}
        self.digest = EMPTY

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Replace or (None) delete one row."""
        old = self.tables[table].pop(key, None)
        if old is not None:
            self.digest = (self.digest - row_digest(table, key, canonical(old))) % MODULUS
        if row is not None:
            self.tables[table][key] = row
            self.digest = (self.digest + row_digest(table, key, canonical(row))) % MODULUS

    def apply(self, entry: Entry) -> None:
        """Apply the changes of an entry, in order."""
        for records in decode(entry.changes):
            for record in records:
                self._change(record[0], tuple(record[1]), record[2], whole=len(record) > 3)

    def _change(self, table: str, key: Key, row: Row | None, *, whole: bool) -> None:
        if row is None and len(key) < _KEY_LENGTHS[table]:
            for member in [member for member in self.tables[table] if member[: len(key)] == key]:
                self.put(table, member, None)
        elif row is None or whole:
            self.put(table, key, row)
        else:
            merged = {**self.tables[table].get(key, {}), **row}
            self.put(table, key, {name: value for name, value in merged.items() if value is not None})


def verify(url: str, namespace: str) -> Report:
    """Check a namespace of the store at `url`, which may be in use. Raises StoreError."""

    async def opened() -> Report:
        store = await open_store(url, namespace)
        try:
            return await check(store, namespace)
        finally:
            await store.close()

    return asyncio.run(opened())


async def check(store: Store, namespace: str) -> Report:
    """Check what `store` holds. Raises StoreError."""
    report = Report(namespace=namespace)
    snapshot = await store.load()
    report.head = snapshot.head.seq
    tables = _tables(snapshot, report)
    await _journal(store, snapshot, tables, report)
    return report


def _tables(snapshot: Snapshot, report: Report) -> Rows:
    """The state at the head, from the tables and the entries after the watermark."""
    rows = Rows()
    for table, found in snapshot.tables.items():
        report.rows += len(found)
        for key, body in found:
            text = unpack(body).decode("ascii")
            row = json.loads(text)
            if canonical(row) != text:
                report.differences.append(f"{table} {key}: the body is not in canonical form")
            rows.put(table, key, row)
    if any(entry.seq != seq for seq, entry in enumerate(snapshot.entries, snapshot.head.watermark + 1)):
        report.differences.append("the entries after the watermark are not contiguous")
    for entry in snapshot.entries:
        rows.apply(entry)
    _compare(f"tables and entries up to {snapshot.head.seq}", rows.digest, snapshot.head, report)
    return rows


async def _journal(store: Store, snapshot: Snapshot, tables: Rows, report: Report) -> None:
    """Replay the journal from its beginning, if it is all there, and compare the result with the tables."""
    replay = Rows()
    seq = GENESIS
    report.replayed = True
    while seq < snapshot.head.seq:
        try:
            entries = await store.read_after(seq)
        except Truncated:
            report.replayed = False
            return
        for entry in entries:
            if entry.seq != seq + 1:
                report.differences.append(f"entry {seq + 1} is missing")
                return
            seq = entry.seq
            replay.apply(entry)
            report.entries += 1
            if not _compare(f"entry {seq}", replay.digest, entry, report):
                return
            if seq == snapshot.head.seq:
                report.differences.extend(_first_difference(tables, replay))
                return


def _compare(what: str, digest: int, entry: Entry, report: Report) -> bool:
    if format_digest(digest) == entry.digest:
        return True
    report.differences.append(f"{what}: the digest is {format_digest(digest)}, the journal says {entry.digest}")
    return False


def _first_difference(tables: Rows, replay: Rows) -> Iterable[str]:
    for name, rows in tables.tables.items():
        for key in sorted({*rows, *replay.tables[name]}, key=canonical):
            if rows.get(key) != replay.tables[name].get(key):
                yield f"{name} {key}: the tables say {rows.get(key)}, a replay of the journal says {replay.tables[name].get(key)}"
                return
