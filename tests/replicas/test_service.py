"""The service: outages, pings, housekeeping, and replicas that meet."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from worlds import Clock

from luigi_spanner import chores, membership
from luigi_spanner import service as services
from luigi_spanner.calls import Call, RuleFailed, StoreDown, UnknownMethod
from luigi_spanner.journal import Entry, Row, decode
from luigi_spanner.service import Service
from luigi_spanner.stores import Closed, Committed, InvalidStore, Outcome, Snapshot, Unavailable, Unknown
from luigi_spanner.stores.memory import Database, MemoryStore


class Gate:
    """A memory store that answers only while it is open; closed, everything fails as in an outage."""

    def __init__(self, database: Database) -> None:
        self.inner = MemoryStore(namespace="default", database=database)
        self.open = True
        self.commits = 0

    async def load(self) -> Snapshot:
        return await self.inner.load()

    async def read_after(self, seq: int) -> list[Entry]:
        await asyncio.sleep(0)
        if not self.open:
            raise Unavailable("closed")
        return await self.inner.read_after(seq)

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        await asyncio.sleep(0)
        if not self.open:
            return Unknown(reason="closed")
        self.commits += 1
        return await self.inner.commit(seq, entry, rows)

    async def truncate(self, before: int) -> None:
        await self.inner.truncate(before)

    async def close(self) -> None:
        await self.inner.close()


_numbers = itertools.count()


def ids() -> str:
    return f"{next(_numbers):08d}"


@asynccontextmanager
async def running(store: Any, **options: Any) -> AsyncIterator[Service]:
    service = Service(store, "default", ids=ids, **{"hold": 0.3, **options})
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


def each_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services that start take each other for processes that live."""
    processes = itertools.count()
    monkeypatch.setattr(membership, "process_id", lambda: f"machine/{next(processes)}")
    monkeypatch.setattr(membership, "is_alive", lambda pid: True)


async def ask(service: Service, method: str, **arguments: Any) -> Any:
    return json.loads(await service.call(Call(request_id=ids(), method=method, arguments=arguments)))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; `run` bounds the whole scenario."""
    while not condition():
        await asyncio.sleep(0.005)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))  # type: ignore[arg-type]


def test_calls_are_answered_together() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:
            before = store.commits
            await asyncio.gather(*(ask(service, "add_task", worker="w", task_id=f"t{number}") for number in range(50)))
            assert store.commits - before < 10
            assert len(await ask(service, "task_list")) == 50

    run(scenario)


def test_an_unknown_method_and_a_bug_are_told_apart() -> None:
    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            with pytest.raises(UnknownMethod):
                await ask(service, "drop_everything")
            with pytest.raises(RuleFailed):
                await ask(service, "add_task", task_id="no worker")

    run(scenario)


def test_a_call_is_held_during_an_outage_and_answered_after_it() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store, hold=10) as service:
            store.open = False
            held = asyncio.create_task(ask(service, "add_task", worker="w", task_id="t"))
            await asyncio.sleep(0.1)
            assert not held.done()
            store.open = True
            assert await held is None
            assert list(await ask(service, "task_list")) == ["t"]

    run(scenario)


def test_a_call_is_given_up_before_its_worker_does() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:
            store.open = False
            with pytest.raises(StoreDown) as caught:
                await ask(service, "add_task", worker="w", task_id="t")
            assert caught.value.retry_after >= 1
            # It had not run: it never will.
            late = asyncio.create_task(ask(service, "add_task", worker="w", task_id="u"))
            await asyncio.wait([late])
            store.open = True
            await until(lambda: service._replica.contact > 0 and not service._replica._queue)
            assert "u" not in await ask(service, "task_list")
            late.exception()

    run(scenario)


def test_pings_are_not_held() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store, hold=10) as service:
            await ask(service, "add_worker", worker="w", info=[])
            store.open = False
            held = asyncio.create_task(ask(service, "add_task", worker="w", task_id="t"))
            await asyncio.sleep(0)
            assert await asyncio.wait_for(ask(service, "ping", worker="w"), 0.5) == {"rpc_messages": []}
            assert await asyncio.wait_for(ask(service, "ping", worker="stranger"), 3) == {"rpc_messages": []}
            store.open = True
            await held

    run(scenario)


def test_a_ping_that_ran_in_a_batch_that_cannot_be_committed_is_not_held_either() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store, hold=10) as service:
            store.open = False
            held = asyncio.create_task(ask(service, "add_task", worker="w", task_id="t"))
            ping = asyncio.create_task(ask(service, "ping", worker="stranger"))
            assert await asyncio.wait_for(ping, 3) == {"rpc_messages": []}
            store.open = True
            await held

    run(scenario)


def test_a_ping_that_took_messages_waits_for_its_commit() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store, hold=10) as service:
            await ask(service, "set_worker_processes", worker="w", n=2)
            store.open = False
            ping = asyncio.create_task(ask(service, "ping", worker="w"))
            await asyncio.wait([ping], timeout=services.PING_HOLD + 0.3)
            assert not ping.done()
            store.open = True
            assert [message["name"] for message in (await ping)["rpc_messages"]] == ["set_worker_processes"]

    run(scenario)


def test_a_ping_that_is_left_in_the_queue_is_a_sign_of_life() -> None:
    """Simulation, seed 418613: its worker had messages, so it had to wait for its turn, was told that all is well, and pruned."""

    async def scenario() -> None:
        clock, store = Clock(), Gate(Database())
        async with running(store, clock=clock, hold=10) as service:
            await ask(service, "set_worker_processes", worker="w", n=2)
            store.open = False
            held = asyncio.create_task(ask(service, "add_task", worker="x", task_id="t"))
            await until(lambda: bool(service._graph.tracker.undo))
            clock.time += 5
            assert await ask(service, "ping", worker="w") == {"rpc_messages": []}
            assert service._graph._state.get_worker("w").last_active == clock.time
            store.open = True
            await held

    run(scenario)


def test_a_ping_is_refused_once_the_replica_has_lost_touch() -> None:
    async def scenario() -> None:
        clock = Clock()
        store = Gate(Database())
        async with running(store, clock=clock) as service:
            await ask(service, "add_worker", worker="w", info=[])
            store.open = False
            clock.time += service._graph._state.grain + 1
            with pytest.raises(StoreDown):
                await ask(service, "ping", worker="w")
            store.open = True

    run(scenario)


class DeafStore(Gate):
    """Once there is a `winner`, nothing that is written here arrives, and the winner's entries do."""

    winner: Service | None = None

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if self.winner is None:
            return await super().commit(seq, entry, rows)
        await ask(self.winner, "add_task", worker="x", task_id=ids())
        return Unknown(reason="no answer")


def test_a_ping_is_refused_where_nothing_that_is_written_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seed 409092: what a batch would have told others of the worker counted as told, though it never arrived."""
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.005)
    each_in_a_process_of_its_own(monkeypatch)

    async def scenario() -> None:
        database, clock = Database(), Clock()
        store = DeafStore(database)
        async with running(Gate(database), clock=clock) as other, running(store, clock=clock, hold=0.05) as service:
            await ask(service, "add_worker", worker="w", info=[])
            store.winner = other
            last = clock.time + 2 * service._graph._state.grain
            with pytest.raises(StoreDown):
                while clock.time < last:
                    await ask(service, "ping", worker="w")
                    clock.time += 1
                    await asyncio.sleep(0.02)
            assert not (await service.status()).ready
            store.winner = None

    run(scenario)


class ForgetfulStore(Gate):
    """Once there is a `winner`, one write is lost, and the journal no longer reaches back to where it would be."""

    winner: Service | None = None

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if self.winner is None:
            return await super().commit(seq, entry, rows)
        winner, self.winner = self.winner, None
        await ask(winner, "add_task", worker="x", task_id="t")
        await until(lambda: winner._graph.ledger.watermark > seq and not winner._graph.ledger.pending)
        await self.truncate(winner._graph.ledger.applied)
        return Unknown(reason="no answer")


def test_a_replica_that_cannot_know_what_became_of_a_write_is_soon_ready_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seed 448900: until it happened to write something, up to half a minute, it was not ready."""
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.2)
    each_in_a_process_of_its_own(monkeypatch)

    async def scenario() -> None:
        database = Database()
        store = ForgetfulStore(database)
        async with running(Gate(database)) as other, running(store, hold=5) as service:
            store.winner = other
            with pytest.raises(StoreDown, match="no longer known"):
                await ask(service, "add_task", worker="w", task_id="t")
            for _ in range(400):
                if (await service.status()).ready:
                    return
                await asyncio.sleep(0.005)
            raise AssertionError((await service.status()).reasons)

    run(scenario)


def test_pings_and_polls_cost_no_commit() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:
            await ask(service, "get_work", worker="w", host="h")
            before = store.commits
            for _ in range(20):
                await ask(service, "ping", worker="w")
                await ask(service, "get_work", worker="w", host="h")
            assert store.commits == before

    run(scenario)


def test_a_message_reaches_its_worker_once_through_any_replica() -> None:
    async def scenario() -> None:
        database = Database()
        async with running(Gate(database)) as left, running(Gate(database)) as right:
            await ask(left, "add_worker", worker="w", info=[])
            await ask(left, "set_worker_processes", worker="w", n=3)
            messages = [
                message
                for service in (right, left, right)
                for message in (await ask(service, "ping", worker="w"))["rpc_messages"]
            ]
            assert [message["name"] for message in messages] == ["set_worker_processes"]

    run(scenario)


class ForgetfulClockStore(Gate):
    """Tells the time of commits; the reply to the first is lost after it has landed."""

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        outcome = await super().commit(seq, entry, rows)
        if self.commits == 1:
            return Unknown(reason="the reply is lost")
        return Committed(at=1000.0) if isinstance(outcome, Committed) else outcome


def test_a_replica_knows_the_time_before_it_serves() -> None:
    async def scenario() -> None:
        clock = itertools.count(1090.0, 0.001)
        async with running(ForgetfulClockStore(Database()), clock=lambda: next(clock)) as service:
            assert service._replica.offset.seconds == pytest.approx(-90, abs=1)

    run(scenario)


class ForgottenReplicaStore(ForgetfulClockStore):
    """Before the second commit another replica takes the one that makes it for gone."""

    def __init__(self, database: Database, other: Service) -> None:
        super().__init__(database)
        self.other = other

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if self.commits == 1:
            await self.other._internal(self.other._graph.leave, replica=entry.replica)
        return await super().commit(seq, entry, rows)


def test_a_replica_that_is_taken_for_gone_before_it_knows_the_time_enters_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulation, seed 400259: it said without end that it was there, which changed nothing, and so never told it the time."""
    each_in_a_process_of_its_own(monkeypatch)

    async def scenario() -> None:
        database, clock = Database(), itertools.count(1090.0, 0.001)
        async with (
            running(Gate(database), clock=lambda: 1000.0) as other,
            running(ForgottenReplicaStore(database, other), clock=lambda: next(clock)) as service,
        ):
            assert service._replica.offset.seconds == pytest.approx(-90, abs=1)
            assert service._graph.is_present(service._replica.name)

    run(scenario)


def test_one_replica_prunes_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.01)

    async def scenario() -> None:
        database, clock = Database(), Clock()

        def prunes() -> int:
            entries = database.journals["default"].values()
            return sum(call[2] == "prune_if_due" for entry in entries for call in decode(entry.calls))

        async with running(Gate(database), clock=clock) as left, running(Gate(database), clock=clock) as right:
            for expected in (1, 2, 3):
                await until(lambda: not left._graph.prune_due() and not right._graph.prune_due())
                assert prunes() == expected
                clock.time += 61

    run(scenario)


def test_replicas_with_other_rules_are_refused_or_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        database = Database()
        async with running(Gate(database)) as left:
            # As if on another machine: its process cannot be looked for.
            monkeypatch.setattr(membership, "process_id", lambda: "elsewhere/1")
            monkeypatch.setattr(services, "configured_limits", lambda: {"r": 9})
            with pytest.raises(InvalidStore, match="rules"):
                async with running(Gate(database)):
                    pass
            async with running(Gate(database), rules_mismatch="warn"):
                assert await ask(left, "is_paused") == {"paused": False}
        # Nobody else is left: the newcomer's configuration holds.
        async with running(Gate(database)) as alone:
            assert [resource["name"] for resource in await ask(alone, "resource_list")] == ["r"]

    run(scenario)


def test_a_limit_set_through_the_api_survives_restarts_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        database = Database()
        monkeypatch.setattr(services, "configured_limits", lambda: {"r": 1, "s": 1})
        async with running(Gate(database)) as service:
            await ask(service, "update_resource", resource="r", amount=7)
        monkeypatch.setattr(services, "configured_limits", lambda: {"r": 2, "s": 2})
        async with running(Gate(database)) as service:
            totals = {resource["name"]: resource["num_total"] for resource in await ask(service, "resource_list")}
            assert totals == {"r": 7, "s": 2}

    run(scenario)


def test_a_predecessor_that_was_killed_need_not_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        database = Database()
        place = membership.process_id().rpartition("/")[0]
        monkeypatch.setattr(membership, "process_id", lambda: f"{place}/{2**22 + 1}")  # beyond Linux's largest process id
        killed = Service(Gate(database), "default", ids=ids)
        monkeypatch.undo()
        await killed.start()
        monkeypatch.setattr(services, "configured_limits", lambda: {"r": 9})
        async with running(Gate(database)) as service:
            assert len(service._graph._state.replicas) == 1
        killed._replica.fail(Closed("killed"))
        await killed.stop()

    run(scenario)


def test_stopping_answers_what_was_accepted() -> None:
    async def scenario() -> None:
        database = Database()
        service = Service(Gate(database), "default", ids=ids)
        await service.start()
        accepted = [asyncio.create_task(ask(service, "add_task", worker="w", task_id=f"t{number}")) for number in range(20)]
        await asyncio.sleep(0)
        await service.stop()
        assert await asyncio.gather(*accepted) == [None] * 20
        async with running(Gate(database)) as again:
            assert len(await ask(again, "task_list")) == 20
            assert len(again._graph._state.replicas) == 1

    run(scenario)


def test_status_says_whether_it_is_ready() -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:
            assert (await service.status()).ready
            store.open = False
            status = await service.status()
            assert not status.ready
            assert status.reasons == ("the store does not answer",)
            store.open = True

    run(scenario)


def test_an_unforeseen_error_ends_the_replica_loudly(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:

            async def breaks(*_: Any) -> Outcome:
                raise KeyError("a bug in a driver")

            store.commit = breaks  # type: ignore[method-assign]
            with pytest.raises(StoreDown):
                await ask(service, "add_task", worker="w", task_id="t")
            assert "bug" in await asyncio.wait_for(service.ended(), 1)
            assert not (await service.status()).ready
            with pytest.raises(StoreDown):
                await ask(service, "ping", worker="w")

    run(scenario)
    assert "KeyError" in caplog.text


def test_a_chore_that_fails_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.005)

    async def scenario() -> None:
        store = Gate(Database())
        async with running(store) as service:
            tried: list[int] = []

            def fails() -> None:
                tried.append(1)
                raise RuntimeError("a rule with a bug")

            service._graph.prune_if_due = fails  # type: ignore[method-assign]
            service._graph.prune_due = lambda: True  # type: ignore[method-assign]
            await until(lambda: len(tried) > 2)

    run(scenario)


def test_a_replica_that_was_taken_for_gone_enters_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.005)

    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            await service._internal(service._graph.leave, replica=service._replica.name)
            await until(lambda: service._graph.is_present(service._replica.name))

    run(scenario)
