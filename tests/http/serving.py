"""Servers for the tests: the application in a thread's event loop, or `luigi-spanner serve` in a process of its own."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import tornado.netutil

from luigi_spanner.calls import Call, Scheduling, Status
from luigi_spanner.server import app
from luigi_spanner.server.listener import Listener

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
"""Seconds after which a test gives up on a server."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A whole HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def value(self) -> Any:
        """What a successful call gave."""
        assert self.status == 200, self.body
        return self.json["response"]

    @property
    def fault(self) -> str:
        """The message of a refused call."""
        return str(self.json["error"]["message"])


@dataclass(frozen=True, kw_only=True)
class Client:
    """Sends requests to one server, each on a connection of its own."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(self, verb: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            connection.request(verb, path, body, dict(headers or {}))
            return read(connection)
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def post(self, method: str, body: bytes, **headers: str) -> Answer:
        """A form that is sent as it is."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", f"/api/{method}", body, {"Content-Type": "application/x-www-form-urlencoded", **named})

    def raw(self, method: str, text: str) -> Answer:
        """A call whose arguments are this text."""
        return self.post(method, urlencode({"data": text}).encode())

    def call(self, method: str, **arguments: Any) -> Answer:
        return self.raw(method, json.dumps(arguments))

    def tasks(self) -> Any:
        return self.call("task_list").value

    def state(self) -> list[Any]:
        """What people see of the state. The last entry's number would not do: rows follow with an entry of their own."""
        return [self.call(method).value for method in ("task_list", "worker_list", "resource_list", "is_paused")]


def read(connection: http.client.HTTPConnection) -> Answer:
    response = connection.getresponse()
    return Answer(status=response.status, headers=response.headers, body=response.read())


def in_query(method: str, **arguments: Any) -> str:
    """The path of a call that has its arguments in the query string, as the visualiser sends it."""
    return f"/api/{method}?data={quote(json.dumps(arguments))}"


def await_taken(connection: http.client.HTTPConnection) -> None:
    """Until the server has read all that the connection sent."""
    client_port = connection.sock.getsockname()[1]
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        # the server's end has our port as its remote one; the second half of its queues is what it has not read
        if any(row[2].endswith(f":{client_port:04X}") and row[4].endswith(":00000000") for row in rows):
            return
        time.sleep(0.01)
    raise AssertionError("the server does not read")


@contextmanager
def serving(opening: Callable[[], Awaitable[Scheduling]], **options: Any) -> Iterator[Client]:
    """The application over what `opening` makes, served by an event loop in a thread until the block ends."""
    ready: queue.Queue[int | BaseException] = queue.Queue()
    loop = asyncio.new_event_loop()
    finished = asyncio.Event()

    async def main() -> None:
        scheduling = await opening()
        await scheduling.start()
        server = Listener(app(scheduling, **options))
        (listening,) = tornado.netutil.bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
        server.add_sockets([listening])
        ready.put(listening.getsockname()[1])
        await finished.wait()
        server.stop()
        await scheduling.stop()
        await server.close_all_connections()

    def run() -> None:
        try:
            loop.run_until_complete(main())
        except BaseException as error:  # handed to the test's thread
            ready.put(error)
        finally:
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    port = ready.get(timeout=PATIENCE)
    if isinstance(port, BaseException):
        raise port
    try:
        yield Client(port=port)
    finally:
        loop.call_soon_threadsafe(finished.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()


class Answering:
    """A scheduler that answers each call with what `reply` makes of it."""

    def __init__(self, reply: Callable[[Call], Awaitable[bytes]]) -> None:
        self.calls: list[Call] = []
        self.observed: list[tuple[str, str]] = []
        self._reply = reply

    async def call(self, call: Call) -> bytes:
        self.calls.append(call)
        return await self._reply(call)

    history = None

    async def status(self) -> Status:
        return Status(ready=True, reasons=(), replica="r", namespace="n", applied=1, watermark=0)

    async def ended(self) -> str:
        return await asyncio.get_running_loop().create_future()

    async def metrics(self) -> tuple[bytes, str] | None:
        return None

    def observe(self, method: str, outcome: str, seconds: float) -> None:
        assert 0 <= seconds < PATIENCE
        self.observed.append((method, outcome))

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@asynccontextmanager
async def listening(scheduling: Scheduling, **options: Any) -> AsyncIterator[int]:
    """The application over `scheduling` in this event loop, until the block ends; its port."""
    server = Listener(app(scheduling, **options))
    (socket_,) = tornado.netutil.bind_sockets(0, "127.0.0.1", family=socket.AF_INET)
    server.add_sockets([socket_])
    try:
        yield socket_.getsockname()[1]
    finally:
        server.stop()
        await server.close_all_connections()


class Raw:
    """A connection on which a test says byte for byte what it sends. Use `opened`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, text: str, body: bytes = b"") -> None:
        """Lines of a head, and a body as it is. The lines end as HTTP has it."""
        self.writer.write("".join(f"{line}\r\n" for line in text.splitlines()).encode() + b"\r\n" + body)

    async def answer(self, *, body: bool = True) -> Answer:
        """The next response; without `body`, it is one that has none whatever its length says."""
        head = await self._within(self.reader.readuntil(b"\r\n\r\n"))
        first, _, rest = head.partition(b"\r\n")
        headers = http.client.parse_headers(io.BytesIO(rest))
        length = int(headers.get("Content-Length", 0)) if body else 0
        content = await self._within(self.reader.readexactly(length))
        return Answer(status=int(first.split()[1]), headers=headers, body=content)

    async def end(self) -> bytes:
        """All that comes until the server closes the connection."""
        return await self._within(self.reader.read())

    async def _within(self, awaited: Awaitable[bytes]) -> bytes:
        return await asyncio.wait_for(awaited, PATIENCE)


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[Raw]:
    """A connection to a local port."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()


def environment(**extra: str) -> dict[str, str]:
    """An environment without options of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUIGI", "XDG_"))}
    path = os.pathsep.join(part for part in (str(ROOT / "scheduler"), os.environ.get("PYTHONPATH", "")) if part)
    return {**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **extra}


class Process:
    """`luigi-spanner` with these arguments, running in `directory`; ended with the block."""

    def __init__(self, *arguments: str, directory: Path, **extra: str) -> None:
        self._running = subprocess.Popen(
            [sys.executable, "-m", "luigi_spanner", *arguments],
            cwd=directory,
            env=environment(HOME=str(directory), **extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        if self._running.poll() is None:
            self._running.kill()
        self._running.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._running.stdout is not None
        self._running.stdout.close()

    @property
    def pid(self) -> int:
        return self._running.pid

    def line(self, pattern: str) -> re.Match[str]:
        """The next line of output that matches; fails when the process ends without one."""
        deadline = time.monotonic() + PATIENCE
        while True:
            line = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            assert line is not None, f"no line matches {pattern!r} in:\n{self.output}"
            found = re.search(pattern, line)
            if found:
                return found

    def client(self) -> Client:
        """A client, once the server says where it listens."""
        return Client(port=int(self.line(r"serves namespace .* on http://[^ ]*:(\d+)/").group(1)))

    def signal(self, number: signal.Signals) -> None:
        self._running.send_signal(number)

    def exit_code(self) -> int:
        code = self._running.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def _read(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self.output += line
            self._lines.put(line)
        self._lines.put(None)
