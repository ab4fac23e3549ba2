"""A worker whose changes are tracked, and its row.

`last_active` and `last_get_work` are soft state (I7): they change with every ping, so they live beside the replicated state and
are folded into it (`saved`) by the next entry that is written anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from luigi import scheduler as luigi_scheduler

from luigi_spanner.graph.containers import OwnedDict, OwnedList, Owner
from luigi_spanner.graph.relations import WorkerTasks

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State

WORKERS = "workers"
SOFT = ("last_active", "last_get_work")
ATTRIBUTES = ("reference", "started", "info", "disabled", "rpc_messages", "ordinal", "leaving")

_MISSING = object()
_CONTAINERS: dict[str, Callable[[Owner, str, Any], Any]] = {"info": OwnedDict, "rpc_messages": OwnedList}


def _put_back(worker: Worker, name: str, value: Any) -> None:
    if value is _MISSING:
        worker.__dict__.pop(name, None)
    else:
        worker.__dict__[name] = value


class Worker(luigi_scheduler.Worker):
    """Luigi's worker, tracked from the moment it enters a `State`. `saved` is (last_active, last_get_work) as replicated.

    `leaving`: it was found dead, and its very many tasks are taken from it in portions; it does not come back.
    """

    home: State | None = None
    ordinal = 0
    leaving = False
    saved: tuple[float, float | None] = (0.0, None)

    def enter(self, state: State) -> None:
        """Belong to `state` from now on: changes are tracked."""
        attributes = self.__dict__
        attributes["tasks"] = WorkerTasks(state, self.id)
        owner = Owner(state.tracker, WORKERS, (self.id,))
        for name, container in _CONTAINERS.items():
            attributes[name] = container(owner, name, attributes[name])
        attributes["saved"] = (self.last_active, self.last_get_work)
        attributes["home"] = state

    def __setattr__(self, name: str, value: Any) -> None:
        state = self.home
        if state is None or name in ("home", "tasks"):
            self.__dict__[name] = value
            return
        old = self.__dict__.get(name, _MISSING)
        if old is value or (type(old) is type(value) and old == value):
            return
        if name in SOFT:
            self._set_soft(state, name, old, value)
            return
        container = _CONTAINERS.get(name)
        if container is not None:
            value = container(Owner(state.tracker, WORKERS, (self.id,)), name, value)
        state.tracker.log(_put_back, self, name, old)
        state.tracker.touch(WORKERS, (self.id,), name)
        self.__dict__[name] = value

    def _set_soft(self, state: State, name: str, old: Any, value: Any) -> None:
        if state.grain:
            # Soft state is not undone and only moves forward.
            if value is not None and (old is None or value > old):
                self.__dict__[name] = value
                state.soft[self.id] = self
        else:
            state.tracker.log(_put_back, self, name, old)
            self.__dict__[name] = value
            self.fold()

    def fold(self) -> None:
        """Let the replicated state know the worker's liveness."""
        saved = (self.last_active, self.last_get_work)
        if saved != self.saved:
            assert self.home is not None
            self.home.tracker.log(_put_back, self, "saved", self.saved)
            for name in SOFT:
                self.home.tracker.touch(WORKERS, (self.id,), name)
            self.__dict__["saved"] = saved

    def prune(self, config: Any) -> bool:
        """Whether the worker is dead. Another replica may know of life that is one grain younger than what is known here (I7)."""
        if self.home is None or not self.home.grain:
            return bool(super().prune(config))
        return bool(self.last_active + config.worker_disconnect_delay + self.home.grain < self.home.now())

    def __getstate__(self) -> dict[str, Any]:
        attributes = {name: copy.copy(value) for name, value in self.__dict__.items() if name not in ("home", "saved")}
        attributes["tasks"] = set(self.tasks)
        attributes["info"] = dict(self.info)
        attributes["rpc_messages"] = list(self.rpc_messages)
        return attributes


def encode_worker(worker: Worker) -> dict[str, Any]:
    """The whole row as JSON values, defaults left out."""
    last_active, last_get_work = worker.saved
    row: dict[str, Any] = {"started": worker.started, "ordinal": worker.ordinal, "last_active": last_active}
    if last_get_work is not None:
        row["last_get_work"] = last_get_work
    if worker.reference is not None:
        row["reference"] = worker.reference
    if worker.info:
        row["info"] = dict(worker.info)
    if worker.rpc_messages:
        row["rpc_messages"] = list(worker.rpc_messages)
    if worker.disabled:
        row["disabled"] = worker.disabled
    if worker.leaving:
        row["leaving"] = True
    return row


def decode_worker(worker_id: str, row: dict[str, Any]) -> Worker:
    """A worker outside of any state, as its row says."""
    worker = Worker.__new__(Worker)
    worker.__dict__.update(
        id=worker_id,
        reference=row.get("reference"),
        last_active=row.get("last_active", 0.0),
        last_get_work=row.get("last_get_work"),
        started=row.get("started"),
        info=row.get("info") or {},
        disabled=row.get("disabled") or False,
        rpc_messages=row.get("rpc_messages") or [],
        ordinal=row.get("ordinal", 0),
        leaving=bool(row.get("leaving")),
        tasks=set(),
    )
    return worker


def merge_worker(worker: Worker, row: dict[str, Any]) -> None:
    """Set the attributes that `row` names, in place. Liveness known here may be younger than what the row says."""
    assert worker.home is not None
    saved: list[Any] = list(worker.saved)
    for name, encoded in row.items():
        if name in SOFT:
            saved[SOFT.index(name)] = encoded
        elif name == "info":
            worker.info = encoded or {}
        elif name == "rpc_messages":
            worker.rpc_messages = encoded or []
        elif name in ("disabled", "leaving"):
            setattr(worker, name, encoded or False)
        else:
            setattr(worker, name, encoded)
    _merge_liveness(worker, (saved[0], saved[1]))


def _merge_liveness(worker: Worker, saved: tuple[float, float | None]) -> None:
    assert worker.home is not None
    if saved == worker.saved:
        return
    tracker = worker.home.tracker
    tracker.log(_put_back, worker, "saved", worker.saved)
    for name, value in zip(SOFT, saved, strict=True):
        tracker.touch(WORKERS, (worker.id,), name)
        known = worker.__dict__[name]
        if not worker.home.grain or known is None or (value is not None and value > known):
            worker.__dict__[name] = value
    worker.__dict__["saved"] = saved
