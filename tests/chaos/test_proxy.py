"""What the proxy does to connections, where no other test shows it."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from proxy import Proxy

SOON = 0.2
"""Seconds in which nothing must come."""

PATIENCE = 10.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.settimeout(PATIENCE)
        yield listening


@pytest.fixture
def proxy(listener: socket.socket) -> Iterator[Proxy]:
    with Proxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
        yield proxy


def connected(proxy: Proxy, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection through the proxy."""
    name, _, port = proxy.host.rpartition(":")
    client = socket.create_connection((name, int(port)), timeout=PATIENCE)
    server, _ = listener.accept()
    server.settimeout(PATIENCE)
    return client, server


def is_silent(end: socket.socket) -> bool:
    end.settimeout(SOON)
    try:
        end.recv(1)
        return False
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)


def is_over(end: socket.socket) -> bool:
    try:
        return end.recv(1) == b""
    except ConnectionResetError:
        return True


def test_what_stalls_comes_late_and_complete(proxy: Proxy, listener: socket.socket) -> None:
    client, server = connected(proxy, listener)
    with client, server:
        proxy.stall()
        client.sendall(b"late")
        client.close()
        assert is_silent(server)
        proxy.heal()
        assert server.recv(4, socket.MSG_WAITALL) == b"late"
        assert is_over(server)


def test_a_black_hole_swallows_the_end_as_well(proxy: Proxy, listener: socket.socket) -> None:
    client, server = connected(proxy, listener)
    with client, server:
        proxy.drop_requests()
        client.sendall(b"lost")
        client.close()
        assert is_silent(server)
        proxy.heal()
        assert is_over(server)


def test_the_other_direction_goes_on(proxy: Proxy, listener: socket.socket) -> None:
    client, server = connected(proxy, listener)
    with client, server:
        proxy.drop_requests()
        server.sendall(b"heard")
        assert client.recv(5, socket.MSG_WAITALL) == b"heard"
        proxy.drop_replies()
        server.sendall(b"lost")
        server.close()
        assert is_silent(client)
        proxy.heal()
        assert is_over(client)


def test_leaving_the_block_ends_stalled_connections(listener: socket.socket) -> None:
    before = threading.active_count()
    with Proxy(f"127.0.0.1:{listener.getsockname()[1]}") as proxy:
        client, server = connected(proxy, listener)
        proxy.stall()
        client.sendall(b"x")
    with client, server:
        assert is_over(client)
    assert threading.active_count() == before


def test_a_connection_that_comes_as_nobody_is_welcome_any_more_is_closed(proxy: Proxy) -> None:
    """Both are known to the proxy in the same round of its loop. What is left open, the collector complains of."""
    busy, go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        busy.set()
        go_on.wait(PATIENCE)

    held = asyncio.run_coroutine_threadsafe(hold(), proxy._loop)
    assert busy.wait(PATIENCE)
    name, _, port = proxy.host.rpartition(":")
    with closing(socket.create_connection((name, int(port)), timeout=PATIENCE)) as client:
        refusing = threading.Thread(target=proxy.refuse)
        refusing.start()
        while not proxy._loop._ready:  # the switch has been asked for
            pass
        go_on.set()
        held.result(PATIENCE)
        refusing.join(PATIENCE)
        assert is_over(client)
    proxy.heal()
    gc.collect()
