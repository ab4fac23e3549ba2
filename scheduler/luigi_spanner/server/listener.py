"""Connections: how many there may be, who makes room when there are more, and how long a request's head may take.

A connection that waits for its next request is idle, and may be so for long, since load balancers keep theirs. One that has sent
a part of a head is not, however little it sends at a time.
"""

from __future__ import annotations

import contextlib
import logging
import resource
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream

from luigi_spanner.server.front import Front

logger = logging.getLogger(__name__)

CONNECTIONS = 10_000
"""Most open connections. An idle one takes 8 KB (measured), so these take 80 MB."""

FILES_BESIDE = 256
"""Open files that are kept for everything but connections: store, log, pages. On SQLite these are 11, on Spanner some more
for its channels."""

IDLE_SECONDS = 620.0
"""How long a connection waits for its next request: Google Cloud's load balancers keep theirs for 600 s and want more here."""

HEAD_SECONDS = 30.0
"""How long a request's head may take from its first byte. A body has as long."""

LEAST = 16
"""Connections that are taken however few files may be open."""

LOOKS = 6
"""How often heads that have begun are looked at while one may take."""


class Listener(HTTPServer):
    """Tornado's server for a `Front`, with at most CONNECTIONS, or fewer where the process may not open as many files.

    A further connection takes the place of the one that has been idle for longest; where none is idle, it is closed.
    """

    def initialize(self, front: Front) -> None:  # type: ignore[override]
        super().initialize(front, idle_connection_timeout=IDLE_SECONDS)
        self._most = min(CONNECTIONS, max(LEAST, openable_files() - FILES_BESIDE))
        self._open = 0
        self._idle = front.idle
        self._begun: dict[HTTP1Connection, int] = {}
        self._crowded = False
        self._looking = PeriodicCallback(self._look_at_heads, 1000 * HEAD_SECONDS / LOOKS)
        self._looking.start()

    def stop(self) -> None:
        self._looking.stop()
        super().stop()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        if self._open >= self._most and not self._make_room():
            stream.close()
            return
        self._open += 1
        super().handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self._idle[server_conn] = request_conn
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        self._open -= 1
        self._idle.pop(server_conn, None)
        super().on_close(server_conn)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest. False if all are busy."""
        if not self._crowded:
            self._crowded = True
            logger.warning("There are %d connections, and no more than that are kept: new ones replace idle ones", self._open)
        for server_conn, waiting in self._idle.items():
            del self._idle[server_conn]
            _closable(waiting).close()
            return True
        return False

    def _look_at_heads(self) -> None:
        """Close the connections whose head has begun and not come within its time."""
        self._crowded = self._crowded and self._open >= self._most
        begun = {}
        for connection in map(_closable, self._idle.values()):
            # Tornado has no public word for bytes that have come and are not yet what is waited for.
            if connection.stream._read_buffer_size:
                begun[connection] = self._begun.get(connection, 0) + 1
        self._begun = begun
        for connection in [connection for connection, looks in begun.items() if looks > LOOKS]:
            connection.close()


def _closable(connection: HTTPConnection) -> HTTP1Connection:
    assert isinstance(connection, HTTP1Connection)
    return connection


def openable_files() -> int:
    """How many files the process may have open, after raising that to what serving may need, as far as it is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + FILES_BESIDE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than its hard limit says
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
