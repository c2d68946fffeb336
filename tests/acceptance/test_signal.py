"""``post_invalidation``, ``on_commit`` hooks and ``get_last_invalidation``: who is told what, and when."""

from __future__ import annotations

import pickle
from contextlib import contextmanager, suppress
from unittest import mock

import pytest
from django.core.cache import caches
from django.core.cache.utils import make_template_fragment_key
from django.db import IntegrityError, connection, transaction
from django.test import TestCase

from cachalot.api import get_last_invalidation, invalidate
from cachalot.core import keys
from cachalot.engine import registry
from cachalot.engine.caches import query_cache
from cachalot.signals import post_invalidation
from cachalot.stores.base import StoreAway
from cachalot.testing import reset
from tests.acceptance.racing import agreed, agreed_everywhere, keys_of, recorded_steps
from tests.testapp.models import Author, Book, NullFK, Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])

AUTHOR, BOOK, TAG = (model._meta.db_table for model in (Author, Book, Tag))


class ExpectedError(Exception):
    """Ends a block."""


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


@contextmanager
def told(on_each=None):
    """What is sent while this lasts, as pairs of a database alias and a table."""
    sent = []

    def receiver(sender, *, db_alias, **kwargs):
        sent.append((db_alias, sender))
        if on_each is not None:
            on_each()

    post_invalidation.connect(receiver)
    try:
        yield sent
    finally:
        post_invalidation.disconnect(receiver)


# The signal.


def test_signal_of_an_autocommit_write():
    """It is sent once per statement, after it, with the table as its sender."""
    with told() as sent:
        author = Author.objects.create(name="new")
        assert sent == [("default", AUTHOR)]
        author.save()
        Author.objects.filter(pk=author.pk).update(name="newer")
        assert sent == [("default", AUTHOR)] * 3
        Author.objects.bulk_create([Author(name="a"), Author(name="b")])
        assert sent == [("default", AUTHOR)] * 4


def test_signal_of_a_transaction():
    """It is sent once per table, after the commit, however many writes there were."""
    with told() as sent, transaction.atomic():
        author = Author.objects.create(name="new")
        with transaction.atomic():
            author.name = "newer"
            author.save()
        Book.objects.create(title="x", author=author)
        Author.objects.update(age=1)
        assert sent == []
    assert sorted(sent) == [("default", AUTHOR), ("default", BOOK)]


def test_signal_of_a_delete_with_its_cascade():
    """Every table that Django deletes from or empties is told once."""
    author = Author.objects.create(name="x")
    Book.objects.create(title="x", author=author)
    NullFK.objects.create(author=author)
    with told() as sent:
        author.delete()
    assert {("default", AUTHOR), ("default", BOOK), ("default", NullFK._meta.db_table)} <= set(sent)
    assert len(sent) == len(set(sent))


def test_signal_of_a_relation():
    """The table between two models is a table of its own."""
    book = Book.objects.create(title="x", author=Author.objects.create(name="x"))
    tag = Tag.objects.create(name="x")
    with told() as sent:
        book.tags.add(tag)
    assert sent == [("default", Book.tags.through._meta.db_table)]


def test_signal_of_raw_sql():
    """A statement of a cursor is a write like any other."""
    Author.objects.create(name="x")
    with told() as sent, connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'y'")
        assert sent == [("default", AUTHOR)]
        cursor.execute("SELECT 1")
        assert len(sent) == 1
    with told() as sent, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'z'")
        assert sent == []
    assert sent == [("default", AUTHOR)]


def test_signal_of_invalidate():
    """An invalidation by hand is told too."""
    with told() as sent:
        invalidate(Author, db_alias="default")
    assert sent == [("default", AUTHOR)]
    with told() as sent:
        invalidate("testapp.Author")
    assert sorted(sent) == [("default", AUTHOR), ("other", AUTHOR)]


def test_no_signal_after_a_rollback():
    """What was not committed is not told, neither at once nor with the next commit."""
    with told() as sent:
        with suppress(ExpectedError), transaction.atomic():
            Author.objects.create(name="dropped")
            raise ExpectedError
        with transaction.atomic():
            Tag.objects.create(name="kept")
            with suppress(ExpectedError), transaction.atomic():
                Author.objects.create(name="dropped")
                raise ExpectedError
        with transaction.atomic():
            Author.objects.create(name="dropped")
            transaction.set_rollback(True)
    assert sent == [("default", TAG)]


def test_no_signal_of_a_statement_that_failed():
    """It has changed nothing."""
    Tag.objects.create(name="x")
    with told() as sent:
        with pytest.raises(IntegrityError), transaction.atomic():
            Tag.objects.create(name="x")
        with pytest.raises(IntegrityError), connection.cursor() as cursor:
            cursor.execute("INSERT INTO testapp_tag (name) VALUES ('x')")
    assert sent == []


def test_signal_of_a_manual_transaction():
    """The commit tells, not the statement."""
    transaction.set_autocommit(False)
    try:
        with told() as sent:
            Author.objects.create(name="new")
            assert sent == []
            transaction.commit()
            assert sent == [("default", AUTHOR)]
            Tag.objects.create(name="dropped")
            transaction.rollback()
            transaction.commit()
            assert sent == [("default", AUTHOR)]
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_signal_of_a_transaction_sent_through_a_cursor():
    """COMMIT tells, ROLLBACK does not."""
    with told() as sent, connection.cursor() as cursor:
        for end in ("ROLLBACK", "COMMIT"):
            cursor.execute("BEGIN")
            Author.objects.create(name="new")
            assert sent == []
            cursor.execute(end)
    assert sent == [("default", AUTHOR)]


def test_signal_of_each_database():
    """The alias tells them apart, also when both are written in one block."""
    with told() as sent, transaction.atomic(using="default"), transaction.atomic(using="other"):
        Author.objects.create(name="one")
        Author.objects.using("other").create(name="two")
        assert sent == []
    assert sorted(sent) == [("default", AUTHOR), ("other", AUTHOR)]


def test_receiver_for_one_table():
    """A receiver may ask for one sender."""
    sent = []

    def receiver(sender, **kwargs):
        sent.append(sender)

    post_invalidation.connect(receiver, sender=TAG)
    try:
        Author.objects.create(name="x")
        Tag.objects.create(name="x")
    finally:
        post_invalidation.disconnect(receiver, sender=TAG)
    assert sent == [TAG]


@pytest.mark.parametrize("inside", [True, False], ids=["atomic", "autocommit"])
def test_receiver_that_reads(inside, other_connection):
    """A receiver may query the database, and sees, as all others do, what was committed."""
    Author.objects.create(name="before")
    agreed(names)
    seen = []
    with told(lambda: seen.append(agreed_everywhere(names, other_connection))):
        if inside:
            with transaction.atomic():
                Author.objects.update(name="after")
        else:
            Author.objects.update(name="after")
    assert seen == [["after"]]


def test_receiver_that_writes():
    """What a receiver writes is told once, and agrees afterwards."""
    Author.objects.create(name="before")
    agreed(names)

    def write():
        if not Tag.objects.exists():
            Tag.objects.create(name="written by the receiver")

    with told(write) as sent, transaction.atomic():
        Author.objects.update(name="after")
    assert sent == [("default", AUTHOR), ("default", TAG)]
    assert agreed(names) == ["after"]
    assert agreed(Tag.objects.count) == 1


def test_receivers_come_before_hooks_of_the_user():
    """Who forgets a page on the signal has done so when an on_commit hook renders it again."""
    order = []
    with told(lambda: order.append("signal")), transaction.atomic():
        transaction.on_commit(lambda: order.append("hook"))
        Author.objects.create(name="new")
        transaction.on_commit(lambda: order.append("hook"))
    assert order == ["signal", "hook", "hook"]


def test_task_started_in_on_commit(other_connection):
    """A task that a hook starts in another thread reads the new rows."""
    Author.objects.create(name="before")
    agreed_everywhere(names, other_connection)
    seen = []
    with transaction.atomic():
        Author.objects.update(name="after")
        transaction.on_commit(lambda: seen.append(other_connection(names)))
    assert seen == [["after"]]


# The time of the last invalidation.


def test_time_when_never():
    """A table that was never written has 0.0, and reading it does not change that."""
    assert get_last_invalidation(Author) == 0.0
    agreed(names)
    assert get_last_invalidation(Author) == 0.0
    assert get_last_invalidation("testapp.Author", AUTHOR, Author) == 0.0


def test_time_grows_with_every_write():
    """Each write, of whatever form, gives a later time."""
    author = Author.objects.create(name="x")
    times = [0.0, get_last_invalidation(Author)]

    def raw():
        with connection.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET name = 'y'")

    writes = [
        author.save,
        lambda: Author.objects.update(name="z"),
        raw,
        lambda: invalidate(Author, db_alias="default"),
        author.delete,
    ]
    for write in writes:
        write()
        times.append(get_last_invalidation(Author))
    assert times == sorted(set(times))
    assert get_last_invalidation("testapp.Author") == get_last_invalidation(AUTHOR) == times[-1]


def test_time_after_everything_was_invalidated():
    """The time of every table is another one then, and goes on changing with each write."""
    Author.objects.create(name="x")
    times = [0.0, get_last_invalidation(Author)]
    for number in range(20):
        invalidate()
        times.append(get_last_invalidation(Author))
        Author.objects.update(name=f"{number}")
        times.append(get_last_invalidation(Author))
    assert len(set(times)) == len(times)
    assert get_last_invalidation(Tag) > times[1]


def test_time_of_a_transaction():
    """It changes with the commit, and not with a rollback."""
    Author.objects.create(name="x")
    before = get_last_invalidation(Author)
    with suppress(ExpectedError), transaction.atomic():
        Author.objects.create(name="dropped")
        raise ExpectedError
    assert get_last_invalidation(Author) == before
    with transaction.atomic():
        Author.objects.create(name="kept")
    assert get_last_invalidation(Author) > before


def test_time_of_other_tables_stays():
    """A write to one table does not move another."""
    Author.objects.create(name="x")
    Tag.objects.create(name="x")
    tag, author = get_last_invalidation(Tag), get_last_invalidation(Author)
    Author.objects.update(name="y")
    assert get_last_invalidation(Tag) == tag
    assert get_last_invalidation(Author) > author


@pytest.mark.parametrize("tie", [registry.TIE_SECONDS, 0.0])
@pytest.mark.parametrize("skew", [0, -3600])
def test_time_of_several_tables(skew, tie):
    """The time of several tables changes with each, also when a clock is late and answers share a float."""
    Author.objects.create(name="x")
    Tag.objects.create(name="x")
    with mock.patch.object(registry, "TIE_SECONDS", tie):
        seen = [get_last_invalidation(Author, Tag), get_last_invalidation(Author, Tag)]
        assert seen[0] == seen[1]
        clock = keys.time.time
        with mock.patch.object(keys, "time", mock.Mock(time=lambda: clock() + skew)):
            for write in (Author.objects.update, Tag.objects.update) * 2:
                write(name="y")
                seen.append(get_last_invalidation(Author, Tag))
    assert len(set(seen[1:])) == 5
    assert len({make_template_fragment_key("fragment", [moment]) for moment in seen}) == 5
    assert pickle.loads(pickle.dumps(seen[-1])) == seen[-1]


def test_time_of_each_database():
    """Without an alias it is the latest of all; with one, that of the database."""
    Author.objects.using("other").create(name="x")
    assert get_last_invalidation(Author, db_alias="default") == 0.0
    assert get_last_invalidation(Author, db_alias="other") > 0.0
    assert get_last_invalidation(Author) == pytest.approx(
        get_last_invalidation(Author, db_alias="other"), abs=1
    )


def written_keys():
    """All keys that hold the state of the tables."""
    with recorded_steps():
        return keys_of(lambda: get_last_invalidation(Author))


@pytest.mark.parametrize("process", ["the same process", "another process"])
def test_time_after_the_eviction_of_a_key(process):
    """Whichever key is lost, an earlier answer never returns: fragments kept under it would come back."""
    given = {get_last_invalidation(Author)}
    Author.objects.create(name="x")
    number = len(written_keys())
    for which in range(number):
        Author.objects.update(name=f"{which}")
        last = get_last_invalidation(Author)
        given.add(last)
        caches["default"].delete(written_keys()[which])
        if process == "another process":
            reset()
        now = get_last_invalidation(Author)
        assert now >= last
        assert now == last or now not in given
        given.add(now)
        Author.objects.update(name="again")
        assert get_last_invalidation(Author) > now
        given.add(get_last_invalidation(Author))


def test_time_after_the_eviction_of_everything():
    """An emptied cache does not bring an earlier answer back, least of all "never"."""
    given = [get_last_invalidation(Author)]
    for number in range(4):
        Author.objects.create(name=f"{number}")
        given.append(get_last_invalidation(Author))
        caches["default"].clear()
        given.append(get_last_invalidation(Author))
        assert get_last_invalidation(Author) == given[-1]
    assert given == sorted(set(given))


def test_time_while_the_cache_is_away():
    """The answer is the time now, so that no fragment is found under it."""
    Author.objects.create(name="x")
    before = get_last_invalidation(Author)
    cache = query_cache("default")
    with mock.patch.object(cache.guard, "run", side_effect=StoreAway("nobody is there")):
        first, second = get_last_invalidation(Author), get_last_invalidation(Author)
    assert before < first < second
    assert get_last_invalidation(Author) == before


# The tests of a project.


def add(name):
    """A write."""
    Author.objects.create(name=name)


def count():
    """A read of another shape."""
    return Author.objects.count()


class InsideTestCaseTests(TestCase):
    """The outer commit of a TestCase never comes."""

    @classmethod
    def setUpTestData(cls):
        """Written in the outer block of the class."""
        cls.author = Author.objects.create(name="from setUpTestData")

    def test_reads_its_own_writes(self):
        """A test sees each of its writes at once."""
        assert agreed(names) == ["from setUpTestData"]
        add("first")
        assert agreed(names) == ["from setUpTestData", "first"]
        with transaction.atomic():
            add("second")
            assert agreed(count) == 3
        assert agreed(count) == 3
        with suppress(ExpectedError), transaction.atomic():
            add("dropped")
            assert agreed(count) == 4
            raise ExpectedError
        assert agreed(count) == 3

    def test_sees_nothing_of_the_test_before(self):
        """The rollback at the end of a test is seen by the next one."""
        assert agreed(names) == ["from setUpTestData"]
        add("first")
        assert agreed(count) == 2

    def test_captures_its_own_callbacks_only(self):
        """captureOnCommitCallbacks finds what the test registered, and nothing of the cache's."""
        seen = []
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            with transaction.atomic():
                add("first")
                transaction.on_commit(lambda: seen.append(agreed(count)))
            assert seen == []
        assert len(callbacks) == 1
        assert seen == [2]
        with self.captureOnCommitCallbacks() as callbacks:
            add("second")
        assert callbacks == []
