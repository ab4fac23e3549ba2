"""Cut a plan that breaks a promise down to few faults and few actions that still do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from plans import Plan
from running import Run, run


def shrunk(plan: Plan, runs: int = 600, play: Callable[[Plan], Run] = run) -> Run:
    """The run of a smaller plan that breaks the same promise, found within so many. ValueError if this breaks none."""
    best = play(plan)
    if best.violation is None:
        raise ValueError("this plan breaks no promise")
    search = _Search(best, runs, play)
    size = -1
    while size != (size := len(repr(search.best.plan))) and search.left > 0:
        search.leave_out("faults")
        search.leave_out("actions")
        for candidate in _simpler(search.best.plan):
            search.consider(candidate)
    return search.best


class _Search:
    """The smallest run so far, and how many more may be played."""

    def __init__(self, best: Run, runs: int, play: Callable[[Plan], Run]) -> None:
        assert best.violation is not None
        self.best = best
        self.left = runs
        self._oracle = best.violation.oracle
        self._play = play

    def consider(self, candidate: Plan) -> None:
        """Take the candidate if it breaks the same promise."""
        if self.left > 0:
            self.left -= 1
            found = self._play(candidate)
            if found.violation is not None and found.violation.oracle == self._oracle:
                self.best = found

    def leave_out(self, part: str) -> None:
        """Leave out runs of items, long ones first."""
        length = max(1, len(getattr(self.best.plan, part)) // 2)
        while length:
            start = len(getattr(self.best.plan, part)) - length
            while start >= 0 and self.left > 0:
                items: Sequence[object] = getattr(self.best.plan, part)
                self.consider(replace(self.best.plan, **{part: (*items[:start], *items[start + length :])}))
                start = min(start, len(getattr(self.best.plan, part))) - length
            length //= 2


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
