"""The verdict, on fabricated evidence: it must see each broken promise that it is there to see."""

from __future__ import annotations

import math

import audit
import balancer
import verdict as verdicts
from audit import Audit, Seizure
from balancer import GONE, Request, Wait
from crew import Shift
from faultplan import Fault, Kind
from outcome import Outcome, Size
from verdict import Verdict, apart

from luigi_spanner.journal import Entry, encode

DELAY = 30.0

LOG = """\
[WARNING]  (1) : Server ready/replica2 is DOWN
1000000 0 - - <NOSRV> 400 CR
2000000 500 w01.0 ping replica0 200 --
3000000 1000 w01.0 get_work replica1 502 SH
4000000 0 w01.0 ping replica0 200 --
15000000 10000 w01.0 get_work replica1 400 CH
16500000 500 w01.0 get_work replica2 200 --
17000000 -1 w02.0 get_work <NOSRV> 503 SC
"""


def request(worker: str, at: float, *, status: int = 200) -> Request:
    """`at` in seconds of CLOCK_MONOTONIC."""
    return Request(begin=at + apart(), end=at + apart(), worker=worker, method="ping", server="replica0", status=status)


def shift(worker: str, *, end: float = 100.0, exit_code: int = 0, killed: bool = False) -> Shift:
    return Shift(worker=worker, gang=0, round=0, begin=0, log=None, end=end, exit_code=exit_code, killed=killed)  # type: ignore[arg-type]


def journal(*, removed: dict[str, float] | None = None, seizures: list[Seizure] | None = None) -> Audit:
    """Removals at those times, in the order given from entry 1 on."""
    found = Audit(removals=[(worker, seq) for seq, worker in enumerate(removed or {}, 1)], seizures=seizures or [])
    found.times = {seq: at + apart() for seq, at in enumerate((removed or {}).values(), 1)}
    return found


def test_the_balancer_s_log_is_read() -> None:
    requests = list(balancer.read(LOG.splitlines()))
    assert [(r.worker, r.method, r.status) for r in requests] == [
        ("w01.0", "ping", 200),
        ("w01.0", "get_work", 502),
        ("w01.0", "ping", 200),
        ("w01.0", "get_work", GONE),
        ("w01.0", "get_work", 200),
        ("w02.0", "get_work", 503),
    ]
    assert (requests[0].begin, requests[0].end) == (1.5, 2.0)
    assert balancer.waits(requests) == [
        Wait(worker="w01.0", method="ping", begin=1.5, end=2.0, tries=1),
        Wait(worker="w01.0", method="ping", begin=4.0, end=4.0, tries=1),
        Wait(worker="w01.0", method="get_work", begin=2.0, end=16.5, tries=3),
        Wait(worker="w02.0", method="get_work", begin=17.0, end=math.inf, tries=1),
    ]


def test_a_worker_that_is_declared_dead_too_early() -> None:
    verdict = Verdict(requests=[request("w", 50.0)])
    verdicts._judge_removals(verdict, journal(removed={"w": 60.0}), [shift("w")], DELAY)
    assert len(verdict.violations) == 1 and "declared dead" in verdict.violations[0]


def test_a_worker_that_came_back_just_before_it_was_declared_dead() -> None:
    """`make chaos SEED=20261130`: stopped for 111 s, and back while the store was away."""
    verdict = Verdict(requests=[request("w", 50.0), request("w", 50.0 + 3 * DELAY), request("w", 51.0 + 3 * DELAY)])
    verdicts._judge_removals(verdict, journal(removed={"w": 53.0 + 3 * DELAY}), [shift("w")], DELAY)
    assert verdict.violations == []
    verdicts._judge_removals(verdict, journal(removed={"w": 72.0 + 3 * DELAY}), [shift("w")], DELAY)
    assert len(verdict.violations) == 1, "by then everybody had to know"


def test_a_worker_that_is_declared_dead_in_time() -> None:
    verdict = Verdict(requests=[request("w", 50.0), request("w", 60.0, status=GONE), request("v", 10.0)])
    verdicts._judge_removals(verdict, journal(removed={"w": 90.0, "v": 130.0}), [shift("w"), shift("v")], DELAY)
    assert verdict.violations == []
    assert verdict.dead == ["w"]  # the other one had ended long before


def test_a_task_that_is_taken_from_a_live_worker() -> None:
    seizures = [Seizure(worker="w", task="t", given=1, taken=2), Seizure(worker="v", task="t", given=1, taken=2)]
    verdict = Verdict()
    verdicts._judge_seizures(verdict, journal(removed={"w": 90.0}, seizures=seizures))
    assert verdict.violations == ["t was taken from v, which was not declared dead"]


def test_a_start_that_fails_though_the_store_is_there() -> None:
    def fault(kind: Kind, target: int, begin: float, end: float) -> tuple[Fault, float, float]:
        return Fault(at=begin, kind=kind, target=target), begin, end

    happened = [
        fault(Kind.STORE_REFUSED, 0, 10, 20),
        fault(Kind.STORE_GONE, -1, 30, 40),
        fault(Kind.FREEZE, 1, 0, 99),
    ]
    verdict = Verdict()
    verdicts._judge_starts(verdict, [(0, 5, 12), (1, 25, 33), (1, 12, 18), (0, 50, 60)], happened)
    assert verdict.violations == [
        "replica 1 could not start, though its store was there",
        "replica 0 could not start, though its store was there",
    ]


def test_a_worker_that_fails() -> None:
    verdict = Verdict(dead=["dead"])
    shifts = [shift("w", exit_code=22), shift("v"), shift("dead", exit_code=22), shift("killed", exit_code=-9, killed=True)]
    verdicts._judge_shifts(verdict, shifts)
    assert verdict.violations == ["worker w exited with 22, and was not declared dead"]


def test_a_reply_that_no_worker_should_see() -> None:
    verdict = Verdict(requests=[request("w", 1.0, status=status) for status in (200, 500, 502, 503, 400, GONE)])
    verdicts._judge_replies(verdict)
    assert verdict.violations == ["ping of w was answered with 500", "ping of w was answered with 400"]


def entry(seq: int, changes: list[object], calls: list[list[object]]) -> Entry:
    return Entry(
        seq=seq, commit_id="c", replica="r", clock=0.0, watermark=0, digest="", calls=encode(calls), changes=encode([changes])
    )


def call(task: str, worker: str) -> list[object]:
    return ["id", "anonymous", "add_task", task, worker, 0.0]


def test_the_audit_knows_a_report_from_a_seizure() -> None:
    found = audit.Audit()
    given = {"status": "RUNNING", "worker_running": "w"}
    found.add(entry(1, [["tasks", ["a"], given], ["tasks", ["b"], given], ["tasks", ["c"], given]], []))
    found.add(
        entry(2, [["tasks", ["a"], {"status": "FAILED"}], ["tasks", ["b"], {"status": "DONE"}]], [call("a", "w"), call("b", "w")])
    )
    found.add(entry(3, [["workers", ["w"], None], ["tasks", ["c"], {"status": "FAILED"}]], [call("x", "w")]))
    found.add(entry(4, [["tasks", ["c"], {"status": "PENDING"}], ["tasks", ["b"], None]], []))
    found.add(entry(5, [["tasks", ["c"], {"status": "RUNNING"}]], []))
    found.add(entry(6, [["tasks", ["c"], {"status": "FAILED"}]], [call("c", "v")]))
    assert found.entries == 6
    assert found.removals == [("w", 3)]
    assert found.seizures == [Seizure(worker="w", task="c", given=1, taken=3), Seizure(worker="w", task="c", given=5, taken=6)]


def test_the_waits_of_workers_that_stood_still_are_left_out() -> None:
    def wait(worker: str, begin: float, end: float) -> Wait:
        return Wait(worker=worker, method="ping", begin=begin + apart(), end=end + apart(), tries=2)

    stopped = Fault(at=0, kind=Kind.WORKER_FREEZE, target=1, seconds=10)
    waits = [wait("w01.3", 5, 25), wait("w02.4", 5, 15), wait("w01.3", 30, 40.5), wait("w00.0", 0, math.inf)]
    outcome = Outcome(
        seed=0,
        tempo=None,  # type: ignore[arg-type]
        size=Size(gangs=1, members=3, pace=1),
        skews=[],
        began=0,
        ended=50,
        happened=[(stopped, 0, 10)],
        shifts=[],
        failed_starts=0,
        verdict=Verdict(waits=waits),
    )
    assert [wait.worker for wait in outcome.waits] == ["w01.3", "w02.4"]
    assert round(outcome.waits[0].seconds, 3) == 10.5
