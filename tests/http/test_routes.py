"""Every route of stock luigid, and ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

import luigi
import pytest
from serving import Client, in_query, read


def test_root_redirects_relatively_to_the_visualiser(memory: Client) -> None:
    answer = memory.get("/")
    assert (answer.status, answer.headers["Location"]) == (302, "static/visualiser/index.html")


def test_head_of_root_is_the_health_check_of_stock(memory: Client) -> None:
    answer = memory.request("HEAD", "/")
    assert (answer.status, answer.body) == (204, b"")


def test_the_visualiser_and_all_it_loads_are_served(memory: Client) -> None:
    page = memory.get("/static/visualiser/index.html")
    assert page.status == 200
    links = re.findall(r'(?:src|href)="((?:js|lib|css)/[^"]+)"', page.body.decode())
    assert "js/luigi.js" in links
    for link in links:
        answer = memory.get(f"/static/visualiser/{link}")
        assert answer.status == 200, link
    shipped = Path(luigi.__file__).parent / "static/visualiser/js/luigi.js"
    assert memory.get("/static/visualiser/js/luigi.js").body == shipped.read_bytes()


def test_static_serves_no_other_file(memory: Client) -> None:
    assert memory.get("/static/../server.py").status in (403, 404)
    assert memory.get("/static/%2e%2e/server.py").status in (403, 404)


def test_no_file_s_name_holds_a_nul(memory: Client) -> None:
    """Before, as in stock, this was a 500."""
    assert memory.get("/static/%00").status == 404
    assert memory.get("/static/visualiser/index.html%00").status == 404


def test_the_visualiser_s_calls(client: Client) -> None:
    client.call("add_task", worker="w", task_id="T", family="F")
    tasks = client.get(in_query("task_list", status="PENDING", upstream_status="", search="")).value
    assert list(tasks) == ["T"]
    assert client.get("/api/pause").value is None
    assert client.get(in_query("is_paused")).value == {"paused": True}
    assert client.get("/api/unpause?data=").value is None
    assert client.get(in_query("is_pause_enabled")).value == {"enabled": True}


def test_health(client: Client) -> None:
    assert client.get("/healthz").json["status"] == "alive"
    assert client.request("HEAD", "/healthz").status == 200


def test_ready(client: Client) -> None:
    answer = client.get("/readyz")
    assert (answer.status, answer.json["ready"], answer.json["reasons"]) == (200, True, [])
    assert answer.json["namespace"] == "default"


@pytest.mark.parametrize("path", ["/history", "/history/by_id/1", "/history/by_name/X", "/tasklist", "/tasklist/X"])
def test_history_says_that_it_is_off(memory: Client, path: str) -> None:
    answer = memory.get(path)
    assert answer.status == 200
    assert b"history is off" in answer.body


@pytest.mark.parametrize("path", ["/foo", "/historyx", "/apix"])
def test_other_paths_are_not_found(memory: Client, path: str) -> None:
    assert memory.get(path).status == 404


def test_a_connection_serves_many_calls(client: Client) -> None:
    connection = client.connect()
    try:
        sockets = set()
        for index in range(3):
            connection.request("GET", in_query("add_task", worker="w", task_id=f"T{index}"))
            assert read(connection).status == 200
            sockets.add(connection.sock)
        assert len(sockets) == 1
        assert None not in sockets
    finally:
        connection.close()


def test_text_of_any_script_comes_back_as_it_was_sent(client: Client) -> None:
    name = "Täsk_данные_データ_🦊_a+b&c=d%25</script>"
    assert client.call("add_task", worker="w", task_id=name, family="F").value is None
    assert list(client.tasks()) == [name]
    assert client.get(f"/api/get_task_status_message?data={quote(json.dumps({'task_id': name}))}").value["taskId"] == name
