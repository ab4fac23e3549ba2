"""The image, made once, and what other rooms have: processes, a client of a server, programs of monitoring and chaos."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playing import Image

for room in ("endtoend", "http", "monitoring", "chaos"):
    place = str(Path(__file__).parents[1] / room)
    if place not in sys.path:
        sys.path.append(place)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The last stage, made by playing the Dockerfile. Its files are removed in the end: they are hundreds of MB."""
    from playing import BUILD, Player

    player = Player(tmp_path_factory.mktemp("image"), BUILD)
    try:
        yield player.play()
    finally:
        player.remove()
