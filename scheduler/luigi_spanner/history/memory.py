"""The history in a memory store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from luigi_spanner.graph.history import HISTORY
from luigi_spanner.history import Change, Reading, Wanted, change_in
from luigi_spanner.stores.memory import Database


class MemorySource:
    """The table of a memory store. Nothing expires there: it goes with its process."""

    expires = False

    def __init__(self, database: Database, namespace: str) -> None:
        self.reading = Reading()
        self._database = database
        self._namespace = namespace

    def latest(self, wanted: Wanted) -> list[Change]:
        newest = {change.run: change for change in self._changes()}
        fitting = (change for change in newest.values() if wanted.fits(asdict(change)))
        found = [change for change in fitting if wanted.before is None or change.id < wanted.before]
        return sorted(found, key=lambda change: -change.id)[: wanted.limit]

    def changes(self, task_id: str, run: int) -> list[Change]:
        return [change for change in self._changes() if change.run == run]

    def change(self, number: int) -> Change | None:
        return next((change for change in self._changes() if change.id == number), None)

    def some(self, numbers: Sequence[int]) -> dict[int, Change]:
        return {change.id: change for change in self._changes() if change.id in numbers}

    def families(self) -> list[str]:
        return sorted({change.family for change in self._changes()})

    def bodies(self, first: int, last: int) -> dict[int, bytes]:
        return {number: body for number, body in self._rows() if first <= number <= last}

    def expire(self, before: float, limit: int) -> int:
        return 0

    def close(self) -> None:
        self.reading.close()

    def _changes(self) -> list[Change]:
        return [change_in(number, body) for number, body in sorted(self._rows())]

    def _rows(self) -> list[tuple[int, bytes]]:
        tables = self._database.tables.get(self._namespace, {})
        return [(int(key[0]), body) for key, body in list(tables.get(HISTORY, {}).items())]
