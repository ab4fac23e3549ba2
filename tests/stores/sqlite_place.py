"""A SQLite file as a place for the exercise."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from exercise import NAMESPACE

from luigi_spanner.stores import Store, sqlite

DEADLINE = 0.3
"""Seconds; long enough for the work of a test, short enough to wait for."""


class SqlitePlace:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self, namespace: str = NAMESPACE, deadline: float = sqlite.DEADLINE) -> sqlite.SqliteStore:
        return await sqlite.open(str(self.path), namespace, deadline=deadline)

    @contextmanager
    def drop_reply(self, store: Store) -> Iterator[None]:
        """SQLite's replies cannot be lost on the way: the writer's lock is kept from the store instead."""
        assert isinstance(store, sqlite.SqliteStore)
        store._deadline, usual = DEADLINE, store._deadline
        with self.locked():
            yield
        store._deadline = usual

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self.connect() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            yield connection
