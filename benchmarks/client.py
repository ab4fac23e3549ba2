"""A lean HTTP client: one process, one thread, one keep-alive connection for each session, loopback only.

A session is a generator. It yields what it wants next, a `Request` or a `Pause`, and is sent the reply's body. Each session has
one call under way, as a worker has. Replies are decoded only by sessions that look into them, so the client stays cheap;
what it costs is measured too (`Played.cpu`, `calibrate`).
"""

from __future__ import annotations

import heapq
import itertools
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote_plus

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "127.0.0.1"

PATIENCE = 60.0
"""Seconds after which a connection that says nothing is an error: stock needs many seconds for its largest lists."""

CHUNK = 1 << 16
"""Most bytes taken from a socket at once; beyond some 100 KB the allocator asks the system for each."""

_END_OF_HEAD = b"\r\n\r\n"


class CallFailed(Exception):
    """A server answered something else than 200, or hung up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call, ready to be sent. `method` is what its latency is filed under."""

    method: str
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """Nothing for so many seconds, as an idle worker does."""

    seconds: float


Wish: TypeAlias = Request | Pause
Session: TypeAlias = Generator[Wish, bytes, None]


def call(method: str, arguments: Mapping[str, Any] | None = None, *, headers: str = "", name: str = "") -> Request:
    """The request that a Luigi worker sends for this call: a form with one field that holds JSON."""
    body = b"data=" + quote_plus(json.dumps(arguments or {})).encode()
    head = (
        f"POST /api/{method} HTTP/1.1\r\nHost: {ADDRESS}\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    )
    return Request(method=name or method, data=head.encode() + body)


def value(body: bytes) -> Any:
    """What a reply's body says."""
    return json.loads(body)["response"]


@dataclass(kw_only=True)
class Played:
    """What sessions met. Seconds throughout; `cpu` is this process's own; `latencies` are by method, in order of arrival."""

    seconds: float = 0.0
    cpu: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return sum(map(len, self.latencies.values()))

    @property
    def rate(self) -> float:
        """Calls per second of wall time."""
        return self.calls / self.seconds

    def all(self) -> list[float]:
        """Every latency, whatever the method."""
        return list(itertools.chain.from_iterable(self.latencies.values()))


def play(ports: Sequence[int], sessions: Iterable[Session], *, seconds: float, calls: int | None = None) -> Played:
    """Run the sessions, spread over the servers at `ports`, until all have ended or time or calls are used up.

    Raises CallFailed. Calls under way when the time is up are not counted.
    """
    stage = _Stage(seconds=seconds, calls=calls)
    try:
        for number, session in enumerate(sessions):
            stage.enter(session, ports[number % len(ports)])
        return stage.run()
    finally:
        stage.close()


class _Connection:
    """A session's connection and the reply that is arriving on it."""

    __slots__ = ("_body", "_buffer", "_total", "method", "sent", "session", "socket")

    def __init__(self, session: Session, port: int) -> None:
        self.session = session
        self.socket = socket.create_connection((ADDRESS, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.method = ""
        self.sent = 0.0
        self._buffer = bytearray()
        self._body = self._total = 0

    def send(self, request: Request) -> None:
        self.method = request.method
        self.sent = time.perf_counter()
        self.socket.sendall(request.data)

    def receive(self) -> bytes | None:
        """The reply's body once it is complete. Raises CallFailed."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise CallFailed(f"the server hung up during {self.method}")
        self._buffer += data
        if not self._total:
            self._measure()
        if not self._total or len(self._buffer) < self._total:
            return None
        body = bytes(self._buffer[self._body :])
        status = bytes(self._buffer[:64]).partition(b"\r\n")[0].decode()
        self._buffer.clear()
        self._total = 0
        if status.split(" ")[1] != "200":
            raise CallFailed(f"{self.method}: {status}: {body[:300].decode(errors='replace')}")
        return body

    def _measure(self) -> None:
        """Where the body begins and ends, once the head is there. Both servers say how long it is."""
        end = self._buffer.find(_END_OF_HEAD)
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        start = head.index(b"content-length:") + len(b"content-length:")
        self._body = end + len(_END_OF_HEAD)
        self._total = self._body + int(head[start:].partition(b"\r\n")[0])


class _Stage:
    """Where sessions play: who waits for a reply, who pauses, and when it ends."""

    def __init__(self, *, seconds: float, calls: int | None) -> None:
        self._seconds = seconds
        self._left = calls
        self._selector = selectors.DefaultSelector()
        self._connections: list[_Connection] = []
        self._paused: list[tuple[float, int, _Connection]] = []
        self._tie = itertools.count()
        self._active = 0
        self._played = Played()

    def enter(self, session: Session, port: int) -> None:
        connection = _Connection(session, port)
        self._connections.append(connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def run(self) -> Played:
        begun, cpu = time.perf_counter(), time.process_time()
        self._active = len(self._connections)
        for connection in self._connections:
            self._follow(connection, None)
        end = begun + self._seconds
        while self._active and (now := time.perf_counter()) < end:
            self._wake(now)
            if not self._active:  # the last session ended with a pause: no reply will come
                break
            for key, _ in self._selector.select(self._idle(now, end)):
                self._receive(key.data)
        self._played.seconds = time.perf_counter() - begun
        self._played.cpu = time.process_time() - cpu
        return self._played

    def close(self) -> None:
        for connection in self._connections:
            connection.session.close()
            connection.socket.close()
        self._selector.close()

    def _idle(self, now: float, end: float) -> float:
        """How long nothing happens unless a reply arrives."""
        return max(0.0, (min(end, self._paused[0][0]) if self._paused else end) - now)

    def _wake(self, now: float) -> None:
        while self._paused and self._paused[0][0] <= now:
            self._follow(heapq.heappop(self._paused)[2], b"")

    def _receive(self, connection: _Connection) -> None:
        body = connection.receive()
        if body is not None:
            took = time.perf_counter() - connection.sent
            self._played.latencies.setdefault(connection.method, []).append(took)
            self._follow(connection, body)

    def _follow(self, connection: _Connection, body: bytes | None) -> None:
        """Let the session say what it wants next, and do it."""
        try:
            wish = next(connection.session) if body is None else connection.session.send(body)
        except StopIteration:
            self._active -= 1
            return
        if isinstance(wish, Pause):
            heapq.heappush(self._paused, (time.perf_counter() + wish.seconds, next(self._tie), connection))
        elif self._left == 0:
            self._active -= 1
        else:
            self._left = None if self._left is None else self._left - 1
            connection.send(wish)


def calibrate(sessions: int, seconds: float = 1.0) -> Played:
    """Play against a server that does nothing but answer, in a child process: what this client costs a call, and its ceiling."""
    command = [sys.executable, "-m", "benchmarks.answering", str(sessions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            request = call("ping", {"worker": "calibration"})
            return play([port], [_repeat(request) for _ in range(sessions)], seconds=seconds)
        finally:
            server.kill()


def _repeat(request: Request) -> Session:
    while True:
        yield request
