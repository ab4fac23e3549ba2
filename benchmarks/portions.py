"""Calls that ask for far too much: how long another worker waits meanwhile. A service on SQLite, in this process."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from benchmarks.loading import HOLD, TOGETHER
from luigi_spanner.calls import Call
from luigi_spanner.collector import Freezer
from luigi_spanner.service import Service

MOST = 1.0
"""Seconds that no other worker may wait longer than."""

PARAMETER = 5_000_000
"""Characters of the large parameter; the longest STRING of Spanner has half as many."""

Case = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A service, somebody who asks far too much of it, and a bystander who calls again and again."""

    def __init__(self, service: Service, scale: int, seed: int) -> None:
        self.service = service
        self.scale = scale
        self.random = Random(seed)
        self._ids = itertools.count()
        self._calls = 0
        self._longest = 0.0

    def many(self, count: int) -> int:
        return max(10, count // self.scale)

    async def call(self, method: str, **arguments: Any) -> Any:
        call = Call(request_id=f"call-{next(self._ids)}", method=method, arguments=arguments)
        return json.loads(await self.service.call(call))

    async def add(self, worker: str, count: int, **arguments: Any) -> None:
        """Add tasks, numbered, a wave at a time."""
        numbers = iter(range(count))
        while wave := list(itertools.islice(numbers, TOGETHER)):
            await asyncio.gather(
                *(self.call("add_task", worker=worker, task_id=f"{worker}_{n}", params={"n": str(n)}, **arguments) for n in wave)
            )

    async def measure(self, case: Case) -> float:
        """Seconds that the bystander waited at most for a reply, from before the case to after it."""
        bystander = asyncio.create_task(self._stand_by())
        try:
            await self._four_calls()
            self._longest = 0.0
            await case(self)
            await self._four_calls()
        finally:
            bystander.cancel()
        return self._longest

    async def _time(self, method: str, **arguments: Any) -> None:
        begun = time.perf_counter()
        await self.call(method, **arguments)
        self._longest = max(self._longest, time.perf_counter() - begun)
        self._calls += 1

    async def _four_calls(self) -> None:
        until = self._calls + 4
        while self._calls < until:
            await asyncio.sleep(0.001)

    async def _stand_by(self) -> None:
        while True:
            await self._time("add_task", worker="bystander", task_id="beside", family="Beside")
            await self._time("get_work", worker="bystander", host="h", current_tasks=[])
            await asyncio.sleep(0.001)


async def many_dependencies(stage: Stage) -> None:
    names = [f"Dependency_{number}" for number in range(stage.many(100_000))]
    for _ in range(2):
        await stage.call("add_task", worker="w", task_id="Wide", family="Wide", deps=names)


async def rising_chain(stage: Stage) -> None:
    length = stage.many(10_000)
    numbers = iter(range(length))
    while wave := list(itertools.islice(numbers, TOGETHER)):
        calls = ({"task_id": f"Link_{n}", "deps": [f"Link_{n + 1}"]} for n in wave)
        await asyncio.gather(*(stage.call("add_task", worker="w", family="Link", **given) for given in calls))
    await stage.call("add_task", worker="w", task_id="Link_0", family="Link", deps=["Link_1"], priority=9)


async def large_parameter(stage: Stage) -> None:
    text = stage.random.randbytes(PARAMETER // 2).hex()
    await stage.call("add_task", worker="w", task_id="Heavy", family="Heavy", params={"text": text})
    await stage.call("add_task", worker="w", task_id="Heavy", family="Heavy", status="DONE")


async def large_batch(stage: Stage) -> None:
    await stage.call("add_task_batcher", worker="batch", task_family="Batch", batched_args=["n"])
    await stage.add("batch", stage.many(50_000), family="Batch", batchable=True)
    while (reply := await stage.call("get_work", worker="batch", host="h")).get("batch_id"):
        (first, *_) = reply["batch_task_ids"]
        done = {"worker": "batch", "batch_id": reply["batch_id"], "family": "Batch"}
        await stage.call("add_task", task_id=first, status="RUNNING", **done)
        await stage.call("add_task", task_id=first, status="DONE", **done)


async def dying_worker(stage: Stage) -> None:
    await stage.add("mortal", stage.many(100_000), family="Left")
    graph = stage.service._graph
    worker = graph._state.find_worker("mortal")
    assert worker is not None
    # A day without a ping, which nobody has to wait for.
    worker.__dict__["last_active"] -= 86_400
    await stage.call("prune")
    while graph.unpruned():
        await asyncio.sleep(0.01)
        await stage.call("prune")


CASES: dict[str, Case] = {
    "100,000 dependencies": many_dependencies,
    "a chain of 10,000 whose priority rises": rising_chain,
    "a parameter of 5 MB": large_parameter,
    "a batch of 50,000": large_batch,
    "a worker with 100,000 tasks that dies": dying_worker,
}


async def longest_waits(scale: int, seed: int) -> dict[str, float]:
    """Seconds that a bystander waited at most, by case."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/portions.db"
        service = await Service.open(url, "default", hold=HOLD, each_second=Freezer().look)
        await service.start()
        try:
            stage = Stage(service, scale, seed)
            return {name: await stage.measure(case) for name, case in CASES.items()}
        finally:
            await service.stop()


def main(scale: str, seed: str) -> None:
    print(json.dumps(asyncio.run(longest_waits(int(scale), int(seed)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
