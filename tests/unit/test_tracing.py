"""Which exporters the environment asks for."""

from __future__ import annotations

import pytest

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
