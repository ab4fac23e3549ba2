"""The outbox: mail that waits to be sent is state (I5).

A mail is written in the entry of the change that it tells of, so it comes into being exactly once, and outlives every replica. A
replica that wants to send it claims it first, by a call like any other: for a time it alone may send then. What was sent is
deleted by another call; so is what could not be sent for a day. A replica that dies in between is found out by its claim, which
expires, and the mail is sent again: at least once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from luigi import notifications

from luigi_spanner.graph.containers import Table
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.journal import Key

logger = logging.getLogger(__name__)

OUTBOX = "outbox"

LEASE_SECONDS = 120.0
"""How long a claim lasts, and so how long the mail waits of a replica that has died with it. Sending takes less: Luigi waits 10 s
for each answer of a mail server, and one mail has some seven."""

GIVE_UP_SECONDS = 86_400.0
"""After how long a mail that was tried is given up."""

LATEST_SECONDS = 7200.0
"""Twice the longest time between two tries. What is due later was put off by a clock that was ahead."""

MOST_WAITING = 1000
"""Most mails that wait. With MESSAGE_CHARS it bounds what a mail server that is away costs each replica's memory."""

SUBJECT_CHARS = 500
MESSAGE_CHARS = 100_000
"""Longest subject and message, in characters; what is longer is cut, and says so."""

TOLD_EACH = 100
"""Of mails that the full outbox does not take, the log has one line for so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mail:
    """A mail that this replica has claimed. `tries` counts this one; `due_at` is when the claim ends, in the rules' time."""

    ordinal: int
    subject: str
    message: str
    recipients: tuple[str, ...]
    tries: int
    due_at: float

    @classmethod
    def of(cls, taken: dict[str, Any]) -> Mail:
        """From the reply of `Outbox.take_mail`."""
        values = {name: taken[name] for name in ("ordinal", "subject", "message", "tries", "due_at")}
        return cls(**values, recipients=tuple(taken["recipients"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What has become of a claimed mail: sent, or `error` says why not, and it is to be tried again after `delay` seconds."""

    ordinal: int
    tries: int
    error: str | None = None
    delay: float = 0.0


@dataclass(slots=True)
class Counts:
    """What this replica has seen of mail since it started. `refused`: the outbox was full."""

    queued: int = 0
    refused: int = 0
    sent: int = 0
    failed: int = 0
    given_up: int = 0


class Outbox:
    """The rules of the outbox, on its rows. `now` is the rules' clock; `wake` is called once mail has been committed here."""

    def __init__(self, rows: Table, tracker: Tracker, now: Callable[[], float]) -> None:
        self._rows = rows
        self._tracker = tracker
        self.now = now
        self.wake: Callable[[], object] = lambda: None
        self.counts = Counts()

    def __len__(self) -> int:
        return len(self._rows)

    # What the scheduler's rules write

    def add_error(self, subject: str, message: str, additional_recipients: Any = None) -> None:
        """Queue what Luigi would send to whom its configuration names, and to others."""
        self.add(subject, message, self._asked(notifications._email_recipients, additional_recipients))

    def add(self, subject: str, message: str, recipients: Sequence[str] | None) -> None:
        """Queue a mail. As in Luigi there is none without recipients, nor where its configuration or a terminal forbids mail."""
        if not recipients:
            return
        reason = self._asked(notifications._email_disabled_reason)
        if reason:
            self._tracker.defer(partial(logger.info, "Not sending email to %r because %s", recipients, reason))
        elif len(self._rows) >= MOST_WAITING:
            self._tracker.defer(partial(self._refuse, subject))
        else:
            now = self.now()
            self._rows.put(
                (self._tracker.ordinal(),),
                {
                    "subject": _cut(" ".join(mailable(subject).splitlines()), SUBJECT_CHARS),
                    "message": _cut(mailable(message), MESSAGE_CHARS),
                    "recipients": [mailable(recipient) for recipient in recipients],
                    "queued_at": now,
                    "due_at": now,
                    "tries": 0,
                    "by": None,
                    "error": None,
                },
            )
            self._tracker.defer(self._tell)

    def _asked(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """What Luigi's configuration says. One that it cannot read must not fail the call."""
        try:
            return question(*arguments)
        except Exception as error:  # As its parameters raise.
            self._tracker.defer(partial(logger.error, "Luigi's configuration of mail cannot be read: %s", error))
            return None

    def _tell(self) -> None:
        self.counts.queued += 1
        self.wake()

    def _refuse(self, subject: str) -> None:
        if self.counts.refused % TOLD_EACH == 0:
            logger.warning(
                "Mail is not sent: %d mails wait already and no more than that are kept; the first that is left out is %r",
                MOST_WAITING,
                subject[:SUBJECT_CHARS],
            )
        self.counts.refused += 1

    # What replicas say about it; run like any call

    def is_due(self, replica: str, patience: float = 0.0) -> bool:
        """Whether there has been something to send for the replica for so many seconds."""
        return bool(self._claimable(replica, self.now() - patience))

    def take_mail(self, replica: str, done: Outcome | None) -> dict[str, Any] | None:
        """Note what has become of the mail that the replica had claimed, and claim the next one for it; as `Mail.of` reads it.
        None: nothing is due, or another replica is sending."""
        if done is not None:
            self._settle(replica, done)
        for key in self._claimable(replica, self.now()):
            row = self._rows[key]
            if self._is_too_old(row):
                self._give_up(key, row)
            else:
                claimed = {**row, "by": replica, "due_at": self.now() + LEASE_SECONDS, "tries": row["tries"] + 1}
                self._rows.put(key, claimed)
                return {"ordinal": key[0], **claimed}
        return None

    def _claimable(self, replica: str, now: float) -> list[Key]:
        """The mails that the replica may claim, those first that are due for longest. What it has claimed and asks for again it
        has not heard of: the reply was lost."""
        rows = self._rows.items()
        if any(row["by"] not in (None, replica) and _left(row, now) > 0 for _, row in rows):
            return []
        due = [(row["due_at"], key) for key, row in rows if row["by"] == replica or _left(row, now) <= 0]
        return [key for _, key in sorted(due)]

    def _settle(self, replica: str, done: Outcome) -> None:
        key = (done.ordinal,)
        row = self._rows.get(key)
        if row is None:
            return
        if done.error is None:
            # Whoever holds it by now: it was sent.
            self._rows.remove(key)
            self._tracker.defer(partial(self._count, "sent"))
        elif (row["by"], row["tries"]) == (replica, done.tries):
            self._tracker.defer(partial(self._count, "failed"))
            if self._is_too_old(row):
                self._give_up(key, {**row, "error": done.error})
            else:
                self._rows.put(key, {**row, "by": None, "due_at": self.now() + done.delay, "error": done.error})

    def _is_too_old(self, row: dict[str, Any]) -> bool:
        return bool(row["tries"]) and self.now() - row["queued_at"] > GIVE_UP_SECONDS

    def _give_up(self, key: Key, row: dict[str, Any]) -> None:
        self._rows.remove(key)
        self._tracker.defer(partial(self._count, "given_up"))
        message = "Mail %r to %s was given up after %d tries in %.0f h: %s"
        hours = (self.now() - row["queued_at"]) / 3600
        reason = row["error"] or "no replica has come back from sending it"
        said = (row["subject"], ", ".join(row["recipients"]), row["tries"], hours, reason)
        self._tracker.defer(partial(logger.error, message, *said))

    def _count(self, what: str) -> None:
        setattr(self.counts, what, getattr(self.counts, what) + 1)


def mailable(text: str) -> str:
    """`text` as a mail can hold it, which half of a surrogate pair is not."""
    return text.encode("utf-8", "backslashreplace").decode()


def _left(row: dict[str, Any], now: float) -> float:
    """Seconds until a mail is due, or a claim ends."""
    left: float = row["due_at"] - now
    return left if left <= LATEST_SECONDS else 0.0


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    note = f" ... (cut: {length} of {len(text)} characters)"
    return text[: length - len(note)] + note
