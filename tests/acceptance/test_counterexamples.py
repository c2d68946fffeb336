"""Every counterexample of the model, forced on real servers: wrong protocols fall for it and ours does not.

The rows are those of the table "Anomalies", as in ``tests/model/test_verdicts.py``. Where a wrong protocol
can be made of ours by changing one part, the same order of steps is forced on it as well: a test in which it
is not stale would force nothing.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from unittest import mock

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.test import override_settings

from cachalot.core import protocol
from cachalot.core.decisions import Reason
from cachalot.core.keys import draw
from cachalot.engine import caches as engine_caches
from cachalot.engine.guard import Guard
from cachalot.stores import redis_cache
from cachalot.stores.django_cache import DjangoCacheStore
from cachalot.testing import reset
from tests.acceptance.racing import (
    PATIENCE,
    agreed_everywhere,
    end_pause,
    evict,
    is_hit,
    keys_of,
    reasons,
    stepping,
    truth,
)
from tests.conftest import evaluated
from tests.servers import Redis
from tests.testapp.models import Author, Book, Tag

pytestmark = [
    pytest.mark.granularity("table"),
    pytest.mark.usefixtures("each_thread_a_process"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.databases("postgresql"),
    pytest.mark.caches("redis"),
]

READ = {"LOOK", "CREATE", "SELECT", "FILL"}
WRITE = {"MARK", "COMMIT", "DONE"}
LOCK = 20260701
either = pytest.mark.parametrize("wrong", [False, True], ids=["ours", "wrong"])


@pytest.fixture(autouse=True)
def author():
    """The row that is written."""
    return Author.objects.create(name="before", age=0)


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def ages():
    """What the writers that overlap change."""
    return list(Author.objects.values_list("age", flat=True))


def update():
    """The write of most tests; it commits by itself."""
    Author.objects.update(name="after")


def grow():
    """A write that can be done several times."""
    Author.objects.update(age=F("age") + 1)


def stale(read):
    """Whether a cached read says something else than the database."""
    return evaluated(read()) != truth(read)


def end_leases(read):
    """Let the leases of dead writers on the tags of a read end."""
    evict(*keys_of(read)[1:])


# Wrong protocols, each ours with one part changed.


@contextmanager
def changed(wrong, change):
    """Change a part, if the protocol is to be wrong."""
    if not wrong:
        yield
        return
    with change():
        reset()
        yield
    reset()


@contextmanager
def bump_before():
    """Invalidate, then commit."""

    def commit(guard, keys, execute, *_more):
        guard.run(protocol.bump(keys, draw))
        execute()

    with mock.patch.object(Guard, "commit", commit):
        yield


@contextmanager
def bump_after():
    """Commit, then invalidate."""

    def commit(guard, keys, execute, *_more):
        execute()
        guard.run(protocol.bump(keys, draw))

    with mock.patch.object(Guard, "commit", commit):
        yield


def one_mark_for_all():
    """Let the mark of a writer take the place of that of another."""
    return mock.patch.object(engine_caches, "make_store", DjangoCacheStore)


def snapshots_without_clock():
    """Read in a snapshot as outside of it."""

    def read(keys, _clock, open_entry, draw, names):
        return protocol.read(keys, open_entry, draw, names)

    return mock.patch.object(protocol, "read_in_snapshot", read)


def servers_without_names():
    """Take every server for the same."""
    return mock.patch.object(redis_cache, "_name", return_value="")


# One writer.


@either
def test_query_between_invalidation_and_commit(wrong):
    """Rows "cachalot autocommit", "bumped before commit only": what is queried there must not stay."""
    with changed(wrong, bump_before), stepping() as start:
        writer = start(update, WRITE)
        assert writer.to("COMMIT")
        reader = start(names, READ)
        assert reader.to("FILL") is wrong
        writer.finish()
        reader.finish()
        assert stale(names) is wrong


def test_rows_that_are_older_than_the_invalidation_under_which_they_are_stored():
    """Row "cachalot atomic": rows queried before a commit are stored after its end, and are dead."""
    with stepping() as start:
        reader = start(names, READ)
        assert reader.to("FILL")
        update()
        assert reader.finish() == ["before"]
    assert not is_hit(names)
    assert not stale(names)
    assert is_hit(names)


@either
def test_read_between_commit_and_invalidation(wrong):
    """Row "bumped after commit only": between COMMIT and its report nothing older than it is served."""
    with changed(wrong, bump_after), stepping() as start:
        names()
        writer = start(update, WRITE)
        assert writer.to("DONE")
        assert stale(names) is wrong
        writer.finish()
        assert not stale(names)


@either
def test_crash_between_commit_and_invalidation(wrong, other_connection):
    """Rows "bumped after commit only" with a crash, "intent set + crash": nothing stale is left behind."""
    with changed(wrong, bump_after), stepping() as start:
        names()
        writer = start(update, WRITE)
        assert writer.to("DONE")
        writer.die()
        assert stale(names) is wrong
        if wrong:
            return
    assert reasons(names) == [Reason.DARK]
    end_leases(names)
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


@pytest.mark.parametrize("step", ["MARK", "COMMIT", "DONE"])
def test_crash_before_any_step(step, other_connection):
    """Row "intent set + crash at any step"."""
    names()
    with stepping() as start:
        writer = start(update, WRITE)
        assert writer.to(step)
        writer.die()
    assert not stale(names)
    end_leases(names)
    assert agreed_everywhere(names, other_connection) == (["after"] if step == "DONE" else ["before"])


def test_evicted_mark(other_connection):
    """Row "mark evicted": what is stored in the window is gone with DONE."""
    with stepping() as start:
        writer = start(update, WRITE)
        assert writer.to("COMMIT")
        end_leases(names)
        reader = start(names, READ)
        assert reader.to("FILL")
        assert writer.to("DONE")
        assert reader.finish() == ["before"]
        assert is_hit(names)
        writer.finish()
    assert agreed_everywhere(names, other_connection) == ["after"]


# Overlapping writers.


def second_in_flight(start, wrong):
    """Let a writer end while another has committed, and a reader come meanwhile; return the latter two."""
    first = start(grow, WRITE)
    assert first.to("DONE")
    second = start(grow, WRITE)
    assert second.to("COMMIT")
    first.finish()
    reader = start(ages, READ)
    assert reader.to("FILL") is wrong
    assert second.to("DONE")
    return second, reader


@either
def test_two_overlapping_writers(wrong, other_connection):
    """Rows "overwrite-mark, 2 overlapping writers", "intent set, 2 writers": both keep the tag dark."""
    with changed(wrong, one_mark_for_all):
        with stepping() as start:
            second, reader = second_in_flight(start, wrong)
            assert reader.finish() == [1]
            assert stale(ages) is wrong
            second.finish()
        assert agreed_everywhere(ages, other_connection) == [2]


@either
def test_second_of_two_overlapping_writers_dies(wrong, other_connection):
    """The same rows with a crash: the intent of the dead writer stays for its lease."""
    with changed(wrong, one_mark_for_all):
        with stepping() as start:
            second, reader = second_in_flight(start, wrong)
            second.die()
            reader.finish()
        assert stale(ages) is wrong
        if wrong:
            return
        end_leases(ages)
        assert agreed_everywhere(ages, other_connection) == [2]


def test_three_overlapping_writers(other_connection):
    """Row "intent set, 3 writers": the tag is dark until the last of them has ended."""
    ages()
    with stepping() as start:
        writers = [start(grow, WRITE) for _ in range(3)]
        for writer in writers:
            assert writer.to("COMMIT")
        for number, writer in enumerate(writers):
            assert writer.to("DONE")
            assert not stale(ages)
            writer.finish()
            assert not stale(ages)
            assert reasons(ages) == [Reason.DARK if number < 2 else None]
    assert agreed_everywhere(ages, other_connection) == [3]


def test_overlapping_writers_of_two_tables(author, other_connection):
    """Row "two tags": a read of two tables is dark while either of them is being written."""

    def titles():
        return list(Book.objects.values_list("author__name", "title"))

    def write_a_book():
        Book.objects.update(title="new")

    def write_both():
        with transaction.atomic():
            Author.objects.update(name="both")
            Book.objects.update(title="newest")

    Book.objects.create(title="old", author=author)
    titles()
    with stepping() as start:
        book = start(write_a_book, WRITE)
        assert book.to("DONE")
        both = start(write_both, WRITE)
        assert both.to("COMMIT")
        book.finish()
        reader = start(titles, READ)
        assert reader.to("FILL") is False
        assert both.to("DONE")
        assert not stale(titles)
        both.finish()
    assert agreed_everywhere(titles, other_connection) == [("both", "newest")]


# Late commits.


@pytest.fixture
def slow_commit():
    """A COMMIT that writes authors takes until the lock is given back."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN PERFORM pg_advisory_xact_lock({LOCK}); RETURN NULL; END $$"
        )
        cursor.execute(
            "CREATE CONSTRAINT TRIGGER held_up AFTER UPDATE ON testapp_author"
            " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION held_up()"
        )
        cursor.execute(f"SELECT pg_advisory_lock({LOCK})")
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock_all()")
        cursor.execute("DROP FUNCTION held_up CASCADE")


def until(condition):
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.01)


def is_held_up():
    """Whether a COMMIT waits for the lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return cursor.fetchone() == (1,)


def hang_up(fileno):
    """Cut the line of a connection to the database while it waits for an answer."""
    with socket.socket(fileno=os.dup(fileno)) as line:
        line.shutdown(socket.SHUT_RDWR)


def test_commit_that_is_carried_out_after_its_client_has_gone(slow_commit, other_connection):
    """Row "crash with the COMMIT still in flight": its mark stays, and so nothing is stored meanwhile."""
    names()
    line = []

    def write():
        with suppress(DatabaseError), transaction.atomic():
            line.append(connection.connection.fileno())
            update()
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    until(is_held_up)
    hang_up(line[0])
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert truth(names) == ["before"]
    assert not stale(names)
    assert reasons(names) == [Reason.DARK]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_unlock({LOCK})")
    until(lambda: truth(names) == ["after"])
    assert not stale(names)
    end_leases(names)
    assert agreed_everywhere(names, other_connection) == ["after"]


# Snapshots.


@either
def test_snapshot_that_is_older_than_a_commit(wrong, other_connection):
    """Row "SI reader": what a snapshot from before a commit returns is not stored under later tokens."""

    def in_snapshot():
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            list(Tag.objects.all())
            return names()

    with changed(wrong, snapshots_without_clock):
        with stepping() as start:
            reader = start(in_snapshot, READ)
            assert reader.to("SELECT")
            reader.step()
            assert not reader.ended
            update()
            assert reader.finish() == ["before"]
        assert stale(names) is wrong
        if wrong:
            return
    assert agreed_everywhere(names, other_connection) == ["after"]


# A server that comes back with old data.


@pytest.fixture
def server(start_server):
    """A Redis of this test alone, in use as the cache, which can be told to save itself."""
    server = start_server(Redis, rdb=True)
    entry = {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": f"redis://{server.address}",
    }
    with override_settings(CACHES={**settings.CACHES, "old": entry}, CACHALOT_CACHE="old"):
        yield server
    reset()


def save(server):
    """Keep a copy of everything."""
    import redis

    host, port = server.address.split(":")
    with redis.Redis(host, int(port)) as client:
        client.save()


def come_back_old(server):
    """Kill the server, and let it come back with the copy."""
    server.kill()
    server.restart()
    names()
    end_pause()


@pytest.mark.servers("redis")
@either
def test_server_that_comes_back_with_old_data(wrong, server, other_connection):
    """Rows "cache failover": tokens that come back do not bring back what was stored under them."""
    with changed(wrong, servers_without_names):
        names()
        assert is_hit(names)
        save(server)
        update()
        assert not stale(names)
        come_back_old(server)
        assert stale(names) is wrong
        if wrong:
            return
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.servers("redis")
def test_server_that_comes_back_without_the_mark_of_a_commit_in_flight(server, other_connection):
    """Row "cache failover": the window of a commit whose mark was lost ends with its DONE."""
    names()
    save(server)
    with stepping() as start:
        writer = start(update, WRITE)
        assert writer.to("COMMIT")
        come_back_old(server)
        reader = start(names, READ)
        reader.to("FILL")
        assert writer.to("DONE")
        reader.finish()
        writer.finish()
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["after"]


# Savepoints.


def test_savepoint_that_is_rolled_back(other_connection):
    """Row "savepoints": what it took back is seen by nobody, what was written before it by everybody."""
    names()

    def write():
        with transaction.atomic():
            update()
            with suppress(ZeroDivisionError), transaction.atomic():
                Author.objects.update(name="never")
                assert not stale(names)
                raise ZeroDivisionError
            assert not stale(names)

    with stepping() as start:
        writer = start(write, WRITE)
        assert writer.to("COMMIT")
        assert not stale(names)
        assert writer.to("DONE")
        assert not stale(names)
        writer.finish()
    assert agreed_everywhere(names, other_connection) == ["after"]
