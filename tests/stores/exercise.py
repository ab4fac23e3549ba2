"""What every store must do. A store's test module inherits `Exercise` and says, in a fixture, where its database is."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, Protocol

import pytest

from luigi_spanner.journal import Entry, Key, Row
from luigi_spanner.stores import (
    CELL_BYTES,
    COMMIT_BYTES,
    COMMIT_ROWS,
    KEY_BYTES,
    READ_LIMIT,
    Closed,
    Committed,
    Conflict,
    Outcome,
    Refused,
    Store,
    Truncated,
    Unknown,
)

NAMESPACE = "exercise"
MEGABYTE = 1024 * 1024
WRITERS = 4
ENTRIES_EACH = 15
HEADS_SEEN = 10


class Place(Protocol):
    """One database, empty at first. Every `open` is another store on it, as another replica would have."""

    async def open(self, namespace: str = NAMESPACE) -> Store: ...

    def drop_reply(self, store: Store) -> AbstractContextManager[Any]:
        """While it lasts, `store` does not learn what became of its commits: they end Unknown, whether they happened or not."""
        ...


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **arguments: Any) -> None:
        asyncio.run(test(*args, **arguments))

    return run


def entry(seq: int, commit_id: str = "", **fields: Any) -> Entry:
    given = {"replica": "r", "clock": 1.5, "watermark": seq, "digest": "d" * 32, "calls": b"jcalls", "changes": b"jchanges"}
    return Entry(seq=seq, commit_id=commit_id or f"id{seq}", **{**given, **fields})


def task(task_id: str, body: bytes = b"body", **columns: Any) -> Row:
    return Row(table="tasks", key=(task_id,), body=body, columns=columns)


def stakeholder(worker: str, name: str, body: bytes = b"s") -> Row:
    return Row(table="stakeholders", key=(worker, name), body=body, columns={})


def delete(table: str, *key: str | int) -> Row:
    return Row(table=table, key=key, body=None, columns={})


@asynccontextmanager
async def opened(place: Place, count: int = 1, namespace: str = NAMESPACE) -> AsyncIterator[list[Store]]:
    """`count` stores on the place, loaded once as a replica does first."""
    stores = [await place.open(namespace) for _ in range(count)]
    try:
        await stores[0].load()
        yield stores
    finally:
        for store in stores:
            await store.close()


async def append(store: Store, seq: int, *rows: Row, **fields: Any) -> None:
    assert isinstance(await store.commit(seq, entry(seq, **fields), rows), Committed)


async def head(store: Store) -> int:
    return (await store.load()).head.seq


async def journal(store: Store, seq: int = 0) -> list[Entry]:
    found: list[Entry] = []
    while batch := await store.read_after(seq):
        found += batch
        seq = batch[-1].seq
    return found


async def table(store: Store, name: str = "tasks") -> dict[Key, bytes]:
    return dict((await store.load()).tables[name])


def huge_commit() -> tuple[Entry, list[Row]]:
    return entry(1, calls=b"x" * (COMMIT_BYTES // 2), changes=b"y" * (COMMIT_BYTES // 2 + 1)), []


REFUSALS: dict[str, Callable[[], tuple[Entry, list[Row]]]] = {
    "key too large": lambda: (entry(1), [task("k" * KEY_BYTES)]),
    "key too large in bytes": lambda: (entry(1), [task("ü" * (KEY_BYTES // 2))]),
    "key too large to delete": lambda: (entry(1), [delete("tasks", "k" * KEY_BYTES)]),
    "body too large": lambda: (entry(1), [task("t", b"b" * (CELL_BYTES + 1))]),
    "column too large": lambda: (entry(1), [task("t", params="p" * (CELL_BYTES + 1))]),
    "column too large in bytes": lambda: (entry(1), [task("t", params="\U0001f600" * (CELL_BYTES // 4 + 1))]),
    "column too long": lambda: (entry(1), [task("t", status="s" * 33)]),
    "commit too large": huge_commit,
    "too many rows": lambda: (entry(1), [task(str(number)) for number in range(COMMIT_ROWS + 1)]),
    "integer out of range": lambda: (entry(1), [task("t", failures=2**63)]),
    "negative integer out of range": lambda: (entry(1), [task("t", claims=-(2**63) - 1)]),
    "key out of range": lambda: (entry(1), [Row(table="emails", key=(2**63,), body=b"e", columns={})]),
    "float out of range": lambda: (entry(1), [task("t", priority=10**400)]),
    "text that cannot be encoded": lambda: (entry(1), [task("t", family="\ud800")]),
    "key that cannot be encoded": lambda: (entry(1), [task("\udfff")]),
    "replica that cannot be encoded": lambda: (entry(1, replica="\ud800"), []),
    "value of another type": lambda: (entry(1), [task("t", priority="high")]),
    "watermark out of range": lambda: (entry(1, watermark=2**63), []),
}


class Exercise:
    """Inherit it, and give a fixture `place`."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @on_loop
    async def test_a_namespace_is_born_with_an_entry_that_says_nothing(self, place: Place) -> None:
        async with opened(place) as (store,):
            born = await store.load()
            assert (born.head.seq, born.head.commit_id, born.head.digest, born.head.watermark) == (0, "", "0" * 32, 0)
            assert born.entries == []
            assert not any(born.tables.values())
            assert await store.read_after(0) == []

    @on_loop
    async def test_several_replicas_may_be_its_first(self, place: Place) -> None:
        stores = [await place.open() for _ in range(WRITERS)]
        born = await asyncio.gather(*(store.load() for store in stores))
        assert [snapshot.head for snapshot in born] == [born[0].head] * WRITERS
        await asyncio.gather(*(store.close() for store in stores))

    @on_loop
    async def test_an_entry_comes_back_as_it_was(self, place: Place) -> None:
        sent = entry(
            1, "c" * 32, replica="é\0ü", clock=-1e300, watermark=0, turn=True, version=7, calls=bytes(range(256)), changes=b""
        )
        async with opened(place, 2) as (store, other):
            assert isinstance(await store.commit(1, sent, []), Committed)
            assert await other.read_after(0) == [sent]
            assert (await other.load()).head == sent
            assert (await other.load()).entries == [sent]

    @on_loop
    async def test_rows_come_back_as_they_were(self, place: Place) -> None:
        rows = [
            task(
                "é\0\U0001f600", bytes(range(256)), status="PENDING", priority=3, runnable=True, failures=-(2**63), added_at=0.1
            ),
            task("empty", b"", priority=float("inf"), claims=2**63 - 1, params=None),
            Row(table="emails", key=(2**63 - 1,), body=b"e", columns={"kind": "k"}),
            Row(table="emails", key=(-5,), body=b"e5", columns={}),
        ]
        async with opened(place, 2) as (store, other):
            await append(store, 1, *rows)
            assert await table(other) == {rows[0].key: rows[0].body, rows[1].key: b""}
            assert await table(other, "emails") == {(2**63 - 1,): b"e", (-5,): b"e5"}

    @on_loop
    async def test_a_taken_number_is_a_conflict_and_writes_nothing(self, place: Place) -> None:
        async with opened(place, 2) as (store, other):
            await append(store, 1, task("t", b"winner"))
            lost = await other.commit(1, entry(1, "other"), [task("t", b"loser"), task("u")])
            assert lost == Conflict()
            assert await table(other) == {("t",): b"winner"}
            assert [found.commit_id for found in await journal(other)] == ["id1"]

    @on_loop
    async def test_a_number_beyond_the_next_is_a_conflict(self, place: Place) -> None:
        async with opened(place) as (store,):
            assert await store.commit(2, entry(2), [task("t")]) == Conflict()
            assert await journal(store) == []
            assert await table(store) == {}

    @on_loop
    async def test_contending_writers_lose_nothing(self, place: Place) -> None:
        async with opened(place, WRITERS) as stores:
            mine = await asyncio.gather(*(contend(store, f"w{number}") for number, store in enumerate(stores)))
            entries = await journal(stores[0])
            assert [found.seq for found in entries] == list(range(1, WRITERS * ENTRIES_EACH + 1))
            assert sorted(found.commit_id for found in entries) == sorted(commit_id for ids in mine for commit_id in ids)
            rows = await table(stores[0])
            assert rows == {(found.commit_id,): found.commit_id.encode() for found in entries}

    @on_loop
    async def test_an_unknown_outcome_is_resolved_by_reading(self, place: Place) -> None:
        async with opened(place, 2) as (store, other):
            with place.drop_reply(store):
                outcome = await store.commit(1, entry(1, "mine"), [task("t")])
            assert isinstance(outcome, Unknown)
            assert outcome.reason
            landed = await other.read_after(0)
            assert [found.commit_id for found in landed] in ([], ["mine"])
            again: Outcome = await store.commit(1, entry(1, "mine"), [task("t")])
            # A commit that was on its way may also land now; then its own id is in the row.
            assert isinstance(again, (Committed, Conflict))
            assert isinstance(again, Conflict) or not landed
            assert [found.commit_id for found in await journal(other)] == ["mine"]
            assert await table(other) == {("t",): b"body"}

    @pytest.mark.parametrize("kind", REFUSALS)
    @on_loop
    async def test_what_can_never_be_kept_is_refused(self, place: Place, kind: str) -> None:
        async with opened(place) as (store,):
            refused_entry, rows = REFUSALS[kind]()
            outcome = await store.commit(1, refused_entry, [task("neighbour"), *rows])
            assert isinstance(outcome, Refused)
            assert outcome.reason
            assert await head(store) == 0
            await append(store, 1, task("t"))
            assert await table(store) == {("t",): b"body"}

    @on_loop
    async def test_the_largest_of_each_kind_is_kept(self, place: Place) -> None:
        room = KEY_BYTES - len(NAMESPACE)
        rows = [task("k" * room), task("t", b"b" * CELL_BYTES), task("p", params="p" * 2_621_440), task("s", status="s" * 32)]
        rows += [task(str(number)) for number in range(COMMIT_ROWS - len(rows))]
        async with opened(place) as (store,):
            await append(store, 1, *rows)
            assert await table(store) == {row.key: row.body for row in rows}

    @on_loop
    async def test_entries_of_fifty_megabytes(self, place: Place) -> None:
        first = entry(1, watermark=0, changes=b"c" * (50 * MEGABYTE), calls=b"short")
        second = entry(2, watermark=0, changes=b"d" * (25 * MEGABYTE), calls=b"l" * (25 * MEGABYTE))
        async with opened(place, 2) as (store, other):
            assert isinstance(await store.commit(1, first, []), Committed)
            assert isinstance(await store.commit(2, second, []), Committed)
            assert await journal(other) == [first, second]
            assert (await other.load()).entries == [first, second]
            await store.truncate(2)
            assert await other.read_after(1 + 1) == []

    @on_loop
    async def test_catching_up_goes_in_bounded_steps(self, place: Place) -> None:
        async with opened(place, 2) as (store, other):
            for seq in range(1, READ_LIMIT + 4):
                assert isinstance(await store.commit(seq, entry(seq), []), Committed)
            first = await other.read_after(0)
            assert [found.seq for found in first] == list(range(1, READ_LIMIT + 1))
            assert [found.seq for found in await other.read_after(READ_LIMIT)] == [READ_LIMIT + 1, READ_LIMIT + 2, READ_LIMIT + 3]

    @on_loop
    async def test_a_late_insert_after_truncation_is_a_conflict(self, place: Place) -> None:
        async with opened(place, 2) as (store, late):
            for seq in range(1, 6):
                await append(store, seq)
            await store.truncate(4)
            for seq in (1, 2, 3, 4):
                assert await late.commit(seq, entry(seq, "late"), [task("late")]) == Conflict()
            assert [found.commit_id for found in await journal(store, 4)] == ["id5"]
            assert await table(store) == {}

    @on_loop
    async def test_catching_up_past_truncation(self, place: Place) -> None:
        async with opened(place, 2) as (store, behind):
            for seq in range(1, 6):
                await append(store, seq, task(f"t{seq}"))
            await store.truncate(4)
            with pytest.raises(Truncated):
                await behind.read_after(2)
            assert [found.seq for found in await behind.read_after(4)] == [5]
            assert len(await table(behind)) == 5
            await append(behind, 6)

    @on_loop
    async def test_a_number_that_never_was_is_truncated_too(self, place: Place) -> None:
        async with opened(place) as (store,):
            with pytest.raises(Truncated):
                await store.read_after(7)

    @on_loop
    async def test_rows_behind_the_watermark(self, place: Place) -> None:
        async with opened(place) as (store,):
            await append(store, 1, task("t", b"1"))
            await append(store, 2, watermark=1)
            await append(store, 3, watermark=1)
            behind = await store.load()
            assert behind.head.seq == 3
            assert [found.seq for found in behind.entries] == [2, 3]
            assert behind.tables["tasks"] == [(("t",), b"1")]
            await append(store, 4, task("t", b"4"), watermark=4)
            complete = await store.load()
            assert (complete.head.seq, complete.entries, complete.tables["tasks"]) == (4, [], [(("t",), b"4")])

    @on_loop
    async def test_a_request_for_a_turn_says_nothing_about_the_tables(self, place: Place) -> None:
        """It carries the watermark of nobody knows when; entries from there on may be truncated."""
        async with opened(place) as (store,):
            await append(store, 1, task("t", b"1"))
            request = {"turn": True, "digest": "", "watermark": 0}
            await append(store, 2, **request)
            found = await store.load()
            assert (found.head.seq, found.seq, [entry.seq for entry in found.entries]) == (1, 2, [2])
            await append(store, 3, watermark=1)
            await append(store, 4, **request)
            found = await store.load()
            assert (found.head.seq, found.seq, [entry.seq for entry in found.entries]) == (3, 4, [2, 3, 4])

    @on_loop
    async def test_rows_of_one_commit_apply_in_order(self, place: Place) -> None:
        async with opened(place) as (store,):
            before = [stakeholder("w1", "a"), stakeholder("w1", "b"), stakeholder("w10", "a"), stakeholder("w", "a")]
            await append(store, 1, *before, task("t", b"old"), task("gone"))
            again = [delete("stakeholders", "w1"), stakeholder("w1", "c", b"new"), stakeholder("w1", "a", b"new")]
            await append(store, 2, *again, delete("tasks", "gone"), delete("tasks", "never"), task("u"), delete("tasks", "u"))
            kept = {("w10", "a"): b"s", ("w", "a"): b"s"}
            assert await table(store, "stakeholders") == {**kept, ("w1", "a"): b"new", ("w1", "c"): b"new"}
            assert await table(store) == {("t",): b"old"}
            await append(store, 3, delete("stakeholders"), stakeholder("w2", "z"))
            assert await table(store, "stakeholders") == {("w2", "z"): b"s"}

    @on_loop
    async def test_loading_sees_one_point_in_time(self, place: Place) -> None:
        async with opened(place, 2) as (store, reader):
            # Rows beside those that change, so that a load takes longer than a commit.
            await append(store, 1, *(task(f"beside{number}") for number in range(COMMIT_ROWS)))
            loads = asyncio.create_task(check_loads(reader))
            seq = 1
            while not loads.done():
                seq += 1
                body = str(seq).encode()
                setting = Row(table="settings", key=("s",), body=body, columns={})
                moved = [delete("stakeholders", f"w{seq - 1}"), stakeholder(f"w{seq}", "t", body)]
                await append(store, seq, task("t", body), setting, *moved)
                await asyncio.sleep(0)  # the memory store never waits by itself
            await loads

    @on_loop
    async def test_a_read_sees_what_was_acknowledged(self, place: Place) -> None:
        async with opened(place, 2) as (store, other):
            for seq in range(1, 30):
                writer, reader = (store, other) if seq % 2 else (other, store)
                assert isinstance(await writer.commit(seq, entry(seq), []), Committed)
                assert [found.seq for found in await reader.read_after(seq - 1)] == [seq]

    @on_loop
    async def test_namespaces_share_nothing(self, place: Place) -> None:
        async with opened(place) as (store,), opened(place, namespace="exercise-2") as (other,):
            for seq in (1, 2, 3):
                await append(store, seq, task(f"mine{seq}"))
                await append(other, seq, task(f"theirs{seq}"))
            await store.truncate(3)
            await append(store, 4, delete("tasks"))
            assert await table(store) == {}
            assert set(await table(other)) == {("theirs1",), ("theirs2",), ("theirs3",)}
            assert len(await journal(other)) == 3

    @on_loop
    async def test_calls_may_overlap(self, place: Place) -> None:
        async with opened(place) as (store,):
            outcome, after, snapshot = await asyncio.gather(store.commit(1, entry(1), []), store.read_after(0), store.load())
            assert isinstance(outcome, Committed)
            assert len(after) <= 1
            assert snapshot.head.seq <= 1

    @on_loop
    async def test_a_reopened_store_sees_all(self, place: Place) -> None:
        async with opened(place) as (keeper,):
            async with opened(place) as (store,):
                await append(store, 1, task("t"), watermark=1)
                await append(store, 2, watermark=1)
                before = await store.load()
            async with opened(place) as (store,):
                assert await store.load() == before
                await append(store, 3)
            assert await head(keeper) == 3

    @on_loop
    async def test_closing_twice_is_closing_once(self, place: Place) -> None:
        store = await place.open()
        await asyncio.gather(store.close(), store.close())
        await store.close()
        calls: list[Callable[[], Awaitable[Any]]] = [
            store.load,
            lambda: store.read_after(0),
            lambda: store.truncate(0),
            lambda: store.commit(1, entry(1), []),
        ]
        for call in calls:
            with pytest.raises(Closed):
                await call()

    @pytest.mark.parametrize("megabytes", [0, 40])
    @on_loop
    async def test_closing_during_a_commit(self, place: Place, megabytes: int) -> None:
        async with opened(place, 2) as (store, other):
            sent = entry(1, "mine", watermark=0, changes=b"c" * (megabytes * MEGABYTE))
            call = asyncio.create_task(store.commit(1, sent, []))
            await asyncio.sleep(0)  # it begins
            await store.close()
            outcome = await call
            assert isinstance(outcome, (Committed, Unknown))
            landed = await other.read_after(0)
            assert landed == [sent] if isinstance(outcome, Committed) else landed in ([], [sent])

    @on_loop
    async def test_closing_during_reads(self, place: Place) -> None:
        async with opened(place, 2) as (store, other):
            await append(other, 1, *(task(str(number), b"b" * 1000) for number in range(COMMIT_ROWS)))
            calls = [asyncio.create_task(call) for call in (store.load(), store.read_after(0), store.load())]
            await asyncio.sleep(0)
            await store.close()
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, Closed) or not isinstance(result, BaseException)


async def contend(store: Store, name: str) -> list[str]:
    """Append ENTRIES_EACH entries as a replica does: on a conflict catch up and try the next number (I3 for what is unknown)."""
    committed: list[str] = []
    seq = 0
    while len(committed) < ENTRIES_EACH:
        commit_id = f"{name}-{len(committed)}"
        outcome = await store.commit(seq + 1, entry(seq + 1, commit_id), [task(commit_id, commit_id.encode())])
        if isinstance(outcome, Committed):
            seq += 1
            committed.append(commit_id)
            continue
        assert isinstance(outcome, (Conflict, Unknown))
        entries = await journal(store, seq)
        seq += len(entries)
        committed += [found.commit_id for found in entries if found.commit_id == commit_id]
    return committed


async def check_loads(store: Store) -> None:
    """Load until HEADS_SEEN different heads were seen: the rows that each commit changes are always those of the head."""
    heads: set[int] = set()
    while len(heads) < HEADS_SEEN:
        snapshot = await store.load()
        heads.add(snapshot.head.seq)
        body = str(snapshot.head.seq).encode()
        expected = [body] if snapshot.head.seq > 1 else []
        for name in ("tasks", "settings", "stakeholders"):
            changing = [found for key, found in snapshot.tables[name] if not str(key[0]).startswith("beside")]
            assert changing == expected
        await asyncio.sleep(0)
