"""What the SQLite store does on the event loop, and what on its thread."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from exercise import append, delete, entry, on_loop, opened, stakeholder, table
from sqlite_place import SqlitePlace

from luigi_spanner.journal import Row
from luigi_spanner.stores import Committed, Truncated, sqlite, sqlite_sql


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "luigi.db")


@pytest.mark.parametrize("prompt", [True, False])
@on_loop
async def test_quick_work_is_done_at_once_and_slow_work_on_the_thread(
    place: SqlitePlace, monkeypatch: pytest.MonkeyPatch, prompt: bool
) -> None:
    monkeypatch.setattr(sqlite, "PROMPT_SECONDS", 60.0 if prompt else -1.0)
    threads = set()
    append_entry = sqlite_sql.append

    def append(*args: Any) -> None:
        threads.add(threading.current_thread() is threading.main_thread())
        append_entry(*args)

    monkeypatch.setattr(sqlite_sql, "append", append)
    async with opened(place) as (store,):
        for seq in range(1, 10):
            assert isinstance(await store.commit(seq, entry(seq), []), Committed)
            assert await store.read_after(seq) == []
    assert threads == {prompt}


def threads_of(monkeypatch: pytest.MonkeyPatch, function: str) -> list[bool]:
    """For each call of `sqlite_sql`'s function, whether it ran on the event loop's thread."""
    calls: list[bool] = []
    original = getattr(sqlite_sql, function)

    def spy(*args: Any) -> Any:
        calls.append(threading.current_thread() is threading.main_thread())
        return original(*args)

    monkeypatch.setattr(sqlite_sql, function, spy)
    return calls


def rows_of(count: int, body: bytes = b"b") -> list[Row]:
    return [stakeholder("w", f"t{number}", body) for number in range(count)]


HALF = sqlite.PROMPT_BYTES // 2

SIZES: dict[str, tuple[bool, list[Row], dict[str, bytes]]] = {
    "the most rows": (True, rows_of(sqlite.PROMPT_ROWS), {}),
    "a row too many": (False, rows_of(sqlite.PROMPT_ROWS + 1), {}),
    "the most bytes": (True, rows_of(2, b"b" * (HALF // 2)), {"calls": b"", "changes": b"c" * HALF}),
    "a byte too many in the bodies": (False, rows_of(2, b"b" * HALF), {"calls": b"", "changes": b"c"}),
    "a byte too many in the entry": (False, [], {"calls": b"c" * HALF, "changes": b"c" * (HALF + 1)}),
}


@pytest.mark.parametrize("case", SIZES)
@on_loop
async def test_only_small_commits_are_done_on_the_event_loop(
    place: SqlitePlace, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(sqlite, "PROMPT_SECONDS", 60.0)
    prompt, rows, fields = SIZES[case]
    async with opened(place) as (store,):
        assert isinstance(store, sqlite.SqliteStore)
        threads = threads_of(monkeypatch, "append")
        before = store._duration
        assert isinstance(await store.commit(1, entry(1, **fields), rows), Committed)
        assert threads == [prompt]
        assert (store._duration != before) == prompt  # what is large says nothing of what is small


@pytest.mark.parametrize("excess", [0, 1])
@on_loop
async def test_a_row_that_deletes_many_is_not_small(place: SqlitePlace, monkeypatch: pytest.MonkeyPatch, excess: int) -> None:
    monkeypatch.setattr(sqlite, "PROMPT_SECONDS", 60.0)
    async with opened(place) as (store,):
        assert isinstance(store, sqlite.SqliteStore)
        await append(store, 1, *rows_of(sqlite.PROMPT_ROWS - 1 + excess), stakeholder("v", "t"), stakeholder("u", "t"))
        threads = threads_of(monkeypatch, "append")
        before = store._duration
        await append(store, 2, delete("stakeholders", "w"), delete("stakeholders", "v"), delete("stakeholders", "u", "t"))
        assert threads == [not excess]
        assert (store._duration == before) == bool(excess)
        assert await table(store, "stakeholders") == {}


@on_loop
async def test_only_the_head_is_read_on_the_event_loop(place: SqlitePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PROMPT_SECONDS", 60.0)
    async with opened(place, 2) as (store, other):
        assert await other.read_after(0) == []  # the thread opened its connection
        for seq in (1, 2):
            await append(store, seq)
        await store.truncate(1)
        heads, reads = threads_of(monkeypatch, "head"), threads_of(monkeypatch, "entries_after")
        assert await other.read_after(2) == []
        assert (heads, reads) == ([True], [])
        assert [found.seq for found in await other.read_after(1)] == [2]
        with pytest.raises(Truncated):
            await other.read_after(0)
        with pytest.raises(Truncated):
            await other.read_after(3)
        assert (heads, reads) == ([True] * 4, [False] * 3)


@on_loop
async def test_a_cancelled_waiter_leaves_the_connection_to_the_thread(
    place: SqlitePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "PROMPT_SECONDS", 60.0)
    inside, go_on = threading.Event(), threading.Event()
    append_entry, threads = sqlite_sql.append, []

    def append(*args: Any) -> None:
        inside.set()
        assert go_on.wait(10)
        append_entry(*args)

    async with opened(place) as (store,):
        assert isinstance(store, sqlite.SqliteStore)
        connect = store._connect

        def connect_noted() -> sqlite3.Connection:
            threads.append(threading.current_thread() is threading.main_thread())
            return connect()

        monkeypatch.setattr(sqlite_sql, "append", append)
        monkeypatch.setattr(store, "_connect", connect_noted)
        commit = asyncio.create_task(store.commit(1, entry(1), rows_of(sqlite.PROMPT_ROWS + 1)))
        try:
            await asyncio.to_thread(inside.wait, 10)
            commit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await commit
            read = asyncio.create_task(store.read_after(0))
            await asyncio.sleep(0)
            assert threads == [False]
        finally:
            go_on.set()
        assert [found.seq for found in await read] == [1]
        assert threads == [False, False]
        assert isinstance(await store.commit(2, entry(2), []), Committed)
        assert threads == [False, False, True]
