"""What Tornado's HTTP server is given: calls go to an `Exchange`, everything else to the application with its pages."""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.web import Application

from luigi_spanner.server.api import Service
from luigi_spanner.server.exchange import Exchange

DESCRIPTION = "/api/openapi.json"
"""Where the calls are described. In stock what follows `/api/` is the name of a Python method, and none has a dot in it."""

PAGE_BODY_BYTES = 64 * 1024
"""Largest body of a request to a page, which does nothing with it: as much as a head may have."""


class Front(HTTPServerConnectionDelegate):
    """Answers calls itself and lets `pages` answer the rest. A body must arrive within `body_seconds`, of whatever request.

    `idle` has the connections that wait for a request, the longest waiting first, each with the request's: the listener puts
    them in, and the head of a request takes them out.
    """

    def __init__(self, service: Service, pages: Application, body_seconds: float) -> None:
        self.service = service
        self.pages = pages
        self.body_seconds = body_seconds
        self.idle: dict[object, HTTPConnection] = {}

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        assert isinstance(request_conn, HTTP1Connection)
        return _Arrival(self, server_conn, request_conn)


class _Arrival(HTTPMessageDelegate):
    """A request: its headers decide who answers it."""

    _answering: HTTPMessageDelegate

    def __init__(self, front: Front, server: object, connection: HTTP1Connection) -> None:
        self._front = front
        self._server = server
        self._connection = connection

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        front = self._front
        front.idle.pop(self._server, None)
        if _is_call(start_line.path):
            self._answering = Exchange(front.service, self._connection, front.body_seconds)
        else:
            self._connection.set_body_timeout(front.body_seconds)
            self._connection.set_max_body_size(PAGE_BODY_BYTES)
            self._answering = front.pages.start_request(self._server, self._connection)
        return self._answering.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._answering.data_received(chunk)

    def finish(self) -> None:
        self._answering.finish()

    def on_connection_close(self) -> None:
        self._answering.on_connection_close()


def _is_call(target: str) -> bool:
    if target.startswith("/api/"):
        return not target.startswith(DESCRIPTION) or target.partition("?")[0] != DESCRIPTION
    return target.partition("?")[0] == "/api"
