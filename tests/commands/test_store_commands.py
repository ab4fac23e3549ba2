"""The commands about a store: they open it themselves, beside replicas or alone, and write nothing to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deployment import command
from serving import Process, environment

import luigi_spanner
from luigi_spanner.digest import format_digest
from luigi_spanner.journal import Entry, encode
from luigi_spanner.schema import STATE_TABLES, key_columns
from luigi_spanner.stores.location import open_existing
from luigi_spanner.verify import Report, at_head

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite_url", pytest.param("spanner_url", marks=pytest.mark.emulator)])
def store(request: pytest.FixtureRequest) -> str:
    return lived_in(str(request.getfixturevalue(request.param)))


@pytest.fixture
def file(sqlite_url: str) -> str:
    return lived_in(sqlite_url)


def lived_in(url: str, namespace: str = "default") -> str:
    scheduler = luigi_spanner.Scheduler(store=url, namespace=namespace)
    for number in range(4):
        scheduler.add_task(worker="w", task_id=f"t{number}", family="F", params={"day": str(number)}, deps=[f"t{number + 1}"])
    scheduler.update_resource(resource="database", amount=3)
    scheduler.get_work(worker="w", host="h")
    scheduler.disable_worker(worker="w")
    scheduler.close()
    return url


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def dump(url: str) -> list[str]:
    """All that a SQLite file holds."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
        return list(database.iterdump())


# namespaces


def test_namespaces(store: str) -> None:
    lived_in(store, "other")
    answer = command("namespaces", "--store", store, "--json").json
    assert (answer["bytes"] is None) == store.startswith("spanner")
    shown = answer["namespaces"]
    assert [row["namespace"] for row in shown] == ["default", "other"]
    first = shown[0]
    assert (first["rows"]["tasks"], first["rows"]["workers"], first["oldest"], first["entries"]) == (5, 1, 0, first["head"])
    assert first["created_at"] <= first["committed_at"]
    people = command("namespaces", "--store", store)
    assert (people.code, people.out.splitlines()[-1][:12]) == (0, "2 namespaces")


def test_namespaces_of_a_store_that_is_none(tmp_path: Path) -> None:
    missing = command("namespaces", "--store", f"sqlite:///{tmp_path}/missing.db")
    assert (missing.code, "There is no SQLite file" in missing.err) == (2, True)
    memory = command("namespaces", "--store", "memory://")
    assert (memory.code, "gone with its process" in memory.err) == (2, True)
    assert not list(tmp_path.iterdir())


# export


def test_an_export_is_the_tables(store: str) -> None:
    first, *rest = lines(command("export", "--store", store).out)
    assert (first["namespace"], first["rows"]["tasks"]) == ("default", 5)
    assert {row["table"] for row in rest} == {name for name, count in first["rows"].items() if count}
    assert len(rest) == sum(first["rows"].values())
    for row in rest:
        assert set(row) == {"table", *(column.name for column in STATE_TABLES[row["table"]].columns)} - {"namespace"}
    (task,) = [row for row in rest if row["table"] == "tasks" and row["task_id"] == "t1"]
    assert (task["family"], json.loads(task["deps"]), task["body"]["params"]) == ("F", ["t2"], {"day": "1"})
    (resource,) = [row for row in rest if row["table"] == "resources"]
    assert (resource["name"], resource["total"]) == ("database", 3.0)


def test_an_export_says_what_the_database_says(file: str) -> None:
    """Once no entry is ahead of the tables: typed columns, one by one."""
    rows = lines(command("export", "--store", file).out)[1:]
    with closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as database:
        database.row_factory = sqlite3.Row
        for name, table in STATE_TABLES.items():
            keys = key_columns(table)
            stored = {tuple(row[key] for key in keys): dict(row) for row in database.execute(f"SELECT * FROM {name}")}
            exported = [row for row in rows if row["table"] == name]
            assert {tuple(row[key] for key in keys) for row in exported} == set(stored)
            for row in exported:
                found = stored[tuple(row[key] for key in keys)]
                assert {column: row[column] for column in row if column not in ("table", "body")} == {
                    column: value for column, value in found.items() if column not in ("namespace", "body")
                }


def test_an_export_holds_what_is_still_in_the_journal_alone(file: str) -> None:
    """The tables trail the journal while many call."""
    with closing(sqlite3.connect(file.removeprefix("sqlite:///"), isolation_level=None)) as database:
        seq, watermark = database.execute("SELECT seq, watermark FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    assert seq == watermark
    before = lines(command("export", "--store", file).out)
    late = asyncio.run(_without_rows(file))
    after = lines(command("export", "--store", file).out)
    assert (after[0]["seq"], late) == (seq + 1, seq + 1)
    assert [row["task_id"] for row in after if row["table"] == "tasks"] == [
        *(row["task_id"] for row in before if row["table"] == "tasks"),
        "late",
    ]


async def _without_rows(url: str) -> int:
    """Commit an entry whose rows stay behind; its seq."""
    store = await open_existing(url, "default")
    try:
        snapshot = await store.load()
        rows = at_head(snapshot, Report(namespace="default"))
        change = ["tasks", ["late"], {"retry_policy": [1, 1, 1], "status": "PENDING", "ordinal": 1, "status_ordinal": 1}, 1]
        entry = Entry(
            seq=snapshot.seq + 1,
            commit_id="late",
            replica="test",
            clock=0.0,
            watermark=snapshot.head.watermark,
            digest="",
            calls=encode([]),
            changes=encode([[change]]),
        )
        rows.apply(entry)
        await store.commit(entry.seq, replace(entry, digest=format_digest(rows.digest)), [])
        return entry.seq
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_export_into_files(file: str, tmp_path: Path, kind: str) -> None:
    import pyarrow.parquet

    directory = tmp_path / "new" / "export"
    before = dump(file)
    ran = command("export", "--store", file, "--output", str(directory), "--format", kind)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert dump(file) == before
    assert directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}
    manifest = json.loads((directory / "export.json").read_text())
    for name, count in manifest["rows"].items():
        path = directory / f"{name}.{kind}"
        rows = lines(path.read_text()) if kind == "jsonl" else pyarrow.parquet.read_table(path).to_pylist()
        assert len(rows) == count
        if name == "tasks":
            assert [row["task_id"] for row in rows] == ["t0", "t1", "t2", "t3", "t4"]
            body = rows[1]["body"]
            assert (body if kind == "jsonl" else json.loads(body))["params"] == {"day": "1"}
    again = command("export", "--store", file, "--output", str(directory))
    assert (again.code, "is not empty" in again.err) == (2, True)


@pytest.mark.parametrize("name", [("export",), ("journal", "tail")], ids=" ".join)
def test_what_is_hidden_is_printed_and_said_so(sqlite_url: str, name: tuple[str, ...]) -> None:
    scheduler = luigi_spanner.Scheduler(store=sqlite_url)
    scheduler.add_task(worker="w", task_id="t", params={"word": "sesame"}, param_visibilities={"word": 1})
    scheduler.close()
    assert "sesame" in command(*name, "--store", sqlite_url).out
    assert "hidden parameters, too" in " ".join(command(*name, "--help").out.split())


def test_an_export_that_cannot_be(file: str, tmp_path: Path) -> None:
    nowhere = command("export", "--store", file, "--format", "parquet")
    assert (nowhere.code, "name a directory" in nowhere.err) == (2, True)
    (tmp_path / "taken").write_text("")
    taken = command("export", "--store", file, "--output", str(tmp_path / "taken"))
    assert (taken.code, "Cannot use the directory" in taken.err) == (2, True)
    unknown = command("export", "--store", file, "--namespace", "nobody")
    assert (unknown.code, "no namespace 'nobody'" in unknown.err) == (2, True)


def test_parquet_without_pyarrow(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = command("export", "--store", file, "--output", str(tmp_path / "out"), "--format", "parquet")
    assert (ran.code, ran.err) == (2, "Parquet needs pyarrow: pip install 'luigi-spanner[parquet]'.\n")
    assert not (tmp_path / "out").exists()


def test_a_damaged_namespace_is_not_exported(file: str) -> None:
    with closing(sqlite3.connect(file.removeprefix("sqlite:///"))) as database, database:
        database.execute("DELETE FROM tasks WHERE task_id = 't2'")
    ran = command("export", "--store", file)
    assert (ran.code, ran.out) == (1, "")
    assert "luigi-spanner verify" in ran.err


# journal tail


def test_the_journal_from_the_beginning_is_the_state(store: str) -> None:
    entries = lines(command("journal", "tail", "--store", store, "--from", "0").out)
    assert [entry["seq"] for entry in entries] == list(range(1, len(entries) + 1))
    calls = [call["method"] for entry in entries for call in entry["calls"]]
    assert calls.count("add_task") == 4
    assert {"update_resource", "get_work", "disable_worker"} <= set(calls)
    first = next(entry for entry in entries if entry["calls"])
    put = next(change for change in first["changes"] if change["table"] == "tasks")
    assert (put["key"], put["change"]) == (["t0"], "put")
    # Whoever applies the changes in order has the tables.
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for change in [change for entry in entries for change in entry["changes"]]:
        apply(rows, change)
    exported = lines(command("export", "--store", store).out)[1:]
    expected = {
        (row["table"], json.dumps([row[key] for key in key_columns(STATE_TABLES[row["table"]])])): row["body"] for row in exported
    }
    assert rows == expected


def apply(rows: dict[tuple[str, str], dict[str, Any]], change: dict[str, Any]) -> None:
    """A change as docs/operations.md describes it."""
    name, key = change["table"], json.dumps(change["key"])
    if change["change"] == "put":
        rows[name, key] = change["row"]
    elif change["change"] == "merge":
        merged = {**rows.get((name, key), {}), **change["row"]}
        rows[name, key] = {attribute: value for attribute, value in merged.items() if value is not None}
    else:
        gone = [other for other in rows if other[0] == name and json.loads(other[1])[: len(change["key"])] == change["key"]]
        for other in gone:
            del rows[other]


def test_the_tail_resumes(file: str) -> None:
    whole = lines(command("journal", "tail", "--store", file, "--from", "1").out)
    some = lines(command("journal", "tail", "--store", file, "--from", "4").out)
    assert some == whole[3:]
    assert lines(command("journal", "tail", "--store", file).out) == whole[-10:]
    assert command("journal", "tail", "--store", file, "--from", str(whole[-1]["seq"] + 1)).out == ""
    beyond = command("journal", "tail", "--store", file, "--from", str(whole[-1]["seq"] + 2))
    assert (beyond.code, f"the journal ends with {whole[-1]['seq']}" in beyond.err) == (3, True)


def test_the_tail_of_a_truncated_journal(file: str) -> None:
    async def truncate() -> None:
        store = await open_existing(file, "default")
        await store.truncate(4)
        await store.close()

    asyncio.run(truncate())
    for start in ("0", "1", "3", "4"):
        ran = command("journal", "tail", "--store", file, "--from", start)
        assert (ran.code, ran.out) == (3, "")
        assert f"Entry {start} is truncated; the oldest that can be read is 5: --from 5." in ran.err
    assert lines(command("journal", "tail", "--store", file, "--from", "5").out)[0]["seq"] == 5
    assert lines(command("journal", "tail", "--store", file).out)[0]["seq"] == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_clean(tmp_path: Path, number: signal.Signals) -> None:
    url = lived_in(f"sqlite:///{tmp_path}/a.db")
    with Process("journal", "tail", "--store", url, "--follow", directory=tmp_path) as following:
        following.line('"disable_worker"')
        with Process("serve", "--store", url, "--address", "127.0.0.1", "--port", "0", directory=tmp_path) as replica:
            replica.client().call("pause").value  # noqa: B018
            following.line('"method":"pause"')
        following.signal(number)
        assert following.exit_code() == (0 if number is signal.SIGINT else -signal.SIGTERM)
        assert "Traceback" not in following.output
        assert all(line.startswith("{") for line in following.output.splitlines())


def test_a_reader_of_the_journal_that_goes(tmp_path: Path) -> None:
    url = lived_in(f"sqlite:///{tmp_path}/a.db")
    run = f"{sys.executable} -m luigi_spanner journal tail --store {url} --from 1 | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", run], env=environment(), capture_output=True, text=True, timeout=30)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["seq"] == 1


def test_a_full_disk(file: str) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs a device that is always full")
    for asked in (["export"], ["namespaces"]):
        with open("/dev/full", "w") as full:
            run = [sys.executable, "-m", "luigi_spanner", *asked, "--store", file]
            ran = subprocess.run(run, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
        assert (ran.returncode, ran.stderr) == (2, "Cannot write to stdout: No space left on device.\n")
