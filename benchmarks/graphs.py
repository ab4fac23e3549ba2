"""Task graphs, as the calls that make them. The same calls, with the same arguments, go to stock and to ours.

Each is what one scheduler has to cope with before the measured worker, ASKER, asks for work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

Step: TypeAlias = tuple[str, dict[str, Any]]
"""A call: method and arguments."""

Build: TypeAlias = Callable[[int, Random], Iterator[Step]]

ASKER = "Worker(salt=0, workers=1, host=bench, username=bench, pid=0)"
"""The worker that measures."""

HELD_LOCKS = 500
"""Of the tasks with a lock of their own, how many another worker runs already."""

OVERLAPPING_WORKERS = 500
RUNNING_TASKS = 5_000
ASSISTED_WORKERS = 50
CHAIN_LENGTH = 100
SHARING_WORKERS = 16
SCARCE = 5
"""How much there is of the scarce resource; all of it is in use."""

AMPLE = 1_000_000
"""How much there is of a resource that never runs out."""


def worker(number: int) -> str:
    """The id of another worker, shaped like a real one."""
    return f"Worker(salt={number:09d}, workers=1, host=bench, username=bench, pid={10_000 + number})"


def task_id(number: int, family: str = "Bench") -> str:
    """The id of a task, shaped like a real one."""
    return f"{family}_2026_01_01_{number}_{number:010x}"


def add(number: int, owner: str, **arguments: Any) -> dict[str, Any]:
    """The arguments of `add_task`, all those that a Luigi worker sends."""
    return {
        "worker": owner,
        "task_id": task_id(number),
        "status": "PENDING",
        "runnable": True,
        "deps": [],
        "priority": 0,
        "resources": {},
        "params": {"date": "2026-01-01", "number": str(number)},
        "family": "Bench",
        "module": "bench.tasks",
        "batchable": False,
        "retry_policy_dict": {"retry_count": 999999999, "disable_hard_timeout": 999999999, "disable_window": 3600},
        "accepts_messages": False,
        "param_visibilities": {"date": 0, "number": 0},
        "owners": [],
        **arguments,
    }


def wide(size: int, rng: Random) -> Iterator[Step]:
    """Tasks without dependencies and resources."""
    for number in range(size):
        yield "add_task", add(number, ASKER, priority=rng.randrange(10))


def chains(size: int, rng: Random) -> Iterator[Step]:
    """Chains of 100 tasks, of which the first of each can run."""
    for number in range(size):
        deps = [task_id(number - 1)] if number % CHAIN_LENGTH else []
        yield "add_task", add(number, ASKER, deps=deps)


def resource(size: int, rng: Random) -> Iterator[Step]:
    """Tasks that need one of a resource of which there is plenty."""
    yield "update_resource", {"resource": "slots", "amount": AMPLE}
    for number in range(size):
        yield "add_task", add(number, ASKER, priority=rng.randrange(10), resources={"slots": 1})


def scarce(size: int, rng: Random) -> Iterator[Step]:
    """Tasks that need a resource that is used up; only the 500 of lowest priority do not."""
    yield "update_resource", {"resource": "slots", "amount": SCARCE}
    holder = worker(1)
    for number in range(SCARCE):
        yield "add_task", add(number, holder, priority=100, resources={"slots": 1})
        yield "get_work", {"worker": holder, "host": "bench"}
    for number in range(SCARCE, size):
        yield "add_task", add(number, ASKER, priority=1 + rng.randrange(10), resources={"slots": 1})
    for number in range(size, size + HELD_LOCKS):
        yield "add_task", add(number, ASKER, resources={"others": 0})


def shares(size: int, rng: Random) -> Iterator[Step]:
    """Tasks that need one of a plentiful resource, each wanted by one of 16 workers."""
    yield "update_resource", {"resource": "slots", "amount": AMPLE}
    for number in range(size):
        yield "add_task", add(number, worker(number % SHARING_WORKERS), resources={"slots": 1})


def layered(size: int, rng: Random) -> Iterator[Step]:
    """Each task depends on three earlier ones."""
    for number in range(size):
        deps = [task_id(rng.randrange(number)) for _ in range(3)] if number else []
        yield "add_task", add(number, ASKER, deps=deps)


def locks(size: int, rng: Random) -> Iterator[Step]:
    """Each task has a lock of its own; those of highest priority find it held by a running task."""
    holder = worker(1)
    held = min(HELD_LOCKS, size // 4)
    for number in range(held):
        yield "add_task", add(number, holder, resources={f"lock_{number}": 1})
        yield "get_work", {"worker": holder, "host": "bench"}
    for number in range(held, 2 * held):
        yield "add_task", add(number, ASKER, priority=10, resources={f"lock_{number - held}": 1})
    for number in range(2 * held, size):
        yield "add_task", add(number, ASKER, resources={f"lock_{number}": 1})


def overlapping(size: int, rng: Random) -> Iterator[Step]:
    """500 workers that ask, each task wanted by three of them and needing a resource; ASKER wants one in fifty."""
    yield "update_resource", {"resource": "slots", "amount": AMPLE}
    owners = [worker(number) for number in range(OVERLAPPING_WORKERS)]
    for owner in owners:
        yield "get_work", {"worker": owner, "host": "bench"}
    for number in range(size):
        wanted_by = rng.sample(owners, 3) + ([ASKER] if number % 50 == 0 else [])
        for owner in wanted_by:
            yield "add_task", add(number, owner, priority=number % 7, resources={"slots": 1})


def running(size: int, rng: Random) -> Iterator[Step]:
    """5,000 tasks run on other workers; the rest are ready and need a resource."""
    yield "update_resource", {"resource": "slots", "amount": AMPLE}
    busy = min(RUNNING_TASKS, size // 4)
    for number in range(busy):
        owner = worker(number % 100)
        yield "add_task", add(number, owner, resources={"slots": 1})
        yield "add_task", add(number, owner, status="RUNNING", resources={"slots": 1})
    for number in range(busy, size):
        yield "add_task", add(number, ASKER, priority=rng.randrange(10), resources={"slots": 1})


def assistants(size: int, rng: Random) -> Iterator[Step]:
    """Tasks of 50 workers, asked for by an assistant that has none of its own."""
    for number in range(size):
        yield "add_task", add(number, worker(number % ASSISTED_WORKERS), priority=rng.randrange(10))


def _batches(limit: int) -> Build:
    def build(size: int, rng: Random) -> Iterator[Step]:
        batcher = {"worker": ASKER, "task_family": "Bench", "batched_args": ["number"], "max_batch_size": limit}
        yield "add_task_batcher", batcher
        for number in range(size):
            yield "add_task", add(number, ASKER, batchable=True)

    return build


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph of one kind and size. `seed` decides whatever is random in it."""

    kind: str
    size: int
    seed: int

    def steps(self) -> Iterator[Step]:
        """The calls that make it, the same ones each time."""
        return KINDS[self.kind](self.size, Random(f"{self.kind}:{self.size}:{self.seed}"))

    def get_work(self) -> dict[str, Any]:
        """The arguments of the measured `get_work`."""
        return {"worker": ASKER, "host": "bench", "assistant": self.kind == "assistants"}


KINDS: Mapping[str, Build] = {
    "chains": chains,
    "wide": wide,
    "resource": resource,
    "scarce": scarce,
    "shares": shares,
    "layered": layered,
    "locks": locks,
    "overlapping": overlapping,
    "running": running,
    "assistants": assistants,
    "batches_100": _batches(100),
    "batches_10000": _batches(10_000),
}
