"""What a replica counts of its commits, and the gauges of its graph."""

from __future__ import annotations

import re
from collections import Counter as Tally
from typing import Any

import pytest
from faults import FaultyStore, lost_reply, lost_request, own_conflict
from hypothesis import given, settings
from luigi.task_status import PENDING
from prometheus_client import CollectorRegistry, generate_latest
from worlds import Clock, World, drive, histories, play

from luigi_spanner.calls import StoreDown
from luigi_spanner.metrics import families
from luigi_spanner.metrics.gauges import STATUSES, Gauges
from luigi_spanner.metrics.meter import Meter
from luigi_spanner.metrics.tasks import TaskFamilies
from luigi_spanner.stores import Closed, Committed, Refused, Unavailable, Unknown
from luigi_spanner.stores.memory import Database, MemoryStore


class Metered:
    """A world, its meter and its gauges."""

    def __init__(self, store: Any, clock: Clock, name: str = "a", resources: int = 50) -> None:
        self.world = World(store, clock, name)
        self.registry = CollectorRegistry()
        self.meter = Meter(self.registry, "default")
        self.world.replica._meter = self.world.replica._journal._meter = self.meter
        self.tasks = TaskFamilies()
        self.world.graph.report_to(self.tasks, self.tasks.seen)
        self.gauges = Gauges(
            graph=self.world.graph,
            replica=self.world.replica,
            store="memory",
            clock=clock,
            resources=resources,
        )

    def counted(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, {"namespace": "default", **labels})
        assert value is not None, (name, labels)
        return value

    def seen(self, family: families.Family) -> dict[tuple[str, ...], float]:
        """A gauge's values by its own labels."""
        (metric,) = [metric for metric in self.gauges.take() if metric.name == family.name]
        return {tuple(sample.labels[label] for label in family.labels): sample.value for sample in metric.samples}

    def value(self, family: families.Family) -> float:
        return self.seen(family)[()]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def store(database: Database) -> FaultyStore:
    return FaultyStore(database)


@pytest.fixture
def metered(store: FaultyStore, clock: Clock) -> Metered:
    return Metered(store, clock)


def test_a_batch_and_its_commit(metered: Metered) -> None:
    world = metered.world
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(3)))
    assert metered.counted("luigi_spanner_batch_calls_sum") == 3
    assert metered.counted("luigi_spanner_batch_tries_sum") == metered.counted("luigi_spanner_batch_tries_count") == 1
    assert metered.counted("luigi_spanner_commit_duration_seconds_count", outcome="committed") == 1
    assert metered.value(families.HEAD) == metered.value(families.APPLIED) == 1


def test_a_batch_that_loses_is_counted_once_with_its_tries(metered: Metered, store: FaultyStore, database: Database) -> None:
    """Its first run is dropped, and with it what it would have reported."""
    rival = World(MemoryStore(namespace="default", database=database), metered.world.clock, "b")

    def rival_wins() -> None:
        metered.world.clock.time += 0.25
        rival.call("add_task", worker="v", task_id="r")

    store.before_commit = rival_wins
    metered.world.call("add_task", worker="w", task_id="t", family="F", status="DONE")
    assert 'luigi_task_done_total{family="F"} 1.0' in generate_latest(metered.tasks.registry).decode()
    assert metered.counted("luigi_spanner_batch_tries_sum") == 2
    assert metered.counted("luigi_spanner_commit_duration_seconds_count", outcome="conflict") == 1
    assert metered.counted("luigi_spanner_catch_up_entries_total") == 1
    assert metered.counted("luigi_spanner_catch_up_lag_seconds_count") == 1


@pytest.mark.parametrize("fault", [lost_reply, lost_request, own_conflict])
def test_what_is_unknown_for_a_while_is_counted_once(metered: Metered, store: FaultyStore, fault: Any) -> None:
    store.faults = [fault]
    metered.world.call("add_task", worker="w", task_id="t", family="F", status="DONE")
    assert 'luigi_task_done_total{family="F"} 1.0' in generate_latest(metered.tasks.registry).decode()


def test_what_nobody_can_tell_of_any_more_is_not_counted(metered: Metered, store: FaultyStore) -> None:
    """So what is counted never exceeds what the journal has."""

    async def landed_and_truncated(attempt: Any) -> Any:
        await lost_reply(attempt)
        for number in range(3):
            metered_elsewhere.call("add_task", worker="v", task_id=f"r{number}")
        metered_elsewhere.clock.time += 10
        drive(metered_elsewhere.replica._flush())
        await store.inner.truncate(metered_elsewhere.graph.ledger.watermark)
        return Unknown(reason="the reply was lost")

    metered.world.call("add_task", worker="w", task_id="s")
    metered_elsewhere = World(store.inner, metered.world.clock, "b")
    store.faults = [landed_and_truncated]
    with pytest.raises(StoreDown):
        metered.world.call("add_task", worker="w", task_id="t", family="F", status="DONE")
    assert metered.seen(families.TASKS)[("DONE",)] == 1
    assert b"luigi_task_done_total{" not in generate_latest(metered.tasks.registry)


def test_what_another_replica_did_is_counted_there_only(metered: Metered, database: Database, clock: Clock) -> None:
    other = Metered(MemoryStore(namespace="default", database=database), clock, "b")
    other.world.call("add_task", worker="w", task_id="t", family="F", status="DONE")
    metered.world.call("task_list", status="", upstream_status="")
    assert metered.seen(families.TASKS)[("DONE",)] == 1
    assert b"luigi_task_done_total{" not in generate_latest(metered.tasks.registry)
    assert b"luigi_task_done_total{" in generate_latest(other.tasks.registry)


def test_a_call_that_is_undone_reports_nothing(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    def done_and_broken(task_id: str) -> None:
        metered.world.graph.add_task(worker="w", task_id=task_id, status="DONE")
        raise ZeroDivisionError

    monkeypatch.setattr(metered.world.graph, "mark_as_done", done_and_broken)
    with pytest.raises(Exception, match="failed on mark_as_done"):
        metered.world.call("mark_as_done", task_id="t")
    assert b"luigi_task_done_total{" not in generate_latest(metered.tasks.registry)


def test_every_outcome_of_a_commit_is_told_apart(metered: Metered, store: FaultyStore) -> None:
    async def refused(attempt: Any) -> Any:
        return Refused(reason="no")

    store.faults = [lost_request, lost_reply]
    metered.world.call("add_task", worker="w", task_id="t")
    assert metered.counted("luigi_spanner_commit_duration_seconds_count", outcome="unknown") == 2
    assert metered.counted("luigi_spanner_store_errors_total", kind="unknown") == 2
    store.faults = [refused, refused]  # with rows, and without
    with pytest.raises(Exception, match="no"):
        metered.world.call("add_task", worker="w", task_id="u")
    assert metered.counted("luigi_spanner_commit_duration_seconds_count", outcome="refused") == 2
    assert metered.value(families.SERVING) == 1


def test_a_store_that_fails(metered: Metered, store: FaultyStore) -> None:
    async def closed(attempt: Any) -> Any:
        raise Closed("it is closed")

    store.unavailable = 2
    metered.world.call("is_paused")
    assert metered.counted("luigi_spanner_store_errors_total", kind="unavailable") == 2
    store.faults = [closed]
    metered.world.settle(metered.world.waiting("add_task", worker="w", task_id="t"))
    assert metered.counted("luigi_spanner_commit_duration_seconds_count", outcome="failed") == 1
    assert metered.value(families.SERVING) == 0


def test_errors_without_a_kind_of_their_own() -> None:
    class Strange(Unavailable):
        pass

    registry = CollectorRegistry()
    Meter(registry, "n").store_error(Strange())
    assert registry.get_sample_value("luigi_spanner_store_errors_total", {"namespace": "n", "kind": "other"}) == 1


def test_a_clock_that_was_set_back_is_no_duration(metered: Metered) -> None:
    metered.meter.commit(Committed(), -5.0)
    metered.meter.caught_up(1, -5.0)
    assert metered.counted("luigi_spanner_commit_duration_seconds_sum", outcome="committed") == 0
    assert metered.counted("luigi_spanner_catch_up_lag_seconds_sum") == 0


@settings(max_examples=60)
@given(histories)
def test_the_gauges_are_what_a_look_at_every_task_says(history: Any) -> None:
    clock = Clock()
    metered = Metered(MemoryStore(namespace="default"), clock)
    play(metered.world, history)
    graph = metered.world.graph
    state = graph._state
    tasks = list(state._tasks.values())
    by_status = Tally(task.status for task in tasks)
    assert metered.seen(families.TASKS) == {(status,): by_status[status] for status in STATUSES}
    done = {task.id for task in tasks if task.status == "DONE"}
    ready = [task for task in tasks if task.status == PENDING and done.issuperset(task.deps)]
    assert metered.value(families.READY) == len(ready)
    running = [task for task in tasks if task.status == "RUNNING"]
    longest = max((clock() - task.updated for task in running), default=0.0)
    assert metered.value(families.LONGEST_RUN) <= longest + 1e-6 or not all(task.time_running for task in running)
    workers = Tally(worker.state for worker in state._active_workers.values())
    assert metered.seen(families.WORKERS) == {(name,): workers[name] for name in ("active", "disabled", "leaving")}
    used: Tally[tuple[str, ...]] = Tally()
    for name, amount in graph._used_resources().items():
        used[(name if name in graph._resources else "other",)] += amount
    seen = metered.seen(families.RESOURCE_USED)
    assert {label: amount for label, amount in seen.items() if amount} == {
        label: amount for label, amount in used.items() if amount
    }
    assert {name for (name,) in seen} >= set(graph._resources)
    assert metered.value(families.PAUSED) == graph._paused


def test_resources_are_bounded_and_nothing_is_lost(store: FaultyStore, clock: Clock) -> None:
    metered = Metered(store, clock, resources=2)
    world = metered.world
    for name, amount in (("a", 5), ("b", 7), ("other", 1), ("z", 3)):
        world.call("update_resource", resource=name, amount=amount)
    world.call("add_task", worker="w", task_id="t", resources={"a": 2, "z": 1, "lock of t": 1})
    world.call("get_work", worker="w", host="h")
    # Of the limits a, b, other and z two have a place of their own; a lock without a limit has the limit 1.
    assert metered.seen(families.RESOURCE_LIMIT) == {("a",): 5, ("b",): 7, ("other",): 1 + 3 + 1}
    assert metered.seen(families.RESOURCE_USED) == {("a",): 2, ("b",): 0, ("other",): 2}
    wide = Metered(store, clock, "b")
    assert wide.seen(families.RESOURCE_LIMIT) == {("a",): 5, ("b",): 7, ("z",): 3, ("other",): 1 + 1}


def test_an_endless_resource_is_infinite(metered: Metered) -> None:
    metered.world.graph.limits["r"] = float("inf")
    metered.world.call("configure")
    metered.world.call("add_task", worker="w", task_id="t", resources={"r": float("inf")})
    metered.world.call("get_work", worker="w", host="h")
    assert metered.seen(families.RESOURCE_LIMIT)[("r",)] == float("inf")
    assert metered.seen(families.RESOURCE_USED)[("r",)] == float("inf")


def test_a_look_is_not_at_every_task(metered: Metered, monkeypatch: pytest.MonkeyPatch) -> None:
    world = metered.world
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(50)))
    world.call("get_work", worker="w", host="h")
    metered.gauges.take()
    state = world.graph._state
    looked: list[str] = []

    class Watched(dict[str, Any]):
        def __getattribute__(self, name: str) -> Any:
            looked.append(name)
            return dict.__getattribute__(self, name)

        def __iter__(self) -> Any:
            looked.append("__iter__")
            return dict.__iter__(self)

    monkeypatch.setitem(state.__dict__, "_tasks", Watched(dict.copy(state._tasks)))
    assert metered.seen(families.TASKS)[("PENDING",)] == 49
    assert looked == []


def test_how_long_the_oldest_run_takes(metered: Metered, clock: Clock) -> None:
    assert metered.value(families.LONGEST_RUN) == 0
    for number in range(2):
        metered.world.call("add_task", worker="w", task_id=f"t{number}")
        metered.world.call("get_work", worker="w", host="h")
        clock.time += 10
    assert metered.value(families.LONGEST_RUN) == pytest.approx(20)


def test_names_follow_the_conventions() -> None:
    for family in (*families.COUNTED, *families.GAUGES):
        assert re.fullmatch(r"luigi_spanner_[a-z_]+", family.name)
        assert family.name.endswith("_total") == (family.kind == "counter")
        assert family.help.endswith(".") and bool(family.buckets) == (family.kind == "histogram")
