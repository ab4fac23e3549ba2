"""Every query of the documents runs, on SQLite as on Spanner; those in blocks find something in a graph with a history."""

from __future__ import annotations

import asyncio
import functools
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from luigi import scheduler as luigi_scheduler

from luigi_spanner.calls import Call
from luigi_spanner.service import Service

OPERATIONS = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()

BLOCKS = re.findall(r"^```sql\n(.*?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
QUERIES = [statement.strip() for block in BLOCKS for statement in block.split(";") if statement.strip()]

INLINE = re.findall(r"`(SELECT [^`]+)`", OPERATIONS)


@pytest.fixture(params=["sqlite", pytest.param("spanner", marks=pytest.mark.emulator)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "spanner":
        given: str = request.getfixturevalue("spanner_url")
        return given
    return f"sqlite:///{tmp_path}/luigi.db"


async def _fill(url: str) -> None:
    """One task runs, one is done, one has failed."""
    service = await Service.open(url, "default")
    await service.start()
    try:
        number = 0
        for task, statuses in (("one", []), ("two", ["DONE"]), ("three", ["FAILED"])):
            calls = [
                ("add_task", {"task_id": task, "family": "Sales", "params": {"day": "2026-01-01"}}),
                ("get_work", {"host": "machine"}),
                *(("add_task", {"task_id": task, "family": "Sales", "status": status, "expl": "why"}) for status in statuses),
            ]
            for method, arguments in calls:
                number += 1
                await service.call(Call(request_id=f"r{number}", method=method, arguments={"worker": "w", **arguments}))
        while service._graph._state.history or service._graph.ledger.pending:
            await asyncio.sleep(0.005)  # the tables follow in a calm moment
    finally:
        await service.stop()


def test_every_query_finds_something(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"record_task_history": True, "retry_delay": 3600.0}
    monkeypatch.setattr(luigi_scheduler, "scheduler", functools.partial(luigi_scheduler.scheduler, **rules))
    asyncio.run(asyncio.wait_for(_fill(url), 60))
    assert len(QUERIES) >= 5
    assert INLINE
    engine = sa.create_engine(f"spanner+{url}" if url.startswith("spanner") else url)
    with engine.connect() as connection:
        found = {query: connection.exec_driver_sql(query).all() for query in [*QUERIES, *INLINE]}
    engine.dispose()
    assert [query for query in QUERIES if not found[query]] == []
