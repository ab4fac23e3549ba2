"""Spanner databases that cannot be used: the person who starts a replica is told why, and the database is as it was."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from barring import Barring
from starting import (
    CHECK,
    COMMANDS,
    CURRENT,
    SERVE,
    TASKS,
    UPGRADE,
    VERIFY,
    Ended,
    called,
    ended,
    has_graph,
    make_graph,
    said,
    served,
    told,
)

from emulator import Emulator, change_schema, create_database, query
from luigi_spanner.stores import spanner_sentences

pytestmark = pytest.mark.slow

OTHERS = (CHECK, VERIFY)
HOST = "SPANNER_EMULATOR_HOST"
NOWHERE = "spanner:///projects/p/instances/i/databases/d"


@pytest.fixture
def graph(spanner_url: str) -> str:
    """The URL of a database with a graph; the environment names its emulator."""
    make_graph(spanner_url)
    return spanner_url


def rows(host: str, url: str) -> list[object]:
    """What the database holds of tasks and journal."""
    database = url.removeprefix("spanner:///")
    return [query(host, database, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("journal", "tasks", "replicas")]


@pytest.mark.parametrize("part", ["project", "instance", "database"])
def test_a_name_with_nothing_behind_it(emulator: Emulator, spanner_url: str, part: str, tmp_path: Path) -> None:
    parts = spanner_url.split("/")
    parts[parts.index(f"{part}s") + 1] = "nothing-here"
    url = "/".join(parts)
    expected = (
        f"There is no Spanner database {url.removeprefix('spanner:///')} on the emulator at {emulator.host}: "
        f"run `luigi-spanner db upgrade --store {url}`, which creates it there."
    )
    assert said(url, (*OTHERS, CURRENT)) == expected
    if part == "database":
        assert told(url, tmp_path, **{HOST: emulator.host}) == expected


def test_the_command_that_the_sentence_names(spanner_url: str) -> None:
    url = f"{spanner_url}x"
    assert called(UPGRADE, url).code == 0
    make_graph(url)
    assert called(VERIFY, url).code == 0


def test_without_an_emulator_the_sentence_names_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(HOST, raising=False)
    assert spanner_sentences.missing("projects/p/instances/i/databases/d") == (
        "There is no Spanner database projects/p/instances/i/databases/d: correct --store, or create the database and then run "
        f"`luigi-spanner db upgrade --store {NOWHERE}`."
    )


def test_a_spanner_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as swallowing, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # nobody listens
        swallows, refuses = (f"127.0.0.1:{port.getsockname()[1]}" for port in (swallowing, refusing))
        with ThreadPoolExecutor() as pool:
            at_one = pool.submit(ended, (SERVE, UPGRADE, CHECK), NOWHERE, tmp_path, **{HOST: swallows})
            at_other = pool.submit(ended, (SERVE,), NOWHERE, tmp_path, **{HOST: refuses})
            check_silence(swallows, at_one.result())
            check_silence(refuses, at_other.result())
        for host in (refuses, "no.such.host.invalid:9010"):
            check_silence(host, [called(command, NOWHERE, **{HOST: host}) for command in COMMANDS])


def check_silence(host: str, commands: Sequence[Ended]) -> None:
    """They say that nobody answers at that host."""
    for found in commands:
        assert found.sentence.startswith(f"Spanner does not serve {NOWHERE.removeprefix('spanner:///')} just now (")
        assert found.sentence.endswith(f"): start the emulator at {host}, or correct {HOST}.")


@pytest.mark.parametrize("host", ["http://127.0.0.1:9010", "127.0.0.1", "127.0.0.1:", ":9010"])
def test_an_emulator_host_that_is_none(host: str) -> None:
    assert said(NOWHERE, COMMANDS, **{HOST: host}) == f"{HOST} is {host!r}, which is no HOST:PORT."


CREDENTIALS = {
    "none": (None, "Your default credentials were not found."),
    "no file": ("absent.json", "absent.json was not found"),
    "no JSON": ("broken.json", "broken.json is not a valid json file"),
    "no kind": ("empty.json", "does not have a valid type"),
}


@pytest.mark.parametrize("what", CREDENTIALS)
def test_credentials_that_are_none(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("{}")
    name, reason = CREDENTIALS[what]
    monkeypatch.delenv(HOST, raising=False)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    # Nothing of this machine's: no account of gcloud's, no metadata server.
    extra = {"CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    if name is not None:
        extra["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / name)
    sentence = told(NOWHERE, tmp_path, COMMANDS, **extra) if name is None else said(NOWHERE, COMMANDS, **extra)
    assert sentence.startswith("No credentials for Spanner (") and reason in sentence
    assert sentence.endswith(f"): set up Application Default Credentials, or set {HOST} to use an emulator.")


def test_an_account_that_may_do_nothing(emulator: Emulator, graph: str, tmp_path: Path) -> None:
    with Barring(emulator.host, lambda method: True) as barring:
        sentence = told(graph, tmp_path, **{HOST: barring.host})
        for command in (UPGRADE, CHECK, CURRENT, VERIFY):
            assert called(command, graph, **{HOST: barring.host}).sentence.partition(" (")[0] == sentence.partition(" (")[0]
    assert f"Spanner does not let this process use {graph.removeprefix('spanner:///')} (PERMISSION_DENIED: Caller is" in sentence
    assert "give its account roles/spanner.databaseUser there" in sentence


def test_an_account_that_may_only_read(emulator: Emulator, graph: str, tmp_path: Path) -> None:
    """As with roles/spanner.databaseReader. A replica would load, and then wait for its first commit."""
    before = rows(emulator.host, graph)
    with Barring(emulator.host, lambda method: method == "Commit") as barring:
        assert "Caller is missing IAM permission for Commit): give its account" in told(graph, tmp_path, **{HOST: barring.host})
        assert called(VERIFY, graph, **{HOST: barring.host}).code == 0
    assert rows(emulator.host, graph) == before
    with served(graph, tmp_path, **{HOST: emulator.host}) as client:
        has_graph(client)


def test_a_missing_database_without_details(emulator: Emulator, spanner_url: str, tmp_path: Path) -> None:
    """Whatever is not found as a session is made, it is no table."""
    with Barring(emulator.host, lambda method: method == "CreateSession", grpc.StatusCode.NOT_FOUND) as barring:
        assert "There is no Spanner database" in told(spanner_url, tmp_path, **{HOST: barring.host})


def test_a_database_of_another_application(emulator: Emulator, tmp_path: Path) -> None:
    database = create_database(emulator.host)
    change_schema(emulator.host, database, "CREATE TABLE tasks (id INT64) PRIMARY KEY (id)")
    url = f"spanner:///{database}"
    expected = f"The Spanner database {database} belongs to another application, whose table tasks it has: name another one"
    for command in (UPGRADE, CHECK, CURRENT, VERIFY):
        assert called(command, url, **{HOST: emulator.host}).sentence.startswith(expected)
    assert "has no Luigi Spanner schema: run `luigi-spanner db upgrade" in told(url, tmp_path, **{HOST: emulator.host})
    assert query(emulator.host, database, "SELECT table_name FROM information_schema.tables WHERE table_schema = ''") == [
        ["tasks"]
    ]


def test_a_half_applied_migration_is_told_and_finished(emulator: Emulator, tmp_path: Path) -> None:
    """The first statements of the migration were run; a schema change of Spanner's belongs to no transaction."""
    database = create_database(emulator.host)
    change_schema(
        emulator.host,
        database,
        "CREATE TABLE alembic_version (version_num STRING(32) NOT NULL) PRIMARY KEY ()",
        "CREATE TABLE compatibility (id INT64 NOT NULL, min_compatible INT64 NOT NULL) PRIMARY KEY (id)",
    )
    url = f"spanner:///{database}"
    env = {HOST: emulator.host}
    expected = f"The database has no Luigi Spanner schema: run `luigi-spanner db upgrade --store {url}`."
    assert told(url, tmp_path, OTHERS, **env) == expected
    assert called(UPGRADE, url, **env).code == 0
    assert called(CHECK, url, **env).code == 0


def test_a_schema_without_one_of_its_tables(emulator: Emulator, graph: str, tmp_path: Path) -> None:
    database = graph.removeprefix("spanner:///")
    change_schema(emulator.host, database, "DROP TABLE emails")
    expected = f"The Spanner database {database} has lost the table emails of its schema: restore a backup."
    for command in (UPGRADE, CHECK, VERIFY):
        assert called(command, graph).sentence == expected
    assert "schema is not this release's (NOT_FOUND: Table not found: emails): run `luigi-spanner db upgrade" in told(
        graph, tmp_path, **{HOST: emulator.host}
    )
    assert len(query(emulator.host, database, "SELECT task_id FROM tasks")) == TASKS
