"""The memory store behind a network that takes its time, loses requests and replies, and lands commits when nobody waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from plans import AT_A_COMMIT, Fault, Plan
from virtual import VirtualLoop
from worlds import drive

from luigi_spanner.journal import Entry, Row
from luigi_spanner.stores import Committed, Conflict, Outcome, Snapshot, Unavailable, Unknown
from luigi_spanner.stores.memory import MemoryStore

if TYPE_CHECKING:
    from cluster import Cluster, Node

T = TypeVar("T")

DEADLINE = 2.5
"""Seconds after which a client of the store gives up a request."""


@dataclass
class Slot:
    """A machine: one replica after another lives on it. `skew`: how far its clock is ahead, in seconds; `set_by`: how far it was
    set wrong besides."""

    number: int
    skew: float
    set_by: float = 0.0
    node: Node | None = None
    restarts: int = 0
    armed: list[Fault] = field(default_factory=list)
    windows: dict[str, float] = field(default_factory=dict)

    def take(self, kinds: Sequence[str]) -> Fault | None:
        """The next fault that waits for such an occasion."""
        for fault in self.armed:
            if fault.kind in kinds:
                self.armed.remove(fault)
                return fault
        return None

    def meets(self, time: float, *kinds: str) -> bool:
        """Whether one of these windows is open."""
        return any(self.windows.get(kind, 0.0) > time for kind in kinds)


class SimulatedStore:
    """What one replica sees of the database. Requests that are on their way land whatever becomes of the replica."""

    def __init__(self, cluster: Cluster, node: Node, dice: random.Random) -> None:
        self._cluster = cluster
        self._node = node
        self._dice = dice
        self._inner = MemoryStore(namespace="default", database=cluster.database)
        self._closed = False

    @property
    def _plan(self) -> Plan:
        return self._cluster.plan

    @property
    def _loop(self) -> VirtualLoop:
        return self._cluster.loop

    @property
    def _slot(self) -> Slot:
        return self._node.slot

    async def load(self) -> Snapshot:
        return await self._read("load", self._inner.load)

    async def read_after(self, seq: int) -> list[Entry]:
        return await self._read(f"read after {seq}", lambda: self._inner.read_after(seq))

    async def truncate(self, before: int) -> None:
        self._cluster.tell(self._node.name, f"truncates before {before}")
        await self._read("truncate", lambda: self._inner.truncate(before))

    async def close(self) -> None:
        self._closed = True

    async def _read(self, what: str, read: Callable[[], Coroutine[Any, Any, T]]) -> T:
        def carry_out() -> Callable[[], T]:
            try:
                result = drive(read())
            except Exception as error:  # Whatever it raises is the reader's.
                return _raising(error)
            return lambda: result

        lost = self._slot.meets(self._loop.time(), "no reads", "store unreachable")
        answer = await self._exchange(None if lost else carry_out, self._way(), self._way(), lose_reply=False)
        if answer is None:
            self._cluster.tell(self._node.name, f"{what}: no answer")
            raise Unavailable("it did not answer in time")
        return answer()

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        self._cluster.drafted(self._node, entry)
        fault = self._slot.take(AT_A_COMMIT)
        kind, seconds = ("", 0.0) if fault is None else (fault.kind, fault.seconds)
        if fault is not None:
            self._cluster.tell(self._node.name, f"commit {seq}: {kind} {seconds or ''}")
        if kind == "crash before commit":
            self._cluster.crash(self._slot, seconds)
        elif kind == "frozen before commit":
            self._cluster.freeze(self._slot, seconds)
        elif kind == "lost reply":
            self._slot.windows["no reads"] = self._loop.time() + seconds
        # A process that was stopped here sends when it goes on.
        await asyncio.sleep(0)

        def carry_out() -> Outcome:
            outcome = drive(self._inner.commit(seq, entry, rows))
            return self._landed(entry, outcome, kind, seconds)

        lost = kind == "lost request" or self._slot.meets(self._loop.time(), "no commits", "store unreachable")
        there = self._way() + (seconds if kind in ("late commit", "slow commit") else 0.0)
        outcome = await self._exchange(None if lost else carry_out, there, self._way(), lose_reply=kind == "lost reply")
        if outcome is None:
            self._cluster.tell(self._node.name, f"commit {seq}: no answer")
            return Unknown(reason="it did not answer in time")
        self._cluster.tell(self._node.name, f"commit {seq}: {type(outcome).__name__}")
        return outcome

    def _landed(self, entry: Entry, outcome: Outcome, kind: str, seconds: float) -> Outcome:
        if isinstance(outcome, Committed):
            self._cluster.landed(self._node, entry)
            if kind == "own conflict":
                # The driver's own retry finds what its first attempt wrote.
                outcome = Conflict()
            elif self._plan.timed:
                outcome = Committed(at=self._cluster.true_time())
        if self._cluster.calm:
            return outcome
        if kind == "crash after commit":
            self._cluster.crash(self._slot, seconds)
        elif kind == "frozen after commit":
            self._cluster.freeze(self._slot, seconds)
        return outcome

    async def _exchange(self, carry_out: Callable[[], T] | None, there: float, back: float, *, lose_reply: bool) -> T | None:
        """What `carry_out()` gives, `there` and `back` again; None if no reply has come within the deadline."""
        reply: asyncio.Future[T | None] = self._loop.create_future()

        def resolve(result: T | None) -> None:
            if not reply.done():
                reply.set_result(result)

        def arrive() -> None:
            assert carry_out is not None
            result = carry_out()
            if not lose_reply and not self._slot.meets(self._loop.time(), "lost replies"):
                self._loop.later(back, resolve, result)

        if carry_out is not None:
            self._loop.later(there, arrive)
        self._loop.later(DEADLINE, resolve, None)
        return await reply

    def _way(self) -> float:
        """Seconds of one way."""
        slow = 10.0 if self._slot.meets(self._loop.time(), "slow store") else 1.0
        return self._dice.random() * self._plan.latency * slow


def _raising(error: Exception) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer
