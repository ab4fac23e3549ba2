"""The Spanner store on the emulator, under the faults that a network and a database have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from exercise import NAMESPACE, Exercise, entry

from emulator import Emulator, Template, change_schema, create_database, query
from luigi_spanner.journal import Row, encode
from luigi_spanner.stores import (
    Closed,
    Committed,
    Conflict,
    Refused,
    SchemaMismatch,
    Store,
    Truncated,
    Unavailable,
    Unknown,
    spanner,
)
from luigi_spanner.stores.spanner_wire import Attempt, Pace
from proxy import Proxy

SECRET = "s3cret-of-a-user"

PATIENCE = 10.0
"""Seconds that a condition may take to come true."""


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never came true"
        await asyncio.sleep(0.005)


def opened(url: str, **pace: float) -> Awaitable[spanner.SpannerStore]:
    return spanner.open(url.removeprefix("spanner:///"), "ns", pace=Pace(**pace))


@pytest.fixture
def proxied(emulator: Emulator, spanner_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(proxy, url): what opens the url goes through the proxy."""
    with Proxy(emulator.host) as proxy:
        monkeypatch.setenv("SPANNER_EMULATOR_HOST", proxy.host)
        yield proxy, spanner_url


class SpannerPlace:
    """A database of the emulator; each store has a way there of its own, to be disturbed."""

    def __init__(self, emulator: Emulator, url: str, patch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.emulator = emulator
        self.url = url
        self._patch = patch
        self._stack = stack
        self._proxies: dict[int, Proxy] = {}

    async def open(self, namespace: str = NAMESPACE) -> Store:
        proxy = self._stack.enter_context(Proxy(self.emulator.host))
        self._patch.setenv("SPANNER_EMULATOR_HOST", proxy.host)
        store = await spanner.open(self.url.removeprefix("spanner:///"), namespace, pace=Pace(attempt=1.0))
        self._proxies[id(store)] = proxy
        return store

    @contextmanager
    def drop_reply(self, store: Store) -> Iterator[None]:
        proxy = self._proxies[id(store)]
        proxy.drop_replies()
        yield
        proxy.heal()


class TestSpanner(Exercise):
    @pytest.fixture
    def place(self, emulator: Emulator, spanner_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SpannerPlace]:
        with ExitStack() as stack:
            yield SpannerPlace(emulator, spanner_url, monkeypatch, stack)


def commit_ids(emulator: Emulator, url: str) -> dict[int, str]:
    """The journal as someone else sees it."""
    rows = query(emulator.host, url.removeprefix("spanner:///"), "SELECT seq, commit_id FROM journal WHERE seq > 0")
    return {int(seq): commit_id for seq, commit_id in rows}


def test_a_dropped_reply_is_unknown_and_the_entry_is_there(emulator: Emulator, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=0.5, deadline=2.0)
        await store.load()
        proxy.drop_replies()
        began = time.monotonic()
        assert isinstance(await store.commit(1, entry(1, "mine"), []), Unknown)
        assert time.monotonic() - began < 1.5
        assert commit_ids(emulator, url) == {1: "mine"}
        with pytest.raises(Unavailable):
            await store.read_after(0)
        proxy.heal()
        assert [found.commit_id for found in await store.read_after(0)] == ["mine"]
        assert await store.commit(1, entry(1, "mine"), []) == Conflict()
        await store.close()

    asyncio.run(main())


def test_a_request_cut_on_its_way_is_sent_again(emulator: Emulator, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=5.0, deadline=5.0)
        await store.load()
        proxy.drop_requests()
        commit = asyncio.create_task(store.commit(1, entry(1, "mine"), []))
        await until(lambda: proxy.dropped_requests > 0)
        assert commit_ids(emulator, url) == {}
        proxy.heal()  # cuts the connection that has lost bytes
        assert isinstance(await commit, Committed)
        assert commit_ids(emulator, url) == {1: "mine"}
        await store.close()

    asyncio.run(main())


def test_a_reply_cut_on_its_way_is_a_conflict_with_oneself(emulator: Emulator, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=5.0, deadline=5.0)
        await store.load()
        proxy.drop_replies()
        commit = asyncio.create_task(store.commit(1, entry(1, "mine"), []))
        await until(lambda: commit_ids(emulator, url) == {1: "mine"})
        proxy.heal()
        assert await commit == Conflict()
        assert [found.commit_id for found in await store.read_after(0)] == ["mine"]
        await store.close()

    asyncio.run(main())


def test_a_slow_network_is_only_slow(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url)
        await store.load()
        proxy.delay(0.1)
        began = time.monotonic()
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        assert 0.2 <= time.monotonic() - began < 2.0
        proxy.delay(0.3)  # slower than the pauses between attempts to connect
        other = await opened(url, attempt=3.0, deadline=9.0)
        assert len(await other.read_after(0)) == 1
        await other.close()
        await store.close()

    asyncio.run(main())


def test_a_load_may_outlast_the_deadline_and_a_cut(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, deadline=0.5)
        await store.load()
        calls = recorded(store)
        proxy.delay(0.05)
        began = time.monotonic()
        load = asyncio.create_task(store.load())
        await until(lambda: time.monotonic() - began > 0.6 and len(calls) > 3)
        proxy.cut()
        assert (await load).head.seq == 0
        proxy.refuse()
        began = time.monotonic()
        with pytest.raises(Unavailable):  # nothing comes at all: the usual deadline holds
            await store.load()
        assert time.monotonic() - began < 5.0
        await store.close()

    asyncio.run(main())


def test_typed_columns_are_written_whole(emulator: Emulator, spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        await store.load()
        given = {"status": "PENDING", "priority": 2**70, "failures": 3, "runnable": True}
        await store.commit(1, entry(1), [Row(table="tasks", key=("t",), body=b"body", columns=given)])
        await store.commit(2, entry(2), [Row(table="tasks", key=("t",), body=b"body", columns={"status": "DONE", "priority": 1})])
        await store.close()

    asyncio.run(main())
    rows = query(
        emulator.host, spanner_url.removeprefix("spanner:///"), "SELECT status, priority, failures, runnable, body FROM tasks"
    )
    assert [list(row)[:4] for row in rows] == [["DONE", 1.0, None, None]]


def test_after_an_outage_the_store_is_back_at_once(emulator: Emulator, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=0.3, deadline=1.0)
        await store.load()
        proxy.refuse()
        began = time.monotonic()
        assert isinstance(await store.commit(1, entry(1), []), Unknown)
        with pytest.raises(Unavailable):
            await store.read_after(0)
        with pytest.raises(Unavailable):
            await store.truncate(0)
        assert time.monotonic() - began < 5.0
        assert commit_ids(emulator, url) == {}
        commit = asyncio.create_task(store.commit(1, entry(1), []))
        proxy.heal()
        assert isinstance(await commit, Committed)
        await store.close()

    asyncio.run(main())


def test_a_stranded_connection_is_replaced(emulator: Emulator, proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=0.3, deadline=3.0)
        await store.load()
        proxy.strand()
        assert await store.read_after(0) == []
        proxy.strand()
        assert isinstance(await store.commit(1, entry(1), []), Unknown)
        assert commit_ids(emulator, url) == {}
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["refuse", "drop_requests", "drop_replies"])
def test_opening_what_does_not_answer_is_bounded(proxied: tuple[Proxy, str], fault: str) -> None:
    proxy, url = proxied
    getattr(proxy, fault)()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        asyncio.run(_open(url, attempt=0.3, deadline=1.0))
    assert time.monotonic() - began < 3.0


async def _open(url: str, **pace: float) -> None:
    await opened(url, **pace)


def test_closing_ends_calls_under_way(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=30.0, deadline=30.0)
        await store.load()
        proxy.drop_replies()
        commit = asyncio.create_task(store.commit(1, entry(1), []))
        read = asyncio.create_task(store.read_after(0))
        await until(lambda: proxy.dropped_replies > 0)
        await store.close()
        await store.close()
        assert isinstance(await commit, Unknown)
        with pytest.raises(Closed):
            await read
        with pytest.raises(Closed):
            await store.load()
        with pytest.raises(Closed):
            await store.commit(1, entry(1), [])

    asyncio.run(main())


def test_cancelling_a_call_cancels_it(proxied: tuple[Proxy, str]) -> None:
    proxy, url = proxied

    async def main() -> None:
        store = await opened(url, attempt=30.0, deadline=30.0)
        await store.load()
        proxy.drop_replies()
        for call in (store.commit(1, entry(1), []), store.read_after(0)):
            task: asyncio.Task[Any] = asyncio.create_task(_result(call))
            seen = proxy.dropped_replies
            await until(lambda seen=seen: proxy.dropped_replies > seen)  # type: ignore[misc]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await store.close()

    asyncio.run(main())


async def _result(call: Coroutine[Any, Any, Any]) -> Any:
    return await call


def test_aborted_commits_are_tried_again(spanner_template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    with Emulator(fault_injection=True) as faulty:
        if not faulty.own:
            pytest.skip("needs an emulator of its own, to have it abort commits")
        monkeypatch.setenv("SPANNER_EMULATOR_HOST", faulty.host)
        asyncio.run(_commit_many(create_database(faulty.host, spanner_template), 200))


async def _commit_many(database: str, count: int) -> None:
    retried: list[str] = []
    store = await spanner.open(database, "ns", lambda: "seed", retried=retried.append)
    calls = recorded(store)
    await store.load()
    for seq in range(1, count + 1):
        assert isinstance(await store.commit(seq, entry(seq), []), Committed)
    commits = [request for method, request in calls if method == "Commit"]
    assert len(commits) > count + 1, "no commit was aborted"
    assert len(retried) >= len(commits) - count - 1 and set(retried) == {"aborted"}
    assert [found.seq for found in await store.read_after(0)] == list(range(1, count + 1))
    await store.close()


def recorded(store: spanner.SpannerStore) -> list[tuple[str, Any]]:
    """What the store sends from now on, as (method, request)."""
    calls: list[tuple[str, Any]] = []
    call, stream = store._wire.call, store._wire.stream

    async def recording_call(method: str, request: Any, reply: Any, timeout: float) -> Any:
        calls.append((method, request))
        return await call(method, request, reply, timeout)

    def recording_stream(method: str, request: Any, attempt: Attempt) -> Any:
        calls.append((method, request))
        return stream(method, request, attempt)

    store._wire.call = recording_call  # type: ignore[method-assign]
    store._wire.stream = recording_stream  # type: ignore[method-assign]
    return calls


def test_tags_and_headers_hold_nothing_of_the_data(spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        calls = recorded(store)
        await store.load()
        row = Row(table="tasks", key=(SECRET,), body=SECRET.encode(), columns={"params": SECRET})
        await store.commit(1, entry(1, changes=encode([SECRET])), [row])
        await store.read_after(0)
        await store.truncate(0)
        await store.close()
        told = {
            (method, request.request_options.request_tag, request.request_options.transaction_tag) for method, request in calls
        }
        assert told == {
            ("BeginTransaction", "app=luigi-spanner,op=load", ""),
            ("StreamingRead", "app=luigi-spanner,op=read", ""),
            ("ExecuteStreamingSql", "app=luigi-spanner,op=read", ""),
            ("Commit", "app=luigi-spanner,op=commit", "app=luigi-spanner,op=commit"),
        }
        for method, request in calls:
            headers = dict(store._wire._headers(method, request))
            assert headers["google-cloud-resource-prefix"] == spanner_url.removeprefix("spanner:///")
            assert SECRET not in str(headers)
            assert ("x-goog-spanner-route-to-leader" in headers) == (method == "Commit")

    asyncio.run(main())


def test_a_lost_session_is_replaced(fresh_emulator: Emulator, fresh_spanner_url: str, spanner_template: Template) -> None:
    database = fresh_spanner_url.removeprefix("spanner:///")

    async def main() -> None:
        store = await opened(fresh_spanner_url)
        await store.load()
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        fresh_emulator.stop()
        fresh_emulator.start()
        with pytest.raises(SchemaMismatch, match="luigi-spanner db upgrade"):
            await store.read_after(1)
        assert isinstance(await store.commit(2, entry(2), []), Unknown)
        create_database(fresh_emulator.host, spanner_template, name=database.rpartition("/")[2])
        with pytest.raises(Truncated):
            await store.read_after(1)
        assert (await store.load()).head.seq == 0
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        await store.close()

    asyncio.run(main())


def test_an_old_session_is_replaced(spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        await store.load()
        first = store._wire._session
        store._wire._session_since -= 8 * 24 * 3600
        assert await store.read_after(0) == []
        assert store._wire._session not in ("", first)
        await store.close()

    asyncio.run(main())


def test_missing_database_and_schema_name_the_command(emulator: Emulator, spanner_url: str) -> None:
    empty = f"spanner:///{create_database(emulator.host)}"
    nowhere = "spanner:///projects/luigi-test/instances/nowhere/databases/nothing"
    for url in (empty, nowhere, spanner_url + "x"):
        with pytest.raises(SchemaMismatch, match=f"luigi-spanner db upgrade --store {url}"):
            asyncio.run(_open(url))


def test_the_schema_is_looked_at_again_while_running(emulator: Emulator, spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        await store.load()
        change_schema(emulator.host, spanner_url.removeprefix("spanner:///"), "DROP TABLE compatibility")
        assert await store.read_after(0) == []
        store._schema_seen -= 61
        with pytest.raises(SchemaMismatch):
            await store.read_after(0)
        await store.close()
        with pytest.raises(SchemaMismatch):
            await _open(spanner_url)

    asyncio.run(main())


def test_a_missing_table_is_no_conflict(emulator: Emulator, spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        await store.load()
        change_schema(emulator.host, spanner_url.removeprefix("spanner:///"), "DROP TABLE emails")
        row = Row(table="emails", key=(1,), body=b"x", columns={})
        assert isinstance(await store.commit(1, entry(1), [row]), Refused)
        assert commit_ids(emulator, spanner_url) == {}
        assert await store.commit(2, entry(2), []) == Conflict()
        with pytest.raises(SchemaMismatch):
            await store.load()
        await store.close()

    asyncio.run(main())


def test_what_is_too_large_on_the_wire_is_refused_unsent(spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        calls = recorded(store)
        assert isinstance(await store.commit(1, entry(1, changes=bytes(80 * 2**20)), []), Refused)
        assert calls == []
        await store.close()

    asyncio.run(main())


def test_a_heavy_head_is_not_fetched_by_each_strong_read(spanner_url: str) -> None:
    async def main() -> None:
        store = await opened(spanner_url)
        await store.load()
        await store.commit(1, entry(1, changes=bytes(2**20)), [])
        calls = recorded(store)
        assert await store.read_after(1) == []
        assert [list(request.columns) for _, request in calls] == [["seq"]]
        await store.commit(2, entry(2), [])
        assert [found.seq for found in await store.read_after(1)] == [2]
        await store.truncate(2)
        with pytest.raises(Truncated):
            await store.read_after(1)
        await store.close()

    asyncio.run(main())
