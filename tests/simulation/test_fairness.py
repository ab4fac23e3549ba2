"""No replica starves another: turns (I14), on virtual time."""

from __future__ import annotations

import asyncio

import pytest
from contention import Contention, Contest, Seen, contend, share
from mutations import mutated

from luigi_spanner.turns import Turns

MOST_TRIPS = 11
"""Longest wait in commits' time: ten, and one to catch up."""


@pytest.mark.parametrize("replicas", [2, 3, 5])
@pytest.mark.parametrize("round_trip", [0.01, 0.1])
def test_busy_replicas_take_turns(replicas: int, round_trip: float) -> None:
    seen = contend(Contention(replicas=replicas, clients=15, round_trip=round_trip))
    assert share(seen.tries, 0.99) <= 5
    assert max(seen.waits) <= MOST_TRIPS
    assert min(seen.answered.values()) >= 0.7 * max(seen.answered.values())


def test_without_turns_a_busy_replica_starves_the_others() -> None:
    """What the test before would miss if it could not fail."""
    with mutated([(Turns, "asks_after", lambda self, losses: False), (Turns, "before_ours", lambda self: [])]):
        seen = contend(Contention(replicas=3, clients=15, round_trip=0.01))
    assert max(seen.waits) > 10 * MOST_TRIPS or len(seen.answered) < 3


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_that_are_not_busy_seldom_wait(replicas: int) -> None:
    seen = contend(Contention(replicas=replicas, clients=15, round_trip=0.01, pause=0.5, trips=1000))
    assert share(seen.waits, 0.5) <= 3
    assert share(seen.waits, 0.99) <= 12
    assert share(seen.tries, 0.99) <= 5


@pytest.mark.slow
def test_rows_that_are_written_late_leave_room_for_others() -> None:
    """They were written one commit right after the other: another replica lost each of its own until its callers gave up."""

    class Writing(Contest):
        async def play(self) -> Seen:
            await self.start()
            deps = [f"d{number}" for number in range(20_000)]
            await self.ask(0, "add_task", worker="w", task_id="hub", deps=deps)
            writer = self.services[0]._replica
            self.begin = 0.0
            await asyncio.sleep(2.5)
            number = 0
            while writer.graph.ledger.pending:
                number += 1
                await self.ask(1, "add_task", worker="v", task_id=f"t{number}")
                await asyncio.sleep(2.5)
            await self.stop()
            return self.seen

    seen = contend(Contention(replicas=2, clients=0, round_trip=0.02), Writing)
    assert len(seen.waits) > 3
    assert max(seen.waits[1:]) <= MOST_TRIPS
