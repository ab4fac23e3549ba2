"""A real Prometheus scrapes three real replicas under load."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import watched_replicas
import yaml
from processes import Server, wait_until
from programs import RULES, Prometheus, dashboard_queries, find, promtool
from watched_replicas import NAMESPACE, REPLICAS

from luigi_spanner.metrics import families

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Replicas that have worked, what has watched them, and their store."""

    servers: list[Server]
    prometheus: Prometheus
    url: str


@pytest.fixture(scope="module", params=["sqlite", "spanner"])
def watched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """On SQLite and on the Spanner emulator."""
    find("prometheus")
    directory = tmp_path_factory.mktemp("watched")
    url = f"sqlite:///{directory / 'luigi.db'}" if request.param == "sqlite" else request.getfixturevalue("watched_spanner_url")
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "0s"  # what promtool has tested is not waited for again
    hasty = directory / "alerts.yaml"
    hasty.write_text(yaml.safe_dump(rules))
    with (
        watched_replicas.serving(url, directory) as servers,
        Prometheus(directory, [server.port for server in servers], hasty) as prometheus,
    ):
        prometheus.wait_for_scrape(REPLICAS)
        watched_replicas.work(servers)
        prometheus.wait_for_scrape(REPLICAS)
        yield Watched(servers=servers, prometheus=prometheus, url=url)


def test_what_the_replicas_counted_is_what_the_journal_has(watched: Watched) -> None:
    """No replica crashed, so nothing is missing; no run that was undone counts, so nothing is too much."""
    counted = watched.prometheus.number
    taken = watched_replicas.transitions(watched.url)
    assert taken["RUNNING"] > 30 and taken["DONE"] > 15 and taken["FAILED"] > 5 and taken["DISABLED"] > 5
    assert counted("sum(luigi_task_started_total)") == taken["RUNNING"]
    assert counted("sum(luigi_task_done_total)") == taken["DONE"]
    assert counted("sum(luigi_task_failed_total)") == taken["FAILED"]
    assert counted("sum(luigi_task_disabled_total)") == taken["DISABLED"]
    assert counted("count(sum by (instance) (luigi_task_started_total))") == REPLICAS


def test_every_replica_tells_the_same_of_the_namespace(watched: Watched) -> None:
    prometheus = watched.prometheus
    prometheus.wait(
        lambda: prometheus.number("max(luigi_spanner_journal_applied_seq) - min(luigi_spanner_journal_applied_seq)") == 0,
        "all replicas stand at the head",
    )
    for family in (families.TASKS, families.READY, families.WORKERS, families.RESOURCE_USED, families.RESOURCE_LIMIT):
        labels = ", ".join(family.labels)
        differing = prometheus.query(f"max by ({labels}) ({family.name}) - min by ({labels}) ({family.name}) > 0")
        assert differing == [], family.name
    assert prometheus.number('max(luigi_spanner_tasks{status="RUNNING"})') >= 1
    assert prometheus.number('max(luigi_spanner_resource_limit{resource="gpu"})') == 4
    assert prometheus.number("max(luigi_spanner_replicas)") == REPLICAS


def test_calls_and_commits_are_counted(watched: Watched) -> None:
    counted = watched.prometheus.number
    pings = 'luigi_spanner_call_duration_seconds_count{method="ping",outcome="ok"}'
    assert counted(f"sum({pings})") == watched_replicas.WORKERS * watched_replicas.TASKS
    assert counted('sum(luigi_spanner_call_duration_seconds_count{method="other",outcome="unknown_method"})') == 1
    assert counted('sum(luigi_spanner_call_duration_seconds_count{outcome="bad_request"})') == 1
    committed = counted('sum(luigi_spanner_commit_duration_seconds_count{outcome="committed"})')
    caught_up = counted("sum(luigi_spanner_catch_up_entries_total)")
    head = counted("max(luigi_spanner_journal_head_seq)")
    # What asks for a turn only is in the journal, too.
    assert committed is not None and head is not None and 0 < committed <= head
    assert caught_up is not None and caught_up > 0


def test_every_family_arrives(watched: Watched) -> None:
    for family in (*families.COUNTED, *families.GAUGES):
        name = family.name + ("_count" if family.kind == "histogram" else "")
        if family is families.STORE_RETRIES:
            continue  # only where the store had to
        assert watched.prometheus.query(f'{name}{{namespace="{NAMESPACE}"}}'), family.name


def test_every_query_of_the_dashboard_gives_data(watched: Watched) -> None:
    without = []
    for title, query in dashboard_queries():
        asked = query.replace("$namespace", NAMESPACE).replace("$__rate_interval", "1m")
        values = [float(sample["value"][1]) for sample in watched.prometheus.query(asked)]
        if all(math.isnan(value) for value in values):
            without.append((title, asked, values))
    assert without == []


def test_promtool_finds_nothing_to_complain_of(watched: Watched) -> None:
    for server in watched.servers:
        page = watched_replicas.page(server.port)
        assert promtool("check", "metrics", given=page) == ""


def test_the_rules_are_evaluated_and_tell_of_what_is_so(watched: Watched) -> None:
    watched.prometheus.wait(lambda: all(rule["health"] == "ok" for rule in watched.prometheus.rules()), "every rule is healthy")
    so = {"LuigiSpannerDisabledTasks", "LuigiSpannerResourceSaturated"}
    watched.prometheus.wait(lambda: watched.prometheus.firing() >= so, "what is so is told of")
    assert watched.prometheus.firing() <= {*so, "LuigiSpannerConflictsHigh"}


def test_an_alert_fires_and_clears(watched: Watched) -> None:
    """Last, since it takes the replicas away and brings them back."""
    prometheus = watched.prometheus
    for server in watched.servers:
        assert server.stop() == 0
    prometheus.wait(lambda: "LuigiSpannerNoReplica" in prometheus.firing(), "the alert fires")
    for server in watched.servers:
        server.start()
    wait_until(lambda: "LuigiSpannerNoReplica" not in prometheus.firing(), 30, "the alert clears")
