"""The remote methods: Luigi's, and ours beside them."""

from __future__ import annotations

from typing import Any, Protocol

from luigi.scheduler import RPC_METHODS

from luigi_spanner.graph.administration import ADMINISTRATION


class Ours(Protocol):
    """What may be called besides, as a client sees it; those for administration are in `Administration`."""

    def why(self, task_id: str, worker: str | None = None) -> dict[str, Any]:
        """Why a task is not running, or why that worker does not get it."""
        ...


OURS = ADMINISTRATION | {"why"}
"""Their names."""

READING = frozenset({"find_tasks", "overview", "show_task", "why"})
"""Those of ours that change nothing. Arguments that are texts may also be plain parameters of the query: people type these."""

CHANGING = OURS - READING
"""Those of ours that change something. A GET does not call them: any page that a browser shows can make it send one."""


def verbs(name: str) -> tuple[str, ...]:
    """The verbs of HTTP that call the method. Luigi's own are called by both, as stock has it."""
    return ("POST",) if name in CHANGING else ("GET", "POST")


def is_remote(name: str) -> bool:
    """Whether it names a method that may be called remotely."""
    return name in RPC_METHODS or name in OURS
