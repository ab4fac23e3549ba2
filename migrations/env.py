"""Alembic's environment: runs the revisions on the connection that `luigi_spanner.migrate` hands over."""

from __future__ import annotations

from alembic import context
from alembic.ddl.impl import DefaultImpl

from luigi_spanner import schema

SPANNER = "spanner+spanner"


class SpannerImpl(DefaultImpl):
    """Makes the dialect known to Alembic; its DDL belongs to no transaction."""

    __dialect__ = SPANNER
    transactional_ddl = False


def run() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("run migrations with `luigi-spanner db`, or through luigi_spanner.migrate")
    on_spanner = connection.dialect.name == SPANNER
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        # A primary key on the version table would have to be declared outside its columns, which Alembic cannot do.
        version_table_pk=not on_spanner,
    )
    with context.begin_transaction():
        context.run_migrations()


run()
