"""The schema: one SQLAlchemy metadata for every database.

Every key begins with the namespace, so that namespaces share a database and nothing else. A state table's `body`
holds its row in full, in the journal's encoding, and is what replicas load; its other columns are a typed
projection for people's queries, NULL where a value does not fit the type (see docs/adr). Times are seconds since the epoch.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

MIN_COMPATIBLE = 1
"""The schema generation that this release needs at least and at most understands; compare the `compatibility` table (I11)."""

metadata = MetaData()


def _key(name: str) -> Column[str]:
    # Spanner's longest STRING is 2,621,440 characters, but a whole key ends at 8 KiB: KEY_BYTES guards the sum.
    return Column(name, String(8192), nullable=False)


compatibility = Table(
    "compatibility",
    metadata,
    # Without autoincrement=False a lone integer key would be an identity column on Spanner.
    Column("id", Integer, nullable=False, autoincrement=False),
    Column("min_compatible", Integer, nullable=False),
    PrimaryKeyConstraint("id"),
)

namespaces = Table(
    "namespaces",
    metadata,
    _key("namespace"),
    Column("created_at", DateTime(timezone=True)),
    PrimaryKeyConstraint("namespace"),
)

journal = Table(
    "journal",
    metadata,
    _key("namespace"),
    Column("seq", BigInteger, nullable=False),
    Column("commit_id", String(64)),
    Column("next", String(64)),
    Column("replica", String(256)),
    Column("committed_at", DateTime(timezone=True)),
    Column("clock", Float),
    Column("watermark", BigInteger),
    Column("digest", String(64)),
    Column("turn", Boolean),
    Column("version", BigInteger),
    Column("parts", BigInteger),
    Column("calls", LargeBinary),
    Column("changes", LargeBinary),
    PrimaryKeyConstraint("namespace", "seq"),
)

journal_parts = Table(
    "journal_parts",
    metadata,
    _key("namespace"),
    Column("seq", BigInteger, nullable=False),
    Column("part", BigInteger, nullable=False),
    Column("payload", LargeBinary),
    PrimaryKeyConstraint("namespace", "seq", "part"),
)

tasks = Table(
    "tasks",
    metadata,
    _key("namespace"),
    _key("task_id"),
    Column("status", String(32)),
    Column("family", Text),
    Column("module", Text),
    Column("params", Text),
    Column("priority", Float),
    Column("deps", Text),
    Column("resources", Text),
    Column("resources_running", Text),
    Column("worker_running", Text),
    Column("batch_id", Text),
    Column("runnable", Boolean),
    Column("claims", BigInteger),
    Column("failures", BigInteger),
    Column("added_at", Float),
    Column("updated_at", Float),
    Column("running_at", Float),
    Column("retry_at", Float),
    Column("remove_at", Float),
    Column("disabled_at", Float),
    Column("tracking_url", Text),
    Column("status_message", Text),
    Column("progress", Float),
    Column("error", Text),
    Column("message_responses", Text),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "task_id"),
)

workers = Table(
    "workers",
    metadata,
    _key("namespace"),
    _key("worker_id"),
    Column("host", Text),
    Column("disabled", Boolean),
    Column("started_at", Float),
    Column("last_active_at", Float),
    Column("last_get_work_at", Float),
    Column("info", Text),
    Column("messages", Text),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "worker_id"),
)

stakeholders = Table(
    "stakeholders",
    metadata,
    _key("namespace"),
    _key("worker_id"),
    _key("task_id"),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "worker_id", "task_id"),
)

runners = Table(
    "runners",
    metadata,
    _key("namespace"),
    _key("worker_id"),
    _key("task_id"),
    Column("ordinal", BigInteger),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "worker_id", "task_id"),
)

resources = Table(
    "resources",
    metadata,
    _key("namespace"),
    _key("name"),
    Column("total", Float),
    Column("origin", String(32)),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "name"),
)

batchers = Table(
    "batchers",
    metadata,
    _key("namespace"),
    _key("worker_id"),
    _key("family"),
    Column("batched_params", Text),
    Column("max_batch_size", Float),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "worker_id", "family"),
)

emails = Table(
    "emails",
    metadata,
    _key("namespace"),
    Column("ordinal", BigInteger, nullable=False),
    Column("kind", String(64)),
    Column("family", Text),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "ordinal"),
)

settings = Table(
    "settings",
    metadata,
    _key("namespace"),
    _key("name"),
    Column("value", Text),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "name"),
)

replicas = Table(
    "replicas",
    metadata,
    _key("namespace"),
    _key("replica"),
    Column("rules", String(64)),
    Column("release", String(64)),
    Column("started_at", Float),
    Column("seen_at", Float),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "replica"),
)

outbox = Table(
    "outbox",
    metadata,
    _key("namespace"),
    Column("ordinal", BigInteger, nullable=False),
    Column("subject", Text),
    Column("recipients", Text),
    Column("due_at", Float),
    Column("tries", BigInteger),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "ordinal"),
)

history = Table(
    "history",
    metadata,
    _key("namespace"),
    Column("ordinal", BigInteger, nullable=False),
    Column("task_id", String(8192)),
    Column("family", String(256)),
    Column("status", String(32)),
    Column("happened_at", Float),
    Column("run", BigInteger),
    Column("attempt", BigInteger),
    Column("worker", Text),
    Column("host", Text),
    Column("duration", Float),
    Column("params", Text),
    Column("error", Text),
    Column("expires_at", DateTime(timezone=True)),
    Column("body", LargeBinary),
    PrimaryKeyConstraint("namespace", "ordinal"),
    # Every key of Spanner ends at 8 KiB, an index's with the table's own key behind it: KEY_BYTES leaves room for that.
    Index("history_by_task", "namespace", "task_id", "ordinal"),
    Index("history_by_family", "namespace", "family", "ordinal"),
)

STATE_TABLES: dict[str, Table] = {
    table.name: table
    for table in (tasks, workers, stakeholders, runners, resources, batchers, emails, settings, replicas, outbox)
}
"""Tables that hold the state, by name."""

ROW_TABLES: dict[str, Table] = {**STATE_TABLES, history.name: history}
"""Tables whose rows ride along with commits; the others are the journal's and the schema's own. What has happened is no state:
replicas write it and do not load it."""


def key_columns(table: Table) -> list[str]:
    """Names of the table's key columns after the namespace, in key order."""
    return [column.name for column in table.primary_key.columns][1:]
