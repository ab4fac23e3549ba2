"""The outbox: mail that waits to be sent is state (I5).

A mail is written in the entry of the change that it tells of, so it comes into being exactly once, and outlives every replica. A
replica that wants to send it claims it first, by a call like any other: for a time it alone may send then. What was sent is
deleted by another call; so is what could not be sent for a day. A replica that dies in between is found out by its claim, which
expires, and the mail is sent again: at least once.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from luigi import notifications

from luigi_spanner.graph.containers import Table
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.journal import Key, canonical

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
WAITING_BYTES = 12 * 1024 * 1024
"""Most mails that wait, and most that they take in all. A mail counts with what it takes in memory, or as JSON if that is more:
so this bounds what a mail server that is away costs each replica, and what a call can add to an entry, far below COMMIT_BYTES."""

BATCH_BYTES = 8 * 1024 * 1024
"""Most of WAITING_BYTES that the mails of one batch take: it leaves room for others."""

SUBJECT_BYTES = 1000
MESSAGE_BYTES = 100_000
"""Largest subject and message as JSON, in which a character that is not ASCII takes six bytes; what is larger is cut, and says
so."""

MOST_RECIPIENTS = 100
RECIPIENTS_BYTES = 10_000
"""Most recipients of one mail, and their size in all. What is beyond is left out, and the log says so: half an address would be
somebody else's."""

NOTE_BYTES = 64
"""Room for what a text that was cut says of that."""

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
        self.add_all([(subject, message, recipients)])

    def add_all(self, letters: Iterable[tuple[str, str, Sequence[str] | None]], most: int = WAITING_BYTES) -> None:
        """Queue the mails, those first that come first, while all that wait keep to their bounds, and these to `most` bytes."""
        room = min(most, WAITING_BYTES - sum(_size(row) for row in self._rows.values()))
        for subject, message, recipients in letters:
            if not recipients:
                continue
            reason = self._asked(notifications._email_disabled_reason)
            if reason:
                self._tracker.defer(partial(logger.info, "Not sending email to %r because %s", recipients, reason))
            else:
                room -= self._queue(subject, message, recipients, room)

    def _queue(self, subject: str, message: str, recipients: Sequence[str], room: int) -> int:
        """Write the row of a mail if it takes no more than `room` bytes; how many it takes."""
        if room <= 0 or len(self._rows) >= MOST_WAITING:
            self.refuse(cut(mailable(subject), SUBJECT_BYTES))
            return 0
        now = self.now()
        row: dict[str, Any] = {
            "subject": cut(" ".join(mailable(subject).splitlines()), SUBJECT_BYTES),
            "message": cut(mailable(message), MESSAGE_BYTES),
            "recipients": self._fitting(recipients),
            "queued_at": now,
            "due_at": now,
            "tries": 0,
            "by": None,
            "error": None,
        }
        row["size"] = _size(row)
        if not row["recipients"] or row["size"] > room:
            self.refuse(row["subject"])
            return 0
        self._rows.put((self._tracker.ordinal(),), row)
        self._tracker.defer(self._tell)
        return int(row["size"])

    def _fitting(self, recipients: Sequence[str]) -> list[str]:
        """Those recipients that a mail can have."""
        room = RECIPIENTS_BYTES
        kept: list[str] = []
        for recipient in map(mailable, recipients):
            size = _json_bytes(recipient)
            if size <= room and len(kept) < MOST_RECIPIENTS:
                room -= size
                kept.append(recipient)
        if len(kept) < len(recipients):
            message = "A mail goes to %d of its %d recipients only: more than %d, or than %d bytes of them, are too many"
            self._tracker.defer(partial(logger.warning, message, len(kept), len(recipients), MOST_RECIPIENTS, RECIPIENTS_BYTES))
        return kept

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

    def refuse(self, subject: str, count: int = 1) -> None:
        """So many mails are left out, the first of which has this subject; undone with the call."""
        self._tracker.defer(partial(self._refuse, subject, count))

    def _refuse(self, subject: str, count: int) -> None:
        # How many have a line so far, and how many shall: the first, and then each so manyth.
        lines, wanted = (-(-refused // TOLD_EACH) for refused in (self.counts.refused, self.counts.refused + count))
        if lines < wanted:
            message = "Mail is not sent: %d mails wait, of at most %d and %d bytes, or a batch is too large; left out is %r"
            logger.warning(message, len(self._rows), MOST_WAITING, WAITING_BYTES, subject)
        self.counts.refused += count

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


def _size(row: dict[str, Any]) -> int:
    """Bytes that count for a mail: of its texts in memory, or as JSON if that is more."""
    known: int | None = row.get("size")
    if known is not None:
        return known
    return sum(max(sys.getsizeof(text), _json_bytes(text)) for text in (row["subject"], row["message"], *row["recipients"]))


def _json_bytes(text: str) -> int:
    return len(canonical(text))


def cut(text: str, most: int) -> str:
    """`text`, or as much of its beginning as takes `most` bytes as JSON together with a note that it was cut."""
    # No character takes less than a byte.
    encoded = canonical(text[:most])
    if len(text) <= most and len(encoded) <= most:
        return text
    kept = _whole(encoded[1 : most - NOTE_BYTES])
    return f"{text[:kept]} ... (cut: {kept} of {len(text)} characters)"


def _whole(encoded: str) -> int:
    """How many characters are whole in the beginning of a JSON text. The longest escape is of two halves, twelve bytes."""
    for missing in range(12):
        with suppress(ValueError):
            text: str = json.loads(f'"{encoded[: len(encoded) - missing]}"')
            return len(text) - _is_half(text[-1:])
    return 0


def _is_half(letter: str) -> bool:
    return "\ud800" <= letter <= "\udfff"
