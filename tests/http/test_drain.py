"""The end of a server that drains: first it says that it is not ready, and still answers; then it ends as without."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest
from serving import PATIENCE, Client, Process, read

pytestmark = pytest.mark.slow

LONG = "600"
"""Seconds that no test waits for."""


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str) -> Process:
            command = ("serve", "--address", "127.0.0.1", "--port", "0", *arguments)
            return stack.enter_context(Process(*command, directory=tmp_path))

        yield start


def drained(client: Client) -> None:
    """Until probes are told."""
    deadline = time.monotonic() + PATIENCE
    while client.get("/readyz").status == 200:
        assert time.monotonic() < deadline
    answer = client.get("/readyz")
    assert (answer.status, answer.json) == (503, {"ready": False, "reasons": ["this replica is shutting down"]})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_calls_are_answered_while_it_drains(serve: Callable[..., Process], number: signal.Signals) -> None:
    process = serve("--store", "sqlite:///a.db", "--drain", LONG)
    client = process.client()
    kept = client.connect()
    kept.request("GET", "/api/ping?data=%7B%22worker%22%3A%22w%22%7D")
    assert read(kept).headers["Connection"] is None
    process.signal(number)
    drained(client)
    process.line("INFO: luigi-spanner drains: it answers calls for 600 s more")
    assert client.get("/healthz").status == 200
    assert client.call("add_task", worker="w", task_id="A", family="F").value is None
    assert list(client.tasks()) == ["A"]
    # A worker that keeps its connection is sent elsewhere with its next call.
    kept.request("GET", "/api/ping?data=%7B%22worker%22%3A%22w%22%7D")
    answer = read(kept)
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert kept.sock is None
    process.signal(number)
    process.line("has stopped")
    assert process.exit_code() == 0
    assert "Traceback" not in process.output


def test_the_server_closes_what_it_says_it_closes(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://", "--drain", LONG)
    client = process.client()
    connection = client.connect()
    connection.connect()
    process.signal(signal.SIGTERM)
    drained(client)
    connection.sock.sendall(b"GET /api/ping?data=%7B%22worker%22%3A%22w%22%7D HTTP/1.1\r\nHost: x\r\n\r\n")
    with connection.sock.makefile("rb") as replies:
        assert replies.read().endswith(b'{"response": {"rpc_messages":[]}}')  # to the end: it does not wait for another request
    connection.close()


def test_a_drain_ends_by_itself(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://", "--drain", "0.3")
    process.client()
    process.signal(signal.SIGTERM)
    process.line("drains")
    process.line("stops: no new calls")
    assert process.exit_code() == 0


def test_without_a_drain_one_signal_ends_it(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://")
    client = process.client()
    assert client.get("/readyz").status == 200
    process.signal(signal.SIGINT)
    assert process.exit_code() == 0
    assert "drains" not in process.output


def test_a_replica_that_can_serve_no_more_does_not_drain(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db", "--drain", LONG)
    client = process.client()
    client.call("add_task", worker="w", task_id="A", family="F")
    process.signal(signal.SIGTERM)
    drained(client)
    (tmp_path / "a.db").unlink()
    process.line("This replica can serve no more")
    assert process.exit_code() == 1


def test_the_log_tells_of_the_life_of_a_replica(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db", "--drain", "0.1")
    process.line("INFO: luigi-spanner .* starts as replica ")
    process.line("INFO: Replica .* has joined namespace default at entry 1$")
    client = process.client()
    assert client.get("/readyz").json["store_down_since"] is None
    process.line("INFO: This replica is ready$")
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        caller = client.connect()
        caller.request("GET", "/api/add_task?data=%7B%22worker%22%3A%22w%22%2C%22task_id%22%3A%22B%22%7D")
        before = time.time()
        process.line("WARNING: The store has not confirmed entry 2, which waits: Another process keeps")
        ready = client.get("/readyz")
        assert (ready.status, ready.json["reasons"]) == (503, ["the store does not answer"])
        assert abs(since(ready.json["store_down_since"]) - before) < PATIENCE
        assert client.get("/healthz").status == 200
        process.line("WARNING: This replica is not ready: the store does not answer")
        blocker.execute("ROLLBACK")
    assert read(caller).status == 200
    caller.close()
    process.line(r"INFO: Entries are written again, after [\d.]+ s")
    assert client.get("/readyz").status == 200
    process.line("INFO: This replica is ready again")
    process.signal(signal.SIGTERM)
    process.line("INFO: luigi-spanner drains")
    process.line("INFO: luigi-spanner stops")
    process.line("INFO: luigi-spanner has stopped")
    assert process.exit_code() == 0
    assert process.output.count("has not confirmed entry") == 1


def since(text: str) -> float:
    assert text.endswith("Z")
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
