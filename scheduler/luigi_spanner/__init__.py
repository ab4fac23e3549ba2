"""Luigi Spanner: a drop-in luigid whose task graph lives in Cloud Spanner or SQLite.

Names are loaded when first used, so that importing one room, as a pipeline does with our targets, loads no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luigi_spanner._version import __version__

if TYPE_CHECKING:
    from luigi_spanner.scheduler import Scheduler

__all__ = ["Scheduler", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "Scheduler":
        from luigi_spanner.scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
