"""What `why` says of random states is what `get_work` then does, for every task and every worker; and the check can fail."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
from luigi import notifications
from luigi import scheduler as luigi_scheduler
from luigi.task_history import NopHistory
from luigi.task_status import PENDING, RUNNING
from scene import Scene, Seeded, setting
from steps import batch, often, opening
from twins import RESTART, Mailer, Setup, Step

from luigi_spanner.graph import why_turn
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.greed import Greed
from luigi_spanner.graph.why import ASKED

STRANGER = "stranger"
"""A worker that has never called."""


class Playground:
    """A graph that takes the steps of a scene, and can be asked what would be without becoming it."""

    def __init__(self, setup: Setup) -> None:
        self.time = 1_000_000.0
        config = luigi_scheduler.scheduler(**setup.rules)
        self.graph = Graph(config, dict(setup.limits), NopHistory(), clock=lambda: self.time)
        self._seq = 0
        self.play(Step(0.0, "configure"))

    def play(self, step: Step) -> Any:
        self.time = 1_000_000.0 + step.at
        self._seq += 1
        self.graph.tracker.begin(self._seq)
        with self.imagined(stands=True):
            return self.graph.run(getattr(self.graph, step.method), step.arguments)

    @contextmanager
    def imagined(self, *, stands: bool = False) -> Iterator[None]:
        """What is done inside is undone, unless it `stands`; what raises always is."""
        savepoint = self.graph.tracker.savepoint()
        try:
            yield
        except Exception:
            stands = False
            raise
        finally:
            if not stands:
                self.graph.tracker.rollback(savepoint)
            self.graph.tracker.settle()

    def given(self, worker: str) -> list[str]:
        """What the worker would be given if it asked now, as an assistant if it is known as one by then."""
        with self.imagined():
            if self.graph._config.prune_on_get_work:
                self.graph.run(self.graph.prune, {})
            reply = self.graph.run(self.graph.get_work, {"worker": worker, "host": "h", "assistant": self.is_assistant(worker)})
            return list(reply.get("batch_task_ids") or [reply["task_id"]] * (reply["task_id"] is not None))

    def why(self, task_id: str, worker: str | None) -> dict[str, Any]:
        with self.imagined():
            answer: dict[str, Any] = self.graph.run(self.graph.why, {"task_id": task_id, "worker": worker})
            assert self.graph._config.prune_on_get_work or not self.graph.tracker.undo, "it changes nothing"
            return answer

    def turns(self, worker: str) -> dict[str, bool]:
        """Of every pending task whether Luigi's rule would give it to a worker that leaves those before it to others."""
        with self.imagined():
            return {} if self._gets_nothing(worker) else self.graph.run(lambda: dict(self._turns(worker)), {})

    def _gets_nothing(self, worker: str) -> bool:
        known = self.graph._state.find_worker(worker)
        return self.graph._paused or known is None or known.disabled

    def _turns(self, worker_id: str) -> Iterator[tuple[str, bool]]:
        """The loop of Luigi's `get_work`, in which the best task is not taken, but goes the way of others that rank before."""
        graph, state = self.graph, self.graph._state
        if graph._config.prune_on_get_work:
            graph.prune()
        assistant = self.is_assistant(worker_id)
        worker = graph._update_worker(worker_id, get_work=True)
        used, greedy, slots = defaultdict(int), defaultdict(int), {}
        if worker.is_trivial_worker(state):
            tasks = list(worker.get_tasks(state, PENDING, RUNNING))
        else:
            tasks = list(state.get_active_tasks_by_status(PENDING, RUNNING))
            used = graph._used_resources()
            since = self.time - graph._config.worker_disconnect_delay
            slots = {active.id: active.info.get("workers", 1) for active in state.get_active_workers(last_get_work_gt=since)}
        for task in sorted(tasks, key=graph._rank, reverse=True):
            if task.status == RUNNING and task.worker_running in slots:
                slots[task.worker_running] -= 1
                for name, amount in (getattr(task, "resources_running", task.resources) or {}).items():
                    greedy[name] += amount
            if not graph._schedulable(task):
                continue
            fits = graph._has_resources(task.resources, greedy)
            own = (assistant and task.runnable) or worker_id in task.workers
            yield task.id, fits and own and graph._has_resources(task.resources, used)
            for able in chain(task.workers, [worker_id] if assistant else []):
                if fits and slots.get(able, 0) > 0:
                    slots[able] -= 1
                    for name, amount in (task.resources or {}).items():
                        greedy[name] += amount
                    break

    def is_assistant(self, worker: str) -> bool:
        known = self.graph._state.find_worker(worker)
        return known is not None and bool(known.assistant)


def check(playground: Playground, workers: list[str], tally: dict[str, int]) -> None:
    """Every answer in this state agrees with the scheduler's decision."""
    tasks = list(playground.graph._state._tasks)
    for worker in (*workers, STRANGER):
        answers = {task: playground.why(task, worker) for task in tasks if task in still_there(playground)}
        given, turns = playground.given(worker), playground.turns(worker)
        now = [task for task, answer in answers.items() if answer["runnable"] and comes_now(answer)]
        assert sorted(now) == sorted(given), (worker, given, now, {task: answers[task] for task in {*now, *given}})
        for task, answer in answers.items():
            expected = turns.get(task, False) or task in given
            assert answer["runnable"] == expected, (worker, task, expected, answer)
            tally[f"{answer['reasons'][0]['code']}"] += 1
            if answer["runnable"] and answer["reasons"][0]["before"]:
                assert answer["reasons"][0]["first"] in given
                tally["before"] += 1


def still_there(playground: Playground) -> set[str]:
    """Tasks that are there when they are asked about: a prune that comes first may remove some."""
    with playground.imagined():
        if playground.graph._config.prune_on_get_work:
            playground.graph.run(playground.graph.prune, {})
        return set(playground.graph._state._tasks)


def comes_now(answer: dict[str, Any]) -> bool:
    reason = answer["reasons"][0]
    return bool(reason["next"] or "batch" in reason)


def check_for_anybody(playground: Playground, tally: dict[str, int]) -> None:
    """Without a worker, a task that any live worker would be given is runnable, and that worker is named."""
    state = playground.graph._state
    delay = playground.graph._config.worker_disconnect_delay
    live = [worker.id for worker in state.get_active_workers() if worker.last_active + delay >= playground.time]
    for task in list(state._tasks):
        if task not in still_there(playground):
            continue
        answer = playground.why(task, None)
        named = [reason["worker"] for reason in answer["reasons"] if reason["code"] == "ready"]
        assert answer["runnable"] == bool(named)
        by_worker = [worker for worker in live if playground.why(task, worker)["runnable"]]
        assert set(named) <= set(by_worker)
        assert len(live) > ASKED or set(named) == set(by_worker), (task, named, by_worker)
        tally["for anybody"] += answer["runnable"]


def explore(seed: str, states: int) -> dict[str, int]:
    """Play random scenes and check a state after every few steps; how often each reason came first."""
    tally: dict[str, int] = defaultdict(int)
    number = 0
    while tally["states"] < states:
        dice = Seeded(random.Random(f"{seed}:{number}"))
        number += 1
        setup, scene = setting(dice)
        playground = Playground(setup)
        play_scene(playground, scene, dice, tally, min(states, tally["states"] + 6))
    return tally


def play_scene(playground: Playground, scene: Scene, dice: Seeded, tally: dict[str, int], until: int) -> None:
    names = often(dice)
    for step in opening(dice, scene):
        playground.play(step)
    while tally["states"] < until:
        for _ in range(dice.number(5, 60)):
            for step in batch(dice, scene, names, 1):
                play(playground, scene, step)
        check(playground, scene.workers, tally)
        check_for_anybody(playground, tally)
        tally["states"] += 1


def play(playground: Playground, scene: Scene, step: Step) -> None:
    if step.method == RESTART:
        return
    try:
        reply = playground.play(step)
    except Exception:  # As of claims of batches that are gone: it changes nothing.
        return
    scene.learn(step, reply)


@pytest.fixture(autouse=True)
def no_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(luigi_scheduler, "BatchNotifier", Mailer)
    monkeypatch.setattr(notifications, "send_error_email", lambda *args, **kwargs: None)


def test_answers_are_what_get_work_does(rng: random.Random) -> None:
    tally = explore(str(rng.randrange(2**32)), 120)
    assert {"ready", "before", "for anybody", "dependency", "not_offered"} <= {name for name, count in tally.items() if count}


def count_nobody_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(why_turn._Turns, "_before", lambda self: iter(()))


def ignore_the_schedule(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(why_turn._Foresight, "leaves", lambda self, group, rank: True)


def forget_that_the_asker_asks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(why_turn._Foresight, "_start", Greed._start)


def ignore_what_is_used(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(why_turn._Turns, "_is_used_up", lambda self, need: False)


def forget_batches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(why_turn._Turns, "_with_batch", lambda self, best: why_turn.Choice(task=best))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [count_nobody_before, ignore_the_schedule, forget_that_the_asker_asks, ignore_what_is_used, forget_batches],
)
def test_the_check_finds_faults(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        explore("faults 6", 400)
