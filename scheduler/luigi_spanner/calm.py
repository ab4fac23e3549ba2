"""Calm: when the rows that the tables owe may be written, since nobody waits for them and they must hold up nobody."""

from __future__ import annotations

import math
from collections.abc import Callable

from luigi_spanner.turns import Turns

QUIET_SECONDS = 2.0
"""After how long without another replica's entry the rows that it left are written by whoever notices."""

CALM_SECONDS = 0.05
"""How long nobody must have called for the rows that the tables owe to be written: several times what a worker takes between
two calls."""

REST_TIMES = 3
"""For how many times its duration a replica rests after a commit of rows alone: others' commits then find the journal free."""


class Calm:
    """Looks for a calm moment. `used` is when a batch was last answered; `clock()` gives seconds."""

    def __init__(self, turns: Turns, clock: Callable[[], float]) -> None:
        self._turns = turns
        self._clock = clock
        self.used = -math.inf
        self._flushed = -math.inf
        self._rest = CALM_SECONDS

    def flushed(self, began: float, possible: bool) -> None:
        """Rows were written just now, or could not be; that began at `began`."""
        self._flushed = self._clock()
        self._rest = max(CALM_SECONDS, REST_TIMES * (self._flushed - began)) if possible else QUIET_SECONDS

    def wait(self) -> float:
        """Seconds until rows may be written for which nobody waits: nobody calls, others' commits find the journal free, and what
        another replica left is its own to write unless it is quiet."""
        return max(self._left(self.used, CALM_SECONDS), self._left(self._flushed, self._rest), self.foreign_wait())

    def foreign_wait(self) -> float:
        """Seconds until no other replica has committed for long."""
        return self._left(self._turns.foreign, QUIET_SECONDS)

    @property
    def in_use(self) -> bool:
        """Whether somebody called a moment ago and will probably call again in a moment."""
        return self._left(self.used, CALM_SECONDS) > 0

    def _left(self, since: float, seconds: float) -> float:
        """What is left of so many seconds since then; 0 also if the clock was set back meanwhile."""
        left = since + seconds - self._clock()
        return left if 0 < left <= seconds else 0.0
