"""What workers and browsers do, as sessions of the client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.client import Pause, Request, Session, call, value
from benchmarks.graphs import add

LISTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("task_list", {"status": "PENDING", "upstream_status": "", "limit": False}),
    ("task_list", {"status": "RUNNING", "upstream_status": "", "limit": False}),
    ("worker_list", {}),
    ("resource_list", {}),
)
"""What the visualiser asks for; without the limit beyond which it would only be told a number."""


def send(requests: Iterable[Request]) -> Session:
    """One request after the other."""
    for request in requests:  # noqa: UP028 - a list's iterator cannot be sent the replies
        yield request


def number_of(task_id: str) -> int:
    """The number that `graphs.task_id` made a task of."""
    return int(task_id.rsplit("_", 2)[1])


def done(task_id: str, owner: str, **arguments: Any) -> Request:
    """What a worker says of a task that has run."""
    return call("add_task", add(number_of(task_id), owner, status="DONE", **arguments))


def take(owner: str) -> Request:
    """The call of a worker that wants a task."""
    return call("get_work", {"worker": owner, "host": "bench", "assistant": False})


def life(owner: str, numbers: Iterable[int]) -> Session:
    """A worker that adds its tasks and runs them all: three calls a task."""
    for number in numbers:
        yield call("add_task", add(number, owner))
    yield from busy(owner)


def busy(owner: str, **arguments: Any) -> Session:
    """A worker that takes tasks and calls them done at once, until it gets none."""
    while (found := value((yield take(owner)))["task_id"]) is not None:
        yield done(found, owner, **arguments)


def cycle(owner: str, numbers: Iterable[int]) -> Session:
    """A worker that adds a task, takes one and finishes it, over and over."""
    for number in numbers:
        yield call("add_task", add(number, owner))
        found = value((yield take(owner)))["task_id"]
        if found is not None:
            yield done(found, owner)


def sequential(owner: str, size: int, rounds: int) -> Session:
    """A worker that adds `size` tasks, then runs some of them, with a ping in between."""
    for number in range(size):
        yield call("add_task", add(number, owner))
    for _ in range(rounds):
        found = value((yield take(owner)))["task_id"]
        yield call("ping", {"worker": owner})
        if found is not None:
            yield done(found, owner)


def idle(owner: str, pause: float = 1.0) -> Session:
    """A worker that has nothing to do: it pings and asks for work every second, as Luigi's does by default."""
    while True:
        yield call("ping", {"worker": owner})
        yield Pause(seconds=pause / 2)
        yield take(owner)
        yield Pause(seconds=pause / 2)


def working(owner: str, first: int, arguments: Mapping[str, Any], pause: float) -> Session:
    """A worker that pings, adds a task and takes one, with a pause after each call."""
    number = first
    while True:
        yield call("ping", {"worker": owner})
        yield Pause(seconds=pause)
        yield call("add_task", add(number, owner, **arguments))
        yield Pause(seconds=pause)
        yield take(owner)
        yield Pause(seconds=pause)
        number += 1


def browse(pause: float = 1.0) -> Session:
    """A browser that shows the visualiser and reloads its lists."""
    requests = [call(method, arguments, headers="Accept-Encoding: gzip\r\n") for method, arguments in LISTS]
    while True:
        yield from send(requests)
        yield Pause(seconds=pause)
