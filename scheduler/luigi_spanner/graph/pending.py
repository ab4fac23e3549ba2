"""Rows that the tables still owe: changed by an entry, to be written by a later commit (the watermark, I8)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from luigi_spanner.graph.tracker import RowId


class Pending:
    """Row ids with the seq of their first and last change that the tables lack, in order of the first.

    Only single rows are owed, never a whole prefix: writing a row again does no harm, whoever does it and when, while deleting a
    prefix again would take rows along that somebody has written since.
    """

    def __init__(self) -> None:
        self._rows: dict[RowId, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, row_ids: Iterable[RowId], seq: int) -> None:
        """Entry `seq` changed these rows, in this order."""
        rows = self._rows
        for row_id in row_ids:
            known = rows.get(row_id)
            rows[row_id] = (seq if known is None else known[0], seq)

    def oldest(self, limit: int) -> list[RowId]:
        """At most `limit` row ids, those first changed longest ago."""
        return list(islice(self._rows, limit))

    def watermark_without(self, count: int, seq: int) -> int:
        """Up to which seq the tables are complete once the `count` oldest rows are written as of `seq`."""
        rest = next(islice(self._rows.values(), count, None), None)
        return seq if rest is None else rest[0] - 1

    def written(self, count: int) -> None:
        """The `count` oldest rows are in the tables."""
        for row_id in self.oldest(count):
            del self._rows[row_id]

    def complete_to(self, watermark: int, seq: int) -> None:
        """Somebody wrote what the tables owed up to `watermark`; entry `seq` is the newest known."""
        if watermark >= seq:
            self._rows.clear()
            return
        if not self._rows or next(iter(self._rows.values()))[0] > watermark:
            return
        self._rows = {
            row_id: (max(first, watermark + 1), last) for row_id, (first, last) in self._rows.items() if last > watermark
        }

    def copy(self) -> Pending:
        """An independent copy, to be kept only if a commit succeeds."""
        twin = Pending()
        twin._rows = dict(self._rows)
        return twin

    def clear(self) -> None:
        self._rows.clear()
