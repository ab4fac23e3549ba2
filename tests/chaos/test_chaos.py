"""A short storm, and the parts that a long one relies on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import balancer
import chaosrun
import faultplan
import pytest
import skew
from faultplan import FOR_ALL, OF_WORKERS, REPLICAS, SKEW_SECONDS, SMOKE, Fault, Kind, long_run, plan, skews
from fleet import Fleet
from outcome import Size
from processes import wait_until

from emulator import Emulator

PLACES = 6

SEED = 20261122

LONGEST_WAIT = 30.0
"""Seconds. Each fault lasts 6 s at most, and a worker waits 10 s for a reply before it asks again."""


def required() -> None:
    """Skip, or fail under CI=true, where a run lacks something."""
    lacking = chaosrun.missing()
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(lacking, pytrace=False)
    if lacking:
        pytest.skip(lacking)


@pytest.mark.slow
@pytest.mark.emulator
def test_a_short_storm(tmp_path: Path) -> None:
    """Every kind of fault once or more in a minute, and every promise kept. LUIGI_SPANNER_CHAOS_SEED plays another plan."""
    required()
    seed = int(os.environ.get("LUIGI_SPANNER_CHAOS_SEED", SEED))
    outcome = chaosrun.play(seed, SMOKE, chaosrun.SMALL, tmp_path / "run", print)
    assert outcome.verdict.violations == [], f"seed {seed}; logs are in {tmp_path / 'run'}"
    assert {fault.kind for fault, *_ in outcome.happened} == set(Kind)
    assert outcome.verdict.tasks > 400
    assert outcome.verdict.verified.endswith("from the beginning")
    assert outcome.verdict.dead, "nobody was declared dead, though one was stopped for too long"
    assert outcome.waits[0].seconds < LONGEST_WAIT, outcome.waits[:5]


FORGETFUL = """
import zlib
from luigi_spanner.graph.graph import Graph

forgotten = set()
add_task = Graph.add_task

def forget(self, *, task_id, status="PENDING", **arguments):
    if status == "DONE" and zlib.crc32(task_id.encode()) % 10 == 0 and task_id not in forgotten:
        forgotten.add(task_id)
    else:
        add_task(self, task_id=task_id, status=status, **arguments)

Graph.add_task = forget
"""
"""A replica with a bug: of every tenth task it acknowledges the first report of success, and does not take note of it."""


@pytest.mark.slow
@pytest.mark.emulator
def test_a_replica_that_forgets_what_it_acknowledged_is_noticed(tmp_path: Path) -> None:
    """The same run without the bug passes, so it is the bug that is seen."""
    required()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(FORGETFUL)
    assert {violation.partition(":")[0] for violation in calm(tmp_path / "run", broken)} == {"doubled"}


def calm(directory: Path, source: Path | None) -> list[str]:
    """What is wrong with a short run without any faults."""
    tempo = replace(SMOKE, seconds=1)
    environment = chaosrun.prepare(directory, tempo)
    fleet = Fleet(directory=directory, environment=environment, emulator=Emulator(), skews=[None] * REPLICAS, source=source)
    size = Size(gangs=1, members=3, pace=1)
    return chaosrun.run(fleet, lambda crew, began: chaosrun.Calm(), tempo, size).verdict.violations


def test_a_seed_gives_one_plan() -> None:
    assert plan(7, long_run(20), PLACES) == plan(7, long_run(20), PLACES)
    assert plan(7, long_run(20), PLACES) != plan(8, long_run(20), PLACES)
    assert skews(7) == skews(7) != skews(8)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("tempo", [SMOKE, long_run(20)], ids=["short", "long"])
def test_a_plan_keeps_to_what_it_promises(tempo: faultplan.Tempo, seed: int) -> None:
    faults = plan(seed, tempo, PLACES)
    assert {fault.kind for fault in faults} == set(Kind)
    assert all(fault.at + fault.seconds <= tempo.seconds for fault in faults)
    assert all(abs(fault.amount) <= SKEW_SECONDS for fault in faults if fault.kind is Kind.CLOCK_STEP)
    of_replicas = [fault for fault in faults if fault.kind not in FOR_ALL | OF_WORKERS]
    assert all(len(hit(of_replicas, fault.at)) < REPLICAS for fault in of_replicas)
    assert all(fault.seconds < tempo.silence / 2 for fault in faults if fault.kind in FOR_ALL)


def hit(faults: list[Fault], moment: float) -> set[int]:
    """The replicas on which there is a fault at that time."""
    return {fault.target for fault in faults if fault.at <= moment < fault.at + fault.seconds}


def test_the_documented_balancer_is_the_one_that_is_tried(tmp_path: Path) -> None:
    if balancer.find() is None:
        required()
    document = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    (shown,) = [block for block in document.split("```") if "option abortonclose" in block]
    (tmp_path / "haproxy.cfg").write_text(shown)
    checked = subprocess.run([balancer.program(), "-c", "-f", str(tmp_path / "haproxy.cfg")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    tried = {line.strip() for line in balancer.CONFIGURATION.replace("{{", "{").replace("}}", "}").splitlines()}
    told = {line.partition(" #")[0].strip() for line in shown.splitlines()}
    assert {line for line in told - tried if not line.startswith(("server", "bind"))} == set()


def test_a_clock_is_wrong_and_can_be_set(tmp_path: Path) -> None:
    if skew.find() is None:
        required()
    clock = skew.Skew(tmp_path / "clock", 100.0)
    with subprocess.Popen(
        [sys.executable, "-c", "import sys, time\nfor _ in sys.stdin: print(time.time(), time.monotonic(), flush=True)"],
        env={**os.environ, **clock.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert errors(process) == pytest.approx((100.0, 0.0), abs=2)
            clock.set(-50.0)
            wait_until(lambda: errors(process)[0] < 0, 10, "the clock is set")
            assert errors(process) == pytest.approx((-50.0, 0.0), abs=2)
        finally:
            process.kill()


def errors(process: subprocess.Popen[str]) -> tuple[float, float]:
    """By how much the process's clock, and its monotonic clock, differ from ours."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    told, monotonic = map(float, process.stdout.readline().split())
    return told - time.time(), monotonic - time.monotonic()
