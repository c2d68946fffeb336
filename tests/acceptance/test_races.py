"""Readers and writers at the same moment: whatever the order, nothing stale is served or left behind."""

from __future__ import annotations

import random
from types import SimpleNamespace
from unittest import mock

import pytest
from django.core.cache import caches
from django.db import connection, transaction
from django.db.models import Count, F

from cachalot.api import invalidate
from cachalot.core import keys
from cachalot.core.decisions import Reason
from cachalot.engine.guard import Guard
from cachalot.testing import reset
from tests.acceptance.racing import (
    MOMENTS,
    READ_MOMENTS,
    agreed,
    agreed_everywhere,
    at_statement,
    during_commit,
    during_read,
    end_pause,
    evict,
    interleavings,
    is_hit,
    keys_of,
    let_readers_not_block_writers,
    reasons,
    stepping,
    truth,
)
from tests.testapp.models import Author, Book, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("each_thread_a_process")]

WARM = [pytest.param(True, id="warm"), pytest.param(False, id="cold")]


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


@pytest.fixture(autouse=True)
def _log(transactional_db):
    """Readers and writers of SQLite do not wait for each other."""
    let_readers_not_block_writers()


@pytest.fixture
def author():
    """The row that is written."""
    return Author.objects.create(name="before", age=1)


def save():
    """Change it through an instance."""
    author = Author(pk=Author.objects.order_by("pk").values_list("pk", flat=True)[0], name="after", age=2)
    author.save(force_update=True)


def update():
    """Change it through a query set."""
    Author.objects.update(name="after")


def bulk_update():
    """Change many at once."""
    author = truth(Author.objects.all)[0]
    author.name = "after"
    Author.objects.bulk_update([author], ["name"])


def delete():
    """Take it away without loading it."""
    Author.objects.all()._raw_delete("default")


def create():
    """Add another."""
    Author.objects.create(name="after")


def bulk_create():
    """Add several."""
    Author.objects.bulk_create([Author(name="after"), Author(name="after too")])


def raw():
    """Change it behind the ORM's back."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'after'")


def atomic():
    """Change it in a transaction."""
    with transaction.atomic():
        Author.objects.update(name="after")


def nested():
    """Change it in a savepoint of a transaction."""
    with transaction.atomic(), transaction.atomic():
        Author.objects.update(name="after")


WRITES = [update, save, bulk_update, delete, create, bulk_create, raw, atomic, nested]


@pytest.mark.parametrize("warm", WARM)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_reader_at_a_moment_of_a_commit(moment, write, warm, author, other_connection):
    """A reader at any moment of a commit sees the database as it is then, and leaves nothing stale."""
    if warm:
        agreed(names)

    def look():
        other_connection(lambda: agreed(names))

    with during_commit(moment, look):
        write()
    after = agreed_everywhere(names, other_connection)
    assert after != ["before"]


@pytest.mark.parametrize("warm", WARM)
@pytest.mark.parametrize("write", [update, save, raw])
def test_reader_just_before_the_update_reaches_the_database(write, warm, author, other_connection):
    """What a reader stores between the invalidation and the UPDATE must not be served after the UPDATE."""
    if warm:
        agreed(names)
    with at_statement("UPDATE", lambda: other_connection(names)):
        write()
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("warm", WARM)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("moment", READ_MOMENTS)
def test_commit_at_a_moment_of_a_read(moment, write, warm, author, other_connection):
    """A reader that started before a commit may use its rows, but what it stores must not be served after."""
    if warm:
        agreed(names)
        invalidate(Author)
    with during_read(moment, lambda: other_connection(write)):
        names()
    assert agreed_everywhere(names, other_connection) != ["before"]


@pytest.mark.parametrize("write", [update, create])
def test_commit_while_a_transaction_of_a_reader_is_open(write, author, other_connection):
    """A transaction that read before a commit and ends after it must not bring the old rows back."""
    with transaction.atomic():
        assert names() == ["before"]
        other_connection(write)
    assert agreed_everywhere(names, other_connection) != ["before"]


@pytest.mark.databases("postgresql", "mysql")
def test_commit_while_a_transaction_that_writes_elsewhere_is_open(author, other_connection):
    """The end of a transaction invalidates what it wrote and restores nothing else."""
    with transaction.atomic():
        assert names() == ["before"]
        Tag.objects.create(name="of no importance")
        other_connection(update)
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("moment", READ_MOMENTS[1:3])
def test_commit_while_an_aggregate_over_two_tables_is_read(moment, author, other_connection):
    """Either of the tables of a join can change in the middle."""

    def counts():
        return list(Author.objects.annotate(n=Count("books")).values_list("name", "n"))

    with during_read(moment, lambda: other_connection(lambda: Book.objects.create(title="x", author=author))):
        counts()
    assert agreed_everywhere(counts, other_connection) == [("before", 1)]


def test_commit_in_the_middle_of_an_iterator(author, other_connection):
    """An iterator takes its tokens before its query, however long its rows are on the way."""
    Author.objects.bulk_create([Author(name=f"author {number}") for number in range(5)])

    def iterated():
        return list(Author.objects.values_list("name", flat=True).iterator(chunk_size=1))

    passing = Author.objects.values_list("name", flat=True).iterator(chunk_size=1)
    next(passing)
    other_connection(update)
    list(passing)
    assert set(agreed_everywhere(iterated, other_connection)) == {"after"}
    assert set(agreed_everywhere(names, other_connection)) == {"after"}


def test_commit_between_the_two_queries_of_a_prefetch(author, other_connection):
    """A relation that grows between the query for the objects and the query for the related ones."""
    book = Book.objects.create(title="x", author=author)
    tag = Tag.objects.create(name="new")

    def tags():
        return [[tag.name for tag in book.tags.all()] for book in Book.objects.prefetch_related("tags")]

    with during_read("between LOOK and SELECT", lambda: other_connection(lambda: book.tags.add(tag))):
        tags()
    assert agreed_everywhere(tags, other_connection) == [["new"]]


READER = {"LOOK", "CREATE", "SELECT", "FILL"}
WRITER = {"MARK", "COMMIT", "DONE"}


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "alone"])
@pytest.mark.parametrize("write", [update, atomic])
@pytest.mark.parametrize("warm", WARM)
def test_every_order_of_one_reader_and_one_writer(warm, write, watched, author):
    """In each order of the steps of a read and a commit the next read is right, and so is one in between."""
    steps = 3 if warm else 4
    for order in interleavings(steps, 3):
        truth(lambda: Author.objects.filter(pk=author.pk).update(name="before"))
        caches["default"].clear()
        if warm:
            names()
            invalidate(Author)
        with stepping() as start:
            reader, writer = start(names, READER), start(write, WRITER)
            for letter in order:
                (reader if letter == "R" else writer).step()
                if watched:
                    assert names() == truth(names), order
        assert agreed(names) == ["after"], order


# A write whose rows are told apart holds their locks until it is committed: two never overlap.
@pytest.mark.granularity("table")
def test_many_orders_of_one_reader_and_two_writers(author):
    """When commits that overlap have both ended nothing stale is left."""
    chance = random.Random(20260701)

    def grow():
        Author.objects.update(age=F("age") + 1)

    def ages():
        return list(Author.objects.values_list("age", flat=True))

    for _ in range(60):
        order = chance.sample("RRRRWWWVVV", 10)
        before = agreed(ages)
        invalidate(Author)
        with stepping() as start:
            steppers = {"R": start(ages, READER), "W": start(grow, WRITER), "V": start(grow, WRITER)}
            for letter in order:
                steppers[letter].step()
        assert agreed(ages) == [before[0] + 2], order


@pytest.mark.parametrize("write", [update, atomic])
def test_writer_that_dies_between_commit_and_done(write, author, other_connection):
    """Its mark keeps the table dark, and the end of the lease ends what was stored before it."""
    agreed(names)
    with mock.patch.object(Guard, "_finish", return_value=None):
        write()
    assert other_connection(lambda: (agreed(names), reasons(names))) == (["after"], [Reason.DARK])
    evict(*keys_of(names)[1:])
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


def test_writer_that_dies_before_the_commit(author, other_connection):
    """What was stored before is not needed any more, and nothing else is lost."""
    agreed(names)

    class DeadError(BaseException):
        pass

    def die():
        raise DeadError

    with pytest.raises(DeadError), during_commit("between MARK and COMMIT", die):
        update()
    end_pause()
    assert other_connection(lambda: agreed(names)) == ["before"]
    evict(*keys_of(names)[1:])
    assert agreed_everywhere(names, other_connection) == ["before"]


def test_eviction_of_any_key(author, other_connection):
    """The loss of any key costs a query at most, before a write and after it."""
    agreed(names)
    for number, key in enumerate(keys_of(names)):
        evict(key)
        agreed(names)
        Author.objects.update(name=f"after {number}")
        evict(key)
        assert agreed_everywhere(names, other_connection) == [f"after {number}"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_eviction_of_everything_at_a_moment_of_a_commit(moment, author, other_connection):
    """A cache that is emptied in the middle of a commit may not come back with old rows."""
    agreed(names)
    with during_commit(moment, caches["default"].clear):
        update()
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_clocks_that_differ_by_an_hour(skew, author, other_connection):
    """No wall clock takes part in what is served."""
    agreed(names)
    clock = keys.time.time
    wrong = SimpleNamespace(time=lambda: clock() + skew)
    with mock.patch.object(keys, "time", wrong):
        Author.objects.update(name="skewed")
    assert agreed_everywhere(names, other_connection) == ["skewed"]
    Author.objects.update(name="after")
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_another_process_writes_between_two_reads(author):
    """A process knows nothing about a table but what is in the cache."""
    agreed(names)
    reset()
    update()
    reset()
    assert agreed(names) == ["after"]
