"""One run of a plan: from the start of the first replica until all agree again, and the verdict."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from chronicle import Record, Violation
from clients import Client, Clients
from cluster import Cluster, Node
from judge import Judge, Letter
from luigi import notifications
from luigi import scheduler as luigi_scheduler
from luigi.task_history import NopHistory
from plans import AT_A_CALL, AT_A_COMMIT, WINDOWS, Fault, Plan
from twins import Mailer, _Ids
from virtual import OUTSIDE, Stalled, VirtualLoop, current
from worlds import drive, normal, picture

from luigi_spanner import ids, membership, service, verify
from luigi_spanner.graph.containers import OwnedSet
from luigi_spanner.history.memory import MemorySource
from luigi_spanner.stores.memory import MemoryStore

BOUND = 30.0
"""Seconds within which every call is answered once nothing fails any more: what is left of a commit's deadline and of turns, a
restart, and a service that enters the namespace."""

MAILED = 120.0
"""Seconds within which all mail is sent once nothing fails any more: a claim that expires, and servers that refuse some."""

MAIL: dict[str, float] = {
    "luigi_spanner.graph.outbox.LEASE_SECONDS": 10.0,
    "luigi_spanner.mail.FIRST_RETRY_SECONDS": 1.0,
    "luigi_spanner.mail.LONGEST_RETRY_SECONDS": 4.0,
}
"""The product's times, short enough for a run."""

CALMING = 20.0
"""Seconds after the last fault for what is under way to end: the longest hold of a call, and requests that were sent."""

ROUNDS = 50
"""Times that replicas look at the journal before all stand at the same entry."""

LAST = [
    ("task_list", {"status": "", "upstream_status": ""}),
    ("worker_list", {}),
    ("resource_list", {}),
]
"""What everybody is asked at the end."""


@dataclass(frozen=True)
class Run:
    """What became of a plan."""

    plan: Plan
    violation: Violation | None
    record: Record

    @property
    def events(self) -> list[str]:
        return self.record.events


def run(plan: Plan) -> Run:
    """Play a plan and judge it."""
    uuids = _Ids()
    config = luigi_scheduler.scheduler(**plan.rules)
    loop = VirtualLoop(random.Random(f"loop {plan.seed}"))
    mails: list[Letter] = []
    with _surroundings(plan, config, uuids, mails):
        cluster = Cluster(plan, loop, uuids)
        try:
            violation = _play(cluster) or _judged(cluster, config, uuids, mails)
        finally:
            cluster.over = True
            _bury(cluster, loop)
    return Run(plan, violation, cluster.record)


def _play(cluster: Cluster) -> Violation | None:
    """Run until the end or a violation."""
    loop = cluster.loop
    loop.set_exception_handler(lambda _, context: cluster.fail(Violation("x", f"{context!r}")))
    story = loop.spawn(OUTSIDE, _story(cluster))
    cluster.tasks.append(story)
    try:
        loop.run_until_complete(story)
    except Violation as violation:
        return violation
    except Stalled as error:
        return cluster.violation or Violation("h", str(error))
    except RuntimeError:
        if cluster.violation is None:
            raise
    return cluster.violation


def _judged(cluster: Cluster, config: Any, uuids: _Ids, mails: list[Letter]) -> Violation | None:
    try:
        Judge(cluster.plan, config, cluster.record, uuids, mails).judge()
    except Violation as violation:
        return violation
    return None


async def _story(cluster: Cluster) -> None:
    plan, clients = cluster.plan, Clients(cluster)
    for slot in cluster.slots:
        cluster.start(slot)
    clients.start()
    for fault in (fault for fault in plan.faults if fault.at < plan.seconds):
        cluster.loop.later(fault.at, _befall, cluster, clients, fault)
    await asyncio.sleep(plan.seconds)
    _calm(cluster)
    await asyncio.sleep(CALMING)
    clients.end()
    await _all_answer(cluster, clients)
    await _all_is_mailed(cluster)
    await _all_agree(cluster)


def _befall(cluster: Cluster, clients: Clients, fault: Fault) -> None:
    """A fault begins."""
    slot = cluster.slots[fault.slot % len(cluster.slots)]
    if fault.kind in (*AT_A_COMMIT, *AT_A_CALL):
        slot.armed.append(fault)
    elif fault.kind in WINDOWS:
        cluster.tell("", f"{fault.kind} at {slot.number} for {fault.seconds} s")
        slot.windows[fault.kind] = max(slot.windows.get(fault.kind, 0.0), cluster.loop.time() + fault.seconds)
    elif fault.kind == "crash":
        cluster.crash(slot, fault.seconds)
    elif fault.kind == "restart":
        cluster.stop(slot)
    elif fault.kind == "frozen":
        cluster.freeze(slot, fault.seconds)
    elif fault.kind == "clock moves":
        slot.skew = min(max(slot.skew + fault.seconds, -1.0), 1.0)
    elif fault.kind == "clock is set" and cluster.plan.timed:
        cluster.tell("", f"the clock at {slot.number} is set by {fault.seconds} s")
        slot.set_by += fault.seconds
    elif fault.kind == "worker dies":
        clients.die(fault.slot)


def _calm(cluster: Cluster) -> None:
    """From now on nothing fails."""
    cluster.tell("", "faults are over")
    cluster.calm = True
    for slot in cluster.slots:
        slot.armed.clear()
        slot.windows.clear()
        if slot.node is None:
            cluster.start(slot)
        else:
            cluster.thaw(slot.node)


async def _all_answer(cluster: Cluster, clients: Clients) -> None:
    """Everybody answers, and nobody waits. Raises Violation."""
    client = Client(cluster, "the end")
    for slot in cluster.slots:
        for method, arguments in LAST:
            request = await client.once(slot, method, arguments, patience=BOUND)
            if request.reply is None:
                raise Violation("h", f"machine {slot.number} does not answer {method} when all is well: {request.error!r}")
    for _ in range(int(BOUND)):
        if clients.idle:
            return
        await asyncio.sleep(1.0)
    raise Violation("h", "clients still wait for answers when all is well")


async def _all_is_mailed(cluster: Cluster) -> None:
    """Nothing waits in the outbox. Raises Violation."""
    for _ in range(int(MAILED)):
        if not any(len(slot.node.graph.outbox) for slot in cluster.slots if slot.node is not None):
            return
        await asyncio.sleep(1.0)
    raise Violation("h", "mail still waits when all is well")


async def _all_agree(cluster: Cluster) -> None:
    """All replicas are equal row for row, and to what a new one would load. Raises Violation."""
    nodes = [slot.node for slot in cluster.slots if slot.node is not None]
    for _ in range(ROUNDS):
        for node in nodes:
            await _follow(cluster, node)
        # A chore may be under way again, run and not yet committed.
        under_way = any(node.graph.tracker.undo for node in nodes)
        if len({node.graph.ledger.applied for node in nodes}) == 1 and not under_way:
            break
    else:
        raise Violation("h", "replicas never stand at the same entry")
    reports = drive(_verified(cluster))
    if not reports.clean:
        raise Violation("b", f"verify: {reports.lines()}")
    pictures = {node.name: _hard(node) for node in nodes}
    pictures["a new one"] = _hard_loaded(cluster, nodes[0])
    first = nodes[0].name
    for name, pictured in pictures.items():
        for part, value in pictured.items():
            if value != pictures[first][part]:
                raise Violation("b", f"{part} of {name} and {first} differ:\n  {value}\n  {pictures[first][part]}")


async def _verified(cluster: Cluster) -> verify.Report:
    store = MemoryStore(namespace="default", database=cluster.database)
    return await verify.check(store, "default", MemorySource(cluster.database, "default"), cluster.true_time())


async def _follow(cluster: Cluster, node: Node) -> None:
    done = cluster.loop.create_future()

    async def look() -> None:
        await node.service.status()
        done.set_result(None)

    cluster.spawn(node, look())
    await asyncio.wait_for(done, BOUND)


def _hard(node: Node) -> dict[str, Any]:
    return hard(node.graph)


def hard(graph: Any) -> dict[str, Any]:
    """A picture without the liveness that replicas need not agree on."""
    pictured = normal(picture(graph))
    soft = ("last_active", "last_get_work")
    workers = [(name, {key: value for key, value in row.items() if key not in soft}) for name, row in pictured["workers"]]
    return {**pictured, "workers": workers}


def _hard_loaded(cluster: Cluster, like: Node) -> dict[str, Any]:
    """What a replica that starts now has in memory."""
    limits, grain = dict(cluster.plan.limits), cluster.plan.grain
    graph = service.Graph(like.graph._config, limits, NopHistory(), grain=grain, clock=cluster.true_time)
    graph.ledger.load(drive(MemoryStore(namespace="default", database=cluster.database).load()))
    return hard(graph)


# The world around


@contextmanager
def _surroundings(plan: Plan, config: Any, uuids: _Ids, mails: list[Letter]) -> Iterator[None]:
    """What the product sees of its process and machine, and its bounds, for one run."""
    with ExitStack() as patches:
        enter = patches.enter_context
        # As in `twins.Twins`.
        enter(mock.patch.object(OwnedSet, "__iter__", lambda self: iter(sorted(set(self))), create=True))
        enter(mock.patch.object(luigi_scheduler, "uuid", uuids))
        enter(mock.patch.object(luigi_scheduler, "BatchNotifier", Mailer))
        enter(mock.patch.object(notifications, "send_error_email", lambda *mail: mails.append(mail)))
        enter(mock.patch.object(notifications, "_email_recipients", lambda others: ["ops@example.org"]))
        enter(mock.patch.object(luigi_scheduler, "scheduler", lambda: config))
        enter(mock.patch.object(service, "configured_limits", lambda: dict(plan.limits)))
        enter(mock.patch.object(ids, "socket", types.SimpleNamespace(gethostname=lambda: "machine")))
        enter(mock.patch.object(membership, "process_id", lambda: _process_id()))
        enter(mock.patch.object(membership, "is_alive", lambda pid: _is_alive(pid)))
        # Listings are made by a thread, in real time: here they take the way of every call.
        enter(mock.patch.object(service, "LISTINGS", (), create=True))
        for name, value in {**MAIL, **plan.constants}.items():
            enter(mock.patch(name, value))
        if "luigi_spanner.replica.READ_LIMIT" in plan.constants:
            enter(mock.patch("luigi_spanner.stores.memory.READ_LIMIT", plan.constants["luigi_spanner.replica.READ_LIMIT"]))
        logging.disable(logging.CRITICAL)
        patches.callback(logging.disable, logging.NOTSET)
        yield


def _process_id() -> str:
    """A process of the machine that runs this step: `place/pid`."""
    node = current()
    assert isinstance(node, Node)
    return f"machine {node.slot.number}/{node.name}"


def _is_alive(pid: str) -> bool:
    node = current()
    assert isinstance(node, Node)
    return any(other.name == pid and not other.dead for other in node.cluster.nodes)


def _bury(cluster: Cluster, loop: VirtualLoop) -> None:
    """Nothing of a run is left: what still waits ends here, and says nothing."""
    for node in cluster.nodes:
        node.dead = True
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()
    loop.close()
    gc.collect(0)
