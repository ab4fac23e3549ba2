"""Where a store's history is."""

from __future__ import annotations

from luigi_spanner.history import Source
from luigi_spanner.stores import Store
from luigi_spanner.stores.location import parse


def source_of(url: str, namespace: str, store: Store) -> Source:
    """The history beside the open store of that URL. Nothing is connected yet. Raises InvalidStore."""
    location = parse(url)
    if location.kind == "memory":
        from luigi_spanner.history.memory import MemorySource
        from luigi_spanner.stores.memory import MemoryStore

        assert isinstance(store, MemoryStore)
        return MemorySource(store.database, namespace)
    # Imported here: SQLAlchemy takes its time to load, and most replicas keep no history.
    from luigi_spanner.history import sql

    return (sql.sqlite_source if location.kind == "sqlite" else sql.spanner_source)(location.place, namespace)
