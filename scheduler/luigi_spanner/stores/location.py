"""Store URLs: where a store is, and how to open it.

They follow SQLAlchemy: `sqlite:///relative.db`, `sqlite:////absolute.db`,
`spanner:///projects/P/instances/I/databases/D`, `memory://` or `memory://NAME` (shared under that name in the process).
A path's special characters are written as in any URL, `%3F` for a question mark.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from urllib.parse import quote, unquote

from luigi_spanner.stores import InvalidStore, Retried, Store, ignore

NAMESPACE_CHARACTERS = 128
"""Longest name of a namespace: it is part of every key, and of metrics' labels."""

_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#]*)(?P<path>/[^?#]*)?(?P<rest>[?#].*)?")
_NAMESPACE = re.compile(rf"[A-Za-z0-9._-]{{1,{NAMESPACE_CHARACTERS}}}")
_SPANNER = re.compile(r"projects/[^/]+/instances/[^/]+/databases/[^/]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """A parsed store URL. `place` is a file's path, a Spanner database's full name, or a memory store's name ("" for none)."""

    kind: Literal["sqlite", "spanner", "memory"]
    place: str


def parse(url: str) -> Location:
    """The location that `url` names. Raises InvalidStore; its message never repeats a password."""
    parts = _URL.fullmatch(url)
    if parts is None:
        raise InvalidStore("A store URL looks like sqlite:///file.db, spanner:///projects/... or memory://.")
    scheme, host, rest = parts["scheme"], parts["host"], parts["rest"]
    path = unquote(parts["path"] or "")[1:]
    if scheme == "memory":
        return _memory(host, path, rest)
    if scheme not in ("sqlite", "spanner"):
        raise InvalidStore(f"A store URL begins with sqlite, spanner or memory, not with {scheme}.")
    if host:
        raise InvalidStore(f"A {scheme} store URL has three slashes after the colon and no host.")
    return _sqlite(path, rest) if scheme == "sqlite" else _spanner(path, rest)


def sqlite_url(path: str) -> str:
    """The store URL of a SQLite file."""
    return f"sqlite:///{quote(path)}"


def absolute(url: str) -> str:
    """The store URL as it reads in any directory: a relative SQLite file begins in the one where this process is."""
    location = parse(url)
    return sqlite_url(os.path.abspath(location.place)) if location.kind == "sqlite" else url


class _Namespaced(Store, Protocol):
    """What every driver's store can tell besides."""

    async def has_namespace(self) -> bool: ...


async def open_store(url: str, namespace: str, *, ids: Callable[[], str] | None = None, retried: Retried = ignore) -> Store:
    """Open the namespace's store; `ids` gives a new random id at each call, `retried` is told as it says. A SQLite file is
    created and brought up to date.

    Raises InvalidStore, SchemaMismatch, Unavailable.
    """
    location = parse(url)
    check_namespace(namespace)
    if location.kind == "sqlite":
        make_state_directory(location.place)
    return await _open(location, namespace, ids, retried=retried)


async def open_existing(url: str, namespace: str) -> Store:
    """Open the namespace's store as it is: no file, no schema and no namespace is created or changed.

    Raises InvalidStore where there is none of that name, SchemaMismatch, Unavailable.
    """
    # Imported here: the migrations parse URLs by this module.
    from luigi_spanner import migrate

    location = parse(url)
    check_namespace(namespace)
    if location.kind == "sqlite":
        await asyncio.to_thread(migrate.check, url)
    store = await _open(location, namespace, None, prepare=False)
    try:
        if not await store.has_namespace():
            raise InvalidStore(f"The store has no namespace {namespace!r}.")
    except BaseException:
        await store.close()
        raise
    return store


async def _open(
    location: Location, namespace: str, ids: Callable[[], str] | None, *, prepare: bool = True, retried: Retried = ignore
) -> _Namespaced:
    if location.kind == "sqlite":
        from luigi_spanner.stores import sqlite

        return await sqlite.open(location.place, namespace, prepare=prepare, retried=retried)
    if location.kind == "spanner":
        # Imported here: the client library takes a second to load, which no one else should wait for.
        from luigi_spanner.stores import spanner

        return await spanner.open(location.place, namespace, ids, prepare=prepare, retried=retried)
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
    return sqlite_url(str(_default_file(environ)))


def make_state_directory(path: str, environ: Mapping[str, str] = os.environ) -> None:
    """Create the default file's directory and those above it, readable by their owner alone, if `path` is the default file.

    Raises InvalidStore.
    """
    if Path(path) != _default_file(environ):
        return
    try:
        # One by one: what `mkdir(parents=True)` makes on the way is as open as the umask.
        for directory in [*reversed(Path(path).parent.parents), Path(path).parent]:
            if not directory.exists():
                directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InvalidStore(f"Cannot create the state directory {Path(path).parent}: {error.strerror}.") from error


def _default_file(environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME", "")
    # The specification has a relative path ignored.
    base = Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "luigi-spanner" / "luigi.db"


def _memory(name: str, path: str, rest: str | None) -> Location:
    if path or rest or (name and not _NAMESPACE.fullmatch(name)):
        raise InvalidStore("A memory store URL is memory:// or memory://NAME and nothing more.")
    return Location(kind="memory", place=name)


def _sqlite(path: str, rest: str | None) -> Location:
    if "\0" in path:
        raise InvalidStore("A SQLite store URL names no file: a path has no zero byte (%00).")
    if path in ("", ":memory:"):
        raise InvalidStore("A SQLite store needs a file, as in sqlite:///luigi.db; for one that forgets use memory://.")
    if rest:
        raise InvalidStore("A SQLite store URL is a path and nothing more: it takes no options after a question mark.")
    return Location(kind="sqlite", place=path)


def _spanner(name: str, rest: str | None) -> Location:
    if rest or not _SPANNER.fullmatch(name):
        raise InvalidStore("A Spanner store URL is spanner:///projects/PROJECT/instances/INSTANCE/databases/DATABASE.")
    return Location(kind="spanner", place=name)
