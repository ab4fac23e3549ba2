"""The description of the calls: it is OpenAPI, it names what is served, and its schemas say what the checks do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate as validate_openapi
from serving import Client, serving

from luigi_spanner.calls import BadRequest
from luigi_spanner.server import checks
from luigi_spanner.server.answers import ANSWERS
from luigi_spanner.server.checks import Check
from luigi_spanner.server.openapi import describe
from luigi_spanner.server.validate import served
from luigi_spanner.service import Service

METHODS = served()
DESCRIPTION = describe(METHODS)
CHANGING = {f"/{name}" for name in ("cancel_task", "evict_worker", "fail_task", "reset_resource", "retry_task")}
"""Ours that change something."""


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    with serving(lambda: Service.open("memory://", "default")) as client:
        yield client


def test_it_is_openapi() -> None:
    validate_openapi(DESCRIPTION)


def test_every_method_is_in_it_and_no_other() -> None:
    assert set(DESCRIPTION["paths"]) == {f"/{name}" for name in METHODS}
    for path, operations in DESCRIPTION["paths"].items():
        assert set(operations) == ({"post"} if path in CHANGING else {"get", "post"})


def test_every_method_s_answer_is_known_and_no_other() -> None:
    assert set(ANSWERS) == set(METHODS)


def test_every_path_is_served_and_an_argument_too_many_is_refused(server: Client) -> None:
    for path in DESCRIPTION["paths"]:
        for verb in ("GET", "POST"):
            answer = server.request(verb, f"/api{path}?data=[]")
            described = verb.lower() in DESCRIPTION["paths"][path]
            expected = (400, "bad_request") if described else (405, "method_not_allowed")
            assert (answer.status, answer.json["error"]["code"]) == expected, path


def test_it_is_served(server: Client) -> None:
    answer = server.get("/api/openapi.json?x=1", Accept_Encoding="gzip")
    assert (answer.status, answer.headers["Content-Encoding"]) == (200, "gzip")
    plain = server.get("/api/openapi.json")
    assert plain.json == json.loads(json.dumps(DESCRIPTION))
    assert plain.headers["Content-Type"].startswith("application/json")
    assert server.get("/api/openapi.json", If_None_Match=plain.headers["ETag"]).status == 304
    assert server.request("HEAD", "/api/openapi.json").status == 200


@pytest.mark.parametrize("path", ["/api/openapi.jsonx", "/api/openapi.json/x", "/api/openapi"])
def test_nothing_else_there_is_a_page(server: Client, path: str) -> None:
    assert server.get(path).json["error"]["code"] == "unknown_method"


def test_defaults_are_those_of_the_signatures() -> None:
    described = DESCRIPTION["components"]["schemas"]
    assert described["AddTask"]["properties"]["status"]["default"] == "PENDING"
    assert "default" not in described["AddTaskBatcher"]["properties"]["max_batch_size"]  # Infinity is no JSON
    assert "default" not in described["AddTask"]["properties"]["worker"]
    assert described["AddTask"]["required"] == ["task_id", "worker"]


# A small world, so that values of every kind are met often

WORDS = st.sampled_from(
    ["", "DONE", "PENDING", "name", "first_task", "workers", "retry_count", "disable_window", "x", "\0", "\u00e9"]
)
NUMBERS = st.integers(-(2**64), 2**64) | st.sampled_from([0, 1, -1, 0.5, -0.5, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=6
)

KINDS: dict[str, Check] = {
    f"{name}.{argument}": check for name, method in METHODS.items() for argument, check in method.checks.items()
}


def names_of_kinds() -> list[str]:
    """One argument for each check."""
    first: dict[int, str] = {}
    for name, check in KINDS.items():
        first.setdefault(id(check), name)
    return sorted(first.values())


@pytest.mark.parametrize("name", names_of_kinds())
@given(value=VALUES)
def test_a_schema_accepts_what_its_check_accepts(name: str, value: Any) -> None:
    check = KINDS[name]
    accepted = Draft202012Validator(check.schema).is_valid(value)
    assert accepted == (check(value) is None)


@given(worker=VALUES, info=VALUES, extra=VALUES)
def test_so_do_those_of_whole_calls(worker: Any, info: Any, extra: Any) -> None:
    arguments = {"worker": worker, "info": info, "extra": extra}
    schema = DESCRIPTION["components"]["schemas"]["AddWorker"]
    try:
        METHODS["add_worker"].check(dict(arguments))
        accepted = True
    except BadRequest:
        accepted = False
    assert Draft202012Validator(schema).is_valid(arguments) == accepted


def test_what_json_schema_cannot_say() -> None:
    """Where a schema and its check differ: said in the description, or of no consequence."""

    def accepted(check: Check, value: Any) -> tuple[bool, bool]:
        return Draft202012Validator(check.schema).is_valid(value), check(value) is None

    assert accepted(checks.identifier, "\u00e9" * checks.ID_BYTES) == (True, False)  # bytes, not characters
    assert accepted(checks.identifier, "\udce4") == (True, False)
    assert accepted(checks.whole, 1.0) == (True, False)  # to JSON Schema an integer
    assert accepted(checks.limit, math.inf) == (False, True)
    assert accepted(checks.limit, 1e300) == (False, True)
