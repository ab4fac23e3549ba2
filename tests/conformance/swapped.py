"""Ours in the shape of luigi's: what `swap` puts in the place of luigi's scheduler, server and command line."""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luigi.configuration import get_config

import luigi_spanner

STORE = os.environ["CONFORMANCE_STORE"]
"""URL of the store under test."""

DIRECTORY = Path(os.environ["CONFORMANCE_DIRECTORY"])
"""Where files may be left."""

_alive: weakref.WeakSet[Scheduler] = weakref.WeakSet()


class Scheduler(luigi_spanner.Scheduler):
    """Each on a namespace of its own, so that tests stay independent."""

    def __init__(self, config: Any = None, resources: Any = None, task_history_impl: Any = None, **keys: Any) -> None:
        namespace = f"n{uuid.uuid4().hex}"
        super().__init__(config, resources, task_history_impl, store=STORE, namespace=namespace, **keys)
        _alive.add(self)


def close_all() -> None:
    """Close every scheduler that the tests so far have left."""
    while _alive:
        _alive.pop().close()


def run(api_port: int = 8082, address: str | None = None, unix_socket: str | None = None, scheduler: Any = None) -> None:
    """In place of `luigi.server.run`."""
    given = {"--port": api_port, "--address": address, "--unix-socket": unix_socket}
    luigid([text for flag, value in given.items() if value is not None for text in (flag, str(value))])


def luigid(argv: Sequence[str] = ()) -> None:
    """In place of `luigi.cmdline.luigid`, on the store that belongs to the `state_path` of the test.

    A forked child cannot go on using gRPC, so for Spanner it becomes a new process, with the configuration that the test has
    set. That one stays in the foreground: tests of the background replace DaemonContext in their own process.
    """
    arguments = [*argv, *_state()]
    if STORE.startswith("spanner:"):
        in_foreground = [text for text in arguments if text != "--background"]
        environment = {**os.environ, "LUIGI_CONFIG_PATH": str(_written_configuration())}
        os.execve(sys.executable, [sys.executable, "-m", "luigi_spanner", "serve", *in_foreground], environment)
    from luigi_spanner.cli import luigid as ours

    sys.exit(ours(arguments))


def _written_configuration() -> Path:
    path = DIRECTORY / f"{uuid.uuid4().hex}.cfg"
    with path.open("w") as file:
        get_config().write(file)
    return path


def _state() -> list[str]:
    """The store of a server: what a later server finds again if the test gave both the same state path. Memory ends with its
    process, so there it is a SQLite file."""
    state_path = get_config().get("scheduler", "state_path", None) or uuid.uuid4().hex
    key = hashlib.sha256(state_path.encode()).hexdigest()[:32]
    store = f"sqlite:///{DIRECTORY / key}.db" if STORE.startswith("memory:") else STORE
    return ["--store", store, "--namespace", f"s{key}"]
