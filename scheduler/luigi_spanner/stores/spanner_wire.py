"""The way to one Spanner database: channel, session, headers, timeouts and retries of our own.

The generated client's defaults do not suit a commit loop: a Commit waits for an hour, retries inside where nobody can
tell, and sleeps seconds on an abort. So the calls are made here, on grpc.aio with plain protobufs.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import google.auth
import grpc
from google.api_core import grpc_helpers_async
from google.auth.exceptions import GoogleAuthError
from google.cloud.spanner_v1 import types

from luigi_spanner.stores import InvalidStore, Retried, ignore, spanner_faults, spanner_sentences
from luigi_spanner.stores.spanner_faults import Fault, Meaning

# A closed channel that waits for the collector waits for a thread when it is collected. A forked child does not have that thread
# and would wait for ever, so there its parent's objects are never collected.
os.register_at_fork(before=gc.freeze, after_in_parent=gc.unfreeze)

ENDPOINT = "spanner.googleapis.com:443"
"""Spanner's global endpoint (its service description)."""

SCOPES = ("https://www.googleapis.com/auth/spanner.data",)
"""What a store does: read and write data. Changing the schema is the migrations' business."""

ATTEMPT_TIMEOUT = 2.0
"""Seconds for one attempt, or for one message of a stream: some 100 times what a commit across continents takes."""

DEADLINE = 5.0
"""Seconds for all attempts of one call: half of the 10 s that a worker waits for its scheduler's reply."""

LOAD_DEADLINE = 120.0
"""Seconds for all attempts of one load while messages come: two million rows at the 58 us each measured on the emulator."""

BYTES_PER_SECOND = 4 * 1024 * 1024
"""Slowest way on which a large commit must still arrive within its attempt; gives it that much more time."""

ATTEMPT_LEAST = 0.05
"""Seconds without which a further attempt has no chance: its fault would hide the one that people need to see."""

RETRY_PAUSE = 0.002
"""Seconds before the second attempt, doubled for each further one: two commits of 0.6 ms have then passed."""

RETRY_PAUSE_MAX = 0.25
"""Seconds between attempts at most, so that an outage of seconds is noticed to end at once."""

SESSION_AGE = 7 * 24 * 3600.0
"""Seconds after which the session is replaced; a multiplexed session ends at 28 days (Spanner's documentation on sessions)."""

MESSAGE_BYTES = 100 * 1024 * 1024
"""Largest message either way: Spanner's limit of a commit, and what the emulator accepts."""

RETIRE_GRACE = 60.0
"""Seconds that calls on a replaced channel may take to finish."""

TAG = "app=luigi-spanner,op={}"
"""Request and transaction tag: shows in Spanner's statistics tables, so it says nothing of the data."""

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # A reply frames what was sent to it: leave room, the bound is the sender's.
    ("grpc.max_receive_message_length", MESSAGE_BYTES + 1024 * 1024),
    # gRPC's own retries would hide an attempt from the one who must know about it.
    ("grpc.enable_retries", 0),
    # A replaced channel must not come back with the connection that it was replaced for.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC backs off to two minutes by default; after an outage the store is to be back at once.
    ("grpc.initial_reconnect_backoff_ms", 50),
    # Despite its name: how long connecting may take, three round trips with TLS. The default of 20 s outlasts the deadline.
    ("grpc.min_reconnect_backoff_ms", int(ATTEMPT_TIMEOUT * 1000)),
    ("grpc.max_reconnect_backoff_ms", 500),
]

_SERVICE = "/google.spanner.v1.Spanner/"

T = TypeVar("T")
Connect = Callable[[], grpc.aio.Channel]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How long things may take, in seconds: one attempt, all attempts of one call together, and all of one load."""

    attempt: float = ATTEMPT_TIMEOUT
    deadline: float = DEADLINE
    load: float = LOAD_DEADLINE


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt at a call: on `session`, waiting up to `timeout` seconds for the answer, or for each message of a streamed one,
    and no longer than `until` in all, by the event loop's clock."""

    session: str
    timeout: float
    until: float


def connector(environ: Mapping[str, str] = os.environ) -> Connect:
    """What makes channels: to the emulator that SPANNER_EMULATOR_HOST names, or to Spanner with the machine's credentials.

    May block on files and on the metadata server: call it off the event loop. Raises InvalidStore without credentials.
    """
    emulator = spanner_sentences.emulator(environ)
    if emulator:
        return lambda: grpc.aio.insecure_channel(emulator, options=_OPTIONS)
    try:
        credentials, _ = google.auth.default(scopes=SCOPES)
    except GoogleAuthError as error:
        raise InvalidStore(spanner_sentences.credentials(error)) from error
    return lambda: grpc_helpers_async.create_channel(ENDPOINT, credentials=credentials, options=_OPTIONS)


class Wire:
    """Calls to one database. Raises Fault and nothing else; belongs to one event loop."""

    def __init__(self, database: str, connect: Connect, jitter: random.Random, pace: Pace, retried: Retried = ignore) -> None:
        self.database = database
        self.pace = pace
        self._connect = connect
        self._jitter = jitter
        self._retried = retried
        self._channel: grpc.aio.Channel | None = connect()
        self._stubs: dict[str, Any] = {}
        self._session = ""
        self._session_since = 0.0
        self._session_lock = asyncio.Lock()
        self._heard = -math.inf
        self._retiring: dict[asyncio.Task[None], grpc.aio.Channel] = {}

    @property
    def closed(self) -> bool:
        """True from the moment that `close` was called."""
        return self._channel is None

    async def attempts(
        self, once: Callable[[Attempt], Awaitable[T]], *, patient: bool, size: int = 0, deadline: float = 0.0
    ) -> T:
        """The result of `once(attempt)`, tried until the deadline while the fault is a passing one.

        `patient` tries again after an attempt that got no answer in time, too; `size` is the request's, in bytes. A `deadline`
        beyond the usual one, in seconds, holds as long as answers come: after the usual one without any it is over.
        """
        now = asyncio.get_running_loop().time
        allowance = size / BYTES_PER_SECOND
        usual = self.pace.deadline + allowance
        alive = now()
        until = alive + max(usual, deadline)
        pause = RETRY_PAUSE
        while True:
            began = now()
            try:
                session = await self._current_session(until)
                timeout = max(ATTEMPT_LEAST, min(self.pace.attempt + allowance, until - now()))
                return await once(Attempt(session=session, timeout=timeout, until=until))
            except Fault as fault:
                self._mend(fault)
                if self._heard > began:
                    alive = now()
                wait = pause * self._jitter.uniform(0.5, 1.5)
                if not _worth_another(fault, patient) or now() + wait + ATTEMPT_LEAST > min(until, alive + usual):
                    raise
                self._retried(fault.code)
            await asyncio.sleep(wait)
            pause = min(2 * pause, RETRY_PAUSE_MAX)

    async def call(self, method: str, request: Any, reply: Any, timeout: float) -> Any:
        """The reply to one unary `request`, within `timeout` seconds. `reply` is its protobuf class."""
        stub = self._stub("unary_unary", method, request, reply)
        channel = self._channel
        try:
            answer = await stub(request, timeout=timeout, metadata=self._headers(method, request))
            self._heard = asyncio.get_running_loop().time()
            return answer
        except grpc.aio.AioRpcError as error:
            raise spanner_faults.fault(error) from error
        except asyncio.CancelledError:
            if not self._let_go(channel):
                raise
            raise self._gone() from None

    async def stream(self, method: str, request: Any, attempt: Attempt) -> AsyncGenerator[Any, None]:
        """The PartialResultSets that answer `request`, each and all of them within the times of `attempt`."""
        now = asyncio.get_running_loop().time
        stub = self._stub("unary_stream", method, request, types.PartialResultSet.pb())
        channel = self._channel
        replies = stub(request, metadata=self._headers(method, request))
        try:
            while (
                reply := await asyncio.wait_for(replies.read(), min(attempt.timeout, attempt.until - now()))
            ) is not grpc.aio.EOF:
                self._heard = now()
                yield reply
        except asyncio.TimeoutError:
            raise Fault(Meaning.SLOW, f"no message within {attempt.timeout:.1f} s, or not the whole answer in time") from None
        except grpc.aio.AioRpcError as error:
            raise spanner_faults.fault(error) from error
        except asyncio.CancelledError:
            if not self._let_go(channel):
                raise
            raise self._gone() from None
        finally:
            replies.cancel()

    async def close(self) -> None:
        """End every call under way with Meaning.CLOSED, and the connection. Idempotent."""
        channel, self._channel = self._channel, None
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        for left in (*retiring.values(), channel):
            if left is not None:
                await left.close()

    def _stub(self, kind: str, method: str, request: Any, reply: Any) -> Any:
        if self._channel is None:
            raise Fault(Meaning.CLOSED, "the store is closed")
        stub = self._stubs.get(method)
        if stub is None:
            make = getattr(self._channel, kind)
            stub = make(_SERVICE + method, type(request).SerializeToString, reply.FromString)
            self._stubs[method] = stub
        return stub

    def _headers(self, method: str, request: Any) -> list[tuple[str, str]]:
        key = "database" if method == "CreateSession" else "session"
        headers = [
            ("google-cloud-resource-prefix", self.database),
            ("x-goog-request-params", f"{key}={quote(getattr(request, key), safe='/')}"),
        ]
        if method in ("Commit", "CreateSession"):
            headers.append(("x-goog-spanner-route-to-leader", "true"))
        return headers

    async def _current_session(self, until: float) -> str:
        now = asyncio.get_running_loop().time
        async with self._session_lock:
            if not self._session or now() - self._session_since > SESSION_AGE:
                request = types.CreateSessionRequest.pb()(database=self.database)
                request.session.multiplexed = True
                timeout = max(ATTEMPT_LEAST, min(self.pace.attempt, until - now()))
                made = await self._create_session(request, timeout)
                self._session, self._session_since = made.name, now()
            return self._session

    async def _create_session(self, request: Any, timeout: float) -> Any:
        try:
            return await self.call("CreateSession", request, types.Session.pb(), timeout)
        except Fault as fault:
            if fault.meaning is Meaning.MISSING:  # whatever the error's details name, what a session is made in is not there
                fault.meaning = Meaning.NO_DATABASE
            raise

    def _mend(self, fault: Fault) -> None:
        """Make the next attempt another way: with a new session, or by a new connection where this one does not answer."""
        if fault.meaning is Meaning.NO_SESSION:
            self._session = ""
        if fault.meaning is Meaning.SLOW and self._channel is not None:
            task = asyncio.get_running_loop().create_task(self._channel.close(RETIRE_GRACE))
            self._retiring[task] = self._channel
            task.add_done_callback(self._retiring.pop)
            self._channel = self._connect()
            self._stubs = {}

    def _let_go(self, channel: grpc.aio.Channel | None) -> bool:
        """True if a call on `channel` was cancelled because that was closed here: gRPC then cancels whoever awaits it."""
        cancelling = getattr(asyncio.current_task(), "cancelling", None)  # Python 3.11
        return channel is not self._channel and not (cancelling is not None and cancelling())

    def _gone(self) -> Fault:
        return Fault(Meaning.CLOSED if self.closed else Meaning.PASSING, "the connection was closed")


def _worth_another(fault: Fault, patient: bool) -> bool:
    return fault.meaning in (Meaning.PASSING, Meaning.NO_SESSION) or (patient and fault.meaning is Meaning.SLOW)
