"""The laws of a read as functions, and a small library of rows to read.

A *read* is a callable without arguments that asks the ORM and returns what it got. Every function here runs
it cached and uncached and compares both in value and in type, so that no test can pass with wrong rows.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID

import django
from django.contrib.contenttypes.models import ContentType
from django.db import connection, connections, models
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from cachalot.api import cachalot_disabled
from cachalot.core.decisions import Outcome, Reason
from cachalot.orm.connection import session_of
from cachalot.testing import watch
from tests.testapp.models import (
    Author,
    Book,
    Bookmark,
    Category,
    Chapter,
    Friendship,
    MixedCase,
    NullFK,
    Person,
    Pizzeria,
    Place,
    Restaurant,
    Review,
    Tag,
)

Read = Callable[[], Any]
Write = Callable[[], Any]

_counter = itertools.count(1000)


def new_number() -> int:
    """A number that no row of any test has yet."""
    return next(_counter)


def plain(value: Any, inside: tuple[models.Model, ...] = ()) -> Any:
    """A value with the types of all its parts beside it, so that ``1 == True == Decimal(1)`` proves nothing.

    :param inside: the instances around it, for related objects point back at each other.
    """
    if isinstance(value, models.Model):
        if any(value is one for one in inside):
            return (type(value).__name__, value.pk)
        inside = (*inside, value)
        fields = {key: one for key, one in vars(value).items() if key != "_state"}
        return (type(value).__name__, plain({**fields, **value._state.fields_cache}, inside))
    if isinstance(value, QuerySet):
        return plain(list(value), inside)
    if isinstance(value, Mapping):
        return ("mapping", [(key, plain(one, inside)) for key, one in value.items()])
    if isinstance(value, (list, tuple)):
        return (type(value).__name__, [plain(one, inside) for one in value])
    if isinstance(value, Iterator):
        return plain(list(value), inside)
    if isinstance(value, memoryview):
        return ("memoryview", bytes(value))
    return (type(value).__name__, repr(value))


def uncached(read: Read) -> Any:
    """What the database says."""
    with cachalot_disabled():
        return plain(read())


def run(read: Read, alias: str = "default") -> tuple[Any, list[str]]:
    """What a read returns, and the statements it sent."""
    with CaptureQueriesContext(connections[alias]) as sent:
        value = plain(read())
    return value, [query["sql"] for query in sent.captured_queries]


def assert_true(read: Read) -> Any:
    """Whatever the cache holds, the read tells the truth."""
    truth = uncached(read)
    value = plain(read())
    assert value == truth
    return value


def assert_hit(read: Read, alias: str = "default") -> Any:
    """The read sends no statement, and tells the truth."""
    value, sent = run(read, alias)
    assert not sent, f"not answered from the cache: {sent}"
    assert value == uncached(read)
    return value


def assert_missed(read: Read, alias: str = "default") -> Any:
    """The read sends statements, and tells the truth."""
    value, sent = run(read, alias)
    assert sent, "answered from the cache"
    assert value == uncached(read)
    return value


def assert_cached(read: Read, alias: str = "default") -> Any:
    """The read is answered from the cache from its second time on."""
    assert_true(read)
    return assert_hit(read, alias)


def assert_not_cached(read: Read, *reasons: Reason) -> None:
    """Every read of the same reaches the database, for one of the reasons."""
    for _ in range(2):
        with watch() as seen:
            read()
        assert seen.decisions, "nothing was read"
        for decision in seen.decisions:
            assert decision.outcome is Outcome.BYPASS, str(decision)
            assert not reasons or decision.reason in reasons, str(decision)


def assert_refreshed_by(read: Read, write: Write, alias: str = "default") -> None:
    """After a write the read asks the database again."""
    assert_cached(read, alias)
    write()
    renew(alias)
    value, sent = run(read, alias)
    assert value == uncached(read), "stale"
    assert sent, "the write was not noticed"


def renew(alias: str = "default") -> None:
    """Connect anew after code of the database has run, whose settings nobody has seen."""
    one = connections[alias]
    session = session_of(one)
    if session is not None and session.settings.unknown and not one.in_atomic_block:
        one.close()


def assert_kept_through(read: Read, write: Write, alias: str = "default") -> None:
    """A write of something else costs the read nothing."""
    assert_cached(read, alias)
    write()
    assert_hit(read, alias)


def execute(sql: str, params: Any = None, alias: str = "default") -> None:
    """Send a statement through a cursor, as a project does."""
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, params)


def execute_driver(sql: str) -> None:
    """Send a statement where nobody but the driver sees it."""
    connection.ensure_connection()
    cursor = connection.connection.cursor()
    cursor.execute(sql)
    cursor.close()


def quoted(name: str) -> str:
    """A name as the database wants it quoted."""
    return connection.ops.quote_name(name)


def table_of(model: type[models.Model]) -> str:
    """The quoted table of a model."""
    return quoted(model._meta.db_table)


class Library:
    """A few rows in every table, so that no join is empty.

    :ivar authors: three.
    :ivar books: four, two of the first author.
    """

    def __init__(self) -> None:
        self.authors = [
            Author.objects.create(name=name, age=age)
            for name, age in (("Ada", 36), ("Bob", None), ("Cy", 80))
        ]
        self.tags = [Tag.objects.create(name=name) for name in ("red", "green", "blue")]
        when = dt.datetime(2024, 2, 29, 23, 30, 1, 5, tzinfo=dt.timezone.utc)
        self.books = [
            Book.objects.create(
                title=f"Book {number}",
                author=self.authors[owner],
                pages=100 * number,
                price=Decimal("9.90") * number,
                published=dt.date(2020 + number, 1, 31),
                uuid=UUID(int=number),
                meta={"n": number, "list": [number, {"deep": None}]},
                payload=b"\x00\xff" + bytes([number]),
                created=when + dt.timedelta(days=31 * number),
            )
            for number, owner in ((1, 0), (2, 0), (3, 1), (4, 2))
        ]
        self.books[0].tags.set(self.tags[:2])
        self.books[2].tags.set(self.tags[1:])
        self.chapters = Chapter.objects.bulk_create(
            Chapter(book=book, number=number, title=f"{book.title}/{number}")
            for book in self.books[:3]
            for number in (1, 2)
        )
        self.bookmarks = [Bookmark.objects.create(book=book, page=7) for book in self.books]
        self._rest()

    def _rest(self) -> None:
        kind = ContentType.objects.get_for_model(Book)
        kinds = ContentType.objects.get_for_model(Author)
        Review.objects.create(content_type=kind, object_id=self.books[0].pk, text="good", stars=5)
        Review.objects.create(content_type=kind, object_id=self.books[2].pk, text="bad", stars=1)
        Review.objects.create(content_type=kinds, object_id=self.authors[0].pk, text="who?")
        Place.objects.create(name="Park")
        Restaurant.objects.create(name="Chez", stars=2, cook=self.authors[0])
        Pizzeria.objects.create(name="Da", stars=1, cook=self.authors[1], oven="gas")
        top = Category.objects.create(name="top")
        middle = Category.objects.create(name="middle", parent=top)
        Category.objects.create(name="leaf", parent=middle)
        NullFK.objects.create(author=self.authors[0], note="mine")
        NullFK.objects.create(note="nobody's")
        people = [Person.objects.create(name=name) for name in ("Eve", "Fay")]
        Friendship.objects.create(person=people[0], friend=people[1], since=dt.date(2020, 1, 1))
        MixedCase.objects.create(value=1)
        if django.VERSION >= (5, 2):
            from tests.testapp.models import Seat

            Seat.objects.bulk_create(Seat(row=row, number=2, guest=f"guest {row}") for row in (1, 2, 3))
        if django.VERSION >= (5, 0):
            from tests.testapp.models import Rectangle

            Rectangle.objects.create(width=2, height=3)


class Cases:
    """Many cases of one law in one test, each reported by its name: to empty the database costs more."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Run one case; a failure waits until all have run."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - reported by the name of its case
            self._failed[name] = f"{type(error).__name__}: {error}"

    def check(self) -> None:
        """Fail if a case has failed."""
        assert not self._failed, "\n".join(f"[{name}] {text}" for name, text in self._failed.items())
