"""Small worlds for tests: random calls on few tasks and workers, replicas in one thread, a picture of all that memory holds."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import strategies as st
from luigi import scheduler as luigi_scheduler
from luigi.task_history import NopHistory

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.relations import Runners, WorkerTasks
from luigi_spanner.replica import Limits, Replica
from luigi_spanner.stores import Store

T = TypeVar("T")

TASKS = [f"t{number}" for number in range(6)]
WORKERS = ["w1", "w2", "w3"]
RESOURCES = ["r", "s"]


@dataclass
class Clock:
    """A clock that goes when told to. Seconds since the epoch."""

    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


@dataclass
class Naps:
    """A sleep that only moves the clock, and wakes whoever must act meanwhile."""

    clock: Clock
    taken: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        self.clock.time += seconds
        assert len(self.taken) < 10_000, "it sleeps for ever"


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on stores that never suspend."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value  # type: ignore[no-any-return]
    raise AssertionError("it suspends")


def make_graph(clock: Clock, *, grain: float = 0.0, **keys: Any) -> Graph:
    config = luigi_scheduler.scheduler(
        **{
            "retry_delay": 20.0,
            "remove_delay": 50.0,
            "worker_disconnect_delay": 30.0,
            "disable_window": 100,
            "retry_count": 2,
            "disable_persist": 60,
            **keys,
        }
    )
    return Graph(config, {"r": 2}, NopHistory(), grain=grain, clock=clock)


class World:
    """A replica on a store, driven by hand."""

    def __init__(
        self, store: Store, clock: Clock, name: str = "a", *, grain: float = 0.0, keep: int = 100_000, **keys: Any
    ) -> None:
        ids = itertools.count()
        self.clock = clock
        self.naps = Naps(clock)
        self.graph = make_graph(clock, grain=grain, **keys)
        self.replica = Replica(
            name=name,
            namespace="default",
            store=store,
            graph=self.graph,
            ids=lambda: f"{name}-{next(ids)}",
            clock=clock,
            sleep=self.naps,
            limits=Limits(journal_keep=keep),
        )
        drive(self.replica.load())

    def waiting(self, method: str, **arguments: Any) -> Waiting:
        return Waiting(Call(request_id=f"request-{method}", method=method, arguments=arguments), getattr(self.graph, method))

    def settle(self, *batch: Waiting) -> list[Waiting]:
        drive(self.replica.settle(list(batch)))
        return list(batch)

    def call(self, method: str, **arguments: Any) -> Any:
        (waiting,) = self.settle(self.waiting(method, **arguments))
        if waiting.error is not None:
            raise waiting.error
        return waiting.reply


def picture(graph: Graph) -> dict[str, Any]:
    """All that memory holds, orders included, in plain values."""
    state = graph._state
    return {
        "tasks": [(task.id, _plain(vars(task))) for task in state._tasks.values()],
        "by_status": {status: list(tasks) for status, tasks in sorted(state._status_tasks.items()) if tasks},
        "workers": [(worker.id, _plain(vars(worker))) for worker in state._active_workers.values()],
        "stakes": {worker: sorted(tasks) for worker, tasks in sorted(state.stakes.items())},
        "simple": {name: _sorted(getattr(state, name)) for name in ("batchers", "settings", "emails", "outbox", "replicas")},
        "resources": (_sorted(graph._resources), _sorted(graph._resources.origins)),
        "digest": graph.ledger.digest,
        "digests": {table: _sorted(digests) for table, digests in _sorted(graph.ledger._digests) if digests},
    }


def _sorted(items: Any) -> list[Any]:
    return sorted(items.items(), key=repr)


def _plain(value: Any) -> Any:
    if isinstance(value, WorkerTasks):
        return [task.id for task in value]
    if isinstance(value, Runners):
        return [(worker, value.ordinal(worker)) for worker in value]
    if isinstance(value, dict):
        # Whether an attribute was never set or is at its default is no difference.
        return {key: _plain(item) for key, item in sorted(value.items()) if key != "home"}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (list, deque)):
        return [_plain(item) for item in value]
    return value


def normal(pictured: dict[str, Any]) -> dict[str, Any]:
    """A picture without what a reload gives explicitly and memory by default: attributes at their class's default."""
    defaults = {"claims": 0, "run": None, "saved": None}
    tasks = [(task_id, {**defaults, **attributes}) for task_id, attributes in pictured["tasks"]]
    workers = [(worker_id, {"leaving": False, **attributes}) for worker_id, attributes in pictured["workers"]]
    return {**pictured, "tasks": tasks, "workers": workers}


# Random calls

_task = st.sampled_from(TASKS)
_worker = st.sampled_from(WORKERS)
_amounts = st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 3), max_size=2)
_params = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2", "é\ud800\0"]), max_size=2)
_add_task = st.fixed_dictionaries(
    {"worker": _worker, "task_id": _task},
    optional={
        "status": st.sampled_from(["PENDING", "RUNNING", "DONE", "FAILED", "DISABLED", "UNKNOWN", "SUSPENDED"]),
        "deps": st.lists(_task, max_size=3),
        "new_deps": st.lists(_task, max_size=2),
        "runnable": st.booleans(),
        "priority": st.one_of(st.integers(-2, 5), st.floats(0, 3)),
        "resources": _amounts,
        "family": st.sampled_from(["F", "G"]),
        "module": st.sampled_from(["m", None]),
        "params": _params,
        "param_visibilities": st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from([0, 1, 2]), max_size=2),
        "batchable": st.booleans(),
        "assistant": st.booleans(),
        "accepts_messages": st.booleans(),
        "tracking_url": st.sampled_from(["http://x", None]),
        "expl": st.just('"it broke"'),
        "owners": st.just(["me@example.org"]),
        "retry_policy_dict": st.fixed_dictionaries({"retry_count": st.integers(1, 3)}),
    },
)


def _method(name: str, **arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    return st.tuples(st.just(name), st.fixed_dictionaries(arguments))


calls: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.tuples(st.just("add_task"), _add_task),
    st.tuples(st.just("add_task"), _add_task),
    _method("get_work", worker=_worker, host=st.just("h"), assistant=st.booleans()),
    _method("get_work", worker=_worker, host=st.just("h"), current_tasks=st.lists(_task, max_size=2)),
    _method("ping", worker=_worker),
    _method("add_worker", worker=_worker, info=st.just([("workers", 2)])),
    _method(
        "add_task_batcher",
        worker=_worker,
        task_family=st.sampled_from(["F", "G"]),
        batched_args=st.just(["a"]),
        max_batch_size=st.sampled_from([2, float("inf")]),
    ),
    _method("count_pending", worker=_worker),
    _method("disable_worker", worker=_worker),
    _method("set_worker_processes", worker=_worker, n=st.integers(1, 3)),
    _method("add_scheduler_message_response", task_id=_task, message_id=st.sampled_from(["m1", "m2"]), response=st.just("ok")),
    _method("get_scheduler_message_response", task_id=_task, message_id=st.sampled_from(["m1", "m2"])),
    _method("forgive_failures", task_id=_task),
    _method("mark_as_done", task_id=_task),
    _method("re_enable_task", task_id=_task),
    _method("set_task_status_message", task_id=_task, status_message=st.sampled_from(["half", "done"])),
    _method("set_task_progress_percentage", task_id=_task, progress_percentage=st.integers(0, 100)),
    _method("decrease_running_task_resources", task_id=_task, decrease_resources=_amounts),
    _method("update_resource", resource=st.sampled_from(RESOURCES), amount=st.integers(0, 4)),
    _method("fail_task", task_id=_task),
    _method("retry_task", task_id=_task),
    _method("cancel_task", task_id=_task, force=st.booleans()),
    _method("evict_worker", worker=_worker),
    _method("reset_resource", resource=st.sampled_from(RESOURCES)),
    _method("pause"),
    _method("unpause"),
    _method("prune"),
    _method("task_list", status=st.just(""), upstream_status=st.just("")),
    _method("worker_list"),
)

histories = st.lists(st.tuples(st.floats(0, 40), calls), max_size=25)


def play(world: World, history: Iterable[tuple[float, tuple[str, dict[str, Any]]]]) -> None:
    """Play a history; a call that a rule rejects is undone and the next one goes on."""
    for seconds, (method, arguments) in history:
        world.clock.time += seconds
        world.settle(world.waiting(method, **arguments))
