"""What makes rows hard to tell apart: shapes that repeat, values the database changes, code in the middle."""

from __future__ import annotations

from contextlib import nullcontext

import django
import pytest
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.db.models import Exists, F, Func, IntegerField, Lookup, Q, TextField, Window
from django.db.models.expressions import RawSQL
from django.db.models.functions import RowNumber
from django.test import override_settings

from cachalot.core.decisions import Outcome
from cachalot.engine import alone
from cachalot.orm.rowwrites import RowWrite
from cachalot.testing import watch
from tests.acceptance.racing import same, stays_true, truth
from tests.acceptance.test_transactions import reconnected
from tests.testapp import models as m
from tests.testapp.models import Author, Book, Chapter, NullFK, Tag

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.caches("locmem", "redis"),
]


def retitled(book):
    """Another title for a book."""
    return lambda: Book.objects.filter(pk=book.pk).update(title="changed")


# Shapes, which are kept for a text, and learned from its first statement.


def test_text_that_was_first_met_with_equal_values(books):
    """Two places in a text that have held the same value once may hold two."""
    one, two = (book.author_id for book in books)

    def read(first, second):
        return Book.objects.filter(Q(author=first) | Q(author=second)).values_list("title")

    list(read(one, one))
    stays_true(lambda: read(one, two), retitled(books[1]))
    stays_true(lambda: read(two, one), retitled(books[0]))


@pytest.mark.skipif(django.VERSION < (5, 2), reason="composite keys came with Django 5.2")
def test_composite_keys_that_were_first_met_with_equal_values():
    """The same for keys of two columns."""
    for row, number in ((1, 2), (3, 4)):
        m.Seat.objects.create(row=row, number=number)

    def read(*keys):
        return m.Seat.objects.filter(pk__in=list(keys)).order_by("row").values_list("guest")

    list(read((1, 2), (1, 2)))
    stays_true(lambda: read((1, 2), (3, 4)), lambda: m.Seat.objects.filter(pk=(3, 4)).update(guest="x"))


def test_union_of_query_sets_from_one(books):
    """A condition that two parts of a union share is not one condition."""
    one, two = (book.author_id for book in books)

    def of(author):
        return Book.objects.order_by().filter(author=author)

    shared = of(one)
    list(shared.filter(pages=0).union(shared.filter(pages=1)))

    def read():
        return of(one).filter(pages=0).union(of(two).filter(pages=1))

    list(read())
    retitled(books[0])()
    same([book.title for book in read()], truth(lambda: [book.title for book in read()]))


def test_subquery_that_stands_twice(books):
    """An annotation that is a condition, too, is not one place."""
    one, two = (book.author_id for book in books)
    third = Author.objects.create(name="c")
    some = Author.objects.order_by().filter(pk=third.pk)

    def has(author):
        return Exists(Book.objects.filter(author=author, pages=3))

    def read(first, second):
        return some.annotate(e=has(first)).filter(has(second) | Q(name="c")).values_list("pk", "e")

    list(some.annotate(e=has(one)).filter(Q(e=True) | Q(name="c")).values_list("pk", "e"))
    write = Book.objects.filter(pk=books[1].pk)
    stays_true(lambda: read(two, one), lambda: write.update(pages=3))


def test_condition_that_stands_twice_in_a_block(books):
    """An annotation that is compared with a key, and a condition, in one block."""
    one, two = (book.author_id for book in books)

    def read(shown, wanted):
        return (
            Book.objects.annotate(is_it=Q(author=shown)).filter(author=wanted).values_list("title", "is_it")
        )

    shared = Q(author=one)
    list(Book.objects.annotate(is_it=shared).filter(shared).values_list("title", "is_it"))
    stays_true(lambda: read(one, two), retitled(books[1]))


# Rows that are found in the result.


def test_partner_that_is_absent():
    """``IS NULL`` asks for rows without a partner: one that goes makes a row appear."""
    landlord = m.Landlord.objects.create()
    m.Plot.objects.create(landlord=landlord)
    house = m.House.objects.create(landlord=landlord)
    stays_true(
        lambda: m.Plot.objects.filter(landlord=landlord, house__isnull=True).values_list("pk"),
        lambda: house.delete(keep_parents=True),
    )


def test_slice_in_the_order_of_a_partner():
    """Where rows are cut off, the order decides which are seen."""
    landlord = m.Landlord.objects.create()
    plots = [m.Plot.objects.create(landlord=landlord) for _ in range(3)]
    order = F("house").desc(nulls_last=True)
    stays_true(
        lambda: m.Plot.objects.filter(landlord=landlord).order_by(order, "pk").values_list("pk")[:1],
        lambda: m.House(plot_ptr=plots[2]).save_base(raw=True),
    )


def test_condition_behind_the_order_of_a_window(books):
    """The ORDER BY of a window is not that of the statement."""
    window = Window(RowNumber(), partition_by="pages", order_by="id")
    chosen = Book.objects.order_by().filter(pk__in=[book.pk for book in books], author__name__gt="a")
    stays_true(
        lambda: chosen.annotate(rn=window).values_list("title", "rn", "author_id"),
        lambda: Author.objects.filter(pk=books[0].author_id).update(name="z"),
    )


def test_condition_at_the_end_of_a_chain(books):
    """A table in the middle decides which row of the last one is looked at."""
    Chapter.objects.create(book=books[0], number=1)
    stays_true(
        lambda: Chapter.objects.order_by().filter(book__author__name="b", number=1, book=books[0].pk),
        lambda: Book.objects.filter(pk=books[0].pk).update(author=books[1].author),
    )
    chapter = Chapter.objects.create(book=books[0], number=2)
    stays_true(
        lambda: (
            Chapter.objects.order_by().filter(pk=chapter.pk, book__author__name="a").select_related("book")
        ),
        lambda: Book.objects.filter(pk=books[0].pk).update(author=Author.objects.get(name="a")),
    )


def test_chain_whose_middle_is_null():
    """A row whose foreign key is NULL has no partner, and an inner join drops it."""
    cook = Author.objects.create(name="cook")
    place = m.Restaurant.objects.create(name="harbour")
    stays_true(
        lambda: m.Place.objects.filter(pk=place.pk, restaurant__cook__name="cook").values_list("pk"),
        lambda: m.Restaurant.objects.filter(pk=place.pk).update(cook=cook),
    )


@pytest.mark.databases("sqlite", "mysql")
def test_foreign_key_that_was_not_enforced():
    """A row may have come while constraints were off; then its partner comes."""
    with connection.constraint_checks_disabled():
        book = Book.objects.create(title="x", author_id=99)
    stays_true(
        lambda: Book.objects.filter(pk=book.pk).select_related("author"),
        lambda: Author.objects.create(pk=99, name="late"),
    )
    with connection.constraint_checks_disabled():
        book = Book.objects.create(title="x", author_id=98)
    late = Author.objects.create(name="late")
    stays_true(
        lambda: Book.objects.filter(pk=book.pk).select_related("author"),
        lambda: Author.objects.filter(pk=late.pk).update(id=98),
    )


@pytest.mark.databases("postgresql")
def test_foreign_key_whose_constraint_was_dropped(books):
    """The database is asked whether it enforces a foreign key, not the model."""
    name = connection.introspection.get_constraints(connection.cursor(), "testapp_nullfk")
    (constraint,) = (key for key, one in name.items() if one["foreign_key"])
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER TABLE testapp_nullfk DROP CONSTRAINT "{constraint}"')
    try:
        row = NullFK.objects.create(author_id=999)
        stays_true(
            lambda: (
                NullFK.objects.filter(pk=row.pk, author__id__gt=0, author__isnull=False)
                .select_related("author")
                .exclude(author=None)
            ),
            lambda: Author.objects.create(pk=999, name="late"),
        )
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM testapp_nullfk")
            cursor.execute(
                f'ALTER TABLE testapp_nullfk ADD CONSTRAINT "{constraint}" FOREIGN KEY (author_id) '
                "REFERENCES testapp_author (id) DEFERRABLE INITIALLY DEFERRED"
            )


@pytest.mark.databases("postgresql")
def test_row_as_a_whole(books):
    """A function may be given a row without naming a column."""
    row = Func(template='row_to_json("testapp_author")::text', output_field=TextField())
    stays_true(
        lambda: Author.objects.order_by().annotate(row=row).values_list("row"),
        lambda: Author.objects.filter(pk=books[0].author_id).update(name="c"),
    )


@pytest.mark.parametrize("form", ["alias", "place", "descending"])
def test_slice_in_the_order_of_a_column_that_is_shown(books, form):
    """An order may name a column of the result by its alias, or by its place."""
    some = Book.objects.filter(pk__in=[book.pk for book in books])
    named = some.annotate(who=F("author__name"))

    def read():
        if form == "alias":
            return named.order_by("who").values_list("title", "author_id")[:1]
        if form == "place":
            return some.order_by("author__name").values_list("title", "author__name", "author_id")[:1]
        return [(book.title, book.author_id) for book in named.order_by("-who")[1:2]]

    stays_true(read, lambda: Author.objects.filter(pk=books[1].author_id).update(name="0"))


def test_slice_of_rows_that_a_partner_multiplies():
    """How often a row is there, by the rows that belong to its partner, decides which are cut off."""
    one, two, three = (Tag.objects.create(name=name) for name in ("one", "two", "three"))
    uses = [m.TagUse.objects.create(tag=tag).pk for tag in (one, three)]
    for text in "ab":
        m.TagNote.objects.create(name=two, text=text)

    def swap():
        with transaction.atomic(), connection.constraint_checks_disabled():
            for tag, name in ((one, "tmp"), (two, "one"), (one, "two")):
                Tag.objects.filter(pk=tag.pk).update(name=name)

    stays_true(
        lambda: (
            m.TagUse.objects.filter(pk__in=uses)
            .order_by("pk")
            .values_list("pk", "tag_id", "tag__notes__text")[1:2]
        ),
        swap,
    )


# Tables that stand in a text without having been compiled.


def test_select_that_an_expression_has_written(books):
    """A table may stand a second time in a text, where nobody has compiled it."""
    number = Func(template="(SELECT COUNT(*) FROM testapp_book)", output_field=IntegerField())
    stays_true(
        lambda: Book.objects.filter(pk=books[0].pk).annotate(number=number).values_list("number"),
        lambda: Book.objects.create(title="z", author_id=books[0].author_id),
    )


def test_select_that_a_lookup_has_written(books):
    """The same in a condition."""

    class Popular(Lookup):
        lookup_name = "popular"

        def as_sql(self, compiler, connection):
            left, params = self.process_lhs(compiler, connection)
            right, more = self.process_rhs(compiler, connection)
            by = "SELECT author_id FROM testapp_book GROUP BY author_id"
            return f"{left} IN ({by} HAVING COUNT(*) >= {right})", [*params, *more]

    field = Book._meta.get_field("author")
    field.register_lookup(Popular)
    try:
        stays_true(
            lambda: Book.objects.filter(pk=books[0].pk, author__popular=2).values_list("title"),
            lambda: Book.objects.create(title="z", author_id=books[0].author_id),
        )
    finally:
        field._unregister_lookup(Popular)


def test_table_that_is_added_by_hand(books):
    """``extra(tables=…)`` is not compiled; here the same table is, in a subquery."""
    some = Author.objects.filter(pk=books[0].author_id)
    stays_true(
        lambda: (
            Book.objects.order_by()
            .filter(pk=books[0].pk)
            .annotate(there=Exists(some))
            .extra(tables=["testapp_author"])
            .values_list("title", "there")
        ),
        lambda: Author.objects.create(name="c"),
    )


# Rows that change with others.


@pytest.mark.skipif(django.VERSION < (6, 1), reason="DB_CASCADE came with Django 6.1")
def test_cascade_of_the_database_within_a_table():
    """What the database deletes beside a row may lie in the same table."""
    top = m.DBNode.objects.create(name="top")
    child = m.DBNode.objects.create(name="child", parent=top)
    stays_true(
        lambda: m.DBNode.objects.filter(pk=child.pk).values_list("name"),
        lambda: m.DBNode.objects.filter(pk=top.pk).delete(),
    )


@pytest.mark.parametrize(
    "also", [{"testapp_tag": ["testapp_tag"]}, {"testapp_tag": ["a"], "a": ["testapp_tag"]}]
)
def test_table_that_depends_on_itself(also):
    """A project may say that writes to a table change other rows of it, by whatever way."""
    one, two = (Tag.objects.create(name=name) for name in ("one", "two"))
    read = Tag.objects.filter(pk=two.pk)
    with override_settings(CACHALOT_WRITE_DEPENDENCIES=also):
        list(read.all())
        Tag.objects.filter(pk=one.pk).update(name="1")
        with watch() as seen:
            list(read.all())
    assert seen.hits == 0


@pytest.mark.databases("mysql")
def test_own_update_shows_what_others_did(other_connection):
    """InnoDB shows a row that this transaction changes as others have left it, key columns and all."""
    one, two = (Author.objects.create(name=name) for name in "ab")
    book = Book.objects.create(title="x", author=one)

    def read():
        return list(Book.objects.filter(author=one).values_list("pk"))

    with reconnected(isolation_level="repeatable read"), transaction.atomic():
        read()
        read()
        other_connection(lambda: Book.objects.filter(pk=book.pk).update(author=two))
        Book.objects.filter(pk=book.pk).update(title="y")
        same(read(), truth(read))


# Values that are not what was sent.


@pytest.mark.skipif(django.VERSION < (5, 0), reason="GeneratedField came with Django 5.0")
@pytest.mark.parametrize("by_save", [False, True], ids=["update", "save"])
def test_key_that_the_database_computes(by_save):
    """A column that nobody sets changes with those it is computed from."""
    row = m.Doubled.objects.create(number=1)

    def write():
        if by_save:
            row.number = 5
            row.save()
        else:
            m.Doubled.objects.filter(pk=row.pk).update(number=5)

    stays_true(lambda: m.Doubled.objects.filter(twice=2).values_list("number"), write)


@pytest.mark.databases("postgresql", "mysql")
def test_text_whose_end_is_cut():
    """Blanks beyond the length of a column are dropped, without an error (SQL-92, 9.2)."""
    stays_true(
        lambda: m.Short.objects.filter(slug="hello").values_list("slug"),
        lambda: m.Short.objects.create(slug="hello   "),
    )


@pytest.mark.databases("sqlite")
def test_null_for_a_row_number():
    """NULL in an INTEGER PRIMARY KEY makes a number (manual, ROWIDs and the INTEGER PRIMARY KEY)."""
    stays_true(lambda: m.Numbered.objects.filter(pk=1).values_list("pk"), m.Numbered.objects.create)


@pytest.mark.databases("mysql")
def test_insert_ignore_that_makes_values_fit():
    """INSERT IGNORE stores 0 for NULL, and what is nearest for what is too large."""
    stays_true(
        lambda: m.Short.objects.filter(number=0).values_list("number"),
        lambda: m.Short.objects.bulk_create([m.Short(slug="a", number=None)], ignore_conflicts=True),
    )


@pytest.mark.databases("sqlite")
def test_condition_that_is_not_the_same_twice(monkeypatch):
    """SQLite is asked for the rows before it changes them: time may have passed in between."""
    one, two = (Author.objects.create(name=name) for name in "ab")
    row = NullFK.objects.create(author=one)
    original = RowWrite._read

    def finds_nothing(self, sql, params):
        return [] if "SELECT" in sql else original(self, sql, params)

    monkeypatch.setattr(RowWrite, "_read", finds_nothing)
    stays_true(
        lambda: NullFK.objects.filter(author=one).values_list("pk"),
        lambda: NullFK.objects.filter(pk=row.pk).update(author=two),
    )


@pytest.mark.databases("mysql")
def test_column_that_the_database_sets_in_another_case():
    """A column is the same in capital letters, also for what MySQL sets by itself."""

    def alter(old, new, more=""):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE testapp_book CHANGE {old} {new} DATETIME(6) NULL {more}")

    alter("created", "Created", "ON UPDATE CURRENT_TIMESTAMP(6)")
    try:
        book = Book.objects.create(title="x", author=Author.objects.create(name="a"))
        stays_true(
            lambda: Book.objects.values_list("created"),
            lambda: Book.objects.filter(pk=book.pk).update(title="y"),
        )
    finally:
        alter("Created", "created")


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
def test_wrapper_that_changes_what_is_sent(inside):
    """What an execute wrapper makes of a statement is what counts."""

    def lower(execute, sql, params, many, context):
        if sql.startswith("INSERT"):
            params = tuple(one.lower() if isinstance(one, str) else one for one in params)
        return execute(sql, params, many, context)

    def write():
        with transaction.atomic() if inside else nullcontext(), connection.execute_wrapper(lower):
            Tag.objects.create(name="ABC")

    stays_true(lambda: Tag.objects.filter(name="abc").values_list("name"), write)


def test_wrapper_that_adds_a_comment(books):
    """A comment in front of a statement or behind it changes nothing, and costs nothing."""

    def commented(execute, sql, params, many, context):
        return execute(f"/* here */ {sql} /* there='x' */", params, many, context)

    reads = [Book.objects.filter(pk=book.pk).values_list("title") for book in books]
    for read in reads:
        list(read.all())
    with connection.execute_wrapper(commented):
        retitled(books[0])()
    same(list(reads[0].all()), [("changed",)])
    with watch() as seen:
        list(reads[1].all())
    assert seen.hits == (connection.vendor != "mysql" or seen.hits)


def test_wrapper_that_writes_to_another_table(books):
    """A statement that is not the one that was announced is looked at for itself."""

    def other(execute, sql, params, many, context):
        if sql.startswith(("UPDATE", "WITH")):
            return execute("UPDATE testapp_author SET name = 'other'", None, many, context)
        return execute(sql, params, many, context)

    def write():
        with transaction.atomic(), connection.execute_wrapper(other):
            Book.objects.filter(pages=-1).update(title="x")

    stays_true(lambda: Author.objects.values_list("name"), write)


@pytest.mark.databases("sqlite", "postgresql")
def test_value_that_goes_through_a_function():
    """A field may have its values changed by the database on their way."""
    stays_true(
        lambda: m.Lowered.objects.filter(slug="abc").values_list("slug"),
        lambda: m.Lowered.objects.create(slug="ABC"),
    )


# What Django alone does without an error.


def test_delete_with_a_join(both):
    """A condition on another table is a join on MariaDB, which returns no rows of such a DELETE."""
    row = NullFK.objects.create(author=Author.objects.create(name="a"))
    assert NullFK.objects.filter(pk=row.pk, author__name="a").delete()[0] == 1
    assert not truth(lambda: NullFK.objects.filter(pk=row.pk).exists())


def test_names_without_a_table_in_an_update(both):
    """SQL by hand may name the columns of its table as it stands."""
    author = Author.objects.create(name="a")
    row = NullFK.objects.create(author=author)
    changed = NullFK.objects.filter(pk=row.pk).update(
        author=author, note=RawSQL("CASE WHEN author_id > 0 THEN 'yes' ELSE 'no' END", [])
    )
    assert changed == 1
    assert truth(lambda: NullFK.objects.get(pk=row.pk).note) == "yes"


def test_parameter_without_a_hash():
    """Bytes that can be changed are a parameter like any other."""
    same(list(Book.objects.filter(payload=bytearray(b"x"))), [])


def test_transaction_while_an_insert_is_compiled(both):
    """A field may use ``atomic`` to find its value; the INSERT is not in a transaction then."""
    one, two = m.Invoice.objects.create(), m.Invoice.objects.create()
    assert 0 < one.number < two.number
    assert truth(lambda: m.Counter.objects.get(pk=1).last) == two.number


def test_write_while_an_insert_is_compiled_stays(both):
    """What was written before an INSERT that fails was committed by itself."""
    m.Counter.objects.create(pk=1)
    m.Counted.objects.create(code="a")
    once = truth(lambda: m.Counter.objects.get(pk=1).last)  # Django 6.1 asks a field twice
    with pytest.raises(IntegrityError):
        m.Counted.objects.create(code="a")
    assert truth(lambda: m.Counter.objects.get(pk=1).last) == 2 * once


@pytest.mark.databases("postgresql", "mysql")
def test_insert_is_not_seen_before_the_cache_is_told(other_connection, monkeypatch):
    """Whatever was done while it was compiled, others see a row when its transaction is committed."""
    original, seen = alone._execute, []

    def numbers():
        return list(m.Invoice.objects.values_list("number", flat=True))

    def spy(session, text):
        if text.startswith("COMMIT"):
            seen.append(other_connection(lambda: truth(numbers)))
        original(session, text)

    monkeypatch.setattr(alone, "_execute", spy)
    m.Invoice.objects.create()
    assert seen[-1] == []
    assert len(other_connection(lambda: truth(numbers))) == 1


@pytest.mark.databases("sqlite")
def test_update_of_nothing_takes_no_lock(both):
    """A statement that Django does not send waits for nobody."""
    other = connections.create_connection("default")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout=100")
    with other.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE")
    try:
        assert Book.objects.filter(pk__in=[]).update(title="x") == 0
    finally:
        with other.cursor() as cursor:
            cursor.execute("ROLLBACK")
        other.close()


@pytest.mark.parametrize("write", ["update", "delete"])
def test_wrapper_that_runs_nothing(both, write):
    """An execute wrapper may keep a statement from the database."""
    author = Author.objects.create(name="a")

    def dry(execute, sql, params, many, context):
        return None if sql.startswith(("UPDATE", "DELETE", "WITH")) else execute(sql, params, many, context)

    some = NullFK.objects.filter(pk=1)
    with connection.execute_wrapper(dry):
        some.update(author=author) if write == "update" else some.delete()


def test_wrapper_that_begins_a_transaction(both):
    """An execute wrapper may write to a log in a transaction of its own, before and after a statement."""
    author = Author.objects.create(name="a")

    def logged(execute, sql, params, many, context):
        if not sql.startswith("UPDATE") or "testapp_author" not in sql:
            return execute(sql, params, many, context)
        with transaction.atomic():
            m.Counter.objects.create()
        result = execute(sql, params, many, context)
        with transaction.atomic():
            m.Counter.objects.create()
        return result

    with connection.execute_wrapper(logged):
        Author.objects.filter(pk=author.pk).update(name="b")
    assert truth(m.Counter.objects.count) == 2
    same(Author.objects.get(pk=author.pk).name, "b")


@pytest.mark.databases("sqlite", "postgresql")
def test_wrapper_that_only_looks_costs_nothing(books):
    """Beside an execute wrapper rows are told apart as without one, in autocommit and in a transaction."""
    one, two = books
    lists = [Book.objects.filter(pk=book.pk) for book in books]
    for read in lists:
        list(read.all())
    with connection.execute_wrapper(lambda execute, *statement: execute(*statement)):
        retitled(one)()
        with transaction.atomic():
            Book.objects.filter(pk=one.pk).update(pages=7)
        Chapter.objects.create(book=one, number=1)
    with watch() as seen:
        assert [book.pk for read in lists for book in read.all()] == [one.pk, two.pk]
    assert [decision.outcome for decision in seen.decisions] == [Outcome.MISS, Outcome.HIT]


def test_fault_in_what_looks_at_a_statement(monkeypatch, books):
    """A fault of ours costs precision, never a read."""

    def fails(*_args, **_kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr("cachalot.orm.tablekeys.shape_of", fails)
    with watch() as seen:
        assert len(list(Book.objects.filter(pk=books[0].pk))) == 1
        assert len(list(Book.objects.filter(pk=books[0].pk))) == 1
    assert seen.hits == 1


@pytest.mark.skipif(django.VERSION < (5, 0), reason="GeneratedField came with Django 5.0")
def test_update_of_a_table_whose_first_key_is_computed(both):
    """SQLite takes its lock by a column that can be set."""
    row = m.Doubled.objects.create(number=1)
    assert m.Doubled.objects.filter(pk=row.pk).update(number=2) == 1
    assert m.Computed.objects.create(width=1).area == 1
    assert m.Computed.objects.filter(width=1).update(width=2) == 1


@pytest.mark.databases("mysql")
def test_locked_tables_stay_locked(both):
    """A transaction would give the locks of LOCK TABLES up (manual, LOCK TABLES)."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLES testapp_author WRITE")
        try:
            Author.objects.filter(pk=author.pk).update(name="b")
            with pytest.raises(DatabaseError, match="1100"):
                cursor.execute("SELECT * FROM testapp_tag")
        finally:
            cursor.execute("UNLOCK TABLES")
    same(Author.objects.get(pk=author.pk).name, "b")


@pytest.mark.skipif(django.VERSION < (5, 0), reason="db_default came with Django 5.0")
def test_transaction_while_a_value_is_converted(both):
    """A field may use ``atomic`` when the database has returned its value."""
    assert m.Asking.objects.create().text
