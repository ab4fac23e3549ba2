"""Several busy replicas on one journal: how often batches are tried, how long calls wait, and what they get done together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks.bench import Bench
from benchmarks.client import ROOT
from benchmarks.results import Goal, Line, alternate, quantile
from benchmarks.servers import Site

CLIENTS = 60
"""Workers in all, shared out to the replicas; each calls again as soon as it is answered."""

DELAYS = (0.0, 0.01, 0.1)
"""Seconds added to each round trip to the emulator."""

MOST_TRIPS = 11
"""A call is to wait for ten commits' time at most, and for what it takes to catch up."""

DEPENDENCIES = 100_000
"""Of the one slow call."""


@dataclass(frozen=True)
class Contest:
    """What all replicas of one run saw."""

    rate: float
    tries: list[int]
    commits: list[float]
    waits: list[float]

    @property
    def trips(self) -> float:
        """The longest wait, in the time that a commit takes."""
        return max(self.waits) / median(self.commits)


def contention(bench: Bench) -> Iterator[Line]:
    """2, 3 and 5 busy replicas beside one, at several distances from the store."""
    numbers = (1, 3) if bench.quick else (1, 2, 3, 5)
    for delay in DELAYS[:2] if bench.quick else DELAYS:
        sides = {str(number): partial(_contest, bench, number, delay) for number in numbers}
        runs = alternate(bench.repeats, sides)
        for number in numbers[1:]:
            yield from _lines(runs[str(number)], runs["1"], number, delay)
    slow = [_contest(bench, 3, 0.01, bench.tasks(DEPENDENCIES)) for _ in range(bench.repeats)]
    yield Line(
        scenario="3 replicas, round trips of 10 ms more, one call with 100,000 dependencies: longest wait of the others",
        unit="commits",
        ours=[run.trips for run in slow],
        goal=Goal(most=MOST_TRIPS),
    )


def _lines(runs: list[Contest], alone: list[Contest], number: int, delay: float) -> Iterator[Line]:
    where = f"{number} replicas, emulator" + (f", round trips of {1000 * delay:.0f} ms more" if delay else "")
    yield Line(
        scenario=f"{where}: calls a second, together",
        unit="rpc/s",
        stock=[run.rate for run in alone],
        base="one alone",
        ours=[run.rate for run in runs],
        more_is_better=True,
        goal=Goal(ratio=0.8) if number == 3 else None,
    )
    yield Line(
        scenario=f"{where}: p99 of a batch's tries",
        unit="tries",
        ours=[quantile(run.tries, 0.99) for run in runs],
        goal=Goal(most=5) if delay else None,
    )
    yield Line(
        scenario=f"{where}: longest wait",
        unit="commits" if delay else "ms",
        ours=[run.trips if delay else 1000 * max(run.waits) for run in runs],
        goal=Goal(most=MOST_TRIPS if delay else 300),
    )


def _contest(bench: Bench, number: int, delay: float, dependencies: int = 0) -> Contest:
    seconds = bench.seconds(5)
    options = {"clients": max(1, bench.tasks(CLIENTS) // number), "seconds": seconds, "delay": delay}
    with Site(bench.states) as site:
        url, environment = site.store("emulator", None)
        environment = bench.states.environment(environment)
        slow = {"dependencies": dependencies}
        processes = [_contender(site, environment, url, {"name": f"r{replica}w", **options}) for replica in range(number - 1)]
        processes.append(_contender(site, environment, url, {"name": "slow", **options, **slow}))
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"begin\n")
            process.stdin.flush()
        seen = [json.loads(process.communicate()[0]) for process in processes]
    tries, commits, waits = ([value for one in seen for value in one[name]] for name in ("tries", "commits", "waits"))
    return Contest(len(waits) / seconds, tries, commits, waits)


def _contender(site: Site, environment: Mapping[str, str], url: str, options: Mapping[str, object]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks.contender", url]
    for option, value in options.items():
        command += [f"--{option}", str(value)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    site.callback(process.kill)
    return process
