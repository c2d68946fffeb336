"""Every counterexample of the model, forced on real servers: wrong protocols fall for it and ours does not.

The rows are those of the table "Anomalies", as in ``tests/model/test_verdicts.py``. Where a wrong protocol
can be made of ours by changing one part, the same order of steps is forced on it as well: a test in which it
is not stale would force nothing.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import ChainMap
from contextlib import contextmanager, suppress
from dataclasses import replace
from unittest import mock

import pytest
from django.conf import settings
from django.core.cache import caches
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.test import override_settings

from cachalot.conf import current
from cachalot.core import protocol
from cachalot.core.decisions import Reason
from cachalot.core.keys import draw
from cachalot.core.steps import Done, GetMany, Mark
from cachalot.engine import caches as engine_caches
from cachalot.engine.cache import QueryCache
from cachalot.engine.guard import Guard
from cachalot.stores import redis_cache
from cachalot.stores.django_cache import DjangoCacheStore
from cachalot.testing import reset
from tests.acceptance.racing import (
    PATIENCE,
    agreed_everywhere,
    end_pause,
    evict,
    interleavings,
    is_hit,
    keys_of,
    reasons,
    stepping,
    truth,
    until,
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
        caches[current().cache].clear()
        yield
    reset()
    caches[current().cache].clear()


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


@contextmanager
def stamped_after_the_query():
    """Store rows under the state in which the tags are then, as caches do that note the time of storing."""
    keep = QueryCache.keep

    def keep_late(cache, session, ticket, *more):
        late = cache._ask(session, ticket.query, current(), entry=False)
        return keep(cache, session, replace(ticket, stamp=late.stamp), *more)

    with mock.patch.object(QueryCache, "keep", keep_late):
        yield


@contextmanager
def times_of_autocommit():
    """Note the time before a statement that commits by itself, and that of storing after the query."""
    with bump_before(), stamped_after_the_query():
        yield


@contextmanager
def times_of_transactions():
    """Note the time after the commit, and that of storing after the query."""
    with bump_after(), stamped_after_the_query():
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


@pytest.mark.parametrize("wrong", [None, bump_before, times_of_autocommit])
def test_query_between_invalidation_and_commit(wrong):
    """Rows "cachalot autocommit", "bumped before commit only": what is queried there must not stay."""
    with changed(bool(wrong), wrong), stepping() as start:
        writer = start(update, WRITE)
        assert writer.to("COMMIT")
        reader = start(names, READ)
        assert reader.to("FILL") is bool(wrong)
        writer.finish()
        reader.finish()
        assert stale(names) is bool(wrong)


@either
def test_rows_that_are_older_than_the_invalidation_under_which_they_are_stored(wrong):
    """Row "cachalot atomic": rows queried before a commit are stored after its end, and are dead."""
    with changed(wrong, times_of_transactions):
        with stepping() as start:
            reader = start(names, READ)
            assert reader.to("SELECT")
            reader.step()
            assert reader.at == ("LOOK" if wrong else "FILL")
            update()
            assert reader.finish() == ["before"]
        assert is_hit(names) is wrong
        assert stale(names) is wrong
    if not wrong:
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


def unmarked(start):
    """A writer between COMMIT and DONE, its mark gone, and a reader from then that has yet to fill."""
    writer = start(update, WRITE)
    assert writer.to("COMMIT")
    end_leases(names)
    reader = start(names, READ)
    assert reader.to("FILL")
    assert writer.to("DONE")
    return writer, reader


def test_evicted_mark(other_connection):
    """Row "mark evicted": what is stored in the window is gone with DONE."""
    with stepping() as start:
        writer, reader = unmarked(start)
        assert reader.finish() == ["before"]
        assert is_hit(names)
        writer.finish()
    assert agreed_everywhere(names, other_connection) == ["after"]


def outlived(read, end):
    """Let what is stale end, by the timeout of its entry or by the next write."""
    assert stale(read)
    if end == "timeout":
        evict(keys_of(read)[0])
    else:
        update()


ends = pytest.mark.parametrize("end", ["timeout", "write"])


@ends
def test_evicted_mark_of_a_writer_that_dies(end, other_connection):
    """Row "mark evicted and writer crashes": the double fault lasts until a write or the timeout."""
    with stepping() as start:
        writer, reader = unmarked(start)
        writer.die()
        assert reader.finish() == ["before"]
    outlived(names, end)
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


# Tags that are marked one after the other.


def halves(keys, order):
    """Two halves of the keys, as two servers of a cluster hold them."""
    middle = len(keys) // 2
    return (keys[:middle], keys[middle:])[::order]


def parts_of(step, order):
    """Take a step apart: one for each server if it writes tags, one for each key if it reads them."""
    if isinstance(step, Mark):
        return [replace(step, keys=keys) for keys in halves(step.keys, order)]
    if isinstance(step, Done):
        return [replace(step, tokens=tokens) for tokens in halves(step.tokens, order)]
    if isinstance(step, GetMany):
        return [GetMany((key,)) for key in step.keys]
    return [step]


@contextmanager
def one_by_one():
    """Take the steps apart; to be entered inside of ``stepping``, so that each part is a step.

    Gives a function that lets a write mark its tags in the opposite order.
    """
    order, whole = threading.local(), Guard.ask

    def backwards(write):
        def run():
            order.value = -1
            write()

        return run

    def ask(guard, step):
        parts = parts_of(step, getattr(order, "value", 1))
        answers = [whole(guard, part) for part in parts]
        return dict(ChainMap(*answers)) if parts[1:] else answers[0]

    with mock.patch.object(Guard, "ask", ask):
        yield backwards


#: Those of a writer of two tables, whose tags are on two servers.
STEPS = ["MARK", "MARK", "COMMIT", "DONE", "DONE"]


@pytest.fixture
def shelf(author):
    """Two books, each with an author of its own; returns a read of all, and a write of one pair."""
    pairs = [
        (one, Book.objects.create(title="old", author=one))
        for one in (author, Author.objects.create(name="second", age=0))
    ]

    def read():
        return list(Book.objects.order_by("pk").values_list("author__name", "title"))

    def write(place):
        one, book = pairs[place]
        with transaction.atomic():
            Author.objects.filter(pk=one.pk).update(name=draw())
            Book.objects.filter(pk=book.pk).update(title=draw())

    return read, write


def stale_moments(read, write, order):
    """Let two writers mark in opposite orders; R are the steps of the one that dies after its last.

    Returns after how many of the steps a read was stale.
    """
    found = []
    with stepping() as start, one_by_one() as backwards:
        dying = start(lambda: write(0), WRITE)
        other = start(backwards(lambda: write(1)), WRITE)
        evaluated(read())
        for number, letter in enumerate(order):
            writer = dying if letter == "R" else other
            assert writer.at == STEPS[order[:number].count(letter)]
            writer.step()
            if stale(read):
                found.append(number)
        assert other.ended
        dying.die()
        if stale(read):
            found.append(len(order))
    end_leases(read)
    return found


@either
def test_two_tags_that_are_marked_in_opposite_orders_and_a_crash(wrong, shelf, other_connection):
    """Row "opposite mark orders, crashes": every order of two writers, one of which dies at some step."""
    read, write = shelf
    with changed(wrong, one_mark_for_all):
        orders = [order for steps in range(len(STEPS)) for order in interleavings(steps, len(STEPS))]
        found = {order: stale_moments(read, write, order) for order in orders}
        assert any(found.values()) is wrong, found
        if not wrong:
            agreed_everywhere(read, other_connection)


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


def is_held_up():
    """Whether a COMMIT waits for the lock."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return cursor.fetchone() == (1,)


def hang_up(fileno):
    """Cut the line of a connection to the database while it waits for an answer."""
    with socket.socket(fileno=os.dup(fileno)) as line:
        line.shutdown(socket.SHUT_RDWR)


def slow_write(line):
    """Start a write whose COMMIT is held up, and wait until it is; returns its thread."""

    def write():
        with suppress(DatabaseError), transaction.atomic():
            line.append(connection.connection.fileno())
            update()
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    until(is_held_up)
    return writer


def let_commits_go_on():
    """Give the lock back for which a COMMIT waits."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_advisory_unlock({LOCK})")
    until(lambda: truth(names) == ["after"])


def test_commit_that_is_carried_out_after_its_client_has_gone(slow_commit, other_connection):
    """Row "crash with the COMMIT still in flight": its mark stays, and so nothing is stored meanwhile."""
    names()
    line = []
    writer = slow_write(line)
    hang_up(line[0])
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert truth(names) == ["before"]
    assert not stale(names)
    assert reasons(names) == [Reason.DARK]
    let_commits_go_on()
    assert not stale(names)
    end_leases(names)
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_commit_that_takes_longer_than_its_lease(slow_commit, other_connection):
    """Row "lease may expire under a live writer": what is stored then is gone with DONE."""
    writer = slow_write([])
    end_leases(names)
    names()
    assert is_hit(names)
    let_commits_go_on()
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert agreed_everywhere(names, other_connection) == ["after"]


@ends
def test_commit_that_takes_longer_than_its_lease_and_its_client(end, slow_commit, other_connection):
    """Row "lease shorter than the commit delay": stale until a write or the timeout."""
    line = []
    writer = slow_write(line)
    hang_up(line[0])
    writer.join(PATIENCE)
    assert reasons(names) == [Reason.DARK]
    end_leases(names)
    names()
    assert is_hit(names)
    let_commits_go_on()
    outlived(names, end)
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
