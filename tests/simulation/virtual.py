"""An event loop with virtual time and processes: nothing waits, and the same dice give the same run.

When nothing is ready, time jumps to the next timer. Every callback belongs to the process in whose context it was scheduled. A
process that is frozen runs nothing, and all that comes meanwhile in order once it thaws; one that is dead never runs again, so it
ends between any two of its steps. Processes share the one thread in an order that the dice choose; each keeps its own order.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import random
from collections.abc import Callable, Coroutine
from typing import Any

MOST_STEPS = 400_000
"""Steps of one run: a hundred times what one takes."""


_process: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


class Process:
    """Whoever runs on its own. `context` marks what belongs to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.parked: list[asyncio.Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(_process.set, self)


OUTSIDE = Process("outside")
"""The store, the network and the clients: they neither freeze nor die."""


class Stalled(Exception):
    """Nothing is ready and no timer is set, or the run does not end."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See above. `dice` chooses whose turn it is."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__()
        self._now = 0.0
        self._dice = dice
        self._steps = 0
        self._clock_resolution = 0.0

    def time(self) -> float:
        """Seconds since the run began."""
        return self._now

    def thaw(self, process: Process) -> None:
        """Let a process go on."""
        process.frozen = False
        parked, process.parked = process.parked, []
        self._ready.extend(parked)

    def later(self, seconds: float, run: Callable[..., object], *arguments: Any, by: Process = OUTSIDE) -> None:
        """Let a process run something."""
        self.call_later(seconds, run, *arguments, context=by.context)

    def spawn(self, process: Process, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of a process."""
        return process.context.copy().run(self.create_task, coroutine)

    def _run_once(self) -> None:
        if not self._ready:
            self._jump()
        while self._scheduled and self._scheduled[0].when() <= self._now:
            self._ready.append(heapq.heappop(self._scheduled))
        for _ in range(len(self._ready)):
            handle = self._pick()
            if handle is None:
                break
            if not handle.cancelled():
                self._run_handle(handle)

    def _jump(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if not self._scheduled:
            raise Stalled("nothing will ever happen again")
        self._now = max(self._now, self._scheduled[0].when())

    def _pick(self) -> asyncio.Handle | None:
        """The first handle of a random process among those that have any."""
        ready = self._ready
        if not ready:
            return None
        chosen = 0
        if len(ready) > 1:
            process = _owner(ready[int(self._dice.random() * len(ready))])
            chosen = next(place for place, handle in enumerate(ready) if _owner(handle) is process)
        handle = ready[chosen]
        del ready[chosen]
        return handle

    def _run_handle(self, handle: asyncio.Handle) -> None:
        process = _owner(handle)
        if process.dead:
            return
        if process.frozen:
            process.parked.append(handle)
            return
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise Stalled("it does not come to an end")
        handle._run()

    def _process_events(self, event_list: Any) -> None:
        """There are none: nothing here does I/O."""

    def _write_to_self(self) -> None:
        """Nothing waits in a selector."""


def _owner(handle: asyncio.Handle) -> Process:
    process: Process = handle._context.get(_process, OUTSIDE)  # type: ignore[attr-defined]
    return process


def current() -> Process:
    """Whose step this is."""
    return _process.get(OUTSIDE)
