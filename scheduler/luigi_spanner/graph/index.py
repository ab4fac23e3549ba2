"""The index: what the scheduler's questions need, kept up to date as tasks change, so that no call scans them all.

It is derived. Whatever touches a task, forwards, in an undo or from the journal, marks it stale; the next question
brings the entries of stale tasks up to date. So the index can be late but never wrong, and needs no undo of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING
from sortedcontainers import SortedDict, SortedList

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State
    from luigi_spanner.graph.task import Task

Rank = tuple[Any, float, int, str]
"""Order in which Luigi considers tasks, first comes first: priority and age, ties by when the task took its status."""

_OPEN = (PENDING, FAILED)

GroupKey = tuple[frozenset[tuple[str, Any]], tuple[str, ...], bool]
"""What the greedy rule can tell apart of ready tasks: resources, workers, runnable."""


def rank_of(task: Task) -> Rank:
    """The rank of a task; ids never decide, since status ordinals are unique."""
    return (-task.priority, task.time, task.status_ordinal, task.id)


@dataclass(slots=True)
class Entry:
    """What the index holds of one task, so that it can be taken out again."""

    status: str
    done: bool
    deps: frozenset[str]
    workers: tuple[str, ...]
    needy: bool
    unheld: bool
    rank: Rank | None = None
    group: GroupKey | None = None
    family: tuple[str, frozenset[tuple[str, Any]]] | None = None
    running_on: str | None = None
    batch_id: str | None = None
    used: tuple[tuple[str, Fraction], ...] = ()
    retry: float | None = None
    remove: float | None = None
    disabled: float | None = None


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


class Due:
    """Tasks by the time at which something is due, earliest first. Times that no longer hold are passed over."""

    def __init__(self, attribute: str) -> None:
        self._attribute = attribute
        self._heap: list[tuple[float, str]] = []

    def add(self, when: float, task_id: str) -> None:
        heappush(self._heap, (when, task_id))

    def until(self, now: float, entries: dict[str, Entry]) -> Iterator[str]:
        """Ids of the tasks that are due at `now`. They stay until they change."""
        kept = []
        while self._heap and self._heap[0][0] <= now:
            when, task_id = heappop(self._heap)
            entry = entries.get(task_id)
            if entry is not None and getattr(entry, self._attribute) == when:
                kept.append((when, task_id))
        for item in dict.fromkeys(kept):
            heappush(self._heap, item)
            yield item[1]


def _none() -> SortedList:
    return SortedList()


class Index:
    """Indexes over the tasks of a state. Call `refresh` before reading any of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.clear()

    def clear(self) -> None:
        """Forget everything: the state was emptied."""
        self.entries: dict[str, Entry] = {}
        self.dependents: dict[str, set[str]] = {}
        self.unfinished: dict[str, int] = {}
        self.groups: dict[GroupKey, SortedList] = {}
        self.heads: SortedDict = SortedDict()
        self.ready: defaultdict[str, SortedList] = defaultdict(_none)
        self.families: defaultdict[tuple[str, frozenset[tuple[str, Any]]], SortedList] = defaultdict(_none)
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)
        self.running: SortedList = SortedList()
        self.running_on: defaultdict[str, set[str]] = defaultdict(set)
        self.running_able: defaultdict[str, set[str]] = defaultdict(set)
        self.batch_running_on: defaultdict[str, set[str]] = defaultdict(set)
        self.batches: defaultdict[str, set[str]] = defaultdict(set)
        self.used: dict[str, Fraction] = {}
        self.users: defaultdict[str, int] = defaultdict(int)
        self.unheld: set[str] = set()
        self.retries = Due("retry")
        self.removals = Due("remove")
        self.disables = Due("disabled")

    def refresh(self) -> None:
        """Bring the entries of stale tasks up to date, and of those whose readiness follows from them."""
        stale = self._state.tracker.take_stale()
        while stale:
            task_id = stale.pop()
            old = self.entries.pop(task_id, None)
            task = self._state._tasks.get(task_id)
            new = None if task is None else self._entry(task)
            if old is not None:
                self._take_out(task_id, old)
            self._follow_deps(task_id, old, new)
            if new is not None:
                self.entries[task_id] = new
                self._put_in(task_id, task, new)
            if (old is not None and old.done) != (new is not None and new.done):
                self._follow_done(task_id, 1 if old is not None and old.done else -1)

    def _entry(self, task: Task) -> Entry:
        status = task.status
        return Entry(
            status=status,
            done=status == DONE,
            deps=frozenset(task.deps),
            workers=tuple(task.workers),
            needy=bool(task.resources),
            unheld=not task.stakeholders and task.remove is None,
        )

    # Dependencies

    def _follow_deps(self, task_id: str, old: Entry | None, new: Entry | None) -> None:
        """Reverse edges, and how many of its dependencies a task still waits for."""
        before: frozenset[str] = frozenset() if old is None else old.deps
        after: frozenset[str] = frozenset() if new is None else new.deps
        for dependency in before - after:
            dependents = self.dependents[dependency]
            dependents.discard(task_id)
            if not dependents:
                del self.dependents[dependency]
        for dependency in after - before:
            self.dependents.setdefault(dependency, set()).add(task_id)
        if not after:
            self.unfinished.pop(task_id, None)
        elif before != after:
            self.unfinished[task_id] = sum(not self._is_done(dependency) for dependency in after)

    def _is_done(self, task_id: str) -> bool:
        entry = self.entries.get(task_id)
        return entry is not None and entry.done

    def _follow_done(self, task_id: str, sign: int) -> None:
        """The task became DONE (-1) or ceased to be (+1): its dependents wait for one less or more."""
        for dependent in self.dependents.get(task_id, ()):
            waiting = self.unfinished[dependent] + sign
            self.unfinished[dependent] = waiting
            if waiting <= 1:
                self._state.tracker.mark_stale(dependent)

    # One task

    def _put_in(self, task_id: str, task: Task, entry: Entry) -> None:
        status = entry.status
        if entry.unheld:
            self.unheld.add(task_id)
        if task.remove is not None:
            entry.remove = task.remove
            self.removals.add(task.remove, task_id)
        if status in _OPEN:
            self._count(entry, 1)
        if status == PENDING and not self.unfinished.get(task_id):
            self._put_ready(task, entry)
        elif status == RUNNING:
            self._put_running(task, entry)
        elif status == BATCH_RUNNING:
            entry.running_on, entry.batch_id = task.worker_running, task.batch_id
            self.batch_running_on[str(task.worker_running)].add(task_id)
            self.batches[str(task.batch_id)].add(task_id)
        elif status == FAILED and task.retry is not None:
            entry.retry = task.retry
            self.retries.add(task.retry, task_id)
        elif status == DISABLED and task.scheduler_disable_time is not None:
            entry.disabled = task.scheduler_disable_time
            self.disables.add(task.scheduler_disable_time, task_id)

    def _take_out(self, task_id: str, entry: Entry) -> None:
        status = entry.status
        self.unheld.discard(task_id)
        if status in _OPEN:
            self._count(entry, -1)
        if entry.group is not None:
            self._take_ready(entry)
        elif status == RUNNING:
            self._take_running(task_id, entry)
        elif status == BATCH_RUNNING:
            self.batch_running_on[str(entry.running_on)].discard(task_id)
            self.batches[str(entry.batch_id)].discard(task_id)
            if not self.batches[str(entry.batch_id)]:
                del self.batches[str(entry.batch_id)]

    def _count(self, entry: Entry, sign: int) -> None:
        for worker_id in entry.workers:
            counts = self.counts[worker_id]
            counts.add(entry, worker_id, sign)
            if not counts.open:
                del self.counts[worker_id]

    def _put_ready(self, task: Task, entry: Entry) -> None:
        entry.rank = rank = rank_of(task)
        resources = frozenset((task.resources or {}).items())
        entry.group = group = (resources, entry.workers, bool(task.runnable))
        self._change_group(group, rank, add=True)
        for worker_id in entry.workers:
            self.ready[worker_id].add(rank)
        if task.batchable:
            entry.family = (task.family, resources)
            self.families[entry.family].add(rank)

    def _take_ready(self, entry: Entry) -> None:
        assert entry.group is not None and entry.rank is not None
        self._change_group(entry.group, entry.rank, add=False)
        for worker_id in entry.workers:
            self.ready[worker_id].remove(entry.rank)
            if not self.ready[worker_id]:
                del self.ready[worker_id]
        if entry.family is not None:
            self.families[entry.family].remove(entry.rank)
            if not self.families[entry.family]:
                del self.families[entry.family]

    def _change_group(self, key: GroupKey, rank: Rank, *, add: bool) -> None:
        """Add or remove a ready task, keeping `heads` the first of each group by rank."""
        members = self.groups.get(key)
        if members is None:
            members = self.groups[key] = SortedList()
        head = members[0] if members else None
        if add:
            members.add(rank)
        else:
            members.remove(rank)
        first = members[0] if members else None
        if first != head:
            if head is not None:
                del self.heads[head]
            if first is not None:
                self.heads[first] = key
        if first is None:
            del self.groups[key]

    def _put_running(self, task: Task, entry: Entry) -> None:
        entry.rank = rank_of(task)
        self.running.add(entry.rank)
        entry.running_on = task.worker_running
        self.running_on[str(task.worker_running)].add(task.id)
        for worker_id in entry.workers:
            self.running_able[worker_id].add(task.id)
        amounts = getattr(task, "resources_running", task.resources)
        entry.used = tuple((name, Fraction(amount)) for name, amount in (amounts or {}).items())
        for name, amount in entry.used:
            self.used[name] = self.used.get(name, Fraction(0)) + amount
            self.users[name] += 1

    def _take_running(self, task_id: str, entry: Entry) -> None:
        self.running.remove(entry.rank)
        self.running_on[str(entry.running_on)].discard(task_id)
        if not self.running_on[str(entry.running_on)]:
            del self.running_on[str(entry.running_on)]
        for worker_id in entry.workers:
            self.running_able[worker_id].discard(task_id)
            if not self.running_able[worker_id]:
                del self.running_able[worker_id]
        for name, amount in entry.used:
            self.users[name] -= 1
            if self.users[name]:
                self.used[name] -= amount
            else:
                del self.users[name], self.used[name]
