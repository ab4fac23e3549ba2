"""An SMTP server on loopback that keeps the mail it takes, and refuses or hangs when told to.

It runs on threads of its own, so that the code under test may be synchronous or not. The kept library for this (aiosmtpd) has had
no release since 2024; what a mail client asks of a server is some forty lines.
"""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
import time
from dataclasses import dataclass
from email.message import EmailMessage
from types import TracebackType

ADDRESS = "127.0.0.1"

ANSWERS = {"EHLO": "250 here", "HELO": "250 here", "DATA": "354 go on", "QUIT": "221 bye", "END": "250 taken"}
"""What is answered to each verb, 250 to all others. END is the end of a mail's data."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A mail that the server has taken: to whom its envelope says, and when (`time.monotonic()`)."""

    recipients: tuple[str, ...]
    message: EmailMessage
    at: float

    @property
    def subject(self) -> str:
        return str(self.message["Subject"])

    @property
    def text(self) -> str:
        (part,) = [part for part in self.message.walk() if part.get_content_maintype() == "text"]
        return str(part.get_content())


class MailServer:
    """Listens on a free port while entered. `connected` counts connections."""

    def __init__(self) -> None:
        self.taken: list[Taken] = []
        self.connected = 0
        self._answers: dict[str, str] = {}
        self._hangs_at: str | None = None
        self._news = threading.Condition()
        self._server = _Server((ADDRESS, 0), _Dialogue)
        self._server.mail = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="mail server")

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.work()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # How it behaves from now on

    def work(self) -> None:
        """Take mail. Who hangs is let go of."""
        with self._news:
            self._answers, self._hangs_at = {}, None
            self._news.notify_all()

    def answer(self, verb: str, line: str) -> None:
        """Answer `verb` (of ANSWERS, or HELLO: the connection itself) with this line."""
        with self._news:
            self._answers[verb] = line

    def hang(self, verb: str) -> None:
        """Answer `verb` nothing, until it works again or the client goes."""
        with self._news:
            self._hangs_at = verb

    # What has happened

    def wait_until(self, taken: int = 0, connected: int = 0, seconds: float = 10.0) -> None:
        """Returns once it has taken so many mails and connections; an AssertionError after so many seconds."""
        with self._news:
            done = self._news.wait_for(lambda: len(self.taken) >= taken and self.connected >= connected, seconds)
            assert done, f"{len(self.taken)} mails and {self.connected} connections, not within {seconds} s"

    def _connect(self) -> None:
        with self._news:
            self.connected += 1
            self._news.notify_all()

    def _answer_to(self, verb: str) -> str:
        with self._news:
            self._news.wait_for(lambda: self._hangs_at != verb)
            return self._answers.get(verb) or ANSWERS.get(verb, "250 well")

    def _take(self, recipients: list[str], data: bytes) -> None:
        message = email.message_from_bytes(data, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        with self._news:
            self.taken.append(Taken(recipients=tuple(recipients), message=message, at=time.monotonic()))
            self._news.notify_all()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    mail: MailServer


class _Dialogue(socketserver.StreamRequestHandler):
    """One connection."""

    server: _Server

    def handle(self) -> None:
        try:
            self._talk()
        except OSError:
            """The client has gone."""

    def _talk(self) -> None:
        mail = self.server.mail
        mail._connect()
        if not self._say(mail._answer_to("HELLO") if "HELLO" in mail._answers or mail._hangs_at == "HELLO" else "220 here"):
            return
        recipients: list[str] = []
        while line := self.rfile.readline().decode().strip():
            verb = line[:4].upper()
            answer = mail._answer_to(verb)
            if not self._say(answer) or verb == "QUIT":
                return
            if verb == "RCPT" and answer.startswith("2"):
                recipients.append(line[line.index("<") + 1 : line.rindex(">")])
            if verb == "DATA" and answer.startswith("3"):
                data = self._data()
                answer = mail._answer_to("END")
                if answer.startswith("2"):
                    mail._take(recipients, data)
                if not self._say(answer):
                    return

    def _say(self, line: str) -> bool:
        """Whether the client stays connected."""
        self.wfile.write(f"{line}\r\n".encode())
        return not line.startswith("421")

    def _data(self) -> bytes:
        lines = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        return b"".join(lines)
