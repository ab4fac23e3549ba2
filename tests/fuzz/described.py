"""Requests that Schemathesis draws from the daemon's own description, and what it says of the replies."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.core.failures import FailureGroup
from target import REPLY_SECONDS, Broken, Target

AT_ONCE = 5
"""How many requests are drawn of one operation before the next: starting to draw takes as long as drawing five."""

HEAD_BYTES = 65_000
"""About how long a request line may be: Tornado reads heads of up to 64 KiB."""

OF_STATE = ("batch_id names no batch", "unknown_task")
"""The refusals that depend on the state, and so on no description."""

JUDGED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
"""The last only where the reply is plain JSON: Schemathesis takes Infinity, which priorities may be, for null."""


class Described:
    """Draws from a description in which ids come from `pool` most of the time, so that calls meet what others have made."""

    def __init__(self, description: Any, pool: list[str]) -> None:
        schema = schemathesis.openapi.from_dict(_drawn_from(description, pool))
        self._operations = [result.ok() for result in schema.get_all_operations()]
        self._strategies: dict[tuple[int, GenerationMode], SearchStrategy[Case]] = {}
        self._checks = [*CHECKS.get_by_names(list(JUDGED))]

    def cases(self, rng: random.Random) -> list[Case]:
        """A few requests of one operation, all as described or all not."""
        number = rng.randrange(len(self._operations))
        mode = rng.choice([GenerationMode.POSITIVE, GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
        if (number, mode) not in self._strategies:
            self._strategies[number, mode] = self._operations[number].as_strategy(generation_mode=mode)
        return _drawn(self._strategies[number, mode], rng.randrange(2**64), AT_ONCE)

    def send(self, target: Target, case: Case, request_id: str, session: requests.Session) -> int:
        """Send a request; the status of its reply. Raises Broken when the reply is not as described."""
        request = prepared(case, target.url, request_id)
        positive = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
        try:
            response = session.send(request, timeout=REPLY_SECONDS)
        except requests.ConnectionError as error:
            if len(request.url or "") > HEAD_BYTES:
                return 400  # said without words: the connection is cut
            raise Broken(f"no reply: {error!r}") from error
        except requests.RequestException as error:
            raise Broken(f"no reply: {error!r}") from error
        try:
            case.validate_response(response, checks=self._checks if _is_plain(response.text) else self._checks[:-1])
        except (FailureGroup, AssertionError) as error:
            raise Broken(f"{error}") from error
        if positive and response.status_code != 200 and not any(text in response.text for text in OF_STATE):
            raise Broken(f"{response.status_code} to a request that is as described: {response.text[:500]}")
        return response.status_code


def prepared(case: Case, url: str, request_id: str) -> requests.PreparedRequest:
    """The request on the wire. Schemathesis leaves objects out of forms where they are to be JSON: that is made up for here."""
    headers = {"X-Request-Id": request_id}
    if isinstance(case.body, dict):
        fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in case.body.items()}
        return requests.Request(case.method, f"{url}/api{case.path}", headers, data=fields).prepare()
    sent = case.as_transport_kwargs(base_url=f"{url}/api", headers=headers)
    return requests.Request(
        **{name: sent[name] for name in sent if name not in ("timeout", "allow_redirects", "verify")}
    ).prepare()


def shown(case: Case, url: str, request_id: str) -> str:
    """The request as people can send it again."""
    request = prepared(case, url, request_id)
    return f"{request.method} {request.url}\n{dict(request.headers)!r}\n{request.body!r}"


def _is_plain(text: str) -> bool:
    """Whether the text is JSON without Infinity or NaN."""
    odd: list[str] = []
    try:
        json.loads(text, parse_constant=odd.append)
    except ValueError:
        return False
    return not odd


def _drawn(strategy: SearchStrategy[Case], number: int, count: int) -> list[Case]:
    cases: list[Case] = []

    @seed(number)
    @settings(max_examples=count, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), deadline=None)
    @given(strategy)
    def draw(case: Case) -> None:
        cases.append(case)

    draw()
    return cases


def _drawn_from(description: Any, pool: list[str]) -> Any:
    """The description with a few changes that leave it true: known ids, fewer arguments that nobody reads."""
    longest = max(schema["maxLength"] for schema in _schemas(description) if "maxLength" in schema)
    for schema in list(_schemas(description)):
        if schema.get("maxLength") == longest:
            schema["anyOf"] = [{"enum": pool}, {"enum": pool}, {"type": "string"}]
        if schema.get("additionalProperties") == {} and "required" in schema:
            schema["additionalProperties"] = False
        if set(schema.get("properties", ())) == {"data"}:
            schema["additionalProperties"] = False
    return description


def _schemas(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a description."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _schemas(item)
    elif isinstance(value, list):
        for item in value:
            yield from _schemas(item)
