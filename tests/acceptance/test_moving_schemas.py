"""Schemas that move under a process, policies that no statement shows, values that the database makes."""

from __future__ import annotations

from contextlib import suppress

import django
import pytest
from django.db import connection, models, transaction
from django.db.migrations.state import ModelState, ProjectState

from cachalot.engine import facts
from tests.acceptance.racing import same, truth
from tests.testapp import models as m
from tests.testapp.models import Author, Book, NullFK

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("new_connection")]


def historical(model, *without):
    """A model as a migration sees it, without some fields."""
    state = ProjectState()
    made = ModelState.from_model(model)
    for name in without:
        del made.fields[name]
    made.managers = []
    for other in (Author,):
        if other is not model:
            state.add_model(ModelState.from_model(other))
    state.add_model(made)
    return state.apps.get_model("testapp", model.__name__)


class RollBack(Exception):
    pass


def drop_author_id():
    """Drop a column, with what depends on it."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                "SELECT name FROM sqlite_master WHERE type='index' AND tbl_name='testapp_nullfk' "
                "AND sql LIKE '%author_id%'"
            )
            for (name,) in cursor.fetchall():
                cursor.execute(f'DROP INDEX "{name}"')
        cursor.execute("ALTER TABLE testapp_nullfk DROP COLUMN author_id")


@pytest.mark.databases("postgresql", "sqlite")
@pytest.mark.parametrize("write", ["update", "delete", "save"])
def test_migration_whose_column_goes_in_its_transaction(both, write):
    """RunPython after RemoveField in one migration; the process has written to the table before."""
    row = NullFK.objects.create(note="a", author=Author.objects.create(name="x"))
    NullFK.objects.filter(pk=row.pk).update(note="b")
    list(NullFK.objects.filter(pk=row.pk))
    old = historical(NullFK, "author")
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.execute("PRAGMA foreign_keys=OFF")
    try:
        with suppress(RollBack), transaction.atomic():
            drop_author_id()
            if write == "update":
                assert old.objects.filter(pk=row.pk).update(note="c") == 1
            elif write == "save":
                one = old.objects.get(pk=row.pk)
                one.note = "c"
                one.save()
            else:
                old.objects.filter(pk=row.pk).delete()
            raise RollBack
    finally:
        connection.close()


@pytest.mark.databases("postgresql", "mysql")
@pytest.mark.parametrize("write", ["update", "delete", "save"])
def test_process_of_old_code_whose_column_is_gone(both, write, other_connection):
    """Another process has dropped a column; statements of the old code that do not name it still work."""
    row = NullFK.objects.create(note="a", author=Author.objects.create(name="x"))
    NullFK.objects.filter(pk=row.pk).update(note="b")
    known = dict(facts._known)

    def drop():
        with connection.schema_editor() as editor:
            editor.remove_field(NullFK, NullFK._meta.get_field("author"))

    def restore():
        with connection.schema_editor() as editor:
            editor.add_field(NullFK, NullFK._meta.get_field("author"))

    other_connection(drop)
    facts._known.update(known)  # the other process has its own
    try:
        if write == "update":
            assert NullFK.objects.filter(pk=row.pk).update(note="c") == 1
        elif write == "save":
            one = NullFK.objects.only("note").get(pk=row.pk)
            one.note = "c"
            one.save()
        else:
            assert NullFK.objects.filter(pk=row.pk)._raw_delete("default") == 1
    finally:
        restore()


@pytest.mark.databases("mysql")
def test_snapshot_that_an_update_does_not_take(both, other_connection):
    """In REPEATABLE READ of InnoDB the snapshot begins with the first consistent read, not with an UPDATE."""
    one, two = Author.objects.create(name="a", age=1), Author.objects.create(name="b", age=1)
    Author.objects.filter(pk=one.pk).update(age=2)
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    try:
        with transaction.atomic():
            Author.objects.filter(pk=one.pk).update(age=3)
            other_connection(lambda: Author.objects.filter(pk=two.pk).update(age=9))
            assert Author.objects.filter(pk=two.pk).values_list("age", flat=True)[0] == 9
            Author.objects.filter(pk=two.pk).update(age=10)
    finally:
        connection.close()


@pytest.fixture
def later_table():
    """A table without its first column."""
    if connection.vendor == "sqlite":
        connection.close()
    with connection.schema_editor() as editor:
        editor.remove_field(m.Later, m.Later._meta.get_field("active"))
    yield
    with connection.schema_editor() as editor:
        editor.add_field(historical(m.Later, "active"), m.Later._meta.get_field("active"))


@pytest.mark.parametrize("write", ["save", "update", "other"])
def test_column_of_a_later_migration(both, later_table, write):
    """RunPython of a migration that is not atomic, or another release: models have a column more."""
    old = historical(m.Later, "active")
    row = old.objects.create(text="a")
    row.text = "b"
    {"save": "b", "update": "a", "other": "c"}[write]
    if write == "save":
        row.save()
    elif write == "update":
        m.Later.objects.filter(pk=row.pk).update(owner=None)
    else:
        m.Later.objects.filter(pk=row.pk).update(text="c")
    assert truth(lambda: list(old.objects.values_list("text", flat=True))) == [
        {"save": "b", "update": "a", "other": "c"}[write]
    ]


PKS, BOOKS = [], []


@pytest.fixture
def secured(transactional_db):
    """Books are seen by their pages; the policy is not in any statement."""
    role = connection.settings_dict["NAME"] + "_reader"
    with connection.cursor() as cursor:
        cursor.execute(f"DROP ROLE IF EXISTS {role}")
        cursor.execute(f"CREATE ROLE {role}")
        cursor.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
        cursor.execute("ALTER TABLE testapp_book ENABLE ROW LEVEL SECURITY")
        cursor.execute("CREATE POLICY few ON testapp_book USING (pages = 0)")
        cursor.execute("ALTER TABLE testapp_author ENABLE ROW LEVEL SECURITY")
        cursor.execute("CREATE POLICY young ON testapp_author USING (age IS NULL)")
    yield role
    with connection.cursor() as cursor:
        cursor.execute("RESET ROLE")
        cursor.execute("DROP POLICY few ON testapp_book")
        cursor.execute("ALTER TABLE testapp_book DISABLE ROW LEVEL SECURITY")
        cursor.execute("DROP POLICY young ON testapp_author")
        cursor.execute("ALTER TABLE testapp_author DISABLE ROW LEVEL SECURITY")
        cursor.execute(f"DROP OWNED BY {role}")
        cursor.execute(f"DROP ROLE {role}")


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    "read",
    [
        lambda: list(Book.objects.values_list("title", flat=True)),
        lambda: list(Book.objects.order_by().values_list("title", flat=True)),
        Book.objects.count,
        lambda: Book.objects.filter(author=PKS[0]).count(),
        lambda: [b.title for b in Book.objects.filter(pk__in=BOOKS).select_related("author")],
        lambda: list(Book.objects.filter(pk__in=BOOKS).values_list("title", "author__name")),
    ],
    ids=["list", "unordered", "count", "count by author", "join", "values of join"],
)
@pytest.mark.parametrize("write", ["book", "author"])
def test_row_level_security(secured, books, other_connection, read, write):
    """What a policy hides or shows is what the columns of its condition say today."""
    PKS[:] = [b.author_id for b in books]
    BOOKS[:] = [b.pk for b in books]
    if write == "author":
        Author.objects.filter(pk=PKS[0]).update(age=1)
    with connection.cursor() as cursor:
        cursor.execute(f"SET ROLE {secured}")
    same(read(), truth(read))
    same(read(), truth(read))
    if write == "book":
        other_connection(lambda: Book.objects.filter(pk=books[0].pk).update(pages=5))
    else:
        other_connection(lambda: Author.objects.filter(pk=PKS[0]).update(age=None))
    same(read(), truth(read))


def test_last_invalidation_of_rows(books):
    """Each write of rows is later than the one before."""
    from cachalot.api import get_last_invalidation

    seen = [get_last_invalidation("testapp.Book")]
    for write in (
        lambda: Book.objects.filter(pk=books[0].pk).update(pages=5),
        lambda: Book.objects.filter(pk=books[0].pk).update(author=books[1].author),
        lambda: Book.objects.create(title="k", author=books[1].author),
        lambda: Book.objects.filter(pk=books[0].pk).delete(),
        lambda: Book.objects.filter(title="k").update(title="l"),
        lambda: Book.objects.filter(title="l").delete(),
    ):
        write()
        seen.append(get_last_invalidation("testapp.Book"))
    assert seen == sorted(set(seen)), seen


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_two_databases_at_once():
    """Transactions in two databases see and undo what is theirs."""
    with transaction.atomic(), transaction.atomic("other"):
        Author.objects.create(pk=71, name="d")
        Author.objects.using("other").create(pk=71, name="o")
        assert Author.objects.get(pk=71).name == "d"
        assert Author.objects.using("other").get(pk=71).name == "o"
        Author.objects.using("other").filter(pk=71).update(name="oo")
        assert Author.objects.get(pk=71).name == "d"
        assert Author.objects.using("other").get(pk=71).name == "oo"
    for _ in range(2):
        assert Author.objects.get(pk=71).name == "d"
        assert Author.objects.using("other").get(pk=71).name == "oo"
    with suppress(RollBack), transaction.atomic("other"):
        Author.objects.using("other").filter(pk=71).update(name="x")
        Author.objects.filter(pk=71).update(name="dd")
        assert Author.objects.get(pk=71).name == "dd"
        raise RollBack
    assert Author.objects.get(pk=71).name == "dd"
    assert Author.objects.using("other").get(pk=71).name == "oo"


@pytest.mark.databases("postgresql")
def test_process_of_old_code_in_a_transaction_heals(both, other_connection):
    """The second transaction at the latest works, without any cached read between."""
    row = NullFK.objects.create(note="a", author=Author.objects.create(name="x"))
    NullFK.objects.filter(pk=row.pk).update(note="b")
    known = dict(facts._known)
    field = NullFK._meta.get_field("author")

    def drop():
        with connection.schema_editor() as editor:
            editor.remove_field(NullFK, field)

    other_connection(drop)
    facts._known.update(known)
    try:
        with suppress(django.db.DatabaseError), transaction.atomic():
            NullFK.objects.filter(pk=row.pk).update(note="c")
        with transaction.atomic():
            assert NullFK.objects.filter(pk=row.pk).update(note="c") == 1
    finally:
        with connection.schema_editor() as editor:
            editor.add_field(NullFK, field)


@pytest.mark.databases("postgresql", "sqlite")
@pytest.mark.parametrize("how", ["create", "update", "null"])
@pytest.mark.parametrize(
    "read",
    [
        lambda: [(b.title, b.author.name) for b in Book.objects.filter(pk=BOOKS[0]).select_related("author")],
        lambda: list(Book.objects.filter(pk=BOOKS[0]).values_list("title", "author__name")),
        lambda: [
            (c.title, c.book.author.name)
            for c in m.Chapter.objects.filter(book=BOOKS[0]).select_related("book__author")
        ],
    ],
    ids=["related", "values", "chain"],
)
def test_partner_that_comes_later_in_the_transaction(books, read, how):
    """Foreign keys are checked at the end: the child comes first, is read, and then its parent comes."""
    PKS[:] = [b.author_id for b in books]
    with transaction.atomic():
        if how == "create":
            BOOKS[:] = [Book.objects.create(title="c", author_id=9_999).pk]
        else:
            BOOKS[:] = [books[0].pk]
            Book.objects.filter(pk=books[0].pk).update(author_id=9_999)
        m.Chapter.objects.create(book_id=BOOKS[0], number=1, title="k")
        same(read(), truth(read))
        same(read(), truth(read))
        if how == "null":
            Author.objects.filter(pk=PKS[1]).update(id=9_999)
            Book.objects.filter(pk=books[1].pk).update(author_id=9_999)
        else:
            Author.objects.create(pk=9_999, name="later")
        same(read(), truth(read))
    same(read(), truth(read))


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("write", ["update", "create", "delete"])
def test_driver_statement_that_fails_in_a_wrapper(both, write):
    """An instrument asks the driver itself about the statement that has run, and passes its error over."""
    row = Author.objects.create(name="a")
    Author.objects.filter(pk=row.pk).update(name="b")

    def look(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        with suppress(Exception):
            driver = connection.connection.cursor()
            driver.execute("SELECT * FROM not_there")
        return result

    with connection.execute_wrapper(look):
        if write == "update":
            Author.objects.filter(pk=row.pk).update(name="c")
        elif write == "create":
            Author.objects.create(name="c")
        else:
            Author.objects.filter(pk=row.pk)._raw_delete("default")
    names = truth(lambda: list(Author.objects.values_list("name", flat=True)))
    assert names == {"update": ["c"], "create": ["b", "c"], "delete": []}[write]


@pytest.mark.skipif(django.VERSION < (5, 0), reason="db_default came with Django 5.0")
def test_values_that_the_database_draws():
    """Defaults and columns that the database computes are what they are after each write."""
    reads = {
        "code 7": lambda: list(m.Drawn.objects.filter(code=7).values_list("pk", "double")),
        "code 8": lambda: list(m.Drawn.objects.filter(code=8).values_list("pk", "double")),
        "owner": lambda: list(m.Drawn.objects.filter(owner=1).values_list("pk", flat=True)),
        "owner 2": lambda: list(m.Drawn.objects.filter(owner=2).values_list("pk", flat=True)),
        "double": lambda: list(m.Drawn.objects.values_list("double", flat=True)),
        "count": lambda: m.Drawn.objects.filter(owner=1).count(),
        "exists": lambda: m.Drawn.objects.filter(code=7).exists(),
    }
    made = []

    def saved(**fields):
        for name, value in fields.items():
            setattr(made[0], name, value)
        made[0].save()

    for write in (
        lambda: made.append(m.Drawn.objects.create()),
        lambda: saved(code=models.F("code") + 1),
        lambda: m.Drawn.objects.bulk_create([m.Drawn(), m.Drawn(code=9, owner_id=2)]),
        lambda: saved(code=10, owner_id=2),
        lambda: m.Drawn.objects.filter(code=7).update(code=8),
        lambda: m.Drawn.objects.filter(code__in=[8, 9]).update(owner=models.F("owner") + 1),
        lambda: m.Drawn.objects.filter(code=8).update(code=7, owner=1),
        lambda: made[0].refresh_from_db(using="default"),
        lambda: saved(code=8),
        lambda: m.Drawn.objects.filter(owner=1).delete(),
    ):
        for read in reads.values():
            read(), read()
        write()
        for name, read in reads.items():
            same((name, read()), (name, truth(read)))
