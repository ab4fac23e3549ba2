"""The chart's container is run as the end-to-end tests run servers; Prometheus's programs are the monitoring tests'."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

for room in ("endtoend", "monitoring"):
    if str(TESTS / room) not in sys.path:
        sys.path.append(str(TESTS / room))

from charts import MAJORS, Helm, find_helm  # noqa: E402


@pytest.fixture(params=MAJORS, ids=lambda major: f"helm{major}")
def helm(request: pytest.FixtureRequest) -> Helm:
    """Each major version of Helm that the chart is for."""
    return find_helm(request.param)


@pytest.fixture
def helm4() -> Helm:
    """The newest, where one is enough."""
    return find_helm(MAJORS[-1])
