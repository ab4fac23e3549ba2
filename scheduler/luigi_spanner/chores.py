"""The chores of a replica: what nobody calls for and somebody has to do. Whichever replica is due does them for all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from luigi_spanner.calls import CallError, StoreDown, TooLarge
from luigi_spanner.graph.graph import Graph
from luigi_spanner.history import EXPIRED_AT_ONCE, Source
from luigi_spanner.membership import Membership
from luigi_spanner.replica import Replica
from luigi_spanner.stores import StoreError
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
"""How often it is looked what is due, and how old an idle replica's last contact with the store gets."""

EXPIRE_SECONDS = 60.0
"""How often expired rows of the history are looked for."""


class Chores:
    """`call(rule, **arguments)` runs a rule like any call, `clock()` gives seconds since the epoch, `each_tick` runs as often as
    the chores do. `flushed` is when others were last told what they need to know of workers' lives."""

    def __init__(
        self,
        *,
        replica: Replica,
        graph: Graph,
        membership: Membership,
        source: Source | None,
        call: Callable[..., Awaitable[bytes]],
        clock: Callable[[], float],
        each_tick: Callable[[], object],
    ) -> None:
        self._replica = replica
        self._graph = graph
        self._membership = membership
        self._source = source
        self._call = call
        self._clock = clock
        self._each_tick = each_tick
        self._expired = clock()
        self.flushed = clock()

    async def run(self) -> None:
        """Do them until the replica can serve no more."""
        while self._replica.failure is None:
            await asyncio.sleep(TICK_SECONDS)
            try:
                self._each_tick()
                await self._do()
            except StoreDown:
                logger.debug("The store has not answered for %.0f s", self._clock() - self._replica.contact)
            except (CallError, StoreError) as error:
                # The next round tries again. Of a rule's failure the log has more.
                logger.warning("A chore failed: %s", error)
            except Exception as error:  # No thread, no file: who does the chores must not end for it.
                logger.error("A chore failed", exc_info=without_words(error))

    async def _do(self) -> None:
        """Beat, replicate liveness, prune; else see what others have done."""
        await self._membership.stay()
        if self._graph.liveness_due():
            await self._call(self._graph.flush_liveness)
        # What a batch under way would replicate is not replicated yet, and may never be.
        self.flushed = self._replica.settled
        if self._graph.prune_due():
            await self._prune()
        if self._clock() - self._replica.contact >= TICK_SECONDS:
            await self._call(follow)
        if self._source is not None and self._source.expires and self._clock() - self._expired >= EXPIRE_SECONDS:
            await self.expire(self._source)

    async def _prune(self) -> None:
        try:
            await self._call(self._graph.prune_if_due)
        except TooLarge:
            self._graph.prune_less()
            raise
        self._graph.prune_more()

    async def expire(self, source: Source) -> None:
        """Delete some of what is older than it is kept; the next look comes soon if there is more. Raises StoreError."""
        before = self._graph.now() - self._graph._state.history.keep
        count = await source.reading(lambda: source.expire(before, EXPIRED_AT_ONCE))
        if count < EXPIRED_AT_ONCE:
            self._expired = self._clock()


def follow() -> None:
    """A call that reads nothing: answering it takes a look at the journal's head."""
