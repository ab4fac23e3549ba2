"""One run of the pipeline: some servers, four workers split between them, and kills at chosen moments."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pipeline
import record
from checker import Fault, faults
from processes import HERE, Processes, Server, Worker, tail, wait_until

PROCESSES = (1, 2, 1, 2)
"""`--workers` of each worker: with 1 a task runs in the worker itself, with more in forks of it."""

RUN_SECONDS = 120.0
"""How long a run may take. A healthy one takes about ten seconds on two cores, each kill a few more."""

RESTART_SECONDS = 2.0
"""A killed server is started again within this time."""

CONFIGURATION = """\
[core]
autoload_range = false
no_lock = true
log_level = INFO
rpc-retry-wait = 1
rpc-retry-attempts = 20

[worker]
keep_alive = true
wait_interval = 0.05
wait_jitter = 0.05

[scheduler]
retry_delay = 0.5
prune_on_get_work = true
state_path = {state}

[resources]
{resources}

[retcode]
already_running = 0
task_failed = 0
missing_data = 21
not_run = 22
scheduling_error = 23
unhandled_exception = 24
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a run: how each worker exited (None: it had to be killed), what the record proves, how many kills
    there were, how long all took in seconds."""

    exit_codes: list[int | None]
    faults: list[Fault]
    kills: int
    seconds: float
    logs: list[Path]

    def describe(self) -> str:
        shown = "\n".join(f"{fault.kind}: {fault.task} {fault.detail}" for fault in self.faults[:20])
        return f"exit codes {self.exit_codes}, {self.kills} kills, {len(self.faults)} faults\n{shown}\n" + "\n".join(
            map(tail, self.logs)
        )


def prepare(directory: Path) -> dict[str, str]:
    """Write the configuration that servers and workers share. The environment that both run in."""
    (directory / "outputs").mkdir(parents=True)
    configuration = directory / "luigi.cfg"
    resources = "\n".join(f"{name} = {limit}" for name, limit in pipeline.DECLARED.items())
    configuration.write_text(CONFIGURATION.format(state=directory / "state.pickle", resources=resources))
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "LUIGI_CONFIG_PATH": str(configuration), "PIPELINE_DIRECTORY": str(directory)}


def ours(directory: Path, environment: dict[str, str], number: int, store: str, namespace: str) -> Server:
    """A replica of ours. Several with one store and namespace serve one graph."""
    command = [sys.executable, "-m", "luigi_spanner", "serve", "--store", store, "--namespace", namespace]
    return Server(command=command, ready_path="/readyz", log=directory / f"server{number}.log", environment=environment)


def stock(directory: Path, environment: dict[str, str]) -> Server:
    """Luigi's own luigid, with its state file inside `directory`."""
    command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()"]
    ready = "/static/visualiser/index.html"
    return Server(command=command, ready_path=ready, log=directory / "server.log", environment=environment)


def run(directory: Path, environment: dict[str, str], servers: Sequence[Server], kills: Sequence[int] = ()) -> Result:
    """Run the whole pipeline. After `kills[i]` successful bodies server i (round robin) is killed and started again."""
    began = time.monotonic()
    with Processes() as processes:
        for server in servers:
            processes.serve(server)
        for server in servers:
            server.wait_ready()
        workers = [_worker(processes, directory, environment, n, servers[n % len(servers)]) for n in range(len(PROCESSES))]
        killed = 0
        for number, moment in enumerate(kills):
            killed += _kill_after(moment, directory, servers[number % len(servers)], workers)
        exit_codes = _wait(workers, began + RUN_SECONDS)
        stopped = [server.stop() for server in servers]
    assert stopped == [0] * len(servers), f"exit codes of the servers: {stopped}"
    events = record.read(pipeline.record_path(directory))
    return Result(
        exit_codes=exit_codes,
        faults=faults(events, pipeline.expected(len(PROCESSES)), pipeline.LIMITS),
        kills=killed,
        seconds=time.monotonic() - began,
        logs=[*(server.log for server in servers), *(worker.log for worker in workers)],
    )


def _worker(processes: Processes, directory: Path, environment: dict[str, str], number: int, server: Server) -> Worker:
    arguments = ["--module", "pipeline", "Report", "--reporter", str(number), "--workers", str(PROCESSES[number])]
    return processes.work([*arguments, "--scheduler-url", server.url], directory / f"worker{number}.log", environment)


def _kill_after(moment: int, directory: Path, server: Server, workers: Sequence[Worker]) -> bool:
    """Kill the server in the midst of work and start it again. False if the workers ended before that moment came."""
    wait_until(lambda: _done(directory) >= moment or _ended(workers), RUN_SECONDS, f"{moment} bodies done")
    if _ended(workers):
        return False
    server.kill()
    killed = time.monotonic()
    server.start()
    assert time.monotonic() - killed < RESTART_SECONDS
    server.wait_ready()
    return True


def _done(directory: Path) -> int:
    return sum(event.kind == record.DONE for event in record.read(pipeline.record_path(directory)))


def _ended(workers: Sequence[Worker]) -> bool:
    return all(worker.process.poll() is not None for worker in workers)


def _wait(workers: Sequence[Worker], deadline: float) -> list[int | None]:
    """The workers' exit codes; None for one that still runs at the deadline (on leaving the block it is killed)."""
    codes: list[int | None] = []
    for worker in workers:
        try:
            codes.append(worker.process.wait(timeout=max(0.0, deadline - time.monotonic())))
        except subprocess.TimeoutExpired:
            codes.append(None)
    return codes
