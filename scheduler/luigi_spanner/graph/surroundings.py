"""What Luigi's rules see of the outside while a call runs: the clock, the mail and the explanations of failures.

The rules look up `time`, `notifications` and `json` in their own module. `install` puts stand-ins there, once, that behave just
as the originals unless a call of ours runs in this thread: then the time is the replica's (I6), mail waits for the commit (I5),
and a failure may be explained by anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.tracker import Tracker


class _Running(threading.local):
    """The call that runs in this thread, if any."""

    tracker: Tracker | None = None
    clock: Callable[[], float] | None = None


_running = _Running()


class _StandIn:
    """Delegates to the original module, looked up at each use so that it stays patchable."""

    def __init__(self, original: ModuleType) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Time(_StandIn):
    def time(self) -> float:
        clock = _running.clock
        return float(self.original.time() if clock is None else clock())


class _Notifications(_StandIn):
    def send_error_email(self, *args: Any, **kwargs: Any) -> None:
        tracker = _running.tracker
        send = partial(self.original.send_error_email, *args, **kwargs)
        if tracker is None:
            send()
        else:
            tracker.defer(send, slow=True)


class _Json(_StandIn):
    def loads(self, text: Any) -> Any:
        """The rules read one JSON: why a task failed. What is none they take as it is, if told so by a ValueError."""
        if _running.tracker is None:
            return self.original.loads(text)
        if not isinstance(text, str):
            raise ValueError("no text")
        try:
            return self.original.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deep") from error


def install() -> None:
    """Put the stand-ins in place; again is harmless."""
    if isinstance(luigi_scheduler.time, ModuleType):
        luigi_scheduler.time = _Time(luigi_scheduler.time)
    if isinstance(luigi_scheduler.notifications, ModuleType):
        luigi_scheduler.notifications = _Notifications(luigi_scheduler.notifications)
    if isinstance(luigi_scheduler.json, ModuleType):
        luigi_scheduler.json = _Json(luigi_scheduler.json)


@contextmanager
def entered(tracker: Tracker, clock: Callable[[], float] | None) -> Iterator[None]:
    """Run the rules inside: mail is deferred, and the time is `clock()` (seconds since the epoch), or the system's for None."""
    before = _running.tracker, _running.clock
    _running.tracker, _running.clock = tracker, clock
    try:
        yield
    finally:
        _running.tracker, _running.clock = before
