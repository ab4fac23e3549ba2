"""What has happened to tasks: a row for each change of status, part of the entry that makes the change (I5).

The rows are no state: nothing is decided by them. A replica keeps them until the table has them, then they are the table's alone.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from datetime import datetime, timezone
from itertools import takewhile
from typing import Any

from luigi.task_status import BATCH_RUNNING, DISABLED, FAILED, PENDING, RUNNING, UNKNOWN

from luigi_spanner.graph.containers import Table
from luigi_spanner.graph.task import Task
from luigi_spanner.graph.tracker import ORDINALS_PER_SEQ, Tracker
from luigi_spanner.graph.worker import Worker
from luigi_spanner.journal import Key, canonical, compact

HISTORY = "history"

ERROR_CHARACTERS = 1000
"""How much of the explanation of a failure a row keeps: its end, where a traceback says what was raised."""

ROW_CHARACTERS = 4 * 1024
"""A row that is longer than this, as JSON, leaves out the parameters: one prune may begin 5,000 runs, all in one entry."""

FAMILY_CHARACTERS = 256
"""How much of a family a row keeps; the schema's column is as long."""

NAME_CHARACTERS = 512
"""How much of a worker's id and of a host's name a row keeps; Luigi's own ids have some 100."""

_RUNS = (RUNNING, BATCH_RUNNING)
_ENDS_BADLY = (FAILED, DISABLED)

_LAST_INSTANT = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()
"""The last day of both databases' calendar."""


class NotedRow(dict[str, Any]):
    """A row that this replica has noted. `text` is it as canonical JSON, once encoded for the entry: for the table it need not be
    again. The row carries it, since a number that came to nothing is given to another row."""

    __slots__ = ("text",)

    text: str


class History(Table):
    """The rows that the table does not have yet, by ordinal, so in order of time.

    `records`: whether what happens is written down. `keep` is for how many seconds that is kept, `math.inf` for ever, also of
    what other replicas have written down. `caller` is the worker whose call about a task runs, and `explanation` what it says
    of a failure.
    """

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(tracker, HISTORY)
        self.records = False
        self.keep = math.inf
        self.caller: Any = None
        self.explanation: Any = None

    def note(self, task: Task, before: str, worker_id: Any, host: str | None, now: float) -> None:
        """The task had the status `before`, and has another one now. `worker_id`, on `host`, has to do with it, where known."""
        if not self.records or task.status == UNKNOWN:
            return
        ordinal = self._tracker.ordinal()
        if task.run is None or (task.status == PENDING and before not in _RUNS):
            task.run = ordinal
        row = NotedRow(
            task_id=task.id,
            family=str(task.family or "")[:FAMILY_CHARACTERS],
            status=task.status,
            happened_at=now,
            run=task.run,
            attempt=task.claims,
        )
        if task.run == ordinal and task.public_params:
            row["params"] = task.public_params
        if isinstance(worker_id, str):
            row["worker"] = worker_id[:NAME_CHARACTERS]
        if host is not None:
            row["host"] = host[:NAME_CHARACTERS]
        if before in _RUNS and isinstance(task.time_running, (int, float)):
            row["duration"] = max(0.0, now - task.time_running)
        if task.status in _ENDS_BADLY and self.explanation:
            # Not the task's own, which may be of an earlier attempt.
            row["error"] = brief(self.explanation)
        self.put((ordinal,), row)

    def shorten(self, key: Key) -> dict[str, Any]:
        """The row without its parameters, which are too long for it."""
        row = NotedRow((name, value) for name, value in self[key].items() if name != "params")
        dict.__setitem__(self, key, row)
        return row

    def keep_text(self, key: Key, text: str) -> None:
        """The row is this as canonical JSON."""
        row = self[key]
        if isinstance(row, NotedRow):
            row.text = text

    def text(self, key: Key) -> str:
        """The row as canonical JSON."""
        row = self[key]
        text: str | None = getattr(row, "text", None)
        return canonical(row) if text is None else text

    def forget(self, watermark: int) -> None:
        """The table has what entries up to `watermark` have written down."""
        last = (watermark + 1) * ORDINALS_PER_SEQ
        for key in [*takewhile(lambda key: key < (last,), self)]:
            del self[key]

    def expiry(self, row: dict[str, Any]) -> str | None:
        """When the row may be deleted, as RFC 3339 writes it; None: never."""
        if not math.isfinite(self.keep):
            return None
        return moment(row["happened_at"] + self.keep)


def moment(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC, as both databases order it."""
    at = datetime.fromtimestamp(min(max(seconds, 0.0), _LAST_INSTANT), timezone.utc)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def host_of(worker: Worker | None) -> str | None:
    """Where the worker runs, as far as it has said so."""
    if worker is None:
        return None
    reference = worker.reference if isinstance(worker.reference, dict) else {}
    host = reference.get("host") or worker.info.get("host")
    return host if isinstance(host, str) else None


def brief(explanation: Any) -> str:
    """The end of the explanation of a failure. Workers send a traceback as JSON."""
    text = explanation if isinstance(explanation, str) else compact(explanation)
    if text.startswith('"'):
        with suppress(ValueError, RecursionError):
            text = str(json.loads(text))
    return text[-ERROR_CHARACTERS:]
