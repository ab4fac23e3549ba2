"""Arguments at the door: what a method takes, and what no argument may hold.

Tables say which argument is of which kind; `checks` has a small check per kind. An amount that is no number would be stored
without complaint and then fail other workers' calls, so it ends here. Methods and arguments that a later Luigi adds are checked
for their names only.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import luigi.scheduler

from luigi_spanner.calls import BadRequest, UnknownMethod
from luigi_spanner.graph.administration import PAGE, Administration
from luigi_spanner.methods import OURS, Ours
from luigi_spanner.server.checks import (
    Check,
    amount,
    anything,
    between,
    boolean,
    each,
    identifier,
    kind,
    limit,
    mapping,
    optional,
    quoted,
    rank,
    record,
    retry_policy,
    scalar,
    status,
    status_filter,
    text,
    whole,
    worker_info,
)

MAX_DEPTH = 100
"""How deep arguments may nest. Far above what workers send, far below Python's recursion limit."""

LOCAL_ONLY = frozenset({"update_metrics_task_started"})
"""Methods that take live objects: Luigi lists them with the remote ones, but no JSON can name such an argument."""

AMOUNTS = mapping(amount, identifier)

ARGUMENTS: Mapping[str, Check] = {
    "accepts_messages": scalar,
    "after": optional(whole),
    "assistant": scalar,
    "batch_id": optional(identifier),
    "batchable": scalar,
    "batched_args": each(text),
    "current_tasks": optional(each(identifier)),
    "decrease_resources": AMOUNTS,
    "deps": optional(each(identifier)),
    "family": optional(identifier),
    "force": boolean,
    "host": optional(text),
    "include_done": boolean,
    "include_running": boolean,
    "info": worker_info,
    "limit": boolean,
    "max_batch_size": limit,
    "max_shown_tasks": optional(limit),
    "message_id": identifier,
    "module": optional(text),
    "n": whole,
    "new_deps": optional(each(identifier)),
    "owners": optional(each(text)),
    "param_visibilities": optional(mapping(whole)),
    "params": optional(record),
    "priority": rank,
    "progress_percentage": scalar,
    "reason": optional(text),
    "resource": identifier,
    "resources": optional(AMOUNTS),
    "retry_policy_dict": optional(retry_policy),
    "runnable": scalar,
    "search": optional(text),
    "statistics": record,
    "status": status,
    "task": identifier,
    "task_family": identifier,
    "task_id": identifier,
    "task_name": text,
    "task_str": text,
    "tracking_url": optional(text),
    "upstream_status": text,
    "worker": identifier,
}
"""What an argument of that name holds, whatever the method."""

EXCEPTIONS: Mapping[tuple[str, str], Check] = {
    ("announce_scheduling_failure", "params"): record,
    ("announce_scheduling_failure", "owners"): each(text),
    ("find_tasks", "limit"): between(1, PAGE),
    ("find_tasks", "status"): status_filter,
    ("find_tasks", "worker"): optional(identifier),
    ("forgive_failures", "task_id"): optional(identifier),
    ("mark_as_done", "task_id"): optional(identifier),
    ("task_list", "status"): status_filter,
    # Luigi's rule looks at it itself, and answers false.
    ("update_resource", "amount"): anything,
    ("why", "worker"): optional(identifier),
}
"""Where one method differs from the rest."""

ALSO_REQUIRED: Mapping[str, frozenset[str]] = {
    "add_task": frozenset({"task_id", "worker"}),
    "announce_scheduling_failure": frozenset({"worker"}),
    "get_work": frozenset({"worker"}),
    "ping": frozenset({"worker"}),
}
"""Arguments that a method cannot do without although its signature has a default for them, or no name."""

COLLECTED: Mapping[str, Check] = {"update_resources": amount}
"""Methods whose own arguments are whatever names the caller gives: what each of them holds."""

COUNTED = frozenset({"amount", "decrease_resources", "resources"})
"""Arguments whose true and false become 1 and 0, so that rows and replies hold numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """What one method takes. `checks` are by argument, `rest` is for arguments that it does not name; None: it has no others.

    `defaults` are what Luigi's rule takes for arguments that are not given.
    """

    name: str
    required: frozenset[str]
    defaults: Mapping[str, Any]
    checks: Mapping[str, Check]
    rest: Check | None

    def check(self, arguments: dict[str, Any]) -> None:
        """Raises BadRequest naming the first fault of `arguments`; makes numbers of amounts that are true or false."""
        if not arguments.keys() >= self.required:
            missing = min(self.required - arguments.keys())
            raise BadRequest(f"{self.name} needs the argument {quoted(missing)}.")
        for name, value in arguments.items():
            check = self.checks.get(name)
            fault = self._other(name)(value) or identifier(name) if check is None else check(value)
            if fault is not None:
                raise BadRequest(f"{name[:64]}{fault}.")
            if name in COUNTED or (check is None and self.rest is amount):
                arguments[name] = _counted(value)

    def _other(self, name: str) -> Check:
        """The check of an argument that the method does not name. Raises BadRequest if it takes none."""
        if self.rest is None or name == "self":
            raise BadRequest(f"{self.name} has no argument {quoted(name)}.")
        return self.rest


Methods = Mapping[str, Method]


def served() -> Methods:
    """All that is served: Luigi's methods, as the installed Luigi has them, and ours."""
    stock = methods(luigi.scheduler.Scheduler, luigi.scheduler.RPC_METHODS)
    return {**stock, **methods(Ours, sorted(OURS)), **methods(Administration, sorted(OURS))}


def methods(scheduler: type, names: Iterable[str]) -> Methods:
    """What each of the remote methods `names` of the class `scheduler` takes, read from their signatures."""
    return {
        name: _method(name, getattr(scheduler, name)) for name in names if hasattr(scheduler, name) and name not in LOCAL_ONLY
    }


def find(table: Methods, name: str) -> Method:
    """The method of that name. Raises UnknownMethod."""
    try:
        return table[name]
    except KeyError:
        if name in LOCAL_ONLY:
            raise UnknownMethod(f"{name} takes a live task and cannot be called remotely.") from None
        raise UnknownMethod(f"There is no method {quoted(name)}.") from None


def parse(payload: str) -> dict[str, Any]:
    """The arguments that the form field `data` holds: a JSON object; nothing at all means no arguments. Raises BadRequest.

    Bare Infinity and NaN are read, as Luigi's own client writes them.
    """
    if not payload:
        return {}
    try:
        arguments = json.loads(payload)
    except RecursionError:
        raise BadRequest(f"The arguments nest deeper than {MAX_DEPTH} levels.") from None
    except ValueError as error:
        # also an integer of more digits than Python converts, which is no JSONDecodeError
        raise BadRequest(f"The arguments are not JSON: {error}.") from None
    if not isinstance(arguments, dict):
        raise BadRequest(f"The arguments must be a JSON object, not {kind(arguments)}.")
    _check_depth(payload, arguments)
    return arguments


def _check_depth(payload: str, arguments: dict[str, Any]) -> None:
    if payload.count("[") + payload.count("{") <= MAX_DEPTH:
        return
    level: list[Any] = [arguments]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _inside(value) if isinstance(item, (dict, list))]
        if not level:
            return
    raise BadRequest(f"The arguments nest deeper than {MAX_DEPTH} levels.")


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _counted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _counted(item) for name, item in value.items()}
    return int(value) if isinstance(value, bool) else value


def _method(name: str, function: Callable[..., Any]) -> Method:
    named = [parameter for parameter in inspect.signature(function).parameters.values() if parameter.name != "self"]
    collects = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named)
    named = [parameter for parameter in named if parameter.kind is not parameter.VAR_KEYWORD]
    required = {parameter.name for parameter in named if parameter.default is parameter.empty} | ALSO_REQUIRED.get(name, set())
    names = {parameter.name for parameter in named} | required
    return Method(
        name=name,
        required=frozenset(required),
        defaults={parameter.name: parameter.default for parameter in named if parameter.name not in required},
        checks={argument: EXCEPTIONS.get((name, argument)) or ARGUMENTS.get(argument, anything) for argument in names},
        rest=COLLECTED.get(name, anything) if collects else None,
    )
