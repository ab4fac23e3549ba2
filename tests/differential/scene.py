"""The scene of a random history: its rules, who and what takes part, and what the replies have told so far.

Every choice is made by a `Dice`, so that plain seeded randomness and Hypothesis share it all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from luigi.task_status import DONE, FAILED
from twins import Setup, Step

T = TypeVar("T")

FREE: list[dict[str, float]] = [{}]
SCARCE: list[dict[str, float]] = [{"r": 1}]
LOCKS: list[dict[str, float]] = [{f"lock{number}": 1} for number in range(7)]
LOCKED: list[dict[str, float]] = [{"r": 1, **lock} for lock in LOCKS] + [{"s": 1}, {}]
HUGE: list[dict[str, float]] = [{"r": 2**62}, {"r": 2**62 + 1, "lock0": 1}, {"s": 0.5, "r": 1}, {"s": 2.5}, {"r": 1}]
VARIED: list[dict[str, float]] = [{}, {"r": 1}, {"r": 2}, {"s": 1}, {"r": 1, "s": 2}, {"u": 1}, {"r": 0}, {"r": 0.5}]
"""What tasks may ask for. Nobody declares `u` to begin with, so its limit is 1. Amounts are sums of halves: of others ours has
exact totals, where stock's depend on the order of adding (0.2 + 0.4 + 0.3 + 0.1 is more than 1). Negative ones are left out:
the server rejects them. A lock is a resource with the default limit that few tasks ask for."""

JUMPY = [0.0] * 100 + [0.25] * 50 + [1.0] * 20 + [5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 200.0]
"""How many seconds pass between two steps: little, or what brings a delay just to its end or beyond."""


class Dice(Protocol):
    """Where choices come from."""

    def pick(self, options: Sequence[T]) -> T: ...

    def number(self, low: int, high: int) -> int: ...


class Seeded:
    """Dice of plain randomness."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self._rng.random() * len(options))]

    def number(self, low: int, high: int) -> int:
        return low + int(self._rng.random() * (high - low + 1))


def chance(dice: Dice, percent: int) -> bool:
    return dice.number(0, 99) >= 100 - percent


def some(dice: Dice, options: Sequence[T], most: int) -> list[T]:
    """Up to `most` of the options, in their order."""
    wanted = {dice.number(0, len(options) - 1) for _ in range(dice.number(0, most))} if options else set()
    return [options[index] for index in sorted(wanted)]


@dataclass(kw_only=True)
class Scene:
    """Who and what there is in a history, and what the replies have told."""

    tasks: list[str]
    workers: list[str]
    assistants: list[str]
    cyclic: bool
    most_deps: int
    renewal: int
    external: int
    batching: bool
    amounts: list[dict[str, float]]
    priorities: list[float]
    pauses: list[float]
    made: int
    held: dict[str, list[str]] = field(default_factory=dict)
    batches: list[tuple[str, str, list[str]]] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    time: float = 0.0

    def renew(self) -> None:
        """Forget the oldest task, have a new one."""
        oldest = self.tasks.pop(0)
        self.tasks.append(f"{family(oldest)}_{self.made}")
        self.made += 1

    def learn(self, step: Step, reply: Any) -> None:
        """Take in the reply to a step, None for an error too."""
        arguments = step.arguments
        if step.method == "get_work" and reply:
            if reply["task_id"]:
                self.held.setdefault(arguments["worker"], []).append(reply["task_id"])
            if reply.get("batch_id"):
                self.batches.append((arguments["worker"], reply["batch_id"], reply["batch_task_ids"]))
                del self.batches[:-4]
        elif step.method == "add_task" and arguments.get("status") in (DONE, FAILED):
            self._release(arguments["worker"], arguments["task_id"])
        elif step.method == "send_scheduler_message" and reply and reply["message_id"]:
            self.messages.append((arguments["task"], reply["message_id"]))
            del self.messages[:-4]

    def _release(self, worker: str, task: str) -> None:
        if task in self.held.get(worker, ()):
            self.held[worker].remove(task)


def family(task: str) -> str:
    return task.split("_")[0]


def params(task: str) -> dict[str, str]:
    """A task's parameters: families batch over `day`, and only tasks of one `kind` go together."""
    number = int(task.split("_")[1])
    return {"day": str(number), "kind": str(number % 3 % 2)}


def setting(dice: Dice) -> tuple[Setup, Scene]:
    """The rules of a history, and its scene. What rarely matters is at stock's default most of the time."""
    rules = {
        "retry_delay": dice.pick([5.0, 20.0, 0.0, -1.0]),
        "remove_delay": dice.pick([10.0, 60.0, 0.0]),
        "worker_disconnect_delay": dice.pick([15.0, 60.0]),
        "disable_window": dice.pick([30, 3600]),
        "retry_count": dice.pick([2, 1, 3, 999999999]),
        "disable_hard_timeout": dice.pick([999999999, 999999999, 20]),
        "disable_persist": dice.pick([30, 86400]),
        "stable_done_cooldown_secs": dice.pick([0, 10]),
        "prune_on_get_work": dice.pick([False, False, True]),
        "batch_emails": dice.pick([False, False, True]),
        "max_shown_tasks": dice.pick([100000, 100000, 3]),
        "max_graph_nodes": dice.pick([100000, 100000, 4]),
        "send_messages": dice.pick([True, True, False]),
        "pause_enabled": dice.pick([True, True, False]),
    }
    limits = {"r": dice.pick([2, 1, 3, 0]), "s": dice.pick([1, 4])}
    setup = Setup(rules=rules, limits=limits, replicas=dice.pick([1, 1, 2]))
    return setup, _scene(dice)


def _scene(dice: Dice) -> Scene:
    families = "FGH"[: dice.number(1, 3)]
    workers = [f"w{number}" for number in range(dice.pick([dice.number(1, 5)] * 4 + [12]))]
    size = dice.pick([3, 6, 12, 12, 25, 60])
    return Scene(
        tasks=[f"{families[number % len(families)]}_{number}" for number in range(size)],
        made=size,
        workers=workers,
        assistants=some(dice, workers, 2) if chance(dice, 50) else [],
        cyclic=chance(dice, 15),
        most_deps=dice.pick([0, 1, 1, 2, 3]),
        renewal=dice.pick([0, 10, 30]),
        external=dice.pick([0, 0, 40]),
        batching=chance(dice, 50),
        amounts=dice.pick([FREE, [*FREE, *SCARCE], SCARCE, VARIED, VARIED, LOCKS, LOCKED, HUGE]),
        priorities=dice.pick([[0], [0, 0, 1, 5], [-2, 0, 0.5, 1, 2, 3]]),
        pauses=dice.pick([[0.0], [0.0, 0.25, 1.0], JUMPY, JUMPY, JUMPY]),
    )
