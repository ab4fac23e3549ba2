"""The cycle collector and a state of a million objects: it looks at all of them, again and again, and finds nothing.

Tasks and workers hold no cycles: what leaves the state is freed at once. So a load keeps the collector out, and a daemon moves
what lives into the generation that is never looked at; else each look would hold up every call for as long as it takes,
0.2 s at 100,000 tasks (measured).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

ROUNDS = 10
"""After how many collections of the middle generation, some 7,000 new objects each, everything new is frozen: looking at so many
for cycles takes about 10 ms (measured)."""

NEVER = 1_000_000
"""Threshold of the oldest generation."""


@contextmanager
def paused() -> Iterator[None]:
    """The collector does not run inside."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Freezer:
    """Freezes what a daemon has gathered, in small portions. Call `look` now and then."""

    def __init__(self) -> None:
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def look(self) -> None:
        """Collect and freeze, if much has come since."""
        if gc.get_count()[2] >= ROUNDS:
            gc.collect()
            gc.freeze()
