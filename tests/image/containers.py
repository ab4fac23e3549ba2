"""A container of a played image: its process alone in namespaces, as another user, with a root file system that is read-only."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playing import Image
from processes import free_port, tail, wait_until
from sandbox import Mount
from serving import PATIENCE, Client

END_SECONDS = 120.0
"""How long a command may take to its end; a worker's week takes ten."""

HOLD_LOCK = """
import contextlib, sqlite3, sys
with contextlib.closing(sqlite3.connect("/var/lib/luigi-spanner/luigi.db", isolation_level=None)) as database:
    database.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    sys.stdin.read()
"""


class Container:
    """One container with a volume of its own. It shares this machine's network, so it has a port of its own, too."""

    def __init__(self, image: Image, directory: Path, *, mounts: Sequence[Mount] = (), **environment: str) -> None:
        self.image = image
        self.client = Client(port=free_port())
        self._environment = {**environment, "LUIGI_SPANNER_PORT": str(self.client.port)}
        self.process: subprocess.Popen[bytes] | None = None
        self._log = directory / "container.log"
        self._volume = directory / "volume"
        (place,) = image.volumes
        # A new volume begins as what the image has in its place, owner included.
        self._as_root("cp", "--archive", str(image.sandbox.inside(place)), str(self._volume))
        self._mounts = [Mount(how="rw", source=self._volume, target=place), Mount(how="tmpfs", target="/tmp"), *mounts]

    @property
    def log(self) -> str:
        """The end of what the container has logged."""
        return tail(self._log)

    def start(self) -> None:
        """The entry point as it stands; returns when /readyz answers 200."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._line(self.image.entrypoint), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._ready, PATIENCE, "/readyz answers 200")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command with the same files."""
        return subprocess.run(self._line(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=END_SECONDS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Its database's lock is held meanwhile, from within, since the volume is closed to other users: no call can commit."""
        pipe = subprocess.PIPE
        with subprocess.Popen(self._line(["python", "-c", HOLD_LOCK]), stdin=pipe, stdout=pipe, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield
            holder.communicate()
        assert holder.returncode == 0

    def signal(self, name: str) -> None:
        """A signal to the container's first process, which is where an engine sends it."""
        assert self.process is not None, "it was not started"
        (first,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        inside = ["--user", "--preserve-credentials"] if "--user" in self.image.sandbox.way else []
        subprocess.run(["nsenter", "--target", first, "--pid", *inside, "kill", f"-{name}", "1"], check=True)

    def exit_code(self) -> int:
        assert self.process is not None, "it was not started"
        return self.process.wait(PATIENCE)

    def remove(self) -> None:
        """Kill it if it runs, and let go of its volume."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._as_root("rm", "-rf", str(self._volume))

    def _line(self, command: Sequence[str]) -> list[str]:
        settings = self.image.settings(mounts=self._mounts, **self._environment)
        return self.image.sandbox.command(command, settings)

    def _as_root(self, *command: str) -> None:
        subprocess.run([*self.image.sandbox.way, *command], check=True)

    def _ready(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log
        try:
            return self.client.get("/readyz").status == 200
        except OSError:
            return False
