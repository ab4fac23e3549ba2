"""Tags that tell a browser that nothing has changed, and compression."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator

import pytest
from serving import Answer, Answering, Client, in_query, serving

from luigi_spanner.calls import Call
from luigi_spanner.server.representation import LONG_BYTES

LISTINGS = {
    "task_list": {},
    "graph": {},
    "dep_graph": {"task_id": "A"},
    "inverse_dep_graph": {"task_id": "A"},
    "worker_list": {},
    "resource_list": {},
    "task_search": {"task_str": "A"},
}


class Server(Client):
    """A server whose every call gives `value`."""

    value: object = None

    def listing(self, **headers: str) -> Answer:
        return self.get(in_query("task_list"), **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    async def value(call: Call) -> bytes:
        return json.dumps(Server.value).encode()

    async def opening() -> Answering:
        return Answering(value)

    with serving(opening) as client:
        Server.value = {"A": 1}
        yield Server(port=client.port)


@pytest.mark.parametrize("method", LISTINGS)
def test_a_listing_that_did_not_change_is_not_sent_again(server: Server, method: str) -> None:
    path = in_query(method, **LISTINGS[method])
    first = server.get(path)
    again = server.get(path, If_None_Match=first.headers["ETag"], X_Request_Id="r")
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (again.headers["Content-Length"], again.headers["Content-Type"], again.headers["X-Request-Id"]) == (None, None, "r")
    Server.value = {"A": 2}
    changed = server.get(path, If_None_Match=first.headers["ETag"])
    assert (changed.status, changed.value) == (200, {"A": 2})
    assert changed.headers["ETag"] != first.headers["ETag"]


def test_the_same_of_a_real_listing(memory: Client) -> None:
    memory.call("add_task", worker="w", task_id="T", family="F")
    first = memory.get(in_query("task_list"))
    assert memory.get(in_query("task_list"), If_None_Match=first.headers["ETag"]).status == 304
    memory.call("add_task", worker="w", task_id="U", family="F")
    assert memory.get(in_query("task_list"), If_None_Match=first.headers["ETag"]).status == 200


def test_other_calls_have_no_tag(server: Server) -> None:
    assert server.call("task_list").headers["ETag"] is None  # a POST, as workers send it
    assert server.get(in_query("ping", worker="w")).headers["ETag"] is None
    assert server.get(in_query("ping", worker="w"), If_None_Match="*").status == 200
    refused = server.get(in_query("task_list", status="SLEEPING"), If_None_Match="*")
    assert (refused.status, refused.headers["ETag"]) == (400, None)


@pytest.mark.parametrize("form", ["{0}", "W/{0}", '"other", {0}', '"a,b" , W/{0} , "c"', "*"])
def test_tags_that_match(server: Server, form: str) -> None:
    tag = server.listing().headers["ETag"]
    assert server.listing(If_None_Match=form.format(tag)).status == 304


@pytest.mark.parametrize("seen", ['"other"', "", "nonsense", '"'])
def test_tags_that_do_not_match(server: Server, seen: str) -> None:
    assert server.listing(If_None_Match=seen).status == 200


def test_a_long_listing(server: Server) -> None:
    Server.value = ["Task"] * LONG_BYTES
    plain, packed = server.listing(), server.listing(Accept_Encoding="deflate, gzip")
    assert plain.headers["Content-Encoding"] is None and plain.value == Server.value
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) == len(packed.body) < len(plain.body) / 10
    assert gzip.decompress(packed.body) == plain.body
    assert plain.headers["ETag"] == packed.headers["ETag"]
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept-Encoding"
    assert server.listing(Accept_Encoding="gzip", If_None_Match=plain.headers["ETag"]).status == 304


def test_a_long_reply_to_a_worker_is_compressed_too(server: Server) -> None:
    Server.value = ["Task"] * LONG_BYTES
    arguments = b"data=%7B%22worker%22:%22w%22%7D"
    packed = server.post("get_work", arguments, Accept_Encoding="gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body))["response"] == Server.value
    assert server.post("get_work", arguments).value == Server.value


def test_a_short_reply_is_not_compressed(server: Server) -> None:
    Server.value = "x" * 2000
    answer = server.listing(Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] is None and answer.value == Server.value
