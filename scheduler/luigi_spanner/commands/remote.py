"""A replica over HTTP, as the subcommands ask it. Any replica answers for the whole deployment.

A call is sent once: who repeats it is the person, who knows whether that is wanted. It carries a request id, under which the
journal keeps it. Where no answer comes, a change may have been made or not; what only reads has just not been answered.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlencode, urlsplit

from luigi_spanner.commands import Failed, Impossible, NotFound, Unclear
from luigi_spanner.commands.parsing import URL_PLACES
from luigi_spanner.ids import random_id

SECONDS = 30.0
"""How long an answer is waited for: well above `--hold`, within which a replica answers."""

_UNIX = "http+unix"

_IN_PATHS = "/%:@!$&'()*+,;=~"
"""What may stand in a path as it is."""

_Unanswered = Callable[[str, str], Failed]
"""The error where the replica at a url gives no answer, and why."""


class Remote:
    """One replica. `ids()` names the requests."""

    def __init__(self, url: str, *, ids: Callable[[], str] = random_id, seconds: float = SECONDS) -> None:
        self._parts = _checked(url)
        self._ids = ids
        self._seconds = seconds
        self.url = url if "@" not in url else self._parts._replace(netloc=self._parts.netloc.rpartition("@")[2]).geturl()

    def call(self, method: str, /, **arguments: Any) -> Any:
        """What the replica answers to a call that changes something. Raises Impossible, NotFound, Unclear."""
        return self._call(method, arguments, _may_be_done)

    def read(self, method: str, /, **arguments: Any) -> Any:
        """What the replica answers to a call that changes nothing. Raises Impossible, NotFound."""
        return self._call(method, arguments, _nothing_changed)

    def _call(self, method: str, arguments: dict[str, Any], unanswered: _Unanswered) -> Any:
        status, body = self._request("POST", f"/api/{method}", unanswered, urlencode({"data": json.dumps(arguments)}))
        if status == 200 and isinstance(body, dict) and "response" in body:
            return body["response"]
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            raise Impossible(f"What answers at {self.url} with status {status} is no Luigi Spanner of this release")
        message = str(error.get("message", ""))
        if error.get("code") == "unknown_method":
            raise Impossible(f"The replica at {self.url} knows no {method}: it is of an earlier release")
        if status == 404:
            raise NotFound(message)
        if status >= 500:
            raise unanswered(self.url, f"it answers {status}: {message}")
        raise Impossible(message)

    def ready(self) -> dict[str, Any]:
        """What `/readyz` says, ready or not. Raises Impossible."""
        _, body = self._request("GET", "/readyz", _nothing_changed)
        if not isinstance(body, dict) or "ready" not in body:
            raise Impossible(f"What answers at {self.url} is no Luigi Spanner")
        return body

    def _request(self, verb: str, path: str, unanswered: _Unanswered, form: str = "") -> tuple[int, Any]:
        headers = {"X-Request-Id": self._ids(), "Connection": "close", **self._credentials()}
        if verb == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        prefix = "" if self._parts.scheme == _UNIX else quote(self._parts.path.rstrip("/"), _IN_PATHS, errors="surrogateescape")
        with closing(self._connection()) as connection:
            try:
                connection.connect()
            except OSError as error:
                raise Impossible(f"Nobody answers at {self.url}: {error.strerror or error}") from error
            try:
                connection.request(verb, prefix + path, form or None, headers)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                what = "no answer came in time" if isinstance(error, TimeoutError) else f"the connection broke ({error!r})"
                raise unanswered(self.url, what) from error
        try:
            return response.status, json.loads(content)
        except (ValueError, RecursionError):
            return response.status, None

    def _credentials(self) -> dict[str, str]:
        """What stands before the host, as Luigi's workers send it."""
        if self._parts.username is None:
            return {}
        pair = f"{unquote(self._parts.username)}:{unquote(self._parts.password or '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode(errors='surrogateescape')).decode()}"}

    def _connection(self) -> http.client.HTTPConnection:
        if self._parts.scheme == _UNIX:
            return _UnixConnection(unquote(self._parts.netloc), self._seconds)
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        return kind(self._parts.hostname, self._parts.port, timeout=self._seconds)


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a unix socket, which Luigi names http+unix://%2Fpath%2Fto%2Fsocket."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _may_be_done(url: str, why: str) -> Failed:
    return Unclear(f"The replica at {url} may have done it or not: {why}")


def _nothing_changed(url: str, why: str) -> Failed:
    return Impossible(f"The replica at {url} gives no answer, and nothing was asked to change: {why}")


def _checked(url: str) -> SplitResult:
    wrong = Impossible(f"The url {_without_user(url)!r} names no replica; write http://HOST:PORT, as {URL_PLACES}")
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and _is_host(parts.hostname or "") and (parts.port or True)
    except ValueError as error:  # a port that is no number, a host that is no name
        raise wrong from error
    if not known and not (parts.scheme == _UNIX and parts.netloc):
        raise wrong
    return parts


def _is_host(name: str) -> bool:
    """Whether a name can be looked up. Raises UnicodeError, a ValueError, where it cannot even be written for that."""
    encoded = name.encode("idna")
    return bool(encoded) and not any(byte <= 0x20 or byte == 0x7F for byte in encoded)


def _without_user(url: str) -> str:
    """A url of any kind without what may be a password: all before the last `@`, but the scheme."""
    before, at, rest = url.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}{rest}" if at and slashes else rest
