"""What a worker's second call does when the reply to its first was lost: the table in docs/reliability.md, line by line.

Each claim holds on stock Luigi's scheduler and on ours, but for the one that says otherwise. A worker repeats the same call,
and calls nothing else meanwhile; other workers do.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import luigi.scheduler
import pytest
from luigi.metrics import NoMetricsCollector
from luigi.rpc import RPC_METHODS
from luigi.worker import KeepAliveThread, SchedulerMessage, TaskStatusReporter, Worker

import luigi_spanner

Arguments = dict[str, Any]
Step = tuple[str, Arguments]


class Metrics(NoMetricsCollector):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.statistics: list[Any] = []

    def handle_task_statistics(self, task: Any, statistics: Any) -> None:
        self.statistics.append(statistics)


class Clock:
    """The time that Luigi's rules see."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture(params=[luigi.scheduler.Scheduler, luigi_spanner.Scheduler], ids=["stock", "ours"])
def build(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def scheduler(build: Callable[..., Any], clock: Clock) -> Any:
    return build(resources={"r": 2}, retry_delay=10.0, retry_count=3, send_messages=True)


def task(task_id: str, worker: str = "w", **arguments: Any) -> Step:
    return "add_task", {"worker": worker, "task_id": task_id, "family": "F", **arguments}


def work(worker: str = "w", *current: str, **arguments: Any) -> Step:
    return "get_work", {"worker": worker, "host": "h", "current_tasks": list(current), **arguments}


def play(scheduler: Any, *steps: Step) -> Any:
    """The reply to the last one."""
    replies = [getattr(scheduler, method)(**copy.deepcopy(arguments)) for method, arguments in steps]
    return replies[-1] if replies else None


def seen(scheduler: Any) -> Any:
    """All that can be asked of the state."""
    tasks = {task.id: _plain(vars(task)) for task in scheduler._state.get_active_tasks()}
    workers = {worker.id: _plain(vars(worker)) for worker in scheduler._state.get_active_workers()}
    return copy.deepcopy((tasks, workers, dict(scheduler._resources), scheduler.task_list("", ""), scheduler.worker_list()))


def _plain(attributes: dict[str, Any]) -> dict[str, str]:
    # What ours keeps for its own purposes (`home`, `saved`) says nothing of the graph.
    return {name: _text(value) for name, value in attributes.items() if name not in ("home", "saved")}


def _text(value: Any) -> str:
    if isinstance(value, (set, frozenset)):
        return str(sorted(str(getattr(item, "id", item)) for item in value))
    return str(list(value)) if hasattr(value, "__iter__") and not isinstance(value, (str, dict)) else repr(value)


RUNNING = (task("t", resources={"r": 2}), work())
BATCHER = ("add_task_batcher", {"worker": "w", "task_family": "F", "batched_args": ["a"], "max_batch_size": 5})
BATCHED = (BATCHER, task("t1", params={"a": "1"}, batchable=True), task("t2", params={"a": "2"}, batchable=True))

CHANGES_NOTHING: dict[str, tuple[tuple[Step, ...], Step]] = {
    "add_worker": ((), ("add_worker", {"worker": "w", "info": [("workers", 2)]})),
    "add_task_batcher": ((), BATCHER),
    "count_pending": ((task("t"),), ("count_pending", {"worker": "w"})),
    "add_task: a task to do": ((), task("t", deps=["u"], priority=3, resources={"r": 1}, params={"a": "1"})),
    "add_task: a task that is complete": ((), task("t", status="DONE")),
    "add_task: success": (RUNNING, task("t", status="DONE", expl='""')),
    "add_task: a batch's success": (
        (*BATCHED, work(), task("t", status="RUNNING", batch_id="{batch}")),
        task("t", status="DONE", expl='""'),
    ),
    "add_task: it needs more": (RUNNING, task("t", status="PENDING", new_deps=["u"])),
    "add_task: a tracking URL": (RUNNING, task("t", status="RUNNING", tracking_url="http://x")),
    "add_task: a batch is claimed": ((*BATCHED, work()), task("t", status="RUNNING", batch_id="{batch}")),
    "set_task_status_message": (RUNNING, ("set_task_status_message", {"task_id": "t", "status_message": "half"})),
    "set_task_progress_percentage": (RUNNING, ("set_task_progress_percentage", {"task_id": "t", "progress_percentage": 50})),
    "add_scheduler_message_response": (
        RUNNING,
        ("add_scheduler_message_response", {"task_id": "t", "message_id": "m", "response": "yes"}),
    ),
    "get_work: a task": ((task("t", resources={"r": 2}), task("u")), work()),
    "get_work: nothing": ((), work()),
    "get_work: by an assistant": ((task("t", worker="other"), ("add_worker", {"worker": "w", "info": []})), work(assistant=True)),
}
"""What went before, and the call that is repeated at once."""


@pytest.mark.parametrize("name", CHANGES_NOTHING)
def test_a_repeat_changes_nothing(scheduler: Any, name: str) -> None:
    before, (method, arguments) = CHANGES_NOTHING[name]
    batch = ""
    for step in before:
        reply = play(scheduler, _of_batch(step, batch))
        batch = (reply or {}).get("batch_id", batch)
    repeated = _of_batch((method, arguments), batch)
    first = play(scheduler, repeated)
    state = seen(scheduler)
    again = play(scheduler, repeated)
    # Beside what it hands out, get_work tells how much is left, of which what it has handed out is no part any more.
    assert (again["task_id"] == first["task_id"]) if method == "get_work" else (again == first)
    assert seen(scheduler) == state


def _of_batch(step: Step, batch: str) -> Step:
    method, arguments = step
    return method, {**arguments, "batch_id": batch} if "batch_id" in arguments else arguments


def test_the_table_knows_every_call_of_a_worker() -> None:
    source = "".join(inspect.getsource(part) for part in (Worker, KeepAliveThread, TaskStatusReporter, SchedulerMessage))
    called = {method for method in RPC_METHODS if f"_scheduler.{method}(" in source}
    told = {name.partition(":")[0] for name in CHANGES_NOTHING}
    assert called == told | {"ping", "announce_scheduling_failure", "decrease_running_task_resources", "report_task_statistics"}


# get_work: the reply was lost, and with it a task


def test_a_lost_task_is_handed_out_again_and_to_nobody_else(scheduler: Any) -> None:
    play(scheduler, task("t"), task("t", "v"))
    assert play(scheduler, work())["task_id"] == "t"
    assert play(scheduler, work("v"))["task_id"] is None
    assert play(scheduler, work())["task_id"] == "t"
    assert play(scheduler, work("w", "t"))["task_id"] is None


def test_only_what_the_worker_does_not_run_is_handed_out_again(scheduler: Any) -> None:
    play(scheduler, task("t"), task("u"), task("x"))
    running = play(scheduler, work())["task_id"]
    lost = play(scheduler, work("w", running))["task_id"]
    assert play(scheduler, work("w", running))["task_id"] == lost
    assert len({running, lost, play(scheduler, work("w", running, lost))["task_id"]}) == 3


def test_a_lost_batch_is_handed_out_again_or_to_another(scheduler: Any) -> None:
    play(scheduler, *BATCHED, *((method, {**arguments, "worker": "v"}) for method, arguments in BATCHED))
    first = play(scheduler, work())
    assert play(scheduler, work("v"))["task_id"] is None
    again = play(scheduler, work())
    assert again["batch_task_ids"] == first["batch_task_ids"]
    assert again["batch_id"] == first["batch_id"]
    assert play(scheduler, work("v"))["task_id"] is None


def test_a_batch_that_was_claimed_stays(scheduler: Any) -> None:
    play(scheduler, *BATCHED)
    batch = play(scheduler, work())["batch_id"]
    claim = task("t", status="RUNNING", batch_id=batch)
    play(scheduler, claim, claim)
    assert play(scheduler, work("w", "t"))["task_id"] is None
    play(scheduler, task("t", status="DONE"))
    assert {name: seen["status"] for name, seen in scheduler.task_list("", "").items()} == dict.fromkeys(
        ("t", "t1", "t2"), "DONE"
    )


# add_task: others went on between the two


def test_success_is_not_taken_back_by_a_repeat_of_what_came_before(scheduler: Any) -> None:
    """A worker adds a task as one to do, and another has done it by the time of its repeat."""
    play(scheduler, task("t"), task("t", "v"), work("v"), task("t", "v", status="DONE"), task("t"))
    assert scheduler.task_list("DONE", "").keys() == {"t"}


def test_after_the_cooldown_it_is_a_wish_to_run_the_task_again(scheduler: Any, clock: Clock) -> None:
    play(scheduler, task("t"), task("t", "v"), work("v"), task("t", "v", status="DONE"))
    clock.now += scheduler._config.stable_done_cooldown_secs
    play(scheduler, task("t"))
    assert play(scheduler, work())["task_id"] == "t"


def test_a_longer_cooldown_prevents_that(build: Callable[..., Any], clock: Clock) -> None:
    scheduler = build(stable_done_cooldown_secs=3600)
    play(scheduler, task("t"), task("t", "v"), work("v"), task("t", "v", status="DONE"))
    clock.now += 3000
    play(scheduler, task("t"))
    assert play(scheduler, work())["task_id"] is None


@pytest.mark.parametrize("status", ["DONE", "FAILED"])
def test_a_report_does_not_touch_what_another_worker_runs_by_now(scheduler: Any, clock: Clock, status: str) -> None:
    failed = task("t", status="FAILED", expl='"x"')
    play(scheduler, task("t"), task("t", "v"), work(), failed)
    clock.now += 11
    scheduler.prune()
    assert play(scheduler, work("v"))["task_id"] == "t"
    play(scheduler, task("t", status=status, expl='"x"'))
    assert scheduler.task_list("RUNNING", "")["t"]["worker_running"] == "v"


def test_a_failure_is_counted_twice(scheduler: Any) -> None:
    failed = task("t", status="FAILED", expl='"x"')
    play(scheduler, *RUNNING, failed)
    assert scheduler._state.get_task("t").num_failures() == 1
    play(scheduler, failed)
    assert scheduler._state.get_task("t").num_failures() == 2


def test_that_it_needs_more_does_not_take_it_from_another_worker(scheduler: Any, build: Callable[..., Any]) -> None:
    """Here ours differs: stock takes the task from the worker that runs it, and it runs twice."""
    more = task("t", status="PENDING", new_deps=["u"])
    play(scheduler, task("t"), task("t", "v"), work(), task("u", "v"), more)
    play(scheduler, work("v"), task("u", "v", status="DONE"))
    assert play(scheduler, work("v"))["task_id"] == "t"
    play(scheduler, more)
    doubled = play(scheduler, work())["task_id"] == "t"
    assert doubled == (build is luigi.scheduler.Scheduler)


# What is not harmless


def test_messages_in_a_lost_reply_to_a_ping_are_lost(scheduler: Any) -> None:
    play(scheduler, task("t"), ("set_worker_processes", {"worker": "w", "n": 3}))
    assert len(play(scheduler, ("ping", {"worker": "w"}))["rpc_messages"]) == 1
    assert play(scheduler, ("ping", {"worker": "w"})) == {"rpc_messages": []}


def test_resources_are_given_back_twice_but_no_more_than_the_task_has(scheduler: Any) -> None:
    play(scheduler, *RUNNING)
    less = ("decrease_running_task_resources", {"task_id": "t", "decrease_resources": {"r": 1}})
    left = []
    for _ in range(3):
        play(scheduler, less)
        left.append(scheduler.task_list("RUNNING", "")["t"]["resources_running"]["r"])
    assert left == [1, 0, 0]


def test_statistics_are_counted_twice(scheduler: Any) -> None:
    scheduler._state._metrics_collector = metrics = Metrics()
    play(scheduler, *RUNNING)
    for _ in range(2):
        play(scheduler, ("report_task_statistics", {"task_id": "t", "statistics": {"rows": 1}}))
    assert metrics.statistics == [{"rows": 1}, {"rows": 1}]


def test_a_scheduling_failure_is_counted_twice_in_the_mail(build: Callable[..., Any], clock: Clock) -> None:
    scheduler = build(batch_emails=True)
    failure = {"task_name": "t", "family": "F", "params": {}, "expl": "x", "owners": ["me"], "worker": "w"}
    for _ in range(2):
        play(scheduler, ("announce_scheduling_failure", failure))
    batcher = scheduler._email_batcher
    mailer = batcher if build is luigi.scheduler.Scheduler else batcher._mailer
    assert list(mailer._scheduling_fail_counts["me"].values()) == [2]


def test_a_response_that_was_read_is_there_again(scheduler: Any) -> None:
    play(scheduler, *RUNNING)
    response = ("add_scheduler_message_response", {"task_id": "t", "message_id": "m", "response": "yes"})
    question = ("get_scheduler_message_response", {"task_id": "t", "message_id": "m"})
    assert [play(scheduler, response, question)["response"] for _ in range(2)] == ["yes", "yes"]
