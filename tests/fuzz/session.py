"""A worker's session among the noise: an unmodified worker of Luigi's, whose every call must be answered as if it were alone."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import luigi
from luigi.rpc import RemoteScheduler
from luigi.worker import Worker
from target import Broken

EDGES = {"top": ("left", "right"), "left": ("bottom",), "right": ("bottom",), "bottom": ()}


class Corner(luigi.Task):
    """A corner of a diamond of four tasks. `ran` has the corners whose bodies have run, by session."""

    session = luigi.Parameter()
    name = luigi.Parameter()
    ran: ClassVar[dict[str, list[str]]] = {}

    @property
    def resources(self) -> dict[str, int]:
        return {f"of-{self.session}": 1}

    def requires(self) -> list[Corner]:
        return [Corner(session=self.session, name=name) for name in EDGES[self.name]]

    def complete(self) -> bool:
        return self.name in self.ran.get(self.session, ())

    def run(self) -> None:
        self.set_status_message("here")
        self.ran.setdefault(self.session, []).append(self.name)


def hold(url: str, name: str) -> None:
    """One session under a name that nobody else uses. Raises Broken."""
    logging.getLogger("luigi-interface").setLevel(logging.ERROR)
    scheduler = RemoteScheduler(url)
    scheduler._rpc_retry_attempts = 1  # no second try: a refusal is a fault
    try:
        scheduler.unpause()
        _work(scheduler, name)
        _look(scheduler, name)
    except Exception as error:
        raise Broken(f"session {name}: {error!r}") from error
    finally:
        scheduler.close()
        Corner.ran.pop(name, None)
        Corner.clear_instance_cache()


def _work(scheduler: RemoteScheduler, name: str) -> None:
    with Worker(scheduler=scheduler, worker_id=name, worker_processes=1) as worker:
        _must(worker.add(Corner(session=name, name="top")), "it could not be scheduled")
        _must(worker.run(), "it did not succeed")
    ran = Corner.ran.get(name, [])
    _must(ran[:1] == ["bottom"] and ran[-1:] == ["top"] and sorted(ran) == sorted(EDGES), f"it ran {ran}")


def _look(scheduler: RemoteScheduler, name: str) -> None:
    """Everything that the visualiser asks for shows the session's tasks as they are."""
    ids = {corner: Corner(session=name, name=corner).task_id for corner in EDGES}
    tasks = set(ids.values())
    _must(scheduler.count_pending(worker=name)["n_pending_tasks"] == 0, "something is pending")
    _must(tasks <= scheduler.task_list("DONE", "", search=name).keys(), "task_list lacks its tasks")
    _must(tasks <= scheduler.task_list("", "").keys(), "the whole task_list lacks its tasks")
    _must(tasks <= scheduler.graph().keys(), "graph lacks its tasks")
    _must(scheduler.dep_graph(task_id=ids["top"]).keys() == tasks, "dep_graph shows others than its tasks")
    _must(scheduler.inverse_dep_graph(task_id=ids["bottom"]).keys() == tasks, "inverse_dep_graph shows others than its tasks")
    _must(scheduler.task_search(task_str=ids["top"])["DONE"].keys() == {ids["top"]}, "task_search shows another than its task")
    _must(name in {worker["name"] for worker in scheduler.worker_list()}, "worker_list lacks it")
    resources: list[dict[str, Any]] = scheduler.resource_list()
    _must(all({"num_total", "num_used"} <= resource.keys() for resource in resources), "resource_list lacks numbers")
    _must(scheduler.get_task_status_message(task_id=ids["top"])["statusMessage"] == "here", "a status message is lost")
    _must(scheduler.fetch_error(task_id=ids["top"])["error"] == "null", "a task has an error")


def _must(held: bool, otherwise: str) -> None:
    if not held:
        raise AssertionError(otherwise)
