"""What the chart makes, where it counts."""

from __future__ import annotations

import pytest
from charts import NAMESPACE, SPANNER, SQLITE, Helm, Manifest, containers, environment, kinds, one, pods
from matrix import CASES, EVERYTHING, PEER

pytestmark = pytest.mark.slow

SELECTOR = {
    "app.kubernetes.io/name": "luigi-spanner",
    "app.kubernetes.io/instance": "release",
    "app.kubernetes.io/component": "scheduler",
}


def replica(objects: list[Manifest]) -> Manifest:
    """The container of a replica."""
    ((_, pod),) = ((found, pod) for found, pod in pods(objects) if found["kind"] in ("Deployment", "StatefulSet"))
    return next(container for container in pod["containers"] if container["name"] == "scheduler")


def test_by_default(helm: Helm) -> None:
    objects = helm.template(SPANNER)
    assert kinds(objects) == [
        *("ConfigMap", "Deployment", "Job", "Pod", "PodDisruptionBudget", "Service", "ServiceAccount", "ServiceAccount")
    ]
    deployment = one(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 3
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_on_sqlite(helm: Helm) -> None:
    objects = helm.template(SQLITE)
    assert kinds(objects) == ["ConfigMap", "Pod", "Service", "Service", "ServiceAccount", "StatefulSet"]
    found = one(objects, "StatefulSet")
    assert found["spec"]["replicas"] == 1
    assert found["spec"]["podManagementPolicy"] == "Parallel", "else a bad pod is never replaced"
    assert found["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    (claim,) = found["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    mounted = {mount["name"]: mount["mountPath"] for mount in replica(objects)["volumeMounts"]}
    assert environment(replica(objects))["LUIGI_SPANNER_STORE"] == f"sqlite:///{mounted['state']}/luigi.db"
    headless = one(objects, "Service", "-headless")
    assert headless["spec"]["clusterIP"] == "None"
    assert found["spec"]["serviceName"] == headless["metadata"]["name"]


@pytest.mark.parametrize("name", CASES)
def test_every_pod_is_restricted(helm4: Helm, name: str) -> None:
    """As the Pod Security Standard of that name wants it, and with a read-only root besides."""
    for found, pod in pods(helm4.template(*CASES[name])):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False, found["kind"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in containers(pod):
            if container["name"] in ("beside", "ahead"):
                continue
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["resources"]["limits"]["memory"]
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("name", CASES)
def test_every_mount_has_a_volume(helm4: Helm, name: str) -> None:
    for found, pod in pods(helm4.template(*CASES[name])):
        volumes = {volume["name"] for volume in pod["volumes"]}
        volumes |= {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
        assert mounts == volumes


@pytest.mark.parametrize("name", CASES)
def test_everything_that_selects_replicas_finds_them_and_nothing_else(helm4: Helm, name: str) -> None:
    objects = helm4.template(*CASES[name])
    labels = {
        found["kind"]: found["metadata"]["labels"] if found["kind"] == "Pod" else found["spec"]["template"]["metadata"]["labels"]
        for found, _ in pods(objects)
    }
    selectors = [
        found["spec"].get("podSelector", found["spec"].get("selector"))
        for found in objects
        if found["kind"] in ("Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor")
        and found["metadata"]["labels"]["app.kubernetes.io/component"] != "migration"
    ]
    for selector in selectors:
        wanted = selector.get("matchLabels", selector).items()
        assert [kind for kind, had in labels.items() if wanted <= had.items()] in (["Deployment"], ["StatefulSet"])
    services = [found for found in objects if found["kind"] == "Service"]
    for monitor in (found for found in objects if found["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= service["metadata"]["labels"].items() for service in services) == 1


@pytest.mark.parametrize("name", CASES)
def test_names_and_namespaces(helm4: Helm, name: str) -> None:
    objects = helm4.template(*CASES[name])
    ours = [found for found in objects if "labels" in found["metadata"]]
    assert len({(found["kind"], found["metadata"]["name"]) for found in objects}) == len(objects)
    for found in ours:
        assert found["metadata"]["namespace"] == NAMESPACE
        assert len(found["metadata"]["name"]) <= 63
        assert found["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_long_names_fit_and_stay_two(helm4: Helm) -> None:
    names = []
    for release in ("data-platform-production-europe-west1-scheduler-a", "data-platform-production-europe-west1-scheduler-b"):
        objects = helm4.template(SPANNER, {"migration": {"useHooks": False}}, release=release)
        assert max(len(found["metadata"]["name"]) for found in objects) <= 63
        names.append(one(objects, "Deployment")["metadata"]["name"])
    assert len(set(names)) == 2


def test_a_release_may_be_named_by_a_number(helm4: Helm) -> None:
    for found in helm4.template(EVERYTHING, release="2024"):
        assert all(isinstance(value, str) for value in found["metadata"].get("labels", {}).values()), found["kind"]


def test_labels_of_users_do_not_hide_ours(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    for found in objects:
        labels = found["metadata"].get("labels")
        if labels is not None:
            assert labels["app.kubernetes.io/part-of"] == "platform" and labels["team"] == "data"
            assert labels["app.kubernetes.io/component"] != "theirs"
    assert one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]["c"] == "d"
    assert one(objects, "Job")["spec"]["template"]["metadata"]["labels"]["e"] == "f"


def test_null_leaves_an_option_out(helm4: Helm) -> None:
    assert "LUIGI_SPANNER_HOLD" not in environment(replica(helm4.template(SPANNER, {"scheduler": {"hold": None}})))


def test_probes_ask_the_right_routes(helm4: Helm) -> None:
    container = replica(helm4.template(SPANNER))
    routes = {probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert routes == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    assert [port["name"] for port in container["ports"]] == ["http"]


def test_there_is_time_to_drain(helm4: Helm) -> None:
    pod = one(helm4.template(SPANNER), "Deployment")["spec"]["template"]["spec"]
    variables = environment(pod["containers"][0])
    drain, hold = float(variables["LUIGI_SPANNER_DRAIN"]), float(variables["LUIGI_SPANNER_HOLD"])
    assert drain >= 10
    assert pod["terminationGracePeriodSeconds"] >= drain + hold + 10


def test_replicas_keep_apart(helm4: Helm) -> None:
    pod = one(helm4.template(SPANNER), "Deployment")["spec"]["template"]["spec"]
    (spread,) = pod["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread["nodeTaintsPolicy"] == "Honor"
    assert spread["labelSelector"]["matchLabels"] == SELECTOR
    (rule,) = pod["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert rule["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
    assert rule["podAffinityTerm"]["labelSelector"]["matchLabels"] == SELECTOR


def test_large_numbers_stay_whole(helm4: Helm) -> None:
    variables = environment(replica(helm4.template(EVERYTHING)))
    assert variables["LUIGI_SPANNER_JOURNAL_KEEP"] == "1000000"
    assert variables["LUIGI_SPANNER_MAX_BODY_BYTES"] == "33554432"
    assert variables["LUIGI_SPANNER_HISTORY_DAYS"] == "0"
    assert "LUIGI_SPANNER_JOURNAL_KEEP" not in environment(replica(helm4.template(SPANNER)))


def test_no_key_file_unless_a_secret_is_named(helm4: Helm) -> None:
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in environment(replica(helm4.template(SPANNER)))
    objects = helm4.template(EVERYTHING)
    assert environment(replica(objects))["GOOGLE_APPLICATION_CREDENTIALS"] == "/etc/google/key.json"
    secrets = {
        found["kind"]: [volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume]
        for found, pod in pods(objects)
    }
    assert secrets == {"Deployment": ["key-file"], "Job": ["admin-key"], "Pod": []}
    made = [found["metadata"]["name"] for found in objects if found["kind"] == "Secret"]
    assert made == ["release-text"], "the chart itself makes no Secret"


def test_the_migration_runs_ahead(helm: Helm) -> None:
    objects = helm.template(SPANNER)
    job, account = one(objects, "Job"), one(objects, "ServiceAccount", "-migration")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert "hook-succeeded" in account["metadata"]["annotations"]["helm.sh/hook-delete-policy"], "it outlives no release"
    weights = [int(found["metadata"]["annotations"].get("helm.sh/hook-weight", 0)) for found in (account, job)]
    assert weights == sorted(set(weights)), "what a hook needs must be there before it"
    needed = {volume["configMap"]["name"] for volume in job["spec"]["template"]["spec"]["volumes"] if "configMap" in volume}
    assert needed == set(), "no object of the release is there yet"


def test_without_hooks_replicas_wait_and_jobs_have_names_of_their_own(helm4: Helm) -> None:
    values = {"migration": {"useHooks": False}}
    objects, others = helm4.template(SPANNER, values), helm4.template(SPANNER, values, {"image": {"tag": "0.2.0"}})
    job = one(objects, "Job")
    assert "helm.sh/hook" not in job["metadata"].get("annotations", {})
    assert job["metadata"]["name"] != one(others, "Job")["metadata"]["name"]
    assert job["metadata"]["name"] == one(helm4.template(SPANNER, values), "Job")["metadata"]["name"]
    (waiting,) = one(objects, "Deployment")["spec"]["template"]["spec"]["initContainers"]
    assert "luigi-spanner db check" in waiting["command"][-1]
    assert "initContainers" not in one(helm4.template(SPANNER), "Deployment")["spec"]["template"]["spec"]


def test_a_changed_configuration_replaces_pods(helm4: Helm) -> None:
    checksums = {
        one(helm4.template(SPANNER, {"luigiConfig": {"scheduler": {"retry_delay": delay}}}), "Deployment")["spec"]["template"][
            "metadata"
        ]["annotations"]["checksum/config"]
        for delay in (1, 2)
    }
    assert len(checksums) == 2


def test_a_digest_comes_before_a_tag(helm4: Helm) -> None:
    assert replica(helm4.template(EVERYTHING))["image"] == f"registry.example.com/luigi-spanner@sha256:{64 * 'a'}"
    assert replica(helm4.template(SPANNER, {"image": {"tag": "2.0"}}))["image"] == "luigi-spanner:2.0"
    assert replica(helm4.template(SPANNER))["image"] == "luigi-spanner:0.1.0"


def test_autoscaling_takes_the_number_of_replicas_over(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    scaler, deployment = one(objects, "HorizontalPodAutoscaler"), one(objects, "Deployment")
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert {metric["resource"]["name"] for metric in scaler["spec"]["metrics"]} == {"cpu", "memory"}


def test_a_budget_of_zero_is_one(helm4: Helm) -> None:
    budget = one(helm4.template(*CASES["recreated, nothing to be there"]), "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 0 and "maxUnavailable" not in budget
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_recreating_takes_no_numbers(helm4: Helm) -> None:
    found = one(helm4.template(*CASES["recreated, nothing to be there"]), "Deployment")
    assert found["spec"]["strategy"] == {"type": "Recreate"}


def test_no_addresses_are_no_way_out(helm4: Helm) -> None:
    values = {"networkPolicy": {"enabled": True, "egress": {"enabled": True, "cidrs": []}}}
    policy = one(helm4.template(SPANNER, values), "NetworkPolicy", "luigi-spanner")["spec"]
    assert 443 not in [port["port"] for rule in policy["egress"] for port in rule["ports"]]


def test_calls_are_held_before_endpoints_go(helm4: Helm) -> None:
    container = replica(helm4.template(SPANNER))
    probe = container["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > float(environment(container)["LUIGI_SPANNER_HOLD"])


def test_a_single_replica_has_no_budget(helm4: Helm) -> None:
    """It would keep its node from ever being drained."""
    assert "PodDisruptionBudget" not in kinds(helm4.template(SPANNER, {"replicaCount": 1}))


def test_who_may_call_and_who_is_called(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    policy = one(objects, "NetworkPolicy", "luigi-spanner")["spec"]
    of_migration = one(objects, "NetworkPolicy", "-migration")["spec"]
    assert of_migration["egress"] == policy["egress"] and of_migration["ingress"] == []
    job = one(objects, "Job")["spec"]["template"]["metadata"]["labels"]
    assert of_migration["podSelector"]["matchLabels"].items() <= job.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    test = {"podSelector": {"matchLabels": {**SELECTOR, "app.kubernetes.io/component": "test"}}}
    assert policy["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}], "from": [PEER, test]}, {"from": [PEER]}]
    ports = [port["port"] for rule in policy["egress"] for port in rule["ports"]]
    assert ports == [53, 53, 443, 80, 988, 25]
    values = {"networkPolicy": {"enabled": True, "egress": {"enabled": True}}}
    objects = helm4.template(SPANNER, values, {"store": {"spanner": {"emulatorHost": "emulator:9010"}}})
    policy = one(objects, "NetworkPolicy", "luigi-spanner")["spec"]
    assert policy["ingress"][0]["from"] == [{"podSelector": {}}, test]
    assert policy["egress"][-1]["ports"] == [{"port": 9010, "protocol": "TCP"}]


def test_routes_lead_to_the_service(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    service = one(objects, "Service")
    named = {"name": service["metadata"]["name"], "port": {"name": "http"}}
    rules = one(objects, "Ingress")["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ["luigi.example.com", "other.example.com"]
    assert [path["backend"]["service"] for rule in rules for path in rule["http"]["paths"]] == [named, named]
    (rule,) = one(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}]


def test_the_test_asks_through_the_service(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    pod = one(objects, "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["command"][-1] == f"http://{one(objects, 'Service')['metadata']['name']}:80"


def test_more_objects_may_have_templates(helm4: Helm) -> None:
    objects = helm4.template(EVERYTHING)
    assert one(objects, "ConfigMap", "-more")["metadata"]["name"] == "release-more"
    assert one(objects, "Secret")["metadata"]["name"] == "release-text"
