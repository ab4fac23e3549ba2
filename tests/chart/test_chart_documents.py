"""The chart's documents say what its values are."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from string import Template
from typing import Any

import yaml
from charts import CHART, ROOT, SQLITE, Helm, one

from luigi_spanner._version import __version__


def describe() -> Any:
    spec = importlib.util.spec_from_file_location("describe", ROOT / "helm" / "describe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_schema_and_readme_repeat_the_comments_of_the_values() -> None:
    for path, text in describe().outputs().items():
        assert path.read_text() == text, f"make chart-docs writes {path.name}"


def test_every_value_is_described_and_has_a_place_in_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    undescribed = [path for path, part in parts(schema, values) if "description" not in part]
    assert undescribed == []


def parts(schema: dict[str, Any], values: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that is not made of others, with what the schema says of it."""
    if not schema.get("properties") or "description" in schema:
        yield path, schema
        return
    assert schema["additionalProperties"] is False, f"{path} takes any key"
    assert set(values) == set(schema["properties"]) - (set() if path else set(describe().UNUSED))
    for name, value in values.items():
        yield from parts(schema["properties"][name], value, f"{path}.{name}".lstrip("."))


def test_the_chart_is_of_this_release() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert f"## {chart['version']}" in (CHART / "CHANGELOG.md").read_text()


def test_the_documented_installation_is_what_the_document_says(helm4: Helm) -> None:
    """The values file that a reader writes, with the names that the other steps use."""
    document = (ROOT / "docs" / "kubernetes.md").read_text()
    _, _, rest = document.partition("cat > mine.yaml <<END\n")
    mine, _, _ = rest.partition("END\n")
    where = {
        "REGISTRY": "registry.example.com/data",
        "PROJECT": "p",
        "INSTANCE": "i",
        "DATABASE": "d",
        "CLUSTER_NAMESPACE": "luigi",
    }
    values = yaml.safe_load(Template(mine).substitute(where))
    objects = helm4.template(CHART / "values-one-region.yaml", values, release="luigi-spanner")
    accounts = {
        found["metadata"]["name"]: found["metadata"]["annotations"]["iam.gke.io/gcp-service-account"]
        for found in objects
        if found["kind"] == "ServiceAccount"
    }
    assert accounts == {name: f"{name}@p.iam.gserviceaccount.com" for name in ("luigi-spanner", "luigi-spanner-migration")}
    assert one(objects, "Service")["metadata"]["name"] == "luigi-spanner"
    assert one(objects, "Job")["metadata"]["name"] == "luigi-spanner-migration"
    (peer, _) = one(objects, "NetworkPolicy", "luigi-spanner")["spec"]["ingress"][0]["from"]
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["luigi", "pipelines", "monitoring"]
    sqlite = one(helm4.template(SQLITE, release="luigi-spanner"), "StatefulSet")
    claim = f"{sqlite['spec']['volumeClaimTemplates'][0]['metadata']['name']}-{sqlite['metadata']['name']}-0"
    assert f"`{claim}`" in document
