"""What has happened to tasks, and the mail that waits to be sent.

Safe to run again after it was half applied. On Spanner rows of the history are deleted when they expire.
"""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from alembic import op
from sqlalchemy.schema import CreateIndex, CreateTable

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

EXPIRE = "ALTER TABLE history ADD ROW DELETION POLICY (OLDER_THAN(expires_at, INTERVAL 0 DAY))"


def upgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    present = inspector.get_table_names()
    for table in (_outbox(), _history()):
        new = table.name not in present
        indexed = set() if new else {index["name"] for index in inspector.get_indexes(table.name)}
        _execute(
            [
                *([_text_of(CreateTable(table))] if new else []),
                *(_text_of(CreateIndex(index)) for index in _sorted(table) if index.name not in indexed),
            ]
        )
    if _on_spanner() and not _expires():
        _execute([EXPIRE])


def downgrade() -> None:
    inspector = sa.inspect(op.get_bind())
    present = inspector.get_table_names()
    for table in (_outbox(), _history()):
        if table.name in present:
            indexed = {index["name"] for index in inspector.get_indexes(table.name)}
            _execute(
                [
                    *(f"DROP INDEX {name}" for name in sorted(map(str, indexed))),
                    # Not SQLAlchemy's own text, which on Spanner drops the indexes again.
                    f"DROP TABLE {table.name}",
                ]
            )


def _expires() -> bool:
    query = "SELECT row_deletion_policy_expression FROM information_schema.tables WHERE table_name = 'history'"
    return op.get_bind().exec_driver_sql(query).scalar() is not None


def _execute(statements: Iterable[str]) -> None:
    """Run `statements`; on Spanner as one schema change, which is what its driver makes of one text."""
    statements = list(statements)
    if _on_spanner() and statements:
        statements = [";\n".join(statements)]
    for statement in statements:
        op.get_bind().exec_driver_sql(statement)


def _text_of(statement: sa.schema.ExecutableDDLElement) -> str:
    return str(statement.compile(dialect=op.get_bind().dialect)).strip()


def _sorted(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _on_spanner() -> bool:
    return op.get_bind().dialect.name == "spanner+spanner"


def _outbox() -> sa.Table:
    return sa.Table(
        "outbox",
        sa.MetaData(),
        *_key(),
        sa.Column("subject", sa.Text),
        sa.Column("recipients", sa.Text),
        sa.Column("due_at", sa.Float),
        sa.Column("tries", sa.BigInteger),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("namespace", "ordinal"),
    )


def _history() -> sa.Table:
    return sa.Table(
        "history",
        sa.MetaData(),
        *_key(),
        sa.Column("task_id", sa.String(8192)),
        sa.Column("family", sa.String(256)),
        sa.Column("status", sa.String(32)),
        sa.Column("happened_at", sa.Float),
        sa.Column("run", sa.BigInteger),
        sa.Column("attempt", sa.BigInteger),
        sa.Column("worker", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("duration", sa.Float),
        sa.Column("params", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.Column("body", sa.LargeBinary),
        sa.PrimaryKeyConstraint("namespace", "ordinal"),
        sa.Index("history_by_task", "namespace", "task_id", "ordinal"),
        sa.Index("history_by_family", "namespace", "family", "ordinal"),
    )


def _key() -> tuple[sa.Column[str], sa.Column[int]]:
    # Ordinals are ours: without this Spanner would be asked for an identity column.
    return (
        sa.Column("namespace", sa.String(8192), nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, autoincrement=False),
    )
