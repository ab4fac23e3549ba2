"""The commands about a live deployment, on two real replicas of one file: what one changes the other shows."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from deployment import Ran, command
from luigi.configuration import LuigiConfigParser
from serving import Client, Process, environment

from luigi_spanner import verify
from luigi_spanner.cli import main
from luigi_spanner.commands.parsing import url_of

pytestmark = pytest.mark.slow

NUMBERS = itertools.count()

Ask = Callable[..., Ran]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("deployment")
    (directory / "luigi.cfg").write_text("[resources]\ndatabase = 2\n")
    return directory


@pytest.fixture(scope="module")
def replicas(directory: Path) -> Iterator[list[Client]]:
    """Two replicas, the second with a unix socket instead of a port."""
    with ExitStack() as stack:
        store = ("--store", "sqlite:///a.db", "--address", "127.0.0.1", "--port", "0")
        yield [stack.enter_context(Process("serve", *store, directory=directory)).client() for _ in range(2)]


@pytest.fixture
def ask(replicas: list[Client]) -> Ask:
    """Runs a command; each asks another replica than the one before."""
    urls = itertools.cycle([client.url for client in replicas])
    return lambda *arguments: command(*arguments, "--url", next(urls))


@pytest.fixture
def task(replicas: list[Client]) -> str:
    """A pending task of a worker of its own."""
    name = f"T{next(NUMBERS)}"
    replicas[0].call("add_task", worker=f"worker of {name}", task_id=name, family="F", params={"day": "1"}).value  # noqa: B018
    return name


def take(client: Client, task: str) -> None:
    assert client.call("get_work", worker=f"worker of {task}", host="h").value["task_id"] == task


def status(ask: Ask, task: str) -> str:
    return str(ask("task", "show", task, "--json").json["status"])


def test_status(ask: Ask, replicas: list[Client], task: str) -> None:
    shown = ask("status", "--json").json
    assert (shown["ready"], shown["reasons"], shown["namespace"], shown["paused"]) == (True, [], "default", False)
    assert len(shown["replicas"]) == 2
    assert shown["replica"] in {row["replica"] for row in shown["replicas"]}
    assert shown["tasks"]["PENDING"] >= 1
    assert shown["head"] >= shown["watermark"]
    people = ask("status")
    assert people.code == 0
    for text in ("namespace", "journal", "PENDING", "active", "last said so", shown["replica"]):
        assert text in people.out


def test_a_replica_that_is_not_ready() -> None:
    with serving_raw(b'{"ready": false, "reasons": ["the store does not answer"]}', "503 Service Unavailable") as url:
        people = command("status", "--url", url)
        assert people.code == 1
        assert "no: the store does not answer" in people.out
        assert command("status", "--url", url, "--json").json == {
            "url": url,
            "ready": False,
            "reasons": ["the store does not answer"],
        }


def test_tasks(ask: Ask, replicas: list[Client]) -> None:
    for number in range(5):
        params = {"number": str(number), "word": "[red]bold\x1b[2J"}
        replicas[0].call("add_task", worker="lister", task_id=f"L{number}\x1b[31m", family="Listed", params=params)
    listed = ask("tasks", "--family", "Listed", "--limit", "3", "--json").json
    assert [task["params"]["number"] for task in listed["tasks"]] == ["0", "1", "2"]
    rest = ask("tasks", "--family", "Listed", "--after", str(listed["next"]), "--json").json
    assert [task["params"]["number"] for task in rest["tasks"]] == ["3", "4"]
    assert rest["next"] is None
    people = ask("tasks", "--family", "Listed", "--limit", "3")
    assert f"--after {listed['next']}" in people.out
    assert "L0\\x1b[31m" in people.out
    assert "\x1b" not in people.out
    assert len(ask("tasks", "--search", "listed number=4", "--json").json["tasks"]) == 1
    assert ask("tasks", "--worker", "lister", "--status", "pending", "--json").json["tasks"][4]["status"] == "PENDING"
    assert ask("tasks", "--status", "batch_running").out == "0 tasks\n"


@pytest.mark.parametrize(
    "arguments", [("--limit", "0"), ("--limit", "x"), ("--status", "NEW"), ("--after", "first"), ("--json", "what")]
)
def test_tasks_as_they_cannot_be_asked_for(ask: Ask, arguments: tuple[str, ...]) -> None:
    assert ask("tasks", *arguments).code == 2


def test_show(ask: Ask, replicas: list[Client], task: str) -> None:
    error = json.dumps("Traceback\nZeroDivisionError")
    replicas[0].call("add_task", worker=f"worker of {task}", task_id=task, status="FAILED", expl=error, deps=["below"])
    people = ask("task", "show", task)
    assert people.code == 0
    for text in (task, "FAILED", "F(day=1)", "below", "UNKNOWN", "Traceback\nZeroDivisionError", "in 14 min 5"):
        assert text in people.out


def test_no_id_adds_a_line(ask: Ask, replicas: list[Client]) -> None:
    forged = "here\nstatus  DONE\u2028runs on  nobody\r"
    error = "one\ntwo\x1b[2J"
    replicas[0].call(
        "add_task", worker="w\nw", task_id=forged, family="Forged\nF", deps=[f"{forged}below"], status="FAILED", expl=error
    )
    replicas[0].call("set_task_status_message", task_id=forged, status_message="half\nstatus  DONE")
    for name in (("tasks",), ("task", "show", forged), ("why", forged), ("task", "retry", forged), ("workers",)):
        ran = ask(*name)
        assert not [line for line in ran.out.splitlines() if line.startswith(("status  DONE", "runs on  nobody"))], ran
        assert "here\\nstatus" in ran.out or name == ("workers",), ran
    replicas[0].call("add_task", worker="w", task_id=forged, status="FAILED", expl=error)
    assert ask("task", "show", forged).out.endswith("\n\nerror:\none\ntwo\\x1b[2J\n")


def test_a_bug_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by\nnought")

    monkeypatch.setattr("luigi_spanner.commands.parsing.replica", fail)
    monkeypatch.setattr("luigi_spanner.commands.tasks.replica", fail)
    quiet = command("tasks")
    assert (quiet.code, len(quiet.err.splitlines()), "ZeroDivisionError" in quiet.err) == (5, 1, True)
    monkeypatch.setenv("LUIGI_SPANNER_TRACEBACK", "1")
    told = command("tasks")
    assert (told.code, told.err.startswith("Traceback"), told.err.endswith(quiet.err)) == (5, True, True)


ACTS = [("fail",), ("retry",), ("forgive",), ("done",), ("cancel",), ("cancel", "--force"), ("show",)]


@pytest.mark.parametrize("act", ACTS, ids=" ".join)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_task_that_is_not_there(ask: Ask, act: tuple[str, ...], form: tuple[str, ...]) -> None:
    before = ask("status", "--json").json
    ran = ask("task", act[0], "nobody's", *act[1:], *form)
    assert (ran.code, ran.out) == (3, "")
    assert ran.err == 'There is no task "nobody\'s"; `luigi-spanner tasks --search WORDS` looks for one.\n'
    assert ask("status", "--json").json["tasks"] == before["tasks"]


def test_fail_and_forgive(ask: Ask, replicas: list[Client], task: str) -> None:
    take(replicas[1], task)
    failed = ask("task", "fail", task, "--reason", "stuck")
    assert (failed.code, "RUNNING -> FAILED" in failed.out) == (0, True)
    assert json.loads(ask("task", "show", task, "--json").json["error"]) == "stuck"
    assert ask("task", "forgive", task, "--json").json == {"task_id": task, "before": "FAILED", "status": "PENDING"}
    again = ask("task", "forgive", task)
    assert (again.code, "PENDING and stays so" in again.out) == (1, True)


def test_retry_and_done(ask: Ask, replicas: list[Client], task: str) -> None:
    assert ask("task", "retry", task).code == 1
    ask("task", "fail", task)
    assert "1 worker may run it" in ask("task", "retry", task).out
    assert ask("task", "done", task).code == 1  # Luigi marks only what runs or has failed
    take(replicas[0], task)
    assert ask("task", "done", task, "--json").json == {"task_id": task, "before": "RUNNING", "status": "DONE"}
    assert ask("task", "cancel", task).code == 1


def test_cancel_and_come_back(ask: Ask, replicas: list[Client], task: str) -> None:
    assert ask("task", "cancel", task).code == 0
    assert replicas[0].call("get_work", worker=f"worker of {task}", host="h").value["task_id"] is None
    assert ask("task", "forgive", task, "--json").json["status"] == "FAILED"
    assert ask("task", "retry", task).code == 0
    take(replicas[1], task)
    stuck = ask("task", "cancel", task)
    assert (stuck.code, "no message that ends a task" in stuck.out) == (1, True)
    assert status(ask, task) == "RUNNING"
    forced = ask("task", "cancel", task, "--force")
    assert (forced.code, "runs on" in forced.out) == (0, True)
    assert status(ask, task) == "DISABLED"


def test_a_task_that_a_worker_disabled_is_not_forgiven(ask: Ask, replicas: list[Client], task: str) -> None:
    replicas[0].call("add_task", worker=f"worker of {task}", task_id=task, status="DISABLED")
    ran = ask("task", "forgive", task)
    assert (ran.code, "use retry" in ran.out) == (1, True)
    assert ask("task", "retry", task).code == 0


def test_cancel_tells_a_task_that_takes_messages(ask: Ask, replicas: list[Client], task: str) -> None:
    replicas[0].call("add_task", worker=f"worker of {task}", task_id=task, accepts_messages=True)
    take(replicas[0], task)
    told = ask("task", "cancel", task)
    assert (told.code, "is told to end" in told.out) == (0, True)
    (message,) = replicas[1].call("ping", worker=f"worker of {task}").value["rpc_messages"]
    assert message["kwargs"]["content"] == "cancel"


def test_workers(ask: Ask, replicas: list[Client], task: str) -> None:
    worker = f"worker of {task}"
    take(replicas[0], task)
    (shown,) = [row for row in ask("workers", "--json").json["workers"] if row["name"] == worker]
    assert (shown["state"], shown["running"], shown["num_running"]) == ("active", [task], 1)
    assert worker in ask("workers").out
    assert ask("worker", "disable", worker).code == 0
    assert "1 task that it ran failed" in ask("worker", "evict", worker).out
    assert status(ask, task) == "FAILED"
    for act in ("evict", "disable"):
        gone = ask("worker", act, worker)
        assert (gone.code, gone.out) == (3, "")
        assert worker in gone.err
    assert worker not in ask("workers").out


def test_resources(ask: Ask) -> None:
    (configured,) = [row for row in ask("resource", "list", "--json").json["resources"] if row["resource"] == "database"]
    assert (configured["total"], configured["origin"]) == (2, "config")
    assert ask("resource", "set", "database", "5").code == 0
    assert ask("resource", "set", "half", "0.5", "--json").json["total"] == 0.5
    listed = ask("resource", "list").out
    assert "set by a call" in listed and "0.5" in listed
    assert ask("resource", "reset", "database", "--json").json == {"resource": "database", "total": 2, "origin": "config"}
    assert "limit of 1 again" in ask("resource", "reset", "half").out
    unknown = ask("resource", "reset", "half")
    assert (unknown.code, "no resource 'half'" in unknown.err) == (3, True)
    for name in ("method", "arguments", "url"):
        assert ask("resource", "set", name, "1.5", "--json").json["total"] == 1.5
    clash = ask("resource", "set", "self", "1.5")  # Luigi's rule has no way to be given that name
    assert (clash.code, "self" in clash.err) == (2, True)
    for amount in ("-1", "nan", "inf", "x", "9" * 30):
        assert ask("resource", "set", "database", amount).code == 2


def test_pause_and_resume(ask: Ask, replicas: list[Client], task: str) -> None:
    assert ask("pause").code == 0
    assert "paused" in ask("status").out
    assert replicas[1].call("get_work", worker=f"worker of {task}", host="h").value["task_id"] is None
    assert ask("resume", "--json").json == {"paused": False}
    take(replicas[1], task)


def test_why(ask: Ask, replicas: list[Client], task: str) -> None:
    replicas[0].call("add_task", worker=f"worker of {task}", task_id=task, deps=["absent"])
    people = ask("why", task)
    assert people.code == 0
    assert people.out.startswith(f"{task} is PENDING. ")
    assert people.out.count("absent") == 1, "a single reason is told once"
    assert [reason["task_id"] for reason in ask("why", task, "--json").json["reasons"]] == ["absent"]
    stranger = ask("why", task, "--worker", "nobody", "--json").json
    assert "worker_unknown" in {reason["code"] for reason in stranger["reasons"]}
    unknown = ask("why", "nobody's")
    assert (unknown.code, unknown.out) == (3, "")
    assert "nobody's" in unknown.err
    assert unknown.err == ask("task", "show", "nobody's").err, "both say how to look for one"


def test_changes_are_in_the_journal_with_their_request(ask: Ask, directory: Path, task: str) -> None:
    ask("task", "cancel", task)
    ran = command("journal", "tail", "--store", f"sqlite:///{directory}/a.db")
    (call,) = [call for line in ran.out.splitlines() for call in json.loads(line)["calls"] if call["task"] == task][-1:]
    assert (call["method"], call["principal"], len(call["request_id"])) == ("cancel_task", "anonymous", 32)
    assert verify.verify(f"sqlite:///{directory}/a.db", "default").clean


# Replicas that are none


def serving_raw(body: bytes, line: str = "200 OK") -> Any:
    """A server that answers everything so; used as a context manager, which gives its url."""
    listener = socket.create_server(("127.0.0.1", 0))

    class Serving:
        def __enter__(self) -> str:
            self.thread = threading.Thread(target=self.serve)
            self.thread.start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        def serve(self) -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    head = connection.recv(65536)
                    if head.startswith(b"STOP"):
                        return
                    connection.sendall(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

        def __exit__(self, *_: object) -> None:
            with socket.create_connection(listener.getsockname()) as connection:
                connection.sendall(b"STOP")
            self.thread.join()
            listener.close()

    return Serving()


@pytest.mark.parametrize(
    ("body", "line", "code", "sentence"),
    [
        (b"<html>", "200 OK", 2, "is no Luigi Spanner"),
        (b"<html>", "404 Not Found", 2, "is no Luigi Spanner"),
        (b'{"error": {"code": "unknown_method", "message": "m"}}', "404 Not Found", 2, "of an earlier release"),
        (b'{"error": {"code": "bad_request", "message": "limit is odd."}}', "400 Bad Request", 2, "limit is odd."),
        (b'{"error": {"code": "store_down", "message": "the store is away"}}', "503 Service Unavailable", 2, "the store is away"),
        (b'{"response": ', "200 OK", 2, "is no Luigi Spanner"),
    ],
)
def test_what_is_no_answer(body: bytes, line: str, code: int, sentence: str) -> None:
    with serving_raw(body, line) as url:
        ran = command("tasks", "--url", url)
    assert (ran.code, ran.out) == (code, "")
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for arguments in (("status",), ("task", "fail", "a"), ("pause",), ("resource", "list")):
        ran = command(*arguments, "--url", url)
        assert (ran.code, ran.err) == (2, f"Nobody answers at {url}: Connection refused.\n")


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8082", "ftp://host", "http://", "http://host:port", "http+unix://", "http://[::1"),
        *("http://a..b:8082", f"http://{'a' * 64}", "http://a b", "http://a\x7fb", "http://\udcff"),
    ],
)
def test_a_url_that_is_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUIGI_SPANNER_URL", "nothing")
    ran = command("status", "--url", url)
    assert (ran.code, "names no replica" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "url",
    ["http://u:secret@:1", "http://u:secret@", "u:secret@h", "http://u:se/secret@h", "http://u:@secret@:x", "ftp://u:secret@h"],
)
def test_no_password_is_in_the_complaint(url: str) -> None:
    ran = command("status", "--url", url)
    assert (ran.code, "names no replica" in ran.err, "secret" in ran.err) == (2, True, False)


@pytest.mark.parametrize("path", ["\u00fc", "a b", "\udcff", "%20"])
def test_a_path_of_any_script(path: str) -> None:
    with serving_raw(b'{"response": []}') as url:
        assert command("workers", "--url", f"{url}/{path}").out == "0 workers\n"


READS = [
    ("status",),
    ("tasks",),
    ("task", "show", "t"),
    ("workers",),
    ("resource", "list"),
    ("why", "t"),
    ("task", "forgive", "t"),
]
CHANGES = [("task", "fail", "t"), ("task", "cancel", "t"), ("worker", "evict", "w"), ("resource", "set", "r", "1")]


@pytest.mark.parametrize("breaks", [True, False])
def test_only_a_change_may_have_been_made(breaks: bool) -> None:
    """The connection breaks, or the replica says that the outcome is not known."""
    error = b'{"error": {"code": "store_down", "message": "away"}, "ready": true}'
    with serving_raw(error, "" if breaks else "503 Service Unavailable") as url:
        for name in READS:
            ran = command(*name, "--url", url)
            assert (ran.code, "nothing was asked to change" in ran.err, "may have" in ran.err) == (2, True, False), ran
        for name in CHANGES:
            ran = command(*name, "--url", url)
            assert (ran.code, "may have done it or not" in ran.err) == (4, True), ran


# Which replica


def configured(text: str) -> LuigiConfigParser:
    """Luigi's own parser with this luigi.cfg."""
    parser = LuigiConfigParser()
    parser.read_string(text)
    return parser


def test_where_a_command_asks() -> None:
    def asked(text: str, flag: str | None = None, variable: str | None = None) -> str:
        return url_of(flag, variable, lambda: configured(text))

    assert asked("") == "http://localhost:8082"
    stock = "[core]\ndefault_scheduler_host = there\ndefault_scheduler_port = 1\n"
    assert asked(stock) == "http://there:1"
    with pytest.warns(DeprecationWarning, match="with dashes"):
        assert asked("[core]\ndefault-scheduler-url = http://there:2\n") == "http://there:2"
    stock += "default_scheduler_url = http://there:2/luigi\n"
    assert asked(stock) == "http://there:2/luigi"
    assert asked("[core]\nscheduler_url = http://there:6\n") == "http://there:6"
    ours = f"{stock}[luigi_spanner]\nurl = http://there:3\n"
    assert asked(ours) == "http://there:3"
    assert asked(ours, variable="http://there:4") == "http://there:4"
    assert asked(ours, flag="http://there:5", variable="http://there:4") == "http://there:5"


def test_a_broken_configuration_is_told_of_where_it_counts(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[core\n")
    run = [sys.executable, "-m", "luigi_spanner", "pause"]
    for more, sentence in (([], "cannot be read"), (["--url", "http://me:secret@127.0.0.1:1/x"], "at http://127.0.0.1:1/x: ")):
        ran = subprocess.run([*run, *more], cwd=tmp_path, env=environment(HOME=str(tmp_path)), capture_output=True, text=True)
        assert (ran.returncode, sentence in ran.stderr, "secret" in ran.stderr) == (2, True, False)


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Process("serve", "--store", "memory://", "--unix-socket", str(path), directory=tmp_path) as process:
        process.line("serves namespace")
        url = f"http+unix://{str(path).replace('/', '%2F')}"
        assert command("status", "--url", url, "--json").json["ready"]


# Terminals and pipes


def test_a_reader_that_goes_is_no_error(replicas: list[Client], directory: Path) -> None:
    for number in range(2000):
        if number % 500 == 0:
            replicas[0].call("add_task", worker="many", task_id=f"many{number}", deps=[f"dep{number + n}" for n in range(500)])
    run = f"{sys.executable} -m luigi_spanner tasks --limit 5000 --url {replicas[0].url} | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", run], env=environment(), capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr, len(ran.stdout.splitlines())) == (0, "", 1)


def test_a_narrow_terminal_folds_and_an_old_one_gets_ascii(replicas: list[Client], task: str) -> None:
    long = "é" * 60
    replicas[0].call("add_task", worker="w", task_id=long, family="Long")
    url = ("--url", replicas[0].url)
    ran = subprocess.run(
        [sys.executable, "-m", "luigi_spanner", "tasks", "--family", "Long", *url],
        env=environment(PYTHONIOENCODING="ascii", COLUMNS="20"),
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ran.returncode == 0
    assert "\\xe9" * 60 in ran.stdout
    master, slave = os.openpty()
    run = [sys.executable, "-m", "luigi_spanner", "tasks", "--family", "Long", *url]
    ran_there = subprocess.run(
        run, env=environment(COLUMNS="50", TERM="xterm", NO_COLOR="1"), stdout=slave, timeout=20, check=True
    )
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    os.close(master)
    assert ran_there.returncode == 0
    assert max(len(re.sub(r"\x1b\[[0-9]*m", "", line)) for line in shown.decode().splitlines()) <= 50
    assert shown.decode().count("é") == 60


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # Linux's word for the end of a terminal
        return b""


# Help


def parsers(parser: argparse.ArgumentParser, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that can be given."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups and name:
        yield name
    for group in groups:
        for word, sub in group.choices.items():
            yield from parsers(sub, (*name, word))


def every_command() -> list[tuple[str, ...]]:
    found: list[argparse.ArgumentParser] = []
    original = argparse.ArgumentParser.parse_args
    try:
        argparse.ArgumentParser.parse_args = lambda self, *_: found.append(self) or sys.exit(0)  # type: ignore[assignment,func-returns-value,misc]
        with pytest.raises(SystemExit):
            main([])
    finally:
        argparse.ArgumentParser.parse_args = original  # type: ignore[method-assign]
    return list(parsers(found[0]))


@pytest.mark.parametrize("name", [name for name in every_command() if name[0] not in ("serve", "db")], ids=" ".join)
def test_every_command_has_help_with_an_example(name: tuple[str, ...]) -> None:
    ran = command(*name, "--help")
    assert ran.code == 0
    assert f"luigi-spanner {' '.join(name)}" in ran.out.partition("example:\n")[2]
    assert "exit codes:" in ran.out


def test_help_does_not_wait_for_luigi() -> None:
    code = "import sys; from luigi_spanner.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('luigi', 'tornado', 'sqlalchemy', 'google', 'rich', 'http.client') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=20, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
