"""What does not depend on HTTP: how get_work grows with the graph, what a task takes in memory, calls that ask too much."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks import portions
from benchmarks.bench import Bench
from benchmarks.client import ROOT
from benchmarks.graphs import Graph
from benchmarks.results import Goal, Line, alternate
from benchmarks.servers import LOAD_SECONDS, tail

SMALL_TASKS = 1_000
STOCK_TASKS = 100_000
"""Beyond so many tasks stock is not asked: each answer would take it tens of seconds."""

CALLS = {"stock": 10, "ours": 100}
"""Calls of get_work a repeat: stock takes a second for one of its largest."""


def growth(bench: Bench) -> Iterator[Line]:
    """p50 of get_work in process, at each size over that at 1,000 tasks; and beside stock's."""
    sizes = (SMALL_TASKS, 100_000) if bench.quick else (SMALL_TASKS, 10_000, 100_000, 1_000_000)
    small = _inside(bench, "get_work", "ours", bench.graph("resource", SMALL_TASKS))
    for size in sizes:
        graph = bench.graph("resource", size)
        ours = small if size == SMALL_TASKS else _inside(bench, "get_work", "ours", graph)
        if size != SMALL_TASKS:
            yield Line(
                scenario=f"get_work p50 in process, {graph.size:,} tasks",
                unit="ms",
                stock=small,
                base=f"ours at {bench.tasks(SMALL_TASKS):,}",
                ours=ours,
                goal=Goal(ratio=0.5) if size == sizes[-1] else None,
            )
        if not bench.quick and size <= STOCK_TASKS:
            yield Line(
                scenario=f"get_work p50 in process, {graph.size:,} tasks, beside stock",
                unit="ms",
                stock=_inside(bench, "get_work", "stock", graph),
                ours=ours,
                chart="in-process",
            )


def memory(bench: Bench) -> Iterator[Line]:
    """Resident memory a task, three dependencies each; ours in a service on SQLite."""
    graph = bench.graph("layered", 20_000 if bench.quick else 100_000)
    sides = {name: partial(_inside, bench, "memory", name, graph) for name in ("stock", "ours")}
    grown = alternate(1 if bench.quick else bench.repeats, sides)
    yield Line(
        scenario=f"memory a task, {graph.size:,} tasks with three dependencies",
        unit="bytes",
        stock=[value for values in grown["stock"] for value in values],
        ours=[value for values in grown["ours"] for value in values],
        goal=Goal(ratio=1 / 1.5),
    )


def bad_input(bench: Bench) -> Iterator[Line]:
    """How long another worker waits at most while somebody asks for far too much."""
    repeats = 1 if bench.quick else bench.repeats
    runs = [_printed(bench, "benchmarks.portions", str(bench.scale), str(bench.seed)) for _ in range(repeats)]
    for name in runs[0]:
        yield Line(
            scenario=f"longest wait of another worker: {name}",
            unit="s",
            ours=[run[name] for run in runs],
            goal=Goal(most=portions.MOST),
        )


def _inside(bench: Bench, what: str, scheduler: str, graph: Graph) -> list[float]:
    """What `benchmarks.inside` prints: milliseconds, or bytes."""
    described = [what, scheduler, graph.kind, str(graph.size), str(graph.seed)]
    counts = [str(bench.repeats), str(CALLS[scheduler])] if what == "get_work" else []
    printed = _printed(bench, "benchmarks.inside", *described, *counts)
    return [value * (1000 if what == "get_work" else 1) for value in printed]


def _printed(bench: Bench, module: str, *arguments: str) -> Any:
    """The JSON that a module prints in a process of its own."""
    log = bench.states.directory / "inside.log"
    with log.open("wb") as errors:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=bench.states.environment({}),
            stdout=subprocess.PIPE,
            stderr=errors,
            timeout=LOAD_SECONDS,
        )
    if done.returncode:
        raise RuntimeError(f"measuring in process failed:\n{tail(log)}")
    return json.loads(done.stdout)
