"""What Helm and the schema say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from charts import CHART, SPANNER, SQLITE, Helm, Values, merged
from matrix import CASES, EVERYTHING

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", CASES)
def test_lint_is_strict_and_content(helm: Helm, name: str) -> None:
    done = helm.run("lint", "--strict", str(CHART), values=CASES[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout and "[ERROR]" not in done.stdout


def test_the_chart_packs(helm: Helm, tmp_path: Path) -> None:
    done = subprocess.run([helm.program, "package", str(CHART), "--destination", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packed,) = tmp_path.iterdir()
    assert packed.name == "luigi-spanner-0.1.0.tgz"
    assert helm.template(EVERYTHING, chart=packed) == helm.template(EVERYTHING), "nothing is left out of the package"


def test_it_may_be_a_part_of_another_chart(helm: Helm, tmp_path: Path) -> None:
    """Twice, under names of their own, one switched off by a condition."""
    parent = tmp_path / "platform"
    (parent / "charts").mkdir(parents=True)
    (parent / "charts" / "luigi-spanner").symlink_to(CHART)
    names = ("one", "two", "three")
    parts = [{"name": "luigi-spanner", "version": "0.1.0", "alias": name, "condition": f"{name}.enabled"} for name in names]
    (parent / "Chart.yaml").write_text(
        yaml.safe_dump({"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": parts})
    )
    values = {"global": {"region": "r"}, **{name: {"enabled": name != "three", **SPANNER} for name in names}}
    deployments = [found for found in helm.template(values, chart=parent) if found["kind"] == "Deployment"]
    assert [found["metadata"]["name"] for found in deployments] == ["release-one", "release-two"]


WRONG: list[tuple[Values, str]] = [
    ({"replicaCount": "three"}, "replicaCount"),
    ({"replicaCount": -1}, "replicaCount"),
    ({"replicas": 3}, "replicas"),
    ({"image": {"tag": 1.5}}, "tag"),
    ({"image": {"digest": "sha256:abc"}}, "digest"),
    ({"store": {"type": "postgres"}}, "type"),
    ({"store": {"spanner": {"projectId": "p"}}}, "projectId"),
    ({"store": {"spanner": {"emulatorHost": "emulator"}}}, "emulatorHost"),
    ({"store": {"sqlite": {"persistence": {"size": "much"}}}}, "size"),
    ({"scheduler": {"hold": 0}}, "hold"),
    ({"scheduler": {"logFormat": "xml"}}, "logFormat"),
    ({"luigiConfig": {"scheduler": "retry_delay=1"}}, "luigiConfig"),
    ({"service": {"port": 70000}}, "port"),
    ({"service": {"type": "ExternalName"}}, "type"),
    ({"ingress": {"hosts": ["luigi.example.com"]}}, "hosts"),
    ({"podDisruptionBudget": {"maxUnavailable": "most"}}, "maxUnavailable"),
    ({"networkPolicy": {"egress": {"cidrs": ["everywhere"]}}}, "cidrs"),
    ({"extraEnv": {"A": "b"}}, "extraEnv"),
    ({"extraEnv": [{"name": "A", "vaule": "b"}]}, "vaule"),
    ({"livenessProbe": {"path": "/healthz"}}, "path"),
    ({"metrics": {"prometheusRule": {"disabled": ["NoSuchAlert"]}}}, "disabled"),
    ({"metrics": {"serviceMonitor": {"interval": 15}}}, "interval"),
    ({"metrics": {"serviceMonitor": {"relabelings": [{"source": "a"}]}}}, "source"),
    ({"scheduler": {"hold": 10}}, "hold"),
    ({"resources": {"limits": {"memory": "lots"}}}, "memory"),
    ({"securityContext": {"readOnlyRootfs": True}}, "readOnlyRootfs"),
    ({"podSecurityContext": {"runAsUser": "root"}}, "runAsUser"),
    ({"livenessProbe": {"httpGet": {"pfad": "/healthz"}}}, "pfad"),
    ({"affinity": {"podAntiaffinity": {}}}, "podAntiaffinity"),
    ({"tolerations": [{"kee": "a"}]}, "kee"),
    ({"networkPolicy": {"from": [{"namespaceselector": {}}]}}, "namespaceselector"),
    ({"fullnameOverride": "x" * 45}, "fullnameOverride"),
]


@pytest.mark.parametrize(("values", "named"), WRONG, ids=[f"{number} {named}" for number, (_, named) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_by_name(helm: Helm, values: Values, named: str) -> None:
    assert named in helm.refusal(SPANNER, values).partition("schema")[2]


CONTRADICTIONS: list[tuple[Values, Values, str]] = [
    (SQLITE, {"replicaCount": 2}, "a SQLite file cannot be shared between pods. Set replicaCount to 1, or store.type to spanner"),
    (SQLITE, {"autoscaling": {"enabled": True}}, "Set autoscaling.enabled to false"),
    ({}, {}, "Empty: store.spanner.project, store.spanner.instance, store.spanner.database. Say which"),
    (SPANNER, {"store": {"spanner": {"database": ""}}}, "Empty: store.spanner.database. Say which"),
    (SPANNER, {"autoscaling": {"enabled": True, "minReplicas": 6}}, "minReplicas is larger"),
    (SPANNER, {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": None}}, "needs a target"),
    (SPANNER, {"terminationGracePeriodSeconds": 18}, "calls under way would be killed"),
    (SPANNER, {"scheduler": {"drain": 40}}, "calls under way would be killed"),
    (SPANNER, {"podDisruptionBudget": {"minAvailable": 1}}, "exclude each other"),
    (SPANNER, {"podDisruptionBudget": {"maxUnavailable": None}}, "needs minAvailable or maxUnavailable"),
    (SPANNER, {"ingress": {"enabled": True}}, "needs ingress.hosts"),
    (SPANNER, {"httpRoute": {"enabled": True}}, "needs httpRoute.parentRefs"),
    (EVERYTHING, {"metrics": {"podMonitor": {"enabled": True}}}, "twice too large"),
    (EVERYTHING, {"store": {"spanner": {"emulatorHost": "emulator:9010"}}}, "takes no credentials"),
    (SPANNER, {"migration": {"serviceAccount": {"create": False}}}, "would use the service account of the replicas"),
    (
        SPANNER,
        {"serviceAccount": {"name": "same"}, "migration": {"useHooks": False, "serviceAccount": {"name": "same"}}},
        "would use the service account of the replicas",
    ),
    (SPANNER, {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 3}}, "no node that has one could be drained"),
    (SPANNER, {"strategy": {"rollingUpdate": {"maxSurge": 0}}}, "no pod could ever be replaced"),
    (SPANNER, {"livenessProbe": {"exec": {"command": ["true"]}}}, "livenessProbe asks in two ways, httpGet and exec"),
    (SPANNER, {"luigiConfig": {"luigi_spanner": {"hold": 9}}}, "luigiConfig.luigi_spanner would have no effect"),
    (SPANNER, {"luigiConfig": {"email": {"text": "one\n#two"}}}, "Luigi would take it for a comment"),
    (SPANNER, {"extraEnv": [{"name": "LUIGI_SPANNER_DRAIN", "value": "300"}]}, "extraEnv names LUIGI_SPANNER_DRAIN"),
    (SPANNER, {"extraArgs": ["--drain=300"]}, "extraArgs has --drain=300"),
    (SPANNER, {"networkPolicy": {"egress": {"enabled": True}}}, "no effect without networkPolicy.enabled"),
    (SPANNER, {"service": {"nodePort": 30000}}, "service.type is ClusterIP"),
]


@pytest.mark.parametrize(("base", "values", "sentence"), CONTRADICTIONS, ids=[sentence[:30] for *_, sentence in CONTRADICTIONS])
def test_a_contradiction_is_refused_with_a_sentence(helm: Helm, base: Values, values: Values, sentence: str) -> None:
    assert sentence in helm.refusal(merged(base, values))
