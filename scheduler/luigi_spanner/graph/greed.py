"""Luigi's greedy rule: what a task may not take, lest it starve tasks that come before it.

Luigi imagines that all running tasks died and that the active workers were given tasks anew in order of rank, each as many as it
has slots. A task that does not fit into what that leaves of resources at its turn must wait, whatever is free now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any

from luigi_spanner.graph.entries import Run
from luigi_spanner.graph.ready import Amount, Group, Need, Rank

if TYPE_CHECKING:
    from luigi_spanner.graph.selection import Asker
    from luigi_spanner.graph.state import State

_Turn = tuple[Rank, int, Callable[[], object]]
"""The rank at which something happens, a number that keeps turns from being compared by what happens, and that."""


class Greed:
    """The imagined schedule of one call, made only as far as questions need it; the ranks that they ask for must grow.

    Resources that are taken only grow and slots only dwindle. So a group whose first task gets nothing is out for the rest of the
    call, and so is a worker without a slot. `held_up` are the groups that lacked something, with what they need of it.
    """

    def __init__(self, state: State, limits: dict[str, Any], asker: Asker) -> None:
        self._state = state
        self._index = state.index
        self._limits = limits
        self._asker = asker
        self._taken: dict[str, Amount] = {}
        self._slots: dict[str, Any] = {}
        self._started = False
        self._in_vain = 0
        self._running: Iterator[Rank] = iter(self._index.running)
        self._runs = next(self._running, None)
        self._turns: list[_Turn] = []
        self._numbers = count()
        self._turn: Rank | None = None
        self._done: set[Group] = set()
        self.held_up: list[tuple[Group, Need]] = []

    def leaves(self, group: Group, rank: Rank) -> bool:
        """Whether the schedule leaves a task of that group and rank what it needs."""
        if self._lacks(group):
            return False
        if self._cannot_lack(group):
            return True
        self._make(rank, group)
        return not self._lacks(group)

    def spent(self, need: Need) -> bool:
        """Whether the schedule, as far as it is made, leaves less than that."""
        name, amount = need
        return bool(amount + self._taken.get(name, 0) > self._limits.get(name, 1))

    def _lacks(self, group: Group) -> bool:
        for need in group.needs:
            if self.spent(need):
                self.held_up.append((group, need))
                return True
        return False

    def _cannot_lack(self, group: Group) -> bool:
        """Whether all that run or are ready could together have what they need of the resources that the group needs."""
        used, demand, limits = self._index.used, self._index.ready.demand, self._limits
        return all(used.get(name, 0) + demand.get(name, 0) <= limits.get(name, 1) for name, _ in group.needs)

    # The schedule

    def _make(self, until: Rank, group: Group) -> None:
        """Schedule the tasks before the rank `until`, as long as that leaves what `group` needs."""
        if not self._started:
            self._start()
        turns = self._turns
        while turns and turns[0][0] < until:
            self._account_running(turns[0][0])
            if self._lacks(group):
                return
            self._turn, _, take_turn = heappop(turns)
            take_turn()
        self._account_running(until)

    def _start(self) -> None:
        self._started = True
        ready = self._index.ready
        active = self._state.get_active_workers(last_get_work_gt=self._asker.active_since)
        self._slots = {worker.id: worker.info.get("workers", 1) for worker in active}
        for queue in (ready.runnable, ready.external):
            ready.settle(queue)
            self._wait_for_first(None, ready.groups(queue, self.spent))

    def _go_by_worker(self) -> None:
        """Many groups are of workers without a slot: go on with those of the others, worker by worker."""
        asker, ready = self._asker, self._index.ready
        queues = [(worker_id, ready.queues.get(worker_id)) for worker_id in self._slots]
        if asker.assistant and asker.worker.id in self._slots:
            queues += [(asker.worker.id, ready.runnable), (asker.worker.id, ready.external)]
        for worker_id, queue in queues:
            if queue is not None and queue.buckets and self._slots[worker_id] > 0:
                # Where it may begin will do: by then the worker may have no slot left.
                begins = min(bucket.heap[0][0] for bucket in queue.buckets.values())
                self._wait(begins, partial(self._wait_for_first, worker_id, ready.groups(queue, self.spent)))

    def _wait(self, rank: Rank, take_turn: Callable[[], object]) -> None:
        heappush(self._turns, (rank, next(self._numbers), take_turn))

    def _wait_for_first(self, worker_id: str | None, groups: Iterator[tuple[Rank, Group]]) -> None:
        """Let the first task of the next group have its turn; if they are those of one worker, while it has a slot left."""
        if worker_id is None or self._slots[worker_id] > 0:
            for rank, group in groups:
                if group not in self._done:
                    self._wait(rank, partial(self._give_first, worker_id, groups, group))
                    return

    def _give_first(self, worker_id: str | None, groups: Iterator[tuple[Rank, Group]], group: Group) -> None:
        # Another of its workers may have had the group meanwhile.
        if group not in self._done:
            self._done.add(group)
            if self._reserve(group) is not None:
                members = self._index.ready.members(group)
                next(members)
                self._wait_for_next(group, members)
            elif worker_id is None:
                self._in_vain += 1
                if self._in_vain == len(self._slots):
                    self._go_by_worker()
        if worker_id is not None or self._in_vain < len(self._slots):
            self._wait_for_first(worker_id, groups)

    def _wait_for_next(self, group: Group, members: Iterator[Rank]) -> None:
        """Let the next task of a group have its turn."""
        rank = next(members, None)
        if rank is not None:
            self._wait(rank, partial(self._give_next, group, members))

    def _give_next(self, group: Group, members: Iterator[Rank]) -> None:
        if self._reserve(group) is not None:
            self._wait_for_next(group, members)

    def _account_running(self, before: Rank) -> None:
        """Running tasks before that rank keep what they have. At equal rank Luigi has pending tasks before running ones."""
        entries, slots, taken = self._index.entries, self._slots, self._taken
        while self._runs is not None and self._runs[:2] < before[:2]:
            run = entries[self._runs[3]].place
            if isinstance(run, Run) and run.worker in slots:
                slots[run.worker] -= 1
                for name, amount in run.used:
                    taken[name] = taken.get(name, 0) + amount
            self._runs = next(self._running, None)

    def _reserve(self, group: Group) -> str | None:
        """Give a task of the group to the first of its workers that has a slot left, if it has what it needs. Returns whom."""
        if self._lacks(group):
            return None
        slots, taken = self._slots, self._taken
        workers = (*group.workers, self._asker.worker.id) if self._asker.assistant else group.workers
        for worker_id in workers:
            if slots.get(worker_id, 0) > 0:
                slots[worker_id] -= 1
                for name, amount in group.needs:
                    taken[name] = taken.get(name, 0) + amount
                return worker_id
        return None
