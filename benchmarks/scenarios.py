"""Every scenario by its name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from benchmarks import contention, latency, standing, throughput
from benchmarks.bench import Bench
from benchmarks.results import Line

SCENARIOS: Mapping[str, Callable[[Bench], Iterator[Line]]] = {
    "one-worker": latency.one_worker,
    "hard-graphs": latency.hard_graphs,
    "each-call": latency.each_call,
    "large": latency.large,
    "lives": throughput.lives,
    "history": throughput.history,
    "ready": throughput.ready,
    "three-replicas": throughput.three_replicas,
    "slow-store": throughput.slow_store,
    "idle-workers": throughput.idle_workers,
    "growth": standing.growth,
    "memory": standing.memory,
    "bad-input": standing.bad_input,
    "contention": contention.contention,
}
