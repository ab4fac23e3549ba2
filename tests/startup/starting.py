"""Starts that must fail: what the person who started it is told."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from serving import PATIENCE, Client, Process, environment

from luigi_spanner import cli
from luigi_spanner.scheduler import Scheduler

LISTEN = ("--address", "127.0.0.1", "--port", "0")
SERVE = ("serve", *LISTEN)
UPGRADE = ("db", "upgrade")
CHECK = ("db", "check")
CURRENT = ("db", "current")
VERIFY = ("verify",)

COMMANDS = (UPGRADE, CHECK, CURRENT, VERIFY)
"""Everything else that opens a store."""

BOUND = 10.0
"""Seconds within which whoever starts something on a store that does not work is told so (docs/operations.md)."""

BUSY = 2.0
"""How much slower than promised a start may be on a machine that does other things."""

TASKS = 40
"""How many tasks a graph has."""

STOPS = " CRITICAL: This replica stops serving: "

CONFINED = str(Path(__file__).with_name("confined.py"))


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that has run to its end, in `seconds`. `lines`: what it said on stderr but for its log's INFO."""

    arguments: tuple[str, ...]
    code: int
    output: str
    lines: list[str]
    seconds: float

    @property
    def sentence(self) -> str:
        """The one sentence that says what is wrong and what to do."""
        where = f"{self.arguments}: {self.code}, {self.lines}"
        assert self.code == 2, where
        assert len(set(self.lines)) == 1, where
        assert self.lines[0].endswith("."), where
        assert self.seconds < BOUND * BUSY, f"{where} after {self.seconds:.1f} s"
        return self.lines[0]


def ended(
    commands: Sequence[Sequence[str]], store: str, directory: Path, *, confined: Sequence[str] = (), **extra: str
) -> list[Ended]:
    """Run these commands of `luigi-spanner` on a store, each as a process, all at the same time."""
    began = time.monotonic()
    running = []
    for command in commands:
        arguments = (*command, "--store", store)
        started = subprocess.Popen(
            _command(arguments, confined),
            cwd=directory,
            env=_environment(directory, extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append((arguments, started))
    return [_end(arguments, started, began) for arguments, started in running]


def called(command: Sequence[str], store: str, **extra: str) -> Ended:
    """Run a command on a store in this process, which is much quicker."""
    began = time.monotonic()
    arguments = (*command, "--store", store)
    output, errors = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, extra), redirect_stdout(output), redirect_stderr(errors):
        code = cli.main(arguments)
    return Ended(
        arguments=arguments,
        code=code,
        output=output.getvalue(),
        lines=errors.getvalue().splitlines(),
        seconds=time.monotonic() - began,
    )


def told(store: str, directory: Path, commands: Sequence[Sequence[str]] = (), **extra: str) -> str:
    """What a replica says of a store that does not work, and each of these commands as well: one sentence, the same."""
    (replica,) = ended((SERVE,), store, directory, **extra)
    assert {replica.sentence} == {replica.sentence, *(called(command, store, **extra).sentence for command in commands)}
    return replica.sentence


def said(store: str, commands: Sequence[Sequence[str]], **extra: str) -> str:
    """What these commands say of a store that does not work: one sentence, the same."""
    (sentence,) = {called(command, store, **extra).sentence for command in commands}
    return sentence


def add(client: Client, task: str) -> None:
    """Add a task and be told so."""
    answer = client.call("add_task", worker="w", task_id=task, family="F")
    assert answer.status == 200, answer.body


def _command(arguments: Sequence[str], confined: Sequence[str]) -> list[str]:
    around = [sys.executable, CONFINED, *confined] if confined else []
    return [*around, sys.executable, "-m", "luigi_spanner", *arguments]


def _environment(directory: Path, extra: Mapping[str, str]) -> dict[str, str]:
    usual = {name: value for name, value in environment(HOME=str(directory)).items() if not name.startswith("SPANNER_")}
    return {**usual, **extra}


def _end(arguments: tuple[str, ...], started: subprocess.Popen[str], began: float) -> Ended:
    try:
        output, errors = started.communicate(timeout=max(1.0, began + PATIENCE + BOUND - time.monotonic()))
    except subprocess.TimeoutExpired:
        started.kill()
        output, errors = started.communicate()
        pytest.fail(f"{arguments} runs on: {output}{errors}")
    lines = [line for line in errors.splitlines() if " INFO: " not in line]
    # A replica that has begun to serve says in its log, too, why it stops.
    lines = [f"{line.partition(STOPS)[2]}." if STOPS in line else line for line in lines]
    return Ended(arguments=arguments, code=started.returncode, output=output, lines=lines, seconds=time.monotonic() - began)


def obeying() -> tuple[str, ...]:
    """What makes permissions hold for the user who runs the tests."""
    if os.geteuid() == 0 and sys.platform != "linux":
        pytest.skip("root passes over permissions, and only Linux can take that from it")
    return ("--obey",)


def make_graph(url: str) -> None:
    """Add TASKS tasks."""
    scheduler = Scheduler(store=url)
    for number in range(TASKS):
        scheduler.add_task(worker="w", task_id=f"T{number}", family="F", params={"text": "x" * 500})
    scheduler.close()


def has_graph(client: Client) -> None:
    """Nothing of it is lost, and more can be added."""
    assert set(client.tasks()) >= {f"T{number}" for number in range(TASKS)}
    add(client, "another")
    assert "another" in client.tasks()


@contextmanager
def served(url: str, directory: Path, *arguments: str, **extra: str) -> Iterator[Client]:
    """A replica on that store, until the block ends."""
    with Process(*SERVE, *arguments, "--store", url, directory=directory, **extra) as process:
        yield process.client()
