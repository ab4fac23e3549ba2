"""What a task's own status says about why it is not running, and until when."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING, UNKNOWN

from luigi_spanner.graph.why_words import Reason, counted, duration, moment

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph
    from luigi_spanner.graph.task import Task

ENDLESS = 10**8
"""Failures or seconds from which on a retry policy is none: Luigi's defaults are a thousand million."""


def of_status(graph: Graph, task: Task) -> list[Reason]:
    """What the status says; nothing where the task is PENDING, and so waits for something else."""
    if task.status == PENDING:
        return []
    says = _SAYS.get(task.status)
    if says is None:
        return [Reason(code="status", sentence=f"Its status is {task.status}, and only PENDING tasks are handed out.")]
    return says(graph, task, graph.now())


# It runs


def _running(graph: Graph, task: Task, now: float) -> list[Reason]:
    since = getattr(task, "time_running", None)
    details = {"worker": task.worker_running, "since": since}
    began = "" if since is None else f" since {moment(since, now)}"
    on = task.worker_running or "no known worker"
    sentence = f"It is running on {on}{began}{_silence(graph, task, now, details)}."
    return [Reason(code="running", sentence=sentence, details=details)]


def _silence(graph: Graph, task: Task, now: float, details: dict[str, Any]) -> str:
    """What becomes of a running task whose worker is not heard of."""
    delay = graph._config.worker_disconnect_delay
    worker = graph._state.find_worker(task.worker_running) if task.worker_running else None
    if task.worker_running and (worker is None or worker.leaving):
        details["silent_since"] = None if worker is None else worker.last_active
        return "; that worker is gone, and the next prune makes the task FAILED"
    if worker is not None and worker.last_active + delay < now:
        details["silent_since"] = worker.last_active
        return f"; that worker was last heard of at {moment(worker.last_active, now)}, and the next prune makes the task FAILED"
    return ""


def _batch_running(graph: Graph, task: Task, now: float) -> list[Reason]:
    state, worker = graph._state, task.worker_running
    size = len(state.index.batches.get(task.batch_id, ()))
    runs = (state._tasks[task_id] for task_id in state.index.running_on.get(worker, ()))
    claimed = min((running.id for running in runs if running.batch_id == task.batch_id), default=None)
    since = getattr(task, "time_running", None)
    details = {"worker": worker, "since": since, "batch_id": task.batch_id, "batch_size": size, "runs_as": claimed}
    begun = "which that worker has not begun yet" if claimed is None else f"which runs as {claimed}"
    taken = f"{worker or 'A worker'} took it at {moment(since, now)} in a batch of {counted(size, 'task')}, {begun}"
    return [Reason(code="batch_running", sentence=f"{taken}{_silence(graph, task, now, details)}.", details=details)]


# It has run


def _done(graph: Graph, task: Task, now: float) -> list[Reason]:
    done = Reason(code="done", sentence=f"It has been DONE since {moment(task.updated, now)}.", details={"since": task.updated})
    until = task.updated + graph._config.stable_done_cooldown_secs
    if now >= until:
        return [done]
    cooling = f"It cools down until {moment(until, now)}: a worker that adds it before does not make it PENDING again."
    return [done, Reason(code="cooling_down", sentence=cooling, details={"until": until})]


def _failed(graph: Graph, task: Task, now: float) -> list[Reason]:
    failures, limit = _failures(task, now), task.retry_policy.retry_count
    details: dict[str, Any] = {"since": task.updated, "failures": failures, "retry_at": None}
    of = ""
    if limit < ENDLESS:
        details["retry_count"] = limit
        of = f" of {limit}"
    if graph._config.retry_delay < 0 or task.retry is None:
        then = "it is not tried again by itself, because retry_delay is negative"
    elif task.retry < now:
        then = f"its retry was due at {moment(task.retry, now)}, and the next prune makes it PENDING"
    else:
        then = f"it is tried again at {moment(task.retry, now)}"
    if graph._config.retry_delay >= 0:
        details["retry_at"] = task.retry
    sentence = f"It FAILED at {moment(task.updated, now)} (failure {failures}{of}); {then}."
    return [Reason(code="failed", sentence=sentence, details=details)]


def _failures(task: Task, now: float) -> int:
    """How many failures count by now. Luigi's own count forgets the old ones, which would change the task."""
    return sum(failure >= now - task.retry_policy.disable_window for failure in task.failures)


def _disabled(graph: Graph, task: Task, now: float) -> list[Reason]:
    since = task.scheduler_disable_time
    if since is None:
        sentence = f"A worker reported it DISABLED at {moment(task.updated, now)}: it stays so until a worker adds it again."
        details = {"since": task.updated, "until": None, "retry_at": None, "by": "worker"}
        return [Reason(code="disabled", sentence=sentence, details=details)]
    until, delay = since + graph._config.disable_persist, graph._config.retry_delay
    exhausted = _exhausted(task, since)
    what = (
        f"Its retries were exhausted at {moment(since, now)} ({exhausted})"
        if exhausted
        else (f"It was disabled by hand at {moment(since, now)}")
    )
    then = f"tried again {duration(delay)} later" if delay >= 0 else "not tried again by itself"
    details = {
        "since": since,
        "until": until,
        "retry_at": until + delay if delay >= 0 else None,
        "by": "failures" if exhausted else "hand",
    }
    sentence = f"{what}: it is DISABLED until {moment(until, now)}, and is then FAILED and {then}."
    return [Reason(code="disabled", sentence=sentence, details=details)]


def _exhausted(task: Task, at: float) -> str:
    """Which limit the task's failures had reached when it was disabled; empty if none."""
    count, hard, window = task.retry_policy
    if sum(failure >= at - window for failure in task.failures) >= count:
        return f"retry_count is {count} within {duration(window)}"
    if task.first_failure_time is not None and at >= task.first_failure_time + hard:
        return f"disable_hard_timeout is {duration(hard)}"
    return ""


def _unknown(graph: Graph, task: Task, now: float) -> list[Reason]:
    dependents = len(graph._state.index.dependents.get(task.id, ()))
    depend = f"{counted(dependents, 'task')} {'depends' if dependents == 1 else 'depend'} on it"
    sentence = f"No worker has offered it yet: {depend}, or a worker could not tell whether it is complete."
    return [Reason(code="unknown", sentence=sentence, details={"dependents": dependents})]


_SAYS: Mapping[str, Callable[[Graph, Task, float], list[Reason]]] = {
    RUNNING: _running,
    BATCH_RUNNING: _batch_running,
    DONE: _done,
    FAILED: _failed,
    DISABLED: _disabled,
    UNKNOWN: _unknown,
}
