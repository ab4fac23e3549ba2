"""What get_work looks at does not grow with the number of tasks that cannot be the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from luigi_spanner.graph import coordination
from luigi_spanner.graph.containers import OwnedSet, Owner
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.ready import Ready, exact, needs_of
from luigi_spanner.graph.tracker import Tracker

ASKER = "asker"
Calls = Iterator[tuple[str, dict[str, Any]]]


def own_locks(size: int) -> Calls:
    """Each task has a lock of its own; a third are of the highest priority and find it held."""
    for number in range(size // 3):
        yield "add_task", {"worker": "holder", "task_id": f"H_{number}", "resources": {f"lock{number}": 1}}
        yield "get_work", {"worker": "holder"}
    for number in range(size):
        lock = {f"lock{number}": 1}
        yield (
            "add_task",
            {"worker": ASKER, "task_id": f"T_{number}", "resources": lock, "priority": 9 if number < size // 3 else 0},
        )


def own_locks_and_scarce(size: int) -> Calls:
    """Each task has a lock of its own and needs a resource that is used up; the last one needs another."""
    yield "add_task", {"worker": "holder", "task_id": "H_0", "resources": {"scarce": 1}}
    yield "get_work", {"worker": "holder"}
    for number in range(size):
        yield "add_task", {"worker": ASKER, "task_id": f"T_{number}", "resources": {"scarce": 1, f"lock{number}": 1}}
    for number in range(size, size + 10):
        yield "add_task", {"worker": ASKER, "task_id": f"T_{number}", "resources": {"other": 0}}


def overlapping(size: int) -> Calls:
    """Every two tasks are of other workers, which contend for a resource; a tenth are the asker's too."""
    yield "update_resource", {"resource": "scarce", "amount": 30}
    workers = [f"w{number}" for number in range(12)]
    for worker in workers:
        yield "get_work", {"worker": worker}
    for number in range(size):
        three = {workers[number % 12], workers[number // 12 % 12], workers[number // 144 % 12]}
        for worker in [*sorted(three), ASKER] if number % 10 == 9 else sorted(three):
            yield "add_task", {"worker": worker, "task_id": f"T_{number}", "resources": {"scarce": 1}}


def busy_owners(size: int) -> Calls:
    """Tasks of other workers without a slot, each with needs of its own, come before the asker's; they contend for a resource."""
    yield "update_resource", {"resource": "scarce", "amount": 30}
    for number in range(8):
        yield "add_worker", {"worker": f"w{number}", "info": [["workers", 0]]}
        yield "get_work", {"worker": f"w{number}"}
    for number in range(size):
        resources = {"scarce": 1, f"lock{number}": 1}
        yield "add_task", {"worker": f"w{number % 8}", "task_id": f"T_{number}", "resources": resources, "priority": 9}
    for number in range(size, size + 20):
        yield "add_task", {"worker": ASKER, "task_id": f"T_{number}", "resources": {"scarce": 1}}


def looks(build: Callable[[int], Calls], size: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many groups of ready tasks each of some calls of get_work looks at, once all is filed."""
    graph = Graph()
    entries = count(1)
    looked = 0
    first = Ready.first

    def counted(self: Ready, group: Any) -> Any:
        nonlocal looked
        looked += 1
        return first(self, group)

    def call(method: str, arguments: dict[str, Any]) -> Any:
        graph.tracker.begin(next(entries))
        reply = graph.run(getattr(graph, method), arguments)
        graph.tracker.take()
        graph.tracker.settle()
        return reply

    for method, arguments in build(size):
        call(method, arguments)
    assert call("get_work", {"worker": ASKER})["task_id"]
    numbers = []
    with monkeypatch.context() as patch:
        patch.setattr(Ready, "first", counted)
        for _ in range(5):
            looked = 0
            assert call("get_work", {"worker": ASKER})["task_id"]
            numbers.append(looked)
    return numbers


@pytest.mark.parametrize("build", [own_locks, own_locks_and_scarce, overlapping, busy_owners])
def test_get_work_looks_at_as_few_of_many_tasks_as_of_few(build: Callable[[int], Calls], monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = looks(build, 150, monkeypatch), looks(build, 1500, monkeypatch)
    assert max(many) <= 2 * max(few) < 150


def test_a_freed_resource_brings_back_what_waits_for_it() -> None:
    graph = Graph()
    for number in range(3):
        graph.run(graph.add_task, {"worker": ASKER, "task_id": f"T_{number}", "resources": {"r": 1}})
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] == "T_0"
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] is None
    graph.run(graph.add_task, {"worker": ASKER, "task_id": "T_0", "status": "DONE"})
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] == "T_1"
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] is None
    savepoint = graph.tracker.savepoint()
    graph.run(graph.update_resource, {"resource": "r", "amount": 2})
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] == "T_2"
    graph.tracker.rollback(savepoint)
    assert graph.run(graph.get_work, {"worker": ASKER})["task_id"] is None


def test_a_prune_leaves_nothing_behind_that_it_would_never_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "PRUNED_AT_ONCE", 2)
    graph = Graph(retry_delay=-1, retry_count=100)
    for number in range(3):
        graph.run(graph.add_task, {"worker": ASKER, "task_id": f"T_{number}", "status": "FAILED", "expl": ""})
    graph.run(graph.prune, {})
    assert not graph.unpruned()
    assert graph._state.count("FAILED") == 3


def test_parameters_that_cannot_be_hashed_are_compared_in_batches() -> None:
    graph = Graph()
    graph.run(graph.add_task_batcher, {"worker": ASKER, "task_family": "F", "batched_args": ["day"]})
    kinds: list[Any] = [["a"], ["b"], ["a"], "a", ["a"]]
    for number, kind in enumerate(kinds):
        params = {"day": str(number), "kind": kind}
        task = {"worker": ASKER, "task_id": f"F_{number}", "family": "F", "params": params, "batchable": True}
        graph.run(graph.add_task, task)
    reply = graph.run(graph.get_work, {"worker": ASKER})
    assert reply["batch_task_ids"] == ["F_0", "F_2", "F_4"]


def test_amounts_are_exact() -> None:
    assert needs_of({"s": 2.0, "r": 0.5, "q": 2**62}) == (("q", 2**62), ("r", exact(0.5)), ("s", 2))
    assert sum(exact(amount) for amount in (0.2, 0.4, 0.3, 0.1)) == sum(exact(amount) for amount in (0.1, 0.3, 0.4, 0.2))
    assert exact(float("inf")) > 1e308
    assert needs_of(None) == needs_of({}) == ()


def test_members_of_a_set_are_the_same_object_until_they_change() -> None:
    tracker = Tracker()
    owned = OwnedSet(Owner(tracker, "tasks", ("T",)), "deps", {"a"})
    before = owned.frozen()
    savepoint = tracker.savepoint()
    owned.add("a")
    assert owned.frozen() is before
    owned.update({"b"})
    assert sorted(owned.frozen()) == ["a", "b"]
    tracker.rollback(savepoint)
    assert owned.frozen() == before
