"""Readers: calls that list tasks, answered beside the calls of workers and never before them.

A listing of 100,000 tasks is a second of work. What it needs of each task is made in slices on the event loop, unless it is there
from the last time; one call of the commit loop then takes all of it at one moment; a thread makes the reply.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from luigi_spanner.calls import Call, CallError, RuleFailed, StoreDown
from luigi_spanner.graph.listings import FEW, Listings, Render
from luigi_spanner.journal import compact
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

SLICE_SECONDS = 0.001
"""How long fragments are made at a stretch, and then as long not: a worker's call comes to the event loop some five times and
may find it taken each time."""

TRIES = 3
"""How often a listing goes after what has changed meanwhile, before it makes the rest at once."""

MOST = 12
"""How many listings are under way together: the visualiser asks ten questions at once. At 100,000 tasks each may hold 12 MB that
it has taken, besides its reply."""

QUIET_SECONDS = 300.0
"""After how long without a listing the memory for them is given back: whoever works with the visualiser asks more often."""

STOPPING = "this replica is stopping"

Submit = Callable[[Call, Callable[..., None]], Awaitable[object]]
"""Lets the commit loop run a rule for a call. Raises CallError."""


@dataclass(eq=False, slots=True)
class _Visit:
    """Callers that ask the same thing and get one reply."""

    call: Call
    callers: list[Call] = field(default_factory=list)
    reply: asyncio.Task[bytes] | None = None

    @property
    def abandoned(self) -> bool:
        return all(caller.abandoned for caller in self.callers)


class Readers:
    """Answers listings. `submit` as in `Submit`, `clock()` gives seconds."""

    def __init__(self, listings: Listings, submit: Submit, clock: Callable[[], float]) -> None:
        self._listings = listings
        self._submit = submit
        self._clock = clock
        self._asked = math.inf
        self._stopping = False
        self._waiting: dict[str, _Visit] = {}
        self._admission = asyncio.Semaphore(MOST)
        self._filling = asyncio.Lock()
        self._taking = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="listings")

    async def answer(self, call: Call) -> bytes:
        """The reply to a listing, as JSON; whoever asks the same before it is taken shares it. Raises CallError."""
        question = f"{call.method} {compact(call.arguments)}"
        visit = self._waiting.get(question)
        if visit is None:
            shared = replace(call, abandoned=False)
            visit = self._waiting[question] = _Visit(shared)
            visit.reply = asyncio.create_task(self._answer(visit, question), name=f"listing {call.method}")
            # All who asked may have been cancelled: then nobody else looks at what went wrong.
            visit.reply.add_done_callback(lambda reply: reply.cancelled() or reply.exception())
        visit.callers.append(call)
        assert visit.reply is not None
        try:
            # Not `shield`, which would not tell whether the caller is cancelled or the reply.
            await asyncio.wait({visit.reply})
        except asyncio.CancelledError:
            visit.callers.remove(call)
            raise
        if visit.reply.cancelled():
            raise StoreDown(STOPPING)
        return visit.reply.result()

    def forget(self) -> None:
        """Give memory back if nobody has listed anything for long."""
        if not self._taking and self._clock() - self._asked > QUIET_SECONDS:
            self._asked = math.inf
            self._listings.clear()

    def stop(self) -> None:
        """Begin nothing more; replies that wait for the thread are cancelled."""
        self._stopping = True
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, visit: _Visit, question: str) -> bytes:
        async with self._admission:
            try:
                render = await self._take(visit, question)
                self._go_on(visit)
                return await asyncio.get_running_loop().run_in_executor(self._thread, render)
            except CallError:
                raise
            except Exception as error:  # A rule may raise anything, and so may what it has left to the thread.
                message, words = "Listing %s of request %s failed", (visit.call.method, visit.call.request_id)
                logger.error(message, *words, exc_info=without_words(error), extra={"request_id": visit.call.request_id})
                raise RuleFailed(f"{visit.call.method} failed; the log has request {visit.call.request_id}") from error

    async def _take(self, visit: _Visit, question: str) -> Render:
        """What makes the reply, from one moment after the call began."""
        self._asked = self._clock()
        self._taking += 1
        try:
            for few in (*[FEW] * TRIES, math.inf):
                await self._fill(visit)
                # Who comes from now on must be told of what has happened meanwhile (I1).
                if self._waiting.get(question) is visit:
                    del self._waiting[question]
                render = await self._run(visit, few)
                if render is not None:
                    return render
            raise AssertionError("the last rule makes every fragment")
        finally:
            if self._waiting.get(question) is visit:
                del self._waiting[question]
            self._taking -= 1
            if not self._taking:
                self._listings.trim()

    async def _fill(self, visit: _Visit) -> None:
        """Make what fragments are missing, in slices."""
        async with self._filling:
            missing = self._listings.missing(visit.call.method, visit.call.arguments)
            while len(missing) > FEW:
                self._go_on(visit)
                self._listings.fill(missing, SLICE_SECONDS)
                await asyncio.sleep(SLICE_SECONDS)
        self._go_on(visit)

    async def _run(self, visit: _Visit, few: float) -> Render | None:
        taken: list[Render | None] = []
        rule = partial(getattr(self._listings, visit.call.method), few)
        await self._submit(visit.call, lambda **arguments: taken.append(rule(**arguments)))
        # A batch that has lost runs again.
        return taken[-1]

    def _go_on(self, visit: _Visit) -> None:
        """Raises StoreDown if nobody waits for the reply any more, or the replica is stopping."""
        if self._stopping or visit.abandoned:
            raise StoreDown(STOPPING if self._stopping else "the caller has gone")
