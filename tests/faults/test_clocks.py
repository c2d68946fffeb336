"""The clock of one process is wrong by an hour: no decision depends on it."""

from __future__ import annotations

import time

import pytest

from tests.faults.agreeing import agreed, hits_again
from tests.faults.conftest import FAULTS
from tests.faults.processes import LEASE, PATIENCE

pytestmark = FAULTS

HOUR = 3600
SHIFTS = pytest.mark.parametrize("shift", [-HOUR, HOUR], ids=["behind", "ahead"])


@SHIFTS
def test_clock_is_wrong(shift, database, cache, start_worker):
    """Writes and results of either process are seen by the other as soon as they are made."""
    right, wrong = start_worker(database, cache), start_worker(database, cache, CLOCK=shift)
    assert abs(wrong.call("now") - right.call("now") - shift) < HOUR / 2
    pk = right.call("create", 1)
    for value in range(2, 8):
        writer, reader = (right, wrong) if value % 2 else (wrong, right)
        assert hits_again(reader, pk) == value - 1
        assert reader.call("look", pk)[1] == writer.call("look", pk)[1] == "hit"
        writer.call("write" if value % 3 else "write_atomic", pk, value)
        assert agreed(reader, pk) == [value]
        assert agreed(writer, pk) == [value]


@SHIFTS
@pytest.mark.parametrize("point", ["after MARK", "after COMMIT"])
def test_writer_with_a_wrong_clock_is_killed(point, shift, database, cache, start_worker):
    """Its lease ends when it would have ended by a right clock, and not before."""
    reader, wrong = start_worker(database, cache), start_worker(database, cache, CLOCK=shift)
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    started = time.monotonic()
    wrong.start("write_atomic", pk, 2, stop=point)
    wrong.reached(point)
    wrong.kill()
    value = 2 if point == "after COMMIT" else 1
    assert agreed(reader, pk) == [value]
    assert hits_again(reader, pk) == value
    assert LEASE * 0.9 < time.monotonic() - started < LEASE + PATIENCE / 4


@SHIFTS
def test_reader_with_a_wrong_clock_meets_the_mark_of_a_dead_writer(shift, database, cache, start_worker):
    """A mark that would have ended by its own clock is dark to it as to others."""
    reader, writer = start_worker(database, cache, CLOCK=shift), start_worker(database, cache)
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    started = time.monotonic()
    writer.start("write_atomic", pk, 2, stop="after MARK")
    writer.reached("after MARK")
    writer.kill()
    assert hits_again(reader, pk) == 1
    assert LEASE * 0.9 < time.monotonic() - started < LEASE + PATIENCE / 4
