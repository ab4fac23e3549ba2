"""Fragments: each task as the lists show it, in JSON, kept until the task changes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from time import perf_counter
from typing import TYPE_CHECKING

from luigi_spanner.journal import compact

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph

CACHE_BYTES = 128 * 1024 * 1024
"""Up to how many bytes of fragments stay between two listings: some 200,000 tasks. More live for one listing only."""

OVERHEAD_BYTES = 150
"""About what a fragment takes besides its text: a bytes object and its place in a dict (CPython, 64 bits)."""

_NAME = ':{"display_name":'

_decode = json.JSONDecoder().raw_decode


class Fragments:
    """A piece of JSON for each task that was listed: `"id":{"display_name":...,...}`, as `_serialize_task` has it without
    dependencies.

    Like the index they are derived from the tasks as these are: they can be late, and `refresh` brings them up to date.
    `nameless` are the ids of those tasks that have no family. `version` is another whenever a fragment may be.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._state = graph._state
        self._texts: dict[str, bytes] = {}
        self._absent: set[str] = set()
        self._bytes = 0
        self.nameless: set[str] = set()
        self.version = 0

    def refresh(self) -> None:
        """Bring the index up to date, and drop the fragments of tasks that have changed."""
        self._state.index.refresh()
        tracker = self._state.tracker
        changed, tracker.changed = tracker.changed, set()
        if changed is None:
            self._forget()
            self._absent = set(self._state._tasks)
        elif changed:
            self.version += 1
            for task_id in changed:
                self._drop(task_id)

    def missing(self, tasks: Collection[str]) -> list[str]:
        """Which of these tasks, all of which exist, have no fragment. Call `refresh` before."""
        absent = self._absent
        fewer, others = (absent, tasks) if len(absent) < len(tasks) else (tasks, absent)
        return [task_id for task_id in fewer if task_id in others]

    def fill(self, missing: list[str], seconds: float) -> None:
        """Take tasks off the end of `missing` and make their fragments, for about so long, at least one. Tasks that are gone
        meanwhile get none."""
        if missing:
            self.version += 1
        end = perf_counter() + seconds
        while missing:
            self._make(missing.pop())
            if perf_counter() >= end:
                break
        if not self._absent:
            # A set keeps the room it once needed, and whoever walks it pays for that.
            self._absent = set()

    def copy(self) -> dict[str, bytes]:
        """Every fragment there is."""
        return dict(self._texts)

    def pick(self, task_ids: Iterable[str]) -> dict[str, bytes]:
        """The fragments of these tasks."""
        return {task_id: self._texts[task_id] for task_id in task_ids}

    def trim(self) -> None:
        """Keep no more than may stay."""
        if self._bytes > CACHE_BYTES:
            self.clear()

    def clear(self) -> None:
        """Keep nothing, and follow no changes until the next `refresh`."""
        self._forget()
        self._state.tracker.changed = None

    def _forget(self) -> None:
        self._texts = {}
        self._absent = set()
        self.nameless = set()
        self._bytes = 0
        self.version += 1

    def _make(self, task_id: str) -> None:
        if task_id not in self._absent:
            return
        self._absent.remove(task_id)
        task = self._state._tasks.get(task_id)
        if task is None:
            # Removed or undone since the last `refresh`; should it come back, the next one says so.
            return
        shown = self._graph._serialize_task(task_id, include_deps=False)
        name = compact(shown.pop("display_name"))
        text = f"{compact(task_id)}{_NAME}{name},{compact(shown)[1:]}".encode("ascii")
        self._texts[task_id] = text
        self._bytes += len(text) + OVERHEAD_BYTES
        if not task.family:
            self.nameless.add(task_id)

    def _drop(self, task_id: str) -> None:
        text = self._texts.pop(task_id, None)
        if text is not None:
            self._bytes -= len(text) + OVERHEAD_BYTES
            self.nameless.discard(task_id)
        if task_id in self._state._tasks:
            self._absent.add(task_id)
        else:
            self._absent.discard(task_id)


def split(task_id: str, text: bytes) -> tuple[str, str]:
    """A task's display name, and the rest of its fragment after it: `"status":...}`."""
    fragment = text.decode("ascii")
    name, end = _decode(fragment, len(compact(task_id)) + len(_NAME))
    return name, fragment[end + len(",") :]
