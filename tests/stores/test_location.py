"""Store URLs: what they mean, and the one sentence for each that means nothing."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from luigi_spanner import migrate
from luigi_spanner.stores import InvalidStore, SchemaMismatch, Store
from luigi_spanner.stores.location import (
    Location,
    absolute,
    check_namespace,
    default_url,
    make_state_directory,
    open_existing,
    open_store,
    parse,
    sqlite_url,
)

DATABASE = "projects/example.com:p/instances/i-1/databases/d_1"


def test_a_relative_file_begins_where_the_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///some%20where/luigi.db") == f"sqlite:///{tmp_path}/some%20where/luigi.db"
    for url in (f"sqlite:///{tmp_path}/luigi.db", f"spanner:///{DATABASE}", "memory://shared"):
        assert absolute(url) == url


@pytest.mark.parametrize(
    ("url", "kind", "place"),
    [
        ("sqlite:///luigi.db", "sqlite", "luigi.db"),
        ("sqlite:///some/where/luigi.db", "sqlite", "some/where/luigi.db"),
        ("sqlite:////var/lib/luigi%20spanner/a%3Fb.db", "sqlite", "/var/lib/luigi spanner/a?b.db"),
        (f"spanner:///{DATABASE}", "spanner", DATABASE),
        ("memory://", "memory", ""),
        ("memory://shared", "memory", "shared"),
    ],
)
def test_a_url_names_a_place(url: str, kind: str, place: str) -> None:
    location = parse(url)
    assert (location.kind, location.place) == (kind, place)
    assert location == Location(kind=location.kind, place=place)


@pytest.mark.parametrize("path", ["luigi.db", "/var/a b/50%20?#é.db"])
def test_a_path_survives_its_url(path: str) -> None:
    assert parse(sqlite_url(path)).place == path


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "A store URL looks like"),
        ("luigi.db", "A store URL looks like"),
        ("sqlite://", "needs a file"),
        ("sqlite:///", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("sqlite://luigi.db", "three slashes"),
        ("sqlite://luigi.db/x", "three slashes"),
        ("sqlite:///luigi.db?mode=ro", "no options"),
        ("sqlite+aiosqlite:///luigi.db", "begins with sqlite, spanner or memory"),
        ("postgresql://user:secret@host/db", "begins with sqlite, spanner or memory"),
        ("spanner://", "spanner:///projects/PROJECT"),
        ("spanner:///projects/p/instances/i", "spanner:///projects/PROJECT"),
        ("spanner:///projects/p/instances/i/databases/", "spanner:///projects/PROJECT"),
        (f"spanner:///{DATABASE}/more", "spanner:///projects/PROJECT"),
        (f"spanner:///{DATABASE}?role=r", "spanner:///projects/PROJECT"),
        (f"spanner://user:secret@host/{DATABASE}", "three slashes"),
        ("memory:///name", "memory://NAME"),
        ("memory://a:1", "memory://NAME"),
        ("memory://user@a", "memory://NAME"),
        ("sqlite:///luigi.db#x", "no options"),
        ("SQLITE:///luigi.db", "A store URL looks like"),
        ("sqlite:luigi.db", "A store URL looks like"),
    ],
)
def test_another_url_is_told_in_one_sentence(url: str, sentence: str) -> None:
    with pytest.raises(InvalidStore, match=sentence) as caught:
        parse(url)
    assert str(caught.value).endswith(".")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("namespace", ["default", "a", "A.b_c-9", "n" * 128])
def test_a_namespace_is_a_plain_name(namespace: str) -> None:
    check_namespace(namespace)


@pytest.mark.parametrize("namespace", ["", "n" * 129, "a b", "a/b", "é", "a\n", "\ud800"])
def test_another_namespace_is_told(namespace: str) -> None:
    with pytest.raises(InvalidStore, match="A namespace is"):
        check_namespace(namespace)
    with pytest.raises(InvalidStore, match="A namespace is"):
        asyncio.run(open_store("memory://", namespace))


def test_the_default_is_a_file_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    url = default_url()
    assert url == f"sqlite:///{tmp_path}/state/luigi-spanner/luigi.db"
    asyncio.run(use(url))
    directory = tmp_path / "state" / "luigi-spanner"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert (directory / "luigi.db").is_file()


def test_every_directory_made_for_it_is_the_users_own(tmp_path: Path) -> None:
    state = tmp_path / "home" / ".local" / "state"
    usual = os.umask(0)
    try:
        make_state_directory(str(state / "luigi-spanner" / "luigi.db"), {"XDG_STATE_HOME": str(state)})
    finally:
        os.umask(usual)
    made = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert len(made) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}


def test_the_command_makes_the_default_directory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    migrate.upgrade(default_url())
    migrate.check(default_url())


def test_without_a_state_directory_it_lies_in_the_home(tmp_path: Path) -> None:
    home = f"sqlite:///{Path.home()}/.local/state/luigi-spanner/luigi.db"
    assert default_url({}) == home
    assert default_url({"XDG_STATE_HOME": "relative"}) == home


def test_a_default_directory_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(InvalidStore, match="Cannot create the state directory"):
        asyncio.run(use(default_url()))


def test_a_relative_file_lies_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(use("sqlite:///luigi.db"))
    assert (tmp_path / "luigi.db").is_file()


def test_no_other_directory_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidStore, match="there is no directory"):
        asyncio.run(use(f"sqlite:///{tmp_path}/none/luigi.db"))
    assert list(tmp_path.iterdir()) == []


def test_memory_is_shared_by_name() -> None:
    async def check() -> None:
        stores: list[Store] = [await open_store(url, "n") for url in ("memory://a", "memory://a", "memory://b", "memory://")]
        for store in stores:
            assert (await store.load()).head.seq == 0
            await store.close()

    asyncio.run(check())


async def existing(url: str, namespace: str = "default") -> int:
    store = await open_existing(url, namespace)
    try:
        return (await store.load()).head.seq
    finally:
        await store.close()


def check_namespaces(url: str) -> None:
    """Of what lies at `url`, the namespace "default" opens and another one is told, and not created by asking."""
    assert asyncio.run(existing(url)) == 0
    for _ in range(2):
        with pytest.raises(InvalidStore) as caught:
            asyncio.run(existing(url, "other"))
        assert str(caught.value) == "The store has no namespace 'other'."


def test_opening_what_exists_creates_no_namespace(sqlite_url: str) -> None:
    asyncio.run(use(sqlite_url))
    check_namespaces(sqlite_url)


def test_opening_what_exists_creates_no_namespace_on_spanner(spanner_url: str) -> None:
    with pytest.raises(InvalidStore, match="no namespace 'default'"):
        asyncio.run(existing(spanner_url))
    asyncio.run(use(spanner_url))
    check_namespaces(spanner_url)


def test_opening_what_exists_in_memory(memory_url: str) -> None:
    async def check() -> None:
        store = await open_store(memory_url, "default")
        await store.load()
        assert await existing(memory_url) == 0
        for url, namespace in ((memory_url, "other"), ("memory://", "default")):
            with pytest.raises(InvalidStore, match="no namespace"):
                await existing(url, namespace)
        await store.close()

    asyncio.run(check())


def test_opening_what_exists_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for url in (f"sqlite:///{tmp_path}/luigi.db", default_url()):
        with pytest.raises(InvalidStore, match="There is no SQLite file"):
            asyncio.run(existing(url))
    assert list(tmp_path.iterdir()) == []


def test_opening_what_exists_creates_no_schema(sqlite_url: str) -> None:
    migrate.upgrade(sqlite_url)
    migrate.downgrade(sqlite_url, "base")
    with pytest.raises(SchemaMismatch, match="no Luigi Spanner schema"):
        asyncio.run(existing(sqlite_url))
    assert migrate.current(sqlite_url) is None


@pytest.mark.parametrize(("url", "namespace"), [("nowhere", "default"), ("memory://", "no/name")])
def test_opening_what_exists_reads_its_arguments(url: str, namespace: str) -> None:
    with pytest.raises(InvalidStore, match=r"looks like|A namespace is"):
        asyncio.run(existing(url, namespace))


async def use(url: str) -> None:
    store = await open_store(url, "default")
    await store.load()
    await store.close()
