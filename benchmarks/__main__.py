"""`make bench`: measure, print each line as it comes, write the table and the plots."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType

from benchmarks.bench import Bench
from benchmarks.client import ROOT, calibrate
from benchmarks.report import read, spread, write
from benchmarks.results import Line, Report
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import Unusable, states

REPEATS = {"quick": 3, "full": 5}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; 1 if a scenario failed."""
    given = _arguments(argv)
    names = [name for name in SCENARIOS if given.only in name]
    if not names:
        print(f"No scenario's name contains {given.only!r}. There are: {', '.join(SCENARIOS)}.", file=sys.stderr)
        return 2
    partial = given.results / "partial"
    try:
        report = _begin(given, partial / f"{given.suite}.json")
    except Mixed as error:
        print(error, file=sys.stderr)
        return 2
    whole = not given.only and given.scale == 1
    begun = time.monotonic()
    try:
        _measure(given, [name for name in names if name not in report.done], report)
    finally:
        report.notes.append(f"It took {(time.monotonic() - begun) / 60:.1f} minutes; the load average at its end was {_load()}.")
        finished = len(report.done) + len(report.failures) == len(names)
        for path in write(report, given.results if whole and finished else partial, given.suite):
            print(f"wrote {path}")
    return 1 if report.failures else 0


class Mixed(Exception):
    """What is to be continued was measured on other code."""


def _begin(given: argparse.Namespace, left: Path) -> Report:
    """A new report, or the one that an interrupted run has left."""
    notes, code = _notes(given), _code()
    if not given.resume:
        return Report(title=f"Benchmarks, {given.suite} suite", notes=notes, lines=[], failures={}, done=[], code=code)
    found = read(left)
    if found.code != code:
        raise Mixed(f"{left} was measured on {found.code}, this is {code}: a table of both would say nothing.")
    return replace(found, notes=[*found.notes, "Continued:", *notes[:2]], failures={})


def _measure(given: argparse.Namespace, names: Sequence[str], report: Report) -> None:
    with states() as prepared:
        bench = Bench(
            states=prepared,
            repeats=given.repeats or REPEATS[given.suite],
            quick=given.suite == "quick",
            seed=given.seed,
            scale=given.scale,
        )
        for name in names:
            lines: list[Line] = []
            _run(name, bench, lines, report.failures)
            report.lines.extend(lines)
            if name not in report.failures:
                report.done.append(name)


def _code() -> str:
    """The commit, and whether anything differs from it; empty outside a checkout."""
    found = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Stock luigid and ours, side by side")
    parser.add_argument("--suite", choices=sorted(REPEATS), default="full")
    parser.add_argument("--only", default="", help=f"part of a scenario's name: {', '.join(SCENARIOS)}")
    parser.add_argument("--repeats", type=int, default=0, help="repeats of each measurement (default: 5, quick 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the graphs (default: 1)")
    parser.add_argument("--scale", type=int, default=1, help="divide every size by this, to try the benchmark itself")
    parser.add_argument("--resume", action="store_true", help="go on where a run was interrupted")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args(argv)


def _run(name: str, bench: Bench, lines: list[Line], failures: dict[str, str]) -> None:
    begun = time.monotonic()
    print(f"== {name}", flush=True)
    try:
        for line in SCENARIOS[name](bench):
            lines.append(line)
            met = {True: "met", False: "NOT MET", None: ""}[line.met]
            beside = f"{line.base} {spread(line.stock, line.unit)}, ratio {spread(line.ratios, 'x')}; " if line.stock else ""
            print(
                f"   {line.scenario}: {beside}ours {line.failure or spread(line.ours, line.unit)}  {line.goal or ''} {met}",
                flush=True,
            )
    except Unusable as error:
        failures[name] = str(error)
    except Exception as error:  # one broken scenario must not lose the results of the others
        failures[name] = f"{type(error).__name__}: {error}"
    if name in failures:
        print(f"   FAILED: {failures[name]}", file=sys.stderr, flush=True)
    print(f"   ({time.monotonic() - begun:.0f} s)", flush=True)


def _notes(given: argparse.Namespace) -> list[str]:
    one, many = calibrate(1), calibrate(64)
    releases = ", ".join(f"{name} {version(name)}" for name in ("luigi", "luigi-spanner", "tornado", "google-cloud-spanner"))
    return [
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, Python {platform.python_version()}, {os.cpu_count()} cores of "
        f"{_processor()}, {platform.system()} {platform.release()}; {releases}.",
        f"Seed {given.seed}, commit {_code() or 'unknown'}. Load average before it began: {_load()}; the numbers mean little "
        "unless it was near 0.",
        f"The client alone: {1e6 * one.cpu / one.calls:.0f} us of CPU a call and at most {one.rate:,.0f} rpc/s with one "
        f"connection, {1e6 * many.cpu / many.calls:.0f} us and {many.rate:,.0f} rpc/s with 64. It is part of every number.",
        "Each cell is the median of the repeats with the smallest and the largest; each ratio is taken between a repeat of stock "
        "and the repeat of ours beside it.",
    ]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "unknown")


def _load() -> str:
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _end(number: int, frame: FrameType | None) -> None:
    """Leave through every `with`, so that no server is left behind."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
