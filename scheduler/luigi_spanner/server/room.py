"""Room for large bodies: so many bytes of them may be in memory at once, and who finds none left waits for it."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """`size` bytes, taken and given back. Who waits gets them in the order of coming. Used from one event loop."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> asyncio.Future[None] | None:
        """Take `size` bytes, which is not more than all. None if they are taken, else a future that is done once they are;
        cancelled before that, it takes nothing."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return None
        taken = asyncio.get_running_loop().create_future()
        self._waiting.append((size, taken))
        return taken

    def give_back(self, size: int) -> None:
        """Bytes that were taken are free again."""
        self._free += size
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            wanted, taken = self._waiting.popleft()
            if not taken.cancelled():
                self._free -= wanted
                taken.set_result(None)
