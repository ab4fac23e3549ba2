"""The journal, the state tables, and the compatibility mark.

Safe to run again after it was half applied: Spanner has no transaction around schema changes. On Spanner all tables
are made by one schema change, since each costs seconds there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateTable, DDLElement, DropTable

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MIN_COMPATIBLE = 1


def upgrade() -> None:
    present = _present()
    tables = [_text_of(CreateTable(table)) for table in _tables() if table.name not in present]
    _execute(*tables, *_commit_timestamps())
    mark = sa.table("compatibility", sa.column("id", sa.Integer), sa.column("min_compatible", sa.Integer))
    op.execute(mark.delete().where(mark.c.id == 1))
    op.execute(mark.insert().values(id=1, min_compatible=MIN_COMPATIBLE))


def downgrade() -> None:
    present = _present()
    _execute(*[_text_of(DropTable(table)) for table in _tables() if table.name in present])


def _commit_timestamps() -> list[str]:
    """Spanner sets these columns to the time of the commit when asked to."""
    if not _on_spanner():
        return []
    option = "SET OPTIONS (allow_commit_timestamp = true)"
    columns = (("namespaces", "created_at"), ("journal", "committed_at"))
    return [f"ALTER TABLE {table} ALTER COLUMN {column} {option}" for table, column in columns]


def _execute(*statements: str) -> None:
    """Run `statements`; on Spanner as one schema change, which is what its driver makes of one text."""
    if _on_spanner() and statements:
        statements = (";\n".join(statements),)
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _text_of(statement: DDLElement) -> str:
    return str(statement.compile(dialect=op.get_bind().dialect)).strip()


def _on_spanner() -> bool:
    return op.get_bind().dialect.name == "spanner+spanner"


def _present() -> list[str]:
    return sa.inspect(op.get_bind()).get_table_names()


def _tables() -> list[sa.Table]:
    metadata = sa.MetaData()
    return [_table(metadata, name, key, columns) for name, key, columns in _definitions()]


def _table(metadata: sa.MetaData, name: str, key: list[sa.Column[Any]], columns: list[sa.Column[Any]]) -> sa.Table:
    return sa.Table(name, metadata, *key, *columns, sa.PrimaryKeyConstraint(*[column.name for column in key]))


def _definitions() -> Iterable[tuple[str, list[sa.Column[Any]], list[sa.Column[Any]]]]:
    """(name, key columns, other columns) of each table."""
    yield "compatibility", [_number("id")], [sa.Column("min_compatible", sa.Integer, nullable=False)]
    yield "namespaces", [_text("namespace")], [sa.Column("created_at", sa.DateTime(timezone=True))]
    yield "journal", [_text("namespace"), _number("seq", sa.BigInteger)], _journal()
    yield (
        "journal_parts",
        [_text("namespace"), _number("seq", sa.BigInteger), _number("part", sa.BigInteger)],
        [sa.Column("payload", sa.LargeBinary)],
    )
    yield "tasks", [_text("namespace"), _text("task_id")], _task()
    yield "workers", [_text("namespace"), _text("worker_id")], _worker()
    yield "stakeholders", [_text("namespace"), _text("worker_id"), _text("task_id")], [_body()]
    yield (
        "runners",
        [_text("namespace"), _text("worker_id"), _text("task_id")],
        [sa.Column("ordinal", sa.BigInteger), _body()],
    )
    yield (
        "resources",
        [_text("namespace"), _text("name")],
        [sa.Column("total", sa.Float), sa.Column("origin", sa.String(32)), _body()],
    )
    yield (
        "batchers",
        [_text("namespace"), _text("worker_id"), _text("family")],
        [sa.Column("batched_params", sa.Text), sa.Column("max_batch_size", sa.Float), _body()],
    )
    yield (
        "emails",
        [_text("namespace"), _number("ordinal", sa.BigInteger)],
        [sa.Column("kind", sa.String(64)), sa.Column("family", sa.Text), _body()],
    )
    yield "settings", [_text("namespace"), _text("name")], [sa.Column("value", sa.Text), _body()]
    yield "replicas", [_text("namespace"), _text("replica")], _replica()


def _journal() -> list[sa.Column[Any]]:
    return [
        sa.Column("commit_id", sa.String(64)),
        sa.Column("next", sa.String(64)),
        sa.Column("replica", sa.String(256)),
        sa.Column("committed_at", sa.DateTime(timezone=True)),
        sa.Column("clock", sa.Float),
        sa.Column("watermark", sa.BigInteger),
        sa.Column("digest", sa.String(64)),
        sa.Column("turn", sa.Boolean),
        sa.Column("version", sa.BigInteger),
        sa.Column("parts", sa.BigInteger),
        sa.Column("calls", sa.LargeBinary),
        sa.Column("changes", sa.LargeBinary),
    ]


def _task() -> list[sa.Column[Any]]:
    return [
        sa.Column("status", sa.String(32)),
        *_columns(sa.Text, "family", "module", "params"),
        sa.Column("priority", sa.Float),
        *_columns(sa.Text, "deps", "resources", "resources_running", "worker_running", "batch_id"),
        sa.Column("runnable", sa.Boolean),
        *_columns(sa.BigInteger, "claims", "failures"),
        *_columns(sa.Float, "added_at", "updated_at", "running_at", "retry_at", "remove_at", "disabled_at"),
        *_columns(sa.Text, "tracking_url", "status_message"),
        sa.Column("progress", sa.Float),
        *_columns(sa.Text, "error", "message_responses"),
        _body(),
    ]


def _worker() -> list[sa.Column[Any]]:
    return [
        sa.Column("host", sa.Text),
        sa.Column("disabled", sa.Boolean),
        *_columns(sa.Float, "started_at", "last_active_at", "last_get_work_at"),
        *_columns(sa.Text, "info", "messages"),
        _body(),
    ]


def _replica() -> list[sa.Column[Any]]:
    return [
        *_columns(sa.String(64), "rules", "release"),
        *_columns(sa.Float, "started_at", "seen_at"),
        _body(),
    ]


def _columns(kind: Any, *names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, kind) for name in names]


def _text(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.String(8192), nullable=False)


def _number(name: str, kind: Any = sa.Integer) -> sa.Column[Any]:
    # Numbers of rows are ours: without this Spanner would be asked for an identity column.
    return sa.Column(name, kind, nullable=False, autoincrement=False)


def _body() -> sa.Column[Any]:
    return sa.Column("body", sa.LargeBinary)
