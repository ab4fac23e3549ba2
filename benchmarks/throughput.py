"""How many calls a second: several workers at once, several replicas, slow stores; and how many commits that makes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.bench import Bench
from benchmarks.client import Played, Session, play
from benchmarks.graphs import SHARING_WORKERS, worker
from benchmarks.results import Goal, Line, alternate, milliseconds
from benchmarks.servers import DEFAULTS, RECORDING, Backend, Server, Site
from benchmarks.sessions import busy, cycle, idle, life

PLAY_SECONDS = 60.0
"""No measurement of a whole run takes longer."""

COMMIT_DELAYS = (0.001, 0.01, 0.1)
SLOW_STORE_WORKERS = 512
IDLE_WORKERS = 100


def lives(bench: Bench) -> Iterator[Line]:
    """Workers that each add their share of 2,000 tasks and run them: calls a second, and commits a call."""
    numbers = (64,) if bench.quick else (1, 16, 64)
    backends: tuple[Backend, ...] = ("emulator",) if bench.quick else ("memory", "sqlite", "emulator")
    for workers in numbers:
        yield from _lives(bench, bench.tasks(workers), bench.tasks(2_000), backends)


def _lives(bench: Bench, workers: int, size: int, backends: tuple[Backend, ...]) -> Iterator[Line]:
    commits: dict[Backend, list[float]] = {backend: [] for backend in backends}

    def played(backend: Backend | None) -> Played:
        with Site(bench.states) as site:
            servers = [site.stock()] if backend is None else site.ours(backend)
            before = servers[0].applied() if backend else 0
            run = _live(servers, workers, size)
            if backend:
                commits[backend].append((servers[0].settled() - before) / run.calls)
            return run

    sides: dict[str, Callable[[], Played]] = {"stock": partial(played, None)}
    sides.update((backend, partial(played, backend)) for backend in backends)
    runs = alternate(bench.repeats, sides)
    for backend in backends:
        goal = Goal(ratio=1.5) if backend == "emulator" and workers == 64 else None
        yield Line(
            scenario=f"{workers} workers, {size:,} tasks, {backend}",
            unit="rpc/s",
            stock=[run.rate for run in runs["stock"]],
            ours=[run.rate for run in runs[backend]],
            more_is_better=True,
            goal=goal,
            chart="throughput",
        )
        yield Line(
            scenario=f"{workers} workers, {size:,} tasks, {backend}: p99 of all calls",
            unit="ms",
            stock=[milliseconds(run.all(), 0.99) for run in runs["stock"]],
            ours=[milliseconds(run.all(), 0.99) for run in runs[backend]],
        )
        yield Line(
            scenario=f"{workers} workers, {size:,} tasks, {backend}: commits a call",
            unit="commits",
            ours=commits[backend],
            goal=Goal(most=0.1) if goal else None,
        )


def _live(servers: list[Server], workers: int, size: int) -> Played:
    shares = [range(first, size, workers) for first in range(workers)]
    sessions = [life(worker(number), share) for number, share in enumerate(shares)]
    return play([server.port for server in servers], sessions, seconds=PLAY_SECONDS)


def history(bench: Bench) -> Iterator[Line]:
    """What writing down the history costs: the same lives with it and without. Of 2,000 tasks the rows are written after the
    calls. Of 10,000 they are too many to wait, with a history and without."""
    workers = bench.tasks(64)
    backends: tuple[Backend, ...] = ("sqlite", "emulator")
    for size in (bench.tasks(2_000),) if bench.quick else (bench.tasks(2_000), bench.tasks(10_000)):
        for backend in backends:
            yield _with_history(bench, workers, size, backend)


def _with_history(bench: Bench, workers: int, size: int, backend: Backend) -> Line:
    def played(config: str) -> Played:
        with Site(bench.states, config=config) as site:
            return _live(site.ours(backend), workers, size)

    runs = alternate(bench.repeats, {"without": partial(played, DEFAULTS), "with": partial(played, RECORDING)})
    return Line(
        scenario=f"{workers} workers, {size:,} tasks, {backend}, with a history",
        unit="rpc/s",
        stock=[run.rate for run in runs["without"]],
        base="without",
        ours=[run.rate for run in runs["with"]],
        more_is_better=True,
        goal=Goal(ratio=0.95),
    )


def ready(bench: Bench) -> Iterator[Line]:
    """16 workers on 20,000 ready tasks that need a resource; each takes and finishes its own."""
    graph = bench.graph("shares", 20_000)
    backends: tuple[Backend, ...] = ("emulator",) if bench.quick else ("memory", "sqlite", "emulator")
    for backend in backends:
        bench.states.start("stock", graph)
        with Site(bench.states) as site:
            ours = site.ours(backend, graph)[0]
            servers = {"stock": site.stock(graph), "ours": ours}
            sides = {name: partial(_finish, bench, server) for name, server in servers.items()}
            runs = alternate(bench.repeats, sides)
        yield Line(
            scenario=f"{SHARING_WORKERS} workers, {graph.size:,} ready tasks with a resource, {backend}",
            unit="rpc/s",
            stock=[run.rate for run in runs["stock"]],
            ours=[run.rate for run in runs["ours"]],
            more_is_better=True,
            goal=Goal(ratio=8) if backend == "emulator" else None,
            chart="throughput",
        )


def _finish(bench: Bench, server: Server) -> Played:
    sessions = [busy(worker(number), resources={"slots": 1}) for number in range(SHARING_WORKERS)]
    # As many calls as leave tasks for every repeat.
    return play([server.port], sessions, seconds=bench.seconds(4), calls=20_000 // bench.scale // bench.repeats)


def three_replicas(bench: Bench) -> Iterator[Line]:
    """64 workers spread over three replicas of ours on one emulator, against one stock luigid."""
    if bench.quick:
        return
    workers, size = bench.tasks(64), bench.tasks(2_000)

    def played(replicas: int) -> Played:
        with Site(bench.states) as site:
            servers = site.ours("emulator", replicas=replicas) if replicas else [site.stock()]
            return _live(servers, workers, size)

    runs = alternate(bench.repeats, {"stock": partial(played, 0), "ours": partial(played, 3)})
    yield Line(
        scenario=f"{workers} workers, {size:,} tasks, three replicas on the emulator",
        unit="rpc/s",
        stock=[run.rate for run in runs["stock"]],
        ours=[run.rate for run in runs["ours"]],
        more_is_better=True,
        chart="throughput",
    )
    yield Line(
        scenario=f"{workers} workers, {size:,} tasks, three replicas on the emulator: p99 of all calls",
        unit="ms",
        stock=[milliseconds(run.all(), 0.99) for run in runs["stock"]],
        ours=[milliseconds(run.all(), 0.99) for run in runs["ours"]],
    )


def slow_store(bench: Bench) -> Iterator[Line]:
    """512 connections on a memory store whose commits take 1, 10 and 100 ms: what the latency costs."""
    workers = bench.tasks(SLOW_STORE_WORKERS)

    def played(delay: float) -> Played:
        with Site(bench.states) as site:
            servers = site.ours("memory", delay=delay)
            sessions = [cycle(worker(number), range(number, 100_000_000, workers)) for number in range(workers)]
            return play([servers[0].port], sessions, seconds=bench.seconds(3 if bench.quick else 10))

    runs = alternate(bench.repeats, {str(delay): partial(played, delay) for delay in COMMIT_DELAYS})
    base = [run.rate for run in runs[str(COMMIT_DELAYS[0])]]
    for delay, goal in zip(COMMIT_DELAYS, (None, Goal(ratio=0.9), Goal(ratio=0.6)), strict=True):
        rates = [run.rate for run in runs[str(delay)]]
        yield Line(
            scenario=f"{workers} connections, commits that take {1000 * delay:.0f} ms",
            unit="rpc/s",
            stock=base if goal else [],
            base="at 1 ms",
            ours=rates,
            more_is_better=True,
            goal=goal,
        )


def idle_workers(bench: Bench) -> Iterator[Line]:
    """100 workers that ping and ask every second and get nothing: commits in five seconds, for all of them."""
    workers, seconds = bench.tasks(IDLE_WORKERS), 5.0
    commits: list[float] = []
    with Site(bench.states, config=DEFAULTS) as site:
        server = site.ours("emulator")[0]
        play([server.port], _idlers(workers), seconds=bench.seconds(2))  # they become known
        time.sleep(bench.seconds(1))
        for _ in range(bench.repeats):
            before = server.applied()
            play([server.port], _idlers(workers), seconds=bench.seconds(seconds))
            commits.append(float(server.applied() - before))
    yield Line(
        scenario=f"{workers} idle workers that ping and ask, emulator: commits in {seconds:.0f} s",
        unit="commits",
        ours=commits,
        goal=Goal(most=1),
    )


def _idlers(workers: int) -> Iterator[Session]:
    return (idle(worker(number)) for number in range(workers))
