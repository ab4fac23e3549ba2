"""Replicas and a real mail server: mail is sent once, by whoever lives, and neither a call nor a process's end waits for it."""

from __future__ import annotations

import asyncio
import random
import smtplib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from luigi import configuration
from luigi import scheduler as luigi_scheduler
from test_service import Gate, ask, run, running, until

from luigi_spanner import chores
from luigi_spanner import mail as mails
from luigi_spanner import service as services
from luigi_spanner.graph import outbox as outboxes
from luigi_spanner.graph.outbox import Outbox
from luigi_spanner.journal import decode
from luigi_spanner.service import Service
from luigi_spanner.stores.location import open_store
from luigi_spanner.stores.memory import Database
from mailserver import ADDRESS, MailServer

# Luigi leaves its connections to the mail server to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

OPS = "ops@example.org"

STORES = ["memory", "sqlite", pytest.param("spanner", marks=pytest.mark.emulator)]


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def options() -> Iterator[Callable[..., None]]:
    """Sets options of Luigi's configuration for the test."""
    config = configuration.get_config()
    done: list[tuple[str, str]] = []

    def configure(section: str, **values: Any) -> None:
        for option, value in values.items():
            config.set(section, option, str(value))
            done.append((section, option))

    yield configure
    for section, option in done:
        config.remove_option(section, option)


@pytest.fixture(autouse=True)
def configured(options: Callable[..., None], server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One failure disables a task, and that is mailed to the server; what takes minutes takes less than a second."""
    options("email", receiver=OPS, sender="luigi@example.org", prefix="[test]")
    # Luigi warns of its own defaults where these are not given.
    options("smtp", host=ADDRESS, port=server.port, local_hostname="localhost", username="", password="")
    options("scheduler", retry_count=1)
    monkeypatch.setattr(chores, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(mails, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(mails, "FIRST_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(outboxes, "LEASE_SECONDS", 0.5)


async def fail(service: Service, task: str, **more: Any) -> None:
    """A task fails; with `retry_count` 1 it is disabled."""
    await ask(service, "add_task", worker="w", task_id=task, family="F", status="FAILED", expl='"it broke"', **more)


def outbox(service: Service) -> Outbox:
    return service._graph.outbox


def replicas(stack: AsyncExitStack, database: Database, count: int, **options: Any) -> Any:
    return [stack.enter_async_context(running(Gate(database), hold=5, **options)) for _ in range(count)]


async def taken(server: MailServer, count: int) -> None:
    await asyncio.to_thread(server.wait_until, count)


def test_a_mail_is_sent_as_luigi_is_configured(server: MailServer) -> None:
    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            await fail(service, "A")
            await taken(server, 1)
            await until(lambda: not len(outbox(service)))
            assert outbox(service).counts == outboxes.Counts(queued=1, sent=1)

    run(scenario)
    (mail,) = server.taken
    assert mail.recipients == (OPS,)
    assert mail.message["From"] == "luigi@example.org"
    assert mail.subject == "[test] Luigi Scheduler: DISABLED A due to excessive failures"
    assert mail.text.startswith("A failed 1 times")


@pytest.mark.parametrize("kind", STORES)
def test_three_replicas_send_each_mail_once(server: MailServer, kind: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{kind}_url")

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            services = []
            for _ in range(3):
                store = await open_store(url, "default")
                services.append(await stack.enter_async_context(running(store, hold=5)))
            await asyncio.gather(*(fail(services[number % 3], f"t{number}") for number in range(9)))
            await taken(server, 9)
            for service in services:
                await until(lambda service=service: not len(outbox(service)))  # type: ignore[misc]
            sent = [outbox(service).counts for service in services]
            assert sum(counts.queued for counts in sent) == sum(counts.sent for counts in sent) == 9
            # Whoever might send another one would do it within this time.
            await asyncio.sleep(outboxes.LEASE_SECONDS + 0.2)

    run(scenario)
    assert sorted(mail.subject.split()[4] for mail in server.taken) == [f"t{number}" for number in range(9)]


def test_a_mail_costs_two_commits_and_nothing_to_send_costs_none(server: MailServer) -> None:
    database = Database()

    def taking() -> int:
        """How many of the journal's calls are the post's."""
        calls = [call for entry in database.journals["default"].values() for call in decode(entry.calls)]
        return sum(call[2] == "take_mail" for call in calls)

    async def scenario() -> None:
        async with running(Gate(database), dice=lambda: 0.0) as service, running(Gate(database), dice=lambda: 0.0):
            await asyncio.sleep(10 * chores.TICK_SECONDS)
            assert taking() == 0
            await fail(service, "A")
            await until(lambda: outbox(service).counts.sent == 1 and not len(outbox(service)))
            assert taking() == 2
            await asyncio.sleep(10 * chores.TICK_SECONDS)
            assert taking() == 2

    run(scenario)


@pytest.mark.parametrize(
    ("verb", "line"),
    [
        ("HELLO", "421 too busy"),
        ("MAIL", "451 later"),
        ("RCPT", "550 nobody here by that name"),
        ("DATA", "554 no"),
        ("END", "452 no room"),
    ],
)
def test_a_server_that_does_not_take_it_is_asked_again(
    server: MailServer, verb: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer(verb, line)

    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            await fail(service, "A")
            await until(lambda: outbox(service).counts.failed >= 2)
            assert await ask(service, "task_list", status="DISABLED", upstream_status="") != {}
            server.work()
            await taken(server, 1)
            await until(lambda: not len(outbox(service)))

    run(scenario)
    assert len(server.taken) == 1
    warnings = [record.getMessage() for record in caplog.records if "could not be sent" in record.getMessage()]
    assert "(try 1)" in warnings[0] and line[:3] in warnings[0]


def test_no_server_at_all(server: MailServer, options: Callable[..., None]) -> None:
    with closing(socket.socket()) as nobody:
        nobody.bind((ADDRESS, 0))
        options("smtp", port=nobody.getsockname()[1])

        async def scenario() -> None:
            async with running(Gate(Database())) as service:
                await fail(service, "A")
                await until(lambda: outbox(service).counts.failed >= 2)
                # The configuration is read when it is sent.
                options("smtp", port=server.port)
                await taken(server, 1)

        run(scenario)


@pytest.mark.parametrize("kind", STORES)
def test_a_server_that_hangs_delays_no_call_and_not_the_end(
    server: MailServer, monkeypatch: pytest.MonkeyPatch, kind: str, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(services, "MAIL_SECONDS", 0.1)
    monkeypatch.setattr(outboxes, "LEASE_SECONDS", 60.0)
    url = request.getfixturevalue(f"{kind}_url")
    server.hang("DATA")

    async def scenario() -> None:
        async with running(await open_store(url, "default"), hold=5) as service:
            await fail(service, "A")
            await fail(service, "B")
            await asyncio.to_thread(server.wait_until, connected=1)
            for number in range(20):
                began = time.monotonic()
                await fail(service, f"t{number}")
                assert time.monotonic() - began < 1.0
            began = time.monotonic()
        assert time.monotonic() - began < 2.0
        # All of them are still there, and the first is claimed.
        async with running(await open_store(url, "default"), hold=5) as service:
            rows = [row for _, row in sorted(service._graph._state.outbox.items())]
            assert [row["tries"] for row in rows] == [1] + [0] * 21
            assert server.connected == 1

    run(scenario)
    assert server.taken == []


def test_another_sends_what_a_replica_that_hangs_has_claimed(server: MailServer) -> None:
    server.hang("EHLO")

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            left, right = [await entering for entering in replicas(stack, Database(), 2)]
            await fail(left, "A")
            await asyncio.to_thread(server.wait_until, connected=1)
            # The one waits for its answer; the other tries when the claim has expired, and hangs as well.
            await asyncio.to_thread(server.wait_until, connected=2)
            assert len(outbox(right)) == 1
            server.work()
            await taken(server, 1)
            await until(lambda: not len(outbox(left)) and not len(outbox(right)))
            assert outbox(left).counts.sent + outbox(right).counts.sent == 1

    run(scenario)


def test_a_mail_outlives_the_replica_that_has_queued_it(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database()

    async def scenario() -> None:
        async with running(Gate(database)) as service:
            # It dies before it gets to send: nothing that it does from here on counts.
            service._postman._round.cancel()  # type: ignore[union-attr]
            await fail(service, "A")
            assert len(outbox(service)) == 1
            monkeypatch.setattr(service._postman, "stop", _nothing)
        async with running(Gate(database)) as service:
            await taken(server, 1)
            await until(lambda: not len(outbox(service)))

    run(scenario)
    assert len(server.taken) == 1


async def _nothing(seconds: float) -> None:
    """The end of a replica that has died."""


def test_batched_mails_are_sent_once_and_outlive_who_has_seen_the_failures(
    server: MailServer, options: Callable[..., None]
) -> None:
    options("scheduler", batch_emails="true")
    database = Database()
    ahead = [0.0]

    def clock() -> float:
        return time.time() + ahead[0]

    async def scenario() -> None:
        async with running(Gate(database), clock=clock) as service:
            await fail(service, "A", owners=["me@example.org"])
        async with AsyncExitStack() as stack:
            services = [await entering for entering in replicas(stack, database, 2, clock=clock)]
            assert all(len(service._graph._state.emails) == 2 for service in services)
            ahead[0] = 3601.0
            await asyncio.gather(*(ask(service, "prune") for service in services * 3))
            await taken(server, 2)
            for service in services:
                await until(lambda service=service: not len(outbox(service)))  # type: ignore[misc]
            await asyncio.gather(*(ask(service, "prune") for service in services * 3))
            assert sum(outbox(service).counts.queued for service in services) == 2

    run(scenario)
    assert sorted((mail.recipients, mail.subject) for mail in server.taken) == [
        (("me@example.org",), "[test] Luigi: Your tasks have 1 failure, 1 disable in the last 60 minutes"),
        ((OPS,), "[test] Luigi: 1 failure, 1 disable in the last 60 minutes"),
    ]


@pytest.mark.parametrize("method", ["ses", "sns", "sendgrid"])
def test_luigi_s_other_ways(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """With stand-ins for the services' libraries, which fail once."""
    options("email", method=method, format="html")
    options("sendgrid", apikey="secret")
    asked: list[tuple[Any, ...]] = []

    def ask_service(*args: Any, **kwargs: Any) -> dict[str, Any]:
        asked.append((args, kwargs))
        if len(asked) == 1:
            raise ValueError("the service is busy")
        return {"MessageId": "1", "ResponseMetadata": {"RequestId": "1", "HTTPStatusCode": 200}}

    client = SimpleNamespace(send_raw_email=ask_service, publish=ask_service, send=ask_service)
    client.Topic = lambda name: client
    mail = SimpleNamespace(add_content=lambda *args: None)
    boto3 = SimpleNamespace(client=lambda name: client, resource=lambda name: client)
    monkeypatch.setitem(sys.modules, "boto3", boto3)
    monkeypatch.setitem(
        sys.modules, "sendgrid", SimpleNamespace(SendGridAPIClient=lambda key: client, Mail=lambda **kwargs: mail)
    )

    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            await fail(service, "A")
            await until(lambda: outbox(service).counts.sent == 1 and not len(outbox(service)))
            assert outbox(service).counts == outboxes.Counts(queued=1, sent=1, failed=1)

    run(scenario)
    assert len(asked) == 2
    assert asked[0] == asked[1] or method == "ses"  # The one has a boundary that is drawn.


def test_a_store_that_is_away_keeps_what_was_sent_from_being_sent_again(server: MailServer) -> None:
    server.hang("END")

    async def scenario() -> None:
        store = Gate(Database())
        async with running(store, hold=0.2) as service:
            await fail(service, "A")
            await asyncio.to_thread(server.wait_until, connected=1)
            store.open = False
            server.work()
            await taken(server, 1)
            await until(lambda: service._postman._done is not None)
            # Longer than the claim lasts, and than the replica waits for the store.
            await asyncio.sleep(outboxes.LEASE_SECONDS + 0.3)
            store.open = True
            await until(lambda: not len(outbox(service)))

    run(scenario)
    assert len(server.taken) == 1


def test_many_replicas_mail_and_all_of_it_arrives(server: MailServer, rng: random.Random) -> None:
    """The server refuses every third time at some step or other."""
    database, names = Database(), [f"t{number}" for number in range(12)]

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            services = [await entering for entering in replicas(stack, database, 3, dice=rng.random)]
            for name in names:
                if rng.random() < 0.3:
                    server.answer(rng.choice(["MAIL", "RCPT", "DATA", "END"]), "451 later")
                await fail(rng.choice(services), name)
                await asyncio.sleep(0.02)
            server.work()
            await until(lambda: not any(len(outbox(service)) for service in services))

    run(scenario)
    assert sorted({mail.subject.split()[4] for mail in server.taken}) == sorted(names)
    assert len(server.taken) == len(names)


def test_stock_s_rules_are_unharmed_elsewhere(server: MailServer) -> None:
    """Whoever uses Luigi itself in this process sends its mail at once."""
    stock = luigi_scheduler.Scheduler(retry_count=1)
    stock.add_task(worker="w", task_id="A", family="F", status="FAILED", expl='"it broke"')
    assert len(server.taken) == 1
    server.answer("MAIL", "451 later")
    stock.add_task(worker="w", task_id="B", family="F", status="FAILED", expl='"it broke"')
    assert len(server.taken) == 1


def test_a_send_that_hangs_ends_no_mail_here(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Luigi's `sendmail` and clients of mail services may wait for ever. A few threads are given up for it, no more."""
    monkeypatch.setattr(mails, "MOST_GIVEN_UP", 2)
    monkeypatch.setattr(outboxes, "LEASE_SECONDS", 0.1)
    release, asked = threading.Event(), 0

    def hang(*mail: Any) -> None:
        nonlocal asked
        asked += 1
        if asked != 2:
            release.wait(20)

    monkeypatch.setattr(mails.notifications, "send_email", hang)

    async def scenario() -> None:
        async with running(Gate(Database())) as service:
            await fail(service, "A")
            # The second thread sends.
            await until(lambda: outbox(service).counts.failed == 1)
            await until(lambda: outbox(service).counts.sent == 1)
            await fail(service, "B")
            await until(lambda: asked == 3)
            await asyncio.sleep(1.0)
            assert asked == 3 and len(outbox(service)) == 1
            release.set()
            await until(lambda: outbox(service).counts.sent == 2)

    run(scenario)


def test_nothing_is_kept_of_what_a_mail_library_says(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """It may quote the mail, and with it a parameter that is hidden."""
    refusals = [
        (ValueError("secret in the mail"), "ValueError"),
        (smtplib.SMTPDataError(554, b"secret in the mail"), "SMTPDataError 554"),
        (smtplib.SMTPRecipientsRefused({"a": (550, b"secret"), "b": (450, b"secret")}), "SMTPRecipientsRefused 450 550"),
        (ConnectionRefusedError(111, "secret"), "ConnectionRefusedError 111"),
    ]
    for error, told in refusals:
        monkeypatch.setattr(mails.notifications, "send_email", mock.Mock(side_effect=error))
        caplog.clear()

        async def scenario(told: str = told) -> None:
            async with running(Gate(Database())) as service:
                await fail(service, "A")
                await until(lambda: outbox(service).counts.failed == 1)
                assert [row["error"] for row in service._graph._state.outbox.values()] == [told]

        run(scenario)
        assert told in caplog.text and "secret" not in caplog.text
