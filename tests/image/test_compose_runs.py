"""The compose file's own commands, environment and files, run with the played image: only names and ports are this machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from balancer import find
from composition import binds, services
from containers import Container
from playing import Image
from processes import ADDRESS, end, free_port, spawn, wait_until
from sandbox import Mount
from serving import PATIENCE, Client

from emulator import Emulator

pytestmark = pytest.mark.slow

SERVICES = services({"LUIGI_SPANNER_EMULATOR_IMAGE": "emulator:1.5"})
REPLICAS = ["replica-1", "replica-2"]


class Laptop:
    """The services of the compose file as they are started here, one after the other, as their `depends_on` has it."""

    def __init__(self, image: Image, emulator: Emulator, directory: Path) -> None:
        self._image = image
        self._directory = directory
        self._stack = ExitStack()
        self.balancer = Client(port=free_port())
        self._places = {"emulator:9010": emulator.host, "balancer:8082": f"{ADDRESS}:{self.balancer.port}"}

    def __enter__(self) -> Laptop:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def container(self, name: str) -> Container:
        """A container of this service, not started."""
        service, directory = SERVICES[name], self._directory / name
        directory.mkdir()
        mounts = []
        for bind in binds(service):
            here = directory / bind.source.name
            here.write_text(self._translated(bind.source.read_text()))
            mounts.append(Mount(how=bind.mode, source=here, target=bind.target))
        environment = {key: self._translated(value) for key, value in service["environment"].items()}
        made = Container(self._image, directory, mounts=mounts, **environment)
        self._stack.callback(made.remove)
        return made

    def run(self, name: str) -> str:
        """What a service printed that runs to its end; it must end well."""
        service = SERVICES[name]
        done = self.container(name).run(*service["entrypoint"], *service["command"])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def serve(self, name: str) -> Container:
        """A replica that is ready."""
        replica = self.container(name)
        replica.start()
        self._places[f"{name}:8082"] = f"{ADDRESS}:{replica.client.port}"
        return replica

    def balance(self) -> None:
        """HAProxy before the replicas, ready."""
        (bind,) = binds(SERVICES["balancer"])
        config = self._directory / "haproxy.cfg"
        config.write_text(self._translated(bind.source.read_text()).replace("bind :8082", f"bind {ADDRESS}:{self.balancer.port}"))
        process = spawn([str(find()), "-db", "-f", str(config)], self._directory / "balancer.log", {})
        self._stack.callback(end, process)
        wait_until(self._ready, PATIENCE, "the balancer answers for the replicas")

    def _ready(self) -> bool:
        try:
            return self.balancer.get("/readyz").status == 200
        except OSError:
            return False

    def _translated(self, text: str) -> str:
        for there, here in self._places.items():
            text = text.replace(there, here)
        return text


@pytest.fixture
def laptop(image: Image, emulator: Emulator, tmp_path: Path) -> Iterator[Laptop]:
    if find() is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs haproxy: `.ci/tools haproxy` gets it on Debian")
    with Laptop(image, emulator, tmp_path) as made:
        yield made


def test_a_worker_s_week_is_done_by_two_replicas_behind_the_balancer(laptop: Laptop) -> None:
    laptop.run("migrate")
    one, two = (laptop.serve(name) for name in REPLICAS)
    laptop.balance()
    assert "36 ran successfully" in laptop.run("worker")
    for replica in (one, two):
        assert {task["status"] for task in replica.client.tasks().values()} == {"DONE"}
        calls = replica.client.get("/metrics").body.decode()
        assert 'luigi_spanner_call_duration_seconds_count{method="add_task"' in calls, "the balancer sent calls to both"
