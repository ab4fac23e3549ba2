"""Truncation: now and then the journal's oldest entries are forgotten; never beyond the watermark (I9)."""

from __future__ import annotations

import logging

from luigi_spanner.graph.ledger import Ledger
from luigi_spanner.stores import Store, StoreError

logger = logging.getLogger(__name__)

TRUNCATE_EVERY = 1000
"""Entries between two truncations of the journal."""


class Truncation:
    """Truncates the journal that `ledger` follows, down to the newest `keep` entries."""

    def __init__(self, store: Store, ledger: Ledger, keep: int) -> None:
        self._store = store
        self._ledger = ledger
        self._keep = keep
        self._truncated = 0

    async def look(self) -> None:
        """Truncate, if much has come since the last time."""
        before = min(self._ledger.watermark, self._ledger.applied - self._keep)
        if before - self._truncated >= TRUNCATE_EVERY:
            self._truncated = before
            try:
                await self._store.truncate(before)
            except StoreError as error:
                logger.warning("The journal could not be truncated: %s", error)
