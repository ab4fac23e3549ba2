"""What a run is made of: a plan, drawn from a seed, whose parts can be left out one by one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scene import Scene, Seeded, setting

AT_A_COMMIT = (
    "lost reply",
    "lost request",
    "late commit",
    "own conflict",
    "slow commit",
    "crash before commit",
    "crash after commit",
    "frozen before commit",
    "frozen after commit",
)
"""Faults that meet the next commit of a replica."""

AT_A_CALL = ("cut connection", "lost answer")
"""Faults that meet the next call to a replica: its caller goes before, or after, it is answered, and tries elsewhere."""

WINDOWS = ("no reads", "no commits", "store unreachable", "slow store", "lost replies")
"""States of the way from a replica to the store that last for some time."""

AT_ONCE = ("crash", "crash", "restart", "frozen", "clock moves", "clock is set", "worker dies")

SECONDS: dict[str, list[float]] = {
    "lost reply": [0.0, 0.0, 5.0, 30.0],
    "late commit": [3.0, 10.0, 40.0],
    "slow commit": [0.5, 1.5],
    "frozen before commit": [0.5, 5.0, 20.0, 90.0],
    "frozen after commit": [0.5, 5.0, 20.0, 90.0],
    "frozen": [0.5, 5.0, 20.0, 90.0],
    "crash": [0.2, 2.0, 20.0],
    "crash before commit": [0.2, 2.0, 20.0],
    "crash after commit": [0.2, 2.0, 20.0],
    "no reads": [1.0, 5.0, 30.0],
    "no commits": [1.0, 5.0, 20.0, 60.0],
    "store unreachable": [1.0, 5.0, 30.0, 60.0],
    "slow store": [2.0, 10.0],
    "lost replies": [1.0, 5.0],
    "clock moves": [-1.0, -0.5, 0.5, 1.0],
    "clock is set": [-90.0, -30.0, 30.0, 60.0, 90.0],
}
"""How long faults last; of a late commit, after how many seconds it lands; of a lost reply, how long reads fail, too."""

WORKERS_DO = {
    "schedule": 30,
    "ask": 30,
    "finish": 15,
    "fail": 5,
    "need_more": 2,
    "start_batch": 6,
    "track": 1,
    "set_batcher": 4,
    "count": 4,
    "introduce": 2,
    "decrease": 2,
    "say_status": 1,
    "say_progress": 1,
    "respond": 1,
    "announce": 1,
    "report_statistics": 1,
}
PEOPLE_DO = {
    "set_processes": 2,
    "send_message": 3,
    "read_response": 2,
    "forgive": 3,
    "mark_as_done": 2,
    "re_enable": 3,
    "limit": 2,
    "set_limits": 2,
    "pause": 1,
    "unpause": 3,
    "prune": 4,
    "look": 12,
    "disable_worker": 1,
}
"""Rules of `steps` with their weights."""

PEOPLE = "people"

CONSTANTS: dict[str, list[Any]] = {
    "luigi_spanner.batch.BATCH_CALLS": [1, 2, 3, 1000],
    "luigi_spanner.batch.CHANGES_BYTES": [200, 1000, 10**7],
    "luigi_spanner.batch.RIDE_ALONG": [1, 48],
    "luigi_spanner.batch.IDLE_ROWS": [1, 4, 250],
    "luigi_spanner.batch.OWED_ROWS": [3, 20_000],
    "luigi_spanner.batch.LATE_ENTRIES": [3, 2000],
    "luigi_spanner.batch.OWED_LOOKED_AT": [2, 100_000],
    "luigi_spanner.truncation.TRUNCATE_EVERY": [1, 3, 1000],
    "luigi_spanner.replica.READ_LIMIT": [2, 1000],
    "luigi_spanner.calm.CALM_SECONDS": [0.05, 0.5],
}
"""The product's bounds, small enough to be met; the last is the product's own, or as good."""


@dataclass(frozen=True)
class Action:
    """Somebody (a worker, or people) does something `at` seconds from the beginning, by a rule of `steps`."""

    at: float
    actor: str
    rule: str
    number: int


@dataclass(frozen=True)
class Fault:
    """`kind` befalls the replica `slot`, or the worker of that number."""

    at: float
    kind: str
    slot: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """A run. `rules` and `limits` are the keys of [scheduler] and [resources]; `skews` how far each replica's clock is ahead,
    `timed` whether the store tells the time of commits, `latency` seconds of the way to it at most, `keep` the journal's
    length, `ping` seconds between a worker's pings, `sticky` whether each worker has a replica that it asks first."""

    seed: str
    replicas: int
    rules: dict[str, Any]
    limits: dict[str, Any]
    skews: tuple[float, ...]
    timed: bool
    latency: float
    keep: int
    ping: float
    sticky: bool
    constants: dict[str, Any] = field(default_factory=dict)
    actions: tuple[Action, ...] = ()
    faults: tuple[Fault, ...] = ()
    seconds: float = 60.0

    def scene(self) -> Scene:
        """Who and what takes part."""
        return setting(Seeded(random.Random(self.seed)))[1]

    @property
    def grain(self) -> float:
        """As in `luigi_spanner.graph.state.State`."""
        return float(self.rules["worker_disconnect_delay"]) / 2


def plan_of(seed: str, kinds: Sequence[str] = (), **fixed: Any) -> Plan:
    """The plan that a seed stands for; with faults of these kinds only, and with some of its attributes fixed."""
    rng = random.Random(f"plan {seed}")
    dice = Seeded(rng)
    setup, scene = setting(Seeded(random.Random(seed)))
    rules = {**setup.rules, "batch_emails": False, "record_task_history": True}
    rules["worker_disconnect_delay"] = dice.pick([20.0, 30.0])
    replicas = dice.pick([1, 2, 2, 3, 3])
    plan = Plan(
        seed=seed,
        replicas=replicas,
        rules=rules,
        limits=setup.limits,
        skews=tuple(dice.pick([0.0, 0.0, -1.0, 1.0, 0.3]) for _ in range(replicas)),
        timed=dice.pick([True, False]),
        latency=dice.pick([0.002, 0.02, 0.2]),
        keep=dice.pick([2, 10, 100_000]),
        ping=dice.pick([1.0, 3.0]),
        sticky=dice.pick([True, False]),
        constants={name: dice.pick([values[-1], *values]) for name, values in CONSTANTS.items()},
        seconds=dice.pick([20.0, 60.0, 60.0, 120.0]),
    )
    if "replicas" in fixed:
        plan = replace(plan, skews=(plan.skews * fixed["replicas"])[: fixed["replicas"]])
    plan = replace(plan, **{**fixed, "constants": {**plan.constants, **fixed.get("constants", {})}})
    return replace(plan, actions=_actions(plan, scene, rng), faults=_faults(plan, scene, rng, kinds))


def _actions(plan: Plan, scene: Scene, rng: random.Random) -> tuple[Action, ...]:
    """In bursts and pauses: many at a time fill batches, few leave rows behind the watermark."""
    workers, people = _weighted(WORKERS_DO), _weighted(PEOPLE_DO)
    actions: list[Action] = []
    at = 1.0
    dense = rng.choice([0.05, 0.3, 1.0])
    for number in range(rng.choice([30, 80, 150])):
        at += rng.expovariate(1.0) * dense if rng.random() < 0.97 else rng.choice([3.0, 15.0])
        if at > plan.seconds:
            break
        if rng.random() < 0.8:
            actions.append(Action(round(at, 3), rng.choice(scene.workers), rng.choice(workers), number))
        else:
            actions.append(Action(round(at, 3), PEOPLE, rng.choice(people), number))
    return tuple(actions)


def _faults(plan: Plan, scene: Scene, rng: random.Random, only: Sequence[str]) -> tuple[Fault, ...]:
    kinds = [*only] or [*AT_A_COMMIT * 2, *AT_A_CALL * 2, *WINDOWS, *AT_ONCE]
    chosen = only or rng.sample(kinds, rng.choice([2, 5, len(kinds)]))
    faults = []
    for _ in range(10 if only else rng.choice([0, 3, 10, 20])):
        kind = rng.choice(chosen)
        slots = len(scene.workers) if kind == "worker dies" else plan.replicas
        at = round(rng.uniform(0.0, plan.seconds), 3)
        faults.append(Fault(at, kind, rng.randrange(slots), rng.choice(SECONDS.get(kind, [0.0]))))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _weighted(weights: dict[str, int]) -> list[str]:
    return [name for name, weight in weights.items() for _ in range(weight)]
