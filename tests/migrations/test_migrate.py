"""The schema's revisions: equal to the metadata, up and down, run again, checked; on SQLite and on the Spanner emulator."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from google.cloud.sqlalchemy_spanner import MAX_SIZE

from luigi_spanner import migrate, migrate_spanner, schema
from luigi_spanner.journal import Entry
from luigi_spanner.stores import Committed, InvalidStore, SchemaMismatch, sqlite
from luigi_spanner.stores.location import parse, sqlite_url

OPENERS = 4


@pytest.fixture(params=["sqlite", pytest.param("emulator", marks=pytest.mark.emulator)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with the newest schema."""
    if request.param == "emulator":
        given: str = request.getfixturevalue("spanner_url")
        return given
    url = f"sqlite:///{tmp_path}/luigi.db"
    migrate.upgrade(url)
    return url


@contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    location = parse(url)
    if location.kind == "spanner":
        with migrate_spanner.connect(location.place) as connection:
            yield connection
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def tables(url: str) -> set[str]:
    with connected(url) as connection:
        return set(sa.inspect(connection).get_table_names()) - {"alembic_version"}


def test_the_revisions_are_one_line() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.scripts()))
    script = ScriptDirectory.from_config(config)
    walked = [revision.revision for revision in script.walk_revisions()]
    assert walked[::-1] == list(migrate.revisions())
    assert script.get_heads() == [migrate.head()]


def test_the_migrated_schema_is_the_metadata(url: str) -> None:
    with connected(url) as connection:
        assert tables(url) == set(schema.metadata.tables)
        for table in schema.metadata.tables.values():
            assert described(connection, table.name) == declared(connection.dialect, table)


def described(connection: sa.Connection, name: str) -> dict[str, Any]:
    inspector = sa.inspect(connection)
    found = inspector.get_columns(name)
    columns = [(column["name"], _text(connection.dialect, column["type"]), column["nullable"]) for column in found]
    key = inspector.get_pk_constraint(name)["constrained_columns"]
    return {"columns": columns, "key": key, "indexes": _indexes(inspector.get_indexes(name))}


def _indexes(found: list[Any]) -> dict[str, list[str]]:
    return {index["name"]: index["column_names"] for index in found}


def declared(dialect: sa.Dialect, table: sa.Table) -> dict[str, Any]:
    columns = [(column.name, _text(dialect, column.type), column.nullable) for column in table.columns]
    key = [column.name for column in table.primary_key.columns]
    indexes = {str(index.name): [column.name for column in index.columns] for index in table.indexes}
    return {"columns": columns, "key": key, "indexes": indexes}


def _text(dialect: sa.Dialect, column_type: Any) -> str:
    # Spanner's MAX is reflected as a number.
    return str(column_type.compile(dialect=dialect)).replace(f"({MAX_SIZE})", "(MAX)")


def test_alembic_finds_nothing_to_change(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"
    migrate.upgrade(url)
    with connected(url) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []


def test_spanner_types(spanner_url: str) -> None:
    query = sa.text(
        "SELECT column_name, spanner_type FROM information_schema.columns"
        " WHERE table_schema = '' AND table_name IN ('journal', 'tasks')"
    )
    options = sa.text(
        "SELECT table_name, column_name FROM information_schema.column_options"
        " WHERE option_name = 'allow_commit_timestamp' AND option_value = 'TRUE' ORDER BY table_name"
    )
    with connected(spanner_url) as connection:
        types = dict(connection.execute(query).tuples().all())
        stamped = [tuple(row) for row in connection.execute(options)]
    assert types["seq"] == "INT64"
    assert types["clock"] == "FLOAT64"
    assert types["turn"] == "BOOL"
    assert types["changes"] == types["body"] == "BYTES(MAX)"
    assert types["params"] == "STRING(MAX)"
    assert types["status"] == "STRING(32)"
    assert types["committed_at"] == "TIMESTAMP"
    assert stamped == [("journal", "committed_at"), ("namespaces", "created_at")]


def test_up_and_down_and_up(url: str) -> None:
    assert migrate.current(url) == migrate.head()
    migrate.check(url)
    migrate.downgrade(url, "base")
    assert migrate.current(url) is None
    assert tables(url) == set()
    with pytest.raises(SchemaMismatch):
        migrate.check(url)
    migrate.downgrade(url, "base")  # nothing left to take back
    migrate.upgrade(url)
    migrate.upgrade(url)
    migrate.check(url)
    assert tables(url) == set(schema.metadata.tables)


@pytest.mark.parametrize("revision", migrate.revisions()[:-1])
def test_from_each_earlier_revision(url: str, revision: str) -> None:
    migrate.downgrade(url, revision)
    assert migrate.current(url) == revision
    with pytest.raises(SchemaMismatch, match="db upgrade"):
        migrate.check(url)
    migrate.upgrade(url)
    migrate.check(url)
    assert tables(url) == set(schema.metadata.tables)


def test_a_half_applied_upgrade_is_run_again(url: str) -> None:
    with connected(url) as connection:
        for statement in ("DROP TABLE tasks", "DROP TABLE compatibility", "DELETE FROM alembic_version WHERE true"):
            connection.exec_driver_sql(statement)
    assert migrate.current(url) is None
    migrate.upgrade(url)
    migrate.check(url)
    assert tables(url) == set(schema.metadata.tables)


def test_a_half_applied_downgrade_is_run_again(url: str) -> None:
    with connected(url) as connection:
        for statement in ("DROP TABLE tasks", "DROP TABLE compatibility"):
            connection.exec_driver_sql(statement)
    with pytest.raises(SchemaMismatch):
        migrate.check(url)
    migrate.upgrade(url)
    migrate.check(url)
    assert tables(url) == set(schema.metadata.tables)


def test_no_schema_is_one_sentence_with_the_command(url: str) -> None:
    migrate.downgrade(url, "base")
    with pytest.raises(SchemaMismatch) as caught:
        migrate.check(url)
    assert str(caught.value) == f"The database has no Luigi Spanner schema: run `luigi-spanner db upgrade --store {url}`."


def test_a_newer_schema_is_used_while_it_says_so(url: str) -> None:
    set_revision(url, "9999", schema.MIN_COMPATIBLE)
    migrate.check(url)
    migrate.upgrade(url)  # leaves it as it is
    assert migrate.current(url) == "9999"
    set_revision(url, "9999", schema.MIN_COMPATIBLE + 1)
    for call in (migrate.check, migrate.upgrade):
        with pytest.raises(SchemaMismatch, match="revision 9999, is newer than this release understands: upgrade luigi-spanner"):
            call(url)
    with pytest.raises(SchemaMismatch, match="cannot take revision 9999 back"):
        migrate.downgrade(url, "base")


def set_revision(url: str, revision: str, min_compatible: int) -> None:
    with connected(url) as connection:
        connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}' WHERE true")
        connection.exec_driver_sql(f"UPDATE compatibility SET min_compatible = {min_compatible} WHERE id = 1")


@pytest.mark.parametrize(
    ("revision", "min_compatible", "reason"),
    [
        (migrate.head(), schema.MIN_COMPATIBLE, None),
        (None, None, "no Luigi Spanner schema"),
        (migrate.head(), None, "needs .* in full"),
        ("9999", schema.MIN_COMPATIBLE, None),
        ("9999", schema.MIN_COMPATIBLE - 1, None),
        ("9999", schema.MIN_COMPATIBLE + 1, "newer"),
        ("9999", None, "none of Luigi Spanner's"),
    ],
)
def test_the_rule_of_compatibility(revision: str | None, min_compatible: int | None, reason: str | None) -> None:
    found = migrate.compatible(revision, min_compatible)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(reason, found)


def test_no_such_revision(url: str) -> None:
    with pytest.raises(InvalidStore, match="There is no revision 4711"):
        migrate.downgrade(url, "4711")


def test_reading_creates_no_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"
    assert migrate.current(url) is None
    migrate.downgrade(url, "base")
    with pytest.raises(InvalidStore) as caught:
        migrate.check(url)
    creating = f"`luigi-spanner db upgrade --store {url}` creates it"
    assert str(caught.value) == f"There is no SQLite file {tmp_path}/luigi.db: correct --store, or {creating}."
    assert list(tmp_path.iterdir()) == []


HEAD = migrate.head()
LATER = """
revision = "9999"
down_revision = "{head}"


def upgrade():
    raise AssertionError("a later release's revision was run")
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The migrations of an installation that a test may upgrade in place, as a process that starts now finds them."""
    copied = tmp_path / "migrations"
    shutil.copytree(migrate.scripts(), copied)
    monkeypatch.setattr(migrate, "scripts", lambda: copied)
    migrate.revisions.cache_clear()
    yield copied
    migrate.revisions.cache_clear()


def upgrade_package(scripts: Path) -> None:
    (scripts / "versions" / "9999_later.py").write_text(LATER.format(head=HEAD))


def test_a_package_upgraded_in_place_leaves_a_running_process_alone(scripts: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/luigi.db"

    async def check() -> None:
        store = await sqlite.open(str(tmp_path / "luigi.db"), "n")
        await store.load()
        upgrade_package(scripts)
        assert isinstance(await store.commit(1, entry(1), []), Committed)
        set_revision(url, "9999", schema.MIN_COMPATIBLE)  # and the later release runs as well
        assert isinstance(await store.commit(2, entry(2), []), Committed)
        assert [found.seq for found in await store.read_after(0)] == [1, 2]
        await store.close()

    asyncio.run(check())
    assert migrate.head() == HEAD


def test_a_process_migrates_to_its_own_revision(scripts: Path, tmp_path: Path) -> None:
    assert migrate.head() == HEAD
    upgrade_package(scripts)
    url = f"sqlite:///{tmp_path}/luigi.db"
    migrate.upgrade(url)
    assert migrate.current(url) == HEAD


def entry(seq: int) -> Entry:
    return Entry(
        seq=seq, commit_id=f"id{seq}", replica="r", clock=1.0, watermark=seq, digest="d" * 32, calls=b"j[]", changes=b"j[]"
    )


def test_memory_has_no_schema_to_keep() -> None:
    migrate.upgrade("memory://")
    migrate.downgrade("memory://", "base")
    migrate.check("memory://")
    assert migrate.current("memory://") is None


def test_a_path_with_a_percent_sign(tmp_path: Path) -> None:
    path = tmp_path / "50%20 off" / "luigi.db"
    path.parent.mkdir()
    migrate.upgrade(sqlite_url(str(path)))
    assert path.is_file()


def test_several_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    async def check() -> None:
        stores = await asyncio.gather(*(sqlite.open(str(tmp_path / "luigi.db"), "n") for _ in range(OPENERS)))
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(check())
    migrate.check(f"sqlite:///{tmp_path}/luigi.db")


def test_a_failed_revision_leaves_sqlite_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "luigi.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE VIEW tasks AS SELECT 1")
    with pytest.raises(InvalidStore, match="tasks"):
        migrate.upgrade(f"sqlite:///{path}")
    assert tables(f"sqlite:///{path}") == set()


def test_a_missing_spanner_database_is_told(spanner_url: str) -> None:
    missing = spanner_url + "x"
    for call in (migrate.check, migrate.current):
        with pytest.raises(
            InvalidStore, match=r"There is no Spanner database .*: run `luigi-spanner db upgrade --store spanner:///"
        ):
            call(missing)
    migrate.upgrade(missing)
    migrate.check(missing)
