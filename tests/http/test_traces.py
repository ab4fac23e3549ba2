"""Traces of a real process, sent to a real receiver: which spans there are, whose parts they are, and what they cost nobody."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from collector import Collector, collecting
from serving import PATIENCE, Client, Process, environment

from luigi_spanner._version import __version__

pytestmark = pytest.mark.slow

LOCAL = ("--address", "127.0.0.1", "--port", "0")

SERVER, INTERNAL = 2, 1
"""Kinds of spans, as OTLP numbers them."""

FAILED = 2
"""The status of a span that failed."""

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
NOWHERE = "http://127.0.0.1:1"
SECRET = "pXq7SecretOfTheTask"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **extra: str) -> Process:
            return stack.enter_context(Process("serve", *LOCAL, *arguments, directory=tmp_path, **extra))

        yield start


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def sending_to(collector: Collector, **more: str) -> dict[str, str]:
    """The environment of a process that sends its spans there at once."""
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50", **more}


def add(client: Client, task_id: str, **headers: str) -> None:
    data = f'data={{"worker": "w", "task_id": "{task_id}", "params": {{"p": "{SECRET}"}}, "param_visibilities": {{"p": 1}}}}'
    assert client.post("add_task", data.encode(), **headers).status == 200


def check_a_call(collector: Collector, client: Client) -> None:
    """One call of somebody who traces, and what comes of it."""
    add(client, "A", traceparent=f"00-{TRACE}-{PARENT}-01", X_Request_Id="id-7")
    (call,) = collector.awaited("POST /api/add_task")
    (batch,) = collector.awaited("batch")
    (commit,) = collector.awaited("commit")
    assert (call.trace, call.parent, call.kind) == (TRACE, PARENT, SERVER)
    assert (batch.trace, batch.parent, batch.kind) == (TRACE, call.span, INTERNAL)
    assert (commit.trace, commit.parent) == (TRACE, batch.span)
    assert call.begin <= batch.begin <= commit.begin < commit.end <= batch.end
    about = {
        "http.request.method": "POST",
        "http.route": "/api/add_task",
        "url.path": "/api/add_task",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "http.response.status_code": 200,
        "luigi.request_id": "id-7",
        "luigi.task_id": "A",
        "luigi.worker": "w",
    }
    assert call.attributes == about
    assert batch.attributes == {"luigi.batch.calls": 1}
    assert commit.attributes["luigi.outcome"] == "committed" and commit.attributes["luigi.entry.seq"] > 1
    resource = call.resource
    assert (resource["service.name"], resource["service.version"]) == ("luigi-spanner", __version__)
    assert resource["luigi.namespace"] == "default" and "/" in resource["service.instance.id"]


def test_a_call_and_what_it_is_made_of(serve: Callable[..., Process], collector: Collector) -> None:
    process = serve("--store", "sqlite:///a.db", **sending_to(collector))
    client = process.client()
    check_a_call(collector, client)
    client.call("count_pending", worker="w")  # it changes nothing: the journal is looked at instead
    (read,) = collector.awaited("POST /api/count_pending")
    (look,) = [span for span in collector.awaited("catch up") if span.trace == read.trace]
    (batch,) = [span for span in collector.named("batch") if span.trace == read.trace]
    assert (batch.parent, look.parent, look.attributes) == (read.span, batch.span, {"luigi.entries": 0})
    client.get("/api/task_list")
    (listing,) = collector.awaited("GET /api/task_list")
    assert [span.parent for span in collector.awaited("batch", 3)].count(listing.span) == 1


def test_on_spanner_its_client_does_not_tell_the_same_again(
    serve: Callable[..., Process], collector: Collector, spanner_url: str
) -> None:
    process = serve("--store", spanner_url, **sending_to(collector))
    check_a_call(collector, process.client())
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert {span.scope for span in collector.spans} == {"luigi_spanner"}
    assert {span.name for span in collector.spans} <= {"POST /api/add_task", "batch", "commit", "catch up"}


def test_calls_that_run_together_are_linked(serve: Callable[..., Process], collector: Collector, tmp_path: Path) -> None:
    client = serve("--store", "sqlite:///a.db", **sending_to(collector)).client()
    with (
        ThreadPoolExecutor(5) as callers,
        contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as blocker,
    ):
        blocker.execute("BEGIN IMMEDIATE")  # whoever comes now waits, and joins the next batch
        sent = [callers.submit(add, client, f"A{number}") for number in range(5)]
        while client.get("/readyz").status == 200:
            pass
        blocker.execute("ROLLBACK")
        for each in sent:
            each.result(PATIENCE)
    calls = {span.span: span for span in collector.awaited("POST /api/add_task", 5)}
    deadline = time.monotonic() + PATIENCE
    while sum(span.attributes["luigi.batch.calls"] for span in collector.named("batch")) < 5:
        assert time.monotonic() < deadline
    batches = collector.named("batch")
    joined = [{batch.parent} | batch.links for batch in batches]
    assert sum(map(len, joined)) == 5 and set().union(*joined) == set(calls)
    together = next(batch for batch in batches if batch.links)
    assert all(together.span in calls[other].links for other in together.links)


def test_what_fails_and_what_is_kept_to_oneself(serve: Callable[..., Process], collector: Collector, tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db", "--hold", "0.5", **sending_to(collector))
    client = process.client()
    add(client, "A")
    client.get(f"/api/add_task?data={SECRET}")
    client.get(f"/api/{SECRET}?data={SECRET}")
    client.call("ping", worker="w")
    (refused,) = collector.awaited("GET /api/add_task")
    assert (refused.status, refused.attributes["http.response.status_code"]) == (0, 400)
    (unknown,) = collector.awaited("GET /api/{method}")
    assert (unknown.status, unknown.attributes["http.response.status_code"]) == (0, 404)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        assert client.call("add_task", worker="w", task_id="B", params={"p": SECRET}).status == 503
        blocker.execute("ROLLBACK")
    (lost,) = [span for span in collector.awaited("POST /api/add_task", 2) if span.attributes["luigi.task_id"] == "B"]
    assert (lost.status, lost.attributes["error.type"]) == (FAILED, "503")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert not any("ping" in span.name for span in collector.spans)
    assert not any(span.events for span in collector.spans)
    assert not any(SECRET.encode() in body for body in collector.raw)


def test_who_samples_and_who_it_is(serve: Callable[..., Process], collector: Collector) -> None:
    chosen = {"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_SERVICE_NAME": "ours", "OTEL_TRACES_EXPORTER": "otlp"}
    process = serve("--store", "memory://", **sending_to(collector, **chosen))
    client = process.client()
    add(client, "A")
    add(client, "B", traceparent=f"00-{TRACE}-{PARENT}-00")
    add(client, "C", traceparent=f"00-{TRACE}-{PARENT}-01")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0  # and with that all has been sent
    (call,) = collector.named("POST /api/add_task")
    assert (call.attributes["luigi.task_id"], call.resource["service.name"]) == ("C", "ours")
    assert len(collector.named("batch")) == 1


def test_in_the_background(collector: Collector, tmp_path: Path) -> None:
    log, pidfile = tmp_path / "logs/luigi-server.log", tmp_path / "luigid.pid"
    arguments = ("--background", "--pidfile", str(pidfile), "--logdir", str(log.parent), "--store", "memory://")
    command = [sys.executable, "-m", "luigi_spanner", "serve", *LOCAL, *arguments]
    subprocess.run(
        command, cwd=tmp_path, env=environment(HOME=str(tmp_path), **sending_to(collector)), check=True, timeout=PATIENCE
    )
    deadline = time.monotonic() + PATIENCE
    while not (log.exists() and "serves namespace" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        found = re.search(r"on http://[^ ]*:(\d+)/", log.read_text())
        assert found
        add(Client(port=int(found.group(1))), "A")
        collector.awaited("commit")
    finally:
        os.kill(int(pidfile.read_text()), signal.SIGTERM)


def test_a_collector_that_is_dead_delays_nobody(serve: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dead:  # it accepts, and never answers
        endpoint = f"http://127.0.0.1:{dead.getsockname()[1]}"
        process = serve("--store", "memory://", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, OTEL_BSP_SCHEDULE_DELAY="50")
        client = process.client()
        for number in range(200):
            began = time.monotonic()
            add(client, f"A{number}")
            assert time.monotonic() - began < 1.0
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
        assert time.monotonic() - began < 6.0
    assert "Traceback" not in process.output


def test_a_collector_that_was_away(serve: Callable[..., Process]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = serve("--store", "memory://", **sending_to(Collector(port=port), OTEL_EXPORTER_OTLP_TIMEOUT="1"))
    client = process.client()
    add(client, "A")
    process.line("WARNING: Spans cannot be sent and are lost")
    with collecting(port) as collector:
        add(client, "B")
        process.line("INFO: Spans are sent again, after ")
        collector.awaited("commit")
    assert process.output.count("Spans cannot be sent") == 1


def test_without_the_extra(serve: Callable[..., Process], tmp_path: Path) -> None:
    """The exporter's package is there in the tests: hide what it has registered."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata\n"
        "found = metadata.entry_points\n"
        "metadata.entry_points = lambda **wanted: () if wanted.get('name') == 'otlp_proto_http' else found(**wanted)\n"
    )
    process = serve("--store", "memory://", OTEL_EXPORTER_OTLP_ENDPOINT=NOWHERE, PYTHONPATH=str(tmp_path))
    process.line(r"WARNING: There are no traces: .* otlp_proto_http, which is not there; pip install 'luigi-spanner\[tracing\]'$")
    add(process.client(), "A")  # and it serves


@pytest.mark.parametrize("extra", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_SDK_DISABLED": "true"}])
def test_nothing_of_it_is_imported_unless_it_is_wanted(serve: Callable[..., Process], extra: dict[str, str]) -> None:
    process = serve("--store", "sqlite:///a.db", PYTHONPROFILEIMPORTTIME="1", **extra)
    client = process.client()
    add(client, "A")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert "tornado.web" in process.output and "luigi_spanner.tracing" in process.output
    assert "opentelemetry" not in process.output and "luigi_spanner.spans" not in process.output
