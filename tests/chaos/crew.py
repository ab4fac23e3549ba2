"""The crew: unmodified `luigi` workers in several gangs. Each gang runs the whole pipeline again and again, round by round."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pipeline
import record
from checker import Expected
from luigi.task import task_id_str
from processes import Processes, Worker

PROCESSES = (1, 2, 1, 3)
"""`--workers` of the members of a gang, in turn: with 1 a task runs in the worker itself, with more in forks of it."""

TRIES = 3
"""How often a place begins a round again after a worker that failed; the verdict is hard on each that was not declared dead."""


@dataclass(kw_only=True)
class Shift:
    """One worker process: from when to when it ran (CLOCK_MONOTONIC), and how it ended. `killed`: by us."""

    worker: str
    gang: int
    round: int
    begin: float
    log: Path
    end: float | None = None
    exit_code: int | None = None
    killed: bool = False


@dataclass(kw_only=True)
class Place:
    """Where one worker after the other runs the rounds of its gang."""

    number: int
    gang: int
    member: int
    round: int = 0
    tries: int = 0
    process: Worker | None = None
    shift: Shift | None = None
    resting_until: float = 0.0
    done: bool = False


@dataclass(kw_only=True)
class Crew:
    """`gangs` times `members` places. `url(worker)` is the scheduler's for one worker; `pace`: see the pipeline.

    Drive it with `look`. No round begins after `close`, but those that have begun are run to their end by the whole gang.
    """

    directory: Path
    environment: Mapping[str, str]
    processes: Processes
    url: Callable[[str], str]
    gangs: int
    members: int
    pace: float
    shifts: list[Shift] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = range(self.gangs * self.members)
        self.places = [Place(number=n, gang=n % self.gangs, member=n // self.gangs) for n in numbers]
        self._last_round = [0] * self.gangs
        self._open = True

    def look(self) -> None:
        """Start whoever can be started, take note of whoever ended."""
        for place in self.places:
            if place.process is not None and place.process.process.poll() is not None:
                self._ended(place)
            if place.process is None and not place.done and time.monotonic() >= place.resting_until:
                self._start(place)

    def close(self) -> None:
        """Let no new round begin."""
        self._open = False

    @property
    def idle(self) -> bool:
        """Whether every place has done all the rounds of its gang."""
        return all(place.done for place in self.places)

    # What is done to workers

    def kill(self, number: int, rest: float) -> None:
        """`kill -9` of a worker and the tasks in it; another takes its place after `rest` seconds. Nothing if nobody is there."""
        place = self.places[number]
        if place.process is not None and place.shift is not None:
            place.process.end()
            place.shift.killed = True
            place.resting_until = time.monotonic() + rest
            place.tries -= 1
            self._ended(place)

    def send(self, number: int, sent: signal.Signals) -> None:
        """A signal to a worker and the tasks in it, if somebody is there."""
        process = self.places[number].process
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.process.pid, sent)

    # What came of it

    def rounds(self) -> list[tuple[int, int]]:
        """(gang, round) of every round that was begun."""
        return [(gang, number) for gang, last in enumerate(self._last_round) for number in range(last + 1)]

    def events(self) -> list[record.Event]:
        """The records of all rounds; a task's name tells its round."""
        found = []
        for gang, number in self.rounds():
            for event in record.read(pipeline.record_path(self._round_directory(gang, number))):
                found.append(record.Event(**{**_fields(event), "task": f"{_namespace(gang, number)}/{event.task}"}))
        return found

    def expected(self) -> list[Expected]:
        """What the records must show."""
        return [
            Expected(task=f"{_namespace(gang, number)}/{task.task}", resources=task.resources, failures=task.failures)
            for gang, number in self.rounds()
            for task in pipeline.expected(self.members)
        ]

    def task_ids(self) -> dict[str, str]:
        """By what the scheduler calls them, what the records call the tasks. A batch's members only, not the batch."""
        return {
            task_id_str(f"{_namespace(gang, number)}.{task.task_family}", task.to_str_params()): (
                f"{_namespace(gang, number)}/{task.name()}"
            )
            for gang, number in self.rounds()
            for task in pipeline.recorded(self.members)
        }

    # Inside

    def _start(self, place: Place) -> None:
        worker = f"w{place.number:02}.{len(self.shifts)}"
        directory = self._round_directory(place.gang, place.round)
        (directory / "outputs").mkdir(parents=True, exist_ok=True)
        log = self.directory / f"worker{place.number:02}.log"
        environment = {
            **self.environment,
            "PIPELINE_DIRECTORY": str(directory),
            "PIPELINE_NAMESPACE": _namespace(place.gang, place.round),
            "PIPELINE_PACE": str(self.pace),
            record.WORKER: worker,
        }
        arguments = ["--module", "pipeline", f"{_namespace(place.gang, place.round)}.Report", "--reporter", str(place.member)]
        arguments += ["--workers", str(PROCESSES[place.member % len(PROCESSES)]), "--worker-id", worker]
        place.process = self.processes.work([*arguments, "--scheduler-url", self.url(worker)], log, environment)
        place.shift = Shift(worker=worker, gang=place.gang, round=place.round, begin=time.monotonic(), log=log)
        place.tries += 1
        self.shifts.append(place.shift)

    def _ended(self, place: Place) -> None:
        assert place.process is not None and place.shift is not None
        place.shift.end = time.monotonic()
        place.shift.exit_code = place.process.process.wait()
        place.process.end()
        place.process = None
        if place.shift.exit_code == 0 or place.tries >= TRIES:
            self._next_round(place)

    def _next_round(self, place: Place) -> None:
        place.tries = 0
        if place.round < self._last_round[place.gang]:
            place.round += 1
        elif self._open:
            place.round += 1
            self._last_round[place.gang] = place.round
        else:
            place.done = True

    def _round_directory(self, gang: int, number: int) -> Path:
        return self.directory / "rounds" / _namespace(gang, number)


def _namespace(gang: int, number: int) -> str:
    return f"g{gang}r{number}"


def _fields(event: record.Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__slots__}
