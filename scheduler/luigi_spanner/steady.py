"""A clock that no setting of the machine's clock moves at once (I6): Luigi's rules compare times, and a minute that passes in an
instant makes every worker look dead."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

MOST_SECONDS = 3600.0
"""Beyond that a clock that was set is followed at once: a machine that had no time at all must not be wrong for days."""

RATE = 0.1
"""How much faster or slower than time the clock goes while it comes to where the machine's has been set. A worker that has to be
silent for a minute is then taken for dead after 54 s or 66."""


class SteadyClock:
    """Seconds since the epoch: what `clock()` says at first, and from then on as `ticks()` counts seconds.

    Where the two come apart by more than `bound` seconds, and not by more than MOST_SECONDS, the machine's clock was set, and
    this one follows it slowly; else it follows at once. After `hold` it does not follow any more: the store tells the time.
    """

    def __init__(self, clock: Callable[[], float], ticks: Callable[[], float], bound: float) -> None:
        self._clock = clock
        self._ticks = ticks
        self._bound = bound
        self._held = False
        self._apart = False
        self._last = ticks()
        self._time = clock()

    def __call__(self) -> float:
        ticks = self._ticks()
        elapsed, self._last = max(0.0, ticks - self._last), ticks
        self._time += elapsed
        if not self._held:
            clock = self._clock()
            gap = clock - self._time
            if -self._bound <= gap <= self._bound:
                # So it nearly always is, and a committed call asks some twenty times.
                self._time, self._apart = clock, False
            else:
                self._follow(gap, RATE * elapsed)
        return self._time

    def _follow(self, gap: float, step: float) -> None:
        """Follow the machine's clock over a gap beyond the bound: by that step at most, if it was set."""
        apart = abs(gap) <= MOST_SECONDS
        if apart and not self._apart:
            logger.warning("This machine's clock was set by %+.1f s; the rules' clock follows it slowly", gap)
        elif abs(gap) > MOST_SECONDS:
            logger.warning("This machine's clock was set by %+.1f s, and the rules' clock with it", gap)
        self._apart = apart
        self._time += math.copysign(min(abs(gap), step), gap) if apart else gap

    def hold(self) -> None:
        """Go on without the machine's clock."""
        self._held = True


# Elsewhere than on Linux the second one counts while the machine sleeps, and Python's own monotonic clock does not.
_CLOCK_ID = time.CLOCK_BOOTTIME if hasattr(time, "CLOCK_BOOTTIME") else time.CLOCK_MONOTONIC


def machine_ticks() -> float:
    """Seconds that have passed since some time, those included in which the machine slept."""
    return time.clock_gettime(_CLOCK_ID)
