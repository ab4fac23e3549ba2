"""The service: a replica as a server needs it. Calls are held while the store is away, pings are not; the chores are done."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from luigi import scheduler as luigi_scheduler
from luigi.task_history import NopHistory
from luigi.task_status import PENDING

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import SYSTEM, Call, CallError, Status, StoreDown, UnknownMethod
from luigi_spanner.chores import Chores, follow
from luigi_spanner.graph.graph import NO_MESSAGES, Graph, configured_limits
from luigi_spanner.graph.ledger import Divergence
from luigi_spanner.graph.listings import LISTINGS, Listings
from luigi_spanner.graph.outbox import Mail
from luigi_spanner.history import History, Source
from luigi_spanner.history.places import source_of
from luigi_spanner.ids import random_id, replica_name
from luigi_spanner.mail import MailThread, Postman
from luigi_spanner.membership import Membership, hash_of_rules
from luigi_spanner.methods import is_remote
from luigi_spanner.metrics.page import Bounds, Metrics
from luigi_spanner.readers import Readers
from luigi_spanner.replica import Limits, Replica
from luigi_spanner.steady import SteadyClock, machine_ticks
from luigi_spanner.stores import InvalidStore, Store
from luigi_spanner.stores.location import open_store, parse
from luigi_spanner.tracing import NO_TRACING, Tracing
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

DECLARED_AT_ONCE = 2000
"""Most dependencies that one call makes, about 0.1 s of work (measured)."""

PING_HOLD = 1.0
"""How long a ping that must change something may wait. Workers ping under a lock that their forks take too."""

STATUS_HOLD = 0.9
"""How long a question where the replica stands waits for the store: Kubernetes gives a probe a second, unless told otherwise, and
a probe that has its answer knows more than one that has run out of time."""

CLOCK_BOUND = 5.0
"""Beyond how many seconds of offset the rules' clock is corrected: far above what synchronised machines show, and far below
`worker_disconnect_delay`."""

MAIL_SECONDS = 5.0
"""How long stopping waits for mail: half of what Luigi waits for an answer of a mail server."""

UNREADABLE = (
    Divergence,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
)
"""What reading damaged rows may raise. A machine without memory, threads or files says nothing about them."""

_DECLARED_WITH = {"worker": None, "task_id": None, "status": PENDING, "retry_policy_dict": None, "priority": 0}
"""What of an `add_task` decides on its dependencies, with Luigi's defaults."""


class Service:
    """Answers calls with one replica. Make it with `open`, inside the event loop that will run it."""

    @classmethod
    async def open(
        cls,
        url: str,
        namespace: str,
        *,
        hold: float = 8.0,
        rules_mismatch: str = "refuse",
        journal_keep: int = 100_000,
        history_keep: float = math.inf,
        each_second: Callable[[], object] = lambda: None,
        bounds: Bounds | None = None,
        name: str | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> Service:
        """A service on the namespace of a store, not yet started. `each_second` runs as often as its housekeeping does, `bounds`
        hold for its metrics, `name` is the replica's, by default a new one. Raises StoreError."""
        metrics = Metrics(namespace, bounds)
        store = await open_store(url, namespace, ids=random_id, retried=metrics.meter.retried)
        return cls(
            store,
            namespace,
            ids=random_id,
            hold=hold,
            rules_mismatch=rules_mismatch,
            journal_keep=journal_keep,
            ticks=machine_ticks,
            history_keep=history_keep,
            source=source_of(url, namespace, store) if luigi_scheduler.scheduler().record_task_history else None,
            each_second=each_second,
            metrics=metrics,
            kind=parse(url).kind,
            name=name,
            tracing=tracing,
        )

    def __init__(
        self,
        store: Store,
        namespace: str,
        *,
        ids: Callable[[], str],
        hold: float = 8.0,
        rules_mismatch: str = "refuse",
        journal_keep: int = 100_000,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] | None = None,
        history_keep: float = math.inf,
        source: Source | None = None,
        each_second: Callable[[], object] = lambda: None,
        send: Callable[[Mail], Awaitable[None]] | None = None,
        dice: Callable[[], float] = random.random,
        metrics: Metrics | None = None,
        kind: str = "memory",
        name: str | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        clock = clock if ticks is None else SteadyClock(clock, ticks, CLOCK_BOUND)
        config = luigi_scheduler.scheduler()
        self._graph = Graph(config, configured_limits(), NopHistory(), grain=config.worker_disconnect_delay / 2, queues_mail=True)
        self._hold = hold
        self._ids = ids
        self._clock = clock
        self._each_second = each_second
        self._commit_loop: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._store = store
        self._metrics = metrics or Metrics(namespace)
        self.observe = self._metrics.meter.call
        self._replica = Replica(
            name=name or replica_name(ids),
            namespace=namespace,
            store=store,
            graph=self._graph,
            ids=ids,
            clock=clock,
            sleep=asyncio.sleep,
            limits=Limits(journal_keep=journal_keep, offset_bound=CLOCK_BOUND),
            meter=self._metrics.meter,
            tracing=tracing,
        )
        self._metrics.attach(self._graph, self._replica, store=kind, clock=clock)
        self._graph.clock = self._replica.offset.now
        self._graph._state.history.records = source is not None
        self._graph._state.history.keep = history_keep
        self._source = source
        thread = MailThread()
        self._postman = Postman(
            replica=self._replica.name,
            outbox=self._graph.outbox,
            call=self._internal,
            send=send or thread.send,
            dice=dice,
            is_able=thread.is_able,
        )
        self._membership = Membership(
            replica=self._replica,
            graph=self._graph,
            call=self._internal,
            rules=hash_of_rules(config, self._graph.limits),
            refuse=rules_mismatch == "refuse",
            clock=clock,
        )
        self._chores = Chores(
            replica=self._replica,
            graph=self._graph,
            membership=self._membership,
            source=source,
            call=self._internal,
            clock=clock,
            each_tick=self._tick,
        )
        self._readers = Readers(Listings(self._graph), partial(self._submit, hold=hold), time.monotonic)

    # Calls

    async def call(self, call: Call) -> bytes:
        """The reply's value as JSON, once it is durable. Raises CallError."""
        if not is_remote(call.method) or not hasattr(self._graph, call.method):
            raise UnknownMethod(f"there is no method {call.method!r}")
        if self._replica.failure is not None:
            raise StoreDown(self._replica.failure)
        if call.method == "ping":
            return await self._ping(call)
        if call.method in LISTINGS:
            return await self._readers.answer(call)
        if call.method == "add_task":
            await self._declare(call)
        return await self._submit(call, getattr(self._graph, call.method), self._hold)

    async def _declare(self, call: Call) -> None:
        """Make what an `add_task` depends on in portions, if that is very much: others' calls run between them."""
        named = [*(call.arguments.get("deps") or ()), *(call.arguments.get("new_deps") or ())]
        if len(named) <= DECLARED_AT_ONCE or call.arguments.get("assistant"):
            return
        arguments = {name: call.arguments.get(name, default) for name, default in _DECLARED_WITH.items()}
        until = asyncio.get_running_loop().time() + self._hold
        for start in range(0, len(named), DECLARED_AT_ONCE):
            arguments["dependencies"] = named[start : start + DECLARED_AT_ONCE]
            portion = replace(call, method=self._graph.declare.__name__, arguments=dict(arguments))
            await self._submit(portion, self._graph.declare, until - asyncio.get_running_loop().time())
            if call.abandoned:
                return

    async def _ping(self, call: Call) -> bytes:
        # A store that can be read and not written to hears nothing of who is alive.
        heard = min(self._replica.contact, self._chores.flushed)
        if self._clock() - heard > self._graph._state.grain:
            # Other replicas may already have given up this worker: do not call it alive (I7).
            raise StoreDown("this replica has lost touch with the store")
        reply = self._graph.ping_from_memory(call.arguments)
        if reply is not None:
            return reply
        return await self._submit(call, self._graph.ping, self._hold, impatient=True)

    async def _submit(self, call: Call, rule: Callable[..., Any], hold: float, *, impatient: bool = False) -> bytes:
        """Let the commit loop answer the call, within `hold` seconds. `impatient`: a ping, told after PING_HOLD that nothing is
        there, unless it has run and taken messages: those must not be lost."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        waiting = Waiting(call, rule, answered=lambda answered: _resolve(future, answered))
        expiries = [loop.call_later(hold, _expire, future, waiting)]
        if impatient:
            expiries.append(loop.call_later(min(PING_HOLD, hold), _leave_ping, future, waiting))
        self._replica.submit(waiting)
        try:
            return await future
        except asyncio.CancelledError:
            waiting.given_up = True
            raise
        finally:
            for expiry in expiries:
                expiry.cancel()

    async def _internal(self, rule: Callable[..., Any], hold: float | None = None, **arguments: Any) -> bytes:
        """Run one of the replica's own calls like any other; its reply as JSON."""
        call = Call(request_id=self._ids(), method=rule.__name__, arguments=arguments, principal=SYSTEM)
        return await self._submit(call, rule, self._hold if hold is None else hold)

    # State

    async def status(self) -> Status:
        """Where the replica stands, after a read of the journal's head."""
        reasons = []
        down = self._replica.store_lost
        if down is None and self._replica.failure is None:
            try:
                await self._internal(follow, hold=min(STATUS_HOLD, self._hold))
            except StoreDown:
                down = self._replica.store_lost or self._replica.contact
        if self._replica.failure is not None:
            reasons.append(self._replica.failure)
        elif down is not None:  # whoever waits for it goes on asking, so that this is known to have passed as soon as it has
            reasons.append("the store does not answer")
        ledger = self._graph.ledger
        return Status(
            ready=not reasons,
            reasons=tuple(reasons),
            replica=self._replica.name,
            namespace=self._replica.namespace,
            applied=ledger.applied,
            watermark=ledger.watermark,
            store_down_since=down,
        )

    async def metrics(self) -> tuple[bytes, str]:
        """The page at /metrics, and its content type."""
        return await self._metrics.page()

    @property
    def history(self) -> History | None:
        """What has happened to tasks, None where that is not written down."""
        if self._source is None:
            return None
        return History(self._source, self._graph._state.history, partial(self._internal, follow), self._graph.now)

    # Life

    async def start(self) -> None:
        """Load, enter the namespace, begin to answer. Raises StoreError."""
        try:
            await self._replica.load()
        except UNREADABLE as error:
            logger.debug("The namespace cannot be loaded", exc_info=without_words(error))
            reason = error if isinstance(error, Divergence) else f"{type(error).__name__}: {error}"
            raise InvalidStore(
                f"Namespace {self._replica.namespace} cannot be read ({reason}): run `luigi-spanner verify`, and restore a "
                "backup if that finds damage."
            ) from error
        self._commit_loop = asyncio.create_task(self._replica.run(), name="commit loop")
        try:
            await self._membership.enter()
        except CallError as error:
            raise InvalidStore(str(error)) from error
        self._chores.flushed = self._clock()
        self._housekeeping = asyncio.create_task(self._chores.run(), name="chores")
        self._postman.start()

    def _tick(self) -> None:
        self._readers.forget()
        self._each_second()
        self._postman.look()

    async def ended(self) -> str:
        """Returns once the replica can serve no more, with the reason."""
        await self._replica.failed.wait()
        return str(self._replica.failure)

    async def stop(self) -> None:
        """Answer what was accepted, leave the namespace, release the store."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        self._readers.stop()
        await self._postman.stop(MAIL_SECONDS)
        if self._commit_loop is not None:
            await self._stop_loop(self._commit_loop)
        await self._store.close()
        if self._source is not None:
            self._source.close()

    async def _stop_loop(self, commit_loop: asyncio.Task[None]) -> None:
        if self._replica.failure is None:
            await self._membership.leave()
        self._replica.stop()
        # A store that does not answer must not keep the process: what it holds back ends as unknown.
        await asyncio.wait([commit_loop], timeout=self._hold)
        commit_loop.cancel()
        await asyncio.gather(commit_loop, return_exceptions=True)


def _resolve(future: asyncio.Future[bytes], waiting: Waiting) -> None:
    if future.done():
        return
    if waiting.error is not None:
        future.set_exception(waiting.error)
    else:
        future.set_result(waiting.reply)


def _leave_ping(future: asyncio.Future[bytes], waiting: Waiting) -> None:
    if future.done():
        return
    if waiting.reply is None:
        waiting.given_up = True
        future.set_result(NO_MESSAGES)
    elif waiting.reply == NO_MESSAGES:
        # It has run and took nothing: whatever becomes of its commit, nothing is lost.
        future.set_result(NO_MESSAGES)


def _expire(future: asyncio.Future[bytes], waiting: Waiting) -> None:
    waiting.given_up = True
    if not future.done():
        future.set_exception(StoreDown("the store did not answer in time; the outcome is unknown"))
