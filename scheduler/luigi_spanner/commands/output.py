"""What a command prints: tables and sentences for people, JSON for scripts, progress on long work.

Tables fit the terminal; into a pipe they go as wide as they are, without colour. What comes from tasks and workers is shown with
its control characters spelled out, line breaks too, so that no id can write on the terminal or add a line.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from luigi_spanner.commands import Impossible

NARROWEST = 40
"""Columns below which a table is not squeezed any more."""

PIPE_WIDTH = 100_000
"""Wider than any table: into a pipe nothing is cut or folded."""

_STYLES = {"FAILED": "red", "DISABLED": "red", "DONE": "green", "RUNNING": "cyan", "BATCH_RUNNING": "cyan", "disabled": "red"}


def set_up() -> None:
    """Let stdout take any text, whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def writing() -> Iterator[None]:
    """Write to stdout inside. Raises Impossible, BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up()
        raise Impossible(f"Cannot write to stdout: {error.strerror}") from error


def give_up() -> None:
    """Write no more to stdout: what could not be written Python would try again at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def flush() -> None:
    """See to it that all was printed. Raises Impossible, BrokenPipeError."""
    with writing():
        sys.stdout.flush()


def print_json(value: Any) -> None:
    """One JSON document, in ASCII."""
    with writing():
        print(json.dumps(value, indent=2))


def print_line(value: Any) -> None:
    """One JSON document on one line, at once."""
    with writing():
        print(json.dumps(value, separators=(",", ":")), flush=True)


def say(sentence: str) -> None:
    """A line for people."""
    with writing():
        print(shown(sentence))


def say_lines(text: object) -> None:
    """A text that is meant to have lines, as a traceback; nothing must follow that it could pretend to be."""
    with writing():
        for line in str(text).split("\n"):
            print(shown(line) if line else "")


def say_nothing() -> None:
    """An empty line."""
    with writing():
        print()


def shown(value: object) -> str:
    """A value as text on one line, which no terminal takes for a command."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under headings. A cell that does not fit is folded; a status is coloured."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell), style=_STYLES.get(str(cell), "")) for cell in row))
    console = _console()
    with writing():
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().splitlines():
            print(line.rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    known = list(fields)
    width = max((len(name) for name, _ in known), default=0)
    with writing():
        for name, value in known:
            print(f"{name.ljust(width)}  {shown(value)}")


def _console() -> Any:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, highlight=False, markup=False, emoji=False, safe_box=True)
    if console.width < NARROWEST:
        console.width = NARROWEST
    return console


def counted(number: int, what: str) -> str:
    """So many of what is called `what`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def ago(then: float | None, now: float | None = None) -> str | None:
    """How long ago a time (seconds since the epoch) was, or how long it is until then."""
    if then is None:
        return None
    seconds = (time.time() if now is None else now) - then
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """A length of time in its two largest units at most."""
    for unit, size, below, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit} {rest // small} {below}" if rest // small else f"{whole} {unit}"
    return f"{seconds:.0f} s"


class Progress(Protocol):
    """Long work under way."""

    def advance(self, count: int = 1) -> None:
        """So many steps more are done."""
        ...


class _Silent:
    def advance(self, count: int = 1) -> None: ...


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """A bar on stderr while the block runs, if that is a terminal."""
    if not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total)

        class Bar:
            def advance(self, count: int = 1) -> None:
                bars.advance(task, count)

        yield Bar()
