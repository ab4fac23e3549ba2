"""A TCP proxy that does to a connection what networks do: delay it, stall it, swallow one direction, cut it, refuse it.

It runs on a thread and a loop of its own, so that the code under test may be synchronous or not.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

COMMAND_SECONDS = 10.0
"""How long switching the proxy may take."""

_CHUNK = 64 * 1024


@dataclass(kw_only=True, eq=False)
class _Link:
    """One connection through the proxy. `holed` once bytes of it are lost, `stranded` if all of them will be."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    holed: bool = False
    stranded: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def abort(self) -> None:
        self.over.set()
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Listens on `host` (127.0.0.1 and a free port) and passes on to `target`, until told otherwise.

    Every switch returns when it is in force. `dropped_requests` and `dropped_replies` count the bytes swallowed.
    """

    def __init__(self, target: str) -> None:
        self.host = ""
        self.dropped_requests = 0
        self.dropped_replies = 0
        self._target = target
        self._delay = 0.0
        self._drop_requests = False
        self._drop_replies = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(COMMAND_SECONDS)
        self._loop.close()

    def heal(self) -> None:
        """Pass everything on again. Connections that have lost bytes are cut."""
        self._run(self._heal())

    def delay(self, seconds: float) -> None:
        """Hold back each piece of data, either way, for `seconds`."""
        self._delay = seconds

    def stall(self) -> None:
        """Hold everything back, either way; `heal` passes it on, late but complete and in order, as TCP's retransmissions do."""
        self._run(self._stall())

    def drop_requests(self) -> None:
        """Swallow what clients send, their end included."""
        self._run(self._set("_drop_requests"))

    def drop_replies(self) -> None:
        """Swallow what the server sends, its end included."""
        self._run(self._set("_drop_replies"))

    def strand(self) -> None:
        """Swallow everything on the connections that there are, either way; new ones are fine. Firewalls forget like that."""
        self._run(self._strand())

    def cut(self) -> None:
        """Reset every connection; new ones are welcome."""
        self._run(self._cut())

    def refuse(self) -> None:
        """Reset every connection and refuse new ones, as if the server had died."""
        self._run(self._refuse())

    def _run(self, command: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(command, self._loop).result(COMMAND_SECONDS)

    async def _listen(self) -> None:
        port = int(self.host.rpartition(":")[2] or 0)
        self._listening = socket.create_server(("127.0.0.1", port))
        self._listening.setblocking(False)
        self.host = f"127.0.0.1:{self._listening.getsockname()[1]}"
        # Not asyncio's server: closed in the round in which it accepts, it loses the connection.
        self._loop.add_reader(self._listening, self._accept, self._listening)

    async def _heal(self) -> None:
        self._delay = 0.0
        self._drop_requests = self._drop_replies = False
        for link in [link for link in self._links if link.holed]:
            link.abort()
        self._flowing.set()
        if self._listening is None:
            await self._listen()

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _set(self, switch: str) -> None:
        setattr(self, switch, True)

    async def _strand(self) -> None:
        for link in self._links:
            link.holed = link.stranded = True

    async def _cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _refuse(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        await self._cut()

    async def _close(self) -> None:
        await self._refuse()
        # Transports that were aborted close in the loop's next round.
        await asyncio.sleep(0.01)

    def _accept(self, listening: socket.socket) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:  # it was reset before it was accepted
            return
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Also where it was called off before its first step.
        task.add_done_callback(lambda _: connection.close())

    async def _serve(self, connection: socket.socket) -> None:
        name, _, port = self._target.rpartition(":")
        client_reader, client = await asyncio.open_connection(sock=connection)
        try:
            server_reader, server = await asyncio.open_connection(name, int(port))
        except (OSError, asyncio.CancelledError):
            client.transport.abort()
            return
        link = _Link(client=client, server=server)
        self._links.add(link)
        try:
            await asyncio.gather(self._requests(link, client_reader), self._replies(link, server_reader))
        finally:
            self._links.discard(link)
            link.abort()

    async def _requests(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):  # the other side reset the connection: the link ends
            while data := await self._read(reader):
                if self._drop_requests or link.stranded:
                    link.holed = True
                    self.dropped_requests += len(data)
                else:
                    link.server.write(data)
                    await link.server.drain()
        await self._end(link, self._drop_requests)

    async def _replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):  # the other side reset the connection: the link ends
            while data := await self._read(reader):
                if self._drop_replies or link.stranded:
                    link.holed = True
                    self.dropped_replies += len(data)
                else:
                    link.client.write(data)
                    await link.client.drain()
        await self._end(link, self._drop_replies)

    async def _end(self, link: _Link, dropped: bool) -> None:
        """One side has gone; the other hears of it, unless that is swallowed too."""
        if dropped or link.stranded:
            link.holed = True
            await link.over.wait()
        link.abort()

    async def _read(self, reader: asyncio.StreamReader) -> bytes:
        data = await reader.read(_CHUNK)
        if data and self._delay:
            await asyncio.sleep(self._delay)
        await self._flowing.wait()
        return data
