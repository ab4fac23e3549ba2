"""Replicas on real databases: many at once, and each fault of an unknown outcome (I3) on the wire to the real emulator."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from emulator import Emulator
from luigi_spanner import verify
from luigi_spanner.calls import Call, UnknownTask
from luigi_spanner.methods import is_remote
from luigi_spanner.service import Service
from proxy import Proxy


@pytest.fixture(params=["sqlite_url", "spanner_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@asynccontextmanager
async def running(url: str, **options: Any) -> AsyncIterator[Service]:
    service = await Service.open(url, "default", **options)
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


async def ask(service: Service, method: str, **arguments: Any) -> Any:
    assert is_remote(method)
    return json.loads(await service.call(Call(request_id="request", method=method, arguments=arguments)))


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))  # type: ignore[arg-type]


def test_three_busy_replicas_lose_and_double_nothing(url: str, rng: random.Random) -> None:
    """Each worker adds tasks and takes work through whichever replica; every task is handed out exactly once."""
    taken: list[str] = []

    async def worker(name: str, replicas: list[Service]) -> None:
        for number in range(8):
            await ask(rng.choice(replicas), "add_task", worker=name, task_id=f"{name}-{number}", runnable=True)
            await ask(rng.choice(replicas), "ping", worker=name)
        while True:
            task_id = (await ask(rng.choice(replicas), "get_work", worker=name, host="h"))["task_id"]
            if task_id is None:
                return
            taken.append(task_id)
            await ask(rng.choice(replicas), "add_task", worker=name, task_id=task_id, status="DONE")

    async def scenario() -> None:
        async with running(url) as one, running(url) as two, running(url) as three:
            await asyncio.gather(*(worker(f"w{number}", [one, two, three]) for number in range(6)))
            for replica in (one, two, three):
                tasks = await ask(replica, "task_list")
                assert {task["status"] for task in tasks.values()} == {"DONE"}
            assert len({service._graph.ledger.digest for service in (one, two, three)}) == 1

    run(scenario)
    assert sorted(taken) == sorted(f"w{worker}-{number}" for worker in range(6) for number in range(8))
    report = verify.verify(url, "default")
    assert report.clean and report.replayed, report.lines()


def test_why_knows_what_another_replica_has_just_done(url: str) -> None:
    async def scenario() -> None:
        async with running(url) as one, running(url) as two:
            with pytest.raises(UnknownTask):
                await ask(two, "why", task_id="t")
            await ask(one, "add_task", worker="w", task_id="t")
            assert (await ask(two, "why", task_id="t"))["runnable"]
            await ask(one, "pause")
            assert (await ask(two, "why", task_id="t"))["reasons"][0]["code"] == "paused"
            await ask(one, "unpause")
            head = one._graph.ledger.applied
            assert (await ask(two, "why", task_id="t", worker="w"))["runnable"]
            assert (await ask(one, "get_work", worker="w", host="h"))["task_id"] == "t"
            assert one._graph.ledger.applied == head + 1, "asking why wrote nothing"
            assert (await ask(two, "why", task_id="t"))["reasons"][0]["worker"] == "w"

    run(scenario)


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "replies are lost": Proxy.drop_replies,
    "requests are lost": Proxy.drop_requests,
    "the connection is cut": Proxy.cut,
    "connections are stranded": Proxy.strand,
    "it is slow": lambda proxy: proxy.delay(0.2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_acknowledged_call_is_lost_whatever_the_wire_does(
    fault: str, emulator: Emulator, spanner_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with Proxy(emulator.host) as proxy:
            monkeypatch.setenv("SPANNER_EMULATOR_HOST", proxy.host)
            async with running(spanner_url, hold=30.0) as service:
                await ask(service, "add_task", worker="w", task_id="before")
                FAULTS[fault](proxy)
                during = [asyncio.create_task(ask(service, "add_task", worker="w", task_id=f"t{number}")) for number in range(5)]
                await asyncio.sleep(0.5)
                proxy.heal()
                await asyncio.gather(*during)
                assert len(await ask(service, "task_list")) == 6
        monkeypatch.setenv("SPANNER_EMULATOR_HOST", emulator.host)
        async with running(spanner_url) as another:
            assert list(await ask(another, "task_list")) == ["before", *(f"t{number}" for number in range(5))]

    run(scenario)
    report = verify.verify(spanner_url, "default")
    assert report.clean and report.replayed, report.lines()


def test_a_replica_survives_commits_that_the_emulator_aborts(url: str) -> None:
    """Concurrent transactions abort each other on the emulator, and lock each other on SQLite."""

    async def scenario() -> None:
        async with running(url) as left, running(url) as right:
            await asyncio.gather(
                *(ask(service, "add_task", worker="w", task_id=f"t{number}") for number in range(30) for service in (left, right))
            )
            assert len(await ask(left, "task_list")) == len(await ask(right, "task_list")) == 30

    run(scenario)
    assert verify.verify(url, "default").clean
