"""What the journal tells of a run: which workers were declared dead, and which tasks were taken from whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fleet import NAMESPACE, Fleet

from emulator import query
from luigi_spanner.journal import Entry, decode
from luigi_spanner.stores.location import open_existing

RUNNING = ("RUNNING", "BATCH_RUNNING")


@dataclass(frozen=True, kw_only=True)
class Seizure:
    """Task `task` of `worker` was failed by somebody else; given and taken by these entries."""

    worker: str
    task: str
    given: int
    taken: int


@dataclass(kw_only=True)
class Audit:
    """`entries`: how many. `removals`: each worker that an entry removed, with its seq. `times`: of the entries named here, when
    they were committed, in seconds since the epoch by the store's clock."""

    entries: int = 0
    removals: list[tuple[str, int]] = field(default_factory=list)
    seizures: list[Seizure] = field(default_factory=list)
    times: dict[int, float] = field(default_factory=dict)
    _runners: dict[str, str] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Take note of the next entry."""
        self.entries += 1
        reports = {(call[3], call[4]) for call in decode(entry.calls) if call[2] == "add_task"}
        for table, key, row in _changes(entry):
            if table == "workers" and row is None:
                self.removals.append((key, entry.seq))
            elif table == "tasks":
                self._follow(entry.seq, key, row or {}, reports)

    def _follow(self, seq: int, task: str, row: dict[str, Any], reports: set[tuple[str, str]]) -> None:
        """Who holds the task, and who takes it."""
        status = row.get("status")
        # A record names only what it changes: a task that its last runner runs again has the same one.
        self._runners[task] = row.get("worker_running") or self._runners.get(task, "")
        if status in RUNNING:
            self._given[task] = seq
        elif status is not None and task in self._given:
            given, worker = self._given.pop(task), self._runners[task]
            if status == "FAILED" and (task, worker) not in reports:
                self.seizures.append(Seizure(worker=worker, task=task, given=given, taken=seq))


def audit(fleet: Fleet) -> Audit:
    """Read the whole journal of a fleet whose emulator runs."""
    found = Audit()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPANNER_EMULATOR_HOST", fleet.emulator.host)
        asyncio.run(_read(fleet, found))
    named = {seq for _, seq in found.removals}
    named |= {seq for seizure in found.seizures for seq in (seizure.given, seizure.taken)}
    found.times = _times(fleet, named)
    return found


async def _read(fleet: Fleet, found: Audit) -> None:
    store = await open_existing(fleet.url, NAMESPACE)
    try:
        seq = 0
        while entries := await store.read_after(seq):
            for entry in entries:
                found.add(entry)
            seq = entries[-1].seq
    finally:
        await store.close()


def _changes(entry: Entry) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """(table, first part of the key, row) of each change."""
    for records in decode(entry.changes):
        for table, key, row, *_ in records:
            yield table, str(key[0]), row


def _times(fleet: Fleet, seqs: Iterable[int]) -> dict[int, float]:
    listed = ", ".join(map(str, sorted(seqs)))
    if not listed:
        return {}
    sql = f"SELECT seq, UNIX_MICROS(committed_at) FROM journal WHERE namespace = '{NAMESPACE}' AND seq IN ({listed})"
    return {int(seq): int(at) / 1_000_000 for seq, at in query(fleet.emulator.host, fleet.database, sql)}
