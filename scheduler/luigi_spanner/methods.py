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
"""Their names. Arguments that are texts may also be plain parameters of the query: people type these."""


def is_remote(name: str) -> bool:
    """Whether it names a method that may be called remotely."""
    return name in RPC_METHODS or name in OURS
