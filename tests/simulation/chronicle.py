"""What a run leaves behind for the judges: requests, attempts to run them, and the entries that landed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from luigi_spanner.journal import Entry

Liveness = dict[str, tuple[float, float | None]]
"""`last_active` and `last_get_work` by worker, as one replica knows them. This is soft state: the judge is told of it."""


CLOCKS = 3.0
"""Seconds by which clocks may be apart, and some more for the way."""


class Violation(Exception):
    """A promise is broken. `oracle` names which."""

    def __init__(self, oracle: str, what: str) -> None:
        super().__init__(f"({oracle}) {what}")
        self.oracle = oracle


@dataclass(eq=False)
class Request:
    """One HTTP request of a client: `sent` and `answered` in seconds from the beginning. `heard`: when the client
    got the answer, `attempt` the last that ran it."""

    number: int
    method: str
    arguments: dict[str, Any]
    sent: float
    client: str
    answered: float | None = None
    reply: str | None = None
    error: Exception | None = None
    attempt: Attempt | None = None
    heard: float | None = None

    @property
    def id(self) -> str:
        return str(self.number)

    @property
    def value(self) -> Any:
        """The reply."""
        return json.loads(self.reply or "null")

    @property
    def told_nothing(self) -> bool:
        """Whether it is a ping that brought no message: it need not wait for its commit (I7)."""
        return self.method == "ping" and self.reply is not None and not self.value["rpc_messages"]

    def __str__(self) -> str:
        return f"{self.id} {self.method} {self.arguments}"


@dataclass(eq=False)
class Ran:
    """A call as one attempt ran it. `result`: its reply as JSON, or None if it raised."""

    request_id: str
    method: str
    liveness: Liveness
    clock: float
    result: str | None = None


@dataclass(eq=False)
class Attempt:
    """A batch run in memory on top of entry `seq` - 1. `recorded` are the ids of the calls that changed something. `settled`: it
    was not undone, and its effects have been released."""

    number: int
    node: str
    seq: int
    began: float
    calls: dict[str, Ran] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    landed: bool = False
    settled: bool = False


@dataclass(eq=False)
class Landed:
    """An entry in the journal since `at` seconds; `attempt` is None if it records no calls."""

    entry: Entry
    at: float
    attempt: Attempt | None


@dataclass
class Record:
    """The whole run."""

    requests: dict[str, Request] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    journal: list[Landed] = field(default_factory=list)
    received: dict[tuple[str, str], float] = field(default_factory=dict)
    effects: list[tuple[Any, ...]] = field(default_factory=list)
    mailed: set[int] = field(default_factory=set)
    events: list[str] = field(default_factory=list)
