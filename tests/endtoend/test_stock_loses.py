"""The proof that the end-to-end test can fail: stock luigid keeps its graph in memory, and `kill -9` loses it."""

from __future__ import annotations

import pytest
import scenario
from checker import LOST

pytestmark = pytest.mark.slow


def test_stock_passes_as_long_as_nothing_happens(tmp_path) -> None:
    """So what fails below is due to the kill and not to the pipeline, the workers or the checker."""
    environment = scenario.prepare(tmp_path)
    result = scenario.run(tmp_path, environment, [scenario.stock(tmp_path, environment)])
    assert result.faults == [], result.describe()
    assert result.exit_codes == [0, 0, 0, 0], result.describe()


def test_stock_loses_work_when_it_is_killed(tmp_path) -> None:
    environment = scenario.prepare(tmp_path)
    result = scenario.run(tmp_path, environment, [scenario.stock(tmp_path, environment)], kills=[90])
    assert result.kills == 1, result.describe()
    assert LOST in {fault.kind for fault in result.faults}, result.describe()
    assert 0 not in result.exit_codes, result.describe()
