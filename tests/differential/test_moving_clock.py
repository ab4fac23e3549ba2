"""Tasks are handed out in stock's order also where the clock moves during a call, as it does outside of tests."""

from __future__ import annotations

from itertools import count
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from luigi import scheduler as luigi_scheduler
from luigi.metrics import NoMetricsCollector
from luigi.task_history import NopHistory
from oracle import Stock, told

from luigi_spanner.graph.containers import OwnedSet
from luigi_spanner.graph.graph import Graph

NAMES = "abcdefgh"

added = st.lists(
    st.tuples(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), unique=True, max_size=5), st.integers(0, 1)), max_size=12
)
"""Calls of `add_task`: a task, what it needs, and its priority. Only later names are needed, so that nothing runs in circles."""

Calls = list[tuple[str, dict[str, Any]]]


def calls_of(steps: list[tuple[str, list[str], int]]) -> Calls:
    calls: Calls = []
    for task_id, needs, priority in steps:
        deps = [need for need in needs if need > task_id]
        calls.append(("add_task", {"worker": "w", "task_id": task_id, "deps": deps, "priority": priority}))
    for _ in NAMES:
        calls.append(("get_work", {"worker": "w"}))
    return calls


def handed_out(replies: list[Any]) -> list[str | None]:
    return [reply["task_id"] for reply in replies if reply is not None]


@settings(max_examples=200)
@given(added)
def test_what_ranks_equal_goes_in_the_order_in_which_it_was_made(steps: list[tuple[str, list[str], int]]) -> None:
    calls = calls_of(steps)
    config = luigi_scheduler.scheduler(record_task_history=False)
    ticks = count(1_000_000)
    with told(lambda: next(ticks) / 1e3):
        stock = Stock(config, {}, NopHistory(), NoMetricsCollector())
        wanted = handed_out([getattr(stock, method)(**arguments) for method, arguments in calls])
    graph = Graph(config, {}, NopHistory(), clock=lambda: next(ticks) / 1e3)
    # As the oracle's: stock's own sets go by the hashes of strings.
    with mock.patch.object(OwnedSet, "__iter__", lambda self: iter(sorted(set(self))), create=True):
        got = []
        for seq, (method, arguments) in enumerate(calls, start=1):
            graph.tracker.begin(seq)
            got.append(graph.run(getattr(graph, method), arguments))
    assert handed_out(got) == wanted
