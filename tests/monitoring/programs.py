"""Prometheus and promtool for tests: on PATH, or where `.ci/tools` unpacks them."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from processes import ADDRESS, end, free_port, spawn, tail, wait_until

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".tools" / "bin"
RULES = ROOT / "examples" / "monitoring" / "alerts.yaml"
DASHBOARD = RULES.with_name("dashboard.json")
HOW_TO_GET_IT = "needs prometheus and promtool: `.ci/tools` gets them on Debian and Ubuntu (package prometheus)"

SCRAPE_SECONDS = 0.25
PATIENCE = 30.0


def find(program: str) -> str:
    """Where the program is. Skips the test without it, or fails it under CI=true."""
    found = shutil.which(program) or shutil.which(program, path=str(UNPACKED))
    if found is not None:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(HOW_TO_GET_IT, pytrace=False)
    pytest.skip(HOW_TO_GET_IT)


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What promtool says; it must say that all is well."""
    done = subprocess.run(
        [find("promtool"), *map(str, arguments)], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE
    )
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said


def dashboard_queries() -> list[tuple[str, str]]:
    """Every query of the dashboard, with its panel's title."""
    panels = [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


class Prometheus:
    """A Prometheus that scrapes these ports of this machine, four times a second, and evaluates `rules`. Ended with the block."""

    def __init__(self, directory: Path, ports: Sequence[int], rules: Path) -> None:
        self._directory = directory
        self._port = free_port()
        self._log = directory / "prometheus.log"
        every = f"{SCRAPE_SECONDS * 1000:.0f}ms"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": "luigi-spanner", "static_configs": [{"targets": [f"{ADDRESS}:{port}" for port in ports]}]}
            ],
        }
        self._config = directory / "prometheus.yaml"
        self._config.write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        command = [
            find("prometheus"),
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._directory / 'tsdb'}",
            f"--web.listen-address={ADDRESS}:{self._port}",
        ]
        self._process = spawn(command, self._log, os.environ)
        try:
            self.wait(lambda: self._get("/-/ready") is not None, "Prometheus is ready")
        except BaseException:
            end(self._process)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        end(self._process)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition holds; what Prometheus logged comes with the failure."""
        try:
            wait_until(condition, PATIENCE, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{tail(self._log)}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector that an expression gives now: metric and value each. Fails where Prometheus refuses it."""
        answer = self._get(f"/api/v1/query?{urlencode({'query': expression})}")
        assert answer is not None and answer["status"] == "success", (expression, answer)
        result = answer["data"]["result"]
        if answer["data"]["resultType"] == "scalar":
            return [{"metric": {}, "value": result}]
        return list(result)

    def number(self, expression: str) -> float | None:
        """The value of an expression that gives one; None where it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, (expression, found)
        return float(found[0]["value"][1]) if found else None

    def wait_for_scrape(self, replicas: int) -> None:
        """Wait until every replica has been scraped once more."""
        now = time.time()
        scraped = f"count(timestamp(luigi_spanner_serving) > {now:.3f})"
        self.wait(lambda: self.number(scraped) == replicas, "every replica has been scraped")

    def rules(self) -> list[dict[str, Any]]:
        answer = self._get("/api/v1/rules")
        assert answer is not None
        return [rule for group in answer["data"]["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {rule["name"] for rule in self.rules() if rule["state"] == "firing"}

    def _get(self, path: str) -> Any:
        """The answer as JSON, or as text; None unless it is one."""
        connection = http.client.HTTPConnection(ADDRESS, self._port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        if response.headers.get("Content-Type", "").startswith("application/json"):
            return json.loads(body)
        return body.decode() if response.status == 200 else None
