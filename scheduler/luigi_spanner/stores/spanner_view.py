"""Reads of one namespace, all at one timestamp or each a strong one of its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from google.cloud.spanner_v1 import types
from sqlalchemy import Table

from luigi_spanner import schema
from luigi_spanner.journal import Entry, Key
from luigi_spanner.stores import PART_BYTES, Truncated, spanner_values
from luigi_spanner.stores.spanner_wire import BYTES_PER_SECOND, TAG, Attempt, Wire

LOAD_TIMEOUT = 30.0
"""Seconds for one message of a load: the emulator sends a table's first row when it has prepared the last."""

_HEAD = "SELECT seq, watermark FROM journal WHERE namespace = @namespace AND digest != '' ORDER BY seq DESC LIMIT 1"

# The payload's cells follow it.
_PARTS = spanner_values.JOURNAL_COLUMNS.index("parts")


def strong() -> Any:
    """Selects, for each read, the present: it sees every commit acknowledged before the read began."""
    selector = types.TransactionSelector.pb()()
    selector.single_use.read_only.strong = True
    return selector


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What `namespace` holds `at` the selected time, as far as it can be read within the times of `attempt`.

    Every method raises Fault.
    """

    wire: Wire
    namespace: str
    attempt: Attempt
    at: Any = field(default_factory=strong)

    async def frozen(self) -> View:
        """A view of the present in which time stands still, and which waits longer: it is for reading whole tables."""
        request = types.BeginTransactionRequest.pb()(session=self.attempt.session)
        request.options.read_only.strong = True
        request.request_options.request_tag = TAG.format("load")
        begun = await self.wire.call("BeginTransaction", request, types.Transaction.pb(), self.attempt.timeout)
        selector = types.TransactionSelector.pb()(id=begun.id)
        return replace(self, at=selector, attempt=replace(self.attempt, timeout=max(self.attempt.timeout, LOAD_TIMEOUT)))

    async def exists(self) -> bool:
        """Whether the namespace has been created."""
        return bool([row async for row in self._rows(schema.namespaces, ["namespace"])])

    async def head(self) -> tuple[int, int] | None:
        """(seq, watermark) of the newest entry that says where the tables stand, None without a journal."""
        request = types.ExecuteSqlRequest.pb()(sql=_HEAD, transaction=self.at)
        request.params["namespace"] = self.namespace
        request.param_types["namespace"].code = int(types.TypeCode.STRING)
        async for seq, watermark in self._stream("ExecuteStreamingSql", request):
            return seq, watermark
        return None

    async def table(self, table: Table) -> list[tuple[Key, bytes]]:
        """The state table's rows as (key, body)."""
        columns = [*schema.key_columns(table), "body"]
        return [(tuple(row[:-1]), row[-1]) async for row in self._rows(table, columns)]

    async def seqs(self, first: int, limit: int) -> list[int]:
        """Up to `limit` numbers of entries from `first` on, without what the entries hold."""
        return [row[0] async for row in self._rows(schema.journal, ["seq"], (first,), limit=limit)]

    async def entries(
        self, first: int, *, limit: int = 0, room: float = math.inf, enough: float = math.inf, known: int | None = None
    ) -> list[Entry]:
        """Entries from `first` on: up to `limit` (0: all) and `room` bytes of payload, and those that have come by `enough` on
        the event loop's clock, but one in any case.

        Of entry `known` only the first cells are fetched, and they do not count. Raises Truncated.
        """
        rows = await self._first_cells(first, limit, room, enough, known)
        # Only now: the emulator lets a transaction's second read wait until its first one has been taken in full.
        patient = self._patient(sum(row[_PARTS] for row in rows if row[0] != known))
        return [spanner_values.entry_of(row, await patient._parts(row[0], row[_PARTS], known)) for row in rows]

    async def _first_cells(self, first: int, limit: int, room: float, enough: float, known: int | None) -> list[list[Any]]:
        now = asyncio.get_running_loop().time
        found: list[list[Any]] = []
        counted = 0
        async with aclosing(self._rows(schema.journal, spanner_values.JOURNAL_COLUMNS, (first,), limit=limit)) as rows:
            async for row in rows:
                seq, parts, calls, changes = row[0], row[_PARTS], row[_PARTS + 1], row[_PARTS + 2]
                if seq != known:
                    room -= len(calls) + len(changes) + parts * PART_BYTES
                    counted += 1
                if counted > 1 and (room < 0 or now() > enough):
                    break
                found.append(row)
        return found

    async def column(self, table: str, column: str) -> list[Any]:
        """One column of a table that belongs to no namespace."""
        request = _read_request(self.at, table, [column])
        request.key_set.all_ = True
        return [row[0] async for row in self._stream("StreamingRead", request)]

    async def _parts(self, seq: int, count: int, known: int | None) -> list[tuple[int, bytes]]:
        if count == 0 or seq == known:
            return []
        rows = self._rows(schema.journal_parts, ["part", "payload"], (seq,), (seq,))
        parts = [(part, payload) async for part, payload in rows]
        if len(parts) != count:
            raise Truncated(f"Entry {seq} of namespace {self.namespace} was truncated while it was read.")
        return parts

    def _patient(self, parts: int) -> View:
        """The same view with the time that so many parts take."""
        more = parts * PART_BYTES / BYTES_PER_SECOND
        return replace(self, attempt=replace(self.attempt, timeout=self.attempt.timeout + more, until=self.attempt.until + more))

    def _rows(
        self, table: Table, columns: Sequence[str], first: Key = (), last: Key = (), *, limit: int = 0
    ) -> AsyncGenerator[list[Any], None]:
        request = _read_request(self.at, table.name, columns, limit)
        spanner_values.put_keys(request.key_set, table, self.namespace, first, last)
        return self._stream("StreamingRead", request)

    async def _stream(self, method: str, request: Any) -> AsyncGenerator[list[Any], None]:
        request.session = self.attempt.session
        request.request_options.request_tag = TAG.format("read")
        results = self.wire.stream(method, request, self.attempt)
        async with aclosing(results), aclosing(spanner_values.rows_of(results)) as rows:
            async for row in rows:
                yield row


def _read_request(at: Any, table: str, columns: Sequence[str], limit: int = 0) -> Any:
    return types.ReadRequest.pb()(table=table, columns=columns, limit=limit, transaction=at)
