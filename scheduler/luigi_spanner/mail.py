"""The post: what waits in the outbox is sent by Luigi, in a thread of its own, away from calls and from the event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import smtplib
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from luigi import notifications

from luigi_spanner.calls import CallError
from luigi_spanner.graph import outbox as outboxes
from luigi_spanner.graph import surroundings
from luigi_spanner.graph.outbox import Mail, Outbox, Outcome
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 60.0
LONGEST_RETRY_SECONDS = 3600.0
"""How long a mail waits after its first try has failed, and at most; twice as long after each, give or take a half."""

PATIENCE_SECONDS = 1.0
"""How long at least others leave a mail to the replica that has queued it. It sends at once, if it lives."""

ERROR_CHARS = 500
"""How much is kept of why a mail was not sent."""

NO_ANSWER = "no answer"

MOST_GIVEN_UP = 3
"""From how many threads on that hang in a send this replica leaves mail to others."""


class Undeliverable(Exception):
    """A mail could not be sent; the message says why."""


class MailThread:
    """Sends mail as Luigi's configuration says, on a thread that does not keep the process from ending. One that hangs is
    given up for a new one."""

    def __init__(self) -> None:
        self._queue: _Queue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._given_up: list[threading.Thread] = []
        self._told = False

    def is_able(self) -> bool:
        """Whether mail can be sent here: not while too many threads hang."""
        self._given_up = [thread for thread in self._given_up if thread.is_alive()]
        able = len(self._given_up) < MOST_GIVEN_UP
        if not able and not self._told:
            logger.error("Mail is left to other replicas: %d threads here hang sending mail; restart this one", MOST_GIVEN_UP)
        self._told = not able
        return able

    async def send(self, mail: Mail) -> None:
        """Returns once the mail server has taken it. Raises Undeliverable, also if there is no answer while a claim lasts."""
        if self._thread is None:
            self._queue = queue.SimpleQueue()
            self._thread = threading.Thread(target=_work, args=(self._queue,), name="mail", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str | None] = loop.create_future()

        def run() -> None:
            error = _sent(mail)
            with suppress(RuntimeError):  # The loop is closed: nobody waits any more.
                loop.call_soon_threadsafe(_resolve, answered, error)

        self._queue.put(run)
        timer = loop.call_later(outboxes.LEASE_SECONDS, _resolve, answered, NO_ANSWER)
        try:
            error = await answered
        finally:
            timer.cancel()
        if error == NO_ANSWER:
            self._give_up(self._thread)
        if error is not None:
            raise Undeliverable(error)

    def _give_up(self, thread: threading.Thread) -> None:
        # Should it ever come back, it ends.
        self._queue.put(None)
        self._given_up.append(thread)
        self._thread = None


_Queue = queue.SimpleQueue["Callable[[], object] | None"]


def _work(jobs: _Queue) -> None:
    while (job := jobs.get()) is not None:
        job()


def _resolve(answered: asyncio.Future[str | None], error: str | None) -> None:
    if not answered.done():
        answered.set_result(error)


def _sent(mail: Mail) -> str | None:
    """Send a mail by Luigi; why that failed, None if it did not."""
    try:
        with surroundings.failing_loudly():
            notifications.send_email(mail.subject, mail.message, notifications.email().sender, list(mail.recipients))
    except Exception as error:  # A mail server, and whatever library asks it, may fail in any way.
        return _kind(error)[:ERROR_CHARS]
    return None


def _kind(error: Exception) -> str:
    """What went wrong, in no words of others, which may quote the mail: the kind of it, and a mail server's code."""
    codes: set[object] = set()
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = {code for code, _ in error.recipients.values()}
    elif isinstance(error, smtplib.SMTPResponseException):
        codes = {error.smtp_code}
    elif isinstance(error, OSError):
        codes = {error.errno}
    numbers = sorted(code for code in codes if isinstance(code, int))
    return " ".join([type(error).__name__, *map(str, numbers)])


class Postman:
    """Claims the mail that is due, one at a time, sends it, and says what has become of it.

    `call(rule, **arguments)` runs a rule of the outbox like any call, and gives its reply as JSON; `send(mail)` raises
    Undeliverable; `dice()` gives a number from 0 to 1; `is_able()` says whether this replica can send at all.
    """

    def __init__(
        self,
        *,
        replica: str,
        outbox: Outbox,
        call: Callable[..., Awaitable[bytes]],
        send: Callable[[Mail], Awaitable[None]],
        dice: Callable[[], float],
        is_able: Callable[[], bool] = lambda: True,
    ) -> None:
        self._replica = replica
        self._outbox = outbox
        self._call = call
        self._send = send
        self._dice = dice
        self._is_able = is_able
        self._patience = PATIENCE_SECONDS * (1 + 2 * dice())
        self._done: Outcome | None = None
        self._wanted = asyncio.Event()
        self._resting = asyncio.Event()
        self._resting.set()
        self._round: asyncio.Task[None] | None = None
        outbox.wake = self._wanted.set

    def start(self) -> None:
        """Begin to send what is due, and what will be."""
        self._round = asyncio.create_task(self._go_round(), name="mail")

    def look(self) -> None:
        """Send what another replica has left, or what has failed before, if there is any; call it now and then."""
        if self._resting.is_set() and (self._done is not None or self._outbox.is_due(self._replica, self._patience)):
            self._wanted.set()

    async def stop(self, seconds: float) -> None:
        """End; what is due is sent within so many seconds, or left to other replicas."""
        if self._round is None:
            return
        if self._outbox.is_due(self._replica):
            self._wanted.set()
        try:
            await asyncio.wait_for(self._rest(), seconds)
        except asyncio.TimeoutError:
            logger.warning("Mail waits in the outbox: the mail server did not take it within %.0f s", seconds)
        self._round.cancel()
        await asyncio.gather(self._round, return_exceptions=True)

    async def _rest(self) -> None:
        assert self._round is not None
        while not self._round.done() and (self._wanted.is_set() or not self._resting.is_set()):
            await asyncio.sleep(0)
            await self._resting.wait()

    async def _go_round(self) -> None:
        while True:
            await self._wanted.wait()
            self._resting.clear()
            self._wanted.clear()
            try:
                await self._send_what_is_due()
            except CallError as error:
                # The next look tries again. Mail that was sent is not sent again: `_done` is kept until it is in the journal.
                logger.warning("The outbox is out of reach: %s", error)
            except Exception as error:
                # Luigi may not be able to read its configuration: that is no reason to send nothing ever again.
                logger.error("What is in the outbox could not be sent", exc_info=without_words(error))
            finally:
                self._resting.set()

    async def _send_what_is_due(self) -> None:
        # A replica in a terminal sends nothing, as Luigi would: its mail is left to others.
        while not notifications._email_disabled_reason() and self._is_able():
            taken: Any = json.loads(await self._call(self._outbox.take_mail, replica=self._replica, done=self._done))
            self._done = None
            if taken is None:
                return
            self._done = await self._deliver(Mail.of(taken))

    async def _deliver(self, mail: Mail) -> Outcome | None:
        if self._outbox.now() >= mail.due_at:
            # The commit of the claim took so long, or this process stood still: by now it may be another's.
            return None
        try:
            await self._send(mail)
        except Undeliverable as error:
            delay = retry_delay(mail.tries, self._dice)
            message = "Mail %r to %s could not be sent (try %d), the next try is in %.0f s: %s"
            logger.warning(message, mail.subject, ", ".join(mail.recipients), mail.tries, delay, error)
            return Outcome(ordinal=mail.ordinal, tries=mail.tries, error=str(error), delay=delay)
        return Outcome(ordinal=mail.ordinal, tries=mail.tries)


def retry_delay(tries: int, dice: Callable[[], float]) -> float:
    """Seconds to wait after so many tries: twice as long each time, up to a bound, and spread."""
    doubled: float = FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 10)
    return min(doubled, LONGEST_RETRY_SECONDS) * (0.5 + dice())
