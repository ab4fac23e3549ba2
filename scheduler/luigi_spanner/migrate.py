"""The schema's revision: read it, check it, change it.

SQLite and Spanner run the same Alembic scripts, those of `migrations/`. Alembic is loaded only to change a schema; a store
at the newest revision opens without it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from luigi_spanner.schema import MIN_COMPATIBLE
from luigi_spanner.stores import InvalidStore, SchemaMismatch, sqlite_file
from luigi_spanner.stores.location import Location, make_state_directory, parse, sqlite_url

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

Revision = tuple["str | None", "int | None"]
"""(revision, min_compatible) as a database has them; None where it has none."""

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('alembic_version', 'compatibility')"
_REVISION = "SELECT version_num FROM alembic_version"
_MIN_COMPATIBLE = "SELECT min_compatible FROM compatibility WHERE id = 1"

# Alembic keeps the migration under way in a module of its own, so one process runs one at a time.
_alembic = Lock()


def upgrade(url: str) -> None:
    """Bring the schema to this release's. On the Spanner emulator, create instance and database as well.

    Raises InvalidStore, Unavailable, SchemaMismatch (a newer release's schema that this one does not understand).
    """
    location = parse(url)
    if location.kind == "sqlite":
        make_state_directory(location.place)
        upgrade_sqlite(location.place)
    elif location.kind == "spanner":
        from luigi_spanner import migrate_spanner

        migrate_spanner.create_on_emulator(location.place)
        _bring_up(location, migrate_spanner.read(location.place), url)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`, or to nothing with "base": what only later revisions hold is lost.

    Raises InvalidStore (no such revision), SchemaMismatch (the database's revision is none of ours), Unavailable.
    """
    location = parse(url)
    if revision not in ("base", *revisions()):
        raise InvalidStore(f"There is no revision {revision}: this release has {', '.join(revisions())} and base.")
    found, _ = _read(location)
    if found is None:
        return
    if found not in revisions():
        raise SchemaMismatch(f"This release cannot take revision {found} back: use the luigi-spanner that made it.")
    _run(location, "downgrade", revision)


def current(url: str) -> str | None:
    """The database's revision, None when it has no schema. Raises InvalidStore, Unavailable."""
    return _read(parse(url))[0]


def check(url: str) -> None:
    """Raise SchemaMismatch unless this release can use the database as it is, InvalidStore without a file, Unavailable.

    A memory store always fits.
    """
    location = parse(url)
    if location.kind == "sqlite" and not os.path.exists(location.place):
        raise InvalidStore(f"There is no SQLite file {location.place}: `luigi-spanner db upgrade --store {url}` creates it.")
    if location.kind != "memory":
        revision, min_compatible = _read(location)
        mismatch = compatible(revision, min_compatible, url)
        if mismatch:
            raise SchemaMismatch(mismatch)


def compatible(revision: str | None, min_compatible: int | None, url: str = "URL") -> str | None:
    """Why this release cannot use a database of that revision, in one sentence that names the remedy; None if it can (I11)."""
    known = revisions()  # first of all: every store asks this as it opens, before the package can be replaced under it
    remedy = f"run `luigi-spanner db upgrade --store {url}`"
    if revision is None:
        return f"The database has no Luigi Spanner schema: {remedy}."
    if revision in known:
        if revision == head() and min_compatible == MIN_COMPATIBLE:
            return None
        return f"The database's schema is at revision {revision} and this release needs {head()} in full: {remedy}."
    if min_compatible is not None and min_compatible <= MIN_COMPATIBLE:
        return None
    return f"The database's schema, at revision {revision}, is newer than this release understands: upgrade luigi-spanner."


def head() -> str:
    """This release's newest revision."""
    return revisions()[-1]


@cache
def revisions() -> tuple[str, ...]:
    """This release's revisions, oldest first: the history is one line, and files are named after their number.

    Read once, for an upgrade of the package puts a later release's files where a running process has its own.
    """
    return tuple(sorted(path.name.split("_")[0] for path in (scripts() / "versions").glob("[0-9]*_*.py")))


def scripts() -> Path:
    """The directory of the Alembic scripts: inside the package when installed, else the checkout's."""
    package = Path(__file__).resolve().parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parents[1] / "migrations"


def read_sqlite(connection: sqlite3.Connection) -> Revision:
    """The revision of the open file. Raises sqlite3's errors."""
    tables = {name for (name,) in connection.execute(_TABLES)}
    revision = connection.execute(_REVISION).fetchone() if "alembic_version" in tables else None
    min_compatible = connection.execute(_MIN_COMPATIBLE).fetchone() if "compatibility" in tables else None
    return revision and revision[0], min_compatible and min_compatible[0]


def upgrade_sqlite(path: str) -> None:
    """Bring the file's schema to this release's, once, however many processes try at the same time."""
    with closing(sqlite_file.connect(path)) as connection, sqlite_file.faults(path):
        found = read_sqlite(connection)
    _bring_up(Location(kind="sqlite", place=path), found, sqlite_url(path))


def _bring_up(location: Location, found: Revision, url: str) -> None:
    """Upgrade a database at `found`, if it needs it."""
    if _settled(found, url):
        return
    revision, min_compatible = found
    if revision is not None and min_compatible is None:
        _run(location, "stamp", "base")  # a downgrade that stopped half-way has left the revision without its tables
    _run(location, "upgrade", head())


def _settled(found: Revision, url: str) -> bool:
    """Whether there is nothing to do. Raises SchemaMismatch where there is nothing that this release could do."""
    revision, min_compatible = found
    mismatch = compatible(revision, min_compatible, url)
    if mismatch and revision is not None and revision not in revisions():
        raise SchemaMismatch(mismatch)
    return mismatch is None


def _read(location: Location) -> Revision:
    if location.kind == "memory":
        return None, None
    if location.kind == "spanner":
        from luigi_spanner import migrate_spanner

        return migrate_spanner.read(location.place)
    if not os.path.exists(location.place):  # connecting would create it
        return None, None
    with closing(sqlite_file.connect(location.place)) as connection, sqlite_file.faults(location.place):
        return read_sqlite(connection)


def _run(location: Location, verb: str, revision: str) -> None:
    """Run Alembic's command `verb` on the database."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts()).replace("%", "%%"))
    run: Callable[[Config, str], Any] = getattr(command, verb)
    with _alembic, _connect(location) as connection:
        config.attributes["connection"] = connection
        run(config, revision)


@contextmanager
def _connect(location: Location) -> Iterator[Connection]:
    if location.kind == "spanner":
        from luigi_spanner import migrate_spanner

        with migrate_spanner.connect(location.place) as connection:
            yield connection
    else:
        with _connect_sqlite(location.place) as connection:
            yield connection


@contextmanager
def _connect_sqlite(path: str) -> Iterator[Connection]:
    """A connection inside one write transaction: on SQLite a migration happens in full or not at all, and to one at a time."""
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine("sqlite://", creator=lambda: sqlite_file.connect(path), poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    with sqlite_file.faults(path):
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise (error.orig or error) from error
