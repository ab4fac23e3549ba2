"""Our server on a memory store whose commits take a given time: `python -m benchmarks.delayed --delay SECONDS --port N`.

The server is the real one; only the store is wrapped. With `--graph KIND SIZE SEED` it starts out full.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import uuid
from collections.abc import Sequence

from benchmarks.graphs import Graph
from benchmarks.loading import HOLD, fill
from luigi_spanner.calls import Scheduling
from luigi_spanner.collector import Freezer
from luigi_spanner.config import Options, luigi_config, resolve
from luigi_spanner.journal import Entry, Row
from luigi_spanner.server import serve
from luigi_spanner.service import Service
from luigi_spanner.stores import Outcome, Snapshot, Store
from luigi_spanner.stores.memory import Database, MemoryStore


class DelayedStore:
    """A store whose commits become durable after `delay` seconds more; reads are as fast as they are."""

    def __init__(self, store: Store, delay: float) -> None:
        self._store = store
        self._delay = delay

    async def load(self) -> Snapshot:
        return await self._store.load()

    async def read_after(self, seq: int) -> list[Entry]:
        return await self._store.read_after(seq)

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        if self._delay:
            await asyncio.sleep(self._delay)
        return await self._store.commit(seq, entry, rows)

    async def truncate(self, before: int) -> None:
        await self._store.truncate(before)

    async def close(self) -> None:
        await self._store.close()


async def run(port: int, address: str, delay: float, graph: Graph | None) -> None:
    """Fill a database, then serve it until a signal comes."""
    database = Database()
    if graph is not None:
        filling = _service(MemoryStore(namespace="default", database=database))
        await filling.start()
        await fill(filling, graph)
        await filling.stop()

    async def opening(options: Options) -> Scheduling:
        return _service(DelayedStore(MemoryStore(namespace="default", database=database), delay))

    flags = {"store": "memory://", "address": address, "port": str(port)}
    await serve(resolve(flags, {}, luigi_config()), opening)


def _service(store: Store) -> Service:
    # As the daemon: else the cycle collector looks at the whole state in the midst of a large call.
    return Service(store, "default", ids=lambda: uuid.uuid4().hex, hold=HOLD, each_second=Freezer().look)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.delayed")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--graph", nargs="*", default=[])
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args(argv)
    graph = Graph(kind=given.graph[0], size=int(given.graph[1]), seed=int(given.graph[2])) if given.graph else None
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s[%(process)s] %(levelname)s: %(message)s")  # as luigid
    asyncio.run(run(given.port, given.address, given.delay, graph))


if __name__ == "__main__":
    main()
