"""How long one call takes: over HTTP, for one worker, on graphs of several kinds and sizes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.bench import Bench
from benchmarks.client import ROOT, CallFailed, Played, Request, call, play
from benchmarks.graphs import ASKER, Graph, add
from benchmarks.results import Goal, Line, alternate, milliseconds
from benchmarks.servers import Backend, Server, Site
from benchmarks.sessions import send, sequential, working

MEASURE_SECONDS = 120.0
"""After this long a measurement is cut short: stock needs it on graphs that ours answers at once."""

HARD_TASKS = 20_000
LARGE_TASKS = 100_000
SMALL_TASKS = 1_000

_added = itertools.count(10_000_000)
"""Numbers of tasks that no graph has."""

_FASTER_THAN: dict[tuple[Backend, str], Goal] = {
    ("sqlite", "add_task"): Goal(ratio=1.0),
    ("sqlite", "ping"): Goal(ratio=1.0),
    ("sqlite", "get_work"): Goal(ratio=2.0),
    ("emulator", "add_task"): Goal(ratio=1 / 1.3),
    ("emulator", "ping"): Goal(ratio=1 / 1.3),
    ("emulator", "get_work"): Goal(ratio=2.0),
}


def one_worker(bench: Bench) -> Iterator[Line]:
    """One sequential worker at 1,000 tasks: it adds them, then takes, pings and finishes. p50 of each method."""
    size, rounds = bench.tasks(SMALL_TASKS), bench.tasks(200 if bench.quick else 500)
    backends: tuple[Backend, ...] = ("memory", "sqlite", "emulator")

    def played(backend: Backend | None) -> Played:
        with Site(bench.states) as site:
            server = site.stock() if backend is None else site.ours(backend)[0]
            return play([server.port], [sequential(ASKER, size, rounds)], seconds=MEASURE_SECONDS)

    sides: dict[str, Callable[[], Played]] = {"stock": partial(played, None)}
    sides.update((backend, partial(played, backend)) for backend in backends)
    runs = alternate(bench.repeats, sides)
    for backend, method in itertools.product(backends, ("add_task", "ping", "get_work")):
        yield Line(
            scenario=f"one worker, {size:,} tasks, {backend}: {method} p50",
            unit="ms",
            stock=[milliseconds(run.latencies[method]) for run in runs["stock"]],
            ours=[milliseconds(run.latencies[method]) for run in runs[backend]],
            goal=_FASTER_THAN.get((backend, method)),
            chart="one-worker",
        )


def hard_graphs(bench: Bench) -> Iterator[Line]:
    """get_work on graphs that stock, or a simple index, finds hard."""
    hard = ("locks", "overlapping", "running")
    others = () if bench.quick else ("chains", "wide", "resource", "scarce", "assistants", "batches_100", "batches_10000")
    backends: tuple[Backend, ...] = ("sqlite",) if bench.quick else ("memory", "sqlite", "emulator")
    # A large batch takes many tasks: enough of them for every repeat.
    sizes = {"batches_10000": 10_000 * bench.repeats}
    graphs = [bench.graph(kind, sizes.get(kind, HARD_TASKS)) for kind in (*hard, *others)]
    for group in [graphs] if bench.quick else [[graph] for graph in graphs]:
        bench.states.prepare(group)
        for graph, backend in itertools.product(group, backends):
            goal = Goal(ratio=20) if graph.kind in hard and backend != "memory" else None
            calls = 1 if graph.kind == "batches_10000" else 10
            yield _graph(bench, graph, backend, calls, goal)


def _graph(bench: Bench, graph: Graph, backend: Backend, calls: int, goal: Goal | None) -> Line:
    with Site(bench.states) as site:
        servers = {"stock": site.stock(graph), "ours": site.ours(backend, graph)[0]}
        requests = [call("get_work", graph.get_work())] * calls
        runs = alternate(bench.repeats, {name: partial(_send, server, requests) for name, server in servers.items()})
    return Line(
        scenario=f"get_work p50, {graph.kind} graph, {graph.size:,} tasks, {backend}",
        unit="ms",
        stock=[milliseconds(run.latencies["get_work"]) for run in runs["stock"]],
        ours=[milliseconds(run.latencies["get_work"]) for run in runs["ours"]],
        goal=goal,
        chart="get-work",
    )


def each_call(bench: Bench) -> Iterator[Line]:
    """Each call by itself on ready tasks with a resource, at several sizes."""
    sizes = () if bench.quick else (1_000, 10_000, LARGE_TASKS)
    backends: tuple[Backend, ...] = ("memory", "sqlite")
    for size, backend in itertools.product(sizes, backends):
        graph = bench.graph("resource", size)
        with Site(bench.states) as site:
            servers = {"stock": site.stock(graph), "ours": site.ours(backend, graph)[0]}
            yield from _calls(bench, graph, backend, servers, {})


def large(bench: Bench) -> Iterator[Line]:
    """100,000 ready tasks with a resource on the emulator: each call by itself, lists being read, starting."""
    graph = bench.graph("resource", LARGE_TASKS)
    bench.states.start("stock", graph)
    with Site(bench.states) as site:
        url, environment = site.store("emulator", graph)
        starts = alternate(
            bench.repeats,
            {
                "stock": lambda: _start(lambda: site.stock(graph, wait=False), "/api/resource_list"),
                "ours": lambda: _start(lambda: site.replica(url, environment), "/readyz"),
            },
        )
        yield Line(
            scenario=f"start, {graph.size:,} tasks, emulator",
            unit="s",
            stock=starts["stock"],
            ours=starts["ours"],
            goal=Goal(most=3.0),
            chart="start",
        )
        ours = site.replica(url, environment)
        servers = {"stock": site.stock(graph), "ours": ours}
        ours.wait("/readyz")
        yield from _calls(bench, graph, "emulator", servers, {"get_work": Goal(ratio=100)})
        yield _while_browsing(bench, graph, servers)


def _start(starting: Callable[[], Server], path: str) -> float:
    server = starting()
    took = server.wait(path)
    server.stop()
    return took


def _calls(bench: Bench, graph: Graph, backend: Backend, servers: dict[str, Server], goals: dict[str, Goal]) -> Iterator[Line]:
    for method, count in _COUNTS.items():
        times = bench.tasks(count if bench.quick else 2 * count)
        made = {name: partial(_requests, method, graph, times) for name in servers}
        yield _beside(
            bench,
            {name: partial(_send_made, server, made[name]) for name, server in servers.items()},
            lambda run: milliseconds(run.all()),
            Line(
                scenario=f"{method} p50, {graph.size:,} tasks with a resource, {backend}",
                unit="ms",
                ours=[],
                goal=goals.get(method),
                chart=f"each-call-{backend}",
            ),
        )


def _beside(bench: Bench, sides: Mapping[str, Callable[[], Played]], number: Callable[[Played], float], line: Line) -> Line:
    """`line` with the numbers of stock and ours, or with what a server answered instead."""
    try:
        runs = alternate(bench.repeats, sides)
    except CallFailed as error:
        return replace(line, failure=" ".join(str(error).split()).replace("|", "/"))
    return replace(line, stock=list(map(number, runs["stock"])), ours=list(map(number, runs["ours"])))


_COUNTS = {"ping": 100, "add_task": 100, "count_pending": 5, "prune": 5, "task_list": 1, "get_work": 5}
"""How often each method is called in a repeat of the quick suite; those that stock scans everything for, seldom."""


def _requests(method: str, graph: Graph, count: int) -> list[Request]:
    if method == "add_task":
        return [call(method, add(next(_added), ASKER, resources={"slots": 1})) for _ in range(count)]
    arguments: dict[str, dict[str, Any]] = {"task_list": {"limit": False}, "prune": {}, "get_work": graph.get_work()}
    return [call(method, arguments.get(method, {"worker": ASKER}))] * count


def _send_made(server: Server, make: Callable[[], list[Request]]) -> Played:
    return _send(server, make())


def _send(server: Server, requests: list[Request]) -> Played:
    return play([server.port], [send(requests)], seconds=MEASURE_SECONDS)


def _while_browsing(bench: Bench, graph: Graph, servers: dict[str, Server]) -> Line:
    """p99 of a worker's calls while a browser reloads the visualiser's lists."""
    seconds = bench.seconds(5 if bench.quick else 20)
    return _beside(
        bench,
        {name: partial(_browsed, server, seconds) for name, server in servers.items()},
        lambda run: milliseconds(run.all(), 0.99),
        Line(
            scenario=f"a worker's p99 while a browser reads the lists of {graph.size:,} tasks",
            unit="ms",
            ours=[],
            goal=Goal(most=50),
            chart="each-call-emulator",
        ),
    )


def _browsed(server: Server, seconds: float) -> Played:
    command = [sys.executable, "-m", "benchmarks.browser", str(server.port), str(seconds)]
    browser = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        session = working(ASKER, next(_added) * 1000, {"resources": {"slots": 1}}, 0.01)
        return play([server.port], [session], seconds=seconds)
    finally:
        browser.kill()
        browser.wait()
