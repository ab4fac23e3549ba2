"""The picture of a run: when which fault was, and what workers noticed of it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

from faultplan import FOR_ALL, OF_THE_FRONT, OF_WORKERS, REPLICAS, Fault, Kind
from outcome import Outcome
from verdict import apart

PROCESS = frozenset({Kind.KILL, Kind.RESTART, Kind.FREEZE, Kind.CLOCK_STEP})

COLOURS = {"process": "#c0392b", "front": "#2980b9", "store": "#d68910", "worker": "#7d3c98"}
"""Of a bar, by what it was done to."""

LEAST_SECONDS = 0.4
"""A bar for what is over at once."""

INCHES = (14, 8)


def draw(outcome: Outcome, path: Path) -> None:
    """Write the picture as SVG. The same run gives the same picture."""
    pyplot = _pyplot()
    figure, (faults, rates, waiting) = pyplot.subplots(
        3, 1, sharex=True, figsize=INCHES, gridspec_kw={"height_ratios": (4, 2, 2)}
    )
    _faults(faults, outcome)
    _rates(rates, outcome)
    _waiting(waiting, outcome)
    waiting.set_xlabel("seconds since the first worker")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _faults(axes: Any, outcome: Outcome) -> None:
    lanes = ["the store", *(f"replica {number}" for number in range(REPLICAS)), "workers"]
    for fault, begin, end in outcome.happened:
        lane = _lane(fault)
        # Faults of the process above those of its connections, so that none hides another.
        offset = {"process": -0.28, "front": 0.0, "store": 0.28, "worker": 0.0}[_group(fault)] if 0 < lane <= REPLICAS else 0.0
        width = max(end - begin, LEAST_SECONDS)
        axes.barh(lane + offset, width, left=begin - outcome.began, height=0.24, color=COLOURS[_group(fault)], alpha=0.7)
    for name, colour in COLOURS.items():
        axes.barh(0, 0, color=colour, label={"front": "balancer to replica", "store": "replica to store"}.get(name, name))
    axes.set_yticks(range(len(lanes)), lanes)
    axes.invert_yaxis()
    axes.legend(fontsize=8, loc="upper right", ncols=len(COLOURS))
    axes.set_title(f"Chaos: seed {outcome.seed}, {len(outcome.happened)} faults", fontsize=10)


def _group(fault: Fault) -> str:
    if fault.kind in OF_WORKERS:
        return "worker"
    if fault.kind in PROCESS:
        return "process"
    return "front" if fault.kind in OF_THE_FRONT else "store"


def _lane(fault: Fault) -> int:
    if fault.kind in FOR_ALL:
        return 0
    return REPLICAS + 1 if fault.kind in OF_WORKERS else fault.target + 1


def _rates(axes: Any, outcome: Outcome) -> None:
    length = math.ceil(outcome.ended - outcome.began)
    answered, failed = Counter[int](), Counter[int]()
    for request in outcome.verdict.requests:
        (answered if request.answered else failed)[int(request.end - apart() - outcome.began)] += 1
    axes.plot(range(length), [answered[second] for second in range(length)], linewidth=0.8, label="calls answered a second")
    axes.plot(
        range(length), [failed[second] for second in range(length)], linewidth=0.8, color="#c0392b", label="tries that failed"
    )
    axes.legend(fontsize=8, loc="upper right")


def _waiting(axes: Any, outcome: Outcome) -> None:
    long = [wait for wait in outcome.waits if wait.seconds > 1]
    axes.scatter(
        [wait.begin - apart() - outcome.began for wait in long],
        [wait.seconds for wait in long],
        s=8,
        label="calls that took a worker more than 1 s, tries included",
    )
    axes.set_ylabel("seconds")
    axes.legend(fontsize=8, loc="upper right")


def _pyplot() -> Any:
    """matplotlib, which only the picture needs; the same picture for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "luigi-spanner"
    from matplotlib import pyplot

    return pyplot
