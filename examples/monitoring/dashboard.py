"""The Grafana dashboard of a deployment, written as JSON to standard output. `make dashboard` keeps dashboard.json up to date.

It needs the package grafana-foundation-sdk, which needs Python 3.11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle, LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh, VariableSort

SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")

OURS = 'namespace=~"$namespace"'

HERE = f"and on (instance) luigi_spanner_serving{{{OURS}}}"
"""Restricts what has no label for the namespace to replicas of the chosen ones."""

WIDTH, HEIGHT = 8, 7
"""Of a panel; a dashboard is 24 wide."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A panel of time series. `queries` are pairs of an expression and a legend."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    meaning: str = ""
    stacked: bool = False


@dataclass(frozen=True, kw_only=True)
class Number:
    """A panel of one number."""

    title: str
    query: str
    unit: str = "short"
    meaning: str = ""


def quantiles(histogram: str, by: str = "", where: str = OURS) -> list[tuple[str, str]]:
    """The median and the 99th percentile, for each value of the label `by`."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rates = f"sum by ({labels}) (rate({histogram}_bucket{{{where}}}[$__rate_interval]))"
    return [(f"histogram_quantile({q}, {rates})", f"{legend}{name}") for q, name in ((0.5, "p50"), (0.99, "p99"))]


def rate(counter: str, by: str, where: str = OURS) -> tuple[str, str]:
    """How often a second, for each value of the label `by`."""
    return f"sum by ({by}) (rate({counter}{{{where}}}[$__rate_interval]))", f"{{{{{by}}}}}"


def of_namespace(gauge: str, by: str = "", where: str = OURS) -> tuple[str, str]:
    """A gauge that every replica tells alike."""
    labels = f"namespace, {by}" if by else "namespace"
    return f"max by ({labels}) ({gauge}{{{where}}})", f"{{{{{by or 'namespace'}}}}}"


def of_replica(gauge: str) -> tuple[str, str]:
    """A gauge that each replica has of its own."""
    return f"{gauge}{{{OURS}}}", "{{instance}}"


COMMITS = "luigi_spanner_commit_duration_seconds"
CALLS = "luigi_spanner_call_duration_seconds"

ROWS: dict[str, Sequence[Graph | Number]] = {
    "Is it well?": [
        Number(title="Replicas that serve", query=f"sum(luigi_spanner_serving{{{OURS}}})"),
        Number(
            title="Calls that went well",
            query=f'sum(rate({CALLS}_count{{{OURS},outcome="ok"}}[$__rate_interval]))'
            f" / sum(rate({CALLS}_count{{{OURS}}}[$__rate_interval]))",
            unit="percentunit",
        ),
        Number(title="Disabled tasks", query=of_namespace("luigi_spanner_tasks", where=f'{OURS},status="DISABLED"')[0]),
        Number(title="Longest run now", query=of_namespace("luigi_spanner_longest_running_seconds")[0], unit="s"),
        Number(title="Paused", query=of_namespace("luigi_spanner_paused")[0]),
        Number(title="Worst clock offset", query=f"max(abs(luigi_spanner_clock_offset_seconds{{{OURS}}}))", unit="s"),
    ],
    "Tasks": [
        Graph(title="Tasks by status", queries=[of_namespace("luigi_spanner_tasks", "status")], stacked=True),
        Graph(
            title="Ready tasks",
            queries=[of_namespace("luigi_spanner_ready_tasks")],
            meaning="Pending tasks whose dependencies are done. Many for long: too few workers, or a resource is full.",
        ),
        Graph(
            title="Tasks a second",
            queries=[
                (f"sum(rate(luigi_task_{event}_total[$__rate_interval]) {HERE}) or vector(0)", event)
                for event in ("started", "done", "failed", "disabled")
            ],
            unit="ops",
        ),
        Graph(title="Workers by state", queries=[of_namespace("luigi_spanner_workers", "state")], stacked=True),
        Graph(
            title="Use of resources",
            queries=[
                (
                    f"max by (namespace, resource) (luigi_spanner_resource_used{{{OURS}}}"
                    f" / (luigi_spanner_resource_limit{{{OURS}}} > 0))",
                    "{{resource}}",
                )
            ],
            unit="percentunit",
        ),
        Graph(title="Longest running task", queries=[of_namespace("luigi_spanner_longest_running_seconds")], unit="s"),
    ],
    "Calls": [
        Graph(title="Calls a second by method", queries=[rate(f"{CALLS}_count", "method")], unit="ops"),
        Graph(title="Calls a second by outcome", queries=[rate(f"{CALLS}_count", "outcome")], unit="ops"),
        Graph(title="Duration of all calls", queries=quantiles(CALLS), unit="s"),
        Graph(title="Duration by method", queries=quantiles(CALLS, "method")[1:], unit="s"),
        Graph(title="Queued calls", queries=[of_replica("luigi_spanner_queued_calls")]),
        Graph(title="Effects pending", queries=[of_replica("luigi_spanner_effects_pending")]),
        Graph(title="Mails a second by event", queries=[rate("luigi_spanner_mails_total", "event")], unit="ops"),
        Graph(title="Mails in the outbox", queries=[of_namespace("luigi_spanner_mails_waiting")]),
    ],
    "Commits": [
        Graph(title="Attempts a second by outcome", queries=[rate(f"{COMMITS}_count", "outcome")], unit="ops"),
        Graph(
            title="Duration of commits",
            queries=quantiles(COMMITS, where=f'{OURS},outcome="committed"'),
            unit="s",
        ),
        Graph(title="Calls of a batch", queries=quantiles("luigi_spanner_batch_calls")),
        Graph(
            title="Tries of a batch",
            queries=quantiles("luigi_spanner_batch_tries"),
            meaning="More than one means that other replicas were first.",
        ),
        Graph(title="Errors of the store", queries=[rate("luigi_spanner_store_errors_total", "kind")], unit="ops"),
        Graph(
            title="Retries inside the store's driver",
            queries=[
                (f"{rate('luigi_spanner_store_retries_total', 'kind')[0]} or vector(0)", "{{kind}}"),
            ],
            unit="ops",
        ),
    ],
    "Journal": [
        Graph(
            title="Entries behind the head",
            queries=[
                (
                    f"max by (namespace) (luigi_spanner_journal_head_seq{{{OURS}}})"
                    f" - on (namespace) group_right () luigi_spanner_journal_applied_seq{{{OURS}}}",
                    "{{instance}}",
                )
            ],
        ),
        Graph(
            title="Age of what is caught up with",
            queries=quantiles("luigi_spanner_catch_up_lag_seconds"),
            unit="s",
        ),
        Graph(title="Entries caught up a second", queries=[rate("luigi_spanner_catch_up_entries_total", "instance")], unit="ops"),
        Graph(
            title="Entries that the tables lack",
            queries=[
                (
                    f"luigi_spanner_journal_applied_seq{{{OURS}}} - luigi_spanner_journal_watermark_seq{{{OURS}}}",
                    "{{instance}}",
                )
            ],
            meaning="A replica that starts replays as many.",
        ),
        Graph(title="Rows owed", queries=[of_replica("luigi_spanner_rows_owed")]),
        Graph(title="Since the store has answered", queries=[of_replica("luigi_spanner_store_contact_age_seconds")], unit="s"),
    ],
    "Processes": [
        Graph(
            title="Memory",
            queries=[(f"process_resident_memory_bytes {HERE}", "{{instance}}")],
            unit="bytes",
        ),
        Graph(
            title="Processor",
            queries=[(f"rate(process_cpu_seconds_total[$__rate_interval]) {HERE}", "{{instance}}")],
            unit="percentunit",
        ),
        Graph(
            title="Versions",
            queries=[
                (
                    f"count by (version, luigi, python) (luigi_spanner_build_info{{{OURS}}})",
                    "{{version}}, luigi {{luigi}}, Python {{python}}",
                )
            ],
            meaning="More than one while an upgrade is under way.",
        ),
    ],
}


def build() -> dashboard.Dashboard:
    """The whole dashboard."""
    whole = (
        dashboard.Dashboard("Luigi Spanner")
        .uid("luigi-spanner")
        .description("Replicas of Luigi Spanner: their tasks, calls, commits and the journal.")
        .tags(["luigi"])
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("source").label("Data source").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("namespace")
            .label("Namespace")
            .datasource(SOURCE)
            .query("label_values(luigi_spanner_serving, namespace)")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
        )
    )
    for title, panels in ROWS.items():
        whole = whole.with_row(dashboard.Row(title))
        for panel in panels:
            whole = whole.with_panel(_number(panel) if isinstance(panel, Number) else _graph(panel))
    return whole


def _number(panel: Number) -> stat.Panel:
    return (
        stat.Panel()
        .title(panel.title)
        .description(panel.meaning)
        .datasource(SOURCE)
        .unit(panel.unit)
        .span(4)
        .height(4)
        .with_target(_query(panel.query, "", "A"))
    )


def _graph(panel: Graph) -> timeseries.Panel:
    drawn = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.meaning)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .draw_style(GraphDrawStyle.LINE)
        .fill_opacity(20 if panel.stacked else 0)
        .legend(
            common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
        .span(WIDTH)
        .height(HEIGHT)
    )
    if panel.stacked:
        drawn = drawn.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for number, (expression, legend) in enumerate(panel.queries):
        drawn = drawn.with_target(_query(expression, legend, chr(ord("A") + number)))
    return drawn


def _query(expression: str, legend: str, name: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().datasource(SOURCE).expr(expression).legend_format(legend).ref_id(name).range()


if __name__ == "__main__":
    print(JSONEncoder(sort_keys=True, indent=2).encode(build().build()))
