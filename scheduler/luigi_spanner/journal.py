"""The journal: what one commit says, and how it is written down.

An `Entry` is one row of the journal. Its two payloads are opaque bytes to a store: `calls` lists the
calls that the batch ran (the audit trail), `changes` lists what they changed (the redo log). Both are
versioned, compressed JSON, never pickle, so an entry of any age can be read without running its code.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from json import encoder
from typing import Any

ENCODING_VERSION = 2
"""Version of the encoding of payloads and row bodies. An entry of a later version is refused (invariant I11)."""

COMPRESS_FROM = 4096
"""Payloads shorter than this many bytes are kept as they are: of a single call's 1,000 bytes zlib saves half, for 25 us."""


def _make_encoder(*, sort_keys: bool) -> Callable[[Any], str]:
    """Compact JSON by the standard library's encoder, made once: `JSONEncoder.encode` makes one for each call."""
    whole = json.JSONEncoder(separators=(",", ":"), sort_keys=sort_keys)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:  # no C accelerator in this Python
        return whole.encode
    pieces = make(None, whole.default, encoder.encode_basestring_ascii, None, ":", ",", sort_keys, False, True)
    return lambda value: "".join(pieces(value, 0))


compact = _make_encoder(sort_keys=False)
"""A value as ASCII JSON text, in its own order. TypeError, ValueError, RecursionError if it is no JSON."""

_canonical = _make_encoder(sort_keys=True)
_quoted = encoder.encode_basestring_ascii

_PLAIN = b"j"
_ZLIB = b"z"

Key = tuple[str | int, ...]
"""A row's primary key without the namespace. Shorter than the table's key: every row with that prefix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallRecord:
    """What the audit trail keeps of one call. `time` is in seconds since the epoch, by the replica's clock."""

    request_id: str
    principal: str
    method: str
    task: str | None
    worker: str | None
    time: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the journal: a batch of calls and all that they changed, committed or not at all.

    `seq` is contiguous within a namespace. `commit_id` is random and tells the replica its own entry from
    another's (I3). `clock` is the replica's clock in seconds since the epoch. Tables are complete up to the seq
    `watermark`. `digest` is the digest of the whole state after this entry, 32 hexadecimal digits (I2).
    `turn`: its replica asks for the next turn (I14). An entry that does nothing else has neither digest nor watermark: whoever
    sends it does not know the state before it.
    """

    seq: int
    commit_id: str
    replica: str
    clock: float
    watermark: int
    digest: str
    turn: bool = False
    version: int = ENCODING_VERSION
    calls: bytes = field(repr=False)
    changes: bytes = field(repr=False)

    @property
    def only_asks(self) -> bool:
        """Whether it changes nothing and says nothing about the tables."""
        return not self.digest


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One write to a state table that rides along with a commit; writes of one commit apply in order.

    `body` holds the row in full (see `encode`) and is what a replica loads; `columns` are its typed projection for
    people's queries, by column name, without key and body. `body` of None deletes: the row with that key,
    or, where `key` is shorter than the table's key, every row with that prefix (one range delete).
    """

    table: str
    key: Key
    body: bytes | None = field(repr=False)
    columns: dict[str, Any] = field(repr=False)


def encode(value: Any) -> bytes:
    """`value` as canonical JSON (sorted keys, ASCII), compressed when that pays. ValueError or TypeError if it is no JSON."""
    return pack(canonical(value).encode("ascii"))


def canonical(value: Any) -> str:
    """`value` as canonical JSON text: one text for equal values, so that it can be hashed. NaN and Infinity are kept."""
    return _canonical(value)


def key_text(key: Key) -> str:
    """A row's key as canonical JSON, in a third of the time."""
    return f"[{','.join([_quoted(part) if type(part) is str else _canonical(part) for part in key])}]"


def pack(text: bytes) -> bytes:
    """Frame encoded JSON with a byte that tells how it is compressed."""
    if len(text) < COMPRESS_FROM:
        return _PLAIN + text
    return _ZLIB + zlib.compress(text, 1)


def unpack(data: bytes) -> bytes:
    """The JSON text that `pack` framed. ValueError when the bytes are not of this encoding."""
    kind, text = data[:1], data[1:]
    if kind == _ZLIB:
        try:
            return zlib.decompress(text)
        except zlib.error as error:
            raise ValueError(f"damaged payload: {error}") from error
    if kind != _PLAIN:
        raise ValueError(f"unknown payload encoding {kind!r}")
    return text


def decode(data: bytes) -> Any:
    """The value that `encode` wrote. ValueError when the bytes are not of this encoding."""
    return json.loads(unpack(data))
