"""The database is restarted, cut off in a COMMIT, deadlocked, or refuses a row."""

from __future__ import annotations

import pytest

from tests.faults.agreeing import agreed, hits_again
from tests.faults.conftest import FAULTS
from tests.faults.processes import PATIENCE, WorkerError, eventually, postgres_settings
from tests.faults.proxy import Proxy
from tests.servers import Postgres

pytestmark = FAULTS

WRITES = ["write", "write_atomic"]
#: What is sent last by each of them, as far as the line can see it.
LAST = {"write": b"COMMIT", "write_atomic": b"COMMIT"}


@pytest.fixture
def plain(start_worker, postgres):
    """A worker of the same project without cachalot switched on: what it raises is Django's own."""
    return lambda port: start_worker(
        postgres_settings(port),
        {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
        CACHALOT_ENABLED=False,
    )


@pytest.fixture
def pair(postgres, cache, start_worker):
    """A reader and a writer, and a register that is cached."""
    reader, writer = (start_worker(postgres_settings(postgres.port), cache) for _ in range(2))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    return reader, writer, pk


def kinds(worker, action, *arguments):
    """The classes of the exception that an action raises."""
    with pytest.raises(WorkerError) as raised:
        worker.call(action, *arguments)
    return raised.value.kinds


# Restarts.


@pytest.fixture
def own_postgres(start_worker, cache):
    """A PostgreSQL that only this test breaks."""
    with Postgres() as server:
        start_worker(postgres_settings(server.port), cache).call("migrate")
        yield server


def test_database_is_restarted(own_postgres, cache, start_worker, plain):
    """Errors are those of Django, and reads and writes that come after them agree."""
    database = postgres_settings(own_postgres.port)
    reader, writer = (start_worker(database, cache) for _ in range(2))
    django = plain(own_postgres.port)
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    writer.call("write", pk, 2)
    django.call("write", reader.call("create", 1), 1)
    own_postgres.restart()
    expected = kinds(django, "write", pk, 3)
    assert kinds(writer, "write", pk, 3) == expected
    assert kinds(reader, "truth", pk) == expected
    assert agreed(reader, pk) == [2]
    writer.call("write", pk, 4)
    assert agreed(reader, pk) == [4]
    assert hits_again(reader, pk) == 4


@pytest.mark.parametrize("point", ["after MARK", "before COMMIT", "after COMMIT"])
def test_database_is_killed_during_a_commit(point, own_postgres, cache, start_worker):
    """What became of the commit is what is read when the database is back."""
    database = postgres_settings(own_postgres.port)
    reader, writer = (start_worker(database, cache) for _ in range(2))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    writer.start("write_atomic", pk, 2, stop=point)
    writer.reached(point)
    own_postgres.restart()
    writer.go()
    if point == "after COMMIT":
        writer.finish()
    else:
        with pytest.raises(WorkerError, match="OperationalError"):
            writer.finish()
    with pytest.raises(WorkerError, match="OperationalError"):
        reader.call("truth", pk)
    assert agreed(reader, pk) == [2 if point == "after COMMIT" else 1]
    assert hits_again(reader, pk) == (2 if point == "after COMMIT" else 1)


# A commit of which nobody knows what became of it. All go through one line: another port would be another
# database.


@pytest.fixture
def line(postgres):
    """A line to the database."""
    with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("write", WRITES)
def test_connection_is_lost_in_a_commit(write, lost, line, cache, start_worker, plain):
    """The error is that of Django; committed or not, nothing stale is read."""
    reader, writer = (start_worker(postgres_settings(line.port), cache) for _ in range(2))
    django = plain(line.port)
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    raised = []
    for worker, register in ((django, reader.call("create", 1)), (writer, pk)):
        worker.call("write", register, 1)
        hits_again(reader, pk)
        (line.lose_request if lost == "request" else line.lose_answer)(LAST[write])
        raised.append(kinds(worker, write, register, 2))
        assert line.sprung.wait(PATIENCE)
        assert worker.call("truth", register) == (1 if lost == "request" else 2)
    assert raised[0] == raised[1]
    assert agreed(reader, pk) == agreed(writer, pk) == [1 if lost == "request" else 2]
    hits_again(reader, pk)


@pytest.mark.parametrize(
    ("write", "granularity", "value"),
    [("write", "table", 2), ("write", "row", 1), ("write_atomic", "row", 1)],
)
def test_commit_happens_after_its_connection_was_lost(write, granularity, value, line, cache, start_worker):
    """A statement that the database still works at when its client has given up is seen when it commits.

    One whose rows are told apart has a transaction of its own, of which the COMMIT never arrives.
    """
    database = postgres_settings(line.port)
    settings = {"CACHALOT_LEASE": 5.0, "CACHALOT_GRANULARITY": granularity}
    reader, writer, holder = (start_worker(database, cache, **settings) for _ in range(3))
    pk = reader.call("create", 1)
    hits_again(reader, pk)
    holder.start("hold", pk, stop="before COMMIT")
    holder.reached("before COMMIT")
    writer.start(write, pk, 2)
    eventually(lambda: reader.call("waiting"), "the writer waits for the row")
    line.cut_those_with(b'UPDATE "')
    with pytest.raises(WorkerError, match="OperationalError"):
        writer.finish()
    assert agreed(reader, pk) == [1]
    holder.go()
    holder.finish()
    eventually(lambda: reader.call("busy") == 0, "the database is done")
    assert agreed(reader, pk) == agreed(writer, pk) == [value]
    assert hits_again(reader, pk) == value


# Statements that fail.


def test_deadlock(pair, start_worker, postgres, cache):
    """One of two gets the error of Django; what is read is what the other has written."""
    reader, one, first = pair
    two = start_worker(postgres_settings(postgres.port), cache)
    second = reader.call("create", 1)
    hits_again(reader, second)
    for worker, rows, value in ((one, (first, second), 5), (two, (second, first), 6)):
        worker.start("write_both", *rows, value, stop="before QUERY")
        worker.reached("before QUERY")
    one.go()
    eventually(lambda: reader.call("waiting"), "the first waits for the second")
    two.go()
    results = []
    for worker in (one, two):
        try:
            worker.finish()
            results.append("done")
        except WorkerError as error:
            results.append(error.kinds[0])
    assert sorted(results) == ["OperationalError", "done"]
    value = 5 if results[0] == "done" else 6
    assert agreed(reader, first, second) == [value, value]
    assert hits_again(reader, first) == value
    assert agreed(one, first, second) == agreed(two, first, second)


@pytest.mark.parametrize("action", ["name", "name_atomic"])
def test_integrity_error(action, pair, plain, postgres):
    """The error is that of Django, nothing has changed, and nothing is dark."""
    reader, writer, pk = pair
    taken = f"taken for {action}"
    writer.call("name", reader.call("create", 1), taken)
    hits_again(reader, pk)
    assert kinds(writer, action, pk, taken) == kinds(plain(postgres.port), action, pk, taken)
    assert agreed(reader, pk) == [1]
    assert reader.call("look", pk) == (1, "hit")


def test_integrity_error_in_a_savepoint(pair):
    """What was rolled back is not seen, and what was written around it is."""
    reader, writer, pk = pair
    writer.call("name", reader.call("create", 1), "taken")
    assert writer.call("name_in_savepoint", pk, "taken", 9) == "IntegrityError"
    assert agreed(reader, pk) == [9]
    assert reader.call("look", pk) == (9, "hit")


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_connection_is_lost_in_a_read(lost, line, cache, start_worker):
    """A read that fails stores nothing; the next one agrees."""
    victim, reader, writer = (start_worker(postgres_settings(line.port), cache) for _ in range(3))
    pk = reader.call("create", 1)
    writer.call("write", pk, 2)
    victim.call("truth", pk)
    (line.lose_request if lost == "request" else line.lose_answer)(b"SELECT")
    assert "OperationalError" in kinds(victim, "read", pk)
    for worker in (victim, reader):
        assert agreed(worker, pk) == [2]
        assert hits_again(worker, pk) == 2
