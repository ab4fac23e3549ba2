"""What every scenario is given."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.graphs import Graph
from benchmarks.servers import States


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One run: prepared states, how often to repeat, whether to be quick, the seed of all graphs.

    `scale` divides task counts, worker counts and times, for a smoke test; 1 for numbers that mean something.
    """

    states: States
    repeats: int
    quick: bool
    seed: int
    scale: int = 1

    def graph(self, kind: str, size: int) -> Graph:
        """A graph of this run."""
        return Graph(kind=kind, size=self.tasks(size), seed=self.seed)

    def tasks(self, count: int) -> int:
        """A number of tasks, calls or workers at this run's scale."""
        return max(1, count // self.scale)

    def seconds(self, length: float) -> float:
        """A time at this run's scale."""
        return max(0.5, length / self.scale)
