"""Unmodified workers run the pipeline through our luigid: no replica's death loses, doubles or overlaps a task.

By default each store runs with one replica and with two, each killed at three moments (`KILLS`): while workers still add
tasks, in the thick of it, and near the end; and once undisturbed. `LUIGI_SPANNER_ENDTOEND=full` runs every moment on its
own as well, on every store and number of replicas.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import scenario

KILLS = (15, 90, 170)
"""Successful bodies after which a replica is killed, out of some 225."""

MOMENTS = ((), KILLS, *((moment,) for moment in (1, 15, 50, 90, 130, 170, 210)))
"""Every choice of moments, for the full matrix."""

SHORT = [("sqlite", 1, KILLS), ("sqlite", 2, KILLS), ("spanner", 1, KILLS), ("spanner", 2, KILLS), ("spanner", 2, ())]
FULL = list(itertools.product(["sqlite", "spanner"], [1, 2], MOMENTS))


def choices() -> list[object]:
    chosen = FULL if os.environ.get("LUIGI_SPANNER_ENDTOEND") == "full" else SHORT
    return [
        pytest.param(
            store,
            replicas,
            kills,
            id=f"{store}-{replicas}-{'kill' + '+'.join(map(str, kills)) if kills else 'calm'}",
            marks=[pytest.mark.slow, *([pytest.mark.emulator] if store == "spanner" else [])],
        )
        for store, replicas, kills in chosen
    ]


@pytest.mark.parametrize(("store", "replicas", "kills"), choices())
def test_every_body_succeeds_exactly_once(store: str, replicas: int, kills: tuple[int, ...], tmp_path, request) -> None:
    url = request.getfixturevalue("spanner_url") if store == "spanner" else f"sqlite:///{tmp_path / 'store.db'}"
    directory = tmp_path / "run"
    environment = scenario.prepare(directory)
    servers = [scenario.ours(directory, environment, number, url, "endtoend") for number in range(replicas)]
    result = scenario.run(directory, environment, servers, kills)
    print(f"{store}, {replicas} replicas, {result.kills} kills: {result.seconds:.1f} s")
    assert result.kills == len(kills), result.describe()
    assert result.faults == [], result.describe()
    assert result.exit_codes == [0] * len(scenario.PROCESSES), result.describe()
    verify(url, environment, directory)


def verify(url: str, environment: dict[str, str], directory: Path) -> None:
    """The journal's digests, and the tables against a replay, agree."""
    command = [sys.executable, "-m", "luigi_spanner", "verify", "--store", url, "--namespace", "endtoend"]
    done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
