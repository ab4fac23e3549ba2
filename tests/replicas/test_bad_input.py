"""What is far too much for one call is done in portions, so that nobody waits for it, and comes to the same."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from luigi.task_status import FAILED
from worlds import Clock, World, drive

from luigi_spanner import service as services
from luigi_spanner.calls import Call, CallError, TooLarge
from luigi_spanner.graph import coordination, selection
from luigi_spanner.graph import graph as graphs
from luigi_spanner.graph import ledger as ledgers
from luigi_spanner.ids import random_id
from luigi_spanner.journal import decode
from luigi_spanner.service import Service
from luigi_spanner.stores.memory import Database, MemoryStore

TASKS = 10


def lived_in(database: Database, clock: Clock) -> World:
    """A worker that runs one of its ten tasks and is heard of no more."""
    world = World(MemoryStore(namespace="default", database=database), clock)
    for number in range(TASKS):
        world.call("add_task", worker="w", task_id=f"t{number}", family="F")
    world.call("get_work", worker="w", host="h")
    clock.time += 31.0  # worker_disconnect_delay is 30
    return world


def test_a_dead_worker_that_held_very_many_tasks_is_let_go_of_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lived_in(Database(), Clock())
    whole.call("prune")
    assert not whole.graph.unpruned()

    monkeypatch.setattr(coordination, "PRUNED_AT_ONCE", 3)
    database = Database()
    world = lived_in(database, Clock())
    seq = world.graph.ledger.applied
    prunes = 0
    while prunes == 0 or world.graph.unpruned():
        world.call("prune")
        prunes += 1
    assert prunes >= TASKS // 3
    for entry in [entry for entry in database.journals["default"].values() if entry.seq > seq]:
        for records in decode(entry.changes):
            assert len({record[1][-1] for record in records if record[0] != "workers"}) <= 2 * 3
    assert not list(world.graph._state.get_active_workers())
    for left, right in zip(whole.graph._state.get_active_tasks(), world.graph._state.get_active_tasks(), strict=True):
        assert (left.id, left.status, left.remove, set(left.stakeholders)) == (
            right.id,
            right.status,
            right.remove,
            set(right.stakeholders),
        )
        assert list(left.workers) == list(right.workers) == []
    assert [task.status for task in world.graph._state.get_active_tasks()].count(FAILED) == 1


@pytest.mark.parametrize("named", ["deps", "new_deps"])
def test_very_many_dependencies_are_made_in_portions(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setattr(services, "DECLARED_AT_ONCE", 4)
    dependencies = [f"d{number}" for number in range(10)]
    arguments = {"worker": "w", "task_id": "t", "family": "F", "priority": 3, named: dependencies}
    whole = World(MemoryStore(namespace="default"), Clock())
    whole.call("add_task", **arguments)
    database = Database()

    async def scenario() -> list[tuple[Any, ...]]:
        service = Service(MemoryStore(namespace="default", database=database), "default", ids=random_id)
        await service.start()
        try:
            await service.call(Call(request_id="r", method="add_task", arguments=arguments))
            return pictured(service._graph)
        finally:
            await service.stop()

    assert asyncio.run(scenario()) == pictured(whole.graph)
    calls = [call[2] for entry in database.journals["default"].values() for call in decode(entry.calls)]
    assert calls.count("declare") == 3
    assert calls.index("declare") < calls.index("add_task")


def pictured(graph: graphs.Graph) -> list[tuple[Any, ...]]:
    tasks = sorted(graph._state.get_active_tasks(), key=lambda task: task.id)
    return [
        (task.id, task.status, task.priority, sorted(task.deps), *map(list, (task.stakeholders, task.workers))) for task in tasks
    ]


def test_a_batch_that_is_far_too_large_is_handed_out_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "BATCHED_AT_ONCE", 4)
    world = World(MemoryStore(namespace="default"), Clock())
    world.call("add_task_batcher", worker="w", task_family="F", batched_args=["n"])
    for number in range(TASKS):
        params = {"n": str(number)}
        world.call("add_task", worker="w", task_id=f"t{number}", family="F", params=params, batchable=True)
    portions = [json.loads(world.call("get_work", worker="w", host="h"))["batch_task_ids"] for _ in range(2)]
    assert portions == [["t0", "t1", "t2", "t3"], ["t4", "t5", "t6", "t7"]]


def test_a_worker_that_is_heard_of_while_it_is_let_go_of_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, it kept half of its tasks, waiting for the others that had gone."""
    monkeypatch.setattr(coordination, "PRUNED_AT_ONCE", 3)
    database = Database()
    world = lived_in(database, Clock())
    world.call("prune")
    assert world.graph._state.find_worker("w").leaving
    other = World(MemoryStore(namespace="default", database=database), world.clock, "b")
    assert other.graph.ledger.digest == world.graph.ledger.digest
    assert other.graph.prune_due()  # whoever prunes next goes on
    assert world.graph.ping_from_memory({"worker": "w"}) is None
    reply = json.loads(world.call("get_work", worker="w", host="h"))
    assert (reply["task_id"], reply["n_pending_tasks"]) == (None, 0)
    assert not world.graph._state.find_worker("w").leaving
    for _ in range(TASKS):
        world.call("prune")
    assert not world.graph.unpruned()
    assert all(not task.workers for task in world.graph._state.get_active_tasks())


def test_workers_that_held_few_tasks_do_not_wait_for_one_that_held_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "PRUNED_AT_ONCE", 3)
    world = World(MemoryStore(namespace="default"), Clock())
    for number in range(TASKS):
        world.call("add_task", worker="many", task_id=f"t{number}", family="F")
    world.call("add_task", worker="few", task_id="one", family="F")
    world.clock.time += 31.0
    world.call("prune")
    assert [worker.id for worker in world.graph._state.get_active_workers()] == ["many"]


@pytest.mark.parametrize("refused", [{"retry_policy_dict": {"bogus": 1}}, {"status": "PENDING", "task_id": "done"}])
def test_nothing_is_made_for_a_call_that_comes_to_nothing(monkeypatch: pytest.MonkeyPatch, refused: dict[str, Any]) -> None:
    monkeypatch.setattr(services, "DECLARED_AT_ONCE", 2)

    async def scenario() -> set[str]:
        service = Service(MemoryStore(namespace="default"), "default", ids=random_id)
        await service.start()
        try:
            done = {"worker": "w", "task_id": "done", "status": "DONE", "family": "F"}
            await service.call(Call(request_id="d", method="add_task", arguments=done))
            arguments = {"worker": "w", "task_id": "t", "family": "F", "deps": ["a", "b", "c"], **refused}
            with suppress(CallError):
                await service.call(Call(request_id="r", method="add_task", arguments=arguments))
            return set(service._graph._state._tasks)
        finally:
            await service.stop()

    assert asyncio.run(scenario()) == {"done"}


def test_a_row_near_the_limit_can_still_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a call is held to the limit. What is in the journal is applied, what the tables owe is written, whatever its size."""
    database = Database()
    world = World(MemoryStore(namespace="default", database=database), Clock())
    text = Random(1).randbytes(2000).hex()
    monkeypatch.setattr(ledgers, "UNCHECKED_BYTES", 2500)
    monkeypatch.setattr(ledgers, "ROW_BYTES", 2600)
    first = world.waiting("add_task", worker="w", task_id="t", family="F", params={"text": text})
    second = world.waiting("add_task", worker="w", task_id="t", family="F", status="FAILED", expl=text[:2000])
    world.settle(first, second)
    assert (first.error, second.error) == (None, None)
    follower = World(MemoryStore(namespace="default", database=database), world.clock, "b")
    assert follower.graph.ledger.digest == world.graph.ledger.digest
    world.call("add_task", worker="w", task_id="t2", family="F")
    drive(follower.replica._catch_up())
    assert follower.graph.ledger.digest == world.graph.ledger.digest
    with pytest.raises(TooLarge):
        world.call("add_task", worker="w", task_id="large", family="F", params={"text": Random(2).randbytes(6000).hex()})


def test_what_one_prune_leaves_makes_the_next_one_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "PRUNED_AT_ONCE", 3)
    world = lived_in(Database(), Clock())
    world.call("prune_if_due")
    assert world.graph.prune_due()
    for _ in range(TASKS):
        world.call("prune_if_due")
    assert not world.graph.prune_due()
