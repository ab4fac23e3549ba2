"""Rows that the tables still owe: changed by an entry, to be written by a later commit (the watermark, I8)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice, takewhile

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

    def with_new(self, row_ids: Mapping[RowId, None]) -> Iterator[RowId]:
        """The rows owed once `row_ids` have changed too, those first changed longest ago first."""
        yield from self._rows
        yield from (row_id for row_id in row_ids if row_id not in self._rows)

    def watermark_without(self, written: Collection[RowId], row_ids: Mapping[RowId, None], seq: int) -> int:
        """Up to which seq the tables are complete once entry `seq` changed `row_ids` and `written`, the oldest, are in them."""
        rest = next(islice(self._rows.values(), len(written), None), None)
        if rest is not None:
            return rest[0] - 1
        return seq - 1 if any(row_id not in self._rows and row_id not in written for row_id in row_ids) else seq

    def written(self, row_ids: Iterable[RowId]) -> None:
        """These rows are in the tables."""
        for row_id in row_ids:
            del self._rows[row_id]

    def complete_to(self, watermark: int, seq: int) -> None:
        """Somebody wrote what the tables owed up to `watermark`; entry `seq` is the newest known."""
        if watermark >= seq:
            self._rows.clear()
            return
        # They are in order of their first change: what comes after the watermark need not be looked at.
        for row_id, (_, last) in [*takewhile(lambda item: item[1][0] <= watermark, self._rows.items())]:
            if last <= watermark:
                del self._rows[row_id]
            else:
                # Its place stays in order: whatever comes after it was first changed after the watermark, or has this number too.
                self._rows[row_id] = (watermark + 1, last)

    def clear(self) -> None:
        self._rows.clear()
