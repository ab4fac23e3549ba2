"""The commit loop against each invariant, on a store that fails as told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from faults import Fault, FaultyStore, lost_reply, lost_request, own_conflict
from worlds import Clock, World, drive, normal, picture

from luigi_spanner import verify
from luigi_spanner.batch import BATCH_CALLS, LATE_ENTRIES, RIDE_ALONG, Load, Ran, Waiting
from luigi_spanner.calls import RuleFailed, StoreDown, TooLarge
from luigi_spanner.journal import ENCODING_VERSION, Entry, decode
from luigi_spanner.stores import COMMIT_ROWS, Committed, Refused
from luigi_spanner.stores.memory import Database, MemoryStore


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def store(database: Database) -> FaultyStore:
    return FaultyStore(database)


@pytest.fixture
def world(store: FaultyStore) -> World:
    return World(store, Clock())


def other(database: Database, name: str = "b") -> World:
    return World(MemoryStore(namespace="default", database=database), Clock(), name)


def journal(database: Database) -> dict[int, Entry]:
    return database.journals["default"]


def reply(waiting: Waiting) -> Any:
    assert waiting.error is None
    return json.loads(waiting.reply)


def test_a_reply_leaves_after_its_commit(world: World, store: FaultyStore, database: Database) -> None:
    answered: list[int] = []
    waiting = world.waiting("add_task", worker="w", task_id="t")
    waiting.answered = lambda _: answered.append(max(journal(database)))
    store.before_commit = lambda: answered.append(-1)
    world.settle(waiting)
    assert answered == [-1, 1]


def test_calls_that_wait_together_are_one_entry(world: World, database: Database) -> None:
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(5)))
    assert max(journal(database)) == 1
    assert [call[2:5] for call in decode(journal(database)[1].calls)] == [["add_task", f"t{number}", "w"] for number in range(5)]


def test_the_audit_trail_names_request_and_principal(world: World, database: Database) -> None:
    world.call("add_task", worker="w", task_id="t")
    assert decode(journal(database)[1].calls) == [["request-add_task", "anonymous", "add_task", "t", "w", 1000.0]]


def test_what_another_replica_committed_is_seen(world: World, database: Database) -> None:
    other(database).call("add_task", worker="w", task_id="t")
    assert json.loads(world.call("get_work", worker="w"))["task_id"] == "t"


def test_the_head_read_of_a_reading_batch_begins_after_its_calls(world: World, store: FaultyStore) -> None:
    world.call("add_task", worker="w", task_id="t")
    before = store.reads
    world.settle(world.waiting("task_list"), world.waiting("is_paused"), world.waiting("task_list"))
    assert store.reads == before + 1
    assert len(store.commits) == 1


def test_a_conflict_is_undone_and_run_again(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)
    rival.call("add_task", worker="w", task_id="t")
    world.call("is_paused")
    store.before_commit = lambda: rival.call("get_work", worker="w")
    assert json.loads(world.call("get_work", worker="v"))["task_id"] is None
    assert world.graph._state.get_task("t").worker_running == "w"
    assert drive(verify.check(store, "default")).clean


@pytest.mark.parametrize(
    "faults", [[lost_reply], [own_conflict], [lost_request], [lost_request, lost_reply], [lost_request, lost_request]]
)
def test_an_unknown_outcome_is_settled_before_anything_else(
    world: World, store: FaultyStore, database: Database, faults: list[Fault | None]
) -> None:
    store.faults = list(faults)
    world.call("add_task", worker="w", task_id="t")
    assert json.loads(world.call("get_work", worker="w"))["task_id"] == "t"
    # The same entry is sent again under the same number and id, and is there once.
    first = [entry for entry in store.commits if entry.seq == 1]
    assert len({entry.commit_id for entry in first}) == 1
    assert sorted(journal(database)) == [0, 1, 2]
    assert drive(verify.check(store, "default")).clean


def test_an_unknown_outcome_that_another_took_is_a_conflict(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)

    async def lost_while_another_wins(_: Any) -> Any:
        rival.call("add_task", worker="w", task_id="rivals")
        return await lost_request(_)

    store.faults = [lost_while_another_wins]
    world.call("add_task", worker="w", task_id="ours")
    assert list(world.graph._state._tasks) == ["rivals", "ours"]
    assert drive(verify.check(store, "default")).clean


def test_the_store_may_be_away_while_the_outcome_is_unknown(world: World, store: FaultyStore) -> None:
    store.faults = [lost_reply]
    store.unavailable = 7
    world.call("add_task", worker="w", task_id="t")
    assert len(store.commits) == 1
    assert len(world.naps.taken) == 7
    assert max(world.naps.taken) <= 1.0


def test_a_call_that_raises_is_undone_alone(world: World, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    def breaks(**_: Any) -> None:
        world.graph.add_task(worker="w", task_id="half")
        raise RuntimeError("a bug")

    broken = world.waiting("add_task", worker="w", task_id="half")
    broken.run = breaks
    batch = world.settle(
        world.waiting("add_task", worker="w", task_id="a"), broken, world.waiting("add_task", worker="w", task_id="b")
    )
    assert [type(waiting.error) for waiting in batch] == [type(None), RuleFailed, type(None)]
    assert list(world.graph._state._tasks) == ["a", "b"]
    assert "request-add_task" in caplog.text
    assert normal(picture(other(database).graph)) == normal(picture(world.graph))


@pytest.mark.parametrize(
    "arguments",
    [
        {"task_id": "\ud800"},
        {"task_id": "x" * 9000},
        {"task_id": "t", "worker": "w" * 9000},
        {"task_id": "t", "deps": ["d" * 9000]},
    ],
)
def test_a_call_that_no_store_can_hold_is_refused_alone(world: World, arguments: dict[str, Any]) -> None:
    batch = world.settle(
        world.waiting("add_task", worker="w", task_id="a"),
        world.waiting("add_task", **{"worker": "w", **arguments}),
        world.waiting("ping", worker="w"),
    )
    assert [type(waiting.error) for waiting in batch] == [type(None), TooLarge, type(None)]
    assert list(world.graph._state._tasks) == ["a"]


def test_what_the_store_refuses_after_all_is_found_by_trying_alone(world: World, store: FaultyStore) -> None:
    inner = store.inner.commit

    async def fussy(seq: int, entry: Entry, rows: Any) -> Any:
        return Refused(reason="no b") if '"b"' in json.dumps(decode(entry.changes)) else await inner(seq, entry, rows)

    store.inner.commit = fussy  # type: ignore[method-assign]
    batch = world.settle(*(world.waiting("add_task", worker="w", task_id=task) for task in "abc"))
    assert [type(waiting.error) for waiting in batch] == [type(None), TooLarge, type(None)]
    assert list(world.graph._state._tasks) == ["a", "c"]


def test_effects_follow_the_commit_and_a_rerun_drops_them(world: World, store: FaultyStore, database: Database) -> None:
    happened: list[int] = []

    def rule(**_: Any) -> None:
        world.graph.add_task(worker="w", task_id="t")
        world.graph.tracker.defer(lambda: happened.append(max(journal(database))))

    waiting = world.waiting("add_task")
    waiting.run = rule
    store.before_commit = lambda: other(database).call("add_task", worker="w", task_id="rivals")
    world.settle(waiting)
    assert happened == [2]


def test_a_failure_on_a_state_that_was_behind_is_not_told_of(
    world: World, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker claims at one replica the batch that another one has just handed out."""
    world.call("add_task_batcher", worker="w", task_family="F", batched_args=["a"], max_batch_size=2)
    for number in "12":
        world.call("add_task", worker="w", task_id=f"t{number}", family="F", params={"a": number}, batchable=True)
    behind = other(database)
    batch = json.loads(world.call("get_work", worker="w", current_tasks=[]))["batch_id"]
    claim = behind.waiting("add_task", worker="w", task_id="t", family="F", status="RUNNING", batch_id=batch)
    behind.settle(claim)
    assert claim.error is None
    assert "IndexError" not in caplog.text


def test_a_failing_effect_harms_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def rule(**_: Any) -> None:
        world.graph.tracker.defer(lambda: 1 / 0)

    waiting = world.waiting("add_task")
    waiting.run = rule
    world.settle(waiting)
    assert waiting.error is None
    assert "effect" in caplog.text


def test_a_call_whose_caller_has_gone_does_not_run(world: World) -> None:
    gone, there = world.waiting("add_task", worker="w", task_id="gone"), world.waiting("add_task", worker="w", task_id="there")
    gone.call.abandoned = True
    world.settle(gone, there)
    assert list(world.graph._state._tasks) == ["there"]


def test_whether_the_caller_is_there_is_asked_again_on_a_rerun(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)
    leaving = world.waiting("add_task", worker="w", task_id="leaving")

    def meanwhile() -> None:
        rival.call("add_task", worker="w", task_id="rivals")
        leaving.call.abandoned = True

    store.before_commit = meanwhile
    world.settle(leaving)
    assert isinstance(leaving.error, StoreDown)
    assert list(world.graph._state._tasks) == ["rivals"]


def test_a_replica_behind_the_oldest_entry_loads_again(world: World, store: FaultyStore, database: Database) -> None:
    world.call("add_task", worker="w", task_id="before")
    rival = other(database)
    for number in range(5):
        rival.call("add_task", worker="w", task_id=f"t{number}")
    drive(store.truncate(5))
    assert json.loads(world.call("count_pending", worker="w"))["n_pending_tasks"] == 6
    world.call("add_task", worker="w", task_id="after")
    assert drive(verify.check(store, "default")).clean


def test_loading_again_outlasts_an_outage(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)
    for number in range(5):
        rival.call("add_task", worker="w", task_id=f"t{number}")
    drive(store.truncate(5))
    store.load_unavailable = 3
    assert json.loads(world.call("count_pending", worker="w"))["n_pending_tasks"] == 5
    assert len(world.naps.taken) == 3


def test_a_commit_whose_predecessor_is_truncated_is_no_commit(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)

    def long_absence() -> None:
        for number in range(5):
            rival.call("add_task", worker="w", task_id=f"t{number}")
        drive(store.truncate(4))

    store.before_commit = long_absence
    world.call("add_task", worker="w", task_id="late")
    assert list(world.graph._state._tasks) == [*(f"t{number}" for number in range(5)), "late"]
    assert min(journal(database)) == 4


def test_a_digest_that_does_not_fit_stops_the_replica(world: World, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    other(database).call("add_task", worker="w", task_id="t")
    world.graph.ledger.rows_digest += 1
    with pytest.raises(StoreDown):
        world.call("is_paused")
    assert world.replica.failure is not None
    with pytest.raises(StoreDown):
        world.call("is_paused")
    assert "digest" in caplog.text


def test_calls_whose_callers_have_gone_are_in_no_batch(world: World) -> None:
    """Else each batch of them would cost a look at the journal, for which those wait that are there."""
    gone = [world.waiting("get_work", worker=f"w{number}") for number in range(BATCH_CALLS + 5)]
    for waiting in gone:
        waiting.given_up = True
        world.replica.submit(waiting)
    there = world.waiting("is_paused")
    world.replica.submit(there)
    assert world.replica._gather([]) == [there]
    assert world.replica.queued == 0
    assert all(isinstance(waiting.error, StoreDown) and waiting.done for waiting in gone)
    assert not there.done


def test_an_entry_of_a_later_encoding_stops_the_replica(world: World, database: Database) -> None:
    rival = other(database)
    draft = rival.replica._draft(Ran(), Load.IDLE, "id")
    later = Entry(**{**{name: getattr(draft.entry, name) for name in Entry.__slots__}, "version": ENCODING_VERSION + 1})
    assert isinstance(drive(rival.replica._store.commit(1, later, [])), Committed)
    with pytest.raises(StoreDown, match="upgrade"):
        world.call("is_paused")


def test_a_large_batch_is_one_entry_and_its_rows_follow(world: World, store: FaultyStore, database: Database) -> None:
    tasks = COMMIT_ROWS + 500
    world.call("add_task", worker="w", task_id="hub", deps=[f"d{number}" for number in range(tasks)])
    assert max(journal(database)) == 1
    assert len(store.rows[0]) <= COMMIT_ROWS
    assert journal(database)[1].watermark == 0
    assert normal(picture(other(database).graph)) == normal(picture(world.graph))
    drive(world.replica._flush())
    assert journal(database)[max(journal(database))].watermark == max(journal(database))
    assert all(len(rows) <= COMMIT_ROWS for rows in store.rows)
    assert drive(verify.check(store, "default")).clean


def test_a_busy_replica_lets_rows_wait(world: World, store: FaultyStore) -> None:
    world.replica.submit(world.waiting("is_paused"))
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(RIDE_ALONG)))
    assert store.rows[-1] == []
    assert world.graph.ledger.watermark == 0
    world.replica._queue.clear()
    drive(world.replica._flush())
    assert world.graph.ledger.watermark == world.graph.ledger.applied


def test_what_happens_to_all_tasks_of_a_worker_is_one_record(world: World, database: Database) -> None:
    for number in range(50):
        world.call("add_task", worker="w", task_id=f"t{number}")
    seq = max(journal(database))
    world.call("disable_worker", worker="w")
    (records,) = decode(journal(database)[seq + 1].changes)
    assert [record[:2] for record in records] == [["runners", ["w"]], ["workers", ["w"]]]
    assert normal(picture(other(database).graph)) == normal(picture(world.graph))


def test_the_journal_is_truncated_behind_the_watermark(
    database: Database, store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luigi_spanner.truncation.TRUNCATE_EVERY", 5)
    world = World(store, Clock(), keep=10)
    for number in range(30):
        world.call("add_task", worker="w", task_id=f"t{number}")
        drive(world.replica._truncate())
    assert 10 <= len(journal(database)) < 20
    assert drive(verify.check(store, "default")).clean


def test_a_loser_gets_its_turn(world: World, store: FaultyStore, database: Database) -> None:
    """A rival that always wins gives way once it is asked to."""
    rival = other(database)
    lost: list[int] = []

    def rival_wins() -> None:
        store.before_commit = rival_wins
        if len(store.commits) == 2:
            return  # the request itself
        drive(rival.replica._catch_up())
        if not rival.replica._turns.before_ours():
            lost.append(1)
            rival.call("add_task", worker="v", task_id=f"r{len(lost)}")

    store.before_commit = rival_wins
    world.call("add_task", worker="w", task_id="t")
    assert [entry.replica for entry in journal(database).values() if entry.turn] == ["a"]
    assert len(lost) == 2


def test_requests_at_the_journals_end_do_not_hinder_a_start(world: World, store: FaultyStore, database: Database) -> None:
    """A request does not know where the tables stand, and what it does know may be truncated."""
    world.call("add_task", worker="w", task_id="t")
    drive(other(database).replica._requests.commit("id", world.graph.ledger.applied + 1))
    drive(world.replica._flush())
    drive(world.replica._catch_up())
    drive(store.truncate(world.graph.ledger.watermark))
    assert normal(picture(other(database).graph)) == normal(picture(world.graph))
    assert drive(verify.check(store, "default")).clean


def test_who_gives_way_waits_for_the_turn_to_be_taken(world: World, database: Database) -> None:
    rival = other(database)
    drive(rival.replica._requests.commit("id", 1))
    drive(world.replica._catch_up())
    assert not world.naps.taken
    world.call("add_task", worker="w", task_id="t")
    # Nobody takes it: the grace runs out, and that is all it costs.
    assert len(world.naps.taken) > 1
    assert world.clock.time < 1002
    assert list(world.graph._state._tasks) == ["t"]


def test_liveness_is_folded_into_entries_that_are_written_anyway(database: Database) -> None:
    clock = Clock()
    store = FaultyStore(database)
    world = World(store, clock, grain=15.0)
    world.call("add_task", worker="w", task_id="t")
    clock.time += 5
    assert world.graph.ping_from_memory({"worker": "w"}) == b'{"rpc_messages":[]}'
    assert len(store.commits) == 1
    assert other(database).graph._state.get_worker("w").last_active == 1000
    world.call("add_task", worker="v", task_id="u")
    assert other(database).graph._state.get_worker("w").last_active == 1005


def test_liveness_older_than_half_a_grain_is_flushed(database: Database) -> None:
    clock = Clock()
    world = World(FaultyStore(database), clock, grain=15.0)
    world.call("add_task", worker="w", task_id="t")
    clock.time += 7
    world.graph.ping_from_memory({"worker": "w"})
    assert not world.graph.liveness_due()
    clock.time += 1
    world.graph.ping_from_memory({"worker": "w"})
    assert world.graph.liveness_due()
    flush = Waiting(world.waiting("prune").call, world.graph.flush_liveness)
    flush.call.arguments = {}
    world.settle(flush)
    assert not world.graph.liveness_due()
    assert other(database).graph._state.get_worker("w").last_active == 1008


def test_prune_allows_for_the_grain(database: Database) -> None:
    clock = Clock()
    world = World(FaultyStore(database), clock, grain=15.0)
    world.call("add_task", worker="w", task_id="t")
    clock.time += 40  # beyond worker_disconnect_delay (30), within the grain
    world.call("prune")
    assert world.graph._state.find_worker("w") is not None
    clock.time += 6
    world.call("prune")
    assert world.graph._state.find_worker("w") is None


def test_liveness_moves_forward_only(database: Database) -> None:
    clock = Clock()
    world = World(FaultyStore(database), clock, grain=15.0)
    world.call("add_task", worker="w", task_id="t")
    clock.time -= 500
    world.graph.ping_from_memory({"worker": "w"})
    assert world.graph._state.get_worker("w").last_active == 1000


def test_each_claim_takes_the_next_number(world: World) -> None:
    world.call("add_task", worker="w", task_id="t")
    for claim in (1, 2):
        assert json.loads(world.call("get_work", worker="w"))["task_id"] == "t"
        assert world.graph._state.get_task("t").claims == claim
        world.call("add_task", worker="w", task_id="t", status="FAILED")
        world.call("forgive_failures", task_id="t")


def test_a_long_chain_of_priorities_is_no_recursion(world: World) -> None:
    for number in range(3500):
        world.settle(world.waiting("add_task", worker="w", task_id=f"t{number}", deps=[f"t{number - 1}"] if number else []))
    world.call("add_task", worker="w", task_id="t3499", deps=["t3498"], priority=9)
    assert world.graph._state.get_task("t0").priority == 9


def test_resources_running_is_a_dict_of_its_own(world: World) -> None:
    world.call("add_task_batcher", worker="w", task_family="F", batched_args=["a"], max_batch_size=5)
    for number in range(2):
        world.call(
            "add_task",
            worker="w",
            task_id=f"t{number}",
            family="F",
            params={"a": str(number)},
            resources={"r": 1},
            batchable=True,
        )
    batch_id = json.loads(world.call("get_work", worker="w"))["batch_id"]
    world.call("add_task", worker="w", task_id="head", status="RUNNING", batch_id=batch_id, family="F")
    world.call("decrease_running_task_resources", task_id="head", decrease_resources={"r": 1})
    assert world.graph._state.get_task("t0").resources == {"r": 1}


def test_a_pruned_task_leaves_no_ghost(world: World) -> None:
    world.call("add_task", worker="w", task_id="t", status="DONE")
    world.call("add_task", worker="v", task_id="u")
    task = world.graph._state.get_task("t")
    task.remove = 1.0
    world.call("prune")
    assert world.graph._state.get_task("t") is None
    assert list(world.graph._state.get_worker("w").tasks) == []


def test_a_message_to_a_task_that_is_pruned_in_the_same_batch_can_be_loaded(database: Database, store: FaultyStore) -> None:
    """The tables may be ahead of the watermark: without a task that entries after it still change."""
    world = World(store, Clock())
    world.call("add_task", worker="w", task_id="t", status="DONE")
    world.clock.time += 100
    world.call("prune")
    world.settle(
        world.waiting("set_task_status_message", task_id="t", status_message="half"),
        *(world.waiting("add_task", worker="v", task_id=f"t{number}") for number in range(COMMIT_ROWS)),
    )
    world.clock.time += 100
    world.call("prune")
    assert normal(picture(other(database).graph)) == normal(picture(world.graph))


def test_an_interrupted_call_leaves_the_store_sound(world: World, store: FaultyStore, database: Database) -> None:
    async def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    store.faults = [interrupted]
    with pytest.raises(KeyboardInterrupt):
        world.call("add_task", worker="w", task_id="lost")
    with pytest.raises(StoreDown):
        world.call("add_task", worker="w", task_id="after")
    assert other(database).graph._state.get_task("lost") is None
    assert drive(verify.check(store, "default")).clean


def test_a_turn_request_is_tiny_whatever_the_tables_owe(world: World, store: FaultyStore) -> None:
    world.call("add_task", worker="w", task_id="hub", deps=[f"d{number}" for number in range(COMMIT_ROWS + 900)])
    assert world.graph.ledger.pending
    drive(world.replica._requests.commit("id", world.graph.ledger.applied + 1))
    assert store.rows[-1] == []


def test_a_busy_replica_does_not_let_rows_wait_for_ever(world: World) -> None:
    world.replica.submit(world.waiting("is_paused"))
    for number in range(LATE_ENTRIES + 200):
        world.settle(*(world.waiting("set_task_status_message", task_id=f"t{n}", status_message=str(number)) for n in range(3)))
        world.call("add_task", worker="w", task_id=f"t{number % 100}", status="PENDING")
    assert world.graph.ledger.applied - world.graph.ledger.watermark <= LATE_ENTRIES + 100


def test_what_another_replica_owes_is_left_to_it_while_it_is_active(world: World, store: FaultyStore, database: Database) -> None:
    rival = other(database)
    rival.replica._queue.append(rival.waiting("is_paused"))
    rival.settle(*(rival.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(RIDE_ALONG)))
    world.call("is_paused")
    drive(world.replica._flush())
    assert store.commits == []
    world.clock.time += 3
    drive(world.replica._flush())
    assert world.graph.ledger.watermark == world.graph.ledger.applied


def test_a_detached_task_keeps_its_failures(world: World) -> None:
    world.call("add_task", worker="w", task_id="t", status="FAILED")
    task = world.graph._state.get_task("t")
    assert list(task.detached().failures) == list(task.failures) == [1000.0]


def test_attributes_of_a_later_luigi_are_kept(world: World, database: Database) -> None:
    def rule(**_: Any) -> None:
        world.graph.add_task(worker="w", task_id="t")
        world.graph._state.get_task("t").attempts = {"made": 3}

    waiting = world.waiting("add_task")
    waiting.run = rule
    world.settle(waiting)
    follower = other(database)
    assert follower.graph._state.get_task("t").attempts == {"made": 3}
    assert normal(picture(follower.graph)) == normal(picture(world.graph))


def test_a_cut_batch_is_recorded_once(world: World, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luigi_spanner.batch.CHANGES_BYTES", 1500)
    world.settle(*(world.waiting("add_task", worker="w", task_id=f"t{number}") for number in range(6)))
    recorded = [call[3] for entry in journal(database).values() for call in decode(entry.calls)]
    assert recorded == [f"t{number}" for number in range(6)]
    assert max(journal(database)) > 1


def test_a_worker_that_came_back_in_one_call_ranks_the_same_everywhere(world: World, database: Database) -> None:
    follower = other(database)
    for worker in ("w1", "w2"):
        world.call("add_worker", worker=worker, info=[])
    follower.call("is_paused")

    def rule(**_: Any) -> None:
        world.graph._state.inactivate_workers(["w1"])
        world.graph.add_worker(worker="w1", info=[])

    waiting = world.waiting("add_worker")
    waiting.run = rule
    world.settle(waiting)
    follower.call("is_paused")
    assert list(follower.graph._state._active_workers) == list(world.graph._state._active_workers) == ["w2", "w1"]


def test_a_clock_that_was_ahead_does_not_stop_pruning(world: World) -> None:
    prune = world.waiting("prune")
    prune.run = world.graph.prune_if_due
    world.clock.time += 86_400
    world.settle(prune)
    world.clock.time -= 86_000
    assert world.graph.prune_due()


def test_an_unknown_outcome_that_the_journal_no_longer_tells_is_not_run_again(
    world: World, store: FaultyStore, database: Database
) -> None:
    rival = other(database)

    async def landed_and_truncated(attempt: Any) -> Any:
        outcome = await lost_reply(attempt)
        for number in range(5):
            rival.call("add_task", worker="v", task_id=f"t{number}")
        await store.truncate(5)
        return outcome

    store.faults = [landed_and_truncated]
    with pytest.raises(StoreDown):
        world.call("set_worker_processes", worker="w", n=2)
    assert [message["name"] for message in json.loads(world.call("ping", worker="w"))["rpc_messages"]] == ["set_worker_processes"]


def test_a_row_that_the_store_refuses_is_not_blamed_on_the_call(world: World, store: FaultyStore) -> None:
    inner = store.inner.commit

    async def fussy(seq: int, entry: Entry, rows: Any) -> Any:
        return Refused(reason="no rows today") if rows else await inner(seq, entry, rows)

    store.inner.commit = fussy  # type: ignore[method-assign]
    assert world.call("add_task", worker="w", task_id="t") == b"null"
    drive(world.replica._flush())
    assert world.replica.failure is None
