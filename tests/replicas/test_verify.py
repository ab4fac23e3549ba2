"""Verify finds what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from worlds import Clock, World, drive

from luigi_spanner import verify
from luigi_spanner.digest import EMPTY, format_digest
from luigi_spanner.journal import decode, encode
from luigi_spanner.stores.memory import Database, MemoryStore


def lived_in(truncated: bool) -> Database:
    database = Database()
    store = MemoryStore(namespace="default", database=database)
    world = World(store, Clock())
    for number in range(6):
        world.call("add_task", worker=f"w{number % 2}", task_id=f"t{number}", deps=[f"t{number + 1}"])
    world.call("get_work", worker="w0")
    world.call("disable_worker", worker="w1")
    if truncated:
        drive(store.truncate(4))
    return database


def check(database: Database) -> verify.Report:
    return drive(verify.check(MemoryStore(namespace="default", database=database), "default"))


@pytest.mark.parametrize("truncated", [False, True])
def test_a_sound_namespace_is_clean(truncated: bool) -> None:
    report = check(lived_in(truncated))
    assert report.clean, report.lines()
    assert report.replayed is not truncated
    assert report.begins == (4 if truncated else 0)
    assert report.entries == report.head - report.begins > 3
    assert report.lines()[-1].startswith("clean")


def test_a_worker_that_one_call_forgets_and_makes_anew_is_clean_when_the_beginning_is_gone() -> None:
    database = Database()
    store = MemoryStore(namespace="default", database=database)
    clock = Clock()
    world = World(store, clock, prune_on_get_work=True)
    world.call("ping", worker="w0")
    world.call("add_worker", worker="w0", info=[["workers", 2]])
    world.call("ping", worker="w1")
    clock.time += 1000
    world.call("get_work", worker="w0", host="h")
    assert not world.graph._state.find_worker("w0").info
    drive(store.truncate(1))
    report = check(database)
    assert report.clean and not report.replayed, report.lines()
    database.tables["default"]["workers"]["w0",] = encode(
        {**decode(database.tables["default"]["workers"]["w0",]), "info": {"workers": 2}}
    )
    assert not check(database).clean


def a_row_is_changed(database: Database) -> None:
    database.tables["default"]["tasks"][("t0",)] = encode({"status": "DONE"})


def a_row_is_lost(database: Database) -> None:
    del database.tables["default"]["stakeholders"][("w0", "t2")]


def an_entry_is_changed(database: Database) -> None:
    journal = database.journals["default"]
    journal[5] = replace(journal[5], changes=encode([[["tasks", ["t4"], {"family": "forged"}]]]))


def an_entry_is_lost(database: Database) -> None:
    del database.journals["default"][6]


def a_row_is_none(database: Database) -> None:
    database.tables["default"]["tasks"][("t0",)] = b"\x00"


def a_row_is_half_compressed(database: Database) -> None:
    database.tables["default"]["tasks"][("t0",)] = b"z\x78\x01"


def an_entry_is_none(database: Database) -> None:
    journal = database.journals["default"]
    journal[5] = replace(journal[5], changes=encode([[["nowhere", [1], {}]]]))


def the_heads_digest_is_wrong(database: Database) -> None:
    journal = database.journals["default"]
    journal[max(journal)] = replace(journal[max(journal)], digest=format_digest(EMPTY))


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize(
    "damage",
    [
        a_row_is_changed,
        a_row_is_lost,
        a_row_is_none,
        a_row_is_half_compressed,
        an_entry_is_changed,
        an_entry_is_lost,
        an_entry_is_none,
        the_heads_digest_is_wrong,
    ],
)
def test_damage_is_found(damage: Callable[[Database], None], truncated: bool) -> None:
    database = lived_in(truncated)
    damage(database)
    report = check(database)
    assert not report.clean
    assert report.lines()[1:] == report.differences
