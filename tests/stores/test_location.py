"""Store URLs: what they mean, and the one sentence for each that means nothing."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from luigi_spanner import migrate
from luigi_spanner.stores import InvalidStore, Store
from luigi_spanner.stores.location import Location, check_namespace, default_url, open_store, parse, sqlite_url

DATABASE = "projects/example.com:p/instances/i-1/databases/d_1"


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


async def use(url: str) -> None:
    store = await open_store(url, "default")
    await store.load()
    await store.close()
