"""Why is it not running? The answer for one task, from the very state and rules that `get_work` decides by. It changes nothing.

A task that is PENDING may wait for its dependencies (`why_waits`), for a worker, or for its turn with one (`why_turn`); of any
other, its status says why (`why_status`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from luigi.task_status import DISABLED, FAILED, PENDING

from luigi_spanner.graph.ready import needs_of
from luigi_spanner.graph.why_status import of_status
from luigi_spanner.graph.why_turn import Turn, taken, turn_of
from luigi_spanner.graph.why_waits import MISSING, Root, Waits, waits_of
from luigi_spanner.graph.why_words import Reason, counted, listed, moment

if TYPE_CHECKING:
    from luigi_spanner.graph.graph import Graph
    from luigi_spanner.graph.task import Task
    from luigi_spanner.graph.worker import Worker

ASKED = 8
"""For how many workers the task's turn is looked at: each costs about what `get_work` does."""

ASKED_OF_ROOT = 1
"""The same for a dependency that is ready."""

ROOTS = 10
"""How many roots are told, of those that are ready with what holds them up."""

NAMED = 10
"""How many workers or tasks a reason names at most."""


_WAITING = (PENDING, FAILED, DISABLED)
"""Statuses of tasks that a worker is to run some time; for want of one they never do, whatever their retries."""


class NoSuchTask(LookupError):
    """There is no task of that id: none has been added, or it has been removed since."""


def why(graph: Graph, task_id: str, worker_id: str | None = None) -> dict[str, Any]:
    """Why the task is not running, or why that worker does not get it. Raises NoSuchTask."""
    task = graph._state.get_task(task_id)
    if task is None:
        raise NoSuchTask(f"There is no task {task_id!r}: nobody has added it, or it was removed after nobody needed it any more.")
    graph._state.index.refresh()
    runnable, reasons = _Inquiry(graph, task, worker_id, ASKED).answer()
    concerned = worker_id if worker_id is not None else reasons[0].details.get("worker")
    more = f" (And {counted(len(reasons) - 1, 'more reason')}.)" if len(reasons) > 1 and not runnable else ""
    answer = {
        "task_id": task_id,
        "status": task.status,
        "summary": f"{reasons[0].sentence}{more}",
        "runnable": runnable,
        "reasons": [reason.as_json() for reason in reasons],
    }
    return answer if concerned is None else {**answer, "worker_id": concerned}


class _Inquiry:
    """The question about one task, for any worker or for one. `asked`: for how many workers its turn is looked at."""

    def __init__(self, graph: Graph, task: Task, worker_id: str | None, asked: int) -> None:
        self._graph = graph
        self._state = graph._state
        self._task = task
        self._worker_id = worker_id
        self._asked = asked
        self._now = graph.now()

    def answer(self) -> tuple[bool, list[Reason]]:
        """Whether a worker that asks may be given the task, and why not; if it may, who and when."""
        task = self._task
        waits = waits_of(self._state, task.id)
        reasons = [*of_status(self._graph, task), *self._of_waits(waits)]
        if task.status not in _WAITING:
            return False, reasons
        if self._graph._paused:
            reasons.append(
                Reason(code="paused", sentence="The scheduler is paused and gives nobody any work until somebody resumes it.")
            )
        candidates, nobody = self._one() if self._worker_id is not None else self._candidates()
        ready = task.status == PENDING and not waits.direct
        turns = [turn_of(self._graph, task, worker) for worker in candidates] if ready else []
        open_turns = [turn for turn in turns if turn.open]
        if open_turns and not reasons:
            return True, [self._ready(turn) for turn in sorted(open_turns, key=lambda turn: turn.before)]
        if nobody is not None:
            reasons.append(nobody)
        return False, [*reasons, *(self._of_turns(turns) if turns and nobody is None else self._impossible())]

    # Dependencies

    def _of_waits(self, waits: Waits) -> Iterator[Reason]:
        for root in waits.roots[:ROOTS]:
            yield self._of_root(root)
        if waits.cycle:
            yield self._of_cycle(waits.cycle)
        if waits.more or len(waits.roots) > ROOTS:
            yield self._left_out(waits)

    def _of_cycle(self, cycle: list[str]) -> Reason:
        told = cycle[:NAMED]
        between = ["others"] if len(cycle) > len(told) else []
        circle = ", which waits for ".join([*told, *between, cycle[0]])
        who = "It waits for itself" if self._task.id in cycle else "It waits for tasks that wait for each other"
        details = {"cycle": told, "length": len(cycle)}
        return Reason(code="dependency_cycle", sentence=f"{who}, so it can never run: {circle}.", details=details)

    def _left_out(self, waits: Waits) -> Reason:
        told, found = min(len(waits.roots), ROOTS), len(waits.roots)
        if waits.more:
            sentence = (
                f"It waits for {counted(waits.direct, 'task')} itself, and for others through them: {waits.looked_at} of all "
                f"these were looked at, and {told} that hold{'s' if told == 1 else ''} it up {'is' if told == 1 else 'are'} told."
            )
        else:
            sentence = f"It waits for {counted(found, 'task')} that wait for no other; {told} of them are told."
        details = {"looked_at": waits.looked_at, "found": found, "told": told, "all_looked_at": not waits.more}
        return Reason(code="dependencies_left_out", sentence=sentence, details=details)

    def _of_root(self, root: Root) -> Reason:
        through = f", through {counted(len(root.path) - 1, 'other')}" if len(root.path) > 1 else ""
        details = {"task_id": root.task_id, "status": root.status, "path": list(root.path)}
        if root.status == MISSING:
            return Reason(
                code="missing_dependency",
                sentence=f"It waits for {root.task_id}{through}, and there is no such task: it was removed, or was never added.",
                details=details,
            )
        task = self._state._tasks[root.task_id]
        runnable, reasons = _Inquiry(self._graph, task, None, ASKED_OF_ROOT).answer()
        return Reason(
            code="dependency",
            sentence=f"It waits for {root.task_id}{through}: {_of_another(reasons[0].sentence)}",
            details={**details, "runnable": runnable, "reasons": [reason.as_json() for reason in reasons]},
        )

    def _impossible(self) -> Iterator[Reason]:
        """What the task will never have, whatever becomes of others."""
        limits = self._graph._resources
        for name, amount in needs_of(self._task.resources):
            if amount > limits.get(name, 1):
                yield taken(self._state, limits, (name, amount))

    # Workers

    def _one(self) -> tuple[list[Worker], Reason | None]:
        """The worker that was named, if it may be given anything."""
        assert self._worker_id is not None
        worker = self._state.find_worker(self._worker_id)
        details = {"worker": self._worker_id}
        if worker is None or worker.leaving:
            sentence = (
                f"{self._worker_id} is no worker that the scheduler knows: it has not called, or has been silent for too long."
            )
            return [], Reason(code="worker_unknown", sentence=sentence, details=details)
        if worker.disabled:
            return [], _disabled([self._worker_id])
        return [worker], None

    def _candidates(self) -> tuple[list[Worker], Reason | None]:
        """Live workers that might be given the task, and if none of them may run it by itself why that is so."""
        task, state = self._task, self._state
        able: list[Worker] = []
        silent: list[Worker] = []
        in_batches: list[Worker] = []
        for worker in state.get_active_workers():
            if worker.disabled or worker.leaving:
                continue
            if worker.id in task.workers or (task.runnable and worker.assistant):
                (silent if self._is_silent(worker) else able).append(worker)
            elif task.batchable and state.get_batcher(worker.id, task.family)[0] and not self._is_silent(worker):
                in_batches.append(worker)
        candidates = [*self._chosen(able), *in_batches][: self._asked]
        if able:
            return candidates, None
        return candidates, self._all_silent(silent) if silent else self._nobody()

    def _is_silent(self, worker: Worker) -> bool:
        return bool(worker.last_active + self._graph._config.worker_disconnect_delay < self._now)

    def _chosen(self, able: list[Worker]) -> list[Worker]:
        """A few of them: those that have asked for work last, assistants among them. Those of a kind differ in little."""
        able.sort(key=lambda worker: -(worker.last_get_work or 0.0))
        assistants = [worker for worker in able if worker.assistant][: self._asked // 2]
        others = [worker for worker in able if worker not in assistants]
        return [*others[: self._asked - len(assistants)], *assistants]

    def _all_silent(self, silent: list[Worker]) -> Reason:
        last = max(worker.last_active for worker in silent)
        names = [worker.id for worker in silent[:NAMED]]
        return Reason(
            code="workers_silent",
            sentence=(
                f"No live worker may run it: {listed(names, len(silent) > len(names))} may, last heard of at "
                f"{moment(last, self._now)}."
            ),
            details={"workers": names, "last_active": last},
        )

    def _nobody(self) -> Reason:
        task = self._task
        if not task.runnable:
            return Reason(
                code="not_runnable",
                sentence="No worker has offered to run it: it is external, and its output comes from outside of the pipeline.",
                details={"stakeholders": sorted(task.stakeholders)[:NAMED]},
            )
        holding = (self._state.find_worker(worker_id) for worker_id in task.stakeholders)
        disabled = sorted(worker.id for worker in holding if worker is not None and worker.disabled)
        if disabled:
            return _disabled(disabled)
        removed = "" if task.remove is None else f"; it is removed at {moment(task.remove, self._now)} unless one adds it again"
        return Reason(
            code="no_worker",
            sentence=f"No worker may run it, since those that could have gone{removed}.",
            details={"stakeholders": sorted(task.stakeholders)[:NAMED], "remove_at": task.remove},
        )

    # Turns

    def _of_turns(self, turns: list[Turn]) -> list[Reason]:
        """What holds the task, each thing once: most is the same whoever asks."""
        held = [turn for turn in turns if turn.holds]
        # Whoever has not offered to run it is no news where others have.
        held = [turn for turn in held if turn.holds[0].code != "not_offered"] or held
        found: dict[tuple[str, Any], Reason] = {}
        for turn in held:
            for reason in turn.holds:
                found.setdefault((reason.code, reason.details.get("resource")), reason)
        return list(found.values())

    def _ready(self, turn: Turn) -> Reason:
        worker = self._state.find_worker(turn.worker)
        assert worker is not None
        running, slots = len(self._state.index.running_on.get(turn.worker, ())), worker.info.get("workers", 1)
        details = {
            "worker": turn.worker,
            "before": turn.before,
            "all_counted": not turn.more,
            "next": turn.before == 0,
            "running": running,
            "slots": slots,
            "busy": running >= slots,
        }
        sentence = f"Nothing holds it: {turn.worker} gets it when it next asks for work"
        if turn.before:
            ranks = "ranks" if turn.before == 1 and not turn.more else "rank"
            sentence += f" after {counted(turn.before, 'task', turn.more)} that {ranks} before it, first {turn.first}"
            details["first"] = turn.first
        if turn.batch:
            details |= {"batch": list(turn.batch[:NAMED]), "batch_size": len(turn.batch)}
            sentence = (
                f"Nothing holds it: {turn.worker} gets it with {turn.batch[0]} in a batch of {counted(len(turn.batch), 'task')}"
            )
            if turn.batch[0] == self._task.id:
                sentence = f"Nothing holds it: {turn.worker} gets it in a batch of {counted(len(turn.batch), 'task')}"
        if details["busy"]:
            sentence += f"; it runs {counted(running, 'task')} and has room for {slots}"
        if self._is_silent(worker):
            sentence += f"; it was last heard of at {moment(worker.last_active, self._now)}"
        return Reason(code="ready", sentence=f"{sentence}.", details=details)


def _disabled(names: list[str]) -> Reason:
    what = "is disabled and is" if len(names) == 1 else "are disabled and are"
    return Reason(
        code="worker_disabled",
        sentence=f"{listed(names)} {what} given no work until the process ends and another is started.",
        details={"workers": names[:NAMED]},
    )


def _of_another(sentence: str) -> str:
    """A sentence about a task, said of one that has just been named: it goes on after a colon."""
    first, _, rest = sentence.partition(" ")
    return f"{_GOES_ON.get(first, first)} {rest}"


_GOES_ON = {
    "It": "that one",
    **{word: word.lower() for word in ("A", "Enough", "Its", "No", "Nothing", "The")},
}
"""How sentences begin; others begin with a name."""
