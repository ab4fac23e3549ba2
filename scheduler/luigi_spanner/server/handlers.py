"""One handler per route. What a call means is in `api`; here are headers, bodies and connections."""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tornado.http1connection
import tornado.httputil
import tornado.web

from luigi_spanner._version import __version__
from luigi_spanner.calls import Call, CallError, Scheduling, StoreDown, TooLarge
from luigi_spanner.server.api import Reply, accept, answer, failure, identify, is_over, payload_of, refusal, wording
from luigi_spanner.server.cors import preflight_headers, reply_headers
from luigi_spanner.server.door import Door
from luigi_spanner.server.validate import Methods
from luigi_spanner.stores import StoreError

DRAIN_BYTES = 64 * 1024 * 1024
"""How much of a body that is too large is still read, and thrown away, so that its sender gets to read the reply."""

READY_SECONDS = 5.0
"""How long `/readyz` waits for the store before it says that it does not answer; probes commonly give up after ten."""

LARGE_BYTES = 256 * 1024
"""Bodies from this size on are read in a thread: decoding a form takes about 0.1 s a megabyte, in which pings would wait."""

HISTORY_OFF = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Task history</title></head>
<body><h1>Task history is off</h1>
<p>This scheduler keeps no history of task runs.</p></body>
</html>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What the handlers of one application share."""

    scheduling: Scheduling
    methods: Methods
    max_body_bytes: int
    ids: Callable[[], str]
    door: Door


@tornado.web.stream_request_body
class ApiHandler(tornado.web.RequestHandler):
    """`/api/<method>`: the remote calls. Always JSON, never a redirect."""

    def initialize(self, service: Service) -> None:
        self._service = service
        self._request_id = identify(self.request.headers.get("X-Request-Id"), service.ids)
        self._body = bytearray()
        self._too_large = False
        self._inside = False
        self._gone = False
        self._call: Call | None = None
        self.set_header("X-Request-Id", self._request_id)
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        if self.request.method == "OPTIONS":
            return
        self._add_headers(reply_headers(self.request.headers.get("Origin")))
        if not self._service.door.open:
            self._send_shut()
            return
        connection = self.request.connection
        if isinstance(connection, tornado.http1connection.HTTP1Connection):
            connection.set_max_body_size(self._service.max_body_bytes + DRAIN_BYTES)
        self._too_large = self._announced() > self._service.max_body_bytes
        waits = self.request.headers.get("Expect", "").lower() == "100-continue"
        if self._too_large and (waits or self._announced() > self._service.max_body_bytes + DRAIN_BYTES):
            self._send_too_large()

    def data_received(self, chunk: bytes) -> None:
        if len(self._body) + len(chunk) > self._service.max_body_bytes:
            self._too_large = True
        if self._too_large:
            self._body.clear()
        else:
            self._body += chunk

    async def get(self, name: str | None = None) -> None:
        if self._too_large:
            self._send_too_large()
            return
        self._inside = self._service.door.enter()  # not before: a body that stalls must not delay shutting down
        if not self._inside:
            self._send_shut()
            return
        reply = await self._reply(name or "")
        if not self._gone:
            self._send(reply)

    post = get

    async def _reply(self, name: str) -> Reply:
        body = bytes(self._body)
        self._body.clear()
        try:
            call = await asyncio.to_thread(self._read, name, body) if len(body) >= LARGE_BYTES else self._read(name, body)
        except CallError as error:
            return refusal(error, self._request_id)
        call.abandoned = self._gone
        self._call = call
        return await answer(self._service.scheduling, call)

    def _read(self, name: str, body: bytes) -> Call:
        payload = payload_of(self.request.query, self.request.headers, body)
        return accept(self._service.methods, name, payload, request_id=self._request_id)

    def options(self, name: str | None = None) -> None:
        self._add_headers(preflight_headers(self.request.headers.get("Origin")))
        self.set_status(204)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone = True
        if self._call is not None:
            self._call.abandoned = True
        self._leave()

    def on_finish(self) -> None:
        self._leave()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if error is None or isinstance(error, tornado.web.HTTPError):
            phrase = http.HTTPStatus(status_code).phrase
            self._send(wording(status_code, phrase.lower().replace(" ", "_"), f"{phrase}.", self._request_id))
        else:
            self._send(failure(error, self._request_id))

    def log_exception(self, *exc_info: Any) -> None:
        """Nothing: `write_error` logs what is ours, under the request id."""

    def _announced(self) -> int:
        announced = self.request.headers.get("Content-Length", "")
        return int(announced) if announced.isdecimal() else 0

    def _send_too_large(self) -> None:
        self._leave_for_good()
        limit = self._service.max_body_bytes
        self._send(refusal(TooLarge(f"The body is larger than {limit} bytes."), self._request_id))

    def _send_shut(self) -> None:
        self._leave_for_good()
        self._send(refusal(StoreDown("This replica is shutting down; ask again."), self._request_id))

    def _leave_for_good(self) -> None:
        self.set_header("Connection", "close")

    def _send(self, reply: Reply) -> None:
        if not self._service.door.open:
            self._leave_for_good()
        self.set_header("X-Request-Id", self._request_id)
        self.set_status(reply.status)
        self._add_headers(reply.headers)
        self.finish(reply.body)

    def _add_headers(self, headers: Any) -> None:
        for name, value in headers.items():
            self.set_header(name, value)

    def _leave(self) -> None:
        if self._inside:
            self._inside = False
            self._service.door.leave()


class RootHandler(tornado.web.RequestHandler):
    """`/`: the visualiser, by a relative redirect that survives a path prefix; HEAD is stock's health check."""

    def get(self) -> None:
        self.redirect("static/visualiser/index.html")

    def head(self) -> None:
        self.set_status(204)


class HistoryHandler(tornado.web.RequestHandler):
    """`/history...` and `/tasklist...`: a page that says that there is none."""

    def get(self) -> None:
        self.finish(HISTORY_OFF)


class MetricsHandler(tornado.web.RequestHandler):
    """`/metrics`: what Luigi's own collector exposes; empty without one."""

    def initialize(self, service: Service) -> None:
        self._service = service

    def get(self) -> None:
        exposed = self._service.scheduling.metrics()
        if exposed is None:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            return
        body, kind = exposed
        self.set_header("Content-Type", kind)
        self.finish(body)


class HealthHandler(tornado.web.RequestHandler):
    """`/healthz`: the process lives; 503 once the replica can answer no more, and only a new process will."""

    def initialize(self, service: Service) -> None:
        self._service = service

    async def get(self) -> None:
        over = await is_over(self._service.scheduling)
        self.set_status(503 if over else 200)
        self.finish({"status": "ended" if over else "alive", "version": __version__})

    head = get


class ReadyHandler(tornado.web.RequestHandler):
    """`/readyz`: the store answers, its schema fits, the replica is at the head of the journal; 503 with the reasons if not."""

    def initialize(self, service: Service) -> None:
        self._service = service

    async def get(self) -> None:
        ready, body = await self._state()
        self.set_status(200 if ready else 503)
        self.finish({"ready": ready, **body})

    head = get

    async def _state(self) -> tuple[bool, dict[str, Any]]:
        if not self._service.door.open:
            return False, {"reasons": ["This replica is shutting down."]}
        try:
            status = await asyncio.wait_for(self._service.scheduling.status(), READY_SECONDS)
        except asyncio.TimeoutError:
            return False, {"reasons": [f"The store did not answer within {READY_SECONDS:g} s."]}
        except StoreError as error:
            return False, {"reasons": [str(error)]}
        return status.ready, {
            "reasons": list(status.reasons),
            "replica": status.replica,
            "namespace": status.namespace,
            "applied": status.applied,
            "watermark": status.watermark,
        }
