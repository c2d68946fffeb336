"""The register workload for some seconds: every answer is explained by one order of the operations."""

from __future__ import annotations

import pytest

from tests.faults.conftest import FAULTS
from tests.faults.workload import run

pytestmark = [*FAULTS, pytest.mark.timeout(300)]

SECONDS = 8.0


def test_workload_under_faults():
    """Each key is linearizable, but for documented windows; nothing is lost and nothing comes back."""
    result = run(SECONDS, seed=5)
    assert result.good, result.text()
    assert result.outcomes["hits"] > 100, result.text()
    assert result.outcomes["writes done"] > 50, result.text()
    assert result.faults, result.text()


def test_strict_workload_under_faults():
    """Where a write that the cache cannot be told of is refused, and no mark is lost, nothing is excused."""
    result = run(SECONDS, seed=6, strict=True)
    assert result.good, result.text()
    assert result.outcomes["hits"] > 100, result.text()
    assert result.outcomes["writes done"] > 50, result.text()
    assert result.raised["CacheUnavailableError"], result.text()
