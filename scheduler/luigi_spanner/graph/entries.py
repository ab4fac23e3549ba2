"""What the index knows of one task, and what adds up from there for a worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luigi.task_status import DISABLED, FAILED, PENDING

from luigi_spanner.graph.families import Family
from luigi_spanner.graph.ready import Group, Need, Rank


@dataclass(frozen=True, slots=True)
class Run:
    """A RUNNING task: on which worker, what it uses. `stray`: that worker is none of its stakeholders."""

    worker: str | None
    used: tuple[Need, ...]
    stray: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """A BATCH_RUNNING task: on which worker, in which batch. `stray` as in `Run`."""

    worker: str | None
    batch_id: str | None
    stray: bool


@dataclass(slots=True)
class Entry:
    """What the index holds of one task, so that it can be taken out again. It is replaced, never edited, once it is in.

    `due` is the time of the next try of a FAILED task, that of the disabling of a DISABLED one. `place` says where a ready task
    waits or an active one runs; both are ordered by `rank`. `batch` is of a ready task that may run in batches.
    """

    status: str
    deps: tuple[str, ...]
    workers: tuple[str, ...]
    needy: bool
    unheld: bool
    remove: float | None
    due: float | None = None
    rank: Rank | None = None
    place: Group | Run | Claim | None = None
    batch: tuple[Family, dict[str, Any]] | None = None

    @property
    def retry(self) -> float | None:
        return self.due if self.status == FAILED else None

    @property
    def disabled(self) -> float | None:
        return self.due if self.status == DISABLED else None


@dataclass(slots=True)
class Counts:
    """Numbers of one worker's tasks: what `count_pending`, `worker_list` and `is_trivial_worker` ask for."""

    pending: int = 0
    unique: int = 0
    needy: int = 0
    open: int = 0
    open_unique: int = 0
    open_last: int = 0

    def add(self, entry: Entry, worker_id: str, sign: int) -> None:
        """Count a PENDING or FAILED task of the worker, or (-1) count it no more."""
        unique = sign if len(entry.workers) == 1 else 0
        if entry.status == PENDING:
            self.pending += sign
            self.unique += unique
            if entry.needy:
                self.needy += sign
        self.open += sign
        self.open_unique += unique
        if entry.workers[-1] == worker_id:
            self.open_last += sign


NO_COUNTS = Counts()
"""A worker without tasks."""


def count(counts: dict[str, Counts], entry: Entry, sign: int) -> None:
    """Count a task for each of its workers, or (-1) count it no more. Who has none left is dropped."""
    for worker_id in entry.workers:
        of_worker = counts.get(worker_id)
        if of_worker is None:
            of_worker = counts[worker_id] = Counts()
        of_worker.add(entry, worker_id, sign)
        if not of_worker.open:
            del counts[worker_id]
