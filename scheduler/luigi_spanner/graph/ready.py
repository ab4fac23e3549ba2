"""Ready tasks, so filed that the best one for a worker is found without a look at those that cannot be it.

Tasks that Luigi's greedy rule cannot tell apart are one `Group`. Groups that a worker may run are in its `Queue`, in buckets: a
group that a resource held up is filed under what it needs of that resource, and while there is less left of it, the worker's
whole bucket is parked. Groups are filed anew when another resource holds them up.

Groups, buckets and queues are heaps by rank. Changes are cheap, looking is what puts them in order: a heap may still hold what
has gone, and may know a group or a bucket by an earlier rank than its first task has now, never by a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luigi_spanner.graph.entries import Entry

Rank = tuple[Any, float, int, str]
"""Order in which Luigi considers tasks, first comes first: priority and age, ties by when the task took its status."""

Amount = int | Fraction
"""An exact number: sums of amounts do not depend on the order of adding."""

Need = tuple[str, Amount]
"""A resource and how much of it."""

GroupKey = tuple[tuple[Need, ...], tuple[str, ...], bool]
"""What the greedy rule can tell apart of ready tasks: needs by name, workers, runnable."""

_SLACK = 16
"""A heap is cleaned when it holds more than twice what is alive, and so many more."""

_MANY = 8
"""So many times the need of a group must be asked for before it is filed under it in advance. A lock of its own never is."""

_ENDLESS = 1 << 1100
"""An infinite amount: more than any finite float."""


def exact(amount: Any) -> Amount:
    """An amount as people wrote it, made exact."""
    if isinstance(amount, int):
        return amount
    if amount == float("inf"):
        return _ENDLESS
    number = Fraction(amount)
    return number.numerator if number.denominator == 1 else number


def needs_of(resources: Any) -> tuple[Need, ...]:
    """The needs that a dict of resources states, by name."""
    if not resources:
        return ()
    needs = [(name, exact(amount)) for name, amount in resources.items()]
    if len(needs) > 1:
        needs.sort()
    return tuple(needs)


class Group:
    """Ready tasks with the same needs, workers and runnable. `size` is how many there are; `ranks` may hold more."""

    __slots__ = ("buckets", "filing", "key", "needs", "ranks", "runnable", "size", "workers")

    def __init__(self, key: GroupKey) -> None:
        self.key = key
        self.needs, self.workers, self.runnable = key
        self.ranks: list[Rank] = []
        self.size = 0
        self.filing: Need | None = None
        self.buckets: tuple[Bucket, ...] = ()

    def __lt__(self, other: Group) -> bool:
        return False  # Heaps compare groups only where one was filed twice with one rank.


class Bucket:
    """Groups of one queue that are filed under the same need, or under none. `size` is how many there are. A parked one is not in
    the queue's heap."""

    __slots__ = ("filing", "heap", "parked", "queue", "size")

    def __init__(self, queue: Queue, filing: Need | None) -> None:
        self.queue = queue
        self.filing = filing
        self.heap: list[tuple[Rank, Group]] = []
        self.size = 0
        self.parked = False

    def __lt__(self, other: Bucket) -> bool:
        return False


class Queue:
    """The groups that one worker may run; or those that any assistant may, or none but their own workers."""

    __slots__ = ("buckets", "heap", "owner")

    def __init__(self, owner: str | None) -> None:
        self.owner = owner
        self.buckets: dict[Need | None, Bucket] = {}
        self.heap: list[tuple[Rank, Bucket]] = []


class Ready:
    """All ready tasks, `size` of them. `entries` says of each task whether a rank is still its own."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self.size = 0
        self._groups: dict[GroupKey, Group] = {}
        self._filed: dict[Need, int] = {}
        self._parked: dict[str, dict[Bucket, None]] = {}
        self.queues: dict[str, Queue] = {}
        self.runnable = Queue(None)
        self.external = Queue(None)
        self.demand: dict[str, Amount] = {}

    # Changes

    def group(self, key: GroupKey) -> Group:
        """The group of that key; a new one if there is none, in which a task must then be put."""
        return self._groups.get(key) or Group(key)

    def add(self, group: Group, rank: Rank) -> None:
        """A task became ready; its entry has that very rank."""
        if not group.size:
            group.ranks.clear()
            self._groups[group.key] = group
            self._file(group, self._contended(group) if group.needs else None)
        group.size += 1
        self.size += 1
        heappush(group.ranks, rank)
        self._want(group, 1)
        if group.ranks[0] is rank:
            self._announce(group, rank)

    def remove(self, group: Group) -> None:
        """A task of the group is ready no more; its entry has said so already."""
        group.size -= 1
        self.size -= 1
        self._want(group, -1)
        if not group.size:
            del self._groups[group.key]
            self._release(group.buckets, group.filing)
        elif len(group.ranks) > 2 * group.size + _SLACK:
            group.ranks = [rank for rank in group.ranks if self._is_live(rank)]
            heapify(group.ranks)

    def refile(self, group: Group, filing: Need) -> None:
        """The group is held up by another resource."""
        if group.filing != filing:
            before = group.buckets, group.filing
            self._file(group, filing)
            self._release(*before)
            self._announce(group, self.first(group))

    def reopen(self, name: str) -> None:
        """There may be more of the resource."""
        for bucket in self._parked.pop(name, ()):
            bucket.parked = False
            self._show(bucket)

    def _want(self, group: Group, sign: int) -> None:
        for name, amount in group.needs:
            wanted = self.demand.get(name, 0) + sign * amount
            if wanted:
                self.demand[name] = wanted
            else:
                self.demand.pop(name, None)

    def _file(self, group: Group, filing: Need | None) -> None:
        group.filing = filing
        group.buckets = tuple([self._bucket(queue, filing) for queue in self._queues_of(group)])
        for bucket in group.buckets:
            bucket.size += 1
        if filing is not None:
            self._filed[filing] = self._filed.get(filing, 0) + 1

    def _queues_of(self, group: Group) -> Iterator[Queue]:
        yield self.runnable if group.runnable else self.external
        for worker_id in group.workers:
            queue = self.queues.get(worker_id)
            if queue is None:
                queue = self.queues[worker_id] = Queue(worker_id)
            yield queue

    def _contended(self, group: Group) -> Need | None:
        """What may hold the group up: what holds up others, or what many ask for."""
        for need in group.needs:
            name, amount = need
            if need in self._filed or (amount and self.demand.get(name, 0) >= _MANY * amount):
                return need
        return None

    def _bucket(self, queue: Queue, filing: Need | None) -> Bucket:
        bucket = queue.buckets.get(filing)
        if bucket is None:
            bucket = queue.buckets[filing] = Bucket(queue, filing)
        return bucket

    def _release(self, buckets: tuple[Bucket, ...], filing: Need | None) -> None:
        """One group less in each of these buckets."""
        for bucket in buckets:
            bucket.size -= 1
            if not bucket.size:
                self._discard(bucket)
        if filing is not None:
            self._filed[filing] -= 1
            if not self._filed[filing]:
                del self._filed[filing]

    def _discard(self, bucket: Bucket) -> None:
        queue = bucket.queue
        del queue.buckets[bucket.filing]
        if bucket.parked and bucket.filing is not None:
            parked = self._parked[bucket.filing[0]]
            del parked[bucket]
            if not parked:
                del self._parked[bucket.filing[0]]
        if not queue.buckets:
            queue.heap.clear()
            if queue.owner is not None:
                del self.queues[queue.owner]

    def _announce(self, group: Group, rank: Rank) -> None:
        """The group has a task that may come before those by which its buckets know it."""
        item = (rank, group)
        for bucket in group.buckets:
            heappush(bucket.heap, item)
            if len(bucket.heap) > 2 * bucket.size + _SLACK:
                alive = {group: group.ranks[0] for _, group in bucket.heap if group.size and group.filing == bucket.filing}
                bucket.heap = [(first, group) for group, first in alive.items()]
                heapify(bucket.heap)
            if bucket.heap[0][0] is rank and not bucket.parked:
                self._show(bucket)

    def _show(self, bucket: Bucket) -> None:
        """The bucket may come before the rank by which its queue knows it, or is not in the queue's heap."""
        queue = bucket.queue
        heappush(queue.heap, (bucket.heap[0][0], bucket))
        if len(queue.heap) > 2 * len(queue.buckets) + _SLACK:
            queue.heap = [(bucket.heap[0][0], bucket) for bucket in queue.buckets.values() if not bucket.parked]
            heapify(queue.heap)

    # Questions

    def first(self, group: Group) -> Rank:
        """The rank of the first task of a group."""
        ranks = group.ranks
        while not self._is_live(ranks[0]):
            heappop(ranks)
        return ranks[0]

    def _is_live(self, rank: Rank) -> bool:
        entry = self._entries.get(rank[3])
        return entry is not None and entry.rank is rank

    def open(self, queue: Queue | None, spent: Callable[[Need], bool]) -> Group | None:
        """The first group of a queue by rank whose needs are not `spent`."""
        while queue is not None:
            group = self._top(queue, spent)
            lacking = None if group is None else next((need for need in group.needs if spent(need)), None)
            if group is None or lacking is None:
                return group
            self.refile(group, lacking)
        return None

    def _top(self, queue: Queue, spent: Callable[[Need], bool]) -> Group | None:
        """The first group of the first bucket that is not filed under a spent need."""
        heap = queue.heap
        while heap:
            rank, bucket = heap[0]
            if bucket.parked or not bucket.size:
                heappop(heap)
            elif bucket.filing is not None and spent(bucket.filing):
                heappop(heap)
                bucket.parked = True
                self._parked.setdefault(bucket.filing[0], {})[bucket] = None
            else:
                first, group = self._first_group(bucket)
                if first is rank:
                    return group
                heapreplace(heap, (first, bucket))
        return None

    def _first_group(self, bucket: Bucket) -> tuple[Rank, Group]:
        heap = bucket.heap
        while True:
            rank, group = heap[0]
            if not group.size or group.filing != bucket.filing:
                heappop(heap)
                continue
            first = self.first(group)
            if first is rank:
                return rank, group
            heapreplace(heap, (first, group))

    def settle(self, queue: Queue) -> None:
        """Forget what has gone from the top of a queue, so that nobody need pass it again."""
        for bucket in queue.buckets.values():
            self._first_group(bucket)

    def groups(self, queue: Queue, spent: Callable[[Need], bool]) -> Iterator[tuple[Rank, Group]]:
        """Every group of a queue by the rank of its first task, without those filed under a need that is `spent` by then: what is
        spent stays so. Nothing may change meanwhile."""
        numbers = count()
        waiting = [
            (*bucket.heap[0], next(numbers), bucket, 0)
            for bucket in queue.buckets.values()
            if bucket.filing is None or not spent(bucket.filing)
        ]
        heapify(waiting)
        seen = set()
        while waiting:
            rank, group, _, bucket, place = heappop(waiting)
            if bucket.filing is not None and spent(bucket.filing):
                continue
            for child in _children(place, len(bucket.heap)):
                heappush(waiting, (*bucket.heap[child], next(numbers), bucket, child))
            if group in seen or not group.size or group.filing != bucket.filing:
                continue
            first = self.first(group)
            if first is rank:
                seen.add(group)
                yield rank, group
            else:
                heappush(waiting, (first, group, next(numbers), bucket, -1))

    def members(self, group: Group) -> Iterator[Rank]:
        """The ranks of a group's tasks in order. Nothing may change meanwhile."""
        self.first(group)
        ranks = group.ranks
        waiting = [(ranks[0], 0)]
        while waiting:
            rank, place = heappop(waiting)
            for child in _children(place, len(ranks)):
                heappush(waiting, (ranks[child], child))
            if self._is_live(rank):
                yield rank


def _children(place: int, length: int) -> Iterable[int]:
    """The places in a heap right below a place; below -1, which stands for none, there are none."""
    return range(2 * place + 1, min(2 * place + 3, length)) if place >= 0 else ()
