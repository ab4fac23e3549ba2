"""The two relations between workers and tasks, kept from both sides. They hold ids: a task that is gone is freed at once.

A *stakeholder* keeps a task from being pruned; a *runner* is able to run it. Each is a table of its own keyed by worker and
task, so that what happens to all tasks of one worker is one record (I8).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from luigi.scheduler import OrderedSet

from luigi_spanner.digest import relation_digest
from luigi_spanner.graph.containers import Ranked

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State
    from luigi_spanner.graph.task import Task

STAKEHOLDERS = "stakeholders"
RUNNERS = "runners"


def _shared(state: State, worker_id: str) -> str:
    """The id, kept once for all tasks of the worker: each call's JSON brings a copy of its own."""
    worker = state.find_worker(worker_id)
    return worker_id if worker is None else str(worker.id)


class Stakeholders(set[str]):
    """`Task.stakeholders`: ids of workers. Its order is no state."""

    __slots__ = ("_state", "_task_id")

    def __init__(self, state: State, task_id: str) -> None:
        super().__init__()
        self._state = state
        self._task_id = task_id

    def add(self, worker_id: str) -> None:
        if worker_id not in self:
            worker_id = _shared(self._state, worker_id)
            self._state.tracker.log(self.drop, worker_id)
            self._state.tracker.touch_whole(STAKEHOLDERS, (worker_id, self._task_id))
            self.put(worker_id)

    def discard(self, worker_id: object) -> None:
        if isinstance(worker_id, str) and worker_id in self:
            self._state.tracker.touch_whole(STAKEHOLDERS, (worker_id, self._task_id))
            self.withdraw(worker_id)

    def withdraw(self, worker_id: str) -> None:
        """Discard a member without a record: one for the whole worker covers it. Undoable."""
        self._state.tracker.stale.add(self._task_id)
        self._state.tracker.log(self.put, worker_id)
        self.drop(worker_id)

    def put(self, worker_id: str) -> None:
        """Add untracked."""
        if worker_id in self:
            return
        set.add(self, worker_id)
        self._state.relations_digest += relation_digest(STAKEHOLDERS, worker_id, self._task_id)
        self._state.stakes.setdefault(worker_id, set()).add(self._task_id)

    def drop(self, worker_id: str) -> None:
        """Discard untracked."""
        if worker_id not in self:
            return
        set.discard(self, worker_id)
        self._state.relations_digest -= relation_digest(STAKEHOLDERS, worker_id, self._task_id)
        stakes = self._state.stakes.get(worker_id)
        if stakes is not None:
            stakes.discard(self._task_id)
            if not stakes:
                del self._state.stakes[worker_id]

    def remove(self, worker_id: str) -> None:
        if worker_id not in self:
            raise KeyError(worker_id)
        self.discard(worker_id)

    def update(self, *others: Iterable[str]) -> None:
        for worker_id in [worker_id for other in others for worker_id in other]:
            self.add(worker_id)

    def difference_update(self, *others: Iterable[Any]) -> None:
        for worker_id in [worker_id for other in others for worker_id in other]:
            self.discard(worker_id)

    def clear(self) -> None:
        self.difference_update(set(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)


class Runners(OrderedSet):
    """`Task.workers`: ids of workers able to run the task, in the order in which they were added; the last scheduled it last."""

    __slots__ = ("_in_order", "_last", "_ordinals", "_state", "_task_id")

    def __init__(self, state: State, task_id: str) -> None:
        self._state = state
        self._task_id = task_id
        self._ordinals: dict[str, int] = {}
        self._last = -1
        self._in_order = True

    def ordinal(self, worker_id: str) -> int:
        """Rank of a member among the task's workers and of the task among the worker's tasks."""
        return self._ordinals[worker_id]

    def add(self, worker_id: str) -> None:
        if worker_id not in self._ordinals:
            tracker = self._state.tracker
            worker_id = _shared(self._state, worker_id)
            tracker.log(self.drop, worker_id)
            tracker.touch_whole(RUNNERS, (worker_id, self._task_id))
            self.put(worker_id, tracker.ordinal())

    def discard(self, worker_id: str) -> None:
        if worker_id in self._ordinals:
            self._state.tracker.touch_whole(RUNNERS, (worker_id, self._task_id))
            self.withdraw(worker_id)

    def withdraw(self, worker_id: str) -> None:
        """Discard a member without a record: one for the whole worker covers it. Undoable."""
        self._state.tracker.stale.add(self._task_id)
        self._state.tracker.log(self.put, worker_id, self._ordinals[worker_id])
        self.drop(worker_id)

    def put(self, worker_id: str, ordinal: int) -> None:
        """Add untracked, at the place that `ordinal` gives it."""
        if ordinal < self._last:
            self._in_order = False
        self._last = max(ordinal, self._last)
        self._forget(worker_id)
        self._ordinals[worker_id] = ordinal
        self._state.relations_digest += relation_digest(RUNNERS, worker_id, self._task_id, ordinal)
        self._state.get_worker(worker_id).tasks.put(self._task_id, ordinal)

    def drop(self, worker_id: str) -> None:
        """Discard untracked."""
        self._forget(worker_id)
        worker = self._state.find_worker(worker_id)
        if worker is not None:
            worker.tasks.drop(self._task_id)

    def _forget(self, worker_id: str) -> None:
        ordinal = self._ordinals.pop(worker_id, None)
        if ordinal is not None:
            self._state.relations_digest -= relation_digest(RUNNERS, worker_id, self._task_id, ordinal)

    def _settle(self) -> dict[str, int]:
        if not self._in_order:
            self._ordinals = dict(sorted(self._ordinals.items(), key=lambda item: item[1]))
            self._in_order = True
        return self._ordinals

    def __len__(self) -> int:
        return len(self._ordinals)

    def __contains__(self, worker_id: object) -> bool:
        return worker_id in self._ordinals

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._settle()))

    def __reversed__(self) -> Iterator[str]:
        return iter(list(reversed(self._settle())))

    def peek(self, last: bool = True) -> str:
        if not self._ordinals:
            raise KeyError("set is empty")
        ordinals = self._settle()
        return next(reversed(ordinals) if last else iter(ordinals))

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedSet, (list(self),)


class WorkerTasks:
    """`Worker.tasks`: the tasks that have the worker among their workers, in the order in which that came about.

    It is the other side of `Task.workers`, so stock's ghosts, tasks pruned but still held by a worker, cannot arise.
    """

    __slots__ = ("_ordinals", "_state", "_worker_id")

    def __init__(self, state: State, worker_id: str) -> None:
        self._state = state
        self._worker_id = worker_id
        self._ordinals: Ranked[int] = Ranked(int)

    def put(self, task_id: str, ordinal: int) -> None:
        """Add untracked."""
        self._ordinals.put(task_id, ordinal)

    def drop(self, task_id: str) -> None:
        """Discard untracked."""
        self._ordinals.drop(task_id)

    def add(self, task: Task) -> None:
        task.workers.add(self._worker_id)

    def discard(self, task: Task) -> None:
        task.workers.discard(self._worker_id)

    def clear(self) -> None:
        for task in self:
            task.workers.discard(self._worker_id)

    def in_order(self) -> Iterator[str]:
        """Ids of the tasks in their order."""
        return iter(self._ordinals)

    def ids(self) -> set[str]:
        """Ids of the tasks."""
        return set(dict.keys(self._ordinals))

    def __len__(self) -> int:
        return len(self._ordinals)

    def __contains__(self, task: object) -> bool:
        task_id = getattr(task, "id", None)
        return isinstance(task_id, str) and task_id in self._ordinals and self._state._tasks.get(task_id) is task

    def __iter__(self) -> Iterator[Task]:
        return iter([self._state._tasks[task_id] for task_id in self._ordinals])

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)
