"""One call over HTTP, without the HTTP: find the arguments, check them, ask the scheduler, word the reply.

Plain functions that know no request handler, so that another front end can use them.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

import tornado.httputil

from luigi_spanner.calls import ANONYMOUS, BadRequest, Call, CallError, Principal, RuleFailed, Scheduling, StoreDown
from luigi_spanner.methods import READING
from luigi_spanner.server.door import Door
from luigi_spanner.server.readiness import Readiness
from luigi_spanner.server.room import Room
from luigi_spanner.server.validate import Methods, find, parse
from luigi_spanner.tracing import NO_TRACING, Tracing
from luigi_spanner.wordless import without_words

logger = logging.getLogger(__name__)

JSON_TYPE = "application/json; charset=UTF-8"

FORM_FIELD = b"data"
"""The form field that holds a call's arguments as JSON."""

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What all that answers requests of one server shares."""

    scheduling: Scheduling
    methods: Methods
    max_body_bytes: int
    ids: Callable[[], str]
    door: Door
    room: Room
    readiness: Readiness
    tracing: Tracing = NO_TRACING


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What goes back: HTTP status, body in pieces, and the headers that belong to it. `outcome` is ok or the error's code."""

    status: int
    body: tuple[bytes, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    outcome: str = "ok"

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(map(len, self.body))


def accept(methods: Methods, name: str, payload: str, *, request_id: str, principal: Principal = ANONYMOUS) -> Call:
    """The call of method `name` with the arguments of `payload`, checked. Raises UnknownMethod, BadRequest."""
    method = find(methods, name)
    arguments = parse(payload)
    method.check(arguments)
    return Call(request_id=request_id, method=name, arguments=arguments, principal=principal)


async def answer(scheduling: Scheduling, call: Call) -> Reply:
    """The reply to an accepted call. Raises nothing: what went wrong is in the reply, and in the log when it is ours."""
    try:
        value = await scheduling.call(call)
    except CallError as error:
        return refusal(error, call.request_id, logged=not call.abandoned)
    except Exception as error:  # whatever a bug raises, the caller gets JSON and an id that the log carries
        return failure(error, call.request_id)
    return Reply(status=200, body=(b'{"response": ', value, b"}"), headers={"Content-Type": JSON_TYPE})


def refusal(error: CallError, request_id: str, *, logged: bool = True) -> Reply:
    """The reply to a call that ended with `error`, which is logged unless it has been: a refusal may cost a worker its life."""
    if error.status < 500:
        # It may quote a name that the caller sent.
        logger.warning("Call %s is refused: %s", request_id, ascii(str(error)), extra={"request_id": request_id})
    elif logged and not isinstance(error, RuleFailed):  # whoever ran the rule has the traceback
        logger.error("Call %s: %s", request_id, error, extra={"request_id": request_id})
    extra = {"Retry-After": str(error.retry_after)} if isinstance(error, StoreDown) else {}
    return wording(error.status, error.code, str(error), request_id, extra)


def failure(error: BaseException, request_id: str) -> Reply:
    """The reply to a call that met a bug of ours. The log carries the traceback under the request id."""
    logger.error("Call %s met a bug", request_id, exc_info=without_words(error), extra={"request_id": request_id})
    return wording(500, CallError.code, f"The server failed; its log says why under {request_id}.", request_id)


def wording(status: int, code: str, message: str, request_id: str, extra: Mapping[str, str] | None = None) -> Reply:
    """An error as JSON: a stable code for programs, a sentence for people, the id for whoever reads the log."""
    body = json.dumps({"error": {"code": code, "message": message, "request_id": request_id}})
    return Reply(status=status, body=(body.encode(),), headers={"Content-Type": JSON_TYPE, **(extra or {})}, outcome=code)


def identify(offered: str | None, ids: Callable[[], str]) -> str:
    """The id that the caller offered when it is fit for a log line, else the next of `ids`."""
    return offered if offered is not None and _REQUEST_ID.fullmatch(offered) else ids()


async def is_over(scheduling: Scheduling) -> bool:
    """Whether `scheduling` can answer no more."""
    ended = asyncio.ensure_future(scheduling.ended())
    done, _ = await asyncio.wait({ended}, timeout=0)
    ended.cancel()
    return bool(done)


def payload_of(query: str, headers: Mapping[str, str], body: bytes) -> str:
    """The form field `data`, from the body or else from the query string; empty when neither has it. Raises BadRequest."""
    found = _in_body(headers, body) if body else None
    if found is None:
        found = _in_form(query.encode("latin-1"))  # as Tornado decoded the request line
    if found is None:
        return ""
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise BadRequest("The arguments are not UTF-8.") from None


def plain_payload(name: str, query: str) -> str:
    """The arguments of one of our methods that change nothing, as people type them: each a parameter of the query, the last of a
    name. Empty for other methods. Raises BadRequest."""
    if name not in READING or not query:
        return ""
    if _BROKEN_ESCAPE.search(query.encode("latin-1")):
        raise BadRequest("The arguments hold a broken percent escape.")
    try:
        return json.dumps(dict(parse_qsl(query.encode("latin-1").decode(), keep_blank_values=True, errors="strict")))
    except UnicodeDecodeError:
        raise BadRequest("The arguments are not UTF-8.") from None
    except ValueError as error:
        raise BadRequest(f"The query cannot be read: {error}.") from None


def _in_body(headers: Mapping[str, str], body: bytes) -> bytes | None:
    kind = headers.get("Content-Type", "")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise BadRequest("The body must not be compressed.")
    if kind.startswith("application/x-www-form-urlencoded"):
        return _in_form(body)
    arguments: dict[str, list[bytes]] = {}
    try:
        tornado.httputil.parse_body_arguments(kind, body, arguments, {})
    except tornado.httputil.HTTPInputError as error:
        raise BadRequest(f"The body is no form: {error}.") from None
    return arguments.get(FORM_FIELD.decode(), [None])[-1]


def _in_form(form: bytes) -> bytes | None:
    """The last value of the field. Forms are long, and some are all separators: only what is needed is cut out."""
    end = len(form)
    while (start := form.rfind(FORM_FIELD, 0, end)) >= 0:
        after = start + len(FORM_FIELD)
        if start == 0 or form[start - 1 : start] == b"&":
            if form[after : after + 1] == b"=":
                stop = form.find(b"&", after)
                return unescaped(form[after + 1 : stop if stop >= 0 else len(form)])
            if form[after : after + 1] in (b"", b"&"):
                return b""
        end = start
    return None


def unescaped(value: bytes) -> bytes:
    """What a form's value stands for. Raises BadRequest.

    The standard library decodes such values in Python, at 25 us a call, but quoted-printable in C: that differs in the sign.
    """
    if _BROKEN_ESCAPE.search(value):
        raise BadRequest("The arguments hold a broken percent escape.")
    return binascii.a2b_qp(value.replace(b"+", b" ").replace(b"=", b"=3D").replace(b"%", b"="))
