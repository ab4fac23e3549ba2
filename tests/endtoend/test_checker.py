"""The checker itself, on fabricated records: it must see each fault that it is there to see."""

from __future__ import annotations

import pipeline
import pytest
import record
from checker import (
    DOUBLED,
    FAILURES,
    LOST,
    MALFORMED,
    OVER_LIMIT,
    OVERLAPPED,
    UNEXPECTED,
    UNFINISHED,
    Expected,
    Fault,
    Taken,
    faults,
    orphans,
)

LIMITS = {"licence": 1}
EXPECTED = [Expected(task="a"), Expected(task="b", resources={"licence": 1}), Expected(task="c", resources={"licence": 1})]


def event(task: str, kind: str, at: float, *, run: str = "1", worker: str = "w") -> record.Event:
    return record.Event(task=task, kind=kind, run=f"{task}-{run}", pid=1, at=at, wall=at, worker=worker)


def execution(
    task: str, begin: float, end: float, *, kind: str = record.DONE, run: str = "1", worker: str = "w"
) -> list[record.Event]:
    return [event(task, record.START, begin, run=run, worker=worker), event(task, kind, end, run=run, worker=worker)]


SOUND = [*execution("a", 0, 1), *execution("b", 0, 1), *execution("c", 1, 2)]


def kinds(
    events: list[record.Event], expected: list[Expected] = EXPECTED, taken: tuple[Taken, ...] = ()
) -> list[tuple[str, str]]:
    return [(fault.kind, fault.task) for fault in faults(events, expected, LIMITS, taken)]


def test_a_sound_record_has_no_fault() -> None:
    assert faults(SOUND, EXPECTED, LIMITS) == []


def test_a_task_that_never_ran_is_lost() -> None:
    assert kinds(SOUND[2:]) == [(LOST, "a")]


def test_an_empty_record_has_lost_everything() -> None:
    assert kinds([]) == [(LOST, "a"), (LOST, "b"), (LOST, "c")]


def test_a_second_success_is_doubled() -> None:
    assert kinds([*SOUND, *execution("a", 5, 6, run="2")]) == [(DOUBLED, "a")]


def test_executions_at_the_same_time_overlap() -> None:
    assert kinds([*SOUND, *execution("a", 0.5, 6, run="2")]) == [(DOUBLED, "a"), (OVERLAPPED, "a")]


def test_an_execution_inside_an_earlier_longer_one_overlaps() -> None:
    flaky = [Expected(task="f", failures=2)]
    failing = [*execution("f", 0, 9, kind=record.FAILED), *execution("f", 1, 2, kind=record.FAILED, run="2")]
    assert kinds([*failing, *execution("f", 3, 4, run="3")], flaky) == [(OVERLAPPED, "f"), (OVERLAPPED, "f")]


def test_a_start_without_an_end_is_unfinished_and_lost() -> None:
    assert kinds(SOUND[:-1]) == [(LOST, "c"), (UNFINISHED, "c")]


def test_an_execution_after_an_unfinished_one_overlaps_it() -> None:
    unfinished = event("a", record.START, -5, run="0")
    assert kinds([unfinished, *SOUND]) == [(UNFINISHED, "a"), (OVERLAPPED, "a")]


def test_an_end_without_a_start_is_malformed() -> None:
    assert kinds(SOUND[1:]) == [(MALFORMED, "a"), (LOST, "a")]


def test_failures_must_be_as_many_as_expected() -> None:
    flaky = [Expected(task="f", failures=1)]
    failed, done = execution("f", 0, 1, kind=record.FAILED), execution("f", 2, 3, run="2")
    assert kinds([*failed, *done], flaky) == []
    assert kinds(done, flaky) == [(FAILURES, "f")]
    assert kinds(failed, flaky) == [(LOST, "f")]
    assert kinds([*execution("a", -2, -1, kind=record.FAILED, run="0"), *SOUND]) == [(FAILURES, "a")]


def test_a_task_that_nobody_asked_for_is_unexpected() -> None:
    assert kinds([*SOUND, *execution("z", 0, 1)]) == [(UNEXPECTED, "z")]


def test_more_of_a_resource_in_use_than_allowed_is_over_the_limit() -> None:
    crowded = [*execution("a", 0, 1), *execution("b", 0, 1), *execution("c", 0.9, 2)]
    assert faults(crowded, EXPECTED, LIMITS) == [Fault(kind=OVER_LIMIT, task="licence", detail="2 in use, limit 1")]


FROZEN = execution("a", 1, 9, run="2", worker="frozen")
"""An execution that goes on after the task was taken from its worker at 5."""

TAKEN = Taken(worker="frozen", task="a", since=0.5, at=5)


def test_what_was_taken_from_a_dead_worker_may_run_again() -> None:
    again = [*execution("a", 6, 7), *SOUND[2:]]
    assert kinds([*FROZEN, *again], taken=(TAKEN,)) == []
    assert kinds([FROZEN[0], *again], taken=(TAKEN,)) == []
    assert kinds([*FROZEN, *again]) == [(DOUBLED, "a"), (OVERLAPPED, "a")]
    found = orphans([*FROZEN, *again], [TAKEN])
    assert [(run.task, run.worker, run.end) for run in found] == [("a", "frozen", 5)]


def test_a_task_may_be_taken_twice() -> None:
    twice = [*execution("a", 6, 6.2, run="3", worker="frozen"), *execution("a", 7, 8), *SOUND[2:]]
    # By a clock that is a little off, the second time was given before the first execution began.
    again = Taken(worker="frozen", task="a", since=0.8, at=6.1)
    assert kinds([*FROZEN, *twice], taken=(again, TAKEN)) == []
    assert kinds([*FROZEN, *twice], taken=(TAKEN,)) == [(DOUBLED, "a")]


def test_what_ended_unreported_may_run_again() -> None:
    assert kinds([*execution("a", 1, 4, run="2", worker="frozen"), *execution("a", 6, 7), *SOUND[2:]], taken=(TAKEN,)) == []


def test_what_began_after_it_was_taken_is_an_orphan_too() -> None:
    late = [*execution("a", 8, 9, run="2", worker="frozen"), *execution("a", 6, 8.5), *SOUND[2:]]
    assert kinds(late, taken=(TAKEN,)) == []


def test_not_before_it_was_taken() -> None:
    assert kinds([*FROZEN, *execution("a", 4, 7), *SOUND[2:]], taken=(TAKEN,)) == [(OVERLAPPED, "a")]


def test_not_twice() -> None:
    thrice = [*FROZEN, *execution("a", 6, 7), *execution("a", 8, 9, run="3"), *SOUND[2:]]
    assert kinds(thrice, taken=(TAKEN,)) == [(DOUBLED, "a")]


def test_not_what_it_was_not_given_then() -> None:
    before = [*execution("a", 0, 0.2, run="2", worker="frozen"), *execution("a", 6, 7), *SOUND[2:]]
    assert kinds(before, taken=(TAKEN,)) == [(DOUBLED, "a")]


@pytest.mark.parametrize("other", [{"worker": "w"}, {"task": "b"}])
def test_what_was_taken_from_another_excuses_nothing(other: dict[str, str]) -> None:
    taken = Taken(**{"worker": "frozen", "task": "a", **other}, since=5.5, at=6)
    assert kinds([*FROZEN, *execution("a", 2, 4), *SOUND[2:]], taken=(taken,)) == [(DOUBLED, "a"), (OVERLAPPED, "a")]


def test_what_only_a_dead_worker_did_is_done() -> None:
    assert kinds([*FROZEN, *SOUND[2:]], taken=(TAKEN,)) == []
    assert kinds([FROZEN[0], *SOUND[2:]], taken=(TAKEN,)) == [(LOST, "a")]


def test_a_dead_worker_may_have_taken_a_failure_with_it() -> None:
    flaky = [Expected(task="a", failures=1)]
    assert kinds([FROZEN[0], *execution("a", 6, 7)], flaky, (TAKEN,)) == []
    failing = [*execution("a", 6, 7, kind=record.FAILED, run="3"), *execution("a", 8, 9, run="4")]
    assert kinds([*FROZEN, *failing], flaky, (TAKEN,)) == []


def test_what_a_dead_worker_held_is_free_again() -> None:
    frozen = execution("b", 1, 9, run="2", worker="frozen")
    held = [*frozen, *execution("c", 5.5, 6), *execution("b", 6, 7), *execution("a", 0, 1)]
    assert kinds(held, taken=(Taken(worker="frozen", task="b", since=0.5, at=5),)) == []
    assert kinds(held) == [(DOUBLED, "b"), (OVERLAPPED, "b"), (OVER_LIMIT, "licence")]


def test_a_body_writes_what_the_checker_reads(tmp_path) -> None:
    path = tmp_path / "record.jsonl"
    assert record.read(path) == []
    with record.body(path, "a"):
        pass
    with record.body(path, "b", "c"):
        pass
    with pytest.raises(RuntimeError, match="on purpose"), record.body(path, "f"):
        raise RuntimeError("on purpose")
    expected = [Expected(task="a"), Expected(task="b"), Expected(task="c")]
    assert kinds(record.read(path), [*expected, Expected(task="f", failures=1)]) == [(LOST, "f")]


def test_a_line_being_written_is_left_for_the_next_reading(tmp_path) -> None:
    path = tmp_path / "record.jsonl"
    record.append(path, event("a", record.START, 0))
    with path.open("ab") as file:
        file.write(b'{"task": ')
    assert record.read(path) == [event("a", record.START, 0)]


def test_the_pipeline_is_what_it_is_said_to_be() -> None:
    expected = pipeline.expected(workers=4)
    names = [task.task for task in expected]
    assert len(names) == len(set(names))
    assert 200 <= len(names) <= 250
    assert {name for task in expected for name in task.resources} == set(pipeline.LIMITS)
    assert [task.task for task in expected if task.failures] == ["Flaky(0)"]
    assert all(amount <= pipeline.LIMITS[name] for task in expected for name, amount in task.resources.items())
