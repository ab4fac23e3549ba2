"""Faults put into the product on purpose: each breaks one promise, and a campaign must notice within a few seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

from luigi_spanner import batch, service
from luigi_spanner.graph.containers import OwnedDict, Table
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.history import HISTORY, History
from luigi_spanner.graph.ledger import Ledger
from luigi_spanner.graph.outbox import OUTBOX, Outbox, Outcome
from luigi_spanner.graph.pending import Pending
from luigi_spanner.graph.rows import Resources
from luigi_spanner.graph.state import StatusTasks
from luigi_spanner.journal_client import Fate, JournalClient, LostTrack
from luigi_spanner.mail import Postman, Undeliverable
from luigi_spanner.replica import Replica
from luigi_spanner.service import Service
from luigi_spanner.stores import Committed, Conflict, StoreError
from luigi_spanner.stores.memory import MemoryStore

_commit_batch = Replica._commit_batch
_fate = JournalClient._fate
_catch_up = Replica._catch_up
_take_turn = Replica._take_turn
_undo = Replica._undo
_run_one = batch._run_one
_row = Ledger.row
_put = Table.put


async def reply_before_commit(self: Replica, ran: Any, losses: int, missed: int) -> Any:
    for waiting in ran.calls:
        waiting.answer()
    return await _commit_batch(self, ran, losses, missed)


async def effects_before_commit(self: Replica, ran: Any, losses: int, missed: int) -> Any:
    effects, self.graph.tracker.effects = self.graph.tracker.effects, []
    self._release(effects)
    return await _commit_batch(self, ran, losses, missed)


async def unknown_is_conflict(self: JournalClient, entry: Any, doubt: bool) -> tuple[Fate, list[Any]]:
    return (Fate.ANOTHER, []) if doubt else await _fate(self, entry, doubt)


async def own_entry_taken_for_anothers(self: JournalClient, entry: Any, doubt: bool) -> tuple[Fate, list[Any]]:
    """The commit id is forgotten."""
    fate, found = await _fate(self, entry, doubt)
    return Fate.ANOTHER if fate is Fate.OURS else fate, found


async def anothers_entry_taken_for_own(self: JournalClient, entry: Any, doubt: bool) -> tuple[Fate, list[Any]]:
    """The commit id is forgotten, the other way round."""
    fate, found = await _fate(self, entry, doubt)
    return Fate.OURS if fate is Fate.ANOTHER and doubt else fate, found


async def commit_without_link(self: MemoryStore, seq: int, entry: Any, rows: Any) -> Any:
    """A number that was truncated is given again."""
    journal = self.database.journals[self._namespace]
    if seq in journal:
        return Conflict()
    journal[seq] = entry
    for row in rows:
        self._write(row)
    return Committed()


async def truncate_beyond_the_watermark(self: Replica) -> None:
    before = self.graph.ledger.applied
    if before - vars(self).get("truncated", 0) >= 3 and self._fault is None:
        vars(self)["truncated"] = before
        try:
            await self._store.truncate(before)
        except StoreError:
            return


def undo_and_tell(self: Replica) -> None:
    """As it is, for `stale_read`: a conflict must still be caught up with."""
    vars(self)["is_behind"] = True
    _undo(self)


async def stale_read(self: Replica, found: Any = ()) -> int:
    """A look at the journal's head is believed for a while: it may have begun before the call arrived."""
    if self._clock() - self.contact < 0.5 and not found and not vars(self).get("is_behind"):
        return 0
    count = await _catch_up(self, found)
    vars(self)["is_behind"] = False
    return count


async def joining_calls_believe_the_last_look(self: Replica, batch: Any, alone: bool) -> bool:
    """A look at the journal that began before a call arrived is believed for it too."""
    await _take_turn(self, batch, alone)
    return True


async def double_run_after_giving_up(self: Replica, ran: Any) -> Any:
    self._undo()
    await self._journal.insist(self.load)
    return [*ran.calls, *ran.left]


async def lost_track_is_a_conflict(self: JournalClient, entry: Any, doubt: bool) -> tuple[Fate, list[Any]]:
    try:
        return await _fate(self, entry, doubt)
    except LostTrack:
        return Fate.ANOTHER, []


def undo_forgets_tables(self: Table, key: Any, row: Any) -> None:
    """Batchers, settings, resources' rows: what was put there is not taken back."""
    if self.get(key) != row:
        self._tracker.touch_whole(self.name, key)
        dict.__setitem__(self, key, row)


def undo_forgets_status_order(self: StatusTasks, task_id: str, task: Any) -> None:
    if dict.get(self, task_id) is not task:
        task.status_ordinal = self._tracker.ordinal()
        self.put(task_id, task)


def undo_forgets_dicts(self: OwnedDict, *arguments: Any, **more: Any) -> None:
    dict.update(self, *arguments, **more)


def watermark_ahead(self: Pending, written: Any, row_ids: Any, seq: int) -> int:
    """The tables are called complete though they owe rows."""
    return seq


def reply_of_the_first_run(graph: Graph, waiting: Any) -> Any:
    """A call that runs again keeps the reply that it had before."""
    before = waiting.reply
    sealed = _run_one(graph, waiting)
    if before is not None:
        waiting.reply = before
    return sealed


def resources_unlimited(self: Resources, name: str, default: Any = None) -> Any:
    return 1000


def submit_without_waking(self: Replica, waiting: Any) -> None:
    """A call waits for somebody else to wake the loop."""
    self._queue.append(waiting)


async def ping_out_of_touch(self: Service, call: Any) -> bytes:
    """Pings are answered from memory however long ago the replica has seen the store."""
    reply = self._graph.ping_from_memory(call.arguments)
    if reply is not None:
        return reply
    return await self._submit(call, self._graph.ping, self._hold, impatient=True)


def clock_of_the_machine(clock: Any, ticks: Any, bound: float) -> Any:
    """Whoever sets the machine's clock sets the rules'."""
    return clock


def history_is_told_twice(self: History, key: Any, row: Any) -> None:
    Table.put(self, key, row)
    Table.put(self, (key[0] + 1,), row)
    self._tracker._ordinal += 1


def history_is_not_flushed(self: Ledger, row_id: Any) -> Any:
    """Instead of a row of the history nothing is written."""
    return replace(_row(self, row_id), body=None) if row_id[0] == HISTORY else _row(self, row_id)


async def refusals_are_ignored(self: Postman, mail: Any) -> Any:
    """A mail that the server does not take counts as sent."""
    with suppress(Undeliverable):
        await self._send(mail)
    return Outcome(ordinal=mail.ordinal, tries=mail.tries)


def every_mail_may_be_claimed(self: Outbox, replica: str, now: float) -> Any:
    return sorted(self._rows)


def mail_outlives_its_cause(self: Table, key: Any, row: Any) -> None:
    """A mail stays in the outbox when the call is undone that has written it."""
    if self.name != OUTBOX:
        _put(self, key, row)
    elif self.get(key) != row:
        self._tracker.touch_whole(self.name, key)
        dict.__setitem__(self, key, row)


_never = property(lambda self: False)

Patch = tuple[Any, str, Any]

_EAGER = {"luigi_spanner.truncation.TRUNCATE_EVERY": 1}
_FORGETFUL: dict[str, Any] = {"replicas": 3, "keep": 2, "constants": _EAGER, "seconds": 120.0}


@dataclass(frozen=True)
class Mutation:
    """What is replaced, and the kinds of faults and attributes of plans (see `plans.plan_of`) with which it shows soon."""

    patches: tuple[Patch, ...]
    kinds: tuple[str, ...] = ()
    fixed: dict[str, Any] = field(default_factory=dict)


def _of(owner: Any, name: str, value: Any, *kinds: str, **fixed: Any) -> Mutation:
    return Mutation(((owner, name, value),), kinds, fixed)


MUTATIONS: dict[str, Mutation] = {
    "reply before commit": _of(Replica, "_commit_batch", reply_before_commit, replicas=2),
    "effects before commit": _of(Replica, "_commit_batch", effects_before_commit),
    "effects are lost": _of(Replica, "_release", lambda self, effects: None),
    "unknown is conflict": _of(JournalClient, "_fate", unknown_is_conflict, "lost reply", "late commit"),
    "own entry taken for another's": _of(JournalClient, "_fate", own_entry_taken_for_anothers, "lost reply", "own conflict"),
    "another's entry taken for our own": _of(JournalClient, "_fate", anothers_entry_taken_for_own, "lost request", replicas=3),
    "no link to the predecessor": _of(
        MemoryStore, "commit", commit_without_link, "frozen before commit", "late commit", replicas=3, keep=2, constants=_EAGER
    ),
    "truncation beyond the watermark": _of(Replica, "_truncate", truncate_beyond_the_watermark, "crash"),
    "stale read": Mutation(
        ((Replica, "_undo", undo_and_tell), (Replica, "_catch_up", stale_read)), ("slow store",), {"replicas": 3}
    ),
    "calls that join believe the last look": _of(
        Replica, "_take_turn", joining_calls_believe_the_last_look, "slow store", replicas=3
    ),
    "double run after giving up": _of(Replica, "_give_up", double_run_after_giving_up, "lost reply", **_FORGETFUL),
    "lost track is a conflict": _of(JournalClient, "_fate", lost_track_is_a_conflict, "lost reply", **_FORGETFUL),
    "undo forgets tables": _of(Table, "put", undo_forgets_tables, replicas=3),
    "undo forgets the order of a status": _of(StatusTasks, "__setitem__", undo_forgets_status_order, replicas=3),
    "undo forgets dicts": _of(OwnedDict, "update", undo_forgets_dicts, replicas=3),
    "watermark ahead": _of(Pending, "watermark_without", watermark_ahead, "crash"),
    "reply of the first run": _of(batch, "_run_one", reply_of_the_first_run, replicas=3),
    "a call whose caller has gone runs": _of(batch.Waiting, "dropped", _never, "cut connection", "slow commit", latency=0.2),
    "liveness is not flushed": _of(
        Graph, "liveness_due", lambda self: False, "cut connection", replicas=2, sticky=True, seconds=120.0
    ),
    "pings out of touch": _of(Service, "_ping", ping_out_of_touch, "store unreachable", replicas=3, sticky=True, seconds=150.0),
    "calls do not wake the loop": _of(Replica, "submit", submit_without_waking),
    "the machine's clock is the rules'": _of(service, "SteadyClock", clock_of_the_machine, "clock is set", timed=True),
    "what happened is told twice": _of(History, "put", history_is_told_twice, replicas=1),
    "what happened is not written": _of(Ledger, "row", history_is_not_flushed, replicas=1),
    "mail is lost": _of(Outbox, "add", lambda self, *mail: None),
    "mail outlives its cause": _of(Table, "put", mail_outlives_its_cause, replicas=3),
    "refused mail counts as sent": _of(Postman, "_deliver", refusals_are_ignored),
    "a claim keeps nobody from sending": _of(Outbox, "_claimable", every_mail_may_be_claimed, replicas=3),
    "resources without limits": _of(Resources, "get", resources_unlimited),
}


@contextmanager
def mutated(patches: Sequence[Patch]) -> Iterator[None]:
    """The product with these attributes replaced."""
    undo: list[Callable[[], None]] = []
    try:
        for owner, name, value in patches:
            patch = mock.patch.object(owner, name, value)
            patch.start()
            undo.append(patch.stop)
        yield
    finally:
        for stop in reversed(undo):
            stop()
