"""Tasks without a store: what Luigi derives of a task's parameters, and what counts as a change."""

from __future__ import annotations

from typing import Any

import pytest
from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.task import NewTask, Task, decode_task, encode_lasting

PARAMS = {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    "visibilities",
    [None, {}, {"a": 0}, {"a": 0, "b": 0}, {"a": False, "b": 0.0}, {"a": 1}, {"a": 2, "b": 0}, {"a": None}, {"a": [0]}, {"c": 1}],
    ids=str,
)
def test_the_views_are_luigi_s(visibilities: Any) -> None:
    given = {"task_id": "t", "status": "PENDING", "deps": None, "params": PARAMS, "param_visibilities": visibilities}
    stock = luigi_scheduler.Task(**given)
    stock.retry_policy = luigi_scheduler.RetryPolicy(1, 2, 3)
    made = NewTask(**given, retry_policy=stock.retry_policy)
    loaded = decode_task("t", {"status": "PENDING", "priority": 0}, encode_lasting(made))
    assert isinstance(loaded, Task)
    for task in (made, loaded):
        assert (task.params, task.public_params, task.hidden_params) == (stock.params, stock.public_params, stock.hidden_params)


def test_parameters_that_come_later_have_views_too() -> None:
    task = NewTask("t", "PENDING", None)
    task.param_visibilities = {"a": 1}
    task.set_params(PARAMS)
    assert (task.public_params, task.hidden_params) == ({"b": "2"}, {"a": "1"})
    task.param_visibilities = {}
    task.set_params(PARAMS)
    assert (task.public_params, task.hidden_params) == (PARAMS, {})
