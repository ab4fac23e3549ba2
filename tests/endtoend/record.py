"""The record that task bodies write of themselves: one JSON line per event, appended with a single write.

It lives outside of Luigi and of the scheduler under test, so what it says happened did happen. `at` is in seconds of
`CLOCK_MONOTONIC`, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

START = "start"
DONE = "done"
FAILED = "failed"

WORKER = "PIPELINE_WORKER"
"""Environment variable with the id of the worker that runs a body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One line. `run` tells one execution of a body from another; `kind` is START, DONE or FAILED; `worker` is who ran it, where
    the environment says so."""

    task: str
    kind: str
    run: str
    pid: int
    at: float
    wall: float
    worker: str = ""


def append(path: Path, event: Event) -> None:
    """Add `event` at the end of the file: O_APPEND and one write, so that lines of many processes never mix."""
    line = json.dumps(asdict(event), sort_keys=True).encode() + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(descriptor, line) != len(line):
            raise OSError(f"short write to {path}")
    finally:
        os.close(descriptor)


@contextmanager
def body(path: Path, *tasks: str) -> Iterator[None]:
    """Record one execution that stands for `tasks` (several when Luigi batched them)."""
    run = f"{os.getpid()}-{time.monotonic_ns()}"
    _append_all(path, tasks, START, run)
    try:
        yield
    except BaseException:  # a body that is interrupted has failed as well
        _append_all(path, tasks, FAILED, run)
        raise
    _append_all(path, tasks, DONE, run)


def _append_all(path: Path, tasks: tuple[str, ...], kind: str, run: str) -> None:
    worker = os.environ.get(WORKER, "")
    for task in tasks:
        append(path, Event(task=task, kind=kind, run=run, pid=os.getpid(), at=time.monotonic(), wall=time.time(), worker=worker))


def read(path: Path) -> list[Event]:
    """All events, in the order in which they were written. Empty when nothing has run yet."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    # What follows the last newline is a line that is being written while we read.
    return [Event(**json.loads(line)) for line in lines[:-1]]
