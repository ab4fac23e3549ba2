"""One request to `/api` and its reply: headers, bodies and connections. What a call means is in `api`."""

from __future__ import annotations

import asyncio
import functools
import http.client
import logging
import math
import socket
import time
from collections.abc import Coroutine, Mapping
from email.utils import formatdate
from urllib.parse import unquote

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

from luigi_spanner.calls import REQUEST_ID, Call, CallError, StoreDown, TooLarge
from luigi_spanner.methods import verbs
from luigi_spanner.server.api import (
    Reply,
    Service,
    accept,
    answer,
    failure,
    identify,
    payload_of,
    plain_payload,
    refusal,
    wording,
)
from luigi_spanner.server.cors import preflight_headers, reply_headers
from luigi_spanner.server.representation import LONG_BYTES, Wanted, represent
from luigi_spanner.tracing import CallStep
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

DRAIN_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is still read, and thrown away, so that its sender gets to read the reply."""

LARGE_BYTES = 256 * 1024
"""Bodies from this size on are read in a thread: decoding and checking one takes about 10 ms a megabyte, in which pings would
wait."""

SMALL_BYTES = 64 * 1024
"""Bodies up to this size, as nearly all are, are read without asking whether there is room for them."""

LENGTH_DIGITS = 19
"""Of the greatest length that 64 bits hold. Python refuses to read numbers of more than 4,300 digits."""

REPLY_SECONDS = 60.0
"""How long a caller may leave a reply untaken, beside the time that it takes at SLOWEST: nginx waits as long between writes."""

SLOWEST = 64 * 1024
"""Bytes a second that a caller takes of a long reply at least. A listing of 12 MB, packed into one, has 16 s more."""

LISTINGS = frozenset({"dep_graph", "graph", "inverse_dep_graph", "resource_list", "task_list", "task_search", "worker_list"})
"""What browsers ask for again and again: a GET of these is told when nothing has changed."""

GONE = "gone"
"""The outcome of a call whose caller has hung up before its reply."""

OTHER = "other"
"""What stands for all methods that there are not."""


class Exchange(HTTPMessageDelegate):
    """`/api/<method>`: one remote call. Always JSON, never a redirect.

    It does without Tornado's request handler, which would double what a call costs here (0.26 ms of CPU instead of 0.13). The
    body may take `body_seconds` to arrive, which is watched here, since Tornado's own watch costs a task for each request.
    """

    def __init__(self, service: Service, connection: HTTP1Connection, body_seconds: float) -> None:
        self._service = service
        self._connection = connection
        self._body_seconds = body_seconds
        self._chunks: list[bytes] = []
        self._size = 0
        self._too_large = False
        self._patience: asyncio.TimerHandle | None = None
        self._room_taken = 0
        self._inside = False
        self._gone = False
        self._call: Call | None = None
        self._task: asyncio.Task[None] | None = None

    # The request arrives

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Coroutine[None, None, None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._verb, self._target, self._version = start_line
        self._headers = headers
        self._name = unquote(self._target.partition("?")[0][len("/api/") :])
        self._began = time.perf_counter()
        self._request_id = identify(headers.get("X-Request-Id"), self._service.ids)
        if not self._service.door.open:
            self._send_shut()
        elif not self._names_one_host():
            self._send(wording(400, "bad_request", "A request names one host.", self._request_id), last=True)
        elif "Content-Length" in headers or "Transfer-Encoding" in headers:
            return self._expect_body()
        return None

    def _names_one_host(self) -> bool:
        """As HTTP/1.1 demands (RFC 9112, 3.2), and Tornado's handlers do."""
        host = self._headers.get("Host")
        return self._version == "HTTP/1.0" if host is None else "," not in host

    def _expect_body(self) -> Coroutine[None, None, None] | None:
        limit = self._service.max_body_bytes
        self._connection.set_max_body_size(limit + DRAIN_BYTES)
        size = _size(self._headers.get("Content-Length", ""))
        self._too_large = size > limit
        waits = self._too_large and self._headers.get("Expect", "").lower() == "100-continue"
        if waits or size > limit + DRAIN_BYTES:
            self._send_too_large()
            return None
        self._patience = asyncio.get_running_loop().call_later(self._body_seconds, self._connection.close)
        return self._take_room(int(size)) if SMALL_BYTES < size <= limit else None

    def _take_room(self, size: int) -> Coroutine[None, None, None] | None:
        """Room for the body. What is returned waits for it, and nothing of the body is read meanwhile."""
        taken = self._service.room.take(size)
        if taken is None:
            self._room_taken = size
            return None
        return self._wait_for_room(size, taken)

    async def _wait_for_room(self, size: int, taken: asyncio.Future[None]) -> None:
        def cancel() -> None:
            taken.cancel()

        self._connection.stream.set_close_callback(cancel)
        try:
            await taken
            self._room_taken = size
        except asyncio.CancelledError:
            if not taken.cancelled() or not self._connection.stream.closed():
                raise
        finally:
            self._connection.stream.set_close_callback(None)

    def data_received(self, chunk: bytes) -> Coroutine[None, None, None] | None:
        self._size += len(chunk)
        limit = self._service.max_body_bytes
        self._too_large = self._too_large or self._size > limit
        if self._too_large:
            self._chunks.clear()
            return None
        self._chunks.append(chunk)
        # One that comes in chunks has not said how large it is.
        return self._take_room(limit) if self._size > SMALL_BYTES and not self._room_taken else None

    def finish(self) -> None:
        """The request is complete."""
        self._stop_waiting()
        self._began = time.perf_counter()
        if self._verb == "OPTIONS":
            self._send(Reply(status=204, headers=preflight_headers(self._headers.get("Origin"))))
        elif self._verb not in verbs(self._name):
            allowed = {"Allow": ", ".join((*verbs(self._name), "OPTIONS"))}
            self._send(wording(405, "method_not_allowed", "Method Not Allowed.", self._request_id, allowed))
        elif self._too_large:
            self._send_too_large()
        elif not self._service.door.enter():  # not before: a body that stalls must not delay shutting down
            self._send_shut()
        else:
            self._inside = True
            self._connection.set_close_callback(self.on_connection_close)
            self._task = asyncio.get_running_loop().create_task(self._answer())

    def on_connection_close(self) -> None:
        """The caller has gone, or Tornado has closed the connection after an early reply."""
        self._stop_waiting()
        self._gone = True
        if self._call is not None:
            self._call.abandoned = True
        self._leave()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # The call

    async def _answer(self) -> None:
        REQUEST_ID.set(self._request_id)
        try:
            with self._service.tracing.call(self._verb, self._target, self._headers, self._connection.context) as step:
                reply = await self._reply(step)
                if self._gone:
                    self._observe(GONE)
                    return
                step.answered(reply.status)
                if reply.size < LONG_BYTES:
                    self._send(reply)
                else:
                    await self._send_long(reply)
        except StreamClosedError:
            self._leave()
        except (Exception, asyncio.CancelledError) as error:  # the caller must not wait for ever, nor the door
            logger.error("Call %s has no reply", self._request_id, exc_info=without_words(error))
            self._observe(CallError.code)
            self._connection.close()
            self._leave()
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _reply(self, step: CallStep) -> Reply:
        name = self._name
        try:
            call = await self._read(name, self._target.partition("?")[2])
        except CallError as error:
            return refusal(error, self._request_id)
        except Exception as error:
            return failure(error, self._request_id)
        call.abandoned = self._gone or _hung_up(self._connection)
        self._call = call
        step.runs(call)
        reply = await answer(self._service.scheduling, call)
        tagged = self._verb == "GET" and name in LISTINGS
        if reply.status == 200 and (tagged or reply.size >= LONG_BYTES):
            return await self._represented(reply, tagged)
        return reply

    async def _represented(self, reply: Reply, tagged: bool) -> Reply:
        wanted = Wanted(
            tagged=tagged,
            seen=self._headers.get("If-None-Match"),
            gzip="gzip" in self._headers.get("Accept-Encoding", ""),
        )
        if reply.size < LONG_BYTES:
            return represent(reply, wanted)
        return await asyncio.to_thread(represent, reply, wanted)

    async def _read(self, name: str, query: str) -> Call:
        body = b"".join(self._chunks)
        self._chunks.clear()
        if len(body) >= LARGE_BYTES:
            return await asyncio.to_thread(self._accept, name, query, body)
        return self._accept(name, query, body)

    def _accept(self, name: str, query: str, body: bytes) -> Call:
        payload = payload_of(query, self._headers, body) or plain_payload(name, query)
        return accept(self._service.methods, name, payload, request_id=self._request_id)

    # The reply leaves

    def _send_too_large(self) -> None:
        error = TooLarge(f"The body is larger than {self._service.max_body_bytes} bytes.")
        self._send(refusal(error, self._request_id), last=True)

    def _send_shut(self) -> None:
        self._send(refusal(StoreDown("This replica is shutting down; ask again."), self._request_id), last=True)

    def _send(self, reply: Reply, *, last: bool = False) -> None:
        """Write the reply. `last`: the connection serves no other."""
        head = self._head(reply, last)
        self._observe(reply.outcome)
        # Not `write_headers`, which takes 20 us to check what is our own: Tornado lets its users write the head themselves.
        written = self._connection.write(head if self._verb == "HEAD" else b"".join((head, *reply.body)))
        self._connection.finish()
        if written.done():
            self._leave()
        else:
            self._patience = asyncio.get_running_loop().call_later(_taking_seconds(reply), self._give_up)
            written.add_done_callback(lambda _: self._sent())

    async def _send_long(self, reply: Reply) -> None:
        """Write the reply piece by piece: nothing is copied, and the call is inside until its caller has it."""
        head = self._head(reply, last=False)
        self._observe(reply.outcome)
        self._patience = asyncio.get_running_loop().call_later(_taking_seconds(reply), self._give_up)
        for piece in (head, *reply.body):
            await self._connection.write(piece)
        self._connection.finish()
        self._sent()

    def _observe(self, outcome: str) -> None:
        """The reply is there, or there is nobody to have it. A browser's preflight is no call."""
        if self._verb != "OPTIONS":
            name = self._name if self._name in self._service.methods else OTHER
            self._service.scheduling.observe(name, outcome, time.perf_counter() - self._began)

    def _sent(self) -> None:
        self._stop_waiting()
        self._leave()

    def _give_up(self) -> None:
        """The caller does not take its reply, which must not keep the door and the memory for ever."""
        about = {"request_id": self._request_id}
        logger.warning("Call %s has a reply that its caller does not take", self._request_id, extra=about)
        # Not the connection's `close`, after which nobody who awaits a write is told.
        self._connection.stream.close()

    def _head(self, reply: Reply, last: bool) -> bytes:
        headers = dict(reply.headers)
        if "Origin" in self._headers and reply.status != 204:
            headers = _joined(reply_headers(self._headers["Origin"]), headers)
        if reply.status not in (204, 304):
            headers["Content-Length"] = str(reply.size)
        kept = self._headers.get("Connection", "").lower()
        if self._service.door.closing:
            # Tornado has no public word for closing a connection of HTTP/1.1 once its reply has left.
            self._connection._disconnect_on_finish = True
        if last or self._service.door.closing or (kept == "close" and self._version == "HTTP/1.1"):
            headers["Connection"] = "close"
        elif kept == "keep-alive" and self._version == "HTTP/1.0":
            headers["Connection"] = "Keep-Alive"
        return _encoded(reply.status, self._request_id, headers)

    def _leave(self) -> None:
        if self._room_taken:
            self._service.room.give_back(self._room_taken)
            self._room_taken = 0
        if self._inside:
            self._inside = False
            self._service.door.leave()


def _hung_up(connection: HTTP1Connection) -> bool:
    """Whether the caller went before its call was looked at. Where this process stood still, or the network did, Tornado has read
    the call and not yet the end behind it, and would let the call run whose retry has long been answered (I13)."""
    stream = connection.stream
    if stream.closed():
        return True
    try:
        return not stream.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _taking_seconds(reply: Reply) -> float:
    """How long a caller may take to take a reply."""
    return REPLY_SECONDS + reply.size / SLOWEST


def _size(announced: str) -> float:
    """The bytes that a Content-Length announces; 0 if it is no number, which Tornado refuses."""
    digits = announced.lstrip("0")
    if not digits.isdecimal():
        return 0
    return int(digits) if len(digits) <= LENGTH_DIGITS else math.inf


def _joined(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Headers of both; what they vary with is a list."""
    vary = ", ".join(headers["Vary"] for headers in (first, second) if "Vary" in headers)
    return {**first, **second, **({"Vary": vary} if vary else {})}


def _encoded(status: int, request_id: str, headers: Mapping[str, str]) -> bytes:
    """The head of a reply. Raises ValueError when a header, of a configured value, holds a line break or is not Latin-1."""
    lines = [
        f"HTTP/1.1 {status} {http.client.responses[status]}",
        f"Date: {_date(int(time.time()))}",
        f"X-Request-Id: {request_id}",
        "X-Content-Type-Options: nosniff",
        *(f"{name}: {value}" for name, value in headers.items()),
        "\r\n",
    ]
    head = "\r\n".join(lines)
    if head.count("\r") != len(lines) or head.count("\n") != len(lines):
        raise ValueError("a header holds a line break")
    return head.encode("latin-1")


@functools.lru_cache(maxsize=1)
def _date(second: int) -> str:
    """The time as HTTP writes it; many replies share a second."""
    return formatdate(second, usegmt=True)
