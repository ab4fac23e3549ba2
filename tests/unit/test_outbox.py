"""The outbox's rules: what becomes a row, who may send it and when, and when it is over."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from luigi import configuration
from luigi.batch_notifier import BatchNotifier

from luigi_spanner.graph import notifier as notifiers
from luigi_spanner.graph import outbox as outboxes
from luigi_spanner.graph.graph import Graph
from luigi_spanner.graph.ledger import Sealed
from luigi_spanner.graph.outbox import GIVE_UP_SECONDS, LEASE_SECONDS, MESSAGE_BYTES, Mail, Outcome
from luigi_spanner.graph.tracker import Savepoint
from luigi_spanner.journal import canonical
from luigi_spanner.mail import LONGEST_RETRY_SECONDS, retry_delay
from luigi_spanner.stores import COMMIT_BYTES


class Clock:
    """A clock that goes when told to."""

    time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings() -> Iterator[Any]:
    """Sets options of Luigi's configuration for the test."""
    config = configuration.get_config()
    done: list[tuple[str, str]] = []

    def set_option(section: str, option: str, value: str) -> None:
        config.set(section, option, value)
        done.append((section, option))

    set_option("email", "receiver", "ops@example.org")
    yield set_option
    for section, option in done:
        config.remove_option(section, option)


def graph_of(clock: Clock, **rules: Any) -> Graph:
    graph = Graph(resources={}, clock=clock, queues_mail=True, **{"retry_count": 1, **rules})
    graph.tracker.begin(1)
    return graph


def call(graph: Graph, method: str, **arguments: Any) -> Any:
    return graph.run(getattr(graph, method), arguments)


def fail(graph: Graph, task: str, **more: Any) -> None:
    """A task fails, and is disabled."""
    call(graph, "add_task", worker="w", task_id=task, family="F", status="FAILED", expl='"it broke"', **more)


def take(graph: Graph, replica: str, done: Outcome | None = None) -> Mail | None:
    taken = graph.run(graph.outbox.take_mail, {"replica": replica, "done": done})
    return None if taken is None else Mail.of(taken)


def rows(graph: Graph) -> list[dict[str, Any]]:
    return [row for _, row in sorted(graph._state.outbox.items())]


def failed(mail: Mail, delay: float = 60.0) -> Outcome:
    return Outcome(ordinal=mail.ordinal, tries=mail.tries, error="no", delay=delay)


def sent(mail: Mail) -> Outcome:
    return Outcome(ordinal=mail.ordinal, tries=mail.tries)


def test_a_disabled_task_is_a_mail(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    (row,) = rows(graph)
    assert row["subject"] == "Luigi Scheduler: DISABLED A due to excessive failures"
    assert row["message"].startswith("A failed 1 times")
    assert row["recipients"] == ["ops@example.org"]
    assert (row["queued_at"], row["due_at"], row["tries"], row["by"]) == (1000.0, 1000.0, 0, None)


def test_it_is_undone_with_its_cause(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    graph.tracker.rollback(Savepoint(undo=0, effects=0))
    assert rows(graph) == []
    for effect in graph.tracker.settle():
        effect.run()
    assert graph.outbox.counts.queued == 0


@pytest.mark.parametrize(
    ("section", "option", "value"), [("email", "receiver", ""), ("email", "format", "none"), ("email", "format", "neither")]
)
def test_where_luigi_sends_nothing_nothing_is_queued(clock: Clock, settings: Any, section: str, option: str, value: str) -> None:
    """A configuration that Luigi cannot read fails no call."""
    settings(section, option, value)
    graph = graph_of(clock)
    fail(graph, "A")
    assert rows(graph) == []


def test_in_a_terminal_only_if_forced(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    with mock.patch("sys.stdout.isatty", return_value=True):
        fail(graph, "A")
        assert rows(graph) == []
        settings("email", "force_send", "true")
        fail(graph, "B")
    assert [row["message"][0] for row in rows(graph)] == ["B"]


def test_one_sends_at_a_time(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    fail(graph, "B")
    first = take(graph, "a")
    assert first is not None and first.tries == 1
    assert not graph.outbox.is_due("b")
    assert take(graph, "b") is None
    second = take(graph, "a", sent(first))
    assert second is not None and second.ordinal > first.ordinal
    assert take(graph, "b") is None
    assert take(graph, "a", sent(second)) is None
    assert rows(graph) == []


def test_the_claim_of_a_replica_that_has_died_expires(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    first = take(graph, "a")
    assert first is not None and first.due_at == clock.time + LEASE_SECONDS
    clock.time += LEASE_SECONDS - 1
    assert take(graph, "b") is None
    clock.time += 1
    second = take(graph, "b")
    assert second is not None and (second.ordinal, second.tries) == (first.ordinal, 2)
    # It was not dead but slow. That it failed is no longer of interest, that it sent the mail is.
    before = rows(graph)
    assert take(graph, "a", failed(first)) is None
    assert rows(graph) == before
    assert take(graph, "a", sent(first)) is None
    assert rows(graph) == []


def test_a_claim_whose_reply_was_lost_is_given_again(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    lost, again = take(graph, "a"), take(graph, "a")
    assert lost is not None and again is not None and again.ordinal == lost.ordinal


def test_what_failed_is_tried_again_later_and_others_are_not_held_up(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    fail(graph, "B")
    first = take(graph, "a")
    assert first is not None
    second = take(graph, "a", failed(first, 60.0))
    assert second is not None and second.ordinal != first.ordinal
    assert take(graph, "a", sent(second)) is None
    clock.time += 61
    assert not graph.outbox.is_due("a", patience=5)
    assert graph.outbox.is_due("a", patience=1)
    again = take(graph, "b")
    assert again is not None and (again.ordinal, again.tries) == (first.ordinal, 2)
    # A report that comes twice, because its reply was lost, counts once.
    assert take(graph, "a", failed(first)) is None
    assert rows(graph)[0]["by"] == "b"


def test_after_a_day_it_is_given_up_and_the_log_says_so(clock: Clock, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    graph = graph_of(clock)
    fail(graph, "A")
    fail(graph, "B")
    clock.time += 2 * GIVE_UP_SECONDS
    # Nobody was there to send it: it is tried once.
    first = take(graph, "a")
    assert first is not None
    second = take(graph, "a", failed(first))
    assert second is not None
    # The replica dies with the second one.
    clock.time += LEASE_SECONDS
    assert take(graph, "b") is None
    assert rows(graph) == []
    for effect in graph.tracker.settle():
        effect.run()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 2
    assert "DISABLED A" in errors[0] and "after 1 tries in 48 h: no" in errors[0]
    assert graph.outbox.counts == outboxes.Counts(queued=2, failed=1, given_up=2)


def test_a_clock_that_was_ahead_holds_nothing_up(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    clock.time += 10 * GIVE_UP_SECONDS
    fail(graph, "A")
    assert take(graph, "a") is not None
    clock.time -= 10 * GIVE_UP_SECONDS
    assert take(graph, "b") is not None


def test_no_more_wait_than_are_allowed(
    clock: Clock, settings: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outboxes, "MOST_WAITING", 2)
    graph = graph_of(clock)
    for task in ("A", "B", "C", "D"):
        fail(graph, task)
    assert len(graph.outbox) == 2
    for effect in graph.tracker.settle():
        effect.run()
    assert (graph.outbox.counts.queued, graph.outbox.counts.refused) == (2, 2)
    (line,) = [record.getMessage() for record in caplog.records if "Mail is not sent" in record.getMessage()]
    assert "DISABLED C" in line


@pytest.mark.parametrize("letter", ["A", "\u00e4", "\u6f22", "\U0001f600", "\n", "\ud800"])
def test_what_is_too_large_is_cut(clock: Clock, settings: Any, letter: str) -> None:
    """Large is what its row is: a character may take twelve bytes there."""
    graph = graph_of(clock)
    graph.outbox.add("s" + letter * 2 * MESSAGE_BYTES, "A" + letter * 2 * MESSAGE_BYTES, ["ops@example.org"])
    (row,) = rows(graph)
    for name, most in (("subject", outboxes.SUBJECT_BYTES), ("message", MESSAGE_BYTES)):
        assert len(canonical(row[name])) <= most
        assert name == "subject" or len(canonical(row[name])) > most - 2 * outboxes.NOTE_BYTES
    kept, whole = map(int, re.search(r" \.\.\. \(cut: (\d+) of (\d+) characters\)$", row["message"]).groups())  # type: ignore[union-attr]
    assert whole >= 2 * MESSAGE_BYTES
    assert row["message"].startswith(outboxes.mailable("A" + letter * 2 * MESSAGE_BYTES)[:kept] + " ...")


def test_what_fits_is_whole(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    message = "A" * (MESSAGE_BYTES - len('""'))
    graph.outbox.add("s", message, ["ops@example.org"])
    graph.outbox.add("s", message + "A", ["ops@example.org"])
    whole, cut = rows(graph)
    assert whole["message"] == message
    assert "(cut:" in cut["message"]


def test_recipients_are_bounded_and_no_address_is_cut(clock: Clock, settings: Any, caplog: pytest.LogCaptureFixture) -> None:
    graph = graph_of(clock)
    graph.outbox.add("many", "m", [f"o{number}@example.org" for number in range(2 * outboxes.MOST_RECIPIENTS)])
    graph.outbox.add("large", "m", ["\u00e4" * outboxes.RECIPIENTS_BYTES, "ops@example.org"])
    graph.outbox.add("too large", "m", ["a" * outboxes.RECIPIENTS_BYTES])
    many, large = rows(graph)
    assert many["recipients"] == [f"o{number}@example.org" for number in range(outboxes.MOST_RECIPIENTS)]
    assert large["recipients"] == ["ops@example.org"]
    for effect in graph.tracker.settle():
        effect.run()
    assert (graph.outbox.counts.queued, graph.outbox.counts.refused) == (2, 1)
    assert "to 100 of its 200 recipients" in caplog.text and "to 1 of its 2 recipients" in caplog.text


def outbox_bytes(sealed: Sealed) -> int:
    """What the outbox's rows take of an entry."""
    records = json.loads(sealed.text)
    return sum(len(canonical(record)) for record in records if record[0] == outboxes.OUTBOX)


@pytest.mark.parametrize("letter", ["x", "\u6f22", "\x01"])
def test_a_batch_of_any_size_can_be_committed(clock: Clock, settings: Any, letter: str, caplog: pytest.LogCaptureFixture) -> None:
    """Else no prune would ever succeed again: each one would try to send it."""
    graph = graph_of(clock, batch_emails=True)
    for number in range(2):
        owners = [f"o{number}.{owner}@example.org" for owner in range(800)]
        expl = json.dumps("\n".join(letter * 20_000 for _ in range(5)))
        call(graph, "add_task", worker="w", task_id=f"t{number}", family="F", status="FAILED", expl=expl, owners=owners)
    graph.ledger.seal()
    clock.time += 3600
    call(graph, "prune")
    sealed = graph.ledger.seal()
    assert outbox_bytes(sealed) <= 1.1 * outboxes.BATCH_BYTES < COMMIT_BYTES / 2
    assert len(graph.outbox) > 40
    # Whose receiver is configured is among those who are told.
    assert ["ops@example.org"] in [row["recipients"] for row in rows(graph)]
    assert not graph._state.emails
    for effect in graph.tracker.settle():
        effect.run()
    # Of two tasks two failures each name 700 owners too many; 200 owners and the configured receiver are left.
    assert graph.outbox.counts.queued + graph.outbox.counts.refused == 4 * 700 + 201
    assert "Mail is not sent" in caplog.text
    call(graph, "prune")
    # There is room for others.
    before = len(graph.outbox)
    graph.outbox.add("s", "m" * MESSAGE_BYTES, ["ops@example.org"])
    assert len(graph.outbox) == before + 1


@pytest.mark.parametrize("letter", ["x", "\u00e4", "\u6f22", "x\U0001f600xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"])
def test_all_that_waits_is_bounded(clock: Clock, settings: Any, letter: str) -> None:
    """In memory and as JSON, also if one call queues all of it: a character that is not ASCII may widen all others."""
    graph = graph_of(clock)
    for _ in range(200):
        recipients = [f"{letter[0] * 20}{owner}@example.org" for owner in range(outboxes.MOST_RECIPIENTS)]
        graph.outbox.add(letter[:9] * 1000, (letter * MESSAGE_BYTES)[:MESSAGE_BYTES], recipients)
    sealed = graph.ledger.seal()
    assert outbox_bytes(sealed) <= 1.1 * outboxes.WAITING_BYTES < COMMIT_BYTES / 2
    held = sum(sys.getsizeof(text) for row in rows(graph) for text in (row["subject"], row["message"], *row["recipients"]))
    assert max(held, outbox_bytes(sealed)) > outboxes.WAITING_BYTES / 2
    assert held <= outboxes.WAITING_BYTES < 16 * 1024 * 1024
    # What is sent makes room.
    first = take(graph, "a")
    assert first is not None
    take(graph, "a", sent(first))
    waiting = len(graph.outbox)
    graph.outbox.add("s", "small", ["ops@example.org"])
    assert len(graph.outbox) == waiting + 1


def test_large_failures_are_mailed_early(clock: Clock, settings: Any) -> None:
    """All replicas hold what waits for its batch."""
    graph = graph_of(clock, batch_emails=True, retry_count=1000)
    held = 0
    for number in range(130):
        fail(graph, "A", owners=["me@example.org"])
        call(graph, "add_task", worker="w", task_id="A", family="F")
        call(graph, "add_task", worker="w", task_id="A", family="F", status="FAILED", expl=json.dumps(f"{number}" + "x" * 10**6))
        held = max(held, sum(row["size"] for row in graph._state.emails.values()))
        call(graph, "prune")
    assert notifiers.FAILURES_BYTES / 2 < held < 2 * notifiers.FAILURES_BYTES
    assert len(graph.outbox) >= 2


def test_any_name_can_be_mailed(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    fail(graph, "A\r\nBcc: x\udce4")
    (row,) = rows(graph)
    assert row["subject"] == "Luigi Scheduler: DISABLED A Bcc: x\\udce4 due to excessive failures"
    row["message"].encode()


def test_batched_failures_become_the_mails_that_luigi_would_send(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock, batch_emails=True, retry_count=2)
    with mock.patch("luigi.batch_notifier.send_email") as stock:
        notifier = BatchNotifier()
        for explanation, owners in (("one", ["b@example.org", "a@example.org"]), ("two", ["a@example.org"])):
            notifier.add_failure("F()", "F", {}, explanation, owners)
        notifier.add_disable("F()", "F", {}, ["a@example.org"])
        notifier.send_email()
    task = {"worker": "w", "task_id": "A", "family": "F", "params": {}}
    call(graph, "add_task", **task, status="FAILED", expl='"one"', owners=["b@example.org", "a@example.org"])
    call(graph, "add_task", **task)
    call(graph, "add_task", **task, status="FAILED", expl='"two"', owners=["a@example.org"])
    assert len(graph._state.emails) == 3
    call(graph, "prune")
    assert rows(graph) == []
    clock.time += 3600
    call(graph, "prune")
    assert not graph._state.emails
    expected = sorted((given.args[0], given.args[1], list(given.args[3])) for given in stock.call_args_list)
    assert len(expected) == 3
    assert [(row["subject"], row["message"], row["recipients"]) for row in rows(graph)] == expected
    call(graph, "prune")
    assert len(rows(graph)) == 3


def test_very_many_failures_are_mailed_early(clock: Clock, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "MOST_FAILURES", 3)
    graph = graph_of(clock, batch_emails=True, retry_count=10)
    for count in range(3):
        call(graph, "prune")
        assert len(graph._state.emails) == count
        fail(graph, f"t{count}")
    call(graph, "prune")
    assert not graph._state.emails
    assert [row["subject"] for row in rows(graph)] == ["Luigi: 3 failures in the last 60 minutes"]


def test_failures_that_cannot_be_worded_do_not_fail_every_prune(
    clock: Clock, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    graph = graph_of(clock, batch_emails=True)
    fail(graph, "A", owners=[["no text"]])
    clock.time += 3600
    call(graph, "prune")
    assert not graph._state.emails and rows(graph) == []
    for effect in graph.tracker.settle():
        effect.run()
    assert "cannot be worded" in caplog.text


def test_back_off_doubles_and_is_spread() -> None:
    assert [retry_delay(tries, lambda: 0.5) for tries in (1, 2, 3, 7, 1000)] == [60, 120, 240, 3600, 3600]
    assert retry_delay(1, lambda: 0.0) == 30
    assert retry_delay(99, lambda: 1.0) == 1.5 * LONGEST_RETRY_SECONDS < outboxes.LATEST_SECONDS


def test_many_mails_are_quickly_looked_through(clock: Clock, settings: Any) -> None:
    graph = graph_of(clock)
    for number in range(outboxes.MOST_WAITING):
        fail(graph, f"t{number}")
    began = time.perf_counter()
    assert graph.outbox.is_due("a")
    assert time.perf_counter() - began < 0.1
