"""What people on call ask for: each change keeps to Luigi's rules, and what is not there is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from worlds import Clock, World, picture

from luigi_spanner.graph import administration
from luigi_spanner.stores.memory import MemoryStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    return World(MemoryStore(namespace="default"), clock, disable_persist=500, retry_count=3)


def ask(world: World, method: str, **arguments: Any) -> Any:
    return json.loads(world.call(method, **arguments))


def add(world: World, task_id: str, worker: str = "w", **arguments: Any) -> None:
    ask(world, "add_task", task_id=task_id, worker=worker, family="F", **arguments)


def taken(world: World, worker: str = "w", **arguments: Any) -> str | None:
    reply: str | None = ask(world, "get_work", worker=worker, host="h", **arguments)["task_id"]
    return reply


def status(world: World, task_id: str) -> str:
    return str(ask(world, "show_task", task_id=task_id)["status"])


@pytest.mark.parametrize("method", ["fail_task", "retry_task", "cancel_task"])
def test_a_task_that_is_not_there(world: World, method: str) -> None:
    before = picture(world.graph)
    reply = ask(world, method, task_id="nobody's")
    assert (reply["before"], reply["status"]) == (None, None)
    assert picture(world.graph) == before
    assert ask(world, "show_task", task_id="nobody's") is None


def test_a_failed_task_waits_and_is_tried_again(world: World, clock: Clock) -> None:
    add(world, "a")
    assert taken(world) == "a"
    assert ask(world, "fail_task", task_id="a", reason="stuck") == {"task_id": "a", "before": "RUNNING", "status": "FAILED"}
    shown = ask(world, "show_task", task_id="a")
    assert (shown["failures"], shown["retry_at"], json.loads(shown["error"])) == (1, clock.time + 20, "stuck")
    assert taken(world, current_tasks=["a"]) is None
    clock.time += 21
    ask(world, "ping", worker="w")
    ask(world, "prune")
    assert taken(world, current_tasks=["a"]) == "a"


def test_a_task_taken_for_failed_may_still_be_done(world: World) -> None:
    add(world, "a")
    taken(world)
    ask(world, "fail_task", task_id="a")
    add(world, "a", status="DONE")
    assert status(world, "a") == "DONE"
    assert ask(world, "fail_task", task_id="a")["status"] == "DONE"
    assert ask(world, "retry_task", task_id="a")["status"] == "DONE"


def test_failures_by_hand_count(world: World, clock: Clock) -> None:
    add(world, "a")
    for _ in range(3):
        ask(world, "fail_task", task_id="a")
        if status(world, "a") == "FAILED":
            ask(world, "forgive_failures", task_id="a")
    shown = ask(world, "show_task", task_id="a")
    assert (shown["status"], shown["disabled_at"], shown["enabled_again_at"]) == ("DISABLED", clock.time, clock.time + 500)
    assert ask(world, "retry_task", task_id="a") == {"task_id": "a", "before": "DISABLED", "status": "PENDING", "workers": 1}
    assert ask(world, "show_task", task_id="a")["failures"] == 0
    assert taken(world) == "a"


def test_a_cancelled_task_is_nobody_s_until_it_is_retried(world: World, clock: Clock) -> None:
    add(world, "a")
    add(world, "above", deps=["a"])
    reply = ask(world, "cancel_task", task_id="a")
    assert reply == {"task_id": "a", "before": "PENDING", "status": "DISABLED", "worker": None, "message_id": None}
    add(world, "a")  # it is scheduled again
    assert status(world, "a") == "DISABLED"
    assert ask(world, "get_work", worker="w", host="h")["n_pending_tasks"] == 0  # so that workers end
    clock.time += 10
    ask(world, "cancel_task", task_id="a")
    assert ask(world, "show_task", task_id="a")["disabled_at"] == clock.time - 10
    ask(world, "retry_task", task_id="a")
    assert taken(world) == "a"


def test_a_cancelled_task_comes_back_when_it_is_re_enabled_or_after_disable_persist(world: World, clock: Clock) -> None:
    add(world, "a")
    ask(world, "cancel_task", task_id="a")
    assert ask(world, "re_enable_task", task_id="a")["status"] == "FAILED"
    ask(world, "cancel_task", task_id="a")
    for _ in range(28):
        clock.time += 20
        ask(world, "ping", worker="w")
        ask(world, "prune")
    assert status(world, "a") == "PENDING"


def test_a_task_that_a_worker_disabled_stays_so_when_it_is_cancelled(world: World) -> None:
    add(world, "a", status="DISABLED")
    ask(world, "cancel_task", task_id="a")
    add(world, "a")
    assert status(world, "a") == "DISABLED"


def test_a_running_task_cannot_be_ended(world: World) -> None:
    add(world, "a")
    taken(world)
    before = picture(world.graph)
    reply = ask(world, "cancel_task", task_id="a")
    assert reply == {"task_id": "a", "before": "RUNNING", "status": "RUNNING", "worker": "w", "message_id": None}
    assert picture(world.graph) == before


def test_a_running_task_that_takes_messages_is_told(world: World) -> None:
    add(world, "a", accepts_messages=True)
    taken(world)
    reply = ask(world, "cancel_task", task_id="a")
    assert reply["status"] == "RUNNING"
    (message,) = ask(world, "ping", worker="w")["rpc_messages"]
    kwargs = {"task_id": "a", "message_id": reply["message_id"], "content": administration.CANCEL}
    assert message == {"name": "dispatch_scheduler_message", "kwargs": kwargs}


def test_a_running_task_is_cancelled_by_force(world: World) -> None:
    ask(world, "configure")
    add(world, "a", resources={"r": 2})
    add(world, "b", resources={"r": 2})
    taken(world)
    assert ask(world, "cancel_task", task_id="a", force=True)["status"] == "DISABLED"
    assert taken(world, current_tasks=["a"]) == "b"
    add(world, "a", status="FAILED")  # it ends after all
    assert status(world, "a") == "DISABLED"


def test_a_batch_is_cancelled_with_all_that_is_in_it(world: World) -> None:
    ask(world, "add_task_batcher", worker="w", task_family="F", batched_args=["x"])
    for number in "123":
        add(world, number, params={"x": number}, batchable=True)
    work = ask(world, "get_work", worker="w", host="h")
    add(world, "batch", status="RUNNING", batch_id=work["batch_id"], runnable=False)
    assert ask(world, "cancel_task", task_id="batch", force=True)["before"] == "RUNNING"
    assert {status(world, task_id) for task_id in ("1", "2", "3", "batch")} == {"DISABLED"}
    ask(world, "retry_task", task_id="2")
    assert taken(world, current_tasks=[]) == "2"


def test_one_task_of_a_batch_can_fail_alone(world: World) -> None:
    ask(world, "add_task_batcher", worker="w", task_family="F", batched_args=["x"])
    for number in "123":
        add(world, number, params={"x": number}, batchable=True)
    work = ask(world, "get_work", worker="w", host="h")
    add(world, "batch", status="RUNNING", batch_id=work["batch_id"], runnable=False)
    assert ask(world, "fail_task", task_id="2")["before"] == "BATCH_RUNNING"
    add(world, "batch", status="DONE", batch_id=work["batch_id"])
    assert [status(world, task_id) for task_id in "123"] == ["DONE", "FAILED", "DONE"]


def test_an_evicted_worker_is_a_dead_one(world: World, clock: Clock) -> None:
    add(world, "a")
    taken(world)
    add(world, "b")
    add(world, "b", worker="v")
    assert ask(world, "evict_worker", worker="w") == {"worker": "w", "known": True, "running": ["a"]}
    assert [worker["name"] for worker in ask(world, "worker_list")] == ["v"]
    assert status(world, "a") == "FAILED"
    assert ask(world, "show_task", task_id="b")["workers"] == ["v"]
    # It lives, and comes back as a new worker; what it reports of its task counts.
    add(world, "a", status="DONE")
    assert status(world, "a") == "DONE"
    assert taken(world, current_tasks=[]) is None


def test_a_worker_that_is_not_there(world: World) -> None:
    before = picture(world.graph)
    assert ask(world, "evict_worker", worker="nobody") == {"worker": "nobody", "known": False, "running": []}
    assert picture(world.graph) == before


def test_a_resource_goes_back_to_its_configured_limit(world: World) -> None:
    ask(world, "configure")
    for name, amount in (("r", 7), ("x", 5)):
        ask(world, "update_resource", resource=name, amount=amount)
    assert ask(world, "reset_resource", resource="r") == {"resource": "r", "known": True, "total": 2, "origin": "config"}
    assert ask(world, "reset_resource", resource="x") == {"resource": "x", "known": True, "total": None, "origin": None}
    assert not ask(world, "reset_resource", resource="x")["known"]
    assert ask(world, "reset_resource", resource="r")["total"] == 2


def test_the_overview(world: World) -> None:
    ask(world, "configure")
    add(world, "a", resources={"r": 1, "undeclared": 1})
    add(world, "b", worker="v", deps=["a"])
    taken(world)
    ask(world, "disable_worker", worker="v")
    ask(world, "pause")
    shown = ask(world, "overview")
    assert shown["tasks"] == {"PENDING": 1, "RUNNING": 1}
    assert shown["workers"] == {"active": 1, "disabled": 1}
    assert shown["paused"]
    assert shown["head"] == world.graph.ledger.applied
    assert shown["resources"] == [
        {"resource": "r", "total": 2, "origin": "config", "used": 1},
        {"resource": "undeclared", "total": 1, "origin": "default", "used": 1},
    ]


def pages(world: World, **arguments: Any) -> list[list[str]]:
    """The ids of all pages."""
    found, after = [], None
    while True:
        page = ask(world, "find_tasks", after=after, **arguments)
        found.append([task["task_id"] for task in page["tasks"]])
        after = page["next"]
        if after is None:
            return found


def test_tasks_are_found_page_by_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        add(world, f"t{number}", worker="wv"[number % 2], params={"day": str(number)}, priority=number)
    assert pages(world, limit=3) == [["t0", "t1", "t2"], ["t3", "t4", "t5"], ["t6"]]
    assert pages(world, limit=7) == [["t0", "t1", "t2", "t3", "t4", "t5", "t6"]]
    assert taken(world) == "t6"
    assert pages(world, status="RUNNING") == [["t6"]]
    assert pages(world, status="PENDING", worker="v", limit=2) == [["t1", "t3"], ["t5"]]
    assert pages(world, search="f( DAY=4") == [["t4"]]
    assert pages(world, family="G") == pages(world, status="DONE") == [[]]
    monkeypatch.setattr(administration, "LOOKED_AT", 2)
    assert pages(world, search="day=5") == [[], [], ["t5"], []]


def test_a_page_goes_on_where_tasks_have_gone_meanwhile(world: World, clock: Clock) -> None:
    for number in range(4):
        add(world, f"t{number}", worker=f"w{number}")
    page = ask(world, "find_tasks", limit=2)
    ask(world, "evict_worker", worker="w1")
    clock.time += 20
    ask(world, "ping", worker="w3")
    clock.time += 31
    ask(world, "ping", worker="w3")
    ask(world, "prune")
    assert "t1" not in ask(world, "task_list", status="", upstream_status="")
    assert [task["task_id"] for task in ask(world, "find_tasks", after=page["next"])["tasks"]] == ["t2", "t3"]


def test_a_task_is_shown_with_its_neighbours_and_without_secrets(world: World) -> None:
    add(world, "below", status="DONE")
    add(world, "open", params={"key": "secret", "day": "1"}, param_visibilities={"key": 2, "day": 0}, deps=["below", "missing"])
    add(world, "above", deps=["open"])
    shown = ask(world, "show_task", task_id="open")
    assert shown["dependencies"] == {
        "total": 2,
        "by_status": {"DONE": 1, "UNKNOWN": 1},
        "unfinished": [{"task_id": "missing", "status": "UNKNOWN"}],
    }
    assert shown["dependents"]["unfinished"] == [{"task_id": "above", "status": "PENDING"}]
    assert shown["params"] == {"day": "1"}
    assert "secret" not in json.dumps(shown)


def test_a_task_with_very_many_neighbours_is_shown_in_bounded_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "LOOKED_AT", 5)
    add(world, "a", deps=[f"d{number}" for number in range(20)])
    for number in range(20):
        add(world, f"above{number}", deps=["a"])
    looked_at: list[str] = []
    get_task = world.graph._state.get_task
    with monkeypatch.context() as patched:
        patched.setattr(
            world.graph._state, "get_task", lambda *args, **kwargs: (looked_at.append(args[0]), get_task(*args, **kwargs))[1]
        )
        shown = ask(world, "show_task", task_id="a")
    assert len(looked_at) < 15
    for name, status in (("dependencies", "UNKNOWN"), ("dependents", "PENDING")):
        assert (shown[name]["total"], shown[name]["by_status"]) == (20, {status: 5})


def test_the_first_page_looks_at_no_more_than_it_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "LOOKED_AT", 5)
    for number in range(20):
        add(world, f"t{number}")
    state, looked_at = world.graph._state, []

    class Counted(type(state._tasks)):  # type: ignore[misc]
        def values(self) -> Any:
            return (looked_at.append(task) or task for task in super().values())

    monkeypatch.setattr(state._tasks, "__class__", Counted)
    page = ask(world, "find_tasks", search="nothing like it")
    assert page["tasks"] == [] and page["next"] is not None
    assert len(looked_at) == 6
