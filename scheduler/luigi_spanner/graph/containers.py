"""Containers that tell the tracker of every change in place.

`Owned*` containers belong to one attribute of one row and keep a copy of themselves for undo: they are small, or rarely
changed in place.
`Ranked` dicts iterate by rank: undo and catch-up put items back out of order, and the order is restored when next needed.
All of them pickle and copy as the plain container they stand for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from luigi_spanner.graph.tracker import Tracker
from luigi_spanner.journal import Key

K = TypeVar("K")
V = TypeVar("V")


class Owner:
    """The row that an owned container belongs to, and the tracker to tell."""

    __slots__ = ("key", "table", "tracker")

    def __init__(self, tracker: Tracker, table: str, key: Key) -> None:
        self.tracker = tracker
        self.table = table
        self.key = key

    def changes(self, attribute: str, restore: Callable[..., object], container: Any, copy: Any) -> None:
        self.tracker.log(restore, container, copy)
        self.tracker.touch(self.table, self.key, attribute)


def _restore_dict(container: dict[Any, Any], copy: dict[Any, Any]) -> None:
    dict.clear(container)
    dict.update(container, copy)


class OwnedDict(dict[K, V]):
    """A dict of one attribute."""

    __slots__ = ("_attribute", "_owner")

    def __init__(self, owner: Owner, attribute: str, items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self._owner = owner
        self._attribute = attribute

    def _before(self) -> None:
        self._owner.changes(self._attribute, _restore_dict, self, dict(self))

    def __setitem__(self, key: K, value: V) -> None:
        self._before()
        super().__setitem__(key, value)

    def __delitem__(self, key: K) -> None:
        self._before()
        super().__delitem__(key)

    def pop(self, key: K, *default: Any) -> Any:
        if key in self:
            self._before()
        return super().pop(key, *default)

    def popitem(self) -> tuple[K, V]:
        self._before()
        return super().popitem()

    def clear(self) -> None:
        self._before()
        super().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        new = dict(*args, **kwargs)
        if any(key not in self or self[key] != value for key, value in new.items()):
            self._before()
            super().update(new)

    def setdefault(self, key: K, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> OwnedDict[K, V]:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _restore_set(container: OwnedSet[Any], copy: set[Any]) -> None:
    set.clear(container)
    set.update(container, copy)
    container._frozen = None


class OwnedSet(set[K]):
    """A set of one attribute. Its order is no state."""

    __slots__ = ("_attribute", "_frozen", "_owner")

    def __init__(self, owner: Owner, attribute: str, items: Iterable[K] = ()) -> None:
        super().__init__(items)
        self._owner = owner
        self._attribute = attribute
        self._frozen: tuple[K, ...] | None = None

    def frozen(self) -> tuple[K, ...]:
        """The members as they are now, in no order; the same object until they change."""
        if self._frozen is None:
            self._frozen = tuple(self)
        return self._frozen

    def _before(self) -> None:
        self._owner.changes(self._attribute, _restore_set, self, set(self))
        self._frozen = None

    def add(self, item: K) -> None:
        if item not in self:
            self._before()
            super().add(item)

    def update(self, *others: Iterable[K]) -> None:
        new = set().union(*others)
        if not new <= self:
            self._before()
            super().update(new)

    def discard(self, item: object) -> None:
        if item in self:
            self._before()
            super().discard(item)

    def remove(self, item: K) -> None:
        self._before()
        super().remove(item)

    def pop(self) -> K:
        self._before()
        return super().pop()

    def clear(self) -> None:
        self._before()
        super().clear()

    def difference_update(self, *others: Iterable[Any]) -> None:
        if not self.isdisjoint(set().union(*others)):
            self._before()
            super().difference_update(*others)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        self._before()
        super().intersection_update(*others)

    def symmetric_difference_update(self, other: Iterable[K]) -> None:
        self._before()
        super().symmetric_difference_update(other)

    def __ior__(self, other: Any) -> OwnedSet[K]:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __isub__(self, other: Any) -> OwnedSet[K]:  # type: ignore[misc]
        self.difference_update(other)
        return self

    def __iand__(self, other: Any) -> OwnedSet[K]:  # type: ignore[misc]
        self.intersection_update(other)
        return self

    def __ixor__(self, other: Any) -> OwnedSet[K]:  # type: ignore[override,misc]
        self.symmetric_difference_update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)


def _restore_list(container: list[Any], copy: list[Any]) -> None:
    list.__setitem__(container, slice(None), copy)


class OwnedList(list[V]):
    """A list of one attribute."""

    __slots__ = ("_attribute", "_owner")

    def __init__(self, owner: Owner, attribute: str, items: Iterable[V] = ()) -> None:
        super().__init__(items)
        self._owner = owner
        self._attribute = attribute

    def _before(self) -> None:
        self._owner.changes(self._attribute, _restore_list, self, list(self))

    def append(self, item: V) -> None:
        self._before()
        super().append(item)

    def extend(self, items: Iterable[V]) -> None:
        self._before()
        super().extend(items)

    def insert(self, index: Any, item: V) -> None:
        self._before()
        super().insert(index, item)

    def pop(self, index: Any = -1) -> V:
        self._before()
        return super().pop(index)

    def remove(self, item: V) -> None:
        self._before()
        super().remove(item)

    def clear(self) -> None:
        self._before()
        super().clear()

    def sort(self, **kwargs: Any) -> None:
        self._before()
        super().sort(**kwargs)

    def reverse(self) -> None:
        self._before()
        super().reverse()

    def __setitem__(self, index: Any, value: Any) -> None:
        self._before()
        super().__setitem__(index, value)

    def __delitem__(self, index: Any) -> None:
        if self:
            self._before()
            super().__delitem__(index)
        else:
            list.__delitem__(self, index)

    def __iadd__(self, items: Any) -> OwnedList[V]:  # type: ignore[override,misc]
        self.extend(items)
        return self

    def __imul__(self, times: Any) -> OwnedList[V]:  # type: ignore[misc]
        self._before()
        return super().__imul__(times)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


class OwnedQueue(OwnedList[V]):
    """What Luigi keeps in a deque, of one attribute. An empty deque takes ten times the memory, and every task has one."""

    __slots__ = ()

    def popleft(self) -> V:
        return self.pop(0)

    def clear(self) -> None:
        if self:
            super().clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return deque, (list(self),)


_MANY_LATE = 0.01
"""From which share of a dict's items on sorting it all is as quick as finding the places of those out of order."""


class Ranked(dict[str, V], Generic[V]):
    """A dict that iterates by the rank of its values: ascending integers, unique, fixed while the value is inside."""

    def __init__(self, rank: Callable[[V], int]) -> None:
        super().__init__()
        self._rank = rank
        self._last = -1
        self._late: set[str] | None = None

    def put(self, key: str, value: V) -> None:
        """Insert untracked, at the place that the value's rank gives it."""
        rank = self._rank(value)
        if rank < self._last or key in self:
            if self._late is None:
                self._late = set()
            self._late.add(key)
        self._last = max(rank, self._last)
        dict.__setitem__(self, key, value)

    def drop(self, key: str) -> None:
        """Remove untracked, if there."""
        dict.pop(self, key, None)

    def settle(self) -> None:
        """Restore the order: 0.3 s of 100,000 items that were put in any order, 25 ms when few were."""
        if self._late:
            many = len(self._late) > _MANY_LATE * len(self)
            keys = sorted(dict.keys(self), key=self._rank_of) if many else self._merged(self._late)
            items = {key: self[key] for key in keys}
            dict.clear(self)
            dict.update(self, items)
        self._late = None

    def _rank_of(self, key: str) -> int:
        return self._rank(self[key])

    def _merged(self, late: set[str]) -> list[str]:
        """The keys, those of `late` at their places among the others."""
        others = [key for key in dict.keys(self) if key not in late]
        merged: list[str] = []
        done = 0
        for key in sorted((key for key in late if key in self), key=self._rank_of):
            place = bisect_left(others, self._rank_of(key), done, key=self._rank_of)
            merged += others[done:place]
            merged.append(key)
            done = place
        return merged + others[done:]

    def __iter__(self) -> Iterator[str]:
        self.settle()
        return dict.__iter__(self)

    def keys(self) -> Any:
        self.settle()
        return dict.keys(self)

    def values(self) -> Any:
        self.settle()
        return dict.values(self)

    def items(self) -> Any:
        self.settle()
        return dict.items(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.items()),)


class Table(dict[Key, dict[str, Any]]):
    """A state table kept as plain rows by key, for what Luigi has no object of its own. Rows are replaced, never edited."""

    def __init__(self, tracker: Tracker, name: str) -> None:
        super().__init__()
        self._tracker = tracker
        self.name = name

    def put(self, key: Key, row: dict[str, Any]) -> None:
        """Insert or replace a row. A row equal to the present one changes nothing."""
        old = self.get(key)
        if old == row:
            return
        if old is None:
            self._tracker.log(dict.pop, self, key)
        else:
            self._tracker.log(dict.__setitem__, self, key, old)
        self._tracker.touch_whole(self.name, key)
        dict.__setitem__(self, key, row)

    def remove(self, key: Key) -> None:
        """Delete a row, if there."""
        old = dict.pop(self, key, None)
        if old is not None:
            self._tracker.log(dict.__setitem__, self, key, old)
            self._tracker.touch_whole(self.name, key)
