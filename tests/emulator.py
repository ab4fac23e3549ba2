"""The Spanner emulator for tests: find one, run it, make databases on it.

Looked for in this order: SPANNER_EMULATOR_HOST (what runs there is used as it is), the binary that LUIGI_SPANNER_EMULATOR
names, `emulator_main` or `cloud_spanner_emulator` on PATH or in the Cloud SDK, a container engine.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import grpc
from google.cloud.spanner_admin_database_v1 import types as database_types
from google.cloud.spanner_admin_instance_v1 import types as instance_types
from google.cloud.spanner_v1 import types
from google.longrunning import operations_pb2

HOW_TO_GET_IT = (
    "needs the Cloud Spanner emulator: install the package google-cloud-cli-spanner-emulator, or run one and set "
    "SPANNER_EMULATOR_HOST, or set LUIGI_SPANNER_EMULATOR to its emulator_main or LUIGI_SPANNER_EMULATOR_IMAGE to its image"
)

IMAGE = "LUIGI_SPANNER_EMULATOR_IMAGE"
"""Environment variable that names a container image of the emulator, whose port is 9010."""

START_SECONDS = 30.0
"""How long an emulator may take to listen: milliseconds, but for a container whose image is still to be fetched."""

PROJECT = "projects/luigi-test"

INSTANCES = 20
"""Instances that are filled one after the other: Spanner allows 100 databases each (its quotas), the emulator too."""

_ADMIN = "/google.spanner.admin.database.v1.DatabaseAdmin/"
_DATA = "/google.spanner.v1.Spanner/"

ABORTS = 10
"""How often a call is tried: at 5% aborts ten in a row do not happen."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Where an emulator comes from: a running one's host:port, a binary's path, or a container engine's."""

    kind: Literal["host", "binary", "container"]
    place: str


def find_emulator(environ: Mapping[str, str] = os.environ) -> Found | None:
    """The first emulator that this machine offers."""
    if environ.get("SPANNER_EMULATOR_HOST"):
        return Found(kind="host", place=environ["SPANNER_EMULATOR_HOST"])
    for binary in _binaries(environ):
        if binary and os.access(binary, os.X_OK) and not os.path.isdir(binary):
            return Found(kind="binary", place=str(binary))
    for engine in ("docker", "podman") if environ.get(IMAGE) else ():
        place = shutil.which(engine, path=environ.get("PATH", ""))
        if place and _works([place, "version"]):
            return Found(kind="container", place=place)
    return None


class Emulator:
    """An emulator process, or the one that runs already. `host` is its host:port, the same after `stop` and `start`."""

    def __init__(self, found: Found | None = None, *, fault_injection: bool = False) -> None:
        self.found = found or find_emulator()
        if self.found is None:
            raise LookupError(HOW_TO_GET_IT)
        self.fault_injection = fault_injection
        self.host = self.found.place if self.found.kind == "host" else ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def own(self) -> bool:
        """Whether it can be stopped and started: one that ran before is left alone."""
        return self.found is not None and self.found.kind != "host"

    def start(self) -> Emulator:
        """Start it and wait until it listens."""
        if not self.own:
            return self
        for _ in range(3):  # another process may take the free port first
            host = self.host or f"127.0.0.1:{_free_port()}"
            self._process = subprocess.Popen(self._command(host), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if self._listens(host):
                self.host = host
                return self
            self.stop()
        raise RuntimeError(f"no emulator listens on {host} after {START_SECONDS:.0f} s: {self._command(host)}")

    def stop(self) -> None:
        """End it, with all that it holds. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate() if self.found and self.found.kind == "container" else process.kill()
        process.wait(START_SECONDS)

    def send(self, number: signal.Signals) -> None:
        """A signal to its process."""
        assert self._process is not None, "an emulator that ran before is left alone"
        self._process.send_signal(number)

    def __enter__(self) -> Emulator:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _command(self, host: str) -> list[str]:
        assert self.found is not None
        faults = ["--enable_fault_injection"] if self.fault_injection else []
        if self.found.kind == "binary":
            return [self.found.place, "--host_port", host, *faults]
        inside = ["./gateway_main", "--hostname", "0.0.0.0", *faults]
        return [self.found.place, "run", "--rm", "-p", f"{host}:9010", os.environ[IMAGE], *inside]

    def _listens(self, host: str) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            name, _, port = host.rpartition(":")
            with socket.socket() as probe:
                if probe.connect_ex((name, int(port))) == 0:
                    return True
            time.sleep(0.005)
        return False


@dataclass(frozen=True, kw_only=True)
class Template:
    """A database's schema and rows, to make more like it: a copy takes milliseconds where the migrations take seconds."""

    ddl: list[str] = field(default_factory=list)
    rows: dict[str, Any] = field(default_factory=dict)
    """Of each table its mutation."""


def template_of(host: str, database: str, tables: list[str]) -> Template:
    """The schema of `database` and the rows of those `tables`."""
    with _channel(host) as channel:
        request = database_types.GetDatabaseDdlRequest.pb()(database=database)
        reply = database_types.GetDatabaseDdlResponse.pb()
        ddl = list(_call(channel, _ADMIN + "GetDatabaseDdl", request, reply).statements)
        session = _session(channel, database)
        return Template(ddl=ddl, rows={table: _copy(channel, session, table) for table in tables})


def create_database(host: str, template: Template | None = None, *, name: str = "") -> str:
    """A new database's full name; its instance is made if need be. Without a template it is empty, without a name it gets one."""
    name = name or f"d{uuid.uuid4().hex[:20]}"
    template = template or Template()
    with _channel(host) as channel:
        database = _create_database(channel, name, template.ddl)
        if template.rows:
            _insert(channel, database, template.rows)
    return database


def change_schema(host: str, database: str, *ddl: str) -> None:
    """Run `ddl`, all of it as one change."""
    with _channel(host) as channel:
        request = database_types.UpdateDatabaseDdlRequest.pb()(database=database, statements=ddl)
        done = _call(channel, _ADMIN + "UpdateDatabaseDdl", request, operations_pb2.Operation)
        assert done.done and not done.error.code, done


def query(host: str, database: str, sql: str) -> list[list[Any]]:
    """The rows that `sql` gives, values as the API's JSON has them: integers and timestamps as text."""
    with _channel(host) as channel:
        request = types.ExecuteSqlRequest.pb()(session=_session(channel, database), sql=sql)
        rows = _call(channel, _DATA + "ExecuteSql", request, types.ResultSet.pb()).rows
        return [list(row) for row in rows]


def _create_database(channel: grpc.Channel, name: str, ddl: list[str]) -> str:
    """The full name of a database in the first instance that has room."""
    for number in range(INSTANCES):
        instance = f"luigi-test-{number}"
        _create_instance(channel, PROJECT, instance)
        parent = f"{PROJECT}/instances/{instance}"
        request = database_types.CreateDatabaseRequest.pb()(
            parent=parent, create_statement=f"CREATE DATABASE {name}", extra_statements=ddl
        )
        try:
            done = _call(channel, _ADMIN + "CreateDatabase", request, operations_pb2.Operation)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        else:
            assert done.done and not done.error.code, done
            return f"{parent}/databases/{name}"
    raise AssertionError(f"{INSTANCES} instances are full")


def _create_instance(channel: grpc.Channel, project: str, instance: str) -> None:
    request = instance_types.CreateInstanceRequest.pb()(parent=project, instance_id=instance)
    request.instance.config = f"{project}/instanceConfigs/emulator-config"
    request.instance.display_name = instance
    request.instance.node_count = 1
    try:
        _call(channel, "/google.spanner.admin.instance.v1.InstanceAdmin/CreateInstance", request, operations_pb2.Operation)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def _copy(channel: grpc.Channel, session: str, table: str) -> Any:
    request = types.ExecuteSqlRequest.pb()(session=session, sql=f"SELECT * FROM {table}")
    result = _call(channel, _DATA + "ExecuteSql", request, types.ResultSet.pb())
    mutation = types.Mutation.pb()()
    mutation.insert.table = table
    mutation.insert.columns.extend(column.name for column in result.metadata.row_type.fields)
    mutation.insert.values.extend(result.rows)
    return mutation


def _insert(channel: grpc.Channel, database: str, rows: dict[str, Any]) -> None:
    request = types.CommitRequest.pb()(session=_session(channel, database), mutations=rows.values())
    request.single_use_transaction.read_write.SetInParent()
    _call(channel, _DATA + "Commit", request, types.CommitResponse.pb())


def _session(channel: grpc.Channel, database: str) -> str:
    request = types.CreateSessionRequest.pb()(database=database)
    return str(_call(channel, _DATA + "CreateSession", request, types.Session.pb()).name)


def _call(channel: grpc.Channel, method: str, request: Any, reply: Any) -> Any:
    stub = channel.unary_unary(method, type(request).SerializeToString, reply.FromString)
    for _ in range(ABORTS):
        try:
            return stub(request, timeout=START_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            # An emulator with fault injection aborts one commit in twenty, ours too.
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
    raise AssertionError(f"{method} was aborted {ABORTS} times")


@contextmanager
def _channel(host: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(host) as channel:
        yield channel


def _binaries(environ: Mapping[str, str]) -> Iterator[str | Path | None]:
    path = environ.get("PATH", "")
    yield environ.get("LUIGI_SPANNER_EMULATOR")
    yield shutil.which("emulator_main", path=path)
    yield shutil.which("cloud_spanner_emulator", path=path)
    gcloud = shutil.which("gcloud", path=path)
    if gcloud:
        yield Path(gcloud).resolve().parent / "cloud_spanner_emulator" / "emulator_main"


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=START_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
