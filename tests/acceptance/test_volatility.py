"""Functions whose result does not follow from the tables are executed every time; the others are cached."""

from __future__ import annotations

import datetime as dt

import pytest
from django.db import connection
from django.db.models import (
    Case,
    CharField,
    Count,
    DateTimeField,
    Exists,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    IntegerField,
    OuterRef,
    Q,
    Subquery,
    Sum,
    TextField,
    Value,
    When,
    Window,
    functions,
)
from django.db.models.expressions import RawSQL
from django.test import override_settings
from django.utils import timezone

from cachalot.core.decisions import Reason
from tests.acceptance.shapes import Cases, assert_cached, assert_not_cached, assert_true, execute, renew
from tests.testapp.models import Author, Book, Chapter

pytestmark = pytest.mark.django_db(transaction=True)

Now, Random = functions.Now, functions.Random
NOT_STABLE = (Reason.VOLATILE, Reason.RANDOM, Reason.TIME_WORD)
DAY = dt.timedelta(days=1)

books_of_author = Book.objects.filter(author=OuterRef("pk"))

VOLATILE = {
    "now in a filter": lambda: Book.objects.filter(created__lt=Now() - DAY),
    "now in an annotation": lambda: Book.objects.annotate(t=Now()),
    "now in a wrapper": lambda: Book.objects.annotate(
        t=ExpressionWrapper(Now() + DAY, output_field=DateTimeField())
    ),
    "now in a subquery": lambda: Author.objects.filter(
        pk__in=Book.objects.filter(created__lt=Now()).values("author")
    ),
    "now in exists": lambda: Author.objects.filter(Exists(books_of_author.filter(created__lt=Now()))),
    "now in not exists": lambda: Author.objects.filter(~Exists(books_of_author.filter(created__gt=Now()))),
    "now in a scalar subquery": lambda: Author.objects.annotate(
        t=Subquery(books_of_author.annotate(t=Now()).values("t")[:1])
    ),
    "now in a condition": lambda: Book.objects.annotate(
        past=Case(When(created__lt=Now(), then=Value(1)), default=Value(0))
    ),
    "now in a result of a case": lambda: Book.objects.annotate(
        t=Case(When(pages=1, then=F("created")), default=Now(), output_field=DateTimeField())
    ),
    "now in an order": lambda: Book.objects.order_by(Case(When(created__lt=Now(), then=0), default=1), "pk"),
    "now in an aggregate's filter": lambda: Author.objects.annotate(
        n=Count("books", filter=Q(books__created__lt=Now()))
    ),
    "now in having": lambda: Author.objects.annotate(last=functions.Coalesce("books__created", Now())).filter(
        last__lt=Now()
    ),
    "now in a window": lambda: Book.objects.annotate(
        n=Window(Sum("pages"), order_by=Case(When(created__lt=Now(), then=0), default=1))
    ),
    "now truncated": lambda: Book.objects.annotate(day=functions.TruncDay(Now())),
    "now extracted": lambda: Book.objects.annotate(year=functions.ExtractYear(Now())),
    "now in a part of a union": lambda: (
        Author.objects.order_by()
        .values_list("name")
        .union(Book.objects.order_by().filter(created__lt=Now()).values_list("title"))
        .order_by("name")
    ),
    "random order": lambda: Book.objects.order_by("?"),
    "random function in the order": lambda: Book.objects.order_by(Random()),
    "random annotation": lambda: Book.objects.annotate(r=Random()),
    "random in arithmetic": lambda: Book.objects.annotate(
        r=ExpressionWrapper(Random() * 2, output_field=FloatField())
    ),
    "random in a subquery": lambda: Author.objects.filter(
        pk__in=Book.objects.annotate(r=Random()).filter(r__lt=2).values("author")
    ),
    "random in a filter": lambda: Book.objects.annotate(r=Random()).filter(r__lte=1),
    "raw sql": lambda: Book.objects.annotate(t=RawSQL("CURRENT_TIMESTAMP", [], output_field=TextField())),
    "raw sql in a filter": lambda: Book.objects.extra(where=["CURRENT_TIMESTAMP IS NOT NULL"]),
    "extra select": lambda: Book.objects.extra(select={"d": "CURRENT_DATE"}).values_list("pk", "d"),
    "extra order": lambda: Book.objects.extra(select={"d": "CURRENT_TIMESTAMP"}, order_by=["d", "id"]),
    "unknown template": lambda: Author.objects.annotate(
        t=Func(template="CURRENT_TIMESTAMP", output_field=DateTimeField())
    ),
    "user": lambda: Author.objects.annotate(
        u=Func(function=USER[connection.vendor], template=USER[connection.vendor], output_field=CharField())
    ),
}
USER = {"postgresql": "current_user", "mysql": "CURRENT_USER()", "sqlite": "sqlite_version()"}

ONLY = {
    "postgresql": {
        "nextval": lambda: Author.objects.annotate(
            n=Func(Value("testapp_tag_id_seq"), function="nextval", output_field=IntegerField())
        ),
        "a uuid": lambda: Author.objects.annotate(u=postgres().RandomUUID()),
        "time of the transaction": lambda: Author.objects.annotate(u=postgres().TransactionNow()),
        "now as a cast word": lambda: Author.objects.annotate(
            t=functions.Cast(Value("now"), DateTimeField())
        ),
        "today as a cast word": lambda: Author.objects.annotate(
            t=functions.Cast(Value("Today"), DateTimeField())
        ),
        "today behind a time": lambda: Author.objects.annotate(
            t=functions.Cast(Value("04:05 today"), DateTimeField())
        ),
        "tomorrow behind a time": lambda: Author.objects.annotate(
            t=RawSQL("'12:00 tomorrow'::timestamp", [], DateTimeField())
        ),
        "now in a range": lambda: Author.objects.annotate(
            t=RawSQL("lower(%s::tstzrange)", ["[now,infinity)"])
        ),
        "now in an array": lambda: Author.objects.annotate(
            t=RawSQL("array_length(%s::timestamptz[], 1)", ["{now}"])
        ),
        "now as a literal": lambda: Author.objects.annotate(
            t=RawSQL("'now'::timestamp", [], DateTimeField())
        ),
        "raw now": lambda: Author.objects.annotate(t=RawSQL("now()", [], DateTimeField())),
        "raw now in upper case": lambda: Author.objects.annotate(t=RawSQL("NOW ( )", [], DateTimeField())),
        "raw now with a schema": lambda: Author.objects.annotate(
            t=RawSQL("pg_catalog.now()", [], DateTimeField())
        ),
        "advisory lock": lambda: Author.objects.annotate(
            t=Func(Value(1), function="pg_try_advisory_xact_lock", output_field=TextField())
        ),
        "setting": lambda: Author.objects.annotate(
            t=Func(Value("application_name"), function="current_setting", output_field=TextField())
        ),
        "age to now": lambda: Author.objects.annotate(
            t=Func(F("books__created"), function="age", output_field=TextField())
        ),
        "sample": lambda: Author.objects.extra(where=["random() < 2"]),
    },
    "sqlite": {
        "raw now": lambda: Author.objects.annotate(t=RawSQL("datetime('now')", [], TextField())),
        "now as a parameter": lambda: Author.objects.annotate(
            t=Func(Value("now"), function="datetime", output_field=TextField())
        ),
        "changes": lambda: Author.objects.annotate(t=RawSQL("changes()", [], IntegerField())),
        "date without arguments": lambda: Author.objects.annotate(t=RawSQL("date()", [], TextField())),
    },
    "mysql": {
        "raw now": lambda: Author.objects.annotate(t=RawSQL("NOW(6)", [], DateTimeField())),
        "system date": lambda: Author.objects.annotate(t=RawSQL("SYSDATE()", [], DateTimeField())),
        "unix time": lambda: Author.objects.annotate(t=RawSQL("UNIX_TIMESTAMP()", [], IntegerField())),
        "a uuid": lambda: Author.objects.annotate(t=RawSQL("UUID()", [], TextField())),
        "variable": lambda: Author.objects.annotate(
            t=RawSQL("@@session.pseudo_thread_id", [], IntegerField())
        ),
        "own variable": lambda: Author.objects.annotate(t=RawSQL("@x", [], TextField())),
        "last insert id": lambda: Author.objects.annotate(t=RawSQL("LAST_INSERT_ID()", [], IntegerField())),
        "seeded random": lambda: Author.objects.annotate(t=RawSQL("RAND(3)", [], FloatField())),
    },
}


def postgres():
    """Its module needs a driver that the other databases do not have."""
    from django.contrib.postgres import functions as found

    return found


def test_result_that_changes_by_itself_is_never_cached(library):
    """Time, chance, sequences, identities and settings: wherever they stand, the statement runs."""
    cases = Cases()
    for name, read in {**VOLATILE, **ONLY[connection.vendor]}.items():
        with cases.case(name):
            assert_not_cached(lambda read=read: list(read()), *NOT_STABLE)
    cases.check()


@pytest.mark.parametrize("name", ["UUID4", "UUID7"])
def test_generated_uuid_is_never_cached(library, name):
    """New functions of Django are as volatile as the old ones."""
    function = getattr(functions, name, None)
    if function is None:
        pytest.skip(f"this Django has no {name}")
    try:
        list(Author.objects.annotate(u=function()))
    except Exception:  # noqa: BLE001 - NotSupportedError, or an unknown function, by version
        pytest.skip(f"this database has no {name}")
    assert_not_cached(lambda: list(Author.objects.annotate(u=function())), *NOT_STABLE)


def test_aggregates_of_volatile_values_are_never_cached(library):
    """Reads that do not end in a list take the same way."""
    cases = Cases()
    for name, read in {
        "aggregate": lambda: Book.objects.aggregate(n=Count("pk", filter=Q(created__lt=Now()))),
        "count": lambda: Book.objects.filter(created__lt=Now()).count(),
        "exists": lambda: Book.objects.filter(created__lt=Now()).exists(),
        "get": lambda: Book.objects.filter(created__lt=Now()).first(),
        "iterator": lambda: list(Book.objects.filter(created__lt=Now()).iterator()),
    }.items():
        with cases.case(name):
            assert_not_cached(read, *NOT_STABLE)
    cases.check()


STABLE = {
    "truncated": lambda: Book.objects.annotate(x=functions.Trunc("created", "day")),
    "truncated to a date": lambda: Book.objects.annotate(x=functions.TruncDate("created")),
    "truncated month": lambda: Book.objects.annotate(x=functions.TruncMonth("published")),
    "extracted": lambda: Book.objects.annotate(x=functions.ExtractWeekDay("created")),
    "lookup on a part": lambda: Book.objects.filter(created__year__gte=2000, created__hour__lt=25),
    "lower": lambda: Author.objects.annotate(x=functions.Lower("name")),
    "upper in the order": lambda: Author.objects.order_by(functions.Upper("name").desc()),
    "concatenated": lambda: Author.objects.annotate(x=functions.Concat("name", Value(" "), "name")),
    "coalesced": lambda: Author.objects.annotate(x=functions.Coalesce("age", Value(0))),
    "cast": lambda: Author.objects.annotate(x=functions.Cast("age", CharField(max_length=10))),
    "rounded": lambda: Book.objects.annotate(x=functions.Round("price"), y=functions.Floor("price")),
    "length": lambda: Author.objects.annotate(x=functions.Length("name")).filter(x__gt=1),
    "part of a text": lambda: Author.objects.annotate(
        x=functions.Substr("name", 1, 1), y=functions.Left("name", 2)
    ),
    "greatest": lambda: Book.objects.annotate(x=functions.Greatest("pages", Value(150))),
    "null if": lambda: Book.objects.annotate(x=functions.NullIf("pages", Value(100))),
    "hash": lambda: Author.objects.annotate(x=functions.MD5("name")),
    "trigonometry": lambda: Book.objects.annotate(x=functions.Sin(F("pages")), y=functions.Power("pages", 2)),
    "replaced": lambda: Author.objects.annotate(x=functions.Replace("name", Value("A"), Value("B"))),
    "padded": lambda: Author.objects.annotate(x=functions.LPad("name", 10, Value("-"))),
    "key of json": lambda: Book.objects.filter(meta__n=1).values_list("meta__list__1__deep"),
    "pattern": lambda: Author.objects.filter(name__iregex="^a", name__icontains="D"),
    "window functions": lambda: Book.objects.annotate(
        x=Window(functions.RowNumber(), order_by=F("pages").asc()),
        y=Window(functions.Lag("pages"), order_by=F("pk").asc()),
    ),
    "aggregates": lambda: (
        Chapter.objects.values("book").annotate(x=Count("number", distinct=True)).order_by("book")
    ),
    "time of python": lambda: Book.objects.filter(created__lt=FIXED_NOW),
    "a name that sounds like a clock": lambda: Author.objects.filter(name="nowhere"),
}
FIXED_NOW = timezone.now()


def test_result_that_follows_from_the_tables_is_cached(library):
    """The functions of Django are known, those of SQLite which Django itself makes included."""
    cases = Cases()
    for name, read in STABLE.items():
        with cases.case(name):
            assert_cached(read)
    cases.check()


def test_two_instants_of_python_do_not_share_a_result(library):
    """A time computed in Python is a parameter, and a parameter is part of the key."""
    early = timezone.now() - dt.timedelta(days=36500)
    assert_cached(lambda: Book.objects.filter(created__lt=early))
    assert_true(lambda: Book.objects.filter(created__lt=timezone.now() + dt.timedelta(days=36500)))
    assert_true(lambda: Book.objects.filter(created__lt=early))


@pytest.fixture
def own_function(library):
    """A function of the project, ``cachalot_double``."""
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.create_function("cachalot_double", 1, lambda value: value and 2 * value)
        yield
        return
    kinds = {
        "postgresql": "(x integer) RETURNS integer LANGUAGE sql AS 'SELECT 2 * x'",
        "mysql": "(x integer) RETURNS integer DETERMINISTIC RETURN 2 * x",
    }
    execute(f"CREATE FUNCTION cachalot_double {kinds[connection.vendor]}")
    yield
    execute("DROP FUNCTION cachalot_double")


def test_function_of_the_project_is_cached_once_it_is_vouched_for(own_function, library):
    """Nobody knows what a function does that a project made, until the project says so."""

    def read():
        return list(
            Author.objects.annotate(x=Func("age", function="cachalot_double", output_field=IntegerField()))
        )

    assert_not_cached(read, Reason.VOLATILE)
    renew()
    with override_settings(CACHALOT_STABLE_FUNCTIONS=["Cachalot_Double"]):
        assert_cached(read)
        assert_not_cached(lambda: list(Author.objects.annotate(x=Now())), *NOT_STABLE)


def test_random_order_is_cached_where_a_project_wants_it(library):
    """``CACHALOT_CACHE_RANDOM`` lets chance be drawn once per change of the table, and lets no clock pass."""

    def read():
        return list(Book.objects.order_by("?"))

    assert_not_cached(read, Reason.RANDOM)
    with override_settings(CACHALOT_CACHE_RANDOM=True):
        first = [book.pk for book in read()]
        assert [book.pk for book in read()] == first
        Book.objects.update(pages=5)
        assert_not_cached(
            lambda: list(Book.objects.annotate(t=Now()).order_by("?")), Reason.VOLATILE, Reason.TIME_WORD
        )
    assert_not_cached(read, Reason.RANDOM)


def test_text_that_may_be_a_time_is_not_cached_as_a_parameter(library):
    """PostgreSQL reads the parameter 'now' as the time where a time is meant; so it is cached nowhere."""
    Author.objects.create(name="now")
    assert_not_cached(lambda: list(Author.objects.filter(name="now")), Reason.TIME_WORD)
    assert_cached(lambda: list(Author.objects.filter(name="nowhere")))
