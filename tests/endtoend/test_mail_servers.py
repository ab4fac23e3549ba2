"""Mail across processes that end: SIGKILL after a claim, SIGTERM while a mail server hangs, batched mail after `kill -9`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from processes import Processes, Server, tail

from mailserver import ADDRESS, MailServer

pytestmark = pytest.mark.slow

LEASE_SECONDS = 3.0
"""How long a claim lasts here."""

SERVE = """\
import sys
from luigi_spanner import cli, mail
from luigi_spanner.graph import outbox
outbox.LEASE_SECONDS = float(sys.argv.pop(1))
mail.FIRST_RETRY_SECONDS = 0.2
raise SystemExit(cli.main())
"""
"""The product, with times for a test."""

CONFIGURATION = """\
[core]
autoload_range = false

[email]
receiver = ops@example.org

[smtp]
host = {host}
port = {port}

[scheduler]
retry_count = 1
{rules}

[batch-notifier]
email-interval-minutes = 0
"""


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, server: MailServer) -> Iterator[Callable[..., Server]]:
    """Starts a replica on the test's store, and waits until it is ready."""
    with Processes() as processes:

        def start(name: str, rules: str = "") -> Server:
            configuration = tmp_path / "luigi.cfg"
            configuration.write_text(CONFIGURATION.format(host=ADDRESS, port=server.port, rules=rules))
            command = [sys.executable, "-c", SERVE, str(LEASE_SECONDS), "serve", "--store", f"sqlite:///{tmp_path}/luigi.db"]
            environment = {**os.environ, "LUIGI_CONFIG_PATH": str(configuration)}
            replica = processes.serve(
                Server(command=command, ready_path="/readyz", log=tmp_path / f"{name}.log", environment=environment)
            )
            replica.wait_ready()
            return replica

        yield start


def call(replica: Server, method: str, **arguments: Any) -> None:
    data = urlencode({"data": json.dumps(arguments)}).encode()
    with urlopen(f"{replica.url}/api/{method}", data, timeout=20) as reply:
        assert reply.status == 200


def fail(replica: Server, task: str) -> None:
    """A task fails, and is disabled at once."""
    call(replica, "add_task", worker="w", task_id=task, family="F", status="FAILED", expl='"it broke"')


def test_a_replica_is_killed_after_its_claim_and_another_sends(start: Callable[..., Server], server: MailServer) -> None:
    left, right = start("left"), start("right")
    server.hang("DATA")
    fail(left, "A")
    server.wait_until(connected=1)
    left.kill()
    killed = time.monotonic()
    server.work()
    server.wait_until(taken=1)
    assert [mail.subject for mail in server.taken] == ["Luigi Scheduler: DISABLED A due to excessive failures"]
    assert server.taken[0].at - killed > LEASE_SECONDS / 2, "it was still claimed"
    fail(right, "B")
    server.wait_until(taken=2)
    assert right.stop() == 0
    assert len(server.taken) == 2, tail(right.log)


def test_a_mail_server_that_hangs_keeps_no_process(start: Callable[..., Server], server: MailServer) -> None:
    replica = start("replica")
    server.hang("HELLO")
    fail(replica, "A")
    server.wait_until(connected=1)
    began = time.monotonic()
    call(replica, "get_work", worker="w", host="h")
    assert time.monotonic() - began < 2
    assert replica.stop() == 0
    assert time.monotonic() - began < 12
    # The claim, and so the patience with the server, is shorter here than what a stop waits.
    assert "could not be sent (try 1)" in replica.log.read_text() and "no answer" in replica.log.read_text()
    # What it had claimed is sent by the next one.
    server.work()
    start("next")
    server.wait_until(taken=1)


def test_batched_mail_survives_kill_9(start: Callable[..., Server], server: MailServer) -> None:
    rules = "batch_emails = true"
    server.hang("HELLO")
    left = start("left", rules)
    fail(left, "A")
    # The next prune finds it due.
    call(left, "prune")
    server.wait_until(connected=1)
    left.kill()
    right, third = start("right", rules), start("third", rules)
    for replica in (right, third, right):
        call(replica, "prune")
    server.work()
    server.wait_until(taken=1)
    assert right.stop() == third.stop() == 0
    assert [mail.subject for mail in server.taken] == ["Luigi: 1 failure, 1 disable in the last 0 minutes"]
