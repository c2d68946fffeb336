"""Which rows a query depends on, and which results a write of each form ends and spares."""

from __future__ import annotations

import django
import pytest
from django.core.cache import caches
from django.db import IntegrityError, connection, connections, transaction
from django.db.models import F, Q
from django.test.utils import CaptureQueriesContext

from cachalot.api import explain, invalidate
from cachalot.engine import facts
from cachalot.orm.connection import session_of
from cachalot.testing import watch
from tests.acceptance.racing import is_hit, truth
from tests.testapp import models as m
from tests.testapp.models import Author, Book, Chapter, NullFK, Restaurant, Review, Tag

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.caches("locmem", "redis", "pylibmc", "pymemcache", "django-redis"),
]

OTHERS = 3


@pytest.fixture
def shelf():
    """Some authors, each with a book that has a chapter and a tag."""
    authors = [Author.objects.create(name=f"author {number}", age=number) for number in range(OTHERS)]
    for number, author in enumerate(authors):
        book = Book.objects.create(title=f"title {number}", author=author, pages=number)
        book.tags.add(Tag.objects.create(name=f"tag {number}"))
        Chapter.objects.create(book=book, number=1)
        NullFK.objects.create(author=author)
    return authors


def tags(queryset):
    """What a query depends on, without what belongs to every finer tag."""
    return {tag for tag in explain(queryset).invalidated_by if tag != "*" and not tag.startswith("whole(")}


def table_tags(*names):
    """What it is when a table is not covered, and many of its columns are used."""
    return {f"any(testapp_{name})" for name in names}


def row(table, *keys, scope="row", **values):
    """The tags of one row."""
    names = ", ".join(values)
    pairs = ", ".join(f"{key}={value}" for key, value in values.items())
    return {f"bulk(testapp_{table}, {names})", f"{scope}(testapp_{table}, {pairs})"}


def found(table, key="id"):
    """The tags of the rows that a query finds; without a promise of partners also those that come."""
    tags = {f"bulk(testapp_{table}, {key})", f"row(testapp_{table}, each that is found)"}
    come = {f"rows(testapp_{table})", f"col(testapp_{table}, {key})"}
    return tags if connection.vendor == "postgresql" else tags | come


# Covers.


def test_keys_cover(shelf):
    """Equality with a key of any kind lets a query depend on that row alone."""
    assert tags(Book.objects.filter(pk=1)) == row("book", id=1)
    assert tags(Book.objects.filter(author=2)) == row("book", author_id=2)
    assert tags(Chapter.objects.filter(book=1, number=5)) >= row("chapter", book_id=1, number=5)
    assert tags(NullFK.objects.filter(author=None)) == row("nullfk", author_id=None)
    assert tags(m.LongBook.objects.filter(pk=1)) == row("book", id=1)
    assert tags(Book.objects.filter(pk__in=[1, 2, 1])) == row("book", id=1) | row("book", id=2)
    assert tags(Book.objects.filter(Q(pk=1) | Q(author=2))) == row("book", id=1) | row("book", author_id=2)


@pytest.mark.databases("sqlite", "postgresql")
def test_text_covers(shelf):
    """Text that is compared letter by letter is a key as any other."""
    assert tags(Tag.objects.filter(name="tag 1")) == row("tag", scope="member", name="tag 1")


def test_columns_of_keys_alone(shelf):
    """What uses nothing but keys is spared by writes to other columns."""
    assert tags(Book.objects.filter(author=2).values("id")) == row("book", scope="member", author_id=2)


def test_inheritance_and_generic_relations_cover(shelf):
    """A key is handed on to the table of the parent; a generic foreign key is a key."""
    assert tags(Restaurant.objects.filter(pk=1)) == row("restaurant", place_ptr_id=1) | row("place", id=1)
    kind = m.ContentType.objects.get_for_model(Book).pk
    covered = row("review", content_type_id=kind, object_id=1)
    assert tags(Review.objects.filter(content_type=kind, object_id=1)) == covered


@pytest.mark.skipif(django.VERSION < (5, 2), reason="composite keys came with Django 5.2")
def test_composite_key_covers():
    """A primary key of two columns is one key."""
    assert tags(m.Seat.objects.filter(pk=(1, 2))) == row("seat", row=1, number=2)
    two = row("seat", row=1, number=2) | row("seat", row=3, number=4)
    assert tags(m.Seat.objects.filter(pk__in=[(1, 2), (3, 4)])) == two


def test_relations_are_found_in_the_rows(shelf):
    """Tables that are only looked up depend on the rows that were found."""
    queryset = Book.objects.filter(pk=1).select_related("author")
    assert tags(queryset) == row("book", id=1) | found("author")
    through = row("book_tags", scope="member", book_id=1)
    assert tags(Book(pk=1).tags.all()) == through | found("tag")


def test_what_does_not_cover(shelf):
    """Negation, ranges, comparisons of columns and text by hand let no row out of account."""
    for queryset in (
        Book.objects.exclude(pk=1),
        Book.objects.filter(pk__gt=1),
        Book.objects.filter(pages=F("id")),
        Book.objects.filter(Q(pk=1) | Q(pages=2)),
        Book.objects.filter(Q(pk=1) ^ Q(pk=2)),
        Book.objects.extra(where=["id = 1"]),
    ):
        assert tags(queryset) == table_tags("book"), queryset.query


def test_condition_of_a_related_table_filters(shelf):
    """A table whose columns decide which rows are seen is not found in the rows."""
    assert table_tags("book") <= tags(Book.objects.filter(author__name="author 1"))
    sliced = Book.objects.filter(pk__in=[1, 2]).select_related("author").order_by("author__name")[:1]
    assert not any("found" in tag for tag in tags(sliced))


# Writes.


def cached(*querysets):
    """Ask queries until they are answered from the cache, and return functions that ask them again."""
    asks = [lambda queryset=queryset: list(queryset.all()) for queryset in querysets]
    for ask in asks:
        ask()
        assert is_hit(ask)
    return asks


def ends(write, *, ended, spared):
    """Run a write: some results are another afterwards, or have to be looked up; others are still served."""
    gone, kept = cached(*ended), cached(*spared)
    write()
    assert [is_hit(ask) for ask in kept] == [True] * len(kept)
    assert [is_hit(ask) for ask in gone] == [False] * len(gone)
    assert [ask() for ask in gone] == [truth(ask) for ask in gone]


def by(**conditions):
    """Books with some properties."""
    return Book.objects.filter(**conditions)


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
def test_update_ends_its_rows(shelf, inside):
    """A write of one row ends what depends on this row by any of its keys, and nothing else."""
    first, second = Book.objects.order_by("pk")[:2]

    def write():
        if inside:
            with transaction.atomic():
                by(pk=first.pk).update(pages=77)
        else:
            by(pk=first.pk).update(pages=77)

    ends(
        write,
        ended=[by(pk=first.pk), by(author=first.author_id), by(pk__in=[first.pk, second.pk])],
        spared=[by(pk=second.pk), by(author=second.author_id), by(author=first.author_id).values("id")],
    )


@pytest.mark.parametrize("model", [Book, Restaurant], ids=["no key", "two tables"])
def test_write_without_a_statement_ends_nothing(shelf, model):
    """An UPDATE or DELETE of which nothing is sent, for it can meet no row, ends no result at all."""
    first = Book.objects.earliest("pk")
    place = m.Place.objects.create(name="harbour")
    changes = {"pages": 1} if model is Book else {"stars": 1, "name": "nowhere"}
    for write in (
        lambda: model.objects.filter(pk__in=[]).update(**changes),
        lambda: model.objects.filter(pk__in=[]).delete(),
        lambda: Restaurant.objects.filter(pk=place.pk).update(name="nowhere"),
    ):
        ends(
            write,
            ended=[],
            spared=[by(pk=first.pk), by(author=first.author_id), m.Place.objects.filter(pk=place.pk)],
        )


def test_row_that_moves_ends_old_and_new(shelf):
    """A foreign key that changes ends the list from which a row goes and the one to which it comes."""
    one, two, three = shelf
    book = Book.objects.get(author=one)
    spared = [by(author=three)] if connection.vendor != "mysql" else []
    ends(lambda: by(pk=book.pk).update(author=two), ended=[by(author=one), by(author=two)], spared=spared)


@pytest.mark.databases("sqlite", "postgresql")
def test_value_that_is_set_again(shelf):
    """A foreign key that is set to what it was changes no row, and no list."""
    one, two, _three = shelf
    book = Book.objects.get(author=one)
    lists = [by(author=author) for author in (one, two)]
    rows = by(pk=book.pk)
    ends(lambda: rows.update(author=one), ended=[], spared=[*lists, rows, Book.objects.values("author")])
    ends(lambda: rows.update(author=two), ended=[*lists, rows, Book.objects.values("author")], spared=[])


def test_instance_that_is_out_of_date(shelf):
    """What an object says of its row is not believed: the row was somewhere else meanwhile."""
    one, two, three = shelf
    book = Book.objects.get(author=one)
    by(pk=book.pk).update(author=two)
    book.author = three
    ends(book.save, ended=[by(author=two), by(author=three)], spared=[Author.objects.filter(pk=one.pk)])


def test_insert_ends_what_was_not_there(shelf):
    """A row that comes ends the answer that there is none, and the lists to which it comes."""
    one, two, _three = shelf
    number = Book.objects.latest("pk").pk + 1
    ends(
        lambda: Book.objects.create(pk=number, title="new", author=one),
        ended=[by(pk=number), by(author=one), by(author=one).values("id")],
        spared=[by(author=two), Author.objects.filter(pk=one.pk)],
    )


@pytest.mark.databases("sqlite", "postgresql")
def test_upsert_ends_what_it_meets(shelf):
    """Rows that are updated because they are in conflict are known by the columns of the conflict."""
    one, two, _three = shelf
    book, other = (Book.objects.get(author=author) for author in (one, two))
    met, untouched = (Chapter.objects.get(book=owner) for owner in (book, other))

    def upsert():
        Chapter.objects.bulk_create(
            [Chapter(book=book, number=number, title="new") for number in (1, 2)],
            update_conflicts=True,
            update_fields=["title"],
            unique_fields=["book", "number"],
        )

    returned = [Chapter.objects.filter(pk=untouched.pk)] if django.VERSION >= (5, 0) else []
    ends(
        upsert,
        ended=[
            Chapter.objects.filter(pk=met.pk),
            Chapter.objects.filter(book=book),
            Chapter.objects.filter(book=book, number=1),
            Chapter.objects.values("title"),
        ],
        spared=[Chapter.objects.filter(book=other), *returned],
    )


def test_upsert_that_sets_a_key(shelf):
    """Of a key that is set in rows in conflict the old values are not known: all that it covers ends."""
    one, two, three = shelf
    rows = [NullFK.objects.get(author=author) for author in (one, two)]
    target = {} if connection.vendor == "mysql" else {"unique_fields": ["id"]}

    def upsert():
        NullFK.objects.bulk_create(
            [NullFK(pk=rows[0].pk, author=three)], update_conflicts=True, update_fields=["author"], **target
        )

    lists = [NullFK.objects.filter(author=author) for author in (one, three)]
    unknown = connection.vendor == "mysql" and not (connection.mysql_is_mariadb and django.VERSION >= (5, 0))
    spared = [] if unknown else [NullFK.objects.filter(pk=rows[1].pk)]
    ends(upsert, ended=[*lists, NullFK.objects.filter(pk=rows[0].pk)], spared=spared)


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.skipif(django.VERSION < (5, 0), reason="GeneratedField came with Django 5.0")
@pytest.mark.parametrize("target", ["area", "id"])
def test_upsert_of_a_computed_key(target):
    """A key that the database computes anew was another one before, also where it is that of the conflict."""
    row = m.Pane.objects.create(width=2, height=6)
    new = m.Pane(width=3, height=4) if target == "area" else m.Pane(pk=row.pk, width=3, height=7)
    ends(
        lambda: m.Pane.objects.bulk_create(
            [new], update_conflicts=True, update_fields=["width"], unique_fields=[target]
        ),
        ended=[m.Pane.objects.filter(area=area) for area in (12, 18)],
        spared=[],
    )
    assert m.Pane.objects.get().area == 18


@pytest.mark.databases("sqlite")
def test_upsert_by_an_index_that_ignores_case():
    """A unique index may find texts equal that their column does not."""
    Tag.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA foreign_keys = OFF")
        cursor.execute(
            "CREATE TABLE other (id integer PRIMARY KEY AUTOINCREMENT, name varchar(100) NOT NULL)"
        )
        cursor.execute("INSERT INTO other SELECT id, name FROM testapp_tag")
        cursor.execute("DROP TABLE testapp_tag")
        cursor.execute("ALTER TABLE other RENAME TO testapp_tag")
        cursor.execute("CREATE UNIQUE INDEX any_case ON testapp_tag (name COLLATE NOCASE)")
    try:
        ends(
            lambda: Tag.objects.bulk_create(
                [Tag(name="A")], update_conflicts=True, update_fields=["name"], unique_fields=["name"]
            ),
            ended=[Tag.objects.filter(name=name) for name in "aA"],
            spared=[],
        )
    finally:
        with connection.schema_editor() as editor:
            editor.delete_model(Tag)
            editor.create_model(Tag)


def test_delete_ends_its_rows(shelf):
    """A row that goes ends what depends on it."""
    one, two, _three = shelf
    chapter = Chapter.objects.get(book__author=one)
    other = Chapter.objects.get(book__author=two)
    ends(
        chapter.delete,
        ended=[Chapter.objects.filter(pk=chapter.pk), Chapter.objects.filter(book=chapter.book_id)],
        spared=[Chapter.objects.filter(book=other.book_id)],
    )


def test_relation_ends_what_it_relates(shelf):
    """Tags of one book do not concern another; a tag that changes does not concern books without it."""
    one, two = Book.objects.order_by("pk")[:2]
    tag = two.tags.get()
    ends(lambda: one.tags.add(tag), ended=[one.tags.all()], spared=[two.tags.all()])
    one.tags.remove(tag)
    ends(
        lambda: Tag.objects.filter(pk=tag.pk).update(name="x"),
        ended=[two.tags.all()],
        spared=[one.tags.all()],
    )


def test_author_of_another_list(shelf):
    """A list of books with their authors survives the change of another author."""
    one, two, _three = shelf
    lists = [by(author=author).select_related("author") for author in (one, two)]
    pages = [by(pk=book.pk).select_related("author") for book in Book.objects.order_by("pk")[:2]]
    change = Author.objects.filter(pk=two.pk)
    ends(lambda: change.update(age=9), ended=[lists[1], pages[1]], spared=[lists[0], pages[0]])


def test_nothing_met_nothing_ended(shelf):
    """A statement that meets no row ends nothing."""
    ends(lambda: by(pk=0).update(pages=1), ended=[], spared=[by(pk=1), Book.objects.values("pages")])


def test_rolled_back_savepoint_ends_nothing(shelf):
    """What is undone before the commit changes no row."""

    def write():
        with transaction.atomic():
            by(pk=Book.objects.first().pk).update(title="kept")
            sid = transaction.savepoint()
            by(pk=Book.objects.last().pk).update(title="undone")
            transaction.savepoint_rollback(sid)

    first, last = Book.objects.first(), Book.objects.last()
    ends(write, ended=[by(pk=first.pk)], spared=[by(pk=last.pk)])


def test_sql_by_hand_ends_the_table(shelf):
    """Of SQL by hand no row is known."""

    def write():
        with connection.cursor() as cursor:
            cursor.execute("UPDATE testapp_book SET pages = 5 WHERE id = 0")

    ends(write, ended=[by(pk=1), by(author=2)], spared=[Author.objects.filter(pk=1)])


def test_many_rows_are_written_as_few_keys(shelf):
    """Ten thousand rows cost one exchange of bounded size before the commit, and one after it."""
    rows = [Chapter(book_id=Book.objects.first().pk, number=number) for number in range(10, 10_010)]
    with transaction.atomic():
        Chapter.objects.bulk_create(rows)
        written = session_of(connections["default"]).transaction().effects()
        assert len(written.tags()) <= 20


def test_failed_statement_leaves_nothing_open(shelf):
    """An error in autocommit ends the transaction that was made for the statement."""
    tag = Tag.objects.first()
    with pytest.raises(IntegrityError):
        Tag.objects.create(name=tag.name)
    assert session_of(connections["default"]).transaction() is None
    assert Tag.objects.filter(pk=tag.pk).update(name="again") == 1
    assert Tag.objects.get(pk=tag.pk).name == "again"


def test_statements_of_the_user_stay_as_many(shelf, settings):
    """What is read and begun to learn about rows is not counted among the statements of the user."""
    book = Book.objects.first()
    counts = []
    for granularity in ("row", "table"):
        settings.CACHALOT_GRANULARITY = granularity
        facts.forget_all()
        with CaptureQueriesContext(connection) as seen:
            book.save()
            by(pk=book.pk).update(pages=F("pages") + 1)
            Chapter.objects.create(book=book, number=len(counts) + 50)
            Chapter.objects.filter(book=book, number=len(counts) + 50).delete()
        counts.append(len(seen))
    assert counts[0] == counts[1]


@pytest.mark.databases("sqlite")
def test_table_with_a_trigger_has_no_rows(shelf):
    """What a trigger does to the rows of its own table is not known: the whole table ends."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER shuffle AFTER UPDATE ON testapp_book BEGIN "
            "UPDATE testapp_book SET pages = pages + 1 WHERE id <> NEW.id; END"
        )
    try:
        first, last = Book.objects.first(), Book.objects.last()
        ends(lambda: by(pk=first.pk).update(title="x"), ended=[by(pk=first.pk), by(pk=last.pk)], spared=[])
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER shuffle")


# Deployments.


def test_writer_with_other_keys_ends_finer_results(shelf, monkeypatch):
    """A release that would change other tags ends all finer results of the table before it commits."""
    (ask,) = cached(by(author=shelf[0]))
    known = facts._known
    monkeypatch.setattr(facts, "_known", {})
    monkeypatch.setattr("cachalot.analysis.canonical.VERSION", 2)
    by(author=shelf[1]).update(pages=5)
    monkeypatch.undo()
    facts._known.update(known)
    assert not is_hit(ask)
    assert "any(testapp_book)" in tags(by(author=shelf[0])) or not is_hit(ask)
    assert ask() == truth(ask)
    with watch() as seen:
        ask()
    assert seen.hits == 1, "whole tables are still cached"


def test_facts_are_learned_anew_after_ddl(shelf):
    """What was known about the keys of tables ends with the epoch."""
    (ask,) = cached(by(pk=1))
    before = dict(facts._known)
    invalidate()
    ask()
    assert is_hit(ask)
    assert all(facts._known[key].epoch != one.epoch for key, one in before.items() if key in facts._known)
    caches["default"].clear()
    ask()
    assert is_hit(ask)
