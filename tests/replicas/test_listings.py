"""Listings: what a rule takes and a thread words is what Luigi's own rule says, at any moment, and stays what it was."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from luigi import scheduler as luigi_scheduler
from worlds import Clock, World, drive, histories, play

from luigi_spanner import batch
from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call
from luigi_spanner.graph import fragments, listings
from luigi_spanner.graph.listings import LISTINGS, Listings, Render
from luigi_spanner.stores.memory import Database, MemoryStore

Question = tuple[str, dict[str, Any]]

QUESTIONS: list[Question] = [
    ("task_list", {}),
    ("task_list", {"status": "PENDING", "upstream_status": "UPSTREAM_FAILED"}),
    ("task_list", {"status": "PENDING", "upstream_status": "", "search": "F a=1"}),
    ("task_list", {"upstream_status": "UPSTREAM_MISSING_INPUT", "max_shown_tasks": 2}),
    ("task_list", {"status": "RUNNING", "max_shown_tasks": 1}),
    ("task_list", {"status": "RUNNING", "max_shown_tasks": 1, "limit": False}),
    ("task_search", {"task_str": "1"}),
    ("graph", {}),
    ("dep_graph", {"task_id": "t1"}),
    ("dep_graph", {"task_id": "t2", "include_done": False}),
    ("inverse_dep_graph", {"task_id": "t1"}),
    ("inverse_dep_graph", {"task_id": "t3", "include_done": False}),
    ("worker_list", {}),
    ("worker_list", {"include_running": False}),
    ("resource_list", {}),
]

questions = st.sampled_from(QUESTIONS)


class Looked(World):
    """A world whose listings are looked at."""

    def __init__(self, database: Database, clock: Clock | None = None, name: str = "a", **keys: Any) -> None:
        super().__init__(MemoryStore(namespace="default", database=database), clock or Clock(), name, **keys)
        self.listings = Listings(self.graph)

    def listing(self, taken: list[Render | None], method: str, arguments: dict[str, Any], few: float = math.inf) -> Waiting:
        """A call that adds to `taken` what makes the listing."""
        rule = partial(getattr(self.listings, method), few)
        call = Call(request_id=f"request-{method}", method=method, arguments=arguments)
        return Waiting(call, lambda **arguments: taken.append(rule(**arguments)))

    def take(self, question: Question, few: float = math.inf) -> Render:
        taken: list[Render | None] = []
        (waiting,) = self.settle(self.listing(taken, *question, few))
        assert waiting.error is None
        assert taken[-1] is not None
        return taken[-1]

    def stock(self, question: Question) -> Any:
        """What Luigi's own rule says of our state."""
        method, arguments = question
        rule = partial(getattr(luigi_scheduler.Scheduler, method), self.graph)
        (waiting,) = self.settle(Waiting(Call(request_id="stock", method=method, arguments=arguments), rule))
        assert waiting.error is None
        return normal(waiting.reply)

    def check(self, asked: Sequence[Question] = QUESTIONS) -> None:
        for question in asked:
            assert normal(self.take(question)()) == self.stock(question)


def normal(reply: bytes) -> Any:
    """A reply with the order of its tasks, without that of a task's dependencies, which is luck."""
    value = json.loads(reply, object_hook=_sort_deps)
    return (list(value), value) if isinstance(value, dict) else value


def _sort_deps(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "deps": sorted(value["deps"])} if isinstance(value.get("deps"), list) else value


@pytest.fixture(params=["small graphs", "large graphs"], autouse=True)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph around a task is worded at once, or left to the thread."""
    if request.param == "large graphs":
        monkeypatch.setattr(listings, "SMALL", 0)


def test_every_listing_is_asked_for() -> None:
    assert {method for method, _ in QUESTIONS} == LISTINGS
    assert all(method in luigi_scheduler.RPC_METHODS for method in LISTINGS)


@given(histories, st.lists(questions, min_size=1))
def test_a_listing_is_luigis(history: list[Any], asked: list[Question]) -> None:
    world = Looked(Database())
    for number, step in enumerate(history):
        play(world, [step])
        world.check([asked[number % len(asked)]])
    world.check()


@given(histories, histories, st.lists(questions))
def test_a_listing_forgets_what_is_undone(before: list[Any], undone: list[Any], asked: list[Question]) -> None:
    world = Looked(Database())
    play(world, before)
    world.check()
    taken: list[Render | None] = []
    calls = [world.waiting(method, **arguments) for _, (method, arguments) in undone]
    batch.run(world.graph, [*calls, *(world.listing(taken, *question) for question in asked)], world.graph.ledger.applied + 1)
    world.graph.tracker.rollback(batch.START)
    world.check()


@given(histories, questions, histories)
def test_a_listing_stays_what_it_was(before: list[Any], question: Question, after: list[Any]) -> None:
    world = Looked(Database())
    play(world, before)
    expected = world.stock(question)
    render = world.take(question)
    play(world, after)
    world.take(question)
    assert normal(render()) == expected


@pytest.mark.parametrize("question", [("graph", {}), ("dep_graph", {"task_id": "t"}), ("task_list", {"upstream_status": ""})])
def test_a_listing_does_not_meet_tasks_that_come_later(question: Question) -> None:
    world = Looked(Database())
    world.call("add_task", worker="w", task_id="t", family="F", deps=["u"])
    upstream = ("task_list", {"status": "PENDING", "upstream_status": "UPSTREAM_FAILED"})
    expected = world.stock(question)
    render, failed = world.take(question), world.take(upstream)
    world.call("add_task", worker="w", task_id="u", family="F", status="FAILED")
    world.take(upstream)
    assert normal(render()) == expected
    assert failed() == b"{}"
    assert list(json.loads(world.take(upstream)())) == ["t"]


@given(histories, histories)
def test_a_listing_follows_other_replicas(ours: list[Any], theirs: list[Any]) -> None:
    database, clock = Database(), Clock()
    left, right = Looked(database, clock, "a"), Looked(database, clock, "b")
    play(left, ours)
    left.check()
    play(right, theirs)
    left.check()
    right.check()
    drive(left.replica.load())
    left.check()


def test_a_listing_after_a_reload_has_nothing_from_before() -> None:
    database, clock = Database(), Clock()
    left, right = Looked(database, clock, "a"), Looked(database, clock, "b")
    for task_id in ("t", "u"):
        left.call("add_task", worker="w", task_id=task_id)
    left.check()
    clock.time += 1000.0
    right.call("prune")
    clock.time += 1000.0
    right.call("prune")
    drive(left.replica.load())
    assert left.take(("task_list", {}))() == b"{}"
    assert left.take(("worker_list", {}))() == b"[]"


# Fragments


def many(number: int) -> Looked:
    """A world with so many tasks."""
    world = Looked(Database())
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{task}", family="F") for task in range(number)))
    return world


def test_a_rule_makes_few_fragments() -> None:
    world = many(10)
    taken: list[Render | None] = []
    world.settle(world.listing(taken, "task_list", {}, 9))
    assert taken == [None]
    missing = world.listings.missing("task_list", {})
    assert sorted(missing) == sorted(f"t{task}" for task in range(10))
    world.listings.fill(missing, 0.0)
    assert len(missing) == 9
    assert len(json.loads(world.take(("task_list", {}), 9)())) == 10
    assert world.listings.missing("graph", {}) == []


def test_only_what_a_listing_shows_is_missing() -> None:
    world = many(10)
    world.call("get_work", worker="w", host="h")
    assert world.listings.missing("task_list", {"status": "DONE"}) == []
    assert world.listings.missing("task_list", {"max_shown_tasks": 9}) == []
    assert world.listings.missing("worker_list", {}) == ["t0"]
    assert len(world.listings.missing("task_list", {"status": "PENDING"})) == 9
    around = world.listings.missing("dep_graph", {"task_id": "t0"})
    assert len(around) == (0 if listings.SMALL else 10)


def test_a_fragment_is_made_again_only_when_its_task_has_changed() -> None:
    world = many(10)
    world.take(("task_list", {}))
    with mock.patch.object(world.graph, "_serialize_task", wraps=world.graph._serialize_task) as made:
        world.take(("task_list", {"status": "PENDING"}))
        assert made.call_count == 0
        world.call("set_task_status_message", task_id="t3", status_message="half")
        world.take(("task_list", {}))
        assert [call.args for call in made.call_args_list] == [("t3",)]


def test_a_task_that_is_removed_between_two_slices_has_no_fragment() -> None:
    world = many(10)
    missing = world.listings.missing("task_list", {})
    world.listings.fill(missing, 0.0)
    for task in range(10):
        world.call("mark_as_done", task_id=f"t{task}")
    for _ in range(2):
        world.clock.time += 1000.0
        world.call("prune")
    assert not world.graph._state._tasks
    assert len(missing) == 9
    world.listings.fill(missing, math.inf)
    assert world.listings.missing("task_list", {}) == missing == []
    world.check()


def test_a_task_that_is_undone_between_two_slices_has_no_fragment() -> None:
    world = many(1)
    calls = [world.waiting("add_task", worker="w", task_id=f"undone{task}", family="F") for task in range(9)]
    batch.run(world.graph, calls, world.graph.ledger.applied + 1)
    missing = world.listings.missing("task_list", {})
    world.listings.fill(missing, 0.0)
    assert len(missing) == 9
    world.graph.tracker.rollback(batch.START)
    world.listings.fill(missing, math.inf)
    assert list(json.loads(world.take(("task_list", {}))())) == ["t0"]
    world.check()


def test_a_task_whose_removal_is_undone_between_two_slices_is_listed() -> None:
    world = many(2)
    world.settle(*(world.waiting("mark_as_done", task_id=f"t{task}") for task in range(2)))
    world.clock.time += 1000.0
    world.call("prune")
    missing = world.listings.missing("task_list", {})
    world.clock.time += 1000.0
    batch.run(world.graph, [world.waiting("prune")], world.graph.ledger.applied + 1)
    assert (len(missing), len(world.graph._state._tasks)) == (2, 0)
    world.listings.fill(missing, math.inf)
    world.graph.tracker.rollback(batch.START)
    assert sorted(world.listings.missing("task_list", {})) == ["t0", "t1"]
    world.check()


def test_what_a_listing_takes_beyond_the_bound_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = many(10)
    world.take(("task_list", {}))
    world.listings.trim()
    assert world.listings.missing("task_list", {}) == []
    monkeypatch.setattr(fragments, "CACHE_BYTES", 1000)
    world.listings.trim()
    assert len(world.listings.missing("task_list", {})) == 10
    world.check()


def test_the_bytes_are_counted_as_fragments_come_and_go() -> None:
    world = many(10)
    world.take(("task_list", {}))
    kept = world.listings._fragments
    full = kept._bytes
    for task in range(5):
        world.call("mark_as_done", task_id=f"t{task}")
    world.clock.time += 1000.0
    world.call("prune")
    world.clock.time += 1000.0
    world.take(("task_list", {}))
    assert kept._bytes == sum(len(text) + fragments.OVERHEAD_BYTES for text in kept._texts.values()) < full


def test_nothing_is_followed_while_nobody_looks() -> None:
    world = many(10)
    assert world.graph.tracker.changed is None
    world.take(("task_list", {}))
    assert world.graph.tracker.changed == set()
    world.listings.clear()
    world.call("mark_as_done", task_id="t1")
    world.call("get_work", worker="w", host="h")
    assert world.graph.tracker.changed is None
    world.check()
