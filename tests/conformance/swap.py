"""A pytest plugin, for the process that runs luigi's own tests: it puts ours in the place of luigi's scheduler and server.

Environment: `CONFORMANCE_STORE` is a store URL, or `stock` to change nothing; `CONFORMANCE_RESULTS` names the file for
results, one JSON line for each test as it ends; `CONFORMANCE_DIRECTORY` is a directory for files.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

TEST_SECONDS = 240.0
"""A test that takes longer hangs: all stacks are printed and the process ends. The longest on the memory store takes about
90 s on an idle machine."""

START_SECONDS = 20.0
"""How long one of the tests' servers may take until it answers."""

TEXT_LIMIT = 6000
"""Characters that are kept of a failure's text."""

STDERR = os.dup(2)
"""The process's own stderr: pytest redirects descriptor 2 while tests run."""

SWAPPED = os.environ["CONFORMANCE_STORE"] != "stock"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "unixsocket: luigi's mark for tests of unix sockets")
    if SWAPPED:
        _swap()


def _swap() -> None:
    """Replace luigi's classes and functions where the tests, the worker and the command line look them up."""
    import grpc.aio
    import luigi.cmdline
    import luigi.scheduler
    import luigi.server
    import luigi.worker
    import swapped

    import luigi_spanner.server

    luigi.scheduler.Scheduler = luigi.worker.Scheduler = luigi.server.Scheduler = swapped.Scheduler
    luigi.server.app = luigi_spanner.server.app
    luigi.server.run = swapped.run
    luigi.cmdline.luigid = swapped.luigid
    # Tests set `time.time`; gRPC takes deadlines from it, and at another time than the system's each has passed already.
    grpc.aio._utils.time = SimpleNamespace(time=time.time)
    _wait_for_servers()


def _wait_for_servers() -> None:
    """luigi's tests give a server that they start 0.1 to 0.5 s, too little for one with a database: wait until it answers."""
    import luigi.server

    start = multiprocessing.Process.start

    def start_and_wait(process: Any) -> None:
        target = process._target
        start(process)
        if target is luigi.server.run:
            _wait_until_answering(process, None, luigi.server.run.__defaults__[0])
        elif getattr(target, "__name__", None) == "run_server":
            client = target.__self__
            _wait_until_answering(process, getattr(client, "unix_socket", None), getattr(client, "port", None))

    multiprocessing.Process.start = start_and_wait  # type: ignore[method-assign]


def _wait_until_answering(process: Any, unix_socket: str | None, port: int | None) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.is_alive():
        with socket.socket(socket.AF_UNIX if unix_socket else socket.AF_INET) as probe, suppress(OSError):
            probe.settimeout(START_SECONDS)
            probe.connect(unix_socket or ("127.0.0.1", port))
            # It listens before its store is open: what tells that it is ready is an answer.
            probe.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            if probe.recv(1):
                return
        time.sleep(0.01)
    raise AssertionError(f"the server does not answer; its exit code is {process.exitcode}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    faulthandler.dump_traceback_later(TEST_SECONDS, exit=True, file=STDERR)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
        if SWAPPED:
            import swapped

            swapped.close_all()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for the call, and one for a setup or teardown that failed or skipped."""
    if report.when != "call" and report.outcome == "passed":
        return
    line = {
        "test": report.nodeid,
        "outcome": report.outcome,
        "seconds": report.duration,
        "text": report.longreprtext[-TEXT_LIMIT:],
    }
    with Path(os.environ["CONFORMANCE_RESULTS"]).open("a") as results:
        results.write(json.dumps(line) + "\n")
