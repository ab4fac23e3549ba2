"""Exceptions and calls as the log shows them: what they are and where, and nothing of what callers sent."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Any

import pytest

from luigi_spanner import logs
from luigi_spanner.batch import Waiting
from luigi_spanner.calls import REQUEST_ID, BadRequest, Call
from luigi_spanner.journal import Entry, Row
from luigi_spanner.replica import Replica
from luigi_spanner.server.api import Reply
from luigi_spanner.service import Service
from luigi_spanner.wordless import without_words

SECRET = "pXq7SecretOfTheTask"


class Odd(LookupError):
    pass


def odd() -> None:
    try:
        int(SECRET)
    except ValueError as error:
        try:
            {}[SECRET]
        except KeyError:
            raise Odd(SECRET) from error


def caught() -> Odd:
    with pytest.raises(Odd) as found:
        odd()
    return found.value


def test_a_traceback_says_all_but_the_words() -> None:
    error = caught()
    shown = "".join(traceback.format_exception(without_words(error)))
    told = "".join(traceback.format_exception(error))
    assert SECRET in told and SECRET not in shown
    assert shown.count("Traceback") == told.count("Traceback")
    frames = [line for line in told.splitlines() if line.startswith("  File")]
    assert frames and [line for line in shown.splitlines() if line.startswith("  File")] == frames
    assert "ValueError" in shown.splitlines() and f"{__name__}.Odd" in shown.splitlines()
    assert str(error) == SECRET  # the exception itself is as it was


def test_exceptions_that_lead_to_one_another() -> None:
    first, second = ValueError(SECRET), KeyError(SECRET)
    first.__cause__, second.__cause__ = second, first
    shown = "".join(traceback.format_exception(without_words(first)))
    assert [line for line in shown.splitlines() if line] == [
        "KeyError",
        "The above exception was the direct cause of the following exception:",
        "ValueError",
    ]


def test_what_we_word_ourselves_is_kept() -> None:
    error = BadRequest("A sentence.")
    assert without_words(error) is error


@pytest.mark.parametrize(
    "holder",
    [
        Call(request_id="i", method="m", arguments={"params": SECRET}),
        Waiting(Call(request_id="i", method="m", arguments={"params": SECRET}), print, reply=SECRET.encode()),
        Reply(status=200, body=(SECRET.encode(),)),
        Row(table="tasks", key=("A",), body=SECRET.encode(), columns={"params": SECRET}),
        Entry(seq=1, commit_id="c", replica="r", clock=0.0, watermark=0, digest="", calls=b"[]", changes=SECRET.encode()),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_what_asyncio_would_quote_shows_none_of_it(holder: Any) -> None:
    assert SECRET not in repr(holder)


def test_an_exception_that_nobody_awaits(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(logs.stray)
        call = Call(request_id="i", method="m", arguments={"params": SECRET})
        loop.call_soon(fail, call)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def fail(call: Call) -> None:
        raise ValueError(call.arguments)

    asyncio.run(main())
    assert "Exception in callback" in caplog.text and "ValueError" in caplog.text
    assert SECRET not in caplog.text


def test_a_rule_that_fails_is_logged_under_its_request(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        service = await Service.open("memory://", "default")
        await service.start()

        def add_task(**arguments: Any) -> None:
            logging.getLogger("luigi.scheduler").warning("a line of the rule")
            raise ValueError(arguments)

        vars(service._graph)["add_task"] = add_task
        call = Call(request_id="id-7", method="add_task", arguments={"worker": "w", "task_id": "A", "params": {"p": SECRET}})
        with pytest.raises(Exception, match="the log has request id-7"):
            await service.call(call)
        await service.stop()

    lines = logs.JsonLines()
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(lines.format(record))  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logging.getLogger().removeHandler(handler)
    about = [line for line in seen if '"request_id": "id-7"' in line]
    assert any("a line of the rule" in line for line in about)
    assert any("failed and was undone" in line and "ValueError" in line and '"exception": "Traceback' in line for line in about)
    assert SECRET not in caplog.text and not any(SECRET in line for line in seen)
    assert REQUEST_ID.get() is None


def test_a_replica_that_meets_a_bug_keeps_its_words_to_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> Replica:
        service = await Service.open("memory://", "default")
        service._replica.fail(caught())
        await service.stop()
        return service._replica

    replica = asyncio.run(main())
    assert replica.failure == "it met a bug (Odd)"
    assert "stops serving: Odd" in caplog.text and "in odd" in caplog.text and SECRET not in caplog.text
