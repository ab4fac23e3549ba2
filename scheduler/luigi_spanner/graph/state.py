"""The tracked state: Luigi's `SimpleTaskState` with every change recorded and undoable."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

from luigi import scheduler as luigi_scheduler
from luigi.metrics import NoMetricsCollector
from luigi.task_status import BATCH_RUNNING, RUNNING, UNKNOWN

from luigi_spanner.digest import TASKS
from luigi_spanner.graph.containers import Ranked, Table
from luigi_spanner.graph.history import History, host_of
from luigi_spanner.graph.index import Index
from luigi_spanner.graph.outbox import OUTBOX
from luigi_spanner.graph.relations import RUNNERS, STAKEHOLDERS, Runners, Stakeholders
from luigi_spanner.graph.task import Proposal, Task, decode_task
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.graph.worker import WORKERS, Worker, decode_worker

_CLAIMED = (RUNNING, BATCH_RUNNING)


class StatusTasks(Ranked[Task]):
    """The tasks of one status, in the order in which they took it. Luigi's rules move tasks between these."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(lambda task: task.status_ordinal)
        self._tracker = tracker

    def __setitem__(self, task_id: str, task: Task) -> None:
        if dict.get(self, task_id) is task:
            return
        self._tracker.log(self.drop, task_id)
        task.status_ordinal = self._tracker.ordinal()
        self.put(task_id, task)

    def pop(self, task_id: str, *default: Any) -> Any:
        if task_id not in self:
            return dict.pop(self, task_id, *default)
        task = dict.pop(self, task_id)
        self._tracker.log(self.put, task_id, task)
        return task


class ByStatus(dict[str, StatusTasks]):
    """Status to tasks, made on demand as Luigi's defaultdict does."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def __missing__(self, status: str) -> StatusTasks:
        self[status] = tasks = StatusTasks(self._tracker)
        return tasks


class NoSuchBatch(IndexError):
    """A worker claims a batch that nobody has handed out, or of which nothing runs any more."""


class Batch(list[Task]):
    """The tasks of a batch that run. Luigi's rule for a claim takes the first without asking whether there is one."""

    def __getitem__(self, index: Any) -> Any:
        if getattr(next(iter(self), None), "resources_running", None) is None:
            raise NoSuchBatch("batch_id names no batch that is running.")
        return super().__getitem__(index)


class State(luigi_scheduler.SimpleTaskState):
    """Luigi's state in tracked containers.

    `grain` is the age in seconds that a worker's liveness may have in other replicas (I7); 0 replicates each change of it.
    `soft` holds the workers whose liveness is younger than what is replicated. `stakes` is the other side of
    `Task.stakeholders`. `relations_digest` is the sum of the digests of stakeholders and runners. `now` is the rules' clock.
    `reported` makes of a task what the metrics collector is given of it: values only, since it is told after the commit.
    """

    def __init__(self, state_path: str, tracker: Tracker, *, grain: float, now: Callable[[], float]) -> None:
        self.tracker = tracker
        self.grain = grain
        self.now = now
        self.soft: dict[str, Worker] = {}
        self.stakes: dict[str, set[str]] = {}
        self.relations_digest = 0
        self.names: dict[str, str] | None = None
        self.reported: Callable[[Task], Any] = Task.detached
        self.batchers = Table(tracker, "batchers")
        self.settings = Table(tracker, "settings")
        self.emails = Table(tracker, "emails")
        self.outbox = Table(tracker, OUTBOX)
        self.replicas = Table(tracker, "replicas")
        self.history = History(tracker)
        super().__init__(state_path)
        self.index = Index(self)
        self.reset()

    def reset(self) -> None:
        """Forget everything, untracked, before a load."""
        self.__dict__["_tasks"] = Ranked[Task](lambda task: task.ordinal)
        self._status_tasks = ByStatus(self.tracker)
        self._active_workers = Ranked[Worker](lambda worker: worker.ordinal)
        simple = (self.batchers, self.settings, self.emails, self.outbox, self.replicas, self.history)
        for forgotten in (self.soft, self.stakes, *simple):
            forgotten.clear()
        self.relations_digest = 0
        self.index.clear()
        self.tracker.stale.clear()
        self.tracker.changed = None

    def settle(self) -> None:
        """Put everything in order now, not when it is first looked at: a load may take its time, a call may not."""
        for ranked in (self._tasks, self._active_workers, *self._status_tasks.values()):
            ranked.settle()
        self.index.refresh()

    def __setattr__(self, name: str, value: Any) -> None:
        # Embedding code empties the graph by assigning a dict, as upstream's tests do.
        if name == "_tasks" and "_tasks" in self.__dict__:
            self.inactivate_tasks(list(self._tasks))
            for task in value.values():
                self._insert_task(task)
        else:
            super().__setattr__(name, value)

    # Tasks

    def make_stakeholders(self, task: Task) -> Stakeholders:
        return Stakeholders(self, task.id)

    def make_runners(self, task: Task) -> Runners:
        return Runners(self, task.id)

    def get_task(self, task_id: str, default: Any = None, setdefault: Proposal | Task | None = None) -> Any:
        task = self._tasks.get(task_id)
        if task is not None:
            return task
        if setdefault is None:
            return default
        task = setdefault.accepted() if isinstance(setdefault, Proposal) else setdefault
        self._insert_task(task)
        self._note(task, UNKNOWN)
        return task

    def _insert_task(self, task: Task) -> None:
        Task.enter(task, self)
        task.__dict__["ordinal"] = self.tracker.ordinal()
        self.tracker.log(self._tasks.drop, task.id)
        self.tracker.touch_whole(TASKS, (task.id,))
        self._tasks.put(task.id, task)
        self._status_tasks[task.status][task.id] = task

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        for task_id in delete_tasks:
            task = self._tasks[task_id]
            for worker_id in list(task.stakeholders):
                task.stakeholders.discard(worker_id)
            for worker_id in list(task.workers):
                task.workers.discard(worker_id)
            self._status_tasks[task.status].pop(task_id)
            self.tracker.log(self._tasks.put, task_id, task)
            self.tracker.touch_whole(TASKS, (task_id,))
            self._tasks.drop(task_id)

    def put_task(self, task_id: str, row: dict[str, Any]) -> Task:
        """Insert a task as its row says, or replace the one that is there."""
        if task_id in self._tasks:
            self.inactivate_tasks([task_id])
        task = decode_task(task_id, {name: value for name, value in row.items() if value is not None})
        Task.enter(task, self)
        self.tracker.log(self._tasks.drop, task_id)
        self.tracker.touch_whole(TASKS, (task_id,))
        self._tasks.put(task_id, task)
        self._index(task)
        return task

    def shared_id(self, task_id: str) -> str:
        """The id, as the task of that id has it, or while loading as whoever named it first."""
        if self.names is not None:
            return self.names.setdefault(task_id, task_id)
        task = self._tasks.get(task_id)
        return task_id if task is None else str(task.id)

    def load_task(self, task_id: str, *rows: dict[str, Any]) -> None:
        """Insert a task as its row says, untracked, while loading."""
        task = Task.enter(decode_task(self.shared_id(task_id), *rows), self)
        self._tasks.put(task.id, task)
        self._status_tasks[task.status].put(task.id, task)
        self.tracker.stale.add(task.id)

    def _index(self, task: Task) -> None:
        """Put a task among those of its status, at the place its row gives it."""
        tasks = self._status_tasks[task.status]
        self.tracker.log(tasks.drop, task.id)
        tasks.put(task.id, task)

    def move_task(self, task: Task, change: Callable[[], None]) -> None:
        """Run `change`, which may give `task` another status and place."""
        self._status_tasks[task.status].pop(task.id)
        change()
        self._index(task)

    def rank_task(self, task: Task) -> None:
        """The task's ordinal has changed: it was deleted and added again."""
        self._tasks.put(task.id, task)

    def set_status(self, task: Task, new_status: str, config: Any = None) -> None:
        before = task.status
        super().set_status(task, new_status, config)
        if task.status in _CLAIMED and before not in _CLAIMED:
            task.claims += 1
        if task.status != before:
            self._note(task, before)

    def _note(self, task: Task, before: str) -> None:
        claimed = task.status in _CLAIMED or before in _CLAIMED
        worker_id = (task.worker_running if claimed else None) or self.history.caller
        self.history.note(task, before, worker_id, host_of(self._active_workers.get(worker_id)), self.now())

    def fail_dead_worker_task(self, task: Task, config: Any, assistants: set[str]) -> None:
        # Stock forgets who ran the task before it fails it.
        self.history.caller, self.history.explanation = task.worker_running, f"Worker {task.worker_running} was lost"
        super().fail_dead_worker_task(task, config, assistants)
        self.history.caller = self.history.explanation = None

    def set_batch_running(self, task: Task, batch_id: str, worker_id: str) -> None:
        # Stock's order sets the status first, when it is not known yet who runs the task.
        task.batch_id = batch_id
        task.worker_running = worker_id
        task.resources_running = task.resources
        task.time_running = self.now()
        self.set_status(task, BATCH_RUNNING)

    def count(self, status: str) -> int:
        """How many tasks have the status."""
        return len(self._status_tasks[status])

    def get_batch_running_tasks(self, batch_id: str) -> Batch:
        assert batch_id is not None
        self.index.refresh()
        return Batch(self.by_status_order(self.index.batches.get(batch_id, ())))

    def by_status_order(self, task_ids: Iterable[str]) -> list[Task]:
        """The tasks in the order in which they took their status."""
        return sorted((self._tasks[task_id] for task_id in task_ids), key=lambda task: task.status_ordinal)

    # Workers

    def find_worker(self, worker_id: str) -> Worker | None:
        """The worker, if known; none is made."""
        return self._active_workers.get(worker_id)

    def get_worker(self, worker_id: str) -> Worker:
        worker = self._active_workers.get(worker_id)
        if worker is None:
            worker = Worker(worker_id, last_active=self.now())
            worker.ordinal = self.tracker.ordinal()
            self._insert_worker(worker)
        return worker

    def _insert_worker(self, worker: Worker) -> None:
        worker.enter(self)
        self.tracker.log(self._active_workers.drop, worker.id)
        self.tracker.touch_whole(WORKERS, (worker.id,))
        self._active_workers.put(worker.id, worker)

    def rank_worker(self, worker: Worker) -> None:
        """The worker's ordinal has changed: it was removed and came back."""
        self._active_workers.put(worker.id, worker)

    def put_worker(self, worker_id: str, row: dict[str, Any]) -> Worker:
        """Insert a worker as its row says, or replace the one that is there."""
        if worker_id in self._active_workers:
            self.inactivate_workers([worker_id])
        worker = decode_worker(worker_id, row)
        self._insert_worker(worker)
        return worker

    def inactivate_workers(self, delete_workers: Iterable[str]) -> None:
        workers = list(delete_workers)
        self._remove_workers_from_tasks(workers)
        for worker_id in workers:
            worker = self._active_workers[worker_id]
            self.tracker.log(self._active_workers.put, worker_id, worker)
            self.tracker.touch_whole(WORKERS, (worker_id,))
            self._active_workers.drop(worker_id)
            if self.soft.pop(worker_id, None) is not None:
                self.tracker.log(self.soft.__setitem__, worker_id, worker)

    def held_by(self, worker: Worker) -> int:
        """How many relations to tasks the worker has."""
        return len(self.stakes.get(worker.id, ())) + len(worker.tasks)

    def release(self, worker: Worker, limit: int) -> None:
        """End the relations of a worker to some `limit` tasks, those that it was added to first, with a record each."""
        held = dict.fromkeys(islice(worker.tasks.in_order(), limit))
        held.update(dict.fromkeys(islice(sorted(self.stakes.get(worker.id, ())), limit - len(held))))
        for task_id in held:
            task = self._tasks[task_id]
            task.stakeholders.discard(worker.id)
            task.workers.discard(worker.id)

    def _remove_workers_from_tasks(self, workers: Iterable[str], remove_stakeholders: bool = True) -> None:
        for worker_id in workers:
            if remove_stakeholders:
                self.withdraw_stakes(worker_id)
            self.withdraw_runner(worker_id)

    def withdraw_stakes(self, worker_id: str) -> None:
        """The worker is a stakeholder of nothing any more: one record, whatever the number of tasks (I8)."""
        stakes = self.stakes.get(worker_id)
        if stakes:
            self.tracker.touch_prefix(STAKEHOLDERS, (worker_id,), stakes)
            for task_id in list(stakes):
                self._tasks[task_id].stakeholders.withdraw(worker_id)

    def withdraw_runner(self, worker_id: str) -> None:
        """The worker can run nothing any more: one record, whatever the number of tasks (I8)."""
        worker = self.find_worker(worker_id)
        if worker is not None and len(worker.tasks):
            self.tracker.touch_prefix(RUNNERS, (worker_id,), worker.tasks.ids())
            for task in worker.tasks:
                task.workers.withdraw(worker_id)

    def fold_liveness(self, older_than: float) -> None:
        """Let the replicated state know of workers whose liveness is more than `older_than` seconds younger than it says."""
        for worker_id, worker in list(self.soft.items()):
            saved_active, saved_work = worker.saved
            behind = max(worker.last_active - saved_active, (worker.last_get_work or 0.0) - (saved_work or 0.0))
            if behind > older_than:
                worker.fold()
                self.tracker.log(self.soft.__setitem__, worker_id, worker)
                del self.soft[worker_id]

    def hear(self, heard: dict[str, tuple[float, float | None]]) -> None:
        """Of these workers something was heard at these times (`last_active` and `last_get_work`), which nobody may know yet."""
        for worker_id, (last_active, last_get_work) in heard.items():
            worker = self.find_worker(worker_id)
            if worker is not None:
                worker.last_active, worker.last_get_work = last_active, last_get_work

    # Batchers

    @property
    def _task_batchers(self) -> dict[str, dict[str, tuple[Any, Any]]]:
        by_worker: dict[str, dict[str, tuple[Any, Any]]] = {}
        for (worker_id, family), row in self.batchers.items():
            by_worker.setdefault(str(worker_id), {})[str(family)] = (row["batched_params"], row["max_batch_size"])
        return by_worker

    @_task_batchers.setter
    def _task_batchers(self, batchers: dict[str, dict[str, tuple[Any, Any]]]) -> None:
        for worker_id, families in batchers.items():
            for family, (batched_params, max_batch_size) in families.items():
                self.set_batcher(worker_id, family, batched_params, max_batch_size)

    def set_batcher(self, worker_id: str, family: str, batcher_args: Any, max_batch_size: Any) -> None:
        self.batchers.put((worker_id, family), {"batched_params": list(batcher_args), "max_batch_size": max_batch_size})

    def get_batcher(self, worker_id: str, family: str) -> tuple[Any, Any]:
        row = self.batchers.get((worker_id, family))
        return (row["batched_params"], row["max_batch_size"]) if row else (None, 1)

    # Stock's pickle, for code that embeds the scheduler

    def load(self) -> None:
        """Take over the pickle at the state path, as stock does, but only into an empty state: ours is durable already."""
        if self._tasks or self._active_workers:
            return
        stock = luigi_scheduler.SimpleTaskState(self._state_path)
        stock.load()
        self.set_state(stock.get_state())

    def get_state(self) -> tuple[Any, ...]:
        tasks = {task_id: task.detached() for task_id, task in self._tasks.items()}
        return tasks, dict(self._active_workers.items()), self._task_batchers

    def set_state(self, state: tuple[Any, ...]) -> None:
        """Take over a state that stock Luigi pickled: what is there goes, tracked like any change."""
        tasks, workers, *batchers = state
        self.inactivate_tasks(list(self._tasks))
        self.inactivate_workers(list(self._active_workers))
        for worker in workers.values():
            self._adopt_worker(worker)
        for task in tasks.values():
            self._adopt_task(task)
        if batchers:
            self._task_batchers = batchers[0]

    def _adopt_worker(self, stock: luigi_scheduler.Worker) -> None:
        worker = Worker.__new__(Worker)
        worker.__dict__.update({**vars(stock), "tasks": set(), "ordinal": self.tracker.ordinal()})
        self._insert_worker(worker)

    def _adopt_task(self, stock: luigi_scheduler.Task) -> None:
        stakeholders, runners = set(stock.stakeholders), list(stock.workers)
        task = Task.__new__(Task)
        task.__dict__.update(vars(stock))
        self._insert_task(task)
        for worker_id in stakeholders:
            task.stakeholders.add(worker_id)
        for worker_id in runners:
            task.workers.add(worker_id)

    # Effects

    def update_metrics(self, task: Task, config: Any) -> None:
        if not isinstance(self._metrics_collector, NoMetricsCollector):
            self.tracker.defer(partial(super().update_metrics, self.reported(task), config))
