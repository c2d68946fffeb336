"""Two reads share a result only if statement, parameters and context are equal in type and in value."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import itertools
import sqlite3
from decimal import Decimal
from uuid import UUID

import pytest
from django.core.exceptions import FieldError
from django.db import connection, models
from django.db.models import F, Value
from django.db.models.expressions import RawSQL
from django.utils.functional import lazystr
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy
from hypothesis import assume, given
from hypothesis import strategies as st

from cachalot.core.decisions import Reason
from cachalot.utils import UncachableQuery, get_query_cache_key
from tests.acceptance.shapes import Cases, assert_cached, assert_not_cached, assert_true, plain
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.django_db(transaction=True)

#: Longer than what any driver shows of a value in its repr.
PREFIX = "x" * 60


class Colour(models.TextChoices):
    RED = "red"
    GREEN = "green"


class Size(models.IntegerChoices):
    SMALL = 100
    LARGE = 400


class Plain(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Named(str):
    """A text with nothing added but its class."""

    __slots__ = ()


class Stateful(str):  # noqa: SLOT000 - room for more is the point
    """A text that knows more than its characters; a driver might send that."""

    def __new__(cls, text, more):
        """Keep what it knows in an attribute."""
        made = super().__new__(cls, text)
        made.more = more
        return made


class PointStandIn:
    """What the key of a geometry is made from, without the libraries of GeoDjango."""

    def __init__(self, ewkb, srid=4326):
        self.is_geometry = True
        self.ewkb = ewkb
        self.srid = srid
        self.geography = False


PointStandIn.__module__ = "django.contrib.gis.db.backends.postgis.adapter"
PointStandIn.__qualname__ = "PostGISAdapter"


def each_has_its_own_rows(reads):
    """Run all, twice and in both orders: whatever is in the cache, each read finds its own rows there."""
    for read in (*reads, *reversed(reads)):
        assert_true(read)
    for read in reads:
        assert_cached(read)


def test_json_values_that_begin_alike_have_their_own_rows(library):
    """psycopg shortens the repr of a JSON parameter; the key is made of the whole value."""
    values = [{"customer": PREFIX + end} for end in ("a", "b")]
    for book, value in zip(library.books, values, strict=False):
        Book.objects.filter(pk=book.pk).update(meta=value)
    reads = [lambda value=value: Book.objects.filter(meta=value) for value in values]
    reads += [lambda value=value: Book.objects.filter(meta__customer=value["customer"]) for value in values]
    each_has_its_own_rows(reads)
    assert Book.objects.get(meta=values[0]).pk == library.books[0].pk
    assert Book.objects.get(meta=values[1]).pk == library.books[1].pk


def test_contained_json_values_that_begin_alike_have_their_own_rows(library):
    """The same for ``contains``, where the database has it."""
    if not connection.features.supports_json_field_contains:
        pytest.skip("no JSON contains on this database")
    values = [{"customer": PREFIX + end} for end in ("a", "b")]
    for book, value in zip(library.books, values, strict=False):
        Book.objects.filter(pk=book.pk).update(meta={**value, "more": 1})
    each_has_its_own_rows([lambda value=value: Book.objects.filter(meta__contains=value) for value in values])
    assert Book.objects.get(meta__contains=values[1]).pk == library.books[1].pk
    each_has_its_own_rows(
        [lambda one=one: Book.objects.filter(meta__n=one) for one in (1, "1", True, 1.5, [1], None)]
    )


def test_binary_values_that_begin_alike_have_their_own_rows(library):
    """The same for binary parameters, whose wrappers show their first bytes only."""
    values = [PREFIX.encode() + end for end in (b"\x00", b"\x01")]
    for book, value in zip(library.books, values, strict=False):
        Book.objects.filter(pk=book.pk).update(payload=value)
    each_has_its_own_rows(
        [lambda value=value: Book.objects.filter(payload=value).values_list("pk") for value in values]
    )
    assert Book.objects.filter(payload=values[1]).values_list("pk").get() == (library.books[1].pk,)


#: Values that look alike in pairs.
ALIKE = [
    (1, "1"),
    (1, True),
    (0, False),
    (1, Decimal(1)),
    (1, 1.0),
    (Decimal(1), Decimal("1.0")),
    (Decimal("1.10"), "1.10"),
    ("a", "a "),
    ("a", "A"),
    ("", None),
    ("None", None),
    ("", "\\"),
    (b"a", "a"),
    (dt.date(2020, 1, 1), dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)),
    (dt.date(2020, 1, 1), "2020-01-01"),
    (dt.time(1, 2), "01:02:00"),
    (dt.timedelta(seconds=1), 1000000),
    (UUID(int=1), UUID(int=1).hex),
    (UUID(int=1), str(UUID(int=1))),
    (2**31, -(2**31)),
    ("é", "é"),
]


def test_values_that_look_alike_have_their_own_rows(library):
    """The type of a parameter is part of the key: an annotation comes back as what it was sent as."""
    cases = Cases()
    for pair in ALIKE:
        with cases.case(str(pair)):
            reads = []
            for value in pair:

                def read(value=value):
                    return Author.objects.annotate(v=Value(value)).values_list("name", "v")

                try:
                    list(read())
                except (AttributeError, FieldError):  # Django wants to be told the type of some

                    def read(value=value):
                        return Author.objects.annotate(
                            v=Value(value, output_field=models.TextField())
                        ).values_list("name", "v")

                reads.append(read)
            for read in (*reads, *reversed(reads)):
                assert_true(read)
    cases.check()


def test_parameters_do_not_run_into_each_other(library):
    """Where one ends and the next begins is part of the key."""
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("a', 'b", "c"), ("a", "b', 'c")]
    each_has_its_own_rows(
        [
            lambda one=one, two=two: Author.objects.annotate(one=Value(one), two=Value(two)).values_list(
                "one", "two"
            )
            for one, two in pairs
        ]
    )


def test_shapes_of_one_statement_have_their_own_results(library):
    """``first()``, a slice of one and a list may be one text; each gets what it asks for."""
    one = Author.objects.order_by("pk")
    reads = [
        one.first,
        lambda: list(one[:1]),
        one[:1].get,
        lambda: list(one.values_list("id", "name", "age")[:1]),
        lambda: list(one.values("id", "name", "age")[:1]),
        lambda: list(one[:1].iterator()),
        one[:1].exists,
        one[:1].count,
        lambda: (
            one[:1].in_bulk() if connection.vendor is None else list(one.values_list("id", flat=True)[:1])
        ),
    ]
    each_has_its_own_rows(reads)


#: Parameters of every kind that a project filters by: what the read is, by name.
CACHED = {
    "text choice": lambda: Author.objects.filter(name=Colour.RED),
    "number choice": lambda: Book.objects.filter(pages=Size.SMALL),
    "choices in a list": lambda: Book.objects.filter(pages__in=list(Size)),
    "integer enum": lambda: Book.objects.filter(pages=Number.ONE),
    "value of an enum": lambda: Author.objects.filter(name=Plain.RED.value),
    "lazy string": lambda: Author.objects.filter(name=lazystr("Ada")),
    "translated string": lambda: Author.objects.filter(name=gettext_lazy("Ada")),
    "safe string": lambda: Author.objects.filter(name=SafeString("Ada")),
    "subclass of str": lambda: Author.objects.filter(name=Named("Ada")),
    "subclass of str as a value": lambda: Author.objects.annotate(v=Value(Named("Ada"), models.TextField())),
    "decimal": lambda: Book.objects.filter(price__gte=Decimal("9.90")),
    "date": lambda: Book.objects.filter(published__gt=dt.date(2021, 1, 1)),
    "time with a zone": lambda: Book.objects.filter(
        created__gt=dt.datetime(2021, 1, 1, tzinfo=dt.timezone.utc)
    ),
    "uuid": lambda: Book.objects.filter(uuid=UUID(int=2)),
    "uuids": lambda: Book.objects.filter(uuid__in={UUID(int=2)}),
    "json": lambda: Book.objects.filter(meta__list__0=1),
    "binary": lambda: Book.objects.filter(payload=b"\x00\xff\x01"),
    "memoryview": lambda: Book.objects.filter(payload=memoryview(b"\x00\xff\x01")),
    "instance": lambda: Book.objects.filter(author=Author(pk=1)),
    "generator": lambda: Author.objects.filter(pk__in=(number for number in (1, 2))),
    "range of numbers": lambda: Author.objects.filter(pk__in=range(5)),
    "between": lambda: Book.objects.filter(pages__range=(1, 250)),
    "duration": lambda: Book.objects.filter(created__gt=F("created") - dt.timedelta(days=1)),
}


def test_parameters_of_every_usual_type_are_cached(library):
    """No type that the ORM sends by itself keeps a read out of the cache."""
    cases = Cases()
    for name, read in CACHED.items():
        with cases.case(name):
            # Only the keys: what the driver gives back for a BinaryField is another law's business.
            assert_cached(lambda read=read: read().values_list("pk"))
    cases.check()


def test_enum_members_of_one_value_do_not_mislead(library):
    """A member finds the rows of its value."""
    Author.objects.create(name="red")
    each_has_its_own_rows(
        [
            lambda one=one: Author.objects.filter(name=one).values_list("name")
            for one in (Colour.RED, "red", Colour.GREEN)
        ]
    )
    assert [author.name for author in Author.objects.filter(name=Colour.RED)] == ["red"]


def test_unknown_type_of_parameter_is_not_cached(library):
    """What might carry more than its key could say is sent to the database every time."""

    def read(more=1):
        value = Value(Stateful("Ada", more), output_field=models.TextField())
        return list(Author.objects.annotate(v=value).values_list("v"))

    value = RawSQL("%s", [Stateful("Ada", 2)], output_field=models.TextField())
    assert_not_cached(lambda: list(Author.objects.annotate(v=value).values_list("v")), Reason.PARAMETER)
    assert_not_cached(read, Reason.PARAMETER)


@pytest.mark.databases("sqlite")
def test_two_geometries_never_share_a_result(library):
    """The bytes of a geometry and its reference system are in the key."""
    sqlite3.register_adapter(PointStandIn, lambda point: point.ewkb + bytes([point.srid % 256]))
    points = [PointStandIn(b"\x01" * 60 + end) for end in (b"a", b"b")]
    points.append(PointStandIn(points[0].ewkb, srid=3857))
    each_has_its_own_rows(
        [
            lambda point=point: Author.objects.annotate(
                v=RawSQL("HEX(%s)", [point], output_field=models.TextField())
            ).values_list("v")
            for point in points
        ]
    )


@pytest.mark.databases("postgresql")
def test_ranges_addresses_and_arrays_are_cached_and_kept_apart(library):
    """The types that PostgreSQL has more than others."""
    from django.contrib.postgres.fields import ArrayField, DateTimeRangeField, IntegerRangeField
    from django.db.backends.postgresql.psycopg_any import DateTimeTZRange, NumericRange

    numbers, times = IntegerRangeField(), DateTimeRangeField()
    addresses, arrays = models.GenericIPAddressField(), ArrayField(models.IntegerField())
    early = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
    values = [
        (NumericRange(1, 5), numbers),
        (NumericRange(1, 5, "[]"), numbers),
        (NumericRange(1, None), numbers),
        (NumericRange(empty=True), numbers),
        (DateTimeTZRange(early, None), times),
        (DateTimeTZRange(None, early), times),
        ("10.0.0.1", addresses),
        ("10.0.0.2", addresses),
        ("::1", addresses),
        ([1, 2], arrays),
        ([12], arrays),
        ([], arrays),
    ]
    cases = Cases()
    for value, field in values:
        with cases.case(str(value)):
            each_has_its_own_rows(
                [
                    lambda value=value, field=field: Author.objects.annotate(
                        v=Value(value, field)
                    ).values_list("v")
                ]
            )
    reads = [
        lambda value=value, field=field: Author.objects.annotate(v=Value(value, field)).values_list("v")
        for value, field in values
    ]
    with cases.case("all together"):
        each_has_its_own_rows(reads)
    with cases.case("address"):
        assert_cached(
            lambda: Author.objects.annotate(
                v=RawSQL("host(%s::inet)", [str(ipaddress.ip_address("10.0.0.3"))], models.TextField())
            )
        )
    cases.check()


PARAMETERS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.decimals(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.binary(max_size=8).map(bytearray),
    st.binary(max_size=8).map(memoryview),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.one_of(st.none(), st.timezones())),
    st.timedeltas(),
    st.uuids(),
    st.ip_addresses(),
    st.sampled_from([*Colour, *Size, *Plain, *Number]),
    st.text(max_size=8).map(Named),
    st.text(max_size=8).map(SafeString),
    st.lists(st.one_of(st.integers(0, 2), st.text("12", max_size=2), st.booleans()), max_size=3),
)
LISTS = st.lists(PARAMETERS, min_size=1, max_size=3)


def key_of(params):
    """The key of a read with these parameters and a text that depends on their number alone."""
    text = ", ".join(["%s"] * len(params))
    query = Author.objects.extra(where=[f"1 IN ({text})"], params=params).query
    try:
        return get_query_cache_key(query.get_compiler("default"))
    except UncachableQuery:  # words such as 'now'
        assume(False)
        return ""


def same(one, two):
    """Equal in all that a driver can see; a nan is one."""
    return exact(list(one)) == exact(list(two))


def exact(value):
    """A value with the type of each part."""
    if isinstance(value, enum.Enum):
        return (type(value), value.name)
    if isinstance(value, memoryview):
        return (memoryview, bytes(value))
    if isinstance(value, (dt.datetime, dt.time)):
        return (type(value), value.replace(tzinfo=None), value.fold, str(value.tzinfo), value.utcoffset())
    if isinstance(value, list):
        return (list, [exact(one) for one in value])
    if isinstance(value, (float, Decimal)):
        return (type(value), repr(value))
    return (type(value), plain(value), str(value))


@given(LISTS, LISTS)
def test_two_lists_of_parameters_share_a_key_only_if_they_are_equal(one, two):
    """For any types and values."""
    assert (key_of(one) == key_of(two)) == same(one, two)


@given(st.lists(st.sampled_from(list(itertools.chain(*ALIKE))), min_size=1, max_size=2), st.data())
def test_lists_of_values_that_look_alike_share_a_key_only_if_they_are_equal(one, data):
    """And for those that were made to be confused."""
    two = data.draw(
        st.lists(st.sampled_from(list(itertools.chain(*ALIKE))), min_size=len(one), max_size=len(one))
    )
    assert (key_of(one) == key_of(two)) == same(one, two)
