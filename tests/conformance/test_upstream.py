"""Luigi's own tests pass on our scheduler and server, but for those in exceptions.toml.

All files on the memory store; on SQLite and on the emulator those that exercise the scheduler, the worker and the server.
"""

from __future__ import annotations

import sys
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

SKIPPED = {"worker_test.py::WorkerTest::test_run_csv_batch_job_logging"}
"""What luigi itself skips."""

EXCEPTIONS = tomllib.loads((Path(__file__).parent / "exceptions.toml").read_text())

STORES = {
    # fixture with the URL, files, tests left out, tests that pass on stock luigi 3.8.1
    "memory": ("memory_url", run.FILES, (), 748),
    "sqlite": ("sqlite_url", COMMITTING, tuple(EXCEPTIONS["too_long"]), 0),
    "spanner": ("fresh_spanner_url", COMMITTING, tuple(EXCEPTIONS["too_long"]), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("store", STORES)
def test_what_passes_on_stock_passes_on_ours(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    fixture, files, left_out, passing = STORES[store]
    directory = tmp_path / "conformance"
    directory.mkdir()
    report = run.run(request.getfixturevalue(fixture), files, directory, skip=left_out)
    print(f"{store}: {report.describe()}")
    failed = report.tests("failed") - set(EXCEPTIONS["baseline"])
    assert not failed, "\n".join([*sorted(failed), report.output])
    assert report.ended, report.output
    assert report.tests("skipped") <= SKIPPED
    assert len(report.tests("passed")) >= passing - len(set(EXCEPTIONS["baseline"])), report.output


def test_every_exception_is_a_test_of_a_file_that_runs() -> None:
    for section in ("baseline", "too_long"):
        for test, reason in EXCEPTIONS[section].items():
            assert test.split("::")[0] in run.FILES
            assert reason
