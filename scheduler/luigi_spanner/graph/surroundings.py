"""What Luigi's rules see of the outside while a call runs: the clock, the mail and the explanations of failures.

The rules look up `time`, `notifications` and `json` in their own module. `install` puts stand-ins there, once, that behave just
as the originals unless a call of ours runs in this thread: then the time is the replica's (I6), mail waits in the outbox, or for
the commit (I5), and a failure may be explained by anything. Luigi's notifier and its way to a mail server have stand-ins as well.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from luigi import batch_notifier, notifications
from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.outbox import MESSAGE_BYTES, Outbox, cut
from luigi_spanner.graph.tracker import Tracker

Letter = tuple[str, str, tuple[str, ...]]
"""Subject, message and recipients."""


class _Running(threading.local):
    """The call that runs in this thread, if any."""

    tracker: Tracker | None = None
    clock: Callable[[], float] | None = None
    now: float | None = None
    outbox: Outbox | None = None
    letters: list[Letter] | None = None
    loud = False


_running = _Running()


class _StandIn:
    """Delegates to the original module, looked up at each use so that it stays patchable."""

    def __init__(self, original: ModuleType) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Time(_StandIn):
    def time(self) -> float:
        now = _running.now
        return float(self.original.time()) if now is None else now


class _Notifications(_StandIn):
    def send_error_email(self, *args: Any, **kwargs: Any) -> None:
        tracker, outbox = _running.tracker, _running.outbox
        if outbox is not None:
            outbox.add_error(*args, **kwargs)
        elif tracker is not None:
            tracker.defer(partial(self.original.send_error_email, *args, **kwargs))
        else:
            self.original.send_error_email(*args, **kwargs)


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


class _SendEmail:
    """How Luigi's notifier sends."""

    def __init__(self, original: FunctionType) -> None:
        self.original = original

    def __call__(self, subject: str, message: str, sender: str, recipients: tuple[str, ...], *args: Any, **kwargs: Any) -> None:
        if _running.letters is None:
            self.original(subject, message, sender, recipients, *args, **kwargs)
        else:
            # What the outbox would cut away need not wait for the others.
            _running.letters.append((subject, cut(message, MESSAGE_BYTES), recipients))


class _Socket(_StandIn):
    @property
    def error(self) -> Any:
        """What Luigi takes for an answer of a mail server that it logs and forgets."""
        return () if _running.loud else self.original.error


def install() -> None:
    """Put the stand-ins in place; again is harmless."""
    if isinstance(luigi_scheduler.time, ModuleType):
        luigi_scheduler.time = _Time(luigi_scheduler.time)
    if isinstance(luigi_scheduler.notifications, ModuleType):
        luigi_scheduler.notifications = _Notifications(luigi_scheduler.notifications)
    if isinstance(luigi_scheduler.json, ModuleType):
        luigi_scheduler.json = _Json(luigi_scheduler.json)
    if isinstance(batch_notifier.send_email, FunctionType):
        batch_notifier.send_email = _SendEmail(batch_notifier.send_email)
    if isinstance(notifications.socket, ModuleType):
        notifications.socket = _Socket(notifications.socket)


@contextmanager
def entered(tracker: Tracker, clock: Callable[[], float] | None, outbox: Outbox | None = None) -> Iterator[None]:
    """Run the rules inside: mail goes into the outbox, or without one is deferred, and the time stays what `clock()` says now
    (seconds since the epoch), or is the system's for None."""
    before = _running.tracker, _running.clock, _running.now, _running.outbox
    now = None if clock is None else float(clock())
    _running.tracker, _running.clock, _running.now, _running.outbox = tracker, clock, now, outbox
    try:
        yield
    finally:
        _running.tracker, _running.clock, _running.now, _running.outbox = before


def time_of_call() -> float | None:
    """The time that the call in this thread sees, seconds since the epoch; None outside of one and where it is the system's."""
    return _running.now


def let_time_pass() -> None:
    """Read the clock again for the rest of the call, if one runs. A clock that stands still or goes back changes nothing."""
    if _running.now is not None and _running.clock is not None:
        _running.now = max(_running.now, float(_running.clock()))


@contextmanager
def captured() -> Iterator[list[Letter]]:
    """What Luigi's notifier sends inside is in this list instead."""
    _running.letters = []
    try:
        yield _running.letters
    finally:
        _running.letters = None


@contextmanager
def failing_loudly() -> Iterator[None]:
    """What goes wrong with a mail server inside is raised. Luigi logs it, and its caller takes the mail for sent."""
    _running.loud = True
    try:
        yield
    finally:
        _running.loud = False
