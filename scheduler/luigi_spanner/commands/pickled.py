"""The state of a stock luigid, from its pickle: read by a process of its own (`unpickling`), and believed in nothing.

What that process prints is plain JSON. Each attribute passes the check that the argument of a call passes which sets it, so that
what comes from a pickle can do no more than what comes from a worker.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from luigi_spanner.commands import Impossible, NotFound, Problem, unpickling
from luigi_spanner.graph.adoption import Batcher, StockTask, StockWorker
from luigi_spanner.server import checks
from luigi_spanner.server.checks import Check, each, identifier, limit, mapping, number, optional
from luigi_spanner.server.validate import AMOUNTS

WAIT_SECONDS = 60
WAIT_SECONDS_PER_BYTE = 20 / 1024 / 1024
"""How long the process may take by the clock: twice its processor time, and more on a busy machine."""

_TIME = optional(number)

TASK: Mapping[str, Check] = {
    "status": checks.status,
    "time": number,
    "updated": _TIME,
    "retry": _TIME,
    "remove": _TIME,
    "worker_running": optional(identifier),
    "time_running": _TIME,
    "expl": checks.anything,
    "priority": checks.rank,
    "family": optional(checks.text),
    "module": optional(checks.text),
    "first_failure_time": _TIME,
    "tracking_url": optional(checks.text),
    "status_message": checks.anything,
    "progress_percentage": checks.scalar,
    "scheduler_disable_time": _TIME,
    "batch_id": optional(identifier),
    "accepts_messages": checks.scalar,
    "runnable": checks.scalar,
    "batchable": checks.scalar,
    "resources": optional(AMOUNTS),
    "params": optional(checks.record),
    "param_visibilities": optional(mapping(checks.whole)),
    "scheduler_message_responses": optional(checks.record),
    "deps": optional(each(identifier)),
    "failures": each(number),
    "retry_policy": each(limit),
    "resources_running": optional(AMOUNTS),
}
"""Attributes of a task that are taken over, and what they may hold."""

WORKER: Mapping[str, Check] = {
    "reference": optional(checks.record),
    "last_active": number,
    "last_get_work": _TIME,
    "started": number,
    "info": checks.worker_info,
    "disabled": checks.boolean,
    "rpc_messages": each(checks.record),
}
"""Attributes of a worker that are taken over."""

_DERIVED = frozenset(
    {"id", "public_params", "hidden_params", "stakeholders", "workers", "disable_failures", "disable_hard_timeout"}
)
"""Attributes of a task that follow from others, or that no Luigi of today has."""

_MESSAGE: Mapping[str, Check] = {"name": checks.text, "kwargs": checks.record}

_POLICY_FIELDS = 3


@dataclass(kw_only=True, slots=True)
class Pickled:
    """A whole state. `ignored` are names of attributes that this release does not know."""

    workers: list[StockWorker] = field(default_factory=list)
    tasks: list[StockTask] = field(default_factory=list)
    batchers: list[Batcher] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)

    def add(self, line: dict[str, Any]) -> None:
        """Take what one line says. Raises Problem."""
        if "worker" in line:
            self.workers.append(_worker(line["worker"], line["has"], self.ignored))
        elif "task" in line:
            self.tasks.append(_task(line["task"], line["has"], self.ignored))
        else:
            self.batchers.append(_batcher(line["batcher"]))


def read(path: str, advance: Any = lambda count: None) -> Pickled:
    """The state that the file holds; `advance(1)` is called for each thing that was read.

    Raises Impossible, NotFound, Problem.
    """
    size = _regular(path)
    state = Pickled()
    with _process(path, size) as output:
        counts = next(output, {})
        for line in output:
            if "end" in line:
                break
            state.add(line)
            advance(1)
        else:
            raise Problem(f"{path} is no state of a luigid: reading it ended too early")
    found = {"workers": len(state.workers), "tasks": len(state.tasks), "batchers": len(state.batchers)}
    if found != counts:
        raise Problem(f"{path} is no state of a luigid: it counts {counts} and holds {found}")
    return state


def _regular(path: str) -> int:
    """The file's size. Raises NotFound, Impossible."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            raise Impossible(f"Cannot read {path}: it is no regular file")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}") from None
    except OSError as error:
        raise Impossible(f"Cannot read {path}: {error.strerror}") from error
    return found.st_size


@contextmanager
def _process(path: str, size: int) -> Iterator[Iterator[dict[str, Any]]]:
    """The lines that the reading process prints. Raises Problem where it refuses, dies or takes too long."""
    program = str(Path(unpickling.__file__).resolve())
    # Without the environment, and without site-packages: it needs nothing, and has nothing.
    command = [sys.executable, "-I", "-S", program, os.path.abspath(path)]
    reading = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, text=True, encoding="ascii"
    )
    seconds = WAIT_SECONDS + WAIT_SECONDS_PER_BYTE * size
    late = threading.Event()

    def give_up() -> None:
        late.set()
        reading.kill()

    watch = threading.Timer(seconds, give_up)
    watch.start()
    assert reading.stdout is not None
    try:
        yield _lines(path, reading.stdout)
        if reading.wait() != 0:
            raise Problem(_ended(path, reading.returncode))
    except Problem as problem:
        # What ended it says more than that its lines ended.
        code = _exit_code(reading)
        if late.is_set():
            raise Problem(f"{path} is no state of a luigid: reading it took more than {seconds:.0f} s") from problem
        if code is not None and code < 0:
            raise Problem(_ended(path, code)) from problem
        raise
    finally:
        watch.cancel()
        reading.kill()
        reading.wait()
        reading.stdout.close()


def _exit_code(reading: subprocess.Popen[str]) -> int | None:
    """How the process ended, None if it did not by itself: then its last line is what went wrong."""
    try:
        return reading.wait(1)
    except subprocess.TimeoutExpired:
        return None


def _ended(path: str, code: int) -> str:
    return f"{path} is no state of a luigid: reading it ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def _lines(path: str, output: IO[str]) -> Iterator[dict[str, Any]]:
    for text in output:
        try:
            line = json.loads(text)
        except ValueError:
            raise Problem(f"{path} is no state of a luigid: reading it ended in the midst of a line") from None
        if "refused" in line:
            raise Problem(f"{path} is refused: {line['refused']}")
        yield line


# What may be taken over


def _checked(what: str, key: Any, has: dict[str, Any], known: Mapping[str, Check], ignored: set[str]) -> dict[str, Any]:
    """The attributes that are known. Raises Problem with the first that no call could have set."""
    fault = identifier(key)
    if fault is not None:
        raise Problem(f"The id of a {what}{fault}")
    ignored.update(has.keys() - known.keys() - _DERIVED)
    taken = {name: has[name] for name in known if name in has}
    for name, value in taken.items():
        fault = known[name](value)
        if fault is not None:
            raise Problem(f"Of {what} {key!r} the attribute {name}{fault}")
    return taken


def _worker(worker_id: Any, has: dict[str, Any], ignored: set[str]) -> StockWorker:
    row = _checked("worker", worker_id, has, WORKER, ignored)
    for message in row.get("rpc_messages", ()):
        for name, check in _MESSAGE.items():
            fault = check(message.get(name))
            if fault is not None:
                raise Problem(f"Of worker {worker_id!r} a message's {name}{fault}")
    if "last_active" not in row or "started" not in row:
        raise Problem(f"Worker {worker_id!r} lacks the times when it started and was last active")
    return StockWorker(worker_id=worker_id, row=row)


def _task(task_id: Any, has: dict[str, Any], ignored: set[str]) -> StockTask:
    if isinstance(has.get("failures"), dict):
        # As Luigi kept them before 2.8.9.
        has = {**has, **has["failures"]}
        has.pop("window", None)
    row = _checked("task", task_id, has, TASK, ignored)
    if "status" not in row or "time" not in row:
        raise Problem(f"Task {task_id!r} lacks its status or the time when it was added")
    if len(row.get("retry_policy", (0, 0, 0))) != _POLICY_FIELDS:
        raise Problem(f"Of task {task_id!r} the attribute retry_policy has other fields than Luigi's")
    relations = {}
    for name in ("stakeholders", "workers"):
        fault = each(identifier)(has.get(name, []))
        if fault is not None:
            raise Problem(f"Of task {task_id!r} the attribute {name}{fault}")
        relations[name] = has.get(name, [])
    return StockTask(task_id=task_id, row=row, stakeholders=relations["stakeholders"], runners=relations["workers"])


def _batcher(parts: list[Any]) -> Batcher:
    if len(parts) != 4:
        raise Problem("A batcher is not of four parts")
    worker_id, family, params, size = parts
    for what, check, value in (
        ("worker", identifier, worker_id),
        ("family", identifier, family),
        ("parameters", each(checks.text), params),
        ("size", limit, size),
    ):
        fault = check(value)
        if fault is not None:
            raise Problem(f"A batcher's {what}{fault}")
    return Batcher(worker_id=worker_id, family=family, params=params, size=size)
