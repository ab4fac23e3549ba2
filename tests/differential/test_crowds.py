"""Many workers that share many tasks and contend for resources: who gets what is the same on stock and on ours."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from scene import HUGE, LOCKED, LOCKS, SCARCE, VARIED, Dice, Scene, Seeded, setting
from shrink import script, shrunk
from steps import step
from twins import Difference, Setup, Step, Twins

from luigi_spanner.graph.greed import Greed
from luigi_spanner.graph.ready import Ready

OWN_LOCKS: list[dict[str, float]] = [{f"lock{number}": 1} for number in range(150)]
OWN_LOCKS_AND_SCARCE: list[dict[str, float]] = [{**lock, "r": 1} for lock in OWN_LOCKS]
AMOUNTS = (OWN_LOCKS, OWN_LOCKS_AND_SCARCE, [*LOCKS, *VARIED], LOCKED, HUGE, SCARCE, VARIED)

NAMES = ["schedule"] * 30 + ["ask"] * 20 + ["finish"] * 8 + ["limit", "set_limits", "introduce", "mark_as_done", "fail", "prune"]


def crowd(dice: Dice) -> tuple[Setup, Scene]:
    """A scene of up to 150 tasks and 40 workers, a few of them assistants."""
    setup, scene = setting(dice)
    workers = [f"w{number}" for number in range(dice.pick([3, 12, 40]))]
    size = dice.pick([40, 150])
    return replace(setup, limits={"r": dice.pick([2, 5, 20]), "s": 4}), replace(
        scene,
        tasks=[f"F_{number}" for number in range(size)],
        made=size,
        workers=workers,
        assistants=workers[:: dice.pick([3, 10, 50])] if dice.number(0, 1) else [],
        cyclic=False,
        most_deps=dice.pick([0, 0, 1]),
        renewal=0,
        batching=False,
        amounts=dice.pick(AMOUNTS),
        priorities=dice.pick([[0], [0, 1, 5], list(range(20))]),
        pauses=dice.pick([[0.0], [0.0, 0.25]]),
    )


def play(seed: str, length: int) -> tuple[Setup, list[Step], Difference | None]:
    """What was played of a random history of that seed, and the difference that ended it."""
    dice = Seeded(random.Random(seed))
    setup, scene = crowd(dice)
    setup = replace(setup, replicas=1)
    played: list[Step] = []
    with Twins(setup) as twins:
        try:
            while len(played) < length:
                played.append(step(dice, scene, dice.pick(NAMES)))
                (reply,) = twins.play(played[-1:])
                scene.learn(played[-1], reply)
        except Difference as difference:
            return setup, played, difference
    return setup, played, None


def search(seed: str, histories: int, length: int = 400) -> tuple[Setup, list[Step]] | None:
    """The first of some histories that shows a difference."""
    for number in range(histories):
        setup, played, difference = play(f"{seed}:{number}", length)
        if difference is not None:
            return setup, played
    return None


@pytest.mark.slow
def test_a_crowd_gets_the_same_from_stock_and_ours(rng: random.Random) -> None:
    found = search(str(rng.randrange(2**32)), histories=12)
    assert found is None, script(*shrunk(*found))


# The search can fail


def never_give_a_second(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Greed, "_wait_for_next", lambda self, group, members: None)


def stop_at_those_without_slots(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Greed, "_go_by_worker", lambda self: None)


def ignore_greed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Greed, "leaves", lambda self, group, rank: True)


def trust_in_plenty(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Greed, "_cannot_lack", lambda self, group: sum(self._index.used.get(name, 0) for name, _ in group.needs) == 0)


def keep_parked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Ready, "reopen", lambda self, name: None)


def know_groups_too_late(patch: pytest.MonkeyPatch) -> None:
    announce = Ready._announce

    def late(self: Ready, group: Any, rank: Any) -> None:
        if group.size == 1:
            announce(self, group, rank)

    patch.setattr(Ready, "_announce", late)


FAULTS = [never_give_a_second, stop_at_those_without_slots, ignore_greed, trust_in_plenty, keep_parked, know_groups_too_late]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_search_finds_a_fault(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    assert search("faults", histories=60) is not None
