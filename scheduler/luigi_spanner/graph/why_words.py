"""What an answer to "why is it not running?" is made of: reasons, and how times, amounts and names are worded in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

NAMED = 3
"""How many names a sentence lists before it only counts the others."""

_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))

_TWO = 2
"""From how many of a unit on it is told: 90 minutes are one hour and a half, so they are told in minutes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reason:
    """Why a task is not running, or (`ready`) what there is to say of one that may. `code` is for programs, `sentence` for
    people; `details` hold what it says as values, times in seconds since the epoch."""

    code: str
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"code": self.code, "sentence": self.sentence, **self.details}


def moment(when: Any, now: float) -> str:
    """A time, in seconds since the epoch, as people and programs read it: `2026-01-02T03:04:05Z (in 15 minutes)`."""
    try:
        written = datetime.fromtimestamp(when, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError, TypeError):
        return "a time beyond the calendar"
    apart = duration(abs(when - now))
    return f"{written} (now)" if apart == "0 seconds" else f"{written} ({f'in {apart}' if when > now else f'{apart} ago'})"


def duration(seconds: float) -> str:
    """A length of time in the largest unit of which there are two."""
    for size, unit in _UNITS:
        if seconds >= _TWO * size:
            return f"{round(seconds / size)} {unit}s"
    return "1 second" if seconds >= 1 else "0 seconds"


def number(amount: Any) -> int | float:
    """An amount, maybe exact, as people wrote it."""
    try:
        value = float(amount)
    except OverflowError:
        value = float("inf") if amount > 0 else float("-inf")
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def listed(names: Sequence[str], more: bool = False) -> str:
    """The first few names, and that there are more."""
    if not names:
        return "none"
    shown = list(names[:NAMED])
    if more or len(names) > NAMED:
        return f"{', '.join(shown)} and others"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def counted(count: int, noun: str, more: bool = False) -> str:
    """`1 task`, `3 tasks`, `more than 3 tasks`."""
    return f"{'more than ' if more else ''}{count} {noun}{'' if count == 1 else 's'}"
