"""The chart, rendered by the real Helm, and its objects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "luigi-spanner"
MAJORS = (3, 4)
PATIENCE = 60.0

RELEASE = "release"
NAMESPACE = "scheduling"

Manifest = dict[str, Any]
Values = Mapping[str, Any]

SPANNER: Values = {"store": {"spanner": {"project": "p", "instance": "i", "database": "d"}}}
SQLITE: Values = {"replicaCount": 1, "store": {"type": "sqlite"}}

HOW_TO_GET_IT = "needs {}: `.ci/tools helm crds` gets it from npm"


def lacking(what: str) -> None:
    """Skip the test, or fail it under CI=true."""
    sentence = HOW_TO_GET_IT.format(what)
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@dataclass(frozen=True)
class Helm:
    """One version of the program."""

    program: str

    def run(self, *arguments: str, values: Sequence[Values | Path] = ()) -> subprocess.CompletedProcess[str]:
        """Run it with files of values, and then with those that are given as they are, each over those before it."""
        said = [word for some in values if isinstance(some, Path) for word in ("--values", str(some))]
        given: dict[str, Any] = {}
        for some in values:
            if not isinstance(some, Path):
                given = merged(given, some)
        return subprocess.run(
            [self.program, *arguments, *said, "--values", "-"],
            input=yaml.safe_dump(given),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=_environment(),
        )

    def template(self, *values: Values | Path, chart: Path = CHART, release: str = RELEASE) -> list[Manifest]:
        """What it makes of these values. Many tests look at the same objects, so what it once made is kept."""
        key = json.dumps([self.program, values, chart, release], default=str)
        if key not in _made:
            done = self.run("template", release, str(chart), "--namespace", NAMESPACE, values=values)
            assert done.returncode == 0, done.stderr
            _made[key] = done.stdout
        return [found for found in yaml.load_all(_made[key], _Loader) if found]

    def refusal(self, *values: Values | Path) -> str:
        """Why it does not take these values."""
        done = self.run("template", RELEASE, str(CHART), values=values)
        assert done.returncode != 0, "it was taken"
        return done.stderr


_made: dict[str, str] = {}


class _Loader(yaml.SafeLoader):
    """Takes no key twice: YAML does, and the second counts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value]
        assert len(names) == len(set(names)), f"a key twice among {names}"
        return super().construct_mapping(node, deep=deep)


@cache
def _environment() -> dict[str, str]:
    """Nothing of whoever runs the tests: no plugins, no repositories, no cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}


def merged(below: Values, above: Values) -> dict[str, Any]:
    """Values over others, as Helm merges files."""
    maps = {
        name: merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
    }
    return {**below, **above, **maps}


@cache
def find_helm(major: int) -> Helm:
    """Helm of this major version: where `.ci/tools` puts it, or on PATH. Skips the test without it, or fails it under CI=true."""
    for program in (str(ROOT / ".tools" / "helm" / str(major) / "helm"), shutil.which("helm")):
        if program is not None and _version(program).startswith(f"v{major}."):
            return Helm(program)
    lacking(f"Helm {major}")
    raise AssertionError


def _version(program: str) -> str:
    """Empty where it does not run here, as that of another kind of machine."""
    try:
        return subprocess.run([program, "version", "--short"], capture_output=True, text=True, timeout=PATIENCE).stdout
    except OSError:
        return ""


def one(objects: Sequence[Manifest], kind: str, name: str = "") -> Manifest:
    """The only object of this kind whose name ends so."""
    (found,) = (found for found in objects if found["kind"] == kind and found["metadata"]["name"].endswith(name))
    return found


def kinds(objects: Sequence[Manifest]) -> list[str]:
    return sorted(found["kind"] for found in objects)


def pods(objects: Sequence[Manifest]) -> list[tuple[Manifest, Manifest]]:
    """Objects that make pods, each with the pod's spec."""
    found = []
    for manifest in objects:
        if manifest["kind"] == "Pod":
            found.append((manifest, manifest["spec"]))
        elif "template" in manifest.get("spec", {}):
            found.append((manifest, manifest["spec"]["template"]["spec"]))
    return found


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def environment(container: Manifest) -> dict[str, str]:
    """Variables that are given as texts."""
    return {variable["name"]: variable["value"] for variable in container.get("env", []) if "value" in variable}
