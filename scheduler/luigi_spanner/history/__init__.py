"""The history as people ask for it: runs of tasks, newest first.

A run is what becomes of a task from when it is scheduled until it is scheduled again. The table has what has happened; what it
lacks yet is in the memory of every replica (`graph.history`), so that a change shows as soon as its call is answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from luigi_spanner.journal import Key, decode

READ_SECONDS = 10.0
"""How long a page waits for the database: as long as Luigi's own client does."""

SEARCHED = 5_000
"""How many of a family's runs are looked through for parameters: about a second's work, and a page says where it stopped."""

EXPIRED_AT_ONCE = 1_000
"""Most rows that one look deletes; a commit may wait for it, for about 10 ms."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A task took a status. Times are seconds since the epoch, `duration` is in seconds, for the end of a run.

    `id` grows with time and is unique in the namespace; `run` is that of the change that began the run. `attempt` counts how
    often the task has been handed out. `params` are those that are neither hidden nor private, None where they were too long;
    `error` is the end of the explanation of a failure.
    """

    id: int
    task_id: str
    family: str
    status: str
    happened_at: float
    run: int
    attempt: int
    worker: str | None = None
    host: str | None = None
    duration: float | None = None
    params: Mapping[str, Any] | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which runs: all, or those of a task or of a family, whose last change is before the change `before`. At most `limit`."""

    task_id: str | None = None
    family: str | None = None
    before: int | None = None
    limit: int = 100

    def fits(self, change: Change) -> bool:
        """Whether the change is one of them, whatever `before` says."""
        return self.task_id in (None, change.task_id) and self.family in (None, change.family)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Runs by their last change, newest first. `next`: what `before` has to be for the next page; None: this is the last."""

    changes: tuple[Change, ...]
    next: int | None


class Source(Protocol):
    """The table, read and tidied. Its methods may block, and run in a thread. `expires`: somebody has to delete what is old."""

    expires: bool

    def latest(self, wanted: Wanted) -> list[Change]:
        """The last change of each run, newest first."""
        ...

    def changes(self, task_id: str, run: int) -> list[Change]:
        """All changes of a run, in order."""
        ...

    def change(self, number: int) -> Change | None:
        """The change of that id."""
        ...

    def families(self) -> list[str]:
        """Every family that has runs, sorted."""
        ...

    def bodies(self, first: int, last: int) -> dict[int, bytes]:
        """The rows with ids from `first` to `last`, both included, as they were written."""
        ...

    def expire(self, before: float, limit: int) -> int:
        """Look at the oldest `limit` rows, and delete what happened before that time; how many were deleted."""
        ...

    def close(self) -> None:
        """Release the connections."""
        ...


def change_of(number: int, row: Row) -> Change:
    """The change that a row of the journal or of the table says."""
    known = {name: row.get(name) for name in ("worker", "host", "duration", "params", "error")}
    return Change(
        id=number,
        task_id=row["task_id"],
        family=row["family"],
        status=row["status"],
        happened_at=row["happened_at"],
        run=row["run"],
        attempt=row["attempt"],
        **known,
    )


def change_in(number: int, body: bytes) -> Change:
    """The change that the body of a row says."""
    return change_of(number, decode(body))


class History:
    """The table together with what it lacks. `waiting` has that by key, in order; `follow()` returns once memory is as new as the
    journal. Raises what `follow` raises, TimeoutError."""

    def __init__(self, source: Source, waiting: Mapping[Key, Row], follow: Callable[[], Awaitable[object]]) -> None:
        self._source = source
        self._waiting = waiting
        self._follow = follow

    async def latest(self, wanted: Wanted, since: float | None = None) -> Page:
        """A page of runs; with `since`, of those only that have changed after that time."""
        waiting = await self._look()
        newest = {change.run: change for change in waiting}
        # Runs that go on in memory are left out of what the table gives.
        more = Wanted(
            task_id=wanted.task_id,
            family=wanted.family,
            before=wanted.before,
            limit=wanted.limit + min(len(newest), wanted.limit) + 1,
        )
        read = await self._read(lambda: self._source.latest(more))
        here = [change for change in newest.values() if wanted.fits(change) and _is_before(change, wanted.before)]
        merged = sorted([*here, *(change for change in read if change.run not in newest)], key=lambda change: -change.id)
        shown = merged[: wanted.limit]
        following = shown[-1].id if len(merged) > len(shown) else None
        # Ids are in order of time. A database that looked for times would look at every row.
        young = tuple(change for change in shown if since is None or change.happened_at >= since)
        return Page(changes=young, next=following if len(young) == len(shown) else None)

    async def run(self, number: int) -> list[Change]:
        """All changes of the run that the change of that id belongs to, in order; none if there is no such change."""
        waiting = await self._look()
        found = next((change for change in waiting if change.id == number), None)
        found = found or await self._read(lambda: self._source.change(number))
        if found is None:
            return []
        read = await self._read(lambda: self._source.changes(found.task_id, found.run))
        merged = {change.id: change for change in (*read, *waiting) if change.run == found.run}
        return [merged[number] for number in sorted(merged)]

    async def by_params(self, family: str, params: Mapping[str, Any], wanted: Wanted) -> tuple[Page, bool]:
        """Runs of a family with these parameters, and whether all its runs have been looked through."""
        found: list[Change] = []
        before, seen = wanted.before, 0
        while len(found) <= wanted.limit:
            page = await self.latest(Wanted(family=family, before=before, limit=1000))
            found.extend(change for change in page.changes if _has(change, params))
            seen, before = seen + len(page.changes), page.next
            if before is None or seen >= SEARCHED:
                break
        shown = tuple(found[: wanted.limit])
        following = shown[-1].id if len(found) > len(shown) else before
        return Page(changes=shown, next=following), before is None

    async def families(self) -> list[str]:
        """Every family that has runs, sorted."""
        waiting = await self._look()
        read = await self._read(self._source.families)
        return sorted({*read, *(change.family for change in waiting)})

    async def _look(self) -> list[Change]:
        """What the table may lack. Looked at before the table is read: what is written meanwhile is in both."""
        await self._follow()
        return [change_of(int(key[0]), row) for key, row in self._waiting.items()]

    async def _read(self, read: Callable[[], Any]) -> Any:
        return await asyncio.wait_for(asyncio.to_thread(read), READ_SECONDS)


def _is_before(change: Change, before: int | None) -> bool:
    return before is None or change.id < before


def _has(change: Change, params: Mapping[str, Any]) -> bool:
    """Whether the run has these parameters. Luigi's are texts; what else a caller asks for is compared as one."""
    has = change.params or {}
    return all(name in has and _text(has[name]) == _text(value) for name, value in params.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
