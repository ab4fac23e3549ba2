"""A task whose every change is tracked, and its row in the journal and the tables."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from functools import cache
from sys import intern
from typing import TYPE_CHECKING, Any

from luigi import scheduler as luigi_scheduler
from luigi.scheduler import RetryPolicy

from luigi_spanner.digest import LASTING, TASKS
from luigi_spanner.graph import surroundings
from luigi_spanner.graph.containers import OwnedDict, OwnedQueue, OwnedSet, Owner

if TYPE_CHECKING:
    from luigi_spanner.graph.state import State

_MISSING = object()

_SCALARS = (
    "status",
    "time",
    "updated",
    "retry",
    "remove",
    "worker_running",
    "time_running",
    "expl",
    "priority",
    "family",
    "module",
    "first_failure_time",
    "tracking_url",
    "status_message",
    "progress_percentage",
    "scheduler_disable_time",
    "batch_id",
    "ordinal",
    "status_ordinal",
    "run",
)
_LASTING_SCALARS = tuple(name for name in _SCALARS if name in LASTING)
_MOVING_SCALARS = tuple(name for name in _SCALARS if name not in LASTING)
_FLAGS = ("accepts_messages", "runnable", "batchable")
_LASTING_DICTS = ("resources", "params", "param_visibilities")
_DICTS = (*_LASTING_DICTS, "scheduler_message_responses")

_VIEWS = ("public_params", "hidden_params")
"""What Luigi derives from the parameters and their visibilities, at the time when the parameters are set."""
_VIEWED = frozenset({"params", "param_visibilities"})
_CONTAINERS: dict[str, Callable[[Owner, str, Any], Any]] = {
    "resources": OwnedDict,
    "resources_running": OwnedDict,
    "scheduler_message_responses": OwnedDict,
    "deps": OwnedSet,
    "failures": OwnedQueue,
}


def _put_back(task: Task, name: str, value: Any) -> None:
    if value is _MISSING:
        task.__dict__.pop(name, None)
    else:
        task.__dict__[name] = value


def _same(old: Any, new: Any) -> bool:
    """Whether assigning `new` over `old` changes nothing. An equal number of another type does change the row (1, 1.0, True)."""
    if type(old) in _SCALAR_TYPES:  # first, since nearly all are
        return type(old) is type(new) and bool(old == new)
    if isinstance(old, dict):
        return isinstance(new, dict) and old.keys() == new.keys() and all(_same_scalar(old[name], new[name]) for name in new)
    if isinstance(old, OwnedSet):
        return bool(old == new)
    return type(old) is type(new) and bool(old == new)


def _same_scalar(old: Any, new: Any) -> bool:
    return type(old) is type(new) and type(new) in _SCALAR_TYPES and bool(old == new)


_SCALAR_TYPES = frozenset({str, int, float, bool, type(None)})


class Proposal:
    """A task to be made if there is none of that id. Luigi's rules propose one for every task and dependency that a call names,
    and most of them are there."""

    __slots__ = ("_keys",)

    def __init__(self, **keys: Any) -> None:
        self._keys = keys

    def accepted(self) -> NewTask:
        """The task. Equal in priority, tasks go in the order in which they were made: so that those of one call have one, time
        passes."""
        surroundings.let_time_pass()
        return NewTask(**self._keys)


class NewTask(luigi_scheduler.Task):
    """A task in no state."""

    def set_params(self, params: Any) -> None:
        _set_params(self, params, super().set_params)


class Task(luigi_scheduler.Task):
    """Luigi's task, tracked from the moment it enters a `State`.

    `ordinal` orders tasks by insertion, `status_ordinal` by when they took their status (ties in rank go by it), `claims`
    counts how often the task was handed out. `run` is the ordinal of the change that began its run, where a history is kept.
    """

    home: State | None = None
    ordinal = 0
    status_ordinal = 0
    run: int | None = None
    claims = 0

    def set_params(self, params: Any) -> None:
        _set_params(self, params, super().set_params)

    @classmethod
    def enter(cls, task: luigi_scheduler.Task, state: State) -> Task:
        """`task` itself, which belongs to `state` from now on: changes are tracked."""
        object.__setattr__(task, "__class__", cls)
        entered: Task = task
        attributes = entered.__dict__
        attributes["stakeholders"] = state.make_stakeholders(entered)
        attributes["workers"] = state.make_runners(entered)
        owner = Owner(state.tracker, TASKS, (entered.id,))
        _share_texts(attributes, state)
        for name, container in _CONTAINERS.items():
            if attributes.get(name) is not None:
                attributes[name] = container(owner, name, attributes[name])
        attributes["home"] = state
        return entered

    def __setattr__(self, name: str, value: Any) -> None:
        attributes = self.__dict__
        old = attributes.get(name, _MISSING)
        if old is value:
            return
        state = self.home
        if state is None or name == "home":
            attributes[name] = value
            return
        if name == "expl" and isinstance(value, BaseException):
            # A worker in this process may hand over the exception itself; what a database holds is its text.
            value = str(value)
        if _same(old, value):
            return
        container = _CONTAINERS.get(name)
        if container is not None and value is not None:
            # Always a container of its own: Luigi's set_batch_running shares one dict between two attributes.
            value = container(Owner(state.tracker, TASKS, (self.id,)), name, value)
        state.tracker.log(_put_back, self, name, old)
        state.tracker.touch(TASKS, (self.id,), name if name in _KNOWN else _LATER)
        if name in _VIEWED:
            for view in _VIEWS:
                state.tracker.touch(TASKS, (self.id,), view)
        attributes[name] = value

    def detached(self) -> luigi_scheduler.Task:
        """A copy that holds values only: a plain Luigi task that no later change reaches."""
        twin = DetachedTask.__new__(DetachedTask)
        twin.__dict__.update(self.__getstate__())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        attributes = {name: value for name, value in self.__dict__.items() if name != "home"}
        attributes["stakeholders"] = set(self.stakeholders)
        attributes["workers"] = luigi_scheduler.OrderedSet(list(self.workers))
        for name, container in _CONTAINERS.items():
            if attributes.get(name) is not None:
                attributes[name] = _PLAIN[container](attributes[name])
        for name in (*_DICTS, *_VIEWS):
            attributes[name] = copy.copy(attributes[name])
        return attributes


def _set_params(task: luigi_scheduler.Task, params: Any, as_luigi_does: Callable[[Any], None]) -> None:
    """Set the parameters and the views of them. Nearly every task's public parameters are all of them."""
    if _all_public(params, task.param_visibilities):
        task.params = params
        task.public_params = task.params  # which may still be an equal dict from before
        task.hidden_params = {}
    else:
        as_luigi_does(params)
        _share_params(task.__dict__)


def _all_public(params: Any, visibilities: Any) -> bool:
    """Whether Luigi would make all of these parameters public. It asks an enumeration twice for each, which is slow."""
    return isinstance(params, dict) and isinstance(visibilities, dict) and [*visibilities.values()].count(0) == len(visibilities)


def _share_params(attributes: dict[str, Any]) -> None:
    """Nearly every task's public parameters are all of them: one dict is enough, since none is changed in place."""
    if attributes["public_params"] == attributes["params"]:
        attributes["public_params"] = attributes["params"]


def _share_texts(attributes: dict[str, Any], state: State) -> None:
    """What many tasks say is kept once. Each call's JSON brings a copy of its own. Ids do not go into the interpreter's table:
    some releases of Python 3.12 never take anything out of it."""
    for name in ("family", "module"):
        if type(attributes.get(name)) is str:
            attributes[name] = intern(attributes[name])
    attributes["deps"] = {state.shared_id(task_id) for task_id in attributes["deps"]}


class DetachedTask(luigi_scheduler.Task):
    """A task's values at one time, for effects. It equals the task that it is a copy of, whatever became of that."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, luigi_scheduler.Task) and bool(other.id == self.id)

    def __hash__(self) -> int:
        return hash(self.id)


_PLAIN: dict[Callable[[Owner, str, Any], Any], Callable[[Any], Any]] = {OwnedDict: dict, OwnedSet: set, OwnedQueue: deque}


def _views(params: dict[str, Any], visibilities: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The views as Luigi derives them."""
    if not visibilities or _all_public(params, visibilities):
        return {"public_params": params, "hidden_params": {}}
    probe = luigi_scheduler.Task.__new__(luigi_scheduler.Task)
    probe.param_visibilities = visibilities
    probe.set_params(params)
    return {name: getattr(probe, name) for name in _VIEWS}


_LATER = "later"
"""Name in the row for what a later Luigi gives its tasks: any attribute that we do not know, if it is JSON."""

ATTRIBUTES = (*_SCALARS, *_FLAGS, *_DICTS, *_VIEWS, "deps", "failures", "claims", "retry_policy", "resources_running", _LATER)
_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys((*_SCALARS, *_DICTS, *_VIEWS)),
    **dict.fromkeys(_FLAGS, False),
    **dict.fromkeys(("stakeholders", "workers", "deps", "failures"), ()),
    "claims": 0,
}
"""What a row leaves out."""

_KNOWN = frozenset(ATTRIBUTES) | {"id", "home", "stakeholders", "workers"}


def encode_lasting(task: Task) -> dict[str, Any]:
    """The half of the row that a task was added with, as JSON values, defaults left out."""
    attributes = task.__dict__
    row: dict[str, Any] = {name: value for name in _LASTING_SCALARS if (value := attributes.get(name)) is not None}
    for name in _LASTING_DICTS:
        value = attributes[name]
        if value or value != {}:
            row[name] = dict(value) if value else [value]
    if attributes["params"]:
        row.update(_encode_views(attributes))
    if attributes["deps"]:
        row["deps"] = sorted(attributes["deps"])
    row["retry_policy"] = list(attributes["retry_policy"])
    return row


def encode_moving(task: Task) -> dict[str, Any]:
    """The half of the row that changes while a task lives, as JSON values, defaults left out. It runs for every task that a
    call touches."""
    attributes = task.__dict__
    row: dict[str, Any] = {name: value for name in _MOVING_SCALARS if (value := attributes.get(name)) is not None}
    for name in _FLAGS:
        value = attributes[name]
        if value is not False:
            row[name] = [value] if value is None else value
    responses = attributes["scheduler_message_responses"]
    if responses or responses != {}:
        row["scheduler_message_responses"] = dict(responses) if responses else [responses]
    if attributes["failures"]:
        row["failures"] = list(attributes["failures"])
    if task.claims:
        row["claims"] = task.claims
    later = attributes.keys() - _KNOWN
    if later:
        row[_LATER] = {name: attributes[name] for name in later}
    if "resources_running" in attributes:
        # Absent differs from any value: in a list, so that None stands for absent.
        running = attributes["resources_running"]
        row["resources_running"] = [None if running is None else dict(running)]
    return row


def _encode_views(attributes: dict[str, Any]) -> dict[str, Any]:
    """The views that are not what Luigi would derive: the visibilities came after the parameters."""
    params, public, hidden = attributes["params"], attributes["public_params"], attributes["hidden_params"]
    views = _views(params, attributes["param_visibilities"])
    return {name: value for name, value in zip(_VIEWS, (public, hidden), strict=True) if value != views[name]}


def _decode(name: str, value: Any) -> Any:
    """What `encode_task` wrote of one attribute; `_MISSING` where the attribute is absent."""
    if name in _FLAGS:
        return value[0] if isinstance(value, list) else bool(value) if value is None else value
    if name in _DICTS:
        return {} if value is None else value[0] if isinstance(value, list) else value
    if name == "deps":
        return set(value or ())
    if name == "failures":
        return deque(value or ())
    if name == "claims":
        return value or 0
    if name == "retry_policy":
        return _retry_policy(*value)
    if name == "resources_running":
        return _MISSING if value is None else value[0]
    return value


@cache
def _retry_policy(*fields: Any) -> RetryPolicy:
    return RetryPolicy(*fields)


def decode_task(task_id: str, *rows: dict[str, Any]) -> Task:
    """A task outside of any state, as its row says; the row may come in halves. Defaults are left out."""
    attributes = _DEFAULTS.copy()
    attributes["id"] = task_id
    for row in rows:
        attributes.update(row)
    for name in _DICTS:
        value = attributes[name]
        attributes[name] = {} if value is None else value[0] if type(value) is list else value
    attributes["deps"] = set(attributes["deps"])
    attributes["failures"] = deque(attributes["failures"])
    attributes["retry_policy"] = _retry_policy(*attributes["retry_policy"])
    for name in _FLAGS:
        if type(attributes[name]) is list:
            attributes[name] = attributes[name][0]
    if "resources_running" in attributes:
        attributes["resources_running"] = attributes["resources_running"][0]
    attributes.update(attributes.pop(_LATER, None) or {})
    attributes.update(_decode_views(attributes["params"], attributes["param_visibilities"], attributes))
    _share_params(attributes)
    task = Task.__new__(Task)
    object.__setattr__(task, "__dict__", attributes)
    return task


def _decode_views(params: dict[str, Any], visibilities: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    views = _views(params, visibilities)
    return {name: views[name] if row.get(name) is None else row[name] for name in _VIEWS}


def merge_task(task: Task, row: dict[str, Any]) -> None:
    """Set the attributes that `row` names, in place: Luigi holds references. Tracked like any change."""
    for name, encoded in row.items():
        if name in _VIEWS:
            continue
        if name == _LATER:
            for later, value in (encoded or {}).items():
                setattr(task, later, value)
            continue
        value = _decode(name, encoded)
        if value is _MISSING:
            old = task.__dict__.pop(name, _MISSING)
            assert task.home is not None
            task.home.tracker.log(_put_back, task, name, old)
            task.home.tracker.touch(TASKS, (task.id,), name)
        else:
            setattr(task, name, value)
    if any(name in row for name in _VIEWS):
        for name, value in _decode_views(task.params, task.param_visibilities, row).items():
            setattr(task, name, value)
