"""Which task a worker gets: Luigi's rule, answered from the index.

Luigi looks at every pending and running task in order of rank. Only ready tasks, those whose dependencies are all done, and
running ones matter to it, and of the ready ones it can tell apart only groups with the same resources, workers and runnable:
within one call the greedy resources only grow and the greedy workers only dwindle, so a group whose first task fails
for want of either fails as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import groupby
from typing import Any

from luigi.task_status import PENDING, RUNNING

from luigi_spanner.graph.index import GroupKey, Rank
from luigi_spanner.graph.state import State
from luigi_spanner.graph.task import Task
from luigi_spanner.graph.worker import Worker

Amounts = defaultdict[str, Any]


@dataclass(slots=True)
class Choice:
    """What `get_work` hands out: one task, or a batch of them with the values of their batched parameters by name."""

    task: Task | None = None
    batch: list[Task] = field(default_factory=list)
    batched: dict[str, list[Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Asker:
    """The worker that asks. `assistant`: it may run any runnable task. `active_since`: who asked for work after it counts."""

    worker: Worker
    assistant: bool
    active_since: float


class Selection:
    """One call's search. `limits` are the resource limits; a resource without one has limit 1."""

    def __init__(self, state: State, limits: dict[str, Any], asker: Asker) -> None:
        self._state = state
        self._index = state.index
        self._limits = limits
        self._asker = asker
        self._id = asker.worker.id
        self._index.refresh()
        self._trivial = not asker.worker.assistant and not self._counts_needy()

    def _counts_needy(self) -> int:
        counts = self._index.counts.get(self._id)
        return 0 if counts is None else counts.needy

    def choose(self) -> Choice:
        """The best task for the worker, and those that may run with it in one batch."""
        task = self._first_own() if self._trivial else self._first_by_greed()
        if task is None:
            return Choice()
        return self._with_batch(task)

    # A worker whose tasks need nothing takes its first

    def _first_own(self) -> Task | None:
        ready = self._index.ready.get(self._id)
        return next(self._in_order(ready), None) if ready else None

    def _in_order(self, ranks: Iterable[Rank]) -> Iterator[Task]:
        """Tasks in Luigi's order. Ties go by when they became pending, or, where Luigi goes through the worker's own tasks
        because those are fewer, by when the worker was added to them."""
        state = self._state
        own_first = self._trivial and len(self._asker.worker.tasks) < state.count(PENDING) + state.count(RUNNING)
        if not own_first:
            yield from (state._tasks[rank[3]] for rank in ranks)
            return
        for _, tied in groupby(ranks, key=lambda rank: rank[:2]):
            yield from sorted((state._tasks[rank[3]] for rank in tied), key=lambda task: task.workers.ordinal(self._id))

    # Everybody else shares by greed

    def _first_by_greed(self) -> Task | None:
        """Go through running tasks and group heads in order of rank, as if all died and were scheduled again greedily."""
        state, index = self._state, self._index
        slots = {
            worker.id: worker.info.get("workers", 1)
            for worker in state.get_active_workers(last_get_work_gt=self._asker.active_since)
        }
        taken: Amounts = defaultdict(int)
        running = iter(index.running)
        runs = next(running, None)
        for rank, key, follow in _Heads(index.heads, index.groups):
            # At equal rank Luigi has the pending tasks before the running ones.
            while runs is not None and runs[:2] < rank[:2]:
                self._account_running(state._tasks[runs[3]], slots, taken)
                runs = next(running, None)
            task: Task = state._tasks[rank[3]]
            if not self._fits(task.resources, taken):
                continue
            if self._may_run(task) and self._fits(task.resources, index.used):
                return task
            if self._reserve(task, slots, taken):
                follow(rank, key)
        return None

    def _account_running(self, task: Task, slots: dict[str, int], taken: Amounts) -> None:
        if task.worker_running in slots:
            slots[task.worker_running] -= 1
            for name, amount in (getattr(task, "resources_running", task.resources) or {}).items():
                taken[name] += amount

    def _reserve(self, task: Task, slots: dict[str, int], taken: Amounts) -> bool:
        """Give the task to the first of its workers that has a slot left; without one nor has any other task of its group."""
        workers = [*task.workers, self._id] if self._asker.assistant else task.workers
        for worker_id in workers:
            if slots.get(worker_id, 0) > 0:
                slots[worker_id] -= 1
                for name, amount in (task.resources or {}).items():
                    taken[name] += amount
                return True
        return False

    def _may_run(self, task: Task) -> bool:
        return bool(self._asker.assistant and task.runnable) or self._id in task.workers

    def _fits(self, needed: dict[str, Any] | None, used: Any) -> bool:
        limits = self._limits
        return not needed or all(amount + used.get(name, 0) <= limits.get(name, 1) for name, amount in needed.items())

    # Batches

    def _with_batch(self, best: Task) -> Choice:
        names, limit = self._state.get_batcher(self._id, best.family)
        if not names or not best.batchable or any(name not in best.params for name in names):
            return Choice(task=best)
        fixed = {name: value for name, value in best.params.items() if name not in names}
        batch = [best]
        for task in self._after(best):
            if len(batch) >= limit:
                break
            if all(task.params.get(name) == value for name, value in fixed.items()):
                batch.append(task)
        return Choice(task=best, batch=batch, batched={name: [task.params.get(name) for task in batch] for name in names})

    def _after(self, best: Task) -> Iterator[Task]:
        """Ready, batchable tasks of the family with the same resources that come after the best in order."""
        family = self._index.families.get((best.family, frozenset((best.resources or {}).items())), ())
        start = (-best.priority, best.time)
        members = family.irange((*start, -1, "")) if family else ()
        seen = False
        for task in self._in_order(self._of_worker(members)):
            if seen:
                yield task
            elif task is best:
                seen = True

    def _of_worker(self, ranks: Iterable[Rank]) -> Iterator[Rank]:
        if not self._trivial:
            yield from ranks
            return
        for rank in ranks:
            if self._id in self._state._tasks[rank[3]].workers:
                yield rank


class _Heads:
    """The first ready task of each group by rank; `follow` lets the next of a group take its turn."""

    def __init__(self, heads: Any, groups: dict[GroupKey, Any]) -> None:
        self._heads = heads
        self._groups = groups
        self._next: list[tuple[Rank, GroupKey]] = []

    def __iter__(self) -> Iterator[tuple[Rank, GroupKey, Callable[[Rank, GroupKey], None]]]:
        heads = iter(self._heads.items())
        head = next(heads, None)
        while head is not None or self._next:
            if head is None or (self._next and self._next[0][0] < head[0]):
                rank, key = heappop(self._next)
            else:
                rank, key = head
                head = next(heads, None)
            yield rank, key, self._follow

    def _follow(self, rank: Rank, key: GroupKey) -> None:
        members = self._groups[key]
        position = members.bisect_right(rank)
        if position < len(members):
            heappush(self._next, (members[position], key))


# What a worker lost, and what pruning must look at


def reclaim(state: State, worker_id: str, current: set[str]) -> Task | None:
    """The best task that runs on the worker without its knowing; of equals the one that started last, as in Luigi."""
    state.index.refresh()
    running = (state._tasks[task_id] for task_id in state.index.running_on.get(worker_id, ()) if task_id not in current)
    lost = [task for task in running if task.worker_running == worker_id]
    return min(lost, key=lambda task: (-task.priority, task.time, -task.status_ordinal), default=None)


def orphaned(state: State, worker_id: str) -> list[Task]:
    """Tasks handed to the worker in batches that it does not run."""
    index = state.index
    claimed = {state._tasks[task_id].batch_id for task_id in index.running_on.get(worker_id, ())}
    given = state.by_status_order(index.batch_running_on.get(worker_id, ()))
    return [task for task in given if task.worker_running == worker_id and task.batch_id not in claimed]


def running_for(state: State, worker: Worker) -> list[Task]:
    """Running tasks that the worker is able to run, in Luigi's order."""
    running = [state._tasks[task_id] for task_id in state.index.running_able.get(worker.id, ())]
    if len(worker.tasks) < state.count(RUNNING):
        return sorted(running, key=lambda task: task.workers.ordinal(worker.id))
    return sorted(running, key=lambda task: task.status_ordinal)


def prunable(state: State, now: float, disable_persist: float) -> list[Task]:
    """Every task that a prune at `now` may change, in the order of `_tasks`."""
    index = state.index
    index.refresh()
    entries = index.entries
    ids = {rank[3] for rank in index.running}
    ids.update(index.unheld)
    for due in (index.retries.until(now, entries), index.removals.until(now, entries)):
        ids.update(due)
    ids.update(index.disables.until(now - disable_persist, entries))
    for tasks in index.batch_running_on.values():
        ids.update(tasks)
    return sorted((state._tasks[task_id] for task_id in ids), key=lambda task: task.ordinal)
