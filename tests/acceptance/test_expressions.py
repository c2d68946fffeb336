"""Every shape of expression: each table in the statement is a dependency, and no other table is.

A dependency that hides in a nested expression is where a query cache goes stale for ever; one too many is
where it is cold for ever.
"""

from __future__ import annotations

import datetime as dt

import django
import pytest
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    F,
    FilteredRelation,
    IntegerField,
    Max,
    OuterRef,
    Prefetch,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Coalesce, Concat, Lower, Rank, TruncMonth

from cachalot.api import cachalot_disabled, explain
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_kept_through,
    assert_refreshed_by,
    execute,
    new_number,
    run,
    table_of,
    uncached,
)
from tests.testapp.models import (
    Author,
    Book,
    Bookmark,
    Category,
    Chapter,
    Friendship,
    LongBook,
    MixedCase,
    NullFK,
    Person,
    Pizzeria,
    Place,
    Restaurant,
    Review,
    Tag,
)

BookTag = Book.tags.through

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.granularity("table")]

if django.VERSION >= (5, 2):
    from tests.testapp.models import Seat
else:
    Seat = None

#: A column of each table that a write may change without breaking a constraint.
COLUMNS = {
    Author: "name",
    Book: "title",
    BookTag: "tag_id",
    Bookmark: "page",
    Category: "name",
    Chapter: "title",
    ContentType: "app_label",
    Friendship: "since",
    MixedCase: "value",
    NullFK: "note",
    Person: "name",
    Pizzeria: "oven",
    Place: "name",
    Restaurant: "stars",
    Review: "text",
    Tag: "name",
    Seat: "guest",
}
#: Written to see that a read does not care; the names of some begin with those of others.
STRANGERS = (Bookmark, BookTag, NullFK, MixedCase, Review, Category, Person, Chapter)


def new_value(model):
    """A value that the column of a model may take, and has not yet."""
    if model is BookTag:
        return Tag.objects.create(name=f"tag {new_number()}").pk
    if model is Friendship:
        return f"{2000 + new_number() % 5000}-01-01"
    number = new_number()
    return number if model in {Bookmark, MixedCase, Restaurant} else f"changed {number}"


def write_orm(model):
    """Change the newest row through the ORM."""
    last = model.objects.order_by("pk").last()
    model.objects.filter(pk=last.pk).update(**{COLUMNS[model]: new_value(model)})


def write_raw(model):
    """Change the newest row through a cursor."""
    column, value = connection.ops.quote_name(COLUMNS[model]), new_value(model)
    where, params = "", [value]
    if model is not Seat:
        where = f" WHERE {connection.ops.quote_name(model._meta.pk.column)} = %s"
        params.append(model.objects.order_by("pk").last().pk)
    execute(f"UPDATE {table_of(model)} SET {column} = %s{where}", params)


def books_of_author(**more):
    """The books of the author of the outer query."""
    return Book.objects.filter(author=OuterRef("pk"), **more)


def names_of(model):
    """Without an order: the parts of a combined query may have none."""
    return model.objects.order_by().values_list("name")


def union_with_annotation():
    """Both parts are queries of their own."""
    first = Author.objects.order_by().annotate(n=Count("books")).values_list("name", "n")
    second = Tag.objects.order_by().annotate(n=Value(1, IntegerField())).values_list("name", "n")
    return first.union(second).order_by("name")


def two_levels_up():
    """The innermost query looks at the outermost one."""
    chapters = Chapter.objects.filter(book=OuterRef("pk"), book__author__name=OuterRef(OuterRef("name")))
    return Author.objects.filter(Exists(books_of_author().filter(Exists(chapters)))).order_by("pk")


def having_subquery():
    """A subquery in HAVING."""
    least = NullFK.objects.filter(author=OuterRef("pk")).values("author").annotate(n=Count("pk")).values("n")
    return Author.objects.annotate(books_written=Count("books")).filter(
        books_written__gt=Coalesce(Subquery(least), 0)
    )


#: Name of the shape: the read, and the models whose tables are in its statements.
SHAPES = {
    "plain list": (Author.objects.all, {Author}),
    "coalesced subquery": (
        lambda: Author.objects.annotate(
            title=Coalesce(Subquery(books_of_author().order_by("pk").values("title")[:1]), Value("none"))
        ),
        {Author, Book},
    ),
    "not exists": (lambda: Author.objects.filter(~Exists(books_of_author(pages__gt=250))), {Author, Book}),
    "Q or exists": (
        lambda: Author.objects.filter(Q(name="Cy") | Q(Exists(books_of_author(pages__lt=150)))),
        {Author, Book},
    ),
    "case when over many to many": (
        lambda: Book.objects.annotate(
            red=Case(When(tags__name="red", then=Value(1)), default=Value(0))
        ).values_list("title", "red"),
        {Book, BookTag, Tag},
    ),
    "case when exists": (
        lambda: Author.objects.annotate(
            writes=Case(When(Exists(books_of_author()), then=Value(1)), default=Value(0))
        ),
        {Author, Book},
    ),
    "order by subquery": (
        lambda: Author.objects.order_by(
            Subquery(books_of_author().order_by("-pages").values("pages")[:1]), "pk"
        ),
        {Author, Book},
    ),
    "order by case over a relation": (
        lambda: Book.objects.order_by(Case(When(author__name="Bob", then=0), default=1), "pk"),
        {Book, Author},
    ),
    "having subquery": (having_subquery, {Author, Book, NullFK}),
    "having aggregate": (
        lambda: Author.objects.annotate(n=Count("books__chapters")).filter(n__gt=1),
        {Author, Book, Chapter},
    ),
    "window": (
        lambda: Book.objects.annotate(
            rank=Window(Rank(), partition_by=F("author__name"), order_by=F("pages").desc())
        ).values_list("title", "rank"),
        {Book, Author},
    ),
    "filter over a window": (
        lambda: Chapter.objects.annotate(rank=Window(Rank(), order_by=F("book__pages").desc())).filter(
            rank__lte=2
        ),
        {Chapter, Book},
    ),
    "filtered relation": (
        lambda: Author.objects.annotate(
            wanted=FilteredRelation("books", condition=Q(books__pages__gt=150))
        ).filter(wanted__isnull=False),
        {Author, Book},
    ),
    "union with annotation": (union_with_annotation, {Author, Book, Tag}),
    "intersection": (
        lambda: names_of(Author).intersection(names_of(Person)).order_by("name"),
        {Author, Person},
    ),
    "difference": (
        lambda: names_of(Author).difference(names_of(Tag)).order_by("name"),
        {Author, Tag},
    ),
    "union in a subquery": (
        lambda: Author.objects.filter(
            pk__in=Author.objects.filter(name="Ada")
            .order_by()
            .values("pk")
            .union(NullFK.objects.exclude(author=None).values("author"))
        ),
        {Author, NullFK},
    ),
    "aggregate with filter": (
        lambda: Author.objects.aggregate(n=Count("books", filter=Q(books__tags__name="red"))),
        {Author, Book, BookTag, Tag},
    ),
    "annotated aggregate with filter": (
        lambda: Author.objects.annotate(n=Count("books", filter=Q(books__chapters__number=1))),
        {Author, Book, Chapter},
    ),
    "outer reference through two levels": (two_levels_up, {Author, Book, Chapter}),
    "values list": (lambda: Book.objects.values_list("title", "author__name"), {Book, Author}),
    "flat values list": (lambda: Book.objects.values_list("author__name", flat=True), {Book, Author}),
    "group by": (
        lambda: Book.objects.values("author__name").annotate(n=Sum("pages")).order_by("author__name"),
        {Book, Author},
    ),
    "distinct": (lambda: Author.objects.filter(books__pages__gt=1).distinct(), {Author, Book}),
    "aggregate over annotation": (
        lambda: Author.objects.annotate(n=Count("books")).aggregate(Max("n"), Avg("n")),
        {Author, Book},
    ),
    "count of distinct": (
        lambda: Book.objects.filter(tags__isnull=False).distinct().count(),
        {Book, BookTag},
    ),
    "prefetch": (lambda: Book.objects.prefetch_related("tags"), {Book, BookTag, Tag}),
    "prefetch with a query of its own": (
        lambda: Author.objects.prefetch_related(
            Prefetch("books", Book.objects.filter(chapters__number=1).order_by("pk"), to_attr="started")
        ),
        {Author, Book, Chapter},
    ),
    "prefetch over two levels": (
        lambda: Author.objects.prefetch_related("books__chapters"),
        {Author, Book, Chapter},
    ),
    "select related": (lambda: Chapter.objects.select_related("book__author"), {Chapter, Book, Author}),
    "in bulk": (lambda: Tag.objects.in_bulk(["red", "blue"], field_name="name"), {Tag}),
    "dates": (lambda: Book.objects.dates("published", "year"), {Book}),
    "datetimes": (
        lambda: Book.objects.filter(author__age__gt=1).datetimes("created", "month"),
        {Book, Author},
    ),
    "truncated and grouped": (
        lambda: (
            Book.objects.annotate(m=TruncMonth("created"))
            .values("m")
            .annotate(n=Count("chapters"))
            .order_by("m")
        ),
        {Book, Chapter},
    ),
    "exists": (lambda: Book.objects.filter(tags__name="red").exists(), {Book, BookTag, Tag}),
    "earliest": (lambda: Book.objects.filter(author__name__gt="A").earliest("published"), {Book, Author}),
    "latest": (lambda: Book.objects.filter(chapters__number=2).latest("published"), {Book, Chapter}),
    "generic foreign key": (
        lambda: [review.subject for review in Review.objects.prefetch_related("subject")],
        {Review, Book, Author},
    ),
    "generic relation": (lambda: Book.objects.filter(reviews__stars__gt=2), {Book, Review}),
    "multi-table inheritance": (lambda: Pizzeria.objects.order_by("pk"), {Pizzeria, Restaurant, Place}),
    "child of a parent": (
        lambda: Place.objects.filter(restaurant__pizzeria__oven="gas"),
        {Place, Restaurant, Pizzeria},
    ),
    "field of the grandparent": (
        lambda: Restaurant.objects.filter(address="").values_list("cook__name", "name").order_by("pk"),
        {Restaurant, Place, Author},
    ),
    "proxy": (lambda: LongBook.objects.filter(author__name="Ada"), {Book, Author}),
    "self join": (lambda: Category.objects.filter(parent__parent__name="top"), {Category}),
    "many to many with itself": (lambda: Person.objects.filter(friends__name="Fay"), {Person, Friendship}),
    "subquery in a filter": (
        lambda: Book.objects.filter(author__in=NullFK.objects.filter(note="mine").values("author")),
        {Book, NullFK},
    ),
    "excluded many to many": (lambda: Book.objects.exclude(tags__name="red"), {Book, BookTag, Tag}),
    "column of a relation in a function": (
        lambda: Book.objects.annotate(by=Concat(Lower("author__name"), Value(": "), "title")).values_list(
            "by"
        ),
        {Book, Author},
    ),
    "column compared with one of a relation": (
        lambda: Bookmark.objects.filter(page__lt=F("book__pages")).order_by("pk"),
        {Bookmark, Book},
    ),
    "mixed-case table": (lambda: MixedCase.objects.filter(value__gte=0), {MixedCase}),
    "sliced": (lambda: Book.objects.filter(author__age=36)[1:3], {Book, Author}),
    "aggregate of a subquery": (
        lambda: Author.objects.annotate(
            n=Subquery(books_of_author().order_by().values("author").annotate(n=Sum("pages")).values("n"))
        ).aggregate(Sum("n")),
        {Author, Book},
    ),
    "key of a json column": (
        lambda: Book.objects.filter(meta__n__gt=1, author__name__startswith="A").values_list(
            "meta__list", flat=True
        ),
        {Book, Author},
    ),
}
if Seat is not None:
    SHAPES["composite primary key"] = (lambda: Seat.objects.filter(pk__in=[(1, 2), (3, 2)]), {Seat})
    SHAPES["composite key in a subquery"] = (
        lambda: Seat.objects.filter(
            Exists(Author.objects.filter(name="Ada").exclude(age=OuterRef("number")))
        ).order_by("row"),
        {Seat, Author},
    )


def possible(name):
    """Whether the database can do it."""
    return name not in {"intersection", "difference"} or getattr(
        connection.features, f"supports_select_{name}"
    )


@pytest.fixture
def shapes(library):
    """The shapes that the database can do: name, read, and the models it depends on."""
    # Their kinds are remembered by Django itself once they were read.
    ContentType.objects.get_for_models(Book, Author)
    return [(name, *shape) for name, shape in SHAPES.items() if possible(name)]


def test_shapes_depend_on_the_tables_of_their_statements(shapes):
    """What is declared here is what the statements name, so that no table can be forgotten below."""
    cases = Cases()
    for name, read, models in shapes:
        with cases.case(name):
            with cachalot_disabled():
                _, statements = run(read)
            found = {
                model for model in COLUMNS if model and any(table_of(model) in sql for sql in statements)
            }
            assert found == models
    cases.check()


def test_write_to_any_table_of_the_statement_refreshes(shapes):
    """A committed write to any table in the statement ends the result, by the ORM and by a cursor."""
    cases = Cases()
    for name, read, models in shapes:
        for model in sorted(models, key=lambda model: model.__name__):
            with cases.case(f"{name}, {model.__name__}"):
                assert_refreshed_by(read, lambda model=model: write_orm(model))
                assert_refreshed_by(read, lambda model=model: write_raw(model))
    cases.check()


def test_write_to_any_other_table_costs_nothing(shapes):
    """A write to a table that is not in the statement keeps the result, also where names begin alike."""
    cases = Cases()
    for name, read, models in shapes:
        # A new value for the through table is a new row in the table of tags.
        strangers = [one for one in STRANGERS if one not in models and not (one is BookTag and Tag in models)]
        for model in strangers[:4]:
            with cases.case(f"{name}, {model.__name__}"):
                assert_kept_through(read, lambda model=model: write_orm(model))
                assert_kept_through(read, lambda model=model: write_raw(model))
    cases.check()


def test_explanation_names_exactly_the_tables_of_the_statement(shapes):
    """What ``explain`` lists is what the law above is about."""
    cases = Cases()
    for name, read, models in shapes:
        queryset = read()
        if isinstance(queryset, QuerySet) and not queryset._prefetch_related_lookups:
            with cases.case(name):
                assert set(explain(queryset).tables) == {model._meta.db_table.lower() for model in models}
    cases.check()


@pytest.mark.databases("postgresql")
def test_array_of_a_subquery_refreshes(library):
    """``ARRAY(SELECT …)`` of PostgreSQL is a subquery like the others."""
    from django.contrib.postgres.expressions import ArraySubquery

    def read():
        return Author.objects.annotate(titles=ArraySubquery(books_of_author().order_by("pk").values("title")))

    assert_refreshed_by(read, lambda: write_orm(Book))
    assert_refreshed_by(read, lambda: write_raw(Author))
    assert_kept_through(read, lambda: write_raw(Chapter))


def test_rows_added_and_removed_refresh_every_shape(shapes):
    """Not only a changed row: one that comes and one that goes change what every shape of books shows."""
    reads = [read for _, read, models in shapes if Book in models]
    for read in reads:
        assert_cached(read)
    added = Book.objects.create(
        title="New",
        author=Author.objects.first(),
        pages=50,
        published=dt.date(2030, 1, 1),
        created=dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc),
    )
    for read in reads:
        value, sent = run(read)
        assert sent
        assert value == uncached(read)
    added.delete()
    for read in reads:
        value, sent = run(read)
        assert sent
        assert value == uncached(read)
