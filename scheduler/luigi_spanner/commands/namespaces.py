"""`namespaces`: what a store holds."""

from __future__ import annotations

import argparse
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from luigi_spanner.commands import DONE, parsing
from luigi_spanner.commands.output import counted, print_json, print_table, say
from luigi_spanner.config import STORE

if TYPE_CHECKING:
    from luigi_spanner.stores.survey import Held


def add(commands: parsing.Parsers) -> None:
    parser = parsing.add_parser(
        commands,
        "namespaces",
        _namespaces,
        "list the namespaces of a store, with the head of each journal and the number of rows",
        "luigi-spanner namespaces --store sqlite:///luigi.db",
    )
    parsing.add_setting(parser, STORE)
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _namespaces(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate
    from luigi_spanner.stores.survey import size, survey

    store = parsing.store(arguments)
    migrate.check(store)
    held, found = survey(store), size(store)
    if arguments.json:
        print_json({"namespaces": [_described(namespace) for namespace in held], "bytes": found})
        return DONE
    if held:
        print_table(("namespace", "head", "entries", "tasks", "workers", "rows", "last commit"), map(_row, held))
    say(counted(len(held), "namespace") + ("" if found is None else f" in {found / 1e6:.1f} MB"))
    return DONE


def _described(held: Held) -> dict[str, Any]:
    return {
        "namespace": held.namespace,
        "head": held.span.head,
        "oldest": held.span.oldest,
        "entries": held.span.head - held.span.oldest,
        "rows": held.rows,
        "created_at": _seconds(held.created_at),
        "committed_at": _seconds(held.committed_at),
    }


def _row(held: Held) -> tuple[object, ...]:
    committed = None if held.committed_at is None else f"{held.committed_at:%Y-%m-%d %H:%M:%S} UTC"
    entries = held.span.head - held.span.oldest
    return held.namespace, held.span.head, entries, held.rows["tasks"], held.rows["workers"], sum(held.rows.values()), committed


def _seconds(time: datetime | None) -> float | None:
    """Seconds since the epoch; a time without a zone, as SQLite keeps it, is UTC."""
    if time is None:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
