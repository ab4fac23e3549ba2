"""Spanner's side of a migration: reading the revision, making the emulator's database, and a connection for Alembic."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import google.cloud.spanner_v1 as spanner
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError

from luigi_spanner.stores import InvalidStore, StoreError, Unavailable

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

CALL_SECONDS = 10.0
"""How long one call may take. Without a bound the client retries an unreachable server for many minutes."""

CREATE_SECONDS = 60.0
"""How long the emulator may take to create an instance or a database."""

EMULATOR = "SPANNER_EMULATOR_HOST"
"""Environment variable that sends Google's clients to an emulator."""

_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = ''"
_REVISION = "SELECT version_num FROM alembic_version"
_MIN_COMPATIBLE = "SELECT min_compatible FROM compatibility WHERE id = 1"


def read(name: str) -> tuple[str | None, int | None]:
    """(revision, min_compatible) of the database, None where it has none. Raises InvalidStore, Unavailable."""
    with faults(name), _client(name) as client:
        api = _database(client, name).spanner_api
        session = api.create_session(database=name, timeout=CALL_SECONDS, retry=None)
        try:
            tables = {row[0] for row in _query(api, session.name, _TABLES)}
            revision = _query(api, session.name, _REVISION) if "alembic_version" in tables else []
            compatible = _query(api, session.name, _MIN_COMPATIBLE) if "compatibility" in tables else []
        finally:
            with suppress(exceptions.GoogleAPICallError):
                api.delete_session(name=session.name, timeout=CALL_SECONDS, retry=None)
    return (revision[0][0] if revision else None), (int(compatible[0][0]) if compatible else None)


def create_on_emulator(name: str) -> None:
    """Create the instance and the database where they are missing, if an emulator is named; else do nothing."""
    if not os.environ.get(EMULATOR):
        return
    with faults(name), _client(name) as client:
        _, project, _, instance_id, _, _ = name.split("/")
        config = f"projects/{project}/instanceConfigs/emulator-config"
        instance = client.instance(instance_id, configuration_name=config, node_count=1)
        with suppress(exceptions.AlreadyExists):
            instance.create().result(CREATE_SECONDS)
        with suppress(exceptions.AlreadyExists):
            _database(client, name).create().result(CREATE_SECONDS)


@contextmanager
def connect(name: str) -> Iterator[Connection]:
    """A connection on which each statement stands alone: Spanner's schema changes belong to no transaction."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    with faults(name), _client(name) as client, warnings.catch_warnings():
        # sqlalchemy-spanner calls its driver and SQLAlchemy by old names, and commits what commits by itself.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", "This method is non-operational", UserWarning)
        engine = create_engine(f"spanner+spanner:///{name}", connect_args={"client": client}, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
        except DBAPIError as error:
            # The driver wraps the client's error, and SQLAlchemy the driver's.
            cause = error.orig.__cause__ if error.orig else None
            raise (cause if isinstance(cause, exceptions.GoogleAPICallError) else error) from error


@contextmanager
def faults(name: str) -> Iterator[None]:
    """Turn the client's errors into the store's."""
    try:
        yield
    except (exceptions.GoogleAPICallError, exceptions.RetryError, GoogleAuthError) as error:
        raise _meaning(name, error) from error


def _meaning(name: str, error: Exception) -> StoreError:
    if isinstance(error, exceptions.NotFound):
        return InvalidStore(f"There is no Spanner database {name}: {_remedy(name)}.")
    if isinstance(error, (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError)):
        return InvalidStore(f"Spanner does not let these credentials use {name}: {_text(error)}.")
    if isinstance(error, (exceptions.BadRequest, exceptions.Conflict)):
        return InvalidStore(f"Spanner refuses what was asked of {name}: {_text(error)}.")
    return Unavailable(f"Spanner does not answer for {name}: {_text(error)}.")


def _remedy(name: str) -> str:
    if os.environ.get(EMULATOR):
        return f"run `luigi-spanner db upgrade --store spanner:///{name}`"
    return "create it first, `luigi-spanner db upgrade` only fills it"


def _text(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return " ".join(str(message).split()).rstrip(".")


@contextmanager
def _client(name: str) -> Iterator[Any]:
    client: Any = spanner.Client(project=name.split("/")[1], disable_builtin_metrics=True)
    try:
        yield client
    finally:
        client.close()


def _database(client: Any, name: str) -> Any:
    _, _, _, instance_id, _, database_id = name.split("/")
    return client.instance(instance_id).database(database_id)


def _query(api: Any, session: str, sql: str) -> list[Any]:
    result = api.execute_sql(request={"session": session, "sql": sql}, timeout=CALL_SECONDS, retry=None)
    return list(result.rows)
