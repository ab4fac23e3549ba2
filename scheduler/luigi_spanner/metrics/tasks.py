"""Luigi's own metrics of tasks: which collector keeps them, and Luigi's Prometheus collector as a daemon needs it.

Its families, labels and `[prometheus]` keys are Luigi's. What differs: a task that never ran has no execution time instead of an
exception, text that cannot be encoded does not spoil the page, and a bound on the label combinations can be set.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from luigi.contrib.prometheus_metric import PrometheusMetricsCollector
from luigi.metrics import MetricsCollectors

from luigi_spanner.graph.graph import Graph

OTHER = "other"
"""The label value that stands for all that have no place of their own."""

NONE = "none"


class Seen(NamedTuple):
    """What the collector needs of a task at the time of a transition: its labels' values, and when it ran."""

    labels: tuple[str, ...]
    status: str
    updated: float
    time_running: float | None


class TaskFamilies(PrometheusMetricsCollector):
    """Luigi's collector. `most`: so many combinations of label values are told apart, None: all. Raises ValueError if
    `[prometheus]` leaves no label."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._most = most
        self._known: set[tuple[str, ...]] = set()
        self._rest = (OTHER,) * len(self.labels)
        # Finding a child by its labels costs more than counting.
        self._children: dict[tuple[Any, tuple[str, ...]], Any] = {}

    def seen(self, task: Any) -> Seen:
        """The task as the methods below take it: values only, read now."""
        values = [label_text(task.family if label == "family" else task.params.get(label)) for label in self.labels]
        return Seen(tuple(values), task.status, task.updated, task.time_running)

    def handle_task_started(self, task: Seen) -> None:
        self._child(self.task_started_counter, task.labels).inc()
        self._child(self.task_execution_time, task.labels)

    def handle_task_failed(self, task: Seen) -> None:
        self._ended(self.task_failed_counter, task)

    def handle_task_disabled(self, task: Seen, config: Any) -> None:
        self._ended(self.task_disabled_counter, task)

    def handle_task_done(self, task: Seen) -> None:
        self._ended(self.task_done_counter, task)

    def _ended(self, counter: Any, task: Seen) -> None:
        self._child(counter, task.labels).inc()
        if task.time_running is not None:
            self._child(self.task_execution_time, task.labels).set(task.updated - task.time_running)

    def _child(self, family: Any, labels: tuple[str, ...]) -> Any:
        child = self._children.get((family, labels))
        if child is None:
            labels = self._bounded(labels)
            child = self._children[family, labels] = family.labels(*labels)
        return child

    def _bounded(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if self._most is not None and labels not in self._known:
            if len(self._known) >= self._most:
                return self._rest
            self._known.add(labels)
        return labels


def label_text(value: Any) -> str:
    """A label's value as Prometheus's client writes it, and encodable: half a surrogate pair is not."""
    if type(value) is str and value.isascii():
        return value
    return str(value).encode("utf-8", "backslashreplace").decode()


def install(graph: Graph, config: Any, most: int | None) -> TaskFamilies | None:
    """Have our collector keep the metrics of the graph's tasks, unless the configuration (Luigi's parser) says that another does
    or that none shall. Raises ValueError."""
    if not is_ours(graph._config.metrics_collector, config):
        return None
    collector = TaskFamilies(most)
    graph.report_to(collector, collector.seen)
    return collector


def is_ours(kind: Any, config: Any) -> bool:
    """Whether Luigi's Prometheus collector keeps the metrics of tasks, given what `[scheduler] metrics_collector` was read as.

    For Luigi `none` is another word for the default; who writes it wants none.
    """
    if kind is MetricsCollectors.default:
        return str(config.get("scheduler", "metrics_collector", None) or config.get("scheduler", "metrics-collector", "")) != NONE
    return kind is MetricsCollectors.prometheus
