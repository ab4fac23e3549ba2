"""Connections that are too many, too slow or too greedy: each has its bound, and workers are answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from serving import PATIENCE, Answering, Process, Raw, environment, in_query, listening, opened

from luigi_spanner.calls import Call
from luigi_spanner.server import exchange, listener
from luigi_spanner.server.application import MAX_BODY_BYTES
from luigi_spanner.server.door import Door
from luigi_spanner.server.room import Room

PING = "/api/ping?data=%7B%22worker%22:%22w%22%7D"
FORM = "Content-Type: application/x-www-form-urlencoded"


async def null(call: Call) -> bytes:
    return b"null"


async def dribble(raw: Raw, data: bytes) -> None:
    """Send a byte at a time, each long before anything can have run out, until the other side has closed the connection."""
    with contextlib.suppress(ConnectionError):
        for byte in data:
            raw.writer.write(bytes([byte]))
            await raw.writer.drain()
            await asyncio.sleep(0.01)


def closes_on(sent: bytes, first: str = "", **options: object) -> float:
    """Seconds until the server closes a connection on which something dribbles in, after what is sent first at once."""

    async def main() -> float:
        async with listening(Answering(null), **options) as port, opened(port) as raw:
            if first:
                raw.send(first)
            if first.startswith("GET"):
                assert (await raw.answer()).status == 200
            began = time.monotonic()
            sending = asyncio.create_task(dribble(raw, sent))
            with contextlib.suppress(ConnectionResetError):  # what was on its way came too late
                assert await raw.end() == b""
            sending.cancel()
            return time.monotonic() - began

    return asyncio.run(main())


@pytest.mark.parametrize("first", ["", f"GET {PING} HTTP/1.1\nHost: x"])
def test_a_head_that_dribbles_in_is_cut_off(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Before, it had ten minutes, as a connection that says nothing."""
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.3)
    assert closes_on(b"GET /api/ping HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000, first) >= 0.3


def test_a_body_that_dribbles_in_is_cut_off() -> None:
    head = f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: 5000"
    assert closes_on(b"x" * 5000, head, body_seconds=0.3) >= 0.3


def test_chunks_that_dribble_in_are_cut_off() -> None:
    head = f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nTransfer-Encoding: chunked"
    assert closes_on(b"1\r\nx\r\n" * 1000, head, body_seconds=0.3) >= 0.3


def test_a_connection_that_says_nothing_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.05)

    async def main() -> None:
        async with listening(Answering(null)) as port, opened(port) as idle, opened(port) as slow:
            slow.writer.write(b"GET")
            assert await slow.end() == b""
            idle.send(f"GET {PING} HTTP/1.1\nHost: x")
            assert (await idle.answer()).value is None

    asyncio.run(main())


def test_a_call_in_progress_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the next request in line behind it, of which a part has come."""
    monkeypatch.setattr(listener, "HEAD_SECONDS", 0.05)

    async def slowly(call: Call) -> bytes:
        await asyncio.sleep(0.3)
        return b"null"

    async def main() -> None:
        async with listening(Answering(slowly)) as port, opened(port) as raw:
            raw.send(f"GET {PING} HTTP/1.1\nHost: x")
            raw.writer.write(b"GET /api")
            assert (await raw.answer()).value is None

    asyncio.run(main())


def crowd(play: Callable[[int], Awaitable[None]], scheduling: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play on the port of a server that keeps three connections."""
    monkeypatch.setattr(listener, "CONNECTIONS", 3)

    async def main() -> None:
        async with listening(scheduling) as port:
            await play(port)

    asyncio.run(main())


def test_one_more_takes_the_place_of_the_one_that_is_idle_for_longest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(port: int) -> None:
        async with opened(port) as first, opened(port) as second, opened(port) as third, opened(port) as fourth:
            for raw in (second, third, fourth):
                raw.send(f"GET {PING} HTTP/1.1\nHost: x")
                assert (await raw.answer()).value is None
            assert await first.end() == b""
            async with opened(port) as fifth:
                fifth.send(f"GET {PING} HTTP/1.1\nHost: x")
                assert (await fifth.answer()).value is None
                assert await second.end() == b""
                third.send(f"GET {PING} HTTP/1.1\nHost: x")
                assert (await third.answer()).value is None

    crowd(play, Answering(null), monkeypatch)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_where_all_are_busy_one_more_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    may = asyncio.Event()

    async def when_told(call: Call) -> bytes:
        await may.wait()
        return b"null"

    scheduling = Answering(when_told)

    async def play(port: int) -> None:
        async with opened(port) as first, opened(port) as second, opened(port) as third:
            for raw in (first, second, third):
                raw.send(f"GET {PING} HTTP/1.1\nHost: x")
            while len(scheduling.calls) < 3:
                await asyncio.sleep(0)
            async with opened(port) as fourth:
                assert await fourth.end() == b""
            may.set()
            for raw in (first, second, third):
                assert (await raw.answer()).value is None

    crowd(play, scheduling, monkeypatch)


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(1024, 4096, 4096), (1024, 20_000, 10_256), (1024, 1024, 1024), (15_000, 20_000, 10_256)]
)
def test_files_that_may_be_opened(soft: int, hard: int, expected: int) -> None:
    script = (
        "import resource; from luigi_spanner.server.listener import openable_files\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(openable_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    printed = subprocess.check_output([sys.executable, "-c", script], env=environment(), text=True)
    assert [int(part) for part in printed.split()] == [expected, max(soft, expected)]


def test_a_reply_that_nobody_takes_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Before, it stayed in memory for as long as its caller liked."""
    monkeypatch.setattr(exchange, "REPLY_SECONDS", 0.2)
    monkeypatch.setattr(exchange, "SLOWEST", 2**40)

    async def long(call: Call) -> bytes:
        return json.dumps("x" * 32_000_000).encode()

    async def main() -> None:
        door = Door()
        async with listening(Answering(long), door=door) as port, opened(port) as raw:
            raw.send(f"GET {in_query('task_list')} HTTP/1.1\nHost: x\nX-Request-Id: r")
            await asyncio.wait_for(raw.reader.readuntil(b"\r\n\r\n"), PATIENCE)
            await asyncio.wait_for(door.close(), PATIENCE)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait_for(asyncio.gather(*others), PATIENCE) if others else None

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == ["Call r has a reply that its caller does not take"]


def test_a_body_to_a_page_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with listening(Answering(null)) as port, opened(port) as raw:
            raw.send("POST /healthz HTTP/1.1\nHost: x\nContent-Length: 100000")
            assert (await raw.end()).startswith(b"HTTP/1.1 400 ")

    asyncio.run(main())


# Room for bodies


def test_room_is_given_in_the_order_of_coming() -> None:
    async def main() -> None:
        room = Room(10)
        assert room.take(6) is None and room.take(4) is None
        large, gone, small = room.take(8), room.take(1), room.take(1)
        assert large is not None and gone is not None and small is not None
        gone.cancel()
        room.give_back(4)
        assert not large.done() and not small.done()  # or a large one would wait for ever
        room.give_back(6)
        assert large.done() and small.done()
        room.give_back(9)
        assert room.take(10) is None

    asyncio.run(main())


BODY = b"data=%7B%22worker%22:%22w%22%7D&" + b"x" * 100


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bodies from 100 bytes on need room, of which there is enough for one. How large one may be."""
    monkeypatch.setattr(exchange, "SMALL_BYTES", 100)
    monkeypatch.setattr("luigi_spanner.server.application.BODIES", 1)
    return len(BODY)


def post(raw: Raw, how: str, body: bytes = BODY) -> None:
    if how == "chunked":
        raw.send(
            f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nTransfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        )
    else:
        raw.send(f"POST /api/ping HTTP/1.1\nHost: x\n{FORM}\nContent-Length: {len(BODY)}", body)


@pytest.mark.parametrize("how", ["whole", "chunked"])
def test_a_large_body_waits_until_there_is_room(little_room: int, how: str) -> None:
    may = asyncio.Event()

    async def when_told(call: Call) -> bytes:
        await may.wait()
        return b"null"

    async def main() -> None:
        scheduling = Answering(when_told)
        async with (
            listening(scheduling, max_body_bytes=little_room) as port,
            opened(port) as first,
            opened(port) as second,
            opened(port) as small,
        ):
            post(first, how)
            while not scheduling.calls:
                await asyncio.sleep(0)
            post(second, how)
            small.send(f"GET {PING} HTTP/1.1\nHost: x")
            while len(scheduling.calls) < 2:
                await asyncio.sleep(0)
            may.set()
            for raw in (small, first, second):
                assert (await raw.answer()).value is None
            assert len(scheduling.calls) == 3

    asyncio.run(main())


@pytest.mark.parametrize("how", ["whole", "chunked"])
@pytest.mark.parametrize("patient", [True, False])
def test_one_that_waits_for_room_and_goes_takes_none(little_room: int, how: str, patient: bool) -> None:
    """It goes by itself, or is sent away when its time is over; so is one that has room and sends nothing."""

    async def main() -> None:
        scheduling = Answering(null)
        options = {"max_body_bytes": little_room, "body_seconds": 0.3}
        async with listening(scheduling, **options) as port, opened(port) as stalled:
            post(stalled, "whole", b"data=")
            async with opened(port) as waiting:
                post(waiting, how)
                if patient:
                    assert await waiting.end() == b""
            assert await stalled.end() == b""
            async with opened(port) as last:
                post(last, how)
                assert (await last.answer()).value is None
        assert len(scheduling.calls) <= 2

    asyncio.run(main())


# A process


@pytest.fixture
def files() -> Iterator[None]:
    """What this test starts may open 1,024 files until it asks for more, as is common."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


IDLE = 2000
"""Connections that say nothing: what the product promises to bear."""

PROMPT_SECONDS = 0.5
"""In which half of the calls are answered meanwhile, at least. They take 2 ms on an idle machine, which this one may not be."""

CLIENT_SECONDS = 10.0
"""In which each of them is answered: as long as Luigi's client waits."""


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_workers_are_answered_beside_very_many_connections(tmp_path: Path) -> None:
    """Before, with 1,024 files the daemon took no further connection, and wrote 5 MB a second into its log."""
    with Process("serve", "--store", "sqlite:///a.db", "--address", "127.0.0.1", "--port", "0", directory=tmp_path) as process:
        client = process.client()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if hard < IDLE + 1000:
            pytest.skip(f"this system lets a process open {hard} files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        with contextlib.ExitStack() as stack:
            idle = [stack.enter_context(socket.create_connection(("127.0.0.1", client.port), PATIENCE)) for _ in range(IDLE)]
            worker = stack.enter_context(contextlib.closing(client.connect()))
            taken = []
            for number in range(100):
                began = time.monotonic()
                worker.request("GET", in_query("add_task", worker="w", task_id=f"T{number}", family="F"))
                assert worker.getresponse().read() == b'{"response": null}'
                taken.append(time.monotonic() - began)
            assert statistics.median(taken) < PROMPT_SECONDS
            assert max(taken) < CLIENT_SECONDS
            for connection in idle[:: IDLE // 10]:
                connection.sendall(f"GET {PING} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert "ERROR" not in process.output and "WARNING" not in process.output


def most_memory(pid: int) -> int:
    """Bytes of memory that the process has held at most (Linux)."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory a process has held")
@pytest.mark.parametrize("how", ["announced", "chunked"])
def test_a_body_that_is_too_large_is_not_kept(tmp_path: Path, how: str) -> None:
    with Process("serve", "--store", "memory://", "--address", "127.0.0.1", "--port", "0", directory=tmp_path) as process:
        client = process.client()
        assert client.call("ping", worker="w").status == 200
        before = most_memory(process.pid)
        connection = client.connect()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body = (b"x" * 1_000_000 for _ in range(60))
        if how == "announced":
            kind["Content-Length"] = "60000000"
        connection.request("POST", "/api/add_task", body, kind, encode_chunked=how == "chunked")
        assert connection.getresponse().status == 413
        connection.close()
        assert most_memory(process.pid) - before < 2 * MAX_BODY_BYTES  # in chunks it is kept up to the limit
        assert client.call("ping", worker="w").status == 200


@pytest.mark.slow
def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    with Process("serve", "--store", "memory://", "--address", "127.0.0.1", "--port", "0", directory=tmp_path) as process:
        client = process.client()
        with socket.create_connection(("127.0.0.1", client.port), PATIENCE) as raw:
            raw.sendall(b"POST /api/add_task HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            sent = 0
            with contextlib.suppress(ConnectionError):
                while sent < 200:
                    raw.sendall(chunk)
                    sent += 1
        assert 64 <= sent < 100  # MiB: the limit of 16, what is read and thrown away, and what is on its way
        assert client.call("ping", worker="w").status == 200
