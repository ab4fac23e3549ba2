"""The ledger: it turns what calls changed into records of an entry, keeps the digest, and applies others' entries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luigi_spanner import digest
from luigi_spanner.graph.pending import Pending
from luigi_spanner.graph.rows import KEY_LENGTHS, Record, Resources, apply_record, columns_of, record_of, row_of
from luigi_spanner.graph.state import State
from luigi_spanner.graph.tracker import RowId
from luigi_spanner.journal import ENCODING_VERSION, Entry, Row, canonical, decode, pack, unpack
from luigi_spanner.stores import CELL_BYTES, COMMIT_BYTES, KEY_BYTES, Snapshot

NAMESPACE_BYTES = 128
"""Longest namespace; a row's key must leave room for it."""


class Unstorable(Exception):
    """A call changed something that no store can hold: too large, or text that cannot be encoded."""


class Divergence(Exception):
    """Memory and journal disagree: a replica that meets this must stop serving (I2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """What one call changed: its records as JSON text, and the ids of the rows in order."""

    text: str
    row_ids: tuple[RowId, ...]

    def __bool__(self) -> bool:
        return bool(self.row_ids)


class Ledger:
    """Digest and pending rows of a state. `applied` is the seq of the entry that memory stands at."""

    def __init__(self, state: State, resources: Resources) -> None:
        self._state = state
        self._resources = resources
        self._digests: dict[RowId, int] = {}
        self._members: dict[RowId, set[RowId]] = {}
        self.digest = digest.EMPTY
        self.applied = 0
        self.watermark = 0
        self.pending = Pending()

    # One call

    def seal(self) -> Sealed:
        """Encode and bound what was touched since the last seal, and let the digest follow; undone with it. Raises Unstorable."""
        records: list[Record] = []
        row_ids: list[RowId] = []
        for row_id, attributes, row in self._follow(row_ids):
            records.append(record_of(row_id, attributes, row))
        return Sealed(text=self._encode(records) if records else "", row_ids=tuple(row_ids))

    def _follow(self, changed: list[RowId]) -> Iterator[tuple[RowId, set[str], dict[str, Any] | None]]:
        """Let the digest follow what was touched since the last time; yields what has changed, in order. `changed` receives
        the ids of the rows, single ones also where a whole prefix went."""
        for row_id, attributes in self._state.tracker.take().items():
            if len(row_id[1]) < KEY_LENGTHS[row_id[0]]:
                members = self._forget_prefix(row_id)
                if members:
                    changed.extend(members)
                    yield row_id, attributes, None
            else:
                row = row_of(self._state, self._resources, *row_id)
                if self._keep(row_id, self._text(row_id, row)):
                    changed.append(row_id)
                    yield row_id, attributes, row

    def _text(self, row_id: RowId, row: dict[str, Any] | None) -> str | None:
        if row is None:
            return None
        try:
            size = NAMESPACE_BYTES + sum(len(part.encode()) if isinstance(part, str) else 8 for part in row_id[1])
            text = canonical(row)
        except (UnicodeEncodeError, AttributeError) as error:
            raise Unstorable(f"a key of {row_id[0]} is no text that a database can hold") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise Unstorable(f"a row of {row_id[0]} cannot be written as JSON: {error}") from error
        if size > KEY_BYTES:
            raise Unstorable(f"a key of {row_id[0]} is {size} bytes long, the limit is {KEY_BYTES}")
        if len(text) > CELL_BYTES and len(pack(text.encode("ascii"))) > CELL_BYTES:
            raise Unstorable(f"a row of {row_id[0]} is larger than {CELL_BYTES} bytes")
        return text

    def _encode(self, records: list[Record]) -> str:
        text = canonical(records)
        if len(text) > COMMIT_BYTES:
            raise Unstorable(f"the call changes {len(text)} bytes at once, the limit is {COMMIT_BYTES}")
        return text

    def _keep(self, row_id: RowId, text: str | None) -> bool:
        """Let the digest follow one row. Whether the row has changed at all. Undoable."""
        old = self._digests.get(row_id)
        new = None if text is None else digest.row_digest(*row_id, text)
        if old == new:
            return False
        self._state.tracker.log(self._put_digest, row_id, old)
        self._put_digest(row_id, new)
        return True

    def _put_digest(self, row_id: RowId, new: int | None) -> None:
        old = self._digests.pop(row_id, None)
        if new is not None:
            self._digests[row_id] = new
        self.digest = (self.digest - (old or 0) + (new or 0)) % digest.MODULUS
        if len(row_id[1]) > 1:
            prefix = (row_id[0], row_id[1][:1])
            if new is None:
                members = self._members.get(prefix)
                if members is not None:
                    members.discard(row_id)
                    if not members:
                        del self._members[prefix]
            else:
                self._members.setdefault(prefix, set()).add(row_id)

    def _forget_prefix(self, prefix: RowId) -> list[RowId]:
        # Sorted, so that every replica has the same order.
        members = sorted(self._members.get(prefix, ()))
        for row_id in members:
            self._keep(row_id, None)
        return members

    # Entries

    def committed(self, seq: int, watermark: int, pending: Pending) -> None:
        """Our own entry `seq` is durable; the tables now owe `pending`."""
        self.pending = pending
        self.applied = seq
        self.watermark = watermark

    def apply(self, entry: Entry, *, check: bool = True) -> None:
        """Bring memory from the entry before to `entry`. Raises Divergence."""
        if entry.version > ENCODING_VERSION:
            raise Divergence(f"entry {entry.seq} has encoding version {entry.version}: upgrade luigi-spanner")
        if entry.seq != self.applied + 1:
            raise Divergence(f"entry {entry.seq} does not follow entry {self.applied}")
        for records in decode(entry.changes):
            for record in records:
                apply_record(self._state, self._resources, record)
        row_ids: list[RowId] = []
        for _ in self._follow(row_ids):
            pass
        if check and digest.format_digest(self.digest) != entry.digest:
            raise Divergence(
                f"after entry {entry.seq} the digest is {digest.format_digest(self.digest)}, the journal says {entry.digest}"
            )
        self.pending.add(row_ids, entry.seq)
        self.pending.complete_to(entry.watermark, entry.seq)
        self.applied = entry.seq
        self.watermark = entry.watermark
        self._state.tracker.settle()

    def load(self, snapshot: Snapshot) -> None:
        """Replace memory by a snapshot. Raises Divergence."""
        self._state.reset()
        self._resources.clear()
        self._resources.origins.clear()
        self._digests.clear()
        self._members.clear()
        self.pending.clear()
        self.digest = digest.EMPTY
        for table, length in KEY_LENGTHS.items():
            for key, body in snapshot.tables.get(table, ()):
                if len(key) != length:
                    raise Divergence(f"a row of {table} has a key of {len(key)} parts")
                text = unpack(body).decode("ascii")
                apply_record(self._state, self._resources, [table, list(key), json.loads(text), 1])
                self._state.tracker.settle()
                self._put_digest((table, key), digest.row_digest(table, key, text))
        first = snapshot.entries[0] if snapshot.entries else None
        self.applied = snapshot.head.seq if first is None else first.seq - 1
        self.watermark = snapshot.head.watermark
        for entry in snapshot.entries:
            # Rows may be ahead of the watermark, so the digest fits again at the head only.
            self.apply(entry, check=False)
        if digest.format_digest(self.digest) != snapshot.head.digest:
            raise Divergence(f"the tables and the entries up to {snapshot.head.seq} do not have the digest that the journal says")

    def row(self, row_id: RowId) -> Row:
        """The write that brings this row of the tables to what memory holds. Of a worker that has none left in a relation, one
        write deletes them all."""
        table, key = row_id
        row = row_of(self._state, self._resources, table, key)
        if row is not None:
            return Row(table=table, key=key, body=pack(canonical(row).encode("ascii")), columns=columns_of(table, row))
        alone = KEY_LENGTHS[table] == 1 or (table, key[:1]) in self._members
        return Row(table=table, key=key if alone else key[:1], body=None, columns={})
