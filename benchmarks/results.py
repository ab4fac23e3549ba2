"""What was measured: lines of repeats, each repeat of stock next to one of ours, and the goals that they are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a line is to reach: a ratio of at least `ratio`, or ours at most `most`, in the line's unit."""

    ratio: float | None = None
    most: float | None = None

    def __str__(self) -> str:
        return f"ratio >= {self.ratio:.3g}" if self.ratio is not None else f"<= {self.most:g}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One scenario's outcome. `stock` and `ours` have one value a repeat, in `unit`.

    `base` names what stands in the first column when it is not stock; empty `stock`: there is nothing to compare with.
    `chart` names the plot that shows the line, if any. `failure`: what a server answered instead of being measured.
    """

    scenario: str
    unit: str
    stock: Sequence[float] = field(default_factory=list)
    ours: Sequence[float]
    more_is_better: bool = False
    base: str = "stock"
    goal: Goal | None = None
    chart: str = ""
    failure: str = ""

    @property
    def ratios(self) -> list[float]:
        """How many times better ours is, pair by pair."""
        pairs = zip(self.stock, self.ours, strict=False)
        return [_over(ours, stock) if self.more_is_better else _over(stock, ours) for stock, ours in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the goal; None without a goal, or without the numbers. What failed has not met it."""
        if self.goal is None or not (self.ours or self.failure):
            return None
        if self.failure:
            return False
        if self.goal.ratio is not None:
            return median(self.ratios) >= self.goal.ratio if self.stock else None
        return self.goal.most is not None and median(self.ours) <= self.goal.most


@dataclass(frozen=True, kw_only=True)
class Report:
    """A run. `notes` say where and how it ran, `failures` which scenarios gave no line and why. `done` are the scenarios that
    were measured to their end, `code` the commit that they were measured on."""

    title: str
    notes: list[str]
    lines: list[Line]
    failures: dict[str, str]
    done: list[str] = field(default_factory=list)
    code: str = ""


def alternate(repeats: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure each side `repeats` times; who goes first changes from repeat to repeat."""
    found: dict[str, list[T]] = {name: [] for name in sides}
    names = list(sides)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(sides[name]())
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def milliseconds(values: Sequence[float], share: float = 0.5) -> float:
    """A quantile of seconds, in milliseconds."""
    return 1000 * quantile(values, share)


def _over(above: float, below: float) -> float:
    return above / below if below else math.inf
