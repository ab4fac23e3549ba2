"""Whether a worker that asked for work now would be given a certain task: `get_work`'s own decision, with its reasons.

A task may have the worker's turn if Luigi's rule would give it to a worker who is given none of those that rank before it. These
are counted: with none of them, the worker gets the task when it next asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from luigi_spanner.graph.entries import Run
from luigi_spanner.graph.greed import Greed
from luigi_spanner.graph.ready import Group, Need, Rank
from luigi_spanner.graph.selection import Asker, Choice, Selection
from luigi_spanner.graph.why_words import Reason, counted, listed, number

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph
    from luigi_spanner.graph.task import Task
    from luigi_spanner.graph.worker import Worker

COUNTED = 100
"""How many of the tasks that rank before it are counted at most, about a millisecond of work."""

HOLDERS = 10
"""How many of those that hold a resource are told."""

RUNNING_LOOKED_AT = 2000
"""Among how many running tasks those are looked for, in order of rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a worker that asks would be told of a task. It gets the task when nothing `holds` it and none is `before` it; `more`:
    not all of these were counted. `batch` are the ids of those that it would get in one batch with the task, if any."""

    worker: str
    holds: tuple[Reason, ...]
    before: int = 0
    more: bool = False
    first: str | None = None
    batch: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the worker gets the task once it has been given those before it."""
        return not self.holds


def turn_of(graph: Graph, task: Task, worker: Worker) -> Turn:
    """What the worker would be told of a task that is ready, if it asked now. The index must be fresh."""
    asker = Asker(
        worker=worker, assistant=bool(worker.assistant), active_since=graph.now() - graph._config.worker_disconnect_delay
    )
    return _Turns(graph, asker, task).turn()


class _Foresight(Greed):
    """The schedule that the greedy rule imagines, as if the asker had just asked. `reserved` are the tasks that it gives to
    workers, by rank, with the worker."""

    def __init__(self, graph: Graph, asker: Asker) -> None:
        super().__init__(graph._state, graph._resources, asker)
        self._asks_in_time = graph.now() > asker.active_since
        self.reserved: list[tuple[Rank, str, Group]] = []

    def _start(self) -> None:
        super()._start()
        worker = self._asker.worker
        if self._asks_in_time:
            self._slots.setdefault(worker.id, worker.info.get("workers", 1))

    def _reserve(self, group: Group) -> str | None:
        worker_id = super()._reserve(group)
        if worker_id is not None:
            assert self._turn is not None
            self.reserved.append((self._turn, worker_id, group))
        return worker_id

    def lacking(self, group: Group) -> Need | None:
        """What the schedule, as far as it is made, leaves too little of for that group."""
        return next((need for need in group.needs if self.spent(need)), None)

    def counts(self, run: Run) -> bool:
        """Whether what runs there keeps what it has in the schedule."""
        return run.worker in self._slots


class _Turns(Selection):
    def __init__(self, graph: Graph, asker: Asker, task: Task) -> None:
        super().__init__(graph._state, graph._resources, asker)
        entry = self._index.entries[task.id]
        assert isinstance(entry.place, Group) and entry.rank is not None
        self._task, self._group, self._rank = task, entry.place, entry.rank
        self._greed = _Foresight(graph, asker)

    def turn(self) -> Turn:
        before = list(islice(self._before(), COUNTED + 1))
        first = self._first_of(before)
        holds = tuple(self._holds())
        choice = Choice()
        if first is not None:
            choice = self._with_batch(first)
        elif not holds:
            choice = self._with_batch(self._task)
        batch = tuple(task.id for task in choice.batch) if self._task in choice.batch and len(choice.batch) > 1 else ()
        return Turn(
            worker=self._id,
            # With the first of its batch a task is given away whatever else holds it.
            holds=() if batch else holds,
            before=min(len(before), COUNTED),
            more=len(before) > COUNTED,
            first=None if first is None else first.id,
            batch=batch,
        )

    # What the worker would get first

    def _before(self) -> Iterator[str]:
        """Ids of the tasks that rank before it and that the worker would be given."""
        return self._own_before() if self._trivial else self._others_before()

    def _first_of(self, before: list[str]) -> Task | None:
        """The one of these that the worker would get now. Among its own of one rank the first is not the first that is found."""
        if not before:
            return None
        return self._first_own() if self._trivial else self._state._tasks[before[0]]

    def _own_before(self) -> Iterator[str]:
        queue = self._ready.queues.get(self._id)
        if queue is None:
            return
        tied: list[Rank] = []
        for rank, group in self._ready.groups(queue, self._is_used_up):
            if rank[:2] > self._rank[:2]:
                break
            for member in takewhile(lambda member: member[:2] <= self._rank[:2], self._ready.members(group)):
                if member[:2] < self._rank[:2]:
                    yield member[3]
                else:
                    tied.append(member)
        for task in takewhile(lambda task: task is not self._task, self._in_order(tied)):
            yield task.id

    def _others_before(self) -> Iterator[str]:
        own = self._ready.queues.get(self._id)
        queues = [queue for queue in (own, self._ready.runnable if self._asker.assistant else None) if queue is not None]
        seen: Group | None = None
        for rank, group in merge(*(self._ready.groups(queue, self._is_used_up) for queue in queues)):
            if rank >= self._rank:
                return
            if group is seen or any(map(self._is_used_up, group.needs)) or not self._greed.leaves(group, rank):
                continue
            seen = group
            yield from (member[3] for member in takewhile(lambda member: member < self._rank, self._ready.members(group)))

    # What keeps the task from it

    def _holds(self) -> Iterator[Reason]:
        if self._id not in self._task.workers and not (self._asker.assistant and self._task.runnable):
            yield self._not_offered()
        used_up = [need for need in self._group.needs if self._is_used_up(need)]
        for need in used_up:
            yield taken(self._state, self._limits, need)
        if not used_up and not self._trivial and not self._greed.leaves(self._group, self._rank):
            lacking = self._greed.lacking(self._group)
            assert lacking is not None
            yield self._reserved(lacking)

    def _not_offered(self) -> Reason:
        able = list(islice(self._task.workers, HOLDERS))
        others = f"it may run on {listed(able, len(self._task.workers) > len(able))}" if able else "no worker has"
        return Reason(
            code="not_offered",
            sentence=f"{self._id} has not offered to run it; {others}.",
            details={"worker": self._id, "able": able},
        )

    def _reserved(self, need: Need) -> Reason:
        """The resource is free, but Luigi keeps it for tasks that rank before this one."""
        name, amount = need
        kept = [
            {"task_id": rank[3], "worker": worker_id, "priority": self._state._tasks[rank[3]].priority, "amount": number(wanted)}
            for rank, worker_id, group in self._greed.reserved
            for wanted in [dict(group.needs).get(name, 0)]
            if wanted
        ]
        running = _holders(self._state, name, self._counts)
        limit = self._limits.get(name, 1)
        kept_for = [f"{each['task_id']} (on {each['worker']})" for each in kept]
        runs = f", beside what {listed([holder['task_id'] for holder in running])} has" if running else ""
        return Reason(
            code="resource_reserved",
            sentence=(
                f"Enough of the resource {name} is free, but it is kept for {counted(len(kept), 'task')} that "
                f"{'ranks' if len(kept) == 1 else 'rank'} before it: {listed(kept_for)}{runs}. It needs {number(amount)} of "
                f"{number(limit)}."
            ),
            details={
                "resource": name,
                "needed": number(amount),
                "total": number(limit),
                "reserved_for": kept[:HOLDERS],
                "held_by": running,
            },
        )

    def _counts(self, rank: Rank, run: Run) -> bool:
        return rank[:2] < self._rank[:2] and self._greed.counts(run)


def taken(state: Any, limits: dict[str, Any], need: Need) -> Reason:
    """There is not enough of the resource: others have it, or there is less than is needed in all."""
    name, amount = need
    limit, used = limits.get(name, 1), state.index.used.get(name, 0)
    details = {"resource": name, "needed": number(amount), "used": number(used), "total": number(limit)}
    if amount > limit:
        unless = "" if name in limits else ", as of any resource that nobody limits"
        sentence = (
            f"It needs {number(amount)} of the resource {name}, and there is only {number(limit)}{unless}: it can never run."
        )
        return Reason(code="resource_impossible", sentence=sentence, details=details)
    holders = _holders(state, name, lambda rank, run: True)
    by = [f"{holder['task_id']} (on {holder['worker']})" for holder in holders]
    return Reason(
        code="resource_taken",
        sentence=(
            f"It needs {number(amount)} of the resource {name}, and {number(used)} of {number(limit)} is taken"
            f"{f' by {listed(by, len(by) == HOLDERS)}' if by else ''}."
        ),
        details={**details, "held_by": holders},
    )


def _holders(state: Any, name: str, counts: Any) -> list[dict[str, Any]]:
    """The running tasks that have some of the resource, a few of them."""
    found: list[dict[str, Any]] = []
    for rank in islice(state.index.running, RUNNING_LOOKED_AT):
        run = state.index.entries[rank[3]].place
        amount = dict(run.used).get(name, 0) if isinstance(run, Run) else 0
        if amount and counts(rank, run):
            found.append({"task_id": rank[3], "worker": run.worker, "amount": number(amount)})
            if len(found) == HOLDERS:
                break
    return found
