"""Servers to measure: stock luigid and ours in processes of their own, filled with a graph, on a fresh emulator where need be.

Everything belongs to a `Site` and ends with it, by process id.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from benchmarks.client import ADDRESS, ROOT
from benchmarks.graphs import Graph

sys.path.insert(0, str(ROOT / "tests"))

from emulator import HOW_TO_GET_IT, Emulator, Template, create_database, find_emulator, template_of

Backend: TypeAlias = Literal["memory", "sqlite", "emulator"]

START_SECONDS = 120.0
"""How long a server may take until it answers, and `LOAD_SECONDS` a graph until it is loaded. Far above what is measured."""
LOAD_SECONDS = 1800.0

STOP_SECONDS = 15.0
"""After this long a server that was asked to end is killed."""

FAST_BYTES = 4 * 1024**3
"""Room that the prepared states of the full suite need at most."""

STEADY = "[scheduler]\nworker_disconnect_delay = 86400\nprune_on_get_work = false\n"
"""Luigi's configuration of most scenarios: prepared states are minutes old when they are measured, and no worker may be given
up for it."""

DEFAULTS = "[scheduler]\n"
"""Luigi as it comes."""

RECORDING = "[scheduler]\nrecord_task_history = true\n"
"""The same with a history of what happens to tasks."""


class Unusable(Exception):
    """A scenario cannot run on this machine. The message says what is missing."""


@dataclass(kw_only=True)
class Server:
    """A process that answers at a port of the loopback interface. `ending` is the signal that ends it."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    ending: signal.Signals
    started: float = field(default_factory=time.perf_counter)

    def wait(self, path: str) -> float:
        """Wait until `path` answers 200; the seconds since the process was started."""
        while not self._answers(path):
            if self.process.poll() is not None or time.perf_counter() - self.started > START_SECONDS:
                raise RuntimeError(f"the server does not answer; its log ends with:\n{tail(self.log)}")
            time.sleep(0.005)
        return time.perf_counter() - self.started

    def status(self) -> dict[str, Any]:
        """What `/readyz` of ours says."""
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def applied(self) -> int:
        """Seq of the journal's head, as ours sees it after a look at the store."""
        return int(self.status()["applied"])

    def settled(self) -> int:
        """As `applied`, once the tables have caught up with the journal, as a replica sees to when nobody calls."""
        end = time.monotonic() + STOP_SECONDS
        while (status := self.status())["watermark"] < status["applied"] and time.monotonic() < end:
            time.sleep(0.05)
        return int(status["applied"])

    def stop(self) -> None:
        """End the process, by killing it if need be. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(self.ending)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _answers(self, path: str) -> bool:
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class States:
    """Prepared states, each made once a run: stock's pickles, SQLite files, the emulator's schema.

    They are made in `made_in` and copied into `directory`, which is on a disk, to be measured.
    """

    def __init__(self, directory: Path, made_in: Path) -> None:
        self.directory = directory
        self._made_in = made_in
        self.config = directory / "steady.cfg"
        self.config.write_text(STEADY)
        self._made: dict[tuple[str, Graph], subprocess.Popen[bytes]] = {}

    def start(self, kind: Literal["stock", "sqlite"], graph: Graph) -> Path:
        """Begin to make a state, in a process of its own; the file that it will be in."""
        path = self._made_in / f"{kind}-{graph.kind}-{graph.size}.state"
        if (kind, graph) not in self._made:
            place = str(path) if kind == "stock" else f"sqlite:///{path}"
            self._made[kind, graph] = self.load("stock" if kind == "stock" else "ours", graph, place, {})
        return path

    def get(self, kind: Literal["stock", "sqlite"], graph: Graph) -> Path:
        """The file of a state."""
        path = self.start(kind, graph)
        self.finish(self._made[kind, graph])
        return path

    def prepare(self, graphs: Iterable[Graph]) -> None:
        """Make the states of all these graphs at once, before anything is measured."""
        graphs = list(graphs)
        for graph in graphs:
            self.start("sqlite", graph)
            self.start("stock", graph)
        for graph in graphs:
            self.get("sqlite", graph)
            self.get("stock", graph)

    def load(self, scheduler: str, graph: Graph, place: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start to load `graph` into a place."""
        command = [sys.executable, "-m", "benchmarks.loading", scheduler, graph.kind, str(graph.size), str(graph.seed), place]
        with (self.directory / "loading.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=self.environment(environment), stdout=log, stderr=log)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the graph is loaded."""
        if process.wait(LOAD_SECONDS):
            raise RuntimeError(f"loading failed:\n{tail(self.directory / 'loading.log')}")

    def close(self) -> None:
        """End what is still being made."""
        for process in self._made.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def environment(self, more: Mapping[str, str], config: Path | None = None) -> dict[str, str]:
        """The environment of every child: Luigi configured by us alone."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUIGI", "SPANNER_"))}
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
        return {**kept, "PYTHONPATH": path, "LUIGI_CONFIG_PATH": str(config or self.config), **more}

    @cached_property
    def template(self) -> Template:
        """Our schema on an emulator, to copy."""
        with emulator() as running:
            database = create_database(running.host)
            command = [sys.executable, "-m", "luigi_spanner", "db", "upgrade", "--store", f"spanner:///{database}"]
            environment = self.environment({"SPANNER_EMULATOR_HOST": running.host})
            subprocess.run(command, cwd=self.directory, env=environment, check=True, capture_output=True, timeout=START_SECONDS)
            return template_of(running.host, database, ["alembic_version", "compatibility"])


class Site(ExitStack):
    """The servers of one measurement, with their files. Leaving it ends them all."""

    def __init__(self, states: States, *, config: str = STEADY) -> None:
        super().__init__()
        self.states = states
        self._config_text = config

    def __enter__(self) -> Site:
        super().__enter__()
        self.directory = Path(self.enter_context(tempfile.TemporaryDirectory(dir=self.states.directory)))
        self.config = self.directory / "luigi.cfg"
        self.config.write_text(self._config_text)
        return self

    def stock(self, graph: Graph | None = None, *, wait: bool = True) -> Server:
        """A stock luigid, its state read from a pickle."""
        pickled = self.directory / f"stock-{len(os.listdir(self.directory))}.pickle"
        if graph is not None:
            shutil.copy(self.states.get("stock", graph), pickled)
        run = "import sys; from luigi.cmdline import luigid; luigid(sys.argv[1:])"
        command = [sys.executable, "-c", run, "--state-path", str(pickled), "--address", ADDRESS]
        # Killed rather than asked to end: it would take seconds to write its pickle.
        server = self._spawn(command, {}, signal.SIGKILL)
        if wait:
            server.wait("/api/resource_list")
        return server

    def ours(self, backend: Backend, graph: Graph | None = None, *, replicas: int = 1, delay: float = 0.0) -> list[Server]:
        """Replicas of ours on one fresh store. `delay` seconds are added to each commit of a memory store."""
        if backend == "memory":
            return [self._in_memory(graph, delay)]
        url, environment = self.store(backend, graph)
        servers = [self.replica(url, environment) for _ in range(replicas)]
        for server in servers:
            server.wait("/readyz")
        return servers

    def replica(self, url: str, environment: Mapping[str, str]) -> Server:
        """One of ours on that store, not waited for."""
        command = [sys.executable, "-m", "luigi_spanner", "serve", "--store", url, "--address", ADDRESS]
        return self._spawn(command, environment, signal.SIGTERM)

    def store(self, backend: Backend, graph: Graph | None) -> tuple[str, dict[str, str]]:
        """A fresh store with `graph` in it: its URL, and the environment to use it with."""
        if backend == "emulator":
            host = self.enter_context(emulator()).host
            environment = {"SPANNER_EMULATOR_HOST": host}
            url = f"spanner:///{create_database(host, self.states.template)}"
            if graph is not None:
                self.states.finish(self.states.load("ours", graph, url, environment))
            return url, environment
        path = self.directory / "ours.db"
        if graph is not None:
            shutil.copy(self.states.get("sqlite", graph), path)
        return f"sqlite:///{path}", {}

    def _in_memory(self, graph: Graph | None, delay: float) -> Server:
        described = [graph.kind, str(graph.size), str(graph.seed)] if graph else []
        command = [sys.executable, "-m", "benchmarks.delayed", "--delay", str(delay), "--graph", *described]
        server = self._spawn(command, {}, signal.SIGTERM)
        server.wait("/readyz")
        return server

    def _spawn(self, command: list[str], environment: Mapping[str, str], ending: signal.Signals) -> Server:
        port = free_port()
        log = self.directory / f"{port}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=ROOT,
                env=self.states.environment(environment, self.config),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        server = Server(process=process, port=port, log=log, ending=ending)
        self.callback(server.stop)
        return server


@contextmanager
def states() -> Iterator[States]:
    """A directory of prepared states that goes away with the block."""
    with ExitStack() as stack:
        directory, made_in = (_temporary(stack, parent) for parent in (None, _fast()))
        made = States(directory, made_in)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def emulator() -> Iterator[Emulator]:
    """A fresh emulator. Raises Unusable when this machine has none."""
    found = find_emulator()
    if found is None:
        raise Unusable(HOW_TO_GET_IT)
    with Emulator(found) as running:
        yield running


def _temporary(stack: ExitStack, parent: Path | None) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="luigi-spanner-bench-", dir=parent)))


def _fast() -> Path | None:
    """A file system in memory, if this machine has one with room: states are made there without waiting for a disk."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > FAST_BYTES
    return shared if roomy else None


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def tail(log: Path) -> str:
    """How a log ends."""
    return log.read_bytes()[-2000:].decode(errors="replace") if log.exists() else "(no log)"


def resident(pid: int) -> int:
    """Bytes of memory that a process has resident, as Linux tells."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
