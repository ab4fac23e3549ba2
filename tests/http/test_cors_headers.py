"""Cross-origin headers as [cors] says; stock's own tests of them run in the conformance suite, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from luigi.configuration import get_config
from serving import Answer, Client


@pytest.fixture
def cors() -> Iterator[dict[str, str]]:
    """Sets keys of [cors] for one test: assign to it before the request."""

    class Section(dict[str, str]):
        def __setitem__(self, key: str, value: str) -> None:
            get_config().set("cors", key, value)

    yield Section()
    get_config().remove_section("cors")


def preflight(client: Client, origin: str) -> Answer:
    return client.request("OPTIONS", "/api/graph", headers={"Origin": origin})


def named(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("Access-Control")}


def test_off_unless_enabled(memory: Client) -> None:
    answer = preflight(memory, "http://a")
    assert (answer.status, named(answer)) == (204, {})
    assert named(memory.get("/api/graph", Origin="http://a")) == {}


def test_any_origin(memory: Client, cors: dict[str, str]) -> None:
    cors["enabled"] = cors["allow_any_origin"] = "true"
    assert named(preflight(memory, "http://a")) == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Max-Age": "86400",
        "Access-Control-Allow-Methods": "GET, OPTIONS",
        "Access-Control-Allow-Headers": "Accept, Content-Type, Origin",
    }
    assert named(memory.get("/api/graph", Origin="http://a")) == {"Access-Control-Allow-Origin": "*"}
    assert named(memory.get("/api/graph")) == {}
    assert named(preflight(memory, "null")) == {}


def test_listed_origins(memory: Client, cors: dict[str, str]) -> None:
    cors["enabled"] = "true"
    cors["allowed_origins"] = '["http://a", "*", "null"]'
    answer = memory.get("/api/graph", Origin="http://a")
    assert named(answer) == {"Access-Control-Allow-Origin": "http://a"}
    assert "Origin" in answer.headers["Vary"]
    for other in ("http://b", "null", "*"):
        assert named(preflight(memory, other)) == {}
        assert named(memory.get("/api/graph", Origin=other)) == {}


def test_the_null_origin(memory: Client, cors: dict[str, str]) -> None:
    cors["enabled"] = cors["allow_null_origin"] = "true"
    assert named(memory.get("/api/graph", Origin="null")) == {"Access-Control-Allow-Origin": "null"}


def test_credentials_and_exposed_headers(memory: Client, cors: dict[str, str]) -> None:
    cors["enabled"] = cors["allow_any_origin"] = cors["allow_credentials"] = "true"
    cors["exposed_headers"] = "X-Request-Id"
    answer = preflight(memory, "http://a")
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Expose-Headers"] == "X-Request-Id"


def test_errors_carry_them_too(memory: Client, cors: dict[str, str]) -> None:
    cors["enabled"] = cors["allow_any_origin"] = "true"
    answer = memory.get("/api/nothing", Origin="http://a")
    assert (answer.status, named(answer)) == (404, {"Access-Control-Allow-Origin": "*"})


def test_the_description_may_be_read_as_calls_may_be_made(memory: Client, cors: dict[str, str]) -> None:
    assert named(memory.get("/api/openapi.json", Origin="http://a")) == {}
    cors["enabled"] = cors["allow_any_origin"] = "true"
    assert named(memory.get("/api/openapi.json", Origin="http://a")) == {"Access-Control-Allow-Origin": "*"}
