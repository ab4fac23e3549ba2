"""The digest of a state: a sum of row digests, so that it follows each change at the cost of what changed (I2).

A task's row counts in two halves, because it changes often and most of it never does: `moving` is what changes while the
task lives, `lasting` what it was added with. So a change of status does not cost an encoding of its dependencies.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from luigi_spanner.journal import Key, canonical

BYTES = 16
MODULUS = 1 << (8 * BYTES)
EMPTY = 0
"""Digest of a state without rows."""

TASKS = "tasks"

LASTING = frozenset(
    {
        "family",
        "module",
        "params",
        "param_visibilities",
        "public_params",
        "hidden_params",
        "deps",
        "resources",
        "retry_policy",
        "time",
        "ordinal",
    }
)
"""Attributes of a task that make its lasting half; all others are moving."""

_RELATIONS = frozenset({"stakeholders", "runners"})


def halves(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(moving, lasting) of a task's row."""
    lasting = {name: value for name, value in row.items() if name in LASTING}
    return {name: value for name, value in row.items() if name not in LASTING}, lasting


def row_digest(table: str, key: Key, row: dict[str, Any]) -> int:
    """Digest of one row, given as JSON values."""
    if table in _RELATIONS:
        return relation_digest(table, str(key[0]), str(key[1]), row.get("ordinal", 0))
    if table != TASKS:
        return text_digest(table, key, canonical(row))
    moving, lasting = halves(row)
    return text_digest("moving", key, canonical(moving)) + text_digest("lasting", key, canonical(lasting))


def text_digest(kind: str, key: Key, text: str) -> int:
    """Digest of a row, or half a row, as canonical JSON; `kind` is its table or which half it is."""
    return _number("\0".join((kind, *map(str, key), text)))


def relation_digest(table: str, worker_id: str, task_id: str, ordinal: int = 0) -> int:
    """Digest of a row of one of the relations between workers and tasks."""
    return _number(f"{table}\0{worker_id}\0{task_id}\0{ordinal}")


def _number(content: str) -> int:
    return int.from_bytes(blake2b(content.encode("ascii", "backslashreplace"), digest_size=BYTES).digest(), "big")


def format_digest(value: int) -> str:
    """`value` as the 32 hexadecimal digits that an entry carries."""
    return f"{value % MODULUS:032x}"
