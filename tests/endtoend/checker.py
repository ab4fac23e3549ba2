"""Judges a record: did every task body end successfully exactly once, alone, and within the resource limits?

A worker that says nothing for too long is declared dead, by Luigi's rules, and what it was running is taken from it and may run
once more. Its own execution is an orphan from then on, and is not held against the scheduler; any other is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import record

LOST = "lost"
DOUBLED = "doubled"
OVERLAPPED = "overlapped"
UNFINISHED = "unfinished"
FAILURES = "failures"
UNEXPECTED = "unexpected"
OVER_LIMIT = "over limit"
MALFORMED = "malformed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """A task that must have run. `failures`: how many executions fail before the one that succeeds."""

    task: str
    resources: Mapping[str, int] = field(default_factory=dict)
    failures: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What is wrong with one task (or, if over a limit, one resource)."""

    kind: str
    task: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """A task was taken from the worker that ran it. It had been given at the record's time `since`, and was taken at `at`."""

    worker: str
    task: str
    since: float
    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One execution of a body. `outcome` is None and `end` infinite when the record says nothing of its end. An `orphan` ended
    when it was taken from its worker, whatever its body did then; `outcome` is that of the body."""

    task: str
    worker: str
    begin: float
    end: float
    outcome: str | None
    orphan: bool = False


def faults(
    events: Iterable[record.Event], expected: Iterable[Expected], limits: Mapping[str, int], taken: Iterable[Taken] = ()
) -> list[Fault]:
    """Every fault that the record shows, tasks in the order of `expected`. Empty for a sound run."""
    runs, malformed = _runs(events)
    _mark_orphans(runs, taken)
    wanted = {task.task: task for task in expected}
    found = list(malformed)
    for task in wanted.values():
        found += _faults_of(task, runs.get(task.task, []))
    found += [Fault(kind=UNEXPECTED, task=task) for task in runs if task not in wanted]
    return found + _over_limit(runs, wanted, limits)


def orphans(events: Iterable[record.Event], taken: Iterable[Taken]) -> list[Run]:
    """The executions that the rules allow to be repeated."""
    runs, _ = _runs(events)
    _mark_orphans(runs, taken)
    return [run for executions in runs.values() for run in executions if run.orphan]


def _mark_orphans(runs: dict[str, list[Run]], taken: Iterable[Taken]) -> None:
    """Each time that a task was taken, the first execution that its worker began after it had been given to it is an orphan."""
    for one in sorted(taken, key=lambda one: one.at):
        executions = runs.get(one.task, [])
        for index, run in enumerate(executions):
            if run.worker == one.worker and run.begin >= one.since and not run.orphan:
                executions[index] = replace(run, end=max(run.begin, min(run.end, one.at)), orphan=True)
                break


def _runs(events: Iterable[record.Event]) -> tuple[dict[str, list[Run]], list[Fault]]:
    """Executions by task, and the ends that have no start."""
    begun: dict[tuple[str, str], tuple[float, str]] = {}
    runs: dict[str, list[Run]] = defaultdict(list)
    malformed = []
    for event in events:
        key = (event.task, event.run)
        if event.kind == record.START:
            begun[key] = (event.at, event.worker)
        elif key in begun:
            begin, worker = begun.pop(key)
            runs[event.task].append(Run(task=event.task, worker=worker, begin=begin, end=event.at, outcome=event.kind))
        else:
            malformed.append(Fault(kind=MALFORMED, task=event.task, detail=f"{event.kind} of {event.run} without a start"))
    for (task, _), (begin, worker) in begun.items():
        runs[task].append(Run(task=task, worker=worker, begin=begin, end=float("inf"), outcome=None))
    for executions in runs.values():
        executions.sort(key=lambda run: run.begin)
    return runs, malformed


def _faults_of(task: Expected, runs: list[Run]) -> list[Fault]:
    outcomes = Counter(run.outcome for run in runs if not run.orphan)
    orphaned = Counter(run.outcome for run in runs if run.orphan)
    found = []
    if outcomes[record.DONE] + orphaned[record.DONE] == 0:
        found.append(Fault(kind=LOST, task=task.task, detail=f"{len(runs)} executions, none successful"))
    if outcomes[record.DONE] > 1:
        found.append(Fault(kind=DOUBLED, task=task.task, detail=f"{outcomes[record.DONE]} successful executions"))
    if outcomes[None]:
        found.append(Fault(kind=UNFINISHED, task=task.task, detail=f"{outcomes[None]} executions without an end"))
    # A body that was killed or overtaken may have used up a failure that the record lacks.
    if outcomes[record.FAILED] > task.failures or (outcomes[record.FAILED] < task.failures and not orphaned):
        detail = f"{outcomes[record.FAILED]} failed executions instead of {task.failures}"
        found.append(Fault(kind=FAILURES, task=task.task, detail=detail))
    return found + _overlaps(runs)


def _overlaps(runs: list[Run]) -> list[Fault]:
    """Executions, in the order in which they began, that began before an earlier one ended."""
    found = []
    busy_until = float("-inf")
    for run in runs:
        if run.orphan and run.end <= run.begin:
            continue  # it was another's before it began
        if run.begin < busy_until:
            found.append(Fault(kind=OVERLAPPED, task=run.task, detail=f"began at {run.begin} while another ran"))
        busy_until = max(busy_until, run.end)
    return found


def _over_limit(runs: Mapping[str, list[Run]], expected: Mapping[str, Expected], limits: Mapping[str, int]) -> list[Fault]:
    """Resources of which more was in use at one time than the limit allows."""
    steps: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for task, executions in runs.items():
        for resource, amount in expected[task].resources.items() if task in expected else ():
            for run in executions:
                steps[resource] += [(run.begin, amount), (run.end, -amount)]
    found = []
    for resource, changes in steps.items():
        used = highest = 0
        # At the same instant what is given back counts first: an amount of below 0 sorts before one above.
        for _, amount in sorted(changes):
            used += amount
            highest = max(highest, used)
        if highest > limits[resource]:
            found.append(Fault(kind=OVER_LIMIT, task=resource, detail=f"{highest} in use, limit {limits[resource]}"))
    return found
