"""The log of a real process: as stock's where nothing else is asked for, in JSON where it is, and discreet in either."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from serving import PATIENCE, Client, Process, environment

pytestmark = pytest.mark.slow

LOCAL = ("--address", "127.0.0.1", "--port", "0")

STOCKS_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [\w.]+\[\d+\] (DEBUG|INFO|WARNING|ERROR|CRITICAL): .")

FIELDS = {"time", "level", "logger", "message", "request_id", "namespace", "replica", "exception"}
ALWAYS = {"time", "level", "logger", "message", "namespace", "replica"}

SECRET = "pXq7SecretOfTheTask"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, **extra: str) -> Process:
            return stack.enter_context(Process("serve", *LOCAL, *arguments, directory=tmp_path, **extra))

        yield start


def parsed(text: str) -> list[dict[str, Any]]:
    """Each line of a log in JSON."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert ALWAYS <= set(line) <= FIELDS
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    return lines


def ended(process: Process) -> str:
    """The whole output of a process that is asked to end."""
    process.signal(signal.SIGTERM)
    assert process.exit_code() == 0
    return process.output


def test_lines_for_people_are_stocks(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://")
    process.client().raw("ping", "no JSON")
    output = ended(process)
    assert "Call " in output and all(STOCKS_LINE.match(line) for line in output.splitlines()), output


def test_every_line_is_json(serve: Callable[..., Process]) -> None:
    process = serve("--store", "memory://", "--namespace", "blue", "--log-format", "json")
    client = process.client()
    assert client.post("ping", b"data=no JSON", X_Request_Id="id-7").status == 400
    refused = client.raw("ping", "no JSON")
    client.get("/nothing")
    lines = parsed(ended(process))
    (replica,) = {line["replica"] for line in lines}
    assert {line["namespace"] for line in lines} == {"blue"}
    assert any(line["message"].endswith(f"starts as replica {replica}") for line in lines)
    calls = [line for line in lines if "is refused" in line["message"]]
    assert [line["request_id"] for line in calls] == ["id-7", refused.json["error"]["request_id"]]
    assert {(line["logger"], line["level"]) for line in calls} == {("luigi_spanner.server.api", "WARNING")}
    assert not any("request_id" in line for line in lines if line not in calls)


def test_json_in_the_background(tmp_path: Path) -> None:
    log, pidfile = tmp_path / "logs/luigi-server.log", tmp_path / "luigid.pid"
    background = ("--background", "--pidfile", str(pidfile), "--logdir", str(log.parent))
    command = [
        sys.executable,
        "-m",
        "luigi_spanner",
        "serve",
        *LOCAL,
        *background,
        "--store",
        "memory://",
        "--log-format",
        "json",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(HOME=str(tmp_path)), capture_output=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    try:
        awaited(log, "serves namespace")
    finally:
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
    awaited(log, "has stopped")
    lines = parsed(log.read_text())
    # Which Luigi itself logs before the process has a name.
    assert {"Checking pid file", "Writing pid file"} <= {line["message"] for line in lines}


def test_json_in_a_directory(serve: Callable[..., Process], tmp_path: Path) -> None:
    process = serve("--store", "memory://", "--log-format", "json", "--logdir", "logs")
    awaited(tmp_path / "logs/luigi-server.log", "serves namespace")
    assert ended(process) == ""
    assert parsed((tmp_path / "logs/luigi-server.log").read_text())[0]["message"].startswith("logging configured via")


def awaited(path: Path, text: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else f"no {path}"
        time.sleep(0.02)


CONF = """\
[loggers]
keys = root
[handlers]
keys = out
[formatters]
keys = own
[logger_root]
level = {level}
handlers = out
[handler_out]
class = StreamHandler
args = ()
formatter = own
[formatter_own]
{formatter}
"""

OWN = "format = OWN %(levelname)s %(name)s: %(message)s"

TOML = """\
[logging]
version = 1
disable_existing_loggers = false
[logging.formatters.own]
{formatter}
[logging.handlers.out]
class = "logging.StreamHandler"
formatter = "own"
[logging.root]
level = "{level}"
handlers = ["out"]
"""


def configure(directory: Path, what: str) -> dict[str, str]:
    """Write a configuration of Luigi's; what the environment must say for it."""
    if what == "toml":
        (directory / "luigi.toml").write_text(
            TOML.format(level="INFO", formatter='format = "OWN %(levelname)s %(name)s: %(message)s"')
        )
        return {"LUIGI_CONFIG_PARSER": "toml"}
    core = {
        "nothing": "",
        "conf_file": "logging_conf_file = logging.conf",
        "no_configure_logging": "no_configure_logging = true",
        "log_level": "log_level = DEBUG",
    }
    (directory / "luigi.cfg").write_text(f"[core]\n{core[what]}\n")
    (directory / "logging.conf").write_text(CONF.format(level="INFO", formatter=OWN))
    return {}


def told(text: str) -> set[str]:
    """In which way a server's output has the lines that stock and we have in common: Luigi's own."""
    lines = {re.sub(r"^\S+ \S+ ([\w.]+)\[\d+\] ", r"STOCK \1 ", line) for line in text.splitlines()}
    return {line for line in lines if "logging configured" in line or "logging disabled" in line}


def stock(directory: Path, extra: dict[str, str]) -> str:
    """The output of stock luigid until it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from luigi.cmdline import luigid; luigid()", "--address", "127.0.0.1", "--port", str(port)]
    out = directory / "stock.out"
    with out.open("wb") as output:
        running = subprocess.Popen(
            [*command, "--state-path", str(directory / "stock.pickle")],
            cwd=directory,
            env=environment(HOME=str(directory), **extra),
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return out.read_text()
            assert running.poll() is None and time.monotonic() < deadline, out.read_text()
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait(PATIENCE)


@pytest.mark.parametrize("what", ["nothing", "conf_file", "no_configure_logging", "log_level", "toml"])
def test_luigi_s_logging_configuration_means_what_it_does_to_stock(
    serve: Callable[..., Process], tmp_path: Path, what: str
) -> None:
    extra = configure(tmp_path, what)
    process = serve("--store", "sqlite:///a.db", "--unix-socket", "s.sock", **extra)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "s.sock").exists():
        assert time.monotonic() < deadline, process.output
        time.sleep(0.02)
    if what != "no_configure_logging":
        process.line("OWN INFO .*serves namespace" if what in ("conf_file", "toml") else r"\[\d+\] INFO: .*serves namespace")
    ours = ended(process)
    assert told(ours) == told(stock(tmp_path, extra))
    if what == "no_configure_logging":
        assert ours == ""
    if what == "log_level":  # it is the workers'
        assert " DEBUG: " not in ours


def test_a_configuration_of_one_s_own_may_name_our_formatter(serve: Callable[..., Process], tmp_path: Path) -> None:
    configure(tmp_path, "conf_file")
    (tmp_path / "logging.conf").write_text(CONF.format(level="DEBUG", formatter="class = luigi_spanner.logs.JsonLines"))
    process = serve("--store", "memory://", "--log-format", "json")
    process.line("serves namespace")
    lines = parsed(ended(process))
    assert not any("is not used" in line["message"] for line in lines)


def test_a_format_that_is_not_used_is_told_of(serve: Callable[..., Process], tmp_path: Path) -> None:
    configure(tmp_path, "conf_file")
    process = serve("--store", "memory://", "--log-format", "json")
    process.line("OWN WARNING luigi_spanner.logs: log_format json is not used: .* may be luigi_spanner.logs.JsonLines")


def test_a_configuration_that_cannot_be_used_ends_with_one_sentence(tmp_path: Path) -> None:
    configure(tmp_path, "conf_file")
    (tmp_path / "logging.conf").write_text("[loggers]\nkeys = root\n[handlers]\nkeys = none\n")
    command = [sys.executable, "-m", "luigi_spanner", "serve", *LOCAL, "--store", "memory://"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(HOME=str(tmp_path)), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2 and done.stderr.startswith("Logging cannot be set up: "), done.stderr
    assert len(done.stderr.splitlines()) == 1


COLLECTOR = f"""\
from luigi.metrics import MetricsCollector

class Collector(MetricsCollector):
    def __init__(self, *args, **kwargs):
        super().__init__()

    def handle_task_started(self, task):
        raise ValueError(repr(vars(task)))

    def generate_latest(self):
        raise ValueError("{SECRET[::-1]}"[::-1])  # a traceback has the line as it stands

    handle_task_failed = handle_task_disabled = handle_task_done = handle_task_started
"""


PAGES = (
    "/api/none",
    "/none",
    "/history/by_params/F",
    "/why/A",
    "/metrics",
    "/readyz",
    "/static/none",
    "/static/%2e%2e/none",
)


def tell_secrets(client: Client) -> None:
    """Calls with a hidden parameter, well-formed and not, and requests that are hardly any."""
    hidden = {"params": {"day": "today", "password": SECRET}, "param_visibilities": {"password": 1}}
    task = {"worker": "w", "task_id": "A", "family": "F", **hidden}
    client.call("add_task", **task, runnable=True, deps=["B"])
    client.call("add_task", worker="w", task_id="C", family="F", runnable=True, **hidden)
    assert client.call("get_work", worker="w").value["task_id"] == "C"
    client.call("add_task", **{**task, "task_id": "C"}, status="FAILED", expl=f"failed on {SECRET}", runnable=True)
    client.call(
        "announce_scheduling_failure", worker="w", task_name="F", family="F", params=hidden["params"], expl="e", owners=[]
    )
    assert client.call("task_list", search=SECRET).value == {}
    wrong: list[dict[str, Any]] = [
        {**task, "params": SECRET},
        {**task, "params": [SECRET]},
        {**task, "resources": {"a": SECRET}},
        {**task, "resources": SECRET},
        {**task, "status": SECRET},
        {**task, "priority": SECRET},
        {**task, "param_visibilities": {"password": SECRET}},
        {**task, "retry_policy_dict": {"retry_count": SECRET}},
        {**task, "deps": [{"password": SECRET}]},
        {**task, "worker": [SECRET]},
        {**task, "batch_id": SECRET, "status": "BATCH_RUNNING"},
    ]
    assert 400 in {client.call("add_task", **arguments).status for arguments in wrong}
    assert client.raw("add_task", json.dumps(task)[:-1]).status == 400
    assert client.raw("add_task", json.dumps([task])).status == 400
    assert client.post("add_task", f"data=%zz{SECRET}".encode()).status == 400
    assert client.post("add_task", f"--b{SECRET}".encode(), Content_Type="multipart/form-data; boundary=b").status == 400
    for path in PAGES:
        client.get(f"{path}?data={quote(json.dumps(task))}")
    for first in ("GET /api/ping?data={0} HTTP/9.9", "GET /api/{0} {0} HTTP/1.1", "PUT /none?data={0} HTTP/1.1", "{0}"):
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(f"{first.format(SECRET)}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            connection.settimeout(PATIENCE)
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass


def check_discretion(process: Process) -> None:
    client = process.client()
    tell_secrets(client)
    output = ended(process)
    assert "An effect failed" in output and "ValueError" in output and "handle_task_started" in output  # all but the words
    assert "collector exposes nothing" in output
    assert "is refused" in output and "403 GET /static/%2e%2e/none" in output
    assert SECRET not in output
    assert SECRET.lower() not in output.lower()


@pytest.mark.parametrize("formatter", ['format = "%(levelname)s %(name)s: %(message)s"', '"()" = "luigi_spanner.logs.JsonLines"'])
def test_no_hidden_parameter_is_logged(serve: Callable[..., Process], tmp_path: Path, formatter: str) -> None:
    write_collector(tmp_path, formatter)
    check_discretion(serve("--store", "sqlite:///a.db", LUIGI_CONFIG_PARSER="toml", PYTHONASYNCIODEBUG="1"))


def test_no_hidden_parameter_is_logged_on_spanner(serve: Callable[..., Process], tmp_path: Path, spanner_url: str) -> None:
    write_collector(tmp_path, 'format = "%(levelname)s %(name)s: %(message)s"')
    check_discretion(serve("--store", spanner_url, LUIGI_CONFIG_PARSER="toml", GOOGLE_SDK_PYTHON_LOGGING_SCOPE="google"))


def write_collector(directory: Path, formatter: str) -> None:
    """A configuration that logs everything, with a metrics collector that fails and says on what."""
    (directory / "collecting.py").write_text(COLLECTOR)
    scheduler = "[scheduler]\nretry_count = 9\nrecord_task_history = true\n"
    collector = 'metrics_collector = "custom"\nmetrics_custom_import = "collecting.Collector"\n'
    (directory / "luigi.toml").write_text(TOML.format(formatter=formatter, level="DEBUG") + scheduler + collector)
