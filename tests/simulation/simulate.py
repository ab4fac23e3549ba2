"""A campaign: a run for each seed, until a promise is broken; the run is then cut down, and its events are printed."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

for directory in ("differential", "replicas"):
    sys.path.append(str(Path(__file__).parents[1] / directory))

from plans import plan_of  # noqa: E402
from running import Run, run  # noqa: E402
from shrinking import shrunk  # noqa: E402

TELL_SECONDS = 10.0
"""How often a campaign says how far it is."""


def campaign(seeds: Iterable[int], say: Callable[[str], object] = lambda line: None) -> tuple[int, Run | None]:
    """Runs until a promise is broken: how many were played, and the one that breaks it."""
    done, entries, requests = 0, 0, 0
    began = told = time.monotonic()
    for seed in seeds:
        played = run(plan_of(str(seed)))
        done += 1
        entries += len(played.record.journal)
        requests += len(played.record.requests)
        if played.violation is not None:
            say(f"seed {seed}: {played.violation}")
            return done, played
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
    options = parser.parse_args()
    first = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"first seed {first}", flush=True)
    _, found = campaign(range(first, first + options.seeds), lambda line: print(line, flush=True))
    if found is None:
        print("every promise was kept")
        return 0
    print("shrinking ...", flush=True)
    print(report(shrunk(found.plan, options.shrink)))
    print(f"replay with --seeds 1 --seed {found.plan.seed}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
