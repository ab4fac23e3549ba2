"""Cut a plan that breaks a promise down to few faults and few actions that still do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from plans import Plan
from running import Run, run

T = TypeVar("T")


def shrunk(plan: Plan, seconds: float = 60.0, play: Callable[[Plan], Run] = run) -> Run:
    """The run of a smaller plan that breaks the same promise, found within about that time. ValueError if this breaks none."""
    end = time.monotonic() + seconds
    best = play(plan)
    if best.violation is None:
        raise ValueError("this plan breaks no promise")
    size = -1
    while size != (size := _size(best.plan)) and time.monotonic() < end:
        for part in ("faults", "actions"):
            best = _fewer(best, part, end, play)
        for candidate in _simpler(best.plan):
            best = _better(best, candidate, end, play)
    return best


def _size(plan: Plan) -> int:
    return len(repr(plan))


def _better(best: Run, candidate: Plan, end: float, play: Callable[[Plan], Run]) -> Run:
    """The candidate's run if it breaks the same promise, else the best so far."""
    assert best.violation is not None
    if time.monotonic() > end:
        return best
    found = play(candidate)
    same = found.violation is not None and found.violation.oracle == best.violation.oracle
    return found if same else best


def _fewer(best: Run, part: str, end: float, play: Callable[[Plan], Run]) -> Run:
    """Leave out runs of items, long ones first."""
    length = max(1, len(getattr(best.plan, part)) // 2)
    while length:
        start = len(getattr(best.plan, part)) - length
        while start >= 0 and time.monotonic() < end:
            items: Sequence[object] = getattr(best.plan, part)
            best = _better(best, replace(best.plan, **{part: (*items[:start], *items[start + length :])}), end, play)
            start = min(start, len(getattr(best.plan, part))) - length
        length //= 2
    return best


def _simpler(plan: Plan) -> Iterator[Plan]:
    """Take back what is not the product's own, or not needed."""
    for name in plan.constants:
        yield replace(plan, constants={key: value for key, value in plan.constants.items() if key != name})
    yield replace(plan, skews=(0.0,) * plan.replicas)
    yield replace(plan, timed=False)
    yield replace(plan, latency=0.002)
    yield replace(plan, keep=100_000)
    if plan.replicas > 1:
        yield replace(plan, replicas=plan.replicas - 1, skews=plan.skews[:-1])
    for last in plan.actions[-1:]:
        yield replace(plan, seconds=min(plan.seconds, last.at + 1.0))
