"""What the chart would run in a cluster runs here: migration, replica, test, and the end of a replica with calls in flight."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from charts import SPANNER, SQLITE, Helm, Manifest, Values
from container import PATIENCE, Container, container
from processes import ADDRESS, end, free_port, tail, wait_until

from emulator import Emulator, create_database

pytestmark = pytest.mark.slow

CALLERS = 8


def on(emulator: Emulator) -> Values:
    """Values for an empty database of the emulator."""
    _, project, _, instance, _, database = create_database(emulator.host).split("/")
    where = {"project": project, "instance": instance, "database": database, "emulatorHost": emulator.host}
    return {"store": {"spanner": where}, "scheduler": {"drain": 1}}


def replica_of(objects: list[Manifest], kind: str, root: Path, port: int) -> Container:
    """The replica's container. A pod has port 8082 to itself; here it is another."""
    found = container(objects, kind, root)
    found.spec["args"] = [argument.replace("8082", str(port)) for argument in found.spec["args"]]
    return found


def get(port: int, path: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection(ADDRESS, port, timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def is_ready(port: int) -> bool:
    try:
        return get(port, "/readyz")[0] == 200
    except OSError:
        return False


@dataclass
class Caller:
    """Adds task after task, each on a connection of its own, until the endpoint is `withdrawn`: its pod is not ready any more.
    `acknowledged` are the tasks of the calls that were answered."""

    name: str
    port: int
    withdrawn: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[str] = field(default_factory=list)
    trouble: str = ""

    def run(self) -> None:
        try:
            while not self.withdrawn.is_set():
                self.add(f"{self.name}-{len(self.acknowledged)}")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.trouble = repr(error)

    def add(self, task: str) -> None:
        query = urlencode({"data": json.dumps({"worker": self.name, "task_id": task})})
        status, reply = get(self.port, f"/api/add_task?{query}")
        assert status == 200, reply
        self.acknowledged.append(task)


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Processes, which are killed at the end if they still run."""
    processes: list[Any] = []
    yield processes
    for process in processes:
        end(process)


def serve(replica: Container, port: int, log: Path, started: list[Any]) -> Any:
    process = replica.start(log)
    started.append(process)
    wait_until(lambda: process.poll() is not None or is_ready(port), PATIENCE, f"ready\n{tail(log)}")
    assert process.poll() is None, tail(log)
    return process


def test_from_an_empty_database_to_the_end(helm4: Helm, emulator: Emulator, tmp_path: Path, started: list[Any]) -> None:
    port = free_port()
    objects = helm4.template(on(emulator), {"extraArgs": [f"--address={ADDRESS}"]})
    replica = replica_of(objects, "Deployment", tmp_path, port)
    assert replica.command == ["luigi-spanner", "serve", f"--port={port}", f"--address={ADDRESS}"]

    before = replica.run()
    assert before.returncode != 0 and "db upgrade" in before.stderr, "a replica does not start on an empty database"
    migrated = container(objects, "Job", tmp_path).run()
    assert migrated.returncode == 0, migrated.stderr
    process = serve(replica, port, tmp_path / "log", started)

    asked = container(objects, "Pod", tmp_path)
    asked.spec["command"][-1] = f"http://{ADDRESS}:{port}"  # there is no cluster's name service here
    answer = asked.run()
    assert answer.returncode == 0 and "replica" in answer.stdout, answer.stderr

    acknowledged = stop_under_load(process, port, grace(objects), tmp_path / "log")
    again = serve(replica, port, tmp_path / "again", started)
    _, listed = get(
        port, f"/api/task_list?{urlencode({'data': json.dumps({'status': '', 'upstream_status': '', 'limit': False})})}"
    )
    assert set(acknowledged) <= set(listed["response"])
    again.terminate()
    assert again.wait(PATIENCE) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])


def grace(objects: list[Manifest]) -> float:
    (deployment,) = (found for found in objects if found["kind"] == "Deployment")
    return float(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"])


def stop_under_load(process: Any, port: int, seconds: float, log: Path) -> list[str]:
    """SIGTERM while calls are under way. It ends in time, and every call that it took is answered; the tasks of all that were."""
    withdrawn = threading.Event()
    callers = [Caller(f"w{number}", port, withdrawn) for number in range(CALLERS)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(len(caller.acknowledged) > 5 for caller in callers), PATIENCE, "calls are answered")
    process.terminate()
    told = time.monotonic()
    wait_until(lambda: not is_ready(port), PATIENCE, "it says that it goes")
    withdrawn.set()
    assert process.wait(seconds) == 0, tail(log)
    assert time.monotonic() - told < seconds
    for thread in threads:
        thread.join(PATIENCE)
    assert [caller.trouble for caller in callers if caller.trouble] == []
    return [task for caller in callers for task in caller.acknowledged]


def test_without_hooks_a_replica_waits_for_the_schema(
    helm4: Helm, emulator: Emulator, tmp_path: Path, started: list[Any]
) -> None:
    objects = helm4.template(on(emulator), {"migration": {"useHooks": False}})
    waiting = container(objects, "Deployment", tmp_path, initial=True).start(tmp_path / "log")
    started.append(waiting)
    wait_until(lambda: (tmp_path / "log").stat().st_size > 0, PATIENCE, "it has looked once")
    assert waiting.poll() is None
    assert container(objects, "Job", tmp_path).run().returncode == 0
    assert waiting.wait(PATIENCE) == 0, tail(tmp_path / "log")


def test_on_sqlite_the_state_is_on_the_volume(helm4: Helm, tmp_path: Path, started: list[Any]) -> None:
    port = free_port()
    replica = replica_of(helm4.template(SQLITE, {"scheduler": {"drain": 0}}), "StatefulSet", tmp_path, port)
    process = serve(replica, port, tmp_path / "log", started)
    caller = Caller("w", port)
    caller.add("w-0")
    process.terminate()
    assert process.wait(PATIENCE) == 0
    assert (tmp_path / "var/lib/luigi-spanner/luigi.db").exists()


def test_a_wrong_database_is_one_sentence_and_an_end(helm4: Helm, tmp_path: Path) -> None:
    values = {"store": {"spanner": {"emulatorHost": f"{ADDRESS}:{free_port()}"}}, "scheduler": {"logFormat": "text"}}
    failed = container(helm4.template(SPANNER, values), "Deployment", tmp_path).run()
    assert failed.returncode != 0
    *_, last = failed.stderr.splitlines()
    assert "start the emulator at" in last and "Traceback" not in failed.stderr
