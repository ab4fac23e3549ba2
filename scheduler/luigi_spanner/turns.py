"""Turns: whoever has lost too often asks for one, in the journal, and the others give way (I14).

A commit is the same race for everybody, but a loser must first catch up, so a busy winner wins again. A request is an entry
that says nothing else: it is quick to write, so it wins as easily as any; the others meet it when they next lose or read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from luigi_spanner.journal import Entry

LOSSES = 2
"""After so many lost commits of one batch a replica asks for its turn."""

GRACE_SECONDS = 1.0
"""How long others give way to a request: enough for a slow batch, and what a replica that died meanwhile costs once."""

POLL_SECONDS = 0.005
"""How often one who gives way looks whether the turn was taken."""


class Turns:
    """The requests in the journal that have not been taken, oldest first. `name` is our replica, `clock()` gives seconds."""

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._requests: dict[str, float] = {}

    def seen(self, entry: Entry) -> None:
        """Take note of an entry in journal order, our own too."""
        if entry.turn:
            self._requests.setdefault(entry.replica, self._clock() + GRACE_SECONDS)
        else:
            self._requests.pop(entry.replica, None)

    def asks_after(self, losses: int) -> bool:
        """Whether it is time to ask: lost often enough, and no request of ours stands."""
        return losses >= LOSSES and self._name not in self._requests

    def _others_turn(self) -> bool:
        now = self._clock()
        for replica, until in list(self._requests.items()):
            if until < now:
                del self._requests[replica]
        return next(iter(self._requests), self._name) != self._name

    async def await_ours(self, sleep: Callable[[float], Awaitable[None]], look: Callable[[], Awaitable[object]]) -> None:
        """Give way until the requests before ours are taken or have run out; `look()` reads the journal."""
        while self._others_turn():
            await sleep(POLL_SECONDS)
            await look()
