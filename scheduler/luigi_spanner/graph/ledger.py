"""The ledger: it turns what calls changed into records of an entry, keeps the digest, and applies others' entries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from luigi_spanner import digest
from luigi_spanner.digest import LASTING, TASKS
from luigi_spanner.graph.history import HISTORY, ROW_CHARACTERS
from luigi_spanner.graph.outbox import OUTBOX
from luigi_spanner.graph.pending import Pending
from luigi_spanner.graph.relations import RUNNERS, STAKEHOLDERS
from luigi_spanner.graph.rows import KEY_LENGTHS, Resources, apply_record, columns_of, row_of
from luigi_spanner.graph.state import State
from luigi_spanner.graph.task import Task, encode_lasting, encode_moving
from luigi_spanner.graph.tracker import WHOLE, RowId
from luigi_spanner.journal import ENCODING_VERSION, Entry, Key, Row, canonical, decode, key_text, pack, unpack
from luigi_spanner.stores import CELL_BYTES, COMMIT_BYTES, KEY_BYTES, Snapshot

NAMESPACE_BYTES = 128
"""Longest namespace; a row's key must leave room for it."""

UNCHECKED_BYTES = 64 * 1024
"""Half a task of up to so many bytes is not compressed to see whether the whole fits into a cell: ROW_BYTES leaves it room."""

ROW_BYTES = CELL_BYTES - 2 * UNCHECKED_BYTES
"""Largest row body, as far as a call is held to it; what compression may add is far below the second half of the room."""

RELATIONS = (STAKEHOLDERS, RUNNERS)
LOADED_AT_ONCE = 1000
"""Rows that are decoded together."""

NUMBERED = ("emails", OUTBOX)
"""The tables whose key is a number."""

HALVES = ("moving", "lasting")


class Unstorable(Exception):
    """A call changed something that no store can hold: too large, or text that cannot be encoded."""


class Divergence(Exception):
    """Memory and journal disagree: a replica that meets this must stop serving (I2)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sealed:
    """What one call changed: its records as JSON text, and the ids of the rows in order."""

    text: str = field(repr=False)
    row_ids: tuple[RowId, ...]

    def __bool__(self) -> bool:
        return bool(self.row_ids)


UNCHANGED = Sealed(text="", row_ids=())
"""What a call that changed nothing has changed."""


class Ledger:
    """Digest and pending rows of a state. `applied` is the seq of the entry that memory stands at."""

    def __init__(self, state: State, resources: Resources) -> None:
        self._state = state
        self._resources = resources
        # Of each half of a task, and of each row of the other tables; the relations keep their own.
        self._digests: dict[str, dict[Key, int]] = defaultdict(dict)
        self._orphans: dict[RowId, set[str]] = {}
        self.rows_digest = digest.EMPTY
        self.applied = 0
        self.watermark = 0
        self.pending = Pending()

    @property
    def digest(self) -> str:
        """The digest of the whole state, as an entry carries it."""
        return digest.format_digest(self.rows_digest + self._state.relations_digest)

    # One call

    def seal(self) -> Sealed:
        """Encode and bound what was touched since the last seal, and let the digest follow; undone with it. Raises Unstorable."""
        row_ids: list[RowId] = []
        records = [record for record in self._follow(row_ids, bounded=True) if record]
        if not records:
            return UNCHANGED
        text = f"[{','.join(records)}]"
        if len(text) > COMMIT_BYTES:
            raise Unstorable(f"the call changes {len(text)} bytes at once, the limit is {COMMIT_BYTES}")
        return Sealed(text=text, row_ids=tuple(row_ids))

    def _follow(self, changed: list[RowId], *, bounded: bool) -> Iterator[str]:
        """Let the digest follow what was touched since the last time; yields a record of each change, in order, as JSON.

        `changed` receives the ids of the rows, single ones also where a whole prefix went. `bounded`: what no store can hold
        raises Unstorable; what is in the journal already is past that.
        """
        for row_id, attributes in self._state.tracker.take().items():
            table, key = row_id
            if len(key) < KEY_LENGTHS[table]:
                members = sorted(attributes.union(self._orphans.pop(row_id, ())))
                changed.extend((table, (*key, member)) for member in members)
                yield f'["{table}",{key_text(key)},null]' if members else ""
            elif table == HISTORY:
                # Of what has happened no digest is kept: it is no state.
                changed.append(row_id)
                yield self._follow_history(key) if bounded else ""
            elif table in RELATIONS:
                changed.append(row_id)
                if bounded:
                    _check_key(table, key)
                yield self._follow_relation(table, key)
            else:
                record = (
                    self._follow_task(key, attributes, bounded)
                    if table == TASKS
                    else self._follow_row(table, key, attributes, bounded)
                )
                if record:
                    changed.append(row_id)
                    yield record

    def _follow_relation(self, table: str, key: Key) -> str:
        # Its digest has followed already: it says nothing but the key and an ordinal.
        if self._orphans:
            self._orphans.get((table, key[:1]), set()).discard(str(key[1]))
        worker_id, task_id = key
        task = self._state._tasks.get(task_id)
        if task is None or worker_id not in (task.stakeholders if table == STAKEHOLDERS else task.workers):
            return f'["{table}",{key_text(key)},null]'
        row = "{}" if table == STAKEHOLDERS else f'{{"ordinal":{task.workers.ordinal(worker_id)}}}'
        return f'["{table}",{key_text(key)},{row},1]'

    def _follow_history(self, key: Key) -> str:
        history = self._state.history
        text = _text(HISTORY, history[key])
        if len(text) > ROW_CHARACTERS:
            text = _text(HISTORY, history.shorten(key))
        history.keep_text(key, text)
        return f'["{HISTORY}",{key_text(key)},{text},1]'

    def _follow_task(self, key: Key, attributes: set[str], bounded: bool) -> str:
        task = self._state._tasks.get(key[0])
        if task is None:
            gone = [self._keep(half, key, None) for half in HALVES]
            return f'["{TASKS}",{key_text(key)},null]' if any(gone) else ""
        whole = WHOLE in attributes
        if whole and bounded:
            _check_key(TASKS, key)
        moving = encode_moving(task) if whole or not attributes <= LASTING else None
        lasting = encode_lasting(task) if whole or not attributes.isdisjoint(LASTING) else None
        texts = [None if half is None else _text(TASKS, half) for half in (moving, lasting)]
        changes = [self._keep(half, key, text) for half, text in zip(HALVES, texts, strict=True) if text is not None]
        if not any(changes):
            return ""
        if bounded and max(len(text or "") for text in texts) > UNCHECKED_BYTES:
            _check_cell(TASKS, _task_body(task))
        if whole:
            return f'["{TASKS}",{key_text(key)},{_joined(*texts)},1]'
        row = {**(moving or {}), **(lasting or {})}
        return f'["{TASKS}",{key_text(key)},{canonical({name: row.get(name) for name in attributes})}]'

    def _follow_row(self, table: str, key: Key, attributes: set[str], bounded: bool) -> str:
        row = row_of(self._state, self._resources, table, key)
        text = None if row is None else _text(table, row)
        if text is not None and bounded:
            if table not in NUMBERED:
                _check_key(table, key)
            if len(text) > UNCHECKED_BYTES:
                _check_cell(table, pack(text.encode("ascii")))
        if not self._keep(table, key, text):
            return ""
        if row is None:
            return f'["{table}",{key_text(key)},null]'
        if WHOLE in attributes:
            return f'["{table}",{key_text(key)},{text},1]'
        return f'["{table}",{key_text(key)},{canonical({name: row.get(name) for name in attributes})}]'

    def _keep(self, kind: str, key: Key, text: str | None) -> bool:
        """Let the digest follow a row or half a row. Whether it has changed at all. Undoable."""
        old = self._digests[kind].get(key)
        new = None if text is None else digest.text_digest(kind, key, text)
        if old == new:
            return False
        self._state.tracker.log(self._put_digest, kind, key, old)
        self._put_digest(kind, key, new)
        return True

    def _put_digest(self, kind: str, key: Key, new: int | None) -> None:
        digests = self._digests[kind]
        self.rows_digest += (new or 0) - digests.pop(key, 0)
        if new is not None:
            digests[key] = new

    # Entries

    def committed(self, seq: int, watermark: int, changed: Iterable[RowId], written: Iterable[RowId]) -> None:
        """Our own entry `seq` is durable: it changed the rows `changed`, and its commit wrote the rows `written`."""
        self.pending.add(changed, seq)
        self.pending.written(written)
        self._state.history.forget(watermark)
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
        for _ in self._follow(row_ids, bounded=False):
            pass
        self.applied = entry.seq
        if not entry.only_asks:
            if check and self.digest != entry.digest:
                raise Divergence(f"after entry {entry.seq} the digest is {self.digest}, the journal says {entry.digest}")
            self.pending.add(row_ids, entry.seq)
            self.pending.complete_to(entry.watermark, entry.seq)
            self._state.history.forget(entry.watermark)
            self.watermark = entry.watermark
        elif row_ids:
            raise Divergence(f"entry {entry.seq} changes rows and has no digest")
        self._state.tracker.settle()

    def load(self, snapshot: Snapshot) -> None:
        """Replace memory by a snapshot, all but what was heard of workers since. Raises Divergence."""
        heard = {worker.id: (worker.last_active, worker.last_get_work) for worker in self._state.soft.values()}
        self._state.reset()
        self._resources.clear()
        self._resources.origins.clear()
        self._digests.clear()
        self._orphans.clear()
        self.pending.clear()
        self.rows_digest = digest.EMPTY
        self._state.names = {}
        for table, length in KEY_LENGTHS.items():
            rows = snapshot.tables.get(table, [])
            if any(len(key) != length for key, _ in rows):
                raise Divergence(f"a row of {table} has a key that is not of {length} parts")
            for start in range(0, len(rows), LOADED_AT_ONCE):
                self._load_rows(table, rows[start : start + LOADED_AT_ONCE])
        self._state.names = None
        self._state.tracker.settle()
        first = snapshot.entries[0] if snapshot.entries else None
        self.applied = snapshot.head.seq if first is None else first.seq - 1
        self.watermark = snapshot.head.watermark
        for entry in snapshot.entries:
            # Rows may be ahead of the watermark, so the digest fits again at the head only.
            self.apply(entry, check=False)
        self._state.settle()
        self._state.hear(heard)
        if self.digest != snapshot.head.digest or any(self._orphans.values()):
            raise Divergence(f"the tables and the entries up to {self.applied} do not have the digest that the journal says")

    def _load_rows(self, table: str, rows: Sequence[tuple[Key, bytes]]) -> None:
        texts = [unpack(body).decode("ascii").split("\n") for _, body in rows]
        # One JSON text of many rows is read three times as fast as many.
        values = json.loads(f"[{','.join(part for parts in texts for part in parts)}]")
        if table == TASKS:
            for (key, _), parts, moving, lasting in zip(rows, texts, values[::2], values[1::2], strict=True):
                for half, part in zip(HALVES, parts, strict=True):
                    self._put_digest(half, key, digest.text_digest(half, key, part))
                self._state.load_task(str(key[0]), moving, lasting)
        elif table in RELATIONS:
            for (key, _), row in zip(rows, values, strict=True):
                self._load_relation(table, key, row)
        else:
            for (key, _), parts, row in zip(rows, texts, values, strict=True):
                apply_record(self._state, self._resources, [table, list(key), row, 1])
                self._put_digest(table, key, digest.text_digest(table, key, parts[0]))

    def _load_relation(self, table: str, key: Key, row: dict[str, Any]) -> None:
        worker_id, task_id = map(str, key)
        worker = self._state.find_worker(worker_id)
        worker_id = worker_id if worker is None else worker.id
        task = self._state._tasks.get(task_id)
        if task is None:
            # The tables are ahead of the watermark: an entry to come deletes the row as it deletes the task.
            self._orphans.setdefault((table, key[:1]), set()).add(task_id)
        elif table == STAKEHOLDERS:
            task.stakeholders.put(worker_id)
        else:
            task.workers.put(worker_id, row["ordinal"])

    def row(self, row_id: RowId) -> Row:
        """The write that brings this row of the tables to what memory holds. Of a worker that has none left in a relation, one
        write deletes them all."""
        table, key = row_id
        if table == TASKS:
            task = self._state._tasks.get(key[0])
            if task is not None:
                columns = columns_of(TASKS, {**encode_moving(task), **encode_lasting(task)})
                return Row(table=table, key=key, body=_task_body(task), columns=columns)
        else:
            row = row_of(self._state, self._resources, table, key)
            if row is not None:
                columns = columns_of(table, row)
                if table == HISTORY:
                    columns["expires_at"] = self._state.history.expiry(row)
                    text = self._state.history.text(key)
                else:
                    text = canonical(row)
                return Row(table=table, key=key, body=pack(text.encode("ascii")), columns=columns)
        prefix = table in RELATIONS and not self._has_any(table, str(key[0]))
        return Row(table=table, key=key[:1] if prefix else key, body=None, columns={})

    def _has_any(self, table: str, worker_id: str) -> bool:
        if table == STAKEHOLDERS:
            return worker_id in self._state.stakes
        worker = self._state.find_worker(worker_id)
        return worker is not None and len(worker.tasks) > 0


def _text(table: str, row: dict[str, Any]) -> str:
    try:
        return canonical(row)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unstorable(f"a row of {table} cannot be written as JSON: {error}") from error


def _joined(moving: str | None, lasting: str | None) -> str:
    """One JSON object of two; neither is ever empty."""
    assert moving is not None and lasting is not None
    return f"{moving[:-1]},{lasting[1:]}"


def _check_key(table: str, key: Key) -> None:
    size = NAMESPACE_BYTES
    for part in key:
        if not isinstance(part, str):
            raise Unstorable(f"a key of {table} is no text")
        try:
            size += len(part) if part.isascii() else len(part.encode())
        except UnicodeEncodeError as error:
            raise Unstorable(f"a key of {table} is no text that a database can hold") from error
    if size > KEY_BYTES:
        raise Unstorable(f"a key of {table} is {size} bytes long, the limit is {KEY_BYTES}")


def _check_cell(table: str, body: bytes) -> None:
    if len(body) > ROW_BYTES:
        raise Unstorable(f"a row of {table} is larger than {ROW_BYTES} bytes")


def _task_body(task: Task) -> bytes:
    texts = (canonical(encode_moving(task)), canonical(encode_lasting(task)))
    return pack("\n".join(texts).encode("ascii"))
