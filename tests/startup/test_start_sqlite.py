"""SQLite files that cannot be used: the person who starts a replica is told why, and the file is as it was."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from serving import Process
from starting import CHECK, CURRENT, SERVE, UPGRADE, VERIFY, add, ended, has_graph, make_graph, obeying, served, told

pytestmark = pytest.mark.slow

STORE = "sqlite:///luigi.db"
OTHERS = (UPGRADE, CHECK, VERIFY)
"""The commands that say what a replica says; `db current` reads no more than a revision."""

PAGE = 4096


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with a graph."""
    path = tmp_path_factory.mktemp("graph") / "luigi.db"
    make_graph(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def place(tmp_path: Path, graph: bytes) -> Path:
    """That file, in a directory of its own."""
    path = tmp_path / "luigi.db"
    path.write_bytes(graph)
    return path


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What befalls a file. `says`: part of the sentence; `told_by`: the commands that say it, too: those of the schema do not
    read the rows, and `verify` says more."""

    befall: Callable[[Path], object]
    says: str
    told_by: tuple[tuple[str, ...], ...] = OTHERS
    reads: bool = False
    """Whether SQLite can read it."""


def overwritten(start: int, stop: int | None = None, *, every: int = PAGE, count: int = 100) -> Callable[[Path], object]:
    """0xff over `count` bytes of each page of a range."""

    def befall(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for place in range(start, len(content) if stop is None else stop, every):
            content[place : place + count] = b"\xff" * count
        path.write_bytes(content)

    return befall


def cut(size: int) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, size)


def sql(*statements: str, empty: bool = False) -> Callable[[Path], object]:
    """Statements run on the file, or on a new one."""

    def befall(path: Path) -> None:
        if empty:
            path.unlink()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    return befall


def replaced(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


NO_DATABASE = "is no SQLite database or is damaged (file is not a database): keep a copy of it"
MALFORMED = "is no SQLite database or is damaged (database disk image is malformed): keep a copy of it"

DAMAGES = {
    "the header's magic": Damage(befall=overwritten(0, 16, count=16), says=NO_DATABASE),
    "the header's numbers": Damage(befall=overwritten(16, 40, count=24), says=NO_DATABASE),
    "pages in the middle": Damage(befall=overwritten(25 * PAGE), says=MALFORMED, told_by=()),
    "the first page": Damage(befall=overwritten(100, PAGE, every=100), says=MALFORMED),
    "cut in half": Damage(befall=cut(20 * PAGE), says=MALFORMED, told_by=()),
    "cut in the first page": Damage(befall=cut(100), says=MALFORMED),
    "text": Damage(befall=replaced(b"[core]\nlog_level = INFO\n" * 100), says=NO_DATABASE),
    "a few letters": Damage(befall=replaced(b"luigi\n"), says=NO_DATABASE),
    "another application's": Damage(
        befall=sql("CREATE TABLE dag (id)", "INSERT INTO dag VALUES (1)", empty=True),
        says="belongs to another application, whose table dag it has: name another one with --store.",
    ),
    "another application's with tables of our names": Damage(
        befall=sql(*(f"CREATE TABLE {name} (id)" for name in ("tasks", "workers", "users", "zones")), empty=True),
        says="whose tables tasks, users, workers and 1 more it has: name another one",
    ),
    "another application's with revisions": Damage(
        befall=sql("CREATE TABLE alembic_version (version_num)", "INSERT INTO alembic_version VALUES ('ae10')", empty=True),
        says="The database's schema, at revision ae10, is none of Luigi Spanner's: name another database with --store.",
    ),
    "a newer schema": Damage(
        befall=sql("UPDATE alembic_version SET version_num = '9999'", "UPDATE compatibility SET min_compatible = 99"),
        says="The database's schema, at revision 9999, is newer than this release understands: upgrade luigi-spanner.",
    ),
    "a table dropped": Damage(befall=sql("DROP TABLE tasks"), says="has lost the table tasks of its schema: restore a backup."),
    "a row changed": Damage(
        befall=sql("UPDATE tasks SET body = x'00' WHERE task_id = 'T7'"),
        says="Namespace default cannot be read (ValueError: unknown payload encoding b'\\x00'): run `luigi-spanner verify`",
        told_by=(),
        reads=True,
    ),
    "a row lost": Damage(
        befall=sql("DELETE FROM tasks WHERE task_id = 'T7'"),
        says="do not have the digest that the journal says): run `luigi-spanner verify`, and restore a backup if that",
        told_by=(),
        reads=True,
    ),
    "the journal's end lost": Damage(
        befall=sql("DELETE FROM journal WHERE seq > 30"), says="Namespace default cannot be read", told_by=(), reads=True
    ),
    "the journal lost": Damage(befall=sql("DELETE FROM journal"), says="is empty: it was deleted by hand.", told_by=(VERIFY,)),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_told_and_left_alone(what: str, place: Path, tmp_path: Path) -> None:
    damage = DAMAGES[what]
    damage.befall(place)
    before = place.read_bytes()
    rows = dumped(place, tmp_path) if damage.reads else []
    assert damage.says in told(f"sqlite:///{place}", tmp_path, damage.told_by)
    # Where SQLite finds nothing wrong, its header counts that the file was proved to be writable.
    assert dumped(place, tmp_path) == rows if damage.reads else place.read_bytes() == before


def dumped(path: Path, directory: Path) -> list[str]:
    """What a copy of the file holds, as SQL."""
    copy = shutil.copy(path, directory / "copy.db")
    with closing(sqlite3.connect(copy)) as connection:
        return list(connection.iterdump())


def test_after_a_backup_is_restored_it_serves_all(place: Path, tmp_path: Path, graph: bytes) -> None:
    overwritten(0)(place)
    assert str(place) in told(STORE, tmp_path)
    place.write_bytes(graph)
    with served(STORE, tmp_path) as client:
        has_graph(client)


@dataclass(frozen=True, kw_only=True)
class Barrier:
    """A mode of the file, or of its directory, that is in the way. `says`: part of the sentence."""

    file: int = 0o644
    directory: int = 0o755
    says: str
    told_by: tuple[tuple[str, ...], ...] = (CHECK,)


BARRIERS = {
    "no reading": Barrier(file=0o000, says="may not read it; give that user permission to read and write it."),
    "no writing": Barrier(file=0o444, says="it is read-only for user", told_by=()),
    "no writing beside it": Barrier(directory=0o555, says="where SQLite keeps its log, is read-only for user"),
    "no entering": Barrier(directory=0o000, says="may not enter the directory"),
}


@pytest.mark.parametrize("what", BARRIERS)
def test_a_file_without_permission(what: str, tmp_path: Path, graph: bytes) -> None:
    barrier = BARRIERS[what]
    place = tmp_path / "inside" / "luigi.db"
    place.parent.mkdir()
    place.write_bytes(graph)
    place.chmod(barrier.file)
    place.parent.chmod(barrier.directory)
    found = ended((SERVE, *barrier.told_by), f"sqlite:///{place}", tmp_path, confined=obeying())
    place.parent.chmod(0o755)
    place.chmod(0o644)
    (sentence,) = {command.sentence for command in found}
    assert barrier.says in sentence and str(place.parent) in sentence
    assert place.read_bytes() == graph
    with served(f"sqlite:///{place}", tmp_path) as client:
        has_graph(client)


def test_a_new_file_in_a_directory_without_permission(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir(mode=0o555)
    for found in ended((SERVE, UPGRADE), "sqlite:///inside/luigi.db", tmp_path, confined=obeying()):
        assert f"the directory {tmp_path}/inside, where SQLite keeps its log, is read-only for user" in found.sentence
    assert list((tmp_path / "inside").iterdir()) == []


def test_a_log_that_root_left_behind(tmp_path: Path, place: Path) -> None:
    """Somebody ran it as root once."""
    with Process(*SERVE, "--store", STORE, directory=tmp_path) as process:
        process.client()
        process.signal(signal.SIGKILL)
        process.exit_code()
    log = tmp_path / "luigi.db-wal"
    log.chmod(0o000)
    (found,) = ended((SERVE,), STORE, tmp_path, confined=obeying())
    assert f"may not read {log}; give that user permission" in found.sentence
    log.chmod(0o644)
    with served(STORE, tmp_path) as client:
        has_graph(client)


def test_what_only_reads_needs_no_permission_to_write(tmp_path: Path, place: Path) -> None:
    place.chmod(0o444)
    found = ended((CHECK, CURRENT, VERIFY), STORE, tmp_path, confined=obeying())
    assert [command.code for command in found] == [0, 0, 0], [command.lines for command in found]


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "luigi.db").mkdir()
    expected = f"Cannot use the SQLite file {tmp_path}/luigi.db: it is a directory; name a file in it."
    assert told(f"sqlite:///{tmp_path}/luigi.db", tmp_path, OTHERS) == expected


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    sentence = told(f"sqlite:///{tmp_path}/none/luigi.db", tmp_path, (UPGRADE,))
    assert sentence.endswith(f"there is no directory {tmp_path}/none; create it or correct --store.")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "luigi.db").touch()
    with served(STORE, tmp_path) as client:
        assert client.tasks() == {}


def test_a_half_applied_migration_is_finished(tmp_path: Path) -> None:
    """As somebody left it who stopped a migration of a release that did not run it as one transaction."""
    sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")(tmp_path / "luigi.db")
    with served(STORE, tmp_path) as client:
        add(client, "A")


def test_a_locked_file_is_waited_for_and_told_in_time(place: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(place, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        for found in ended((SERVE, *OTHERS), STORE, tmp_path):
            assert found.sentence == f"Another process keeps the SQLite file {place} locked: wait for it, or end it."
        holder.execute("ROLLBACK")
    with served(STORE, tmp_path) as client:
        has_graph(client)


def test_a_lock_that_passes_delays_the_start_only(place: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(place, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with Process(*SERVE, "--store", STORE, directory=tmp_path) as process:
            process.line("logging configured")
            holder.execute("ROLLBACK")
            has_graph(process.client())


def test_another_replica_on_the_file_is_in_nobodys_way(place: Path, tmp_path: Path) -> None:
    with served(STORE, tmp_path) as one, served(STORE, tmp_path) as two:
        has_graph(one)
        has_graph(two)


@pytest.mark.parametrize("loss", ["lost", "damaged"])
def test_a_log_that_is_lost_takes_only_its_end_along(place: Path, tmp_path: Path, loss: str) -> None:
    """SQLite cannot tell that its log was removed: what was in it is gone, and what is left is whole."""
    with Process(*SERVE, "--store", STORE, directory=tmp_path) as process:
        client = process.client()
        for number in range(20):
            add(client, f"late{number}")
        process.signal(signal.SIGKILL)
        process.exit_code()
    log = tmp_path / "luigi.db-wal"
    log.unlink() if loss == "lost" else overwritten(60 * PAGE, 61 * PAGE)(log)
    with served(STORE, tmp_path) as client:
        has_graph(client)
        late = {f"late{number}" for number in range(20)}.intersection(client.tasks())
        assert late == {f"late{number}" for number in range(len(late))}
    assert ended((VERIFY,), STORE, tmp_path)[0].code == 0


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_file_that_is_taken_away_while_it_serves_stops_the_replica(place: Path, tmp_path: Path, graph: bytes, how: str) -> None:
    """What it would answer from then on would be in no file."""
    with Process(*SERVE, "--store", STORE, directory=tmp_path) as process:
        client = process.client()
        add(client, "A")
        shutil.move(place, tmp_path / "away.db")
        if how == "replaced":
            place.write_bytes(graph)
        assert client.call("add_task", worker="w", task_id="B", family="F").status == 503
        process.line(f"CRITICAL: This replica can serve no more: The SQLite file {place} was removed or replaced")
        assert process.exit_code() == 1
    if how == "replaced":
        assert place.read_bytes() == graph
