"""The server's own life, in this process: what it does with connections that say nothing, and with a replica that has ended."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from luigi.configuration import LuigiConfigParser
from serving import PATIENCE

from luigi_spanner.config import Options, resolve
from luigi_spanner.server import listener, serve
from luigi_spanner.server import serving as life
from luigi_spanner.service import Service


@pytest.mark.parametrize(
    ("module", "constant", "sent"),
    [
        (life, "BODY_SECONDS", b"POST /api/ping HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ndata="),
        (life, "BODY_SECONDS", b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\ndata="),
        (listener, "HEAD_SECONDS", b"POST /api/ping HTTP/1.1\r\nHost:"),
        (listener, "IDLE_SECONDS", b""),
    ],
)
def test_a_request_that_never_comes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, module: Any, constant: str, sent: bytes
) -> None:
    monkeypatch.setattr(module, constant, 0.2)
    path = str(tmp_path / "s.sock")
    options = resolve({"store": "memory://", "unix_socket": path}, {}, LuigiConfigParser())
    bound = asyncio.Event()
    died: asyncio.Future[str]

    class Watched(Service):
        async def start(self) -> None:
            await super().start()
            bound.set()

        async def ended(self) -> str:
            return await asyncio.shield(died)

    async def opening(options: Options) -> Service:
        return await Watched.open(options.store, options.namespace)

    async def main() -> int:
        nonlocal died
        died = asyncio.get_running_loop().create_future()
        server = asyncio.create_task(serve(options, opening))
        await asyncio.wait_for(bound.wait(), PATIENCE)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()
        died.set_result("It is dead.")
        return await asyncio.wait_for(server, PATIENCE)

    with caplog.at_level(logging.CRITICAL):
        assert asyncio.run(main()) == 1
    assert "It is dead." in caplog.text
    assert sys.getswitchinterval() == pytest.approx(life.SWITCH_SECONDS)
