"""The door: counts the calls inside, and lets no more in once it is closed."""

from __future__ import annotations

import asyncio


class Door:
    """Counts calls from the end of their request to their reply. Used from one event loop.

    `open`: calls may come in. `closing`: those who come had better go elsewhere next time, for it is closed or soon will be.
    """

    def __init__(self) -> None:
        self.open = True
        self.closing = False
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> bool:
        """Whether the call may come in. It leaves once, through `leave`."""
        if self.open:
            self._inside += 1
            self._empty.clear()
        return self.open

    def leave(self) -> None:
        """A call that had come in has its reply, or its caller has gone."""
        self._inside -= 1
        if self._inside == 0:
            self._empty.set()

    def announce(self) -> None:
        """Say that it will be closed, and still let everybody in."""
        self.closing = True

    async def close(self) -> None:
        """Let nobody in any more, and wait until everybody has left."""
        self.closing = True
        self.open = False
        await self._empty.wait()
