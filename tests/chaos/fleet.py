"""Replicas on an emulator behind a balancer, every connection through a proxy, and what can be done to them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import scenario
from balancer import Balancer
from faultplan import Fault, Kind
from processes import ADDRESS, START_SECONDS, Processes, Server, tail, wait_until
from skew import Skew

from emulator import Emulator, create_database
from proxy import Proxy

NAMESPACE = "chaos"

STOP_SECONDS = 30.0
"""How long a replica may take after SIGTERM: it answers what it has accepted, for which it waits `--hold` and a little."""

VERIFY_SECONDS = 300.0
"""How long `luigi-spanner verify` may take."""

START_FAILED = 2
"""What a replica exits with when it cannot start: the store did not answer for some ten seconds. A supervisor starts it again."""

WHOLE_JOURNAL = 10**9
"""Entries to keep: all of them, so that the verdict sees every one."""

ON_A_PROXY: dict[Kind, Callable[[Proxy, Fault], None]] = {
    Kind.FRONT_REFUSED: lambda proxy, fault: proxy.refuse(),
    Kind.FRONT_CUT: lambda proxy, fault: proxy.cut(),
    Kind.FRONT_REQUESTS_LOST: lambda proxy, fault: proxy.drop_requests(),
    Kind.FRONT_REPLIES_LOST: lambda proxy, fault: proxy.drop_replies(),
    Kind.FRONT_STALLED: lambda proxy, fault: proxy.stall(),
    Kind.FRONT_SLOW: lambda proxy, fault: proxy.delay(fault.amount),
    Kind.STORE_REFUSED: lambda proxy, fault: proxy.refuse(),
    Kind.STORE_CUT: lambda proxy, fault: proxy.cut(),
    Kind.STORE_REQUESTS_LOST: lambda proxy, fault: proxy.drop_requests(),
    Kind.STORE_REPLIES_LOST: lambda proxy, fault: proxy.drop_replies(),
    Kind.STORE_STALLED: lambda proxy, fault: proxy.stall(),
    Kind.STORE_STRANDED: lambda proxy, fault: proxy.strand(),
    Kind.STORE_SLOW: lambda proxy, fault: proxy.delay(fault.amount),
    Kind.STORE_GONE: lambda proxy, fault: proxy.refuse(),
}


class Line:
    """A proxy and the faults that are on it: when one ends, the others go on."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self._faults: list[Fault] = []

    def begin(self, fault: Fault) -> None:
        self._faults.append(fault)
        ON_A_PROXY[fault.kind](self.proxy, fault)

    def end(self, fault: Fault) -> None:
        self._faults.remove(fault)
        self.heal()

    def heal(self) -> None:
        """As good as the faults that are left allow."""
        self.proxy.heal()
        for fault in self._faults:
            ON_A_PROXY[fault.kind](self.proxy, fault)


@dataclass(kw_only=True)
class Replica:
    """One luigid of ours between two proxies. `source`: where `luigi_spanner` is imported from, None for the release under test.
    `down`: somebody ended the process; `opening`: it does not listen yet."""

    number: int
    server: Server
    front: Line
    store: Line
    environment: Mapping[str, str]
    source: Path | None = None
    skew: Skew | None = None
    down: bool = True
    opening: bool = False
    stopping: bool = False
    started: float = 0.0

    def start(self) -> None:
        """Start it. Until it listens, whoever connects is refused."""
        self.front.proxy.refuse()
        self.server.environment = with_source(self.environment, self.source)
        self.server.start()
        self.started = time.monotonic()
        self.down = self.stopping = False
        self.opening = True

    def open_if_listening(self) -> None:
        if self.opening and self._listens():
            self.opening = False
            self.front.heal()

    def kill(self) -> None:
        """`kill -9`."""
        self.server.kill()
        self.front.proxy.refuse()
        self.down = True

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self.stopping = True
        self.send(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(number)

    def exit_code(self) -> int | None:
        return self.server.process.poll() if self.server.process else None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((ADDRESS, self.server.port)) == 0


@dataclass(kw_only=True)
class Fleet:
    """An emulator, replicas and a balancer; leaving the block ends all of them, by their ids.

    `skews`: of each replica its clock's error in seconds, None to leave its clock alone. `source`: as in `Replica`, at first.
    `troubles`: what became of a replica that no fault explains. `failed_starts`: replica, begin and end of each start
    that failed.
    """

    directory: Path
    environment: Mapping[str, str]
    emulator: Emulator
    skews: Sequence[float | None]
    source: Path | None = None
    database: str = ""
    replicas: list[Replica] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    failed_starts: list[tuple[int, float, float]] = field(default_factory=list)

    def __enter__(self) -> Fleet:
        with ExitStack() as stack:
            stack.enter_context(self.emulator)
            self.database = create_database(self.emulator.host)
            self.migrate(self.source)
            processes = stack.enter_context(Processes())
            for number, seconds in enumerate(self.skews):
                self.replicas.append(self._replica(number, seconds, stack, processes))
            for replica in self.replicas:
                replica.start()
            self.await_ready()
            self.balancer = Balancer(self.directory, [replica.front.proxy.host for replica in self.replicas])
            stack.callback(self.balancer.stop)
            self.balancer.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        return f"spanner:///{self.database}"

    @property
    def logs(self) -> list[Path]:
        return [replica.server.log for replica in self.replicas]

    def migrate(self, source: Path | None) -> None:
        """Bring the schema to a release's."""
        done = self._command("db", "upgrade", source=source)
        assert done.returncode == 0, done.stderr

    def verify(self, source: Path | None = None) -> subprocess.CompletedProcess[str]:
        return self._command("verify", "--namespace", NAMESPACE, source=source)

    def _command(self, *arguments: str, source: Path | None) -> subprocess.CompletedProcess[str]:
        """`luigi-spanner` with these arguments, straight on the emulator and to its end."""
        command = [sys.executable, "-m", "luigi_spanner", *arguments, "--store", self.url]
        environment = {**with_source(self.environment, source), "SPANNER_EMULATOR_HOST": self.emulator.host}
        return subprocess.run(
            command, env=environment, cwd=self.directory, capture_output=True, text=True, timeout=VERIFY_SECONDS
        )

    def look(self) -> None:
        """Open the way to replicas that listen by now, and start those again that ended by themselves, as a supervisor does."""
        for replica in self.replicas:
            code = None if replica.down else replica.exit_code()
            if code is None:
                replica.open_if_listening()
                continue
            self._take_note(replica, code)
            if replica.stopping:
                replica.down = True
            else:
                replica.start()

    def _take_note(self, replica: Replica, code: int) -> None:
        if code == START_FAILED:
            self.failed_starts.append((replica.number, replica.started, time.monotonic()))
        elif not replica.stopping:
            self.troubles.append(f"replica {replica.number} ended by itself with {code}")
        elif code != 0:
            self.troubles.append(f"replica {replica.number} ended with {code} after SIGTERM")

    def await_ready(self) -> None:
        """Wait until every replica serves."""
        wait_until(self._all_ready, START_SECONDS, "\n".join(["all replicas are ready", *map(tail, self.logs)]))
        self.look()

    def _all_ready(self) -> bool:
        self.look()
        return all(replica.exit_code() is None and replica.server.answers() for replica in self.replicas)

    def stop(self) -> None:
        """SIGTERM to all, and wait until they are gone. TimedOut if one stays."""
        for replica in self.replicas:
            if not replica.down:
                replica.terminate()
        wait_until(self._all_down, STOP_SECONDS, "\n".join(["all replicas end", *map(tail, self.logs)]))

    def _all_down(self) -> bool:
        self.look()
        return all(replica.down for replica in self.replicas)

    def _replica(self, number: int, seconds: float | None, stack: ExitStack, processes: Processes) -> Replica:
        store = stack.enter_context(Proxy(self.emulator.host))
        skew = None if seconds is None else Skew(self.directory / f"clock{number}", seconds)
        environment = {**self.environment, "SPANNER_EMULATOR_HOST": store.host, **(skew.environment() if skew else {})}
        server = scenario.ours(self.directory, environment, number, self.url, NAMESPACE)
        server.command += ["--journal-keep", str(WHOLE_JOURNAL)]
        front = stack.enter_context(Proxy(f"{ADDRESS}:{server.port}"))
        processes.keep(server)
        return Replica(
            number=number,
            server=server,
            front=Line(front),
            store=Line(store),
            environment=environment,
            source=self.source,
            skew=skew,
        )


def with_source(environment: Mapping[str, str], source: Path | None) -> dict[str, str]:
    """An environment in which Python looks for modules in `source` first."""
    path = os.pathsep.join(filter(None, [str(source or ""), environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}
