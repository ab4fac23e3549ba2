"""`import-pickle`: take over the state that a stock luigid saved.

What is imported goes into the journal like the changes of any call, a portion an entry: each is whole or not there, and replicas
that serve the namespace follow.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from luigi_spanner.commands import DONE, Impossible, Problem, Unclear, parsing
from luigi_spanner.commands.output import ago, print_fields, print_json, progress, say, say_nothing
from luigi_spanner.config import check_luigi, luigi_config

if TYPE_CHECKING:
    from luigi_spanner.commands.pickled import Pickled
    from luigi_spanner.graph.adoption import StockTask
    from luigi_spanner.graph.graph import Graph
    from luigi_spanner.replica import Replica

TASKS_AT_ONCE = 1000
"""Most tasks of one entry, some 0.1 s of work (measured): live replicas apply it at a stretch."""

RELATIONS_AT_ONCE = 20_000
"""About how many dependencies and relations to workers one entry takes along, for the same reason."""

WORKERS_AT_ONCE = 5000
"""Most workers of one entry."""


def add(commands: parsing.Parsers) -> None:
    parser = parsing.add_stored(
        commands,
        "import-pickle",
        _import,
        "take over the state.pickle of a stock luigid that was stopped; nothing in it is run",
        "luigi-spanner import-pickle --dry-run /var/lib/luigi-server/state.pickle",
    )
    parser.add_argument("file", metavar="FILE", help="the state.pickle")
    parser.add_argument("--dry-run", action="store_true", help="say what would be imported, and change nothing")
    parser.add_argument("--replace", action="store_true", help="let go of all tasks, workers and batchers that the namespace has")
    parser.add_argument("--while-serving", action="store_true", help="import although replicas serve the namespace")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")


def _import(arguments: argparse.Namespace) -> int:
    from luigi_spanner.commands import pickled
    from luigi_spanner.stores.location import parse

    config = luigi_config()
    store, namespace = parsing.store(arguments), parsing.namespace(arguments)
    if parse(store).kind == "memory":
        raise Impossible("A memory store is gone with its process: name another with --store")
    check_luigi(config)
    # A bar without an end: how much there is the file says first.
    with progress("read", 0) as bar:
        state = pickled.read(arguments.file, bar.advance)
    described = _described(arguments.file, state)
    if not arguments.dry_run:
        try:
            described.update(asyncio.run(_write(store, namespace, state, arguments)))
        except KeyboardInterrupt:
            print("Interrupted half way; run it again with --replace.", file=sys.stderr)
            raise
    if arguments.json:
        print_json(described)
    else:
        _print(described, arguments.dry_run)
    return DONE


def _described(path: str, state: Pickled) -> dict[str, Any]:
    statuses = Counter(task.row["status"] for task in state.tasks)
    return {
        "file": os.path.abspath(path),
        "tasks": dict(sorted(statuses.items())),
        "workers": len(state.workers),
        "batchers": len(state.batchers),
        "last_active": max((worker.row["last_active"] for worker in state.workers), default=None),
        "ignored": sorted(state.ignored),
    }


def _print(described: dict[str, Any], dry_run: bool) -> None:
    tasks = ", ".join(f"{count} {status}" for status, count in described["tasks"].items())
    fields = [
        ("file", described["file"]),
        ("tasks", tasks or "none"),
        ("workers", described["workers"]),
        ("batchers", described["batchers"]),
        ("last active", ago(described["last_active"])),
        ("left out", ", ".join(described["ignored"])),
    ]
    print_fields((name, value) for name, value in fields if value not in (None, ""))
    say_nothing()
    if dry_run:
        say("Nothing was changed.")
    else:
        say(f"Imported, up to entry {described['seq']}. Start replicas now: workers have worker_disconnect_delay to find them.")


async def _write(url: str, namespace: str, state: Pickled, arguments: argparse.Namespace) -> dict[str, Any]:
    """Write the state into the namespace; where its journal then ends."""
    from luigi_spanner.graph import adoption
    from luigi_spanner.stores.location import open_store

    store = await open_store(url, namespace)
    try:
        replica, graph = _replica(store, namespace)
        await replica.load()
        if not arguments.while_serving:
            _require_nobody(graph)
        if not adoption.is_empty(graph) and not arguments.replace:
            raise Problem(f"Namespace {namespace} is not empty: --replace lets go of the tasks, workers and batchers that it has")
        await _run(replica, partial(adoption.begin, graph))
        await _clear(replica, graph)
        with progress("tasks", len(state.tasks)) as bar:
            for start in range(0, max(1, len(state.workers)), WORKERS_AT_ONCE):
                batchers = () if start else state.batchers
                await _run(
                    replica, partial(adoption.adopt_workers, graph, state.workers[start : start + WORKERS_AT_ONCE], batchers)
                )
            for portion in _portions(state.tasks):
                await _run(replica, partial(adoption.adopt_tasks, graph, portion))
                bar.advance(len(portion))
        await _run(replica, partial(adoption.finish, graph))
        return {"seq": graph.ledger.applied}
    finally:
        await store.close()


def _replica(store: Any, namespace: str) -> tuple[Replica, Graph]:
    """A replica that serves nobody: it writes entries as they all do."""
    from luigi import scheduler as luigi_scheduler
    from luigi.task_history import NopHistory

    from luigi_spanner.batch import Load
    from luigi_spanner.graph.graph import Graph, configured_limits
    from luigi_spanner.ids import random_id
    from luigi_spanner.replica import Limits, Replica

    graph = Graph(luigi_scheduler.scheduler(), configured_limits(), NopHistory())
    replica = Replica(
        name=f"import/{socket.gethostname()}/{os.getpid()}",
        namespace=namespace,
        store=store,
        graph=graph,
        ids=random_id,
        clock=time.time,
        sleep=asyncio.sleep,
        limits=Limits(spare=Load.BULK),
    )
    return replica, graph


def _require_nobody(graph: Graph) -> None:
    from luigi_spanner.membership import GONE_SECONDS

    for key, row in graph._state.replicas.items():
        seconds = graph.now() - row["seen_at"]
        if abs(seconds) <= GONE_SECONDS:
            raise Problem(
                f"Replica {key[0]} said {seconds:.0f} s ago that it serves this namespace: stop it, or use --while-serving. "
                "Replicas take over what is imported as it comes; until all is there, their workers may find tasks missing"
            )


async def _clear(replica: Replica, graph: Graph) -> None:
    from luigi_spanner.graph import adoption

    with progress("old tasks", len(graph._state._tasks)) as bar:
        while not adoption.is_empty(graph):
            before = len(graph._state._tasks)
            await _run(replica, partial(adoption.clear, graph, TASKS_AT_ONCE))
            bar.advance(before - len(graph._state._tasks))


def _portions(tasks: Sequence[StockTask]) -> Iterator[list[StockTask]]:
    portion: list[StockTask] = []
    relations = 0
    for task in tasks:
        portion.append(task)
        relations += len(task.stakeholders) + len(task.runners) + len(task.row.get("deps") or ())
        if len(portion) == TASKS_AT_ONCE or relations > RELATIONS_AT_ONCE:
            yield portion
            portion, relations = [], 0
    if portion:
        yield portion


async def _run(replica: Replica, rule: Callable[[], None]) -> None:
    """Make one portion durable, and its rows. Raises Unclear, Problem."""
    from luigi_spanner.batch import Waiting
    from luigi_spanner.calls import Call, Principal, StoreDown
    from luigi_spanner.ids import random_id

    call = Call(request_id=random_id(), method="import_pickle", principal=Principal(name="import-pickle"))
    waiting = Waiting(call, rule)
    await replica.settle([waiting])
    if isinstance(waiting.error, StoreDown):
        raise Unclear(f"The import stopped half way: {waiting.error}; run it again with --replace") from waiting.error
    if waiting.error is not None:
        raise Problem(
            f"The import stopped half way: {waiting.error}; nothing of the portion at fault was written"
        ) from waiting.error
    await replica.tidy()
