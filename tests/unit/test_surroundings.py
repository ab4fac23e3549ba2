"""What Luigi's rules see of the outside while a call runs."""

from __future__ import annotations

from itertools import count

from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.graph import Graph


def test_the_time_passes_in_a_call_only_as_it_makes_tasks() -> None:
    clock = count(1_000_000)
    graph = Graph(clock=lambda: next(clock))
    graph.run(graph.add_task, {"task_id": "T", "worker": "w", "status": "PENDING"})
    graph.run(graph.get_work, {"worker": "w"})
    assert next(clock) == 1_000_003
    task = graph._state.get_task("T")
    assert (task.time, task.updated, task.time_running) == (1_000_001, 1_000_002, 1_000_002)


def test_dependencies_are_handed_out_in_the_order_in_which_a_call_made_them() -> None:
    """As in stock, where each task reads the clock; not in the order in which a worker adds them then, from the end."""
    clock = count(1_000_000)
    graph = Graph(clock=lambda: next(clock))
    graph.run(graph.add_task, {"task_id": "All", "worker": "w", "deps": ["B", "A", "D", "C"]})
    made = list(graph._state.get_task("All").deps)
    for task_id in reversed(made):
        graph.run(graph.add_task, {"task_id": task_id, "worker": "w"})
    got = [graph.run(graph.get_work, {"worker": "w"})["task_id"] for _ in made]
    assert got == made


def test_between_calls_it_is_the_clocks_time() -> None:
    clock = count(1_000_000)
    graph = Graph(clock=lambda: next(clock))
    assert [graph.now(), graph.now()] == [1_000_000, 1_000_001]
    assert luigi_scheduler.time.time() > 1_700_000_000
