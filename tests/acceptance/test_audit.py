"""Audits: every unseen write is found, and nothing else is taken for one."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
from django.db import DataError, OperationalError, connection, transaction
from django.db.models import Count, Sum
from django.test import override_settings

from cachalot.core.decisions import Outcome, Reason
from cachalot.observe.events import AuditEvent, record
from cachalot.orm import auditing
from cachalot.signals import audit_failed
from cachalot.testing import AuditError, watch
from tests.acceptance.racing import at_statement, during_read, let_readers_not_block_writers, stepping, truth
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_hit,
    assert_true,
    execute,
    execute_driver,
    table_of,
)
from tests.acceptance.test_cascades import TRIGGERS
from tests.conftest import evaluated
from tests.testapp.models import Author, Book, Bookmark, Category, MixedCase, Pizzeria, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.granularity("table")]
postgresql = pytest.mark.databases("postgresql")

EVERY_HIT = override_settings(CACHALOT_AUDIT_RATE=1.0)
RAISING = override_settings(CACHALOT_AUDIT_RATE=1.0, CACHALOT_AUDIT_RAISE=True)


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def hidden(sql):
    """Write where nobody but the driver sees it."""
    execute_driver(sql)


def rename(name="hidden"):
    """Change one row unseen."""
    hidden(f"UPDATE {table_of(Author)} SET name = '{name}' WHERE name = 'Ada'")


@contextmanager
def alarms():
    """What audits found."""
    found = []
    with record() as events:
        yield found
    found += [event for event in events if isinstance(event, AuditEvent)]


@pytest.fixture
def _kept(library):
    """The names are in the cache."""
    assert_cached(names)


# What is found.


@pytest.mark.usefixtures("_kept")
def test_row_changed_through_the_driver_is_found():
    """An unseen write is reported once with all that leads to it, and the caller is told the truth."""
    rename()
    assert names()[0] == "Ada"
    with EVERY_HIT, alarms() as found, watch() as seen:
        assert names()[0] == "hidden"
    (event,) = found
    assert event.alias == "default"
    assert event.sql.startswith("SELECT")
    assert event.tables == {"testapp_author"}
    assert event.tags == ("*", "any(testapp_author)")
    assert event.difference == "1 of 3 rows differ (column 1 of the statement)"
    assert [(one.reason, seen.reads[0].audited) for one in seen.decisions] == [(Reason.AUDITED, True)]
    with watch() as seen:
        assert names()[0] == "hidden"
        assert names()[0] == "hidden"
    assert [one.outcome for one in seen.decisions] == [Outcome.MISS, Outcome.HIT]


@pytest.mark.usefixtures("library")
def test_undeclared_trigger_is_found():
    """What a trigger writes into another table is found under the name of that table."""
    for statement in TRIGGERS[connection.vendor]:
        execute(statement)
    try:
        connection.close()

        def value():
            return MixedCase.objects.get().value

        assert_cached(value)
        with EVERY_HIT, alarms() as found:
            value()
            Bookmark.objects.create(book=Book.objects.first())
            value()
        assert [event.tables for event in found] == [{"testapp_mixedcase"}]
        assert_true(value)
    finally:
        if connection.vendor == "postgresql":
            execute("DROP FUNCTION count_bookmarks() CASCADE")
        else:
            execute("DROP TRIGGER count_bookmarks")


@pytest.mark.usefixtures("library")
def test_every_shape_of_a_result_is_compared():
    """Lists, single rows, counts, aggregates, iterators: an unseen write is found in each."""
    table = table_of(Book)
    reads = {
        "list": lambda: list(Book.objects.all()),
        "values": lambda: list(Book.objects.values("pages")),
        "get": lambda: Book.objects.get(title="Book 1").pages,
        "first": lambda: Book.objects.first().pages,
        "aggregate": lambda: Book.objects.aggregate(Sum("pages")),
        "exists": lambda: Book.objects.filter(pages__gt=1000).exists(),
        "iterator": lambda: [book.pages for book in Book.objects.iterator(chunk_size=2)],
        "annotate": lambda: list(Author.objects.annotate(n=Sum("books__pages")).values("n")),
    }
    cases = Cases()
    for name, read in reads.items():
        with cases.case(name):
            hidden(f"UPDATE {table} SET pages = 100 WHERE title = 'Book 1'")
            Book.objects.filter(pk=0).update(pages=1)
            assert_cached(read)
            hidden(f"UPDATE {table} SET pages = 2000 WHERE title = 'Book 1'")
            with EVERY_HIT, alarms() as found:
                value = read()
            assert len(found) == 1
            assert value == truth(read)
    cases.check()


@pytest.mark.usefixtures("library")
def test_rows_that_came_and_went_are_found():
    """The number of rows is a difference of its own, also where it is one row or none."""
    table = table_of(Bookmark)
    count = Bookmark.objects.count()

    def pages(queryset):
        return lambda: list(queryset.values_list("page", flat=True))

    last = Bookmark.objects.order_by("-pk")[:1]
    reads = {
        "fewer rows": (
            pages(Bookmark.objects.all()),
            f"{count} rows were kept, the database has {count - 1}",
        ),
        "another row": (pages(last), "1 of 1 rows differ (column 1 of the statement)"),
        "none is there": (Bookmark.objects.filter(page=8).exists, "1 rows were kept, the database has 0"),
        "one is there": (Bookmark.objects.filter(page=9).exists, "0 rows were kept, the database has more"),
    }
    hidden(f"UPDATE {table} SET page = 8 WHERE id = {last[0].pk}")
    Bookmark.objects.filter(pk=0).update(page=1)
    for read, _difference in reads.values():
        assert_cached(read)
    hidden(f"DELETE FROM {table} WHERE page = 8")
    hidden(f"UPDATE {table} SET page = 9 WHERE id = {Bookmark.objects.order_by('pk')[0].pk}")
    cases = Cases()
    for name, (read, difference) in reads.items():
        with cases.case(name):
            with EVERY_HIT, alarms() as found:
                assert read() == truth(read)
            assert [event.difference for event in found] == [difference]
    cases.check()


@pytest.mark.usefixtures("library")
def test_other_order_is_found_where_there_is_one():
    """A write that only moves rows within the order of a statement is found."""

    def by_age():
        return list(Author.objects.exclude(age=None).order_by("age").values_list("name", flat=True))

    assert assert_cached(by_age)[1][0][1] == "'Ada'"
    hidden(f"UPDATE {table_of(Author)} SET age = 99 WHERE name = 'Ada'")
    with EVERY_HIT, alarms() as found:
        assert by_age() == ["Cy", "Ada"]
    assert [event.difference for event in found] == ["the same rows in another order"]


# What is not taken for a fault.


@RAISING
def test_nothing_is_found_where_nobody_hides(library):
    """All kinds of values and shapes, read before and after writes that are seen: no difference."""
    reads = [
        names,
        lambda: list(Book.objects.all()),
        lambda: list(Book.objects.order_by()),
        lambda: list(Book.objects.values_list("payload", "meta", "price", "created", "published", "uuid")),
        lambda: list(Book.objects.select_related("author").prefetch_related("tags", "chapters")),
        lambda: list(Author.objects.annotate(Count("books"), Sum("books__price"))),
        lambda: list(Author.objects.values("age").distinct()),
        Book.objects.count,
        lambda: Book.objects.filter(pages__gt=1).exists(),
        lambda: Book.objects.filter(pages__gt=10_000).first(),
        lambda: Book.objects.aggregate(Sum("price"), Sum("pages")),
        lambda: list(Book.objects.iterator(chunk_size=1)),
        lambda: list(Book.objects.filter(pages__gt=10_000).iterator()),
        lambda: list(Author.objects.order_by().union(Author.objects.order_by().filter(age=1), all=True)),
        lambda: list(Pizzeria.objects.all()),
        lambda: list(Category.objects.filter(parent__parent=None)),
        lambda: list(Book.objects.none()),
    ]

    def read_all():
        with watch() as seen:
            for read in reads:
                assert_true(read)
                assert_true(read)
        return seen

    read_all()
    Book.objects.update(pages=7)
    library.authors[0].delete()
    with alarms() as found:
        seen = read_all()
    assert not found
    assert sum(read.audited for read in seen.reads) > len(reads)
    assert all(read.decision.outcome is Outcome.HIT for read in seen.reads if read.audited)


@pytest.mark.usefixtures("_kept")
@RAISING
def test_write_before_the_database_is_asked_is_no_alarm(other_connection):
    """A commit between the hit and the audit gives the caller the new rows, and nobody an alarm."""

    def write():
        other_connection(lambda: Author.objects.filter(name="Ada").update(name="new"))

    with watch() as seen, during_read("between LOOK and SELECT", write):
        assert names()[0] == "new"
    assert [one.reason for one in seen.decisions if one.reason is not Reason.RAW] == [Reason.CHANGED]


@pytest.mark.usefixtures("_kept")
@RAISING
def test_write_after_the_database_was_asked_is_no_alarm(other_connection):
    """A commit between the audit and the second look at the tokens changes nothing for the caller."""
    let_readers_not_block_writers()

    def write():
        other_connection(lambda: Author.objects.filter(name="Ada").update(name="new"))

    with at_statement("SELECT", write, after=True):
        assert names()[0] == "Ada"
    assert names()[0] == "new"


@pytest.mark.usefixtures("_kept")
@RAISING
def test_commit_in_flight_is_no_alarm():
    """Committed, but not reported yet: the mark is there, so nothing is said."""
    with stepping() as step:
        writers = []

        def write():
            writer = step(lambda: Author.objects.filter(name="Ada").update(name="new"), {"COMMIT", "DONE"})
            writer.step()
            writers.append(writer)

        with at_statement("SELECT", write):
            assert names()[0] == "new"
        assert not writers[0].ended
        writers[0].finish()
    assert names()[0] == "new"


@contextmanager
def turned_round():
    """The database returns rows that have no order the other way round."""
    if connection.vendor == "sqlite":
        hidden("PRAGMA reverse_unordered_selects = ON")
        try:
            yield
        finally:
            hidden("PRAGMA reverse_unordered_selects = OFF")
    else:
        # A row that was written moves to the end of its table.
        hidden(f"UPDATE {table_of(Author)} SET name = name WHERE name = 'Ada'")
        yield


@pytest.mark.databases("sqlite", "postgresql")
@RAISING
def test_rows_without_order_may_turn_round(library):
    """A statement without ORDER BY returns a set: its rows are compared as one."""

    def unordered():
        return list(Author.objects.order_by().values_list("name", "age"))

    before = evaluated(unordered())
    assert unordered() == before
    with turned_round():
        assert truth(unordered) != before
        assert sorted(unordered(), key=str) == sorted(before, key=str)


@pytest.mark.databases("sqlite", "postgresql")
@RAISING
def test_some_rows_of_many_may_be_others(library):
    """LIMIT without ORDER BY may return any rows: only their number counts."""

    def some():
        return list(Author.objects.order_by().values_list("name", flat=True)[:1])

    before = some()
    assert some() == before
    with turned_round():
        assert truth(some) != before
        assert some() == before


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
@override_settings(CACHALOT_AUDIT_RATE=1.0, CACHALOT_AUDIT_RAISE=True, CACHALOT_REPLICAS={"other": "default"})
def test_lagging_replica_is_no_alarm(library):
    """A replica shares the results of its primary, and may be behind it: it is not audited."""

    def there():
        return list(Author.objects.using("other").values_list("name", flat=True))

    assert names() == ["Ada", "Bob", "Cy"]
    assert truth(there) == []
    with watch() as seen:
        assert there() == ["Ada", "Bob", "Cy"]
    assert [(read.decision.outcome, read.audited) for read in seen.reads] == [(Outcome.HIT, False)]


@override_settings(CACHALOT_AUDIT_RATE=1.0, CACHALOT_AUDIT_RAISE=True, CACHALOT_CACHE_RANDOM=True)
def test_random_order_is_not_audited(library):
    """Who caches a random order wants the same one again."""

    def some():
        return list(Author.objects.order_by("?"))

    some()
    with watch() as seen:
        for _ in range(20):
            some()
    assert {(read.decision.outcome, read.audited) for read in seen.reads} == {(Outcome.HIT, False)}


# Transactions.


@pytest.mark.usefixtures("library")
def test_own_result_of_a_transaction_is_audited():
    """Also what only this transaction may see is compared; what it has written itself is no alarm."""
    with transaction.atomic(), EVERY_HIT:
        Author.objects.filter(name="Bob").update(name="mine")
        with alarms() as found, watch() as seen:
            assert names() == names() == ["Ada", "mine", "Cy"]
        assert not found
        assert seen.hits == 1
        assert seen.reads[-1].audited
        rename()
        with alarms() as found:
            assert names() == ["hidden", "mine", "Cy"]
        assert len(found) == 1
        with override_settings(CACHALOT_AUDIT_RATE=0), watch() as seen:
            assert names() == ["hidden", "mine", "Cy"]
        assert not seen.hits
        transaction.set_rollback(True)
    assert names() == ["Ada", "Bob", "Cy"]


@postgresql
@pytest.mark.usefixtures("_kept")
def test_unseen_write_that_is_rolled_back_is_not_kept():
    """The rows that an audit read inside a transaction are nobody else's."""
    with transaction.atomic(), EVERY_HIT:
        rename()
        with alarms() as found:
            assert names()[0] == "hidden"
        assert len(found) == 1
        transaction.set_rollback(True)
    assert_true(names)
    assert names()[0] == "Ada"


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.usefixtures("_kept")
@RAISING
def test_snapshot_is_audited_as_it_is(other_connection):
    """What others commit after a snapshot was taken is not a difference to it."""
    let_readers_not_block_writers()
    with transaction.atomic():
        if connection.vendor == "postgresql":
            execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        list(Tag.objects.all())
        with watch() as seen:
            assert names()[0] == "Ada"
            other_connection(lambda: Author.objects.filter(name="Ada").update(name="new"))
            for _ in range(3):
                assert names()[0] == "Ada"
    assert (seen.reads[0].decision.outcome, seen.reads[0].audited) == (Outcome.HIT, True)
    assert (seen.reads[-1].decision.outcome, seen.reads[-1].audited) == (Outcome.HIT, True)
    assert names()[0] == "new"


@postgresql
@pytest.mark.usefixtures("_kept")
def test_error_of_an_audit_does_not_end_the_transaction(caplog):
    """PostgreSQL refuses everything after an error; a read that is answered from the cache has none."""

    def fail(execute, sql, params, many, context):
        wanted = sql.startswith("SELECT")
        return execute("SELECT 1/0", None, many, context) if wanted else execute(sql, params, many, context)

    with EVERY_HIT, transaction.atomic():
        with connection.execute_wrapper(fail):
            assert names()[0] == "Ada"
        assert "could not be audited: DataError" in caplog.text
        Author.objects.filter(name="Ada").update(name="new")
    assert names()[0] == "new"
    assert names()[0] == "new"
    with RAISING, pytest.raises(DataError), connection.execute_wrapper(fail):
        names()


@postgresql
@pytest.mark.usefixtures("_kept")
def test_interruption_of_an_audit_is_heard():
    """Ctrl-C in an audit reaches the caller, who would otherwise commit nothing, in silence."""

    def interrupt(execute, sql, params, many, context):
        if not sql.startswith("SELECT"):
            return execute(sql, params, many, context)
        with suppress(DataError):
            execute("SELECT 1/0", None, many, context)
        raise KeyboardInterrupt

    def inside():
        with transaction.atomic():
            Author.objects.create(name="new", age=1)
            with connection.execute_wrapper(interrupt):
                names()

    with EVERY_HIT, pytest.raises(KeyboardInterrupt):
        inside()
    assert "new" not in names()


@postgresql
@pytest.mark.usefixtures("_kept")
@RAISING
def test_transaction_without_savepoints_is_not_audited():
    """Nothing could protect a transaction that a statement began."""
    rename()
    execute("BEGIN")
    with watch() as seen:
        assert names()[0] == "Ada"
    assert [read.audited for read in seen.reads] == [False]
    execute("ROLLBACK")


# How it behaves.


@pytest.mark.usefixtures("_kept")
def test_error_of_the_database_leaves_the_hit(caplog):
    """What the cache can answer is answered; with CACHALOT_AUDIT_RAISE the error is raised."""

    def fail(*_args):
        raise OperationalError("too many connections for Ada")

    with EVERY_HIT, connection.execute_wrapper(fail):
        assert names()[0] == "Ada"
    assert "OperationalError" in caplog.text
    assert "for Ada" not in caplog.text
    with RAISING, connection.execute_wrapper(fail), pytest.raises(OperationalError):
        names()


@pytest.mark.usefixtures("_kept")
def test_rate_decides_how_many_are_audited(monkeypatch):
    """Of the hits that share, no miss, and without a rate none."""
    drawn = iter([0.1, 0.3, 0.24, 0.25])
    monkeypatch.setattr(auditing, "random", SimpleNamespace(random=lambda: next(drawn)))
    with override_settings(CACHALOT_AUDIT_RATE=0.25), watch() as seen:
        for _ in range(4):
            names()
        list(Tag.objects.all())
    assert [read.audited for read in seen.reads] == [True, False, True, False, False]
    assert_hit(names)


@pytest.mark.usefixtures("_kept")
def test_error_is_raised_where_it_is_asked_for():
    """With CACHALOT_AUDIT_RAISE a difference fails the test that meets it, once."""
    rename()
    with RAISING, pytest.raises(AuditError, match="1 of 3 rows differ"):
        names()
    assert names()[0] == "hidden"


@pytest.mark.usefixtures("library")
def test_signal_has_the_statement_and_the_log_has_no_values(caplog):
    """Who listens is given the parameters; the log is not. A receiver that fails breaks nothing."""
    told = []

    def listen(sender, **kwargs):
        told.append((sender, kwargs))
        raise RuntimeError("receiver")

    def secret():
        return list(Author.objects.filter(name__startswith="Ad").values_list("name", "age"))

    assert_cached(secret)
    hidden(f"UPDATE {table_of(Author)} SET age = 4711 WHERE name = 'Ada'")
    audit_failed.connect(listen)
    try:
        with EVERY_HIT, caplog.at_level(logging.ERROR, "cachalot"):
            assert secret() == [("Ada", 4711)]
    finally:
        audit_failed.disconnect(listen)
    ((sender, kwargs),) = told
    assert sender == "default"
    assert kwargs["sql"].startswith("SELECT")
    assert "Ad%" in str(kwargs["params"])
    assert kwargs["tables"] == {"testapp_author"}
    assert kwargs["tags"] == ("*", "any(testapp_author)")
    assert kwargs["difference"] == "1 of 1 rows differ (column 2 of the statement)"
    (logged,) = [one.getMessage() for one in caplog.records if one.name == "cachalot"]
    assert "any(testapp_author)" in logged
    assert "SELECT" in logged
    assert "4711" not in logged
    assert "Ad%" not in logged


@pytest.mark.usefixtures("library")
def test_iterator_stays_lazy(monkeypatch):
    """No more rows are fetched to compare than were kept and one chunk; the caller gets all of them."""
    seen = []
    original = auditing.difference

    def difference(kept, now, order):
        seen.append((len(kept), len(now)))
        return original(kept, now, order)

    monkeypatch.setattr(auditing, "difference", difference)

    def pages():
        return Bookmark.objects.order_by("pk").values_list("page", flat=True).iterator(chunk_size=10)

    assert len(list(pages())) == 4
    book = Book.objects.first()
    rows = ", ".join(f"({book.pk}, {number})" for number in range(100))
    hidden(f"INSERT INTO {table_of(Bookmark)} (book_id, page) VALUES {rows}")
    with EVERY_HIT, alarms() as found:
        iterator = pages()
        assert not seen
        assert next(iterator) == 7
        assert seen == [(4, 10)]
        assert [7, *iterator] == [7, 7, 7, 7, *range(100)]
    assert [event.difference for event in found] == ["4 rows were kept, the database has more"]


@pytest.mark.usefixtures("library")
def test_abandoned_iterator_closes_its_cursor(monkeypatch):
    """Who stops early leaves no cursor open, also when an audit handed the rows on, or raised."""
    fetched = []
    original = auditing._fetch

    def fetch(request, enough):
        fetched.append(original(request, enough))
        return fetched[-1]

    monkeypatch.setattr(auditing, "_fetch", fetch)

    def titles():
        return Book.objects.order_by("pk").values_list("title", flat=True).iterator(chunk_size=1)

    assert len(list(titles())) == 4
    rows = f"SELECT title, author_id, 0, uuid FROM {table_of(Book)}"
    hidden(f"INSERT INTO {table_of(Book)} (title, author_id, pages, uuid) {rows}")
    with EVERY_HIT:
        iterator = titles()
        assert next(iterator) == "Book 1"
        assert fetched[0].rest.gi_frame is not None
        iterator.close()
    assert fetched[0].rest.gi_frame is None
    hidden(f"DELETE FROM {table_of(Book)} WHERE pages = 0")
    assert len(list(titles())) == 4
    hidden(f"INSERT INTO {table_of(Book)} (title, author_id, pages, uuid) {rows}")
    with RAISING, pytest.raises(AuditError):
        list(titles())
    assert fetched[1].rest.gi_frame is None
