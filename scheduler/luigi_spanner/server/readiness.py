"""Readiness as the log tells it: a line when what probes are told becomes another, and none for each probe."""

from __future__ import annotations

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)


class Readiness:
    """What `/readyz` said last."""

    def __init__(self) -> None:
        self._reasons: tuple[str, ...] | None = None

    def tell(self, reasons: Sequence[str]) -> None:
        """It says that the replica is ready, without reasons, or why it is not."""
        before, self._reasons = self._reasons, tuple(reasons)
        if before == self._reasons:
            return
        if reasons:
            logger.warning("This replica is not ready: %s", " ".join(reasons))
        elif before is not None:
            logger.info("This replica is ready again")
        else:
            logger.info("This replica is ready")
