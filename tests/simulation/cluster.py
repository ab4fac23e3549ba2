"""Replicas, whole services of the product, on machines that fail; and what each of them does, noted as it happens."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from typing import Any

from chronicle import CLOCKS, Attempt, Landed, Ran, Record, Request, Violation
from luigi.task_status import RUNNING
from plans import Plan
from simulated_store import SimulatedStore, Slot
from twins import EPOCH, Witness, _Ids
from virtual import OUTSIDE, Process, VirtualLoop

from luigi_spanner import service
from luigi_spanner.batch import Waiting
from luigi_spanner.calls import Call, CallError
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.outbox import Mail
from luigi_spanner.graph.tracker import Effect
from luigi_spanner.history.memory import MemorySource
from luigi_spanner.journal import Entry, decode
from luigi_spanner.mail import Undeliverable
from luigi_spanner.stores import Closed, InvalidStore, StoreError
from luigi_spanner.stores.memory import Database

RESTART_SECONDS = 1.0
"""How long a supervisor waits before it starts a process again that has ended by itself."""

NETWORK_SECONDS = 0.02
"""Longest way between a client and a replica."""

MAIL_SECONDS = 2.0
"""How long a mail server takes at most."""

MAIL_REFUSED = 0.2
"""How many of the mails it refuses."""


class Node(Process):
    """One process: a service on a machine, until it dies. `serving` once it has entered the namespace."""

    def __init__(self, cluster: Cluster, slot: Slot) -> None:
        super().__init__(f"{'abcdefgh'[slot.number]}{slot.restarts}")
        self.cluster = cluster
        self.slot = slot
        self.serving = False
        self.stopping = False
        self.attempt: Attempt | None = None

    @property
    def graph(self) -> Graph:
        return self.service._graph

    async def live(self) -> None:
        """The process, from its start."""
        cluster = self.cluster
        ids = cluster.ids_of(self)
        self.store = SimulatedStore(cluster, self, random.Random(f"store {cluster.plan.seed} {self.name}"))
        self._dice = random.Random(f"mail {cluster.plan.seed} {self.name}")
        self.service = service.Service(
            self.store,
            "default",
            ids=ids,
            journal_keep=cluster.plan.keep,
            clock=lambda: cluster.true_time() + self.slot.skew + self.slot.set_by,
            ticks=cluster.loop.time,
            source=MemorySource(cluster.database, "default"),
            send=self._send,
            dice=self._dice.random,
        )
        self._watch()
        try:
            await self.service.start()
        except InvalidStore as error:
            if "digest" in str(error):
                cluster.fail(Violation("b", f"{self.name} cannot load: {error}"))
            self._end()
        except StoreError:
            self._end()
        else:
            self.serving = True
            cluster.tell(self.name, "serves")

    async def stop(self) -> None:
        """End in good order."""
        await self.service.stop()
        self._end()

    def _end(self) -> None:
        self.cluster.tell(self.name, "ends by itself")
        self.cluster.crash(self.slot, RESTART_SECONDS)

    def _watch(self) -> None:
        """Note what the replica runs and releases."""
        replica, graph = self.service._replica, self.graph
        witness = NodesWitness(self)
        graph._task_history = witness
        graph.report_to(witness)
        run, submit, fail, release = replica._run, replica.submit, replica.fail, replica._release

        def noted_run(batch: list[Waiting]) -> Any:
            self.attempt = self.cluster.begin_attempt(self, replica.graph.ledger.applied + 1)
            ran = run(batch)
            kept = {waiting.call.request_id for waiting in ran.calls}
            self.attempt.calls = {name: call for name, call in self.attempt.calls.items() if name in kept}
            self.attempt.recorded = [record.request_id for record in ran.records]
            return ran

        def noted_submit(waiting: Waiting) -> None:
            rule = waiting.run
            waiting.run = lambda **arguments: self._note(waiting, rule, arguments)
            submit(waiting)

        def noted_fail(error: Exception) -> None:
            if not (isinstance(error, Closed) and self.stopping):
                self.cluster.fail(Violation("b", f"{self.name} stops serving: {error!r}"), by=self)
            fail(error)

        def noted_release(effects: list[Effect]) -> None:
            if self.attempt is not None:
                self.attempt.settled = True
            release(effects)

        replica._run, replica.submit = noted_run, noted_submit  # type: ignore[method-assign]
        replica.fail, replica._release = noted_fail, noted_release  # type: ignore[method-assign]

    def _note(self, waiting: Waiting, rule: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Run a call within the attempt under way."""
        call, graph = waiting.call, self.graph
        if waiting.given_up or call.abandoned:
            self.cluster.fail(Violation("i", f"{self.name} runs request {call.request_id} whose caller has gone"), by=self)
        liveness = {worker.id: (worker.last_active, worker.last_get_work) for worker in graph._state._active_workers.values()}
        ran = Ran(call.request_id, call.method, liveness, graph.now())
        assert self.attempt is not None
        self.attempt.calls[call.request_id] = ran
        request = self.cluster.record.requests.get(call.request_id)
        if request is not None:
            request.attempt = self.attempt
            self.cluster.uuids.number = request.number
        before = {task.id for task in graph._state._tasks.values() if task.status == RUNNING}
        result = rule(**arguments)
        ran.result = json.dumps(result)
        # What a worker lost is handed out again whatever has become of the limits: it was running all the time.
        handed_out = result.get("task_id") if call.method == "get_work" else None
        if handed_out and handed_out not in before:
            self._check_resources(handed_out)
        return result

    def _check_resources(self, task_id: str) -> None:
        """A task was handed out: with all that runs it takes no more than there is, by a plain sum."""
        graph = self.graph
        for name, amount in (graph._state._tasks[task_id].resources or {}).items():
            running = [task for task in graph._state._tasks.values() if task.status == RUNNING]
            used = sum((getattr(task, "resources_running", task.resources) or {}).get(name, 0) for task in running)
            if amount > 0 and used > dict.get(graph._resources, name, 1):
                what = (
                    f"{used} of {name} are used and {dict.get(graph._resources, name, 1)} are there when {task_id} is handed out"
                )
                self.cluster.fail(Violation("f", f"{self.name}: {what}"), by=self)

    async def _send(self, mail: Mail) -> None:
        """Ask a mail server to take a mail. It takes its time, and not everything."""
        cluster = self.cluster
        cluster.tell(self.name, f"sends mail {mail.ordinal}, try {mail.tries}")
        for other, until in cluster.sending.get(mail.ordinal, {}).items():
            if other is not self and not other.dead and cluster.true_time() < until - CLOCKS:
                cluster.fail(Violation("g", f"{self.name} and {other.name} send mail {mail.ordinal} at the same time"), by=self)
        cluster.sending.setdefault(mail.ordinal, {})[self] = mail.due_at
        try:
            await asyncio.sleep(MAIL_SECONDS * self._dice.random())
            if self._dice.random() < MAIL_REFUSED:
                raise Undeliverable("not now")
            cluster.record.mailed.add(mail.ordinal)
        finally:
            del cluster.sending[mail.ordinal][self]

    async def serve(self, request: Request, hear: Callable[[], None], call: Call) -> None:
        """A request has come in; `hear()` is called when an answer leaves."""
        cluster = self.cluster
        if not self.serving:
            request.error = CallError("not yet")
            hear()
            return
        try:
            reply = await self.service.call(call)
        except CallError as error:
            request.error = error
            cluster.tell(self.name, f"answers {request.id} {request.method}: {type(error).__name__}")
        else:
            request.reply, request.answered = reply.decode(), cluster.loop.time()
            cluster.tell(self.name, f"answers {request.id} {request.method}: {request.reply[:120]}")
        hear()


class NodesWitness(Witness):
    """Notes the effects of one replica."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def note(self, kind: str, task: Any, *more: Any) -> None:
        super().note(kind, task, *more)
        (effect,) = self.take()
        node, attempt = self._node, self._node.attempt
        if attempt is not None and attempt.recorded and not attempt.landed:
            node.cluster.fail(Violation("g", f"{node.name} releases {effect} before its entry has landed"), by=node)
        node.cluster.record.effects.append(effect)


class Cluster:
    """All machines, and their database."""

    def __init__(self, plan: Plan, loop: VirtualLoop, uuids: _Ids) -> None:
        self.plan = plan
        self.loop = loop
        self.uuids = uuids
        self.database = Database()
        self.record = Record()
        self.violation: Violation | None = None
        self.over = False
        self.calm = False
        self.nodes: list[Node] = []
        self.tasks: list[Any] = []
        self.slots = [Slot(number, skew) for number, skew in enumerate(plan.skews)]
        self._ids = 0
        self._drafts: dict[str, Attempt | None] = {}
        self.sending: dict[int, dict[Node, float]] = {}

    def true_time(self) -> float:
        """Seconds since the epoch."""
        return EPOCH + self.loop.time()

    def ids_of(self, node: Node) -> Callable[[], str]:
        def next_id() -> str:
            self._ids += 1
            return f"{self._ids:08x}{node.name}"

        return next_id

    def tell(self, who: str, what: str) -> None:
        """Note an event."""
        self.record.events.append(f"{self.loop.time():10.4f} {who:>7} {what}")

    def fail(self, violation: Violation, by: Node | None = None) -> None:
        """A promise is broken: the run ends here. What a dead process does is nobody's concern."""
        if self.violation is None and not self.over and not (by is not None and by.dead):
            self.tell(by.name if by else "", f"VIOLATION {violation}")
            self.violation = violation
            self.loop.stop()

    # Machines

    def start(self, slot: Slot) -> None:
        """Start a process on a machine, if none runs."""
        if slot.node is None and not self.over:
            slot.node = Node(self, slot)
            slot.restarts += 1
            self.nodes.append(slot.node)
            self.spawn(slot.node, slot.node.live())

    def spawn(self, process: Process, coroutine: Any) -> Any:
        task = self.loop.spawn(process, coroutine)
        task.add_done_callback(lambda done: self._ended(process, done))
        self.tasks.append(task)
        return task

    def _ended(self, process: Process, task: Any) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.fail(Violation("x", f"{process.name} raises {task.exception()!r}"))

    def crash(self, slot: Slot, seconds: float) -> None:
        """kill -9; the process starts again after `seconds`."""
        if slot.node is not None:
            self.tell(slot.node.name, "is dead")
            slot.node.dead = True
            slot.node = None
            self.loop.later(seconds, self.start, slot)

    def stop(self, slot: Slot) -> None:
        """SIGTERM; the process starts again once it has ended."""
        node = slot.node
        if node is not None and node.serving and not node.dead:
            self.tell(node.name, "is told to stop")
            node.serving, node.stopping = False, True
            self.spawn(node, node.stop())

    def freeze(self, slot: Slot, seconds: float) -> None:
        """SIGSTOP, and after `seconds` SIGCONT."""
        node = slot.node
        if node is not None and not node.frozen:
            self.tell(node.name, f"freezes for {seconds} s")
            node.frozen = True
            self.loop.later(seconds, self.thaw, node)

    def thaw(self, node: Node) -> None:
        if node.frozen and not node.dead:
            self.tell(node.name, "thaws")
            self.loop.thaw(node)

    # What they do

    def begin_attempt(self, node: Node, seq: int) -> Attempt:
        attempt = Attempt(number=len(self.record.attempts), node=node.name, seq=seq, began=self.loop.time())
        self.record.attempts.append(attempt)
        return attempt

    def drafted(self, node: Node, entry: Entry) -> None:
        """A replica sends an entry, maybe again."""
        if entry.commit_id not in self._drafts:
            calls = decode(entry.calls)
            self._drafts[entry.commit_id] = node.attempt if calls else None
            ids = [call[0] for call in calls]
            if calls and (node.attempt is None or node.attempt.recorded != ids or node.attempt.seq != entry.seq):
                self.fail(Violation("b", f"{node.name}: entry {entry.seq} says that {ids} ran, which is not so"), by=node)

    def landed(self, node: Node, entry: Entry) -> None:
        """An entry is in the journal."""
        journal = self.record.journal
        if entry.seq != len(journal) + 1:
            self.fail(Violation("b", f"entry {entry.seq} of {node.name} lands after entry {len(journal)}"))
        attempt = self._drafts[entry.commit_id]
        if attempt is not None:
            attempt.landed = True
        journal.append(Landed(entry, self.loop.time(), attempt))
        calls = ", ".join(f"{call[0][:8]} {call[2]} {call[3] or ''} {call[4] or ''}".strip() for call in decode(entry.calls))
        mark = "turn" if entry.turn else calls or "rows"
        self.tell(node.name, f"entry {entry.seq} lands (watermark {entry.watermark}): {mark}")

    # Requests

    def request(self, client: str, method: str, arguments: dict[str, Any]) -> Request:
        number = len(self.record.requests) + 1
        request = Request(number, method, json.loads(json.dumps(arguments)), self.loop.time(), client)
        self.record.requests[request.id] = request
        return request

    def send(self, slot: Slot, request: Request, hear: Callable[[], None], dice: random.Random) -> Callable[[], None]:
        """Send a request to whoever is on that machine. `hear()` is called when the answer arrives. Returns what hangs up."""
        node = slot.node
        if node is None:
            request.error = ConnectionRefusedError()
            self.loop.later(NETWORK_SECONDS * dice.random(), hear)
            return lambda: None
        call = Call(request_id=request.id, method=request.method, arguments=request.arguments)
        self.tell(request.client, f"sends {request} to {node.name}")

        def leaves() -> None:
            self.loop.later(NETWORK_SECONDS * dice.random(), hear, by=OUTSIDE)

        def arrives() -> None:
            self.spawn(node, node.serve(request, leaves, call))

        def closes() -> None:
            if request.answered is None and request.error is None:
                call.abandoned = True

        self.loop.later(NETWORK_SECONDS * dice.random(), arrives, by=node)
        return lambda: self.loop.later(NETWORK_SECONDS, closes, by=node)
