"""The storm: does to a fleet and its crew what a plan says, when it says so."""

from __future__ import annotations

import heapq
import itertools
import signal
import time
from collections.abc import Callable, Sequence

from crew import Crew
from faultplan import FOR_ALL, OF_THE_FRONT, OF_WORKERS, Fault, Kind
from fleet import STOP_SECONDS, Fleet, Replica


class Storm:
    """Applies the faults of a plan. `happened` tells of each when it began and ended, in seconds of CLOCK_MONOTONIC.

    A worker that was killed is replaced once it has been declared dead, `silence` seconds later. What it had done, not reported,
    is RUNNING until then, and Luigi does not listen to others who say that it is complete; if nobody says so again, what depends
    on it waits for ever. Drive it with `look`.
    """

    def __init__(self, fleet: Fleet, crew: Crew, faults: Sequence[Fault], began: float, silence: float) -> None:
        self.happened: list[tuple[Fault, float, float]] = []
        self._fleet = fleet
        self._crew = crew
        self._silence = silence
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._waiting: list[tuple[Fault, float, Replica]] = []
        for fault in faults:
            self._at(began + fault.at, lambda fault=fault: self._begin(fault))

    def look(self) -> None:
        """Do what is due."""
        while self._agenda and self._agenda[0][0] <= time.monotonic():
            heapq.heappop(self._agenda)[2]()
        for item in list(self._waiting):
            self._look_after(item)

    def _look_after(self, item: tuple[Fault, float, Replica]) -> None:
        """A replica that was told to stop is started again when it has."""
        fault, began, replica = item
        if not replica.down and time.monotonic() - began > STOP_SECONDS:
            self._fleet.troubles.append(f"replica {replica.number} did not end within {STOP_SECONDS:.0f} s of SIGTERM")
            replica.kill()
        if replica.down:
            self._waiting.remove(item)
            replica.start()
            self.happened.append((fault, began, time.monotonic()))

    @property
    def over(self) -> bool:
        return not self._agenda and not self._waiting

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (moment, next(self._order), action))

    def _begin(self, fault: Fault) -> None:
        began = time.monotonic()
        if fault.kind is Kind.RESTART:
            replica = self._fleet.replicas[fault.target]
            replica.terminate()
            self._waiting.append((fault, began, replica))
            return
        undo = self._apply(fault)
        self._at(began + fault.seconds, lambda: self._end(fault, began, undo))

    def _end(self, fault: Fault, began: float, undo: Callable[[], None]) -> None:
        undo()
        self.happened.append((fault, began, time.monotonic()))

    def _apply(self, fault: Fault) -> Callable[[], None]:
        """Let the fault begin; what ends it."""
        if fault.kind in OF_WORKERS:
            return self._on_worker(fault)
        if fault.kind in FOR_ALL:
            return self._on_store(fault)
        replica = self._fleet.replicas[fault.target]
        if fault.kind is Kind.KILL:
            replica.kill()
            return replica.start
        if fault.kind is Kind.FREEZE:
            replica.send(signal.SIGSTOP)
            return lambda: replica.send(signal.SIGCONT)
        if fault.kind is Kind.CLOCK_STEP:
            assert replica.skew is not None
            replica.skew.set(fault.amount)
            return _nothing
        line = replica.front if fault.kind in OF_THE_FRONT else replica.store
        line.begin(fault)
        return lambda: line.end(fault)

    def _on_store(self, fault: Fault) -> Callable[[], None]:
        if fault.kind is Kind.STORE_FROZEN:
            self._fleet.emulator.send(signal.SIGSTOP)
            return lambda: self._fleet.emulator.send(signal.SIGCONT)
        lines = [replica.store for replica in self._fleet.replicas]
        for line in lines:
            line.begin(fault)
        return lambda: [line.end(fault) for line in lines].clear()

    def _on_worker(self, fault: Fault) -> Callable[[], None]:
        if fault.kind is Kind.WORKER_KILL:
            self._crew.kill(fault.target, self._silence + fault.seconds)
            return _nothing
        self._crew.send(fault.target, signal.SIGSTOP)
        return lambda: self._crew.send(fault.target, signal.SIGCONT)


def _nothing() -> None:
    """A fault that is over as soon as it has begun."""
