"""The clock of the rules: the replica's own, corrected only when it is plainly wrong (I6)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from luigi_spanner.steady import SteadyClock

logger = logging.getLogger(__name__)

SMOOTHING = 0.1
"""Weight of a new measurement: one slow commit does not move the clock."""


class Offset:
    """How far the replica's clock is behind the store's commit timestamps, in seconds.

    Beyond `bound` the rules' clock is corrected by it; below, clocks are as good as machines keep them. `known`: a commit has
    told it, or that the store keeps no time.
    """

    def __init__(self, clock: Callable[[], float], bound: float) -> None:
        self._clock = clock
        self._bound = bound
        self._warned = False
        self.seconds = 0.0
        self._measured = False
        self.known = False

    def measure(self, at: float | None, sent: float, received: float) -> None:
        """A commit sent and answered at these times by our clock happened at `at` by the store's; None: it keeps no time."""
        self.known = True
        if at is None:
            return
        if not self._measured and isinstance(self._clock, SteadyClock):
            self._clock.hold()
        # True to half the round trip: the commit happened somewhere in between.
        found = at - (sent + received) / 2
        self.seconds = self.seconds + SMOOTHING * (found - self.seconds) if self._measured else found
        self._measured = True
        if self.exceeded and not self._warned:
            logger.warning(
                "This machine's clock is off by %.1f s from the store's; the rules run on corrected time", self.seconds
            )
        self._warned = self.exceeded

    @property
    def exceeded(self) -> bool:
        """Whether the clock is so far off that it is corrected."""
        return abs(self.seconds) > self._bound

    def now(self) -> float:
        """Seconds since the epoch, for the rules."""
        return self._clock() + (self.seconds if self.exceeded else 0.0)
