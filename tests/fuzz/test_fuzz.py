"""A short campaign, and that a campaign would see each of the faults that it looks for."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import session
import target as targets
import wire
from target import Broken, Target, target
from texts import plain
from wire import Request, answered, request

import fuzz
from fuzz import Campaign

pytestmark = pytest.mark.slow

CALLS, SECONDS = 600, 15.0
"""How long the campaign is: as many requests as come in that time, which is enough for these on an idle machine."""


def test_a_short_campaign_breaks_nothing(rng: random.Random, tmp_path: Path) -> None:
    seed = str(rng.randrange(2**32))
    found = Campaign(seed, tmp_path).run(CALLS, time.monotonic() + SECONDS)
    assert found is None, f"seed {seed}, {found}"


@pytest.fixture(scope="module")
def aim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("aim"), {"core": {"autoload_range": "false"}}) as aim:
        yield aim


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign("0", tmp_path)


def call(method: str, worker: str, name: str = "r") -> Request:
    return request(random.Random(0), method, plain(json.dumps({"worker": worker})), name)


def test_it_sees_a_change_by_what_was_refused(aim: Target, campaign: Campaign) -> None:
    aim.changed_by()
    assert answered(aim.port, call("ping", "one", "r1"))[0] == 200
    with pytest.raises(Broken, match="the journal has"):
        campaign.settle(aim, "text", [400], {"r1"})
    assert answered(aim.port, call("ping", "another", "r2"))[0] == 200
    campaign.settle(aim, "text", [200], {"r2"})


def test_it_sees_a_bug(aim: Target, campaign: Campaign) -> None:
    with pytest.raises(Broken, match="500"):
        campaign.settle(aim, "wire", [200, 500], {"r3"})


def test_it_sees_a_session_that_is_disturbed(aim: Target) -> None:
    session.hold(aim.url, "calm")
    answered(aim.port, call("disable_worker", "disturbed"))
    with pytest.raises(Broken, match="session disturbed"):
        session.hold(aim.url, "disturbed")


def test_it_sees_a_traceback_in_the_log(aim: Target) -> None:
    aim.check_log()
    with aim.server.log.open("a") as log:
        log.write("Traceback (most recent call last):\n")
    with pytest.raises(Broken, match="Traceback"):
        aim.check_log()
    aim.check_log()


def test_it_sees_a_process_that_grows(aim: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    aim.check_size()
    monkeypatch.setattr(targets, "GROWTH_BYTES", -(2**30))
    with pytest.raises(Broken, match="has grown"):
        aim.check_size()


def test_it_sees_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "REPLY_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Broken, match="neither answers nor closes"):
            answered(port, call("ping", "w"))
        with pytest.raises(Broken, match="neither answers nor closes"):
            wire.exchange(random.Random(1), port, b"GET")


def test_a_campaign_tells_what_to_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Request and log come with the fault, and the same seed meets it again at the same request."""
    monkeypatch.setattr(fuzz, "LOOK_EVERY", 1)
    monkeypatch.setattr(targets.Target, "check_alive", lambda self: _must_not_be_asked())
    first = Campaign("7", tmp_path).run(50, time.monotonic() + SECONDS)
    again = Campaign("7", tmp_path).run(50, time.monotonic() + SECONDS)
    assert first is not None and again is not None
    assert (first.number, first.what.splitlines()[0]) == (again.number, "it was asked")
    assert "server.log" in str(first) and first.request


def _must_not_be_asked() -> None:
    raise Broken("it was asked")


def test_the_whole_of_a_reply_is_read_by_its_end() -> None:
    """Statuses of several replies, however they come."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 40")
                time.sleep(0.005)
                connection.sendall(b"0 Bad Request\r\n\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        assert wire.exchange(random.Random(1), server.getsockname()[1], b"x") == [200, 400]
        serving.join()
