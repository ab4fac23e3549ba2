"""The digest of a state: a sum of row digests, so that it follows each change at the cost of the rows changed (I2)."""

from __future__ import annotations

from hashlib import blake2b

from luigi_spanner.journal import Key, canonical

BYTES = 16
MODULUS = 1 << (8 * BYTES)
EMPTY = 0
"""Digest of a state without rows."""


def row_digest(table: str, key: Key, text: str) -> int:
    """Digest of one row; `text` is the row as canonical JSON."""
    content = f"{table}\0{canonical(key)}\0{text}".encode("ascii", "backslashreplace")
    return int.from_bytes(blake2b(content, digest_size=BYTES).digest(), "big")


def format_digest(value: int) -> str:
    """`value` as the 32 hexadecimal digits that an entry carries."""
    return f"{value:032x}"
