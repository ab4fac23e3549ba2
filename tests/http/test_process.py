"""The server as a process: its start-up line, its signals, its exit codes, the background."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from serving import PATIENCE, Answer, Client, Process, await_taken, environment, in_query, read

from luigi_spanner._version import __version__

pytestmark = pytest.mark.slow

LOCAL = ("--address", "127.0.0.1", "--port", "0")


def finished(*arguments: str, directory: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """`luigi-spanner` with these arguments, run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "luigi_spanner", *arguments],
        cwd=directory,
        env=environment(HOME=str(directory), **extra),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_the_start_up_line(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db", "--namespace", "blue")
    line = process.line("serves namespace blue")
    assert __version__ in line.string
    assert f"of sqlite:///{tmp_path}/a.db on" in line.string, "where the file is, wherever this is read"
    assert "http://127.0.0.1:" in line.string
    assert "nothing authenticates" not in process.output


def test_the_default_store_is_in_the_state_directory(serve: Callable[..., Process], tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = serve(XDG_STATE_HOME=str(state))
    process.line(f"of sqlite:///{state}/luigi-spanner/luigi.db on")
    assert stat.S_IMODE((state / "luigi-spanner").stat().st_mode) == 0o700


def test_a_warning_where_others_can_reach_it(serve: Callable[..., Process]) -> None:
    serve("--store", "memory://", listen=("--port", "0")).line("WARNING: .*nothing authenticates")


def test_a_state_path_is_accepted_and_not_used(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db", "--state-path", "old.pickle")
    process.line(f"old.pickle is not used: the state lives in sqlite:///{tmp_path}/a.db")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    assert not (tmp_path / "old.pickle").exists()


def test_luigi_s_own_state_path_is_told_of(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[scheduler]\nstate_path = old.pickle\n")
    process = serve("--store", "sqlite:///a.db")
    process.line(f"old.pickle is not used: the state lives in sqlite:///{tmp_path}/a.db")


def test_a_port_that_kubernetes_set(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[luigi_spanner]\nport = 0\n")
    process = serve("--store", "memory://", listen=("--address", "127.0.0.1"), LUIGI_SPANNER_PORT="tcp://10.96.0.7:8082")
    assert process.client().get("/healthz").status == 200


def break_journal(path: Path) -> None:
    """Append an entry that does not fit: every replica that reads it must stop serving."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as database:
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM journal ORDER BY seq DESC LIMIT 1").fetchone())
        row.update(seq=row["seq"] + 1, commit_id="broken", digest="0" * 32)
        columns, places = ", ".join(row), ", ".join("?" * len(row))
        database.execute(f"INSERT INTO journal ({columns}) VALUES ({places})", tuple(row.values()))


def test_a_replica_that_can_serve_no_more_ends(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db")
    process.client().call("add_task", worker="w", task_id="A", family="F")
    break_journal(tmp_path / "a.db")
    process.line("CRITICAL: This replica can serve no more: .*digest")
    process.line("has stopped")
    assert process.exit_code() == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux to wait for a process in the background")
def test_a_replica_in_the_background_that_can_serve_no_more_ends(tmp_path: Path, background: list[str]) -> None:
    adopt = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1)\n"  # PR_SET_CHILD_SUBREAPER: orphans become this process's children
        "subprocess.run([sys.executable, '-m', 'luigi_spanner', *sys.argv[1:]], check=True)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"  # the one in between, which ends at once
        "print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    command = [sys.executable, "-c", adopt, "serve", *background]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(HOME=str(tmp_path)), stdout=subprocess.PIPE, text=True
    ) as adopting:
        try:
            awaited(tmp_path / "logs/luigi-server.log", "serves namespace")
            break_journal(tmp_path / "a.db")
            assert adopting.communicate(timeout=PATIENCE)[0].split() == ["0", "1"]
        finally:
            adopting.kill()
    awaited(tmp_path / "logs/luigi-server.log", "This replica can serve no more")


def hung_up(port: int, task_id: str, *, reset: bool) -> None:
    """Send a whole call and go, with a FIN or a RST."""
    body = urlencode({"data": json.dumps({"worker": "w", "task_id": task_id, "family": "F"})}).encode()
    head = f"POST /api/add_task HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode() + body)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("reset", [False, True])
def test_calls_whose_callers_went_while_the_process_stood_still_do_not_run(serve: Callable[..., Process], reset: bool) -> None:
    """Their retries have been answered elsewhere: a call that lands so late may undo what came after it (I13)."""
    process = serve("--store", "memory://")
    client = process.client()
    client.call("add_task", worker="w", task_id="before", family="F")
    process.signal(signal.SIGSTOP)
    try:
        for number in range(3):
            hung_up(client.port, f"late{number}", reset=reset)
    finally:
        process.signal(signal.SIGCONT)
    assert list(client.tasks()) == ["before"]


def test_an_upload_that_stalls_does_not_delay_the_end(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://", "--hold", "60")
    client = process.client()
    stalled = client.connect()
    stalled.putrequest("POST", "/api/ping")
    stalled.putheader("Content-Type", "application/x-www-form-urlencoded")
    stalled.putheader("Content-Length", "100")
    stalled.endheaders(b"data=")
    await_taken(stalled)
    assert client.get("/healthz").status == 200  # and with that the upload has begun
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0  # well before the 62 s for which an accepted call may be waited for
    stalled.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signals_end_it_in_good_order(serve: Callable[..., Process], number: signal.Signals) -> None:
    process = serve("--store", "memory://")
    process.client()
    process.signal(number)
    assert process.exit_code() == 0
    assert "Traceback" not in process.output


def test_idle_connections_do_not_keep_it(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://")
    connection = process.client().connect()
    connection.request("GET", "/healthz")
    assert read(connection).status == 200
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    connection.close()


def test_what_it_acknowledged_is_there_after_kill_9(serve: Callable[..., Process]) -> None:
    process = serve("--store", "sqlite:///a.db")
    assert process.client().call("add_task", worker="w", task_id="A", family="F").value is None
    process.signal(signal.SIGKILL)
    process.exit_code()
    assert list(serve("--store", "sqlite:///a.db").client().tasks()) == ["A"]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux to see what a socket has queued")
def test_calls_in_flight_are_answered_before_it_ends(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db")
    client = process.client()
    client.call("add_task", worker="w", task_id="A", family="F")
    caller, idle = client.connect(), client.connect()
    assert over(idle, "/healthz").status == 200
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN IMMEDIATE")
        caller.request("GET", in_query("add_task", worker="w", task_id="B", family="F"))
        await_taken(caller)
        assert over(idle, "/healthz").status == 200  # and with that the call has begun
        process.signal(signal.SIGTERM)
        process.line("stops")
        late = over(idle, in_query("ping", worker="w"))
        assert (late.status, late.headers["Connection"], late.headers["Retry-After"]) == (503, "close", "1")
        blocker.execute("ROLLBACK")
    assert read(caller).status == 200
    assert process.exit_code() == 0
    caller.close()
    idle.close()
    assert set(serve("--store", "sqlite:///a.db").client().tasks()) == {"A", "B"}


def over(connection: http.client.HTTPConnection, path: str) -> Answer:
    connection.request("GET", path)
    return read(connection)


def test_a_taken_port(serve: Callable[..., Process], tmp_path: Path) -> None:
    port = serve("--store", "memory://").client().port
    done = finished("serve", "--address", "127.0.0.1", "--port", str(port), "--store", "sqlite:///b.db", directory=tmp_path)
    assert done.returncode == 2
    assert f"Cannot listen on 127.0.0.1, port {port}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "b.db").exists()


@pytest.mark.parametrize(
    ("arguments", "extra", "sentence"),
    [
        (["--port", "many"], {}, "--port is 'many', which is not a whole number."),
        (["--port", "70000"], {}, "--port is '70000', which is not between 0 and 65535."),
        (["--store", "oracle://x"], {}, "A store URL begins with"),
        (["--store", "sqlite:////nowhere/at/all/a.db"], {}, ""),
        (["--namespace", "a b"], {}, "A namespace is"),
        (["--address", "no.such.host.invalid"], {}, "Cannot listen on no.such.host.invalid"),
        ([], {"LUIGI_SPANNER_HOLD": "long"}, "LUIGI_SPANNER_HOLD is 'long', which is not a number of seconds."),
        (["--rules-mismatch", "shrug"], {}, "--rules-mismatch is 'shrug', which is none of refuse, warn."),
    ],
)
def test_what_cannot_work_ends_with_one_sentence(
    tmp_path: Path, arguments: list[str], extra: dict[str, str], sentence: str
) -> None:
    listen = [] if "--address" in arguments or "--port" in arguments else list(LOCAL)
    done = finished("serve", *listen, *arguments, directory=tmp_path, **extra)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(sentence)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("luigi.cfg", "[scheduler]\nretry_delay = soon\n", "Section [scheduler] of Luigi's configuration:"),
        ("luigi.cfg", "[resources]\ngpu = many\n", "Section [resources] of Luigi's configuration:"),
        ("luigi.cfg", "[cors]\nenabled = perhaps\n", "Section [cors] of Luigi's configuration:"),
        ("luigi.cfg", "[luigi_spanner]\nhold = long\n", "hold in [luigi_spanner] is 'long'"),
        ("luigi.cfg", "[luigi_spanner]\nstore = ${NO_SUCH_VARIABLE}\n", "store in [luigi_spanner] cannot be read:"),
        ("luigi.cfg", "no section\n", "Luigi's configuration cannot be read:"),
        ("luigi.cfg", "[core]\nlogging_conf_file = absent.conf\n", "Logging cannot be set up:"),
    ],
)
def test_a_configuration_that_cannot_work(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    done = finished("serve", *LOCAL, directory=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(sentence)


def test_a_flag_beats_the_environment_beats_the_file(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[luigi_spanner]\nnamespace = file\nstore = sqlite:///file.db\nport = 1\n")
    process = serve("--namespace", "flag", LUIGI_SPANNER_NAMESPACE="variable", LUIGI_SPANNER_STORE="sqlite:///variable.db")
    process.line(f"serves namespace flag of sqlite:///{tmp_path}/variable.db on")


def test_replicas_with_other_rules(serve: Callable[..., Process], tmp_path: Path) -> None:
    serve("--store", "sqlite:///a.db").client()
    (tmp_path / "luigi.cfg").write_text("[resources]\ngpu = 3\n")
    refused = finished("serve", *LOCAL, "--store", "sqlite:///a.db", directory=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "rules" in refused.stderr.splitlines()[-1]
    serve("--store", "sqlite:///a.db", "--rules-mismatch", "warn").client()


def test_luigi_s_sections_count(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text(
        "[resources]\ngpu = 3\n\n[scheduler]\npause_enabled = false\nmetrics_collector = prometheus\n"
    )
    client = serve("--store", "memory://").client()
    assert client.call("is_pause_enabled").value == {"enabled": False}
    assert [(limit["name"], limit["num_total"]) for limit in client.call("resource_list").value] == [("gpu", 3)]
    client.call("add_task", worker="w", task_id="A", family="F", runnable=True)
    assert client.call("get_work", worker="w").value["task_id"] == "A"
    metrics = client.get("/metrics")
    assert b'luigi_task_started_total{family="F"} 1.0' in metrics.body
    assert metrics.headers["Content-Type"].startswith("text/plain")


def test_a_logging_configuration_does_not_silence_us(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[core]\nlogging_conf_file = logging.conf\n")
    (tmp_path / "logging.conf").write_text(
        "[loggers]\nkeys = root\n[handlers]\nkeys = err\n[formatters]\nkeys =\n"
        "[logger_root]\nlevel = INFO\nhandlers = err\n[handler_err]\nclass = StreamHandler\nargs = ()\n"
    )
    serve("--store", "memory://").line("serves namespace default")


def test_logdir_in_the_foreground(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "memory://", "--logdir", "logs/deep")
    assert "serves namespace" in awaited(tmp_path / "logs/deep/luigi-server.log", "serves namespace")
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0


def test_a_unix_socket(serve: Callable[..., Process], tmp_path: Path) -> None:
    serve("--store", "memory://", "--unix-socket", "s.sock", listen=()).line("on unix socket s.sock")
    path = tmp_path / "s.sock"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert json.loads(over_unix(path, "GET", in_query("ping", worker="w"))) == {"response": {"rpc_messages": []}}


def over_unix(path: Path, verb: str, target: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(f"{verb} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    return reply.partition(b"\r\n\r\n")[2]


def test_a_unix_socket_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = finished("serve", "--store", "memory://", "--unix-socket", "precious", directory=tmp_path)
    assert done.returncode == 2
    assert "Cannot listen on precious" in done.stderr
    assert (tmp_path / "precious").read_text() == "x"


@pytest.fixture
def background(tmp_path: Path) -> Iterator[list[str]]:
    """Arguments of a server in the background, which is ended with the test."""
    pidfile = tmp_path / "run/deep/luigid.pid"
    yield ["--background", "--pidfile", str(pidfile), "--logdir", str(tmp_path / "logs"), "--store", "sqlite:///a.db", *LOCAL]
    if pidfile.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pidfile.read_text()), signal.SIGKILL)


def test_the_background(tmp_path: Path, background: list[str]) -> None:
    log = tmp_path / "logs/luigi-server.log"
    first = finished("serve", *background, directory=tmp_path)
    assert first.returncode == 0, first.stderr
    port = int(awaited(log, "serves namespace").rpartition(":")[2].partition("/")[0])
    client = Client(port=port)
    assert client.call("add_task", worker="w", task_id="A", family="F").value is None
    pid = int((tmp_path / "run/deep/luigid.pid").read_text())

    second = finished("serve", *background, directory=tmp_path)
    assert second.returncode == 0
    assert f"already running as process {pid}" in second.stderr

    for path in (log, tmp_path / "run/deep/luigid.pid", tmp_path / "a.db"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0, path

    os.kill(pid, signal.SIGTERM)
    awaited(log, "has stopped")
    assert "Traceback" not in log.read_text()


def test_a_stale_pid_file_stops_nobody(tmp_path: Path, background: list[str]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(PATIENCE)
    pidfile = tmp_path / "run/deep/luigid.pid"
    pidfile.parent.mkdir(parents=True)
    pidfile.write_text(str(ended.pid))
    assert finished("serve", *background, directory=tmp_path).returncode == 0
    awaited(tmp_path / "logs/luigi-server.log", "serves namespace")
    assert int(pidfile.read_text()) != ended.pid


def test_the_background_says_in_its_log_what_is_wrong(tmp_path: Path, background: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert finished("serve", *background[:-1], port, directory=tmp_path).returncode == 0
        line = awaited(tmp_path / "logs/luigi-server.log", "Cannot listen")
    assert port in line


def awaited(path: Path, text: str, times: int = 1) -> str:
    """The last line of the file that holds the text, once as many lines do."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = [line for line in path.read_text().splitlines() if text in line] if path.exists() else []
        if len(lines) >= times:
            return lines[-1]
        time.sleep(0.02)
    raise AssertionError(path.read_text() if path.exists() else f"no {path}")


def test_version(tmp_path: Path) -> None:
    done = finished("--version", directory=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith(f"luigi-spanner {__version__} (luigi ")


def test_no_command(tmp_path: Path) -> None:
    done = finished(directory=tmp_path)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_the_schema_s_commands(tmp_path: Path) -> None:
    store = ("--store", "sqlite:///a.db")
    assert finished("db", "current", *store, directory=tmp_path).stdout == "no schema\n"
    upgraded = finished("db", "upgrade", *store, directory=tmp_path)
    assert (upgraded.returncode, upgraded.stderr) == (0, "")
    revision = upgraded.stdout.strip()
    assert finished("db", "current", *store, directory=tmp_path).stdout.strip() == revision
    assert finished("db", "check", *store, directory=tmp_path).returncode == 0
    down = finished("db", "downgrade", *store, "base", directory=tmp_path)
    assert (down.returncode, down.stdout) == (0, "no schema\n")
    refused = finished("db", "check", *store, directory=tmp_path)
    assert refused.returncode == 2
    assert "luigi-spanner db upgrade" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_verify(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "sqlite:///a.db")
    process.client().call("add_task", worker="w", task_id="A", family="F", deps=["B"])
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    clean = finished("verify", "--store", "sqlite:///a.db", directory=tmp_path)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "a.db")) as database:
        database.execute("DELETE FROM tasks WHERE task_id = 'A'")
        database.commit()
    broken = finished("verify", "--store", "sqlite:///a.db", directory=tmp_path)
    assert broken.returncode == 1
    assert "A" in broken.stdout


def test_verify_creates_nothing(tmp_path: Path) -> None:
    absent = finished("verify", "--store", "sqlite:///absent.db", directory=tmp_path)
    assert absent.returncode == 2 and absent.stderr.startswith(f"There is no SQLite file {tmp_path}/absent.db: correct --store")
    default = finished("verify", directory=tmp_path)
    assert default.returncode == 2 and default.stderr.startswith("There is no SQLite file ")
    assert list(tmp_path.iterdir()) == []


def test_verify_upgrades_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    done = finished("verify", "--store", "sqlite:///a.db", directory=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "luigi-spanner db upgrade" in done.stderr
    assert finished("db", "current", "--store", "sqlite:///a.db", directory=tmp_path).stdout == "no schema\n"


def test_the_schema_s_commands_read_no_options_of_the_server(tmp_path: Path) -> None:
    done = finished("db", "upgrade", "--store", "sqlite:///a.db", directory=tmp_path, LUIGI_SPANNER_HOLD="long")
    assert (done.returncode, done.stderr) == (0, "")
