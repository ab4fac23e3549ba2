"""The page at /metrics as a scraper gets it, and its description in the documents."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from serving import PATIENCE, Answering, Client, listening, opened, serving

from luigi_spanner.calls import Call
from luigi_spanner.metrics import families
from luigi_spanner.server import exchange
from luigi_spanner.server.representation import LONG_BYTES
from luigi_spanner.service import Service
from luigi_spanner.stores import location
from luigi_spanner.stores.memory import Database, MemoryStore

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

OURS = (*families.COUNTED, *families.GAUGES)

STOCK = {
    "luigi_task_started_total",
    "luigi_task_failed_total",
    "luigi_task_disabled_total",
    "luigi_task_done_total",
    "luigi_task_execution_time_seconds",
}


def page(client: Client) -> str:
    answer = client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return answer.body.decode()


def value(text: str, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return None if found is None else float(found[1])


def calls(text: str, method: str, outcome: str) -> float | None:
    labels = f'method="{method}",namespace="default",outcome="{outcome}"'
    return value(text, f"luigi_spanner_call_duration_seconds_count{{{labels}}}")


def test_the_page_has_what_the_code_declares(client: Client) -> None:
    text = page(client)
    declared = {(family.name, family.kind, family.help) for family in OURS}
    helps = dict(re.findall(r"^# HELP (luigi_spanner_\S+) (.*)$", text, re.MULTILINE))
    kinds = re.findall(r"^# TYPE (luigi_spanner_\S+) (\w+)$", text, re.MULTILINE)
    assert {(name, kind, helps[name]) for name, kind in kinds} == declared
    assert len(kinds) == len(declared)
    assert set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) >= STOCK


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the process is measured on Linux only")
def test_the_process_is_measured(memory: Client) -> None:
    resident = value(page(memory), "process_resident_memory_bytes")
    assert resident is not None and resident > 1e6


def test_the_documents_describe_what_the_code_declares() -> None:
    rows = re.findall(r"^\| `(luigi_spanner_\w+)` \| (\w+) \|(.*?)\| (.*) \|$", OPERATIONS.read_text(), re.MULTILINE)
    assert [(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows] == [
        (family.name, family.kind, family.labels) for family in OURS
    ]
    assert all(len(meaning) > 5 for *_, meaning in rows)


def test_every_series_of_ours_names_its_namespace(client: Client) -> None:
    client.call("add_task", worker="w", task_id="t", family="F")
    series = re.findall(r"^luigi_spanner_.*$", page(client), re.MULTILINE)
    assert len(series) > 50
    assert all('namespace="default"' in line for line in series)


def test_the_store_is_named(client: Client, store: str) -> None:
    kind = location.parse(store).kind
    assert re.search(rf'^luigi_spanner_replica_info\{{.*store="{kind}"\}} 1\.0$', page(client), re.MULTILINE)


def test_calls_by_method_and_outcome(memory: Client) -> None:
    memory.call("add_task", worker="w", task_id="t")
    memory.call("add_task", worker="w", task_id="u")
    assert memory.call("add_task", worker="w").status == 400
    assert memory.call("drop_everything").status == 404
    assert memory.call("another_thing").status == 404
    assert memory.request("DELETE", "/api/ping").status == 405
    assert memory.request("OPTIONS", "/api/get_work", headers={"Origin": "http://x"}).status == 204
    text = page(memory)
    assert calls(text, "add_task", "ok") == 2
    assert calls(text, "add_task", "bad_request") == 1
    assert calls(text, "other", "unknown_method") == 2
    assert calls(text, "ping", "method_not_allowed") == 1
    assert calls(text, "get_work", "ok") is None
    methods = set(re.findall(r'method="(\w+)"', text))
    assert methods == {"add_task", "ping", "other"}


def test_each_call_is_counted_once_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose caller has gone meanwhile, one whose reply is long, and one that meets a bug after its reply was made."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def reply(call: Call) -> bytes:
        if call.method == "get_work":
            asked.set()
            await gone.wait()
        return b'"%s"' % (b"x" * (LONG_BYTES if call.method == "task_list" else 1))

    async def scenario() -> None:
        scheduling = Answering(reply)
        async with listening(scheduling) as port:
            async with opened(port) as leaving:
                leaving.send("GET /api/get_work?data=%7B%22worker%22%3A%22w%22%7D HTTP/1.1\nHost: x\n")
                await asked.wait()
            while not scheduling.calls[0].abandoned:
                await asyncio.sleep(0)
            gone.set()
            async with opened(port) as connection:
                connection.send("GET /api/task_list HTTP/1.1\nHost: x\n")
                assert (await connection.answer()).status == 200
                monkeypatch.setattr(exchange, "_encoded", lambda *_: 1 / 0)
                connection.send("GET /api/is_paused HTTP/1.1\nHost: x\n")
                assert await connection.end() == b""
        assert scheduling.observed == [("get_work", "gone"), ("task_list", "ok"), ("is_paused", "internal")]

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE))


def test_a_body_that_is_too_large_is_counted() -> None:
    with serving(lambda: Service.open("memory://", "default"), max_body_bytes=1024) as client:
        assert client.raw("add_task", "x" * 5000).status == 413
        assert calls(page(client), "add_task", "too_large") == 1


def test_a_replica_that_has_failed_still_tells() -> None:
    class Lost(Service):
        async def start(self) -> None: ...

    async def lost() -> Service:
        service = Lost(MemoryStore(namespace="default", database=Database()), "default", ids=lambda: "i" * 8)
        service._replica.fail(ZeroDivisionError("it is lost"))
        return service

    with serving(lost) as client:
        assert client.call("get_work", worker="w").status == 503
        text = page(client)
    assert value(text, 'luigi_spanner_serving{namespace="default"}') == 0
    assert calls(text, "get_work", "store_down") == 1


def test_a_preferred_encoding_is_served(client: Client) -> None:
    answer = client.get("/metrics", Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.body) < len(client.get("/metrics").body) / 3


@pytest.mark.parametrize("verb", ["POST", "DELETE"])
def test_nothing_else_is_taken(memory: Client, verb: str) -> None:
    assert memory.request(verb, "/metrics").status == 405
