"""Batched e-mail, shared: what waits to be mailed is state, so it survives a replica and is mailed by one (I5)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from luigi.batch_notifier import BatchNotifier, batch_email

from luigi_spanner.graph.state import State
from luigi_spanner.journal import compact

NEXT_EMAIL = ("next_email",)


class Notifier:
    """Stands in for Luigi's BatchNotifier. Pending failures are rows; every replica's own notifier is filled from them after the
    commit, and the replica whose call found that the interval had passed sends."""

    def __init__(self, state: State, make: Callable[[], Any]) -> None:
        self._state = state
        self._make = make
        self._mailer = make()

    def add_failure(self, *args: Any) -> None:
        self._add("add_failure", args)

    def add_disable(self, *args: Any) -> None:
        self._add("add_disable", args)

    def add_scheduling_fail(self, *args: Any) -> None:
        self._add("add_scheduling_fail", args)

    def _add(self, kind: str, args: tuple[Any, ...]) -> None:
        ordinal = self._state.tracker.ordinal()
        # Every kind passes the task's name, then its family.
        self._state.emails.put((ordinal,), {"kind": kind, "family": args[1], "arguments": list(args)})
        if NEXT_EMAIL not in self._state.settings:
            self._state.settings.put(NEXT_EMAIL, {"value": self._state.now() + 60 * batch_email().email_interval})
        self._state.tracker.defer(partial(self._tell, kind, args))

    def _tell(self, kind: str, args: Sequence[Any]) -> None:
        """Pass a failure on. Luigi's own notifier expects every text to be one; another gets what Luigi would give it."""
        getattr(self._mailer, kind)(*(_mailable(*args) if isinstance(self._mailer, BatchNotifier) else args))

    def update(self) -> None:
        """Send when the interval has passed; the first failure starts it."""
        row = self._state.settings.get(NEXT_EMAIL)
        due = row is not None and self._state.now() >= row["value"]
        if due:
            self._clear()
        self._state.tracker.defer(partial(self._update_mailer, due), slow=due)

    def _update_mailer(self, due: bool) -> None:
        # When to send is state; the mailer's own idea of it would be another on each replica.
        self._mailer._next_send = 0.0 if due else math.inf
        self._mailer.update()

    def send_email(self) -> None:
        """Send what is pending."""
        self._clear()
        self._state.tracker.defer(self._mailer.send_email, slow=True)

    def _clear(self) -> None:
        for key in list(self._state.emails):
            self._state.emails.remove(key)
        self._state.settings.remove(NEXT_EMAIL)

    def refill(self) -> None:
        """Start over from the rows, after they came from elsewhere."""
        self._mailer = self._make()
        for _, row in sorted(self._state.emails.items()):
            self._tell(row["kind"], row["arguments"])


def _mailable(name: Any, family: Any, unbatched: dict[str, Any], *rest: Any) -> tuple[Any, ...]:
    """A failure as it can be mailed, whatever its caller gave: an explanation, if there is one, and the owners are the rest."""
    *explanation, owners = rest
    params = {_text(key): _text(value) for key, value in unbatched.items()}
    return (_text(name), _text(family), params, *map(_text, explanation), owners or ())


def _text(value: Any) -> str:
    """Any JSON as text that a mail can hold, which half of a surrogate pair is not."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else compact(value)
    return text.encode("utf-8", "backslashreplace").decode()
