"""Reach: whether the store does what it is asked. One line in the log when it stops to, one when it does again."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Reach:
    """The store as far as one kind of question goes. `clock()` gives seconds since the epoch, `again` says that all is well.

    `lost` is since when it fails, None while it does not.
    """

    def __init__(self, clock: Callable[[], float], again: str) -> None:
        self._clock = clock
        self._again = again
        self._said = ""
        self.lost: float | None = None

    def fails(self, what: str, why: object, since: float | None = None) -> None:
        """It has failed once more, the first time since then or since now. Whoever tries again and again is told once, and again
        when the reason is another."""
        if self.lost is None:
            self.lost = self._clock() if since is None else since
        news = str(why) != self._said
        self._said = str(why)
        logger.log(logging.WARNING if news else logging.DEBUG, "%s: %s", what, why)

    def works(self) -> None:
        """It has done what it was asked."""
        if self.lost is not None:
            logger.info("%s, after %.1f s", self._again, max(0.0, self._clock() - self.lost))
            self.lost, self._said = None, ""
