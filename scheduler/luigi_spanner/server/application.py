"""The tornado application: Luigi's routes, one handler each."""

from __future__ import annotations

import os.path
from collections.abc import Callable

import luigi
import luigi.scheduler
import tornado.escape
import tornado.web

from luigi_spanner.calls import Scheduling
from luigi_spanner.ids import random_id
from luigi_spanner.server.door import Door
from luigi_spanner.server.handlers import (
    ApiHandler,
    HealthHandler,
    HistoryHandler,
    MetricsHandler,
    ReadyHandler,
    RootHandler,
    Service,
)
from luigi_spanner.server.validate import methods

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest body of a call, unless configured. Far above what workers send, far below an entry's limit in every store."""


def app(
    scheduling: Scheduling,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    ids: Callable[[], str] = random_id,
    door: Door | None = None,
) -> tornado.web.Application:
    """The application that serves `scheduling` to workers and to the visualiser.

    `max_body_bytes` is the largest body of a call, `ids` names the requests that bring no id of their own, and `door`, when
    given, is closed by whoever shuts the server down. Make it where the event loop runs.
    """
    service = Service(
        scheduling=scheduling,
        methods=methods(luigi.scheduler.Scheduler, luigi.scheduler.RPC_METHODS),
        max_body_bytes=max_body_bytes,
        ids=ids,
        door=door or Door(),
    )
    given = {"service": service}
    return tornado.web.Application(
        [
            (r"/api(?:/(.*))?", ApiHandler, given),
            (r"/", RootHandler),
            (r"/(?:tasklist|history)(?:/.*)?", HistoryHandler),
            (r"/metrics", MetricsHandler, given),
            (r"/healthz", HealthHandler, given),
            (r"/readyz", ReadyHandler, given),
        ],
        static_path=os.path.join(os.path.dirname(luigi.__file__), "static"),
        unescape=tornado.escape.xhtml_unescape,
        compress_response=True,
    )
