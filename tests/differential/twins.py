"""Two schedulers that must not be told apart: stock's (`oracle`) and ours, given the same calls at the same time.

Ours runs whole: replicas that take turns on one memory store, so that calls are run, sealed, committed, lose against each other,
are undone and run again, and followed from the journal.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock
from zlib import crc32

from luigi import notifications
from luigi import scheduler as luigi_scheduler
from luigi.metrics import MetricsCollector
from luigi.task_history import TaskHistory
from oracle import Oracle, Stock

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call
from luigi_spanner.graph import listings
from luigi_spanner.graph.containers import OwnedSet
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.listings import LISTINGS, Listings, Render
from luigi_spanner.graph.state import NoSuchBatch
from luigi_spanner.replica import Replica
from luigi_spanner.stores.memory import Database, MemoryStore

EPOCH = 1_000_000.0
"""When every history begins, in seconds since the epoch."""

RESTART = "(restart)"
"""Method of a step that is no call: ours' replica ends, and another starts from what the store holds."""


@dataclass(frozen=True)
class Setup:
    """What both sides are made of: the keys of [scheduler], those of [resources], and how many replicas ours has."""

    rules: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=lambda: {"r": 2})
    replicas: int = 1


@dataclass(frozen=True)
class Step:
    """A call `at` seconds after the epoch of the history, taken by ours' replica `taker`. One that is `joined` runs in one batch
    with the step before."""

    at: float
    method: str
    arguments: dict[str, Any] = field(default_factory=dict)
    taker: int = 0
    joined: bool = False

    def __repr__(self) -> str:
        parts = [repr(self.at), repr(self.method), repr(self.arguments)]
        parts += [f"taker={self.taker}"] if self.taker else []
        parts += ["joined=True"] if self.joined else []
        return f"Step({', '.join(parts)})"


class Difference(AssertionError):
    """The twins answered a step differently. `index` counts the steps played before it."""

    def __init__(self, index: int, step: Step, what: str, stock: object, ours: object) -> None:
        super().__init__(f"step {index} {step!r}: {what} differ\n  stock: {stock}\n  ours:  {ours}")
        self.index = index
        self.what = what


class Failed(Exception):
    """A replica of ours has stopped serving."""


class Witness(TaskHistory, MetricsCollector):
    """Notes every effect that one side has: history rows, metrics, mail."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def note(self, kind: str, task: Any, *more: Any) -> None:
        self.seen.append((kind, task.id, task.status, task.family, dict(task.params), task.worker_running, *more))

    def task_scheduled(self, task: Any) -> None:
        self.note("scheduled", task)

    def task_finished(self, task: Any, successful: bool) -> None:
        self.note("finished", task, successful)

    def task_started(self, task: Any, worker_host: Any) -> None:
        self.note("started", task, worker_host)

    def handle_task_started(self, task: Any) -> None:
        self.note("metric started", task)

    def handle_task_failed(self, task: Any) -> None:
        self.note("metric failed", task)

    def handle_task_disabled(self, task: Any, config: Any) -> None:
        self.note("metric disabled", task)

    def handle_task_done(self, task: Any) -> None:
        self.note("metric done", task)

    def handle_task_statistics(self, task: Any, statistics: Any) -> None:
        self.note("metric statistics", task, statistics)

    def generate_latest(self) -> None:
        return None

    def configure_http_handler(self, http_handler: Any) -> None:
        return None

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.seen = self.seen, []
        return taken


class Mailer:
    """Stands in for Luigi's BatchNotifier, which mails by its own clock."""

    _next_send = 0.0

    def add_failure(self, *args: Any) -> None: ...

    def add_disable(self, *args: Any) -> None: ...

    def add_scheduling_fail(self, *args: Any) -> None: ...

    def update(self) -> None: ...

    def send_email(self) -> None: ...


class _Ids:
    """Stands in for the module `uuid` in Luigi's scheduler: one id for each step, however often it runs."""

    number = 0

    def uuid4(self) -> uuid.UUID:
        return uuid.UUID(int=self.number)


class Ours:
    """Replicas on one memory store."""

    def __init__(self, setup: Setup, config: Any, witness: Witness, clock: Callable[[], float]) -> None:
        self._setup = setup
        self._config = config
        self._witness = witness
        self._clock = clock
        self._database = Database()
        self._ids = 0
        self._replicas = [self._start() for _ in range(setup.replicas)]

    def _start(self) -> tuple[Replica, Listings]:
        graph = Graph(self._config, dict(self._setup.limits), self._witness, grain=0.0, clock=self._clock)
        graph._state._metrics_collector = self._witness
        replica = Replica(
            name=f"replica {self._next_id()}",
            namespace="default",
            store=MemoryStore(namespace="default", database=self._database),
            graph=graph,
            ids=self._next_id,
            clock=self._clock,
            sleep=_never,
        )
        _drive(replica.load())
        _settle(replica, [Waiting(Call(request_id="", method="configure"), graph.configure, encoded=False)])
        return replica, Listings(graph)

    def _next_id(self) -> str:
        self._ids += 1
        return str(self._ids)

    def restart(self, taker: int) -> None:
        self._replicas[taker % len(self._replicas)] = self._start()

    def batch(self, taker: int, calls: Iterable[tuple[str, str, Callable[[], object]]]) -> list[str | Exception]:
        """The replies, in JSON, or errors of one batch; a call is a method, arguments in JSON, and what to do before it runs."""
        replica, listed = self._replicas[taker % len(self._replicas)]
        answers = _settle(replica, [self._waiting(replica.graph, listed, *call) for call in calls])
        # What a listing has left to a thread is done when the batch has been committed.
        return [_worded(answer) if callable(answer) else answer for answer in answers]

    def _waiting(self, graph: Graph, listed: Listings, method: str, arguments: str, before: Callable[[], object]) -> Waiting:
        values = json.loads(arguments)
        # Which of the two ways a listing goes depends on nothing that changes while a history shrinks.
        aside = method in LISTINGS and crc32(f"{self._clock()} {arguments}".encode()) % 4

        def run(**values: Any) -> str | Render:
            before()
            if aside:
                render: Render = getattr(listed, method)(math.inf, **values)
                return render
            return json.dumps(getattr(graph, method)(**values))

        return Waiting(Call(request_id="", method=method, arguments=values), run, encoded=False)


def _worded(render: Render) -> str | Exception:
    try:
        return render().decode()
    except Exception as error:  # As errors of calls.
        return error


def _settle(replica: Replica, batch: list[Waiting]) -> list[Any]:
    try:
        _drive(replica.settle(list(batch)))
    except Exception as error:  # Errors of calls are in their answers; anything else is a fault.
        raise Failed(repr(error)) from error
    if replica.failure is not None:
        raise Failed(replica.failure)
    return [waiting.reply if waiting.error is None else waiting.error for waiting in batch]


def _drive(coroutine: Any) -> None:
    """Run a coroutine on stores that never suspend."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it suspends")


async def _never(seconds: float) -> None:
    raise AssertionError("nothing waits when replicas take turns")


class Twins:
    """Both sides, while entered: what they see of the outside is then equal and repeatable (ids, mail, the order of sets)."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.time = EPOCH
        self.played = 0
        self._ids = _Ids()
        self._stock_witness = self._playing = Witness()
        self._our_witness = Witness()

    def __enter__(self) -> Twins:
        with ExitStack() as patches:
            # As in `oracle.SortedSet`.
            patches.enter_context(mock.patch.object(OwnedSet, "__iter__", lambda self: iter(sorted(set(self))), create=True))
            patches.enter_context(mock.patch.object(luigi_scheduler, "uuid", self._ids))
            # So that both ways of making the graph around a task are gone.
            patches.enter_context(mock.patch.object(listings, "SMALL", 3))
            patches.enter_context(mock.patch.object(luigi_scheduler, "BatchNotifier", Mailer))
            patches.enter_context(mock.patch.object(notifications, "send_error_email", self._mail))
            self._start()
            self._patches = patches.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._patches.close()

    def _start(self) -> None:
        config = luigi_scheduler.scheduler(**self.setup.rules)
        witness = self._stock_witness
        self._stock = Oracle(lambda: Stock(config, self.setup.limits, witness, witness), self._number)
        self._ours = Ours(self.setup, config, self._our_witness, lambda: self.time)

    def _number(self, number: int) -> None:
        self._ids.number = number

    def _mail(self, *args: Any, **kwargs: Any) -> None:
        self._playing.seen.append(("mail", args, kwargs))

    def play(self, batch: Sequence[Step]) -> list[Any]:
        """Play steps, all of one batch, and return stock's replies (None for an error). Raises Difference."""
        first = batch[0]
        self.time = EPOCH + first.at
        try:
            replies = self._restart(first.taker) if first.method == RESTART else self._play(batch)
        except Failed as failure:
            raise Difference(self.played, first, "fates", "goes on", failure) from failure
        self.played += len(batch)
        return replies

    def _restart(self, taker: int) -> list[Any]:
        self._ours.restart(taker)
        return [None]

    def _play(self, batch: Sequence[Step]) -> list[Any]:
        texts = [json.dumps(step.arguments) for step in batch]
        numbers = range(self.played, self.played + len(batch))
        stock = [self._on_stock(*step) for step in zip(batch, texts, numbers, strict=True)]
        ours = self._on_ours(batch, texts, numbers)
        for number, step, expected, answer in zip(numbers, batch, stock, ours, strict=True):
            if expected != answer and _normal(expected) != _normal(answer):
                raise Difference(number, step, "replies", expected, answer)
        effects = self._stock_witness.take(), self._our_witness.take()
        if effects[0] != effects[1]:
            raise Difference(numbers[-1], batch[-1], "effects", *effects)
        return [json.loads(reply) if isinstance(reply, str) else None for reply in stock]

    def _on_stock(self, step: Step, text: str, number: int) -> str | type[Exception]:
        self._playing = self._stock_witness
        before = list(self._stock_witness.seen)
        try:
            return self._stock.call(self.time, number, step.method, text)
        except Exception as error:  # A rule may raise anything: ours must raise the same.
            self._stock_witness.seen = before
            return type(error)

    def _on_ours(self, batch: Sequence[Step], texts: Sequence[str], numbers: Sequence[int]) -> list[str | type[Exception]]:
        self._playing = self._our_witness
        calls = [
            (step.method, text, partial(self._number, number)) for step, text, number in zip(batch, texts, numbers, strict=True)
        ]
        replies = self._ours.batch(batch[0].taker, calls)
        return [reply if isinstance(reply, str) else _as_stock(type(reply)) for reply in replies]


def _as_stock(error: type[Exception]) -> type[Exception]:
    """The error that stock raises where ours raises this one: ours may say more exactly what is wrong."""
    return IndexError if issubclass(error, NoSuchBatch) else error


def _normal(reply: str | type[Exception]) -> Any:
    """A reply without what says nothing: the order of a task's dependencies, which is luck on both sides, and that of the
    names in objects, except the outermost: there it is the order of tasks. Ours forgets it in what it loads."""
    if not isinstance(reply, str):
        return reply
    value = json.loads(reply, object_hook=_sort_deps)
    return (list(value), value) if isinstance(value, dict) else value


def _sort_deps(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "deps": sorted(value["deps"])} if isinstance(value.get("deps"), list) else value


def batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps in batches, as `Step.joined` says."""
    batch: list[Step] = []
    for step in steps:
        if batch and not (step.joined and step.method != RESTART != batch[0].method):
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch


def play(setup: Setup, steps: Iterable[Step]) -> None:
    """Play a whole history. Raises Difference."""
    with Twins(setup) as twins:
        for batch in batches(steps):
            twins.play(batch)
