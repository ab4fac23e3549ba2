"""The whole of what is served: calls, and a tornado application with Luigi's other routes, one handler each."""

from __future__ import annotations

import json
import logging
import os.path
import re
from collections.abc import Callable

import luigi
import tornado.escape
import tornado.web
from tornado.log import access_log

from luigi_spanner.calls import Scheduling
from luigi_spanner.ids import random_id
from luigi_spanner.server import history_pages
from luigi_spanner.server.api import Service
from luigi_spanner.server.door import Door
from luigi_spanner.server.front import DESCRIPTION, Front
from luigi_spanner.server.handlers import (
    DescriptionHandler,
    HealthHandler,
    MetricsHandler,
    ReadyHandler,
    RootHandler,
    StaticHandler,
)
from luigi_spanner.server.openapi import describe
from luigi_spanner.server.readiness import Readiness
from luigi_spanner.server.room import Room
from luigi_spanner.server.validate import served
from luigi_spanner.server.why import WhyHandler
from luigi_spanner.tracing import NO_TRACING, Tracing

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest body of a call, unless configured. Far above what workers send, far below an entry's limit in every store."""

BODIES = 4
"""For how many of the largest bodies there is room at once. Reading one of 16 MiB takes 65 MB where it is text, and 500 MB where
it is all brackets (measured)."""

BODY_SECONDS = 30.0
"""How long a body may take to arrive: three times what Luigi's own client waits, by default, for a whole reply."""


def app(
    scheduling: Scheduling,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    ids: Callable[[], str] = random_id,
    door: Door | None = None,
    body_seconds: float = BODY_SECONDS,
    tracing: Tracing = NO_TRACING,
) -> Front:
    """What serves `scheduling` to workers and to the visualiser, for tornado's HTTPServer.

    `max_body_bytes` is the largest body of a call, `ids` names the requests that bring no id of their own, and `door`, when
    given, is closed by whoever shuts the server down. Make it where the event loop runs.
    """
    service = Service(
        scheduling=scheduling,
        methods=served(),
        max_body_bytes=max_body_bytes,
        ids=ids,
        door=door or Door(),
        room=Room(BODIES * max_body_bytes),
        readiness=Readiness(),
        tracing=tracing,
    )
    given = {"service": service}
    description = json.dumps(describe(service.methods), indent=1).encode("ascii")
    pages = tornado.web.Application(
        [
            (r"/", RootHandler),
            *history_pages.routes(service),
            (re.escape(DESCRIPTION), DescriptionHandler, {"description": description}),
            (r"/why(?:/(.*))?", WhyHandler, given),
            (r"/metrics", MetricsHandler, given),
            (r"/healthz", HealthHandler, given),
            (r"/readyz", ReadyHandler, given),
        ],
        static_handler_class=StaticHandler,
        static_path=os.path.join(os.path.dirname(luigi.__file__), "static"),
        unescape=tornado.escape.xhtml_unescape,
        compress_response=True,
        log_function=_log,
    )
    return Front(service, pages, body_seconds)


def _log(handler: tornado.web.RequestHandler) -> None:
    """As tornado does, but what went well is no news, nor what probes are told: they ask every few seconds, and `Readiness` says
    when that changes. Of the target only the path: a query may hold parameters that nobody shall see."""
    status, request = handler.get_status(), handler.request
    quiet = status < 400 or isinstance(handler, ReadyHandler)
    level = logging.DEBUG if quiet else logging.WARNING if status < 500 else logging.ERROR
    access_log.log(level, "%d %s %s (%s)", status, request.method, request.path, request.remote_ip)
