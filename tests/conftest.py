"""Fixtures that more than one room of tests needs."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from emulator import HOW_TO_GET_IT, Emulator, Found, Template, create_database, find_emulator, template_of

# Times vary on a shared machine; a failure prints the line that repeats it.
settings.register_profile("luigi-spanner", deadline=None, print_blob=True)
settings.load_profile("luigi-spanner")

SEED = "LUIGI_SPANNER_SEED"
"""Environment variable with the seed of every test that draws by itself; a new one for each run without it."""

_seed = int(os.environ.get(SEED) or random.SystemRandom().randrange(2**32))

USES_EMULATOR = {"emulator", "spanner_template", "spanner_url", "fresh_emulator", "fresh_spanner_url"}
"""Fixtures whose tests get the mark `emulator`."""


@cache
def _found() -> Found | None:
    """Looked for once, before any test sets SPANNER_EMULATOR_HOST."""
    return find_emulator()


def pytest_report_header(config: pytest.Config) -> str:
    found = _found()
    return f"luigi-spanner: {SEED}={_seed}, Spanner emulator: {f'{found.kind} {found.place}' if found else 'none'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if USES_EMULATOR.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.emulator)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """The test's own randomness, repeatable from the seed that the header shows."""
    return random.Random(f"{_seed}:{request.node.nodeid}")


@pytest.fixture
def memory_url() -> str:
    """A store in memory that no other test shares."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'luigi.db'}"


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """A running emulator for all tests. The environment does not name it: see `spanner_url`."""
    with _require_emulator() as running:
        yield running


@pytest.fixture(scope="session")
def spanner_template(emulator: Emulator) -> Template:
    """What the migrations make of an empty database."""
    from luigi_spanner import migrate

    database = create_database(emulator.host)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPANNER_EMULATOR_HOST", emulator.host)
        migrate.upgrade(f"spanner:///{database}")
    return template_of(emulator.host, database, ["alembic_version", "compatibility"])


@pytest.fixture
def spanner_url(emulator: Emulator, spanner_template: Template, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database with this release's schema; SPANNER_EMULATOR_HOST names its emulator for the test."""
    monkeypatch.setenv("SPANNER_EMULATOR_HOST", emulator.host)
    return f"spanner:///{create_database(emulator.host, spanner_template)}"


@pytest.fixture
def fresh_emulator() -> Iterator[Emulator]:
    """An emulator for this test alone: to stop and start, and for measuring, since its clock runs ahead as it commits."""
    fresh = _require_emulator()
    if not fresh.own:
        pytest.skip("needs an emulator of its own, and SPANNER_EMULATOR_HOST names one that runs already")
    with fresh:
        yield fresh


@pytest.fixture
def fresh_spanner_url(fresh_emulator: Emulator, spanner_template: Template, monkeypatch: pytest.MonkeyPatch) -> str:
    """As `spanner_url`, on `fresh_emulator`."""
    monkeypatch.setenv("SPANNER_EMULATOR_HOST", fresh_emulator.host)
    return f"spanner:///{create_database(fresh_emulator.host, spanner_template)}"


def _require_emulator() -> Emulator:
    found = _found()
    if found:
        return Emulator(found)
    if os.environ.get("CI") == "true":
        pytest.fail(HOW_TO_GET_IT, pytrace=False)
    pytest.skip(HOW_TO_GET_IT)
