"""A pipeline for `test_import_pickle`: what is done, what fails, and what runs until it is told to end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import luigi

HERE = Path(os.environ.get("TAKEN_OVER", "."))


class Part(luigi.Task):
    number = luigi.IntParameter()

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(HERE / f"part{self.number}"))

    def run(self) -> None:
        self.output().open("w").close()


class Broken(luigi.Task):
    secret = luigi.Parameter(default="hidden", visibility=luigi.parameter.ParameterVisibility.PRIVATE)

    def run(self) -> None:
        raise ValueError("broken")

    def complete(self) -> bool:
        return False


class Waits(luigi.Task):
    resources = {"slots": 1}  # noqa: RUF012
    priority = 5

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(HERE / "waited"))

    def run(self) -> None:
        while not (HERE / "go").exists():
            time.sleep(0.05)
        self.output().open("w").close()


class After(luigi.Task):
    def requires(self) -> list[luigi.Task]:
        return [Waits(), *(Part(number=number) for number in range(3))]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(HERE / "after"))

    def run(self) -> None:
        self.output().open("w").close()


class Top(luigi.WrapperTask):
    def requires(self) -> list[luigi.Task]:
        return [Broken(), After()]
