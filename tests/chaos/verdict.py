"""The verdict on a run: what the records, the journal, the balancer's log and the exit codes say, held against the promises."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pipeline
from audit import Audit, audit
from balancer import GONE, Request, Wait, waits
from checker import Run, Taken, faults, orphans
from crew import Crew, Shift
from faultplan import OF_THE_STORE, SKEW_SECONDS, Fault
from fleet import Fleet

CLOCKS_SECONDS = 1.0
"""The emulator's clock runs ahead of the system's by 1.7 ms for each 1,000 transactions (measured): less than this in a run."""

REPLIES = frozenset({200, 502, 503, 504, GONE})
"""What a worker may see: a reply, or that the outcome is not known. Anything else is a fault of ours by definition."""


@dataclass(kw_only=True)
class Verdict:
    """What a run showed. `violations` are broken promises in words, `dead` the workers that were declared dead while their
    processes lived or after we had killed them."""

    violations: list[str] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    orphans: list[Run] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    entries: int = 0
    tasks: int = 0
    verified: str = ""


def judge(fleet: Fleet, crew: Crew, delay: float, happened: Iterable[tuple[Fault, float, float]]) -> Verdict:
    """Look at all that a run has left. Workers and replicas have ended, the emulator runs. `delay` is `worker_disconnect_delay`,
    `happened` as in `Outcome`."""
    verdict = Verdict(violations=list(fleet.troubles), requests=fleet.balancer.requests())
    verdict.waits = waits(verdict.requests)
    _judge_starts(verdict, fleet.failed_starts, list(happened))
    journal = audit(fleet)
    verdict.entries = journal.entries
    _judge_removals(verdict, journal, crew.shifts, delay)
    _judge_seizures(verdict, journal)
    _judge_records(verdict, journal, crew)
    _judge_shifts(verdict, crew.shifts)
    _judge_replies(verdict)
    _judge_logs(verdict, fleet)
    _verify(verdict, fleet)
    return verdict


def _judge_starts(
    verdict: Verdict, failed: Iterable[tuple[int, float, float]], happened: Sequence[tuple[Fault, float, float]]
) -> None:
    """A start may fail where the store could not be reached, and nowhere else."""
    for replica, began, ended in failed:
        faults_of_store = [item for item in happened if item[0].kind in OF_THE_STORE and item[0].target in (replica, -1)]
        if not any(begin <= ended and began <= end for _, begin, end in faults_of_store):
            verdict.violations.append(f"replica {replica} could not start, though its store was there")


def _judge_removals(verdict: Verdict, journal: Audit, shifts: Iterable[Shift], delay: float) -> None:
    """Whoever was declared dead had been silent for `delay` seconds, by whichever replica's clock. It takes half as long again
    since the last sign of life that is in the journal, and others than the replica that heard it may lack as much: also of one
    who came back after such a silence."""
    by_worker = {shift.worker: shift for shift in shifts}
    heard = _heard(verdict.requests)
    for worker, seq in journal.removals:
        at = _at(journal, seq)
        last = max((moment for moment in heard[worker] if moment < at), default=-math.inf)
        if not _was_silent(heard[worker], at, delay):
            verdict.violations.append(f"worker {worker} was declared dead {at - last:.1f} s after it had a reply")
        shift = by_worker[worker]
        if shift.killed or shift.end is None or at <= shift.end:
            verdict.dead.append(worker)


def _was_silent(heard: Iterable[float], at: float, delay: float) -> bool:
    """Whether nothing was heard for `delay` seconds, up to `at` or until so short a time before that others need not know."""
    clocks = 2 * SKEW_SECONDS + CLOCKS_SECONDS
    moments = sorted((moment for moment in heard if moment < at), reverse=True)
    since = at
    for moment in moments:
        if since - moment >= delay - clocks:
            return True
        since = moment
        if at - since > delay / 2 + clocks:
            return False
    return not moments


def _heard(requests: Iterable[Request]) -> dict[str, list[float]]:
    """When each worker had a reply, in seconds of CLOCK_MONOTONIC."""
    heard: dict[str, list[float]] = defaultdict(list)
    for request in requests:
        if request.answered:
            heard[request.worker].append(request.end - apart())
    return heard


def _at(journal: Audit, seq: int) -> float:
    """When an entry was committed, at the latest by a second, in seconds of CLOCK_MONOTONIC: what follows from it may begin at
    once, by a clock that is a little behind the store's."""
    return journal.times[seq] - apart() - CLOCKS_SECONDS


def apart() -> float:
    """By how much CLOCK_REALTIME is ahead of CLOCK_MONOTONIC, seconds."""
    return time.time() - time.monotonic()


def _judge_records(verdict: Verdict, journal: Audit, crew: Crew) -> None:
    events, expected, names = crew.events(), crew.expected(), crew.task_ids()
    verdict.tasks = len(expected)
    taken = [
        Taken(
            worker=seizure.worker,
            task=names[seizure.task],
            since=_at(journal, seizure.given),
            at=_at(journal, seizure.taken),
        )
        for seizure in journal.seizures
        if seizure.task in names
    ]
    found = faults(events, expected, pipeline.LIMITS, taken)
    verdict.violations += [f"{fault.kind}: {fault.task} {fault.detail}" for fault in found]
    verdict.orphans = orphans(events, taken)


def _judge_seizures(verdict: Verdict, journal: Audit) -> None:
    """Nothing is taken but from workers that were declared dead before."""
    removed = {}
    for worker, seq in journal.removals:
        removed.setdefault(worker, seq)
    for seizure in journal.seizures:
        if removed.get(seizure.worker, math.inf) > seizure.taken:
            verdict.violations.append(f"{seizure.task} was taken from {seizure.worker}, which was not declared dead")


def _judge_shifts(verdict: Verdict, shifts: Iterable[Shift]) -> None:
    for shift in shifts:
        if shift.exit_code != 0 and not shift.killed and shift.worker not in verdict.dead:
            verdict.violations.append(f"worker {shift.worker} exited with {shift.exit_code}, and was not declared dead")


def _judge_replies(verdict: Verdict) -> None:
    odd = [request for request in verdict.requests if request.status not in REPLIES]
    verdict.violations += [f"{request.method} of {request.worker} was answered with {request.status}" for request in odd[:20]]


def _judge_logs(verdict: Verdict, fleet: Fleet) -> None:
    for log in fleet.logs:
        lines = [line for line in log.read_text(errors="replace").splitlines() if "Traceback" in line or "CRITICAL" in line]
        verdict.violations += [f"{log.name}: {line}" for line in lines[:5]]


def _verify(verdict: Verdict, fleet: Fleet) -> None:
    done = fleet.verify()
    verdict.verified = done.stdout.strip()
    if done.returncode != 0:
        verdict.violations.append(f"verify: {done.stdout}{done.stderr}")
