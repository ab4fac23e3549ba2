"""Who calls: worker processes, each doing one thing after the other and pinging beside, and people, who do what they like."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chronicle import Request
from cluster import Cluster
from plans import AT_A_CALL, PEOPLE, Action
from scene import Scene, Seeded
from simulated_store import Slot
from steps import RULES
from twins import Step
from virtual import OUTSIDE

from luigi_spanner.calls import BadRequest, RuleFailed

PATIENCE = 12.0
"""Seconds after which a client hangs up: above the service's own hold."""

TRIES = 6
"""Times that a worker sends the same call."""

PAUSE = 0.5
"""Seconds between them."""


class Client:
    """Somebody with a connection to a load balancer, which picks a machine for each request."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self._dice = random.Random(f"client {cluster.plan.seed} {name}")
        self._first = random.Random(name).randrange(len(cluster.slots)) if cluster.plan.sticky else None

    def _slot(self) -> Slot:
        """The machine that this client's balancer picks. One that sticks to a client leaves what is down or does not answer."""
        if self._first is None:
            return self._dice.choice(self.cluster.slots)
        return self.cluster.slots[self._first]

    def _failed(self) -> None:
        if self._first is not None:
            self._first = (self._first + 1) % len(self.cluster.slots)

    async def call(self, method: str, arguments: dict[str, Any], tries: int = 1) -> Request:
        """The last of up to `tries` requests; the first that is answered."""
        while True:
            request = await self.once(self._slot(), method, arguments)
            if request.reply is None:
                self._failed()
            tries -= 1
            if not tries or request.reply is not None or isinstance(request.error, (BadRequest, RuleFailed)):
                return request
            await asyncio.sleep(PAUSE)

    async def once(self, slot: Slot, method: str, arguments: dict[str, Any], patience: float = PATIENCE) -> Request:
        """One request to one machine. Its reply is None if none has come."""
        request = self.cluster.request(self.name, method, arguments)
        heard = asyncio.Event()
        hang_up = self.cluster.send(slot, request, heard.set, self._dice)
        fault = slot.take(AT_A_CALL)
        if fault is not None:
            self.cluster.tell(self.name, f"{fault.kind}: request {request.id}")
            patience = 0.05 if fault.kind == "cut connection" else patience
        try:
            await asyncio.wait_for(heard.wait(), patience)
        except asyncio.TimeoutError:
            hang_up()
            return replace(request, reply=None, error=TimeoutError())
        if fault is not None and fault.kind == "lost answer":
            return replace(request, reply=None, error=ConnectionResetError())
        request.heard = self.cluster.loop.time()
        return request


class Clients:
    """All of them, in one scene."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._scene = cluster.plan.scene()
        self._queues: dict[str, asyncio.Queue[Action]] = {worker: asyncio.Queue() for worker in self._scene.workers}
        self._dead: set[str] = set()
        self._busy = 0
        self._over = False

    def start(self) -> None:
        """Begin to act as planned."""
        for worker, queue in self._queues.items():
            self._cluster.spawn(OUTSIDE, self._work(worker, queue))
            self._cluster.spawn(OUTSIDE, self._ping(worker))
        for action in self._cluster.plan.actions:
            self._cluster.loop.later(action.at, self._act, action)

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return not self._busy

    def die(self, number: int) -> None:
        """A worker process is gone."""
        worker = self._scene.workers[number % len(self._scene.workers)]
        self._cluster.tell(worker, "is dead")
        self._dead.add(worker)

    def end(self) -> None:
        """Nobody does anything more; what is under way goes on."""
        self._over = True
        for queue in self._queues.values():
            while not queue.empty():
                queue.get_nowait()

    def _act(self, action: Action) -> None:
        if action.actor == PEOPLE:
            self._cluster.spawn(OUTSIDE, self._do(action, Client(self._cluster, PEOPLE + str(action.number)), self._scene, 1))
        elif action.actor in self._queues:
            self._queues[action.actor].put_nowait(action)

    async def _work(self, worker: str, queue: asyncio.Queue[Action]) -> None:
        client = Client(self._cluster, worker)
        while True:
            action = await queue.get()
            if worker not in self._dead:
                own = replace(self._scene, workers=[worker], assistants=[w for w in self._scene.assistants if w == worker])
                await self._do(action, client, own, TRIES)
                self._scene.made = max(self._scene.made, own.made)

    async def _do(self, action: Action, client: Client, scene: Scene, tries: int) -> None:
        dice = Seeded(random.Random(f"{self._cluster.plan.seed} {action.number}"))
        method, arguments = RULES[action.rule][0](dice, scene)
        self._busy += 1
        request = await client.call(method, arguments, tries)
        self._busy -= 1
        if request.reply is not None:
            reply = Step(0.0, method, arguments), request.value
            scene.learn(*reply)
            self._receive(client.name, method, request)

    def _receive(self, worker: str, method: str, request: Request) -> None:
        if method == "get_work":
            for task in handed_out(request.value):
                self._cluster.record.received[worker, task] = self._cluster.loop.time()

    async def _ping(self, worker: str) -> None:
        client = Client(self._cluster, worker)
        while worker not in self._dead and not self._over:
            await asyncio.sleep(self._cluster.plan.ping)
            if worker not in self._dead:
                await client.call("ping", {"worker": worker})


def handed_out(reply: Any) -> Sequence[str]:
    """The tasks that a reply to get_work gives."""
    if reply.get("batch_id"):
        return list(reply["batch_task_ids"])
    return [reply["task_id"]] if reply["task_id"] else []
