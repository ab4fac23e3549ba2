"""The index: what the scheduler's questions need, kept up to date as tasks change, so that no call scans them all.

It is derived. Whatever touches a task, forwards, in an undo or from the journal, marks it stale; the next question
brings the entries of stale tasks up to date. So the index can be late but never wrong, and needs no undo of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING
from sortedcontainers import SortedList

from luigi_spanner.graph.below import Below
from luigi_spanner.graph.entries import Claim, Counts, Entry, Run, count
from luigi_spanner.graph.families import Family, FamilyKey
from luigi_spanner.graph.ready import Amount, Group, Rank, Ready, needs_of

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State
    from luigi_spanner.graph.task import Task

_MOST_INTERNED = 10_000
"""Tuples of workers that are remembered, so that tasks share them; to forget them costs memory only."""


def rank_of(task: Task) -> Rank:
    """The rank of a task; ids never decide, since status ordinals are unique."""
    return (-task.priority, task.time, task.status_ordinal, task.id)


class Due:
    """Tasks by the time at which something is due. What has been due once is kept apart: it may be asked for many times."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute
        self._coming: list[tuple[float, str]] = []
        self._passed: dict[str, float] = {}

    def add(self, when: float, task_id: str) -> None:
        heappush(self._coming, (when, task_id))

    def until(self, now: float, entries: dict[str, Entry]) -> list[str]:
        """Ids of the tasks that are due at `now`. They stay until they change."""
        while self._coming and self._coming[0][0] <= now:
            when, task_id = heappop(self._coming)
            if self._holds(task_id, when, entries):
                self._passed[task_id] = when
        self._passed = {task_id: when for task_id, when in self._passed.items() if self._holds(task_id, when, entries)}
        return [task_id for task_id, when in self._passed.items() if when <= now]

    def _holds(self, task_id: str, when: float, entries: dict[str, Entry]) -> bool:
        entry = entries.get(task_id)
        return entry is not None and getattr(entry, self._attribute) == when


class Index:
    """Indexes over the tasks of a state. Call `refresh` before reading any of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.below = Below(self)
        self.clear()

    def clear(self) -> None:
        """Forget everything: the state was emptied."""
        self.entries: dict[str, Entry] = {}
        self.dependents: dict[str, set[str]] = {}
        self.unfinished: dict[str, int] = {}
        self.below.clear()
        self.ready = Ready(self.entries)
        self.families: dict[FamilyKey, Family] = {}
        self.counts: dict[str, Counts] = {}
        self.running: SortedList = SortedList()
        self.running_on: dict[str | None, set[str]] = {}
        self.running_able: dict[str, set[str]] = {}
        self.batches: dict[str | None, set[str]] = {}
        self.batches_on: dict[str | None, dict[str | None, int]] = {}
        self.strays: set[str] = set()
        self.used: dict[str, Amount] = {}
        self._users: dict[str, int] = {}
        self.unheld: set[str] = set()
        self.retries = Due("retry")
        self.removals = Due("remove")
        self.disables = Due("disabled")
        self._interned: dict[tuple[str, ...], tuple[str, ...]] = {}

    def refresh(self) -> None:
        """Bring the entries of stale tasks up to date, and of those whose readiness follows from them."""
        tracker, tasks = self._state.tracker, self._state._tasks
        if len(self._interned) > _MOST_INTERNED:
            self._interned.clear()
        while stale := tracker.take_stale():
            try:
                for task_id in self._in_memory_order(stale):
                    self._bring(task_id, tasks.get(task_id))
            except BaseException:
                # Whatever it was, what is half done must not stay.
                self.clear()
                tracker.stale.update(tasks)
                raise

    def _in_memory_order(self, task_ids: set[str]) -> Iterable[str]:
        """Most tasks in the order in which they were made and lie in memory; with few the order does not matter."""
        tasks = self._state._tasks
        if 2 * len(task_ids) < len(tasks):
            return task_ids
        present = [task_id for task_id in dict.__iter__(tasks) if task_id in task_ids]
        return present if len(present) == len(task_ids) else [*present, *task_ids.difference(present)]

    def _bring(self, task_id: str, task: Task | None) -> None:
        """Bring the entry of one task up to date."""
        old = self.entries.get(task_id)
        before = () if old is None else old.deps
        after = () if task is None else task.deps.frozen()
        if before is not after:
            self._follow_deps(task_id, before, after)
        new = None if task is None else self._entry(task, after)
        if new is None or old is None:
            if new is not old:
                self._swap(task_id, old, new)
        elif before is not after or new != old:
            self._change(task_id, old, new)
        else:
            return
        was_done, is_done = old is not None and old.status == DONE, new is not None and new.status == DONE
        if was_done != is_done:
            self._follow_done(task_id, 1 if was_done else -1)
        self.below.follow(task_id, old, new)

    def _entry(self, task: Task, deps: tuple[str, ...]) -> Entry:
        status, remove, workers = task.status, task.remove, tuple(task.workers)
        workers = self._interned.setdefault(workers, workers)
        unheld = remove is None and not task.stakeholders and status != RUNNING
        entry = Entry(status, deps, workers, bool(task.resources), unheld, remove)
        if status == PENDING:
            if task.id not in self.unfinished:
                self._describe_ready(task, entry)
        elif status == RUNNING:
            entry.rank = rank_of(task)
            used = needs_of(getattr(task, "resources_running", task.resources))
            entry.place = Run(task.worker_running, used, _is_stray(task))
        elif status == BATCH_RUNNING:
            entry.place = Claim(task.worker_running, task.batch_id, _is_stray(task))
        elif status == FAILED:
            entry.due = task.retry
        elif status == DISABLED:
            entry.due = task.scheduler_disable_time
        return entry

    def _describe_ready(self, task: Task, entry: Entry) -> None:
        needs = needs_of(task.resources)
        entry.rank = rank_of(task)
        entry.place = self.ready.group((needs, entry.workers, bool(task.runnable)))
        if task.batchable:
            key = (task.family, needs)
            entry.batch = (self.families.get(key) or Family(key), task.params)

    # Dependencies

    def _follow_deps(self, task_id: str, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Reverse edges, and how many of its dependencies a task still waits for."""
        gone, come = (set(before).difference(after), set(after).difference(before)) if before and after else (before, after)
        for dependency in gone:
            _drop(self.dependents, dependency, task_id)
        for dependency in come:
            _put(self.dependents, dependency, task_id)
        waits = self.unfinished.get(task_id, 0) + self._count_unfinished(come) - self._count_unfinished(gone)
        self._wait(task_id, waits)

    def _count_unfinished(self, task_ids: Iterable[str]) -> int:
        entries, unfinished = self.entries, 0
        for task_id in task_ids:
            entry = entries.get(task_id)
            if entry is None or entry.status != DONE:
                unfinished += 1
        return unfinished

    def _wait(self, task_id: str, dependencies: int) -> None:
        if dependencies:
            self.unfinished[task_id] = dependencies
        else:
            self.unfinished.pop(task_id, None)

    def _follow_done(self, task_id: str, sign: int) -> None:
        """The task became DONE (-1) or ceased to be (+1): its dependents wait for one less or more."""
        first_or_last = 1 if sign > 0 else 0
        for dependent in self.dependents.get(task_id, ()):
            waits = self.unfinished.get(dependent, 0) + sign
            self._wait(dependent, waits)
            if waits == first_or_last:
                self._state.tracker.mark_stale(dependent)

    # One task

    def _change(self, task_id: str, old: Entry, new: Entry) -> None:
        if old.rank != new.rank or old.place != new.place or (old.workers != new.workers and isinstance(old.place, Run)):
            self._swap(task_id, old, new)
            return
        new.rank = old.rank
        self.entries[task_id] = new
        if old.batch != new.batch:
            self._take_from_family(task_id, old)
            self._put_into_family(new)
        if (old.status, old.workers, old.needy) != (new.status, new.workers, new.needy):
            self._count(old, -1)
            self._count(new, 1)
        self._schedule(task_id, old, new)

    def _swap(self, task_id: str, old: Entry | None, new: Entry | None) -> None:
        """Take out the old entry, put in the new one."""
        # The heaps of ready tasks know by the entries what is alive.
        if new is None:
            del self.entries[task_id]
        else:
            self.entries[task_id] = new
        if old is not None:
            self._count(old, -1)
            if old.place is not None:
                self._take_out(task_id, old)
        if new is not None:
            self._count(new, 1)
            if new.place is not None:
                self._put_in(task_id, new)
        self._schedule(task_id, old, new)

    def _count(self, entry: Entry, sign: int) -> None:
        if entry.workers and (entry.status == PENDING or entry.status == FAILED):
            count(self.counts, entry, sign)

    def _schedule(self, task_id: str, old: Entry | None, new: Entry | None) -> None:
        """What a prune has to look at, and when."""
        if new is None:
            self.unheld.discard(task_id)
            return
        if new.unheld:
            self.unheld.add(task_id)
        elif old is not None and old.unheld:
            self.unheld.discard(task_id)
        if new.remove is not None and (old is None or old.remove != new.remove):
            self.removals.add(new.remove, task_id)
        if new.due is not None and (old is None or (old.due, old.status) != (new.due, new.status)):
            (self.retries if new.status == FAILED else self.disables).add(new.due, task_id)

    def _put_in(self, task_id: str, entry: Entry) -> None:
        place = entry.place
        if isinstance(place, Group):
            assert entry.rank is not None
            self.ready.add(place, entry.rank)
            self._put_into_family(entry)
        elif isinstance(place, Run):
            self.running.add(entry.rank)
            _put(self.running_on, place.worker, task_id)
            for worker_id in entry.workers:
                _put(self.running_able, worker_id, task_id)
            self._use(place)
        elif isinstance(place, Claim):
            _put(self.batches, place.batch_id, task_id)
            batches = self.batches_on.setdefault(place.worker, {})
            batches[place.batch_id] = batches.get(place.batch_id, 0) + 1
        if isinstance(place, (Run, Claim)) and place.stray:
            self.strays.add(task_id)

    def _take_out(self, task_id: str, entry: Entry) -> None:
        place = entry.place
        if isinstance(place, Group):
            self.ready.remove(place)
            self._take_from_family(task_id, entry)
            return
        if isinstance(place, Run):
            self.running.remove(entry.rank)
            _drop(self.running_on, place.worker, task_id)
            for worker_id in entry.workers:
                _drop(self.running_able, worker_id, task_id)
            self._release(place)
        elif isinstance(place, Claim):
            _drop(self.batches, place.batch_id, task_id)
            self._take_from_batch(place)
        self.strays.discard(task_id)

    def _take_from_batch(self, place: Claim) -> None:
        batches = self.batches_on[place.worker]
        batches[place.batch_id] -= 1
        if not batches[place.batch_id]:
            del batches[place.batch_id]
            if not batches:
                del self.batches_on[place.worker]

    def _use(self, run: Run) -> None:
        for name, amount in run.used:
            self.used[name] = self.used.get(name, 0) + amount
            self._users[name] = self._users.get(name, 0) + 1

    def _release(self, run: Run) -> None:
        for name, amount in run.used:
            self.used[name] -= amount
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self.used[name]
            self.ready.reopen(name)

    def _put_into_family(self, entry: Entry) -> None:
        if entry.batch is not None and entry.rank is not None:
            family, params = entry.batch
            self.families.setdefault(family.key, family).add(entry.rank, entry.workers, params)

    def _take_from_family(self, task_id: str, entry: Entry) -> None:
        if entry.batch is not None:
            family = entry.batch[0]
            family.remove(task_id)
            if not family:
                del self.families[family.key]


def _is_stray(task: Task) -> bool:
    return bool(task.worker_running) and task.worker_running not in task.stakeholders


def _put(sets: dict[Any, set[str]], key: Any, task_id: str) -> None:
    found = sets.get(key)
    if found is None:
        sets[key] = {task_id}
    else:
        found.add(task_id)


def _drop(sets: dict[Any, set[str]], key: Any, task_id: str) -> None:
    found = sets[key]
    found.discard(task_id)
    if not found:
        del sets[key]
