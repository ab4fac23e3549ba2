"""The history on each store: what is written down, what is read, and that it is there as soon as a call is answered."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import math
import sqlite3
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from luigi import scheduler as luigi_scheduler
from luigi.task_history import NopHistory

from luigi_spanner import chores
from luigi_spanner.calls import Call
from luigi_spanner.graph import ledger
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.history import ERROR_CHARACTERS, ROW_CHARACTERS
from luigi_spanner.history import MOST_READING, Change, History, Reading, Wanted
from luigi_spanner.history.places import source_of
from luigi_spanner.journal import decode
from luigi_spanner.service import Service
from luigi_spanner.stores import Unavailable
from luigi_spanner.stores.memory import MemoryStore
from luigi_spanner.verify import verify

DAY = 86_400.0

_numbers = itertools.count()


@pytest.fixture(params=["memory", "sqlite", pytest.param("spanner", marks=pytest.mark.emulator)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind."""
    if request.param == "spanner":
        given: str = request.getfixturevalue("spanner_url")
        return given
    return f"memory://history-{next(_numbers)}" if request.param == "memory" else f"sqlite:///{tmp_path}/luigi.db"


@pytest.fixture(autouse=True)
def _recording(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"record_task_history": True, "stable_done_cooldown_secs": 0, "retry_delay": 0.0, "retry_count": 2}
    monkeypatch.setattr(luigi_scheduler, "scheduler", functools.partial(luigi_scheduler.scheduler, **rules))


@asynccontextmanager
async def serving(url: str, **options: Any) -> AsyncIterator[Service]:
    service = await Service.open(url, "default", **options)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def ask(service: Service, method: str, **arguments: Any) -> Any:
    return json.loads(await service.call(Call(request_id=f"r{next(_numbers)}", method=method, arguments=arguments)))


def history_of(service: Service) -> History:
    assert service.history is not None
    return service.history


async def latest(service: Service, **wanted: Any) -> tuple[Change, ...]:
    return (await history_of(service).latest(Wanted(**wanted))).changes


async def add(service: Service, task: str, **more: Any) -> None:
    await ask(service, "add_task", worker="w", task_id=task, family=more.pop("family", "F"), **more)


async def flushed(service: Service) -> None:
    """The tables have everything."""
    while service._graph._state.history or service._graph.ledger.pending:
        await asyncio.sleep(0.005)


def test_a_run_from_its_beginning_to_its_end(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            await ask(service, "add_worker", worker="w", info=[["host", "elsewhere"]])
            visibilities = {"hidden": 1, "private": 2, "day": 0}
            params = {"day": "2026-01-01", "hidden": "h1", "private": "p1"}
            await add(service, "t", params=params, param_visibilities=visibilities)
            work = await ask(service, "get_work", worker="w", host="machine")
            assert work["task_id"] == "t"
            await add(service, "t", status="DONE")
            for _ in range(2):  # out of memory, then out of the table
                (change,) = await latest(service)
                changes = await history_of(service).run(change.id)
                assert [(found.status, found.attempt, found.worker) for found in changes] == [
                    ("PENDING", 0, "w"),
                    ("RUNNING", 1, "w"),
                    ("DONE", 1, "w"),
                ]
                assert [found.host for found in changes] == ["elsewhere", "machine", "machine"]
                assert changes[0].params == change.params == {"day": "2026-01-01"}, "neither hidden nor private ones"
                assert changes[2].duration is not None and 0 <= changes[2].duration < 60
                assert changes[0].happened_at <= changes[1].happened_at <= changes[2].happened_at
                await flushed(service)

    run(scenario())


def test_failures_and_what_is_disabled(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            for _ in range(2):
                await add(service, "t")
                assert (await ask(service, "get_work", worker="w", host="h"))["task_id"] == "t"
                await add(service, "t", status="FAILED", expl=json.dumps("x" * 3000 + "ZeroDivisionError: division by zero"))
                await ask(service, "prune")
            second, first = await latest(service, task_id="t")
            assert (first.status, first.attempt) == ("FAILED", 1)
            assert (second.status, second.attempt) == ("DISABLED", 2)
            assert second.error == first.error
            assert first.error is not None and first.error.endswith("ZeroDivisionError: division by zero")
            assert len(first.error) == ERROR_CHARACTERS
            await ask(service, "re_enable_task", task_id="t")
            third = (await latest(service, task_id="t"))[0]
            assert (third.status, third.run) == ("FAILED", second.run), "the run goes on until the task is scheduled again"

    run(scenario())


def test_a_dead_workers_task_fails_in_the_history_too() -> None:
    async def scenario() -> None:
        clock = [1000.0]
        store = MemoryStore(namespace="default")
        source = source_of("memory://", "default", store)
        service = Service(store, "default", ids=lambda: f"i{next(_numbers)}", clock=lambda: clock[0], source=source)
        await service.start()
        await add(service, "t")
        await ask(service, "get_work", worker="w", host="h")
        await add(service, "t", status="FAILED", expl='"an earlier failure"')
        clock[0] += 1
        await ask(service, "prune")
        await ask(service, "get_work", worker="w", host="h")
        clock[0] += 1000
        await ask(service, "add_worker", worker="other", info=[])
        await ask(service, "prune")
        change = next(change for change in await latest(service) if change.error != "an earlier failure" and change.error)
        assert (change.status, change.worker, change.duration) == ("DISABLED", "w", 1000.0)
        assert change.error == "Worker w was lost", "and not what was wrong with the attempt before"
        await service.stop()

    run(scenario())


def test_another_replica_shows_it_at_once_and_a_new_one_after_a_restart(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service, serving(url) as other:
            await add(service, "t")
            assert [change.task_id for change in await latest(other)] == ["t"]
            await add(service, "t", status="DONE")
            assert [change.status for change in await latest(other)] == ["DONE"]
        async with serving(url) as service:
            assert [change.status for change in await latest(service)] == ["DONE"]

    run(scenario())


def test_pages(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            for number in range(25):
                await add(service, f"t{number:02d}", family="FG"[number % 2], params={"number": str(number)})
                if number == 12:
                    await flushed(service)
                    # What the table has as pending is done in memory, and must show once.
                    await add(service, "t05", status="DONE")
            expected = ["t24", *(f"t{number:02d}" for number in range(23, 12, -1)), "t05"]
            expected += [f"t{number:02d}" for number in range(12, -1, -1) if number != 5]
            before, seen = None, []
            while True:
                page = await history_of(service).latest(Wanted(limit=7, before=before))
                assert len(page.changes) <= 7
                seen += [change.task_id for change in page.changes]
                before = page.next
                if before is None:
                    break
            assert seen == expected
            assert await history_of(service).families() == ["F", "G"]
            assert {change.family for change in await latest(service, family="G")} == {"G"}
            assert len(await latest(service, family="G")) == 12
            found, whole = await history_of(service).by_params("F", {"number": 4}, Wanted())
            assert [change.task_id for change in found.changes] == ["t04"] and whole

    run(scenario())


def test_what_was_before_a_time_is_left_out(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            await add(service, "t")
            (change,) = await latest(service)
            await add(service, "u")
            page = await history_of(service).latest(Wanted(limit=1), change.happened_at)
            assert [found.task_id for found in page.changes] == ["u"] and page.next is not None
            page = await history_of(service).latest(Wanted(), change.happened_at + 1000)
            assert (page.changes, page.next) == ((), None)

    run(scenario())


def test_the_caller_of_a_prune_has_nothing_to_do_with_what_it_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    with_prunes = functools.partial(luigi_scheduler.scheduler, prune_on_get_work=True)
    monkeypatch.setattr(luigi_scheduler, "scheduler", with_prunes)

    async def scenario() -> None:
        async with serving("memory://") as service:
            await add(service, "t")
            await ask(service, "get_work", worker="w", host="h")
            await add(service, "t", status="FAILED", expl='"broken"')
            await ask(service, "get_work", worker="other", host="o")
            change, _ = await latest(service)
            assert (change.status, change.worker, change.error) == ("PENDING", None, None)

    run(scenario())


def test_a_prune_of_very_many_tasks_is_cut_until_an_entry_holds_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "COMMIT_BYTES", 100_000)
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.01)

    async def scenario() -> None:
        async with serving("memory://") as service:
            for number in range(40):
                task = f"t{number}"
                await add(service, task, params={"text": "x" * (ROW_CHARACTERS - 500)})
                await ask(service, "get_work", worker="w", host="h")
                await add(service, task, status="FAILED", expl='"broken"')
            state = service._graph._state
            state.settings.clear()  # a prune is due
            while state.count("FAILED"):
                await asyncio.sleep(0.01)
            assert "A chore failed" in caplog.text, "it was too much at first"

    run(scenario())


def test_rows_that_another_replica_has_recorded_expire_too(monkeypatch: pytest.MonkeyPatch) -> None:
    history = Graph(luigi_scheduler.scheduler(), {}, NopHistory())._state.history
    history.keep = DAY
    assert not history.records
    assert history.expiry({"happened_at": 0.0}) == "1970-01-02T00:00:00.000000Z"


def test_questions_about_the_history_have_threads_of_their_own() -> None:
    async def scenario() -> None:
        reading = Reading()
        gate = threading.Event()
        asked = [asyncio.ensure_future(reading(gate.wait)) for _ in range(MOST_READING)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable):
            await reading(gate.wait)
        assert await asyncio.to_thread(lambda: True), "whatever else needs a thread has one"
        gate.set()
        assert await asyncio.gather(*asked) == [True] * MOST_READING
        assert await reading(gate.wait)
        reading.close()

    run(scenario())


def test_there_is_no_such_run(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            assert await history_of(service).run(4711) == []
            assert await latest(service, task_id="t") == ()

    run(scenario())


def test_long_parameters_are_left_out(url: str) -> None:
    async def scenario() -> None:
        async with serving(url) as service:
            await add(service, "long", params={"text": "x" * ROW_CHARACTERS}, family="F" * 1000)
            await add(service, "strange", params={"text": "\ud800\0"})
            for _ in range(2):
                strange, long = await latest(service)
                assert long.params is None and long.family == "F" * 256
                assert strange.params == {"text": "\ud800\0"}
                await flushed(service)

    run(scenario())


@pytest.mark.parametrize("keep", [DAY, math.inf])
def test_old_rows_are_deleted(tmp_path: Path, keep: float) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"

    async def scenario() -> None:
        async with serving(url, history_keep=keep) as service:
            for number in range(3):
                await add(service, f"t{number}")
            await flushed(service)
            source = service._source
            assert source is not None
            now = service._graph.now()
            assert source.expire(now - 60, 10) == 0
            if keep == math.inf:
                await service._chores.expire(source)
                assert len(await latest(service)) == 3
                return
            assert source.expire(now + 1, 2) == 2
            assert [change.task_id for change in await latest(service)] == ["t2"]
            service._graph.clock = lambda: now + DAY + 60
            await service._chores.expire(source)
            assert await latest(service) == ()

    run(scenario())


def test_verify_compares_the_table_with_the_journal(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"

    async def scenario() -> None:
        async with serving(url) as service:
            for number in range(3):
                await add(service, f"t{number}")
            await flushed(service)

    run(scenario())
    assert verify(url, "default").clean
    with closing(sqlite3.connect(tmp_path / "luigi.db", isolation_level=None)) as database:
        (kept,) = database.execute("SELECT body FROM history WHERE task_id = 't1'").fetchone()
        for statement, values in (
            ("DELETE FROM history WHERE task_id = 't1'", ()),
            ("UPDATE history SET body = ? WHERE task_id = 't2'", (kept,)),
            ("DELETE FROM history", ()),
        ):
            with closing(sqlite3.connect(":memory:")) as backup:
                database.backup(backup)
                database.execute(statement, values)
                (difference,) = verify(url, "default").differences
                assert difference.startswith("history ")
                backup.backup(database)
        assert verify(url, "default").clean


def test_a_database_that_fails_ends_neither_the_replica_nor_its_chores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.2)
    monkeypatch.setattr(chores, "EXPIRE_SECONDS", 0.0)

    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/luigi.db") as service:
            await add(service, "t")
            await flushed(service)
            with closing(sqlite3.connect(tmp_path / "luigi.db", isolation_level=None)) as database:
                database.execute("ALTER TABLE history RENAME TO elsewhere")
                with pytest.raises(Unavailable):
                    await latest(service)
                while "A chore failed" not in caplog.text:
                    await asyncio.sleep(0.005)
                database.execute("ALTER TABLE elsewhere RENAME TO history")
            assert len(await latest(service)) == 1
            assert service._housekeeping is not None and not service._housekeeping.done()

    run(scenario())


def test_nothing_is_written_down_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(luigi_scheduler, "scheduler", functools.partial(luigi_scheduler.scheduler, record_task_history=False))

    async def scenario() -> None:
        async with serving("memory://") as service:
            await add(service, "t")
            assert service.history is None
            assert await ask(service, "has_task_history") is False
            assert not service._graph._state.history

    run(scenario())


def test_it_is_told_that_there_is_one() -> None:
    async def scenario() -> None:
        async with serving("memory://") as service:
            assert await ask(service, "has_task_history") is True

    run(scenario())


def test_a_row_is_written_as_it_is_though_its_number_was_anothers_before() -> None:
    """As when a commit loses against another replica's: what was noted is undone, and the winner's rows have its numbers."""
    graph = Graph(None, {}, NopHistory(), clock=lambda: 1000.0)
    graph._state.history.records = True
    tracker = graph.tracker
    tracker.begin(1)
    before = tracker.savepoint()
    graph.run(graph.add_task, {"worker": "w", "task_id": "t"})
    graph.ledger.seal()
    (key,) = graph._state.history
    tracker.rollback(before)
    winners = {"task_id": "u", "status": "PENDING", "happened_at": 1.0}
    graph._state.history.put(key, winners)
    body = graph.ledger.row(("history", key)).body
    assert body is not None
    assert decode(body) == winners
