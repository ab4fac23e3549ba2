"""Ready tasks that may run in one batch: of one family, with the same needs, equal in the parameters that are not batched."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from sortedcontainers import SortedList

from luigi_spanner.graph.ready import Need, Rank

FamilyKey = tuple[str, tuple[Need, ...]]

_Names = tuple[str, ...]
_Cells = dict[Hashable, SortedList]

_UNHASHABLE = object()
"""Stands for all values that cannot be looked up: lists and dicts, which parameters may be."""

_SPARE_OWNERS = 64
"""Workers that have gone are forgotten when there are more than twice as many workers as tasks, and so many more."""

_MOST_VIEWS = 4
"""A family's tasks have the same parameters as a rule, and its workers batch over the same ones."""


def _values(params: dict[str, Any], names: _Names) -> Hashable:
    values = tuple([params.get(name) for name in names])
    try:
        hash(values)
    except TypeError:
        return _UNHASHABLE
    return values


class Family:
    """Ready, batchable tasks with the same needs. Once someone batches over certain parameters, they are kept by the values of
    the others as well: all of them, or those that one worker may run."""

    __slots__ = ("_members", "_views", "key")

    def __init__(self, key: FamilyKey) -> None:
        self.key = key
        self._members: dict[str, tuple[Rank, tuple[str, ...], dict[str, Any]]] = {}
        self._views: dict[str | None, dict[_Names, _Cells]] = {}

    def __bool__(self) -> bool:
        return bool(self._members)

    def add(self, rank: Rank, workers: tuple[str, ...], params: dict[str, Any]) -> None:
        self._members[rank[3]] = (rank, workers, params)
        for owner in (None, *workers) if self._views else ():
            for names, cells in self._views.get(owner, {}).items():
                cells.setdefault(_values(params, names), SortedList()).add(rank)

    def remove(self, task_id: str) -> None:
        rank, workers, params = self._members.pop(task_id)
        for owner in (None, *workers) if self._views else ():
            for names, cells in self._views.get(owner, {}).items():
                values = _values(params, names)
                cells[values].remove(rank)
                if not cells[values]:
                    del cells[values]

    def alike(self, params: dict[str, Any], names: Iterable[str], owner: str | None) -> Any:
        """The ranks, in order, of the tasks that may have the same values of the parameters `names` as `params`: all of them,
        or those that the worker `owner` may run."""
        wanted = tuple(sorted(names))
        cells = self._views.get(owner, {}).get(wanted)
        if cells is None:
            cells = self._keep(owner, wanted, self._view(wanted, owner))
        return cells.get(_values(params, wanted)) or SortedList()

    def _keep(self, owner: str | None, names: _Names, cells: _Cells) -> _Cells:
        if len(self._views) > 2 * len(self._members) + _SPARE_OWNERS:
            self._views = {owner: views for owner, views in self._views.items() if any(views.values())}
        views = self._views.setdefault(owner, {})
        if len(views) >= _MOST_VIEWS:
            del views[next(iter(views))]
        views[names] = cells
        return cells

    def _view(self, names: _Names, owner: str | None) -> _Cells:
        found: dict[Hashable, list[Rank]] = {}
        for rank, workers, params in self._members.values():
            if owner is None or owner in workers:
                found.setdefault(_values(params, names), []).append(rank)
        return {values: SortedList(ranks) for values, ranks in found.items()}
