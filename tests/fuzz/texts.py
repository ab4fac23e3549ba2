"""Calls as they are made in a busy scene, spoiled: arguments that no schema can draw, and JSON that is none."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from luigi_spanner.server.checks import ID_BYTES
from luigi_spanner.server.validate import MAX_DEPTH

SCALARS: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "0",
    "\0",
    "a\nb",
    "</script>",
    "\ud83e\udd8a",
    "\ud800",
    "r\udce4sum\udce9",
    "\ufeff",
    "__class__",
    "self",
    "x" * ID_BYTES,
    "x" * (ID_BYTES + 1),
    "\u00e9" * (ID_BYTES // 2 + 1),
    "x" * 100_000,
    "[" * 200,
    0,
    -1,
    1.5,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    10**30,
    10**400,
    -(10**400),
    math.nan,
    math.inf,
    -math.inf,
)
"""Values at the ends of what somebody can hold: UTF-8, a key, 32, 53 and 64 bits, a float."""

LITERALS = (
    "1e999",
    "-1e999",
    "9" * 4300,
    "9" * 4301,
    "0" * 10 + "1",
    "1.",
    ".5",
    "0x10",
    "1_000",
    "nul",
    "'x'",
    "\u0661",
    "01",
    "--1",
)
"""Numbers and words as JSON does not have them, or has more of than anybody reads."""

Arguments = dict[str, Any]


def spoiled(rng: random.Random, arguments: Arguments) -> str:
    """The JSON text of a call's arguments with something wrong, or odd, about it."""
    return rng.choice((_values, _values, _values, _names, _nested, _doubled, _literal, _bytes, _other))(rng, arguments)


def plain(text: str) -> bytes:
    """A form with the text as its field `data`, as Luigi's client writes it."""
    return b"data=" + quote_plus(text.encode()).encode()


def form(rng: random.Random, text: str) -> bytes:
    """A form with the text as its field `data`, written in one of the ways that forms can be written."""
    raw = text.encode("utf-8", "surrogatepass")
    written: Callable[[], bytes] = rng.choice(
        (
            lambda: quote_plus(raw).encode(),
            lambda: quote_plus(raw).encode(),
            lambda: raw.replace(b"%", b"%25").replace(b"&", b"%26").replace(b"+", b"%2B"),
            lambda: b"".join(b"%%%02x" % byte for byte in raw[:2000]),
            lambda: raw,
        )
    )
    before, after = rng.choice((b"", b"", b"a=1&", b"data=&", b"&&data&")), rng.choice((b"", b"", b"&b=2", b"&data", b"&dat=a"))
    return before + b"data=" + written() + after


def _values(rng: random.Random, arguments: Arguments) -> str:
    """Some argument, or something inside one, is something else."""
    changed = json.loads(json.dumps(arguments))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = changed
        while place:
            name = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[name]
            if isinstance(inner, (dict, list)) and inner and rng.random() < 0.5:
                place = inner
                continue
            place[name] = _value(rng)
            break
    return json.dumps(changed)


def _value(rng: random.Random) -> Any:
    chosen = rng.choice(SCALARS)
    wrapped: Callable[[], Any] = rng.choice((lambda: chosen, lambda: chosen, lambda: [chosen], lambda: {"a": chosen}, list, dict))
    return wrapped()


def _names(rng: random.Random, arguments: Arguments) -> str:
    """An argument is missing, or there is another."""
    changed = dict(arguments)
    if changed and rng.random() < 0.5:
        del changed[rng.choice(list(changed))]
    else:
        changed[rng.choice([name for name in SCALARS if isinstance(name, str)])] = rng.choice(SCALARS)
    return json.dumps(changed)


def _nested(rng: random.Random, arguments: Arguments) -> str:
    """Deep, or with very many brackets."""
    depth = rng.choice((MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, 1_000, 20_000))
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}"), ("[0,", "]")))
    inner = rng.choice((f"{opened * depth}1{closed * depth}", opened * depth, "[" + "[]," * depth + "1]"))
    name = rng.choice([*arguments, "params", "expl", "info", "statistics", "more"])
    return json.dumps(arguments)[:-1] + f"{',' if arguments else ''} {json.dumps(name)}: {inner}}}"


def _doubled(rng: random.Random, arguments: Arguments) -> str:
    """An argument is there twice."""
    if not arguments:
        return '{"a": 1, "a": 2}'
    name = rng.choice(list(arguments))
    return "{" + f"{json.dumps(name)}: {json.dumps(_value(rng))}, " + json.dumps(arguments)[1:]


def _literal(rng: random.Random, arguments: Arguments) -> str:
    """A value as it is not written, or hardly ever."""
    name = rng.choice([*arguments, "priority"])
    return json.dumps({**arguments, name: "@"}).replace('"@"', rng.choice(LITERALS), 1)


def _bytes(rng: random.Random, arguments: Arguments) -> str:
    """Some characters are lost, doubled or other ones."""
    text = json.dumps(arguments)
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(text) + 1)
        text = (
            text[:at] + rng.choice(("", "", '"', "\\", "{", "}", ",", "\\u", "\0", "\x7f", "\ud800", "\ufeff")) + text[at + 1 :]
        )
    return text


def _other(rng: random.Random, arguments: Arguments) -> str:
    """Something else altogether."""
    text = json.dumps(arguments)
    return rng.choice(
        (
            f"[{text}]",
            text * 2,
            text[: rng.randrange(len(text))],
            f" \n{text}\t",
            json.dumps(text),
            "null",
            "0",
            " ",
            f"\ufeff{text}",
        )
    )
