"""Stock Luigi as the oracle: its own rules and state, made repeatable.

Where it differs from `luigi.scheduler.Scheduler`, and why:

- `Worker.tasks` is ordered by when the worker became able to run the task. Stock's set is hashed by address, so that with tied
  ranks it picks by luck.
- Pruned tasks leave `Worker.tasks`. Stock keeps such ghosts: they are counted by luck, and a PENDING one makes get_work raise
  KeyError for ever.
- `set_batch_running` copies the resources. Stock makes `resources_running` the very dict `resources`, so that decreasing what a
  running batch uses also shrinks what it asks for when it runs again.
- `Task.deps` iterates sorted. Stock's set iterates by the hashes of strings, which differ from process to process; new
  dependencies are inserted, and cycles resolved, in that order. `twins.Twins` does the same to ours.
- Of new dependencies that a worker reports for a task that another one runs, nothing is taken note of. Stock takes the task from
  that one, which is what happens when a worker repeats such a report because its reply was lost.
- A task that a worker declared RUNNING without having been given it holds no resources that could be decreased: stock raises.
- A call that raises changes nothing: `Oracle` starts over and replays all others. Stock keeps what was done up to the error.
  Of the calls in `steps` one raises: claiming a batch whose tasks run no more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from luigi import scheduler as luigi_scheduler
from luigi.task_status import BATCH_RUNNING, RUNNING

Build = Callable[[], luigi_scheduler.Scheduler]


class SortedSet(set[str]):
    """A set that iterates in the order of its members."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(set(self)))


class TaskList(dict[luigi_scheduler.Task, None]):
    """A set of tasks in the order in which they were added."""

    def add(self, task: luigi_scheduler.Task) -> None:
        self.setdefault(task)


class Task(luigi_scheduler.Task):
    @property
    def deps(self) -> SortedSet:
        return self._deps

    @deps.setter
    def deps(self, deps: Iterable[str]) -> None:
        self._deps = SortedSet(deps)


class Worker(luigi_scheduler.Worker):
    def __init__(self, worker_id: str) -> None:
        super().__init__(worker_id)
        self.tasks = TaskList()


class State(luigi_scheduler.SimpleTaskState):
    def get_worker(self, worker_id: str) -> Worker:
        if worker_id not in self._active_workers:
            self._active_workers[worker_id] = Worker(worker_id)
        return self._active_workers[worker_id]

    def inactivate_tasks(self, delete_tasks: Iterable[str]) -> None:
        ghosts = [self._tasks[task_id] for task_id in delete_tasks]
        super().inactivate_tasks(task.id for task in ghosts)
        for worker in self._active_workers.values():
            for task in ghosts:
                worker.tasks.pop(task, None)

    def set_batch_running(self, task: Task, batch_id: str, worker_id: str) -> None:
        super().set_batch_running(task, batch_id, worker_id)
        task.resources_running = task.resources.copy()


class Stock(luigi_scheduler.Scheduler):
    """Stock's scheduler on that state. `collector` is what it reports metrics to."""

    def __init__(self, config: Any, limits: dict[str, Any], history: Any, collector: Any) -> None:
        super().__init__(config, dict(limits), history)
        self._state = State(self._config.state_path)
        self._state._metrics_collector = collector
        self._make_task = partial(Task, retry_policy=self._config._get_retry_policy())

    def add_task(self, **arguments: Any) -> None:
        task = self._state.get_task(arguments["task_id"])
        running = task is not None and task.status in (RUNNING, BATCH_RUNNING)
        if arguments.get("new_deps") and running and task.worker_running not in (None, arguments["worker"]):
            arguments["new_deps"] = None
        super().add_task(**arguments)

    def decrease_running_task_resources(self, task_id: str, decrease_resources: dict[str, Any]) -> None:
        if hasattr(self._state.get_task(task_id), "resources_running"):
            super().decrease_running_task_resources(task_id, decrease_resources)


class _Time:
    """Stands in for the module `time` in Luigi's scheduler."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.time = clock


@contextmanager
def told(clock: Callable[[], float]) -> Iterator[None]:
    """Luigi's scheduler module sees this clock inside."""
    before = luigi_scheduler.time
    luigi_scheduler.time = _Time(clock)
    try:
        yield
    finally:
        luigi_scheduler.time = before


class Oracle:
    """Plays calls, given as a method and its arguments in JSON, on a scheduler that `build` makes. A call that raises leaves no
    trace in the scheduler; `played` is called before each call with its number, on the replay too."""

    def __init__(self, build: Build, played: Callable[[int], object]) -> None:
        self._build = build
        self._played = played
        self._log: list[tuple[float, int, str, str]] = []
        with told(lambda: 0.0):
            self.scheduler = build()

    def call(self, at: float, number: int, method: str, arguments: str) -> str:
        """The reply as JSON. Raises whatever the rule raises."""
        try:
            reply = self._run(at, number, method, arguments)
        except Exception:  # A rule may raise anything: the caller compares it.
            self._start_over()
            raise
        self._log.append((at, number, method, arguments))
        return reply

    def _run(self, at: float, number: int, method: str, arguments: str) -> str:
        self._played(number)
        with told(lambda: at):
            return json.dumps(getattr(self.scheduler, method)(**json.loads(arguments)))

    def _start_over(self) -> None:
        with told(lambda: 0.0):
            self.scheduler = self._build()
        for call in self._log:
            self._run(*call)
