"""Why is it not running, over HTTP: the call, the page for people, and the link in the visualiser."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlencode, urljoin, urlsplit

import luigi
import pytest
from serving import Answering, Client, in_query, serving

from luigi_spanner.calls import Call, StoreDown
from luigi_spanner.server.visualiser import with_links

ODD = "a b/ä<b>&\"'?#%2e;🦊"
"""An id with whatever a page or an address may stumble over."""


class Links(HTMLParser):
    """What a page links to and loads."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag == "a":
            self.links.append(given["href"] or "")
        self.loaded += [value for name, value in given.items() if name == "src" and value]
        if tag == "link":
            self.loaded.append(given.get("href") or "")


def below(client: Client, path: str, link: str) -> str:
    """The path that a link on the page at `path` leads to."""
    parts = urlsplit(urljoin(f"{client.url}{path}", link))
    return parts.path + (f"?{parts.query}" if parts.query else "")


# The call


def test_it_is_asked_for_in_every_way(client: Client) -> None:
    client.call("add_task", worker="w", task_id="T", family="F")
    expected = client.call("why", task_id="T").value
    assert (expected["task_id"], expected["status"], expected["runnable"]) == ("T", "PENDING", True)
    assert expected["reasons"][0]["code"] == "ready"
    for path in ("/api/why?task_id=T", in_query("why", task_id="T"), "/api/why?task_id=U&task_id=T"):
        assert client.get(path).value == expected
    other = client.get("/api/why?task_id=T&worker=x").value
    assert (other["runnable"], other["worker_id"], other["reasons"][0]["code"]) == (False, "x", "worker_unknown")


def test_plain_parameters_are_for_our_methods_alone(memory: Client) -> None:
    assert memory.get("/api/add_task?task_id=T&worker=w").status == 400
    assert memory.tasks() == {}


def test_an_id_of_any_script_in_the_query(memory: Client) -> None:
    memory.call("add_task", worker="w", task_id=ODD)
    assert memory.get(f"/api/why?{urlencode({'task_id': ODD})}").value["task_id"] == ODD


def test_an_unknown_task_is_404_and_json(client: Client) -> None:
    before = client.state()
    answer = client.get("/api/why?task_id=U", X_Request_Id="mine")
    assert (answer.status, answer.json["error"]["code"], answer.json["error"]["request_id"]) == (404, "unknown_task", "mine")
    assert "no task 'U'" in answer.fault
    assert client.state() == before


@pytest.mark.parametrize("query", ["", "?worker=w", "?task_id=T&more=1", "?task_id=%", "?task_id=%ff", "?task_id=" + "x" * 5000])
def test_what_can_never_be_answered_is_refused(memory: Client, query: str) -> None:
    answer = memory.get(f"/api/why{query}")
    assert (answer.status, answer.json["error"]["code"]) == (400, "bad_request")


def test_it_changes_nothing(client: Client) -> None:
    client.call("add_task", worker="w", task_id="T", deps=["A"])
    before = client.state()
    for worker in ("", "&worker=w", "&worker=x"):
        assert client.get(f"/api/why?task_id=T{worker}").status == 200
    assert client.state() == before
    assert [worker["name"] for worker in client.call("worker_list").value] == ["w"]


# The page


def test_the_page_says_what_the_call_does_and_leads_on(client: Client) -> None:
    client.call("add_task", worker="w", task_id="T", deps=["A"])
    client.call("add_task", worker="w", task_id="A", deps=["B"])
    client.call("add_task", worker="w", task_id="B", status="FAILED")
    answer = client.get("/why/T")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/html; charset=UTF-8")
    page = answer.body.decode()
    for reason in client.call("why", task_id="T").value["reasons"]:
        # Times go on meanwhile.
        assert html.escape(reason["sentence"].partition("(")[0]) in page
    found = Links(page)
    assert found.loaded == []
    assert {"script", "link", "img"}.isdisjoint(found.tags)
    assert {below(client, "/why/T", link) for link in found.links} >= {"/why/A", "/why/B", "/api/why?task_id=T"}
    assert all(urlsplit(link).netloc == "" for link in found.links)
    for link in found.links:
        assert client.get(below(client, "/why/T", link)).status == 200, link
    assert "viewport" in page


def test_the_form_leads_to_the_page(memory: Client) -> None:
    memory.call("add_task", worker="w", task_id="T", deps=["A"])
    form = memory.get("/why")
    assert form.status == 200 and b"<form" in form.body
    answer = memory.get("/why?task_id=+T%0A&worker=w")
    assert answer.status == 200 and b"Why is T not running on w?" in answer.body
    links = [below(memory, "/why?task_id=T", link) for link in Links(answer.body.decode()).links]
    assert "/why/A" in links


def test_whatever_a_task_is_called_is_text(memory: Client) -> None:
    memory.call("add_task", worker="<w>", task_id="T", deps=[ODD, ".."])
    page = memory.get("/why/T").body.decode()
    assert "<b>" not in page and ODD not in page
    links = [below(memory, "/why/T", link) for link in Links(page).links]
    odd = next(link for link in links if "%3Cb" in link and link.startswith("/why"))
    answer = memory.get(odd)
    assert answer.status == 200 and html.escape(ODD).replace("&#x27;", "&#x27;") in answer.body.decode().replace(
        "&#39;", "&#x27;"
    )
    assert "/why?task_id=.." in links and memory.get("/why?task_id=..").status == 200
    assert memory.get(f"/why/{quote(ODD, safe='/')}").status == 200
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_hidden_and_private_parameters_do_not_appear(memory: Client) -> None:
    given = {"params": {"day": "1", "key": "s3cret", "token": "pr1vate"}, "param_visibilities": {"key": 1, "token": 2}}
    memory.call("add_task", worker="w", task_id="T", family="F", status="FAILED", expl='"s3cret"', **given)
    memory.call("add_task", worker="w", task_id="U", family="F", deps=["T"], **given)
    for path in ("/why/T", "/why/U", "/api/why?task_id=T", "/api/why?task_id=U"):
        body = memory.get(path).body
        assert b"s3cret" not in body and b"pr1vate" not in body


def test_a_page_of_an_unknown_task_and_of_what_is_none(memory: Client) -> None:
    answer = memory.get("/why/Nobody")
    assert answer.status == 404 and b"Nobody" in answer.body and b"<form" in answer.body
    assert memory.get("/why/" + "x" * 5000).status == 400
    assert memory.get("/why/%ff").status == 400
    assert memory.request("HEAD", "/why").status == 200
    assert memory.get("/whyx").status == 404


def test_a_page_while_the_store_is_away() -> None:
    async def down(call: Call) -> bytes:
        raise StoreDown("The store does not answer.", retry_after=3)

    async def opening() -> Answering:
        return Answering(down)

    with serving(opening) as client:
        answer = client.get("/why/T")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
    assert b"The store does not answer." in answer.body


# The visualiser


def test_the_visualiser_links_each_task_to_its_page(memory: Client) -> None:
    answer = memory.get("/static/visualiser/index.html")
    shipped = (Path(luigi.__file__).parent / "static/visualiser/index.html").read_bytes()
    assert answer.body == with_links(shipped) != shipped
    # What the script counts on.
    assert b'<script type="text/template" name="actionsTemplate">' in shipped and b"{{encodedTaskId}}" in shipped
    assert re.search(rb"actionsTemplate.*why/\{\{encodedTaskId\}\}.*</script>\s*</body>", answer.body, re.DOTALL)
    assert memory.get("/static/visualiser/index.html", If_None_Match=answer.headers["ETag"]).status == 304
    head = memory.request("HEAD", "/static/visualiser/index.html")
    assert (head.status, head.headers["Content-Length"]) == (200, str(len(answer.body)))
    assert below(memory, "/static/visualiser/index.html", "../../why/T") == "/why/T"


def test_a_page_of_a_later_luigi_is_whole() -> None:
    assert with_links(b"<p>new").startswith(b"<p>new<script>")
    assert with_links(b"<body>x</body></html>").endswith(b"</script>\n</body></html>")
