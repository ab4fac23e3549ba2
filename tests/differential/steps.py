"""Random steps: what workers, people and the visualiser may ask next in a scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from luigi.task_status import BATCH_RUNNING, DISABLED, DONE, FAILED, PENDING, RUNNING, SUSPENDED, UNKNOWN
from scene import Dice, Scene, chance, family, params, some
from twins import RESTART, Step

Asked = tuple[str, dict[str, Any]]
"""A method and its arguments."""

STATUSES = (PENDING, FAILED, DONE, RUNNING, BATCH_RUNNING, SUSPENDED, UNKNOWN, DISABLED)
UPSTREAM = ("", "UPSTREAM_RUNNING", "UPSTREAM_MISSING_INPUT", "UPSTREAM_FAILED", "UPSTREAM_DISABLED")


# What workers ask


def schedule(dice: Dice, scene: Scene) -> Asked:
    """A worker tells of a task that it may run, with its dependencies; now and then of one never seen before."""
    if chance(dice, scene.renewal):
        scene.renew()
    task = dice.pick(scene.tasks)
    place = scene.tasks.index(task)
    arguments: dict[str, Any] = {
        "worker": dice.pick(scene.workers),
        "task_id": task,
        "family": family(task),
        "module": "pipeline",
        "params": params(task),
        "priority": dice.pick(scene.priorities),
        "resources": scene.amounts[place % len(scene.amounts)],
        "batchable": scene.batching and chance(dice, 90),
        "deps": some(dice, scene.tasks if scene.cyclic else scene.tasks[place + 1 :], scene.most_deps),
    }
    if chance(dice, scene.external):
        arguments["runnable"] = False
    if chance(dice, 30):
        _vary(dice, scene, arguments)
    return "add_task", arguments


def _vary(dice: Dice, scene: Scene, arguments: dict[str, Any]) -> None:
    arguments.update(
        dice.pick(
            [
                {"status": dice.pick([DONE, DONE, UNKNOWN, SUSPENDED, PENDING, PENDING, DISABLED])},
                {"status": FAILED, "expl": '"it broke"'},
                {"runnable": dice.pick([False, None])},
                {"resources": dice.pick(scene.amounts)},
                {"resources": None},
                {"deps": None},
                {"family": "", "params": None, "module": None},
                {"params": {**arguments["params"], "kind": "x"}},
                {"params": {"kind": "0"}},
                {"assistant": True},
                {"accepts_messages": True},
                {"tracking_url": "http://there"},
                {"param_visibilities": {"day": dice.pick([1, 2])}},
                {"retry_policy_dict": {"retry_count": dice.pick([1, 2, None]), "disable_hard_timeout": dice.pick([10, None])}},
                {"batchable": None},
            ]
        )
    )


def ask(dice: Dice, scene: Scene) -> Asked:
    """A worker asks for work; mostly it says what it is running."""
    worker = dice.pick(scene.workers)
    arguments: dict[str, Any] = {"worker": worker, "host": "host", "assistant": worker in scene.assistants}
    if chance(dice, 80):
        held = scene.held.get(worker, [])
        if chance(dice, 5):
            held[:] = some(dice, held, 2)
        arguments["current_tasks"] = list(held)
    return "get_work", arguments


def _running(dice: Dice, scene: Scene) -> tuple[str, str]:
    """A worker and a task that it is running, or any if none is."""
    pairs = [(worker, task) for worker in scene.workers for task in scene.held.get(worker, ())]
    if pairs and chance(dice, 95):
        return dice.pick(pairs)
    return dice.pick(scene.workers), dice.pick(scene.tasks)


def _report(dice: Dice, scene: Scene, **arguments: Any) -> Asked:
    """What a worker says of a task that it is running."""
    worker, task = _running(dice, scene)
    place = scene.tasks.index(task) if task in scene.tasks else 0
    return "add_task", {
        "worker": worker,
        "task_id": task,
        "resources": scene.amounts[place % len(scene.amounts)],
        "runnable": None,
        "params": params(task) if task in scene.tasks else {},
        "family": family(task),
        "module": "pipeline",
        "new_deps": None,
        "assistant": worker in scene.assistants,
        "retry_policy_dict": {},
        **arguments,
    }


def finish(dice: Dice, scene: Scene) -> Asked:
    return _report(dice, scene, status=DONE, expl='""')


def fail(dice: Dice, scene: Scene) -> Asked:
    return _report(dice, scene, status=FAILED, expl='"it broke"', owners=["me@example.org"])


def need_more(dice: Dice, scene: Scene) -> Asked:
    """A running task has found new dependencies."""
    return _report(dice, scene, status=PENDING, expl='""', new_deps=some(dice, scene.tasks, 2))


def start_batch(dice: Dice, scene: Scene) -> Asked:
    """A worker has made one task of a batch."""
    if not scene.batches:
        return set_batcher(dice, scene)
    chosen = worker, batch_id, task_ids = dice.pick(scene.batches)
    if chance(dice, 70):
        # It is rarely claimed twice; when its tasks run no more, that is an error.
        scene.batches.remove(chosen)
    combined = f"{family(task_ids[0])}_{batch_id[:4]}"
    held = scene.held.setdefault(worker, [])
    if combined not in held:
        held.append(combined)
    return "add_task", {
        "worker": worker,
        "task_id": combined,
        "family": family(combined),
        "module": "pipeline",
        "params": {"day": ",".join(task_ids)},
        "status": RUNNING,
        "batch_id": batch_id,
        "worker_processes": 1,
    }


def track(dice: Dice, scene: Scene) -> Asked:
    worker, task = _running(dice, scene)
    return "add_task", {"worker": worker, "task_id": task, "status": RUNNING, "tracking_url": dice.pick(["http://a", "http://b"])}


def set_batcher(dice: Dice, scene: Scene) -> Asked:
    arguments: dict[str, Any] = {
        "worker": dice.pick(scene.workers),
        "task_family": family(dice.pick(scene.tasks)),
        "batched_args": dice.pick([["day"]] * 6 + [["day", "kind"], ["absent"]]),
    }
    if chance(dice, 60):
        arguments["max_batch_size"] = dice.number(1, 5)
    return "add_task_batcher", arguments


def count(dice: Dice, scene: Scene) -> Asked:
    return "count_pending", {"worker": dice.pick(scene.workers)}


def ping(dice: Dice, scene: Scene) -> Asked:
    return "ping", {"worker": dice.pick(scene.workers)}


def introduce(dice: Dice, scene: Scene) -> Asked:
    worker = dice.pick(scene.workers)
    info = [["workers", dice.number(0, 4)], ["first_task", dice.pick(scene.tasks)]]
    return "add_worker", {"worker": worker, "info": dice.pick([info, dict([*info, ("host", "there")])])}


def decrease(dice: Dice, scene: Scene) -> Asked:
    _, task = _running(dice, scene)
    return "decrease_running_task_resources", {
        "task_id": task,
        "decrease_resources": {dice.pick(["r", "s", "u"]): dice.pick([1, 1, 2, 0])},
    }


def say_status(dice: Dice, scene: Scene) -> Asked:
    return "set_task_status_message", {"task_id": _running(dice, scene)[1], "status_message": dice.pick(["half", "done"])}


def say_progress(dice: Dice, scene: Scene) -> Asked:
    return "set_task_progress_percentage", {"task_id": _running(dice, scene)[1], "progress_percentage": dice.number(0, 100)}


def respond(dice: Dice, scene: Scene) -> Asked:
    task, message = dice.pick(scene.messages or [(dice.pick(scene.tasks), "unknown")])
    return "add_scheduler_message_response", {"task_id": task, "message_id": message, "response": "ok"}


def announce(dice: Dice, scene: Scene) -> Asked:
    task = dice.pick(scene.tasks)
    described = {"task_name": task, "family": family(task), "params": params(task)}
    return "announce_scheduling_failure", {**described, "expl": "it broke", "owners": [], "worker": dice.pick(scene.workers)}


def report_statistics(dice: Dice, scene: Scene) -> Asked:
    return "report_task_statistics", {"task_id": _running(dice, scene)[1], "statistics": {"rows": 1}}


# What people ask


def disable_worker(dice: Dice, scene: Scene) -> Asked:
    return "disable_worker", {"worker": dice.pick(scene.workers)}


def set_processes(dice: Dice, scene: Scene) -> Asked:
    return "set_worker_processes", {"worker": dice.pick(scene.workers), "n": dice.number(1, 3)}


def send_message(dice: Dice, scene: Scene) -> Asked:
    worker, task = _running(dice, scene)
    return "send_scheduler_message", {"worker": worker, "task": task, "content": "stop"}


def read_response(dice: Dice, scene: Scene) -> Asked:
    task, message = dice.pick(scene.messages or [(dice.pick(scene.tasks), "unknown")])
    return "get_scheduler_message_response", {"task_id": task, "message_id": message}


def forgive(dice: Dice, scene: Scene) -> Asked:
    return "forgive_failures", {"task_id": dice.pick(scene.tasks)}


def mark_as_done(dice: Dice, scene: Scene) -> Asked:
    return "mark_as_done", {"task_id": dice.pick(scene.tasks)}


def re_enable(dice: Dice, scene: Scene) -> Asked:
    return "re_enable_task", {"task_id": dice.pick(scene.tasks)}


def limit(dice: Dice, scene: Scene) -> Asked:
    amount = dice.pick([0, 1, 2, 5, 1, -1, 0.5, 2**62, 2**63 - 1])
    return "update_resource", {"resource": dice.pick(["r", "s", "u", "r", "s", "lock0"]), "amount": amount}


def set_limits(dice: Dice, scene: Scene) -> Asked:
    return "update_resources", {dice.pick(["r", "s", "u"]): dice.number(0, 4)}


def pause(dice: Dice, scene: Scene) -> Asked:
    return "pause", {}


def unpause(dice: Dice, scene: Scene) -> Asked:
    return "unpause", {}


def prune(dice: Dice, scene: Scene) -> Asked:
    return "prune", {}


def look(dice: Dice, scene: Scene) -> Asked:
    """The visualiser asks for a listing."""
    if chance(dice, 40):
        return "task_list", _filters(dice)
    return dice.pick(listings(scene, [dice.pick(scene.tasks)]))


def _filters(dice: Dice) -> dict[str, Any]:
    """Any filters of a list of tasks at once."""
    choices: dict[str, list[Any]] = {
        "status": ["", "", PENDING, PENDING, *STATUSES],
        "upstream_status": [*UPSTREAM, *UPSTREAM, "UPSTREAM_SUCCESS", "nonsense"],
        "limit": [True, False],
        "search": [None, "", "1", "F day=1", "kind=0 G", "nothing"],
        "max_shown_tasks": [None, None, 0, 2, 10],
    }
    return {name: dice.pick(values) for name, values in choices.items() if chance(dice, 60)}


RULES: dict[str, tuple[Callable[[Dice, Scene], Asked], int]] = {
    rule.__name__: (rule, weight)
    for rule, weight in [
        (schedule, 300),
        (ask, 260),
        (finish, 150),
        (fail, 50),
        (need_more, 20),
        (start_batch, 60),
        (track, 10),
        (set_batcher, 60),
        (count, 40),
        (ping, 40),
        (introduce, 30),
        (decrease, 20),
        (say_status, 10),
        (say_progress, 10),
        (respond, 10),
        (announce, 5),
        (report_statistics, 5),
        (disable_worker, 2),
        (set_processes, 10),
        (send_message, 10),
        (read_response, 10),
        (forgive, 20),
        (mark_as_done, 20),
        (re_enable, 20),
        (limit, 15),
        (set_limits, 10),
        (pause, 3),
        (unpause, 10),
        (prune, 40),
        (look, 30),
    ]
}
"""Every rule with its weight among the others."""

COMMON = 150
"""The weight from which on no history leaves a rule out."""


def often(dice: Dice) -> list[str]:
    """The names of rules, each as often as it shall come up: every history leaves some out and has others in plenty."""
    names: list[str] = []
    for name, (_, weight) in RULES.items():
        names += [name] * (weight * (dice.pick([1, 1, 2]) if weight >= COMMON else dice.pick([0, 1, 1, 3])))
    return names


def opening(dice: Dice, scene: Scene) -> list[Step]:
    """Workers that run tasks in batches say so first."""
    if not scene.batching:
        return []
    return [Step(scene.time, *set_batcher(dice, scene)) for _ in scene.workers * 3]


def step(dice: Dice, scene: Scene, name: str, *, taker: int = 0, joined: bool = False) -> Step:
    """The step that a rule asks for. Time passes before it, unless it is joined to the one before."""
    if not joined:
        scene.time += dice.pick(scene.pauses)
    method, arguments = RULES[name][0](dice, scene)
    return Step(scene.time, method, arguments, taker=taker, joined=joined)


def batch(dice: Dice, scene: Scene, names: Sequence[str], replicas: int) -> list[Step]:
    """The next steps, by rules of these names: mostly one, at times a few in one batch, or a replica that starts over."""
    taker = dice.number(0, replicas - 1)
    if dice.number(0, 999) < 3:
        return [Step(scene.time, RESTART, taker=taker)]
    size = dice.number(2, 4) if dice.number(0, 99) < 5 else 1
    return [step(dice, scene, dice.pick(names), taker=taker, joined=place > 0) for place in range(size)]


# The end of a history


def listings(scene: Scene, tasks: Sequence[str]) -> list[Asked]:
    """Every question that the visualiser may ask, about these tasks where it is about one."""
    asked: list[Asked] = [
        ("task_list", {"status": status, "upstream_status": upstream}) for status in ("", *STATUSES) for upstream in UPSTREAM
    ]
    asked += [("task_list", more) for more in ({"limit": False}, {"search": "day=1 F"}, {"max_shown_tasks": 2})]
    asked += [("worker_list", {}), ("worker_list", {"include_running": False}), ("resource_list", {}), ("graph", {})]
    asked += [("is_paused", {}), ("is_pause_enabled", {}), ("has_task_history", {})]
    asked += [("task_search", {"task_str": text}) for text in ("", "F_", "_1")]
    asked += [("count_pending", {"worker": worker}) for worker in scene.workers]
    for task in tasks:
        asked += [(method, {"task_id": task}) for method in _OF_ONE_TASK]
        asked += [(method, {"task_id": task, "include_done": False}) for method in ("dep_graph", "inverse_dep_graph")]
    return asked


_OF_ONE_TASK = (
    "dep_graph",
    "inverse_dep_graph",
    "fetch_error",
    "get_task_status_message",
    "get_task_progress_percentage",
    "get_running_task_resources",
)


def ending(scene: Scene) -> list[Step]:
    """Every listing, then all work handed out in its order, then every listing again."""
    every = [Step(scene.time, method, arguments) for method, arguments in listings(scene, scene.tasks[:12])]
    work = [Step(scene.time, "get_work", {"worker": worker, "host": "host"}) for worker in scene.workers]
    rounds = [Step(scene.time, "unpause"), *(work * (1 + 20 // len(work)))]
    return [*every, *rounds, *every[:4], *every[-6:]]
