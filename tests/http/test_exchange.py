"""What happens on a connection: versions of HTTP, keeping it open, verbs, bodies that stall, callers that go, the door."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import pytest
from serving import PATIENCE, Answering, Client, Raw, in_query, listening, opened, serving

from luigi_spanner.calls import Call
from luigi_spanner.server import api, exchange
from luigi_spanner.server.door import Door

PING = "/api/ping?data=%7B%22worker%22:%22w%22%7D"
FORM = "Content-Type: application/x-www-form-urlencoded"
ARGUMENTS = b"data=%7B%22worker%22:%22w%22%7D"


async def null(call: Call) -> bytes:
    return b"null"


async def met(condition: Callable[[], bool]) -> None:
    """Until the condition holds, letting the event loop run."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0)


def over_a_connection(play: Callable[[Raw, Answering], Awaitable[None]], **options: object) -> None:
    """Play on one connection to a server that answers every call with null."""

    async def main() -> None:
        scheduling = Answering(null)
        async with listening(scheduling, **options) as port, opened(port) as raw:
            await play(raw, scheduling)

    asyncio.run(main())


def test_http_1_0_ends_with_the_reply() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"GET {PING} HTTP/1.0")
        answer = await raw.answer()
        assert (answer.value, answer.headers["Connection"]) == (None, None)
        assert await raw.end() == b""

    over_a_connection(play)


def test_http_1_0_may_ask_to_go_on() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        for _ in range(2):
            raw.send(f"POST /api/ping HTTP/1.0\nConnection: keep-alive\n{FORM}\nContent-Length: {len(ARGUMENTS)}", ARGUMENTS)
            answer = await raw.answer()
            assert (answer.value, answer.headers["Connection"]) == (None, "Keep-Alive")

    over_a_connection(play)


def test_http_1_1_goes_on_until_asked_to_close() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        for _ in range(2):
            raw.send(f"GET {PING} HTTP/1.1\nHost: x")
            assert (await raw.answer()).headers["Connection"] is None
        raw.send(f"GET {PING} HTTP/1.1\nHost: x\nConnection: close")
        assert (await raw.answer()).headers["Connection"] == "close"
        assert await raw.end() == b""

    over_a_connection(play)


def test_requests_that_do_not_wait_are_answered_in_order() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        for index in range(3):
            body = urlencode({"data": json.dumps({"worker": str(index)})}).encode()
            raw.send(f"POST /api/ping HTTP/1.1\nHost: x\nX-Request-Id: r{index}\n{FORM}\nContent-Length: {len(body)}", body)
        raw.send("GET /healthz HTTP/1.1\nHost: x")
        assert [(await raw.answer()).headers["X-Request-Id"] for _ in range(3)] == ["r0", "r1", "r2"]
        assert (await raw.answer()).json["status"] == "alive"
        assert [call.arguments["worker"] for call in scheduling.calls] == ["0", "1", "2"]

    over_a_connection(play)


@pytest.mark.parametrize("verb", ["HEAD", "PUT", "DELETE", "BREW"])
def test_other_verbs_leave_the_connection_usable(verb: str) -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"{verb} {PING} HTTP/1.1\nHost: x")
        answer = await raw.answer(body=verb != "HEAD")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, POST, OPTIONS")
        assert int(answer.headers["Content-Length"]) > 0
        raw.send(f"GET {PING} HTTP/1.1\nHost: x")
        assert (await raw.answer()).value is None
        assert len(scheduling.calls) == 1

    over_a_connection(play)


def test_options_has_no_body() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        for target in ("/api", "/api/graph"):
            raw.send(f"OPTIONS {target} HTTP/1.1\nHost: x")
            answer = await raw.answer()
            assert (answer.status, answer.headers["Content-Length"]) == (204, None)
        assert scheduling.calls == []

    over_a_connection(play)


@pytest.mark.parametrize("hosts", ["", "Host: a\nHost: b\n"])
def test_a_request_to_no_host_or_to_two(hosts: str) -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"GET {PING} HTTP/1.1\n{hosts}Accept: */*")
        answer = await raw.answer()
        assert (answer.status, answer.json["error"]["code"], answer.headers["Connection"]) == (400, "bad_request", "close")
        assert await raw.end() == b""
        assert scheduling.calls == []

    over_a_connection(play)


def test_what_every_reply_says(memory: Client) -> None:
    answer = memory.call("ping", worker="w")
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Date"].endswith(" GMT")


def test_the_name_of_a_method_may_be_escaped(memory: Client) -> None:
    assert memory.get("/api/%70ing?data=%7B%22worker%22:%22w%22%7D").value == {"rpc_messages": []}


@pytest.mark.parametrize("target", ["/api/ping", "/healthz"])
def test_a_body_that_stalls_ends_the_connection(target: str) -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"POST {target} HTTP/1.1\nHost: x\n{FORM}\nContent-Length: 100", b"data=")
        assert await raw.end() == b""
        assert scheduling.calls == []

    over_a_connection(play, body_seconds=0.1)


def test_a_body_in_chunks_that_stalls_ends_the_connection() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nTransfer-Encoding: chunked", b"5\r\ndata=\r\n")
        assert await raw.end() == b""
        assert scheduling.calls == []

    over_a_connection(play, body_seconds=0.1)


def test_a_call_may_take_longer_than_its_body() -> None:
    async def slowly(call: Call) -> bytes:
        await asyncio.sleep(0.2)
        return b"null"

    async def main() -> None:
        async with listening(Answering(slowly), body_seconds=0.1) as port, opened(port) as raw:
            raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {len(ARGUMENTS)}", ARGUMENTS)
            assert (await raw.answer()).value is None

    asyncio.run(main())


def test_a_caller_that_goes_before_its_body_has_come_made_no_call() -> None:
    async def main() -> None:
        door, scheduling = Door(), Answering(null)
        async with listening(scheduling, door=door) as port:
            async with opened(port) as raw:
                raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: 100", b"data=")
            async with opened(port) as raw:
                raw.send("GET /healthz HTTP/1.1\nHost: x")
                assert (await raw.answer()).status == 200
            await asyncio.wait_for(door.close(), PATIENCE)
            assert scheduling.calls == []

    asyncio.run(main())


def test_a_caller_that_goes_while_its_large_body_is_read_has_abandoned_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, gone = threading.Event(), threading.Event()

    def slowly(query: str, headers: object, body: bytes) -> str:
        reading.set()
        assert gone.wait(PATIENCE)
        return api.payload_of(query, headers, body)  # type: ignore[arg-type]

    monkeypatch.setattr(exchange, "payload_of", slowly)

    async def main() -> None:
        door, scheduling = Door(), Answering(null)
        body = urlencode({"data": json.dumps({"worker": "w", "task_id": "A", "expl": "x" * exchange.LARGE_BYTES})}).encode()
        async with listening(scheduling, door=door) as port:
            async with opened(port) as raw:
                raw.send(f"POST /api/add_task HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {len(body)}", body)
                await met(reading.is_set)
            await asyncio.wait_for(door.close(), PATIENCE)  # who has gone is not waited for
            gone.set()
            await met(lambda: bool(scheduling.calls))
            assert scheduling.calls[0].abandoned

    asyncio.run(main())


def test_the_door_waits_for_a_call_and_refuses_the_next() -> None:
    async def main() -> None:
        door, may = Door(), asyncio.Event()

        async def when_told(call: Call) -> bytes:
            await may.wait()
            return b"null"

        scheduling = Answering(when_told)
        async with listening(scheduling, door=door) as port, opened(port) as caller, opened(port) as late:
            caller.send(f"GET {PING} HTTP/1.1\nHost: x")
            await met(lambda: bool(scheduling.calls))
            closing = asyncio.create_task(door.close())
            await met(lambda: not door.open)
            late.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: 1000000", b"data=")
            refused = await late.answer()  # without waiting for its body
            assert (refused.status, refused.json["error"]["code"]) == (503, "store_down")
            assert (refused.headers["Connection"], refused.headers["Retry-After"]) == ("close", "1")
            assert not closing.done()
            may.set()
            answer = await caller.answer()
            assert (answer.value, answer.headers["Connection"]) == (None, "close")
            await asyncio.wait_for(closing, PATIENCE)
            assert len(scheduling.calls) == 1

    asyncio.run(main())


def test_the_door_waits_until_a_long_reply_has_gone_out() -> None:
    """Before, it opened as soon as the reply was in a buffer, and closing the connections then cut it short."""
    listing = json.dumps("x" * 32_000_000).encode()  # far more than the kernel buffers

    async def long(call: Call) -> bytes:
        return listing

    async def main() -> None:
        door, scheduling = Door(), Answering(long)
        async with listening(scheduling, door=door) as port, opened(port) as raw:
            raw.send(f"GET {in_query('task_list')} HTTP/1.1\nHost: x")
            head = await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            closing = asyncio.create_task(door.close())
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(closing), 0.1)
            assert len(await asyncio.wait_for(raw.reader.readexactly(len(listing) + 14), PATIENCE)) > len(listing)
            await asyncio.wait_for(closing, PATIENCE)
            assert b"200 OK" in head

    asyncio.run(main())


def test_a_caller_that_goes_during_a_long_reply_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def long(call: Call) -> bytes:
        return json.dumps("x" * 32_000_000).encode()

    async def main() -> None:
        door = Door()
        async with listening(Answering(long), door=door) as port:
            async with opened(port) as raw:
                raw.send(f"GET {in_query('task_list')} HTTP/1.1\nHost: x")
                await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            await asyncio.wait_for(door.close(), PATIENCE)

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert caplog.text == ""


def test_a_reply_that_cannot_be_sent_ends_the_connection(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A header that is configured may be none: its caller must not wait for ever, nor the door."""
    monkeypatch.setattr(exchange, "reply_headers", lambda origin: {"Access-Control-Allow-Origin": "a\r\nSet-Cookie: b"})
    monkeypatch.setattr(exchange, "preflight_headers", lambda origin: {"Access-Control-Expose-Headers": "\u0416"})

    async def main(verb: str) -> None:
        door = Door()
        async with listening(Answering(null), door=door) as port, opened(port) as raw:
            raw.send(f"{verb} {PING} HTTP/1.1\nHost: x\nX-Request-Id: r\nOrigin: http://a")
            assert await raw.end() == b""
            await asyncio.wait_for(door.close(), PATIENCE)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main("GET"))
        assert "Call r has no reply" in caplog.text
        asyncio.run(main("OPTIONS"))
    assert "UnicodeEncodeError" in caplog.text


def test_a_call_that_is_cancelled_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    """What it waited for may have been cancelled: its caller must not wait for ever, nor the door."""

    async def cancelled(call: Call) -> bytes:
        raise asyncio.CancelledError

    async def main() -> None:
        door = Door()
        async with listening(Answering(cancelled), door=door) as port, opened(port) as raw:
            raw.send(f"GET {PING} HTTP/1.1\nHost: x\nX-Request-Id: r")
            assert await raw.end() == b""
            await asyncio.wait_for(door.close(), PATIENCE)

    asyncio.run(main())
    assert "Call r has no reply" in caplog.text


@pytest.mark.parametrize("digits", [20, 4301, 60_000])
def test_a_length_of_any_number_of_digits_is_too_large(digits: int, caplog: pytest.LogCaptureFixture) -> None:
    """Python reads no number of more than 4,300 digits."""

    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {'9' * digits}")
        answer = await raw.answer()
        assert (answer.status, answer.json["error"]["code"], answer.headers["Connection"]) == (413, "too_large", "close")
        assert scheduling.calls == []

    over_a_connection(play)
    assert "Traceback" not in caplog.text


def test_a_length_that_begins_with_zeros() -> None:
    async def play(raw: Raw, scheduling: Answering) -> None:
        raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {len(ARGUMENTS):050}", ARGUMENTS)
        assert (await raw.answer()).value is None
        raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {len(ARGUMENTS):05000}", ARGUMENTS)
        assert (await raw.end()).startswith(b"HTTP/1.1 400 ")
        assert len(scheduling.calls) == 1

    over_a_connection(play)


def test_a_call_leaves_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda: opening(Answering(null))) as client, caplog.at_level(logging.INFO):
        for path in (PING, in_query("task_list"), "/healthz", "/static/visualiser/index.html"):
            assert client.get(path).status == 200
        assert client.call("get_work", worker="w").status == 200
        assert caplog.text == ""


def test_a_refused_call_leaves_one(caplog: pytest.LogCaptureFixture) -> None:
    with serving(lambda: opening(Answering(null))) as client, caplog.at_level(logging.INFO):
        answer = client.call("update_resources", **{"a\nERROR forged": "b"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert answer.status == 400
    assert line.startswith(f"Call {answer.headers['X-Request-Id']} is refused: ")
    assert "\n" not in line


async def opening(scheduling: Answering) -> Answering:
    return scheduling
