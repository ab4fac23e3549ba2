"""Arguments at the door: what a method takes, and what no argument may hold.

One small check per kind of value, and tables that say which argument is of which kind. A value passes exactly when
the scheduler's rules can work with it now and later: an amount that is no number would be stored without complaint
and then fail other workers' calls. What harms nobody passes, since a refusal costs a worker its life. Methods and
arguments that a later Luigi adds are checked for their names only.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luigi import task_status
from luigi.scheduler import RetryPolicy

from luigi_spanner.calls import BadRequest, UnknownMethod
from luigi_spanner.stores import KEY_BYTES
from luigi_spanner.stores.location import NAMESPACE_CHARACTERS

Check = Callable[[Any], "str | None"]
"""Takes a value and says what is wrong with it, in words that follow what the value is called; None: nothing is."""

ID_BYTES = (KEY_BYTES - NAMESPACE_CHARACTERS) // 2
"""Longest id in UTF-8 bytes: the longest key is (namespace, worker, task)."""

MAX_DEPTH = 100
"""How deep arguments may nest. Far above what workers send, far below Python's recursion limit."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

STATUSES = frozenset(value for name, value in vars(task_status).items() if name.isupper() and isinstance(value, str))

LOCAL_ONLY = frozenset({"update_metrics_task_started"})
"""Methods that take live objects: Luigi lists them with the remote ones, but no JSON can name such an argument."""

SHOWN_INFO = frozenset({"name", "last_active", "started", "state", "first_task_display_name", "num_unread_rpc_messages"})
"""What `worker_list` says of a worker by itself: information under such a name makes it fail for everybody."""


def anything(value: Any) -> str | None:
    """Any JSON."""
    return None


def scalar(value: Any) -> str | None:
    """Anything but a list or an object."""
    return f" must not be {_kind(value)}" if isinstance(value, (list, dict)) else None


def text(value: Any) -> str | None:
    """A string. Half of a surrogate pair is text, too: so Python spells the bytes of file names that are not UTF-8."""
    return None if isinstance(value, str) else f" must be a string, not {_kind(value)}"


def identifier(value: Any) -> str | None:
    """A string that can be part of a key: databases compare keys as UTF-8."""
    if not isinstance(value, str):
        return text(value)
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        return " must be Unicode: it holds half of a surrogate pair"
    return f" is longer than {ID_BYTES} bytes" if size > ID_BYTES else None


def boolean(value: Any) -> str | None:
    """true or false."""
    return None if isinstance(value, bool) else f" must be true or false, not {_kind(value)}"


def limit(value: Any) -> str | None:
    """A number that fits into 64 bits, or Infinity for no limit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f" must be a number, not {_kind(value)}"
    if isinstance(value, float):
        return " must not be NaN" if math.isnan(value) else None
    return None if INT64_MIN <= value <= INT64_MAX else " does not fit into 64 bits"


def number(value: Any) -> str | None:
    """A finite number that fits into 64 bits."""
    fault = limit(value)
    if fault is None and math.isinf(value):
        return " must be finite"
    return fault


def whole(value: Any) -> str | None:
    """An integer that fits into 64 bits."""
    fault = number(value)
    if fault is None and not isinstance(value, int):
        return " must be a whole number"
    return fault


def count(value: Any) -> str | None:
    """A finite number that fits into 64 bits; true and false count as 1 and 0."""
    return None if isinstance(value, bool) else number(value)


def amount(value: Any) -> str | None:
    """A count that is not below zero."""
    fault = count(value)
    if fault is None and value < 0:
        return " must not be negative"
    return fault


def rank(value: Any) -> str | None:
    """What tasks can be ordered by: any number, however large, but not NaN. A task's priority may be a comparison."""
    if not isinstance(value, (int, float)):
        return f" must be a number, not {_kind(value)}"
    return " must not be NaN" if value != value else None  # math.isnan fails on integers beyond floats


def status(value: Any) -> str | None:
    """A status that Luigi knows."""
    known = isinstance(value, str) and value in STATUSES
    return None if known else f" must be one of {', '.join(sorted(STATUSES))}"


def status_filter(value: Any) -> str | None:
    """A status that Luigi knows, or the empty string for any."""
    return None if value == "" else status(value)


def optional(check: Check) -> Check:
    """null, or what `check` accepts."""
    return lambda value: None if value is None else check(value)


def each(check: Check) -> Check:
    """A list of what `check` accepts."""

    def each_check(value: Any) -> str | None:
        if not isinstance(value, list):
            return f" must be a list, not {_kind(value)}"
        for index, item in enumerate(value):
            fault = check(item)
            if fault is not None:
                return f"[{index}]{fault}"
        return None

    return each_check


def mapping(check: Check, key: Check = anything) -> Check:
    """An object whose values `check` accepts and whose names `key` accepts."""

    def mapping_check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" must be an object, not {_kind(value)}"
        for name, item in value.items():
            fault = key(name) or check(item)
            if fault is not None:
                return f"[{quoted(name)}]{fault}"
        return None

    return mapping_check


def record(value: Any) -> str | None:
    """An object, whatever it holds."""
    return None if isinstance(value, dict) else f" must be an object, not {_kind(value)}"


_RETRY_FIELDS = mapping(optional(limit))


def retry_policy(value: Any) -> str | None:
    """An object with fields of Luigi's retry policy, each a number or null."""
    fault = _RETRY_FIELDS(value)
    if fault is not None:
        return fault
    for name in value:
        if name not in RetryPolicy._fields:
            return f" has no field {quoted(name)}; it has {', '.join(RetryPolicy._fields)}"
    return None


def worker_info(value: Any) -> str | None:
    """What a worker tells of itself: an object, or a list of [name, value] pairs."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = [(pair[0], pair[1]) for pair in value]
    else:
        return " must be an object or a list of [name, value] pairs"
    for name, item in pairs:
        if not isinstance(name, str):
            return f" must hold names that are strings, not {_kind(name)}"
        if name in SHOWN_INFO:
            return f" must not hold {quoted(name)}: the scheduler itself says that of a worker"
        if name == "first_task" and item is not None and not isinstance(item, str):
            return f"[{quoted(name)}]{text(item)}"
    return None


AMOUNTS = mapping(amount, identifier)

ARGUMENTS: Mapping[str, Check] = {
    "accepts_messages": scalar,
    "assistant": scalar,
    "batch_id": optional(identifier),
    "batchable": scalar,
    "batched_args": each(text),
    "current_tasks": optional(each(identifier)),
    "decrease_resources": AMOUNTS,
    "deps": optional(each(identifier)),
    "family": optional(identifier),
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
    ("forgive_failures", "task_id"): optional(identifier),
    ("mark_as_done", "task_id"): optional(identifier),
    ("task_list", "status"): status_filter,
    # Luigi's rule looks at it itself, and answers false.
    ("update_resource", "amount"): anything,
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
    """What one method takes. `checks` are by argument, `rest` is for arguments that it does not name; None: it has no others."""

    name: str
    required: frozenset[str]
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


def methods(scheduler: type, names: Mapping[str, Any]) -> Methods:
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
        raise BadRequest(f"The arguments must be a JSON object, not {_kind(arguments)}.")
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
    checks = {argument: EXCEPTIONS.get((name, argument)) or ARGUMENTS.get(argument, anything) for argument in names}
    return Method(
        name=name, required=frozenset(required), checks=checks, rest=COLLECTED.get(name, anything) if collects else None
    )


def quoted(name: str) -> str:
    """`name` as it may stand in a message: short, ASCII, in quotation marks."""
    return json.dumps(name[:64])


_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "another type")
