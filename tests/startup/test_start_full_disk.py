"""A disk without room, at the start and while a replica serves: nothing is lost, and it goes on once there is room."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Client, Process
from starting import SERVE, UPGRADE, VERIFY, add, called, ended, has_graph, make_graph, served

pytestmark = pytest.mark.slow

DISK_BYTES = 64 * 1024 * 1024
"""Room for a graph, for what a test adds to it, and for the log of a replica that serves it."""

LOG_BYTES = 64 * 1024
"""Room for what SQLite keeps of a log in shared memory, and not for what it writes into one as a replica starts."""

HOLD = ("--hold", "2")


class Disk(ABC):
    """A directory on a disk that can be filled up. `confined`: what a process that uses it must be told."""

    says: str

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.full = False

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory}/luigi.db"

    @property
    def confined(self) -> tuple[str, ...]:
        return ()

    @abstractmethod
    def fill(self, process: Process | None = None) -> None:
        """From now on nothing more fits."""

    @abstractmethod
    def make_room(self, process: Process | None = None) -> None:
        """As it was."""


class SmallDisk(Disk):
    """A file system of its own, in memory."""

    says = "its disk is full, 0 KiB are free; make room."

    def fill(self, process: Process | None = None) -> None:
        with (self.directory / "others").open("wb", buffering=0) as others:
            try:
                while others.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def make_room(self, process: Process | None = None) -> None:
        (self.directory / "others").unlink()


class Limited(Disk):
    """Any disk, where no file of the process may grow: what a quota does."""

    says = "disk I/O error."

    @property
    def confined(self) -> tuple[str, ...]:
        return ("--bytes", str(LOG_BYTES)) if self.full else ()

    def fill(self, process: Process | None = None) -> None:
        self.full = True
        if process is not None:
            largest = max(path.stat().st_size for path in self.directory.glob("luigi.db*"))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))

    def make_room(self, process: Process | None = None) -> None:
        self.full = False
        if process is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(params=["small", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk that can be filled. Mounting one takes root, on Linux; the other kind needs Linux only."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    directory = tmp_path / "disk"
    directory.mkdir()
    if request.param == "limited":
        yield Limited(directory)
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here; a limit on the size of files stands in for it")
    try:
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_start_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    make_graph(disk.url)
    before = (disk.directory / "luigi.db").read_bytes()
    disk.fill()
    (found,) = ended((SERVE,), disk.url, tmp_path, confined=disk.confined)
    assert found.sentence == f"Cannot use the SQLite file {disk.directory}/luigi.db: {disk.says}"
    assert (disk.directory / "luigi.db").read_bytes() == before
    disk.make_room()
    with served(disk.url, tmp_path) as client:
        has_graph(client)


@pytest.mark.parametrize("command", [SERVE, UPGRADE])
def test_a_new_file_on_a_full_disk(disk: Disk, tmp_path: Path, command: tuple[str, ...]) -> None:
    disk.fill()
    (found,) = ended((command,), disk.url, tmp_path, confined=disk.confined)
    assert found.sentence == f"Cannot use the SQLite file {disk.directory}/luigi.db: {disk.says}"
    disk.make_room()
    with served(disk.url, tmp_path) as client:
        add(client, "A")


def test_a_disk_that_fills_up_while_a_replica_serves(disk: Disk, tmp_path: Path, rng: random.Random) -> None:
    make_graph(disk.url)
    with Process(*SERVE, *HOLD, "--store", disk.url, directory=tmp_path) as process:
        client = process.client()
        disk.fill(process)
        added = fill_the_log(client, rng)
        assert client.call("add_task", worker="w", task_id="late", family="F").status == 503
        assert client.call("ping", worker="w").status == 200
        assert client.get("/healthz").status == 200
        ready = client.get("/readyz")
        assert (ready.status, ready.json["reasons"]) == (503, ["the store does not answer"])
        process.line(f"WARNING: The store has not confirmed entry .*, which waits: Cannot use the SQLite file .*{disk.says}")
        disk.make_room(process)
        add(client, "late")
        has_graph(client)
        assert set(client.tasks()) >= {*added, "late"}
        assert client.get("/readyz").status == 200
    assert called(VERIFY, disk.url).code == 0


def fill_the_log(client: Client, rng: random.Random) -> list[str]:
    """Add tasks until one does not fit: what is acknowledged."""
    added: list[str] = []
    while True:
        arguments: dict[str, Any] = {"worker": "w", "task_id": f"B{len(added)}", "family": "F"}
        answer = client.call("add_task", **arguments, params={"text": rng.randbytes(100_000).hex()})
        if answer.status != 200:
            assert (answer.status, answer.json["error"]["code"]) == (503, "store_down")
            return added
        added.append(arguments["task_id"])
        assert len(added) < 10 * DISK_BYTES // 100_000, "the disk does not fill up"
