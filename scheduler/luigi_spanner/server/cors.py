"""Cross-origin headers, exactly as Luigi's [cors] section describes them."""

from __future__ import annotations

from typing import Any

import luigi.server


def reply_headers(origin: str | None) -> dict[str, str]:
    """Headers of a reply to a page of `origin`; none when the request names no origin or [cors] allows it nothing.

    The section is read for each such request: workers send no Origin, and an application may be reconfigured in tests.
    """
    if not origin:
        return {}
    config = luigi.server.cors()
    allowed = _allowed(config, origin)
    if allowed is None:
        return {}
    headers = {"Access-Control-Allow-Origin": allowed}
    if allowed not in ("*", "null"):
        headers["Vary"] = "Origin"
    return headers


def preflight_headers(origin: str | None) -> dict[str, str]:
    """Headers of the reply to an OPTIONS request from a page of `origin`."""
    headers = reply_headers(origin)
    if not headers:
        return {}
    config = luigi.server.cors()
    headers["Access-Control-Max-Age"] = str(config.max_age)
    headers["Access-Control-Allow-Methods"] = config.allowed_methods
    headers["Access-Control-Allow-Headers"] = config.allowed_headers
    if config.allow_credentials:
        headers["Access-Control-Allow-Credentials"] = "true"
    if config.exposed_headers:
        headers["Access-Control-Expose-Headers"] = config.exposed_headers
    return headers


def _allowed(config: Any, origin: str) -> str | None:
    if not config.enabled:
        return None
    if origin == "null":
        return "null" if config.allow_null_origin else None
    if config.allow_any_origin:
        return "*"
    return origin if origin in config.allowed_origins else None
