"""Real processes: a luigid (ours or stock's) that can be killed and started again, and unmodified `luigi` workers.

Everything is started in a process group of its own and ended by its id, at the latest when the `Processes` block is left.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ADDRESS = "127.0.0.1"

START_SECONDS = 30.0
"""How long a server may take until it answers; generous, since the machine may be busy."""

TAIL_BYTES = 4000
"""How much of a log a failure shows."""


class TimedOut(AssertionError):
    """Something that must happen did not, within its time. The message ends with the logs."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll `condition` until it holds. TimedOut after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what}: not within {seconds} s")
        time.sleep(0.01)


@dataclass(kw_only=True)
class Server:
    """One luigid. `command` is everything but the port; `ready_path` answers 200 when it may be used."""

    command: list[str]
    ready_path: str
    log: Path
    environment: Mapping[str, str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.port}"

    def start(self) -> None:
        """Start it, on the same port as before if there was a before. Does not wait."""
        command = [*self.command, "--address", ADDRESS, "--port", str(self.port)]
        self.process = spawn(command, self.log, self.environment)

    def wait_ready(self) -> None:
        try:
            wait_until(self.answers, START_SECONDS, f"{self.url}{self.ready_path} answers 200")
        except TimedOut as error:
            raise TimedOut(f"{error}\n{tail(self.log)}") from None

    def answers(self) -> bool:
        """Whether it is ready. TimedOut if it has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise TimedOut(f"the server exited with {self.process.returncode}")
        connection = http.client.HTTPConnection(ADDRESS, self.port, timeout=2)
        try:
            connection.request("GET", self.ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone."""
        assert self.process is not None and self.process.poll() is None, f"the server ended by itself\n{tail(self.log)}"
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code. TimedOut if it does not end."""
        assert self.process is not None
        self.process.terminate()
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the server did not end after SIGTERM\n{tail(self.log)}") from None


@dataclass(kw_only=True)
class Worker:
    """One `luigi` command line with its processes."""

    process: subprocess.Popen[bytes]
    log: Path
    ended: bool = False

    def end(self) -> None:
        """Kill what is left of it. Idempotent: once it is gone, its id may become another's."""
        if not self.ended:
            self.ended = True
            end(self.process)


class Processes(ExitStack):
    """Servers and workers of one run; leaving the block kills what is left of them."""

    def keep(self, server: Server) -> Server:
        """See to it that a server that is started does not outlive the block."""
        self.callback(lambda: server.process and server.process.poll() is None and end(server.process))
        return server

    def serve(self, server: Server) -> Server:
        self.keep(server).start()
        return server

    def work(self, arguments: Iterable[str], log: Path, environment: Mapping[str, str]) -> Worker:
        process = spawn([sys.executable, "-m", "luigi", *arguments], log, environment)
        worker = Worker(process=process, log=log)
        self.callback(worker.end)
        return worker


def spawn(command: list[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment), start_new_session=True
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and, since a worker forks one for each task, its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(log: Path) -> str:
    text = log.read_bytes()[-TAIL_BYTES:].decode(errors="replace") if log.exists() else "(none)"
    return f"--- the end of {log.name} ---\n{text}"
