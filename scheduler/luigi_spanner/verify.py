"""Verify: read a namespace as it lies in the store and check it against itself. It writes nothing.

The journal is contiguous, every entry's digest is what its changes make it, and the tables with the entries after the
watermark equal what the digest and a replay say. Nothing of the scheduler runs here: rows are plain JSON, so a bug in the
graph cannot hide itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from luigi_spanner.digest import EMPTY, TASKS, format_digest, halves, row_digest
from luigi_spanner.graph.history import HISTORY
from luigi_spanner.graph.tracker import ORDINALS_PER_SEQ
from luigi_spanner.history import Source
from luigi_spanner.history.places import source_of
from luigi_spanner.journal import Entry, Key, canonical, decode, unpack
from luigi_spanner.schema import STATE_TABLES, key_columns
from luigi_spanner.stores import GENESIS, Snapshot, Store, Truncated
from luigi_spanner.stores.location import open_existing

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError)
"""What reading JSON of another form than ours ends in."""

_KEY_LENGTHS = {name: len(key_columns(table)) for name, table in STATE_TABLES.items()}

LEAST_KEPT = 86_400.0
"""For how many seconds what has happened is kept at the least: the option is in whole days."""

Row = dict[str, Any]


@dataclass(kw_only=True)
class Report:
    """What was checked, and the first difference of each check. `begins`: seq of the journal's oldest entry."""

    namespace: str
    head: int = 0
    entries: int = 0
    rows: int = 0
    begins: int = GENESIS
    differences: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.differences

    @property
    def replayed(self) -> bool:
        """Whether the journal reaches back to its beginning, so that each entry's digest could be computed."""
        return self.begins == GENESIS

    def lines(self) -> list[str]:
        """The report for people."""
        whole = "the digest of every entry and of the tables fits, from the beginning"
        rest = (
            f"the digest of the tables fits, and they are as the entries after {self.begins} left them; older ones are truncated"
        )
        found = self.differences or [f"clean: {whole if self.replayed else rest}"]
        entries = "1 entry" if self.entries == 1 else f"{self.entries} entries"
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        return [f"namespace {self.namespace}: head {self.head}, {entries}, {rows}", *found]


class Rows:
    """A state as plain rows, with its digest."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Key, Row]] = {name: {} for name in STATE_TABLES}
        self.digest = EMPTY

    def put(self, table: str, key: Key, row: Row | None) -> None:
        """Replace or (None) delete one row."""
        old = self.tables[table].pop(key, None)
        if old is not None:
            self.digest -= row_digest(table, key, old)
        if row is not None:
            self.tables[table][key] = row
            self.digest += row_digest(table, key, row)

    def apply(self, entry: Entry) -> None:
        """Apply the changes of an entry, in order."""
        for table, key, row, *whole in _records(entry):
            self._change(table, tuple(key), row, whole=bool(whole))

    def _change(self, table: str, key: Key, row: Row | None, *, whole: bool) -> None:
        if row is None and len(key) < _KEY_LENGTHS[table]:
            for member in [member for member in self.tables[table] if member[: len(key)] == key]:
                self.put(table, member, None)
        elif row is None or whole:
            self.put(table, key, row)
        else:
            merged = {**self.tables[table].get(key, {}), **row}
            self.put(table, key, {name: value for name, value in merged.items() if value is not None})

    def first_difference(self, tables: Rows) -> Iterable[str]:
        """Where a replay (this) and the tables differ first, if at all."""
        for name, rows in tables.tables.items():
            for key in sorted({*rows, *self.tables[name]}, key=canonical):
                if rows.get(key) != self.tables[name].get(key):
                    yield f"{name} {key}: the tables say {rows.get(key)}, a replay says {self.tables[name].get(key)}"
                    return


class Tail:
    """What the end of a journal says of the rows that it changes, when the beginning has been truncated."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Key], Row | None] = {}

    def apply(self, entry: Entry) -> None:
        """Follow the changes of an entry, in order."""
        for table, key, row, *whole in _records(entry):
            self._change(table, tuple(key), row, whole=bool(whole))

    def _change(self, table: str, key: Key, row: Row | None, *, whole: bool) -> None:
        length = _KEY_LENGTHS[table]
        if row is None and len(key) < length:
            for member in [member for member in self._rows if member[0] == table and member[1][: len(key)] == key]:
                self._rows[member] = None
        elif row is None:
            self._rows[table, key] = None
        else:
            known = self._rows.get((table, key)) or {}
            # A row that replaces another, deleted in the same entry, has none of what that had.
            self._rows[table, key] = {**(dict.fromkeys(known) if whole else known), **row}

    def first_difference(self, tables: Rows) -> Iterable[str]:
        """The first row of the tables that is not as the entries left it."""
        for (table, key), said in self._rows.items():
            row = tables.tables[table].get(key)
            fits = (
                row is None if said is None else row is not None and all(row.get(name) == value for name, value in said.items())
            )
            if not fits:
                yield f"{table} {key}: the tables say {row}, the journal says {said}"
                return


def _records(entry: Entry, *, history: bool = False) -> list[list[Any]]:
    """What an entry says of the state, or of what has happened."""
    return [record for records in decode(entry.changes) for record in records if (record[0] == HISTORY) is history]


class Happened:
    """Whether the table of the history has what the journal says has happened. Rows expire after a day at the least."""

    def __init__(self, source: Source, watermark: int, now: float) -> None:
        self._source = source
        self._watermark = watermark
        self._young = now - LEAST_KEPT
        self.rows = 0

    def differences(self, entries: Sequence[Entry]) -> Iterable[str]:
        """The first row of these entries that the table lacks or has otherwise. The entries come in order."""
        said = {record[1][0]: record[2] for entry in entries for record in _records(entry, history=True)}
        complete = {number: row for number, row in said.items() if number < (self._watermark + 1) * ORDINALS_PER_SEQ}
        found = self._source.bodies(min(complete), max(complete)) if complete else {}
        for number, row in complete.items():
            body = found.get(number)
            self.rows += body is not None
            missing = body is None and row["happened_at"] > self._young
            if missing or (body is not None and decode(body) != row):
                yield f"{HISTORY} {number}: the table says {body and decode(body)}, the journal says {row}"
                return


def verify(url: str, namespace: str) -> Report:
    """Check a namespace of the store at `url`, which may be in use. Raises StoreError."""

    async def opened() -> Report:
        store = await open_existing(url, namespace)
        source = source_of(url, namespace, store)
        try:
            return await check(store, namespace, source, time.time())
        finally:
            source.close()
            await store.close()

    return asyncio.run(opened())


async def check(store: Store, namespace: str, source: Source | None = None, now: float = 0.0) -> Report:
    """Check what `store` holds, and the history in `source`, if given, at the time `now`. Raises StoreError."""
    report = Report(namespace=namespace)
    snapshot = await store.load()
    report.head = snapshot.seq
    tables = at_head(snapshot, report)
    happened = None if source is None else Happened(source, snapshot.head.watermark, now)
    await _journal(store, snapshot, tables, happened, report)
    report.rows += 0 if happened is None else happened.rows
    return report


def at_head(snapshot: Snapshot, report: Report) -> Rows:
    """The state at the head, from the tables and the entries after the watermark; `report` tells what does not fit."""
    rows = Rows()
    for table, found in snapshot.tables.items():
        report.rows += len(found)
        for key, body in found:
            try:
                text = unpack(body).decode("ascii")
                row = _row(text)
                canonical_body = _body(table, row)
            except _UNREADABLE as error:
                report.differences.append(f"{table} {key}: the body cannot be read: {error}")
                continue
            if canonical_body != text:
                report.differences.append(f"{table} {key}: the body is not in canonical form")
            rows.put(table, key, row)
    if any(entry.seq != seq for seq, entry in enumerate(snapshot.entries, snapshot.head.watermark + 1)):
        report.differences.append("the entries after the watermark are not contiguous")
    for entry in snapshot.entries:
        _apply(rows, entry, report)
    _compare(f"tables and entries up to {snapshot.seq}", rows.digest, snapshot.head, report)
    return rows


def _row(text: str) -> Row:
    """A row from its body: one JSON object a line."""
    row: Row = {}
    for line in text.split("\n"):
        row.update(json.loads(line))
    return row


def _body(table: str, row: Row) -> str:
    """The body as it has to be."""
    return "\n".join(canonical(part) for part in (halves(row) if table == TASKS else (row,)))


async def _journal(store: Store, snapshot: Snapshot, tables: Rows, happened: Happened | None, report: Report) -> None:
    """Replay the journal and compare the result with the tables: from its beginning, or what is left of it."""
    report.begins = await _oldest(store, snapshot.seq, report)
    replay = Rows() if report.replayed else Tail()
    seq = report.begins
    while seq < snapshot.seq:
        entries = await store.read_after(seq)
        if not entries:
            report.differences.append(f"entry {seq + 1} is missing")
            return
        for difference in [] if happened is None else _read_history(happened, entries):
            report.differences.append(difference)
            return
        for entry in entries:
            if entry.seq != seq + 1:
                report.differences.append(f"entry {seq + 1} is missing")
                return
            seq = entry.seq
            if not _apply(replay, entry, report):
                return
            report.entries += 1
            if isinstance(replay, Rows) and not _compare(f"entry {seq}", replay.digest, entry, report):
                return
            if seq == snapshot.seq:
                report.differences.extend(replay.first_difference(tables))
                return


def _read_history(happened: Happened, entries: Sequence[Entry]) -> Iterable[str]:
    try:
        yield from happened.differences(entries)
    except _UNREADABLE as error:
        yield f"entries {entries[0].seq} to {entries[-1].seq}: what has happened cannot be read: {error!r}"


def _apply(state: Rows | Tail, entry: Entry, report: Report) -> bool:
    """Whether the entry could be read and applied."""
    try:
        state.apply(entry)
    except _UNREADABLE as error:
        report.differences.append(f"entry {entry.seq}: the changes cannot be read: {error!r}")
        return False
    return True


async def _oldest(store: Store, head: int, report: Report) -> int:
    """Seq of the oldest entry that is still in the journal, by bisection; an older one beyond it tells of a hole."""
    if await _is_there(store, GENESIS):
        return GENESIS
    low, high = GENESIS, head
    while low < high:
        middle = (low + high) // 2
        if await _is_there(store, middle):
            high = middle
        else:
            low = middle + 1
    step = 1
    while low - step > GENESIS:
        if await _is_there(store, low - step):
            report.differences.append(f"entries between {low - step} and {low} are missing")
        step *= 2
    return low


async def _is_there(store: Store, seq: int) -> bool:
    try:
        await store.read_after(seq)
    except Truncated:
        return False
    return True


def _compare(what: str, digest: int, entry: Entry, report: Report) -> bool:
    if entry.only_asks or format_digest(digest) == entry.digest:
        return True
    report.differences.append(f"{what}: the digest is {format_digest(digest)}, the journal says {entry.digest}")
    return False
