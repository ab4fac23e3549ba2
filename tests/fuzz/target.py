"""The daemon under fire: a real process on a SQLite file, and what must hold of it whatever it is sent."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import Processes, Server, tail

from luigi_spanner.journal import decode
from luigi_spanner.verify import verify

SCHEDULER = Path(__file__).parents[2] / "scheduler"

REPLY_SECONDS = 20.0
"""How long a reply may take: twice what Luigi's client waits, since the machine may be busy."""

GROWTH_BYTES = 64 * 1024 * 1024
"""How much the process may grow in its life. 10,000 requests add 8 MB (measured), most of it state."""

OURS = "probe"
"""Worker and request id of the pings that see whether the daemon lives."""

COMPLAINTS = re.compile(rb"Traceback|\bERROR\b|\bCRITICAL\b|Exception")
"""What no request may bring into the log."""


class Broken(AssertionError):
    """Something that must hold of the daemon does not."""


class Target:
    """A daemon that runs. Make it with `target`."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory = directory
        self.server = server
        self._store = f"sqlite:///{directory / 'luigi.db'}"
        self._read = 0
        self._seen = 0
        self._resident = self.resident()

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def port(self) -> int:
        return self.server.port

    def start(self) -> None:
        self.server.start()
        self.server.wait_ready()
        self._resident = self.resident()

    def restart(self) -> None:
        """What it was sent is in its tables and its journal now: it must be able to start from them."""
        self.stop()
        self.start()

    def stop(self) -> None:
        self.check_size()
        if self.server.stop() != 0:
            raise Broken(f"the daemon did not exit with 0\n{tail(self.server.log)}")
        self.check_log()

    def description(self) -> Any:
        """What `/api/openapi.json` says."""
        with urllib.request.urlopen(f"{self.url}/api/openapi.json", timeout=REPLY_SECONDS) as reply:
            return json.load(reply)

    # What must hold

    def check_alive(self) -> None:
        """A ping, on a connection of its own, is answered in time."""
        ping = urllib.request.Request(f"{self.url}/api/ping?data=%7B%22worker%22:%22{OURS}%22%7D", headers={"X-Request-Id": OURS})
        try:
            with urllib.request.urlopen(ping, timeout=REPLY_SECONDS) as reply:
                reply.read()
        except OSError as error:
            raise Broken(f"a ping got {error!r}") from error

    def check_log(self) -> None:
        """Nothing in the log that tells of a fault of ours."""
        with self.server.log.open("rb") as log:
            log.seek(self._seen)
            new = log.read()
        self._seen += len(new)
        found = COMPLAINTS.search(new)
        if found:
            raise Broken("the log: " + new[max(0, found.start() - 500) : found.end() + 3000].decode(errors="replace"))

    def check_size(self) -> None:
        """The process has not grown beyond measure since it started."""
        size = self.resident()
        if size > self._resident + GROWTH_BYTES:
            raise Broken(f"the daemon has grown from {self._resident} to {size} bytes")

    def resident(self) -> int:
        """Bytes of memory that the daemon's process holds."""
        assert self.server.process is not None
        return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.server.process.pid)]))

    def changed_by(self) -> set[str]:
        """Ids of the requests of callers that the journal has got since this was last asked."""
        with contextlib.closing(sqlite3.connect(f"file:{self.directory / 'luigi.db'}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT seq, calls, changes FROM journal WHERE seq > ? ORDER BY seq", (self._read,)
            ).fetchall()
        ids = set()
        for seq, calls, changes in rows:
            self._read = seq
            records = decode(calls)
            if not records and decode(changes):
                raise Broken(f"entry {seq} changes something and names no call")
            ids.update(str(record[0]) for record in records if record[1] != "system")
        return ids - {OURS}

    def verify(self) -> None:
        """Journal, digests and tables agree. The daemon must have stopped."""
        report = verify(self._store, "default")
        if not report.clean:
            raise Broken("\n".join(report.lines()))


@contextmanager
def target(directory: Path, configuration: Mapping[str, Mapping[str, Any]]) -> Iterator[Target]:
    """A daemon with these sections of Luigi's configuration, running until the block ends."""
    sections = (
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()) for name, keys in configuration.items()
    )
    (directory / "luigi.cfg").write_text("\n".join(sections))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LUIGI", "XDG_"))}
    path = os.pathsep.join(filter(None, [str(SCHEDULER), os.environ.get("PYTHONPATH")]))
    environment = {**kept, "PYTHONPATH": path, "LUIGI_CONFIG_PATH": str(directory / "luigi.cfg")}
    command = [sys.executable, "-m", "luigi_spanner", "serve", "--store", f"sqlite:///{directory / 'luigi.db'}"]
    with Processes() as processes:
        server = processes.serve(
            Server(command=command, ready_path="/readyz", log=directory / "server.log", environment=environment)
        )
        server.wait_ready()
        yield Target(directory, server)
