"""The mail thread: effects that may block wait their turn here, away from the event loop."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class MailThread:
    """Runs what is handed to it, in order, on a thread that does not keep the process from ending."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def run(self, effect: Callable[[], object]) -> None:
        """Run `effect()` soon. What it raises is logged: the change that the mail tells of stands."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="mail", daemon=True)
            self._thread.start()
        self._queue.put(effect)

    def when_idle(self, tell: Callable[[], object]) -> None:
        """Call `tell()`, from the mail thread, once everything handed over before is done; at once if there is nothing."""
        if self._thread is None:
            tell()
        else:
            self._queue.put(tell)

    def _work(self) -> None:
        while True:
            effect = self._queue.get()
            try:
                effect()
            except Exception:  # A mail server may fail in any way.
                logger.exception("A mail could not be sent")
