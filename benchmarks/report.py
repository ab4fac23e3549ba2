"""The outcome as a Markdown table, SVG plots, and JSON to make others of."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.results import Goal, Line, Report

COLORS = {"stock": "#9aa0a6", "ours": "#1a73e8"}


def write(report: Report, directory: Path, name: str) -> list[Path]:
    """Write `name`.md, `name`.json and a plot for each chart into `directory`; what was written."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob(f"{name}-*.svg"):
        old.unlink()
    charts = sorted({line.chart for line in report.lines if line.chart})
    plots = [_plot(report, chart, directory / f"{name}-{chart}.svg") for chart in charts]
    plots += _ratios(report, directory / f"{name}-goals.svg")
    table = directory / f"{name}.md"
    table.write_text(markdown(report, [plot.name for plot in plots]))
    raw = directory / f"{name}.json"
    raw.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    return [table, raw, *plots]


def read(path: Path) -> Report:
    """A report that was written as JSON."""
    found = json.loads(path.read_text())
    lines = [Line(**{**line, "goal": Goal(**line["goal"]) if line["goal"] else None}) for line in found.pop("lines")]
    return Report(**{**found, "lines": lines})


def markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """The table with its notes."""
    rows = [
        "| scenario | stock, median [min..max] | ours, median [min..max] | ratio (above 1: ours is better) | goal | met |",
        "|---|---|---|---|---|---|",
        *(_row(line) for line in report.lines),
    ]
    failures = [f"- **{scenario}** gave no result: {why}" for scenario, why in report.failures.items()]
    pictures = [f"![{plot}]({plot})" for plot in plots]
    parts = [f"# {report.title}", "\n".join(f"- {note}" for note in report.notes), "\n".join(rows)]
    return "\n\n".join([*parts, *(["\n".join(failures)] if failures else []), *pictures]) + "\n"


def _row(line: Line) -> str:
    base = f"{spread(line.stock, line.unit)}" if line.stock else "-"
    if line.stock and line.base != "stock":
        base = f"{line.base}: {base}"
    ratio = spread(line.ratios, "x") if line.stock else "-"
    ours = f"failed: {line.failure}" if line.failure else spread(line.ours, line.unit)
    met = {True: "yes", False: "**no**", None: "-"}[line.met]
    return f"| {line.scenario} | {base} | {ours} | {ratio} | {line.goal or '-'} | {met} |"


def spread(values: Sequence[float], unit: str) -> str:
    """Median with the smallest and the largest."""
    if not values:
        return "-"
    return f"{_short(median(values))} {unit} [{_short(min(values))}..{_short(max(values))}]"


def _short(value: float) -> str:
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}" if digits < 6 else f"{value:.2g}"


def _plot(report: Report, chart: str, path: Path) -> Path:
    """Bars on a logarithmic axis, whiskers from the smallest to the largest repeat."""
    pyplot = _pyplot()
    lines = [line for line in report.lines if line.chart == chart and line.ours][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.55 * len(lines)))
    for offset, name in ((0.2, "stock"), (-0.2, "ours")):
        shown = [(place, line.stock if name == "stock" else line.ours) for place, line in enumerate(lines)]
        bars = [(place + offset, values) for place, values in shown if values and min(values) > 0]
        middles = [median(values) for _, values in bars]
        whiskers = [
            [middle - min(values) for middle, (_, values) in zip(middles, bars, strict=True)],
            [max(values) - middle for middle, (_, values) in zip(middles, bars, strict=True)],
        ]
        places = [place for place, _ in bars]
        label = "stock luigid" if name == "stock" else "Luigi Spanner"
        axes.barh(places, middles, 0.38, xerr=whiskers, color=COLORS[name], label=label, error_kw={"elinewidth": 0.8})
    better = "more" if lines and lines[0].more_is_better else "less"
    axes.set(xscale="log", xlabel=f"{lines[0].unit if lines else ''} ({better} is better)", title=chart.replace("-", " "))
    axes.set_yticks(range(len(lines)), [line.scenario for line in lines], fontsize=8)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return path


def _ratios(report: Report, path: Path) -> list[Path]:
    """The main picture: how many times better than stock ours is where a goal says how many it should be."""
    lines = [line for line in report.lines if line.goal and line.goal.ratio and line.stock and line.base == "stock"][::-1]
    if not lines:
        return []
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.4 * len(lines)))
    middles = [median(line.ratios) for line in lines]
    goals = [line.goal.ratio if line.goal else None for line in lines]
    places = range(len(lines))
    whiskers = [
        [middle - min(line.ratios) for middle, line in zip(middles, lines, strict=True)],
        [max(line.ratios) - middle for middle, line in zip(middles, lines, strict=True)],
    ]
    axes.barh(places, middles, 0.6, xerr=whiskers, color=COLORS["ours"], label="Luigi Spanner", error_kw={"elinewidth": 0.8})
    axes.scatter(goals, places, marker="|", s=260, color="#d93025", label="goal", zorder=3)
    axes.axvline(1, color=COLORS["stock"], linewidth=1, label="stock luigid")
    axes.set(xscale="log", xlabel="times better than stock luigid", title="Side by side, one machine, one run")
    axes.set_yticks(places, [line.scenario for line in lines], fontsize=8)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return [path]


def _pyplot() -> Any:
    """matplotlib, which only the plots need; the same picture for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "luigi-spanner"
    from matplotlib import pyplot

    return pyplot
