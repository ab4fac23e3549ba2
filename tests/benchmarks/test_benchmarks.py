"""The benchmark itself works: tiny sizes, real servers. Numbers are not looked at."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import luigi.scheduler
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.bench import Bench  # noqa: E402
from benchmarks.client import CallFailed, Pause, Session, calibrate, call, play, value  # noqa: E402
from benchmarks.graphs import KINDS, Graph  # noqa: E402
from benchmarks.results import Goal, Line, Report, alternate, quantile  # noqa: E402
from benchmarks.servers import Site, States, states  # noqa: E402
from benchmarks.sessions import send  # noqa: E402

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import report, throughput  # noqa: E402


@pytest.fixture(scope="module")
def prepared() -> Iterator[States]:
    with states() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_repeatable_and_has_work(kind: str) -> None:
    graph = Graph(kind=kind, size=1200, seed=7)
    steps = list(graph.steps())
    assert steps == list(graph.steps())
    scheduler = luigi.scheduler.Scheduler()
    for method, arguments in steps:
        getattr(scheduler, method)(**arguments)
    if kind != "shares":  # that one's workers are others
        reply = scheduler.get_work(**graph.get_work())
        assert reply["task_id"] or reply["batch_task_ids"]


def test_client_counts_and_times_its_calls() -> None:
    played = calibrate(3, seconds=0.2)
    assert played.calls > 3
    assert set(played.latencies) == {"ping"}
    assert 0 < min(played.all()) <= max(played.all()) < 10
    assert played.rate == pytest.approx(played.calls / played.seconds)


@pytest.mark.slow
def test_stock_and_ours_give_the_same_work(prepared: States) -> None:
    graph = Graph(kind="locks", size=60, seed=7)
    prepared.start("sqlite", graph)
    with Site(prepared) as site:
        servers = [site.stock(graph), *site.ours("sqlite", graph)]
        taken: list[list[str]] = []
        for server in servers:
            found: list[str] = []
            played = play([server.port], [_taking(graph, found, 5)], seconds=20)
            assert len(played.latencies["get_work"]) == 5
            taken.append(found)
        assert taken[0] == taken[1]
        assert len(set(taken[0])) == 5
        with pytest.raises(CallFailed, match="no_such_method"):
            play([servers[0].port], [send([call("no_such_method")])], seconds=20)
    assert all(server.process.poll() is not None for server in servers)


def _taking(graph: Graph, found: list[str], times: int) -> Session:
    for _ in range(times):
        found.append(value((yield call("get_work", graph.get_work())))["task_id"])
        yield Pause(seconds=0.001)


@pytest.mark.slow
def test_a_scenario_gives_its_lines(prepared: States) -> None:
    bench = Bench(states=prepared, repeats=1, quick=True, seed=7, scale=100)
    lines = list(throughput.slow_store(bench))
    assert [line.goal for line in lines] == [None, Goal(ratio=0.9), Goal(ratio=0.6)]
    assert all(len(line.ours) == 1 and line.ours[0] > 0 for line in lines)


def test_sides_take_turns_to_go_first() -> None:
    order: list[str] = []
    found = alternate(3, {name: lambda name=name: order.append(name) or name for name in ("stock", "ours")})
    assert order == ["stock", "ours", "ours", "stock", "stock", "ours"]
    assert found == {"stock": ["stock"] * 3, "ours": ["ours"] * 3}


def test_ratios_are_taken_pair_by_pair_and_held_against_the_goal() -> None:
    faster = Line(scenario="s", unit="ms", stock=[10, 30, 20], ours=[1, 2, 4], goal=Goal(ratio=10))
    assert faster.ratios == [10, 15, 5]
    assert faster.met is True
    more = Line(scenario="s", unit="rpc/s", stock=[100], ours=[150], more_is_better=True, goal=Goal(ratio=1.6))
    assert more.ratios == [1.5]
    assert more.met is False
    assert Line(scenario="s", unit="ms", ours=[40, 60, 45], goal=Goal(most=50)).met is True
    assert Line(scenario="s", unit="ms", ours=[1]).met is None
    assert Line(scenario="s", unit="ms", ours=[], goal=Goal(ratio=2), failure="503").met is False


def test_quantile_is_one_of_the_values() -> None:
    values = list(range(1, 101))
    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.99) == 99
    assert quantile([3], 0.99) == 3


LINES = [
    Line(scenario="a", unit="ms", stock=[2, 4], ours=[1, 1], goal=Goal(ratio=3), chart="calls"),
    Line(scenario="b", unit="commits", ours=[0, 2], goal=Goal(most=0.5)),
]
REPORT = Report(title="Trial", notes=["a note"], lines=LINES, failures={"c": "it broke"})


def test_table_says_what_was_met() -> None:
    table = report.markdown(REPORT).splitlines()
    assert "| a | 3.00 ms [2.00..4.00] | 1.00 ms [1.00..1.00] | 3.00 x [2.00..4.00] | ratio >= 3 | yes |" in table
    assert "| b | - | 1.00 commits [0..2.00] | - | <= 0.5 | **no** |" in table
    assert "- **c** gave no result: it broke" in table


def _require_plots() -> None:
    """CI installs what `make bench` does."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("matplotlib", reason="needs what `make bench` installs")


def test_plots_are_written(tmp_path: Path) -> None:
    _require_plots()
    written = {path.name for path in report.write(REPORT, tmp_path, "trial")}
    assert written == {"trial.md", "trial.json", "trial-calls.svg", "trial-goals.svg"}
    assert (tmp_path / "trial-goals.svg").read_text().rstrip().endswith("</svg>")


@pytest.mark.slow
def test_an_interrupted_run_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _require_plots()
    interrupts = [True]

    def second(bench: Bench) -> Iterator[Line]:
        if interrupts.pop():
            raise KeyboardInterrupt
        yield LINES[1]

    monkeypatch.setattr(command, "SCENARIOS", {"first": lambda bench: iter(LINES[:1]), "second": second})
    arguments = ["--suite", "quick", "--results", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    left = report.read(tmp_path / "partial" / "quick.json")
    assert (left.done, left.lines) == (["first"], LINES[:1])
    interrupts.append(False)
    assert command.main([*arguments, "--resume"]) == 0
    assert report.read(tmp_path / "quick.json").lines == LINES
    monkeypatch.setattr(command, "_code", lambda: "another commit")
    assert command.main([*arguments, "--resume"]) == 2
    assert "another commit" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "nothing"]) == 2
    assert "one-worker" in capsys.readouterr().err
