"""Spanner's side of a migration: reading the revision, making the emulator's database, and a connection for Alembic."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import google.cloud.spanner_v1 as spanner
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError

from luigi_spanner.migrate import VERSIONS, Found
from luigi_spanner.stores import InvalidStore, StoreError, Unavailable, spanner_sentences

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

CALL_SECONDS = 5.0
"""How long one call may take, as a replica's does. Without a bound the client retries an unreachable server for many minutes."""

CREATE_SECONDS = 60.0
"""How long the emulator may take to create an instance or a database."""

_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = ''"
_REVISION = "SELECT version_num FROM alembic_version"
_MIN_COMPATIBLE = "SELECT min_compatible FROM compatibility WHERE id = 1"


def read(name: str) -> Found:
    """What the database has. Raises InvalidStore, Unavailable."""
    with faults(name), _client(name) as client:
        api = _database(client, name).spanner_api
        session = api.create_session(database=name, timeout=CALL_SECONDS, retry=None)
        try:
            tables = frozenset(row[0] for row in _query(api, session.name, _TABLES))
            revision = _query(api, session.name, _REVISION) if VERSIONS in tables else []
            compatible = _query(api, session.name, _MIN_COMPATIBLE) if "compatibility" in tables else []
        finally:
            with suppress(exceptions.GoogleAPICallError):
                api.delete_session(name=session.name, timeout=CALL_SECONDS, retry=None)
    return Found(
        revision=revision[0][0] if revision else None,
        min_compatible=int(compatible[0][0]) if compatible else None,
        tables=tables,
    )


def create_on_emulator(name: str) -> None:
    """Create the instance and the database where they are missing, if an emulator is named; else do nothing."""
    if not spanner_sentences.emulator():
        return
    with faults(name), _client(name) as client:
        _, project, _, instance_id, _, _ = name.split("/")
        config = f"projects/{project}/instanceConfigs/emulator-config"
        instance = client.instance(instance_id, configuration_name=config, node_count=1)
        with suppress(exceptions.NotFound):  # the calls that create take no bound, so whether anybody answers is seen here
            client.instance_admin_api.get_instance(name=instance.name, timeout=CALL_SECONDS, retry=None)
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
    reason = str(getattr(error, "message", None) or error)
    if isinstance(error, exceptions.NotFound):
        return InvalidStore(spanner_sentences.missing(name))
    if isinstance(error, DefaultCredentialsError):
        return InvalidStore(spanner_sentences.credentials(error))
    if isinstance(error, (exceptions.Forbidden, exceptions.Unauthorized, GoogleAuthError)):
        return InvalidStore(spanner_sentences.barred(name, reason))
    if isinstance(error, (exceptions.BadRequest, exceptions.Conflict)):
        return InvalidStore(spanner_sentences.refused(name, reason))
    return Unavailable(spanner_sentences.silent(name, reason))


def make_client(name: str) -> Any:
    """A client for the database's project; whoever has it closes it."""
    spanner_sentences.emulator()  # the client takes whatever the variable says
    return spanner.Client(project=name.split("/")[1], disable_builtin_metrics=True)


@contextmanager
def _client(name: str) -> Iterator[Any]:
    client = make_client(name)
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
