"""`journal tail`: what has been committed, as JSON lines, from an entry on and as it comes."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from luigi_spanner.commands import DONE, NotFound, parsing
from luigi_spanner.commands.output import print_line

if TYPE_CHECKING:
    from luigi_spanner.journal import Entry
    from luigi_spanner.stores import Store
    from luigi_spanner.stores.survey import Span

LAST = 10
"""How many entries are shown where none is named, as `tail` does."""

POLL_SECONDS = 0.5
"""How often `--follow` asks for more: stores do not call."""


def add(commands: parsing.Parsers) -> None:
    parser = commands.add_parser("journal", help="look at the journal")
    acts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    tail = parsing.add_stored(
        acts,
        "tail",
        _tail,
        "print entries of the journal, one JSON document a line: who called what, and what that changed, hidden parameters, too",
        "luigi-spanner journal tail --from 1200 --follow",
    )
    tail.add_argument("--from", dest="start", metavar="SEQ", type=int, help=f"the first entry (default: the last {LAST})")
    tail.add_argument("--follow", action="store_true", help="go on with what is committed from now on, until interrupted")


def _tail(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    store, namespace = parsing.store(arguments), parsing.namespace(arguments)
    migrate.check(store)
    try:
        asyncio.run(_print_entries(store, namespace, arguments.start, arguments.follow))
    except KeyboardInterrupt:
        if not arguments.follow:
            raise
        # This is how following ends.
    return DONE


async def _print_entries(url: str, namespace: str, start: int | None, follow: bool) -> None:
    from luigi_spanner.stores.location import open_existing
    from luigi_spanner.stores.survey import span

    store = await open_existing(url, namespace)
    try:
        first = _first(await asyncio.to_thread(span, url, namespace), start)
        async for entry in _entries(store, first, follow):
            print_line(described(entry))
    finally:
        await store.close()


def _first(held: Span, start: int | None) -> int:
    """Seq of the first entry to show. A store reads what comes after an entry that it has, and the oldest has none before it."""
    readable = held.oldest + 1
    if start is None:
        return max(readable, held.head - LAST + 1)
    if start > held.head + 1:
        raise NotFound(f"There is no entry {start}: the journal ends with {held.head}")
    if max(1, start) < readable:
        raise NotFound(f"Entry {start} is truncated; the oldest that can be read is {readable}: --from {readable}")
    return max(1, start)


async def _entries(store: Store, first: int, follow: bool) -> AsyncIterator[Entry]:
    from luigi_spanner.stores import Truncated

    seq = first - 1
    while True:
        try:
            entries = await store.read_after(seq)
        except Truncated:
            raise NotFound(
                f"Entry {seq + 1} was truncated before it was read: have replicas keep more with --journal-keep"
            ) from None
        for entry in entries:
            yield entry
            seq = entry.seq
        if not entries:
            if not follow:
                return
            await asyncio.sleep(POLL_SECONDS)


def described(entry: Entry) -> dict[str, Any]:
    """An entry as it is printed. Times are seconds since the epoch, by the clock of the replica."""
    from luigi_spanner.journal import decode

    names = ("request_id", "principal", "method", "task", "worker", "time")
    return {
        "seq": entry.seq,
        "time": entry.clock,
        "replica": entry.replica,
        "commit_id": entry.commit_id,
        "watermark": None if entry.only_asks else entry.watermark,
        "digest": entry.digest or None,
        "asks_for_turn": entry.turn,
        "calls": [dict(zip(names, call, strict=True)) for call in decode(entry.calls)],
        "changes": [_change(record) for records in decode(entry.changes) for record in records],
    }


def _change(record: list[Any]) -> dict[str, Any]:
    """One change: `put` replaces the row, `merge` sets what it names (null: back to the default), `delete` takes the row, or all
    rows whose key begins so."""
    table, key, row, *whole = record
    what = "delete" if row is None else "put" if whole else "merge"
    return {"table": table, "key": key, "change": what, **({} if row is None else {"row": row})}
