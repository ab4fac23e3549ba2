"""Values that together use everything in the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from charts import CHART, SPANNER, SQLITE, Values, merged

PER_USE = sorted(CHART.glob("values-*.yaml"))

PEER = {"namespaceSelector": {"matchLabels": {"team": "data"}}}

EVERYTHING: Values = {
    "image": {"repository": "registry.example.com/luigi-spanner", "digest": "sha256:" + 64 * "a"},
    "imagePullSecrets": [{"name": "registry"}],
    "commonLabels": {"team": "data", "app.kubernetes.io/part-of": "platform", "app.kubernetes.io/component": "theirs"},
    "commonAnnotations": {"example.com/owner": "data"},
    "store": {"spanner": {"project": "p", "instance": "i", "database": "d"}},
    "googleCredentials": {"existingSecret": "key-file", "key": "key.json"},
    "scheduler": {
        "journalKeep": 1000000,
        "historyDays": 0,
        "maxBodyBytes": 33554432,
        "metricsResources": 10,
        "metricsTaskSeries": 1000,
    },
    "luigiConfig": {
        "scheduler": {"record_task_history": True, "retry_delay": 1000000, "disable_persist": 0.5},
        "resources": {"licences": 12},
        "email": {"format": "html", "prefix": None, "receiver": "${ONCALL}"},
        "batch_email": {"note": "two\nlines"},
    },
    "serviceAccount": {"annotations": {"iam.gke.io/gcp-service-account": "a@p.example"}},
    "migration": {
        "annotations": {"example.com/a": "b"},
        "existingSecret": "admin-key",
        "podAnnotations": {"sidecar.istio.io/inject": "false"},
        "podLabels": {"e": "f", "app.kubernetes.io/component": "theirs"},
    },
    "test": {"podAnnotations": {"sidecar.istio.io/inject": "false"}, "podLabels": {"e": "f"}},
    "service": {
        "type": "LoadBalancer",
        "port": 80,
        "nodePort": 30082,
        "annotations": {"example.com/internal": "true"},
        "labels": {"a": "b", "app.kubernetes.io/component": "theirs"},
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "trafficDistribution": "PreferClose",
        "externalTrafficPolicy": "Local",
        "loadBalancerClass": "example.com/internal",
        "ipFamilyPolicy": "PreferDualStack",
    },
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "labels": {"a": "b"},
        "annotations": {"a": "b"},
        "hosts": [{"host": "luigi.example.com", "paths": [{"path": "/", "pathType": "Prefix"}]}, {"host": "other.example.com"}],
        "tls": [{"secretName": "tls", "hosts": ["luigi.example.com"]}],
    },
    "httpRoute": {
        "enabled": True,
        "labels": {"a": "b"},
        "parentRefs": [{"name": "internal", "namespace": "gateways"}],
        "hostnames": ["l.example.com"],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}],
    },
    "autoscaling": {
        "enabled": True,
        "targetMemoryUtilizationPercentage": 80,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    },
    "networkPolicy": {
        "enabled": True,
        "from": [PEER],
        "extraIngress": [{"from": [PEER]}],
        "egress": {"enabled": True, "cidrs": ["10.0.0.0/8"], "extra": [{"ports": [{"port": 25}]}]},
    },
    "nodeSelector": {"pool": "services"},
    "tolerations": [{"key": "services", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 2,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "luigi-spanner"}},
        }
    ],
    "priorityClassName": "platform",
    "schedulerName": "theirs",
    "runtimeClassName": "gvisor",
    "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["mail"]}],
    "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    "lifecycle": {"preStop": {"exec": {"command": ["true"]}}},
    "annotations": {"reloader.example.com/auto": "true"},
    "minReadySeconds": 5,
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d", "app.kubernetes.io/component": "theirs", "app.kubernetes.io/name": "theirs"},
    "extraEnv": [
        {"name": "ONCALL", "valueFrom": {"secretKeyRef": {"name": "mail", "key": "oncall"}}},
        {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"},
    ],
    "extraEnvFrom": [{"secretRef": {"name": "more"}}],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "extraContainers": [{"name": "beside", "image": "beside:1"}],
    "extraInitContainers": [{"name": "ahead", "image": "ahead:1"}],
    "extraArgs": ["--address=0.0.0.0"],
    "extraObjects": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-more"}, "data": {"a": "b"}},
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {{ .Release.Name }}-text\n",
    ],
    "metrics": {
        "serviceMonitor": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "interval": "15s",
            "scrapeTimeout": "10s",
            "relabelings": [{"sourceLabels": ["__meta_kubernetes_namespace"], "targetLabel": "kubernetes_namespace"}],
            "metricRelabelings": [{"regex": "python_.*", "sourceLabels": ["__name__"], "action": "drop"}],
        },
        "prometheusRule": {
            "enabled": True,
            "labels": {"release": "prometheus"},
            "disabled": ["LuigiSpannerDisabledTasks"],
            "alertLabels": {"team": "data"},
            "overrides": {"LuigiSpannerTaskStuckRunning": {"for": "10m", "labels": {"severity": "info"}}},
            "runbookUrl": "https://runbooks.example.com/luigi",
        },
        "dashboard": {"enabled": True, "annotations": {"folder": "Data"}},
    },
}

CASES: dict[str, list[Values | Path]] = {
    "spanner": [SPANNER],
    "sqlite": [SQLITE],
    "everything": [EVERYTHING],
    "sqlite with everything": [
        merged(EVERYTHING, {**SQLITE, "googleCredentials": {"existingSecret": ""}, "autoscaling": {"enabled": False}})
    ],
    "sqlite on a claim": [SQLITE, {"store": {"sqlite": {"persistence": {"existingClaim": "state"}}}}],
    "sqlite without a claim": [SQLITE, {"store": {"sqlite": {"persistence": {"enabled": False}}}}],
    "without hooks": [SPANNER, {"migration": {"useHooks": False, "ttlSecondsAfterFinished": 60}}],
    "without migration": [SPANNER, {"migration": {"enabled": False}}],
    "without accounts": [
        SPANNER,
        {"serviceAccount": {"create": False, "name": "theirs"}, "migration": {"serviceAccount": {"create": False}}},
    ],
    "pod monitor": [SPANNER, {"metrics": {"podMonitor": {"enabled": True, "labels": {"release": "prometheus"}}}}],
    "budget of those that are there": [SPANNER, {"podDisruptionBudget": {"maxUnavailable": None, "minAvailable": "50%"}}],
    "recreated, nothing to be there": [
        SPANNER,
        {"strategy": {"type": "Recreate"}, "podDisruptionBudget": {"maxUnavailable": None, "minAvailable": 0}},
    ],
    "several regions": [
        *(CHART / f"values-{use}.yaml" for use in ("one-region", "several-regions")),
        merged(SPANNER, {"migration": {"enabled": False}}),
    ],
    "without probes and placement": [
        SPANNER,
        {"startupProbe": None, "zoneSpread": "", "affinity": {}, "podDisruptionBudget": {"enabled": False}},
    ],
    **{path.stem: [path, SPANNER] if path.stem != "values-sqlite" else [path] for path in PER_USE},
}


def case(name: str) -> list[Any]:
    """The values of a case."""
    return CASES[name]
