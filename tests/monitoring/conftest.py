"""Monitoring starts the end-to-end tests' processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator import Emulator, Template, create_database

ENDTOEND = str(Path(__file__).parents[1] / "endtoend")

if ENDTOEND not in sys.path:
    sys.path.append(ENDTOEND)


@pytest.fixture(scope="module")
def watched_spanner_url(emulator: Emulator, spanner_template: Template) -> Iterator[str]:
    """As `spanner_url`, for a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPANNER_EMULATOR_HOST", emulator.host)
        yield f"spanner:///{create_database(emulator.host, spanner_template)}"
