"""What pages for people share: they need nothing from anywhere else, run no script, and hold behind a path prefix."""

from __future__ import annotations

import os.path
from typing import Any
from urllib.parse import quote

import tornado.web

from luigi_spanner.server.api import Service

TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'"
"""Of a page nothing is loaded and nothing is run, whatever a task is called."""


class PageHandler(tornado.web.RequestHandler):
    """A page out of one of the templates. Each has `up`, the relative path to where everything is, and `quote`."""

    def initialize(self, service: Service) -> None:
        self._service = service

    def set_default_headers(self) -> None:
        self.set_header("Content-Security-Policy", POLICY)

    def get_template_path(self) -> str:
        return TEMPLATES

    @property
    def up(self) -> str:
        """From this page to the root, as a relative path."""
        return "/".join([".."] * (self.request.path.count("/") - 1)) or "."

    def get_template_namespace(self) -> dict[str, Any]:
        # Tornado's templates call it by this name for each value, before they escape it.
        return {**super().get_template_namespace(), "up": self.up, "quote": part, "_tt_utf8": encoded}


def part(text: str) -> str:
    """Text as a part of a path or of a query."""
    return quote(text, safe="", errors="replace")


def encoded(value: str | bytes) -> bytes:
    """Text as UTF-8, half of a surrogate pair as an escape: names of files that are no UTF-8 have such in Python."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "backslashreplace")
