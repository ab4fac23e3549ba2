"""Gauges: where a replica and its graph stand, looked up when somebody asks, from counts that are kept anyway.

No look is at every task. They show this replica's memory; in the middle of a commit that is the batch under way included.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import luigi
from luigi import task_status
from luigi.task_status import RUNNING
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from luigi_spanner._version import __version__
from luigi_spanner.graph.graph import Graph
from luigi_spanner.metrics import families
from luigi_spanner.metrics.families import Family
from luigi_spanner.metrics.tasks import OTHER
from luigi_spanner.replica import Replica

STATUSES = tuple(sorted(value for name, value in vars(task_status).items() if name.isupper() and isinstance(value, str)))
"""Every status that Luigi knows."""

IMPLIED_LIMIT = 1
"""How much there is of a resource for which nobody has set a limit, as Luigi has it."""

_Value = tuple[tuple[str, ...], float]
"""The values of a family's own labels, and the number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """Looks up the gauges of one replica. `store` is the kind of its store, and `resources` how many resources are told apart.
    Only for the event loop that the replica runs on."""

    graph: Graph
    replica: Replica
    store: str
    clock: Callable[[], float]
    resources: int

    def take(self) -> list[Metric]:
        """All of them, as they are now."""
        values = {**self._of_replica(), **self._of_graph()}
        return [self._exposed(family, values[family]) for family in families.GAUGES]

    def _exposed(self, family: Family, values: Iterable[_Value]) -> Metric:
        kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
        exposed = kind(family.name, family.help, labels=("namespace", *family.labels))
        for labels, number in values:
            exposed.add_metric((self.replica.namespace, *labels), number)
        return exposed

    def _of_replica(self) -> dict[Family, list[_Value]]:
        replica, ledger = self.replica, self.graph.ledger
        numbers = {
            families.HEAD: replica.head,
            families.APPLIED: ledger.applied,
            families.WATERMARK: ledger.watermark,
            families.ROWS_OWED: len(ledger.pending),
            families.CONTACT_AGE: max(self.clock() - replica.contact, 0.0),
            families.QUEUED: replica.queued,
            families.EFFECTS: len(self.graph.tracker.effects),
            families.OFFSET: replica.offset.seconds,
            families.SERVING: 1 if replica.failure is None else 0,
        }
        return {
            **{family: [((), number)] for family, number in numbers.items()},
            families.MAILS: [((what,), number) for what, number in asdict(self.graph.outbox.counts).items()],
            families.BUILD: [((__version__, luigi.__version__, platform.python_version()), 1)],
            families.REPLICA: [((replica.name, self.store), 1)],
        }

    def _of_graph(self) -> dict[Family, list[_Value]]:
        graph = self.graph
        state = graph._state
        state.index.refresh()
        limits, used = self._of_resources()
        return {
            families.TASKS: [((status,), state.count(status)) for status in STATUSES],
            families.READY: [((), state.index.ready.size)],
            families.LONGEST_RUN: [((), self._longest_run())],
            families.WORKERS: self._of_workers(),
            families.REPLICAS: [((), len(state.replicas))],
            families.MAILS_WAITING: [((), len(graph.outbox))],
            families.PAUSED: [((), int(graph._paused))],
            families.RESOURCE_LIMIT: limits,
            families.RESOURCE_USED: used,
        }

    def _longest_run(self) -> float:
        # They come in the order in which they took their status.
        first = next(iter(self.graph._state._status_tasks[RUNNING].values()), None)
        return 0.0 if first is None else max(self.graph.now() - (first.time_running or first.updated), 0.0)

    def _of_workers(self) -> list[_Value]:
        numbers = {"active": 0, "disabled": 0, "leaving": 0}
        for worker in self.graph._state.get_active_workers():
            numbers["leaving" if worker.leaving else worker.state] += 1
        return [((state,), number) for state, number in numbers.items()]

    def _of_resources(self) -> tuple[list[_Value], list[_Value]]:
        """Limits and uses. Whoever adds tasks names resources, as many as they like: a lock of its own for each task, say. So
        only those that somebody has set a limit for are told apart, the first ones by name."""
        limits, used = self.graph._resources, self.graph._state.index.used
        own = set(sorted(limits)[: self.resources])
        totals: dict[str, float] = {}
        uses: dict[str, float] = {}
        for name in sorted(limits.keys() | used.keys()):
            label = name if name in own else OTHER
            totals[label] = totals.get(label, 0.0) + _number(limits.get(name, IMPLIED_LIMIT))
            uses[label] = uses.get(label, 0.0) + _number(used.get(name, 0))
        return [((label,), total) for label, total in totals.items()], [((label,), use) for label, use in uses.items()]


def _number(amount: Any) -> float:
    """An amount as far as a float can say it: one without end is infinite."""
    try:
        return float(amount)
    except OverflowError:
        return math.inf
