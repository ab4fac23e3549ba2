"""Store URLs: where a store is, and how to open it.

They follow SQLAlchemy: `sqlite:///relative.db`, `sqlite:////absolute.db`,
`spanner:///projects/P/instances/I/databases/D`, `memory://` or `memory://NAME` (shared under that name in the process).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from luigi_spanner.stores import InvalidStore, Store

NAMESPACE_CHARACTERS = 128
"""Longest name of a namespace: it is part of every key, and of metrics' labels."""

_NAMESPACE = re.compile(rf"[A-Za-z0-9._-]{{1,{NAMESPACE_CHARACTERS}}}")
_SPANNER = re.compile(r"projects/[^/]+/instances/[^/]+/databases/[^/]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A parsed store URL. `place` is a file's path, a Spanner database's full name, or a memory store's name ("" for none)."""

    kind: Literal["sqlite", "spanner", "memory"]
    place: str


def parse(url: str) -> Location:
    """The location that `url` names. Raises InvalidStore; its message never repeats a password."""
    parsed = _split(url)
    if parsed.drivername == "memory":
        return _memory(parsed)
    if parsed.drivername not in ("sqlite", "spanner"):
        raise InvalidStore(f"A store URL begins with sqlite, spanner or memory, not with {parsed.drivername!r}.")
    if parsed.host or parsed.username or parsed.password or parsed.port:
        raise InvalidStore(f"A {parsed.drivername} store URL has three slashes after the colon and no host.")
    return _sqlite(parsed) if parsed.drivername == "sqlite" else _spanner(parsed)


async def open_store(url: str, namespace: str, *, ids: Callable[[], str] | None = None) -> Store:
    """Open the namespace's store; `ids` gives a new random id at each call. A SQLite file is created and brought up to date.

    Raises InvalidStore, SchemaMismatch, Unavailable.
    """
    location = parse(url)
    check_namespace(namespace)
    if location.kind == "sqlite":
        from luigi_spanner.stores import sqlite

        make_state_directory(location.place)
        return await sqlite.open(location.place, namespace)
    if location.kind == "spanner":
        # Imported here: the client library takes a second to load, which no one else should wait for.
        from luigi_spanner.stores import spanner

        return await spanner.open(location.place, namespace, ids)
    from luigi_spanner.stores import memory

    return memory.open(location.place, namespace)


def check_namespace(namespace: str) -> None:
    """Raise InvalidStore unless `namespace` is 1 to 128 letters, digits, dots, dashes and underscores (ASCII)."""
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidStore(
            f"A namespace is 1 to {NAMESPACE_CHARACTERS} letters, digits, dots, dashes or underscores, not {namespace!r}."
        )


def default_url(environ: Mapping[str, str] = os.environ) -> str:
    """URL of the SQLite file under the user's state directory, as the XDG base directory specification places it."""
    return f"sqlite:///{_default_file(environ)}"


def make_state_directory(path: str, environ: Mapping[str, str] = os.environ) -> None:
    """Create the default file's directory, readable by its owner alone, if `path` is the default file. Raises InvalidStore."""
    if Path(path) != _default_file(environ):
        return
    try:
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidStore(f"Cannot create the state directory {Path(path).parent}: {error.strerror}.") from error


def _default_file(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    # The specification has a relative path ignored.
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "luigi-spanner" / "luigi.db"


def _split(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError) as error:
        raise InvalidStore("A store URL looks like sqlite:///file.db, spanner:///projects/... or memory://.") from error


def _memory(url: URL) -> Location:
    if url.database or url.query or url.username or url.password or url.port:
        raise InvalidStore("A memory store URL is memory:// or memory://NAME and nothing more.")
    return Location(kind="memory", place=url.host or "")


def _sqlite(url: URL) -> Location:
    path = url.database or ":memory:"
    if path == ":memory:":
        raise InvalidStore("A SQLite store needs a file, as in sqlite:///luigi.db; for one that forgets use memory://.")
    if url.query:
        raise InvalidStore("A SQLite store URL is a path and nothing more: it takes no options after a question mark.")
    return Location(kind="sqlite", place=path)


def _spanner(url: URL) -> Location:
    name = url.database or ""
    if url.query or not _SPANNER.fullmatch(name):
        raise InvalidStore("A Spanner store URL is spanner:///projects/PROJECT/instances/INSTANCE/databases/DATABASE.")
    return Location(kind="spanner", place=name)
