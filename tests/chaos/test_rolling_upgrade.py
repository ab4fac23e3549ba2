"""A rolling upgrade and a rolling rollback under load: the previous release and this one serve one namespace together."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import chaosrun
import previous
import pytest
from faultplan import REPLICAS, SMOKE, Fault, Kind
from fleet import Fleet, Replica
from outcome import Size

from emulator import Emulator

pytestmark = [pytest.mark.slow, pytest.mark.emulator]

SIZE = Size(gangs=2, members=3, pace=6)

TRACEBACK = "Traceback (most recent call last):"

PAUSE = 2.0
"""How long each mixture of releases serves."""


@dataclass(kw_only=True)
class Relay:
    """Replaces one replica after the other: each step names a replica and the source root that it is to run from."""

    fleet: Fleet
    steps: list[tuple[int, Path | None]]
    happened: list[tuple[Fault, float, float]] = field(default_factory=list)
    _leaving: tuple[Replica, float] | None = None
    _next: float = 0.0

    @property
    def over(self) -> bool:
        return not self.steps and self._leaving is None

    def look(self) -> None:
        """Take the next step once the last one is done and has served for a while."""
        if self._leaving is not None:
            self._arrive(*self._leaving)
        elif self.steps and time.monotonic() >= self._next:
            number, _ = self.steps[0]
            self.fleet.replicas[number].terminate()
            self._leaving = (self.fleet.replicas[number], time.monotonic())

    def _arrive(self, replica: Replica, began: float) -> None:
        if replica.down:
            replica.source = self.steps[0][1]
            replica.start()
        elif not replica.stopping and not replica.opening:
            self.steps.pop(0)
            self._leaving = None
            self._next = time.monotonic() + PAUSE
            fault = Fault(at=began, kind=Kind.RESTART, target=replica.number)
            self.happened.append((fault, began, time.monotonic()))


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source root of the previous release."""
    lacking = chaosrun.missing()
    source = None if lacking else previous.source_root(tmp_path_factory.mktemp("previous") / "release")
    if source is not None:
        return source
    reason = lacking or previous.HOW_TO_GET_IT
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def test_the_previous_release_is_another_one(old: Path) -> None:
    assert previous.imported_from(old) == old
    assert previous.imported_from(None) != old


def test_releases_serve_together_while_replicas_are_replaced_and_put_back(old: Path, tmp_path: Path) -> None:
    tempo = replace(SMOKE, seconds=0)
    directory = tmp_path / "run"
    fleet = Fleet(
        directory=directory,
        environment=chaosrun.prepare(directory, tempo),
        emulator=Emulator(fault_injection=True),
        skews=[None] * REPLICAS,
        source=old,
    )
    forth = [(number, None) for number in range(REPLICAS)]
    back = [(number, old) for number in reversed(range(REPLICAS))]
    relay = Relay(fleet=fleet, steps=[*forth, *back, (0, None)])

    def weather(crew: object, began: float) -> Relay:
        fleet.migrate(None)  # as docs/operations.md has it: with the new release, while the old one serves
        return relay

    outcome = chaosrun.run(fleet, weather, tempo, SIZE)
    print(f"the last replica was replaced after {relay.happened[-1][2] - outcome.began:.1f} s")
    # The previous release wrote tracebacks of calls that it then answered well: noise in a log is not what this is about.
    violations = [violation for violation in outcome.verdict.violations if not violation.endswith(TRACEBACK)]
    assert violations == [], f"logs are in {directory}"
    assert outcome.verdict.dead == []
    assert len(relay.happened) == len(forth) + len(back) + 1
    served = Counter(request.server for request in outcome.verdict.requests if request.answered)
    assert all(served[f"replica{number}"] > 100 for number in range(REPLICAS)), served
