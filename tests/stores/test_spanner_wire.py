"""The Spanner store's way to its database: status codes, credentials, and values as they come off the wire."""

from __future__ import annotations

import asyncio
import json
import math
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from exercise import entry
from google.cloud.spanner_v1 import types

from luigi_spanner.stores import Conflict, InvalidStore, Refused, SchemaMismatch, Unavailable, Unknown, spanner
from luigi_spanner.stores.spanner_faults import MEANINGS
from luigi_spanner.stores.spanner_values import rows_of
from luigi_spanner.stores.spanner_wire import Pace, Wire, connector

PATIENCE = 5.0
"""Seconds after which what should have ended is stuck."""


FORKING = """
import asyncio, gc, os, time
import grpc
import luigi_spanner.stores.spanner_wire

async def leave_garbage():
    holder = {"channel": grpc.aio.insecure_channel("127.0.0.1:1")}
    holder["itself"] = holder
    await holder["channel"].close()

gc.disable()
asyncio.run(leave_garbage())
child = os.fork()
if child == 0:
    gc.collect()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
gc.enable()
assert gc.collect() and not gc.get_freeze_count()
"""


def test_a_forked_child_does_not_wait_for_its_parents_channels() -> None:
    """It spun for ever in the collector, wherever that happened to start."""
    ended = subprocess.run([sys.executable, "-c", FORKING], timeout=6 * PATIENCE, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_every_status_code_has_a_meaning() -> None:
    assert set(MEANINGS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("number", range(20))
def test_values_split_across_messages_are_joined(rng: random.Random, number: int) -> None:
    def text() -> str:
        return "".join(rng.choice("abc\u00e9\u4e16") for _ in range(rng.randrange(8)))

    rows = [[text(), rng.randrange(10**6), rng.choice([None, text()]), bool(rng.randrange(2))] for _ in range(5)]

    async def main() -> list[list[Any]]:
        return [row async for row in rows_of(_messages(rng, rows))]

    assert asyncio.run(main()) == rows


async def _messages(rng: random.Random, rows: list[list[Any]]) -> AsyncIterator[Any]:
    """The rows as PartialResultSets, cut anywhere: between values, or inside one, several times over."""
    message = types.PartialResultSet.pb()()
    for code in (types.TypeCode.STRING, types.TypeCode.INT64, types.TypeCode.STRING, types.TypeCode.BOOL):
        message.metadata.row_type.fields.add().type_.code = int(code)
    for value in (value for row in rows for value in row):
        if value is None or isinstance(value, bool):
            message.values.add(**({"null_value": 0} if value is None else {"bool_value": value}))
        else:
            rest = str(value)
            while rest and rng.random() < 0.5:
                cut = rng.randrange(len(rest) + 1)
                message.values.add().string_value, rest = rest[:cut], rest[cut:]
                message.chunked_value = True
                yield message
                message = types.PartialResultSet.pb()()
            message.values.add().string_value = rest
        if rng.random() < 0.3:
            yield message
            message = types.PartialResultSet.pb()()
    yield message


OUTCOMES = {
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.INVALID_ARGUMENT: Refused,
    grpc.StatusCode.OUT_OF_RANGE: Refused,
}
"""What a commit that always fails with a code ends in; with every other code it is Unknown."""


@pytest.mark.parametrize("code", sorted(set(grpc.StatusCode) - {grpc.StatusCode.OK}, key=str))
def test_each_status_code_has_its_outcome(code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No emulator can be made to answer all of these, so a server does that only answers them."""

    async def main() -> None:
        async with _Failing(code) as host:
            monkeypatch.setenv("SPANNER_EMULATOR_HOST", host)
            wire = Wire("projects/p/instances/i/databases/d", connector(), random.Random(1), Pace(deadline=0.2))
            store = spanner.SpannerStore(wire, "ns")
            assert type(await store.commit(1, entry(1), [])) is OUTCOMES.get(code, Unknown)
            with pytest.raises((Unavailable, InvalidStore, SchemaMismatch)):
                await store.read_after(0)
            await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED])
def test_opening_without_permission_is_invalid(code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with _Failing(code) as host:
            monkeypatch.setenv("SPANNER_EMULATOR_HOST", host)
            with pytest.raises(InvalidStore, match="does not let this process"):
                await spanner.open("projects/p/instances/i/databases/d", "ns")

    asyncio.run(main())


LATER_CODES = {
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.INVALID_ARGUMENT: Unknown,
    grpc.StatusCode.OUT_OF_RANGE: Unknown,
    grpc.StatusCode.FAILED_PRECONDITION: Unknown,
}
"""What a commit ends in whose second attempt fails with a code, when the first one may have landed."""


@pytest.mark.parametrize("first", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL])
@pytest.mark.parametrize("code", sorted(LATER_CODES, key=str))
def test_what_may_have_landed_is_never_refused(
    first: grpc.StatusCode, code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with _Failing(first, code) as host, _store(host, monkeypatch) as store:
            outcome = await store.commit(1, entry(1), [])
            assert type(outcome) is LATER_CODES[code]
            if isinstance(outcome, Unknown):
                assert outcome.reason == f"{code.name}: as told"
            assert type(await store.commit(1, entry(1), [])) is OUTCOMES.get(code, Unknown)  # each commit for itself

    asyncio.run(main())


@pytest.mark.parametrize(("first", "outcome"), [((), Refused), ((grpc.StatusCode.UNAVAILABLE,), Unknown)])
def test_what_misses_something_is_refused_unless_it_may_have_landed(
    first: tuple[grpc.StatusCode, ...], outcome: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The predecessor is there, so it must be a table that is missing."""

    async def main() -> None:
        async with _Failing(*first, grpc.StatusCode.NOT_FOUND, results=[["0"]]) as host, _store(host, monkeypatch) as store:
            assert type(await store.commit(1, entry(1), [])) is outcome

    asyncio.run(main())


def test_who_asks_is_told_of_each_retry(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    async def main() -> None:
        codes = (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ALREADY_EXISTS)
        async with _Failing(*codes) as host, _store(host, monkeypatch) as store:
            store._wire._retried = told.append
            assert type(await store.commit(1, entry(1), [])) is Conflict

    asyncio.run(main())
    assert told == ["aborted", "unavailable"]


def test_a_read_that_trickles_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with _Failing(grpc.StatusCode.UNAVAILABLE, trickles=True) as host, _store(host, monkeypatch, 0.5) as store:
            with pytest.raises(Unavailable, match="not the whole answer in time"):
                await asyncio.wait_for(store.read_after(0), PATIENCE)

    asyncio.run(main())


@asynccontextmanager
async def _store(host: str, patch: pytest.MonkeyPatch, deadline: float = 2.0) -> AsyncIterator[spanner.SpannerStore]:
    patch.setenv("SPANNER_EMULATOR_HOST", host)
    wire = Wire("projects/p/instances/i/databases/d", connector(), random.Random(1), Pace(deadline=deadline))
    store = spanner.SpannerStore(wire, "ns")
    store._schema_seen = math.inf
    try:
        yield store
    finally:
        await store.close()


class _Failing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A server that makes sessions and fails everything else: each call with the next code, those after the last with that.

    With `results` streamed reads are answered, by rows of text and integers; with `trickles` they never end.
    """

    def __init__(self, *codes: grpc.StatusCode, results: list[list[str]] | None = None, trickles: bool = False) -> None:
        self._codes = list(codes)
        self._results = results
        self._trickles = trickles
        self._server: Any = None

    async def __aenter__(self) -> str:
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((self,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if method == "StreamingRead" and self._trickles:
            return grpc.unary_stream_rpc_method_handler(self._trickle)
        if method == "StreamingRead" and self._results is not None:
            return grpc.unary_stream_rpc_method_handler(self._answer)
        return grpc.unary_unary_rpc_method_handler(self._session if method == "CreateSession" else self._fail)

    async def _session(self, request: bytes, context: Any) -> bytes:
        return bytes(types.Session.pb()(name="projects/p/instances/i/databases/d/sessions/s").SerializeToString())

    async def _fail(self, request: bytes, context: Any) -> None:
        await context.abort(self._codes.pop(0) if len(self._codes) > 1 else self._codes[0], "as told")

    async def _answer(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        message = types.PartialResultSet.pb()()
        message.metadata.row_type.fields.add().type_.code = int(types.TypeCode.INT64)
        for row in self._results or []:
            for value in row:
                message.values.add().string_value = value
        yield bytes(message.SerializeToString())

    async def _trickle(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        message = types.PartialResultSet.pb()(chunked_value=True)
        message.metadata.row_type.fields.add().type_.code = int(types.TypeCode.STRING)
        message.values.add().string_value = "x"
        while True:
            yield bytes(message.SerializeToString())
            await asyncio.sleep(0.02)


def test_without_credentials_the_store_is_invalid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(InvalidStore, match="credentials"):
        connector({})


def test_with_credentials_the_channel_is_a_secure_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account",
        "client_email": "luigi@example.com",
        "private_key": key.private_bytes(*form).decode(),
        "token_uri": "https://127.0.0.1:1/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    connect = connector({})

    async def main() -> None:
        channel = connect()
        assert isinstance(channel, grpc.aio.Channel)
        await channel.close()

    asyncio.run(main())
