"""Luigi's own tests pass on our scheduler and server, but for those in exceptions.toml.

All files on the memory store; on SQLite and on the emulator those that exercise the scheduler, the worker and the server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

COMMITTING = (
    "rpc_test.py",
    "scheduler_api_test.py",
    "scheduler_message_test.py",
    "scheduler_parameter_visibilities_test.py",
    "scheduler_test.py",
    "scheduler_visualisation_test.py",
    "server_test.py",
    "worker_scheduler_com_test.py",
    "worker_test.py",
)
"""The files that also run on stores that write to a disk or a network."""

SKIPPED = {"worker_test.py::MultipleWorkersTest::test_multiple_workers"}
"""What luigi itself skips."""

EXCEPTIONS = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text())

FULL = os.environ.get("LUIGI_SPANNER_CONFORMANCE") == "full"
"""Whether to run the tests that are too long on the memory store, too."""

TOO_LONG = tuple(EXCEPTIONS["too_long"])


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What runs on a store. `url` names the fixture with its URL; `passing` is the number of tests that pass there on
    luigi 3.8.1, with which a run that collects too little is told from a good one."""

    url: str
    files: Sequence[str]
    left_out: Sequence[str]
    passing: int


STORES = {
    "memory": Choice(url="memory_url", files=run.FILES, left_out=() if FULL else TOO_LONG, passing=746),
    "sqlite": Choice(url="sqlite_url", files=COMMITTING, left_out=TOO_LONG, passing=630),
    "spanner": Choice(url="fresh_spanner_url", files=COMMITTING, left_out=TOO_LONG, passing=630),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "store", [pytest.param(name, marks=pytest.mark.emulator if name == "spanner" else ()) for name in STORES]
)
def test_what_passes_on_stock_passes_on_ours(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    choice = STORES[store]
    report = run.run(request.getfixturevalue(choice.url), choice.files, tmp_path, skip=choice.left_out)
    print(f"{store}: {report.describe()}")
    failed = report.tests("failed") - set(EXCEPTIONS["baseline"])
    assert not failed, "\n".join([*sorted(failed), report.output])
    assert report.ended, report.output
    assert report.tests("skipped") <= SKIPPED, report.output
    assert len(report.tests("passed")) >= choice.passing, report.output


def test_every_exception_is_a_test_of_a_file_that_runs() -> None:
    for section in ("baseline", "too_long"):
        for test, reason in EXCEPTIONS[section].items():
            assert test.split("::")[0] in run.FILES
            assert reason
