"""The memory store: the same protocol with nothing behind it, for tests, simulations and embedded schedulers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from luigi_spanner.journal import Entry, Key, Row
from luigi_spanner.schema import ROW_TABLES, STATE_TABLES, key_columns
from luigi_spanner.stores import (
    GENESIS,
    READ_BYTES,
    READ_LIMIT,
    Closed,
    Committed,
    Conflict,
    Outcome,
    Snapshot,
    Truncated,
    bounds,
    entries,
)

_KEY_LENGTHS = {name: len(key_columns(table)) for name, table in ROW_TABLES.items()}


@dataclass(eq=False)
class Database:
    """What several stores of one process share: per namespace its journal by seq, the links, and the rows by table and key."""

    journals: dict[str, dict[int, Entry]] = field(default_factory=dict)
    tables: dict[str, dict[str, dict[Key, bytes]]] = field(default_factory=dict)

    def create(self, namespace: str) -> None:
        """Create the namespace with its genesis entry, if it does not exist."""
        if namespace not in self.journals:
            self.journals[namespace] = {GENESIS: entries.genesis()}
            self.tables[namespace] = {name: {} for name in ROW_TABLES}


_named: WeakValueDictionary[str, Database] = WeakValueDictionary()


def open(place: str, namespace: str) -> MemoryStore:
    """A store in the database that the process knows as `place`; an empty `place` is a database of its own."""
    if not place:
        return MemoryStore(namespace=namespace)
    return MemoryStore(namespace=namespace, database=_named.setdefault(place, Database()))


class MemoryStore:
    """One namespace of a `Database`. No method ever suspends, so a caller without an event loop can drive it."""

    def __init__(self, *, namespace: str, database: Database | None = None) -> None:
        self._namespace = namespace
        self.database = database or Database()
        self._closed = False

    async def has_namespace(self) -> bool:
        """Whether the namespace has been created."""
        self._check_open()
        return self._namespace in self.database.journals

    async def load(self) -> Snapshot:
        self._check_open()
        self.database.create(self._namespace)
        journal = self.database.journals[self._namespace]
        last = max(journal)
        head = next(journal[seq] for seq in range(last, -1, -1) if not journal[seq].only_asks)
        written = self.database.tables[self._namespace]
        tables = {name: list(written[name].items()) for name in STATE_TABLES}
        after = [journal[seq] for seq in range(head.watermark + 1, last + 1)]
        return Snapshot(head=head, tables=tables, entries=after)

    async def read_after(self, seq: int) -> list[Entry]:
        self._check_open()
        journal = self.database.journals[self._namespace]
        if seq not in journal:
            raise Truncated(f"entry {seq} is no longer in the journal")
        found: list[Entry] = []
        size = 0
        while len(found) < READ_LIMIT and size < READ_BYTES and (entry := journal.get(seq + 1 + len(found))) is not None:
            found.append(entry)
            size += len(entry.calls) + len(entry.changes)
        return found

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        self._check_open()
        refused = bounds.check(self._namespace, entry, rows)
        if refused is not None:
            return refused
        journal = self.database.journals[self._namespace]
        if seq in journal or seq - 1 not in journal:
            return Conflict()
        journal[seq] = entry
        for row in rows:
            self._write(row)
        return Committed()

    def _write(self, row: Row) -> None:
        table = self.database.tables[self._namespace][row.table]
        if row.body is not None:
            table[row.key] = row.body
        elif len(row.key) == _KEY_LENGTHS[row.table]:
            table.pop(row.key, None)
        else:
            for key in [key for key in table if key[: len(row.key)] == row.key]:
                del table[key]

    async def truncate(self, before: int) -> None:
        self._check_open()
        journal = self.database.journals[self._namespace]
        for seq in [seq for seq in journal if seq < before]:
            del journal[seq]

    async def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the store is closed")
