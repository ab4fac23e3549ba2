"""Runs luigi's own tests, from its source archive, on stock luigi or on ours; also a command: `python run.py --store URL`.

The archive of the luigi version that is installed here, and what its tests import, are fetched with pip on first use and
kept under the user's cache directory (XDG_CACHE_HOME). They are never part of this repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
SOURCE_ROOT = HERE.parent.parent / "scheduler"

LANES = (
    (
        "server_test.py",  # servers on Luigi's own ports: 8083 here, 8082 in the next two; only in this lane
        "scheduler_test.py",
        "task_running_resources_test.py",
        "scheduler_api_test.py",
        "scheduler_message_test.py",
        "scheduler_parameter_visibilities_test.py",
        "scheduler_visualisation_test.py",
        "worker_scheduler_com_test.py",
        "custom_metrics_test.py",
        "remote_scheduler_test.py",
        "batch_notifier_test.py",
        "execution_summary_test.py",
        "retcodes_test.py",
    ),
    (
        "worker_test.py",
        "worker_external_task_test.py",
        "worker_keep_alive_test.py",
        "worker_multiprocess_test.py",
        "worker_parallel_scheduling_test.py",
        "worker_task_process_test.py",
        "worker_task_test.py",
        "rpc_test.py",
        "task_progress_percentage_test.py",
        "task_status_message_test.py",
    ),
)
"""The files that have a part in the scheduler, in two groups of about equal length: they mostly sleep, so both run at once."""

FILES = tuple(sorted(file for lane in LANES for file in lane))

CONFIGURATION = "[core]\nautoload_range = true\nrpc-retry-wait = 1\n"

PYTEST_ENDED = (0, 1)
"""pytest's exit codes of a run that came to its end: all passed, or some failed."""

LANE_SECONDS = 600.0
"""A lane that takes longer is killed."""


class Unobtainable(Exception):
    """The source archive or what its tests need cannot be had. The message is what pip said."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one test. `test` is "file::class::name", `outcome` passed, failed or skipped."""

    test: str
    outcome: str
    seconds: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All outcomes of a run, and what the lanes printed. `ended`: every lane came to its end."""

    outcomes: list[Outcome]
    output: str
    ended: bool
    seconds: float

    def tests(self, outcome: str) -> set[str]:
        return {one.test for one in self.outcomes if one.outcome == outcome}

    def describe(self) -> str:
        counts = Counter(one.outcome for one in self.outcomes)
        slowest = sorted(self.outcomes, key=lambda one: -one.seconds)[:10]
        lines = [f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped in {self.seconds:.0f} s"]
        return "\n".join([*lines, *(f"{one.seconds:7.2f} s  {one.test}" for one in slowest)])


def run(store: str, files: Sequence[str], directory: Path, *, skip: Sequence[str] = ()) -> Report:
    """Run `files` on the store with that URL, or on stock luigi for "stock", leaving out the tests in `skip`.

    `directory` must be there and empty; the tests' files go into it. Raises Unobtainable.
    """
    began = time.monotonic()
    tests, packages = obtain(cache_directory())
    root = directory / "upstream"
    shutil.copytree(tests, root / "test")  # some tests write beside themselves
    (directory / "luigi.cfg").write_text(CONFIGURATION)
    chosen = [[file for file in lane if file in files] for lane in LANES]
    # The tests' own temporary files have sockets among them, whose paths must be short: not below `directory`.
    with tempfile.TemporaryDirectory(prefix="luigi") as scratch:
        lanes = [
            _start(number, lane, store, root, packages, directory, Path(scratch), [test for test in skip if _file(test) in lane])
            for number, lane in enumerate(chosen)
            if lane
        ]
        codes = [_wait(lane) for lane in lanes]
    return Report(
        outcomes=_outcomes(directory),
        output="\n".join(path.read_text(errors="replace") for path in sorted(directory.glob("lane*.txt"))),
        ended=all(code in PYTEST_ENDED for code in codes),
        seconds=time.monotonic() - began,
    )


def _file(test: str) -> str:
    return test.partition("::")[0]


def _start(
    number: int,
    files: Sequence[str],
    store: str,
    root: Path,
    packages: Path,
    directory: Path,
    scratch: Path,
    skip: Sequence[str],
) -> subprocess.Popen[bytes]:
    path = [str(packages), str(HERE), str(SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "LUIGI_CONFIG_PATH": str(directory / "luigi.cfg"),
        "TMPDIR": str(scratch),
        # The order in which luigi adds a task's dependencies goes by hashes, and with some orders tests fail on stock.
        "PYTHONHASHSEED": "0",
        "CONFORMANCE_STORE": store,
        "CONFORMANCE_RESULTS": str(directory / f"results{number}.jsonl"),
        "CONFORMANCE_DIRECTORY": str(scratch),
    }
    options = ["-q", "-p", "swap", "-p", "no:cacheprovider", "-W", "ignore", "--rootdir", str(root), "-c", os.devnull]
    deselected = [f"--deselect=test/{test}" for test in skip]
    command = [sys.executable, "-m", "pytest", *options, *deselected, *(f"test/{file}" for file in files)]
    with (directory / f"lane{number}.txt").open("wb") as output:
        return subprocess.Popen(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _wait(lane: subprocess.Popen[bytes]) -> int:
    """The lane's exit code; whatever its tests have left running is killed with its group."""
    try:
        return lane.wait(timeout=LANE_SECONDS)
    except subprocess.TimeoutExpired:
        return -1
    finally:
        _kill_group(lane)


def _kill_group(lane: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(lane.pid, signal.SIGKILL)
    lane.wait()


def _outcomes(directory: Path) -> list[Outcome]:
    """One outcome a test: the worst of what its setup, call and teardown said."""
    worst = {"failed": 0, "skipped": 1, "passed": 2}
    found: dict[str, Outcome] = {}
    for path in sorted(directory.glob("results*.jsonl")):
        for line in path.read_text().splitlines():
            fields = json.loads(line)
            outcome = Outcome(**{**fields, "test": fields["test"].removeprefix("test/")})
            before = found.get(outcome.test)
            if before is None or worst[outcome.outcome] < worst[before.outcome]:
                found[outcome.test] = outcome
    return list(found.values())


def cache_directory() -> Path:
    """Where the archive and the packages are kept for the next run."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = hashlib.sha256((HERE / "requirements.txt").read_bytes()).hexdigest()[:8]
    python = ".".join(platform.python_version_tuple()[:2])
    return Path(home) / "luigi-spanner" / f"conformance-luigi{version('luigi')}-python{python}-{key}"


def obtain(cache: Path) -> tuple[Path, Path]:
    """The directory of luigi's tests and the one of the packages that they import. Raises Unobtainable."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
            _fetch(Path(scratch))
            try:
                Path(scratch).rename(cache)
            except OSError:
                if not cache.exists():  # else another run was faster
                    raise
            Path(scratch).mkdir(exist_ok=True)  # for the context manager to remove
    return cache / "test", cache / "packages"


def _fetch(directory: Path) -> None:
    archive = f"luigi=={version('luigi')}"
    _pip("download", "--no-binary", "luigi", "--no-deps", "--dest", str(directory), archive)
    _pip("install", "--target", str(directory / "packages"), "--requirement", str(HERE / "requirements.txt"))
    (sdist,) = directory.glob("luigi-*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(directory, filter="data")
    (source,) = (path for path in directory.glob("luigi-*") if path.is_dir())
    (source / "test").rename(directory / "test")
    shutil.rmtree(source)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unobtainable(f"pip {arguments[0]} failed:\n{done.stderr}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run luigi's own tests on stock luigi or on ours")
    parser.add_argument("--store", default="memory://", help="a store's URL whose schema is there, or stock (default: memory://)")
    parser.add_argument("--files", nargs="+", default=FILES, metavar="FILE", help="which of luigi's test files (default: all)")
    parser.add_argument("--skip", nargs="+", default=(), metavar="TEST", help="tests to leave out, as file::class::name")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        report = run(arguments.store, arguments.files, Path(directory), skip=arguments.skip)
    print(report.output)
    for test in sorted(report.tests("failed")):
        print("FAILED", test)
    for test in sorted(report.tests("skipped")):
        print("SKIPPED", test)
    print(report.describe())
    return 0 if report.ended else 1


if __name__ == "__main__":
    sys.exit(main())
