"""Every object is what a server of each version, and the projects that bring custom kinds, would take."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
from charts import PATIENCE, ROOT, Helm, Manifest, find_helm, lacking
from matrix import CASES

pytestmark = pytest.mark.slow

CUSTOM = {"monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1"}

VERSIONS = ("1.27", "1.30", "1.33", "1.35", "1.37")
"""The oldest that the chart takes, some in between, and the newest that has been published. Those in between see the
case that uses everything."""

NEWER = {"trafficDistribution": "1.30"}
"""Fields of the case with everything that older servers do not know: they drop them with a warning."""


@pytest.mark.parametrize("name", CASES)
def test_servers_take_every_object(helm4: Helm, name: str) -> None:
    versions = VERSIONS if name == "everything" else (VERSIONS[0], VERSIONS[-1])
    for found in helm4.template(*CASES[name]):
        if found["apiVersion"] not in CUSTOM:
            for version in versions:
                kubernetes_validate.validate(known(found, version), version, strict=True)


def known(found: Manifest, version: str) -> Manifest:
    """The object without what that version did not have."""
    newer = {field for field, since in NEWER.items() if as_numbers(version) < as_numbers(since)}
    spec = found.get("spec")
    if not isinstance(spec, dict) or not newer & set(spec):
        return found
    return {**found, "spec": {field: value for field, value in spec.items() if field not in newer}}


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_a_wrong_object_would_be_noticed(helm4: Helm) -> None:
    (service,) = (found for found in helm4.template(*CASES["spanner"]) if found["kind"] == "Service")
    service["spec"]["prots"] = service["spec"].pop("ports")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", CASES)
def test_helm_3_and_4_make_the_same(name: str) -> None:
    old, new = (sorted(map(json.dumps, find_helm(major).template(*CASES[name]))) for major in (3, 4))
    assert old == new


def published(objects: list[Manifest]) -> str:
    """What the projects that bring custom kinds have against these objects."""
    kinds = ROOT / ".tools" / "crds"
    node = shutil.which("node")
    if node is None or not (kinds / "node_modules").exists():
        lacking("Node.js and the schemas of custom resources")
        raise AssertionError
    script = (Path(__file__).parent / "custom_resources.mjs").read_text()
    done = subprocess.run(
        [node, "--input-type=module", "--eval", script],
        cwd=kinds,
        input=json.dumps(objects),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_operators_take_every_custom_resource(helm4: Helm) -> None:
    objects = [found for name in CASES for found in helm4.template(*CASES[name]) if found["apiVersion"] in CUSTOM]
    assert {found["kind"] for found in objects} == {"ServiceMonitor", "PodMonitor", "PrometheusRule", "HTTPRoute"}
    assert published(objects) == ""


def test_a_wrong_custom_resource_would_be_noticed(helm4: Helm) -> None:
    (monitor,) = (found for found in helm4.template(*CASES["pod monitor"]) if found["kind"] == "PodMonitor")
    monitor["spec"]["podMetricsEndpoints"][0]["interval"] = "often"
    assert "interval" in published([monitor])
