"""Tasks without a store: what Luigi derives of a task's parameters, and what counts as a change."""

from __future__ import annotations

from typing import Any

import pytest
from luigi import scheduler as luigi_scheduler

import luigi_spanner
from luigi_spanner.digest import TASKS
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.task import NewTask, decode_task, encode_lasting

PARAMS = {"a": "1", "b": "2"}
POLICY = luigi_scheduler.RetryPolicy(1, 2, 3)
DERIVED = ("params", "public_params", "hidden_params")


def derived(task: luigi_scheduler.Task) -> dict[str, Any]:
    return {name: getattr(task, name) for name in DERIVED}


def reloaded(task: luigi_scheduler.Task) -> dict[str, Any]:
    return derived(decode_task("t", {"status": "PENDING", "priority": 0}, encode_lasting(task)))


@pytest.mark.parametrize(
    "visibilities",
    [None, {}, {"a": 0}, {"a": 0, "b": 0}, {"a": False, "b": 0.0}, {"a": 1}, {"a": 2, "b": 0}, {"a": None}, {"a": [0]}, {"c": 1}],
    ids=str,
)
def test_the_views_are_luigi_s(visibilities: Any) -> None:
    given = {"task_id": "t", "status": "PENDING", "deps": None, "params": PARAMS, "param_visibilities": visibilities}
    stock, made = luigi_scheduler.Task(**given), NewTask(**given, retry_policy=POLICY)
    assert vars(made).keys() == vars(stock).keys()
    assert derived(made) == derived(stock) == reloaded(made)


@pytest.mark.parametrize("nothing", [[], "", 0, False], ids=repr)
def test_visibilities_that_say_nothing_may_be_of_any_type(nothing: Any) -> None:
    """Luigi takes them for a task that has parameters already."""
    task = NewTask("t", "PENDING", None, params=PARAMS, retry_policy=POLICY)
    task.param_visibilities = nothing
    assert derived(task) == reloaded(task)
    scheduler = luigi_spanner.Scheduler(store="memory://")
    for visibilities in (None, nothing):
        scheduler.add_task(worker="w", task_id="t", params=PARAMS, param_visibilities=visibilities)
    assert scheduler.task_list("PENDING", "")["t"]["params"] == PARAMS


def test_parameters_that_come_later_have_views_too_and_can_be_undone() -> None:
    graph = Graph(None, {}, clock=lambda: 1000.0)
    graph.tracker.begin(1)
    graph.run(graph.add_task, {"worker": "w", "task_id": "t"})
    graph.tracker.take()
    task = graph._state.get_task("t")
    before, savepoint = derived(task), graph.tracker.savepoint()
    assert not any(before.values())

    graph.run(graph.add_task, {"worker": "w", "task_id": "t", "params": PARAMS})
    assert derived(task) == {"params": PARAMS, "public_params": PARAMS, "hidden_params": {}}
    assert task.public_params is task.params, "one dict is enough"
    assert set(DERIVED) <= graph.tracker.touched[TASKS, ("t",)]

    graph.tracker.rollback(savepoint)
    assert derived(task) == before


@pytest.mark.parametrize(
    "old, new, changes", [(1, 1, False), (1, True, True), (1, 1.0, True), ("a", "ab"[:1], False), (None, 0, True)]
)
def test_what_is_equal_and_of_the_same_type_is_no_change(old: Any, new: Any, changes: bool) -> None:
    graph = Graph(None, {}, clock=lambda: 1000.0)
    graph.tracker.begin(1)
    graph.run(graph.add_task, {"worker": "w", "task_id": "t"})
    task = graph._state.get_task("t")
    task.tracking_url = old
    graph.tracker.take()
    task.tracking_url = new
    assert bool(graph.tracker.take()) is changes
