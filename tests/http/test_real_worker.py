"""An unmodified worker of Luigi's, with text that is not Unicode: so Python spells the bytes of file names that are not UTF-8."""

from __future__ import annotations

import json
from pathlib import Path

import luigi
import pytest
from luigi.rpc import RemoteScheduler
from luigi.worker import Worker
from serving import Client

UNDECODABLE = "r\udce4sum\udce9.csv"


class Reads(luigi.Task):
    path = luigi.Parameter()
    done = False

    def complete(self) -> bool:
        return self.done

    def run(self) -> None:
        self.set_status_message(f"reads {UNDECODABLE}")
        self.set_tracking_url(f"file:///{UNDECODABLE}")
        self.done = True


class Fails(Reads):
    def run(self) -> None:
        raise FileNotFoundError(UNDECODABLE)


class CannotSay(Reads):
    def complete(self) -> bool:
        raise OSError(UNDECODABLE)


@pytest.fixture
def remote(client: Client) -> RemoteScheduler:
    """Luigi's client; it gives up at the first refusal instead of trying again after 30 s."""
    remote = RemoteScheduler(client.url)
    remote._rpc_retry_attempts = 1
    return remote


def test_it_lives_through_text_that_is_not_unicode(client: Client, remote: RemoteScheduler, tmp_path: Path) -> None:
    where = str(tmp_path)  # Luigi keeps one instance of a task for each value of its parameters
    reads, fails = Reads(path=where), Fails(path=where)
    with Worker(scheduler=remote, worker_id="w") as worker:
        assert not worker.add(CannotSay(path=where))
        assert worker.add(reads) and worker.add(fails)
        assert worker.run() is False  # since one task failed; a refused call would have raised
    remote.close()
    tasks = client.tasks()
    assert tasks[reads.task_id]["status"] == "DONE"
    assert tasks[fails.task_id]["status"] == "FAILED"
    assert client.call("get_task_status_message", task_id=reads.task_id).value["statusMessage"] == f"reads {UNDECODABLE}"
    assert UNDECODABLE in json.loads(client.call("fetch_error", task_id=fails.task_id).value["error"])
