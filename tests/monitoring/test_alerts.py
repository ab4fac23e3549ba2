"""The alert rules, each tried by promtool: when it fires, what it says, and when it does not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import ROOT, RULES, promtool

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()

LOADED = {rule["alert"]: rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}

A, B = 'instance="a",namespace="blue"', 'instance="b",namespace="blue"'
COMMITS = "luigi_spanner_commit_duration_seconds_count"
DAY = 24 * 60


@dataclass(frozen=True, kw_only=True)
class Case:
    """Series by the minute as promtool writes them; the alert fires at `at` minutes, with these labels and this summary, or not
    (None), and does not yet at `before`."""

    alert: str
    series: dict[str, str]
    at: int
    before: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    summary: str | None = None


CASES = [
    Case(
        alert="LuigiSpannerNoReplica",
        series={f"luigi_spanner_serving{{{A}}}": "1x5 _x20", f"luigi_spanner_serving{{{B}}}": "0x30"},
        at=12,
        before=4,
        labels={"namespace": "blue"},
        summary="No replica serves namespace blue",
    ),
    Case(  # ever since there are rules
        alert="LuigiSpannerNoReplica",
        series={f"luigi_spanner_serving{{{B}}}": "0x30"},
        at=2,
        summary="No replica serves at all",
    ),
    *(
        Case(  # soon, beside others, and still hours later
            alert="LuigiSpannerNoReplica",
            series={
                f"luigi_spanner_serving{{{A}}}": "1x5 _x400",
                'luigi_spanner_serving{instance="c",namespace="green"}': "1x400",
            },
            at=at,
            labels={"namespace": "blue"},
            summary="No replica serves namespace blue",
        )
        for at in (12, 63, 300)
    ),
    Case(
        alert="LuigiSpannerNoReplica",
        series={f"luigi_spanner_serving{{{A}}}": "1x5 _x100", f"luigi_spanner_serving{{{B}}}": "1x100"},
        at=63,
    ),
    Case(
        alert="LuigiSpannerReplicaFailed",
        series={f"luigi_spanner_serving{{{A}}}": "1 1 0x10", f"luigi_spanner_serving{{{B}}}": "1x20"},
        at=4,
        before=1,
        labels={"namespace": "blue", "instance": "a"},
        summary="Replica a can serve no more",
    ),
    Case(
        alert="LuigiSpannerReplicaBehind",
        series={
            f"luigi_spanner_journal_head_seq{{{A}}}": "5000x10",
            f"luigi_spanner_journal_applied_seq{{{A}}}": "5000x10",
            f"luigi_spanner_journal_head_seq{{{B}}}": "1000x10",
            f"luigi_spanner_journal_applied_seq{{{B}}}": "1000x10",
            'luigi_spanner_journal_applied_seq{instance="c",namespace="green"}': "7x10",
            'luigi_spanner_journal_head_seq{instance="c",namespace="green"}': "7x10",
        },
        at=3,
        before=1,
        labels={"namespace": "blue", "instance": "b"},
        summary="Replica b is 4000 entries behind the journal",
    ),
    Case(
        alert="LuigiSpannerReplicaBehind",
        series={
            f"luigi_spanner_journal_head_seq{{{A}}}": "5000x10",
            f"luigi_spanner_journal_applied_seq{{{A}}}": "5000x10",
            f"luigi_spanner_journal_applied_seq{{{B}}}": "4990x10",
        },
        at=9,
    ),
    Case(
        alert="LuigiSpannerStoreSilent",
        series={f"luigi_spanner_store_contact_age_seconds{{{A}}}": "1 60+60x10"},
        at=3,
        before=1,
        labels={"namespace": "blue", "instance": "a"},
        summary="The store has not answered replica a for 3m 0s",
    ),
    Case(alert="LuigiSpannerStoreSilent", series={f"luigi_spanner_store_contact_age_seconds{{{A}}}": "1x20"}, at=15),
    Case(
        alert="LuigiSpannerCommitsFailing",
        series={f'{COMMITS}{{{A},outcome="committed"}}': "0+90x20", f'{COMMITS}{{{A},outcome="unknown"}}': "0+10x20"},
        at=12,
        before=4,
        labels={"namespace": "blue", "instance": "a"},
        summary="10% of the commits of replica a fail",
    ),
    Case(
        alert="LuigiSpannerCommitsFailing",
        series={f'{COMMITS}{{{A},outcome="committed"}}': "0+90x20", f'{COMMITS}{{{A},outcome="conflict"}}': "0+90x20"},
        at=15,
    ),
    Case(alert="LuigiSpannerCommitsFailing", series={f'{COMMITS}{{{A},outcome="unknown"}}': "0x20"}, at=15),
    Case(
        alert="LuigiSpannerConflictsHigh",
        series={f'{COMMITS}{{{A},outcome="committed"}}': "0+25x60", f'{COMMITS}{{{B},outcome="conflict"}}': "0+75x60"},
        at=30,
        before=14,
        labels={"namespace": "blue"},
        summary="75% of the commits of namespace blue lose against other replicas",
    ),
    Case(
        alert="LuigiSpannerConflictsHigh",
        series={f'{COMMITS}{{{A},outcome="committed"}}': "0+75x60", f'{COMMITS}{{{B},outcome="conflict"}}': "0+25x60"},
        at=50,
    ),
    Case(
        alert="LuigiSpannerClockSkew",
        series={f"luigi_spanner_clock_offset_seconds{{{A}}}": "-2x20", f"luigi_spanner_clock_offset_seconds{{{B}}}": "0.3x20"},
        at=6,
        before=4,
        labels={"namespace": "blue", "instance": "a"},
        summary="The clock of replica a is off by 2s",
    ),
    Case(
        alert="LuigiSpannerTaskStuckRunning",
        series={
            f"luigi_spanner_longest_running_seconds{{{A}}}": "0+60x1500",
            f"luigi_spanner_longest_running_seconds{{{B}}}": "0+60x1500",
        },
        at=DAY + 11,
        before=DAY - 1,
        labels={"namespace": "blue"},
        summary="A task of namespace blue has been running for 1d 0h 11m 0s",
    ),
    Case(
        alert="LuigiSpannerDisabledTasks",
        series={
            f'luigi_spanner_tasks{{{A},status="DISABLED"}}': "3x30",
            f'luigi_spanner_tasks{{{B},status="DISABLED"}}': "3x30",
            f'luigi_spanner_tasks{{{A},status="FAILED"}}': "9x30",
        },
        at=11,
        before=9,
        labels={"namespace": "blue"},
        summary="3 tasks of namespace blue are disabled",
    ),
    Case(alert="LuigiSpannerDisabledTasks", series={f'luigi_spanner_tasks{{{A},status="DISABLED"}}': "3x5 0x30"}, at=20),
    Case(
        alert="LuigiSpannerResourceSaturated",
        series={
            f'luigi_spanner_resource_used{{{A},resource="gpu"}}': "4x60",
            f'luigi_spanner_resource_limit{{{A},resource="gpu"}}': "4x60",
            f'luigi_spanner_resource_used{{{A},resource="other"}}': "9x60",
            f'luigi_spanner_resource_limit{{{A},resource="other"}}': "9x60",
            f'luigi_spanner_resource_used{{{A},resource="off"}}': "0x60",
            f'luigi_spanner_resource_limit{{{A},resource="off"}}': "0x60",
            f"luigi_spanner_ready_tasks{{{A}}}": "5x60",
        },
        at=31,
        before=29,
        labels={"namespace": "blue", "resource": "gpu"},
        summary="All of resource gpu of namespace blue is taken",
    ),
    Case(
        alert="LuigiSpannerResourceSaturated",
        series={
            f'luigi_spanner_resource_used{{{A},resource="gpu"}}': "4x60",
            f'luigi_spanner_resource_limit{{{A},resource="gpu"}}': "4x60",
            f"luigi_spanner_ready_tasks{{{A}}}": "0x60",
        },
        at=50,
    ),
    Case(
        alert="LuigiSpannerNoWorker",
        series={f"luigi_spanner_ready_tasks{{{A}}}": "5x60", f'luigi_spanner_workers{{{A},state="active"}}': "2 0x60"},
        at=12,
        before=9,
        labels={"namespace": "blue"},
        summary="5 tasks of namespace blue are ready and there is no worker",
    ),
    Case(
        alert="LuigiSpannerNoWorker",
        series={f"luigi_spanner_ready_tasks{{{A}}}": "5x60", f'luigi_spanner_workers{{{A},state="active"}}': "1x60"},
        at=50,
    ),
]


def written(case: Case) -> dict[str, Any]:
    """The case as promtool reads it."""
    rule = LOADED[case.alert]
    told = {**rule["annotations"], "summary": case.summary}
    fires = {"exp_labels": {**rule["labels"], **case.labels}, "exp_annotations": told}
    checks = [{"eval_time": f"{case.at}m", "alertname": case.alert, "exp_alerts": [fires] if case.summary else []}]
    if case.before is not None:
        checks.append({"eval_time": f"{case.before}m", "alertname": case.alert, "exp_alerts": []})
    series = [{"series": name, "values": values} for name, values in case.series.items()]
    return {"interval": "1m", "input_series": series, "alert_rule_test": checks}


def test_the_rules_are_rules() -> None:
    assert f"{len(LOADED)} rules found" in promtool("check", "rules", RULES)


@pytest.mark.slow
def test_every_rule_fires_when_it_shall_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "alerts_test.yaml"
    file.write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [written(case) for case in CASES]})
    )
    assert "SUCCESS" in promtool("test", "rules", file)


def test_promtool_would_tell(tmp_path: Path) -> None:
    """A case that does not hold is one that fails."""
    case = next(case for case in CASES if case.alert == "LuigiSpannerDisabledTasks")
    wrong = written(case)
    wrong["alert_rule_test"][0]["exp_alerts"] = []
    file = tmp_path / "alerts_test.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [wrong]}))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", file)


def test_every_rule_has_a_case() -> None:
    assert {case.alert for case in CASES if case.summary} == set(LOADED)


@pytest.mark.parametrize("name", LOADED)
def test_every_rule_says_what_to_do(name: str) -> None:
    rule = LOADED[name]
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
    section = re.search(rf"^### {name}\n\n(.+?)(?=^##|\Z)", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert section is not None and len(section[1]) > 80, f"docs/operations.md has no section on {name}"
