"""Readers: listings on a running service, beside the calls of workers."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from unittest import mock

import pytest
from worlds import Clock

from luigi_spanner import chores, readers
from luigi_spanner.calls import Call, RuleFailed, StoreDown
from luigi_spanner.graph import listings, rendering
from luigi_spanner.graph.listings import Listings
from luigi_spanner.ids import random_id
from luigi_spanner.journal import Entry, Row
from luigi_spanner.service import Service
from luigi_spanner.stores import Outcome, Unavailable, Unknown
from luigi_spanner.stores.memory import Database, MemoryStore


class Shutter(MemoryStore):
    """A memory store that answers only while it is open, and counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(namespace="default", database=Database())
        self.open = True
        self.reads = 0

    async def read_after(self, seq: int) -> list[Entry]:
        await asyncio.sleep(0)
        if not self.open:
            raise Unavailable("closed")
        self.reads += 1
        return await super().read_after(seq)

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        await asyncio.sleep(0)
        return await super().commit(seq, entry, rows) if self.open else Unknown(reason="closed")


@asynccontextmanager
async def running(store: MemoryStore | None = None, **options: Any) -> AsyncIterator[Service]:
    served = Service(store or Shutter(), "default", ids=random_id, **{"hold": 10.0, **options})
    await served.start()
    try:
        yield served
    finally:
        await served.stop()


def call(method: str, **arguments: Any) -> Call:
    return Call(request_id=random_id(), method=method, arguments=arguments)


async def ask(served: Service, method: str, **arguments: Any) -> Any:
    return json.loads(await served.call(call(method, **arguments)))


async def add(served: Service, number: int) -> None:
    await asyncio.gather(*(ask(served, "add_task", worker="w", task_id=f"t{task}", family="F") for task in range(number)))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 30))  # type: ignore[arg-type]


class Held:
    """Holds the thread that words listings until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.began = asyncio.Event()
        self.times = 0
        self._loop = asyncio.get_running_loop()
        self._word = rendering.task_list

    def word(self, *args: Any, **keys: Any) -> bytes:
        self.times += 1
        self._loop.call_soon_threadsafe(self.began.set)
        assert self.go.wait(30)
        return self._word(*args, **keys)


@contextmanager
def held() -> Iterator[Held]:
    holding = Held()
    with mock.patch.object(rendering, "task_list", holding.word):
        try:
            yield holding
        finally:
            holding.go.set()


def test_calls_of_workers_are_answered_while_a_listing_is_worded() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            with held() as holding:
                listing = asyncio.create_task(ask(served, "task_list"))
                await holding.began.wait()
                await ask(served, "add_task", worker="w", task_id="late")
                assert (await ask(served, "get_work", worker="w", host="h"))["task_id"] == "t0"
                assert await ask(served, "ping", worker="w") == {"rpc_messages": []}
                assert not listing.done()
            assert {task["status"] for task in (await listing).values()} == {"PENDING"}
            assert list(await listing) == ["t0", "t1", "t2"]
            assert len(await ask(served, "task_list")) == 4

    run(scenario)


def test_calls_of_workers_are_answered_while_fragments_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "FEW", 0)
    monkeypatch.setattr(readers, "SLICE_SECONDS", 0.0)
    stretches: list[int] = []
    fill = Listings.fill

    def filled(self: Listings, missing: list[str], seconds: float) -> None:
        before = len(missing)
        fill(self, missing, seconds)
        stretches.append(before - len(missing))

    monkeypatch.setattr(Listings, "fill", filled)

    async def scenario() -> None:
        async with running() as served:
            await add(served, 200)
            listing = asyncio.create_task(ask(served, "task_list"))
            while not stretches:
                await asyncio.sleep(0)
            await ask(served, "add_task", worker="w", task_id="late")
            assert len(stretches) < 200
            assert not listing.done()
            # What came meanwhile is there: nothing is taken before all of it can be.
            assert len(await listing) == 201
            assert set(stretches) == {1}

    run(scenario)


def test_the_same_question_is_answered_once() -> None:
    async def scenario() -> None:
        store = Shutter()
        async with running(store) as served:
            await add(served, 3)
            with held() as holding:
                first = asyncio.create_task(ask(served, "task_list"))
                await holding.began.wait()
                await ask(served, "add_task", worker="w", task_id="late")
                reads = store.reads
                others = [asyncio.create_task(ask(served, "task_list")) for _ in range(20)]
                different = asyncio.create_task(ask(served, "task_list", status="PENDING"))
                await asyncio.sleep(0)
                holding.go.set()
                # The first was taken before the others came, who must see what was acknowledged before them.
                assert len(await first) == 3
                assert {len(reply) for reply in await asyncio.gather(*others)} == {4}
                assert len(await different) == 4
                assert holding.times == 3
                assert store.reads - reads == 1

    run(scenario)


def test_nobody_is_left_waiting_when_another_caller_leaves() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            calls = [call("task_list") for _ in range(3)]
            asked = [asyncio.create_task(served.call(each)) for each in calls]
            await asyncio.sleep(0)
            calls[0].abandoned = True
            asked[1].cancel()
            assert len(json.loads(await asked[2])) == 3
            with pytest.raises(asyncio.CancelledError):
                await asked[1]

    run(scenario)


def test_a_listing_that_nobody_waits_for_is_not_worded() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            with held() as holding:
                first = asyncio.create_task(ask(served, "task_list"))
                await holding.began.wait()
                gone = call("task_list", status="PENDING")
                left = asyncio.create_task(served.call(gone))
                await asyncio.sleep(0)
                gone.abandoned = True
                holding.go.set()
                await first
                with pytest.raises(StoreDown, match="has gone"):
                    await left
                assert holding.times == 1

    run(scenario)


def test_a_listing_is_held_during_an_outage_and_given_up_after_it() -> None:
    async def scenario() -> None:
        store = Shutter()
        async with running(store, hold=0.5) as served:
            await add(served, 3)
            store.open = False
            asked = [ask(served, "task_list", status=status) for status in ("", "PENDING", "DONE", "FAILED")]
            began = asyncio.get_running_loop().time()
            for outcome in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(outcome, StoreDown)
            # Not one after the other.
            assert asyncio.get_running_loop().time() - began < 1.9
            store.open = True
            assert len(await ask(served, "task_list")) == 3

    run(scenario)


def test_a_listing_that_fails_is_told_so_and_the_next_is_answered() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            with mock.patch.object(rendering, "task_list", side_effect=ValueError("a bug")), pytest.raises(RuleFailed):
                await ask(served, "task_list")
            with pytest.raises(RuleFailed):
                await ask(served, "dep_graph")
            assert len(await ask(served, "task_list")) == 3

    run(scenario)


def test_a_rule_that_finds_too_much_missing_leaves_it_to_the_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prune in the listing itself may change any number of tasks."""
    monkeypatch.setattr(readers, "FEW", 5)

    async def scenario() -> None:
        async with running() as served:
            await add(served, 20)
            await ask(served, "task_list")
            prune = served._graph.prune
            pruned = []

            def prune_once() -> None:
                prune()
                if not pruned:
                    pruned.append(True)
                    for task in list(served._graph._state._tasks.values()):
                        task.status_message = "changed"

            with mock.patch.object(served._graph, "prune", prune_once):
                reply = await ask(served, "task_list")
            assert {task["status_message"] for task in reply.values()} == {"changed"}

    run(scenario)


def test_memory_is_given_back_when_nobody_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "TICK_SECONDS", 1000.0)
    clock = Clock()

    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            visits = readers.Readers(Listings(served._graph), served._readers._submit, clock)
            assert len(json.loads(await visits.answer(call("task_list")))) == 3
            assert visits._listings.missing("task_list", {}) == []
            visits.forget()
            assert visits._listings.missing("task_list", {}) == []
            clock.time += readers.QUIET_SECONDS + 1.0
            visits.forget()
            assert len(visits._listings.missing("task_list", {})) == 3
            visits.stop()

    run(scenario)


def test_a_service_that_stops_words_nothing_more() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
        with pytest.raises(StoreDown, match="stopping"):
            await ask(served, "task_list")

    run(scenario)


@pytest.mark.slow
def test_listings_that_wait_for_the_thread_of_a_service_that_stops_are_told_so() -> None:
    """They were cancelled, which nobody above takes for a failure: their connections stayed open without a reply."""

    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            with (
                held() as holding,
                mock.patch.object(served._readers._thread, "submit", wraps=served._readers._thread.submit) as submitted,
            ):
                first = asyncio.create_task(ask(served, "task_list"))
                await holding.began.wait()
                queued = [asyncio.create_task(ask(served, "task_list", status="PENDING")) for _ in range(3)]
                while submitted.call_count < 2:
                    await asyncio.sleep(0)
                stopping = asyncio.create_task(served.stop())
                await asyncio.sleep(0)
                # Whoever is cancelled itself is that, and not told anything else.
                queued[0].cancel()
                outcomes = await asyncio.gather(*queued, return_exceptions=True)
                assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, StoreDown, StoreDown]
                assert str(outcomes[1]) == "this replica is stopping"
                holding.go.set()
                assert len(await first) == 3
                await stopping

    run(scenario)


def test_every_listing_comes_through_the_service() -> None:
    async def scenario() -> None:
        async with running() as served:
            await add(served, 3)
            await ask(served, "get_work", worker="w", host="h")
            around: dict[str, Any] = {"task_id": "t0"}
            arguments = {"dep_graph": around, "inverse_dep_graph": around, "task_search": {"task_str": "t"}}
            for method in listings.LISTINGS:
                reply = await ask(served, method, **arguments.get(method, {}))
                assert reply or method == "resource_list"

    run(scenario)
