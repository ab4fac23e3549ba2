"""A clock that no setting of the machine's clock moves at once (I6): Luigi's rules compare times, and a minute that passes in an
instant makes every worker look dead."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

RATE = 0.1
"""How much faster or slower than time the clock goes while it comes to where the machine's has been set. A worker that has to be
silent for a minute is then taken for dead after 54 s or 66."""


class SteadyClock:
    """Seconds since the epoch: what `clock()` says at first, and from then on as `ticks()` counts seconds.

    Where the two come apart by more than `bound` seconds the machine's clock was set, and this one follows it slowly; by less, it
    follows at once. After `hold` it does not follow any more: a store that keeps time tells what it is.
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
            self._follow(self._clock() - self._time, RATE * elapsed)
        return self._time

    def _follow(self, gap: float, step: float) -> None:
        apart = abs(gap) > self._bound
        if apart and not self._apart:
            logger.warning("This machine's clock was set by %+.1f s; the rules' clock follows it slowly", gap)
        self._apart = apart
        self._time += math.copysign(min(abs(gap), step), gap) if apart else gap

    def hold(self) -> None:
        """Go on without the machine's clock."""
        self._held = True


def machine_ticks() -> float:
    """Seconds that have passed since some time, those included in which the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
