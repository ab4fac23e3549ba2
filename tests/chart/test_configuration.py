"""luigi.cfg, as Luigi itself reads it; rules and dashboard, as Prometheus does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts import CHART, ROOT, SPANNER, Helm, one
from luigi.configuration.cfg_parser import LuigiConfigParser
from matrix import CASES, EVERYTHING
from programs import promtool

pytestmark = pytest.mark.slow

MONITORING = ROOT / "examples" / "monitoring"


def parsed(helm: Helm, directory: Path, *values: Any) -> LuigiConfigParser:
    """The rendered luigi.cfg, read by Luigi."""
    config = one([found for found in helm.template(*values) if found["kind"] == "ConfigMap"], "ConfigMap", "luigi-spanner")
    path = directory / "luigi.cfg"
    path.write_text(config["data"]["luigi.cfg"])
    parser = LuigiConfigParser()
    assert parser.read([str(path)]) == [str(path)]
    return parser


@pytest.mark.parametrize("name", CASES)
def test_luigi_reads_every_configuration(helm4: Helm, tmp_path: Path, name: str) -> None:
    parser = parsed(helm4, tmp_path, *CASES[name])
    assert parser.getint("scheduler", "remove_delay") in (600, 3600)


def test_values_arrive_as_they_were_given(helm: Helm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONCALL", "oncall@example.com")
    parser = parsed(helm, tmp_path, EVERYTHING)
    assert parser.getboolean("scheduler", "record_task_history") is True
    assert parser.get("scheduler", "retry_delay") == "1000000"
    assert parser.getfloat("scheduler", "disable_persist") == 0.5
    assert parser.getint("resources", "licences") == 12
    assert parser.get("email", "receiver") == "oncall@example.com", "a variable of the container"
    assert not parser.has_option("email", "prefix"), "null leaves a key out"
    assert parser.get("batch_email", "note") == "two\nlines"


AWKWARD: dict[str, Any] = {
    "url": "http://a:b/?c=d;e#f",
    "quoted": 'it\'s "so"',
    "json": {"a": [1, 2]},
    "list": ["a", "b"],
    "equals": "a = b: c",
    "unicode": "Größe",
    "percent": "100%%",
    "zero": 0,
    "no": False,
    "empty": "",
    "large": 123456789012,
    "small": 0.000001,
}


def test_awkward_values(helm: Helm, tmp_path: Path) -> None:
    parser = parsed(helm, tmp_path, SPANNER, {"luigiConfig": {"awkward": AWKWARD}})
    found = dict(parser.items("awkward"))
    assert json.loads(found.pop("json")) == {"a": [1, 2]}
    assert json.loads(found.pop("list")) == ["a", "b"]
    assert float(found.pop("small")) == 0.000001
    assert found == {
        "url": "http://a:b/?c=d;e#f",
        "quoted": 'it\'s "so"',
        "equals": "a = b: c",
        "unicode": "Größe",
        "percent": "100%",
        "zero": "0",
        "no": "false",
        "empty": "",
        "large": "123456789012",
    }


def test_alerts_and_dashboard_are_those_that_the_repository_tests() -> None:
    for name in ("alerts.yaml", "dashboard.json"):
        assert (CHART / "files" / name).read_bytes() == (MONITORING / name).read_bytes(), "make chart-docs copies them"


def groups(helm: Helm, directory: Path, *values: Any) -> dict[str, Any]:
    """The rendered alerts by name, after promtool has read them."""
    spec = one(helm.template(*values), "PrometheusRule")["spec"]
    path = directory / "rules.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert "SUCCESS" in promtool("check", "rules", path)
    return {rule["alert"]: rule for group in spec["groups"] for rule in group["rules"]}


def test_prometheus_reads_the_rules(helm: Helm, tmp_path: Path) -> None:
    rules = groups(helm, tmp_path, SPANNER, {"metrics": {"prometheusRule": {"enabled": True}}})
    original = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    assert rules == {rule["alert"]: rule for group in original for rule in group["rules"]}


def test_rules_can_be_left_out_and_changed(helm4: Helm, tmp_path: Path) -> None:
    rules = groups(helm4, tmp_path, EVERYTHING)
    assert "LuigiSpannerDisabledTasks" not in rules
    stuck = rules["LuigiSpannerTaskStuckRunning"]
    assert stuck["for"] == "10m" and stuck["labels"] == {"severity": "info", "team": "data"}
    assert rules["LuigiSpannerNoReplica"]["labels"] == {"severity": "critical", "team": "data"}
    assert stuck["annotations"]["runbook_url"] == "https://runbooks.example.com/luigi#luigispannertaskstuckrunning"


def test_the_dashboard_is_found_by_grafana(helm4: Helm) -> None:
    found = one(helm4.template(EVERYTHING), "ConfigMap", "-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"]["folder"] == "Data"
    assert json.loads(found["data"]["release-luigi-spanner.json"]) == json.loads((MONITORING / "dashboard.json").read_text())


@pytest.mark.parametrize(
    ("kind", "values", "part"),
    [("ServiceMonitor", EVERYTHING, "endpoints"), ("PodMonitor", CASES["pod monitor"][1], "podMetricsEndpoints")],
)
def test_our_label_namespace_survives_the_scrape(helm4: Helm, kind: str, values: Any, part: str) -> None:
    """Alerts and dashboard go by it; without `honorLabels` it would be the pod's Kubernetes namespace."""
    monitor = one(helm4.template(SPANNER, values), kind)
    (endpoint,) = monitor["spec"][part]
    assert endpoint["honorLabels"] is True
    assert endpoint["port"] == "http" and endpoint["path"] == "/metrics"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
