"""Rows that the tables owe, against a plain account of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from luigi_spanner.graph.pending import Pending
from luigi_spanner.graph.tracker import RowId

ROWS: list[RowId] = [("tasks", (name,)) for name in "abcdefgh"]

entries = st.lists(st.tuples(st.lists(st.sampled_from(ROWS), unique=True), st.integers(0, 12)), max_size=12)
"""Which rows each entry changes, and how far behind it its watermark is."""


@given(entries)
def test_what_is_owed_follows_the_entries_of_others(changes: list[tuple[list[RowId], int]]) -> None:
    pending = Pending()
    changed: dict[RowId, list[int]] = {}
    watermark = 0
    for seq, (rows, behind) in enumerate(changes, start=1):
        watermark = max(watermark, seq - behind)
        pending.add(rows, seq)
        pending.complete_to(watermark, seq)
        for row in rows:
            changed.setdefault(row, []).append(seq)
        owed = {row for row, seqs in changed.items() if seqs[-1] > watermark}
        assert set(pending.with_new({})) == owed
        firsts = [pending._rows[row][0] for row in pending.with_new({})]
        assert firsts == sorted(firsts), "whoever writes the first of them knows up to where the tables are complete"
        assert all(watermark < first <= last == changed[row][-1] for row, (first, last) in pending._rows.items())
