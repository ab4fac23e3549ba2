"""The graph: Luigi's own scheduler on tracked state. It does no I/O; whoever runs it commits what it has changed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

from luigi import configuration
from luigi import scheduler as luigi_scheduler
from luigi import task_history as luigi_history
from luigi.metrics import NoMetricsCollector
from luigi.task_status import BATCH_RUNNING, DONE, PENDING, RUNNING, UNKNOWN

from luigi_spanner.graph import coordination, selection, surroundings
from luigi_spanner.graph.administration import Administration
from luigi_spanner.graph.coordination import Coordination
from luigi_spanner.graph.entries import NO_COUNTS
from luigi_spanner.graph.ledger import Ledger
from luigi_spanner.graph.notifier import DirectNotifier, OutboxNotifier
from luigi_spanner.graph.outbox import Outbox
from luigi_spanner.graph.ready import Amount
from luigi_spanner.graph.rows import Resources
from luigi_spanner.graph.selection import Asker, Choice, Selection
from luigi_spanner.graph.state import State
from luigi_spanner.graph.task import Proposal, Task
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.graph.why import why
from luigi_spanner.graph.worker import Worker

NO_MESSAGES = b'{"rpc_messages":[]}'
"""The reply to a ping of a worker that has no unread messages."""

PAUSED = ("paused",)


class Graph(Administration, Coordination):
    """Luigi's scheduler whose state is tracked, undoable and encodable.

    `grain` as in `State`; `clock` gives the rules' time in seconds since the epoch, None stands for the system's.
    `limits` are the resource limits of the configuration; they take effect with `join` or `configure`. `queues_mail`: mail
    waits in the outbox for somebody who sends it; else it is sent once its change is durable.
    """

    _state: Any
    _email_batcher: Any

    def __init__(
        self,
        config: Any = None,
        resources: dict[str, Any] | None = None,
        task_history_impl: Any = None,
        *,
        grain: float = 0.0,
        clock: Callable[[], float] | None = None,
        queues_mail: bool = False,
        **scheduler_keys: Any,
    ) -> None:
        surroundings.install()
        self.tracker = Tracker()
        self.clock = clock
        self.limits: dict[str, Any] = {}
        self._more = False
        self._at_once = coordination.PRUNED_AT_ONCE
        super().__init__(config, resources, task_history_impl, **scheduler_keys)
        collector, self.limits = self._state._metrics_collector, dict(self.__dict__["_resources"] or {})
        self._state = State(self._config.state_path, self.tracker, grain=grain, now=self.now)
        self._state._metrics_collector = collector
        self.__dict__["_resources"] = Resources(self._state)
        self._make_task = partial(Proposal, retry_policy=self._config._get_retry_policy())
        self.outbox = Outbox(self._state.outbox, self.tracker, self.now)
        self._queue = self.outbox if queues_mail else None
        if self._config.batch_emails:
            notifier = OutboxNotifier if queues_mail else DirectNotifier
            self._email_batcher = notifier(self._state, self.outbox, _once(self._email_batcher))
        self.ledger = Ledger(self._state, self._resources)

    def __setattr__(self, name: str, value: Any) -> None:
        # Both are state shared by all replicas; Luigi's rules assign them.
        if name == "_paused":
            self._pause(value)
        elif name == "_resources" and isinstance(self.__dict__.get("_resources"), Resources):
            self._resources.update(value)
        else:
            super().__setattr__(name, value)

    @property
    def _paused(self) -> bool:
        row = self._state.settings.get(PAUSED)
        return bool(row and row["value"])

    def _pause(self, value: bool) -> None:
        state = self.__dict__.get("_state")
        if isinstance(state, State) and value != self._paused:
            state.settings.put(PAUSED, {"value": bool(value)})

    def now(self) -> float:
        """Seconds since the epoch, as the rules see it: the same all through a call, but that it passes between the tasks that a
        call makes."""
        now = surroundings.time_of_call()
        if now is not None:
            return now
        return float(luigi_scheduler.time.time() if self.clock is None else self.clock())

    # Running calls

    def run(self, rule: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run one of the rules with the replica's clock, its effects deferred. What it raises is the caller's to undo."""
        about_task = "task_id" in arguments
        self._state.history.caller = arguments.get("worker") if about_task else None
        self._state.history.explanation = arguments.get("expl") if about_task else None
        with surroundings.entered(self.tracker, self.clock, self._queue):
            return rule(**arguments)

    def ping_from_memory(self, arguments: dict[str, Any]) -> bytes | None:
        """The reply to a ping that changes nothing but liveness (I7), None if it must take the way of every call. Either way the
        sign of life counts from now on: the way may be long."""
        worker = self._state.find_worker(arguments.get("worker", ""))
        if worker is None or worker.leaving or not self._state.grain:
            return None
        with surroundings.entered(self.tracker, self.clock):
            worker.update(None)
        return None if worker.rpc_messages else NO_MESSAGES

    # A rule that differs from stock's

    @wraps(luigi_scheduler.Scheduler.add_task)
    def add_task(self, *args: Any, **arguments: Any) -> None:
        # A worker repeats a report whose reply was lost. When it said that a task needs more, others may have done that meanwhile
        # and another worker may run the task again: stock takes it from that one, and it runs twice.
        if arguments.get("new_deps") and self._runs_elsewhere(arguments.get("task_id"), arguments.get("worker")):
            arguments["new_deps"] = None
        super().add_task(*args, **arguments)

    def _runs_elsewhere(self, task_id: Any, worker_id: Any) -> bool:
        task = self._state.get_task(task_id)
        return task is not None and task.status in (RUNNING, BATCH_RUNNING) and task.worker_running not in (None, worker_id)

    # Rules that differ from stock's in how, not in what

    def _update_priority(self, task: Task, prio: Any, worker: str) -> None:
        # Stock recurses, and a chain of 3,000 dependencies ends in RecursionError.
        existing = task.priority if isinstance(task.priority, (int, float)) else Task.DEFAULT_PRIORITY
        task.priority = max(prio, existing)
        raised = [task]
        while raised:
            above = raised.pop()
            for dependency_id in above.deps:
                dependency = self._state.get_task(dependency_id)
                if dependency is not None and above.priority > dependency.priority:
                    dependency.priority = above.priority
                    raised.append(dependency)

    def _update_task_history(self, task: Task, status: str, host: str | None = None) -> None:
        if not isinstance(self._task_history, luigi_history.NopHistory):
            self.tracker.defer(partial(super()._update_task_history, task.detached(), status, host=host))

    def has_task_history(self) -> bool:
        embedded = bool(self._config.record_task_history) and not isinstance(self._task_history, luigi_history.NopHistory)
        return embedded or self._state.history.records

    def update_metrics_task_started(self, task: Task) -> None:
        if not isinstance(self._state._metrics_collector, NoMetricsCollector):
            self.tracker.defer(partial(super().update_metrics_task_started, self._state.reported(task)))

    def report_to(self, collector: Any, reported: Callable[[Task], Any] = Task.detached) -> None:
        """Tell this metrics collector of tasks from now on, as `reported` shows them: as a Luigi task, unless told otherwise."""
        self._state._metrics_collector = collector
        self._state.reported = reported

    def report_task_statistics(self, task_id: str, statistics: Any) -> None:
        task = self._state.get_task(task_id)
        if task is not None:
            self.tracker.defer(partial(self._state._metrics_collector.handle_task_statistics, task.detached(), statistics))

    def decrease_running_task_resources(self, task_id: str, decrease_resources: dict[str, Any]) -> None:
        # Stock fails on a task that runs without having been handed out: it holds nothing that could become less.
        task = self._state.get_task(task_id)
        if task is None or task.status != RUNNING:
            return
        batch = [] if task.batch_id is None else self._state.get_batch_running_tasks(task.batch_id)
        for running in (task, *batch):
            held = getattr(running, "resources_running", None) or {}
            for resource, amount in decrease_resources.items():
                if amount > 0 and resource in held:
                    held[resource] = max(0, held[resource] - amount)

    # Rules answered from the index instead of by a look at every task

    def get_work(
        self, host: Any = None, assistant: Any = False, current_tasks: Any = None, worker: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        if self._config.prune_on_get_work:
            self.prune()
        assert worker is not None
        asking = self._update_worker(worker, worker_reference={"host": host}, get_work=True)
        if not asking.enabled:
            nothing = {"n_pending_tasks": 0, "running_tasks": [], "task_id": None, "n_unique_pending": 0}
            return {**nothing, "worker_state": asking.state}
        if assistant:
            self.add_worker(worker, [("assistant", assistant)])
        choice = self._choose(asking, bool(assistant), current_tasks)
        reply: dict[str, Any] = self.count_pending(worker)
        if len(choice.batch) > 1:
            return {**reply, **self._hand_out_batch(choice, worker)}
        if choice.task is not None:
            return {**reply, **self._hand_out(choice.task, worker, host)}
        return {**reply, "task_id": None}

    def _choose(self, asking: Worker, assistant: bool, current_tasks: Any) -> Choice:
        lost = None
        if current_tasks is not None:
            # A lost reply heals here: what the worker does not know it runs is handed out again, or goes back.
            lost = selection.reclaim(self._state, asking.id, set(current_tasks))
            for task in selection.orphaned(self._state, asking.id):
                self._state.set_status(task, PENDING)
        if lost is not None:
            return Choice(task=lost)
        if self._paused:
            return Choice()
        active_since = self.now() - self._config.worker_disconnect_delay
        asker = Asker(worker=asking, assistant=assistant, active_since=active_since)
        return Selection(self._state, self._resources, asker).choose()

    def _hand_out(self, task: Task, worker_id: str, host: Any) -> dict[str, Any]:
        self.update_metrics_task_started(task)
        task.worker_running = worker_id
        task.resources_running = dict(task.resources)
        task.time_running = self.now()
        self._state.set_status(task, RUNNING, self._config)
        self._update_task_history(task, RUNNING, host=host)
        return {"task_id": task.id, "task_family": task.family, "task_module": task.module, "task_params": task.params}

    def _hand_out_batch(self, choice: Choice, worker_id: str) -> dict[str, Any]:
        assert choice.task is not None
        ids = [task.id for task in choice.batch]
        # The id is the one that stock gives: it is seen by workers and in their logs.
        batch_id = hashlib.md5("|".join(ids).encode(), usedforsecurity=False).hexdigest()
        for task in choice.batch:
            self._state.set_batch_running(task, batch_id, worker_id)
        return {
            "task_id": None,
            "task_family": choice.task.family,
            "task_module": choice.task.module,
            "task_params": {**choice.task.params, **(choice.batched or {})},
            "batch_id": batch_id,
            "batch_task_ids": ids,
        }

    def count_pending(self, worker: str) -> dict[str, Any]:
        asking = self._state.get_worker(worker)
        index = self._state.index
        index.refresh()
        if not index.below.is_plain():
            return dict(super().count_pending(worker))
        # Tasks below a disabled one do not count.
        counts, left_out = index.counts.get(worker, NO_COUNTS), index.below.counts.get(worker, NO_COUNTS)
        return {
            "n_pending_tasks": counts.open - left_out.open,
            "n_unique_pending": counts.open_unique - left_out.open_unique,
            "n_pending_last_scheduled": counts.open_last - left_out.open_last,
            "worker_state": asking.state,
            "running_tasks": [self._running_info(task) for task in selection.running_for(self._state, asking)],
        }

    def _running_info(self, task: Task) -> dict[str, Any]:
        running_on = self._state.get_worker(task.worker_running)
        return {"task_id": task.id, "worker": str(running_on), **running_on.info}

    def _prune_tasks(self) -> None:
        state, now = self._state, self.now()
        assistants = {worker.id for worker in state.get_assistants()}
        removed = []
        prunable, more = selection.prunable(state, now, self._config, assistants, self._at_once)
        self._more = more
        for task in prunable:
            state.fail_dead_worker_task(task, self._config, assistants)
            state.update_status(task, self._config)
            if state.may_prune(task):
                removed.append(task.id)
        state.inactivate_tasks(removed)

    def _used_resources(self) -> dict[str, Any]:
        self._state.index.refresh()
        return defaultdict(int, {name: _plain(amount) for name, amount in self._state.index.used.items()})

    def inverse_dep_graph(self, task_id: str, include_done: bool = True, **kwargs: Any) -> dict[str, Any]:
        self.prune()
        if not self._state.has_task(task_id):
            return {}
        self._state.index.refresh()
        return dict(self._traverse_graph(task_id, dep_func=self.dependents_of, include_done=include_done))

    def dependents_of(self, task: Task) -> Iterable[str]:
        """Ids of the tasks that depend on this one. The index must be fresh."""
        dependents: Iterable[str] = self._state.index.dependents.get(task.id, ())
        return dependents

    def worker_list(self, include_running: bool = True, **kwargs: Any) -> list[dict[str, Any]]:
        workers: list[dict[str, Any]] = super().worker_list(include_running=False)
        if include_running:
            running = self.running_by_worker()
            for worker in workers:
                name = worker["name"]
                tasks = {task_id: self._serialize_task(task_id, include_deps=False) for task_id in running[name]}
                worker.update(self.work_of(name, len(tasks)), running=tasks)
        return workers

    def running_by_worker(self) -> defaultdict[str, list[str]]:
        """Ids of the running tasks by the worker that runs them."""
        running = defaultdict[str, list[str]](list)
        for task in self._state.get_active_tasks_by_status(RUNNING):
            if task.worker_running:
                running[task.worker_running].append(task.id)
        return running

    def work_of(self, worker_id: str, running: int) -> dict[str, int]:
        """The numbers of a worker that runs so many tasks, as `worker_list` shows them."""
        self._state.index.refresh()
        counts = self._state.index.counts.get(worker_id, NO_COUNTS)
        return {"num_running": running, "num_pending": counts.pending, "num_uniques": counts.unique}

    def _prune_workers(self) -> None:
        # A worker that holds very many tasks is let go of in portions, so that nobody waits for it. The others go first.
        room = 2 * coordination.PRUNED_AT_ONCE
        dead = [worker for worker in self._state.get_active_workers() if worker.leaving or worker.prune(self._config)]
        for worker in sorted(dead, key=self._state.held_by):
            held = self._state.held_by(worker)
            if held <= room:
                self._state.inactivate_workers([worker.id])
            else:
                worker.leaving = True
                self._state.release(worker, room // 2)
            room = max(0, room - held)

    def _update_worker(self, worker_id: str, worker_reference: Any = None, get_work: bool = False) -> Any:
        worker = self._state.find_worker(worker_id)
        if worker is not None and worker.leaving:
            # It was declared dead: whoever calls by its name begins anew, as in stock.
            self._state.inactivate_workers([worker_id])
        return super()._update_worker(worker_id, worker_reference=worker_reference, get_work=get_work)

    # What a server asks for; run like any call

    def declare(
        self, worker: str, task_id: str, status: str, retry_policy_dict: Any, priority: Any, dependencies: list[str]
    ) -> None:
        """Make dependencies that an `add_task` is about to name, a part of them at a time, so that no call has to make a hundred
        thousand. None where that would come to nothing."""
        enabled = self._update_worker(worker).enabled
        self._generate_retry_policy(retry_policy_dict or {})
        task = self._state.get_task(task_id)
        done = status == PENDING and task is not None and task.status == DONE
        if enabled and not (done and self.now() - task.updated < self._config.stable_done_cooldown_secs):
            for task_id in dependencies:
                proposal = self._make_task(task_id=task_id, status=UNKNOWN, deps=None, priority=priority)
                self._state.get_task(task_id, setdefault=proposal).stakeholders.add(worker)

    def why(self, task_id: str, worker: str | None = None) -> dict[str, Any]:
        """Why a task is not running, or why that worker does not get it. Raises NoSuchTask."""
        if self._config.prune_on_get_work:
            # So does the next get_work before it decides.
            self.prune()
        return why(self, task_id, worker)

    # What whoever commits asks for

    def refill(self) -> None:
        """State came from elsewhere: bring up to date what is kept beside it."""
        if self._config.batch_emails:
            self._email_batcher.refill()


def _plain(amount: Amount) -> int | float:
    """An exact total as the number that people wrote: whole if it is whole."""
    return int(amount) if amount.denominator == 1 else float(amount)


def _once(first: Any) -> Callable[[], Any]:
    """Makes notifiers; the first is the one that Luigi made."""
    made = [first]
    return lambda: made.pop() if made else luigi_scheduler.BatchNotifier()


def configured_limits() -> dict[str, Any]:
    """The [resources] of the configuration."""
    return dict(configuration.get_config().getintdict("resources"))
