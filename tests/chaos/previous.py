"""The release before this one, out of git's history, to run beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from fleet import with_source

ROOT = Path(__file__).resolve().parents[2]

COMMIT = "b441df08383d1040b01e49d63b80a58175271f7c"
"""The release that replicas are upgraded from; no other place names it. After a release its commit is put here, so that every
change is tried beside what people run. Nothing has been released yet: this is the first commit whose journal is as now."""

HOW_TO_GET_IT = (
    f"needs the previous release, commit {COMMIT[:12]}, from git's history: run it in a clone, not in an unpacked archive, and "
    "fetch the whole history of a shallow one with `git fetch --unshallow`"
)


def source_root(directory: Path) -> Path | None:
    """Unpack the previous release into `directory`; the source root for Python's path. None where history is not there."""
    if subprocess.run(["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True).returncode != 0:
        return None
    directory.mkdir(parents=True)
    archive = ["git", "archive", "--format=tar", COMMIT, "scheduler", "migrations"]
    with subprocess.Popen(archive, cwd=ROOT, stdout=subprocess.PIPE) as packed:
        subprocess.run(["tar", "-x", "-C", str(directory)], stdin=packed.stdout, check=True)
    assert packed.returncode == 0, archive
    return directory / "scheduler"


def imported_from(source: Path | None) -> Path:
    """Where a process that looks into `source` first has `luigi_spanner` from."""
    command = [sys.executable, "-c", "import luigi_spanner; print(luigi_spanner.__file__)"]
    found = subprocess.run(command, env=with_source(os.environ, source), cwd="/", capture_output=True, text=True, check=True)
    return Path(found.stdout.strip()).parents[1]
