"""The scheduler in a process: a drop-in whose calls are durable when they return."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import luigi
import luigi.scheduler
import luigi.worker
import pytest

import luigi_spanner
from luigi_spanner import verify
from luigi_spanner.graph.why import NoSuchTask
from luigi_spanner.methods import OURS
from luigi_spanner.stores import Closed, InvalidStore


@pytest.fixture(params=["memory_url", "sqlite_url", "spanner_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_it_is_luigis_scheduler() -> None:
    scheduler = luigi_spanner.Scheduler(retry_count=7, resources={"r": 3})
    assert isinstance(scheduler, luigi.scheduler.Scheduler)
    assert scheduler._config.retry_count == 7
    assert scheduler._resources == {"r": 3}


def test_each_call_is_durable_when_it_returns(url: str) -> None:
    first = luigi_spanner.Scheduler(store=url)
    first.add_task(worker="w", task_id="t", deps=["u"])
    second = luigi_spanner.Scheduler(store=url)
    assert second.get_work(worker="w")["n_pending_tasks"] == 1
    second.add_task(worker="w", task_id="u", status="DONE")
    assert first.get_work(worker="w")["task_id"] == "t"
    for scheduler in (first, second):
        scheduler.close()


def test_namespaces_share_nothing(url: str) -> None:
    left, right = (luigi_spanner.Scheduler(store=url, namespace=name) for name in ("left", "right"))
    left.add_task(worker="w", task_id="t")
    assert right.task_list() == {}
    for scheduler in (left, right):
        scheduler.close()


def test_positional_arguments_as_luigi_takes_them() -> None:
    scheduler = luigi_spanner.Scheduler()
    scheduler.add_task("t", worker="w")
    scheduler.update_resource("r", 2)
    assert list(scheduler.task_list("PENDING", "")) == ["t"]
    assert scheduler._resources["r"] == 2


def test_what_a_rule_raises_is_raised_and_undone() -> None:
    scheduler = luigi_spanner.Scheduler()
    with pytest.raises(AssertionError):
        scheduler.add_task(task_id="t")
    with pytest.raises(TypeError):
        scheduler.add_task(worker="w", task_id="t", retry_policy_dict={"nonsense": 1})
    assert scheduler.worker_list() == []


def test_a_real_worker_runs_on_it(url: str, tmp_path: Path) -> None:
    class Leaf(luigi.Task):
        number = luigi.IntParameter()

        def output(self) -> Any:
            return luigi.LocalTarget(tmp_path / f"leaf{self.number}")

        def run(self) -> None:
            with self.output().open("w") as out:
                out.write("done")

    class Root(luigi.WrapperTask):
        def requires(self) -> Any:
            return [Leaf(number=number) for number in range(3)]

    scheduler = luigi_spanner.Scheduler(store=url)
    with luigi.worker.Worker(scheduler=scheduler) as worker:
        worker.add(Root())
        assert worker.run()
    assert {task["status"] for task in scheduler.task_list("", "").values()} == {"DONE"}
    scheduler.close()


def test_threads_take_turns(sqlite_url: str) -> None:
    scheduler = luigi_spanner.Scheduler(store=sqlite_url)

    def add(worker: str) -> None:
        for number in range(20):
            scheduler.add_task(worker=worker, task_id=f"{worker}-{number}")

    threads = [threading.Thread(target=add, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(scheduler.task_list("", "")) == 80
    scheduler.close()
    assert verify.verify(sqlite_url, "default").clean


def _call_in_child(scheduler: luigi_spanner.Scheduler) -> None:
    scheduler.add_task(worker="child", task_id="from the child")
    scheduler.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_the_store_itself(sqlite_url: str) -> None:
    scheduler = luigi_spanner.Scheduler(store=sqlite_url)
    scheduler.add_task(worker="parent", task_id="from the parent")
    child = multiprocessing.get_context("fork").Process(target=_call_in_child, args=(scheduler,))
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert list(scheduler.task_list("", "")) == ["from the parent", "from the child"]
    scheduler.close()


def test_a_pickled_scheduler_is_its_address(sqlite_url: str) -> None:
    scheduler = luigi_spanner.Scheduler(store=sqlite_url)
    scheduler.add_task(worker="w", task_id="t", resources={"r": 1}, deps=["u"])
    twin = pickle.loads(pickle.dumps(scheduler))
    assert list(twin.task_list("", "")) == ["t", "u"]
    for each in (scheduler, twin):
        each.close()


def test_tracked_objects_pickle_and_copy_as_plain_ones() -> None:
    scheduler = luigi_spanner.Scheduler()
    scheduler.add_task(worker="w", task_id="t", resources={"r": 1}, deps=["u"], params={"a": "1"})
    task = scheduler._state.get_task("t")
    for twin in (pickle.loads(pickle.dumps(task)), copy.copy(task)):
        assert type(twin.resources) is dict
        assert type(twin.deps) is set
        assert list(twin.workers) == ["w"]
        assert twin.stakeholders == {"w"}
    worker = pickle.loads(pickle.dumps(scheduler._state.get_worker("w")))
    assert worker.id == "w"


def test_stocks_pickle_is_taken_over_into_an_empty_state(tmp_path: Path, sqlite_url: str) -> None:
    path = str(tmp_path / "state.pickle")
    stock = luigi.scheduler.Scheduler(state_path=path)
    stock.add_task(worker="w", task_id="t", deps=["u"], resources={"r": 1}, params={"a": "1"})
    stock.add_task(worker="w", task_id="u", status="DONE")
    stock.dump()
    ours = luigi_spanner.Scheduler(store=sqlite_url, state_path=path)
    ours.load()
    assert ours.get_work(worker="w")["task_id"] == "t"
    ours.load()
    assert ours._state.get_task("t").status == "RUNNING"
    ours.close()
    again = luigi_spanner.Scheduler(store=sqlite_url)
    assert again._state.get_task("t").status == "RUNNING"
    again.close()


def test_a_closed_scheduler_says_so(sqlite_url: str) -> None:
    scheduler = luigi_spanner.Scheduler(store=sqlite_url)
    scheduler.close()
    scheduler.close()
    with pytest.raises(Closed):
        scheduler.add_task(worker="w", task_id="t")


def test_a_bad_store_is_one_sentence() -> None:
    with pytest.raises(InvalidStore, match="store URL"):
        luigi_spanner.Scheduler(store="mysql://somewhere/db")


def test_a_method_of_a_later_luigi_is_durable_too(monkeypatch: pytest.MonkeyPatch, sqlite_url: str) -> None:
    """Which methods are RPC methods is Luigi's to say."""
    assert luigi.scheduler.RPC_METHODS.keys() | OURS <= vars(luigi_spanner.Scheduler).keys()


def test_why_a_task_is_not_running_may_be_asked_in_a_process() -> None:
    first = luigi_spanner.Scheduler(store="memory://why")
    second = luigi_spanner.Scheduler(store="memory://why")
    first.add_task(worker="w", task_id="t", deps=["d"])
    assert second.why("t")["reasons"][0]["task_id"] == "d"
    assert second.why(task_id="d", worker="w")["status"] == "UNKNOWN"
    with pytest.raises(NoSuchTask):
        second.why("u")


def test_state_does_not_follow_what_the_caller_does_with_arguments_and_replies() -> None:
    first = luigi_spanner.Scheduler(store="memory://aliases")
    second = luigi_spanner.Scheduler(store="memory://aliases")
    params = {"a": "1"}
    first.add_task(worker="w", task_id="t", params=params, resources={"r": 1}, family="F")
    params["a"] = "2"
    first.task_list("", "")["t"]["resources"]["r"] = 99
    first.fetch_error("t")["taskParams"]["a"] = "3"
    first.add_task(worker="w", task_id="t", priority=2)
    assert second.fetch_error("t")["taskParams"] == {"a": "1"}
    assert second.ledger.digest == first.ledger.digest
