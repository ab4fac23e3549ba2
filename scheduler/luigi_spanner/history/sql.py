"""The history in a database, by SQLAlchemy: these are people's questions, and no call waits for them."""

from __future__ import annotations

import time
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from luigi_spanner.history import READ_SECONDS, Change, Reading, Wanted, change_in
from luigi_spanner.schema import history
from luigi_spanner.stores import Unavailable, sqlite_file

STEPS = 100_000
"""After how many of its steps, some milliseconds, SQLite asks whether its time is over."""

_later = history.alias("later")


class SqlSource:
    """The table of one namespace. `expires`: rows that have expired are deleted here, not by the database. `body` makes bytes of
    what the driver gives for them, and `faults` are its errors besides SQLAlchemy's."""

    def __init__(
        self,
        engine: Engine,
        namespace: str,
        *,
        expires: bool,
        body: Callable[[Any], bytes] = bytes,
        close: Callable[[], object] = lambda: None,
        faults: tuple[type[Exception], ...] = (),
    ) -> None:
        self.reading = Reading()
        self._engine = engine
        self._namespace = namespace
        self.expires = expires
        self._body = body
        self._close = close
        self._faults: tuple[type[Exception], ...] = (sa.exc.SQLAlchemyError, *faults)

    def latest(self, wanted: Wanted) -> list[Change]:
        # The index by task finds what came later in the same run.
        goes_on = sa.exists().where(
            _later.c.namespace == history.c.namespace,
            _later.c.task_id == history.c.task_id,
            _later.c.run == history.c.run,
            _later.c.ordinal > history.c.ordinal,
        )
        query = self._rows().where(~goes_on)
        for column, value in ((history.c.task_id, wanted.task_id), (history.c.family, wanted.family)):
            if value is not None:
                query = query.where(column == value)
        if wanted.before is not None:
            query = query.where(history.c.ordinal < wanted.before)
        return self._changes(query.order_by(history.c.ordinal.desc()).limit(wanted.limit))

    def changes(self, task_id: str, run: int) -> list[Change]:
        query = self._rows().where(history.c.task_id == task_id, history.c.run == run)
        return self._changes(query.order_by(history.c.ordinal))

    def change(self, number: int) -> Change | None:
        return next(iter(self._changes(self._rows().where(history.c.ordinal == number))), None)

    def some(self, numbers: Sequence[int]) -> dict[int, Change]:
        return {change.id: change for change in self._changes(self._rows().where(history.c.ordinal.in_(numbers)))}

    def families(self) -> list[str]:
        query = sa.select(history.c.family).distinct().where(history.c.namespace == self._namespace)
        with self._connected() as connection:
            return sorted(family for family in connection.scalars(query) if family is not None)

    def bodies(self, first: int, last: int) -> dict[int, bytes]:
        query = self._rows().where(history.c.ordinal.between(first, last))
        with self._connected() as connection:
            return {row.ordinal: self._body(row.body) for row in connection.execute(query)}

    def expire(self, before: float, limit: int) -> int:
        own = history.c.namespace == self._namespace
        oldest = sa.select(history.c.ordinal).where(own).order_by(history.c.ordinal).limit(limit)
        delete = sa.delete(history).where(own, history.c.ordinal.in_(oldest), history.c.happened_at < before)
        with self._connected() as connection:
            return connection.execute(delete).rowcount

    def close(self) -> None:
        self.reading.close()
        self._engine.dispose()
        self._close()

    def _rows(self) -> sa.Select[tuple[int, bytes]]:
        return sa.select(history.c.ordinal, history.c.body).where(history.c.namespace == self._namespace)

    def _changes(self, query: sa.Select[tuple[int, bytes]]) -> list[Change]:
        with self._connected() as connection:
            return [change_in(row.ordinal, self._body(row.body)) for row in connection.execute(query)]

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except self._faults as error:
            # Whatever it is, the next look may find it mended; replicas say at their start what is wrong for good.
            raise Unavailable(f"the history cannot be read: {type(error).__name__}") from error


def sqlite_source(path: str, namespace: str) -> SqlSource:
    """The history in a SQLite file that has the schema."""

    def connect() -> Any:
        connection = sqlite_file.look(path)
        sqlite_file.wait_for_locks(connection, sqlite_file.OPEN_SECONDS)
        end = time.monotonic() + READ_SECONDS
        connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    return SqlSource(engine, namespace, expires=True)


def spanner_source(name: str, namespace: str) -> SqlSource:
    """The history in a Spanner database, which deletes expired rows by itself (within 72 hours, its documentation says)."""
    from google.api_core.exceptions import GoogleAPICallError

    from luigi_spanner import migrate_spanner

    client = migrate_spanner.make_client(name)
    engine = sa.create_engine(f"spanner+spanner:///{name}", connect_args={"client": client}, pool_size=1, max_overflow=3)
    # The driver leaves bytes as they came, in base64.
    reading = engine.execution_options(read_only=True)
    return SqlSource(reading, namespace, expires=False, body=a2b_base64, close=client.close, faults=(GoogleAPICallError,))
