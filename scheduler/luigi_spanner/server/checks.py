"""Kinds of values that arguments hold: a check for each, and beside it the same as JSON Schema, for who reads the description.

A value passes exactly when the scheduler's rules can work with it now and later. What harms nobody passes, since a refusal costs
a worker its life. JSON Schema cannot say everything: it counts characters where databases count bytes, it knows no bare
Infinity, and it takes 1.0 for an integer. Whatever a schema accepts in a plain spelling, its check accepts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from luigi import task_status
from luigi.scheduler import RetryPolicy

from luigi_spanner.stores import KEY_BYTES
from luigi_spanner.stores.location import NAMESPACE_CHARACTERS

Schema = Mapping[str, Any]
"""A JSON Schema of draft 2020-12, which is what OpenAPI 3.1 holds."""


class Check(Protocol):
    """Takes a value and says what is wrong with it, in words that follow what the value is called; None: nothing is."""

    schema: Schema

    def __call__(self, value: Any, /) -> str | None: ...


def accepting(schema: Schema) -> Callable[[Callable[[Any], str | None]], Check]:
    """Makes a check of a function: `schema` accepts what the function finds nothing wrong with."""

    def made(function: Callable[[Any], str | None]) -> Check:
        check = cast(Check, function)
        check.schema = schema
        return check

    return made


ID_BYTES = (KEY_BYTES - NAMESPACE_CHARACTERS) // 2
"""Longest id in UTF-8 bytes: the longest key is (namespace, worker, task)."""

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

STATUSES = frozenset(value for name, value in vars(task_status).items() if name.isupper() and isinstance(value, str))

SHOWN_INFO = frozenset({"name", "last_active", "started", "state", "first_task_display_name", "num_unread_rpc_messages"})
"""What `worker_list` says of a worker by itself: information under such a name makes it fail for everybody."""

_INT64: Schema = {"minimum": INT64_MIN, "maximum": INT64_MAX}


@accepting({})
def anything(value: Any) -> str | None:
    """Any JSON."""
    return None


@accepting({"type": ["string", "number", "boolean", "null"]})
def scalar(value: Any) -> str | None:
    """Anything but a list or an object."""
    return f" must not be {kind(value)}" if isinstance(value, (list, dict)) else None


@accepting({"type": "string"})
def text(value: Any) -> str | None:
    """A string. Half of a surrogate pair is text, too: so Python spells the bytes of file names that are not UTF-8."""
    return None if isinstance(value, str) else f" must be a string, not {kind(value)}"


@accepting({"type": "string", "maxLength": ID_BYTES, "description": f"At most {ID_BYTES} bytes in UTF-8."})
def identifier(value: Any) -> str | None:
    """A string that can be part of a key: databases compare keys as UTF-8."""
    if not isinstance(value, str):
        return text(value)
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        return " must be Unicode: it holds half of a surrogate pair"
    return f" is longer than {ID_BYTES} bytes" if size > ID_BYTES else None


@accepting({"type": "boolean"})
def boolean(value: Any) -> str | None:
    """true or false."""
    return None if isinstance(value, bool) else f" must be true or false, not {kind(value)}"


@accepting({"type": "number", **_INT64, "description": "Or Infinity, bare, for no limit."})
def limit(value: Any) -> str | None:
    """A number that fits into 64 bits, or Infinity for no limit."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f" must be a number, not {kind(value)}"
    if isinstance(value, float):
        return " must not be NaN" if math.isnan(value) else None
    return None if INT64_MIN <= value <= INT64_MAX else " does not fit into 64 bits"


@accepting({"type": "number", **_INT64})
def number(value: Any) -> str | None:
    """A finite number that fits into 64 bits."""
    fault = limit(value)
    if fault is None and math.isinf(value):
        return " must be finite"
    # A float, too: exact totals of larger ones may be no floats any more.
    return fault if fault is not None or INT64_MIN <= value <= INT64_MAX else " does not fit into 64 bits"


@accepting({"type": "integer", **_INT64, "description": "Without fraction and exponent."})
def whole(value: Any) -> str | None:
    """An integer that fits into 64 bits."""
    fault = number(value)
    if fault is None and not isinstance(value, int):
        return " must be a whole number"
    return fault


def between(low: int, high: int) -> Check:
    """An integer from `low` to `high`."""

    @accepting({"type": "integer", "minimum": low, "maximum": high, "description": "Without fraction and exponent."})
    def between_check(value: Any) -> str | None:
        fault = whole(value)
        return f" must be from {low} to {high}" if fault is None and not low <= value <= high else fault

    return between_check


@accepting({"type": ["number", "boolean"], **_INT64})
def count(value: Any) -> str | None:
    """A finite number that fits into 64 bits; true and false count as 1 and 0."""
    return None if isinstance(value, bool) else number(value)


@accepting({"type": ["number", "boolean"], "minimum": 0, "maximum": INT64_MAX, "description": "true is 1, false is 0."})
def amount(value: Any) -> str | None:
    """A count that is not below zero."""
    fault = count(value)
    if fault is None and value < 0:
        return " must not be negative"
    return fault


@accepting({"type": ["number", "boolean"], "description": "Or Infinity or -Infinity, bare."})
def rank(value: Any) -> str | None:
    """What tasks can be ordered by: any number, however large, but not NaN. A task's priority may be a comparison."""
    if not isinstance(value, (int, float)):
        return f" must be a number, not {kind(value)}"
    return " must not be NaN" if value != value else None  # math.isnan fails on integers beyond floats


@accepting({"enum": sorted(STATUSES)})
def status(value: Any) -> str | None:
    """A status that Luigi knows."""
    known = isinstance(value, str) and value in STATUSES
    return None if known else f" must be one of {', '.join(sorted(STATUSES))}"


@accepting({"enum": ["", *sorted(STATUSES)]})
def status_filter(value: Any) -> str | None:
    """A status that Luigi knows, or the empty string for any."""
    return None if value == "" else status(value)


def optional(check: Check) -> Check:
    """null, or what `check` accepts."""
    return accepting({"anyOf": [check.schema, {"type": "null"}]})(lambda value: None if value is None else check(value))


def each(check: Check) -> Check:
    """A list of what `check` accepts."""

    @accepting({"type": "array", "items": check.schema})
    def each_check(value: Any) -> str | None:
        if not isinstance(value, list):
            return f" must be a list, not {kind(value)}"
        for index, item in enumerate(value):
            fault = check(item)
            if fault is not None:
                return f"[{index}]{fault}"
        return None

    return each_check


def mapping(check: Check, key: Check = anything) -> Check:
    """An object whose values `check` accepts and whose names `key` accepts."""

    @accepting({"type": "object", "additionalProperties": check.schema, "propertyNames": key.schema})
    def mapping_check(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" must be an object, not {kind(value)}"
        for name, item in value.items():
            fault = key(name) or check(item)
            if fault is not None:
                return f"[{quoted(name)}]{fault}"
        return None

    return mapping_check


@accepting({"type": "object"})
def record(value: Any) -> str | None:
    """An object, whatever it holds."""
    return None if isinstance(value, dict) else f" must be an object, not {kind(value)}"


_RETRY_FIELDS = mapping(optional(limit))


@accepting(
    {
        "type": "object",
        "properties": {name: optional(limit).schema for name in RetryPolicy._fields},
        "additionalProperties": False,
    }
)
def retry_policy(value: Any) -> str | None:
    """An object with fields of Luigi's retry policy, each a number or null."""
    fault = _RETRY_FIELDS(value)
    if fault is not None:
        return fault
    for name in value:
        if name not in RetryPolicy._fields:
            return f" has no field {quoted(name)}; it has {', '.join(RetryPolicy._fields)}"
    return None


READ_INFO: Mapping[str, Check] = {"first_task": optional(text), "workers": rank}
"""What the scheduler itself reads of a worker's information, for every other worker's calls."""


def _info_pair(name: Schema, value: Schema) -> Schema:
    return {"prefixItems": [{"type": "string", **name}, value]}


@accepting(
    {
        "anyOf": [
            {
                "type": "object",
                "propertyNames": {"not": {"enum": sorted(SHOWN_INFO)}},
                "properties": {name: check.schema for name, check in READ_INFO.items()},
            },
            {
                "type": "array",
                "items": {
                    "type": "array",
                    "minItems": 2,
                    "maxItems": 2,
                    "anyOf": [
                        _info_pair({"not": {"enum": sorted(SHOWN_INFO | READ_INFO.keys())}}, {}),
                        *(_info_pair({"const": name}, check.schema) for name, check in READ_INFO.items()),
                    ],
                },
            },
        ]
    }
)
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
            return f" must hold names that are strings, not {kind(name)}"
        if name in SHOWN_INFO:
            return f" must not hold {quoted(name)}: the scheduler itself says that of a worker"
        fault = READ_INFO[name](item) if name in READ_INFO else None
        if fault is not None:
            return f"[{quoted(name)}]{fault}"
    return None


def quoted(name: str) -> str:
    """`name` as it may stand in a message: short, ASCII, in quotation marks."""
    return json.dumps(name[:64])


def kind(value: Any) -> str:
    """What JSON calls a value of this kind, with its article."""
    return _KINDS.get(type(value), "another type")


_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
