from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Client, Process, serving

from luigi_spanner.service import Service


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store, of each kind that needs nothing else."""
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/luigi.db"


@pytest.fixture
def client(store: str) -> Iterator[Client]:
    """A client of an application over a service on a new store."""
    with serving(lambda: Service.open(store, "default")) as client:
        yield client


@pytest.fixture
def memory() -> Iterator[Client]:
    """The same over memory alone, for what has nothing to do with stores."""
    with serving(lambda: Service.open("memory://", "default")) as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts `luigi-spanner serve` in the test's directory, on a free local port unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, listen: tuple[str, ...] = ("--address", "127.0.0.1", "--port", "0"), **extra: str) -> Process:
            return stack.enter_context(Process("serve", *listen, *arguments, directory=tmp_path, **extra))

        yield start
