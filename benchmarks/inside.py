"""Measurements without a server: `python -m benchmarks.inside get_work|memory stock|ours KIND SIZE SEED [REPEATS CALLS]`.

Each prints a JSON list with one number a repeat: the median of `get_work` in seconds, or the bytes of memory a task.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import luigi.scheduler

import luigi_spanner
from benchmarks.graphs import Graph, Step
from benchmarks.loading import HOLD, TOGETHER
from benchmarks.servers import resident
from luigi_spanner.calls import Call
from luigi_spanner.service import Service

MEMORY_SHARE = 0.7
"""Of the memory that is available, how much a measurement may take."""


def get_work(scheduler: str, graph: Graph, repeats: int, calls: int) -> list[float]:
    """Medians of `calls` calls each."""
    asked: Any = luigi.scheduler.Scheduler() if scheduler == "stock" else luigi_spanner.Scheduler(store="memory://")
    for method, arguments in graph.steps():
        getattr(asked, method)(**arguments)
    arguments = graph.get_work()
    medians = []
    for _ in range(repeats):
        taken = []
        for _ in range(calls):
            begun = time.perf_counter()
            asked.get_work(**arguments)
            taken.append(time.perf_counter() - begun)
        medians.append(median(taken))
    return medians


def memory(scheduler: str, graph: Graph) -> list[float]:
    """Growth of the resident memory by adding every task, over the number of tasks."""
    grow = _grow_stock(graph) if scheduler == "stock" else asyncio.run(_grow_ours(graph))
    return [grow / graph.size]


def _grow_stock(graph: Graph) -> int:
    scheduler = luigi.scheduler.Scheduler()
    before = _settled()
    for method, arguments in _decoded(graph):
        getattr(scheduler, method)(**arguments)
    return _settled() - before


async def _grow_ours(graph: Graph) -> int:
    with tempfile.TemporaryDirectory() as directory:
        service = await Service.open(f"sqlite:///{directory}/memory.db", "default", hold=HOLD)
        await service.start()
        try:
            before = _settled()
            steps = _decoded(graph)
            while wave := list(itertools.islice(steps, TOGETHER)):
                calls = (Call(request_id="", method=method, arguments=arguments) for method, arguments in wave)
                await asyncio.gather(*map(service.call, calls))
            # The index is brought up to date by the first question.
            await service.call(Call(request_id="", method="get_work", arguments=graph.get_work()))
            return _settled() - before
        finally:
            await service.stop()


def _decoded(graph: Graph) -> Iterator[Step]:
    """Each call as a server sees it: no string is shared with another call."""
    return ((method, json.loads(json.dumps(arguments))) for method, arguments in graph.steps())


def _settled() -> int:
    gc.collect()
    return resident(os.getpid())


def limit_memory() -> None:
    """Let this process end with a MemoryError rather than take the machine down: a million tasks are many gigabytes."""
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(MEMORY_SHARE * available), most))


def main(what: str, scheduler: str, kind: str, size: str, seed: str, *counts: str) -> None:
    limit_memory()
    graph = Graph(kind=kind, size=int(size), seed=int(seed))
    result = memory(scheduler, graph) if what == "memory" else get_work(scheduler, graph, *map(int, counts))
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
