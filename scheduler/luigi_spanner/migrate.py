"""The schema's revision: read it, check it, change it.

SQLite and Spanner run the same Alembic scripts, those of `migrations/`. Alembic is loaded only to change a schema; a store
at the newest revision opens without it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from luigi_spanner.schema import MIN_COMPATIBLE, metadata
from luigi_spanner.stores import InvalidStore, SchemaMismatch, sqlite_faults, sqlite_file
from luigi_spanner.stores.location import Location, make_state_directory, parse, sqlite_url

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

VERSIONS = "alembic_version"
"""The table in which Alembic keeps the revision. It is made first of all, and stays when all else is taken back."""

_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
_REVISION = "SELECT version_num FROM alembic_version"
_MIN_COMPATIBLE = "SELECT min_compatible FROM compatibility WHERE id = 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a database has: `revision` and `min_compatible`, None where it has none, and the names of all its tables."""

    revision: str | None = None
    min_compatible: int | None = None
    tables: frozenset[str] = frozenset()


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
        _bring_up(location, _read(location), url)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to `revision`, or to nothing with "base": what only later revisions hold is lost.

    Raises InvalidStore (no such revision), SchemaMismatch (the database's revision is none of ours), Unavailable.
    """
    location = parse(url)
    if revision not in ("base", *revisions()):
        raise InvalidStore(f"There is no revision {revision}: this release has {', '.join(revisions())} and base.")
    found = _read(location).revision
    if found is None:
        return
    if found not in revisions():
        raise SchemaMismatch(f"This release cannot take revision {found} back: use the luigi-spanner that made it.")
    _run(location, "downgrade", revision)


def current(url: str) -> str | None:
    """The database's revision, None when it has no schema. Raises InvalidStore, Unavailable."""
    return _read(parse(url)).revision


def check(url: str) -> None:
    """Raise SchemaMismatch unless this release can use the database as it is, InvalidStore without a file, Unavailable.

    A memory store always fits.
    """
    location = parse(url)
    if location.kind == "sqlite" and not sqlite_file.is_there(location.place):
        file = os.path.abspath(location.place)
        raise InvalidStore(
            f"There is no SQLite file {file}: correct --store, or `luigi-spanner db upgrade --store {url}` creates it."
        )
    if location.kind != "memory":
        found = _read(location)
        mismatch = compatible(found.revision, found.min_compatible, url)
        if mismatch:
            raise SchemaMismatch(mismatch)
        _require_tables(location, found)


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
    if min_compatible is None:
        return f"The database's schema, at revision {revision}, is none of Luigi Spanner's: name another database with --store."
    if min_compatible <= MIN_COMPATIBLE:
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


def read_sqlite(connection: sqlite3.Connection) -> Found:
    """What the open file has. Raises sqlite3's errors."""
    tables = frozenset(name for (name,) in connection.execute(_TABLES))
    revision = connection.execute(_REVISION).fetchone() if VERSIONS in tables else None
    min_compatible = connection.execute(_MIN_COMPATIBLE).fetchone() if "compatibility" in tables else None
    return Found(revision=revision and revision[0], min_compatible=min_compatible and min_compatible[0], tables=tables)


def upgrade_sqlite(path: str) -> None:
    """Bring the file's schema to this release's, once, however many processes try at the same time."""
    location = Location(kind="sqlite", place=path)
    _bring_up(location, _read(location), sqlite_url(path))


def _bring_up(location: Location, found: Found, url: str) -> None:
    """Upgrade a database that has `found`, if it needs it."""
    if _settled(found, url):
        _require_tables(location, found)
        return
    if found.revision is not None and found.min_compatible is None:
        _run(location, "stamp", "base")  # a downgrade that stopped half-way has left the revision without its tables
    _run(location, "upgrade", head())


def _settled(found: Found, url: str) -> bool:
    """Whether there is nothing to do. Raises SchemaMismatch where there is nothing that this release could do."""
    mismatch = compatible(found.revision, found.min_compatible, url)
    if mismatch and found.revision is not None and found.revision not in revisions():
        raise SchemaMismatch(mismatch)
    return mismatch is None


def _read(location: Location) -> Found:
    """What the database has. Raises InvalidStore if that is another application's."""
    if location.kind == "memory":
        return Found()
    if location.kind == "spanner":
        from luigi_spanner import migrate_spanner

        found = migrate_spanner.read(location.place)
    elif not sqlite_file.is_there(location.place):  # connecting would create it
        return Found()
    else:
        with closing(sqlite_file.look(location.place)) as connection, sqlite_faults.faults(location.place):
            found = read_sqlite(connection)
    _refuse_strangers(location, found)
    return found


def _refuse_strangers(location: Location, found: Found) -> None:
    """A database with tables and no revision is another application's, unless the tables are what a migration that stopped
    half-way has left. Nothing is to be added to it."""
    if found.revision is not None:
        return
    ours = {VERSIONS, sqlite_file.FILLER, *metadata.tables} if VERSIONS in found.tables else set()
    strangers = sorted(found.tables - ours)
    if strangers:
        raise InvalidStore(
            f"{_name(location)} belongs to another application, whose {_listed(strangers)} it has: name another one with --store."
        )


def _require_tables(location: Location, found: Found) -> None:
    """Whoever has a revision of ours has its tables, unless somebody dropped them."""
    missing = sorted(set(metadata.tables) - found.tables) if found.revision in revisions() else []
    if missing:
        raise InvalidStore(f"{_name(location)} has lost the {_listed(missing)} of its schema: restore a backup.")


def _name(location: Location) -> str:
    if location.kind == "spanner":
        return f"The Spanner database {location.place}"
    return f"The SQLite file {os.path.abspath(location.place)}"


def _listed(tables: Sequence[str]) -> str:
    """Names of tables, three at most."""
    more = f" and {len(tables) - 3} more" if len(tables) > 3 else ""
    return f"{'tables' if tables[1:] else 'table'} {', '.join(tables[:3])}{more}"


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
    with sqlite_faults.faults(path):
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise (error.orig or error) from error
