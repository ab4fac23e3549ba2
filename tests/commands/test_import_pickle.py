"""The state of a stock luigid is taken over: real ones of five releases. What is none is refused, and nothing in it is run."""

from __future__ import annotations

import ast
import json
import os
import pickle
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import luigi
import luigi.scheduler
import pytest
from deployment import Ran, command
from processes import Processes, Server, wait_until
from serving import Process, environment

from luigi_spanner import verify
from luigi_spanner.commands import importing, pickled, unpickling
from luigi_spanner.commands.unpickling import BASE_BYTES

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
PICKLES = sorted((HERE / "pickles").glob("*.pickle"))


def call(url: str, method: str, **arguments: Any) -> Any:
    with urlopen(f"{url}/api/{method}", urlencode({"data": json.dumps(arguments)}).encode(), timeout=20) as answer:
        return json.load(answer)["response"]


def imported(file: Path, store: str, *arguments: str) -> Ran:
    return command("import-pickle", "--store", store, *arguments, str(file))


def tasks_of(store: str) -> dict[str, Any]:
    """The bodies of the tasks' rows."""
    return {row["task_id"]: row["body"] for row in exported(store, "tasks")}


def exported(store: str, table: str) -> list[Any]:
    rows = [json.loads(line) for line in command("export", "--store", store).out.splitlines()]
    return [row for row in rows if row["table"] == table]


# A deployment moves


@pytest.fixture
def processes() -> Iterator[Processes]:
    with Processes() as processes:
        yield processes


def stock(directory: Path, name: str, state: Path) -> Server:
    start = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()", "--state-path", str(state)]
    return Server(
        command=start, ready_path="/static/visualiser/index.html", log=directory / f"{name}.log", environment=settings(directory)
    )


def settings(directory: Path) -> dict[str, str]:
    """One configuration for servers and workers. Workers try long enough for a move."""
    (directory / "luigi.cfg").write_text(
        "[core]\nrpc-retry-attempts = 200\nrpc-retry-wait = 1\nautoload_range = false\n[resources]\nslots = 2\n"
        "[worker]\nkeep_alive = true\nwait_interval = 0.1\nwait_jitter = 0.1\n[scheduler]\nretry_delay = 600\n"
    )
    path = os.pathsep.join([str(HERE), environment()["PYTHONPATH"]])
    return environment(PYTHONPATH=path, LUIGI_CONFIG_PATH=str(directory / "luigi.cfg"), TAKEN_OVER=str(directory))


def statuses(url: str) -> dict[str, str]:
    return {task["name"]: task["status"] for task in call(url, "task_list", status="", upstream_status="").values()}


def test_a_deployment_moves_under_its_worker(tmp_path: Path, processes: Processes) -> None:
    """Stock is stopped, its state taken over, a replica started in its place; the worker that ran meanwhile finishes there."""
    state = tmp_path / "state.pickle"
    old = processes.serve(stock(tmp_path, "stock", state))
    old.wait_ready()
    arguments = ["--module", "taken_over", "Top", "--workers", "2", "--scheduler-url", old.url]
    processes.work(arguments, tmp_path / "worker.log", settings(tmp_path))
    wanted = {"Waits": "RUNNING", "Broken": "FAILED", "Part": "DONE", "After": "PENDING", "Top": "PENDING"}
    wait_until(lambda: statuses(old.url) == wanted, 60, f"statuses of stock are {wanted}")
    assert old.stop() == 0
    store = f"sqlite:///{tmp_path}/new.db"
    ran = imported(state, store, "--json").json
    assert ran["tasks"] == {"DONE": 3, "FAILED": 1, "PENDING": 2, "RUNNING": 1}
    assert ran["ignored"] == []
    serve = [sys.executable, "-m", "luigi_spanner", "serve", "--store", store]
    new = Server(command=serve, ready_path="/readyz", log=tmp_path / "new.log", environment=settings(tmp_path), port=old.port)
    # What stock itself makes of its pickle, on another port, where no worker asks.
    processes.serve(again := stock(tmp_path, "again", state))
    again.wait_ready()
    processes.serve(new)
    new.wait_ready()
    assert listings(new.url) == listings(again.url)
    (tmp_path / "go").touch()
    wait_until(lambda: statuses(new.url)["After"] == "DONE", 60, "the worker finishes")
    assert statuses(new.url) == {**wanted, "Waits": "DONE", "After": "DONE"}
    assert new.stop() == 0
    assert verify.verify(store, "default").clean


def listings(url: str) -> dict[str, Any]:
    """What the visualiser shows, without the signs of life that the worker has given since."""
    tasks = call(url, "task_list", status="", upstream_status="")
    workers = call(url, "worker_list")
    for worker in workers:
        del worker["last_active"]
    top = next(task_id for task_id in tasks if task_id.startswith("Top"))
    graph = call(url, "dep_graph", task_id=top)
    for task in graph.values():
        task["deps"].sort()
    return {
        "tasks": list(tasks.items()),
        "workers": workers,
        "graph": graph,
        "inverse": call(url, "inverse_dep_graph", task_id=next(task_id for task_id in tasks if task_id.startswith("Part"))),
        "errors": [call(url, "fetch_error", task_id=task_id) for task_id in tasks],
        "resources": call(url, "resource_list"),
        "upstream": call(url, "task_list", status="PENDING", upstream_status="UPSTREAM_FAILED"),
    }


# Pickles of five releases


@pytest.mark.parametrize("file", PICKLES, ids=lambda file: file.stem)
def test_a_pickle_of_an_older_luigi(file: Path, sqlite_url: str) -> None:
    assert imported(file, sqlite_url, "--json").json["batchers"] == 1
    tasks = tasks_of(sqlite_url)
    assert {task_id: body["status"] for task_id, body in tasks.items()} == {
        "Done": "DONE",
        "Failed": "FAILED",
        "Runs": "RUNNING",
        "Off": "DISABLED",
        "Part1": "BATCH_RUNNING",
        "Part2": "BATCH_RUNNING",
        "Top": "PENDING",
        "Absent": "UNKNOWN",
    }
    assert tasks["Done"]["params"] == {"day": "\u00e9"}
    assert json.loads(tasks["Failed"]["expl"]) == "no \u00e9"
    assert len(tasks["Failed"]["failures"]) == 1
    assert tasks["Failed"]["retry"] > tasks["Failed"]["time"]
    assert tasks["Top"]["deps"] == ["Absent", "Done", "Failed", "Runs"]
    assert (tasks["Runs"]["worker_running"], tasks["Runs"]["resources"], tasks["Runs"]["priority"]) == ("one", {"db": 2}, 5)
    assert tasks["Part1"]["batch_id"] == tasks["Part2"]["batch_id"]
    assert tasks["Part1"]["retry_policy"] == [999999999, 999999999, 3600]
    runners = sorted((row["ordinal"], row["worker_id"]) for row in exported(sqlite_url, "runners") if row["task_id"] == "Top")
    assert [worker for _, worker in runners] == ["one", "two"]  # the last scheduler last
    (batcher,) = exported(sqlite_url, "batchers")
    assert (batcher["worker_id"], json.loads(batcher["batched_params"]), batcher["max_batch_size"]) == ("two", ["day"], 10)
    one = next(row["body"] for row in exported(sqlite_url, "workers") if row["worker_id"] == "one")
    assert (one["info"]["workers"], one["reference"]) == (2, {"host": "here"})
    assert time.time() - one["last_active"] < 60  # it is given time to come back
    assert verify.verify(sqlite_url, "default").clean


def test_on_spanner(spanner_url: str) -> None:
    assert imported(PICKLES[-1], spanner_url).code == 0
    assert len(tasks_of(spanner_url)) == 8
    assert verify.verify(spanner_url, "default").clean


def a_state(tasks: int = 4) -> luigi.scheduler.Scheduler:
    """A small graph in stock's own scheduler."""
    scheduler = luigi.scheduler.Scheduler()
    for number in range(tasks):
        scheduler.add_task(
            task_id=f"t{number}", worker="w", deps=[f"t{number - 1}"] if number else [], family="F", params={"n": "1"}
        )
    scheduler.get_work(worker="w", host="h")
    scheduler.add_task(task_id="t0", worker="w", status="FAILED", expl='"no"')
    return scheduler


def saved(path: Path, scheduler: luigi.scheduler.Scheduler, protocol: int | None = None, parts: int = 3) -> Path:
    path.write_bytes(pickle.dumps(scheduler._state.get_state()[:parts], protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("parts", [2, 3])
def test_every_protocol_and_both_forms(tmp_path: Path, protocol: int, parts: int) -> None:
    """Luigi takes Python's default protocol, which was 0, 3 and 4 in its time."""
    file = saved(tmp_path / "state.pickle", a_state(), protocol, parts)
    assert command("import-pickle", "--dry-run", "--json", str(file)).json["tasks"] == {"FAILED": 1, "PENDING": 3}


# What happens to what is there


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "a.db"
    ran = imported(PICKLES[0], f"sqlite:///{store}", "--dry-run")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "Nothing was changed.")
    assert "1 RUNNING" in ran.out
    assert not store.exists()


def test_a_namespace_that_is_not_empty(sqlite_url: str, tmp_path: Path) -> None:
    assert imported(PICKLES[0], sqlite_url).code == 0
    small = saved(tmp_path / "state.pickle", a_state(2))
    before = tasks_of(sqlite_url)
    refused = imported(small, sqlite_url)
    assert (refused.code, "is not empty" in refused.err) == (1, True)
    assert tasks_of(sqlite_url) == before
    assert imported(small, sqlite_url, "--replace").code == 0
    assert set(tasks_of(sqlite_url)) == {"t0", "t1"}
    assert [row["worker_id"] for row in exported(sqlite_url, "workers")] == ["w"]
    assert exported(sqlite_url, "batchers") == []
    assert verify.verify(sqlite_url, "default").clean


def test_replicas_that_serve(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/a.db"
    with Process("serve", "--store", store, "--address", "127.0.0.1", "--port", "0", directory=tmp_path) as process:
        client = process.client()
        refused = imported(PICKLES[-1], store)
        assert (refused.code, "--while-serving" in refused.err) == (1, True)
        assert client.tasks() == {}
        assert imported(PICKLES[-1], store, "--while-serving").code == 0
        assert len(client.tasks()) == 8
        assert imported(saved(tmp_path / "small", a_state(2)), store, "--while-serving", "--replace").code == 0
        assert set(client.tasks()) == {"t0", "t1"}
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
    assert verify.verify(store, "default").clean


def test_a_large_state_is_cut_into_entries(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "TASKS_AT_ONCE", 50)
    monkeypatch.setattr(importing, "WORKERS_AT_ONCE", 1)
    scheduler = a_state(120)
    scheduler.add_worker("v", {})
    assert imported(saved(tmp_path / "state.pickle", scheduler), sqlite_url).code == 0
    journal = [json.loads(line) for line in command("journal", "tail", "--store", sqlite_url, "--from", "1").out.splitlines()]
    calls = [call for entry in journal for call in entry["calls"]]
    assert [(call["method"], call["principal"]) for call in calls] == [("import_pickle", "import-pickle")] * (1 + 2 + 3 + 1)
    ordinals = {task_id: body["ordinal"] for task_id, body in tasks_of(sqlite_url).items()}
    assert sorted(ordinals, key=ordinals.__getitem__) == [f"t{number}" for number in range(120)]
    monkeypatch.setattr(importing, "RELATIONS_AT_ONCE", 10)
    assert imported(tmp_path / "state.pickle", sqlite_url, "--replace").code == 0
    assert len(tasks_of(sqlite_url)) == 120
    assert verify.verify(sqlite_url, "default").clean


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_import_that_is_interrupted_can_be_made_again(tmp_path: Path, number: signal.Signals) -> None:
    file = saved(tmp_path / "state.pickle", a_state(8000))
    database = tmp_path / "a.db"
    run = [sys.executable, "-m", "luigi_spanner", "import-pickle", "--store", f"sqlite:///{database}", str(file)]
    with subprocess.Popen(run, env=environment(HOME=str(tmp_path)), stderr=subprocess.PIPE, text=True) as importing:
        wait_until(lambda: tasks_in(database) > 0 or importing.poll() is not None, 60, "some tasks are imported")
        importing.send_signal(number)
        _, said = importing.communicate(timeout=60)
    assert 0 < tasks_in(database) < 8000
    assert (importing.returncode, said) == (
        (130, "Interrupted half way; run it again with --replace.\n") if number is signal.SIGINT else (-signal.SIGKILL, "")
    )
    assert verify.verify(f"sqlite:///{database}", "default").clean
    assert "is not empty" in imported(file, f"sqlite:///{database}").err
    assert half_there(database)
    small = saved(tmp_path / "small.pickle", a_state(2))
    assert imported(small, f"sqlite:///{database}", "--replace").code == 0
    assert set(tasks_of(f"sqlite:///{database}")) == {"t0", "t1"}
    assert not half_there(database)


def half_there(database: Path) -> bool:
    """Whether `status` says that an import is not whole."""
    where = ("--store", f"sqlite:///{database}", "--address", "127.0.0.1", "--port", "0")
    with Process("serve", *where, directory=database.parent) as process:
        ran = command("status", "--url", process.client().url)
        process.signal(signal.SIGTERM)
        assert process.exit_code() == 0
    assert (ran.code == 1) == ("--replace" in ran.out)
    return ran.code == 1


def tasks_in(database: Path) -> int:
    """Rows of tasks in a file that may not be there yet."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM tasks").fetchone()[0])
    return 0


# What is none


def refused(file: Path, tmp_path: Path) -> str:
    """The sentence with which the file is refused; no store is made."""
    store = tmp_path / "none.db"
    ran = imported(file, f"sqlite:///{store}")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1), ran
    assert not store.exists()
    return ran.err


class Gadget:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def touch(path: Path) -> str:
    return f"touch {path}"


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    sign = tmp_path / "it-ran"
    code = f"open({str(sign)!r}, 'w')"
    gadgets: dict[str, Any] = {
        "system": Gadget(os.system, touch(sign)),
        "eval": Gadget(eval, code),
        "exec": Gadget(exec, code),
        "popen": Gadget(subprocess.Popen, ["touch", str(sign)]),
        "getattr": Gadget(getattr, Gadget(__import__, "os"), "system"),
        "open": Gadget(open, str(sign), "w"),
        "mkdir": Gadget(Path.mkdir, sign),
        "scheduler": Gadget(luigi.scheduler.Scheduler),
        "mail": Gadget(luigi.notifications.send_error_email, "subject", "body"),
        "build": Gadget(luigi.build, []),
        "target": Gadget(luigi.LocalTarget, str(sign)),
    }
    for name, gadget in gadgets.items():
        for where in (gadget, ({}, {}, gadget), ({"t": gadget}, {})):
            file = tmp_path / "evil.pickle"
            file.write_bytes(pickle.dumps(where))
            assert "which is no part of a scheduler's state" in refused(file, tmp_path), name
            assert not sign.exists()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93"


TASK = named("luigi.scheduler", "Task")

SLOTS = b"N}\x8c\x07__len__K\x01s\x86b"
"""BUILD with values for slots, which are set one by one."""

CRAFTED: dict[str, tuple[bytes, str]] = {
    "a dotted name": (raw(named("luigi.scheduler", "Task.__init__")), "no part of"),
    "a submodule": (raw(named("luigi.scheduler.os", "system")), "no part of"),
    "an attribute of what is known": (raw(named("collections", "deque.__init__")), "no part of"),
    "old names": (b"cposix\nsystem\n(S'true'\ntR.", "no part of"),
    "another base": (b"ccopy_reg\n_reconstructor\n(cluigi.scheduler\nTask\nc__builtin__\nset\nNtR.", "made of something else"),
    "a persistent id": (b"P1\n.", "cannot be read"),
    "an extension": (raw(b"\x82\x01"), "cannot be read"),
    "attributes of a class": (raw(TASK, b"}\x8c\x01xNsb"), "cannot be read"),
    "attributes that are none": (raw(TASK, b")\x81", b"]b"), "no dictionary"),
    "slots": (raw(TASK, b")\x81", b"N}\x8c\x09__class__", named("builtins", "set"), b"s\x86b"), "no dictionary"),
    "an object with arguments": (raw(TASK, b"K\x01\x85\x81"), "cannot be read"),
    "no attributes": (raw(b"}\x8c\x01t", TASK, b")\x81s", b"}\x86"), "cannot be read"),
    "an endless text": (raw(b"\x8d" + (2**62).to_bytes(8, "little")), ""),
    "slots of the policy": (raw(named("luigi.scheduler", "RetryPolicy"), SLOTS), "cannot be read"),
    "slots of a policy": (raw(named("luigi.scheduler", "RetryPolicy"), b")\x81", SLOTS), "something has attributes"),
    "slots of a class": (raw(TASK, SLOTS), "cannot be read"),
    "slots of what makes objects": (raw(named("copy_reg", "_reconstructor"), SLOTS), "something has attributes"),
    "slots of a type": (raw(named("collections", "deque"), SLOTS), "cannot be read"),
    "a far memo": (raw(b"Nr\xf0\xff\xff\x7f"), ""),
    "nested lists": (raw(b"]" * 100_000 + b"a" * 99_999, b"}\x86"), "something else than the state"),
    "nested attributes": (raw(b"}\x8c\x01t", TASK, b")\x81}\x8c\x01x", b"]" * 9_999, b"a" * 9_998, b"sbs}\x86"), "without end"),
    "nothing": (b"", "too early"),
    "a text": (b"[luigi]\nstate = none\n", "refused"),
    "a number": (pickle.dumps(1), "something else than the state"),
    "one part": (pickle.dumps(({},)), "something else than the state"),
    "four parts": (pickle.dumps(({}, {}, {}, {})), "something else than the state"),
    "lists": (pickle.dumps(([], [])), "something else than the state"),
    "a task that is none": (pickle.dumps(({"t": {}}, {})), "something else than a task"),
    "a worker that is none": (pickle.dumps(({}, {1: 2})), "something else than a worker"),
    "batchers that are none": (pickle.dumps(({}, {}, {"w": 1})), "something else than batchers"),
    "a batcher that is none": (pickle.dumps(({}, {}, {"w": {"F": ()}})), "four parts"),
    "a batcher of numbers": (pickle.dumps(({}, {}, {"w": {"F": ([1], 2)}})), "batcher's parameters"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_what_stock_does_not_write_is_refused(name: str, tmp_path: Path) -> None:
    content, sentence = CRAFTED[name]
    (tmp_path / "state.pickle").write_bytes(content)
    assert sentence in refused(tmp_path / "state.pickle", tmp_path)


def bomb(levels: int, kind: Callable[[list[Any]], Any]) -> Any:
    value: Any = kind(["x"])
    for _ in range(levels):
        value = kind([value] * 10)
    return value


def test_a_small_pickle_of_an_endless_value(tmp_path: Path) -> None:
    scheduler = a_state()
    scheduler._state.get_task("t1").expl = bomb(30, list)
    assert "far too many" in refused(saved(tmp_path / "state.pickle", scheduler), tmp_path)


@pytest.mark.parametrize("where", ["expl", "a key", "a number"])
def test_a_long_value_that_many_tasks_share(tmp_path: Path, where: str) -> None:
    """A pickle of a MB or two, which would be gigabytes for whoever reads what is printed of it."""
    scheduler = a_state(6000)
    text, numbers = "x" * 1_000_000, [[10**4000]] * 10_000
    for task in scheduler._state._tasks.values():
        task.expl = {"expl": text, "a key": {text: None}, "a number": numbers}[where]
    file = saved(tmp_path / "state.pickle", scheduler)
    assert file.stat().st_size < 3_000_000
    tracemalloc.start()
    assert "far too long" in refused(file, tmp_path)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert held < 100_000_000


def a_set_of_an_endless_tuple() -> bytes:
    """To put it into a set, its hash is needed, which follows every path: 10**30 of them."""
    levels = b"K\x01\x85\x94"  # a tuple of 1, remembered
    for number in range(30):
        levels += b"(" + bytes([ord("h"), number]) * 10 + b"t\x94"
    return raw(b"\x8f(", levels, b"\x90")


def test_what_takes_for_ever_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "state.pickle").write_bytes(a_set_of_an_endless_tuple())
    monkeypatch.setattr(pickled, "WAIT_SECONDS", 1)
    assert "took more than 1 s" in refused(tmp_path / "state.pickle", tmp_path)


def test_processor_time_is_bounded_too(tmp_path: Path) -> None:
    program = Path(unpickling.__file__).read_text().replace("BASE_SECONDS = 20", "BASE_SECONDS = 1")
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "state.pickle").write_bytes(a_set_of_an_endless_tuple())
    run = [sys.executable, "-I", "-S", str(tmp_path / "program.py"), str(tmp_path / "state.pickle")]
    assert subprocess.run(run, timeout=30).returncode == -signal.SIGXCPU


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A pickle of 1 KiB that asks for a GiB."""
    file = tmp_path / "state.pickle"
    file.write_bytes(raw(b"\x8e" + BASE_BYTES.to_bytes(8, "little")))
    assert "memory" in refused(file, tmp_path)


def test_a_pickle_that_ends_too_early(tmp_path: Path, rng: random.Random) -> None:
    whole = PICKLES[-1].read_bytes()
    for length in [1, 2, 10, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(6))]:
        (tmp_path / "state.pickle").write_bytes(whole[:length])
        refused(tmp_path / "state.pickle", tmp_path)


def test_a_pickle_with_damaged_bytes_is_refused_or_whole(tmp_path: Path, rng: random.Random) -> None:
    """Some damage changes a name or a number: what then is imported is a state that workers could have made."""
    whole = PICKLES[0].read_bytes()
    for _ in range(15):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        (tmp_path / "state.pickle").write_bytes(damaged)
        store = tmp_path / "a.db"
        ran = imported(tmp_path / "state.pickle", f"sqlite:///{store}")
        assert ran.code in (0, 1), (ran, damaged)
        if ran.code == 0:
            assert verify.verify(f"sqlite:///{store}", "default").clean
            store.unlink()


VALUES: dict[str, tuple[Callable[[Any, Any], object], str]] = {
    "status": (lambda task, worker: setattr(task, "status", "SLEEPING"), "status must be one of"),
    "amount": (lambda task, worker: setattr(task, "resources", {"r": -1}), 'resources["r"] must not be negative'),
    "endless": (lambda task, worker: setattr(task, "resources_running", {"r": float("inf")}), "must be finite"),
    "priority": (lambda task, worker: setattr(task, "priority", float("nan")), "priority must not be NaN"),
    "time": (lambda task, worker: setattr(task, "time", "now"), "time must be a number"),
    "dependencies": (lambda task, worker: setattr(task, "deps", {1}), "deps[0] must be a string"),
    "bytes": (lambda task, worker: setattr(task, "expl", b"x"), "a bytes where a plain value belongs"),
    "object": (lambda task, worker: setattr(task, "expl", task), "a Task where a plain value belongs"),
    "key": (lambda task, worker: setattr(task, "params", {1: 2}), "a key is no text"),
    "policy": (lambda task, worker: setattr(task, "retry_policy", (1, 2)), "other fields"),
    "failures": (lambda task, worker: setattr(task, "failures", deque(["x"])), "failures[0] must be a number"),
    "stakeholder": (lambda task, worker: setattr(task, "stakeholders", {1}), "stakeholders[0] must be a string"),
    "none": (lambda task, worker: delattr(task, "time"), "lacks its status or the time"),
    "info": (lambda task, worker: worker.info.update(name="x"), "must not hold"),
    "message": (lambda task, worker: worker.rpc_messages.append({"name": 1, "kwargs": {}}), "message's name must be a string"),
    "activity": (lambda task, worker: setattr(worker, "last_active", None), "last_active must be a number"),
    "started": (lambda task, worker: delattr(worker, "started"), "lacks the times"),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_that_no_worker_could_have_sent(name: str, tmp_path: Path) -> None:
    spoil, sentence = VALUES[name]
    scheduler = a_state()
    spoil(scheduler._state.get_task("t1"), scheduler._state.get_worker("w"))
    assert sentence in refused(saved(tmp_path / "state.pickle", scheduler), tmp_path)


def test_attributes_that_nobody_knows_are_left_out_and_told_of(tmp_path: Path) -> None:
    scheduler = a_state()
    scheduler._state.get_task("t1").mood = "good"
    file = saved(tmp_path / "state.pickle", scheduler)
    assert command("import-pickle", "--dry-run", "--json", str(file)).json["ignored"] == ["mood"]
    assert re.search("left out +mood$", command("import-pickle", "--dry-run", str(file)).out, re.MULTILINE)


def test_who_is_not_there_wants_nothing(tmp_path: Path, sqlite_url: str) -> None:
    scheduler = a_state()
    scheduler._state.get_task("t1").stakeholders.add("ghost")
    scheduler._state.get_task("t1").workers.add("ghost")
    assert imported(saved(tmp_path / "state.pickle", scheduler), sqlite_url).code == 0
    assert {row["worker_id"] for table in ("stakeholders", "runners") for row in exported(sqlite_url, table)} == {"w"}


def test_files_that_are_none(tmp_path: Path) -> None:
    missing = imported(tmp_path / "missing", "sqlite:///x.db")
    assert (missing.code, missing.err) == (3, f"There is no file {tmp_path}/missing.\n")
    os.mkfifo(tmp_path / "pipe")
    irregular = [tmp_path, tmp_path / "pipe"]
    if os.path.exists("/dev/zero"):
        irregular.append(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listener, suppress(OSError):  # a path too long for a socket
        listener.bind(str(tmp_path / "s"))
        irregular.append(tmp_path / "s")
    for file in irregular:
        ran = imported(file, "sqlite:///x.db")
        assert (ran.code, ran.err) == (2, f"Cannot read {file}: it is no regular file.\n")
    below = imported(PICKLES[0] / "x", "sqlite:///x.db")
    assert (below.code, below.err) == (2, f"Cannot read {PICKLES[0]}/x: Not a directory.\n")
    memory = imported(PICKLES[0], "memory://")
    assert (memory.code, "gone with its process" in memory.err) == (2, True)


def test_the_reading_process_needs_nothing_but_python() -> None:
    """And so nothing of Luigi's, of ours or of others' can be reached from it."""
    tree = ast.parse(Path(unpickling.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)
