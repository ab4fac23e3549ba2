"""A campaign: a run for each seed, until a promise is broken; the run is then cut down, and its events are printed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

for directory in ("differential", "replicas"):
    sys.path.append(str(Path(__file__).parents[1] / directory))

from plans import plan_of  # noqa: E402
from running import Run, run  # noqa: E402
from shrinking import shrunk  # noqa: E402

AT_ONCE = 10
"""Seeds that a process is given at a time, about a second of work."""

TELL_SECONDS = 10.0
"""How often a campaign says how far it is."""


@dataclass(frozen=True)
class Played:
    """What is kept of a run."""

    seed: int
    entries: int
    requests: int
    violation: str


def play(seed: int) -> Played:
    """Play the plan of a seed."""
    found = run(plan_of(str(seed)))
    return Played(seed, len(found.record.journal), len(found.record.requests), str(found.violation or ""))


def campaign(seeds: Sequence[int], say: Callable[[str], object] = lambda line: None, jobs: int = 1) -> tuple[int, Run | None]:
    """Runs, in so many processes, until a promise is broken: how many were played, and the first that breaks it."""
    with ExitStack() as stack:
        plays: Iterable[Played] = map(play, seeds)
        if jobs > 1:
            pool = stack.enter_context(ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")))
            stack.callback(pool.shutdown, cancel_futures=True)
            plays = pool.map(play, seeds, chunksize=AT_ONCE)
        return _follow(plays, say)


def _follow(plays: Iterable[Played], say: Callable[[str], object]) -> tuple[int, Run | None]:
    done, entries, requests = 0, 0, 0
    began = told = time.monotonic()
    for played in plays:
        done += 1
        entries += played.entries
        requests += played.requests
        if played.violation:
            say(f"seed {played.seed}: {played.violation}")
            return done, run(plan_of(str(played.seed)))
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            say(f"{done} seeds, {entries} entries, {requests} requests, {done / (told - began):.1f} seeds a second")
    say(f"{done} seeds, {entries} entries, {requests} requests")
    return done, None


def report(found: Run) -> str:
    """The plan and the events of a run, for people."""
    plan = replace(found.plan, actions=(), faults=())
    parts = [[repr(plan)], map(repr, found.plan.faults), map(repr, found.plan.actions), found.events, [str(found.violation)]]
    return "\n\n".join("\n".join(part) for part in parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to play (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the first of them (default: random)")
    parser.add_argument("--shrink", type=int, default=600, help="runs to spend on cutting one down (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: %(default)s, one a core)")
    options = parser.parse_args()
    first = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"first seed {first}", flush=True)
    _, found = campaign(range(first, first + options.seeds), lambda line: print(line, flush=True), options.jobs)
    if found is None:
        print("every promise was kept")
        return 0
    print("shrinking ...", flush=True)
    print(report(shrunk(found.plan, options.shrink)))
    print(f"replay with --seeds 1 --seed {found.plan.seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
