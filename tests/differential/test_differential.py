"""Stock Luigi and ours cannot be told apart by any calls; and the harness that says so can tell."""

from __future__ import annotations

import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from campaign import campaign
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from scene import Scene, setting
from shrink import difference, script, shrunk
from steps import RULES, ending, opening, step
from twins import RESTART, Setup, Step, Twins, play

from luigi_spanner.graph import index
from luigi_spanner.graph.below import Below
from luigi_spanner.graph.containers import OwnedSet
from luigi_spanner.graph.entries import Counts
from luigi_spanner.graph.fragments import Fragments
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.greed import Greed
from luigi_spanner.graph.index import Due, Index
from luigi_spanner.graph.listings import Listings
from luigi_spanner.graph.ready import Ready
from luigi_spanner.graph.selection import Selection
from luigi_spanner.graph.state import State, StatusTasks
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.graph.worker import Worker

T = TypeVar("T")

HERE = Path(__file__).parent

BOUND = 20_000
"""Calls within which a campaign must find any of the faults below."""


class Drawn:
    """Dice that Hypothesis throws, and shrinks."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def pick(self, options: Sequence[T]) -> T:
        return options[self.number(0, len(options) - 1)]

    def number(self, low: int, high: int) -> int:
        return self._data.draw(st.integers(low, high))


class Machine(RuleBasedStateMachine):
    """Every rule of `steps`, chosen by Hypothesis."""

    twins: Twins
    scene: Scene

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        setup, self.scene = setting(Drawn(data))
        self.twins = Twins(setup)
        self.twins.__enter__()
        for asked in opening(Drawn(data), self.scene):
            self.twins.play([asked])

    @rule(taker=st.integers(0, 1))
    def restart(self, taker: int) -> None:
        self.twins.play([Step(self.scene.time, RESTART, taker=taker)])

    def take(self, name: str, data: st.DataObject) -> None:
        dice = Drawn(data)
        asked = step(dice, self.scene, name, taker=dice.number(0, 1))
        (reply,) = self.twins.play([asked])
        self.scene.learn(asked, reply)

    def teardown(self) -> None:
        if hasattr(self, "twins"):
            try:
                for asked in ending(self.scene):
                    self.twins.play([asked])
            finally:
                self.twins.__exit__()


def _rule(name: str) -> Callable[..., None]:
    def asked(self: Machine, data: st.DataObject) -> None:
        self.take(name, data)

    asked.__name__ = f"rule_{name}"
    return rule(data=st.data())(asked)


EveryRule = type("EveryRule", (Machine,), {f"rule_{name}": _rule(name) for name in RULES})


@pytest.mark.slow
def test_no_calls_tell_stock_and_ours_apart() -> None:
    few = settings(max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(EveryRule, settings=few)


def test_a_short_campaign_finds_no_difference(rng: random.Random) -> None:
    _, found = campaign(3000, str(rng.randrange(2**32)))
    assert found is None, script(*shrunk(found.setup, found.steps))


# The harness can fail


def ignore_age(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(index, "rank_of", lambda task: (-task.priority, 0.0, task.status_ordinal, task.id))


def break_ties_by_insertion(patch: pytest.MonkeyPatch) -> None:
    take = StatusTasks.__setitem__

    def misplace(self: StatusTasks, task_id: str, task: Any) -> None:
        take(self, task_id, task)
        self.drop(task_id)
        task.status_ordinal = task.ordinal
        self.put(task_id, task)

    patch.setattr(StatusTasks, "__setitem__", misplace)


def group_runnable_with_other_tasks(patch: pytest.MonkeyPatch) -> None:
    group = Ready.group
    patch.setattr(Ready, "group", lambda self, key: group(self, (*key[:2], True)))


def ignore_running_tasks_in_greed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Greed, "_account_running", lambda self, before: None)


def ignore_used_resources(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Selection, "_is_used_up", lambda self, need: False)


def stay_ready_without_dependency(patch: pytest.MonkeyPatch) -> None:
    follow = Index._follow_done
    patch.setattr(Index, "_follow_done", lambda self, task_id, sign: follow(self, task_id, sign) if sign < 0 else None)


def count_the_first_scheduler(patch: pytest.MonkeyPatch) -> None:
    add = Counts.add

    def miscount(self: Counts, entry: Any, worker_id: str, sign: int) -> None:
        add(self, replace(entry, workers=entry.workers[::-1]), worker_id, sign)

    patch.setattr(Counts, "add", miscount)


def leave_out_none_below_disabled(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Below, "_spread", lambda self, blocking: [])


def leave_out_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Below, "_withdraw", lambda self, task_id: None)


def overlook_cycles(patch: pytest.MonkeyPatch) -> None:
    insert = Below._insert

    def overlook(self: Below, joined: Any) -> None:
        insert(self, joined)
        self._cyclic = False

    patch.setattr(Below, "_insert", overlook)


def overlook_nameless_statuses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Below, "_note_odd", lambda self, task_id, entry: None)


def never_re_enable(patch: pytest.MonkeyPatch) -> None:
    until = Due.until
    patch.setattr(Due, "until", lambda self, now, entries: () if self._attribute == "disabled" else until(self, now, entries))


def never_prune_the_first_worker(patch: pytest.MonkeyPatch) -> None:
    prune = Worker.prune
    patch.setattr(Worker, "prune", lambda self, config: self.id != "w0" and prune(self, config))


def batch_one_more(patch: pytest.MonkeyPatch) -> None:
    batcher = State.get_batcher

    def generous(self: State, worker_id: str, family: str) -> Any:
        names, most = batcher(self, worker_id, family)
        return names, most + 1

    patch.setattr(State, "get_batcher", generous)


def ignore_cooldown(patch: pytest.MonkeyPatch) -> None:
    make = Graph.__init__

    def hasty(self: Graph, config: Any, *args: Any, **keys: Any) -> None:
        config = copy.copy(config)
        config.stable_done_cooldown_secs = 0
        make(self, config, *args, **keys)

    patch.setattr(Graph, "__init__", hasty)


def undo_all_but_the_first(patch: pytest.MonkeyPatch) -> None:
    rollback = Tracker.rollback

    def sloppy(self: Tracker, savepoint: Any) -> None:
        del self.undo[savepoint.undo : savepoint.undo + 1]
        rollback(self, savepoint)

    patch.setattr(Tracker, "rollback", sloppy)


def keep_the_index_on_undo(patch: pytest.MonkeyPatch) -> None:
    rollback = Tracker.rollback

    def forgetful(self: Tracker, savepoint: Any) -> None:
        self._refreshed.clear()
        rollback(self, savepoint)

    patch.setattr(Tracker, "rollback", forgetful)


def keep_fragments(patch: pytest.MonkeyPatch) -> None:
    drop = Fragments._drop
    patch.setattr(Fragments, "_drop", lambda self, task_id: None if task_id in self._texts else drop(self, task_id))


def look_at_one_moment(patch: pytest.MonkeyPatch) -> None:
    look = Listings._look

    def stare(self: Listings) -> Any:
        view = look(self)
        self._look = lambda: view  # type: ignore[method-assign]
        return view

    patch.setattr(Listings, "_look", stare)


def lose_effects(patch: pytest.MonkeyPatch) -> None:
    settle = Tracker.settle
    patch.setattr(Tracker, "settle", lambda self: settle(self)[1:])


FAULTS = [
    ignore_age,
    break_ties_by_insertion,
    ignore_running_tasks_in_greed,
    ignore_used_resources,
    stay_ready_without_dependency,
    count_the_first_scheduler,
    leave_out_none_below_disabled,
    leave_out_for_ever,
    overlook_cycles,
    never_re_enable,
    never_prune_the_first_worker,
    batch_one_more,
    ignore_cooldown,
    undo_all_but_the_first,
    keep_the_index_on_undo,
    keep_fragments,
    look_at_one_moment,
    lose_effects,
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_campaign_finds_a_fault(fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    _, found = campaign(BOUND, "faults")
    assert found is not None
    monkeypatch.undo()
    assert difference(found.setup, found.steps) is None


def test_a_history_written_by_hand_tells_what_a_campaign_rarely_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks that nobody may run use up the assistant's slot; a runnable one with no worker either must not go with them."""
    steps = [
        Step(0.0, "add_task", {"worker": "w0", "task_id": "F_0", "runnable": False}),
        Step(1.0, "add_task", {"worker": "w0", "task_id": "F_1", "runnable": False}),
        Step(2.0, "add_task", {"worker": "w1", "task_id": "F_2"}),
        Step(3.0, "disable_worker", {"worker": "w1"}),
        Step(4.0, "get_work", {"worker": "w2", "assistant": True}),
    ]
    assert difference(Setup(), steps) is None
    group_runnable_with_other_tasks(monkeypatch)
    assert difference(Setup(), steps) is not None


def test_what_luigi_leaves_out_by_chance_is_left_to_luigi(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tasks that depend on an UNKNOWN one with a DISABLED dependency, Luigi's walk leaves out the second only."""
    steps = [
        Step(0.0, "add_task", {"worker": "w1", "task_id": "F_0", "status": "FAILED"}),
        Step(0.0, "add_task", {"worker": "w1", "task_id": "F_1", "status": "UNKNOWN", "deps": ["F_0"]}),
        *(Step(0.0, "add_task", {"worker": "w0", "task_id": f"F_{2 + n}", "deps": [f"F_{n > 0:d}"]}) for n in range(3)),
        Step(0.0, "count_pending", {"worker": "w0"}),
    ]
    setup = Setup(rules={"retry_count": 1})
    assert difference(setup, steps) is None
    overlook_nameless_statuses(monkeypatch)
    assert difference(setup, steps) is not None


def test_upstream_statuses_in_a_cycle_are_luigis(monkeypatch: pytest.MonkeyPatch) -> None:
    """They depend on the order in which dependencies are looked at."""
    deps = {"F_0": ["F_1", "F_2"], "F_1": [], "F_2": ["F_0"]}
    steps = [Step(0.0, "add_task", {"worker": "w0", "task_id": task, "deps": deps[task]}) for task in deps]
    asked = {"status": "PENDING", "upstream_status": "UPSTREAM_MISSING_INPUT"}
    # At several times: each of the ways that a listing goes is gone.
    steps += [Step(float(time), "task_list", asked) for time in range(1, 9)]
    assert difference(Setup(), steps) is None
    monkeypatch.setattr(OwnedSet, "frozen", lambda self: tuple(sorted(self, reverse=True)))
    assert difference(Setup(), steps) is not None


SHORT = 12
"""Steps to which any history that shows that resources in use are ignored shrinks; three tell it: add two tasks, ask twice."""


def test_a_difference_shrinks_to_a_short_script_that_reproduces_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ignore_used_resources(monkeypatch)
    _, found = campaign(BOUND, "shrink")
    assert found is not None
    setup, steps = shrunk(found.setup, found.steps)
    assert len(steps) <= SHORT
    assert difference(setup, steps)
    file = tmp_path / "found.py"
    # The fault is in this process only: the script has to bring its own.
    fault = "from luigi_spanner.graph.selection import Selection\nSelection._is_used_up = lambda self, need: False\n"
    file.write_text(fault + script(setup, steps))
    assert "Difference" in _run(file).stderr
    file.write_text(script(setup, steps))
    assert _run(file).returncode == 0


def _run(file: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(HERE), str(HERE.parents[1] / "scheduler")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, str(file)], env=environment, capture_output=True, text=True, check=False)


def test_a_call_that_raises_leaves_no_trace_on_either_side() -> None:
    claim = {"worker": "w0", "task_id": "F_9", "status": "RUNNING", "batch_id": "gone"}
    steps = [
        Step(0.0, "add_task", {"worker": "w0", "task_id": "F_0"}),
        Step(1.0, "add_task", claim),
        Step(2.0, "add_task", claim, joined=True),
        Step(3.0, "graph"),
    ]
    play(Setup(), steps)
