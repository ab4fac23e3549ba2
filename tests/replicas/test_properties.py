"""Properties of the graph and the journal, whatever the calls (I2, I4, I8)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds import Clock, World, calls, drive, histories, normal, picture, play

from luigi_spanner import batch as batches
from luigi_spanner import verify
from luigi_spanner.graph.task import Task, decode_task, encode_lasting, encode_moving
from luigi_spanner.graph.worker import decode_worker, encode_worker
from luigi_spanner.journal import decode, encode
from luigi_spanner.stores.memory import Database, MemoryStore

many = settings(max_examples=150)


def store_on(database: Database) -> MemoryStore:
    return MemoryStore(namespace="default", database=database)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


def _row(task: Task) -> dict[str, Any]:
    return {**encode_moving(task), **encode_lasting(task)}


@given(json_values)
def test_encoding_then_decoding_gives_the_value(value: Any) -> None:
    assert decode(encode(value)) == value


@many
@given(histories)
def test_a_row_decodes_to_what_it_encodes(history: Any) -> None:
    world = World(store_on(Database()), Clock())
    play(world, history)
    state = world.graph._state
    for task in state._tasks.values():
        assert _row(decode_task(task.id, decode(encode(_row(task))))) == _row(task)
    for worker in state._active_workers.values():
        copy = decode_worker(worker.id, decode(encode(encode_worker(worker))))
        copy.saved = (copy.last_active, copy.last_get_work)
        assert encode_worker(copy) == encode_worker(worker)


@many
@given(histories, st.lists(calls, min_size=1, max_size=8))
def test_a_batch_undone_leaves_memory_as_it_was(history: Any, batch: Any) -> None:
    world = World(store_on(Database()), Clock())
    play(world, history)
    before = picture(world.graph)
    batches.run(world.graph, [world.waiting(method, **arguments) for method, arguments in batch], world.graph.ledger.applied + 1)
    world.graph.tracker.rollback(batches.START)
    assert picture(world.graph) == before


@many
@given(histories)
def test_a_reload_gives_the_same_memory(history: Any) -> None:
    database, clock = Database(), Clock()
    world = World(store_on(database), clock)
    play(world, history)
    again = World(store_on(database), clock, "b")
    assert normal(picture(again.graph)) == normal(picture(world.graph))


@many
@given(histories)
def test_the_journal_replayed_from_nothing_equals_the_tables(history: Any) -> None:
    database = Database()
    play(World(store_on(database), Clock()), history)
    report = drive(verify.check(store_on(database), "default"))
    assert report.clean, report.lines()
    assert report.replayed


@many
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 40), calls), max_size=25))
def test_two_replicas_converge_row_for_row(history: Any) -> None:
    database, clock = Database(), Clock()
    left, right = World(store_on(database), clock, "left"), World(store_on(database), clock, "right")
    for on_left, seconds, call in history:
        play(left if on_left else right, [(seconds, call)])
    for world in (left, right):
        world.call("is_paused")
    assert normal(picture(left.graph)) == normal(picture(right.graph))
    assert left.graph.ledger.digest == right.graph.ledger.digest


@many
@given(histories, st.integers(1, 6))
def test_rows_behind_the_watermark_lose_nothing(history: Any, ride_along: int) -> None:
    """Whatever the tables still owe when a replica dies is made up for by the journal."""
    database, clock = Database(), Clock()
    world = World(store_on(database), clock)
    for number, step in enumerate(history):
        # A busy replica leaves rows behind; now and then it takes some along.
        world.replica._queue.extend([] if number % ride_along == 0 else [world.waiting("is_paused")])
        play(world, [step])
        world.replica._queue.clear()
    again = World(store_on(database), clock, "b")
    assert normal(picture(again.graph)) == normal(picture(world.graph))
    assert drive(verify.check(store_on(database), "default")).clean


@many
@given(histories)
def test_the_tables_say_what_memory_says(history: Any) -> None:
    database = Database()
    world = World(store_on(database), Clock())
    play(world, history)
    for table, rows in database.tables["default"].items():
        for key, body in rows.items():
            assert body == world.graph.ledger.row((table, key)).body


_steps = st.lists(
    st.tuples(st.sampled_from(["left", "right"]), st.sampled_from(["busy", "idle", "flush"]), st.floats(0, 40), calls),
    max_size=25,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps)
def test_the_tables_can_be_loaded_at_any_time(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    """Two replicas that leave rows behind and write what the other left, in commits far too small for all of it."""
    monkeypatch.setattr(batches, "RIDE_ALONG", 2)
    monkeypatch.setattr(batches, "OWED_ROWS", 6)
    monkeypatch.setattr(batches, "COMMIT_ROWS", 5)
    monkeypatch.setattr(batches, "IDLE_ROWS", 5)
    database, clock = Database(), Clock()
    worlds = {name: World(store_on(database), clock, name) for name in ("left", "right")}
    for name, load, seconds, call in steps:
        world = worlds[name]
        if load == "flush":
            clock.time += 3
            drive(world.replica._flush())
            continue
        world.replica._queue.extend([world.waiting("is_paused")] if load == "busy" else [])
        play(world, [(seconds, call)])
        world.replica._queue.clear()
        again = World(store_on(database), clock, "again")
        assert normal(picture(again.graph)) == normal(picture(world.graph))
    report = drive(verify.check(store_on(database), "default"))
    assert report.clean, report.lines()
