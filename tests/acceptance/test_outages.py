"""The cache server fails: reads and writes go on, and nothing older than a write is served afterwards."""

from __future__ import annotations

import itertools
import os
import socket
import time
from contextlib import ExitStack, contextmanager
from unittest import mock

import pytest
from django.core.cache import caches
from django.db import connection, connections, transaction

from cachalot.api import explain, get_last_invalidation, invalidate, stats
from cachalot.core.decisions import Reason
from cachalot.stores.redis_cache import RedisStore
from cachalot.testing import reset
from tests.acceptance.faulty import FAULTS, READS, FaultyCache, FaultyLocMemCache, faults, used
from tests.acceptance.racing import (
    agreed,
    agreed_everywhere,
    at_step,
    during_commit,
    end_pause,
    guard,
    is_hit,
    let_readers_not_block_writers,
    reasons,
    truth,
)
from tests.servers import Redis
from tests.testapp.models import Author, Book, Review, Tag

pytestmark = pytest.mark.django_db(transaction=True)


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def rename(name):
    """A write in autocommit."""
    Author.objects.update(name=name)


def rename_in_block(name):
    """A write in a transaction."""
    with transaction.atomic():
        rename(name)
        agreed(names)


def rename_raw(name):
    """A write of a cursor."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = %s", [name])


def rename_by_hand(name):
    """A write of somebody else, and an invalidation by hand."""
    with mock.patch.object(connections["default"], "execute_wrappers", []):
        rename_raw(name)
    invalidate(Author)


WRITES = [rename, rename_in_block, rename_raw, rename_by_hand]


@pytest.fixture(autouse=True)
def _author(transactional_db):
    """The row that is written."""
    Author.objects.create(name="before", age=1)


@contextmanager
def faulty(backend=FaultyCache):
    """A cache that can fail, warm and in use."""
    with used(f"{backend.__module__}.{backend.__qualname__}"):
        caches["outage"].clear()
        agreed(names)
        yield


@contextmanager
def outage(fault="raise", only=None):
    """The cache fails, for calls of some names or all."""
    faults.wrong = lambda _number, name: only is None or name in only
    faults.fault = fault
    try:
        yield
    finally:
        faults.mend()


ONLY = [
    pytest.param(None, id="everything"),
    pytest.param(READS, id="reads"),
    pytest.param({"set_many", "add"}, id="writes"),
]


# A cache that fails in every way.


@pytest.mark.parametrize("only", ONLY)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", WRITES)
def test_write_during_an_outage(write, fault, only, other_connection):
    """Reads and writes work, without any error; the first read after the outage sees the write."""
    with faulty():
        with outage(fault, only):
            agreed(names)
            write("after")
            assert names() == ["after"]
            agreed_everywhere(names, other_connection)
        assert agreed_everywhere(names, other_connection) == ["after"]
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]
        assert is_hit(names)


@pytest.mark.parametrize("fault", ["raise", "raise late"])
def test_write_during_an_outage_of_a_known_backend(fault, other_connection):
    """A backend that is known to raise is believed; it raises."""
    with faulty(FaultyLocMemCache):
        with outage(fault):
            rename("after")
            assert agreed_everywhere(names, other_connection) == ["after"]
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]
        assert is_hit(names)


@pytest.mark.parametrize("waits", [True, False], ids=["pauses", "asks at once"])
@pytest.mark.parametrize("fault", FAULTS)
def test_any_single_call_fails(fault, waits, other_connection):
    """Whichever call of a session fails, every read agrees with the database, and nobody gets an error."""
    number = 0
    with ExitStack() as stack:
        stack.enter_context(faulty())
        if not waits:
            stack.enter_context(mock.patch.object(guard(), "closed", return_value=False))
        while True:
            rename("before")
            end_pause()
            agreed(names)
            first = len(faults.calls)
            with outage(fault):
                faults.wrong = lambda at, _name, which=first + number: at == which
                _session(other_connection)
                used_calls = len(faults.calls) - first
            end_pause()
            assert agreed_everywhere(names, other_connection) == ["in a transaction"]
            assert agreed_everywhere(Tag.objects.count, other_connection) == number + 1
            number += 1
            if number > used_calls:
                break
    assert number > 10


def _session(other):
    """A few reads and writes of each kind."""
    agreed(names)
    rename("in autocommit")
    assert names() == ["in autocommit"]
    agreed(names)
    other(lambda: agreed(names))
    with transaction.atomic():
        agreed(names)
        rename("in a transaction")
        agreed(names)
        Tag.objects.create(name=f"{Tag.objects.count()}")
    assert names() == ["in a transaction"]
    agreed(names)


@pytest.mark.parametrize("fault", FAULTS)
def test_many_writes_during_an_outage(fault, other_connection):
    """Every table that was written meanwhile is remembered, and each only once."""
    with faulty():
        author = Author.objects.get()
        reads = [
            names,
            lambda: list(Tag.objects.values_list("name", flat=True)),
            lambda: list(Book.objects.values_list("title", "pages")),
            lambda: list(Review.objects.values_list("text")),
        ]
        for read in reads:
            agreed(read)
        with outage(fault):
            for number in range(20):
                rename(f"{number}")
                Tag.objects.create(name=f"{number}")
                Book.objects.create(title=f"{number}", author=author)
                for read in reads:
                    agreed(read)
        end_pause()
        for read in reads:
            agreed_everywhere(read, other_connection)
            assert is_hit(read)
        assert guard().undelivered() == 0


@pytest.mark.parametrize("moment", ["between MARK and COMMIT", "between COMMIT and DONE"])
@pytest.mark.parametrize("write", [rename, rename_in_block])
@pytest.mark.parametrize("fault", FAULTS)
def test_outage_that_begins_in_a_commit(fault, write, moment, other_connection):
    """A DONE that cannot be delivered is remembered; the mark keeps others from serving what is old."""
    with faulty():

        def begin():
            faults.fault = fault

        try:
            with during_commit(moment, begin):
                write("after")
            assert agreed_everywhere(names, other_connection) == ["after"]
        finally:
            faults.mend()
        assert agreed_everywhere(names, other_connection) == ["after"]
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]
        assert is_hit(names)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("moment", ["between MARK and COMMIT", "between COMMIT and DONE"])
def test_outage_that_ends_in_a_commit(moment, fault, other_connection):
    """A commit whose MARK failed is delivered afterwards; nobody of this process is served meanwhile."""
    with faulty():
        faults.fault = fault

        def end():
            faults.mend()
            end_pause()
            other_connection(lambda: agreed(names))

        try:
            with during_commit(moment, end):
                rename("after")
        finally:
            faults.mend()
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]


def test_reader_that_stores_after_an_outage(other_connection):
    """What was read before a write of the outage must not be stored after it."""
    with faulty():
        invalidate(Author)

        def write_in_outage():
            with outage("raise"):
                other_connection(lambda: rename("after"))
            end_pause()

        with at_step("FILL", write_in_outage):
            assert names() == ["before"]
        assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("fault", ["raise", "raise late", "none"])
def test_number_of_calls_in_an_outage(fault):
    """A server that does not answer is asked once, not once per query."""
    with faulty(), mock.patch.object(guard(), "_now", return_value=time.monotonic()):
        before = len(faults.calls)
        with outage(fault):
            for _ in range(50):
                names()
            assert len(faults.calls) - before == 1
            for number in range(10):
                rename(f"{number}")
                rename_in_block(f"{number} again")
            assert len(faults.calls) - before == 1
            end_pause()
            for _ in range(50):
                names()
            # A write that nobody confirms is looked at once, to see whether it is there.
            assert len(faults.calls) - before <= 3


def test_number_of_calls_of_writers_in_an_outage():
    """The same for a process that only writes."""
    with faulty(), mock.patch.object(guard(), "_now", return_value=time.monotonic()):
        before = len(faults.calls)
        with outage("raise"):
            for number in range(50):
                rename(f"{number}")
            assert len(faults.calls) - before == 1


def test_slow_and_silent_server():
    """A server whose time-outs look like an empty cache costs one of them, not one per query."""
    with faulty():
        slow = mock.Mock(side_effect=lambda name, call: time.sleep(0.3) or _empty_answer(name))
        with mock.patch.dict(FAULTS, empty=slow), outage("empty"):
            for _ in range(20):
                agreed(names)
            assert slow.call_count == 1
            rename("after")
            assert agreed(names) == ["after"]
        end_pause()
        assert agreed(names) == ["after"]


def _empty_answer(name):
    return {"get_many": {}, "set_many": [], "add": False}.get(name)


def test_pauses_become_longer_and_end():
    """The cache is asked again now and then, ever less often, and at once when it answers."""
    with faulty():
        now = [time.monotonic()]
        begun = now[0]
        asked = []
        with mock.patch.object(guard(), "_now", side_effect=lambda: now[0]):
            with outage("raise"):
                for _ in range(1200):
                    before = len(faults.calls)
                    names()
                    if len(faults.calls) > before:
                        asked.append(now[0] - begun)
                    now[0] += 0.1
            assert 8 <= len(asked) <= 30
            gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
            assert max(gaps) <= 20
            assert gaps[0] < 1.5
            now[0] += 20
            agreed(names)
            assert is_hit(names)


def test_reasons_and_counts_of_an_outage():
    """Who asks is told."""
    with faulty():
        with outage("raise"):
            assert reasons(names) == [Reason.CACHE_AWAY]
            assert explain(Author.objects.all()).decision.reason is Reason.CACHE_AWAY
            assert stats()["reasons"]["cache_away"] >= 1
        end_pause()
        agreed(names)
        assert is_hit(names)


def test_time_of_the_last_invalidation_in_an_outage():
    """Fragments are rendered anew, and afterwards nobody finds those of before the write."""
    with faulty():
        rename("once")
        before = get_last_invalidation(Author)
        with outage("raise"):
            first = get_last_invalidation(Author)
            rename("after")
            assert get_last_invalidation(Author) > first > before
        end_pause()
        assert get_last_invalidation(Author) > first


@pytest.mark.parametrize("fault", ["raise", "none", "empty"])
def test_invalidation_deferred_in_an_outage(fault, other_connection):
    """What was put off is remembered when it cannot be delivered."""
    from cachalot.api import invalidation_deferred

    with faulty():
        with outage(fault), invalidation_deferred():
            rename("after")
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("fault", FAULTS)
def test_snapshot_in_an_outage(fault, other_connection):
    """A transaction of SQLite or MariaDB, whose clock could not be read, is served by its database."""
    let_readers_not_block_writers()
    with faulty(), transaction.atomic():
        with outage(fault):
            assert Tag.objects.count() == 0
        end_pause()
        other_connection(lambda: rename("after"))
        agreed(names)
        agreed(names)


def test_foreign_and_broken_values(other_connection):
    """Whatever stands in the cache under our keys is a miss, and is replaced."""
    from tests.acceptance.racing import keys_of

    with faulty():
        for value in (b"", b"garbage", "garbage", 0, None, [], {"a": 1}, "!", os.urandom(400)):
            for key in keys_of(names):
                caches["outage"]._inside.set(key, value)
                agreed_everywhere(names, other_connection)
                caches["outage"]._inside.delete(key)
                agreed(names)


def test_cut_entry(other_connection):
    """An entry that lost its end, or a bit in its middle, is a miss."""
    from tests.acceptance.racing import keys_of

    with faulty():
        inside = caches["outage"]._inside
        (entry,) = (key for key in keys_of(names) if isinstance(inside.get(key), bytes))
        whole = inside.get(entry)
        for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
            inside.set(entry, whole[:cut])
            assert not is_hit(names)
            agreed(names)
        for place in range(0, len(whole), 7):
            inside.set(entry, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            agreed(names)


# A Redis that goes and comes.

BACKENDS = {
    "redis": "django.core.cache.backends.redis.RedisCache",
    "django-redis": "django_redis.cache.RedisCache",
    "django-redis-ignore": "django_redis.cache.RedisCache",
}


@pytest.fixture(scope="module")
def private_redis():
    """A Redis that writes its data at its end and reads it at its start."""
    if not Redis.available():
        pytest.skip("not installed: redis")
    with Redis(rdb=True) as server:
        yield server


@pytest.fixture(params=list(BACKENDS))
def redis(request, private_redis):
    """The server, with one of the backends in use and warm."""
    private_redis.restart(keep_data=False)
    options = {"socket_connect_timeout": 0.3, "socket_timeout": 0.3}
    if request.param != "redis":
        options = {name.upper(): value for name, value in options.items()}
        options["IGNORE_EXCEPTIONS"] = request.param.endswith("ignore")
    location = f"redis://{private_redis.address}/0"
    with used(BACKENDS[request.param], LOCATION=location, OPTIONS=options):
        reset()
        agreed(names)
        assert is_hit(names)
        yield private_redis
        private_redis.start()
        private_redis.resume()


@pytest.mark.servers("redis")
@pytest.mark.parametrize("write", WRITES)
def test_redis_restarted_with_its_old_data(write, redis, other_connection):
    """Old entries and old tokens are back with the server; the first read sees the write of the outage."""
    redis.halt()
    agreed(names)
    write("after")
    assert agreed_everywhere(names, other_connection) == ["after"]
    redis.start()
    end_pause()
    assert names() == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


@pytest.mark.servers("redis")
def test_redis_restarted_empty(redis, other_connection):
    """A server without its data has no tokens, and new ones are drawn."""
    rename("after")
    agreed(names)
    redis.kill()
    agreed(names)
    redis.start()
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


@pytest.mark.servers("redis")
def test_redis_restarted_without_anybody_noticing(redis, other_connection):
    """Connections of before are dead; the server answers the next ones."""
    redis.restart()
    agreed(names)
    rename("after")
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["after"]
    end_pause()
    agreed(names)
    assert is_hit(names)


@pytest.mark.servers("redis")
def test_redis_that_is_frozen(redis, other_connection):
    """A server that takes connections and never answers costs one exchange, not one per query."""
    calls = []
    original = RedisStore._exchanged

    def counted(store, commands):
        calls.append(commands)
        return original(store, commands)

    redis.pause()
    with mock.patch.object(RedisStore, "_exchanged", counted):
        for number in range(10):
            agreed(names)
            rename(f"{number}")
    assert len(calls) == 1
    redis.resume()
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["9"]
    assert is_hit(names)


def command(server, *words):
    """Send one command to a Redis."""
    with socket.create_connection(server.address.split(":"), timeout=10) as line:
        line.sendall(" ".join(words).encode() + b"\r\n")
        assert line.recv(100).startswith(b"+OK")


@pytest.mark.servers("redis")
@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        (("min-replicas-to-write", "1"), ("min-replicas-to-write", "0")),
        (("maxmemory", "1"), ("maxmemory", "0")),
    ],
    ids=["refuses writes", "is full"],
)
def test_redis_that_reads_and_does_not_write(broken, mended, redis, other_connection):
    """A node that answers GET and fails SET must not go on serving what a write has made old."""
    command(redis, "CONFIG", "SET", *broken)
    try:
        agreed(names)
        rename("after")
        assert agreed_everywhere(names, other_connection) == ["after"]
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["after"]
        rename_in_block("later")
        assert agreed_everywhere(names, other_connection) == ["later"]
    finally:
        command(redis, "CONFIG", "SET", *mended)
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["later"]
    assert is_hit(names)


# Values above the limit.


def texts():
    """A result of a megabyte and a half."""
    return [bytes(payload) for payload in Book.objects.values_list("payload", flat=True)]


def test_value_above_the_limit_of_the_server(other_connection):
    """A result that the server does not take is returned, and the cache goes on serving all others."""
    author = Author.objects.get()
    for number in range(3):
        Book.objects.create(title=f"{number}", author=author, payload=os.urandom(500_000))
    assert len(agreed(texts)) == 3
    agreed(names)
    assert is_hit(names)
    rename("after")
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)
    Book.objects.all().delete()
    assert agreed_everywhere(texts, other_connection) == []


@pytest.mark.caches("pymemcache", "pylibmc", "python-memcached")
def test_value_above_the_limit_of_memcached():
    """Its refusal is a reason of the read, not an outage of the cache."""
    author = Author.objects.get()
    Book.objects.create(title="large", author=author, payload=os.urandom(1_500_000))
    assert reasons(texts) == [Reason.SERVER_REFUSED]
    assert not guard().closed()
    assert truth(texts) == texts()


def test_value_above_our_own_limit(settings):
    """A result that is too large for the settings is returned, with that reason."""
    settings.CACHALOT_MAX_BYTES = 50
    settings.CACHALOT_MAX_ROWS = 2
    assert agreed(names) == ["before"]
    assert is_hit(names)
    rename("x" * 90)
    assert reasons(names) == [Reason.TOO_LARGE]
    rename("short")
    Author.objects.bulk_create([Author(name="a"), Author(name="b")])
    assert reasons(names) == [Reason.TOO_LARGE]
    assert agreed(names) == ["short", "a", "b"]
