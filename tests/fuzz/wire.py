"""Bytes on a connection: requests that are hardly any, and what comes back."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from target import REPLY_SECONDS, Broken

QUIET_SECONDS = 0.03
"""For how long nothing must come before the end of the stream is sent: a reply takes about 2 ms."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Za-z -]+\r\n")

ODD_LINES = (
    *b"""\

GET
GET /api/ping
get /api/ping HTTP/1.1
GET /api/ping HTTP/1.1 x
GET  /api/ping  HTTP/1.1
GET /api/ping\tHTTP/1.1
GET /api/ping HTTP/2.0
GET /api/ping HTTP/1.10
GET /api/ping HTTP/9.9
PRI * HTTP/2.0
OPTIONS * HTTP/1.1
CONNECT a:80 HTTP/1.1
TRACE /api/ping HTTP/1.1
BREW /api/ping HTTP/1.1
GET http://a/api/ping HTTP/1.1
GET //api/ping HTTP/1.1
GET /api/../api/ping HTTP/1.1
GET /api HTTP/1.1
GET /api?data=1 HTTP/1.1
GET /api/ HTTP/1.1
GET /api/%00 HTTP/1.1
GET /api/%ff%fe HTTP/1.1
GET /api/\xff\xfe HTTP/1.1
GET /api/ping?data=%ff HTTP/1.1
GET /api/ping?data=\xff HTTP/1.1
GET /api/ping?%%% HTTP/1.1
GET /api/ping#x HTTP/1.1
GET /api/openapi.json?xxxx HTTP/1.1
DELETE /api/openapi.json HTTP/1.1
GET / HTTP/1.0
GET /%s HTTP/1.1
HEAD /readyz HTTP/1.1
POST /healthz HTTP/1.1
GET /metrics HTTP/1.1
GET /history/by_id/\xff HTTP/1.1
GET /static HTTP/1.1
GET /static/ HTTP/1.1
GET /static/%00 HTTP/1.1
GET /static/%ff HTTP/1.1
GET /static/../../etc/passwd HTTP/1.1
GET /static/%2e%2e/%2e%2e/x HTTP/1.1
GET /static/visualiser/index.html HTTP/1.1
\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03""".split(b"\n"),
    b"GET /static/" + b"a/" * 3000 + b" HTTP/1.1",
    b"GET /static/" + b"a" * 300 + b" HTTP/1.1",
    b"GET /api/" + b"x" * 60_000 + b" HTTP/1.1",
    b"GET /api/" + b"x" * 70_000 + b" HTTP/1.1",
)
"""Request lines that are none, or that ask for what hardly anybody asks for."""

ODD_HEADERS = (
    *b"""\
nocolon
: novalue
a:
 folded
\tfolded
A\0B: c
a: \0
a: \xff\xfe
a b: c
Host: b
Host:
Host: a, b
Host: \xff
Content-Length: -1
Content-Length: +5
Content-Length: 0x5
Content-Length: 1e3
Content-Length: 5, 5
Content-Length: 5, 6
Content-Length:\x20
Content-Length: 5\x20
Content-Length: \xb2
Content-Length: 99999999999999999999
Transfer-Encoding: chunked
Transfer-Encoding: gzip, chunked
Transfer-Encoding: chunked, chunked
Transfer-Encoding: identity
Transfer-Encoding: xchunked
Expect: 100-continue
Expect: 200-ok
Connection: close
Connection: keep-alive, x
Connection: upgrade
Upgrade: websocket
Content-Type:
Content-Type: ;;;
Content-Type: application/json
Content-Type: application/x-www-form-urlencoded; charset=utf-16
Content-Type: multipart/form-data
Content-Type: multipart/form-data; boundary=
Content-Type: multipart/form-data; boundary="
Content-Type: multipart/form-data; boundary=x
Content-Type: multipart/form-data; boundary=\xff
Content-Encoding: gzip
Content-Encoding: identity, gzip
Accept-Encoding: gzip;q=0
If-None-Match: *
If-None-Match: "
If-Modified-Since: \xff
If-Modified-Since: 0
Range: bytes=0-
Range: bytes=-1,5-2
Range: bytes=999999999999999999999-
Origin: null
Origin: \xff
X-Request-Id: a b
X-Forwarded-For: \0
Cookie: a=\xff; =; b""".split(b"\n"),
    b"X-Request-Id: " + b"x" * 1000,
    b"If-None-Match: " + b'"x",' * 2000,
    b"a: " + b"x" * 70_000,
    b"\r\n".join(b"h%d: v" % number for number in range(3000)),
)
"""Headers that are none, contradict each other, or say what nobody says."""

CHUNKS = (
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"5;x=y\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloXX0\r\n\r\n",
    b"5\r\nhel",
    b"0\r\nTrailer: x\r\n\r\n",
    b"1\r\na\r\n" * 2000 + b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"1" * 100 + b"\r\n",
    b"-1\r\n",
    b"zz\r\n",
    b"\r\n",
)
"""Bodies in chunks, most of them broken."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A well-formed request to begin with."""

    verb: bytes
    target: bytes
    headers: tuple[bytes, ...]
    body: bytes

    def alone(self) -> Request:
        """The same, on a connection that is closed after it."""
        return replace(self, headers=(*self.headers, b"Connection: close"))

    def written(self) -> bytes:
        return b"\r\n".join((b"%s %s HTTP/1.1" % (self.verb, self.target), *self.headers, b"", self.body))


def request(rng: random.Random, method: str, form: bytes, request_id: str) -> Request:
    """A call as clients make it: the arguments in the body or in the query."""
    headers = (b"Host: a", b"X-Request-Id: %s" % request_id.encode())
    name = method.encode()
    if rng.random() < 0.3:
        return Request(
            verb=rng.choice((b"GET", b"POST")), target=b"/api/%s?%s" % (name, _in_a_line(form)), headers=headers, body=b""
        )
    more = (b"Content-Type: application/x-www-form-urlencoded", b"Content-Length: %d" % len(form))
    return Request(verb=rng.choice((b"POST", b"POST", b"GET")), target=b"/api/%s" % name, headers=(*headers, *more), body=form)


def mangled(rng: random.Random, requests: list[Request]) -> bytes:
    """The requests on one connection, with something wrong about them."""
    first, rest = requests[0], b"".join(one.written() for one in requests[1:])
    spoil: Callable[[], bytes] = rng.choice(
        (
            lambda: b"\r\n".join((rng.choice(ODD_LINES), *first.headers, b"", first.body)) + rest,
            lambda: _with_header(rng, first) + rest,
            lambda: _with_header(rng, first) + rest,
            lambda: _in_chunks(rng, first) + rest,
            lambda: _flipped(rng, first.written() + rest),
            lambda: first.written()[: rng.randrange(len(first.written()))],
            lambda: rest + first.written() + rng.randbytes(rng.choice((1, 20, 2000))),
            lambda: first.written().replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\n\r"))) + rest,
            lambda: rng.choice((b"\r\n" * 5, b"\n", b"\0" * 10, b" ")) + first.written() + rest,
            lambda: rng.randbytes(rng.choice((1, 10, 500, 70_000))),
            lambda: first.written() + rest,
        )
    )
    return spoil()


def _with_header(rng: random.Random, first: Request) -> bytes:
    headers = list(first.headers)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(headers) + 1)
        headers[at : at + rng.choice((0, 0, 1))] = [rng.choice(ODD_HEADERS)]
    return Request(verb=first.verb, target=first.target, headers=tuple(headers), body=first.body).written()


def _in_chunks(rng: random.Random, first: Request) -> bytes:
    headers = (*(header for header in first.headers if not header.startswith(b"Content-Length")), b"Transfer-Encoding: chunked")
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(first.body), first.body)
    body = rng.choice((whole, _flipped(rng, whole), *rng.sample(CHUNKS, 3)))
    return Request(verb=first.verb, target=first.target, headers=headers, body=body).written()


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _in_a_line(form: bytes) -> bytes:
    """What may stand in a request line: without what would end it."""
    return form.translate(None, b" \r\n")[:50_000]


def exchange(rng: random.Random, port: int, data: bytes) -> list[int]:
    """Send bytes, in some pieces, then the end of the stream; the statuses of what comes back. Now and then the connection is
    cut before. Raises Broken when the other side does not end in time."""
    with _connected(port) as connection:
        try:
            for piece in _pieces(rng, data):
                connection.sendall(piece)
            if rng.random() < 0.1:
                return []
            return [int(status) for status in STATUS.findall(_received(connection))]
        except (ConnectionResetError, BrokenPipeError):
            return []


def answered(port: int, made: Request) -> tuple[int, bytes]:
    """Send one well-formed request; status and body of the reply."""
    with _connected(port) as connection:
        connection.sendall(made.alone().written())
        reply = b"".join(_until_the_end(connection))
    found = STATUS.match(reply)
    if found is None:
        raise Broken(f"no reply but {reply[:500]!r}")
    return int(found.group(1)), reply.partition(b"\r\n\r\n")[2]


def _pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 5)))) if data else []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[start:end]
        if cuts:
            time.sleep(0.0005)  # so that they do not arrive together


def _received(connection: socket.socket) -> bytes:
    received = []
    connection.settimeout(QUIET_SECONDS)
    try:
        while piece := connection.recv(65536):
            received.append(piece)
    except TimeoutError:
        connection.settimeout(REPLY_SECONDS)
        connection.shutdown(socket.SHUT_WR)
        received.extend(_until_the_end(connection))
    return b"".join(received)


def _until_the_end(connection: socket.socket) -> Iterator[bytes]:
    try:
        while piece := connection.recv(65536):
            yield piece
    except TimeoutError:
        raise Broken("the daemon neither answers nor closes the connection") from None


@contextmanager
def _connected(port: int) -> Iterator[socket.socket]:
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=REPLY_SECONDS)
    except OSError as error:
        raise Broken(f"no connection: {error!r}") from error
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection
