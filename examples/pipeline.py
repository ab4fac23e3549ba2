"""Daily sales of three shops, summed up: a small pipeline with a shared resource, a diamond and a wrapper.

Run it against any replica, twice at once if you like::

    luigi --module pipeline Week --until 2026-01-07 --directory out --scheduler-url http://127.0.0.1:8082 --workers 2

The second time there is nothing left to do.
"""

from __future__ import annotations

import csv
import datetime
import random
import time
from pathlib import Path

import luigi

SHOPS = ("harbour", "market", "station")


class Sales(luigi.Task):
    """One shop's sales of one day, as the till exports them. The tills allow two exports at a time."""

    directory = luigi.Parameter()
    shop = luigi.ChoiceParameter(choices=SHOPS)
    day = luigi.DateParameter()
    seconds = luigi.FloatParameter(default=0.0, significant=False, description="how long an export takes")

    resources = {"tills": 1}  # noqa: RUF012  # Luigi reads it from the class

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.directory, "sales", f"{self.day}-{self.shop}.csv")))

    def run(self) -> None:
        time.sleep(self.seconds)
        till = random.Random(f"{self.shop} {self.day}")
        with self.output().open("w") as file:
            csv.writer(file).writerows((number, till.randint(100, 9999)) for number in range(1, 51))


class Total(luigi.Task):
    """What all shops sold on one day, in cents."""

    directory = luigi.Parameter()
    day = luigi.DateParameter()
    seconds = luigi.FloatParameter(default=0.0, significant=False)

    def requires(self) -> list[Sales]:
        return [Sales(directory=self.directory, shop=shop, day=self.day, seconds=self.seconds) for shop in SHOPS]

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.directory, "totals", f"{self.day}.txt")))

    def run(self) -> None:
        total = 0
        for sales in self.input():
            with sales.open() as file:
                total += sum(int(cents) for _, cents in csv.reader(file))
        with self.output().open("w") as file:
            file.write(f"{total}\n")


class Best(luigi.Task):
    """Which shop sold the most on one day. It needs the same exports as `Total`; each is made once."""

    directory = luigi.Parameter()
    day = luigi.DateParameter()
    seconds = luigi.FloatParameter(default=0.0, significant=False)

    def requires(self) -> dict[str, Sales]:
        return {shop: Sales(directory=self.directory, shop=shop, day=self.day, seconds=self.seconds) for shop in SHOPS}

    def output(self) -> luigi.LocalTarget:
        return luigi.LocalTarget(str(Path(self.directory, "best", f"{self.day}.txt")))

    def run(self) -> None:
        sold = {}
        for shop, sales in self.input().items():
            with sales.open() as file:
                sold[shop] = sum(int(cents) for _, cents in csv.reader(file))
        with self.output().open("w") as file:
            file.write(max(sold, key=lambda shop: sold[shop]) + "\n")


class Week(luigi.WrapperTask):
    """Totals and best shops of the seven days up to and with `until`; later days first."""

    directory = luigi.Parameter(default="out")
    until = luigi.DateParameter()
    seconds = luigi.FloatParameter(default=0.0, significant=False, description="how long each export takes")

    def requires(self) -> list[luigi.Task]:
        days = [self.until - datetime.timedelta(days=back) for back in range(7)]
        return [kind(directory=self.directory, day=day, seconds=self.seconds) for day in days for kind in (Total, Best)]
