"""What the log says of a store that fails: when it begins, when the reason changes, when it is over."""

from __future__ import annotations

import logging

import pytest

from luigi_spanner.reach import Reach


def test_once_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    reach = Reach(lambda: now, "The store answers again")
    with caplog.at_level(logging.INFO):
        reach.works()
        for reason in ("refused", "refused", "reset", "reset", "refused"):
            reach.fails("The store does not answer", reason, since=98.0)
            now += 1
        assert reach.lost == 98.0
        reach.works()
        reach.works()
        assert reach.lost is None
        reach.fails("The store does not answer", "refused")
    assert reach.lost == now
    assert caplog.messages == [
        "The store does not answer: refused",
        "The store does not answer: reset",
        "The store does not answer: refused",
        "The store answers again, after 7.0 s",
        "The store does not answer: refused",
    ]
