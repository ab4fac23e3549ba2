"""What a PENDING task waits for: its unfinished dependencies, down to those that wait for nothing but themselves (the roots)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luigi.task_status import BATCH_RUNNING, DONE, PENDING, RUNNING

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State

LOOKED_AT = 1000
"""How many unfinished dependencies the walk takes in, nearest first: some milliseconds of work."""

EXAMINED = 20_000
"""How many dependencies, finished ones included, it looks at to find them: some milliseconds, too."""

PATH = 20
"""How many tasks of a path are told."""

MISSING = "MISSING"
"""Stands for the status of an id that no task has."""

_MENDING = (PENDING, RUNNING, BATCH_RUNNING)
"""Roots that come to an end by themselves are told after those that may not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """A dependency that is not DONE and waits for no other. `path` leads to it from the task, which is left out: its last part,
    where it is long."""

    task_id: str
    status: str
    path: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class Waits:
    """What the walk found. `direct` of the task's own dependencies are not DONE. `more`: it did not look at all of them."""

    direct: int = 0
    roots: list[Root] = field(default_factory=list)
    cycle: list[str] = field(default_factory=list)
    looked_at: int = 0
    more: bool = False


def waits_of(state: State, task_id: str) -> Waits:
    """The walk from a task. The index must be fresh."""
    return _Walk(state, task_id).waits


class _Walk:
    def __init__(self, state: State, task_id: str) -> None:
        self._index = state.index
        self._start = task_id
        self._above: dict[str, str | None] = {task_id: None}
        self._waiting: dict[str, list[str]] = {}
        self._examined = 0
        self.waits = Waits(direct=state.index.unfinished.get(task_id, 0))
        self._walk()
        self.waits.roots.sort(key=lambda root: (root.status in _MENDING, len(root.path), root.task_id))
        self.waits.looked_at = len(self._above) - 1
        if not self.waits.more:
            self.waits.cycle = self._cycle()

    def _walk(self) -> None:
        queue = deque([self._start])
        while queue:
            task_id = queue.popleft()
            unfinished = self._waiting[task_id] = self._unfinished(task_id)
            if not self._waits(task_id) and task_id != self._start:
                self.waits.roots.append(self._root(task_id))
            for dependency in unfinished:
                if dependency in self._above:
                    continue
                if len(self._above) > LOOKED_AT:
                    # What is known by now may be roots: they are still looked at.
                    self.waits.more = True
                    break
                self._above[dependency] = task_id
                queue.append(dependency)

    def _waits(self, task_id: str) -> int:
        """For how many a task waits, if it is PENDING: what is FAILED, runs or is gone holds others up by itself."""
        return self._index.unfinished.get(task_id, 0) if self._status(task_id) == PENDING else 0

    def _unfinished(self, task_id: str) -> list[str]:
        """What a task waits for, as far as that may be looked at."""
        count, found = self._waits(task_id), list[str]()
        for dependency in self._index.entries[task_id].deps if count else ():
            if len(found) == count:
                break
            self._examined += 1
            if self._examined > EXAMINED or len(found) > LOOKED_AT:
                self.waits.more = True
                break
            if self._status(dependency) != DONE:
                found.append(dependency)
        return found

    def _status(self, task_id: str) -> str:
        entry = self._index.entries.get(task_id)
        return MISSING if entry is None else entry.status

    def _root(self, task_id: str) -> Root:
        path = [task_id]
        while (above := self._above[path[-1]]) is not None and above != self._start:
            path.append(above)
        return Root(task_id=task_id, status=self._status(task_id), path=tuple(reversed(path[:PATH])))

    def _cycle(self) -> list[str]:
        """Tasks that wait for each other in a circle, if any does of those that were looked at."""
        waiting = {task_id: set(dependencies) for task_id, dependencies in self._waiting.items()}
        above: dict[str, list[str]] = {}
        for task_id, dependencies in waiting.items():
            for dependency in dependencies:
                above.setdefault(dependency, []).append(task_id)
        free = [task_id for task_id, dependencies in waiting.items() if not dependencies]
        while free:
            task_id = free.pop()
            del waiting[task_id]
            for dependent in above.get(task_id, ()):
                waiting[dependent].discard(task_id)
                if not waiting[dependent]:
                    free.append(dependent)
        if not waiting:
            return []
        return self._circle(waiting)

    def _circle(self, waiting: dict[str, set[str]]) -> list[str]:
        """Each of these waits for another of them: follow one until it comes again."""
        passed: dict[str, None] = {}
        task_id = self._start if self._start in waiting else min(waiting)
        while task_id not in passed:
            passed[task_id] = None
            task_id = min(waiting[task_id])
        circle = list(passed)
        return circle[circle.index(task_id) :]
