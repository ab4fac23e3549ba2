"""Tasks that `count_pending` leaves out: PENDING ones that wait for a DISABLED one, be it through other PENDING ones.

Luigi finds them by a walk. What it finds does not depend on the order of the walk, unless there is a cycle among them, or a task
whose status the walk has no name for (UNKNOWN) depends on them. This keeps account of them as long as neither is the case.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from luigi.scheduler import STATUS_TO_UPSTREAM_MAP
from luigi.task_status import DISABLED, DONE, PENDING

from luigi_spanner.graph.entries import Counts, Entry, count

if TYPE_CHECKING:
    from luigi_spanner.graph.index import Index


class Below:
    """PENDING tasks below DISABLED ones.

    A task *blocks* its dependents if it is DISABLED or below. `counts` are the numbers of each worker's tasks that are below.
    To know of cycles each of these tasks has a place after all that it depends on: it is moved when that changes, and where no
    place fits there is a cycle. With a cycle nothing is kept up to date.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._disabled: set[str] = set()
        self._forget()

    def clear(self) -> None:
        """Nothing is DISABLED."""
        self._disabled.clear()
        self._forget()

    def _forget(self) -> None:
        self.counts: dict[str, Counts] = {}
        # How many of its dependencies block a task, whatever its status.
        self._blockers: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._first = self._last = 0
        self._odd: set[str] = set()
        self._cyclic = False

    def is_plain(self) -> bool:
        """Whether `counts` hold: what Luigi finds does not depend on the order of its walk."""
        if self._cyclic:
            self._forget()
            self._insert(self._spread(self._disabled))
        return not self._cyclic and not self._odd

    # Changes

    def follow(self, task_id: str, old: Entry | None, new: Entry | None) -> None:
        """The entry of a task has changed, and the dependents of what it depends on."""
        before = old is not None and old.status == DISABLED
        now = new is not None and new.status == DISABLED
        if now:
            self._disabled.add(task_id)
        elif before:
            self._disabled.remove(task_id)
            if not self._disabled and self._cyclic:
                self._forget()
                return
        elif not self._disabled:
            return
        if task_id in self._index.dependents.get(task_id, ()):
            self._cyclic = True
        if not self._cyclic:
            self._move(task_id, old, new)

    def _move(self, task_id: str, old: Entry | None, new: Entry | None) -> None:
        was_below = task_id in self._places
        blocked = was_below or (old is not None and old.status == DISABLED)
        if was_below and old is not None:
            count(self.counts, old, -1)
        if old is None or new is None or old.deps is not new.deps:
            self._weigh(task_id, () if new is None else new.deps)
            self._places.pop(task_id, None)
        is_below = new is not None and new.status == PENDING and task_id in self._blockers
        if is_below and new is not None:
            count(self.counts, new, 1)
        else:
            self._places.pop(task_id, None)
        self._note_odd(task_id, new)
        blocks = is_below or (new is not None and new.status == DISABLED)
        if blocked and not blocks:
            self._withdraw(task_id)
        joined = self._spread([task_id]) if blocks and not blocked else []
        if is_below and task_id not in self._places:
            joined.append(task_id)
        if joined:
            self._insert(joined)

    def _weigh(self, task_id: str, deps: Iterable[str]) -> None:
        blockers = sum(dependency in self._disabled or dependency in self._places for dependency in deps)
        if blockers:
            self._blockers[task_id] = blockers
        else:
            self._blockers.pop(task_id, None)

    def _note_odd(self, task_id: str, entry: Entry | None) -> None:
        """Note whether the walk takes the task for blocked or not as it happens to pass."""
        nameless = entry is not None and entry.status != DONE and entry.status not in STATUS_TO_UPSTREAM_MAP
        if nameless and task_id in self._blockers:
            self._odd.add(task_id)
        else:
            self._odd.discard(task_id)

    def _spread(self, blocking: Iterable[str]) -> list[str]:
        """These have begun to block their dependents. Returns the tasks that are below since; they have no place yet."""
        entries, dependents = self._index.entries, self._index.dependents
        joined = []
        spreading = list(blocking)
        while spreading:
            for dependent in dependents.get(spreading.pop(), ()):
                blockers = self._blockers[dependent] = self._blockers.get(dependent, 0) + 1
                entry = entries[dependent]
                if blockers == 1 and entry.status == PENDING:
                    count(self.counts, entry, 1)
                    joined.append(dependent)
                    spreading.append(dependent)
                elif blockers == 1:
                    self._note_odd(dependent, entry)
        return joined

    def _withdraw(self, task_id: str) -> None:
        """The task has ceased to block its dependents."""
        entries, dependents = self._index.entries, self._index.dependents
        withdrawing = [task_id]
        while withdrawing:
            for dependent in dependents.get(withdrawing.pop(), ()):
                self._blockers[dependent] -= 1
                if not self._blockers[dependent]:
                    del self._blockers[dependent]
                    self._odd.discard(dependent)
                    if self._places.pop(dependent, None) is not None:
                        count(self.counts, entries[dependent], -1)
                        withdrawing.append(dependent)

    # Places

    def _insert(self, joined: Collection[str]) -> None:
        """Give tasks that are below places after those they depend on, before those that depend on them."""
        entries, dependents, places = self._index.entries, self._index.dependents, self._places
        ordered = self._ordered(joined)
        if len(ordered) < len(joined):
            self._cyclic = True
            return
        above = [dependent for task_id in ordered for dependent in dependents.get(task_id, ()) if dependent in places]
        if above and not any(dependency in places for task_id in ordered for dependency in entries[task_id].deps):
            self._first -= len(ordered)
            places.update(zip(ordered, range(self._first, self._first + len(ordered)), strict=True))
        else:
            self._append(ordered)
            self._lift(above, frozenset(ordered))

    def _ordered(self, joined: Collection[str]) -> list[str]:
        """The tasks in an order in which each comes after those it depends on; without those on cycles or above them."""
        entries, dependents = self._index.entries, self._index.dependents
        waiting = dict.fromkeys(joined, 0)
        for task_id in joined:
            waiting[task_id] = sum(dependency in waiting for dependency in entries[task_id].deps)
        ordered = [task_id for task_id, waits in waiting.items() if not waits]
        for task_id in ordered:
            for dependent in dependents.get(task_id, ()):
                if dependent in waiting:
                    waiting[dependent] -= 1
                    if not waiting[dependent]:
                        ordered.append(dependent)
        return ordered

    def _append(self, ordered: Collection[str]) -> None:
        self._places.update(zip(ordered, range(self._last, self._last + len(ordered)), strict=True))
        self._last += len(ordered)

    def _lift(self, task_ids: Iterable[str], over: frozenset[str]) -> None:
        """Move tasks, and all that depend on them, to places after those of `over`. If they lead back there, it is a cycle."""
        dependents, places = self._index.dependents, self._places
        lifted = set()
        lifting = list(task_ids)
        while lifting:
            task_id = lifting.pop()
            if task_id in over:
                self._cyclic = True
                return
            if task_id not in lifted:
                lifted.add(task_id)
                lifting += [dependent for dependent in dependents.get(task_id, ()) if dependent in places]
        self._append(sorted(lifted, key=places.__getitem__))
