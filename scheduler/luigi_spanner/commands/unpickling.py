"""A program of its own: it reads a state.pickle of stock luigid and prints what it holds as JSON lines. Nothing in it is run.

It imports the standard library alone, and is started without the environment and without what is installed; it limits itself. A
pickle may name a handful of classes, which stand for Luigi's own here and can do nothing. Whatever else it names is refused, and
not even looked up.

    python -I -S unpickling.py FILE

The first line counts what comes: `{"workers": 2, "tasks": 9, "batchers": 0}`. Then a line each, `{"worker": ID, "has": {...}}`,
`{"task": ID, "has": {...}}`, `{"batcher": [WORKER, FAMILY, PARAMETERS, SIZE]}`, and at last `{"end": true}`. Or
`{"refused": SENTENCE}`, and exit code 1.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

BASE_BYTES = 512 * 1024 * 1024
BYTES_PER_BYTE = 60
"""Memory that the process may have: what Python needs, and what a pickle of stock takes for each byte of the file, some 15 in
Luigi 3 (measured), with room to spare."""

BASE_SECONDS = 20
SECONDS_PER_BYTE = 10 / 1024 / 1024
"""Processor time that it may take: stock's pickles take some 0.3 s a MiB (measured)."""

DEPTH = 50
"""How deep values may nest. Arguments of calls nest 100 levels at most, and stock's own values hardly any."""

BASE_ROOM = 1_000_000
ROOM_PER_BYTE = 20
"""How much may be printed, about in characters: whoever reads it has to hold it. A pickle may name one value many times, so a
small one may stand for an endless text. Stock's take about two for each byte (measured)."""

CONTAINER = 4
"""What a list or a dictionary takes of the room beside what is in it: in memory it is as long as some texts."""


class Refused(Exception):
    """The pickle is not what stock writes. The message is a sentence."""


class Stand:
    """Stands for an object of Luigi's: its attributes and nothing more."""

    __slots__ = ("has",)

    def __setstate__(self, has: Any) -> None:
        if type(has) is not dict:
            raise Refused("an object's attributes are no dictionary")
        self.has = has


class Task(Stand):
    __slots__ = ()


class Worker(Stand):
    __slots__ = ()


class Ordered(Stand):
    """Luigi's ordered set: a linked list of [key, previous, next], with `end` as the sentinel."""

    __slots__ = ()

    def keys(self) -> Iterator[Any]:
        """The members in order. However its links go, it is as long as its map at most."""
        end, known = self.has["end"], self.has["map"]
        link = end[2]
        for _ in range(len(known)):
            if link is end:
                return
            yield link[0]
            link = link[2]


class Failures(Stand):
    """What Luigi before 2.8.9 keeps of a task's failures."""

    __slots__ = ()


class Stateless:
    """What a pickle may name or make, and cannot give attributes, neither to it nor to its class."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise Refused("something has attributes that has none in Luigi")


class Policy(Stateless, tuple[Any, ...]):
    """Luigi's retry policy."""

    __slots__ = ()

    def __new__(cls, *fields: Any) -> Policy:
        return tuple.__new__(cls, fields)


class Reconstructor(Stateless):
    """How Python 2 makes an object. No function, for that would take attributes."""

    __slots__ = ()

    def __call__(self, kind: Any, base: Any, state: Any) -> Any:
        if kind is Policy and base is tuple:
            return Policy(*state)
        if kind in (Task, Worker, Ordered, Failures) and base is object:
            return kind.__new__(kind)
        raise Refused("an object is made of something else than itself")


KNOWN: dict[tuple[str, str], Any] = {
    ("luigi.scheduler", "Task"): Task,
    ("luigi.scheduler", "Worker"): Worker,
    ("luigi.scheduler", "OrderedSet"): Ordered,
    ("luigi.scheduler", "RetryPolicy"): Policy,
    ("luigi.scheduler", "Failures"): Failures,
    ("collections", "deque"): deque,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("__builtin__", "object"): object,
    ("__builtin__", "tuple"): tuple,
    ("copy_reg", "_reconstructor"): Reconstructor(),
}
"""All that pickles of stock name, from Luigi 2.3 on Python 2 to 3.8 (looked up in real ones)."""


class Unpickler(pickle.Unpickler):
    """Admits `KNOWN` alone."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return KNOWN[module, name]
        except KeyError:
            raise Refused(f"it names {module}.{name}, which is no part of a scheduler's state") from None


class Plain:
    """Makes plain JSON values, for which there is so much `room`."""

    def __init__(self, room: float) -> None:
        self._room = room

    def value(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if depth > DEPTH:
            raise Refused("its values are nested without end")
        self._take(_length(value))
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is dict:
            return {self._key(key): self.value(item, depth + 1) for key, item in value.items()}
        if kind in (list, tuple, set, deque, Policy):
            return [self.value(item, depth + 1) for item in value]
        if kind is Ordered:
            return [self.value(item, depth + 1) for item in value.keys()]  # noqa: SIM118
        if kind is Failures:
            return self.value(value.has, depth + 1)
        raise Refused(f"there is a {kind.__name__} where a plain value belongs")

    def _key(self, key: Any) -> str:
        if type(key) is not str:
            raise Refused("a key is no text")
        self._take(_length(key))
        return key

    def _take(self, room: int) -> None:
        self._room -= room
        if self._room < 0:
            raise Refused("its values are nested without end, far too many or far too long")


def _length(value: object) -> int:
    """What a value takes of the room by itself."""
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, int):
        return 1 + value.bit_length() // 3
    return 1 if value is None or isinstance(value, float) else 1 + CONTAINER


def load(path: str) -> Any:
    """What the file holds, in stand-ins. Raises Refused."""
    with open(path, "rb") as file:
        # Python 2 wrote bytes for text.
        return Unpickler(file, encoding="utf-8", errors="surrogateescape").load()


def described(state: Any, plain: Plain) -> Iterator[dict[str, Any]]:
    """The lines. Raises Refused."""
    if type(state) is not tuple or len(state) not in (2, 3) or any(type(part) is not dict for part in state):
        raise Refused("it holds something else than the state of a luigid")
    tasks, workers, *rest = state
    batchers = rest[0] if rest else {}
    families = [(worker, family, batcher) for worker, named in batchers.items() for family, batcher in pairs(named)]
    yield {"workers": len(workers), "tasks": len(tasks), "batchers": len(families)}
    for kind, known in ((Worker, workers), (Task, tasks)):
        for key, stand in known.items():
            if type(key) is not str or type(stand) is not kind:
                raise Refused(f"it holds something else than a {kind.__name__.lower()} by its id")
            # The tasks of a worker are those that name it.
            has = {name: value for name, value in stand.has.items() if (kind, name) != (Worker, "tasks")}
            yield {kind.__name__.lower(): key, "has": plain.value(has)}
    for worker, family, batcher in families:
        yield {"batcher": [plain.value(worker), plain.value(family), *plain.value(batcher)]}
    yield {"end": True}


def pairs(named: Any) -> Any:
    if type(named) is not dict:
        raise Refused("it holds something else than batchers by family")
    return named.items()


def limit(size: int) -> None:
    """Take from this process what reading so many bytes does not need."""
    try:
        import resource
    except ImportError:  # no Unix
        return
    memory = BASE_BYTES + BYTES_PER_BYTE * size
    with suppress(ValueError, OSError):  # a system that does not tell
        memory = min(memory, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    limits = {"AS": memory, "CPU": BASE_SECONDS + int(SECONDS_PER_BYTE * size), "FSIZE": 0, "CORE": 0, "NOFILE": 16, "NPROC": 0}
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        if number is not None:
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            try:
                # The signal of the soft limit tells what it was.
                resource.setrlimit(number, (value, value if name != "CPU" else hard))
            except (ValueError, OSError):  # macOS refuses some
                continue


def main(path: str, write: Callable[[str], object]) -> int:
    size = os.path.getsize(path)
    limit(size)
    try:
        lines = described(load(path), Plain(BASE_ROOM + ROOM_PER_BYTE * size))
        for line in lines:
            write(f"{json.dumps(line, separators=(',', ':'))}\n")
    except Refused as refused:
        reason = str(refused)
    except MemoryError:
        reason = "it needs far more memory than a state of its size"
    except EOFError:
        reason = "it ends too early"
    except Exception as error:  # a pickle's bytes may make the reader fail in any way
        reason = f"it cannot be read ({type(error).__name__}: {error})"
    else:
        return 0
    write(f"{json.dumps({'refused': ascii(reason[:500])[1:-1]})}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.stdout.write))
