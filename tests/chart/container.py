"""A container of the chart, run here as a process: its command line and its variables, as they are rendered.

What is mounted is under `root` instead: ConfigMaps are written there, and variables that name a mount are told the place.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charts import Manifest, environment, one
from processes import spawn, subprocess

PATIENCE = 60.0


@dataclass(frozen=True, kw_only=True)
class Container:
    """`objects` as rendered; `pod` and `spec` are the pod's and the container's."""

    objects: Sequence[Manifest]
    pod: Manifest
    spec: Manifest
    root: Path

    @property
    def command(self) -> list[str]:
        return [*self.spec["command"], *self.spec.get("args", [])]

    def environment(self) -> dict[str, str]:
        """Only what the image and the manifest give, and which of the environment's programs are meant."""
        places = {mount["mountPath"]: str(self._mounted(mount)) for mount in self.spec["volumeMounts"]}
        variables = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.defpath])}
        mounted = re.compile("|".join(f"{re.escape(path)}(?=/)" for path in places))
        for name, value in environment(self.spec).items():
            variables[name] = mounted.sub(lambda found: places[found[0]], value)
        return variables

    def start(self, log: Path) -> subprocess.Popen[bytes]:
        return spawn(self.command, log, self.environment())

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(self.command, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE)

    def _mounted(self, mount: Manifest) -> Path:
        place = self.root / mount["mountPath"].strip("/")
        place.mkdir(parents=True, exist_ok=True)
        volume = next((volume for volume in self.pod["volumes"] if volume["name"] == mount["name"]), {})
        if "configMap" in volume:
            config = one(
                [found for found in self.objects if found["metadata"]["name"] == volume["configMap"]["name"]], "ConfigMap"
            )
            for name, text in config["data"].items():
                (place / name).write_text(text)
        return place


def container(objects: Sequence[Manifest], kind: str, root: Path, *, initial: bool = False) -> Container:
    """The first container of the pod that the object of this kind makes; `initial`: the first ahead of it."""
    found = one(objects, kind)
    pod = found["spec"] if kind == "Pod" else found["spec"]["template"]["spec"]
    return Container(objects=objects, pod=pod, spec=pod["initContainers" if initial else "containers"][0], root=root)
