"""A run and what came of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from balancer import Wait
from crew import Shift
from faultplan import OF_WORKERS, Fault, Tempo
from verdict import Verdict, apart


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a run is: gangs of workers, members of each, and how many times longer than usual a task's body takes."""

    gangs: int
    members: int
    pace: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A run and what came of it; times are seconds of CLOCK_MONOTONIC. `happened`: each fault, when it began and ended."""

    seed: int
    tempo: Tempo
    size: Size
    skews: list[float]
    began: float
    ended: float
    happened: list[tuple[Fault, float, float]]
    shifts: list[Shift]
    failed_starts: int
    verdict: Verdict

    @property
    def waits(self) -> list[Wait]:
        """Calls that the worker lived to see answered and was awake for, longest first."""
        asleep = [
            (fault.target, begin + apart(), end + apart()) for fault, begin, end in self.happened if fault.kind in OF_WORKERS
        ]
        seen = [wait for wait in self.verdict.waits if wait.end < math.inf and not _overlaps(wait, asleep)]
        return sorted(seen, key=lambda wait: -wait.seconds)


def _overlaps(wait: Wait, asleep: Iterable[tuple[int, float, float]]) -> bool:
    place = int(wait.worker[1:].partition(".")[0])
    return any(place == target and wait.begin <= end and begin <= wait.end for target, begin, end in asleep)
