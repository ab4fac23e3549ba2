"""Three replicas on one store, workers that keep them busy, and what the journal says of it afterwards."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from processes import ADDRESS, Processes, Server

from luigi_spanner.journal import Entry, decode
from luigi_spanner.stores.location import open_existing

REPLICAS = 3
WORKERS = 6
TASKS = 15
"""Of each worker."""

NAMESPACE = "watched"

CONFIGURATION = "[resources]\ngpu = 4\nlicence = 1\n\n[scheduler]\nretry_delay = 3600\nretry_count = 100\n"

OUTCOMES = (("DONE", 100), ("DONE", 100), ("FAILED", 100), ("DONE", 100), ("FAILED", 1))
"""What becomes of a worker's tasks, in turn, and after how many failures they are disabled."""


@contextmanager
def serving(url: str, directory: Path) -> Iterator[list[Server]]:
    """The replicas, ready; ended with the block."""
    configuration = directory / "luigi.cfg"
    configuration.write_text(CONFIGURATION)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUIGI", "XDG_"))}
    environment = {**kept, "HOME": str(directory), "LUIGI_CONFIG_PATH": str(configuration)}
    command = [sys.executable, "-m", "luigi_spanner", "serve", "--store", url, "--namespace", NAMESPACE]
    with Processes() as processes:
        servers = []
        for number in range(REPLICAS):
            log = directory / f"replica-{number}.log"
            servers.append(processes.serve(Server(command=command, ready_path="/readyz", log=log, environment=environment)))
        for server in servers:
            server.wait_ready()
        yield servers


class Session:
    """Calls to one replica over one connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(ADDRESS, port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def call(self, method: str, *, expect: int = 200, **arguments: Any) -> Any:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", f"/api/{method}", urlencode({"data": json.dumps(arguments)}), headers)
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == expect, body
        return json.loads(body).get("response")


def work(servers: list[Server]) -> None:
    """Several workers at each replica add tasks and run each other's; at the end some are left in every state."""
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda number: _live(servers[number % REPLICAS].port, number), range(WORKERS)))
    with closing(Session(servers[0].port)) as session:
        session.call("add_task", worker="last", task_id="root", family="Root", deps=["missing"])
        for number in range(3):
            session.call(
                "add_task", worker="last", task_id=f"held{number}", family="Held", resources={"licence": 1, f"lock{number}": 1}
            )
        assert session.call("get_work", worker="last", host="h")["task_id"] == "held0"
        session.call("add_task", worker="last", expect=400)
        session.call("drop_everything", expect=404)


def _live(port: int, number: int) -> None:
    worker = f"w{number}"
    with closing(Session(port)) as session:
        session.call("add_worker", worker=worker, info=[("workers", 1)])
        for task in range(TASKS):
            told = {
                "task_id": f"{worker}.{task}",
                "family": f"F{task % 4}",
                "resources": {"gpu": 1} if task % 3 else {},
                "retry_policy_dict": {"retry_count": OUTCOMES[task % len(OUTCOMES)][1]},
            }
            session.call("add_task", worker=worker, **told)
            got = session.call("get_work", worker=worker, host="h")["task_id"]
            session.call("ping", worker=worker)
            if got is not None:
                outcome, _ = OUTCOMES[int(got.split(".")[1]) % len(OUTCOMES)]
                session.call("add_task", worker=worker, task_id=got, status=outcome, expl='"as told"')


def page(port: int) -> bytes:
    """What a replica's /metrics has."""
    with closing(http.client.HTTPConnection(ADDRESS, port, timeout=30)) as connection:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        assert response.status == 200
        return response.read()


def transitions(url: str) -> Counter[str]:
    """How often, by the journal, a task took each status."""
    entries: list[Entry] = []

    async def read() -> None:
        store = await open_existing(url, NAMESPACE)
        while more := await store.read_after(entries[-1].seq if entries else 0):
            entries.extend(more)
        await store.close()

    asyncio.run(read())
    taken: Counter[str] = Counter()
    status: dict[str, Any] = {}
    for entry in entries:
        for table, key, row, *_ in (record for records in decode(entry.changes) for record in records):
            if table == "tasks" and row is not None and "status" in row and row["status"] != status.get(key[0]):
                status[key[0]] = row["status"]
                taken[row["status"]] += 1
    return taken
