"""A writer is killed, wherever it is: what it has committed is seen, and what it has not is not."""

from __future__ import annotations

import time

import pytest

from tests.faults.agreeing import agreed, hits_again
from tests.faults.conftest import FAULTS
from tests.faults.processes import LEASE, PATIENCE, eventually, postgres_settings

pytestmark = FAULTS

POINTS = {
    "before MARK": 1,
    "after MARK": 1,
    "before COMMIT": 1,
    "after COMMIT": 2,
    "before DONE": 2,
    "after DONE": 2,
}
WRITES = ["write", "write_atomic"]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("point", POINTS)
def test_writer_is_killed(point, write, database, cache, start_worker):
    """At no point does its death leave anything stale; the table is dark until the lease ends at most."""
    reader, writer = (start_worker(database, cache) for _ in range(2))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    writer.start(write, pk, 2, stop=point)
    writer.reached(point)
    assert agreed(reader, pk) == [POINTS[point]]
    writer.kill()
    killed = time.monotonic()
    assert agreed(reader, pk) == [POINTS[point]]
    assert hits_again(reader, pk) == POINTS[point]
    assert time.monotonic() - killed < LEASE + PATIENCE / 4


@pytest.mark.parametrize("point", ["after MARK", "before COMMIT", "after COMMIT"])
@pytest.mark.parametrize("write", WRITES)
def test_another_writes_after_a_writer_was_killed(point, write, database, cache, start_worker):
    """What a dead writer has left behind hides nothing that comes after it."""
    reader, writer, other = (start_worker(database, cache) for _ in range(3))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    writer.start(write, pk, 2, stop=point)
    writer.reached(point)
    writer.kill()
    for value in (3, 4):
        other.call(write, pk, value)
        assert agreed(reader, pk) == [value]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("point", ["after MARK", "after COMMIT"])
def test_two_overlapping_writers_and_one_is_killed(point, write, postgres, cache, start_worker):
    """The mark of the dead one stays when the other has ended, and the other way round."""
    database = postgres_settings(postgres.port)
    reader, one, two = (start_worker(database, cache) for _ in range(3))
    first, second = reader.call("create", 1), reader.call("create", 1)
    hits_again(reader, first)
    one.start(write, first, 2, stop=point)
    one.reached(point)
    two.start(write, second, 3)
    two.finish()
    agreed(reader, first, second)
    two.start(write, second, 4, stop="after MARK")
    two.reached("after MARK")
    one.kill()
    agreed(reader, first, second)
    two.go()
    two.finish()
    assert agreed(reader, first, second) == [POINTS[point], 4]
    assert hits_again(reader, first) == POINTS[point]
    assert hits_again(reader, second) == 4


def test_killed_while_the_database_still_works_at_its_statement(postgres, cache, start_worker):
    """A commit that happens after the death of its writer is seen by everybody."""
    database = postgres_settings(postgres.port)
    settings = {"CACHALOT_LEASE": 5.0, "CACHALOT_GRANULARITY": "table"}  # its statement commits by itself
    reader, writer, holder = (start_worker(database, cache, **settings) for _ in range(3))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    holder.start("hold", pk, stop="before COMMIT")
    holder.reached("before COMMIT")
    writer.start("write", pk, 2)
    eventually(lambda: reader.call("waiting"), "the writer waits for the row")
    writer.kill()
    assert agreed(reader, pk) == [1]
    holder.go()
    holder.finish()
    eventually(lambda: reader.call("truth", pk) == 2, "the database has committed")
    assert agreed(reader, pk) == [2]
    assert hits_again(reader, pk) == 2


@pytest.mark.parametrize("point", ["before QUERY", "after QUERY", "before FILL", "after FILL"])
def test_reader_is_killed(point, database, cache, start_worker):
    """A reader that dies leaves nothing behind that another reader could be harmed by."""
    victim, reader, writer = (start_worker(database, cache) for _ in range(3))
    pk = reader.call("create", 1)
    victim.start("read", pk, stop=point)
    victim.reached(point)
    victim.kill()
    assert agreed(reader, pk) == [1]
    writer.call("write", pk, 2)
    assert agreed(reader, pk) == [2]
    assert hits_again(reader, pk) == 2
