"""`export`: the state of a namespace at one moment, for other tools. Columns are those of the tables, `body` is the whole row."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from luigi_spanner._version import __version__
from luigi_spanner.commands import DONE, Impossible, Problem, parsing
from luigi_spanner.commands.output import progress, writing

MANIFEST = "export.json"
"""The file that is written last: with it the export is whole."""

STEP = 1000
"""Rows between two steps of the progress bar, and in one group of a Parquet file's."""


def add(commands: parsing.Parsers) -> None:
    parser = parsing.add_stored(
        commands,
        "export",
        _export,
        "write the state at one moment: a JSON document a line, or one Parquet file a table; rows hold hidden parameters, too",
        "luigi-spanner export --output backup --format parquet",
    )
    parser.add_argument("--output", metavar="DIR", help="a new or empty directory for a file a table (default: all to stdout)")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="of the files (default: jsonl)")


class _Writer(Protocol):
    """Where rows of one table go."""

    def write(self, rows: list[dict[str, Any]]) -> None: ...


def _export(arguments: argparse.Namespace) -> int:
    from luigi_spanner import migrate

    if arguments.format == "parquet":
        _require_parquet(arguments.output)
    store, namespace = parsing.store(arguments), parsing.namespace(arguments)
    migrate.check(store)
    directory = None if arguments.output is None else _empty(Path(arguments.output))
    seq, tables = asyncio.run(_state(store, namespace))
    manifest = {"namespace": namespace, "seq": seq, "release": __version__, "rows": {name: len(tables[name]) for name in tables}}
    if directory is None:
        with writing():
            sys.stdout.write(f"{json.dumps({'table': 'export', **manifest})}\n")
            _write(tables, lambda name, _: _Lines(sys.stdout.write, {"table": name}))
        return DONE
    try:
        _write(tables, lambda name, stack: _opened(arguments.format, directory, name, stack))
        with _created(directory / MANIFEST) as file:
            file.write(f"{json.dumps(manifest, indent=2)}\n".encode())
    except OSError as error:
        raise Impossible(f"Cannot write to {directory}: {error.strerror}") from error
    return DONE


async def _state(url: str, namespace: str) -> tuple[int, dict[str, dict[Any, dict[str, Any]]]]:
    """The head, and the rows by table and key. Nothing of the scheduler runs."""
    from luigi_spanner.stores.location import open_existing
    from luigi_spanner.verify import Report, at_head

    store = await open_existing(url, namespace)
    try:
        snapshot = await store.load()
    finally:
        await store.close()
    report = Report(namespace=namespace)
    rows = at_head(snapshot, report)
    if not report.clean:
        raise Problem(
            f"Namespace {namespace} is damaged, nothing is exported; `luigi-spanner verify` says more: {report.differences[0]}"
        )
    return snapshot.seq, rows.tables


def _write(tables: dict[str, dict[Any, dict[str, Any]]], opening: Callable[[str, ExitStack], _Writer]) -> None:
    with progress("rows", sum(map(len, tables.values()))) as bar:
        for name, rows in tables.items():
            with ExitStack() as stack:
                writer = opening(name, stack)
                records = _records(name, rows)
                while some := list(islice(records, STEP)):
                    writer.write(some)
                    bar.advance(len(some))


def _records(name: str, rows: dict[Any, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows as they lie in the tables: key, typed columns, body."""
    from luigi_spanner.graph.rows import columns_of
    from luigi_spanner.schema import STATE_TABLES, key_columns

    keys = key_columns(STATE_TABLES[name])
    for key, row in rows.items():
        yield {**dict(zip(keys, key, strict=True)), **columns_of(name, row), "body": row}


class _Lines:
    """JSON lines. NaN and Infinity stand bare, as Python writes them."""

    def __init__(self, write: Callable[[str], object], first: dict[str, Any]) -> None:
        self._write = write
        self._first = first

    def write(self, rows: list[dict[str, Any]]) -> None:
        self._write("".join(f"{json.dumps({**self._first, **row}, separators=(',', ':'))}\n" for row in rows))


def _opened(kind: str, directory: Path, name: str, stack: ExitStack) -> _Writer:
    file = stack.enter_context(_created(directory / f"{name}.{kind}"))
    if kind == "jsonl":
        return _Lines(lambda text: file.write(text.encode("ascii")), {})
    return _Parquet(file, name, stack)


def _created(path: Path) -> IO[bytes]:
    """A new file that its owner alone may read: rows hold what is hidden elsewhere."""
    return open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600))


class _Parquet:
    """A Parquet file with the columns of the table; `body` is JSON text."""

    def __init__(self, file: IO[bytes], name: str, stack: ExitStack) -> None:
        import pyarrow
        import pyarrow.parquet
        import sqlalchemy as sa

        from luigi_spanner.schema import STATE_TABLES

        kinds = {sa.Float: pyarrow.float64(), sa.BigInteger: pyarrow.int64(), sa.Boolean: pyarrow.bool_()}
        self._arrow = pyarrow
        self._schema = pyarrow.schema(
            (column.name, kinds.get(type(column.type), pyarrow.string()))
            for column in STATE_TABLES[name].columns
            if column.name != "namespace"
        )
        self._file = stack.enter_context(pyarrow.parquet.ParquetWriter(file, self._schema))

    def write(self, rows: list[dict[str, Any]]) -> None:
        texts = [{**row, "body": json.dumps(row["body"])} for row in rows]
        self._file.write_table(self._arrow.Table.from_pylist(texts, self._schema))


def _require_parquet(output: str | None) -> None:
    if output is None:
        raise Impossible("Parquet goes into files: name a directory with --output")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise Impossible("Parquet needs pyarrow: pip install 'luigi-spanner[parquet]'") from error


def _empty(directory: Path) -> Path:
    """The directory, made if need be. Raises Impossible where it holds anything."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = any(directory.iterdir())
    except OSError as error:
        raise Impossible(f"Cannot use the directory {directory}: {error.strerror}") from error
    if used:
        raise Impossible(f"The directory {directory} is not empty")
    return directory
