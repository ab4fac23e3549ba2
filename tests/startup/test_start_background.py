"""In the background a start that fails says so in the log: whoever started it is told nothing, as by stock luigid."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from serving import PATIENCE
from starting import SERVE, ended

pytestmark = pytest.mark.slow

FAULTS: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_text("text\n" * 1000),
    "a directory": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("what", FAULTS)
def test_the_log_has_the_sentence_and_the_process_is_gone(what: str, tmp_path: Path) -> None:
    FAULTS[what](tmp_path / "luigi.db")
    (foreground,) = ended((SERVE,), "sqlite:///luigi.db", tmp_path)
    background = (*SERVE, "--background", "--pidfile", "luigid.pid", "--logdir", "logs")
    (started,) = ended((background,), "sqlite:///luigi.db", tmp_path)
    assert (started.code, started.lines) == (0, [])
    log = tmp_path / "logs" / "luigi-server.log"
    try:
        assert f"ERROR: {foreground.sentence}" in awaited(log, "ERROR")
        assert awaited_end(int((tmp_path / "luigid.pid").read_text()))
    finally:
        with suppress(OSError, ValueError):
            os.kill(int((tmp_path / "luigid.pid").read_text()), signal.SIGKILL)
    assert log.read_text().count("ERROR") == 1
    assert "Traceback" not in "".join(path.read_text() for path in log.parent.iterdir())


def test_what_the_command_line_gets_wrong_is_told_at_once(tmp_path: Path) -> None:
    (found,) = ended(((*SERVE, "--background", "--logdir", "logs"),), "sqlite://", tmp_path)
    assert found.sentence.startswith("A SQLite store needs a file")
    assert list(tmp_path.iterdir()) == []


def awaited(log: Path, text: str) -> str:
    """The log, once it holds the text."""
    return until(lambda: log.read_text() if log.exists() and text in log.read_text() else "", f"no {text} in {log}")


def awaited_end(pid: int) -> str:
    """Once no such process runs."""
    return until(lambda: "" if runs(pid) else "ended", f"process {pid} runs on")


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # Where nobody takes in orphans, as in a container, it stays as a zombie.
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def until(look: Callable[[], str], otherwise: str) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(otherwise)
