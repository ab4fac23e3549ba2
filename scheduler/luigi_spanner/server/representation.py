"""How a long or often asked for reply is sent: under a tag that tells whether it has changed, and compressed."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from luigi_spanner.server.api import Reply

LONG_BYTES = 16 * 1024
"""Replies from this size on are compressed, in a thread, and written piece by piece. A shorter one needs one round trip as it
is: ten segments are sent before the first is acknowledged (RFC 6928)."""

GZIP_LEVEL = 1
"""A task_list of 12 MB shrinks to 7% in 27 ms at level 1, and to 6% in 64 ms at level 6, which is stock's."""

_GZIP_BITS = 16 + zlib.MAX_WBITS
_TAG = re.compile(r'\*|(?:W/)?("[^"]*")')


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a request says of the representation: whether the reply is to be `tagged`, If-None-Match (`seen`), and gzip."""

    tagged: bool
    seen: str | None
    gzip: bool


def represent(reply: Reply, wanted: Wanted) -> Reply:
    """A successful reply as it is sent, or 304 when the caller has it already. Takes about 3 ms a megabyte, in any thread."""
    headers = {**reply.headers, "Vary": "Accept-Encoding"}
    if wanted.tagged:
        headers["ETag"] = _tag(reply.body)
        if wanted.seen is not None and _matches(wanted.seen, headers["ETag"]):
            del headers["Content-Type"]
            return Reply(status=304, headers=headers)
    body = reply.body
    if wanted.gzip and reply.size >= LONG_BYTES:
        body = (_compressed(body),)
        headers["Content-Encoding"] = "gzip"
    return Reply(status=reply.status, body=body, headers=headers)


def _tag(body: Iterable[bytes]) -> str:
    """As stock's: of the content, whether it is then compressed or not."""
    digest = hashlib.sha1(usedforsecurity=False)
    for part in body:
        digest.update(part)
    return f'"{digest.hexdigest()}"'


def _matches(seen: str, tag: str) -> bool:
    """Whether If-None-Match names the tag, compared weakly (RFC 9110, 13.1.2)."""
    return any(found[0] == "*" or found[1] == tag for found in _TAG.finditer(seen))


def _compressed(body: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, _GZIP_BITS)
    return b"".join([*map(packer.compress, body), packer.flush()])
