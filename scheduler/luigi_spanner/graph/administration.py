"""What people on call ask of the scheduler beyond what Luigi offers. Each is a call like any other: run, committed, answered.

A change keeps to Luigi's rules: a task gets its new status by `set_status`, a worker leaves as one does that was found dead. The
answer of a change tells what was there before and what is there now, so that whoever asks need not look first.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection
from itertools import islice
from typing import Any

from luigi import scheduler as luigi_scheduler
from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING, UNKNOWN

from luigi_spanner._version import __version__
from luigi_spanner.graph.adoption import IMPORTING
from luigi_spanner.graph.ledger import Ledger
from luigi_spanner.graph.rows import Resources
from luigi_spanner.graph.task import Task

ADMINISTRATION = frozenset(
    {"cancel_task", "evict_worker", "fail_task", "find_tasks", "overview", "reset_resource", "retry_task", "show_task"}
)
"""The remote methods of this module, by name."""

CANCEL = "cancel"
"""What a running task that takes messages is told when somebody cancels it."""

LOOKED_AT = 5000
"""Most tasks that one `find_tasks` looks at, a few milliseconds of work; the answer says where the next one goes on."""

PAGE = 1000
"""Most tasks that one `find_tasks` shows, some 10 ms of work."""

NAMED = 100
"""Most neighbours that `show_task` names. It says how many there are, and looks at the status of LOOKED_AT at most."""


class Administration(luigi_scheduler.Scheduler):
    """The rules for people on call. `Graph` brings state, clock and the rest."""

    _state: Any
    ledger: Ledger
    limits: dict[str, Any]

    # Tasks

    def fail_task(self, task_id: str, reason: str | None = None) -> dict[str, Any]:
        """Take a task that waits or runs for failed: it counts as a failure and is tried again after `retry_delay`.

        If it runs, it goes on running; when its worker reports it done after all, it is done.
        """
        task = self._state.get_task(task_id)
        before = _status(task)
        if before in (PENDING, RUNNING, BATCH_RUNNING):
            self._update_task_history(task, FAILED)
            task.expl = json.dumps(reason or "taken for failed by hand")
            self._state.set_status(task, FAILED, self._config)
            task.batch_id = None
        return _outcome(task_id, before, task)

    def retry_task(self, task_id: str) -> dict[str, Any]:
        """Let a task that has failed, was disabled or cancelled run again at once, its failures forgotten."""
        task = self._state.get_task(task_id)
        before = _status(task)
        if before in (FAILED, DISABLED):
            self._update_task_history(task, PENDING)
            self._state.re_enable(task)
            self._state.set_status(task, PENDING, self._config)
        return {**_outcome(task_id, before, task), "workers": 0 if task is None else len(task.workers)}

    def cancel_task(self, task_id: str, force: bool = False) -> dict[str, Any]:
        """Let no worker have the task: it is disabled, as by the scheduler itself, until it is retried, re-enabled, done, or
        `disable_persist` has passed.

        No message of Luigi's ends a running task. One that takes messages is told `CANCEL` and keeps its status. `force` disables
        a running task, and all of its batch, although it runs on.
        """
        task = self._state.get_task(task_id)
        before = _status(task)
        told = None
        if before in (PENDING, FAILED, UNKNOWN, DISABLED):
            self._disable(task)
        elif before in (RUNNING, BATCH_RUNNING) and force:
            for running in (task, *self._batch_of(task)):
                # Luigi's rule disables nothing that runs.
                self._state.set_status(running, PENDING, self._config)
                running.batch_id = None
                self._disable(running)
        elif before == RUNNING:
            told = self._tell(task)
        worker = task.worker_running if before in (RUNNING, BATCH_RUNNING) else None
        return {**_outcome(task_id, before, task), "worker": worker, "message_id": told}

    def _disable(self, task: Task) -> None:
        if task.status != DISABLED or task.scheduler_disable_time is None:
            self._state.set_status(task, DISABLED, self._config)
            # Without it the next worker to schedule the task would enable it.
            task.scheduler_disable_time = self.now()

    def _batch_of(self, task: Task) -> list[Task]:
        """The tasks of the batch that a running task stands for."""
        alone = task.batch_id is None or task.status != RUNNING
        return [] if alone else list(self._state.get_batch_running_tasks(task.batch_id))

    def _tell(self, task: Task) -> str | None:
        """Send a running task the message to end; the message's id, None if it takes none."""
        if not task.accepts_messages or self._state.find_worker(task.worker_running or "") is None:
            return None
        sent = self.send_scheduler_message(worker=task.worker_running, task=task.id, content=CANCEL)
        message_id: str | None = sent["message_id"]
        return message_id

    def find_tasks(
        self,
        status: str = "",
        family: str | None = None,
        worker: str | None = None,
        search: str | None = None,
        limit: int = 50,
        after: int | None = None,
    ) -> dict[str, Any]:
        """Tasks in the order in which they were added, or with a `status` in the order in which they took it, a page at a time.

        `worker` runs them or may run them, `search` holds words that all stand in what they are called. `next` is where the page
        after this one begins, to be given as `after`; None at the end. A page may be short, or empty, and not the last.
        """
        listed = self._state._status_tasks[status] if status else self._state._tasks
        # One more than are looked at tells whether there are more.
        tasks = list(islice(listed.values(), LOOKED_AT + 1) if after is None else listed.values())

        def rank(task: Task) -> int:
            return task.status_ordinal if status else task.ordinal

        words = [word.casefold() for word in (search or "").split()]
        start = 0 if after is None else bisect_right(tasks, after, key=rank)
        shown: list[dict[str, Any]] = []
        end = start
        for task in tasks[start : start + LOOKED_AT]:
            if len(shown) == limit:
                break
            end += 1
            if _fits(task, family, worker, words):
                shown.append({"task_id": task.id, **self._serialize_task(task.id, include_deps=False)})
        return {"tasks": shown, "next": rank(tasks[end - 1]) if start < end < len(tasks) else None}

    def show_task(self, task_id: str) -> dict[str, Any] | None:
        """All that is known of one task, None if there is none. Hidden and private parameters stay hidden."""
        task = self._state.get_task(task_id)
        if task is None:
            return None
        self._state.index.refresh()
        disabled = task.scheduler_disable_time
        return {
            "task_id": task.id,
            **self._serialize_task(task.id, include_deps=False),
            "module": task.module,
            "error": task.expl,
            "failures": len(task.failures),
            "retry_policy": task.retry_policy._asdict(),
            "retry_at": task.retry if task.status == FAILED else None,
            "disabled_at": disabled,
            "enabled_again_at": None if disabled is None else disabled + self._config.disable_persist,
            "remove_at": task.remove,
            "batch_id": task.batch_id,
            "claims": task.claims,
            "stakeholders": sorted(task.stakeholders)[:NAMED],
            "dependencies": self._neighbours(task.deps),
            "dependents": self._neighbours(self._state.index.dependents.get(task.id, ())),
        }

    def _neighbours(self, task_ids: Collection[str]) -> dict[str, Any]:
        """How many there are, in which status those that were looked at are, and the first of them that are not done."""
        statuses = {task_id: _status(self._state.get_task(task_id)) or UNKNOWN for task_id in sorted(islice(task_ids, LOOKED_AT))}
        unfinished = (task_id for task_id, status in statuses.items() if status != DONE)
        return {
            "total": len(task_ids),
            "by_status": dict(Counter(statuses.values())),
            "unfinished": [{"task_id": task_id, "status": statuses[task_id]} for task_id in islice(unfinished, NAMED)],
        }

    # Workers

    def evict_worker(self, worker: str) -> dict[str, Any]:
        """Take a worker for dead: what it runs has failed and is tried again after `retry_delay`, what only it wanted goes.

        If it lives, its next call makes it a new worker that has no tasks, as in Luigi after a silence.
        """
        found = self._state.find_worker(worker)
        if found is None:
            return {"worker": worker, "known": False, "running": []}
        running = [
            task.id for task in self._state.get_active_tasks_by_status(RUNNING, BATCH_RUNNING) if task.worker_running == worker
        ]
        found.leaving = True
        self.prune()
        return {"worker": worker, "known": True, "running": running}

    # Resources

    def reset_resource(self, resource: str) -> dict[str, Any]:
        """Let the limit of the configuration hold again for a resource whose limit was set by a call."""
        known = resource in self._resources
        if self._resources.origins.get(resource) == Resources.API:
            configured = {"total": self.limits[resource], "origin": Resources.CONFIG} if resource in self.limits else None
            self._resources.put(resource, configured)
        row = self._resources.row(resource) or {"total": None, "origin": None}
        return {"resource": resource, "known": known, **row}

    # All of it

    def overview(self) -> dict[str, Any]:
        """The deployment at one moment: journal, replicas, tasks by status, workers by state, resources."""
        workers = Counter(worker.state for worker in self._state.get_active_workers())
        by_status = {status: len(tasks) for status, tasks in sorted(self._state._status_tasks.items()) if tasks}
        return {
            "release": __version__,
            "time": self.now(),
            "head": self.ledger.applied,
            "watermark": self.ledger.watermark,
            "paused": self._paused,
            "importing": IMPORTING in self._state.settings,
            "replicas": [{"replica": key[0], **row} for key, row in sorted(self._state.replicas.items())],
            "tasks": by_status,
            "workers": dict(workers),
            "resources": self._limits_in_use(),
        }

    def _limits_in_use(self) -> list[dict[str, Any]]:
        """Resources that have a limit or are used; one that nobody declared has limit 1."""
        used = self._used_resources()
        undeclared = {"total": 1, "origin": "default"}
        names = sorted({*self._resources, *(name for name, amount in used.items() if amount)})
        return [{"resource": name, **(self._resources.row(name) or undeclared), "used": used.get(name, 0)} for name in names]


def _status(task: Task | None) -> str | None:
    return None if task is None else str(task.status)


def _outcome(task_id: str, before: str | None, task: Task | None) -> dict[str, Any]:
    """What became of a task: its status before and now, None where there is none."""
    return {"task_id": task_id, "before": before, "status": _status(task)}


def _fits(task: Task, family: str | None, worker: str | None, words: list[str]) -> bool:
    if family is not None and task.family != family:
        return False
    if worker is not None and worker not in task.workers and worker != task.worker_running:
        return False
    if not words:
        return True
    name = task.pretty_id.casefold()
    return all(word in name for word in words)
