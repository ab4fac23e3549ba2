"""The scheduler in a process: a drop-in for `luigi.scheduler.Scheduler` whose every call is durable when it returns."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from luigi.scheduler import RPC_METHODS

from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call, Status, UnknownMethod
from luigi_spanner.graph.graph import Graph
from luigi_spanner.ids import random_id
from luigi_spanner.journal import Entry, Row
from luigi_spanner.methods import OURS, is_remote
from luigi_spanner.metrics.page import metrics_of
from luigi_spanner.replica import Replica
from luigi_spanner.stores import Closed, Outcome, Snapshot, Store
from luigi_spanner.stores.location import open_store, parse

T = TypeVar("T")


class Scheduler(Graph):
    """Luigi's scheduler, in this process, its state in a store.

    `store` is a store URL, `namespace` a name in it; the rest is as in Luigi. Constructing it loads the state. Calls may come
    from several threads; they take turns. Errors of the rules are raised as they are, those of the store as StoreError.
    """

    def __init__(
        self,
        config: Any = None,
        resources: dict[str, Any] | None = None,
        task_history_impl: Any = None,
        *,
        store: str = "memory://",
        namespace: str = "default",
        **scheduler_keys: Any,
    ) -> None:
        super().__init__(config, resources, task_history_impl, **scheduler_keys)
        self.address(store, namespace)
        self._connect()

    def address(self, url: str, namespace: str) -> None:
        """Belong to a namespace of a store, without connecting to it yet."""
        self._url = url
        self._namespace = namespace
        self._inside = _Inside()
        self._pid: int | None = None

    def _connect(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        opened = _open(self._url, self._namespace)
        self._replica = Replica(
            name=f"in-process/{self._pid}/{random_id()[:8]}",
            namespace=self._namespace,
            store=opened,
            graph=self,
            ids=random_id,
            clock=lambda: time.time(),
            sleep=_sleep,
        )
        _drive(self._replica.load())
        self._store = opened
        self._perform(Graph.configure, "configure", {})

    # Calls

    def _perform(self, rule: Callable[..., Any], method: str, arguments: dict[str, Any]) -> Any:
        """Run one call to its end. A call that a rule makes of another is part of the first."""
        if self._inside.running:
            return rule(self, **arguments)
        call = Call(request_id=random_id(), method=method, arguments=_values(arguments))
        return self._settle(Waiting(call, functools.partial(rule, self), encoded=False))

    def _settle(self, waiting: Waiting) -> Any:
        """The reply to a call, once it is durable, in containers of its own. Raises what it ended with."""
        self._follow_fork()
        with self._lock:
            self._inside.running = True
            try:
                _drive(self._replica.settle([waiting]))
                reply = _values(waiting.reply)
                _drive(self._replica.tidy())
            finally:
                self._inside.running = False
        if waiting.error is not None:
            raise waiting.error
        return reply

    def _follow_fork(self) -> None:
        """A forked child has no share in its parent's connections and locks. On a memory store it goes on with its copy."""
        if os.getpid() == self._pid:
            return
        if self._pid is not None and parse(self._url).kind == "memory":
            self._pid = os.getpid()
            self._lock = threading.RLock()
        else:
            self._connect()

    async def call(self, call: Call) -> bytes:
        """The reply's value as JSON, for a server in this process. Raises CallError."""
        if not is_remote(call.method) or not hasattr(self, call.method):
            raise UnknownMethod(f"there is no method {call.method!r}")
        return bytes(self._settle(Waiting(call, getattr(super(), call.method))))

    # What a server needs besides

    async def start(self) -> None:
        """It has started when it was made."""

    async def stop(self) -> None:
        self.close()

    async def status(self) -> Status:
        return Status(
            ready=self._replica.failure is None,
            reasons=() if self._replica.failure is None else (self._replica.failure,),
            replica=self._replica.name,
            namespace=self._namespace,
            applied=self.ledger.applied,
            watermark=self.ledger.watermark,
        )

    async def ended(self) -> str:
        """It never ends by itself: whoever embeds it learns of a fault from the call that meets it."""
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    @property
    def history(self) -> None:
        """An embedded scheduler writes down no history of its own: its caller may pass a `task_history_impl`, as to stock."""

    async def metrics(self) -> tuple[bytes, str] | None:
        return metrics_of(self._state._metrics_collector)

    def observe(self, method: str, outcome: str, seconds: float) -> None:
        """As stock's, it exposes what its collector does and nothing more."""

    # Stock's pickle, which embedding code may ask for; our state is in the store in any case

    def load(self) -> None:
        """Take over stock's pickle at the state path, if our state is empty."""
        self._perform(Graph.load, "load", {})

    def dump(self) -> None:
        """Write stock's pickle to the state path and mail what waits, as stock does."""
        self._perform(Graph.dump, "dump", {})

    def close(self) -> None:
        """Release the store. Calls after this raise Closed."""
        _drive(self._store.close())

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled scheduler is its address: the copy opens the same store, once it is used. In memory it starts empty."""
        return _restored, (self._config, self._url, self._namespace)


def _values(value: Any) -> Any:
    """`value` with containers of its own: the caller may change what it passed and what it got, and state must not follow."""
    if isinstance(value, dict):
        return {key: _values(item) for key, item in value.items()}
    if isinstance(value, (list, set, frozenset)):
        return type(value)(_values(item) for item in value) if type(value) in (list, set, frozenset) else [*map(_values, value)]
    return value


def _restored(config: Any, url: str, namespace: str) -> Scheduler:
    """An unpickled scheduler. It does not connect yet: it may only be passed on, in a forked child where gRPC cannot work."""
    scheduler = Scheduler.__new__(Scheduler)
    Graph.__init__(scheduler, config)
    scheduler.address(url, namespace)
    return scheduler


class _Inside(threading.local):
    """Whether this thread is running a call."""

    running = False


def _durable(name: str) -> Callable[..., Any]:
    rule = getattr(Graph, name)

    @functools.wraps(rule)
    def durable(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        if self._inside.running:
            return rule(self, *args, **kwargs)
        if args:
            return self._perform(lambda self, **arguments: rule(self, *_values(list(args)), **arguments), name, kwargs)
        return self._perform(rule, name, kwargs)

    return durable


for _name in (*RPC_METHODS, *sorted(OURS)):
    # Whatever Luigi calls an RPC method is one, also in a later Luigi.
    setattr(Scheduler, _name, _durable(_name))


# Driving the commit loop without an event loop of the caller's


def _drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends: stores for embedding block instead."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value  # type: ignore[no-any-return]
    coroutine.close()
    raise RuntimeError("an embedded scheduler's store must not suspend")


async def _sleep(seconds: float) -> None:
    # Blocking is meant: only the caller's thread waits.
    time.sleep(seconds)


def _open(url: str, namespace: str) -> Store:
    if parse(url).kind == "memory":
        return _drive(open_store(url, namespace))
    return BlockingStore(url, namespace)


class BlockingStore:
    """A store whose methods block: its work is done by an event loop of its own, in a thread of its own."""

    def __init__(self, url: str, namespace: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store", daemon=True)
        self._thread.start()
        try:
            self._store = self._wait(open_store(url, namespace))
        except BaseException:
            self._end()
            raise

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise Closed("the scheduler is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def load(self) -> Snapshot:
        return self._wait(self._store.load())

    async def read_after(self, seq: int) -> list[Entry]:
        return self._wait(self._store.read_after(seq))

    async def commit(self, seq: int, entry: Entry, rows: Sequence[Row]) -> Outcome:
        return self._wait(self._store.commit(seq, entry, rows))

    async def truncate(self, before: int) -> None:
        self._wait(self._store.truncate(before))

    async def close(self) -> None:
        if not self._loop.is_closed():
            self._wait(self._store.close())
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
