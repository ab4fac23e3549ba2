"""How an entry lies in the journal, on any database: its first row, and the parts of large payloads.

A payload of up to PART_BYTES is one cell of the journal row. What is beyond lies in `journal_parts`, under the entry's
seq: parts 1, 2, ... continue `changes`, parts -1, -2, ... continue `calls`. The journal row's `parts` counts them both, 0 for
nearly every entry, so that a reader need not look for parts that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luigi_spanner.digest import EMPTY, format_digest
from luigi_spanner.journal import Entry, encode
from luigi_spanner.stores import GENESIS, PART_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Cells:
    """An entry's payloads as they are stored: the journal row's two cells, and (part, payload) for the rest."""

    calls: bytes
    changes: bytes
    parts: list[tuple[int, bytes]]


def genesis() -> Entry:
    """The entry that a namespace is born with: it says nothing, and entry 1 links to it (I9)."""
    nothing = encode([])
    digest = format_digest(EMPTY)
    return Entry(
        seq=GENESIS, commit_id="", replica="", clock=0.0, watermark=GENESIS, digest=digest, calls=nothing, changes=nothing
    )


def split(entry: Entry) -> Cells:
    """`entry`'s payloads cut into cells of at most PART_BYTES."""
    calls, *more_calls = _cut(entry.calls)
    changes, *more_changes = _cut(entry.changes)
    parts = [(part, payload) for part, payload in enumerate(more_changes, 1)]
    parts += [(-part, payload) for part, payload in enumerate(more_calls, 1)]
    return Cells(calls=calls, changes=changes, parts=parts)


def join(calls: bytes, changes: bytes, parts: Iterable[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    """(calls, changes) from the journal row's cells and its parts, in any order."""
    ordered = sorted(parts, key=lambda part: abs(part[0]))
    more_calls = [payload for part, payload in ordered if part < 0]
    more_changes = [payload for part, payload in ordered if part > 0]
    return b"".join([calls, *more_calls]), b"".join([changes, *more_changes])


def _cut(payload: bytes) -> list[bytes]:
    if len(payload) <= PART_BYTES:
        return [payload]
    return [payload[start : start + PART_BYTES] for start in range(0, len(payload), PART_BYTES)]
