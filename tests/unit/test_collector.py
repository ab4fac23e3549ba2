"""The cycle collector is kept out, and nothing needs it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from luigi import scheduler as luigi_scheduler

from luigi_spanner import collector
from luigi_spanner.graph.graph import Graph


@pytest.fixture
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_a_pruned_task_is_freed_without_the_collector() -> None:
    now = [1000.0]
    graph = Graph(luigi_scheduler.scheduler(remove_delay=10.0, worker_disconnect_delay=10.0), clock=lambda: now[0])
    with collector.paused():
        graph.run(graph.add_task, {"worker": "w", "task_id": "t", "deps": ["d"], "params": {"p": "1"}, "resources": {"r": 1}})
        graph.run(graph.get_work, {"worker": "w"})
        graph.ledger.seal()
        graph.tracker.settle()
        task = weakref.ref(graph._state.get_task("t"))
        for _ in range(4):
            now[0] += 100.0
            graph.run(graph.prune, {})
            graph.ledger.seal()
            graph.tracker.settle()
        graph._state.index.refresh()
        assert not graph._state.has_task("t")
        assert task() is None


def test_pausing_leaves_the_collector_as_it_was() -> None:
    with collector.paused():
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_a_daemon_gathers_is_frozen(thresholds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    freezer = collector.Freezer()
    monkeypatch.setattr(collector, "ROUNDS", 1)
    before = gc.get_freeze_count()
    kept = [[number] for number in range(200_000)]
    freezer.look()
    assert gc.get_freeze_count() - before >= len(kept)
    assert gc.get_count()[2] == 0
