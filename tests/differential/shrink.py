"""Cut a history that shows a difference down to a short script that still does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from twins import Difference, Setup, Step, play

REQUIRED = frozenset(
    {"worker", "task_id", "task", "message_id", "response", "content", "resource", "amount", "info", "task_family"}
)
"""Arguments that stay: without them a call means something else, or nothing."""


def difference(setup: Setup, steps: list[Step]) -> Difference | None:
    """The difference that a history shows, if any."""
    try:
        play(setup, steps)
    except Difference as found:
        return found
    return None


def shrunk(setup: Setup, steps: list[Step], seconds: float = 60.0) -> tuple[Setup, list[Step]]:
    """A smaller history that shows a difference too, found within about that time. Raises ValueError if this one shows none."""
    end = time.monotonic() + seconds
    steps = _until_the_difference(setup, steps)
    size = -1
    while size != (size := len(repr((setup, steps)))) and time.monotonic() < end:
        steps = _fewer_steps(setup, steps, end)
        steps = _simpler_steps(setup, steps, end)
        setup, steps = _simpler_setup(setup, steps)
    return setup, steps


def _until_the_difference(setup: Setup, steps: list[Step]) -> list[Step]:
    found = difference(setup, steps)
    if found is None:
        raise ValueError("this history shows no difference")
    return steps[: found.index + 1]


def _fewer_steps(setup: Setup, steps: list[Step], end: float) -> list[Step]:
    """Leave out runs of steps, long ones first."""
    length = len(steps) // 2
    while length:
        start = len(steps) - length
        while start >= 0 and time.monotonic() < end:
            fewer = steps[:start] + steps[start + length :]
            if fewer and difference(setup, fewer):
                steps = _until_the_difference(setup, fewer)
            start = min(start, len(steps)) - length
        length //= 2
    return steps


def _simpler_steps(setup: Setup, steps: list[Step], end: float) -> list[Step]:
    """Simplify each step by itself, the last first."""
    for place in reversed(range(len(steps))):
        if place < len(steps):
            steps = _simplify(setup, steps, place, end)
    return steps


def _simplify(setup: Setup, steps: list[Step], place: int, end: float) -> list[Step]:
    for step in _simpler(steps[place], steps[place - 1].at if place else 0.0):
        if time.monotonic() > end:
            break
        changed = [*steps[:place], step, *steps[place + 1 :]]
        found = difference(setup, changed)
        if found is not None and found.index == len(steps) - 1:
            return _simplify(setup, changed, place, end)
    return steps


def _simpler(step: Step, before: float) -> Iterator[Step]:
    if step.joined:
        yield replace(step, joined=False)
    if step.taker:
        yield replace(step, taker=0)
    if step.at != before and not step.joined:
        yield replace(step, at=before)
    for name, value in step.arguments.items():
        if name not in REQUIRED:
            yield replace(step, arguments={key: kept for key, kept in step.arguments.items() if key != name})
        for smaller in _smaller(value):
            yield replace(step, arguments={**step.arguments, name: smaller})


def _smaller(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from (value[:place] + value[place + 1 :] for place in range(len(value)))
    elif isinstance(value, dict):
        yield from ({key: kept for key, kept in value.items() if key != name} for name in value)


def _simpler_setup(setup: Setup, steps: list[Step]) -> tuple[Setup, list[Step]]:
    """Take back what the setup says beyond the defaults."""
    candidates = [replace(setup, replicas=1)] if setup.replicas > 1 else []
    for name in fields(Setup):
        said = getattr(setup, name.name)
        if isinstance(said, dict):
            candidates += [replace(setup, **{name.name: {k: v for k, v in said.items() if k != key}}) for key in said]
    for candidate in candidates:
        found = difference(candidate, steps)
        if found is not None and found.index == len(steps) - 1:
            return _simpler_setup(candidate, steps)
    return setup, steps


def script(setup: Setup, steps: list[Step]) -> str:
    """A Python script that plays the history. It runs with tests/differential on the module path, and raises the Difference."""
    lines = "\n".join(f"        {step!r}," for step in steps)
    return f"""\
# Run as: PYTHONPATH=scheduler:tests/differential python this_file.py
from twins import Setup, Step, play

play(
    {setup!r},
    [
{lines}
    ],
)
"""
