"""The pages of the history: what people see, and what programs are given."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from luigi import scheduler as luigi_scheduler
from serving import Answer, Client, Process, serving

from luigi_spanner.service import Service

NASTY = "<script>alert('x')</script> & \"F\""


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Client]:
    """A client of a service that writes a history, in which three tasks have run."""
    rules = {"record_task_history": True, "stable_done_cooldown_secs": 0, "retry_delay": 0.0}
    monkeypatch.setattr(luigi_scheduler, "scheduler", functools.partial(luigi_scheduler.scheduler, **rules))
    url = f"sqlite:///{tmp_path}/luigi.db"
    with serving(lambda: Service.open(url, "default", history_keep=math.inf)) as client:
        for number, family in enumerate(("F", "F", NASTY)):
            params = {"day": f"2026-01-0{number + 1}", "secret": "s3cret"}
            told = {"task_id": f"{family}_{number}", "family": family, "params": params, "worker": "w"}
            assert client.call("add_task", param_visibilities={"secret": 2}, **told).status == 200
            assert client.call("get_work", worker="w", host="machine").value["task_id"] == told["task_id"]
            ended = {"status": "FAILED", "expl": json.dumps("KeyError: 'x'")} if number == 1 else {"status": "DONE"}
            assert client.call("add_task", worker="w", task_id=told["task_id"], **ended).status == 200
        yield client


def page(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("text/html")
    text = answer.body.decode()
    assert "s3cret" not in text
    assert "<script" not in text
    assert not re.search(r"""(src|href)=["']?(https?:)?/""", text), "links are relative, and nothing comes from another host"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return text


def given(client: Client, path: str) -> dict[str, object]:
    answer = client.get(path, Accept="application/json")
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    assert b"s3cret" not in answer.body
    found: dict[str, object] = answer.json
    return found


def statuses(client: Client, path: str) -> list[tuple[str, str]]:
    runs = given(client, path)["runs"]
    assert isinstance(runs, list)
    return [(run["task_id"], run["status"]) for run in runs]


def test_the_latest_runs(history: Client) -> None:
    expected = [(f"{NASTY}_2", "DONE"), ("F_1", "FAILED"), ("F_0", "DONE")]
    assert statuses(history, "/history") == expected
    assert statuses(history, "/history?format=json") == expected
    text = page(history, "/history")
    assert text.index("F_1") < text.index("F_0")
    assert "machine" in text and "day=2026-01-02" in text


def test_the_runs_of_a_family(history: Client) -> None:
    assert statuses(history, "/history/by_name/F") == [("F_1", "FAILED"), ("F_0", "DONE")]
    assert statuses(history, f"/history/by_name/{quote(NASTY, safe='')}") == [(f"{NASTY}_2", "DONE")]
    assert "There are no runs here" in page(history, "/history/by_name/G")


def test_the_runs_with_parameters(history: Client) -> None:
    path = "/history/by_params/F?data=" + quote(json.dumps({"day": "2026-01-01"}))
    assert statuses(history, path) == [("F_0", "DONE")]
    assert "F_0" in page(history, path)
    assert history.get("/history/by_params/F?data=nonsense").status == 400
    assert history.get("/history/by_params/F?data=[1]", Accept="application/json").json["error"]["code"] == "bad_request"


def test_one_run(history: Client) -> None:
    text = page(history, "/history/by_task_id/F_1")
    assert 'href="../../why/F_1"' in text
    assert "KeyError: &#x27;x&#x27;" in text or "KeyError: &#39;x&#39;" in text
    for status in ("PENDING", "RUNNING", "FAILED"):
        assert status in text
    value = given(history, "/history/by_task_id/F_1")
    changes = value["changes"]
    assert isinstance(changes, list)
    assert [change["status"] for change in changes] == ["PENDING", "RUNNING", "FAILED"]
    for change in changes:
        assert given(history, f"/history/by_id/{change['id']}") == value


def test_text_that_is_no_unicode(history: Client) -> None:
    """As names of files that are no UTF-8 come to be in Python."""
    half = "caf\udce9"
    told = {"task_id": "half", "family": "Half", "params": {"file": half}, "worker": "w"}
    assert history.call("add_task", **told).status == 200
    assert history.call("get_work", worker="w", host="machine").value["task_id"] == "half"
    assert history.call("add_task", worker="w", task_id="half", status="FAILED", expl=json.dumps(half)).status == 200
    for path in ("/history", "/history/by_name/Half", "/history/by_task_id/half", "/tasklist/Half", "/why/half"):
        assert history.get(path).status == 200
        assert history.get(path, Accept="application/json").status == 200
    assert "caf\\udce9" in page(history, "/history/by_task_id/half")
    assert history.get("/history/by_params/Half?data=" + quote(json.dumps({"file": half}))).status == 200
    assert history.get("/history/by_params/Half?limit=1&data=" + quote(json.dumps({"file": half}))).status == 200


def test_families_and_how_long_they_take(history: Client) -> None:
    assert given(history, "/tasklist")["families"] == [NASTY, "F"]
    assert 'href="./tasklist/F"' in page(history, "/tasklist")
    assert statuses(history, "/tasklist/F") == [("F_1", "FAILED"), ("F_0", "DONE")]
    assert 'class="bar"' in page(history, "/tasklist/F")


def test_pages_follow_each_other(history: Client) -> None:
    text = page(history, "/history/by_name/F?limit=1")
    (query,) = re.findall(r'rel="next" href="([^"]+)"', text)
    older = "/history/by_name/F" + query.replace("&amp;", "&")
    assert "limit=1" in older
    assert statuses(history, older + "&format=json") == [("F_0", "DONE")]
    assert 'rel="next"' not in page(history, older)


@pytest.mark.parametrize(
    "path", ["/history/by_id/4711", "/history/by_id/x", f"/history/by_id/{10**30}", "/history/by_task_id/none"]
)
def test_what_is_missing_is_not_found(history: Client, path: str) -> None:
    answer = history.get(path)
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (404, "text/html")
    refused = history.get(path, Accept="application/json")
    assert (refused.status, refused.json["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "before=-1", f"before={10**30}", "limit=%C2%B2"])
def test_numbers_that_are_none(history: Client, query: str) -> None:
    assert history.get(f"/history?{query}").status == 400


def test_a_program_is_told_that_there_is_none(memory: Client) -> None:
    answer: Answer = memory.get("/history", Accept="application/json")
    assert (answer.status, answer.json) == (200, {"history": False, "runs": []})


def test_a_process_keeps_its_history(serve: Callable[..., Process], tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[scheduler]\nrecord_task_history = true\n[luigi_spanner]\nhistory_days = 7\n")
    process = serve("--store", "sqlite:///a.db")
    client = process.client()
    assert client.call("has_task_history").value is True
    client.call("add_task", worker="w", task_id="A", family="F")
    assert statuses(client, "/history") == [("A", "PENDING")]


def test_another_database_for_the_history_is_refused(serve: Callable[..., Process], tmp_path: Path) -> None:
    configured = "[scheduler]\nrecord_task_history = {}\n[task_history]\ndb_connection = sqlite:///history.db\n"
    (tmp_path / "luigi.cfg").write_text(configured.format("true"))
    process = serve("--store", "sqlite:///a.db")
    assert process.exit_code() == 2
    assert "db_connection is not used" in process.output
    assert not (tmp_path / "a.db").exists()
    (tmp_path / "luigi.cfg").write_text(configured.format("false"))
    assert serve("--store", "sqlite:///a.db").client().get("/healthz").status == 200
