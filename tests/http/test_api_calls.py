"""Calls as workers send them, of this Luigi, of older and of later ones."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import threading
from collections.abc import Iterator
from urllib.parse import urlencode

import luigi.scheduler
import pytest
from luigi.rpc import RemoteScheduler, RPCError, URLLibFetcher
from serving import Client, in_query, serving

from luigi_spanner import Scheduler
from luigi_spanner.calls import Call, RuleFailed, Status, StoreDown
from luigi_spanner.graph.graph import Graph
from luigi_spanner.server import api, exchange


@pytest.fixture
def remote(client: Client) -> Iterator[RemoteScheduler]:
    """Luigi's own client, unmodified."""
    scheduler = RemoteScheduler(client.url)
    yield scheduler
    scheduler.close()


def test_a_worker_s_life(remote: RemoteScheduler) -> None:
    remote.add_worker("w", [("workers", 2), ("host", "h"), ("first_task", "B")])
    remote.add_task(worker="w", task_id="A", status="PENDING", runnable=True, family="F", params={"x": "1"}, resources={"r": 1})
    remote.add_task(worker="w", task_id="B", deps=["A"], family="F", priority=5, resources=None, owners=["me@example.org"])
    remote.add_task_batcher(worker="w", task_family="F", batched_args=["x"], max_batch_size=math.inf)
    assert remote.ping(worker="w") == {"rpc_messages": []}
    work = remote.get_work(worker="w", host="h", assistant=False, current_tasks=[])
    assert (work["task_id"], work["task_family"], work["n_pending_tasks"]) == ("A", "F", 2)
    remote.add_task(worker="w", task_id="A", status="RUNNING", tracking_url="http://here/")
    remote.set_task_status_message("A", "half")
    remote.set_task_progress_percentage("A", 50)
    remote.decrease_running_task_resources("A", {"r": 1})
    assert remote.get_running_task_resources("A") == {"taskId": "A", "resources": {"r": 0}}
    remote.report_task_statistics("A", {"memory": 1.5})
    remote.add_task(
        worker="w",
        task_id="A",
        status="DONE",
        expl=json.dumps(""),
        runnable=None,
        new_deps=[],
        retry_policy_dict={"retry_count": 2},
    )
    assert remote.get_work(worker="w", host="h", current_tasks=[])["task_id"] == "B"
    assert remote.count_pending(worker="w")["n_pending_tasks"] == 0
    assert remote.announce_scheduling_failure(worker="w", task_name="A", family="F", params={}, expl="no", owners=[]) is None


def test_an_empty_get_work_is_a_whole_answer(remote: RemoteScheduler) -> None:
    assert remote.get_work(worker="w", host="h", current_tasks=[])["task_id"] is None


def test_unknown_method_as_luigi_s_client_sees_it(client: Client) -> None:
    remote = RemoteScheduler(client.url)
    remote._rpc_retry_attempts = 1
    with pytest.raises(RPCError):
        remote._request("/api/nothing", {})
    remote.close()


def test_luigi_s_client_without_requests(client: Client) -> None:
    remote = RemoteScheduler(client.url)
    remote.close()
    remote._fetcher = URLLibFetcher()
    assert remote.add_task(worker="w", task_id="A") is None
    assert list(remote.task_list("PENDING", "")) == ["A"]


def test_arguments_in_a_get_with_a_body(client: Client) -> None:
    body = urlencode({"data": json.dumps({"worker": "w", "task_id": "A"})}).encode()
    answer = client.request("GET", "/api/add_task", body, {"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.value is None
    assert list(client.tasks()) == ["A"]


def test_arguments_in_the_query_of_a_post(client: Client) -> None:
    assert client.request("POST", in_query("add_task", worker="w", task_id="A")).value is None
    assert list(client.tasks()) == ["A"]


def test_the_body_beats_the_query_and_the_last_field_the_others(client: Client) -> None:
    body = (
        b"data=%7B%22worker%22%3A+%22w%22%2C+%22task_id%22%3A+%22X%22%7D&"
        + urlencode({"other": "1", "data": json.dumps({"worker": "w", "task_id": "B"})}).encode()
    )
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.request("POST", in_query("add_task", worker="w", task_id="A"), body, kind).status == 200
    assert list(client.tasks()) == ["B"]


def test_a_multipart_form(client: Client) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="data"\r\n\r\n{"worker": "w", "task_id": "A"}\r\n--x--\r\n'
    assert client.request("POST", "/api/add_task", body, {"Content-Type": "multipart/form-data; boundary=x"}).status == 200
    assert list(client.tasks()) == ["A"]


def test_a_body_in_chunks(client: Client) -> None:
    connection = client.connect()
    pieces = [b"data=%7B%22worker%22:", b"%22w%22,%22task_id%22:%22A%22%7D"]
    connection.request(
        "POST", "/api/add_task", iter(pieces), {"Content-Type": "application/x-www-form-urlencoded"}, encode_chunked=True
    )
    assert connection.getresponse().status == 200
    connection.close()
    assert list(client.tasks()) == ["A"]


def test_bare_infinity(client: Client) -> None:
    text = '{"worker": "w", "task_family": "F", "batched_args": ["a"], "max_batch_size": Infinity}'
    assert client.raw("add_task_batcher", text).value is None


def test_arguments_that_stock_ignores_are_ignored(client: Client) -> None:
    assert client.call("add_task", worker="w", task_id="A", unheard_of={"deep": [1]}).value is None
    assert client.call("ping", worker="w", foo="bar").value == {"rpc_messages": []}


def test_resources_by_any_name(client: Client) -> None:
    assert client.call("update_resources", gpu=2, tape=0.5).value is None
    totals = {resource["name"]: resource["num_total"] for resource in client.call("resource_list").value}
    assert totals == {"gpu": 2, "tape": 0.5}
    assert client.call("update_resource", resource="gpu", amount=3).value is True
    for amount in (-1, 1.3, "1", None, float("nan")):
        assert client.call("update_resource", resource="gpu", amount=amount).value is False


UNDECODABLE = "r\udce4sum\udce9.csv"
"""A file's name in Latin-1 as Python on a UTF-8 system spells it (PEP 383)."""


def test_a_worker_may_speak_of_files_whose_names_are_not_utf_8(client: Client, remote: RemoteScheduler) -> None:
    remote._rpc_retry_attempts = 1
    remote.add_worker("w", [("host", "h"), ("cwd", UNDECODABLE)])
    remote.add_task(worker="w", task_id="A", family="F", params={"path": UNDECODABLE, UNDECODABLE: "x"}, tracking_url=UNDECODABLE)
    remote.set_task_status_message("A", f"reads {UNDECODABLE}")
    remote.add_task(worker="w", task_id="A", family="F", status="FAILED", expl=f"no {UNDECODABLE}")
    remote.announce_scheduling_failure(
        worker="w", task_name="A", family="F", params={"path": UNDECODABLE}, expl=f"no {UNDECODABLE}", owners=[]
    )
    assert remote.get_task_status_message("A")["statusMessage"] == f"reads {UNDECODABLE}"
    assert remote.fetch_error("A")["error"] == f"no {UNDECODABLE}"
    assert client.tasks()["A"]["params"] == {"path": UNDECODABLE, UNDECODABLE: "x"}
    (worker,) = client.call("worker_list").value
    assert worker["cwd"] == UNDECODABLE


@pytest.mark.parametrize("priority", [math.inf, -math.inf, 10**30, pytest.param(10**400, id="huge"), True, 0.5])
def test_any_priority_that_is_a_number(client: Client, priority: float) -> None:
    assert client.call("add_task", worker="w", task_id="A", family="F", priority=priority).value is None
    assert client.call("add_task", worker="w", task_id="B", family="F", deps=["A"]).value is None
    assert client.tasks()["A"]["priority"] == max(priority, 0)
    assert client.call("get_work", worker="w", host="h").value["task_id"] == "A"


def test_amounts_that_are_true_or_false_are_numbers(client: Client) -> None:
    client.call("update_resources", gpu=True)
    assert client.call("update_resource", resource="tape", amount=True).value is True
    assert client.call("add_task", worker="w", task_id="A", family="F", resources={"gpu": True, "tape": False}).value is None
    assert client.tasks()["A"]["resources"] == {"gpu": 1, "tape": 0}
    assert all(type(amount) is int for amount in client.tasks()["A"]["resources"].values())
    totals = [limit["num_total"] for limit in client.call("resource_list").value]
    assert totals == [1, 1] and all(type(total) is int for total in totals)


@pytest.mark.parametrize("flag", [1, 0, "yes", "", 2.5, None])
def test_flags_are_any_scalar(client: Client, flag: object) -> None:
    flags = dict.fromkeys(("runnable", "batchable", "accepts_messages", "assistant"), flag)
    assert client.call("add_task", worker="w", task_id="A", family="F", **flags).value is None
    assert client.call("get_work", worker="w", host="h", assistant=flag).value["task_id"] == ("A" if flag else None)


@pytest.mark.parametrize("progress", [math.nan, math.inf, "half", True, 10**30])
def test_progress_is_any_scalar(client: Client, progress: object) -> None:
    client.call("add_task", worker="w", task_id="A", family="F")
    assert client.call("set_task_progress_percentage", task_id="A", progress_percentage=progress).value is None
    (shown,) = [client.call("get_task_progress_percentage", task_id="A").value["progressPercentage"]]
    assert repr(shown) == repr(progress)
    assert client.call("add_task", worker="w", task_id="B", family="F").value is None


def test_the_request_id_of_the_caller_is_kept(client: Client) -> None:
    answer = client.post("ping", urlencode({"data": '{"worker": "w"}'}).encode(), X_Request_Id="abc-1._Z")
    assert answer.headers["X-Request-Id"] == "abc-1._Z"


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "a\tb", "<b>"])
def test_a_request_id_unfit_for_a_log_is_replaced(memory: Client, offered: str) -> None:
    answer = memory.post("ping", urlencode({"data": '{"worker": "w"}'}).encode(), X_Request_Id=offered)
    assert answer.status == 200
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["X-Request-Id"])


def test_a_claim_of_a_batch_that_does_not_run_is_refused(client: Client) -> None:
    """Stock, and ours before, answered 500: Luigi's rule looks for the first task of the batch."""
    client.call("add_task", worker="w", task_id="A", family="F")
    client.call("add_task", worker="w", task_id="B", family="F", status="BATCH_RUNNING", batch_id="told")
    before = client.tasks()
    for batch_id in ("none", "told"):
        answer = client.call("add_task", worker="w", task_id="C", status="RUNNING", batch_id=batch_id, family="G")
        assert (answer.status, answer.json["error"]["code"]) == (400, "bad_request")
        assert "batch_id" in answer.fault
    assert client.tasks() == before


def test_a_task_that_runs_without_having_been_handed_out_holds_nothing(client: Client) -> None:
    """Before, as in stock, decreasing what it holds met an attribute that is not there."""
    client.call("add_task", worker="w", task_id="A", family="F", status="RUNNING", resources={"r": 2})
    assert client.call("decrease_running_task_resources", task_id="A", decrease_resources={"r": 1}).value is None
    assert client.call("get_running_task_resources", task_id="A").value["resources"] is None


def test_a_bug_in_a_rule_is_a_500_whose_id_the_log_has(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.call("add_task", worker="w", task_id="A", family="F")
    before = client.tasks()
    monkeypatch.setattr(Graph, "_update_priority", lambda self, task, priority, worker: {}["no rule fails by itself"])
    with caplog.at_level(logging.ERROR):
        answer = client.call("add_task", worker="w", task_id="A", status="DONE", family="G")
    assert answer.status == 500
    request_id = answer.json["error"]["request_id"]
    assert answer.headers["X-Request-Id"] == request_id
    assert request_id in caplog.text
    assert "KeyError" in caplog.text
    assert caplog.text.count(request_id) == 1
    assert client.tasks() == before


def test_a_scheduler_of_this_process_can_be_served() -> None:
    async def opening() -> Scheduler:
        return Scheduler()

    with serving(opening) as client:
        assert client.call("add_task", worker="w", task_id="A", family="F").value is None
        assert client.call("get_work", worker="w", host="h").value["task_id"] == "A"
        assert client.get("/readyz").status == 200
        assert client.call("add_task", worker="w").status == 400
        assert client.call("nothing").status == 404


class Failing:
    """A scheduler that fails every call with the given error: a store's long outage and a bug of ours take too long to await."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def call(self, call: Call) -> bytes:
        raise self.error

    async def status(self) -> Status:
        return Status(ready=False, reasons=("It is lost.",), replica="r", namespace="n", applied=1, watermark=0)

    async def ended(self) -> str:
        return "It is lost."

    async def metrics(self) -> tuple[bytes, str] | None:
        return b"luigi_x 1\n", "text/plain; version=0.0.4"

    def observe(self, method: str, outcome: str, seconds: float) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


def failing(error: Exception) -> Iterator[Client]:
    async def opening() -> Failing:
        return Failing(error)

    return serving(opening)


def test_a_store_that_is_down() -> None:
    with failing(StoreDown("The store does not answer.", retry_after=3)) as client:
        answer = client.call("ping", worker="w")
        assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
        assert answer.json["error"]["code"] == "store_down"
        ready = client.get("/readyz")
        assert (ready.status, ready.json["reasons"]) == (503, ["It is lost."])


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_health_after_the_end(memory: Client, verb: str) -> None:
    with failing(StoreDown("It is lost.")) as client:
        assert client.request(verb, "/healthz").status == 503
    assert memory.request(verb, "/healthz").status == 200


def test_a_bug_of_ours_is_json_too(caplog: pytest.LogCaptureFixture) -> None:
    with failing(ZeroDivisionError("secret detail")) as client:
        answer = client.call("ping", worker="w")
    assert (answer.status, answer.json["error"]["code"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert answer.json["error"]["request_id"] in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_what_a_collector_exposes() -> None:
    with failing(RuleFailed("no")) as client:
        answer = client.get("/metrics")
    assert (answer.body, answer.headers["Content-Type"]) == (b"luigi_x 1\n", "text/plain; version=0.0.4")


class Later(luigi.scheduler.Scheduler):
    """A Luigi to come, with a method and an argument that we have never heard of."""

    def sing(self, song, loud=False):
        return [song, loud]


def test_a_method_of_a_later_luigi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(luigi.scheduler.RPC_METHODS, "sing", Later.sing)
    monkeypatch.setattr(luigi.scheduler, "Scheduler", Later)

    class Choir(Failing):
        async def call(self, call: Call) -> bytes:
            return json.dumps(Later().sing(**call.arguments)).encode()

    async def opening() -> Choir:
        return Choir(RuntimeError())

    with serving(opening) as client:
        assert client.call("sing", song=["la"]).value == [["la"], False]
        assert client.call("sing").status == 400
        assert client.call("sing", song="la", key="c").status == 400


def test_a_call_whose_caller_has_gone_is_marked() -> None:
    waiting, gone = asyncio.Event(), []

    class Waiting(Failing):
        async def call(self, call: Call) -> bytes:
            gone.append(call)
            await asyncio.wait_for(waiting.wait(), 20)
            return b"null"

        async def stop(self) -> None:
            waiting.set()

    async def opening() -> Waiting:
        return Waiting(RuntimeError())

    with serving(opening) as client:
        connection = client.connect()
        connection.request("GET", in_query("get_work", worker="w"))
        while not gone:
            client.get("/healthz")
        assert not gone[0].abandoned
        connection.close()
        for _ in range(1000):
            if gone[0].abandoned:
                break
            client.get("/healthz")
        assert gone[0].abandoned


def test_a_large_call_does_not_hold_up_the_others() -> None:
    """While the form and the JSON of a large call are read, others are answered: before, they waited for all of it."""
    running, started = threading.Event(), threading.Event()

    class Slow(Failing):
        async def call(self, call: Call) -> bytes:
            return b"null"

    def slowly(query: str, headers: object, body: bytes) -> str:
        if len(body) >= exchange.LARGE_BYTES:
            started.set()
            assert running.wait(20)
        return api.payload_of(query, headers, body)  # type: ignore[arg-type]

    async def opening() -> Slow:
        return Slow(RuntimeError())

    with pytest.MonkeyPatch.context() as patch, serving(opening) as client:
        patch.setattr(exchange, "payload_of", slowly)  # holds the reading of the large body open for as long as is needed
        large = client.connect()
        body = urlencode({"data": json.dumps({"worker": "w", "task_id": "A", "expl": "x" * exchange.LARGE_BYTES})})
        large.request("POST", "/api/add_task", body, {"Content-Type": "application/x-www-form-urlencoded"})
        assert started.wait(20)
        assert client.call("ping", worker="w").status == 200
        running.set()
        assert large.getresponse().status == 200
        large.close()


def test_a_large_call_is_checked_like_any_other(memory: Client) -> None:
    assert memory.call("add_task", worker="w", task_id="A", family="F", expl="x" * 1_000_000).value is None
    refused = memory.call("add_task", worker="w", task_id="A", deps="x" * 1_000_000)
    assert (refused.status, refused.json["error"]["code"]) == (400, "bad_request")
