"""The compose file as an engine reads it: its services with variables filled in, and what is mounted into them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from recipe import ROOT

COMPOSE = ROOT / "examples" / "compose" / "compose.yaml"


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A file of the checkout in a container."""

    source: Path
    target: str
    mode: str


def services(variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Each service by its name. LookupError with the file's own sentence where a variable that it needs is not set."""
    return dict(_filled(yaml.safe_load(COMPOSE.read_text())["services"], variables))


def binds(service: Mapping[str, Any]) -> list[Bind]:
    """What a service has of the checkout."""
    parts = [volume.split(":") for volume in service.get("volumes", [])]
    return [Bind(source=(COMPOSE.parent / source).resolve(), target=target, mode=mode) for source, target, mode in parts]


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(inner, variables) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    return re.sub(r"\$\$|\$\{(\w+):\?([^}]*)\}", lambda found: _one(found, variables), value) if isinstance(value, str) else value


def _one(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found[0] == "$$":
        return "$"
    if not variables.get(found[1]):
        raise LookupError(f"{found[1]}: {found[2]}")
    return variables[found[1]]
