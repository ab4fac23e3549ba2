"""A rolling restart behind a balancer that looks at /readyz: with a drain no call is lost, refused or tried again."""

from __future__ import annotations

import http.client
import os
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import urlopen

import pytest
import scenario
from balancer import Balancer, find
from processes import Processes, Server, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _haproxy() -> None:
    """Without it the tests are skipped, or fail under CI=true."""
    if find() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs haproxy: `.ci/tools haproxy` gets it on Debian")


DRAIN = "2.5"
"""More than the balancer takes to see that a replica is not ready: two checks, half a second apart, and one that is under way."""

CALLERS = 6


class Caller(threading.Thread):
    """Adds one task after the other through the balancer, on a connection that it keeps as long as it is let. What became of each
    call is in `outcomes`: an HTTP status or the kind of an error."""

    def __init__(self, balancer: Balancer, number: int) -> None:
        super().__init__()
        self.outcomes: Counter[int | str] = Counter()
        self._name = f"caller{number}"
        self._url = urlsplit(balancer.url(self._name))
        self._over = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=20)
        while not self._over.wait(0.01):
            data = quote(f'{{"worker": "{self._name}", "task_id": "{self._name}-{self.outcomes.total()}"}}')
            try:
                connection.request("GET", f"{self._url.path}/api/add_task?data={data}")
                response = connection.getresponse()
                response.read()
                self.outcomes[response.status] += 1
            except (OSError, http.client.HTTPException) as error:
                self.outcomes[type(error).__name__] += 1
                connection.close()
        connection.close()

    def end(self) -> None:
        self._over.set()
        self.join()


def test_no_call_is_lost_while_replicas_are_restarted_one_by_one(tmp_path: Path) -> None:
    environment = scenario.prepare(tmp_path)
    with Processes() as processes:
        servers = [replica(tmp_path, environment, number, processes) for number in range(2)]
        balancer = Balancer(tmp_path, [f"127.0.0.1:{server.port}" for server in servers])
        processes.callback(balancer.stop)
        balancer.start()
        callers = [Caller(balancer, number) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            for number, server in enumerate(servers):
                assert server.stop() == 0
                server.start()
                server.wait_ready()
                await_calls(balancer, number)
        finally:
            for caller in callers:
                caller.end()
        assert {outcome for caller in callers for outcome in caller.outcomes} == {200}
        assert balancer.requests() and all(request.answered for request in balancer.requests())
        assert {request.server for request in balancer.requests()} == {"replica0", "replica1"}


def replica(directory: Path, environment: dict[str, str], number: int, processes: Processes) -> Server:
    server = scenario.ours(directory, environment, number, f"sqlite:///{directory}/luigi.db", "default")
    server.command += ["--drain", DRAIN]
    processes.serve(server).wait_ready()
    return server


def await_calls(balancer: Balancer, number: int) -> None:
    """Until the balancer sends calls to that replica again."""
    since, name = time.time(), f"replica{number}"
    wait_until(lambda: any(r.server == name and r.begin > since for r in balancer.requests()), 20, f"{name} has calls")


def test_while_no_replica_is_ready_one_that_lives_is_asked(tmp_path: Path) -> None:
    environment = scenario.prepare(tmp_path)
    with Processes() as processes, closing(sqlite3.connect(tmp_path / "luigi.db", isolation_level=None)) as database:
        server = replica(tmp_path, environment, 0, processes)
        balancer = Balancer(tmp_path, [f"127.0.0.1:{server.port}"])
        processes.callback(balancer.stop)
        balancer.start()
        database.execute("BEGIN IMMEDIATE")
        caller = Caller(balancer, 0)
        caller.start()
        wait_until(lambda: "Server ready/replica0 is stopping" in balancer.log.read_text(), 20, "the balancer sees it")
        data = quote('{"worker": "w"}')
        with urlopen(f"{balancer.url('other')}/api/ping?data={data}", timeout=20) as ping:
            assert ping.status == 200
        database.execute("ROLLBACK")
        wait_until(lambda: caller.outcomes[200] > 0, 20, "the call that waited is answered")
        caller.end()
    assert set(caller.outcomes) == {200}
