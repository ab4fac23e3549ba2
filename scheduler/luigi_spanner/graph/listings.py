"""Listings: what the visualiser shows. A rule takes what it needs of the state, at once; wording it in JSON is left to a thread.

The replies are Luigi's, value for value and in its order of tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from luigi.task_status import RUNNING

from luigi_spanner.graph import rendering
from luigi_spanner.graph.fragments import Fragments
from luigi_spanner.graph.rendering import View
from luigi_spanner.journal import compact

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph

LISTINGS = frozenset({"task_list", "task_search", "graph", "dep_graph", "inverse_dep_graph", "worker_list", "resource_list"})
"""The methods that `Listings` has a rule for."""

FEW = 300
"""How many fragments a rule makes on the way: some 5 ms at 15 us each."""

SMALL = 300
"""Up to how many tasks a graph around one of them is worded at once, without fragments."""

COPIED_FROM = 10
"""From which part of all tasks on every fragment is copied: it takes a tenth of the time that picking them does."""

Render = Callable[[], bytes]
"""Makes the reply as JSON, in any one thread."""


@dataclass(eq=False, slots=True)
class Moment:
    """What listings share that are taken of the same tasks: copies, and what was made of them."""

    version: int
    ids: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[str, bytes] | None = None
    view: View | None = None


class Listings:
    """The listings of a graph: a rule of the commit loop for each, of the method's name.

    A rule gives what makes the reply; None when more than `few` fragments are missing: they are to be filled in first.
    """

    def __init__(self, luigi: Graph) -> None:
        self._luigi = luigi
        self._state = luigi._state
        self._index = luigi._state.index
        self._fragments = Fragments(luigi)
        self._moment = Moment(-1)

    # Fragments

    def missing(self, method: str, arguments: dict[str, Any]) -> list[str]:
        """The tasks whose fragments this listing lacks, as things stand."""
        self._fragments.refresh()
        match method:
            case "task_list":
                tasks = self._of_task_list(**arguments)
            case "dep_graph" | "inverse_dep_graph":
                around = arguments["task_id"], method == "inverse_dep_graph"
                tasks = () if self._is_small(*around) else self._tasks("")
            case "worker_list" | "resource_list":
                tasks = self._tasks(RUNNING)
            case _:
                tasks = self._tasks("")
        return self._fragments.missing(tasks)

    def fill(self, missing: list[str], seconds: float) -> None:
        """Take tasks off the end of `missing` and make their fragments, for about so long."""
        self._fragments.fill(missing, seconds)

    def trim(self) -> None:
        """Give back what a listing has taken beyond what may stay."""
        self._fragments.trim()

    def clear(self) -> None:
        """Give back everything: nobody looks."""
        self._fragments.clear()
        self._moment = Moment(-1)

    def _fill_few(self, tasks: Collection[str], few: float) -> bool:
        """Whether these tasks have fragments now."""
        self._fragments.refresh()
        missing = self._fragments.missing(tasks)
        if len(missing) > few:
            return False
        self._fragments.fill(missing, math.inf)
        return True

    def _tasks(self, status: str) -> Collection[str]:
        """Ids of the tasks of a status, or of all, in Luigi's order."""
        tasks: Collection[str] = self._state._status_tasks[status] if status else self._state._tasks
        return tasks

    # What a rule takes along

    def _now(self) -> Moment:
        version = self._fragments.version
        if self._moment.version != version:
            self._moment = Moment(version)
        return self._moment

    def _ids(self, status: str) -> list[str]:
        ids = self._now().ids
        found = ids.get(status)
        if found is None:
            found = ids[status] = list(self._tasks(status))
        return found

    def _texts(self, task_ids: list[str]) -> dict[str, bytes]:
        """The fragments of these tasks, and maybe of others."""
        if COPIED_FROM * len(task_ids) < len(self._state._tasks):
            return self._fragments.pick(task_ids)
        moment = self._now()
        if moment.texts is None:
            moment.texts = self._fragments.copy()
        return moment.texts

    def _look(self) -> View:
        moment = self._now()
        if moment.view is None:
            nameless = frozenset(self._fragments.nameless)
            moment.view = View(dict(self._index.entries), nameless, self._luigi._config)
        return moment.view

    # Lists of tasks

    def task_list(
        self,
        few: float,
        /,
        status: str = "",
        upstream_status: str = "",
        limit: bool = True,
        search: str | None = None,
        max_shown_tasks: float | None = None,
        **kwargs: Any,
    ) -> Render | None:
        most = self._most(limit, max_shown_tasks)
        count = self._count(status, search)
        if count > most:
            return _worded({"num_tasks": -1 if upstream_status else count})
        self._luigi.prune()
        if not self._fill_few(self._tasks(status), few):
            return None
        task_ids = self._ids(status)
        return partial(
            rendering.task_list,
            task_ids,
            self._texts(task_ids),
            self._look() if upstream_status else None,
            status=status,
            upstream_status=upstream_status,
            terms=() if search is None else tuple(search.split()),
            most=most,
        )

    def _of_task_list(
        self, status: str = "", limit: bool = True, search: str | None = None, max_shown_tasks: float | None = None, **kwargs: Any
    ) -> Collection[str]:
        return () if self._count(status, search) > self._most(limit, max_shown_tasks) else self._tasks(status)

    def _most(self, limit: bool, max_shown_tasks: float | None) -> float:
        most: float = max_shown_tasks or self._luigi._config.max_shown_tasks
        return most if limit else math.inf

    def _count(self, status: str, search: str | None) -> int:
        """How many tasks a list is of before it is filtered; 0 when it is searched: then only the found ones count."""
        return 0 if search else int(self._state.get_active_task_count_for_status(status))

    def task_search(self, few: float, /, task_str: str, **kwargs: Any) -> Render | None:
        self._luigi.prune()
        if not self._fill_few(self._tasks(""), few):
            return None
        task_ids = self._ids("")
        return partial(rendering.task_search, task_ids, self._texts(task_ids), self._look(), task_str=task_str)

    # Graphs

    def graph(self, few: float, /, **kwargs: Any) -> Render | None:
        self._luigi.prune()
        return self._traverse(few, None, inverse=False, include_done=True)

    def dep_graph(self, few: float, /, task_id: str, include_done: bool = True, **kwargs: Any) -> Render | None:
        self._luigi.prune()
        return self._around(few, task_id, inverse=False, include_done=include_done)

    def inverse_dep_graph(self, few: float, /, task_id: str, include_done: bool = True, **kwargs: Any) -> Render | None:
        self._luigi.prune()
        return self._around(few, task_id, inverse=True, include_done=include_done)

    def _around(self, few: float, task_id: str, *, inverse: bool, include_done: bool) -> Render | None:
        self._fragments.refresh()
        if not self._state.has_task(task_id):
            return _worded({})
        if self._is_small(task_id, inverse):
            follow = self._luigi.dependents_of if inverse else None
            return _worded(self._luigi._traverse_graph(task_id, dep_func=follow, include_done=include_done))
        return self._traverse(few, task_id, inverse=inverse, include_done=include_done)

    def _is_small(self, task_id: str, inverse: bool) -> bool:
        """Whether few tasks can be reached from this one."""
        seen, queue = {task_id}, [task_id]
        while queue and len(seen) <= SMALL:
            for found in self._next_to(queue.pop(), inverse):
                if found not in seen:
                    seen.add(found)
                    queue.append(found)
                    if len(seen) > SMALL:
                        break
        return len(seen) <= SMALL

    def _next_to(self, task_id: str, inverse: bool) -> Iterable[str]:
        entry = self._index.entries.get(task_id)
        found: Iterable[str] = self._index.dependents.get(task_id, ()) if inverse else entry.deps if entry is not None else ()
        return found

    def _traverse(self, few: float, root: str | None, *, inverse: bool, include_done: bool) -> Render | None:
        """The graph from a root, or from every task."""
        if not self._fill_few(self._tasks(""), few):
            return None
        task_ids = self._ids("")
        roots, texts, view = task_ids if root is None else [root], self._texts(task_ids), self._look()
        return partial(rendering.graph, roots, texts, view, inverse=inverse, include_done=include_done)

    # Who runs what

    def worker_list(self, few: float, /, include_running: bool = True, **kwargs: Any) -> Render | None:
        workers = self._luigi.worker_list(include_running=False)
        if not include_running:
            return _worded(workers)
        if not self._fill_few(self._tasks(RUNNING), few):
            return None
        running = self._luigi.running_by_worker()
        return self._with_running(
            ({**worker, **self._luigi.work_of(worker["name"], len(running[worker["name"]]))}, running[worker["name"]])
            for worker in workers
        )

    def resource_list(self, few: float, /) -> Render | None:
        self._luigi.prune()
        if not self._fill_few(self._tasks(RUNNING), few):
            return None
        consumers = defaultdict[str, list[str]](list)
        for task in self._state.get_active_tasks_by_status(RUNNING):
            for name in task.resources or ():
                consumers[name].append(task.id)
        return self._with_running(
            (
                {"name": name, "num_total": amounts["total"], "num_used": amounts["used"], "num_consumer": len(consumers[name])},
                consumers[name],
            )
            for name, amounts in self._luigi.resources().items()
        )

    def _with_running(self, items: Iterable[tuple[dict[str, Any], list[str]]]) -> Render:
        """Each item with the tasks of these ids under `running`."""
        taken = [(compact(item).encode("ascii"), [*self._fragments.pick(task_ids).values()]) for item, task_ids in items]
        return partial(rendering.with_running, taken)


def _worded(reply: Any) -> Render:
    """A small reply, in JSON already: it may hold what changes."""
    text = compact(reply).encode("ascii")
    return lambda: text
