"""Databases whose schema is another release's, on each kind of store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from releases import later_release
from serving import Process
from starting import CHECK, CURRENT, SERVE, UPGRADE, VERIFY, called, ended, has_graph, make_graph, served, told

from emulator import Emulator
from luigi_spanner import migrate

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", pytest.param("emulator", marks=pytest.mark.emulator)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with a graph."""
    given: str = request.getfixturevalue("spanner_url") if request.param == "emulator" else f"sqlite:///{tmp_path}/luigi.db"
    make_graph(given)
    return given


@pytest.fixture
def env(request: pytest.FixtureRequest, url: str) -> dict[str, str]:
    """What a process needs to find it."""
    if url.startswith("sqlite"):
        return {}
    emulator: Emulator = request.getfixturevalue("emulator")
    return {"SPANNER_EMULATOR_HOST": emulator.host}


def test_a_schema_of_an_earlier_release(url: str, env: dict[str, str], tmp_path: Path) -> None:
    """Later replicas bring a file up to date; on Spanner they say which command does. The earlier ones go on."""
    root, later = later_release(tmp_path)
    newer = {**env, "PYTHONPATH": str(root)}
    old = migrate.head()
    with served(url, tmp_path, **env) as earlier:
        needs = (
            f"The database's schema is at revision {old} and this release needs {later} in full: run `luigi-spanner db upgrade"
        )
        for found in ended((SERVE, CHECK) if env else (CHECK, VERIFY), url, tmp_path, **newer):
            assert found.sentence == f"{needs} --store {url}`."
        if env:
            (upgraded,) = ended((UPGRADE,), url, tmp_path, **newer)
            assert (upgraded.code, upgraded.output) == (0, f"{later}\n")
        with served(url, tmp_path, **newer) as replica:
            has_graph(replica)
            assert called(CURRENT, url, **env).output == f"{later}\n"
            has_graph(earlier)


def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    root, _ = later_release(tmp_path, fails=True)
    url = f"sqlite:///{tmp_path}/luigi.db"
    make_graph(url)
    before = dumped(tmp_path / "luigi.db")
    for found in ended((SERVE, UPGRADE), url, tmp_path, PYTHONPATH=str(root)):
        assert "no such table: nowhere" in found.sentence
    assert dumped(tmp_path / "luigi.db") == before
    with served(url, tmp_path) as client:
        has_graph(client)


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_other_rules(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"
    make_graph(url)
    with served(url, tmp_path) as client:
        (tmp_path / "luigi.cfg").write_text("[scheduler]\nretry_delay = 17\n")
        sentence = told(url, tmp_path)
        assert "runs with other [scheduler] or [resources] rules; give all replicas the same luigi.cfg" in sentence
        has_graph(client)
        with Process(*SERVE, "--store", url, "--rules-mismatch", "warn", directory=tmp_path) as other:
            has_graph(other.client())
