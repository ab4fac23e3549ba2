"""One busy replica without its server: `python -m benchmarks.contender STORE --clients N --seconds N`.

Its clients call it in the same process, each one call after the other, so that nothing is measured but replicas that contend for
a journal. With `--delay` each read and each commit takes so many seconds more. It says when it is ready, begins when it is told
to, and prints what it saw as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from luigi_spanner.calls import Call
from luigi_spanner.journal import Entry, Row
from luigi_spanner.service import Service
from luigi_spanner.stores import Committed, Outcome, Snapshot, Store
from luigi_spanner.stores.location import open_store

T = TypeVar("T")

SLOW_AFTER = 1.0
"""Seconds after the start at which the call with very many dependencies comes."""


@dataclass
class Seen:
    """`tries`: commits of each batch that changed something. `commits`: how long each took, in seconds. `waits`: of each call, in
    seconds. `slow`: of the call with very many dependencies, None if there was none."""

    tries: list[int] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    slow: float | None = None


class WatchedStore:
    """A store at the other end of a network that takes `delay` seconds for each round trip."""

    def __init__(self, store: Store, delay: float, seen: Seen) -> None:
        self._store = store
        self._delay = delay
        self._seen = seen
        self._tries = 0

    async def load(self) -> Snapshot:
        return await self._store.load()

    async def read_after(self, seq: int) -> list[Entry]:
        return await self._far(lambda: self._store.read_after(seq))

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        began = time.perf_counter()
        outcome = await self._far(lambda: self._store.commit(seq, entry, rows))
        self._seen.commits.append(time.perf_counter() - began)
        if not entry.only_asks:
            self._tries += 1
            if isinstance(outcome, Committed):
                self._seen.tries.append(self._tries)
                self._tries = 0
        return outcome

    async def truncate(self, before: int) -> None:
        await self._far(lambda: self._store.truncate(before))

    async def close(self) -> None:
        await self._store.close()

    async def _far(self, carry_out: Callable[[], Awaitable[T]]) -> T:
        if not self._delay:
            return await carry_out()
        await asyncio.sleep(self._delay / 2)
        result = await carry_out()
        await asyncio.sleep(self._delay / 2)
        return result


async def contend(given: argparse.Namespace) -> Seen:
    """Enter the namespace, wait for the start, then let the clients call until the end."""
    seen = Seen()
    store = WatchedStore(await open_store(given.store, "default", ids=_new_id), given.delay, seen)
    service = Service(store, "default", ids=_new_id, hold=60.0)
    await service.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    seen.tries.clear()
    clients = [asyncio.create_task(_client(service, f"{given.name}{number}", seen)) for number in range(given.clients)]
    slow = asyncio.create_task(_declare(service, given.dependencies, seen)) if given.dependencies else None
    await asyncio.sleep(given.seconds)
    if slow is not None:
        await slow
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await service.stop()
    return seen


async def _client(service: Service, name: str, seen: Seen) -> None:
    async def ask(method: str, **arguments: Any) -> Any:
        began = time.perf_counter()
        reply = await service.call(Call(request_id=_new_id(), method=method, arguments={"worker": name, **arguments}))
        seen.waits.append(time.perf_counter() - began)
        return json.loads(reply)

    number = 0
    while True:
        number += 1
        await ask("add_task", task_id=f"{name}_{number}", family="Family", params={"number": str(number)})
        found = await ask("get_work", host="bench")
        if found["task_id"] is not None:
            await ask("add_task", task_id=found["task_id"], status="DONE")


async def _declare(service: Service, dependencies: int, seen: Seen) -> None:
    """A task with very many dependencies, once."""
    await asyncio.sleep(SLOW_AFTER)
    began = time.perf_counter()
    arguments = {"worker": "slow", "task_id": "slow", "deps": [f"slow_{number}" for number in range(dependencies)]}
    await service.call(Call(request_id=_new_id(), method="add_task", arguments=arguments))
    seen.slow = time.perf_counter() - began


def _new_id() -> str:
    return uuid.uuid4().hex


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.contender")
    parser.add_argument("store")
    parser.add_argument("--name", default="w")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--dependencies", type=int, default=0)
    print(json.dumps(asdict(asyncio.run(contend(parser.parse_args(argv))))))


if __name__ == "__main__":
    main()
