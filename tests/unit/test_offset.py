"""The rules' clock (I6)."""

from __future__ import annotations

import pytest

from luigi_spanner.offset import Offset


def test_a_clock_that_is_about_right_is_left_alone() -> None:
    offset = Offset(lambda: 100.0, bound=5.0)
    offset.measure(at=103.0, sent=100.0, received=100.2)
    assert offset.seconds == pytest.approx(2.9)
    assert offset.now() == 100.0


def test_a_clock_a_minute_ahead_is_corrected_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    offset = Offset(lambda: 160.0, bound=5.0)
    for _ in range(3):
        offset.measure(at=100.0, sent=159.9, received=160.1)
    assert offset.now() == pytest.approx(100.0)
    assert caplog.text.count("clock") == 1


def test_one_slow_commit_does_not_move_the_clock() -> None:
    offset = Offset(lambda: 100.0, bound=5.0)
    offset.measure(at=100.0, sent=100.0, received=100.0)
    offset.measure(at=100.0, sent=100.0, received=120.0)
    assert not offset.exceeded


def test_a_store_without_a_clock_measures_nothing() -> None:
    offset = Offset(lambda: 100.0, bound=5.0)
    offset.measure(at=None, sent=0.0, received=0.0)
    assert offset.now() == 100.0
