"""Batched e-mails of failures that are explained by anything at all: before, one of them kept replicas from starting."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest

from luigi_spanner import Scheduler

EXPLANATIONS: list[Any] = [
    None,
    "",
    "it broke",
    '"it broke"',
    "null",
    '{"a": [1]}',
    "[" * 100_000,
    '"r\\udce4sum\\udce9"',
    {"a": 1},
    [1],
    5,
]


def mails(scheduler: Scheduler) -> list[str]:
    """The bodies of the mails that are due."""
    with mock.patch("luigi.batch_notifier.send_email") as sent:
        scheduler.dump()
    return [call.args[1] for call in sent.call_args_list]


@pytest.mark.parametrize("owners", [None, ["me@example.org"]])
@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda value: str(value)[:20])
def test_a_failure_explained_by_anything(explanation: Any, owners: Any, sqlite_url: str, tmp_path: Any) -> None:
    first = Scheduler(store=sqlite_url, batch_emails=True, state_path=str(tmp_path / "state"))
    task = {"worker": "w", "task_id": "A", "family": None, "params": {"day": {"a": 1}, "x\udce4": "\udce4"}}
    first.add_task(**task)
    first.add_task(**task, status="FAILED", expl=explanation, owners=owners)
    first.announce_scheduling_failure("A", None, {"day": 1}, explanation, owners, worker="w")
    first.close()
    second = Scheduler(store=sqlite_url, batch_emails=True, state_path=str(tmp_path / "state"))
    sent = mails(second)
    second.close()
    assert len(sent) == len(owners or ())
    for body in sent:
        body.encode()
        assert "1 failure, 1 scheduling failure" in body or body.count("failure") >= 2
