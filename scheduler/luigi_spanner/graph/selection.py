"""Which task a worker gets: Luigi's rule, answered from the index.

Luigi looks at every pending and running task in order of rank. Only ready tasks, those whose dependencies are all done, and
running ones matter to it: the first ready task is taken that the worker may run, that fits into what is free and that the
greedy rule (`greed`) leaves enough for.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby, islice
from typing import Any

from luigi.task_status import PENDING, RUNNING

from luigi_spanner.graph.entries import Claim, Run
from luigi_spanner.graph.greed import Greed
from luigi_spanner.graph.ready import Group, Need, Queue, Rank, needs_of
from luigi_spanner.graph.state import State
from luigi_spanner.graph.task import Task
from luigi_spanner.graph.worker import Worker

BATCHED_AT_ONCE = 10_000
"""Most tasks of one batch, some 0.4 s of work (measured): nobody waits longer for a worker that takes more. It asks again."""


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
        self._ready = self._index.ready
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
        queue = self._ready.queues.get(self._id)
        return None if queue is None else next(self._in_order(self._own(queue)), None)

    def _own(self, queue: Queue) -> Iterator[Rank]:
        """The worker's first task, and all of equal rank."""
        first: Rank | None = None
        for rank, group in self._ready.groups(queue, self._is_used_up):
            first = first or rank
            if rank[:2] != first[:2]:
                return
            for member in self._ready.members(group):
                if member[:2] != first[:2]:
                    break
                yield member

    def _in_order(self, ranks: Iterable[Rank]) -> Iterator[Task]:
        """Tasks in Luigi's order. Ties go by when they became pending, or, where Luigi goes through the worker's own tasks
        because those are fewer, by when the worker was added to them."""
        state = self._state
        own_first = self._trivial and len(self._asker.worker.tasks) < state.count(PENDING) + state.count(RUNNING)
        for _, tied in groupby(ranks, key=lambda rank: rank[:2]):
            if own_first:
                yield from sorted((state._tasks[rank[3]] for rank in tied), key=lambda task: task.workers.ordinal(self._id))
            else:
                yield from (state._tasks[rank[3]] for rank in sorted(tied))

    # Everybody else shares by greed

    def _first_by_greed(self) -> Task | None:
        greed = Greed(self._state, self._limits, self._asker)
        task = next((self._state._tasks[rank[3]] for rank, group in self._candidates(greed) if greed.leaves(group, rank)), None)
        for group, need in greed.held_up:
            self._ready.refile(group, need)
        return task

    def _candidates(self, greed: Greed) -> Iterator[tuple[Rank, Group]]:
        """The first tasks of groups, in order, that the worker may run and that fit into what is free."""
        own = self._ready.queues.get(self._id)
        queues = [queue for queue in (own, self._ready.runnable if self._asker.assistant else None) if queue is not None]
        found = [self._ready.open(queue, self._is_used_up) for queue in queues]
        first = min(((self._ready.first(group), group) for group in found if group is not None), default=None)
        if first is None:
            return
        yield first

        def spent(need: Need) -> bool:
            return self._is_used_up(need) or greed.spent(need)

        seen = first[1]
        for rank, group in merge(*(self._ready.groups(queue, spent) for queue in queues)):
            lacking = next((need for need in group.needs if self._is_used_up(need)), None)
            if lacking is not None:
                greed.held_up.append((group, lacking))
            elif group is not seen:
                yield rank, group
                seen = group

    def _is_used_up(self, need: Need) -> bool:
        """Whether less than that is free of the resource."""
        name, amount = need
        return bool(amount + self._index.used.get(name, 0) > self._limits.get(name, 1))

    # Batches

    def _with_batch(self, best: Task) -> Choice:
        names, limit = self._state.get_batcher(self._id, best.family)
        if not names or not best.batchable or any(name not in best.params for name in names):
            return Choice(task=best)
        fixed = {name: value for name, value in best.params.items() if name not in names}
        batch = [best]
        for task in self._after(best, fixed):
            if len(batch) >= min(limit, BATCHED_AT_ONCE):
                break
            if all(task.params.get(name) == value for name, value in fixed.items()):
                batch.append(task)
        return Choice(task=best, batch=batch, batched={name: [task.params.get(name) for task in batch] for name in names})

    def _after(self, best: Task, fixed: dict[str, Any]) -> Iterator[Task]:
        """Ready, batchable tasks of the family with the same resources that come after the best in order, and that may have the
        same fixed parameters."""
        family = self._index.families[best.family, needs_of(best.resources)]
        alike = family.alike(best.params, fixed, self._id if self._trivial else None)
        seen = False
        for task in self._in_order(alike.irange((-best.priority, best.time))):
            if seen:
                yield task
            elif task is best:
                seen = True


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
    lost = [batch_id for batch_id in index.batches_on.get(worker_id, ()) if batch_id not in claimed]
    given = (task_id for batch_id in lost for task_id in index.batches[batch_id])
    return [task for task in state.by_status_order(given) if task.worker_running == worker_id]


def running_for(state: State, worker: Worker) -> list[Task]:
    """Running tasks that the worker is able to run, in Luigi's order."""
    running = [state._tasks[task_id] for task_id in state.index.running_able.get(worker.id, ())]
    if len(worker.tasks) < state.count(RUNNING):
        return sorted(running, key=lambda task: task.workers.ordinal(worker.id))
    return sorted(running, key=lambda task: task.status_ordinal)


def prunable(state: State, now: float, config: Any, assistants: Container[str], limit: int) -> tuple[list[Task], bool]:
    """Tasks that a prune at `now` may change, in the order of `_tasks`, and whether there are more than `limit`: then not all."""
    index = state.index
    index.refresh()
    ids = set(index.unheld)
    for task_id in index.strays:
        place = index.entries[task_id].place
        if isinstance(place, (Run, Claim)) and place.worker not in assistants:
            ids.add(task_id)
            # With the task that runs for it, its batch fails.
            ids.update(index.batches.get(state._tasks[task_id].batch_id, ()))
    if config.retry_delay >= 0:
        ids.update(index.retries.until(now, index.entries))
    ids.update(index.removals.until(now, index.entries))
    ids.update(index.disables.until(now - config.disable_persist, index.entries))
    tasks = [state._tasks[task_id] for task_id in islice(ids, limit)]
    return sorted(tasks, key=lambda task: task.ordinal), len(ids) > limit
