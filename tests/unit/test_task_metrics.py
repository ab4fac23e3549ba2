"""Luigi's metrics of tasks: the same as stock's, whatever `[prometheus]` says, and bounded if so asked."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import luigi.configuration
import luigi.scheduler
import pytest
from luigi.contrib.prometheus_metric import PrometheusMetricsCollector
from luigi.metrics import MetricsCollectors, NoMetricsCollector
from prometheus_client import CollectorRegistry, Counter, generate_latest

from luigi_spanner.calls import Call
from luigi_spanner.config import InvalidOption, check_luigi
from luigi_spanner.metrics.page import Bounds, Metrics
from luigi_spanner.metrics.tasks import Seen, TaskFamilies, is_ours
from luigi_spanner.service import Service
from luigi_spanner.stores.memory import MemoryStore

STEPS: list[tuple[str, dict[str, Any]]] = [
    ("add_task", {"worker": "w", "task_id": "a", "family": "A", "params": {"day": "1", "shop": 'x"\n\\'}}),
    ("add_task", {"worker": "w", "task_id": "b", "family": "B", "params": {"day": "2"}}),
    ("get_work", {"worker": "w", "host": "h"}),
    ("get_work", {"worker": "w", "host": "h"}),
    ("add_task", {"worker": "w", "task_id": "a", "status": "DONE"}),
    ("add_task", {"worker": "w", "task_id": "b", "status": "FAILED", "expl": '"it broke"'}),
    ("add_task", {"worker": "w", "task_id": "c", "family": "A", "params": {"day": "3"}, "status": "DONE"}),
    ("get_work", {"worker": "w", "host": "h"}),
    ("add_task", {"worker": "w", "task_id": "b", "status": "DISABLED"}),
]
"""Every transition that is counted, and a task that was done before it could run."""


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets options of Luigi's configuration, as `section="key = value"`, for this test."""
    parser = luigi.configuration.get_config()
    before = {section: dict(parser.items(section)) for section in parser.sections()}

    def configure(**sections: dict[str, str]) -> None:
        for section, options in sections.items():
            for name, value in options.items():
                parser.set(section, name, value)

    yield configure
    for section in parser.sections():
        parser.remove_section(section)
    for section, options in before.items():
        for name, value in options.items():
            parser.set(section, name, value)


def play(service: Service, steps: list[tuple[str, dict[str, Any]]]) -> str:
    """The page after these calls."""
    numbers = itertools.count()

    async def scenario() -> str:
        await service.start()
        try:
            for method, arguments in steps:
                await service.call(Call(request_id=str(next(numbers)), method=method, arguments=arguments))
            body, kind = await service.metrics()
            assert kind.startswith("text/plain")
            return body.decode()
        finally:
            await service.stop()

    return asyncio.run(scenario())


def our_service(bounds: Bounds | None = None) -> Service:
    store = MemoryStore(namespace="default")
    numbers = itertools.count()
    return Service(store, "default", ids=lambda: f"{next(numbers):08d}", metrics=Metrics("default", bounds))


def task_lines(page: str) -> list[str]:
    """What Luigi's families say, but for when their series began and how long something took."""
    lines = [line for line in page.splitlines() if re.match(r"(# \w+ )?luigi_task_", line)]
    return [re.sub(r"(_seconds\{.*\}|_created\{.*\}) .*", r"\1", line) for line in lines]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"task_parameters_to_use_in_labels": '["day", "shop"]'},
        {"task_parameters_to_use_in_labels": '["day"]', "use_task_family_in_labels": "false"},
    ],
    ids=["default", "parameters", "no family"],
)
def test_the_families_are_stock_s(configured: Callable[..., None], keys: dict[str, str]) -> None:
    configured(prometheus=keys)
    stock = luigi.scheduler.Scheduler(metrics_collector=MetricsCollectors.prometheus, retry_delay=0)
    for method, arguments in STEPS:
        getattr(stock, method)(**arguments)
    expected = task_lines(stock._state._metrics_collector.generate_latest().decode())
    configured(scheduler={"retry_delay": "0"})
    assert task_lines(play(our_service(), STEPS)) == expected
    assert sum(line.startswith("luigi_task_done_total{") for line in expected) == (1 if not keys else 2)


def test_a_task_that_never_ran_fails_without_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    """Stock raises TypeError, and the call that reports the failure ends with it."""
    page = play(our_service(), [("add_task", {"worker": "w", "task_id": "t", "family": "F", "status": "FAILED"})])
    assert 'luigi_task_failed_total{family="F"} 1.0' in page
    assert "luigi_task_execution_time_seconds{" not in page
    assert "An effect failed" not in caplog.text


def test_text_that_cannot_be_encoded_does_not_spoil_the_page() -> None:
    page = play(our_service(), [("add_task", {"worker": "w", "task_id": "t", "family": "\ud800", "status": "DONE"})])
    assert 'luigi_task_done_total{family="\\\\ud800"} 1.0' in page


def test_series_are_bounded_if_so_asked() -> None:
    steps = [("add_task", {"worker": "w", "task_id": f"t{n}", "family": f"F{n % 5}", "status": "DONE"}) for n in range(20)]
    page = play(our_service(Bounds(task_series=2)), steps)
    counted = dict(re.findall(r'luigi_task_done_total\{family="(\w+)"\} (\S+)', page))
    assert counted == {"F0": "4.0", "F1": "4.0", "other": "12.0"}
    unbounded = play(our_service(), steps)
    assert len(re.findall(r"luigi_task_done_total\{", unbounded)) == 5


@pytest.mark.parametrize(
    ("written", "ours"),
    [(None, True), ("default", True), ("prometheus", True), ("none", False), ("datadog", False), ("custom", False)],
)
def test_who_keeps_the_metrics(configured: Callable[..., None], written: str | None, ours: bool) -> None:
    if written is not None:
        configured(scheduler={"metrics_collector": written})
    kind = luigi.scheduler.scheduler().metrics_collector
    assert is_ours(kind, luigi.configuration.get_config()) is ours


def test_none_leaves_out_the_tasks_and_nothing_else(configured: Callable[..., None]) -> None:
    configured(scheduler={"metrics_collector": "none"})
    service = our_service()
    assert isinstance(service._graph._state._metrics_collector, NoMetricsCollector)
    page = play(service, STEPS)
    assert "luigi_task_" not in page
    assert "luigi_spanner_tasks{" in page


class Own(PrometheusMetricsCollector):
    """Somebody's collector: what Luigi tells it, what it exposes, and a family that we have too."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, str]] = []
        self.own = CollectorRegistry()
        Counter("mine_total", "Mine.", registry=self.own).inc(7)
        Counter("process_cpu_seconds_total", "Mine too.", registry=self.own).inc(3)

    def handle_task_started(self, task: Any) -> None:
        assert isinstance(task, luigi.scheduler.Task)
        self.told.append(("started", task.id))

    def handle_task_done(self, task: Any) -> None:
        self.told.append(("done", task.id))

    def handle_task_statistics(self, task: Any, statistics: Any) -> None:
        self.told.append((task.id, statistics["rows"]))

    def generate_latest(self) -> bytes:
        return generate_latest(self.own)


class Broken(Own):
    def generate_latest(self) -> bytes:
        raise ZeroDivisionError


def with_collector(configured: Callable[..., None], name: str) -> Service:
    configured(scheduler={"metrics_collector": "custom", "metrics_custom_import": f"{__name__}.{name}"})
    return our_service()


def test_somebody_s_own_collector_is_told_and_exposed(configured: Callable[..., None]) -> None:
    service = with_collector(configured, "Own")
    page = play(service, [*STEPS[:5], ("report_task_statistics", {"task_id": "a", "statistics": {"rows": 3}})])
    assert service._graph._state._metrics_collector.told == [("started", "a"), ("started", "b"), ("done", "a"), ("a", 3)]
    assert "mine_total 7.0" in page
    assert re.findall(r"^process_cpu_seconds_total .*", page, re.MULTILINE) == ["process_cpu_seconds_total 3.0"]
    assert "luigi_spanner_tasks{" in page
    assert "luigi_task_" not in page


def test_a_collector_that_fails_does_not_take_the_page_along(
    configured: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    assert "luigi_spanner_tasks{" in play(with_collector(configured, "Broken"), STEPS)
    assert "exposes nothing" in caplog.text


@pytest.mark.parametrize(
    "keys",
    [{"use_task_family_in_labels": "false"}, {"task_parameters_to_use_in_labels": '["__day"]'}],
    ids=["no label", "reserved"],
)
def test_labels_that_cannot_be_are_told_of_before_the_start(configured: Callable[..., None], keys: dict[str, str]) -> None:
    configured(prometheus=keys)
    with pytest.raises(InvalidOption, match=r"^Section \[prometheus\]"):
        check_luigi(luigi.configuration.get_config())
    configured(scheduler={"metrics_collector": "none"})
    check_luigi(luigi.configuration.get_config())


def test_a_task_is_read_when_it_changes_not_when_it_is_counted() -> None:
    class Task:
        family, params, status, updated, time_running = "F", {"day": 1}, "DONE", 5.0, 2.0

    families, task = TaskFamilies(), Task()
    seen = families.seen(task)
    task.family = "G"
    families.handle_task_done(seen)
    assert seen == Seen(("F",), "DONE", 5.0, 2.0)
    assert b'luigi_task_execution_time_seconds{family="F"} 3.0' in families.generate_latest()
