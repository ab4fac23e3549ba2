"""What `pip install` leaves behind, tried with the built wheel in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
SOURCES = ["scheduler", "migrations", "setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"]

pytestmark = pytest.mark.slow

IMPORT_ALL = """
import importlib, pkgutil, luigi_spanner
names = [module.name for module in pkgutil.walk_packages(luigi_spanner.__path__, "luigi_spanner.")]
for name in names:
    if not name.startswith("luigi_spanner.migrations") and not name.endswith("__main__"):
        importlib.import_module(name)
assert "luigi_spanner.stores" in names, names
"""

MIGRATE = """
from luigi_spanner import migrate
migrate.upgrade("sqlite:///fresh.db")
assert migrate.current("sqlite:///fresh.db") == migrate.head()
"""


def outside() -> dict[str, str]:
    """The environment without PYTHONPATH, by which Python and pip would find the source tree."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def pip(*arguments: str | Path, python: Path | None = None) -> None:
    """Run this environment's pip, on the environment of `python` if given."""
    target = [] if python is None else ["--python", str(python)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *target, *map(str, arguments)]
    done = subprocess.run(command, env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources so that no stale build directory can add to it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


class Environment:
    """A fresh virtual environment that pip, from outside, installs into."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
        self.directory = directory
        self.python = directory / "bin" / "python"

    def install(self, *arguments: str | Path) -> None:
        pip("install", "--quiet", "--no-compile", "--constraint", CONSTRAINTS, *arguments, python=self.python)

    def uninstall(self, *names: str) -> None:
        pip("uninstall", "--quiet", "--yes", *names, python=self.python)

    def script(self, name: str) -> str:
        return (self.directory / "bin" / name).read_text()

    def run(self, *command: str) -> str:
        """Output of a command of the environment, run where no source tree can be imported from."""
        path = self.directory / "bin" / command[0]
        done = subprocess.run([path, *command[1:]], cwd=self.directory, env=outside(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def luigid_is_ours(self) -> bool:
        return "luigi_spanner.cli" in self.script("luigid")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Luigi first, then the wheel: the order of somebody who moves over from stock luigid."""
    made = Environment(tmp_path_factory.mktemp("environment"))
    made.install("luigi")
    assert not made.luigid_is_ours
    made.install(wheel)
    return made


def test_wheel_ships_the_migrations_and_the_pages(wheel: Path) -> None:
    expected = {
        f"luigi_spanner/{path.relative_to(ROOT)}"
        for path in (ROOT / "migrations").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = ROOT / "scheduler"
    pages = {str(path.relative_to(package)) for path in (package / "luigi_spanner" / "server" / "templates").glob("*.html")}
    assert pages <= set(zipfile.ZipFile(wheel).namelist())
    assert "luigi_spanner/server/templates/why.html" in pages
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected
    assert expected <= names
    assert "luigi_spanner/py.typed" in names


def test_wheel_ships_nothing_else(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"luigi_spanner"}


def test_every_module_imports_with_the_declared_dependencies_alone(environment: Environment) -> None:
    environment.run("python", "-c", IMPORT_ALL)


def test_installed_migrations_make_a_database(environment: Environment) -> None:
    environment.run("python", "-c", MIGRATE)


def test_luigid_is_ours_where_luigi_was_there_before(environment: Environment) -> None:
    assert environment.luigid_is_ours
    assert "--store" in environment.run("luigid", "--help")
    assert "serve" in environment.run("luigi-spanner", "--help")


def test_luigid_is_ours_when_both_come_in_one_command(environment: Environment, wheel: Path) -> None:
    for order in ([wheel, "luigi"], [wheel]):
        environment.uninstall("luigi-spanner", "luigi")
        environment.install(*order)
        assert environment.luigid_is_ours, order


def test_reinstalling_luigi_alone_brings_its_luigid_back(environment: Environment, wheel: Path) -> None:
    """The README warns of it, and says that `luigi-spanner serve` stays ours."""
    environment.install("--force-reinstall", "--no-deps", "luigi")
    assert not environment.luigid_is_ours
    assert "luigi_spanner.cli" in environment.script("luigi-spanner")
    environment.install("--force-reinstall", "--no-deps", wheel)
    assert environment.luigid_is_ours
