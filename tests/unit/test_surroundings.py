"""What Luigi's rules see of the outside while a call runs."""

from __future__ import annotations

from itertools import count

from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.graph import Graph


def test_all_of_a_call_happens_at_one_time() -> None:
    clock = count(1_000_000)
    graph = Graph(clock=lambda: next(clock))
    graph.run(graph.add_task, {"task_id": "T", "worker": "w", "status": "PENDING"})
    graph.run(graph.get_work, {"worker": "w"})
    assert next(clock) == 1_000_002
    task = graph._state.get_task("T")
    assert (task.time, task.updated, task.time_running) == (1_000_000, 1_000_001, 1_000_001)


def test_between_calls_it_is_the_clocks_time() -> None:
    clock = count(1_000_000)
    graph = Graph(clock=lambda: next(clock))
    assert [graph.now(), graph.now()] == [1_000_000, 1_000_001]
    assert luigi_scheduler.time.time() > 1_700_000_000
