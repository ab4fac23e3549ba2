"""Turns and the requests for them (I14): what one replica makes of what it sees, and what its own requests do to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from worlds import Clock, World, drive

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call, StoreDown
from luigi_spanner.journal import Entry, Row, encode
from luigi_spanner.stores import Closed, Outcome
from luigi_spanner.stores.memory import Database, MemoryStore
from luigi_spanner.turns import GRACE_SECONDS, STALE_SECONDS, Turns


def entry(seq: int, replica: str, commit_id: str, *, turn: bool = False, only_asks: bool = False) -> Entry:
    nothing = encode([])
    return Entry(
        seq=seq,
        commit_id=commit_id,
        replica=replica,
        clock=0.0,
        watermark=0,
        digest="" if only_asks else "d",
        turn=turn or only_asks,
        calls=nothing,
        changes=nothing,
    )


def waited_for(turns: Turns) -> list[str]:
    return [request.replica for request in turns.before_ours()]


def test_who_takes_turns_gives_way_in_the_journals_order() -> None:
    turns = Turns("a", Clock())
    for seq, replica in enumerate("bca", 1):
        turns.seen(entry(seq, replica, f"{replica}1.0", turn=True))
    assert waited_for(turns) == ["b", "c"]
    turns.seen(entry(4, "b", "b2.0", turn=True))
    assert waited_for(turns) == ["c"]
    turns.seen(entry(5, "c", "c2.0"))
    assert waited_for(turns) == []


def test_who_has_no_place_gives_way_to_losers_only() -> None:
    turns = Turns("a", Clock())
    turns.seen(entry(1, "b", "b1.0", turn=True))
    assert waited_for(turns) == []
    turns.seen(entry(2, "c", "c1+0.0", only_asks=True))
    assert waited_for(turns) == ["c"]


@pytest.mark.parametrize("request_id", ["b1+0.0", "b1+1.3", "b0+1.0"])
def test_a_request_that_lands_after_its_turn_says_nothing(request_id: str) -> None:
    """It belonged to an earlier try, and everybody waited a second for nobody."""
    turns = Turns("a", Clock())
    turns.seen(entry(1, "b", "b0.0"))
    turns.seen(entry(2, "b", "b1.2"))
    turns.seen(entry(3, "b", request_id, only_asks=True))
    assert waited_for(turns) == []


def test_no_place_lasts_for_ever() -> None:
    clock = Clock()
    turns = Turns("a", clock)
    turns.seen(entry(1, "a", "a1.0", turn=True))
    assert not turns.asks_after(1)
    clock.time += STALE_SECONDS
    turns.seen(entry(2, "b", "b1+0.0", only_asks=True))
    assert waited_for(turns) == ["b"]
    assert turns.asks_after(1)


def test_a_request_is_repeated_when_its_grace_is_over_and_another_try_is_lost() -> None:
    clock = Clock()
    turns = Turns("a", clock)
    turns.seen(entry(1, "a", "a1+0.0", only_asks=True))
    assert not turns.asks_after(3)
    clock.time += GRACE_SECONDS
    assert turns.asks_after(3)
    assert not turns.asks_after(0)


class HookedStore(MemoryStore):
    """A memory store to which something happens before each commit."""

    def __init__(self, database: Database, before: Callable[[Entry], Any]) -> None:
        super().__init__(namespace="default", database=database)
        self._before = before

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        await asyncio.sleep(0)
        await asyncio.sleep(0 if not entry.only_asks else 0.001)
        self._before(entry)
        return await super().commit(seq, entry, rows)


def live(database: Database, before: Callable[[Entry], Any]) -> World:
    """A replica that is driven by an event loop."""
    world = World(HookedStore(database, before), Clock())
    world.replica._live = True
    world.replica._sleep = asyncio.sleep
    world.replica._journal.round_trip = 0.05
    return world


def rival_wins_once(database: Database) -> Callable[[Entry], None]:
    rival = World(MemoryStore(namespace="default", database=database), Clock(), "b")
    wins = [True]

    def before(entry: Entry) -> None:
        if wins and not entry.only_asks:
            wins.pop()
            rival.call("add_task", worker="v", task_id="rivals")

    return before


def noting(world: World, happened: list[str]) -> Waiting:
    def rule(task_id: str) -> None:
        world.graph.add_task(worker="w", task_id=task_id)
        world.graph.tracker.defer(lambda: happened.append(task_id))

    return Waiting(Call(request_id="r", method="add_task", arguments={"task_id": "t"}), rule)


def test_effects_of_a_batch_are_released_though_its_own_request_lands_behind_it() -> None:
    """Applying the request threw them away: mail and metrics of one batch in ten, of two busy replicas on a SQLite file."""
    database, happened = Database(), list[str]()
    world = live(database, rival_wins_once(database))
    asyncio.run(world.replica.settle([noting(world, happened)]))
    assert happened == ["t"]
    journal = database.journals["default"]
    assert journal[max(journal)].only_asks
    assert world.graph.ledger.applied == max(journal)


def test_a_request_that_fails_harms_nobody() -> None:
    """The replica ended, with a batch that was durable and had no answer."""
    database, happened = Database(), list[str]()
    rival = rival_wins_once(database)

    def before(entry: Entry) -> None:
        if entry.only_asks:
            raise Closed("no request gets through")
        rival(entry)

    world = live(database, before)
    asyncio.run(world.replica.settle([noting(world, happened)]))
    assert world.replica.failure is None
    assert happened == ["t"]


def test_what_a_run_said_that_was_never_held_against_the_journal_is_no_answer() -> None:
    """A claim of a batch that another replica had handed out was refused for good when the store was closed before the look."""
    database = Database()
    world = World(MemoryStore(namespace="default", database=database), Clock())
    waiting = world.waiting("add_task", worker="w", task_id="t", status="RUNNING", batch_id="unknown")
    drive(world.replica._store.close())
    world.settle(waiting)
    assert isinstance(waiting.error, StoreDown)
