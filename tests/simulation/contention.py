"""Several busy replicas that contend for one journal, on virtual time: how often batches are tried, and how long calls wait.

Nothing takes time but the way to the store and back, so what is seen is the protocol, not the processor.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from twins import EPOCH
from virtual import Process, VirtualLoop

from luigi_spanner.calls import Call
from luigi_spanner.journal import Entry, Row
from luigi_spanner.service import Service
from luigi_spanner.stores import Committed, Outcome, Snapshot
from luigi_spanner.stores.memory import Database, MemoryStore

T = TypeVar("T")

JITTER = 0.2
"""By how much of itself a way is longer or shorter at random."""

WARM_TRIPS = 30
"""Round trips before anything is noted, for replicas to enter the namespace and to meet."""


@dataclass(frozen=True, kw_only=True)
class Contention:
    """`clients` are shared out to the replicas; each calls again `pause` seconds, on average, after it was answered. Replicas are
    `round_trip` seconds away from the store, and are looked at for `trips` round trips."""

    replicas: int
    clients: int
    round_trip: float
    trips: int = 200
    pause: float = 0.0
    seed: int = 1


@dataclass
class Seen:
    """`tries`: commits of each batch that changed something. `waits`: of each call, in round trips. `requests`: entries
    sent that only ask for a turn. `answered`: how many calls of each replica."""

    tries: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    requests: int = 0
    answered: dict[int, int] = field(default_factory=dict)


def share(values: Sequence[float], part: float) -> float:
    """The value that this part of them does not exceed."""
    return sorted(values)[min(int(part * len(values)), len(values) - 1)]


class Contest:
    """The replicas, their clients, and what they see."""

    def __init__(self, contention: Contention, loop: VirtualLoop) -> None:
        self.contention = contention
        self.loop = loop
        self.seen = Seen()
        self.begin = WARM_TRIPS * contention.round_trip
        self._numbers = itertools.count()
        self.services: list[Service] = []

    async def play(self) -> Seen:
        """Let the clients call until the end."""
        await self.start()
        self.begin += self.loop.time()
        clients = [asyncio.create_task(self._client(number)) for number in range(self.contention.clients)]
        await asyncio.sleep(self.begin + self.contention.trips * self.contention.round_trip - self.loop.time())
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await self.stop()
        return self.seen

    async def start(self) -> None:
        """Let the replicas enter the namespace."""
        database = Database()
        for number in range(self.contention.replicas):
            store = _FarStore(self, MemoryStore(namespace="default", database=database), number)
            service = Service(store, "default", ids=self._next_id, clock=lambda: EPOCH + self.loop.time())
            service._process = f"process {number}"
            self.services.append(service)
        await asyncio.gather(
            *(self.loop.spawn(Process(f"replica {number}"), service.start()) for number, service in enumerate(self.services))
        )

    async def stop(self) -> None:
        """Let them end in good order."""
        await asyncio.gather(*(service.stop() for service in self.services))

    def _next_id(self) -> str:
        return f"{next(self._numbers):08x}{0:024x}"

    async def _client(self, number: int) -> None:
        worker = f"w{number}"
        for count in itertools.count():
            await self.ask(number, "add_task", worker=worker, task_id=f"{worker}_{count}")
            found = await self.ask(number, "get_work", worker=worker, host="here")
            if found["task_id"] is not None:
                await self.ask(number, "add_task", worker=worker, task_id=found["task_id"], status="DONE")

    async def ask(self, number: int, method: str, **arguments: Any) -> Any:
        """A call of client `number`."""
        replica = number % self.contention.replicas
        began = self.loop.time()
        reply = await self.services[replica].call(Call(request_id=self._next_id(), method=method, arguments=arguments))
        if began >= self.begin:
            self.seen.waits.append((self.loop.time() - began) / self.contention.round_trip)
            self.seen.answered[replica] = self.seen.answered.get(replica, 0) + 1
        if self.contention.pause:
            await asyncio.sleep(random.Random(f"{self.contention.seed} {began} {number}").expovariate(1 / self.contention.pause))
        return json.loads(reply)


class _FarStore:
    """A memory store at the other end of a network."""

    def __init__(self, contest: Contest, inner: MemoryStore, number: int) -> None:
        self._contest = contest
        self._inner = inner
        self._dice = random.Random(f"store {contest.contention.seed} {number}")
        self._tries = 0

    async def load(self) -> Snapshot:
        return await self._far(self._inner.load)

    async def read_after(self, seq: int) -> list[Entry]:
        return await self._far(lambda: self._inner.read_after(seq))

    async def truncate(self, before: int) -> None:
        await self._far(lambda: self._inner.truncate(before))

    async def close(self) -> None:
        await self._inner.close()

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        outcome = await self._far(lambda: self._inner.commit(seq, entry, rows))
        seen = self._contest.seen
        if entry.only_asks:
            seen.requests += 1
        elif self._contest.loop.time() >= self._contest.begin:
            self._tries += 1
            if isinstance(outcome, Committed):
                seen.tries.append(self._tries)
                self._tries = 0
        return outcome

    async def _far(self, carry_out: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self._way())
        result = await carry_out()
        await asyncio.sleep(self._way())
        return result

    def _way(self) -> float:
        return self._contest.contention.round_trip / 2 * (1 + JITTER * (2 * self._dice.random() - 1))


def contend(contention: Contention, contest: type[Contest] = Contest) -> Seen:
    """What replicas and clients see."""
    loop = VirtualLoop(random.Random(f"loop {contention.seed}"))
    try:
        return loop.run_until_complete(contest(contention, loop).play())
    finally:
        loop.close()
