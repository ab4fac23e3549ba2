"""One handler per page and probe. Calls do not come here, but to an `Exchange`."""

from __future__ import annotations

import asyncio
import os.path
from typing import Any

import tornado.web

from luigi_spanner._version import __version__
from luigi_spanner.server.api import JSON_TYPE, Service, is_over
from luigi_spanner.server.cors import reply_headers
from luigi_spanner.server.visualiser import PAGE, with_links
from luigi_spanner.stores import StoreError
from luigi_spanner.times import rfc3339

READY_SECONDS = 5.0
"""How long `/readyz` waits for the store before it says that it does not answer; probes commonly give up after ten."""


class RootHandler(tornado.web.RequestHandler):
    """`/`: the visualiser, by a relative redirect that survives a path prefix; HEAD is stock's health check."""

    def get(self) -> None:
        self.redirect("static/visualiser/index.html")

    def head(self) -> None:
        self.set_status(204)


class StaticHandler(tornado.web.StaticFileHandler):
    """`/static/...`: the visualiser's files, out of the installed luigi package, its page with links to `/why`."""

    async def get(self, path: str, include_body: bool = True) -> None:
        absolute_path = os.path.join(self.root, PAGE)
        if self.parse_url_path(path) != PAGE or not os.path.isfile(absolute_path):
            return await super().get(path, include_body)
        with open(absolute_path, "rb") as page:
            self.finish(with_links(page.read()))
        return None

    def compute_etag(self) -> str | None:
        # A file's is of its content on disk.
        return super().compute_etag() if hasattr(self, "absolute_path") else tornado.web.RequestHandler.compute_etag(self)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        try:
            return super().validate_absolute_path(root, absolute_path)
        except ValueError:  # a NUL, which no file's name has
            raise tornado.web.HTTPError(404) from None


class MetricsHandler(tornado.web.RequestHandler):
    """`/metrics`: what a replica tells of itself and of the graph; empty where there is nothing to tell."""

    def initialize(self, service: Service) -> None:
        self._service = service

    async def get(self) -> None:
        exposed = await self._service.scheduling.metrics()
        if exposed is None:
            self.set_header("Content-Type", "text/plain; charset=utf-8")
            return
        body, kind = exposed
        self.set_header("Content-Type", kind)
        self.finish(body)


class DescriptionHandler(tornado.web.RequestHandler):
    """`/api/openapi.json`: the calls, described for programs. Pages of other origins may read it as they may make the calls."""

    def initialize(self, description: bytes) -> None:
        self._description = description

    def get(self) -> None:
        for name, value in reply_headers(self.request.headers.get("Origin")).items():
            self.set_header(name, value)
        self.set_header("Content-Type", JSON_TYPE)
        self.finish(self._description)

    head = get


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
        if not self._service.door.closing:  # of which the log has its own line
            self._service.readiness.tell(body["reasons"])
        self.set_status(200 if ready else 503)
        self.finish({"ready": ready, **body})

    head = get

    async def _state(self) -> tuple[bool, dict[str, Any]]:
        if self._service.door.closing:
            return False, {"reasons": ["this replica is shutting down"]}
        try:
            status = await asyncio.wait_for(self._service.scheduling.status(), READY_SECONDS)
        except asyncio.TimeoutError:
            return False, {"reasons": [f"the store did not answer within {READY_SECONDS:g} s"]}
        except StoreError as error:
            return False, {"reasons": [str(error)]}
        return status.ready, {
            "reasons": list(status.reasons),
            "replica": status.replica,
            "namespace": status.namespace,
            "applied": status.applied,
            "watermark": status.watermark,
            "store_down_since": None if status.store_down_since is None else rfc3339(status.store_down_since),
        }
