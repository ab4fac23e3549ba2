"""The memory store: the exercise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from exercise import NAMESPACE, Exercise

from luigi_spanner.journal import Entry, Row
from luigi_spanner.stores import Outcome, Refused, Store, Unknown
from luigi_spanner.stores.memory import Database, MemoryStore


class LossyStore(MemoryStore):
    """Commits, and may lose the reply."""

    loses_replies = False

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        outcome = await super().commit(seq, entry, rows)
        return Unknown(reason="the reply was lost") if self.loses_replies and not isinstance(outcome, Refused) else outcome


class MemoryPlace:
    def __init__(self) -> None:
        self.database = Database()

    async def open(self, namespace: str = NAMESPACE) -> LossyStore:
        return LossyStore(namespace=namespace, database=self.database)

    @contextmanager
    def drop_reply(self, store: Store) -> Iterator[None]:
        assert isinstance(store, LossyStore)
        store.loses_replies = True
        yield
        store.loses_replies = False


class TestMemory(Exercise):
    @pytest.fixture
    def place(self) -> MemoryPlace:
        return MemoryPlace()
