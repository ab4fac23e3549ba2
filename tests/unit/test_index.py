"""The index is what it would be if it were made anew, whatever happened and was undone; and nothing stays in it for ever."""

from __future__ import annotations

import random
from typing import Any

import pytest

from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.index import Due, Index
from luigi_spanner.graph.ready import Group, Need, Ready

WORKERS = [f"w{number}" for number in range(6)]
TASKS = [f"F_{number}" for number in range(25)]
NEEDS: list[dict[str, float]] = [{}, {"r": 1}, {"r": 0.5, "lock": 1}, {"lock": 1}, {"r": 0}, {"s": 2}]


class World:
    """A graph at a time of its own, whose calls may be undone."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.time = 1000.0
        self.calls = 0
        self.graph = Graph(
            None, {"r": 2}, clock=lambda: self.time, retry_count=2, retry_delay=5, remove_delay=20, disable_persist=40
        )
        self.run("configure")

    @property
    def index(self) -> Index:
        self.graph._state.index.refresh()
        return self.graph._state.index

    def run(self, method: str, undo: bool = False, **arguments: Any) -> Any:
        """A call and, before it is settled, maybe its undoing."""
        tracker = self.graph.tracker
        self.calls += 1
        tracker.begin(self.calls)
        savepoint = tracker.savepoint()
        reply = self.graph.run(getattr(self.graph, method), arguments)
        if undo:
            tracker.rollback(savepoint)
        tracker.take()
        tracker.settle()
        return reply

    def step(self) -> None:
        """Some call, with some time before it; one in ten is undone."""
        pick, number = self.rng.choice, self.rng.random
        self.time += pick([0, 0, 0.5, 2, 7, 30])
        undo = number() < 0.1
        worker, task = pick(WORKERS), pick(TASKS)
        place = TASKS.index(task)
        kind = number()
        if kind < 0.4:
            self.run(
                "add_task",
                undo,
                worker=worker,
                task_id=task,
                family=pick("FG"),
                params={"day": task, "kind": pick("ab")},
                deps=self.rng.sample(TASKS, pick([0, 0, 1, 2])) if number() < 0.2 else TASKS[place + 1 : place + pick([1, 1, 2])],
                priority=pick([0, 0, 1, 2]),
                resources=pick(NEEDS),
                batchable=number() < 0.5,
                status=pick(["PENDING"] * 6 + ["UNKNOWN", "DISABLED", "DONE"]),
            )
        elif kind < 0.65:
            self.run("get_work", undo, worker=worker, assistant=number() < 0.2, current_tasks=pick([None, [], TASKS]))
        elif kind < 0.85:
            self.run("add_task", undo, worker=worker, task_id=task, status=pick(["DONE", "DONE", "FAILED"]), expl="")
        elif kind < 0.9:
            self.run("prune", undo)
        elif kind < 0.93:
            self.run("add_task_batcher", undo, worker=worker, task_family=pick("FG"), batched_args=["day"])
        elif kind < 0.96:
            self.run("update_resource", undo, resource=pick(["r", "s", "lock"]), amount=pick([0, 1, 2, 5]))
        else:
            self.run(pick(["disable_worker", "ping", "count_pending"]), undo, worker=worker)

    def end(self) -> None:
        """Everybody goes away, and what they wanted is pruned."""
        for _ in range(4):
            self.time += 1_000_000
            self.run("prune")


def contents(index: Index) -> dict[str, Any]:
    """What an index says, without what depends on how it came about."""
    plain = index.below.is_plain()
    return {
        "entries": {
            task_id: (
                entry.status,
                frozenset(entry.deps),
                entry.workers,
                entry.needy,
                entry.unheld,
                entry.remove,
                entry.due,
                entry.rank,
                entry.place.key if isinstance(entry.place, Group) else entry.place,
                entry.batch and (entry.batch[0].key, entry.batch[1]),
            )
            for task_id, entry in index.entries.items()
        },
        "dependents": index.dependents,
        "unfinished": index.unfinished,
        "counts": index.counts,
        "plain": plain,
        "below": index.below.counts if plain else None,
        "running": list(index.running),
        "sets": (index.running_on, index.running_able, index.batches, index.batches_on, index.strays, index.unheld, index.used),
        "demand": index.ready.demand,
        "groups": {group.key: list(index.ready.members(group)) for group in groups_of(index.ready)},
        "families": {key: sorted(family.alike({}, [], None)) for key, family in index.families.items()},
    }


def groups_of(ready: Ready) -> list[Group]:
    queues = (ready.runnable, ready.external)
    return [group for queue in queues for _, group in ready.groups(queue, lambda need: False)]


def in_order(index: Index, limits: dict[str, Any]) -> bool:
    """Whether every queue yields the groups that it should, by the rank of their first tasks, and the first that fits."""

    def spent(need: Need) -> bool:
        return need[1] + index.used.get(need[0], 0) > limits.get(need[0], 1)

    groups = groups_of(index.ready)
    for worker_id, queue in index.ready.queues.items():
        found = list(index.ready.groups(queue, lambda need: False))
        firsts = [(index.ready.first(group), group) for group in groups if worker_id in group.workers]
        if found != sorted(firsts, key=lambda first: first[0]):
            return False
        fitting = [group for _, group in found if not any(map(spent, group.needs))]
        if index.ready.open(queue, spent) is not (fitting[0] if fitting else None):
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_the_index_is_as_if_made_anew(seed: int) -> None:
    world = World(random.Random(seed))
    for number in range(300):
        world.step()
        if number % 5 == 0:
            index = world.index
            anew = Index(world.graph._state)
            world.graph.tracker.stale.update(world.graph._state._tasks)
            anew.refresh()
            assert contents(index) == contents(anew), number
            assert in_order(index, world.graph._resources), number


def dues(index: Index) -> tuple[Due, ...]:
    return index.retries, index.removals, index.disables


def leftovers(index: Index) -> dict[str, Any]:
    """What is in the index, by name; the times at which something was due go when they have passed."""
    ready, below = index.ready, index.below
    everything = {f"index.{name}": value for name, value in vars(index).items() if isinstance(value, (dict, set, list))}
    everything |= {f"ready.{name}": value for name, value in vars(ready).items() if isinstance(value, (dict, set, list))}
    everything |= {f"below.{name}": value for name, value in vars(below).items() if isinstance(value, (dict, set, list))}
    everything |= {f"{due._attribute} {name}": value for due in dues(index) for name, value in vars(due).items() if value}
    everything |= {"running": list(index.running)}
    everything |= {"runnable": [*ready.runnable.heap, *ready.runnable.buckets], "external": [*ready.external.buckets]}
    return {name: value for name, value in everything.items() if value and not name.endswith(("_interned", "_attribute"))}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_stays_in_the_index_when_all_tasks_have_gone(seed: int) -> None:
    world = World(random.Random(seed))
    for _ in range(300):
        world.step()
    world.end()
    for due in dues(world.index):
        due.until(world.time, world.index.entries)
    assert not world.graph._state._tasks
    assert leftovers(world.index) == {}
