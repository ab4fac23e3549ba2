"""What a store holds, without opening any of its namespaces: people's questions, asked with SQLAlchemy. It writes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from luigi_spanner.schema import STATE_TABLES, journal, namespaces
from luigi_spanner.stores import InvalidStore, sqlite_faults, sqlite_file
from luigi_spanner.stores.location import parse


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """The entries that a journal holds: from the oldest to the head, contiguous."""

    oldest: int
    head: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One namespace: its journal, when it was created and last committed to, and the rows of its tables by table."""

    namespace: str
    span: Span
    created_at: datetime | None
    committed_at: datetime | None
    rows: dict[str, int] = field(default_factory=dict)


def survey(url: str) -> list[Held]:
    """Every namespace of the store, by name. The store has this release's schema. Raises InvalidStore, Unavailable."""
    with _connected(url) as connection:
        created = sa.select(namespaces.c.namespace, namespaces.c.created_at).order_by(namespaces.c.namespace)
        found = [tuple(row) for row in connection.execute(created)]
        return [_held(connection, namespace, created_at) for namespace, created_at in found]


def size(url: str) -> int | None:
    """Bytes of a SQLite file and what lies beside it; None where only a look at everything would tell."""
    location = parse(url)
    if location.kind != "sqlite":
        return None
    found = 0
    for path in (location.place, f"{location.place}-wal"):
        with suppress(FileNotFoundError):
            found += os.path.getsize(path)
    return found


def span(url: str, namespace: str) -> Span:
    """The entries of one namespace's journal. Raises InvalidStore, Unavailable."""
    with _connected(url) as connection:
        return _span(connection, namespace)


def _held(connection: Connection, namespace: str, created_at: datetime | None) -> Held:
    found = _span(connection, namespace)
    last = sa.select(journal.c.committed_at).where(journal.c.namespace == namespace, journal.c.seq == found.head)
    return Held(
        namespace=namespace,
        span=found,
        created_at=created_at,
        committed_at=connection.scalar(last),
        rows={
            name: connection.scalar(sa.select(sa.func.count()).select_from(table).where(table.c.namespace == namespace)) or 0
            for name, table in STATE_TABLES.items()
        },
    )


def _span(connection: Connection, namespace: str) -> Span:
    """Two ends of the key, each found without a look at what is between them."""
    seqs = sa.select(journal.c.seq).where(journal.c.namespace == namespace)
    oldest = connection.scalar(seqs.order_by(journal.c.seq).limit(1))
    head = connection.scalar(seqs.order_by(journal.c.seq.desc()).limit(1))
    if oldest is None or head is None:
        raise InvalidStore(f"The journal of namespace {namespace} is empty: it was deleted by hand.")
    return Span(oldest=oldest, head=head)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    location = parse(url)
    if location.kind == "memory":
        raise InvalidStore("A memory store is gone with its process: there is nothing to look at.")
    if location.kind == "spanner":
        # Imported here: the client takes a second to load.
        from luigi_spanner import migrate_spanner

        with migrate_spanner.connect(location.place) as connection:
            yield connection
        return
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite_file.look(location.place), poolclass=sa.NullPool)
    with sqlite_faults.faults(location.place):
        try:
            with engine.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise (error.orig or error) from error
