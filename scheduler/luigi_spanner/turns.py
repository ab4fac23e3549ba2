"""Turns: busy replicas commit one after the other, in the order in which they asked for it in the journal (I14).

A commit is the same race for everybody, but a loser must first catch up, so a busy winner wins again. Therefore a replica
that meets others in the journal asks for its next turn with each entry that it commits, and gives way to those who asked
before it. One that is not heard, because it never wins, asks with entries that say nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from luigi_spanner.journal import Entry, encode
from luigi_spanner.stores import Committed, Store

logger = logging.getLogger(__name__)

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

REQUEST = "+"
TRY = "."
"""What follows the id of a turn in the commit ids of its requests and of its batch's tries."""

TURNS_KEPT = 8
"""Of each replica: turns that it has had lately. A request for one of these has landed too late and says nothing."""

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
        self._had: dict[str, deque[str]] = {}
        self.foreign = float("-inf")

    def seen(self, entry: Entry) -> None:
        """Take note of an entry in journal order, our own too."""
        now = self._clock()
        if entry.replica != self._name:
            self.foreign = now
        if entry.only_asks:
            if entry.commit_id.partition(REQUEST)[0] in self._had.get(entry.replica, ()):
                return  # the batch that it was sent for has won after all
            # Whoever has a place keeps it, and gets the time of one who has lost.
            request = self._requests.setdefault(entry.replica, _Request(entry.replica, 0.0, now, True))
            request.grace, request.since, request.by_itself = GRACE_SECONDS, now, True
            return
        self._requests.pop(entry.replica, None)
        self._had.setdefault(entry.replica, deque(maxlen=TURNS_KEPT)).append(entry.commit_id.partition(TRY)[0])
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
        self._drop_stale()
        ours = self._requests.get(self._name)
        if ours is None or not ours.by_itself:
            # A place among those who take turns protects the second try.
            return losses >= (1 if ours is None else 2)
        return losses > 0 and not 0 <= self._clock() - ours.since < GRACE_SECONDS

    def before_ours(self) -> list[_Request]:
        """The requests to give way to, first the one whose turn it is. A later one need not be waited for, and who has no place
        among those who take turns gives way to losers only: the others do not know that it waits."""
        self._drop_stale()
        found = []
        for request in self._requests.values():
            if request.replica == self._name:
                break
            if request.by_itself or self._name in self._requests:
                found.append(request)
        return found

    def _drop_stale(self) -> None:
        now = self._clock()
        for request in list(self._requests.values()):
            if not 0 <= now - request.since < STALE_SECONDS:
                del self._requests[request.replica]

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
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, turn: str, attempt: int, first: int, numbers: int) -> Sent:
        """Ask for that turn at so many numbers from `first` on, without waiting."""
        sent = Sent()
        numbers = min(numbers, MOST_NUMBERS)
        requests = [self._request(f"{turn}{REQUEST}{attempt}.{number}", first + number) for number in range(numbers)]
        sent.tasks = [asyncio.create_task(self._send(request, sent), name="request for a turn") for request in requests]
        self._sending.update(sent.tasks)
        for task in sent.tasks:
            task.add_done_callback(self._sending.discard)
        return sent

    async def commit(self, turn: str, seq: int) -> None:
        """Ask at one number, for whoever has no event loop to send more."""
        await self._store.commit(seq, self._request(f"{turn}{REQUEST}", seq), ())

    async def _send(self, request: Entry, sent: Sent) -> None:
        if sent.needless:
            return
        try:
            if isinstance(await self._store.commit(request.seq, request, ()), Committed):
                sent.landed.append(request)
        except Exception as error:  # Nothing hangs on it: the batch that it was sent with has its own outcome.
            logger.debug("A request for a turn failed: %r", type(error))

    def _request(self, commit_id: str, seq: int) -> Entry:
        nothing = encode([])
        return Entry(
            seq=seq,
            commit_id=commit_id,
            replica=self._name,
            clock=self._now(),
            watermark=0,
            digest="",
            turn=True,
            calls=nothing,
            changes=nothing,
        )


@dataclass(eq=False, slots=True)
class Sent:
    """Requests on their way. `landed`: those that are known to have. `needless`: the batch has won, what has not left yet need
    not."""

    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    landed: list[Entry] = field(default_factory=list)
    needless: bool = False

    async def known(self, seconds: float) -> list[Entry]:
        """What has landed, in order, as far as it is known after so many seconds."""
        await asyncio.wait(self.tasks, timeout=seconds)
        return sorted(self.landed, key=lambda entry: entry.seq)
