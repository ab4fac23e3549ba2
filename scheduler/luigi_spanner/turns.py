"""Turns: busy replicas commit one after the other, in the order in which they asked for it in the journal (I14).

A commit is the same race for everybody, but a loser must first catch up, so a busy winner wins again. Therefore a replica
that meets others in the journal asks for its next turn with each entry that it commits, and gives way to those who asked
before it. One that is not heard, because it never wins, asks with entries that say nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from luigi_spanner.journal import Entry, encode
from luigi_spanner.stores import Committed, Store

GRACE_SECONDS = 1.0
"""How long others give way to one who has lost: enough for a slow batch, and what a replica that died meanwhile costs once."""

GRACE_TURNS = 4
"""How many turns' time, as our own take, others give way to one who asked with its last entry: it must see the entry before its
turn, run its batch and commit it. Whoever has nothing to commit after all costs the others that much, once."""

SHORTEST_GRACE = 0.02
"""Least of it, in seconds: what a process may have to wait for a processor."""

STALE_SECONDS = 5.0
"""A request that has stood for so long says nothing about the present."""

CONTENDED_SECONDS = 2.0
"""How long after another's entry a replica takes the journal for contended."""

SMOOTHING = 0.2
"""Weight of the last turn in what a turn takes."""

POLL_SECONDS = 0.002
"""How long one who gives way rests between two looks at the journal; a look itself takes a round trip."""

SEPARATOR = "+"
"""Between the commit id of a batch and what makes that of a request unique which was sent with it."""

MOST_NUMBERS = 16
"""Most numbers for which one request is sent; each is a commit of a few hundred bytes."""


@dataclass(eq=False, slots=True)
class _Request:
    """A turn that somebody asked for: given `grace` seconds once it is due, and seen at `since`. `by_itself`: by an entry that
    says nothing else."""

    replica: str
    grace: float
    since: float
    by_itself: bool


class Turns:
    """The requests in the journal that have not been taken, oldest first.

    `name` is our replica, `clock()` gives seconds.
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self._name = name
        self._clock = clock
        self._turn_seconds = 0.0
        self._requests: dict[str, _Request] = {}
        self._taken: dict[str, str] = {}
        self.foreign = float("-inf")

    def seen(self, entry: Entry) -> None:
        """Take note of an entry in journal order, our own too."""
        now = self._clock()
        if entry.replica != self._name:
            self.foreign = now
        if entry.only_asks:
            if entry.commit_id.partition(SEPARATOR)[0] == self._taken.get(entry.replica):
                return  # the batch that it was sent with has won after all
            # Whoever has a place keeps it, and gets the time of one who has lost.
            request = self._requests.setdefault(entry.replica, _Request(entry.replica, 0.0, now, True))
            request.grace, request.since, request.by_itself = GRACE_SECONDS, now, True
            return
        self._requests.pop(entry.replica, None)
        self._taken[entry.replica] = entry.commit_id
        if entry.turn:
            grace = min(max(SHORTEST_GRACE, GRACE_TURNS * self._turn_seconds), GRACE_SECONDS)
            self._requests[entry.replica] = _Request(entry.replica, grace, now, False)

    def took(self, seconds: float) -> None:
        """A turn of ours, from the first run of its batch until the commit."""
        if seconds >= 0:
            self._turn_seconds += SMOOTHING * (seconds - self._turn_seconds) if self._turn_seconds else seconds

    @property
    def contended(self) -> bool:
        """Whether others commit too."""
        return 0 <= self._clock() - self.foreign < CONTENDED_SECONDS

    def asks_after(self, losses: int) -> bool:
        """Whether it is time to ask with an entry of its own, once a batch was lost so often."""
        ours = self._requests.get(self._name)
        if ours is None or not ours.by_itself:
            # A place among those who take turns protects the second try.
            return losses >= (1 if ours is None else 2)
        return not 0 <= self._clock() - ours.since < GRACE_SECONDS

    def before_ours(self) -> list[_Request]:
        """The requests to give way to, first the one whose turn it is. A later one need not be waited for, and who has no place
        among those who take turns gives way to losers only: the others do not know that it waits."""
        now = self._clock()
        found = []
        for request in list(self._requests.values()):
            if request.replica == self._name:
                break
            if not 0 <= now - request.since < STALE_SECONDS:
                del self._requests[request.replica]
            elif request.by_itself or self._name in self._requests:
                found.append(request)
        return found

    async def await_ours(self, sleep: Callable[[float], Awaitable[None]], look: Callable[[], Awaitable[object]]) -> None:
        """Give way until the requests before ours are taken or have run out; `look()` reads the journal."""
        for request in self.before_ours():
            until = self._clock() + request.grace
            while self._requests.get(request.replica) is request:
                if not until - request.grace <= self._clock() < until:
                    del self._requests[request.replica]
                    break
                await sleep(POLL_SECONDS)
                await look()


class Requests:
    """Entries that do nothing but ask the others to give way. `now()` gives the time that they carry, in seconds since the epoch.

    A busy rival takes a number in the time from our read of the journal to our commit, and would do so again and again. So a
    request, which depends on nothing, is sent for several numbers at once: as many as were taken in the time of our last try.
    One of them finds itself free and its predecessor taken. However many land, now or later, they say no more than one.
    """

    def __init__(self, name: str, store: Store, now: Callable[[], float]) -> None:
        self._name = name
        self._store = store
        self._now = now
        self._sending: set[asyncio.Task[list[Entry]]] = set()

    def send(self, commit_id: str, first: int, numbers: int) -> asyncio.Task[list[Entry]]:
        """Ask for the batch with that commit id at so many numbers from `first` on, without waiting."""
        sending = asyncio.create_task(self._send(commit_id, first, min(numbers, MOST_NUMBERS)), name="requests for a turn")
        # What nobody waits for may end with a store that was closed.
        sending.add_done_callback(lambda sent: sent.cancelled() or sent.exception())
        sending.add_done_callback(self._sending.discard)
        self._sending.add(sending)
        return sending

    async def landed(self, sending: asyncio.Task[list[Entry]], seconds: float) -> list[Entry]:
        """Those that are known to have landed after so many seconds more, in order."""
        done, _ = await asyncio.wait([sending], timeout=seconds)
        return sending.result() if done else []

    async def commit(self, commit_id: str, seq: int) -> None:
        """Ask at one number, for whoever has no event loop to send more."""
        request = self._request(commit_id, seq, 0)
        await self._store.commit(seq, request, ())

    async def _send(self, commit_id: str, first: int, numbers: int) -> list[Entry]:
        requests = [self._request(commit_id, first + number, number) for number in range(numbers)]
        outcomes = await asyncio.gather(*(self._store.commit(request.seq, request, ()) for request in requests))
        return [request for request, outcome in zip(requests, outcomes, strict=True) if isinstance(outcome, Committed)]

    def _request(self, commit_id: str, seq: int, number: int) -> Entry:
        nothing = encode([])
        return Entry(
            seq=seq,
            commit_id=f"{commit_id}{SEPARATOR}{number}",
            replica=self._name,
            clock=self._now(),
            watermark=0,
            digest="",
            turn=True,
            calls=nothing,
            changes=nothing,
        )
