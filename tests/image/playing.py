"""Plays the Dockerfile: each stage in a sandbox of its own, instruction by instruction, as an engine would."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from recipe import ROOT, Instruction, Stage, context, expanded, stages
from sandbox import PATH, Mount, Sandbox, Settings, index_settings, unavailable

BUILD = {"VERSION": "1.2.3", "REVISION": "0123abc", "CREATED": "2026-01-07T09:30:00Z"}
"""The arguments of the build, as `make image` gives them."""


@dataclass(kw_only=True)
class Image:
    """What a stage has made: its files, and how a container of it starts."""

    sandbox: Sandbox
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    volumes: list[str] = field(default_factory=list)
    entrypoint: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)

    def settings(self, *, mounts: Sequence[Mount], **extra: str) -> Settings:
        """How a container of this image runs a command, with these variables more and a root file system that is read-only."""
        variables = {**self.environment, **extra}
        return Settings(environment=variables, workdir=self.workdir, user=self.user, mounts=mounts, frozen=True)


class Player:
    """Knows the stages before the one that it plays."""

    def __init__(self, directory: Path, arguments: Mapping[str, str]) -> None:
        self._directory = directory
        self._given = dict(arguments)
        self._images: dict[str, Image] = {}
        self._index, self._places = index_settings()

    def play(self) -> Image:
        """The image of the last stage. AssertionError where an instruction fails or is not known here."""
        for stage in stages():
            image = Image(sandbox=Sandbox(directory=self._directory / (stage.name or "final"), python=interpreter(stage)))
            self._images[stage.name] = image
            for step in stage.steps:
                self._step(image, step)
        return image

    def remove(self) -> None:
        """The files of every stage."""
        for image in self._images.values():
            image.sandbox.remove()

    def _step(self, image: Image, step: Instruction) -> None:
        play = getattr(self, f"_{step.name.lower()}", None)
        assert play is not None, f"{step.name} is not played yet: {step.value}"
        play(image, step)

    def _env(self, image: Image, step: Instruction) -> None:
        image.environment |= {name: expanded(value, self._known(image)) for name, value in step.pairs.items()}

    def _arg(self, image: Image, step: Instruction) -> None:
        image.arguments |= {name: self._given.get(name, value) for name, value in step.pairs.items()}

    def _label(self, image: Image, step: Instruction) -> None:
        image.labels |= {name: expanded(value, self._known(image)) for name, value in step.pairs.items()}

    def _workdir(self, image: Image, step: Instruction) -> None:
        image.workdir = str(PurePosixPath(image.workdir, step.value))
        image.sandbox.inside(image.workdir).mkdir(parents=True, exist_ok=True)

    def _user(self, image: Image, step: Instruction) -> None:
        image.user = step.value

    def _volume(self, image: Image, step: Instruction) -> None:
        image.volumes.append(step.value)

    def _entrypoint(self, image: Image, step: Instruction) -> None:
        image.entrypoint = step.words

    def _healthcheck(self, image: Image, step: Instruction) -> None:
        image.healthcheck = Instruction(name="CMD", value=step.value.removeprefix("CMD").strip()).words

    def _expose(self, image: Image, step: Instruction) -> None:
        """It says something and does nothing."""

    _stopsignal = _expose

    def _run(self, image: Image, step: Instruction) -> None:
        environment = {"HOME": "/root", **self._index, **self._known(image)}
        mounts = [*self._places, *([_cache(step.flags)] if step.flags else [])]
        settings = Settings(environment=environment, workdir=image.workdir, user=image.user, mounts=mounts)
        image.sandbox.check("/bin/sh", "-c", step.value, settings=settings)

    def _copy(self, image: Image, step: Instruction) -> None:
        *sources, target = shlex.split(step.value)
        assert not set(step.flags) - {"from"}, f"flags of COPY are not played yet: {step.flags}"
        place = image.sandbox.inside(str(PurePosixPath(image.workdir, target)))
        if "from" in step.flags:
            (source,) = sources
            copy = ["cp", "--archive", str(self._images[step.flags["from"]].sandbox.inside(source)), str(place)]
            subprocess.run([*image.sandbox.way, *copy], check=True)
        else:
            for source in sources:
                _copy_from_context(source, place, into=target.endswith("/"))

    def _known(self, image: Image) -> dict[str, str]:
        return {**image.arguments, **image.environment}


def _copy_from_context(source: str, place: Path, *, into: bool) -> None:
    """One source of a COPY: a file keeps its name if it goes into a directory, a directory gives what is in it."""
    files = [path for path in context() if path == Path(source) or Path(source) in path.parents]
    assert files, f"COPY {source}: .dockerignore leaves nothing of it"
    for file in files:
        inner = file.relative_to(source) if file != Path(source) else Path(file.name if into else "")
        (place / inner).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, place / inner)


def _cache(flags: Mapping[str, str]) -> Mount:
    """The cache that a RUN asks for: pip's own on this machine."""
    wanted = dict(pair.split("=") for pair in flags["mount"].split(","))
    assert set(flags) == {"mount"} and set(wanted) == {"type", "target"} and wanted["type"] == "cache", flags
    listed = subprocess.check_output([sys.executable, "-m", "pip", "cache", "dir"], text=True, stderr=subprocess.DEVNULL)
    place = Path(listed.strip())
    place.mkdir(parents=True, exist_ok=True)
    return Mount(how="rw", source=place, target=wanted["target"])


def interpreter(stage: Stage) -> Path:
    """Prefix of a Python of the base image's version where this machine has one, else of the one that runs the tests."""
    found = re.fullmatch(r"python:(3\.\d+)[-.].*", stage.base)
    assert found, f"{stage.base} is no tag of Python's image with a version"
    pythons = subprocess.run([ROOT / ".ci" / "pythons"], capture_output=True, text=True).stdout.split()
    ask = "import sys; print(sys.base_prefix)"
    prefixes = {Path(subprocess.check_output([python, "-c", ask], text=True).strip()) for python in pythons}
    # A Python of Debian's own has no pip beside it, and lets none work.
    whole = [
        prefix for prefix in (*sorted(prefixes), Path(sys.base_prefix)) if list(prefix.glob("lib/python3.*/site-packages/pip"))
    ]
    if not whole:
        unavailable(
            "needs a Python with a prefix of its own and with pip, as Python's image or pyenv has it, to stand in for the base"
        )
    return next((prefix for prefix in whole if (prefix / "lib" / f"python{found[1]}" / "os.py").exists()), whole[-1])
