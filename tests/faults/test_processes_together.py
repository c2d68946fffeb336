"""What one process does that others must heed: it switches the cache off, or is running a query."""

from __future__ import annotations

import pytest

from tests.faults.agreeing import agreed, hits_again
from tests.faults.conftest import FAULTS
from tests.faults.processes import eventually

pytestmark = FAULTS

#: Seconds within which every process heeds the switch, and a busy machine's own delay.
HEEDED = 1.0 + 4.0


def test_switch_is_heeded_by_another_process(database, cache, start_worker):
    """Switched off in one process the cache is off in another, and on again; no write is missed meanwhile."""
    one, other = start_worker(database, cache), start_worker(database, cache)
    pk = one.call("create", 1)
    hits_again(other, pk)
    one.call("switch", False)
    eventually(lambda: "switched off" in other.call("look", pk)[1], "off", HEEDED)
    one.call("write", pk, 2)
    one.call("switch", True)
    assert hits_again(other, pk) == 2
    assert agreed(other, pk) == [2]


@pytest.fixture
def running(database, cache, start_worker):
    """Two processes and a row; the first is running a query over it that took long the last time."""
    first, second = (start_worker(database, cache, CACHALOT_FILL_LEASE=30.0) for _ in range(2))
    pk = first.call("create", 1)
    first.call("slowly", pk)
    first.call("write", pk, 2)
    first.start("read", pk, stop="before QUERY")
    first.reached("before QUERY")
    return first, second, pk


def test_result_of_another_process_that_is_running_the_query(running):
    """Who misses while another process runs the query takes its result, if that is known to take long."""
    first, second, pk = running
    second.start("look", pk)
    first.go()
    assert first.finish() == 2
    assert second.finish() == (2, "hit")


def test_process_dies_while_it_runs_the_query(running):
    """Nobody waits for it longer than the query took the last time."""
    first, second, pk = running
    first.kill()
    value, how = second.call("look", pk)
    assert value == 2
    assert how.startswith("miss")
