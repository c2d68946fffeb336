"""Reads of every shape: the same rows on a hit as on a miss, in value and in type, each caller's own."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from uuid import UUID

import django
import pytest
from django.core.exceptions import EmptyResultSet
from django.db import connection, connections
from django.db.models import Avg, Count, Max, Sum
from django.db.models.sql.compiler import SQLCompiler
from django.db.models.sql.constants import CURSOR, MULTI, NO_RESULTS, SINGLE

from cachalot.api import invalidate
from cachalot.core.decisions import Outcome
from cachalot.testing import watch
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_hit,
    assert_refreshed_by,
    assert_true,
    execute,
    plain,
    run,
    uncached,
)
from tests.testapp.models import Author, Book, Chapter, LongBook, Pizzeria, Tag

pytestmark = pytest.mark.django_db(transaction=True)

READS = {
    "list": lambda: list(Author.objects.all()),
    "get": lambda: Author.objects.get(name="Ada"),
    "get by a unique column": lambda: Tag.objects.get(name="red"),
    "first": Author.objects.first,
    "last": Author.objects.last,
    "first of nothing": lambda: Author.objects.filter(name="nobody").first(),
    "latest": lambda: Book.objects.latest("published"),
    "earliest": lambda: Book.objects.earliest("published"),
    "count": Author.objects.count,
    "count of nothing": lambda: Author.objects.filter(name="nobody").count(),
    "count of distinct": lambda: Book.objects.values("author").distinct().count(),
    "exists": Author.objects.exists,
    "does not exist": lambda: Author.objects.filter(name="nobody").exists(),
    "contains": lambda: Author.objects.contains(Author(pk=1)),
    "aggregate": lambda: Book.objects.aggregate(Count("pk"), Max("pages"), Avg("price"), Sum("pages")),
    "aggregate of nothing": lambda: Book.objects.filter(pages=-1).aggregate(Max("pages"), n=Count("pk")),
    "aggregate of dates": lambda: Book.objects.aggregate(Max("published"), Max("created")),
    "values": lambda: list(Book.objects.values("title", "price")),
    "values list": lambda: list(Book.objects.values_list("title", "price")),
    "named values list": lambda: list(Book.objects.values_list("title", "price", named=True)),
    "flat values list": lambda: list(Book.objects.values_list("price", flat=True)),
    "nothing found": lambda: list(Author.objects.filter(name="nobody")),
    "only": lambda: [book.title for book in Book.objects.only("title")],
    "deferred": lambda: list(Book.objects.defer("title", "payload")),
    "slice": lambda: list(Book.objects.all()[1:3]),
    "item": lambda: Book.objects.all()[2],
    "step": lambda: Book.objects.all()[0:4:2],
    "reversed": lambda: list(Book.objects.reverse()),
    "in bulk": Tag.objects.in_bulk,
    "in bulk by keys": lambda: Tag.objects.in_bulk(["red"], field_name="name"),
    "iterator": lambda: list(Author.objects.iterator()),
    "iterator in chunks": lambda: list(Author.objects.iterator(chunk_size=2)),
    "iterator of values": lambda: list(Author.objects.values_list("pk", "name").iterator(chunk_size=1)),
    "iterator with prefetch": lambda: list(Author.objects.prefetch_related("books").iterator(chunk_size=2)),
    "iterator of nothing": lambda: list(Author.objects.filter(name="nobody").iterator()),
    "dates": lambda: list(Book.objects.dates("published", "month")),
    "datetimes": lambda: list(Book.objects.datetimes("created", "day")),
    "prefetch": lambda: list(Author.objects.prefetch_related("books__tags")),
    "select related": lambda: list(Chapter.objects.select_related("book__author")),
    "extra select": lambda: list(Author.objects.extra(select={"loud": "UPPER(name)"})),
    "annotated": lambda: list(Author.objects.annotate(n=Count("books"))),
    "proxy": lambda: list(LongBook.objects.all()),
    "child": Pizzeria.objects.get,
    "forward relation": lambda: Book.objects.get(title="Book 1").author,
    "reverse relation": lambda: list(Author.objects.get(name="Ada").books.all()),
    "many to many": lambda: list(Book.objects.get(title="Book 1").tags.all()),
    "deferred field": lambda: Book.objects.only("title").first().pages,
    "refreshed": lambda: refreshed(Book.objects.first()),
    "union": lambda: list(names(Author).union(names(Tag)).order_by("name")),
}


def names(model):
    """Without an order."""
    return model.objects.order_by().values_list("name")


def refreshed(instance):
    """Read again by its key."""
    instance.refresh_from_db()
    return instance


def test_read_of_every_shape_is_cached(library):
    """What comes from the cache equals what comes from the database in value and in type."""
    cases = Cases()
    for name, read in READS.items():
        with cases.case(name):
            assert_cached(read)
    cases.check()


def test_read_of_every_shape_is_fresh_after_a_write(library):
    """And again after the tables have changed."""
    for read in READS.values():
        assert_true(read)
    Author.objects.create(name="Dee", age=1)
    Tag.objects.create(name="black")
    Book.objects.filter(title="Book 3").update(price=Decimal("1.00"), pages=1)
    cases = Cases()
    for name, read in READS.items():
        with cases.case(name):
            assert_true(read)
    cases.check()


def test_read_that_needs_no_statement_sends_none(library):
    """``none()`` and impossible filters are answered by Django itself, with the cache as without."""
    cases = Cases()
    for name, read in {
        "none": lambda: list(Author.objects.none()),
        "in nothing": lambda: list(Author.objects.filter(pk__in=[])),
        "count": lambda: Author.objects.filter(pk__in=[]).count(),
        "exists": lambda: Author.objects.filter(pk__in=[]).exists(),
        "aggregate": lambda: Author.objects.filter(pk__in=[]).aggregate(Count("pk"), Max("age")),
        "first": lambda: Author.objects.none().first(),
        "iterator": lambda: list(Author.objects.filter(pk__in=[]).iterator()),
        "union": lambda: list(Author.objects.none().union(Author.objects.none())),
        "slice": lambda: list(Author.objects.all()[0:0]),
    }.items():
        with cases.case(name):
            for _ in range(2):
                value, sent = run(read)
                assert not sent
                assert value == uncached(read)
    cases.check()
    with pytest.raises(EmptyResultSet):
        Author.objects.filter(pk__in=[]).query.get_compiler("default").as_sql()


def test_error_of_a_read_is_the_same_on_a_hit(library):
    """Too few and too many rows raise what Django raises."""
    for _ in range(3):
        with pytest.raises(Author.DoesNotExist):
            Author.objects.get(name="nobody")
        with pytest.raises(Author.MultipleObjectsReturned):
            Author.objects.get()
        with pytest.raises(Book.DoesNotExist):
            Book.objects.filter(pages=-1).latest("published")


def test_hit_has_the_types_of_the_database(library):
    """Dates, decimals, UUIDs, JSON, bytes and moments with a zone come back as what they are."""
    expected = {
        "price": Decimal("9.90"),
        "published": dt.date(2021, 1, 31),
        "uuid": UUID(int=1),
        "meta": {"n": 1, "list": [1, {"deep": None}]},
        "created": dt.datetime(2024, 3, 31, 23, 30, 1, 5, tzinfo=dt.timezone.utc),
        "pages": 100,
        "title": "Book 1",
    }
    for _ in range(2):
        book = Book.objects.first()
        for name, value in expected.items():
            assert getattr(book, name) == value
            assert type(getattr(book, name)) is type(value)
        assert bytes(book.payload) == b"\x00\xff\x01"
        assert book.created.utcoffset() == dt.timedelta(0)


def test_every_column_of_a_row_is_cached(library):
    """No type of a column keeps its row out of the cache; a column alone says which one does."""
    cases = Cases()
    for field in Book._meta.concrete_fields:
        with cases.case(field.name):
            assert_cached(lambda field=field: list(Book.objects.values_list(field.name, flat=True)))
    with cases.case("all"):
        assert_cached(lambda: list(Book.objects.all()))
    with cases.case("empty"):
        Book.objects.update(price=None, published=None, meta=None, payload=None, created=None)
        assert_cached(lambda: list(Book.objects.all()))
    cases.check()


def test_caller_that_changes_its_rows_changes_nobody_elses(library):
    """Each hit has its own lists, dictionaries and bytes."""

    def metas():
        return list(Book.objects.values_list("meta", flat=True))

    def books():
        return list(Book.objects.all())

    truth = uncached(metas), uncached(books)
    for _ in range(3):
        for meta in metas():
            meta["list"].append("mine")
            meta.clear()
        for book in books():
            book.meta["list"][1]["deep"] = "mine"
            book.title = "mine"
            book.author_id = -1
        assert (plain(metas()), plain(books())) == truth
    rows = metas()
    rows.clear()
    assert plain(metas()) == truth[0]


@pytest.mark.databases("postgresql")
def test_caller_that_changes_an_array_changes_nobody_elses(library):
    """A list that the driver made is a list of its own for each caller."""

    def lists():
        from django.contrib.postgres.aggregates import ArrayAgg

        everything = (
            Author.objects.order_by().annotate(a=ArrayAgg("books__title")).values_list("a", flat=True)
        )
        return [*everything, Author.objects.aggregate(a=ArrayAgg("name"))["a"]]

    for _ in range(3):
        for found in lists():
            found.append("mine")
    assert all("mine" not in found for found in lists())
    assert_cached(lists)


def test_evaluated_queryset_keeps_its_rows(library):
    """A queryset is as lazy and as stubborn with the cache as without."""
    queryset = Author.objects.all()
    with watch() as seen:
        assert len(queryset) == 3
        assert list(queryset) == list(queryset)
        bool(queryset)
        queryset[1]
    assert len(seen.reads) == 1
    Author.objects.create(name="later")
    assert len(queryset) == 3
    assert len(queryset.all()) == 4


def test_hit_opens_no_connection(library):
    """What is in the cache needs no database."""
    reads = [
        READS[name]
        for name in ("list", "get", "count", "exists", "aggregate", "iterator", "prefetch", "in bulk")
    ]
    for read in reads:
        read()
    connection.close()
    assert connection.connection is None
    with watch() as seen:
        values = [plain(read()) for read in reads]
    assert connection.connection is None
    assert {decision.outcome for decision in seen.decisions} == {Outcome.HIT}
    assert values == [uncached(read) for read in reads]


def test_statement_is_compiled_once_per_miss_and_once_per_hit(library, monkeypatch):
    """Looking up costs no second compilation, but when a process meets a text for the first time."""
    calls = []
    original = SQLCompiler.as_sql

    def as_sql(self, *args, **kwargs):
        calls.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SQLCompiler, "as_sql", as_sql)
    for read in (
        READS["list"],
        READS["count"],
        READS["exists"],
        READS["aggregate"],
        READS["get"],
        READS["iterator"],
    ):
        read()
        invalidate(Author, Book)
        calls.clear()
        read()
        assert len(calls) == 1, "miss"
        calls.clear()
        read()
        assert len(calls) == 1, "hit"
    calls.clear()
    list(Author.objects.order_by("?"))
    assert len(calls) == 1, "bypass"


def test_compiler_answers_in_the_shape_that_is_asked_for(library):
    """``execute_sql`` gives chunks, one row, a cursor or nothing, on a hit as on a miss."""

    def compiler():
        return Author.objects.all().query.get_compiler("default")

    first = Author.objects.first()
    for _ in range(2):
        chunks = compiler().execute_sql(MULTI)
        assert next(tuple(row) for chunk in chunks for row in chunk) == (first.pk, "Ada", 36)
        row = compiler().execute_sql(SINGLE)
        assert tuple(row) == (first.pk, "Ada", 36)
        cursor = compiler().execute_sql(CURSOR)
        assert len(cursor.fetchall()) == 3
        cursor.close()
        assert not compiler().execute_sql(NO_RESULTS)
        chunks = compiler().execute_sql(MULTI, chunked_fetch=True, chunk_size=2)
        assert not isinstance(chunks, (list, tuple))
        assert sum(len(chunk) for chunk in chunks) == 3
        assert compiler().has_results()


async def _asynchronously(queryset):
    return {
        "get": await queryset.aget(name="Ada"),
        "first": await queryset.afirst(),
        "last": await queryset.alast(),
        "count": await queryset.acount(),
        "exists": await queryset.aexists(),
        "aggregate": await queryset.aaggregate(Max("age")),
        "in bulk": await queryset.ain_bulk(),
        "list": [author async for author in queryset.all()],
        "iterator": [author async for author in queryset.aiterator(chunk_size=2)],
        "values": [row async for row in queryset.values_list("name", "age")],
    }


def test_asynchronous_read_of_every_shape_is_cached(library):
    """The asynchronous methods take the same way, in the same thread."""

    def read():
        return asyncio.run(_together())

    async def _together():
        from asgiref.sync import sync_to_async

        found = await _asynchronously(Author.objects.all())
        await sync_to_async(connections.close_all)()
        return found

    truth = uncached(read)
    assert plain(read()) == truth
    with watch() as seen:
        assert plain(read()) == truth
    assert {decision.outcome for decision in seen.decisions} == {Outcome.HIT}
    Author.objects.create(name="Dee")
    assert plain(read()) == uncached(read) != truth


def test_asynchronous_write_refreshes(library):
    """``asave`` and ``aupdate`` are writes like others."""

    async def write():
        from asgiref.sync import sync_to_async

        await Author.objects.acreate(name="async")
        await Author.objects.filter(name="async").aupdate(age=5)
        await Author.objects.abulk_create([Author(name="more")])
        await sync_to_async(connections.close_all)()

    assert_refreshed_by(Author.objects.all, lambda: asyncio.run(write()))


def test_reads_of_an_iterator_and_of_a_list_are_one_entry(library):
    """The same statement is stored once, however its rows were fetched."""
    assert_cached(lambda: list(Author.objects.iterator()))
    assert_hit(lambda: list(Author.objects.all()))
    Author.objects.update(age=1)
    assert_cached(lambda: list(Author.objects.all()))
    assert_hit(lambda: list(Author.objects.iterator(chunk_size=1)))


@pytest.mark.skipif(django.VERSION < (5, 2), reason="composite keys came with Django 5.2")
@pytest.mark.granularity("table")
def test_composite_keys_are_cached(library):
    """Two columns are one key."""
    from tests.testapp.models import Seat

    cases = Cases()
    for name, read in {
        "get": lambda: Seat.objects.get(pk=(1, 2)),
        "in": lambda: list(Seat.objects.filter(pk__in=[(1, 2), (2, 2)]).order_by("pk")),
        "values": lambda: list(Seat.objects.order_by("pk").values_list("pk", "guest")),
        "count": Seat.objects.count,
    }.items():
        with cases.case(name):
            assert_refreshed_by(read, lambda: Seat.objects.filter(row=1).update(guest="new"))
    cases.check()


def test_raw_rows_between_two_reads_are_seen(library):
    """Rows that a cursor added are there in the next read of every shape."""
    for name in ("list", "count", "iterator", "aggregate"):
        assert_true(READS[name])
    execute("INSERT INTO testapp_author (name, age) VALUES ('raw', 200)")
    for name in ("list", "count", "iterator", "aggregate"):
        assert_true(READS[name])
