"""The dashboard in the repository is what its code makes. What its queries give is tried in test_prometheus."""

from __future__ import annotations

import subprocess
import sys

import pytest
from programs import DASHBOARD, dashboard_queries


@pytest.mark.skipif(sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11")
def test_the_dashboard_is_up_to_date() -> None:
    made = subprocess.run([sys.executable, DASHBOARD.with_suffix(".py")], capture_output=True, text=True, check=True).stdout
    assert made == DASHBOARD.read_text(), "run `make dashboard`"


def test_every_panel_asks_something_else() -> None:
    queries = dashboard_queries()
    assert len(queries) > 35
    assert len({(title, query) for title, query in queries}) == len(queries)
    assert all("$namespace" in query for _, query in queries)
