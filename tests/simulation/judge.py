"""The judges: what a run left behind must be what stock Luigi does with the same calls, one after the other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from chronicle import CLOCKS, Attempt, Landed, Ran, Record, Request, Violation
from luigi import scheduler as luigi_scheduler
from luigi.task_status import BATCH_RUNNING, RUNNING, UNKNOWN
from oracle import Oracle, Stock, Worker
from oracle import State as StockState
from plans import Plan
from twins import Witness, _Ids, _normal

from luigi_spanner.calls import BadRequest, RuleFailed
from luigi_spanner.graph.history import HISTORY
from luigi_spanner.graph.outbox import OUTBOX
from luigi_spanner.journal import decode

Letter = tuple[str, str]
"""Subject and message of a mail."""

NAMES_TASKS = ("task_id", "task")
SILENT = {"join", "leave", "beat", "flush_liveness", "follow", "configure", "take_mail"}
"""What replicas say to each other."""


class _Worker(Worker):
    """Stock's, with our two rules of liveness: it moves forward only, and others may know of more by a grain (I7)."""

    grain = 0.0

    def update(self, worker_reference: Any, get_work: bool = False) -> None:
        before = self.last_active, self.last_get_work
        super().update(worker_reference, get_work=get_work)
        self.last_active = max(self.last_active, before[0])
        if get_work and before[1] is not None:
            self.last_get_work = max(self.last_get_work, before[1])

    def prune(self, config: Any) -> bool:
        return bool(self.last_active + config.worker_disconnect_delay + self.grain < luigi_scheduler.time.time())


class _State(StockState):
    """Stock's; `changes` receives each task that takes a status, and the status."""

    grain = 0.0
    changes: list[tuple[str, str]]

    def get_task(self, task_id: str, default: Any = None, setdefault: Any = None) -> Any:
        is_new = setdefault is not None and task_id not in self._tasks
        task = super().get_task(task_id, default, setdefault)
        if is_new and task.status != UNKNOWN:
            self.changes.append((task.id, task.status))
        return task

    def set_status(self, task: Any, new_status: str, config: Any = None) -> None:
        before = task.status
        super().set_status(task, new_status, config)
        if task.status not in (before, UNKNOWN):
            self.changes.append((task.id, task.status))

    def get_worker(self, worker_id: str) -> _Worker:
        if worker_id not in self._active_workers:
            self._active_workers[worker_id] = worker = _Worker(worker_id)
            worker.grain = self.grain
        return self._active_workers[worker_id]


class Judge:
    """Plays the record on stock, which puts the mails that it sends into `mails`."""

    def __init__(self, plan: Plan, config: Any, record: Record, uuids: _Ids, mails: list[Letter]) -> None:
        self._plan = plan
        self._record = record
        self._uuids = uuids
        self._witness = Witness()
        self._played: list[Ran] = []
        self._changes: list[tuple[str, str]] = []
        self._oracle = Oracle(lambda: self._stock(config), self._about_to_play)
        self._effects: Counter[str] = Counter()
        self._due: Counter[str] = Counter()
        self._mails = mails
        self._queued: set[int] = set()

    def _stock(self, config: Any) -> Stock:
        stock = Stock(config, self._plan.limits, self._witness, self._witness)
        state = _State(config.state_path)
        state.grain = self._plan.grain
        state.changes = self._changes
        state._metrics_collector = self._witness
        stock._state = state
        return stock

    def _about_to_play(self, number: int) -> None:
        """Tell stock what the replica knew of the workers' liveness, and which id comes next."""
        ran = self._played[number]
        self._changes.clear()
        self._uuids.number = int(ran.request_id) if ran.request_id.isdigit() else 0
        workers = self._oracle.scheduler._state._active_workers
        for worker_id, (active, get_work) in ran.liveness.items():
            if worker_id in workers:
                workers[worker_id].last_active, workers[worker_id].last_get_work = active, get_work

    def judge(self) -> None:
        """Raises Violation."""
        self._check_journal()
        self._check_acknowledged()
        self._check_order()
        for number, landed in enumerate([*self._record.journal, None]):
            for attempt in self._looked(number + 1):
                for request_id, ran in attempt.calls.items():
                    if self._stands(request_id, attempt):
                        self._play(ran, None, attempt)
            if landed is not None:
                happened: list[tuple[str, str]] = []
                mails: list[Letter] = []
                for ran in landed.attempt.calls.values() if landed.attempt is not None else ():
                    self._changes.clear()
                    mails += self._play(ran, landed, landed.attempt)
                    happened.extend(self._changes)
                if landed.attempt is not None:
                    _check_history(landed, happened)
                self._check_mail(landed, mails)
        self._check_effects()
        self._check_mailed()

    # What needs no stock

    def _check_journal(self) -> None:
        seen: dict[str, int] = {}
        for landed in self._record.journal:
            for request_id, *_ in decode(landed.entry.calls):
                if request_id in seen:
                    raise Violation("a", f"request {request_id} ran twice: in entries {seen[request_id]} and {landed.entry.seq}")
                seen[request_id] = landed.entry.seq

    def _check_acknowledged(self) -> None:
        for request in self._record.requests.values():
            attempt = request.attempt
            if request.reply is None or attempt is None or request.told_nothing:
                continue
            if request.id in attempt.recorded and not attempt.landed:
                raise Violation("c", f"request {request} was answered, and what it did is in no entry")
            if attempt.calls[request.id].result is not None and request.value != json.loads(attempt.calls[request.id].result):
                raise Violation("a", f"request {request} was answered with another run's reply")

    def _check_order(self) -> None:
        """A call that began after another was answered comes later, or reads the same state."""
        placed = sorted(((self._place(request), request) for request in self._answered()), key=lambda pair: pair[0], reverse=True)
        earliest: Request | None = None
        later: list[tuple[tuple[float, float], Request]] = []
        for place, request in placed:
            while later and later[0][0] > place:
                candidate = later.pop(0)[1]
                if earliest is None or candidate.answered < earliest.answered:
                    earliest = candidate
            if earliest is not None and earliest.answered < request.sent:
                raise Violation("d", f"request {request} began after {earliest} was answered, and comes before it")
            later.append((place, request))

    def _answered(self) -> list[Request]:
        """Requests with a reply that came from the state; a ping answered from memory is none of them."""
        requests = self._record.requests.values()
        replied = [request for request in requests if request.reply is not None and request.attempt is not None]
        return [request for request in replied if not request.told_nothing]

    def _place(self, request: Request) -> tuple[float, float]:
        attempt = request.attempt
        assert attempt is not None
        if attempt.landed:
            return attempt.seq, list(attempt.calls).index(request.id)
        return attempt.seq - 1, float("inf")

    # On stock

    def _looked(self, seq: int) -> list[Attempt]:
        """The attempts on top of entry `seq` - 1 that changed nothing, in order of time."""
        if not hasattr(self, "_by_seq"):
            self._by_seq: dict[int, list[Attempt]] = {}
            for attempt in self._record.attempts:
                if not attempt.landed:
                    self._by_seq.setdefault(attempt.seq, []).append(attempt)
        return self._by_seq.get(seq, [])

    def _stands(self, request_id: str, attempt: Attempt) -> bool:
        """Whether a client was answered from this attempt, or would have been, had it waited."""
        request = self._record.requests.get(request_id)
        if attempt.settled and request is not None and request.reply is None:
            # Also if its replica died in the moment between: its effects have been released.
            return True
        answered = request is not None and (request.reply is not None or isinstance(request.error, (BadRequest, RuleFailed)))
        return answered and request is not None and request.attempt is attempt and not request.told_nothing

    def _play(self, ran: Ran, landed: Landed | None, attempt: Attempt) -> list[Letter]:
        """The mails that stock sends."""
        method, arguments = ran.method, "{}"
        request = self._record.requests.get(ran.request_id)
        if request is not None:
            arguments = json.dumps(request.arguments)
        elif method == "prune_if_due":
            if landed is None or ran.request_id not in landed.attempt.recorded:
                return []
            method = "prune"
        elif method in SILENT:
            return []
        self._check_workers(ran)
        before, workers = self._running(), set(self._oracle.scheduler._state._active_workers)
        number = len(self._played)
        self._played.append(ran)
        self._mails.clear()
        try:
            expected: str | None = self._oracle.call(ran.clock, number, method, arguments)
        except Exception:  # A rule may raise anything: ours must raise too.
            expected = None
            self._witness.take()
            self._changes.clear()  # of the last call that was played again
            self._mails.clear()
        else:
            effects = list(map(repr, self._witness.take()))
            self._effects.update(effects)
            if attempt.settled:
                self._due.update(effects)
        given = None if ran.result is None else _normal(ran.result)
        if given != (None if expected is None else _normal(expected)):
            where = f"entry {landed.entry.seq}" if landed else "a reply that changed nothing"
            raise Violation("a", f"{where}, request {request or ran.method}:\n  stock: {expected}\n  ours:  {ran.result}")
        self._check_taken(before, ran, request, landed)
        for worker in sorted(workers.difference(self._oracle.scheduler._state._active_workers)):
            if landed is not None:
                self._check_dead(worker, f"{worker} is pruned by {request or ran.method} in entry {landed.entry.seq}", landed)
        if self._mails and landed is None:
            raise Violation("g", f"{request or ran.method} changes nothing, and stock mails {self._mails}")
        return list(self._mails)

    def _check_workers(self, ran: Ran) -> None:
        workers = list(self._oracle.scheduler._state._active_workers)
        if workers != list(ran.liveness):
            raise Violation("a", f"before {ran.request_id} {ran.method} stock has workers {workers}, ours {list(ran.liveness)}")

    def _running(self) -> dict[str, str]:
        """Who runs which task and is a stakeholder of it: where it is none, Luigi itself takes it for dead."""
        tasks = self._oracle.scheduler._state._tasks.values()
        running = [task for task in tasks if task.status in (RUNNING, BATCH_RUNNING)]
        return {task.id: task.worker_running for task in running if task.worker_running in task.stakeholders}

    def _check_taken(self, before: dict[str, str], ran: Ran, request: Request | None, landed: Landed | None) -> None:
        """A task that somebody runs is taken from nobody who is alive, unless somebody says so by its name."""
        arguments = request.arguments if request is not None else {}
        if landed is None or any(name in arguments for name in NAMES_TASKS) or ran.method == "disable_worker":
            return
        after = self._running()
        for task, holder in before.items():
            if after.get(task) == holder or task not in self._oracle.scheduler._state._tasks:
                # Luigi removes tasks that were once marked for it, running or not, if they came back as dependencies only.
                continue
            if request is not None and ran.method == "get_work" and arguments["worker"] == holder:
                received = self._record.received.get((holder, task))
                if received is not None and request.sent < received <= landed.at:
                    raise Violation("e", f"request {request}, older than what {holder} has received, takes {task} back")
                continue
            self._check_dead(
                holder, f"{task} is taken from {holder} by {request or ran.method} in entry {landed.entry.seq}", landed
            )

    def _check_dead(self, worker: str, what: str, landed: Landed) -> None:
        """Whoever was answered all the time is alive; after a silence that is too long nobody need know of a new sign of life."""
        delay, grain = self._plan.rules["worker_disconnect_delay"], self._plan.grain
        signs = sorted(
            (
                request.sent
                for request in self._record.requests.values()
                if request.arguments.get("worker") == worker
                and request.method in ("ping", "get_work", "add_task")
                and request.reply is not None
                and request.heard is not None
                and request.heard < landed.at
            ),
            reverse=True,
        )
        since = landed.at
        for sign in signs:
            if since - sign >= delay - grain - CLOCKS:
                return
            since = sign
            if landed.at - since > delay + grain + CLOCKS:
                break
        if signs:
            raise Violation("e", f"{what}, and it was alive {landed.at - signs[0]:.1f} s before")

    def _check_mail(self, landed: Landed, mails: list[Letter]) -> None:
        """An entry queues just the mails of its calls."""
        records = [record for records in decode(landed.entry.changes) for record in records]
        written = [(key[0], row) for table, key, row, *_ in records if table == OUTBOX and row is not None]
        queued = [(row["subject"], row["message"]) for _, row in written if not row["tries"]]
        if queued != mails:
            raise Violation("g", f"entry {landed.entry.seq} queues {queued}, and stock mails {mails}")
        self._queued.update(ordinal for ordinal, row in written if not row["tries"])
        if foundlings := {ordinal for ordinal, _ in written} - self._queued:
            raise Violation("g", f"entry {landed.entry.seq} claims mail that no entry has queued: {foundlings}")

    def _check_mailed(self) -> None:
        if missing := self._queued - self._record.mailed:
            raise Violation("g", f"mail of what was committed that was never sent: {missing}")
        if more := self._record.mailed - self._queued:
            raise Violation("g", f"mail of nothing that was committed was sent: {more}")

    def _check_effects(self) -> None:
        released = Counter(map(repr, self._record.effects))
        if more := released - self._effects:
            raise Violation("g", f"effects of nothing that was committed, or released twice: {more}")
        if missing := self._due - released:
            raise Violation("g", f"effects of what was committed that were not released, and nobody died: {missing}")

    def listing(self, method: str, arguments: str, at: float) -> Any:
        """What stock says at the end."""
        last = Ran("", method, {}, at)
        self._played.append(last)
        return _normal(self._oracle.call(at, len(self._played) - 1, method, arguments))


def _check_history(landed: Landed, happened: list[tuple[str, str]]) -> None:
    """The entry writes down each change of status that its calls make, in order, once."""
    records = [record for records in decode(landed.entry.changes) for record in records if record[0] == HISTORY]
    written = [(record[2]["task_id"], record[2]["status"]) for record in records]
    if written != happened:
        raise Violation("g", f"entry {landed.entry.seq} writes down that {written} happened, and it was {happened}")
