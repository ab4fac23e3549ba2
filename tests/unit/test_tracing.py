"""Which exporters the environment asks for, and what is said of one that cannot be had."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from luigi_spanner import spans
from luigi_spanner.spans import NoExporter, exporter_named
from luigi_spanner.tracing import exporters

OTLP = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "luigi", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://collector:4318"}, ()),
        (OTLP, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({**OTLP, "OTEL_TRACES_EXPORTER": ""}, ("otlp",)),
        ({**OTLP, "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({**OTLP, "OTEL_TRACES_EXPORTER": " console , otlp"}, ("console", "otlp")),
        ({**OTLP, "OTEL_SDK_DISABLED": "TRUE"}, ()),
        ({**OTLP, "OTEL_SDK_DISABLED": "false"}, ("otlp",)),
    ],
)
def test_exporters(environ: dict[str, str], named: tuple[str, ...]) -> None:
    assert exporters(environ) == named


@pytest.mark.parametrize(
    ("name", "environ", "sentence"),
    [
        (
            "otlp",
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "the environment asks for the exporter otlp_proto_grpc, which is not there; install its package",
        ),
        (
            "otlp",
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', which is none of http/protobuf, grpc",
        ),
        ("nobody", {}, "the environment asks for the exporter nobody, which is not there; install its package"),
    ],
)
def test_an_exporter_that_cannot_be_had(name: str, environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(NoExporter) as caught:
        exporter_named(name, environ)
    assert str(caught.value) == sentence


def test_an_exporter_that_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint(name="broken", group=spans.GROUP, value="no_such_module:Exporter")
    monkeypatch.setattr(spans, "entry_points", lambda **_: (broken,))
    with pytest.raises(NoExporter, match=r"^the exporter broken cannot be used: ModuleNotFoundError: No module"):
        exporter_named("broken", {})
