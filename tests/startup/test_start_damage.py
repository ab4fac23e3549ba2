"""Bytes of a SQLite file changed at random: whatever they were, a start works or is told why, and `verify` says what is wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from starting import make_graph

from luigi_spanner.service import Service
from luigi_spanner.stores import StoreError
from luigi_spanner.verify import verify

pytestmark = pytest.mark.slow

FILES = 60
"""Damaged files, some 50 ms each."""

PAGE = 4096


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "luigi.db"
    make_graph(f"sqlite:///{path}")
    return path


def test_damage_anywhere_is_told(place: Path, rng: random.Random) -> None:
    whole = place.read_bytes()
    used = [start for start in range(0, len(whole), PAGE) if any(whole[start : start + PAGE])]
    outcomes = []
    for _ in range(FILES):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            damaged[rng.choice(used) + rng.randrange(PAGE)] = rng.randrange(256)
        for left in place.parent.iterdir():
            left.unlink()
        place.write_bytes(damaged)
        outcomes += [told(lambda: check(place)), told(lambda: asyncio.run(start(place)))]
    assert any(outcomes) and not all(outcomes)


def told(work: Callable[[], object]) -> bool:
    """Whether something is wrong. Anything but an error of the store's goes through."""
    try:
        work()
    except StoreError as error:
        assert str(error).endswith(".")
        return True
    return False


def check(place: Path) -> None:
    report = verify(f"sqlite:///{place}", "default")
    assert report.lines()


async def start(place: Path) -> None:
    service = await Service.open(f"sqlite:///{place}", "default")
    try:
        await service.start()
    finally:
        await service.stop()
