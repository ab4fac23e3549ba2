"""The SQLite store: the exercise, and what only a file has to suffer."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from exercise import NAMESPACE, Exercise, append, entry, journal, on_loop, opened, stakeholder, table, task
from sqlite_place import DEADLINE, SqlitePlace

from luigi_spanner import migrate
from luigi_spanner.stores import (
    Committed,
    InvalidStore,
    SchemaMismatch,
    Unavailable,
    Unknown,
    sqlite,
    sqlite_faults,
    sqlite_file,
)

CONTENDERS = 3

NOBODY = 65534
"""User id of nobody, who owns no file."""


@pytest.fixture
def place(tmp_path: Path) -> SqlitePlace:
    return SqlitePlace(tmp_path / "luigi.db")


class TestSqlite(Exercise):
    @pytest.fixture
    def place(self, tmp_path: Path) -> SqlitePlace:
        return SqlitePlace(tmp_path / "luigi.db")


@pytest.mark.slow
def test_processes_contend_for_one_file(place: SqlitePlace) -> None:
    script = Path(__file__).with_name("contend.py")
    command = [sys.executable, "-W", "error", str(script), str(place.path)]
    writers = [subprocess.Popen([*command, f"p{number}"], stdout=subprocess.PIPE, text=True) for number in range(CONTENDERS)]
    outputs = [writer.communicate(timeout=60)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * CONTENDERS
    mine = [line for output in outputs for line in output.split()]

    async def check() -> None:
        async with opened(place) as (store,):
            entries = await journal(store)
            assert [found.seq for found in entries] == list(range(1, len(mine) + 1))
            assert sorted(found.commit_id for found in entries) == sorted(mine)
            assert set(await table(store)) == {(commit_id,) for commit_id in mine}

    asyncio.run(check())


@on_loop
async def test_a_killed_writer_leaves_no_lock_and_no_half(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        script = (
            "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
            " c.execute(\"INSERT INTO journal (namespace, seq) VALUES ('exercise', 1)\"); os.kill(os.getpid(), 9)"
        )
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(place.path)], check=False)
        await append(store, 1)
        assert [found.commit_id for found in await journal(store)] == ["id1"]


@on_loop
async def test_a_lock_that_stays_ends_in_unknown_and_reads_go_on(place: SqlitePlace) -> None:
    store = await place.open(deadline=DEADLINE)
    await store.load()
    with place.locked():
        commit = asyncio.create_task(store.commit(1, entry(1), []))
        ticks = 0
        while not commit.done():  # the event loop is not held up meanwhile
            ticks += 1
            await asyncio.sleep(0.01)
        assert isinstance(commit.result(), Unknown)
        assert ticks > 5
        assert await store.read_after(0) == []
        with pytest.raises(Unavailable):
            await store.truncate(0)
    assert isinstance(await store.commit(1, entry(1), []), Committed)
    await store.close()


@on_loop
async def test_a_lock_that_passes_is_waited_for(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        with place.locked():
            commit = asyncio.create_task(store.commit(1, entry(1), []))
            await asyncio.sleep(0.2)
            assert not commit.done()
        assert isinstance(await commit, Committed)


@on_loop
async def test_the_log_has_its_full_size_from_the_start(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        assert os.path.getsize(f"{place.path}-wal") >= sqlite_file.WAL_BYTES
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        assert os.path.getsize(f"{place.path}-wal") < 2 * sqlite_file.WAL_BYTES
    assert not has_filler(place)


def has_filler(place: SqlitePlace) -> bool:
    with place.connect() as connection:
        return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'filler'").fetchall())


def leave_filler(place: SqlitePlace) -> None:
    """As a process that was killed while it filled the log."""
    with place.connect() as connection:
        connection.execute("CREATE TABLE filler (bytes BLOB)")


@pytest.mark.parametrize("full", [False, True])
@on_loop
async def test_filler_that_was_left_behind_is_dropped(place: SqlitePlace, full: bool) -> None:
    async with opened(place) as (store,):
        if not full:
            await store.close()
        leave_filler(place)
        assert (os.path.exists(f"{place.path}-wal") and os.path.getsize(f"{place.path}-wal") >= sqlite_file.WAL_BYTES) == full
        store = await place.open()
        await store.load()
        await store.close()
    assert not has_filler(place)


class LockedAtInsert(sqlite3.Connection):
    """Another process is faster than the second statement."""

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement.startswith("INSERT"):
            raise sqlite3.OperationalError("database is locked")
        return super().execute(statement, *values)


@on_loop
async def test_who_asks_is_told_of_each_retry(place: SqlitePlace) -> None:
    told: list[str] = []
    store = await sqlite.open(str(place.path), NAMESPACE, deadline=DEADLINE, retried=told.append)
    await store.load()
    assert told == []
    with place.locked():
        assert isinstance(await store.commit(1, entry(1), []), Unknown)
    assert set(told) == {"locked"}
    await store.close()


@on_loop
async def test_a_lock_while_the_log_is_filled_leaves_nothing_behind(place: SqlitePlace) -> None:
    await create(place)
    with closing(sqlite3.connect(place.path, isolation_level=None, factory=LockedAtInsert)) as connection:
        connection.execute("SELECT count(*) FROM journal").fetchone()  # opens the log
        sqlite_file.grow_wal(str(place.path), connection)
    assert not has_filler(place)


@on_loop
async def test_filler_stays_while_another_process_holds_the_lock(place: SqlitePlace) -> None:
    await create(place)
    leave_filler(place)
    with place.locked(), closing(sqlite3.connect(place.path, isolation_level=None, timeout=0)) as connection:
        sqlite_file.grow_wal(str(place.path), connection)
    assert has_filler(place)
    await create(place)
    assert not has_filler(place)


@on_loop
async def test_closing_does_not_wait_for_another_processs_lock(place: SqlitePlace) -> None:
    store = await place.open(deadline=60)
    await store.load()
    with place.locked():
        commit = asyncio.create_task(store.commit(1, entry(1), []))
        await asyncio.sleep(0.01)
        await asyncio.wait_for(store.close(), 5)
        assert isinstance(await commit, Unknown)


@on_loop
async def test_another_number_than_the_entrys_is_a_bug(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        with pytest.raises(ValueError, match="entry 1"):
            await store.commit(2, entry(1), [])


@on_loop
async def test_typed_columns_are_written_whole(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        await append(store, 1, task("t", status="PENDING", priority=2**70, failures=3, runnable=True))
        await append(store, 2, task("t", status="DONE", priority=1))
        with place.connect() as connection:
            query = "SELECT status, priority, failures, runnable, body FROM tasks"
            assert connection.execute(query).fetchall() == [("DONE", 1.0, None, None, b"body")]
            linked = connection.execute("SELECT seq, next FROM journal ORDER BY seq").fetchall()
            assert linked == [(0, "id1"), (1, "id2"), (2, None)]
            assert connection.execute(
                "SELECT count(*) FROM journal WHERE committed_at > datetime('now', '-1 hour')"
            ).fetchone() == (3,)


@on_loop
async def test_truncation_takes_the_parts_along(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        await append(store, 1, changes=b"c" * (17 * 1024 * 1024))
        await append(store, 2)
        with place.connect() as connection:
            assert connection.execute("SELECT part FROM journal_parts ORDER BY part").fetchall() == [(1,), (2,)]
            await store.truncate(2)
            assert connection.execute("SELECT count(*) FROM journal_parts").fetchone() == (0,)


@on_loop
async def test_a_foreign_schema_stops_every_call(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        with place.connect() as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            await append(store, 1)  # newer, but it says that this release may go on
            connection.execute("UPDATE compatibility SET min_compatible = 2")
        for call in (store.load, lambda: store.read_after(0), lambda: store.truncate(0)):
            with pytest.raises(SchemaMismatch, match="upgrade luigi-spanner"):
                await call()
        assert isinstance(await store.commit(2, entry(2), []), Unknown)
        with pytest.raises(SchemaMismatch, match="upgrade luigi-spanner"):
            await place.open()


@on_loop
async def test_dropped_tables_are_a_mismatch(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        migrate.downgrade(f"sqlite:///{place.path}", "base")
        with pytest.raises(SchemaMismatch, match="luigi-spanner db upgrade --store sqlite:///"):
            await store.read_after(0)


@on_loop
async def test_a_journal_emptied_by_hand_is_told(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        for seq in (1, 2, 3):
            await append(store, seq, watermark=0)
        with place.connect() as connection:
            connection.execute("DELETE FROM journal WHERE seq = 2")
            with pytest.raises(InvalidStore, match="gaps after entry 0"):
                await store.load()
            connection.execute("DELETE FROM journal")
            with pytest.raises(InvalidStore, match="is empty"):
                await store.load()


def test_a_commit_reaches_the_medium(place: SqlitePlace) -> None:
    with closing(sqlite_file.connect(str(place.path))) as connection:
        pragmas = ("synchronous", "fullfsync", "checkpoint_fullfsync")
        assert [connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas] == [2, 1, 1]


def check_invalid(path: Path, sentence: str) -> None:
    with pytest.raises(InvalidStore, match=sentence) as caught:
        asyncio.run(sqlite.open(str(path), NAMESPACE))
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_no_such_directory(tmp_path: Path) -> None:
    check_invalid(tmp_path / "none" / "luigi.db", "there is no directory .*none")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    check_invalid(tmp_path, "it is a directory")


def test_another_files_content(tmp_path: Path) -> None:
    path = tmp_path / "luigi.db"
    path.write_bytes(b"not a database, but long enough to have a header\n" * 100)
    check_invalid(path, "no SQLite database or is damaged")
    with pytest.raises(InvalidStore, match="no SQLite database"):
        migrate.current(f"sqlite:///{path}")
    with pytest.raises(InvalidStore, match="no SQLite database"):
        migrate.upgrade(f"sqlite:///{path}")


@on_loop
async def test_a_file_damaged_inside(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        await append(store, 1, *(stakeholder(f"w{number}", "t", b"b" * 500) for number in range(1000)))
    content = bytearray(place.path.read_bytes())
    for page in range(40 * 4096, len(content), 4096):
        content[page : page + 100] = b"\xff" * 100
    place.path.write_bytes(content)
    store = await place.open()
    with pytest.raises(InvalidStore, match="is damaged"):
        await store.load()
    await store.close()


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write what is read-only, so the test is someone else meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_file_that_cannot_be_written() -> None:
    with TemporaryDirectory() as directory:
        place = SqlitePlace(Path(directory) / "luigi.db")
        asyncio.run(create(place))
        place.path.chmod(0o444)
        place.path.parent.chmod(0o555)
        with unprivileged():
            check_invalid(place.path, "Cannot use the SQLite file .*: it is read-only for user nobody; give that user")
        place.path.parent.chmod(0o755)


@on_loop
async def test_a_disk_without_room_ends_in_unknown_and_heals(place: SqlitePlace) -> None:
    store = await place.open(deadline=DEADLINE)
    await store.load()
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, usual[1]))
    try:
        outcome = await store.commit(1, entry(1, changes=b"c" * (4 * 1024 * 1024)), [task("t")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert isinstance(outcome, Unknown)
    assert await journal(store) == []
    assert await table(store) == {}
    await append(store, 1, changes=b"c" * (4 * 1024 * 1024))
    await store.close()


async def create(place: SqlitePlace) -> None:
    async with opened(place) as (store,):
        await store.load()


@on_loop
async def test_damage_that_only_commits_meet_ends_the_wait_for_them(place: SqlitePlace) -> None:
    """Otherwise a replica would try for ever, and say nothing."""
    async with opened(place) as (store,):
        await append(store, 1, *(stakeholder(f"w{number}", "t", b"b" * 500) for number in range(1000)))
    content = bytearray(place.path.read_bytes())
    for page in range(40 * 4096, len(content), 4096):
        content[page : page + 100] = b"\xff" * 100
    place.path.write_bytes(content)
    store = await place.open()
    assert await store.read_after(1) == []
    outcome = await store.commit(2, entry(2), [stakeholder(f"w{number}", "t", b"c") for number in range(1000)])
    assert isinstance(outcome, Unknown) and "is damaged" in outcome.reason
    with pytest.raises(InvalidStore, match="is damaged"):
        await store.read_after(1)
    await store.close()


@pytest.mark.parametrize("replaced", [False, True])
@on_loop
async def test_a_file_that_is_taken_away_is_told(place: SqlitePlace, replaced: bool) -> None:
    """SQLite goes on with the file that it has open, which nobody else will ever see."""
    store = await place.open()
    await store.load()
    place.path.rename(place.path.with_name("away.db"))
    if replaced:
        await create(place)
    assert isinstance(await store.commit(1, entry(1), []), Unknown)
    with pytest.raises(InvalidStore, match="removed or replaced while it was in use"):
        await store.read_after(0)
    await store.close()
    if replaced:
        async with opened(place) as (other,):
            assert await journal(other) == []


@on_loop
async def test_why_a_commit_waits_is_logged(place: SqlitePlace, caplog: pytest.LogCaptureFixture) -> None:
    store = await place.open(deadline=DEADLINE)
    await store.load()
    with place.locked(), caplog.at_level(logging.DEBUG):
        await store.commit(1, entry(1), [])
    assert f"Entry 1 could not be written: Another process keeps the SQLite file {place.path} locked" in caplog.text
    await store.close()


@on_loop
async def test_what_only_reads_writes_nothing(place: SqlitePlace) -> None:
    await create(place)
    before = place.path.read_bytes()
    store = await sqlite.open(str(place.path), NAMESPACE, prepare=False)
    await store.load()
    await store.close()
    assert place.path.read_bytes() == before


@pytest.mark.parametrize(("code", "text"), sqlite_faults._PASSING.items())
def test_errors_are_told_apart_without_codes(code: int, text: str) -> None:
    """Python 3.10's exceptions have none."""
    for error in (sqlite3.OperationalError(text), with_code(sqlite3.OperationalError("x"), 256 * 3 + code)):
        assert sqlite_faults.may_pass(error)
        assert sqlite_faults.is_locked(error) == (code in (5, 6))
    for error in (sqlite3.OperationalError("no such table: x"), with_code(sqlite3.OperationalError(text), 1)):
        assert not sqlite_faults.may_pass(error)


def with_code(error: sqlite3.Error, code: int) -> sqlite3.Error:
    error.sqlite_errorcode = code
    return error
