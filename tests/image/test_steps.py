"""The Dockerfile's very steps, run here, and what they make started as a container would be: another user, a read-only root."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from containers import Container
from packaging.requirements import Requirement
from playing import BUILD, Image, interpreter
from processes import wait_until
from recipe import ROOT, stages
from sandbox import Settings
from serving import PATIENCE, await_taken, in_query, read

pytestmark = pytest.mark.slow

UNCHECKED_HASH = b"\x01\x00\x00\x00"
"""Flags in the header of bytecode that never looks at its source (PEP 552)."""


@pytest.fixture
def container(image: Image, tmp_path: Path) -> Iterator[Container]:
    """One that is ready."""
    made = Container(image, tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.remove()


def packages(image: Image) -> Path:
    (found,) = image.sandbox.inside("/opt/luigi-spanner").glob("lib/python3.*/site-packages")
    return found


def installed(image: Image) -> list[Distribution]:
    return list(distributions(path=[str(packages(image))]))


def test_every_dependency_is_the_locked_one(image: Image) -> None:
    lines = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    locks = [Requirement(line) for line in lines if not line.startswith("#")]
    python = {"python_version": packages(image).parent.name.removeprefix("python")}
    locked = {lock.name: str(lock.specifier)[2:] for lock in locks if lock.marker is None or lock.marker.evaluate(python)}
    found = {each.name.lower().replace("_", "-").replace(".", "-"): each.version for each in installed(image)}
    found.pop("luigi-spanner")
    assert found.keys() >= {"luigi", "google-cloud-spanner", "opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}
    assert not found.keys() & {"pytest", "ruff", "pyarrow", "docker"}, "the tests' own"
    assert {name: version for name, version in found.items() if locked.get(name) != version} == {}


def test_it_was_played_on_the_python_of_the_base(image: Image) -> None:
    base = stages()[-1].base.removeprefix("python:")
    (library,) = interpreter(stages()[-1]).glob("lib/python3.*/os.py")
    assert packages(image).parent.name == library.parent.name
    if not base.startswith(library.parent.name.removeprefix("python") + "-"):
        pytest.skip(f"there is no Python {base} here, so it was {library.parent.name}")


@pytest.mark.parametrize("module", ["pip", "ensurepip", "setuptools"])
def test_nothing_can_be_installed_into_it(image: Image, module: str) -> None:
    for python in ("python", "/usr/local/bin/python"):
        done = image.sandbox.run(python, "-c", f"import {module}", settings=image.settings(mounts=[]))
        assert "ModuleNotFoundError" in done.stderr, (python, module)
    assert not list(image.sandbox.inside("/").glob("**/*.whl")), "the wheel stayed in the first stage"


def test_all_of_it_is_compiled(image: Image) -> None:
    (stdlib,) = image.sandbox.local.glob("lib/python3.*/http")
    tag = stdlib.parent.name.replace("python", "cpython-").replace(".", "")
    for place in (packages(image), stdlib.parent / "asyncio", stdlib):
        sources = [path for path in place.rglob("*.py") if path.stat().st_size]
        assert sources
        for source in sources:
            compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
            assert compiled.read_bytes()[4:8] == UNCHECKED_HASH, source


def test_who_runs_it_can_write_its_state_and_nothing_else(image: Image) -> None:
    """By the permissions of the files themselves: here the root file system is not read-only."""
    writes = 'test "$(id -u):$(id -g)" = 10001:10001 && touch "$1/file" && rm "$1/file"'
    settings = Settings(user=image.user)
    for place in ("/var/lib/luigi-spanner", "/tmp"):
        image.sandbox.check("sh", "-c", writes, "sh", place, settings=settings)
    for place in ("/", "/opt/luigi-spanner", "/opt/luigi-spanner/bin", "/usr/local/bin", "/etc", "/var/lib"):
        assert image.sandbox.run("sh", "-c", writes, "sh", place, settings=settings).returncode != 0, place


def test_its_labels_are_those_of_the_build(image: Image) -> None:
    prefix = "org.opencontainers.image."
    assert {name: image.labels[prefix + name.lower()] for name in BUILD} == BUILD


def test_a_container_serves_and_is_healthy(container: Container) -> None:
    assert "luigi-spanner" in container.log
    assert "sqlite:////var/lib/luigi-spanner/luigi.db" in container.log
    assert "Traceback" not in container.log
    assert container.run(*container.image.healthcheck).returncode == 0
    verified = container.run("luigi-spanner", "verify")
    assert "clean" in verified.stdout, verified.stderr


def test_a_container_that_has_ended_is_not_healthy(container: Container) -> None:
    container.signal("TERM")
    assert container.exit_code() == 0, container.log
    assert container.run(*container.image.healthcheck).returncode == 1


def test_a_call_in_flight_is_answered_after_sigterm(container: Container) -> None:
    caller, idle = container.client.connect(), container.client.connect()
    with container.locked():
        caller.request("GET", in_query("add_task", worker="w", task_id="A", family="F"))
        await_taken(caller)
        idle.request("GET", "/healthz")
        assert read(idle).status == 200  # and with that the call has begun
        container.signal("TERM")
        wait_until(lambda: " stops" in container.log, PATIENCE, "the signal has come to the scheduler")
        assert container.process is not None and container.process.poll() is None, container.log
    assert read(caller).status == 200
    assert container.exit_code() == 0, container.log
    caller.close()
    idle.close()
    container.start()
    assert list(container.client.tasks()) == ["A"], "the volume keeps it for the next container"


def test_luigi_and_the_commands_are_there(container: Container) -> None:
    for command in (("luigi-spanner", "db", "current"), ("luigi-spanner", "export", "--help"), ("luigi", "--help")):
        done = container.run(*command)
        assert done.returncode == 0, done.stderr


def test_its_root_file_system_holds_no_store(container: Container) -> None:
    done = container.run("luigid", "--store", "sqlite:////opt/luigi.db", "--port", "0")
    assert done.returncode == 2, done.stderr
    assert "read-only" in done.stderr
