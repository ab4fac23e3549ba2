"""Rendering: listings as JSON, made in a thread from what was taken of the state at one moment.

A thread that computes holds the interpreter for up to 5 ms (`sys.getswitchinterval`) whenever another wants it, and a commit
wants it a dozen times: what takes long here rests often.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from luigi import scheduler as luigi_scheduler
from luigi.task_status import PENDING

from luigi_spanner.graph.entries import Entry
from luigi_spanner.graph.fragments import split
from luigi_spanner.journal import compact

WORK_SECONDS = 0.001
"""For how long at most a rendering works before it rests."""

REST_SECONDS = 0.0005
"""How long it rests: long enough for another thread to wake up and take the interpreter."""

JOINED = 1000
"""How many fragments are joined at a time: some 0.1 ms. What comes of it is joined without the interpreter's lock."""


class Pace:
    """Lets a thread work and rest by turns."""

    def __init__(self) -> None:
        self._rested = time.perf_counter()

    def __call__(self) -> None:
        """A bit of work is done: rest if it is time."""
        if time.perf_counter() - self._rested > WORK_SECONDS:
            time.sleep(REST_SECONDS)
            self._rested = time.perf_counter()


class View:
    """The tasks as they were: index entries by id, and the ids of those without a family. `config` is Luigi's.

    It keeps what `upstream` has found last: the visualiser asks about the same tasks with several statuses.
    """

    def __init__(self, entries: dict[str, Entry], nameless: frozenset[str], config: Any) -> None:
        self.entries = entries
        self.nameless = nameless
        self.config = config
        self._upstream: tuple[Any, list[str | None]] = (None, [])

    def upstream(self, task_ids: list[str], name: Any) -> list[str | None]:
        """The upstream status of each of these tasks, None for those that are not PENDING. Under the same `name` it is always
        asked for the same tasks."""
        if self._upstream[0] != name:
            upstream = _Upstream(self)
            self._upstream = (name, [upstream.of(task_id) for task_id in task_ids])
        return self._upstream[1]

    def dependents(self) -> dict[str, list[str]]:
        """The tasks that depend on each."""
        pace = Pace()
        inverse = defaultdict[str, list[str]](list)
        for task_id, entry in self.entries.items():
            for dependency in entry.deps:
                inverse[dependency].append(task_id)
            pace()
        return inverse


# Luigi's own rules that only read, on a view: what they find in the scheduler and its state is found here. Nothing is made for
# each task that outlives the next: what survives brings on a full garbage collection, which at 100,000 tasks is a second.


class _Upstream:
    """`_upstream_status`. In cycles it goes by the order of sets, as Luigi does: there ours is one of Luigi's answers."""

    _upstream_status = luigi_scheduler.Scheduler._upstream_status

    def __init__(self, view: View) -> None:
        self._state = self
        self._entries = view.entries
        self._table: dict[str, str] = {}
        self._pace = Pace()

    def of(self, task_id: str) -> str | None:
        """The upstream status of a task, None if it is not PENDING."""
        return self._upstream_status(task_id, self._table) if self._entries[task_id].status == PENDING else None

    def has_task(self, task_id: str) -> bool:
        return task_id in self._entries

    def get_task(self, task_id: str) -> Entry | None:
        self._pace()
        return self._entries.get(task_id)


class _Traversal:
    """`_traverse_graph`, along dependencies, or against them when `dependents` says how. A node is its JSON."""

    _filter_done = luigi_scheduler.Scheduler._filter_done
    _traverse_graph = luigi_scheduler.Scheduler._traverse_graph

    def __init__(self, view: View, texts: dict[str, bytes], dependents: dict[str, list[str]] | None) -> None:
        self._state = self
        self._config = view.config
        self._view = view
        self._texts = texts
        self._follow = None if dependents is None else lambda task: dependents.get(task.id, ())
        self._seen: set[str] = set()
        self._pace = Pace()

    def nodes(self, root: str, include_done: bool) -> Iterator[bytes]:
        """The members of the graph's object that are reached from this root and were from none before."""
        self._pace()
        found: dict[str, _Node | dict[str, Any]] = self._traverse_graph(root, self._seen, self._follow, include_done)
        for task_id, node in found.items():
            self._pace()
            text = node if isinstance(node, _Node) else compact(node).encode("ascii")
            if node is text and task_id == root:
                name = split(root, self._texts[root])[0]
                text = f'{{"display_name":{compact(name)},'.encode("ascii") + text[1:]
            yield f"{compact(task_id)}:".encode("ascii") + text

    def get_task(self, task_id: str) -> _Seen | None:
        self._pace()
        entry = self._view.entries.get(task_id)
        return None if entry is None else _Seen(task_id, entry, task_id not in self._view.nameless)

    def _serialize_task(self, task_id: str, deps: Iterable[str]) -> _Node:
        rest = split(task_id, self._texts[task_id])[1]
        return _Node(f'{{"deps":[{",".join(map(compact, deps))}],{rest}'.encode("ascii"))


class _Seen:
    """A task in a traversal."""

    __slots__ = ("deps", "family", "id", "status")

    def __init__(self, task_id: str, entry: Entry, family: bool) -> None:
        self.id = task_id
        self.deps = entry.deps
        self.status = entry.status
        self.family = family


class _Node(bytes):
    """A node of a graph without the display name, which only the root has: Luigi takes it from the others."""

    __slots__ = ()

    def __delitem__(self, name: str) -> None: ...


# Each listing's JSON


def task_list(
    task_ids: list[str],
    texts: dict[str, bytes],
    view: View | None,
    *,
    status: str,
    upstream_status: str,
    terms: tuple[str, ...],
    most: float,
) -> bytes:
    """Those of the tasks whose display names hold every term and whose upstream status, which needs a view, is the one wanted;
    if they are more than `most`, only how many."""
    chosen = task_ids
    if terms:
        chosen = list(_matching(task_ids, texts, [term.casefold() for term in terms]))
    if view is not None:
        upstream = view.upstream(chosen, (status, terms))
        chosen = [task_id for task_id, found in zip(chosen, upstream, strict=True) if found is None or found == upstream_status]
    if len(chosen) > most:
        return compact({"num_tasks": len(chosen)}).encode("ascii")
    return _object(texts[task_id] for task_id in chosen)


def _matching(task_ids: Iterable[str], texts: dict[str, bytes], terms: list[str]) -> Iterator[str]:
    pace = Pace()
    for task_id in task_ids:
        name = split(task_id, texts[task_id])[0].casefold()
        if all(term in name for term in terms):
            yield task_id
        pace()


def graph(roots: Iterable[str], texts: dict[str, bytes], view: View, *, inverse: bool, include_done: bool) -> bytes:
    """What can be reached from the roots along dependencies, or against them."""
    traversal = _Traversal(view, texts, view.dependents() if inverse else None)
    return _object(node for root in roots for node in traversal.nodes(root, include_done))


def task_search(task_ids: list[str], texts: dict[str, bytes], view: View, *, task_str: str) -> bytes:
    """The tasks with that in their ids, by status."""
    found: dict[str, list[str]] = {}
    pace = Pace()
    for task_id in task_ids:
        if task_str in task_id:
            found.setdefault(view.entries[task_id].status, []).append(task_id)
        pace()
    by_status = ((compact(status).encode("ascii"), task_ids) for status, task_ids in found.items())
    return _object(status + b":" + _object(texts[task_id] for task_id in task_ids) for status, task_ids in by_status)


def with_running(items: list[tuple[bytes, list[bytes]]]) -> bytes:
    """A list of objects, each with the tasks that belong to it under `running`."""
    return b"[" + b",".join(item[:-1] + b',"running":' + _object(texts) + b"}" for item, texts in items) + b"]"


def _object(fragments: Iterable[bytes]) -> bytes:
    """The JSON object with these members, each with its name."""
    pace = Pace()
    members = iter(fragments)
    parts = []
    while some := b",".join(islice(members, JOINED)):
        parts.append(some)
        pace()
    # What is large is joined once.
    parts[:1] = [b"{" + parts[0] if parts else b"{"]
    parts[-1:] = [parts[-1] + b"}"]
    return b",".join(parts)
