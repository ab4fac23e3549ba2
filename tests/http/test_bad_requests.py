"""What can never be accepted is refused at the door with its fault named, and changes nothing."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from serving import Client, in_query, serving

from luigi_spanner.server.validate import served
from luigi_spanner.service import Service

TASK = {"worker": "w", "task_id": "A"}

BAD_TEXTS = [
    ("{", "JSON"),
    ("nonsense", "JSON"),
    ("[]", "object"),
    ("null", "object"),
    ('"x"', "object"),
    ("1", "object"),
    ('{"worker": "w", "task_id": ' + "9" * 5000 + "}", "JSON"),
    ('{"worker": "w", "task_id": "A", "expl": ' + "[" * 100_000 + "]" * 100_000 + "}", "deeper"),
    ('{"worker": "w", "task_id": "A", "expl": ' + "[" * 150 + "]" * 150 + "}", "deeper"),
    ('{"worker": "w", "task_id": "A", "anything": ' + '{"a":' * 150 + "1" + "}" * 150 + "}", "deeper"),
    ('{"worker": "w", "task_id": "\\ud800"}', "task_id must be Unicode"),
    ('{"worker": "\\uDFFF", "task_id": "A"}', "worker must be Unicode"),
    ('{"worker": "w", "task_id": "A", "deps": ["B", "\\udce4"]}', "deps[1] must be Unicode"),
    ('{"worker": "w", "task_id": "A", "resources": {"\\udce4": 1}}', 'resources["\\udce4"] must be Unicode'),
    ('{"worker": "w", "task_id": "A", "batch_id": "\\udce4"}', "batch_id must be Unicode"),
    ('{"worker": "w", "task_id": "A", "self": 1}', "self"),
]

BAD_ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("add_task", {"worker": "w"}, "task_id"),
    ("add_task", {"task_id": "A"}, "worker"),
    ("add_task", {**TASK, "worker": None}, "worker"),
    ("add_task", {**TASK, "task_id": None}, "task_id"),
    ("add_task", {**TASK, "task_id": 5}, "task_id"),
    ("add_task", {**TASK, "task_id": "x" * 5000}, "task_id"),
    ("add_task", {**TASK, "worker": "ä" * 2500}, "worker"),
    ("add_task", {**TASK, "status": "SLEEPING"}, "status"),
    ("add_task", {**TASK, "status": None}, "status"),
    ("add_task", {**TASK, "status": ["DONE"]}, "status"),
    ("add_task", {**TASK, "runnable": ["yes"]}, "runnable"),
    ("add_task", {**TASK, "batchable": {}}, "batchable"),
    ("add_task", {**TASK, "accepts_messages": []}, "accepts_messages"),
    ("add_task", {**TASK, "assistant": {}}, "assistant"),
    ("add_task", {**TASK, "deps": "B"}, "deps"),
    ("add_task", {**TASK, "deps": ["B", 3]}, "deps[1]"),
    ("add_task", {**TASK, "deps": ["x" * 5000]}, "deps[0]"),
    ("add_task", {**TASK, "new_deps": [["B"]]}, "new_deps[0]"),
    ("add_task", {**TASK, "resources": {"a": "x"}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": -1}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": None}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": float("nan")}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": float("inf")}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": 2**63}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": {"a": 1.7e308}}, 'resources["a"]'),
    ("add_task", {**TASK, "resources": ["a"]}, "resources"),
    ("add_task", {**TASK, "priority": "high"}, "priority"),
    ("add_task", {**TASK, "priority": None}, "priority"),
    ("add_task", {**TASK, "priority": float("nan")}, "priority"),
    ("add_task", {**TASK, "priority": [1]}, "priority"),
    ("add_task", {**TASK, "family": 1}, "family"),
    ("add_task", {**TASK, "module": {}}, "module"),
    ("add_task", {**TASK, "params": [["a", "b"]]}, "params"),
    ("add_task", {**TASK, "param_visibilities": {"a": "public"}}, 'param_visibilities["a"]'),
    ("add_task", {**TASK, "tracking_url": 1}, "tracking_url"),
    ("add_task", {**TASK, "batch_id": 1}, "batch_id"),
    ("add_task", {**TASK, "retry_policy_dict": {"retries": 1}}, "retries"),
    ("add_task", {**TASK, "retry_policy_dict": {"retry_count": "1"}}, 'retry_policy_dict["retry_count"]'),
    ("add_task", {**TASK, "retry_policy_dict": []}, "retry_policy_dict"),
    ("add_task", {**TASK, "owners": "me"}, "owners"),
    ("add_task", {**TASK, "owners": [1]}, "owners[0]"),
    ("add_worker", {"worker": "w"}, "info"),
    ("add_worker", {"worker": "w", "info": None}, "info"),
    ("add_worker", {"worker": "w", "info": [["a"]]}, "info"),
    ("add_worker", {"worker": "w", "info": ["ab"]}, "info"),
    ("add_worker", {"worker": "w", "info": [[1, 2]]}, "info"),
    ("add_worker", {"worker": "w", "info": {"name": "me"}}, "name"),
    ("add_worker", {"worker": "w", "info": [["first_task", ["A"]]]}, "first_task"),
    ("add_worker", {"worker": "w", "info": [["workers", {}]]}, "workers"),
    ("add_worker", {"worker": "w", "info": {"workers": "2"}}, "workers"),
    ("add_worker", {"worker": "w", "info": {"workers": None}}, "workers"),
    ("add_task_batcher", {"worker": "w", "task_family": "F", "batched_args": "ab"}, "batched_args"),
    ("add_task_batcher", {"worker": "w", "task_family": "F", "batched_args": [], "max_batch_size": None}, "max_batch_size"),
    ("get_work", {}, "worker"),
    ("get_work", {"worker": None}, "worker"),
    ("get_work", {"worker": "w", "current_tasks": [1]}, "current_tasks[0]"),
    ("get_work", {"worker": "w", "current_tasks": "A"}, "current_tasks"),
    ("get_work", {"worker": "w", "host": {}}, "host"),
    ("ping", {}, "worker"),
    ("ping", {"worker": ["w"]}, "worker"),
    ("count_pending", {}, "worker"),
    ("count_pending", {"worker": "w", "extra": 1}, "extra"),
    ("disable_worker", {"worker": 1}, "worker"),
    ("set_worker_processes", {"worker": "w", "n": "2"}, "n must"),
    ("set_worker_processes", {"worker": "w", "n": 1.5}, "n must"),
    ("update_resources", {"gpu": "many"}, "gpu"),
    ("update_resources", {"gpu": -1}, "gpu"),
    ("update_resources", {"x" * 5000: 1}, "xxx"),
    ("update_resources", {"\udce4": 1}, "must be Unicode"),
    ("add_task_batcher", {"worker": "w", "task_family": "\udce4", "batched_args": []}, "task_family"),
    ("set_task_progress_percentage", {"task_id": "A", "progress_percentage": ["half"]}, "progress_percentage"),
    ("decrease_running_task_resources", {"task_id": "A", "decrease_resources": {"a": "x"}}, 'decrease_resources["a"]'),
    ("announce_scheduling_failure", {"task_name": "A", "family": "F", "params": {}, "expl": "", "owners": []}, "worker"),
    ("task_list", {"status": "SLEEPING"}, "status"),
    ("task_list", {"search": 5}, "search"),
    ("dep_graph", {"task_id": []}, "task_id"),
    ("mark_as_done", {"task_id": 1}, "task_id"),
    ("report_task_statistics", {"task_id": "A", "statistics": []}, "statistics"),
]


@pytest.fixture(scope="module")
def standing() -> Iterator[Client]:
    """A server that already has a task and a resource."""
    with serving(lambda: Service.open("memory://", "default"), max_body_bytes=1_000_000) as client:
        client.call("add_task", worker="v", task_id="Old", family="F", resources={"r": 1})
        client.call("update_resources", r=1)
        yield client


def state(client: Client) -> Any:
    """All that a wrong call could have changed."""
    workers = [(worker["name"], worker["num_pending"]) for worker in client.call("worker_list").value]
    return client.call("graph").value, workers, client.call("resource_list").value


def assert_refused(client: Client, answer: Any, named: str) -> None:
    assert answer.status == 400, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json["error"]["code"] == "bad_request"
    assert answer.json["error"]["request_id"] == answer.headers["X-Request-Id"]
    assert named in answer.fault


@pytest.mark.parametrize(("text", "named"), BAD_TEXTS, ids=[f"{text[:40]}-{named}" for text, named in BAD_TEXTS])
def test_text_that_is_no_arguments(standing: Client, text: str, named: str) -> None:
    before = state(standing)
    assert_refused(standing, standing.raw("add_task", text), named)
    assert state(standing) == before


@pytest.mark.parametrize(("method", "arguments", "named"), BAD_ARGUMENTS)
def test_arguments_of_the_wrong_kind(standing: Client, method: str, arguments: dict[str, Any], named: str) -> None:
    before = state(standing)
    assert_refused(standing, standing.call(method, **arguments), named)
    assert state(standing) == before


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"data=%7B%22worker%22%3A%22%FF%22%7D", "UTF-8"),
        (b"data=\xff\xfe", "UTF-8"),
        (b'data={"worker":"%zz"}', "percent"),
        (b"data=%7", "percent"),
    ],
)
def test_forms_that_cannot_be_read(standing: Client, body: bytes, named: str) -> None:
    assert_refused(standing, standing.post("ping", body), named)


def test_a_compressed_body(standing: Client) -> None:
    assert_refused(standing, standing.post("ping", b"data=%7B%7D", Content_Encoding="gzip"), "compressed")


def test_a_broken_multipart_form(standing: Client) -> None:
    answer = standing.request("POST", "/api/ping", b"x", {"Content-Type": "multipart/form-data"})
    assert_refused(standing, answer, "form")


def test_a_body_of_another_type_holds_no_arguments(standing: Client) -> None:
    answer = standing.request("POST", "/api/ping", b'{"worker": "w"}', {"Content-Type": "application/json"})
    assert_refused(standing, answer, "worker")


def test_nul_is_text_like_any_other(client: Client) -> None:
    assert client.call("add_task", worker="w", task_id="A\0B", family="F", params={"x": "\0"}, expl="\0").value is None
    assert client.tasks()["A\0B"]["params"] == {"x": "\0"}
    assert client.call("fetch_error", task_id="A\0B").value["error"] == "\0"


@pytest.mark.parametrize("method", ["nothing", "", "__init__", "load", "_state", "call", "ping/x", "%E0%A4"])
def test_unknown_methods(standing: Client, method: str) -> None:
    answer = standing.call(method)
    assert answer.status in ((404,) if "%" not in method else (400, 404)), answer.body
    assert answer.json["error"]["request_id"]


def test_api_itself(standing: Client) -> None:
    assert standing.get("/api").json["error"]["code"] == "unknown_method"


def test_a_method_that_takes_live_objects(standing: Client) -> None:
    answer = standing.call("update_metrics_task_started", task={})
    assert (answer.status, answer.json["error"]["code"]) == (404, "unknown_method")
    assert "remotely" in answer.fault


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_other_verbs(standing: Client, verb: str) -> None:
    answer = standing.request(verb, in_query("ping", worker="w"))
    assert answer.status == 405
    if verb != "HEAD":
        assert answer.json["error"]["code"] == "method_not_allowed"


def test_a_body_up_to_the_limit(standing: Client) -> None:
    text = json.dumps({"worker": "v", "task_id": "Old", "expl": ""})
    body = urlencode({"data": text}).encode()
    spare = 1_000_000 - len(body)
    full = urlencode({"data": text.replace('"expl": ""', f'"expl": "{"x" * spare}"')}).encode()
    assert len(full) == 1_000_000
    assert standing.post("fetch_error", full.replace(b"+", b"+")).status == 200


def test_a_body_over_the_limit(standing: Client) -> None:
    before = state(standing)
    answer = standing.call("add_task", **TASK, expl="x" * 2_000_000)
    assert (answer.status, answer.json["error"]["code"]) == (413, "too_large")
    assert answer.headers["Connection"] == "close"
    assert state(standing) == before


def test_a_chunked_body_over_the_limit(standing: Client) -> None:
    connection = standing.connect()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/api/add_task", iter([b"x" * 100_000] * 20), kind, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_body_over_the_limit_that_waits_to_be_asked_for(standing: Client) -> None:
    with socket.create_connection(("127.0.0.1", standing.port), timeout=20) as raw:
        raw.sendall(
            b"POST /api/add_task HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
        )
        response = http.client.HTTPResponse(raw, method="POST")
        response.begin()
        assert response.status == 413
        assert json.loads(response.read())["error"]["code"] == "too_large"
        assert raw.recv(1) == b""


def test_an_absurd_length_is_refused_at_once(standing: Client) -> None:
    with socket.create_connection(("127.0.0.1", standing.port), timeout=20) as raw:
        raw.sendall(b"POST /api/add_task HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        response = http.client.HTTPResponse(raw, method="POST")
        response.begin()
        assert response.status == 413


ASKED = {"task_id": "T", "worker": "w", "resource": "r"}


@pytest.mark.parametrize("method", ["cancel_task", "fail_task", "retry_task", "evict_worker", "reset_resource"])
def test_no_get_calls_what_changes_something_and_is_not_luigi_s(client: Client, method: str) -> None:
    """Any page that a browser shows can make it send one."""
    client.call("add_task", worker="w", task_id="T")
    client.call("update_resource", resource="r", amount=5)
    named = next(name for name in ASKED if name in served()[method].required)
    before = client.state()
    escaped = f"/api/{method[:-1]}%{ord(method[-1]):x}?{named}={ASKED[named]}"
    for path in (f"/api/{method}?{named}={ASKED[named]}", in_query(method, **{named: ASKED[named]}), escaped):
        for verb in ("GET", "HEAD", "PUT"):
            answer = client.request(verb, path, headers={"Origin": "http://foreign"})
            assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS"), path
            assert "Access-Control-Allow-Origin" not in answer.headers
    # Plain parameters are not read there, either.
    assert client.request("POST", f"/api/{method}?{named}={ASKED[named]}").status == 400
    assert client.state() == before
    assert client.call(method, **{named: ASKED[named]}).status == 200


@pytest.mark.parametrize("path", ["find_tasks?family=F", "show_task?task_id=T", "overview", "why?task_id=T"])
def test_what_reads_is_asked_for_by_get(client: Client, path: str) -> None:
    client.call("add_task", worker="w", task_id="T", family="F")
    before = client.state()
    assert "response" in client.get(f"/api/{path}").json
    assert client.state() == before
