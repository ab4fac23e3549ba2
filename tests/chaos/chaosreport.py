"""The report of a run, in Markdown, with its picture."""

from __future__ import annotations

import datetime
import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from balancer import GONE, Wait
from faultplan import OF_WORKERS, Kind
from outcome import Outcome
from timeline import draw
from verdict import apart

LONGEST = 8
"""How many waits are listed."""

STATUSES = {
    200: "answered",
    GONE: "the worker gave up waiting, or ended",
    502: "the connection broke",
    503: "no replica, or outcome unknown",
}


def write(outcome: Outcome, directory: Path, settings: dict[str, str]) -> Path:
    """Write chaos.md and chaos.svg into `directory`; the former's path."""
    directory.mkdir(parents=True, exist_ok=True)
    draw(outcome, directory / "chaos.svg")
    path = directory / "chaos.md"
    path.write_text("\n".join(_lines(outcome, settings)) + "\n")
    return path


def _lines(outcome: Outcome, settings: dict[str, str]) -> Iterator[str]:
    verdict, size, tempo = outcome.verdict, outcome.size, outcome.tempo
    took = outcome.ended - outcome.began
    yield "# A run of `make chaos`"
    yield ""
    yield f"- {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, {_machine()}."
    yield f"- Seed {outcome.seed}: {tempo.seconds / 60:g} minutes of faults, {took:.0f} s until the last worker had finished."
    yield f"- The replicas' clocks began with errors of {', '.join(f'{seconds:+.2f} s' for seconds in outcome.skews)}."
    yield f"- {size.gangs * size.members} workers at a time, in {size.gangs} gangs that each run one pipeline after the other."
    yield f"- Settings: {', '.join(f'`{name} = {value}`' for name, value in settings.items())}."
    yield f"- **{'Every promise was kept.' if not verdict.violations else f'{len(verdict.violations)} promises were broken:'}**"
    yield from (f"  - {violation}" for violation in verdict.violations)
    yield ""
    yield "![faults, rates and waits over time](chaos.svg)"
    yield ""
    yield from _faults(outcome)
    yield from _work(outcome)
    yield from _replies(outcome)
    yield from _waits(outcome)


def _machine() -> str:
    packages = ("luigi", "luigi-spanner", "google-cloud-spanner")
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, " + ", ".join(
        f"{name} {version(name)}" for name in packages
    )


def _table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
    yield ""


def _faults(outcome: Outcome) -> Iterator[str]:
    lasted: dict[Kind, list[float]] = defaultdict(list)
    for fault, begin, end in outcome.happened:
        lasted[fault.kind].append(end - begin)
    yield "## Faults"
    yield ""
    rows = ((kind.value, len(lasted[kind]), f"{max(lasted[kind]):.1f} s") for kind in Kind if lasted[kind])
    yield from _table(("fault", "times", "longest"), rows)


def _work(outcome: Outcome) -> Iterator[str]:
    verdict = outcome.verdict
    codes = Counter("killed" if shift.killed else f"exit code {shift.exit_code}" for shift in outcome.shifts)
    yield "## Work"
    yield ""
    yield f"- {verdict.tasks} tasks, {verdict.entries} journal entries."
    yield from (f"- `luigi-spanner verify`: {line}." for line in verdict.verified.splitlines())
    yield f"- {len(outcome.shifts)} worker processes: {', '.join(f'{count} {code}' for code, count in sorted(codes.items()))}."
    yield f"- Declared dead: {', '.join(verdict.dead) or 'none'}."
    yield f"- {outcome.failed_starts} starts of a replica failed while its store was away, and were tried again."
    names = ", ".join(f"{run.task} of {run.worker}" for run in verdict.orphans)
    yield f"- {len(verdict.orphans)} executions were taken from these, which the rules allow to be repeated: {names or 'none'}."
    yield ""


def _replies(outcome: Outcome) -> Iterator[str]:
    counted = Counter(request.status for request in outcome.verdict.requests)
    yield "## Replies"
    yield ""
    rows = ((status if status != GONE else "-", STATUSES.get(status, "?"), count) for status, count in counted.most_common())
    yield from _table(("status", "meaning", "tries"), rows)


def _waits(outcome: Outcome) -> Iterator[str]:
    waits = outcome.waits
    by_method: dict[str, list[float]] = defaultdict(list)
    for wait in reversed(waits):
        by_method[wait.method].append(wait.seconds)
    yield "## Waits"
    yield ""
    yield "From a worker's first try of a call to its reply. Workers that were stopped or killed meanwhile are left out."
    yield ""
    rows = (
        (name, len(found), *(_seconds(found, share) for share in (0.5, 0.99, 1))) for name, found in sorted(by_method.items())
    )
    yield from _table(("call", "times", "p50", "p99", "longest"), rows)
    yield "The longest, and the faults that overlap them:"
    yield ""
    longest = (
        (
            wait.worker,
            wait.method,
            f"{wait.seconds:.1f} s",
            wait.tries,
            f"{_since(outcome, wait.begin):.0f} s",
            _meanwhile(outcome, wait),
        )
        for wait in waits[:LONGEST]
    )
    yield from _table(("worker", "call", "wait", "tries", "began at", "faults"), longest)


def _since(outcome: Outcome, moment: float) -> float:
    """Seconds from the beginning of the run to a time of the balancer's log."""
    return moment - apart() - outcome.began


def _meanwhile(outcome: Outcome, wait: Wait) -> str:
    began, ended = wait.begin - apart(), wait.end - apart()
    found = [fault for fault, begin, end in outcome.happened if begin <= ended and began <= end and fault.kind not in OF_WORKERS]
    return ", ".join(f"{fault.kind.name} {fault.target}" if fault.target >= 0 else fault.kind.name for fault in found)


def _seconds(found: Sequence[float], share: float) -> str:
    """A quantile of ascending seconds, by nearest rank."""
    return f"{1000 * found[min(len(found) - 1, int(share * len(found)))]:,.0f} ms"
