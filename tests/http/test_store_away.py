"""A store that is away for a while: what probes are told meanwhile, and the log."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

import pytest
from serving import PATIENCE, Client, Process

from proxy import Proxy

pytestmark = pytest.mark.slow

PROBE_SECONDS = 2.0
"""How long a probe may take here: a second is promised, and the machine may be busy."""


def test_spanner_cannot_be_reached_for_a_while(tmp_path: Path, spanner_url: str) -> None:
    with Proxy(os.environ["SPANNER_EMULATOR_HOST"]) as proxy:
        arguments = ("serve", "--address", "127.0.0.1", "--port", "0", "--store", spanner_url)
        with Process(*arguments, directory=tmp_path, SPANNER_EMULATOR_HOST=proxy.host) as process:
            client = process.client()
            assert client.call("add_task", worker="w", task_id="A").status == 200
            assert client.get("/readyz").json["store_down_since"] is None
            before = time.time()
            proxy.refuse()
            proxy.cut()
            since = until_not_ready(client)
            assert before - 1 <= since <= time.time()
            process.line("WARNING: The store does not answer: ")
            assert client.get("/healthz").status == 200
            assert client.call("ping", worker="w").status == 200
            assert until_not_ready(client) == since  # it goes on, and is the same outage
            proxy.heal()
            process.line(r"INFO: The store answers again, after [\d.]+ s")
            deadline = time.monotonic() + PATIENCE
            while client.get("/readyz").status != 200:
                assert time.monotonic() < deadline
            process.line("INFO: This replica is ready again")
            assert client.call("add_task", worker="w", task_id="B").status == 200


def until_not_ready(client: Client) -> float:
    """Probe until the replica is not ready; since when the store is away."""
    deadline = time.monotonic() + PATIENCE
    while True:
        began = time.monotonic()
        answer = client.get("/readyz")
        assert time.monotonic() - began < PROBE_SECONDS
        if answer.status == 503:
            assert answer.json["reasons"] == ["the store does not answer"]
            return datetime.fromisoformat(answer.json["store_down_since"].replace("Z", "+00:00")).timestamp()
        assert time.monotonic() < deadline
