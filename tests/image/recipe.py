"""The Dockerfile as stages of instructions, and what of the checkout `.dockerignore` lets a build see."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: its name in capitals, its `--flag=value` pairs, and the rest of it as it stands."""

    name: str
    flags: dict[str, str] = field(default_factory=dict)
    value: str

    @property
    def words(self) -> list[str]:
        """The exec form, which is JSON. ValueError for the shell form."""
        return [str(word) for word in json.loads(self.value)]

    @property
    def pairs(self) -> dict[str, str]:
        """Of ENV, ARG and LABEL: each name with its value, quotes removed. An ARG without a default is left out."""
        found = re.findall(r'([\w.]+)=("(?:[^"\\]|\\.)*"|\S*)', self.value)
        return {name: value.strip('"') for name, value in found}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """FROM and what follows it. `name` is that of AS, empty without it."""

    base: str
    name: str
    steps: list[Instruction]

    def all(self, name: str) -> list[Instruction]:
        return [step for step in self.steps if step.name == name]

    def last(self, name: str) -> Instruction:
        """The one that counts where later ones replace earlier ones."""
        return self.all(name)[-1]


def instructions() -> list[Instruction]:
    """All of the Dockerfile in order, comments left out."""
    structure = DockerfileParser(path=str(DOCKERFILE), cache_content=True).structure
    return [_instruction(each["instruction"], each["value"]) for each in structure if each["instruction"] != "COMMENT"]


def stages() -> list[Stage]:
    """Each stage, its base with the defaults of the ARGs before the first FROM."""
    found: list[Stage] = []
    defaults: dict[str, str] = {}
    for step in instructions():
        if step.name == "FROM":
            base, _, name = step.value.partition(" AS ")
            found.append(Stage(base=expanded(base.strip(), defaults), name=name.strip(), steps=[]))
        elif found:
            found[-1].steps.append(step)
        else:
            assert step.name == "ARG", f"{step.name} before the first FROM"
            defaults |= step.pairs
    return found


def expanded(text: str, values: Mapping[str, str]) -> str:
    """`$NAME` and `${NAME}` replaced. KeyError for a name that nothing has set, which an engine would take for empty."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values[found[1] or found[2]], text)


def context() -> list[Path]:
    """Files of this checkout that a build may copy, relative to it, by the engine's own reading of `.dockerignore`."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    paths = (Path(name) for name in exclude_paths(str(ROOT), patterns))
    # These two an engine reads itself, whatever the patterns say.
    return sorted(path for path in paths if (ROOT / path).is_file() and str(path) not in ("Dockerfile", ".dockerignore"))


def _instruction(name: str, value: str) -> Instruction:
    flags = {}
    while found := re.match(r"--([\w-]+)(?:=(\S+))?\s+", value):
        flags[found[1]] = found[2] or ""
        value = value[found.end() :]
    return Instruction(name=name, flags=flags, value=value)
