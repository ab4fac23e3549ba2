"""Every reason that `why` gives keeps `get_work` from handing the task out, and with the reason gone it hands it out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from worlds import Clock, World, picture

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call, UnknownTask
from luigi_spanner.graph import why_turn, why_waits
from luigi_spanner.stores.memory import Database, MemoryStore


class Stage:
    """A replica on which a scene is played. The task in question is T, the worker that shall get it in the end is w."""

    def __init__(self, **rules: Any) -> None:
        self.clock = Clock()
        self.database = Database()
        self.world = World(MemoryStore(namespace="default", database=self.database), self.clock, **rules)
        self.call("configure")

    def call(self, method: str, **arguments: Any) -> Any:
        reply = self.world.call(method, **arguments)
        return None if reply is None else json.loads(reply)

    def add(self, task_id: str = "T", worker: str = "w", **arguments: Any) -> None:
        self.call("add_task", task_id=task_id, worker=worker, **arguments)

    def done(self, task_id: str, worker: str = "w") -> None:
        self.add(task_id, worker, status="DONE")

    def fail(self, task_id: str = "T", worker: str = "w") -> None:
        self.add(task_id, worker, status="FAILED")

    def work(self, worker: str = "w", **arguments: Any) -> list[str]:
        """What the worker is given."""
        reply = self.call("get_work", worker=worker, host="h", **arguments)
        return list(reply.get("batch_task_ids") or [reply["task_id"]] * (reply["task_id"] is not None))

    def why(self, task_id: str = "T", **arguments: Any) -> dict[str, Any]:
        """The answer, which changes nothing."""
        before, head = picture(self.world.graph), self.world.graph.ledger.applied
        answer: dict[str, Any] = self.call("why", task_id=task_id, **arguments)
        assert picture(self.world.graph) == before
        assert self.world.graph.ledger.applied == head
        return answer

    def reasons(self, task_id: str = "T", **arguments: Any) -> dict[str, dict[str, Any]]:
        return {reason["code"]: reason for reason in self.why(task_id, **arguments)["reasons"]}

    def after(self, seconds: float) -> None:
        """Time passes, in which the workers are heard of, and a prune is made."""
        self.clock.time += seconds
        for worker in list(self.world.graph._state._active_workers):
            self.call("ping", worker=worker)
        self.call("prune")


Scene = tuple[Callable[[Stage], None], Callable[[Stage], None]]
SCENES: dict[str, tuple[str, Scene]] = {}


def scene(code: str) -> Callable[[Callable[[], Scene]], None]:
    """A scene in which the reason `code` keeps T from w: what is done to get there, and what takes the reason away."""

    def add(made: Callable[[], Scene]) -> None:
        SCENES[made.__name__] = (code, made())

    return add


def doing(*steps: Callable[[Stage], object]) -> Callable[[Stage], None]:
    def play(stage: Stage) -> None:
        for step in steps:
            step(stage)

    return play


@scene("running")
def it_runs() -> Scene:
    return doing(Stage.add, Stage.work), doing(Stage.fail, lambda s: s.call("forgive_failures", task_id="T"))


@scene("batch_running")
def it_waits_in_a_batch() -> Scene:
    def reach(s: Stage) -> None:
        s.call("add_task_batcher", worker="w", task_family="F", batched_args=["day"])
        for task_id in ("T", "S"):
            s.add(task_id, family="F", params={"day": task_id}, batchable=True)
        assert s.work() == ["T", "S"]

    def leave(s: Stage) -> None:
        s.call("pause")
        assert s.work(current_tasks=[]) == []
        s.call("unpause")
        s.done("S")

    return reach, leave


@scene("done")
def it_is_done() -> Scene:
    return doing(Stage.add, lambda s: s.done("T"), lambda s: s.after(11)), Stage.add


@scene("cooling_down")
def it_cools_down() -> Scene:
    return doing(Stage.add, lambda s: s.done("T"), lambda s: s.after(9), Stage.add), doing(lambda s: s.after(1), Stage.add)


@scene("failed")
def it_failed_and_is_retried() -> Scene:
    return doing(Stage.add, Stage.fail), lambda s: s.after(21)


@scene("failed")
def it_failed_and_is_forgiven() -> Scene:
    return doing(Stage.add, Stage.fail), lambda s: s.call("forgive_failures", task_id="T")


@scene("disabled")
def its_retries_are_exhausted() -> Scene:
    return doing(Stage.add, Stage.fail, Stage.fail), doing(lambda s: s.after(61), lambda s: s.after(21))


@scene("disabled")
def its_retries_were_exhausted_and_it_is_enabled() -> Scene:
    free = doing(
        lambda s: s.call("re_enable_task", task_id="T"),
        lambda s: s.call("forgive_failures", task_id="T"),
    )
    return doing(Stage.add, Stage.fail, Stage.fail), free


@scene("disabled")
def a_worker_disabled_it() -> Scene:
    return doing(Stage.add, lambda s: s.add(status="DISABLED")), Stage.add


@scene("unknown")
def nobody_has_described_it() -> Scene:
    return lambda s: s.add("A", deps=["T"]), Stage.add


@scene("missing_dependency")
def a_dependency_is_missing() -> Scene:
    def reach(s: Stage) -> None:
        s.add()
        # An assistant makes no dependencies.
        s.add(deps=["A"], assistant=True)

    return reach, lambda s: s.done("A")


@scene("dependency")
def a_dependency_far_down_failed() -> Scene:
    def reach(s: Stage) -> None:
        s.add(deps=["A"])
        s.add("A", deps=["B"])
        s.add("B")
        s.fail("B")

    def leave(s: Stage) -> None:
        s.call("forgive_failures", task_id="B")
        for task_id in ("B", "A"):
            assert s.work() == [task_id]
            s.done(task_id)

    return reach, leave


@scene("dependency")
def a_dependency_runs() -> Scene:
    def reach(s: Stage) -> None:
        s.add(deps=["A"])
        s.add("A", "other")
        assert s.work("other") == ["A"]

    return reach, lambda s: s.done("A", "other")


@scene("dependency_cycle")
def it_waits_for_itself() -> Scene:
    return doing(lambda s: s.add(deps=["A"]), lambda s: s.add("A", deps=["T"])), doing(
        lambda s: s.add("A", deps=[], status="DONE")
    )


@scene("paused")
def the_scheduler_is_paused() -> Scene:
    return doing(Stage.add, lambda s: s.call("pause")), lambda s: s.call("unpause")


@scene("not_runnable")
def it_is_external() -> Scene:
    return lambda s: s.add(runnable=False), Stage.add


@scene("no_worker")
def its_workers_have_gone() -> Scene:
    def reach(s: Stage) -> None:
        s.add(worker="dead")
        s.clock.time += 20
        s.add(runnable=False)
        s.clock.time += 20
        s.call("prune")

    return reach, Stage.add


@scene("workers_silent")
def its_workers_are_silent() -> Scene:
    def reach(s: Stage) -> None:
        s.add()
        s.clock.time += 31

    return reach, lambda s: s.call("ping", worker="w")


@scene("worker_disabled")
def its_worker_is_disabled() -> Scene:
    return doing(lambda s: s.add(worker="other"), lambda s: s.call("disable_worker", worker="other")), Stage.add


@scene("resource_taken")
def a_resource_is_taken() -> Scene:
    def reach(s: Stage) -> None:
        s.add("A", "other", resources={"r": 2})
        assert s.work("other") == ["A"]
        s.add(resources={"r": 1})

    return reach, lambda s: s.done("A", "other")


@scene("resource_taken")
def a_resource_is_taken_and_then_there_is_more() -> Scene:
    def reach(s: Stage) -> None:
        s.add("A", "other", resources={"r": 2})
        assert s.work("other") == ["A"]
        s.add(resources={"r": 1})

    return reach, lambda s: s.call("update_resource", resource="r", amount=3)


@scene("resource_impossible")
def there_is_never_enough() -> Scene:
    return lambda s: s.add(resources={"r": 3}), lambda s: s.call("update_resource", resource="r", amount=3)


def reserve(s: Stage) -> None:
    """One of two r is taken by a task that ranks last; the first needs both, so that T may not have the one that is free."""
    s.add("Last", "other", resources={"r": 1}, priority=-1)
    assert s.work("other") == ["Last"]
    s.add("First", "greedy", resources={"r": 2}, priority=1)
    assert s.work("greedy") == []
    s.add(resources={"r": 1})


@scene("resource_reserved")
def a_resource_is_reserved() -> Scene:
    return reserve, lambda s: s.done("First", "greedy")


@scene("resource_reserved")
def a_resource_is_reserved_for_a_worker_that_is_disabled() -> Scene:
    return reserve, lambda s: s.call("disable_worker", worker="greedy")


@scene("resource_reserved")
def a_resource_is_reserved_for_its_own_worker() -> Scene:
    def reach(s: Stage) -> None:
        reserve(s)
        s.add("First", resources={"r": 2}, priority=1)

    def leave(s: Stage) -> None:
        s.done("Last", "other")
        assert s.work() == ["First"]
        s.done("First")

    return reach, leave


@scene("not_offered")
def only_others_may_run_it() -> Scene:
    return doing(lambda s: s.add(worker="other"), lambda s: s.add("A"), lambda s: s.done("A")), Stage.add


@scene("worker_unknown")
def the_worker_has_not_called() -> Scene:
    return lambda s: s.add(worker="other"), Stage.add


OF_ONE_WORKER = {"not_offered", "worker_unknown"}
"""Reasons that are given to who asks about a worker."""

GONE_BY_CALLING = {"workers_silent", "worker_unknown"}
"""Reasons that a worker takes away itself when it asks for work."""


@pytest.mark.parametrize("name", SCENES)
def test_with_the_reason_gone_it_is_handed_out(name: str) -> None:
    code, (reach, leave) = SCENES[name]
    stage = Stage()
    reach(stage)
    asked = {"worker": "w"} if code in OF_ONE_WORKER else {}
    answer = stage.why(**asked)
    assert not answer["runnable"]
    assert code in [reason["code"] for reason in answer["reasons"]], answer
    if code not in GONE_BY_CALLING:
        assert "T" not in stage.work()
    leave(stage)
    answer = stage.why(**asked)
    assert answer["runnable"], answer
    assert [reason["code"] for reason in answer["reasons"]] == ["ready"] * len(answer["reasons"])
    ready = next(reason for reason in answer["reasons"] if reason["worker"] == "w")
    assert ready["next"] and ready["before"] == 0
    assert stage.work() == ["T"]
    assert stage.reasons()["running"]["worker"] == "w"


# What the reasons tell


def test_when_a_failed_task_is_tried_again() -> None:
    stage = Stage()
    doing(Stage.add, Stage.fail)(stage)
    reason = stage.reasons()["failed"]
    assert (reason["retry_at"], reason["failures"], reason["retry_count"]) == (1020.0, 1, 2)
    assert "it is tried again at 1970-01-01T00:17:00Z (in 20 seconds)" in reason["sentence"]
    stage.clock.time += 25
    assert (
        "its retry was due at 1970-01-01T00:17:00Z (5 seconds ago), and the next prune" in stage.reasons()["failed"]["sentence"]
    )


def test_a_retry_without_a_worker_is_said_to_be_none() -> None:
    stage = Stage()
    doing(Stage.add, Stage.fail)(stage)
    assert list(stage.reasons()) == ["failed"]
    stage.clock.time += 31
    stage.call("prune")
    stage.add(runnable=False, status="FAILED")
    assert list(stage.reasons()) == ["disabled", "no_worker"]
    stage.add("Top", deps=["T"])
    (reason,) = stage.why("Top")["reasons"]
    assert [inner["code"] for inner in reason["reasons"]] == ["disabled", "no_worker"]


def test_a_task_that_is_not_tried_again() -> None:
    stage = Stage(retry_delay=-1.0)
    doing(Stage.add, Stage.fail)(stage)
    assert stage.reasons()["failed"]["retry_at"] is None
    assert "not tried again by itself" in stage.reasons()["failed"]["sentence"]


def test_until_when_a_task_is_disabled_and_why() -> None:
    stage = Stage()
    doing(Stage.add, Stage.fail, Stage.fail)(stage)
    reason = stage.reasons()["disabled"]
    assert (reason["since"], reason["until"], reason["retry_at"]) == (1000.0, 1060.0, 1080.0)
    assert reason["by"] == "failures"
    assert "retry_count is 2 within 100 seconds" in reason["sentence"]


def test_a_task_that_failed_for_too_long() -> None:
    stage = Stage(retry_count=99, disable_hard_timeout=50, disable_window=1000)
    doing(Stage.add, Stage.fail, lambda s: s.after(60), Stage.fail)(stage)
    assert stage.reasons()["disabled"]["by"] == "failures"
    assert "disable_hard_timeout is 50 seconds" in stage.reasons()["disabled"]["sentence"]


def test_a_task_that_was_disabled_by_hand() -> None:
    """As `cancel_task` does: it stays so whoever adds it."""
    stage = Stage()
    doing(Stage.add, lambda s: s.add(status="DISABLED"))(stage)
    assert stage.reasons()["disabled"]["by"] == "worker"

    def cancel() -> None:
        stage.world.graph._state._tasks["T"].scheduler_disable_time = stage.clock.time

    stage.world.settle(Waiting(Call(request_id="c", method="cancel"), cancel))
    assert stage.reasons()["disabled"]["by"] == "hand"


def test_who_has_a_resource_and_how_much() -> None:
    stage = Stage()
    SCENES["a_resource_is_taken"][1][0](stage)
    reason = stage.reasons()["resource_taken"]
    assert reason["held_by"] == [{"task_id": "A", "worker": "other", "amount": 2}]
    assert (reason["resource"], reason["needed"], reason["used"], reason["total"]) == ("r", 1, 2, 2)
    assert reason["sentence"] == "It needs 1 of the resource r, and 2 of 2 is taken by A (on other)."


def test_for_whom_a_resource_is_reserved() -> None:
    stage = Stage()
    reserve(stage)
    reason = stage.reasons()["resource_reserved"]
    assert reason["reserved_for"] == [{"task_id": "First", "worker": "greedy", "priority": 1, "amount": 2}]
    assert "First (on greedy)" in reason["sentence"]


def test_the_path_to_a_root_and_what_holds_that_one() -> None:
    stage = Stage()
    SCENES["a_dependency_far_down_failed"][1][0](stage)
    (reason,) = stage.why()["reasons"]
    assert (reason["task_id"], reason["status"], reason["path"]) == ("B", "FAILED", ["A", "B"])
    assert reason["reasons"][0]["code"] == "failed"
    assert reason["sentence"].startswith("It waits for B, through 1 other: that one FAILED at ")


def test_what_is_said_of_another_goes_on_after_a_colon() -> None:
    stage = Stage()
    SCENES["its_retries_are_exhausted"][1][0](stage)
    stage.add("Top", deps=["T"])
    (reason,) = stage.why("Top")["reasons"]
    assert reason["sentence"].startswith("It waits for T: its retries were exhausted at ")


def test_a_dependency_that_is_ready_tells_what_holds_it() -> None:
    stage = Stage()
    SCENES["a_resource_is_taken"][1][0](stage)
    stage.add("Top", deps=["T"])
    (reason,) = stage.why("Top")["reasons"]
    assert reason["reasons"][0]["code"] == "resource_taken"
    assert reason["sentence"] == "It waits for T: that one needs 1 of the resource r, and 2 of 2 is taken by A (on other)."


def test_what_ranks_before_it() -> None:
    stage = Stage()
    for number in range(3):
        stage.add(f"A{number}", priority=1)
    stage.add()
    (reason,) = stage.why()["reasons"]
    assert (reason["before"], reason["first"], reason["next"], reason["all_counted"]) == (3, "A0", False, True)
    assert "after 3 tasks that rank before it, first A0" in reason["sentence"]


def test_which_of_those_of_one_rank_comes_first() -> None:
    """Luigi goes through a worker's own tasks in its own order if these are fewer than all that wait."""
    stage = Stage()
    for task_id in ("A1", "A0", "B"):
        stage.add(task_id, "other", priority=1)
    for task_id in ("A0", "A1"):
        stage.add(task_id, priority=1)
    stage.add()
    assert stage.reasons(worker="w")["ready"]["first"] == "A0"
    assert stage.work() == ["A0"]


def test_a_worker_that_has_no_room_is_said_to_be_busy() -> None:
    stage = Stage()
    stage.call("add_worker", worker="w", info={"workers": 1})
    stage.add("A")
    assert stage.work() == ["A"]
    stage.add()
    (reason,) = stage.why()["reasons"]
    assert reason["busy"] and "it runs 1 task and has room for 1" in reason["sentence"]


def test_a_batch_that_it_would_be_handed_out_in() -> None:
    stage = Stage()
    stage.call("add_task_batcher", worker="w", task_family="F", batched_args=["day"], max_batch_size=2)
    for task_id in ("A", "T", "Z"):
        stage.add(task_id, family="F", params={"day": task_id}, batchable=True)
    assert stage.reasons()["ready"]["batch"] == ["A", "T"]
    # The batch is full.
    assert "batch" not in stage.reasons("Z")["ready"] and stage.reasons("Z")["ready"]["before"] == 2
    assert stage.work() == ["A", "T"]
    stage.add("combined", family="F", status="RUNNING", batch_id=stage.reasons()["batch_running"]["batch_id"])
    assert stage.reasons()["batch_running"]["runs_as"] == "combined"
    assert stage.reasons()["batch_running"]["batch_size"] == 2


def test_a_task_that_nobody_may_run_goes_along_in_a_batch() -> None:
    """As in Luigi: a worker whose tasks need resources batches whatever is like its own."""
    stage = Stage()
    stage.call("add_task_batcher", worker="w", task_family="F", batched_args=["day"])
    alike: dict[str, Any] = {"family": "F", "batchable": True, "resources": {"r": 1}}
    stage.add(params={"day": "1"}, runnable=False, **alike)
    assert list(stage.reasons()) == ["not_runnable"]
    stage.add("A", params={"day": "2"}, priority=1, **alike)
    assert stage.why()["runnable"] and stage.reasons()["ready"]["batch"] == ["A", "T"]
    assert stage.work() == ["A", "T"]


def test_a_running_task_whose_worker_is_gone() -> None:
    stage = Stage()
    doing(Stage.add, Stage.work)(stage)
    assert "silent_since" not in stage.reasons()["running"]
    stage.clock.time += 31
    assert "the next prune makes the task FAILED" in stage.reasons()["running"]["sentence"]


def test_an_assistant_may_take_it() -> None:
    stage = Stage()
    SCENES["its_workers_have_gone"][1][0](stage)
    assert stage.work("helper", assistant=True) == ["T"]
    stage.fail(worker="helper")
    stage.call("forgive_failures", task_id="T")
    assert stage.why()["reasons"][0]["worker"] == "helper"
    assert stage.why(worker="helper")["runnable"]


def test_several_reasons_are_told_together() -> None:
    stage = Stage()
    stage.add(resources={"r": 3}, deps=["A"], runnable=False)
    stage.call("pause")
    answer = stage.why()
    assert list(stage.reasons()) == ["dependency", "paused", "not_runnable", "resource_impossible"]
    assert answer["summary"].endswith("(And 3 more reasons.)")


# Bounds


def test_it_ends_where_tasks_wait_for_each_other() -> None:
    stage = Stage()
    for number in range(50):
        stage.add(f"A{number}", deps=[f"A{(number + 1) % 50}"])
    stage.add(deps=["A0"])
    reason = stage.reasons()["dependency_cycle"]
    assert reason["length"] == 50 and len(reason["cycle"]) == 10
    assert list(stage.reasons("A7")) == ["dependency_cycle"]
    stage.add("Own", deps=["Own"])
    assert stage.reasons("Own")["dependency_cycle"]["cycle"] == ["Own"]


def test_a_long_chain_and_many_roots_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why_waits, "LOOKED_AT", 100)
    stage = Stage()
    for number in range(150):
        stage.add(f"A{number}", deps=[f"A{number + 1}"])
    stage.add(deps=["A0"])
    assert stage.reasons()["dependencies_left_out"]["looked_at"] == 100
    assert not stage.reasons()["dependencies_left_out"]["all_looked_at"]
    stage.add("Wide", deps=[f"B{number}" for number in range(50)])
    reasons = stage.why("Wide")["reasons"]
    assert [reason["code"] for reason in reasons] == ["dependency"] * 10 + ["dependencies_left_out"]
    assert (reasons[-1]["found"], reasons[-1]["told"], reasons[-1]["all_looked_at"]) == (50, 10, True)


def test_dependencies_that_are_done_are_not_looked_through_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why_waits, "EXAMINED", 20)
    stage = Stage()
    for number in range(200):
        stage.done(f"A{number}")
    stage.add(deps=[*(f"A{number}" for number in range(200)), *(f"B{number}" for number in range(10))])
    answer = stage.why()
    assert not answer["runnable"]
    assert answer["reasons"][-1]["code"] == "dependencies_left_out"
    assert "It waits for 10 tasks itself" in answer["reasons"][-1]["sentence"]


def test_no_more_than_so_many_tasks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why_turn, "COUNTED", 5)
    stage = Stage()
    for number in range(9):
        stage.add(f"A{number}", priority=1)
    stage.add()
    (reason,) = stage.why()["reasons"]
    assert (reason["before"], reason["all_counted"]) == (5, False)
    assert "more than 5 tasks" in reason["sentence"]


# The way of a call


def test_an_unknown_task_is_an_error_and_changes_nothing() -> None:
    stage = Stage(prune_on_get_work=True)
    stage.add()
    stage.clock.time += 100
    before, head = picture(stage.world.graph), stage.world.graph.ledger.applied
    with pytest.raises(UnknownTask, match="no task 'U'"):
        stage.call("why", task_id="U")
    assert picture(stage.world.graph) == before
    assert stage.world.graph.ledger.applied == head


def test_where_get_work_prunes_the_answer_is_of_what_it_would_find() -> None:
    stage = Stage(prune_on_get_work=True)
    doing(Stage.add, Stage.fail)(stage)
    stage.clock.time += 25
    assert stage.call("why", task_id="T")["runnable"]
    assert stage.work() == ["T"]


def test_what_another_replica_has_done_is_told_at_once() -> None:
    stage = Stage()
    other = World(MemoryStore(namespace="default", database=stage.database), stage.clock, name="b")
    other.call("add_task", task_id="T", worker="w")
    assert stage.call("why", task_id="T")["runnable"]
    other.call("get_work", worker="w")
    assert stage.call("why", task_id="T")["status"] == "RUNNING"
