"""A pipeline of about 200 tasks with every feature of Luigi that a scheduler has a part in.

Forty diamonds (Source, Left and Right, Join), a batchable family, tasks that grow dependencies while they run, one that
fails before it succeeds, a wrapper over all, priorities, and resources both declared and undeclared.

Each worker runs its own `Report`, which first requires everything and then yields a `Summary` that lists every task
once more. Thereby each worker learns in the end that the tasks which others ran are done, and Luigi's summary
has no task left that this worker "did not run": a healthy worker exits 0 under the strictest `[retcode]`.

Run with `PIPELINE_DIRECTORY` set: outputs and the record are written there. `PIPELINE_NAMESPACE` keeps the tasks of one run
apart from those of another in the same scheduler; `PIPELINE_PACE` is how many times longer than usual each body takes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import luigi
import record
from checker import Expected

DIAMONDS = 40
CRATES = 24
GROWN = 8
SEEDS = 3
FLAKY_FAILURES = 1

DECLARED = {"database": 2, "api": 3}
"""Limits in the [resources] of the server's configuration."""

LIMITS = {**DECLARED, "licence": 1}
"""Limits that must hold: Luigi gives a resource that nobody declared the limit 1."""


def directory() -> Path:
    return Path(os.environ["PIPELINE_DIRECTORY"])


def record_path(root: Path) -> Path:
    return root / "record.jsonl"


class Recorded(luigi.Task):
    """A task whose body is recorded and whose output appears atomically."""

    task_namespace = os.environ.get("PIPELINE_NAMESPACE", "")
    seconds = 0.03

    def name(self) -> str:
        """The task as people write it, such as `Join(3)`; the record and the checker go by it."""
        return f"{type(self).__name__}({','.join(str(value) for value in self.param_kwargs.values())})"

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(directory() / "outputs" / self.name())

    def work(self) -> None:
        with record.body(record_path(directory()), self.name()):
            self.produce()

    def pause(self) -> None:
        time.sleep(self.seconds * float(os.environ.get("PIPELINE_PACE", "1")))

    def produce(self) -> None:
        self.pause()
        with self.output().open("w") as output:
            output.write(self.name())

    def run(self) -> None:
        self.work()


class Source(Recorded):
    number = luigi.IntParameter()

    @property
    def priority(self) -> int:
        return 10 * (self.number % 5)

    @property
    def resources(self) -> dict[str, int]:
        return {"database": 1 + self.number % 2} if self.number % 4 < 2 else {}


class Left(Recorded):
    number = luigi.IntParameter()
    seconds = 0.05

    def requires(self) -> Source:
        return Source(self.number)

    @property
    def resources(self) -> dict[str, int]:
        return {"api": 1, "database": 1} if self.number % 5 == 0 else {}


class Right(Recorded):
    number = luigi.IntParameter()
    seconds = 0.02

    def requires(self) -> Source:
        return Source(self.number)

    @property
    def resources(self) -> dict[str, int]:
        return {"licence": 1} if self.number % 4 == 0 else {}


class Join(Recorded):
    number = luigi.IntParameter()

    @property
    def priority(self) -> int:
        return 100 if self.number % 7 == 0 else 0

    def requires(self) -> list[luigi.Task]:
        return [Left(self.number), Right(self.number)]


class Crate(Recorded):
    """Up to five of these run as one, whose `items` is the members' joined by commas."""

    items = luigi.Parameter(batch_method=",".join)
    max_batch_size = 5

    def requires(self) -> list[luigi.Task]:
        return [Source(int(item)) for item in self.items.split(",")]

    def output(self) -> list[luigi.LocalTarget]:
        return [luigi.LocalTarget(directory() / "outputs" / member) for member in self.members()]

    def members(self) -> list[str]:
        return [f"Crate({item})" for item in self.items.split(",")]

    def work(self) -> None:
        with record.body(record_path(directory()), *self.members()):
            self.pause()
            for target in self.output():
                with target.open("w") as output:
                    output.write(self.items)


class Seed(Recorded):
    number = luigi.IntParameter()
    index = luigi.IntParameter()

    @property
    def resources(self) -> dict[str, int]:
        return {"api": 2} if self.index == 0 else {}


class Grown(Recorded):
    """Asks for its seeds while it runs: two at once, then, when they are done, the third."""

    number = luigi.IntParameter()

    def run(self) -> Iterator[list[Seed]]:
        yield [Seed(self.number, 0), Seed(self.number, 1)]
        yield [Seed(self.number, 2)]
        self.work()


class Flaky(Recorded):
    """Fails as often as `FLAKY_FAILURES`, then succeeds."""

    number = luigi.IntParameter()

    def produce(self) -> None:
        if self._first_times():
            raise RuntimeError("fails on purpose")
        super().produce()

    def _first_times(self) -> bool:
        for attempt in range(FLAKY_FAILURES):
            try:
                os.close(os.open(directory() / f"{self.name()}-{attempt}.failed", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return True
        return False


class Everything(luigi.WrapperTask):
    task_namespace = Recorded.task_namespace

    def requires(self) -> list[luigi.Task]:
        joins = [Join(number) for number in range(DIAMONDS)]
        crates = [Crate(str(number)) for number in range(CRATES)]
        return [*joins, *crates, *(Grown(number) for number in range(GROWN)), Flaky(0)]


class Summary(Recorded):
    reporter = luigi.IntParameter()

    def requires(self) -> list[luigi.Task]:
        return [*shared(), Everything()]


class Report(Recorded):
    """What one worker is started with."""

    reporter = luigi.IntParameter()

    def requires(self) -> Everything:
        return Everything()

    def run(self) -> Iterator[Summary]:
        yield Summary(self.reporter)
        self.work()


def shared() -> list[Recorded]:
    """Every recorded task that all workers have in common."""
    diamonds = [task for n in range(DIAMONDS) for task in (Source(n), Left(n), Right(n), Join(n))]
    crates = [Crate(str(number)) for number in range(CRATES)]
    grown = [task for n in range(GROWN) for task in (Grown(n), *(Seed(n, index) for index in range(SEEDS)))]
    return [*diamonds, *crates, *grown, Flaky(0)]


def recorded(workers: int) -> list[Recorded]:
    """Every recorded task of a run with that many workers."""
    return [*shared(), *(task for n in range(workers) for task in (Summary(n), Report(n)))]


def expected(workers: int) -> list[Expected]:
    """What a complete run with that many workers must have recorded."""
    return [
        Expected(
            task=task.name(),
            resources=dict(task.process_resources()),
            failures=FLAKY_FAILURES if isinstance(task, Flaky) else 0,
        )
        for task in recorded(workers)
    ]
