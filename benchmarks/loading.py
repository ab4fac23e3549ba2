"""Fill a scheduler with a graph, quickly: `python -m benchmarks.loading stock|ours KIND SIZE SEED PLACE`.

Stock's state is made in this process and pickled to the file PLACE, as luigid does when it ends. Ours is made by our own
service on the store of URL PLACE, the calls in batches.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

import luigi.scheduler

from benchmarks.graphs import Graph
from luigi_spanner.calls import Call
from luigi_spanner.service import Service

TOGETHER = 1000
"""Calls that wait together. As many as a batch takes."""

HOLD = 600.0
"""Seconds that a call may take: nobody waits for it."""


def load_stock(graph: Graph, path: str) -> None:
    """Write stock's pickle of `graph` to `path`."""
    scheduler = luigi.scheduler.Scheduler(state_path=path)
    for method, arguments in graph.steps():
        getattr(scheduler, method)(**arguments)
    scheduler.dump()


async def load_ours(graph: Graph, url: str) -> None:
    """Put `graph` into the store of that URL, its tables complete."""
    service = await Service.open(url, "default", hold=HOLD)
    await service.start()
    try:
        await fill(service, graph)
    finally:
        await service.stop()


async def fill(service: Service, graph: Graph) -> None:
    """Make the calls of `graph`, in order, many at a time."""
    steps = graph.steps()
    while wave := list(itertools.islice(steps, TOGETHER)):
        calls = (Call(request_id="load", method=method, arguments=arguments) for method, arguments in wave)
        await asyncio.gather(*map(service.call, calls))


def main(scheduler: str, kind: str, size: str, seed: str, place: str) -> None:
    graph = Graph(kind=kind, size=int(size), seed=int(seed))
    if scheduler == "stock":
        load_stock(graph, place)
    else:
        asyncio.run(load_ours(graph, place))


if __name__ == "__main__":
    main(*sys.argv[1:])
