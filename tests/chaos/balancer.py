"""HAProxy in front of the replicas, as docs/operations.md says to configure it, and what its log tells of each request."""

from __future__ import annotations

import math
import shutil
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from processes import ADDRESS, START_SECONDS, free_port, wait_until

CONFIGURATION = """\
global
    log stdout format raw local0
    maxconn 4000

defaults
    mode http
    log global
    timeout connect 2s
    # Longer than a replica holds a call (--hold), and than a worker waits for one.
    timeout client 30s
    timeout server 30s
    timeout http-request 10s
    timeout check 2s
    # A connection that was refused is tried at another replica; a request that was sent is never sent again.
    retries 3
    retry-on conn-failure
    option redispatch 1
    # A replica must learn that a caller has gone.
    option abortonclose
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions

frontend luigi
    bind {address}:{port}
    # Workers are told apart by the first part of the path, for the log; replicas do not see it.
    http-request set-var(txn.worker) path,field(2,/)
    http-request set-var(txn.method) path,field(4,/)
    http-request replace-path /[^/]*(/.*) \\1
    log-format "%[date(0,us)] %Ta %[var(txn.worker)] %[var(txn.method)] %s %ST %ts"
    use_backend ready if {{ nbsrv(ready) gt 0 }}
    default_backend alive

# While the store is away no replica is ready. One that lives holds calls for a while, and answers pings.
backend ready
    balance roundrobin
    option httpchk GET /readyz
    # One that says that it is not ready gets no new call; what it has, it may answer. One that says nothing is cut off.
    http-check expect status 200 error-status L7OKC
{servers}

backend alive
    balance roundrobin
    option httpchk GET /healthz
{servers}
"""

GONE = -1

CLOCK = 1_000_000
"""Ticks a second of the log's times."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One request as the balancer saw it; times in seconds since the epoch. `status` GONE: the caller went without a reply."""

    begin: float
    end: float
    worker: str
    method: str
    server: str
    status: int

    @property
    def answered(self) -> bool:
        return self.status == 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Wait:
    """One call of a worker: from the beginning of its first try to its reply, infinity if it never had one."""

    worker: str
    method: str
    begin: float
    end: float
    tries: int

    @property
    def seconds(self) -> float:
        return self.end - self.begin


class Balancer:
    """One haproxy process; `place` is its host:port, and each worker has a URL of its own."""

    def __init__(self, directory: Path, servers: Sequence[str]) -> None:
        self.port = free_port()
        self.log = directory / "balancer.log"
        lines = "\n".join(f"    server replica{number} {place}" for number, place in enumerate(servers))
        self._configuration = directory / "haproxy.cfg"
        self._configuration.write_text(CONFIGURATION.format(address=ADDRESS, port=self.port, servers=lines))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Balancer:
        """Start it and wait until it listens."""
        with self.log.open("ab") as output:
            command = [program(), "-db", "-f", str(self._configuration)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until(self._listens, START_SECONDS, "haproxy listens")
        return self

    def stop(self) -> None:
        """End it. Idempotent."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def url(self, worker: str) -> str:
        return f"http://{ADDRESS}:{self.port}/{worker}"

    def requests(self) -> list[Request]:
        """What the log tells of workers' calls, in the order in which they ended."""
        return list(read(self.log.read_text(errors="replace").splitlines()))

    def _listens(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex((ADDRESS, self.port)) == 0


def find() -> str | None:
    """Where haproxy is: Debian installs it where only root looks."""
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")


def program() -> str:
    found = find()
    assert found, "there is no haproxy"
    return found


def read(lines: Iterable[str]) -> Iterable[Request]:
    """The requests of a log, whose other lines tell of the balancer itself."""
    for line in lines:
        fields = line.split(" ")
        if len(fields) == 7 and fields[0].isdigit() and fields[2] != "-":
            ended, took, worker, method, server, status, state = fields
            end = int(ended) / CLOCK
            begin = end - max(0, int(took)) / 1000
            # Where the client went first, the status is haproxy's own and nobody has seen it.
            seen = GONE if state.startswith("C") else int(status)
            yield Request(begin=begin, end=end, worker=worker, method=method, server=server, status=seen)


def waits(requests: Iterable[Request]) -> list[Wait]:
    """Every call with all its tries. A worker has one call of a method under way at a time, and repeats it until answered."""
    found = []
    tried: dict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: request.end):
        tries = tried[request.worker, request.method]
        tries.append(request)
        if request.answered:
            found.append(_wait(tries, request.end))
            tries.clear()
    return found + [_wait(tries, math.inf) for tries in tried.values() if tries]


def _wait(tries: Sequence[Request], end: float) -> Wait:
    first = tries[0]
    return Wait(worker=first.worker, method=first.method, begin=first.begin, end=end, tries=len(tries))
