"""Take over the state of a stock luigid, a portion a call, so that no call has to make a hundred thousand tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from luigi_spanner.graph.task import Task

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph

IMPORTING = ("importing",)
"""The setting of a namespace that holds a part of what is being imported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StockWorker:
    """A worker of stock: its attributes as plain values."""

    worker_id: str
    row: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StockTask:
    """A task of stock: its attributes as plain values, and the workers that want it or may run it, the last scheduler last."""

    task_id: str
    row: dict[str, Any]
    stakeholders: Sequence[str]
    runners: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Batcher:
    """How tasks of a family are batched for a worker."""

    worker_id: str
    family: str
    params: list[str]
    size: float


def begin(graph: Graph) -> None:
    """Mark the namespace: until `finish` it holds a part of a state."""
    graph._state.settings.put(IMPORTING, {"value": True})


def finish(graph: Graph) -> None:
    """All is there."""
    graph._state.settings.remove(IMPORTING)


def is_empty(graph: Graph) -> bool:
    """Whether there is nothing that a pickle would bring: limits of resources, the pause and the replicas may be there."""
    state = graph._state
    return not (state._tasks or state._active_workers or state.batchers)


def clear(graph: Graph, limit: int) -> None:
    """Let go of up to `limit` tasks, and once there are none of all workers and batchers."""
    state = graph._state
    gone = list(islice(state._tasks, limit))
    state.inactivate_tasks(gone)
    if not state._tasks:
        state.inactivate_workers(list(state._active_workers))
        for key in list(state.batchers):
            state.batchers.remove(key)


def adopt_workers(graph: Graph, workers: Iterable[StockWorker], batchers: Iterable[Batcher]) -> None:
    """Take over workers and how they batch. They count as active now: `worker_disconnect_delay` begins anew."""
    state = graph._state
    for worker in workers:
        last_active = max(worker.row["last_active"], graph.now())
        info = worker.row.get("info") or {}
        row = {**worker.row, "last_active": last_active, "info": dict(info), "ordinal": state.tracker.ordinal()}
        state.put_worker(worker.worker_id, row)
    for batcher in batchers:
        state.set_batcher(batcher.worker_id, batcher.family, batcher.params, batcher.size)


def adopt_tasks(graph: Graph, tasks: Iterable[StockTask]) -> None:
    """Take over tasks, in their order. Workers that are not there want nothing and run nothing."""
    state = graph._state
    for stock in tasks:
        ordinals = {"ordinal": state.tracker.ordinal(), "status_ordinal": state.tracker.ordinal()}
        task: Task = state.put_task(stock.task_id, {**_row(graph, stock.row), **ordinals})
        for worker_id in stock.stakeholders:
            if state.find_worker(worker_id) is not None:
                task.stakeholders.add(worker_id)
        for worker_id in stock.runners:
            if state.find_worker(worker_id) is not None:
                task.workers.add(worker_id)


def _row(graph: Graph, stock: dict[str, Any]) -> dict[str, Any]:
    """A task's row as `encode_lasting` and `encode_moving` write it."""
    row = dict(stock)
    row.setdefault("updated", row["time"])
    row.setdefault("priority", Task.DEFAULT_PRIORITY)
    row.setdefault("retry_policy", list(graph._config._get_retry_policy()))
    row["family"] = row.get("family") or ""
    for name in ("accepts_messages", "runnable", "batchable"):
        if name in row and row[name] is None:
            row[name] = [None]
    row["resources"] = _counted(row.get("resources") or {})
    if "resources_running" in row:
        running = row["resources_running"]
        row["resources_running"] = [None if running is None else _counted(running)]
    return row


def _counted(amounts: dict[str, Any]) -> dict[str, Any]:
    """Amounts as numbers: true is 1."""
    return {name: int(amount) if isinstance(amount, bool) else amount for name, amount in amounts.items()}
