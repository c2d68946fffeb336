"""Reads and writes of many shapes, for the state machine: each is a function of a small number."""

# ruff: noqa: D103 - a shape is what its name says

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import django
from django.contrib.contenttypes.models import ContentType
from django.db import connection, models
from django.db.models import (
    Avg,
    Case,
    Count,
    Exists,
    F,
    FilteredRelation,
    IntegerField,
    Max,
    Min,
    OuterRef,
    Prefetch,
    Q,
    Subquery,
    Sum,
    Value,
    When,
    Window,
)
from django.db.models.functions import Coalesce, Length, Lower, Rank, Upper

from cachalot.api import cachalot_disabled
from tests.testapp.models import (
    Author,
    AuthorStats,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    Shape = Callable[[int], Any]

READS: dict[str, Shape] = {}
WRITES: dict[str, Shape] = {}
NAMES = ("Ann", "Bob", "Cleo", "Dan", "ann", "Ä")


def name(n: int) -> str:
    """Return one of a few names."""
    return NAMES[n % len(NAMES)]


def read(shape: Shape) -> Shape:
    """Add a read."""
    READS[shape.__name__] = shape
    return shape


def write(shape: Shape) -> Shape:
    """Add a write."""
    WRITES[shape.__name__] = shape
    return shape


def plain(value: Any) -> Any:
    """Return what was read as something that can be compared."""
    if isinstance(value, models.Model):
        kept = {key: plain(one) for key, one in value.__dict__.items() if key != "_state"}
        return type(value).__name__, kept
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, models.QuerySet)):
        return [plain(one) for one in value]
    return bytes(value) if isinstance(value, memoryview) else value


def nth(model: type[models.Model], n: int) -> Any:
    """Return some row of a model, as the database has it; ``None`` if it has none."""
    with cachalot_disabled():
        rows = list(model._default_manager.order_by("pk")[:10])
    return rows[n % len(rows)] if rows else None


# -- reads


@read
def all_authors(n):
    return Author.objects.all()


@read
def authors_by_q_tree(n):
    return Author.objects.filter(Q(name=name(n)) | ~Q(age__gt=n) & Q(age__isnull=False)).order_by("pk")


@read
def excluded_through_a_relation(n):
    return Author.objects.exclude(books__pages__gt=n).order_by("pk")


@read
def one_author(n):
    return Author.objects.filter(name=name(n)).first()


@read
def count_of_books(n):
    return Book.objects.filter(pages__gte=n).count()


@read
def whether_there_are_tags(n):
    return Tag.objects.filter(name=f"tag{n}").exists()


@read
def aggregates(n):
    return Book.objects.aggregate(Sum("pages"), Avg("price"), Max("pages"), Min("author__age"), Count("tags"))


@read
def filtered_aggregate(n):
    books = Count("books", filter=Q(books__pages__gt=n), distinct=True)
    return Author.objects.annotate(number=books).filter(number__gte=1).order_by("pk")


@read
def group_by_having(n):
    rows = Book.objects.order_by("author__name").values("author__name")
    return rows.annotate(total=Sum("pages")).filter(total__gt=n)


@read
def select_related_books(n):
    return [(book.title, book.author.name) for book in Book.objects.select_related("author")]


@read
def prefetched_tags(n):
    books = Book.objects.prefetch_related("tags", Prefetch("chapters", Chapter.objects.filter(number__gte=n)))
    return [(book.pk, list(book.tags.all()), list(book.chapters.all())) for book in books]


@read
def values_through_joins(n):
    return Chapter.objects.values("title", "book__title", "book__author__name").order_by("pk")


@read
def flat_values(n):
    return Book.objects.values_list("title", flat=True).order_by("-title", "pk")[: n + 1]


@read
def union_of_two_tables(n):
    tags = Tag.objects.order_by().values_list("name")
    return Author.objects.order_by().values_list("name").union(tags, all=True).order_by("name")


@read
def intersection(n):
    tags = Tag.objects.order_by().values_list("name")
    return Author.objects.order_by().values_list("name").intersection(tags).order_by("name")


@read
def in_subquery(n):
    return Book.objects.filter(author__in=Author.objects.filter(age__lte=n)).order_by("pk")


@read
def scalar_subquery(n):
    newest = Book.objects.filter(author=OuterRef("pk")).order_by("-pk").values("title")[:1]
    return Author.objects.annotate(newest=Subquery(newest)).order_by("pk").values("name", "newest")


@read
def exists_and_not_exists(n):
    chapters = Chapter.objects.filter(book=OuterRef("pk"), number=n)
    marks = Bookmark.objects.filter(book=OuterRef("pk"))
    return Book.objects.filter(Exists(chapters) | ~Exists(marks)).order_by("pk")


@read
def case_over_another_table(n):
    long = Case(When(books__pages__gt=n, then=Value(1)), default=Value(0), output_field=IntegerField())
    return Author.objects.annotate(long=long).order_by("pk", "long").values_list("pk", "long")


@read
def ordered_by_a_subquery(n):
    total = (
        Bookmark.objects.filter(book=OuterRef("pk"))
        .order_by()
        .values("book")
        .annotate(x=Count("pk"))
        .values("x")
    )
    return list(Book.objects.order_by(Coalesce(Subquery(total), 0), "pk").values_list("pk", flat=True))


@read
def streamed(n):
    return list(Book.objects.order_by("pk").iterator(chunk_size=2))


@read
def streamed_and_abandoned(n):
    rows = iter(Author.objects.order_by("pk").iterator(chunk_size=1))
    return next(rows, None)


@read
def raw_query(n):
    return list(Author.objects.raw("SELECT * FROM testapp_author WHERE age >= %s ORDER BY id", [n]))


@read
def cursor_query(n):
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*), SUM(pages) FROM testapp_book")
        return [int(one or 0) for one in cursor.fetchone()]


@read
def in_bulk(n):
    return Tag.objects.in_bulk()


@read
def restaurants(n):
    return Restaurant.objects.select_related("cook").order_by("pk")


@read
def pizzerias_by_the_first_table(n):
    return Pizzeria.objects.filter(name=name(n)).order_by("pk").values("name", "stars", "oven")


@read
def places_and_their_children(n):
    return Place.objects.order_by("pk").values("name", "restaurant__stars", "restaurant__pizzeria__oven")


@read
def tree(n):
    return Category.objects.order_by("pk").values("name", "parent__name", "parent__parent__name")


@read
def friends(n):
    return [(one.name, sorted(f.name for f in one.friends.all())) for one in Person.objects.order_by("pk")]


@read
def reviews_of_books(n):
    return (
        Book.objects.filter(reviews__stars__gte=n % 5)
        .order_by("pk", "reviews__pk")
        .values("pk", "reviews__text")
    )


@read
def notes_without_author(n):
    return NullFK.objects.filter(author=None).order_by("pk")


@read
def mixed_case(n):
    return MixedCase.objects.filter(value__gte=n).order_by("pk")


@read
def proxy(n):
    return LongBook.objects.filter(pages__gt=n).order_by("pk").defer("payload", "meta")


@read
def json_lookup(n):
    return Book.objects.filter(meta__n=n).order_by("pk").only("title")


@read
def dates(n):
    return list(Book.objects.dates("published", "month"))


@read
def window(n):
    ranked = Window(Rank(), order_by=F("pages").desc())
    return Book.objects.annotate(rank=ranked).order_by("rank", "pk").values("pk", "rank")


@read
def functions(n):
    return (
        Author.objects.annotate(u=Upper("name"), l=Length("name"))
        .filter(l__gt=1)
        .order_by(Lower("name"), "pk")
    )


@read
def filtered_relation(n):
    joined = FilteredRelation("books", condition=Q(books__pages__gte=n))
    return Author.objects.annotate(wanted=joined).order_by("pk", "wanted__pk").values("name", "wanted__title")


@read
def distinct_authors_of_tagged_books(n):
    return Author.objects.filter(books__tags__name=f"tag{n}").distinct().order_by("pk")


@read
def extra_column(n):
    return (
        Author.objects.extra(select={"double": "age * %s"}, select_params=[n])
        .order_by("pk")
        .values("name", "double")
    )


@read
def sliced(n):
    return Book.objects.order_by("pages", "pk")[n % 3 : n + 2]


@read
def empty_in(n):
    return Author.objects.filter(pk__in=[])


@read
def last_chapter_or_nothing(n):
    return Chapter.objects.filter(number=n).last()


@read
def view(n):
    return AuthorStats.objects.order_by("pk").values("name", "books")


@read
def main_tables(n):
    tables = [Author, Book, Tag, Chapter, Book.tags.through]
    return [list(model._default_manager.order_by("pk").values_list()) for model in tables]


# -- writes


@write
def create_author(n):
    Author.objects.create(name=name(n), age=n)


@write
def create_book(n):
    if (author := nth(Author, n)) is not None:
        Book.objects.create(
            title=f"title{n}",
            author=author,
            pages=n,
            price=Decimal(n),
            meta={"n": n},
            payload=bytes([n]),
            published=dt.date(2020, 1 + n % 12, 1),
        )


@write
def bulk_create_tags(n):
    Tag.objects.bulk_create([Tag(name=f"tag{n}"), Tag(name=name(n))], ignore_conflicts=True)


@write
def bulk_create_with_updates(n):
    if connection.vendor == "mysql":
        Tag.objects.bulk_create([Tag(name=f"tag{n}")], update_conflicts=True, update_fields=["name"])
        return
    Tag.objects.bulk_create(
        [Tag(name=f"tag{n}")], update_conflicts=True, update_fields=["name"], unique_fields=["name"]
    )


@write
def bulk_update_books(n):
    with cachalot_disabled():
        books = list(Book.objects.order_by("pk")[:2])
    for book in books:
        book.pages += n
    Book.objects.bulk_update(books, ["pages"])


@write
def save_author(n):
    if (author := nth(Author, n)) is not None:
        author.name = name(n + 1)
        author.save()


@write
def save_some_fields(n):
    if (book := nth(Book, n)) is not None:
        book.pages = n
        book.save(update_fields=["pages"])


@write
def update_with_f(n):
    Book.objects.filter(pages__lte=n).update(pages=F("pages") + 1)


@write
def update_with_a_subquery(n):
    oldest = Author.objects.order_by("-age", "pk").values("pk")[:1]
    Chapter.objects.filter(number=n).update(
        title=Subquery(Author.objects.filter(pk__in=oldest).values("name")[:1])
    )


@write
def update_nothing(n):
    Author.objects.filter(name="nobody").update(age=n)


@write
def delete_book(n):
    if (book := nth(Book, n)) is not None:
        book.delete()


@write
def delete_author_and_cascade(n):
    if (author := nth(Author, n)) is not None:
        author.delete()


@write
def delete_chapters_fast(n):
    Chapter.objects.filter(number__lte=n).delete()


@write
def raw_delete(n):
    marks = Bookmark.objects.filter(page=n)
    marks._raw_delete(marks.db)


@write
def add_tag(n):
    book, tag = nth(Book, n), nth(Tag, n)
    if book is not None and tag is not None:
        book.tags.add(tag)


@write
def remove_tag(n):
    book, tag = nth(Book, n), nth(Tag, n)
    if book is not None and tag is not None:
        tag.books.remove(book)


@write
def set_tags(n):
    if (book := nth(Book, n)) is not None:
        with cachalot_disabled():
            tags = list(Tag.objects.order_by("pk")[: n % 3])
        book.tags.set(tags)


@write
def clear_tags(n):
    if (book := nth(Book, n)) is not None:
        book.tags.clear()


@write
def get_or_create_tag(n):
    Tag.objects.get_or_create(name=f"tag{n}")


@write
def update_or_create_chapter(n):
    if (book := nth(Book, n)) is not None:
        Chapter.objects.update_or_create(book=book, number=n, defaults={"title": name(n)})


@write
def conflicting_tag(n):
    Tag.objects.create(name="always the same")


@write
def raw_insert(n):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO testapp_author (name, age) VALUES (%s, %s)", [name(n), n])


@write
def raw_update(n):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_book SET pages = pages + 1 WHERE pages < %s", [n])


@write
def raw_update_many(n):
    with connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE testapp_author SET age = %s WHERE name = %s", [(n, name(n)), (n + 1, name(n + 1))]
        )


@write
def raw_delete_of_a_quoted_table(n):
    with connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {connection.ops.quote_name('TestApp_MixedCase')} WHERE value > %s", [n])


@write
def create_mixed_case(n):
    MixedCase.objects.create(value=n)


@write
def create_pizzeria(n):
    Pizzeria.objects.create(name=name(n), stars=n, cook=nth(Author, n))


@write
def update_pizzerias(n):
    Pizzeria.objects.filter(stars__gte=n).update(name=name(n), oven=f"oven{n}")


@write
def delete_place(n):
    if (place := nth(Place, n)) is not None:
        place.delete()


@write
def create_category(n):
    Category.objects.create(name=name(n), parent=nth(Category, n))


@write
def delete_category(n):
    if (category := nth(Category, n)) is not None:
        category.delete()


@write
def create_bookmark(n):
    if (book := nth(Book, n)) is not None:
        Bookmark.objects.create(book=book, page=n)


@write
def create_note(n):
    NullFK.objects.create(author=nth(Author, n), note=name(n))


@write
def make_friends(n):
    person = Person.objects.create(name=name(n))
    if (friend := nth(Person, n)) is not None:
        Friendship.objects.create(person=person, friend=friend, since=dt.date(2020, 1, 1))


@write
def review_book(n):
    if (book := nth(Book, n)) is not None:
        kind = ContentType.objects.get_for_model(Book)
        Review.objects.create(content_type=kind, object_id=book.pk, text=name(n), stars=n % 5)


if django.VERSION >= (5, 0):
    from tests.testapp.models import Rectangle

    @read
    def areas(n):
        return Rectangle.objects.filter(area__gte=n).order_by("pk").values_list("area", flat=True)

    @write
    def create_rectangle(n):
        Rectangle.objects.create(width=n, height=n + 1)

    @write
    def update_rectangles(n):
        Rectangle.objects.filter(area__gt=n).update(width=F("width") + 1)


if django.VERSION >= (6, 1):
    from tests.testapp.models import DBCascadeChild, DBCascadeGrandchild, DBParent, DBSetNullChild

    @read
    def database_cascades(n):
        return [
            list(DBCascadeChild.objects.order_by("pk").values_list("parent")),
            list(DBSetNullChild.objects.order_by("pk").values_list("parent")),
            DBCascadeGrandchild.objects.count(),
        ]

    @write
    def create_children_of_the_database(n):
        parent = DBParent.objects.create(name=name(n))
        DBCascadeGrandchild.objects.create(child=DBCascadeChild.objects.create(parent=parent))
        DBSetNullChild.objects.create(parent=parent)

    @write
    def delete_parent_in_the_database(n):
        if (parent := nth(DBParent, n)) is not None:
            parent.delete()
