"""What examples/compose says: valid, restricted, and in step with the image, the documents and the alert rules."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from balancer import find
from composition import COMPOSE, binds, services
from programs import promtool
from recipe import ROOT, context, stages

from luigi_spanner.config import SETTINGS

EMULATOR = "LUIGI_SPANNER_EMULATOR_IMAGE"
SERVICES = services({EMULATOR: "emulator:1.5"})
REPLICAS = ["replica-1", "replica-2"]
FINAL = stages()[-1]


def test_it_fits_the_schema_of_compose_files() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run([program, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_has_all_the_parts() -> None:
    assert list(SERVICES) == ["emulator", "migrate", *REPLICAS, "balancer", "prometheus", "worker"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_restricted(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "cap_add", "network_mode", "pid", "devices", "user"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert all(bind.mode == "ro" and bind.source.is_file() for bind in binds(service))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_of_a_version(name: str) -> None:
    tag = SERVICES[name]["image"].partition(":")[2]
    assert tag and tag != "latest"
    if "build" in SERVICES[name]:
        assert (COMPOSE.parent / SERVICES[name]["build"]).resolve() == ROOT


def test_the_emulator_s_image_has_to_be_named() -> None:
    with pytest.raises(LookupError, match=f"^{EMULATOR}: set it to the image of Google's Cloud Spanner emulator$"):
        services({})


def test_each_waits_for_what_it_needs() -> None:
    waits = {
        name: {of: each["condition"] for of, each in service.get("depends_on", {}).items()} for name, service in SERVICES.items()
    }
    healthy = dict.fromkeys(REPLICAS, "service_healthy")
    assert waits == {
        "emulator": {},
        "migrate": {"emulator": "service_started"},
        **{name: {"migrate": "service_completed_successfully"} for name in REPLICAS},
        "balancer": healthy,
        "prometheus": healthy,
        "worker": {"balancer": "service_healthy"},
    }


@pytest.mark.parametrize("name", [name for service in SERVICES.values() for name in service.get("depends_on", {})])
def test_what_is_waited_for_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    if any(
        each["depends_on"].get(name, {}).get("condition") == "service_healthy"
        for each in SERVICES.values()
        if "depends_on" in each
    ):
        ours = "build" in service and bool(FINAL.all("HEALTHCHECK"))
        assert ours or service["healthcheck"]["test"][0] == "CMD"


def test_a_replica_has_time_to_end() -> None:
    hold = next(setting.default for setting in SETTINGS if setting.name == "hold")
    for name in REPLICAS:
        drain = float(SERVICES[name]["environment"]["LUIGI_SPANNER_DRAIN"])
        assert float(SERVICES[name]["stop_grace_period"].removesuffix("s")) > drain + float(hold)


def test_the_balancer_sends_to_the_replicas() -> None:
    (config,) = [bind.source.read_text() for bind in binds(SERVICES["balancer"])]
    port = FINAL.last("EXPOSE").value
    assert re.findall(r"^    server (\S+) (\S+)$", config, re.MULTILINE) == [(name, f"{name}:{port}") for name in REPLICAS] * 2


def test_the_balancer_is_as_the_document_has_it() -> None:
    (config,) = [bind.source.read_text() for bind in binds(SERVICES["balancer"])]
    (shown,) = re.findall(r"^```\n(defaults\n.*?)^```", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL)
    stated = [line.partition("#")[0].rstrip() for line in shown.splitlines() if not line.lstrip().startswith(("#", "server "))]
    have = config.splitlines()
    assert [line for line in stated if line and not any(each.startswith(line) for each in have)] == []


def test_haproxy_takes_its_configuration() -> None:
    program = find()
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs haproxy: `.ci/tools haproxy` gets it on Debian")
    (bind,) = binds(SERVICES["balancer"])
    done = subprocess.run([program, "-c", "-f", bind.source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "WARNING" in line and "could not resolve address" not in line]
    assert not warned, "only the replicas' names mean nothing here"


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    for bind in binds(SERVICES["prometheus"]):
        shutil.copy(bind.source, tmp_path / Path(bind.target).name)
    said = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert "1 rule files found" in said and "rules found" in said
    named = next(word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file="))
    assert named.removeprefix("--config.file=") in [bind.target for bind in binds(SERVICES["prometheus"])]


def test_prometheus_scrapes_each_replica() -> None:
    config: dict[str, Any] = yaml.safe_load((COMPOSE.parent / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"{name}:{FINAL.last('EXPOSE').value}" for name in REPLICAS]}]


def test_none_of_it_gets_into_the_image() -> None:
    assert not [path for path in context() if path.parts[0] == "examples"]
