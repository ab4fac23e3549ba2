"""The door: counts the requests inside, and lets no more in once it is closed."""

from __future__ import annotations

import asyncio


class Door:
    """Counts requests from their headers to their reply. Used from one event loop."""

    def __init__(self) -> None:
        self.open = True
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> bool:
        """Whether the request may come in. It leaves once, through `leave`."""
        if self.open:
            self._inside += 1
            self._empty.clear()
        return self.open

    def leave(self) -> None:
        """A request that had come in has its reply, or its caller has gone."""
        self._inside -= 1
        if self._inside == 0:
            self._empty.set()

    async def close(self) -> None:
        """Let nobody in any more, and wait until everybody has left."""
        self.open = False
        await self._empty.wait()
