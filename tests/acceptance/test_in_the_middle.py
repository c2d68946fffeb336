"""What comes in the middle of a write or a read: wrappers, signals, lost connections, open statements."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager, suppress

import pytest
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.models.sql.compiler import SQLCompiler
from django.test.utils import CaptureQueriesContext

from cachalot.engine import alone
from cachalot.testing import watch
from tests.acceptance.racing import agreed, during_commit, same, truth, with_init_command
from tests.testapp import models as m
from tests.testapp.models import Author, Book, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("new_connection")]


def names():
    """The names of all authors."""
    return list(Author.objects.values_list("name", flat=True))


def about(sql, *tables):
    """Whether a text writes to one of some tables."""
    return sql.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE", "WITH")) and any(
        table in sql for table in tables
    )


class Refused(Exception):
    pass


# 1. a wrapper that retries


@pytest.mark.parametrize("write", ["update", "create", "delete"])
def test_retry_of_a_statement_that_never_reached_the_database(both, write, monkeypatch):
    """The connection hiccups once: OperationalError from the driver, then it works."""
    author = Author.objects.create(name="a")
    names(), names()
    failures = [1]

    original = alone._execute

    def flaky(session, text):
        if text.startswith("BEGIN") and failures:
            failures.pop()
            raise OperationalError("database is locked")
        return original(session, text)

    monkeypatch.setattr(alone, "_execute", flaky)
    with connection.execute_wrapper(trying_again(lambda: None)):
        if write == "update":
            Author.objects.filter(pk=author.pk).update(name="b")
        elif write == "create":
            Author.objects.create(name="b")
        else:
            Author.objects.filter(pk=author.pk)._raw_delete("default")
    same(names(), truth(names))


@contextmanager
def row_locked_until_first_failure(author):
    """Another connection holds the row; yields what lets it go."""
    other = connections.create_connection("default")
    vendor = connection.vendor
    with connection.cursor() as cursor:
        if vendor == "sqlite":
            cursor.execute("PRAGMA busy_timeout=100")
        elif vendor == "postgresql":
            cursor.execute("SET lock_timeout = '100ms'")
        else:
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 1")
    with other.cursor() as cursor:
        cursor.execute("BEGIN IMMEDIATE" if vendor == "sqlite" else "BEGIN")
        if vendor != "sqlite":
            cursor.execute(f"UPDATE testapp_author SET age = 5 WHERE id = {author.pk}")

    def free():
        with other.cursor() as cursor:
            cursor.execute("ROLLBACK")

    try:
        yield free
    finally:
        other.close()
        with connection.cursor() as cursor:
            if vendor == "sqlite":
                cursor.execute("PRAGMA busy_timeout=20000")
            elif vendor == "postgresql":
                cursor.execute("RESET lock_timeout")
            else:
                cursor.execute("SET SESSION innodb_lock_wait_timeout = 50")


def trying_again(before):
    """An execute wrapper that sends a statement again if it has failed."""

    def again(execute, sql, params, many, context):
        try:
            return execute(sql, params, many, context)
        except OperationalError:
            before()
            return execute(sql, params, many, context)

    return again


def test_retry_after_a_lock_timeout(both):
    """The usual wrapper for locked databases: try again."""
    author = Author.objects.create(name="a")
    names(), names()

    with row_locked_until_first_failure(author) as free, connection.execute_wrapper(trying_again(free)):
        assert Author.objects.filter(pk=author.pk).update(name="b") == 1
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_retry_after_a_lock_timeout_of_save(both):
    """The same for ``save()``, which asks how many rows there were."""
    author = Author.objects.create(name="a")
    names(), names()
    with row_locked_until_first_failure(author) as free:
        author.name = "b"
        with connection.execute_wrapper(trying_again(free)):
            author.save()
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_retry_by_a_patched_cursor_wrapper(both, monkeypatch):
    """django-db-reconnect and its like patch CursorWrapper.execute."""
    from django.db.backends.utils import CursorWrapper

    author = Author.objects.create(name="a")
    names(), names()
    original = CursorWrapper.execute
    with row_locked_until_first_failure(author) as free:

        def execute(self, sql, params=None):
            try:
                return original(self, sql, params)
            except OperationalError:
                free()
                return original(self, sql, params)

        monkeypatch.setattr(CursorWrapper, "execute", execute)
        assert Author.objects.filter(pk=author.pk).update(name="b") == 1
    assert truth(names) == ["b"]
    same(names(), ["b"])


# 2. a wrapper that logs into the database


@pytest.mark.parametrize("how", ["orm", "raw"])
def test_error_is_logged_into_the_database(both, how):
    """A wrapper notes that a statement has failed, and lets the error go on."""
    Tag.objects.create(name="a")

    def logging(execute, sql, params, many, context):
        try:
            return execute(sql, params, many, context)
        except IntegrityError:
            if how == "orm":
                m.Counter.objects.create(last=7)
            else:
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO testapp_counter (last) VALUES (7)")
            raise

    with connection.execute_wrapper(logging), pytest.raises(IntegrityError):
        Tag.objects.create(name="a")
    assert truth(lambda: list(m.Counter.objects.values_list("last", flat=True))) == [7]


def test_audit_after_a_write_that_fails_and_is_passed_over(both):
    """What a wrapper does after a write fails; the write was committed before."""
    author = Author.objects.create(name="a")
    names(), names()

    def audited(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("INSERT INTO audit_that_is_not_there (x) VALUES (1)")
        return result

    with connection.execute_wrapper(audited):
        assert Author.objects.filter(pk=author.pk).update(name="b") == 1
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_audit_after_an_insert_that_fails_and_is_passed_over(both):
    """The same after an INSERT, whose rows are still to be read."""

    def audited(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT * FROM audit_that_is_not_there")
        return result

    with connection.execute_wrapper(audited):
        author = Author.objects.create(name="b")
    assert truth(names) == ["b"]
    assert Author.objects.get(pk=author.pk).name == "b"


# 3. django-silk


def test_silk_explains_a_failed_update(both, monkeypatch):
    """silk/sql.py: EXPLAIN in the ``finally`` of execute_sql."""
    Tag.objects.create(name="a")
    tag = Tag.objects.create(name="b")
    original = SQLCompiler.execute_sql

    def execute_sql(self, *args, **kwargs):
        q, params = self.as_sql()
        try:
            return original(self, *args, **kwargs)
        finally:
            with self.connection.cursor() as cur:
                prefix = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN"
                cur.execute(f"{prefix} {q}", params)
                cur.fetchall()

    monkeypatch.setattr(SQLCompiler, "execute_sql", execute_sql)
    tag.name = "a"
    with pytest.raises(IntegrityError):
        tag.save()
    tag.name = "c"
    tag.save()
    monkeypatch.undo()
    same(list(Tag.objects.values_list("name", flat=True)), ["a", "c"])


# 4. errors after the statement


def test_wrapper_that_raises_after_the_statement(both):
    """A time limit for statements that is seen too late: what is written is committed."""
    author = Author.objects.create(name="a")
    names(), names()

    def limited(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            raise Refused
        return result

    with connection.execute_wrapper(limited), pytest.raises(Refused):
        Author.objects.filter(pk=author.pk).update(name="b")
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_wrapper_that_closes_the_connection(both):
    """In autocommit a statement that has run is committed, though the connection is closed then."""
    author = Author.objects.create(name="a")
    names(), names()

    def closing(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            context["connection"].close()
        return result

    with connection.execute_wrapper(closing), suppress(Exception):
        Author.objects.filter(pk=author.pk).update(name="b")
    connection.close()
    assert truth(names) == ["b"]
    same(names(), ["b"])


@pytest.mark.databases("postgresql", "mysql")
def test_hook_of_a_wrapper_after_the_statement(both, other_connection):
    """In autocommit on_commit runs at once: the row is there for others."""
    seen = []

    def hooked(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            transaction.on_commit(lambda: seen.append(other_connection(lambda: truth(names))))
        return result

    with connection.execute_wrapper(hooked):
        Author.objects.create(name="b")
    assert seen == [["b"]]


# 5. signals


class SoftTimeLimit(Exception):
    pass


@contextmanager
def limit(seconds):
    """A time limit that a signal enforces."""

    def handler(_signum, _frame):
        raise SoftTimeLimit

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.databases("sqlite")
def test_time_limit_while_sqlite_waits_for_its_lock(both):
    """Celery's soft time limit comes while a write waits; nothing stays open afterwards."""
    author = Author.objects.create(name="a")
    names(), names()
    holds, free = threading.Event(), threading.Event()

    def hold():
        other = connections.create_connection("default")
        with other.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE")
            holds.set()
            free.wait(10)
            cursor.execute("ROLLBACK")
        other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    holds.wait(10)
    timer = threading.Timer(0.7, free.set)
    timer.start()
    try:
        with limit(0.2), pytest.raises(SoftTimeLimit):
            Author.objects.filter(pk=author.pk).update(name="b")
    finally:
        free.set()
        thread.join()
    open_still = connection.connection.in_transaction
    if open_still:
        connection.connection.rollback()
    assert not open_still
    same(names(), truth(names))


def test_time_limit_while_begin_is_answered(both, monkeypatch):
    """The same on a driver that lets the handler run when its call has returned (MySQLdb, sqlite3)."""
    author = Author.objects.create(name="a")
    original = alone._execute

    def interrupted(session, text):
        original(session, text)
        if text.startswith("BEGIN"):
            raise SoftTimeLimit

    monkeypatch.setattr(alone, "_execute", interrupted)
    with suppress(SoftTimeLimit):
        Author.objects.filter(pk=author.pk).update(name="b")
    monkeypatch.setattr(alone, "_execute", original)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = 'c'")
    connection.close()
    assert truth(names) == ["c"]


def test_time_limit_after_the_commit(both, monkeypatch):
    """The handler runs when COMMIT has returned; the connection is as good as before."""
    author = Author.objects.create(name="a")
    names(), names()
    original = alone._execute

    def interrupted(session, text):
        original(session, text)
        if text.startswith("COMMIT"):
            raise SoftTimeLimit

    monkeypatch.setattr(alone, "_execute", interrupted)
    with suppress(SoftTimeLimit):
        Author.objects.filter(pk=author.pk).update(name="b")
    monkeypatch.setattr(alone, "_execute", original)
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_time_limit_during_done(both):
    """It comes while the cache is told that the write is committed."""
    author = Author.objects.create(name="a")
    names(), names()

    def handler(_signum, _frame):
        raise SoftTimeLimit

    before = signal.signal(signal.SIGALRM, handler)

    def kick():
        signal.raise_signal(signal.SIGALRM)

    try:
        with suppress(SoftTimeLimit, AssertionError), during_commit("between COMMIT and DONE", kick):
            Author.objects.filter(pk=author.pk).update(name="b")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert truth(names) == ["b"]
    same(names(), truth(names))


# 6. SQLite rolls back by itself


@pytest.mark.databases("sqlite")
def test_full_disk(both):
    """SQLite ends the transaction by itself when the disk is full (manual, Response To Errors)."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages}")
    try:
        with pytest.raises(DatabaseError):
            Author.objects.filter(pk=author.pk).update(name="x" * 1_000_000)
        assert truth(names) == ["a"]
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("PRAGMA max_page_count=1073741823")
        connection.close()


@pytest.mark.databases("sqlite")
def test_full_disk_of_an_insert(both):
    """The same for an INSERT."""
    Author.objects.create(name="a")
    with connection.cursor() as cursor:
        pages = cursor.execute("PRAGMA page_count").fetchone()[0]
        cursor.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DatabaseError):
        Author.objects.create(name="x" * 1_000_000)
    assert truth(names) == ["a"]


@pytest.mark.databases("sqlite")
def test_trigger_that_rolls_back(both):
    """A trigger of SQLite may end the transaction; the connection stays good."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON testapp_author BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
        )
    try:
        with pytest.raises(DatabaseError):
            Author.objects.filter(pk=author.pk).update(name="b")
        assert truth(names) == ["a"]
    finally:
        connection.close()
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse")


# 7. a shared connection


@pytest.mark.databases("sqlite")
def test_threads_that_share_a_connection(both, monkeypatch):
    """A live server on a database in memory: each statement stands for itself."""
    Tag.objects.create(name="a")
    errors = []
    shared = connections["default"]
    shared.close()
    monkeypatch.setitem(shared.settings_dict["OPTIONS"], "check_same_thread", False)
    shared.inc_thread_sharing()

    def in_a_thread(call):
        def run():
            connections["default"] = shared
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)

    def meanwhile(execute, sql, params, many, context):
        if threading.current_thread() is threading.main_thread() and about(sql, "testapp_tag"):
            try:
                return execute(sql, params, many, context)
            finally:
                in_a_thread(lambda: Author.objects.create(name="other"))
        return execute(sql, params, many, context)

    names(), names()
    try:
        with shared.execute_wrapper(meanwhile), pytest.raises(IntegrityError):
            Tag.objects.create(name="a")
    finally:
        shared.dec_thread_sharing()
    assert not errors
    assert truth(names) == ["other"]
    same(names(), ["other"])


# 8. what the wrappers see


# 9. rights


# 10. no wrapper of ours


def test_execute_wrappers_were_emptied():
    """Somebody has emptied the list of wrappers: the ORM's writes are known all the same."""
    author = Author.objects.create(name="a")
    names(), names()
    kept = connection.execute_wrappers[:]
    connection.execute_wrappers[:] = []
    try:
        Author.objects.filter(pk=author.pk).update(name="b")
    finally:
        connection.execute_wrappers[:] = kept
    same(names(), truth(names))


# 11. ATTACH


@pytest.mark.databases("sqlite")
def test_attached_database_that_is_locked(both, tmp_path):
    """A lock on another file that is attached stops nobody who writes to this one."""
    path = str(tmp_path / "aux.sqlite3")
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout=100")
        cursor.execute(f"ATTACH '{path}' AS aux")
        cursor.execute("CREATE TABLE aux.t (x)")
    import sqlite3

    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        assert Author.objects.filter(pk=author.pk).update(name="b") == 1
    finally:
        other.execute("ROLLBACK")
        other.close()
        connection.close()


# 12. iterators


@pytest.mark.parametrize("size", [1, 2])
def test_writes_while_iterating(both, size):
    """A loop may change and save what it reads; a write that fails leaves it alone."""
    for number in range(6):
        Tag.objects.create(name=f"t{number}")
    Tag.objects.create(name="new0")
    with suppress(Exception), connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA busy_timeout=500")
    seen, failed = [], 0
    for tag in Tag.objects.filter(name__startswith="t").order_by("id").iterator(chunk_size=size):
        seen.append(tag.name)
        try:
            tag.name = "new" + tag.name[1:]
            tag.save()
        except IntegrityError:
            failed += 1
    assert seen == [f"t{number}" for number in range(6)]
    assert failed == 1
    agreed(lambda: list(Tag.objects.values_list("name", flat=True)))


# 13. SQLite: one snapshot for all statements that are open on a connection


def _fill():
    for number in range(6):
        Tag.objects.create(name=f"t{number}")


@with_init_command
@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("how", ["iterator", "raw cursor", "raw queryset", "cold iterator of values"])
def test_read_while_an_iterator_is_open(how, other_connection):
    """In WAL mode a SELECT that begins while another is read sees the snapshot of the first."""
    _fill()
    author = Author.objects.create(name="a")
    cursor = None
    if how == "iterator":
        open_one = Tag.objects.iterator(chunk_size=1)
        next(open_one)
    elif how == "raw cursor":
        cursor = connection.cursor()
        cursor.execute("SELECT * FROM testapp_tag")
        cursor.fetchone()
        open_one = ()
    elif how == "raw queryset":
        open_one = iter(Tag.objects.raw("SELECT * FROM testapp_tag").iterator())
        next(open_one)
    else:
        open_one = Tag.objects.values_list("name").iterator(chunk_size=2)
        next(open_one)
    other_connection(lambda: Author.objects.filter(pk=author.pk).update(name="b"))
    names()
    list(open_one)
    if cursor is not None:
        cursor.close()
    assert other_connection(lambda: truth(names)) == ["b"]
    same(other_connection(names), ["b"])
    same(names(), ["b"])


@with_init_command
@pytest.mark.databases("sqlite")
def test_loop_over_an_iterator_that_asks_for_partners(other_connection):
    """The usual loop of a command, while a request of another process writes."""
    author = Author.objects.create(name="a")
    for number in range(4):
        Book.objects.create(title=str(number), author=author)
    for book in Book.objects.order_by("id").iterator(chunk_size=2):
        if book.title == "1":
            other_connection(lambda: Author.objects.filter(pk=author.pk).update(name="b"))
        Author.objects.get(pk=book.author_id)
    same(other_connection(lambda: Author.objects.get(pk=author.pk).name), "b")


# 14. temporary tables by another name


@pytest.mark.databases("sqlite", "postgresql")
def test_table_in_the_schema_of_temporary_ones(other_connection):
    """A temporary table that is made by the name of its schema hides the real one as well."""
    Author.objects.create(name="a")
    schema, real = ("temp", "main") if connection.vendor == "sqlite" else ("pg_temp", "public")
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TABLE {schema}.testapp_author AS SELECT * FROM {real}.testapp_author WHERE 1=0"
        )
    try:
        here = names()
        there = other_connection(names)
        assert (here, there) == ([], ["a"])
    finally:
        connection.close()


@pytest.mark.databases("postgresql")
def test_select_into_the_schema_of_temporary_ones(other_connection):
    """SELECT INTO may make such a table, too."""
    Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * INTO pg_temp.testapp_author FROM public.testapp_author WHERE 1=0")
    here, there = names(), other_connection(names)
    connection.close()
    assert (here, there) == ([], ["a"])


@pytest.mark.databases("sqlite", "postgresql")
def test_temporary_table_of_a_prepared_statement_or_quoted(other_connection):
    """Its schema may be written in quotes."""
    Author.objects.create(name="a")
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(
                'CREATE TABLE "temp"."testapp_author" AS SELECT * FROM main.testapp_author WHERE 1=0'
            )
        else:
            cursor.execute('CREATE TABLE "pg_temp"."testapp_author" (LIKE public.testapp_author)')
    here, there = names(), other_connection(names)
    connection.close()
    assert (here, there) == ([], ["a"])


# 15. retries inside of a transaction


@pytest.mark.databases("sqlite", "mysql")
@pytest.mark.parametrize("write", ["update", "save", "delete", "key"])
def test_retry_inside_a_transaction(both, write):
    """MariaDB and SQLite go on with a transaction after a lock timeout."""
    author = Author.objects.create(name="a")
    Tag.objects.create(name="a")
    names(), names()
    tags = lambda: list(Tag.objects.values_list("name", flat=True))  # noqa: E731
    tags(), tags()
    with row_locked_until_first_failure(author) as free:
        if connection.vendor == "mysql":
            free()
        fails = [1]

        def failing(execute, sql, params, many, context):
            if connection.vendor == "mysql" and fails and about(sql, "testapp_author", "testapp_tag"):
                fails.pop()
                execute("SELECT GET_LOCK('x', 0), nothing_there()", None, False, context)
            return execute(sql, params, many, context)

        if connection.vendor == "mysql":
            blocker = connections.create_connection("default")
            with blocker.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(f"UPDATE testapp_author SET age = 6 WHERE id = {author.pk}")
                cursor.execute("UPDATE testapp_tag SET name = 'z' WHERE name = 'a'")

            def free():
                with blocker.cursor() as cursor:
                    cursor.execute("ROLLBACK")

        with transaction.atomic(), connection.execute_wrapper(trying_again(free)):
            if write == "update":
                assert Author.objects.filter(pk=author.pk).update(name="b") == 1
            elif write == "save":
                author.name = "b"
                author.save()
            elif write == "key":
                assert Tag.objects.filter(name="a").update(name="b") == 1
            else:
                Author.objects.filter(pk=author.pk)._raw_delete("default")
        if connection.vendor == "mysql":
            blocker.close()
    same(names(), truth(names))
    same(tags(), truth(tags))


# 16. MySQL


@pytest.mark.databases("mysql")
def test_transaction_that_a_procedure_has_begun(both):
    """A write joins a transaction that a procedure has begun out of sight."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("CREATE PROCEDURE hazard_begin() BEGIN START TRANSACTION; END")
        try:
            cursor.execute("CALL hazard_begin()")
            cursor.execute("UPDATE testapp_author SET age = 3")
            Author.objects.filter(pk=author.pk).update(name="b")
            cursor.execute("ROLLBACK")
        finally:
            cursor.execute("DROP PROCEDURE hazard_begin")
    assert truth(lambda: list(Author.objects.values_list("name", "age"))) == [("a", None)]


@pytest.mark.databases("mysql")
def test_completion_type(both):
    """A write in autocommit leaves no transaction behind, whatever MySQL does after a COMMIT."""
    author = Author.objects.create(name="a")
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION completion_type = 1")
    Author.objects.filter(pk=author.pk).update(name="b")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET age = 3")
    connection.close()
    assert truth(lambda: list(Author.objects.values_list("name", "age"))) == [("b", 3)]


@pytest.mark.databases("mysql")
@pytest.mark.parametrize(
    "text",
    [
        "/*!50000 UPDATE testapp_author SET name = 'b' */",
        "/*M!100000 UPDATE testapp_author SET name = 'b' */",
        "SELECT 1 /*! ; UPDATE testapp_author SET name = 'b' */",
        "EXECUTE IMMEDIATE 'UPDATE testapp_author SET name = ''b'''",
        "BEGIN NOT ATOMIC UPDATE testapp_author SET name = 'b'; END",
        "SET STATEMENT max_statement_time=10 FOR UPDATE testapp_author SET name = 'b'",
        "SET @x = 1, @y = (SELECT 1)",
        "HANDLER testapp_author OPEN",
        "# comment\nUPDATE testapp_author SET name = 'b'",
        "-- comment\nUPDATE testapp_author SET name = 'b'",
        "REPLACE INTO testapp_author (id, name) VALUES (77, 'b')",
        "UPDATE testapp_tag t, testapp_author a SET a.name = 'b'",
        "DELETE a FROM testapp_author a",
        "ANALYZE UPDATE testapp_author SET name = 'b'",
        "ANALYZE FORMAT=JSON UPDATE testapp_author SET name = 'b'",
        "TRUNCATE testapp_tag",
    ],
)
def test_raw_on_mariadb(text):
    """Whatever a text does on MariaDB, no stale row is served after it."""
    Author.objects.create(name="a")
    Tag.objects.create(name="a")
    names(), names()
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute(text)
        with suppress(Exception):
            cursor.fetchall()
    same(names(), truth(names))


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    "text",
    [
        "EXPLAIN (ANALYZE) UPDATE testapp_author SET name = 'b'",
        "EXPLAIN (ANALYZE, FORMAT JSON) WITH x AS (UPDATE testapp_author SET name='b' RETURNING 1) TABLE x",
        "EXPLAIN (COSTS OFF, ANALYZE TRUE) DELETE FROM testapp_author",
        "PREPARE p AS UPDATE testapp_author SET name = 'b'; EXECUTE p",
        "/* a /* nested */ */ UPDATE testapp_author SET name = 'b'",
        "-- x\nUPDATE testapp_author SET name = 'b'",
        "DO $$ BEGIN UPDATE testapp_author SET name = 'b'; END $$",
        "SELECT 1; UPDATE testapp_author SET name = 'b'",
        "MERGE INTO testapp_author a USING testapp_tag t ON true WHEN MATCHED THEN UPDATE SET name = 'b'",
        "WITH x AS (DELETE FROM testapp_author RETURNING *) SELECT * FROM x",
        "WITH x AS NOT MATERIALIZED (SELECT 1) UPDATE ONLY public.testapp_author AS a SET name = 'b' FROM x",
        "SELECT query_to_xml('DELETE FROM testapp_author RETURNING 1', true, true, '')",
        "TRUNCATE ONLY testapp_author RESTART IDENTITY CASCADE",
        "COPY testapp_author (id, name) FROM PROGRAM 'echo 99,x' WITH (FORMAT csv)",
        "COPY (UPDATE testapp_author SET name = 'b' RETURNING 1) TO PROGRAM 'cat > /dev/null'",
        "CREATE TABLE hazard_x AS WITH y AS (UPDATE testapp_author SET name='b' RETURNING 1) TABLE y",
        "BEGIN; UPDATE testapp_author SET name = 'b'; COMMIT",
        "SELECT U&'\\0061'; UPDATE testapp_author SET name = 'b'",
        "SELECT E'\\''; UPDATE testapp_author SET name = 'b' --'",
        "ALTER TABLE testapp_author ALTER COLUMN name SET DEFAULT 'b'",
        "UPDATE \"testapp_author\" SET name = 'b'",
        "UPDATE TESTAPP_AUTHOR SET name = 'b'",
        "UPDATE U&\"testapp\\005Fauthor\" SET name = 'b'",
        "INSERT INTO testapp_author (name) TABLE testapp_tag",
        "VACUUM testapp_author",
        "CREATE INDEX CONCURRENTLY hazard_i ON testapp_author (name)",
        "DROP INDEX CONCURRENTLY IF EXISTS hazard_i",
        "REINDEX TABLE CONCURRENTLY testapp_author",
        "CLUSTER",
    ],
)
def test_raw_on_postgresql(text):
    """Whatever a text does on PostgreSQL, nothing stale is served; it is in no transaction of ours."""
    Author.objects.create(name="a")
    Tag.objects.create(name="a")
    names(), names()
    failed = None
    try:
        with connection.cursor() as cursor:
            cursor.execute(text)
    except DatabaseError as error:
        failed = str(error)
    finally:
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS hazard_x")
    same(names(), truth(names))
    assert failed is None or "transaction block" not in failed, failed


@pytest.mark.databases("mysql", "postgresql")
def test_connection_lost_at_the_statement(both, other_connection, monkeypatch):
    """The server ends the connection while a write is under way; Django cleans up after the request."""
    from django.db import close_old_connections

    author = Author.objects.create(name="a")
    names(), names()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT CONNECTION_ID()" if connection.vendor == "mysql" else "SELECT pg_backend_pid()"
        )
        number = cursor.fetchone()[0]

    def kill():
        with connection.cursor() as cursor:
            kills = (
                f"KILL {number}" if connection.vendor == "mysql" else f"SELECT pg_terminate_backend({number})"
            )
            cursor.execute(kills)

    original = alone._execute

    def killing(session, text):
        original(session, text)
        if text.startswith("BEGIN"):
            other_connection(kill)

    monkeypatch.setattr(alone, "_execute", killing)
    if both == "without":
        other_connection(kill)
    with pytest.raises(DatabaseError):
        Author.objects.filter(pk=author.pk).update(name="b")
    monkeypatch.setattr(alone, "_execute", original)
    close_old_connections()
    assert connection.connection is None
    same(names(), truth(names))


@with_init_command
@pytest.mark.databases("sqlite")
def test_transaction_that_begins_while_an_iterator_is_open(other_connection):
    """Its snapshot is that of the iterator, older than the clock that was read for it."""
    _fill()
    author = Author.objects.create(name="a")
    open_one = Tag.objects.iterator(chunk_size=1)
    next(open_one)
    other_connection(lambda: Author.objects.filter(pk=author.pk).update(name="b"))
    other_connection(names)  # there are tokens
    pairs = lambda: list(Author.objects.order_by("-id").values_list("name", flat=True))  # noqa: E731
    with transaction.atomic():
        pairs()
    list(open_one)
    same(other_connection(pairs), ["b"])


@pytest.mark.databases("sqlite")
def test_wrapper_that_begins_a_transaction_while_an_iterator_is_open(both):
    """SQLite commits while rows are read: a wrapper may use ``atomic`` behind a write in a loop."""
    author = Author.objects.create(name="a")
    m.Counter.objects.create()
    _fill()

    def counting(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            with transaction.atomic():
                m.Counter.objects.update(last=7)
        return result

    open_one = Tag.objects.iterator(chunk_size=1)
    next(open_one)
    names()
    with connection.execute_wrapper(counting):
        Author.objects.filter(pk=author.pk).update(name="b")
    list(open_one)
    assert truth(lambda: m.Counter.objects.get().last) == 7
    same(names(), ["b"])


@pytest.mark.databases("sqlite")
def test_wrapper_that_fails_behind_an_insert_while_an_iterator_is_open(both):
    """The row is there, and no transaction is left behind."""
    _fill()

    def failing(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if about(sql, "testapp_author"):
            raise Refused
        return result

    open_one = Tag.objects.iterator(chunk_size=1)
    next(open_one)
    with connection.execute_wrapper(failing), pytest.raises(Refused):
        Author.objects.create(name="b")
    assert not connection.connection.in_transaction
    list(open_one)
    same(names(), truth(names))


@pytest.mark.databases("sqlite", "postgresql")
def test_query_log_and_wrappers_are_shown_what_django_alone_shows(both):
    """What is added to a statement to learn about its rows is added behind all who look at it."""
    author, other = Author.objects.create(name="a"), Author.objects.create(name="o")
    book = Book.objects.create(title="x", author=author)
    seen = []

    def looking(execute, sql, params, many, context):
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(looking), CaptureQueriesContext(connection) as log:
        Author.objects.filter(pk=author.pk).update(name="b")
        Book.objects.filter(pk=book.pk).update(author=other)
        book.save()
        Tag.objects.filter(name="y")._raw_delete("default")
    assert len(seen) == len(log) == 4
    for text in (*seen, *(one["sql"] for one in log)):
        assert text.startswith(("UPDATE", "DELETE"))
        assert "RETURNING" not in text
    same(names(), ["b", "o"])


def test_comment_beside_a_statement(both):
    """An execute wrapper may write comments around a statement, which is understood all the same."""
    author, other = Author.objects.create(name="a"), Author.objects.create(name="o")
    Book.objects.create(title="x", author=author)
    book = Book.objects.create(title="y", author=other)

    def titles():
        return list(Book.objects.filter(author=author).values_list("title", flat=True))

    def spared():
        return list(Book.objects.filter(pk=1_000_000).values_list("title", flat=True))

    titles(), spared(), spared()

    def commented(execute, sql, params, many, context):
        return execute(f"/* request 7 */ {sql} /* view='home' */", params, many, context)

    with connection.execute_wrapper(commented):
        assert Book.objects.filter(pk=book.pk).update(author=author, title="z") == 1
    if both == "with rows" and connection.vendor != "mysql":
        with watch() as decisions:
            spared()
        assert decisions.hits == 1
    same(sorted(titles()), ["x", "z"])
