"""Replicas under faults keep what they promise; and the judges that say so can tell."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mutations import MUTATIONS, mutated
from plans import plan_of
from running import run
from shrinking import shrunk
from simulate import campaign, report

HERE = Path(__file__).parent

SMOKE = range(60)
"""Seeds of the smoke run, about 0.1 s each."""

BOUND = 40
"""Seeds within which each mutation is caught, under the faults that go with it."""


@pytest.mark.slow
def test_every_promise_is_kept() -> None:
    done, found = campaign(SMOKE)
    assert found is None, report(found)
    assert done == len(SMOKE)


@pytest.mark.slow
def test_a_live_worker_is_not_pruned_while_the_store_can_be_read_and_not_written_to() -> None:
    """Pings were answered from memory as long as reads succeeded, and nobody else knew that the worker lives."""
    for seed in range(8):
        found = run(plan_of(str(seed), ["no commits"], replicas=3, sticky=True, seconds=150.0))
        assert found.violation is None, report(found)


def test_a_replica_that_cannot_bury_its_predecessor_in_time_ends_in_good_order() -> None:
    """`Service.start` raised StoreDown, which is no StoreError."""
    for seed in range(8):
        found = run(plan_of(str(seed), ["crash", "no commits"], replicas=1, seconds=60.0))
        assert found.violation is None, report(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_promise_is_noticed(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutated(mutation.patches):
        assert any(run(plan_of(str(seed), mutation.kinds, **mutation.fixed)).violation for seed in range(BOUND))


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_this_process_and_in_others() -> None:
    here = [_events(seed) for seed in (3, 5)]
    assert here == [_events(seed) for seed in (3, 5)]
    script = "import conftest, test_simulation as t; print(*[t._events(seed) for seed in (3, 5)])"
    for hashes in ("1", "2"):
        path = os.pathsep.join([str(HERE), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": hashes, "PYTHONPATH": path}
        ran = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=HERE, capture_output=True, text=True, check=True
        )
        assert ran.stdout.split() == here


def _events(seed: int) -> str:
    return hashlib.sha256("\n".join(run(plan_of(str(seed))).events).encode()).hexdigest()


@pytest.mark.slow
def test_a_run_that_breaks_a_promise_is_cut_down() -> None:
    with mutated(MUTATIONS["reply before commit"].patches):
        plan = next(plan for seed in range(BOUND) if run(plan := plan_of(str(seed), replicas=2)).violation)
        small = shrunk(plan, runs=60)
        again = run(small.plan)
    assert small.violation is not None
    assert len(small.plan.actions) < len(plan.actions)
    assert again.events == small.events
    assert small.events[-1] in report(small)
