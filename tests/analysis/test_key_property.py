"""Two queries share a key only if statement, typed parameters, shape of the result and context are equal."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from django.core.exceptions import EmptyResultSet
from django.db import connection, connections, models
from django.db.models import F, Q, Value
from django.db.models.functions import Cast, Coalesce, Concat
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cachalot.conf import current
from cachalot.core.decisions import Decision
from cachalot.engine.caches import query_cache
from cachalot.orm import reading
from cachalot.orm.connection import session_of
from cachalot.orm.explaining import compile_request
from cachalot.utils import UncachableQuery, get_query_cache_key
from tests.testapp.models import Author, Book, Chapter, Tag

pytestmark = pytest.mark.django_db


class Size(models.IntegerChoices):
    """Integers with a name."""

    SMALL = 1
    LARGE = 2


class Genre(models.TextChoices):
    """Texts with a name."""

    ONE = "1"
    PROSE = "prose"


class Text(str):
    """A text of another type."""

    __slots__ = ()


# Small domains, so that equal and nearly equal values meet.
integers = st.sampled_from([0, 1, 2, -1, 10**9]) | st.integers(-(2**31), 2**31 - 1)
texts = st.sampled_from(["", "1", "True", "1.0", "a", "a\x00b"[:1], "ä", "a,b", "a', 'b"]) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6
)
decimals = st.sampled_from([Decimal(1), Decimal("1.0"), Decimal("1.00"), Decimal("-0")]) | st.decimals(
    -99999, 99999, places=2
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False, width=16)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
long_json = st.builds(lambda head, tail: {"x": "y" * 60 + head, "z": tail}, texts, st.integers(0, 3))
scalars = st.one_of(
    integers,
    texts,
    decimals,
    st.booleans(),
    st.floats(allow_nan=False, width=32),
    st.dates(dt.date(1990, 1, 1), dt.date(1990, 1, 4)),
    st.sampled_from([Size.SMALL, Genre.ONE, Text("1"), 1, "1", True, 1.0, Decimal(1)]),
)

#: A query from a value, and the values that make sense for it.
SHAPES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (lambda v: Author.objects.filter(age=v), integers),
    (lambda v: Author.objects.filter(age__gt=v), integers),
    (lambda v: Author.objects.filter(name=v), texts),
    (lambda v: Author.objects.filter(name__startswith=v), texts),
    (lambda v: Author.objects.filter(Q(name=v) | Q(age=1)), texts),
    (lambda v: Author.objects.annotate(x=Value(v)).values_list("x"), scalars),
    (lambda v: Author.objects.annotate(x=Coalesce(F("name"), Value(str(v)))).values("x"), scalars),
    (lambda v: Author.objects.annotate(x=Concat("name", Value(str(v)))).filter(x="z"), scalars),
    (lambda v: Author.objects.filter(pk__in=v), st.lists(integers, min_size=1, max_size=4)),
    (lambda v: Author.objects.filter(name__in=v), st.lists(texts, min_size=1, max_size=3)),
    (lambda v: Author.objects.order_by("pk")[: v % 50 + 1], st.integers(0, 60)),
    (lambda v: Author.objects.extra(where=["age = %s"], params=[v]), integers | texts),
    (lambda v: Author.objects.extra(select={"x": "%s"}, select_params=[v]), integers | texts),
    (lambda v: Book.objects.filter(price=v), decimals),
    (lambda v: Book.objects.filter(published=v), st.dates(dt.date(2000, 1, 1), dt.date(2000, 1, 4))),
    (lambda v: Book.objects.filter(created=v), st.datetimes(timezones=st.just(dt.timezone.utc))),
    (
        lambda v: Book.objects.filter(uuid=v),
        st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2)]) | st.uuids(),
    ),
    (lambda v: Book.objects.filter(meta=v), json_values.filter(lambda v: v is not None)),
    (lambda v: Book.objects.filter(meta=v), long_json),
    (lambda v: Book.objects.filter(meta__a=v), json_values.filter(lambda v: v is not None)),
    (lambda v: Book.objects.filter(payload=v), st.binary(max_size=4)),
    (lambda v: Book.objects.filter(payload=b"x" * 60 + v), st.binary(max_size=2)),
    (lambda v: Book.objects.filter(author__name=v, tags__name=v), texts),
    (lambda v: Book.objects.exclude(author__in=Author.objects.filter(age=v)), integers),
    (lambda v: Book.objects.annotate(x=Cast(Value(v), models.CharField())).filter(x="1"), integers | texts),
    (lambda v: Chapter.objects.filter(number=v, title=str(v)), integers),
    (lambda v: Tag.objects.filter(name=v).values("name"), texts),
    (lambda v: Tag.objects.filter(name=v).values("pk", "name"), texts),
]


class Query(NamedTuple):
    """A query, as something that can be printed without running it."""

    shape: int
    value: Any

    def build(self) -> models.QuerySet:
        """Return it as a queryset."""
        return SHAPES[self.shape][0](self.value)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Return any of the queries."""
    shape = draw(st.integers(0, len(SHAPES) - 1))
    return Query(shape, draw(SHAPES[shape][1]))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Query, Query]:
    """Return two queries, of one shape more often than not: those are the ones that might be confused."""
    one = draw(queries())
    if draw(st.integers(0, 3)) == 0:
        return one, draw(queries())
    return one, Query(one.shape, draw(SHAPES[one.shape][1]))


def typed(value: Any) -> Any:
    """Return a parameter as something that is equal only for the same value of the same type."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if hasattr(value, "obj") and hasattr(value, "dumps"):  # Json and Jsonb of psycopg
        return kind, typed(value.obj)
    if hasattr(value, "adapted"):  # Json and Binary of psycopg2
        return kind, typed(value.adapted)
    if isinstance(value, dict):
        return kind, tuple((typed(key), typed(one)) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(typed, value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return kind, bytes(value)
    if isinstance(value, Decimal):
        return kind, value.as_tuple()
    if isinstance(value, float):
        return kind, value.hex()
    return kind, repr(value), str(value)


def compiled(query: Query) -> tuple[str, Any]:
    """Return statement and typed parameters, as Django itself compiles them."""
    sql, params = query.build().query.get_compiler("default").as_sql()
    return sql, typed(tuple(params))


def key_of(query: Query) -> str:
    """Return the key of a query."""
    return get_query_cache_key(query.build().query.get_compiler("default"))


@given(pairs())
@example((Query(5, 1), Query(5, True)))
@example((Query(5, 1), Query(5, "1")))
@example((Query(5, 1), Query(5, Decimal(1))))
@example((Query(5, 0.0), Query(5, -0.0)))
@example((Query(5, Decimal(1)), Query(5, Decimal("1.0"))))
@example((Query(17, {"a": 1}), Query(17, {"a": True})))
@example((Query(17, {"a": 1}), Query(17, {"a": 1.0})))
@example((Query(9, ["a,b"]), Query(9, ["a", "b"])))
@settings(max_examples=400)
def test_two_queries(pair: tuple[Query, Query]) -> None:
    """Queries of any shapes and values share a key only if statements and typed parameters are equal."""
    one, two = pair
    try:
        keys, statements = (key_of(one), key_of(two)), (compiled(one), compiled(two))
    except (EmptyResultSet, UncachableQuery):
        assume(False)
    if keys[0] == keys[1]:
        assert statements[0] == statements[1]
    elif statements[0] == statements[1]:
        assert connection.vendor == "postgresql", "the same query has two keys"


@given(queries())
@settings(max_examples=150)
def test_one_query_twice(query: Query) -> None:
    """The key of a query is a function of the query: built twice, compiled twice, it is found again."""
    try:
        first = key_of(query)
    except (EmptyResultSet, UncachableQuery):
        assume(False)
    queryset = query.build()
    for _ in range(2):
        assert get_query_cache_key(queryset.query.clone().get_compiler("default")) == first


@given(queries())
@settings(max_examples=80)
def test_shape_of_the_result(query: Query) -> None:
    """One row and a list of rows of the same statement are not one entry; a list and an iterator are."""
    session, config = session_of(connections["default"]), current()
    cache = query_cache(config.cache)
    assert session is not None
    assert cache is not None
    try:
        request = compile_request(session, query.build().query.get_compiler("default"))
    except EmptyResultSet:
        assume(False)
    plans = [
        reading.plan(session, cache, one, config)
        for one in (request, replace(request, single=True), replace(request, chunked=True))
    ]
    assume(not any(isinstance(plan, Decision) for plan in plans))
    names = [plan.name for plan in plans]
    assert names[0] == names[2] != names[1]


@given(queries(), st.lists(scalars | st.tuples(integers, texts), min_size=2, max_size=2))
@settings(max_examples=80)
def test_context(settings: Any, query: Query, contexts: list[Any]) -> None:
    """The same query in two contexts has two keys, and in one context one."""
    keys = []
    for context in contexts:
        settings.CACHALOT_KEY_CONTEXT = lambda _connection, context=context: context
        try:
            keys.append(key_of(query))
        except (EmptyResultSet, UncachableQuery):
            assume(False)
    assert (keys[0] == keys[1]) is (typed(contexts[0]) == typed(contexts[1]))


@pytest.mark.django_db(databases=["default", "other"])
def test_two_databases() -> None:
    """The same query on two databases has two keys."""
    queryset = Author.objects.filter(name="Ann")
    keys = {get_query_cache_key(queryset.query.clone().get_compiler(alias)) for alias in ("default", "other")}
    assert len(keys) == 2


def test_key_generator_of_the_project(settings: Any) -> None:
    """Even where the project's own generator gives every query the same text, keys differ."""
    settings.CACHALOT_QUERY_KEYGEN = lambda _compiler: "always the same"
    assert key_of(Query(0, 1)) != key_of(Query(0, 2))
