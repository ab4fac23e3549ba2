"""The history as people ask for it: runs of tasks, newest first.

A run is what becomes of a task from when it is scheduled until it is scheduled again. The table has what has happened; what it
lacks yet is in the memory of every replica (`graph.history`), so that a change shows as soon as its call is answered.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from luigi_spanner.journal import Key, decode
from luigi_spanner.stores import Unavailable

T = TypeVar("T")

READ_SECONDS = 10.0
"""How long a page waits for the database: as long as Luigi's own client does."""

SEARCHED = 5_000
"""How many of a family's runs are looked through for parameters: about a second's work, and a page says where it stopped."""

LOOKED_AT_ONCE = 1_000
"""How many of them at a time."""

READERS = 2
MOST_READING = 16
"""How many threads read, and how many questions may be under way at once; a page beyond that is told to come again."""

EXPIRED_AT_ONCE = 1_000
"""Most rows that one look deletes; a commit may wait for it, for about 10 ms."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A task took a status. Times are seconds since the epoch, `duration` is in seconds, for the end of a run.

    `id` grows with time and is unique in the namespace; `run` is that of the change that began the run. `attempt` counts how
    often the task has been handed out. `params` are those that are neither hidden nor private, of the change that began the run,
    None where there are none or they were too long; `error` is the end of the explanation of a failure.
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

    def fits(self, row: Row) -> bool:
        """Whether the row is of one of them, whatever `before` says."""
        return self.task_id in (None, row["task_id"]) and self.family in (None, row["family"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Runs by their last change, newest first. `next`: what `before` has to be for the next page; None: this is the last."""

    changes: tuple[Change, ...]
    next: int | None


class Source(Protocol):
    """The table, read and tidied. Its methods may block, and run in a thread. `expires`: somebody has to delete what is old."""

    expires: bool
    reading: Reading

    def latest(self, wanted: Wanted) -> list[Change]:
        """The last change of each run, newest first."""
        ...

    def changes(self, task_id: str, run: int) -> list[Change]:
        """All changes of a run, in order."""
        ...

    def change(self, number: int) -> Change | None:
        """The change of that id."""
        ...

    def some(self, numbers: Sequence[int]) -> dict[int, Change]:
        """The changes of these ids, as far as there are any."""
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
    journal, `now()` is the rules' time. Raises what `follow` raises, TimeoutError, Unavailable."""

    def __init__(
        self,
        source: Source,
        waiting: Mapping[Key, Row],
        follow: Callable[[], Awaitable[object]],
        now: Callable[[], float],
    ) -> None:
        self._source = source
        self._waiting = waiting
        self._follow = follow
        self.now = now

    async def latest(self, wanted: Wanted, since: float | None = None) -> Page:
        """A page of runs; with `since`, of those only that have changed after that time."""
        await self._follow()
        runs, here = self._newest(wanted)
        # Runs that go on in memory are left out of what the table gives.
        more = replace(wanted, limit=wanted.limit + min(len(runs), wanted.limit) + 1)
        read = await self._read(lambda: self._source.latest(more))
        merged = sorted([*here, *(change for change in read if change.run not in runs)], key=lambda change: -change.id)
        shown = merged[: wanted.limit]
        following = shown[-1].id if len(merged) > len(shown) else read[-1].id if len(read) == more.limit else None
        # Ids are in order of time. A database that looked for times would look at every row.
        young = [change for change in shown if since is None or change.happened_at >= since]
        return Page(changes=await self._with_params(young), next=following if len(young) == len(shown) else None)

    async def run(self, number: int) -> list[Change]:
        """All changes of the run that the change of that id belongs to, in order; none if there is no such change."""
        await self._follow()
        row = self._waiting.get((number,))
        waiting = None if row is None else change_of(number, row)
        found = waiting or await self._read(lambda: self._source.change(number))
        if found is None:
            return []
        here = [change_of(int(key[0]), row) for key, row in self._waiting.items() if row["run"] == found.run]
        read = await self._read(lambda: self._source.changes(found.task_id, found.run))
        merged = {change.id: change for change in (*read, *here)}
        return [merged[number] for number in sorted(merged)]

    async def by_params(self, family: str, params: Mapping[str, Any], wanted: Wanted) -> tuple[Page, bool]:
        """Runs of a family with these parameters, and whether all its runs have been looked through."""
        found: list[Change] = []
        before, seen = wanted.before, 0
        while len(found) <= wanted.limit:
            page = await self.latest(Wanted(family=family, before=before, limit=LOOKED_AT_ONCE))
            found.extend(change for change in page.changes if _has(change, params))
            seen, before = seen + LOOKED_AT_ONCE, page.next
            if before is None or seen >= SEARCHED:
                break
        shown = tuple(found[: wanted.limit])
        following = shown[-1].id if len(found) > len(shown) else before
        return Page(changes=shown, next=following), before is None

    async def families(self) -> list[str]:
        """Every family that has runs, sorted."""
        await self._follow()
        waiting = {row["family"] for row in self._waiting.values()}
        read = await self._read(self._source.families)
        return sorted({*read, *waiting})

    def _newest(self, wanted: Wanted) -> tuple[set[int], list[Change]]:
        """The runs that go on in memory, and the last changes of those of them that are wanted. Taken before the table is read:
        what is written meanwhile is in both."""
        runs: set[int] = set()
        here: list[Change] = []
        for key, row in reversed(list(self._waiting.items())):
            if row["run"] not in runs:
                runs.add(row["run"])
                number = int(key[0])
                if len(here) <= wanted.limit and wanted.fits(row) and (wanted.before is None or number < wanted.before):
                    here.append(change_of(number, row))
        return runs, here

    async def _with_params(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """The changes with the parameters of their runs, which the first change of a run has."""
        missing = {change.run for change in changes if change.run != change.id}
        found = {number: change_of(number, row) for number in missing if (row := self._waiting.get((number,))) is not None}
        rest = sorted(missing - found.keys())
        if rest:
            found.update(await self._read(lambda: self._source.some(rest)))
        return tuple(replace(change, params=found[change.run].params) if change.run in found else change for change in changes)

    async def _read(self, read: Callable[[], T]) -> T:
        return await asyncio.wait_for(self._source.reading(read), READ_SECONDS)


class Reading:
    """Threads of their own for whatever asks the table: no call of a worker waits for them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="history")
        self._under_way = 0

    async def __call__(self, read: Callable[[], T]) -> T:
        """What `read()` gives. Raises Unavailable where too many ask at once."""
        if self._under_way >= MOST_READING:
            raise Unavailable("too many ask for the history at once")
        self._under_way += 1
        asked = asyncio.get_running_loop().run_in_executor(self._pool, read)
        asked.add_done_callback(self._done)
        return await asyncio.shield(asked)

    def _done(self, asked: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        if not asked.cancelled():
            asked.exception()  # nobody may be waiting for it any more

    def close(self) -> None:
        """Wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _has(change: Change, params: Mapping[str, Any]) -> bool:
    """Whether the run has these parameters. Luigi's are texts; what else a caller asks for is compared as one."""
    has = change.params or {}
    return all(name in has and _text(has[name]) == _text(value) for name, value in params.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
