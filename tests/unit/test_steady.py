"""The steady clock (I6): setting the machine's clock moves it slowly, or not at all."""

from __future__ import annotations

import pytest

from luigi_spanner.offset import Offset
from luigi_spanner.steady import MOST_SECONDS, RATE, SteadyClock, machine_ticks

BOUND = 5.0


class Machine:
    """A clock that can be set, and ticks that cannot."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.ticked = 50.0
        self.steady = SteadyClock(lambda: self.wall, lambda: self.ticked, BOUND)

    def wait(self, seconds: float) -> float:
        self.wall += seconds
        self.ticked += seconds
        return self.steady()


def test_it_goes_as_the_machine_does() -> None:
    machine = Machine()
    assert machine.wait(0) == 1_000_000.0
    assert machine.wait(12.5) == 1_000_012.5


@pytest.mark.parametrize("step", [BOUND, -BOUND, 0.5, MOST_SECONDS + 1, -MOST_SECONDS - 1, 1.8e9])
def test_little_is_followed_at_once_and_so_is_a_machine_that_had_no_time(step: float) -> None:
    machine = Machine()
    machine.wall += step
    assert machine.wait(1) == machine.wall


@pytest.mark.parametrize("step", [60.0, -60.0, 3000.0])
def test_a_step_is_followed_slowly_and_told_once(step: float, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    machine.wall += step
    assert machine.steady() == 1_000_000.0
    assert machine.wait(10) == pytest.approx(1_000_010.0 + (1 if step > 0 else -1) * 10 * RATE)
    waited = 10.0
    while abs(machine.steady() - machine.wall) > 0.001:
        before = machine.steady()
        assert 0 < machine.wait(1) - before < 2 + BOUND
        waited += 1
    assert waited == pytest.approx((abs(step) - BOUND) / RATE, rel=0.05)
    assert caplog.text.count("was set by") == 1


def test_it_is_told_again_when_the_clock_is_set_again(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    for times in (1, 2):
        machine.wall += 60.0
        while abs(machine.steady() - machine.wall) > 0.001:
            machine.wait(10)
        assert caplog.text.count("was set by") == times


def test_a_store_that_keeps_time_tells_it() -> None:
    machine = Machine()
    offset = Offset(machine.steady, BOUND)
    offset.measure(at=machine.wall, sent=machine.steady(), received=machine.steady())
    machine.wall += 3600
    assert machine.wait(100) == offset.now() == 1_000_100.0
    assert machine.wait(1000) == 1_001_100.0


def test_ticks_that_go_back_do_nothing() -> None:
    machine = Machine()
    machine.ticked -= 10
    assert machine.wait(0) == 1_000_000.0


def test_the_machine_has_such_ticks() -> None:
    assert machine_ticks() <= machine_ticks()
