"""A campaign: many long random histories, played until a difference shows, which is then cut down to a short script."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from scene import Seeded, setting
from shrink import script, shrunk
from steps import batch, ending, often, opening
from twins import Difference, Setup, Step, Twins


@dataclass(frozen=True)
class Found:
    """A difference, and the history that led to it."""

    setup: Setup
    steps: list[Step]
    difference: Difference


def history(seed: str, length: int) -> tuple[int, Found | None]:
    """Play the history of a seed, about `length` steps and its ending; how many steps it took, and the difference if any."""
    dice = Seeded(random.Random(seed))
    setup, scene = setting(dice)
    names = often(dice)
    steps = opening(dice, scene)
    with Twins(setup) as twins:
        try:
            for step in steps:
                twins.play([step])
            while len(steps) < length:
                played = batch(dice, scene, names, setup.replicas)
                steps += played
                for step, reply in zip(played, twins.play(played), strict=True):
                    scene.learn(step, reply)
            for step in ending(scene):
                steps.append(step)
                twins.play([step])
        except Difference as difference:
            return len(steps), Found(setup, steps, difference)
    return len(steps), None


def campaign(calls: int, seed: str, say: Callable[[str], object] = lambda line: None) -> tuple[int, Found | None]:
    """Histories until `calls` steps are played or a difference is found."""
    lengths = random.Random(seed)
    done, number, told = 0, 0, time.monotonic()
    while done < calls:
        length = min(lengths.choice([30, 100, 300, 1000]), calls - done)
        played, found = history(f"{seed}:{number}", length)
        done += played
        if found is not None:
            say(f"history {number} ({seed}:{number}, {length} steps), after {done} calls: {found.difference}")
            return done, found
        number += 1
        if time.monotonic() - told > 10:
            told = time.monotonic()
            say(f"{done} calls, {number} histories")
    return done, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="how many calls to play (default: %(default)s)")
    parser.add_argument("--seed", default=None, help="seed of the campaign (default: random)")
    options = parser.parse_args()
    seed = options.seed or str(random.SystemRandom().randrange(2**32))
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    done, found = campaign(options.calls, seed, lambda line: print(line, flush=True))
    seconds = time.monotonic() - began
    print(f"{done} calls in {seconds:.1f} s, {done / seconds:.0f} per second, seed {seed}")
    if found is None:
        print("no difference")
        return 0
    print("shrinking ...", flush=True)
    setup, steps = shrunk(found.setup, found.steps)
    print(script(setup, steps))
    return 1


if __name__ == "__main__":
    sys.exit(main())
