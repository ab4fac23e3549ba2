"""The page at /metrics: what a replica counts, where it stands, and what Luigi's metrics collector exposes, as one text."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from luigi import configuration
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, ProcessCollector, generate_latest

from luigi_spanner.graph.graph import Graph
from luigi_spanner.metrics import tasks
from luigi_spanner.metrics.gauges import Gauges
from luigi_spanner.metrics.meter import Meter
from luigi_spanner.replica import Replica
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

_TYPE = re.compile(r"^# TYPE (\S+) ", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """How many values labels may have that users choose. `resources` are told apart; `task_series` combinations of labels in
    Luigi's own families, None: as many as come."""

    resources: int = 50
    task_series: int | None = None


class Metrics:
    """All metrics of one service on a namespace. `meter` is told what happens; `attach` names what stands behind the gauges."""

    def __init__(self, namespace: str, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._registry = CollectorRegistry()
        self.meter = Meter(self._registry, namespace)
        ProcessCollector(registry=self._registry)
        self._gauges: Gauges | None = None
        self._tasks: tasks.TaskFamilies | None = None
        self._collector: Any = None

    def attach(self, graph: Graph, replica: Replica, *, store: str, clock: Callable[[], float]) -> None:
        """These are the graph and the replica; the rest as in `Gauges`. Raises ValueError when `[prometheus]` makes no sense."""
        self._tasks = tasks.install(graph, configuration.get_config(), self._bounds.task_series)
        self._collector = graph._state._metrics_collector
        self._gauges = Gauges(graph=graph, replica=replica, store=store, clock=clock, resources=self._bounds.resources)

    async def page(self) -> tuple[bytes, str]:
        """The page and its content type. What is looked up is looked up at once; a thread words it."""
        foreign = "" if self._tasks is not None else exposed_by(self._collector)
        sources: list[Iterable[Metric]] = [_plain(self._registry)]
        if self._tasks is not None:
            sources.append(self._tasks.registry.collect())
        if self._gauges is not None:
            sources.append(self._gauges.take())
        return await asyncio.to_thread(_render, sources, foreign), CONTENT_TYPE_LATEST


def exposed_by(collector: Any) -> str:
    """What one of Luigi's collectors, or somebody's own, exposes; nothing if it fails."""
    try:
        exposed = collector.generate_latest() or b""
        return exposed if isinstance(exposed, str) else bytes(exposed).decode()
    except Exception as error:  # It is somebody else's code.
        logger.error("The metrics collector exposes nothing", exc_info=without_words(error))
        return ""


def metrics_of(collector: Any) -> tuple[bytes, str] | None:
    """What one of Luigi's metrics collectors exposes, and its content type; None if it exposes nothing."""
    exposed = collector.generate_latest()
    if not exposed:
        return None
    headers = _Headers()
    collector.configure_http_handler(headers)
    return exposed, headers.get("Content-Type", "text/plain")


class _Headers(dict[str, str]):
    """What a metrics collector sees of a response."""

    def set_header(self, name: str, value: str) -> None:
        self[name] = value


def _plain(registry: CollectorRegistry) -> Iterator[Metric]:
    """What is in a registry, collected when it is walked through. When each series began would be a quarter of the page, and says
    no more than when the process did."""
    for metric in registry.collect():
        metric.samples = [sample for sample in metric.samples if sample.name != f"{metric.name}_created"]
        yield metric


@dataclass(frozen=True, slots=True)
class _Page:
    """Families of several sources, but for those that somebody else's collector exposes too: a page may have each once."""

    sources: Sequence[Iterable[Metric]]
    taken: frozenset[str]

    def collect(self) -> Iterator[Metric]:
        for source in self.sources:
            for metric in source:
                if not self.taken.intersection((metric.name, f"{metric.name}_total")):
                    yield metric


def _render(sources: Sequence[Iterable[Metric]], foreign: str) -> bytes:
    page = generate_latest(_Page(sources, frozenset(_TYPE.findall(foreign))))
    if not foreign:
        return page
    lines = [line for line in foreign.splitlines() if line != "# EOF"]
    return page + "\n".join([*lines, ""]).encode()
