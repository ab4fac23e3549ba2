"""The state as rows: what of it is written down, and how rows become state again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luigi_spanner.digest import TASKS
from luigi_spanner.graph import task as tasks
from luigi_spanner.graph import worker as workers
from luigi_spanner.graph.history import HISTORY
from luigi_spanner.graph.outbox import OUTBOX
from luigi_spanner.graph.relations import RUNNERS, STAKEHOLDERS
from luigi_spanner.graph.state import State
from luigi_spanner.graph.task import merge_task
from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.graph.worker import WORKERS, encode_worker, merge_worker
from luigi_spanner.journal import Key, compact
from luigi_spanner.stores import CELL_BYTES

RESOURCES = "resources"

KEY_LENGTHS = {
    TASKS: 1,
    WORKERS: 1,
    STAKEHOLDERS: 2,
    RUNNERS: 2,
    RESOURCES: 1,
    "batchers": 2,
    "emails": 1,
    OUTBOX: 1,
    "settings": 1,
    "replicas": 1,
    HISTORY: 1,
}
"""Tables in the order in which they load, and the length of their keys; a shorter key is a prefix. The history is not loaded."""

_FOUNDLING = {"retry_policy": [0, 0, 0], "status": "UNKNOWN", "ordinal": 0, "status_ordinal": 0}
"""What a task has to have that is merged into and not there: the tables are ahead of the entry, which deletes it later."""

Record = list[Any]
"""One change: [table, key, attributes] sets what it names (null: back to the default), [table, key, row, 1] replaces the
row, [table, key, null] deletes the row or every row with that prefix."""


def row_of(state: State, resources: Resources, table: str, key: Key) -> dict[str, Any] | None:
    """The row as it stands in memory, None if there is none. Not for tasks, whose rows have two halves."""
    if table == WORKERS:
        worker = state.find_worker(str(key[0]))
        return None if worker is None else encode_worker(worker)
    if table in (STAKEHOLDERS, RUNNERS):
        return _relation_of(state, table, str(key[0]), str(key[1]))
    if table == RESOURCES:
        return resources.row(str(key[0]))
    simple: dict[Key, dict[str, Any]] = getattr(state, table)
    return simple.get(key)


def _relation_of(state: State, table: str, worker_id: str, task_id: str) -> dict[str, Any] | None:
    task = state.get_task(task_id)
    if task is None:
        return None
    if table == STAKEHOLDERS:
        return {} if worker_id in task.stakeholders else None
    return {"ordinal": task.workers.ordinal(worker_id)} if worker_id in task.workers else None


def apply_record(state: State, resources: Resources, record: Record) -> None:
    """Bring memory to what a record of the journal says. Tracked like any change."""
    table, key, row = record[0], tuple(record[1]), record[2]
    whole = len(record) > 3
    if row is None:
        # Also where memory lacks it already: the tables may have it.
        _touch_deleted(state.tracker, table, key)
    if table == TASKS:
        _apply_task(state, key[0], row, whole)
    elif table == WORKERS:
        _apply_worker(state, key[0], row, whole)
    elif table == STAKEHOLDERS:
        _apply_stakeholder(state, key, row)
    elif table == RUNNERS:
        _apply_runner(state, key, row)
    elif table == RESOURCES:
        resources.put(key[0], row)
    elif row is None:
        getattr(state, table).remove(key)
    else:
        getattr(state, table).put(key, row)


def _touch_deleted(tracker: Tracker, table: str, key: Key) -> None:
    if len(key) < KEY_LENGTHS[table]:
        tracker.touch_prefix(table, key, ())
    else:
        tracker.touch_whole(table, key)


def _apply_task(state: State, task_id: str, row: dict[str, Any] | None, whole: bool) -> None:
    task = state.get_task(task_id)
    if row is None:
        if task is not None:
            state.inactivate_tasks([task_id])
    elif task is None:
        # Also a merge, when rows ahead of the watermark were loaded: a later entry deletes the task again.
        state.put_task(task_id, {**_FOUNDLING, **row})
    else:
        merged = {**dict.fromkeys(tasks.ATTRIBUTES), **row} if whole else row
        state.move_task(task, lambda: merge_task(task, merged))
        if "ordinal" in row:
            state.rank_task(task)


def _apply_worker(state: State, worker_id: str, row: dict[str, Any] | None, whole: bool) -> None:
    worker = state.find_worker(worker_id)
    if row is None:
        if worker is not None:
            state.inactivate_workers([worker_id])
    elif worker is None:
        state.put_worker(worker_id, row)
    else:
        merge_worker(worker, {**dict.fromkeys((*workers.ATTRIBUTES, *workers.SOFT)), **row} if whole else row)
        if "ordinal" in row:
            state.rank_worker(worker)


def _apply_stakeholder(state: State, key: Key, row: dict[str, Any] | None) -> None:
    if len(key) == 1:
        state.withdraw_stakes(str(key[0]))
        return
    task = state.get_task(str(key[1]))
    if task is None:
        return
    if row is None:
        task.stakeholders.discard(key[0])
    else:
        task.stakeholders.add(key[0])


def _apply_runner(state: State, key: Key, row: dict[str, Any] | None) -> None:
    worker_id = str(key[0])
    if len(key) == 1:
        state.withdraw_runner(worker_id)
        return
    task = state.get_task(str(key[1]))
    if task is None:
        return
    task.workers.discard(worker_id)
    if row is not None:
        state.tracker.log(task.workers.drop, worker_id)
        state.tracker.touch_whole(RUNNERS, (worker_id, task.id))
        task.workers.put(worker_id, row["ordinal"])


class Resources(dict[str, Any]):
    """Resource limits by name. `origins` tells whether a limit comes from a configuration file or from the API (I12)."""

    CONFIG = "config"
    API = "api"

    def __init__(self, state: State) -> None:
        super().__init__()
        self._state = state
        self.origins: dict[str, str] = {}

    def row(self, name: str) -> dict[str, Any] | None:
        return {"total": self[name], "origin": self.origins[name]} if name in self else None

    def put(self, name: str, row: dict[str, Any] | None) -> None:
        """Set or (None) remove a limit with its origin."""
        if self.row(name) == row and (row is None or type(row["total"]) is type(self[name])):
            return
        self._state.tracker.log(self._put_back, name, self.row(name))
        self._state.tracker.touch_whole(RESOURCES, (name,))
        self._put_back(name, row)

    def _put_back(self, name: str, row: dict[str, Any] | None) -> None:
        if row is None:
            dict.pop(self, name, None)
            self.origins.pop(name, None)
        else:
            dict.__setitem__(self, name, row["total"])
            self.origins[name] = row["origin"]
        self._state.index.ready.reopen(name)

    def __setitem__(self, name: str, total: Any) -> None:
        self.put(name, {"total": total, "origin": self.API})

    def update(self, *args: Any, **kwargs: Any) -> None:
        for name, total in dict(*args, **kwargs).items():
            self[name] = total

    def configure(self, limits: dict[str, Any]) -> None:
        """Limits as a configuration file says: they replace earlier files', and yield to the API's."""
        for name in [name for name, origin in self.origins.items() if origin == self.CONFIG and name not in limits]:
            self.put(name, None)
        for name, total in limits.items():
            if self.origins.get(name) != self.API:
                self.put(name, {"total": total, "origin": self.CONFIG})

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


# The typed projection of a row, for people's queries

TEXT_LENGTH = 2_621_440
"""Longest STRING of Spanner, in characters; longer text is in the body only."""


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if value.isascii() and len(value) <= TEXT_LENGTH:
        return value
    # The body has the text exactly; what UTF-8 cannot say is a question mark here.
    encoded = value.encode("utf-8", "replace")
    return encoded.decode() if len(value) <= TEXT_LENGTH and len(encoded) <= CELL_BYTES else None


def _json(value: Any) -> str | None:
    return None if value is None else _text(compact(value))


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _flag(value: Any) -> bool:
    return bool(value)


def _list_json(value: Any) -> str | None:
    return None if value is None else _json(value[0])


_Projection = dict[str, tuple[str, Callable[[Any], Any]]]

_PROJECTIONS: dict[str, _Projection] = {
    TASKS: {
        "status": ("status", _text),
        "family": ("family", _text),
        "module": ("module", _text),
        "params": ("params", _json),
        "priority": ("priority", _number),
        "deps": ("deps", _json),
        "resources": ("resources", _json),
        "resources_running": ("resources_running", _list_json),
        "worker_running": ("worker_running", _text),
        "batch_id": ("batch_id", _text),
        "runnable": ("runnable", _flag),
        "claims": ("claims", lambda value: value or 0),
        "failures": ("failures", lambda value: len(value or ())),
        "added_at": ("time", _number),
        "updated_at": ("updated", _number),
        "running_at": ("time_running", _number),
        "retry_at": ("retry", _number),
        "remove_at": ("remove", _number),
        "disabled_at": ("scheduler_disable_time", _number),
        "tracking_url": ("tracking_url", _text),
        "status_message": ("status_message", _text),
        "progress": ("progress_percentage", _number),
        "error": ("expl", _text),
        "message_responses": ("scheduler_message_responses", _json),
    },
    WORKERS: {
        "host": ("reference", lambda value: _text((value or {}).get("host")) if isinstance(value, dict) else None),
        "disabled": ("disabled", _flag),
        "started_at": ("started", _number),
        "last_active_at": ("last_active", _number),
        "last_get_work_at": ("last_get_work", _number),
        "info": ("info", _json),
        "messages": ("rpc_messages", _json),
    },
    STAKEHOLDERS: {},
    RUNNERS: {"ordinal": ("ordinal", lambda value: value)},
    RESOURCES: {"total": ("total", _number), "origin": ("origin", _text)},
    "batchers": {"batched_params": ("batched_params", _json), "max_batch_size": ("max_batch_size", _number)},
    "emails": {"kind": ("kind", _text), "family": ("family", _text)},
    OUTBOX: {
        "subject": ("subject", _text),
        "recipients": ("recipients", _json),
        "due_at": ("due_at", _number),
        "tries": ("tries", lambda value: value),
    },
    "settings": {"value": ("value", _json)},
    "replicas": {
        "rules": ("rules", _text),
        "release": ("release", _text),
        "started_at": ("started_at", _number),
        "seen_at": ("seen_at", _number),
    },
    HISTORY: {
        "task_id": ("task_id", _text),
        "family": ("family", _text),
        "status": ("status", _text),
        "happened_at": ("happened_at", _number),
        "run": ("run", lambda value: value),
        "attempt": ("attempt", lambda value: value),
        "worker": ("worker", _text),
        "host": ("host", _text),
        "duration": ("duration", _number),
        "params": ("params", _json),
        "error": ("error", _text),
    },
}


def columns_of(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """The typed columns of a row; NULL where a value does not fit the type."""
    return {column: project(row.get(name)) for column, (name, project) in _PROJECTIONS[table].items()}
