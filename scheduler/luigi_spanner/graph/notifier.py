"""Batched e-mail, shared: what waits to be mailed is state, so it survives a replica and is mailed by one (I5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any

from luigi.batch_notifier import BatchNotifier, batch_email

from luigi_spanner.graph import surroundings
from luigi_spanner.graph.outbox import BATCH_BYTES, MESSAGE_BYTES, MOST_RECIPIENTS, Outbox, mailable
from luigi_spanner.graph.state import State
from luigi_spanner.journal import compact
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

NEXT_EMAIL = ("next_email",)

MOST_FAILURES = 5000
"""From how many failures on they are mailed before the interval has passed: wording them takes some 0.3 s (measured), and
others' calls wait for it."""

FAILURES_BYTES = BATCH_BYTES
"""From how many characters of failures on the same: each replica holds them in memory."""

MOST_OWNERS = 500
"""Most owners that one batch is mailed to: Luigi words a mail for each."""


class Notifier:
    """Stands in for Luigi's BatchNotifier. Failures that wait are rows, and so is the time of the next mail; the first failure
    sets it. `make` gives one of Luigi's own."""

    def __init__(self, state: State, outbox: Outbox, make: Callable[[], Any]) -> None:
        self._state = state
        self._outbox = outbox
        self._make = make

    def add_failure(self, *args: Any) -> None:
        self._add("add_failure", args)

    def add_disable(self, *args: Any) -> None:
        self._add("add_disable", args)

    def add_scheduling_fail(self, *args: Any) -> None:
        self._add("add_scheduling_fail", args)

    def _add(self, kind: str, args: tuple[Any, ...]) -> None:
        self._put(kind, args)
        if NEXT_EMAIL not in self._state.settings:
            self._state.settings.put(NEXT_EMAIL, {"value": self._state.now() + 60 * batch_email().email_interval})

    def _put(self, kind: str, args: tuple[Any, ...]) -> None:
        """The failure waits. Every kind passes the task's name, then its family, and last who is to be told."""
        row = {"kind": kind, "family": args[1], "arguments": list(args)}
        self._state.emails.put((self._state.tracker.ordinal(),), {**row, "size": _length(args)})

    def _is_due(self) -> bool:
        row = self._state.settings.get(NEXT_EMAIL)
        return row is not None and self._state.now() >= row["value"]

    def _take(self) -> list[dict[str, Any]]:
        """The failures that wait, in order; they wait no longer."""
        rows = [row for _, row in sorted(self._state.emails.items())]
        for key in list(self._state.emails):
            self._state.emails.remove(key)
        self._state.settings.remove(NEXT_EMAIL)
        return rows

    def refill(self) -> None:
        """The rows came from elsewhere."""


class OutboxNotifier(Notifier):
    """What Luigi's notifier would send of the rows goes into the outbox, in the entry that removes them."""

    def _put(self, kind: str, args: tuple[Any, ...]) -> None:
        """A failure waits with no more than a mail could have of it."""
        *said, owners = args
        if kind != "add_disable":
            said[-1] = _tail(said[-1])
        if len(owners or ()) > MOST_RECIPIENTS:
            left_out = len(owners) - MOST_RECIPIENTS
            self._outbox.refuse(f"Luigi: a failure of {_text(args[1])[:100]}", left_out)
            owners = owners[:MOST_RECIPIENTS]
        super()._put(kind, (*said, owners))

    def update(self) -> None:
        """Send when the interval has passed, or very many failures wait."""
        waiting = self._state.emails
        large = sum(row.get("size", 0) for row in waiting.values()) >= FAILURES_BYTES
        if large or self._is_due() or len(waiting) >= MOST_FAILURES:
            self.send_email()

    def send_email(self) -> None:
        """Send what is pending."""
        rows = self._take()
        try:
            letters = self._worded(rows)
        except Exception as error:  # Whatever is wrong with it: else it would fail every prune from now on.
            message = "What was to be mailed of %d failures cannot be worded"
            self._state.tracker.defer(partial(logger.error, message, len(rows), exc_info=without_words(error)))
            return
        self._outbox.add_all(letters, BATCH_BYTES)

    def _worded(self, rows: Sequence[dict[str, Any]]) -> list[surroundings.Letter]:
        """The mails that one of Luigi's notifiers would send. It has one for each owner, and their order is luck."""
        mailer = self._make()
        owners = dict.fromkeys(owner for row in rows for owner in row["arguments"][-1] or ())
        kept = set(islice(owners, MOST_OWNERS))
        if len(owners) > len(kept):
            self._outbox.refuse(f"Luigi: {len(rows)} failures", len(owners) - len(kept))
        for row in rows:
            *said, asked = row["arguments"]
            _tell(mailer, row["kind"], [*said, [owner for owner in asked or () if owner in kept]])
        with surroundings.captured() as letters:
            mailer.send_email()
        return sorted(letters)


class DirectNotifier(Notifier):
    """A notifier of Luigi's own is filled from the rows, after each commit. It sends where the call was made that found that the
    interval had passed."""

    def __init__(self, state: State, outbox: Outbox, make: Callable[[], Any]) -> None:
        super().__init__(state, outbox, make)
        self._mailer = make()

    def _add(self, kind: str, args: tuple[Any, ...]) -> None:
        super()._add(kind, args)
        self._state.tracker.defer(partial(self._pass_on, kind, args))

    def _pass_on(self, kind: str, args: Sequence[Any]) -> None:
        _tell(self._mailer, kind, args)

    def update(self) -> None:
        """Send when the interval has passed."""
        due = self._is_due()
        if due:
            self._take()
        self._state.tracker.defer(partial(self._update_mailer, due))

    def _update_mailer(self, due: bool) -> None:
        # When to send is state; the mailer's own idea of it would be another on each replica.
        self._mailer._next_send = 0.0 if due else math.inf
        self._mailer.update()

    def send_email(self) -> None:
        """Send what is pending."""
        self._take()
        self._state.tracker.defer(self._mailer.send_email)

    def refill(self) -> None:
        """Start over from the rows."""
        self._mailer = self._make()
        for _, row in sorted(self._state.emails.items()):
            self._pass_on(row["kind"], row["arguments"])


def _tell(mailer: Any, kind: str, args: Sequence[Any]) -> None:
    """Pass a failure on. Luigi's own notifier expects every text to be one; another gets what Luigi would give it."""
    getattr(mailer, kind)(*(_mailable(*args) if isinstance(mailer, BatchNotifier) else args))


def _tail(explanation: Any) -> Any:
    """The end of an explanation, which says why; all of it if a mail could hold that."""
    text = _text(explanation)
    return explanation if len(text) <= MESSAGE_BYTES else text[-MESSAGE_BYTES:]


def _length(value: Any) -> int:
    """About how many characters a failure holds."""
    try:
        return len(compact(value))
    except (TypeError, ValueError, RecursionError):
        return 0  # It cannot become a row: the ledger says so.


def _mailable(name: Any, family: Any, unbatched: dict[str, Any], *rest: Any) -> tuple[Any, ...]:
    """A failure as it can be mailed, whatever its caller gave: an explanation, if there is one, and the owners are the rest."""
    *explanation, owners = rest
    params = {_text(key): _text(value) for key, value in unbatched.items()}
    return (_text(name), _text(family), params, *map(_text, explanation), owners or ())


def _text(value: Any) -> str:
    """Any JSON as text that a mail can hold."""
    if value is None:
        return ""
    return mailable(value if isinstance(value, str) else compact(value))
