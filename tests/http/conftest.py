from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Client, serving

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
