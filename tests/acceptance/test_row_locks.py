"""What a write locks, and how often it runs: as much, in the same order and as often as with Django alone."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import ExitStack, contextmanager, nullcontext

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.models import F, Func

from cachalot.analysis.versions import MAX_COLUMNS
from cachalot.engine import facts
from cachalot.orm import rewriting
from tests.acceptance.racing import (
    PATIENCE,
    agreed,
    alias,
    during_commit,
    is_hit,
    same,
    stays_true,
    truth,
    until,
)
from tests.servers.base import HOST
from tests.servers.postgres import USER, Postgres
from tests.testapp.models import Author, Book, Chapter, Hand, Later, NullFK, Tag, TagUse

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("new_connection")]


def somebody_waits(using="default"):
    """Whether a session waits for a lock of another."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return cursor.fetchone()[0] > 0


def outcome(act):
    """What becomes of a write."""
    try:
        act()
    except DatabaseError as error:
        return f"{type(error).__name__}: {error}"
    return "done"


def beside(there, here, other_connection):
    """What becomes of two writes; the first goes on when the second waits for it."""
    holding = threading.Event()

    def first():
        with transaction.atomic():
            there(holding.set)

    future = other_connection.start(lambda: outcome(first))
    assert holding.wait(PATIENCE)
    mine = outcome(here)
    return mine, future.result(PATIENCE)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("how", ["save", "update", "several"])
def test_unique_value_that_changes_beside_a_new_child(both, how, other_connection):
    """A write that changes what a foreign key refers to holds nothing while it waits for a new child."""
    tag = Tag.objects.create(name="a")
    Tag.objects.create(name="z")
    Tag.objects.filter(pk=tag.pk).update(name="a")

    def there(holding):
        TagUse.objects.create(tag=tag)
        connection.check_constraints()
        holding()
        until(somebody_waits)
        Tag.objects.select_for_update(no_key=True).get(pk=tag.pk)

    def here():
        if how == "save":
            tag.name = "b"
            tag.save()
        elif how == "update":
            Tag.objects.filter(pk=tag.pk).update(name="b")
        else:
            Tag.objects.filter(pk__in=[tag.pk, tag.pk + 1]).update(name=Func(F("name"), function="UPPER"))

    assert beside(there, here, other_connection) == ("done", "done")


@pytest.mark.databases("postgresql")
def test_index_that_is_made_meanwhile(both, other_connection):
    """A write holds no row while it waits for a table."""
    one, two = (Author.objects.create(name=name) for name in "ab")
    for _ in range(2):
        NullFK.objects.create(author=one)
    NullFK.objects.filter(author=two).update(author=one)

    def there(holding):
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE testapp_nullfk IN SHARE MODE")
        holding()
        until(somebody_waits)
        NullFK.objects.update(note="filled")

    def here():
        NullFK.objects.filter(author=one).update(author=two)

    assert beside(there, here, other_connection) == ("done", "done")


@pytest.mark.databases("postgresql")
def test_null_in_a_unique_column_is_of_many_rows(both, other_connection):
    """An UPDATE misses no row whose primary key moves, also where it asks for NULL in a unique column."""
    low, high = (Hand.objects.create(number=number) for number in (1, 2))
    Hand.objects.filter(pk=-1).update(twice=1)

    def there(holding):
        Hand.objects.filter(pk=low.pk).update(id=high.pk + 100)
        holding()
        until(somebody_waits)

    def here():
        assert Hand.objects.filter(twice__isnull=True).update(twice=F("number") * 2) == 2

    assert beside(there, here, other_connection) == ("done", "done")
    assert truth(lambda: [*Hand.objects.order_by("number").values_list("twice", flat=True)]) == [2, 4]


def written_after(there, here, read, other_connection, around=nullcontext):
    """Have a write wait for another one, and a reader come between them; return whether its read is cached.

    :param there: the first write; it calls what it is given when it has changed its rows.
    :param here: the second one.
    :param read: what is read when the first is committed and the second is not.
    :param around: what the second one is in.
    """
    holding, cached, using = threading.Event(), [], read().db

    def first():
        if connections[using].connection is None:
            connections[using].connect()
        with transaction.atomic(using=using):
            there()
            holding.set()
            until(lambda: somebody_waits(using))

    def between():
        future.result(PATIENCE)

        def reads():
            agreed(read)
            cached.append(is_hit(read))

        other_connection(reads)

    future = other_connection.start(first)
    with during_commit("before MARK", between), around():
        assert holding.wait(PATIENCE)
        here()
    return cached == [True]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("how", ["one", "several", "and no more", "with a subquery", "in a savepoint"])
def test_row_that_changes_while_its_write_waits(how, other_connection):
    """Who has read the value that a row had when a write got at it is told of the write."""
    one, two, three = (Author.objects.create(name=name) for name in "abc")
    row, beside = (NullFK.objects.create(author=one, note="n") for _ in range(2))
    rows = {
        "several": NullFK.objects.filter(pk__in=[beside.pk, row.pk]),
        "and no more": NullFK.objects.filter(pk__in=[beside.pk, row.pk]).exclude(author=three),
        "with a subquery": NullFK.objects.filter(pk=row.pk, note__in=NullFK.objects.values("note")),
    }.get(how, NullFK.objects.filter(pk=row.pk))
    rows.update(author=one)

    def here():
        with transaction.atomic(), transaction.atomic() if how == "in a savepoint" else nullcontext():
            rows.update(author=three)

    def read():
        return NullFK.objects.filter(author=two)

    def there():
        NullFK.objects.filter(pk=row.pk).update(author=two)

    assert written_after(there, here, read, other_connection)
    same(list(read()), truth(lambda: list(read())))
    assert truth(lambda: NullFK.objects.get(pk=row.pk).author_id) == three.pk


@pytest.fixture
def alone():
    """A PostgreSQL in which nobody else draws numbers, with two tables; returns a connection."""
    with Postgres() as server:
        place = {"HOST": HOST, "PORT": server.port, "NAME": "postgres", "USER": USER, "TEST": {}}
        with alias("alone", **place), database(server.port, autocommit=True) as driver:
            with connections["alone"].schema_editor() as editor:
                for model in (Author, NullFK):
                    editor.create_model(model)
            yield driver


def database(port, **options):
    """A connection of psycopg 3."""
    return pytest.importorskip("psycopg").connect(
        host=HOST, port=port, dbname="postgres", user=USER, **options
    )


def draw_multixacts(driver):
    """Have a database use thousands of numbers of MultiXacts: there is one for each set of twelve lockers."""
    driver.execute("CREATE TABLE many AS SELECT generate_series(0, 4095) AS n")
    with ExitStack() as stack:
        for bit in range(12):
            locking = stack.enter_context(database(driver.info.port))
            locking.execute("SELECT n FROM many WHERE (n >> %s) & 1 = 1 FOR KEY SHARE", [bit])


@pytest.mark.databases("postgresql")
@pytest.mark.servers("postgresql")
def test_multixact_with_the_number_of_the_writer(alone, other_connection):
    """The number of those who hold a row together is not taken for that of the transaction that writes it."""
    authors = [Author.objects.using("alone").create(name=name) for name in "abc"]
    row = NullFK.objects.using("alone").create(author=authors[0])
    rows = NullFK.objects.using("alone").filter(pk=row.pk)
    rows.update(author=authors[0])
    draw_multixacts(alone)

    def number_of(column):
        return int(alone.execute(f"SELECT {column}::text FROM testapp_nullfk").fetchone()[0])

    def here():
        shared = number_of("xmax")
        while int(alone.execute("SELECT txid_current()").fetchone()[0]) < shared - 1:
            pass
        rows.update(author=authors[2])
        numbers.extend([shared, number_of("xmin")])

    def there():
        NullFK.objects.using("alone").filter(pk=row.pk).update(author=authors[1])

    def read():
        return NullFK.objects.using("alone").filter(author=authors[1])

    numbers = []
    with database(alone.info.port) as locking:
        locking.execute("SELECT id FROM testapp_nullfk FOR KEY SHARE")
        assert written_after(there, here, read, other_connection)
    assert numbers[0] == numbers[1], "the numbers were to be the same"
    same(list(read()), truth(lambda: list(read())))


@pytest.fixture
def without_primary_key(transactional_db):
    """A table whose primary key is one for its model only."""
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE testapp_nullfk DROP CONSTRAINT testapp_nullfk_pkey")
    yield
    NullFK.objects.all().delete()
    with connection.schema_editor() as editor:
        editor.execute("ALTER TABLE testapp_nullfk ADD PRIMARY KEY (id)")


@pytest.mark.databases("postgresql")
def test_primary_key_that_two_rows_have(without_primary_key, other_connection):
    """A row that was only locked is not taken for the old version of another one with its primary key."""
    one, two, three = (Author.objects.create(name=name) for name in "abc")
    moving, locked = (NullFK.objects.create(author=author) for author in (one, three))
    NullFK.objects.filter(pk=-1).update(author=one)
    turn = threading.Event()

    def there():
        assert turn.wait(PATIENCE)
        NullFK.objects.filter(pk=moving.pk).update(id=locked.pk, author=two)

    @contextmanager
    def holding_one():
        with transaction.atomic():
            list(NullFK.objects.select_for_update().filter(author=three))
            turn.set()
            yield

    def here():
        rows = NullFK.objects.filter(pk__in=[moving.pk, locked.pk]).exclude(author=three)
        rows.update(author=three)

    def read():
        return NullFK.objects.filter(author=two)

    assert written_after(there, here, read, other_connection, holding_one)
    same(list(read()), truth(lambda: list(read())))


@pytest.mark.databases("postgresql")
def test_serializable_write_beside_a_new_row(both, other_connection):
    """A write reads nothing but its rows: there is no conflict that there is not with Django alone."""
    author = Author.objects.create(name="a")
    books = Book.objects.bulk_create(Book(title=str(number), author=author) for number in range(3000))
    Chapter.objects.bulk_create(Chapter(book=book, number=1) for book in books)
    middle = books[1500]
    newest = Chapter.objects.order_by("pk").last()
    Chapter.objects.filter(pk=newest.pk).update(book=middle, number=3)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE testapp_chapter")
    Chapter.objects.filter(book=middle, number=3).update(number=4)
    read, written = threading.Event(), threading.Event()

    def there():
        with serializable():
            Chapter.objects.filter(book=middle).count()
            read.set()
            assert written.wait(PATIENCE)
            Chapter.objects.create(book=books[0], number=9)

    def here():
        with serializable():
            Chapter.objects.filter(book=middle).update(number=F("number") + 10)
            written.set()
            assert future.result(PATIENCE) == "done"

    future = other_connection.start(lambda: outcome(there))
    assert read.wait(PATIENCE)
    assert outcome(here) == "done"


@contextmanager
def serializable():
    """A transaction of the strictest level."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        yield


@pytest.fixture
def looked_up(monkeypatch):
    """How often statements look up old versions of their rows."""
    calls, original = [], rewriting.version_seen

    def version_seen(*args):
        calls.append(args)
        return original(*args)

    monkeypatch.setattr(rewriting, "version_seen", version_seen)
    return calls


def before_18():
    """Whether the old values of rows have to be looked up."""
    return connection.pg_version < 180000


@pytest.mark.databases("postgresql")
def test_old_versions_are_looked_up_where_they_are_not_known(looked_up):
    """What the condition says of all keys that are set is known without a look."""
    one, two = (Author.objects.create(name=name) for name in "ab")
    row = NullFK.objects.create(author=one)
    NullFK.objects.filter(author=one).update(author=two)
    assert len(looked_up) == 0
    NullFK.objects.filter(pk=row.pk).update(author=one)
    assert len(looked_up) == before_18()
    NullFK.objects.filter(pk=row.pk).update(note="x")
    assert len(looked_up) == before_18()


@pytest.mark.databases("postgresql")
def test_old_versions_of_very_many_columns_are_not_looked_up(looked_up, monkeypatch):
    """A function of the database has a hundred arguments; a table with more keys is written as it was."""
    assert MAX_COLUMNS == 97
    monkeypatch.setattr(rewriting, "MAX_COLUMNS", 1)
    one, two = (Author.objects.create(name=name) for name in "ab")
    row = NullFK.objects.create(author=one)
    NullFK.objects.filter(pk=row.pk).update(author=one)
    stays_true(
        lambda: NullFK.objects.filter(author=one), lambda: NullFK.objects.filter(pk=row.pk).update(author=two)
    )
    assert not looked_up


@pytest.mark.databases("postgresql")
def test_catalogue_is_not_locked(both):
    """What a write asks of the catalogue it does not ask in its statement, whose locks last."""
    one, two = (Author.objects.create(name=name) for name in "ab")
    row = NullFK.objects.create(author=one)
    NullFK.objects.filter(pk=row.pk).update(author=one)
    with transaction.atomic():
        NullFK.objects.filter(pk=row.pk).update(author=two)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid() "
                "AND relation < 16384 AND mode = 'AccessShareLock'"
            )
            held = {name for (name,) in cursor.fetchall()}
    assert "pg_class" not in held


@pytest.mark.parametrize("inside", [False, True], ids=["autocommit", "atomic"])
@pytest.mark.parametrize("how", ["update", "save"])
def test_write_whose_row_cannot_be_read_afterwards_runs_once(both, how, inside, other_connection):
    """Another process has dropped a column that the statement does not name: it still runs exactly once."""
    row = Later.objects.create(active=1)
    Later.objects.filter(pk=row.pk).update(active=1)
    known = dict(facts._known)
    field = Later._meta.get_field("owner")

    def drop():
        with connection.schema_editor() as editor:
            editor.remove_field(Later, field)

    if connection.vendor == "postgresql" and inside and both == "with rows":
        pytest.skip("an error aborts a transaction of PostgreSQL: the statement fails (docs/rows.md)")
    other_connection(drop)
    facts._known.update(known)
    try:
        with transaction.atomic() if inside else nullcontext():
            if how == "update":
                assert Later.objects.filter(pk=row.pk).update(active=F("active") + 1) == 1
            else:
                row.active = F("active") + 1
                row.save(update_fields=["active"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT active FROM testapp_later")
            assert cursor.fetchone()[0] == 2
    finally:
        with connection.schema_editor() as editor:
            editor.add_field(Later, field)


class Mail(str):
    """Text that the driver was told to send in small letters."""

    __slots__ = ()


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("how", ["read", "insert"])
def test_subclass_of_a_text_that_the_driver_sends_otherwise(how):
    """Of a value that a driver may have been told to send otherwise nobody knows what it finds."""
    sqlite3.register_adapter(Mail, lambda mail: str.__str__(mail).lower())
    try:
        if how == "insert":
            stays_true(
                lambda: Tag.objects.filter(name="a@b").values_list("name"),
                lambda: Tag.objects.create(name=Mail("A@B")),
            )
            return
        tag = Tag.objects.create(name="a@b")
        stays_true(
            lambda: Tag.objects.filter(name=Mail("A@B")).values_list("name"),
            lambda: Tag.objects.filter(pk=tag.pk).update(name="x"),
        )
    finally:
        del sqlite3.adapters[Mail, sqlite3.PrepareProtocol]
