"""The tracker: what a call has changed, and how to take it back.

Luigi's rules mutate tasks and workers in place. Each tracked mutation appends its inverse to the undo log and marks the
row it belongs to as touched. A savepoint is a position in the undo log; undoing to it leaves memory as it was (I4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from luigi_spanner.journal import Key

ORDINALS_PER_SEQ = 1 << 24
"""Ordinals that one entry can hand out. With seq in the upper bits an ordinal is unique and grows along the journal, so no
counter needs to be replicated; an INT64 leaves room for 2**39 entries."""

WHOLE = "*"
"""Attribute name that marks a row as created or replaced: its change is written in full."""

_TASKS = "tasks"
_RELATIONS = frozenset({"stakeholders", "runners"})

RowId = tuple[str, Key]
"""A table's name and a row's key in it."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What happens outside once a change is durable (I5). It holds values, not live objects."""

    run: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A position to go back to."""

    undo: int
    effects: int


class Tracker:
    """Undo log, touched rows and deferred effects of the batch under way.

    `changed` holds the ids of tasks that have changed, as the index was told, until whoever lists tasks takes them; None: that
    may be any task, nobody follows.
    """

    def __init__(self) -> None:
        self.undo: list[tuple[Any, ...]] = []
        self.touched: dict[RowId, set[str]] = {}
        self.effects: list[Effect] = []
        self.stale: set[str] = set()
        self.changed: set[str] | None = None
        self._refreshed: set[str] = set()
        self._ordinal = 0

    def begin(self, seq: int) -> None:
        """Ordinals handed out from now on belong to entry `seq`."""
        self._ordinal = seq * ORDINALS_PER_SEQ

    def ordinal(self) -> int:
        """The next ordinal: later calls, greater numbers."""
        self._ordinal += 1
        return self._ordinal

    def log(self, inverse: Callable[..., object], *arguments: Any) -> None:
        """Undoing calls `inverse(*arguments)`."""
        self.undo.append((inverse, *arguments))

    def touch(self, table: str, key: Key, attribute: str) -> None:
        """Mark one attribute of a row as changed."""
        if table == _TASKS:
            self.stale.add(key[0])  # type: ignore[arg-type]
        attributes = self.touched.get((table, key))
        if attributes is None:
            self.touched[table, key] = {attribute}
        else:
            attributes.add(attribute)

    def touch_whole(self, table: str, key: Key) -> None:
        """Mark a row as created or deleted; it comes last in the order of changes."""
        if table == _TASKS or (len(key) > 1 and table in _RELATIONS):
            self.stale.add(key[-1])  # type: ignore[arg-type]
        self.touched.pop((table, key), None)
        self.touched[table, key] = {WHOLE}

    def touch_prefix(self, table: str, key: Key, members: Iterable[str]) -> None:
        """Mark every row with that prefix as deleted; `members` are the last parts of their keys."""
        before = self.touched.pop((table, key), set())
        self.touched[table, key] = before.union(members)

    def defer(self, run: Callable[[], object]) -> None:
        """Run `run()` once the change is durable; never, if it is undone."""
        self.effects.append(Effect(run))

    def mark_stale(self, task_id: str) -> None:
        """The index entry of a task is out of date because of another's."""
        self.stale.add(task_id)
        self._refreshed.add(task_id)

    def take_stale(self) -> set[str]:
        """Hand over the ids of the tasks whose index entries are out of date."""
        # A set keeps the room it once needed, and whoever walks it pays for that: it is never emptied to be used again.
        stale, self.stale = self.stale, set()
        self._refreshed |= stale
        if self.changed is not None:
            self.changed |= stale
        return stale

    def savepoint(self) -> Savepoint:
        return Savepoint(len(self.undo), len(self.effects))

    def rollback(self, savepoint: Savepoint) -> None:
        """Undo everything since `savepoint`, latest first, and forget what was touched since the last `take`."""
        undo = self.undo
        while len(undo) > savepoint.undo:
            inverse, *arguments = undo.pop()
            inverse(*arguments)
        # What an index learned meanwhile may hold no longer.
        self.stale |= self._refreshed
        del self.effects[savepoint.effects :]
        self.touched = {}

    def take(self) -> dict[RowId, set[str]]:
        """The rows touched since the last take, in order."""
        touched, self.touched = self.touched, {}
        return touched

    def settle(self) -> list[Effect]:
        """What was done stands: forget how to undo it, hand over the effects."""
        effects, self.effects = self.effects, []
        self.undo.clear()
        self.touched = {}
        self._refreshed.clear()
        return effects
