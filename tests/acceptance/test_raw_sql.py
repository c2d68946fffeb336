"""Statements sent through a cursor: every write is seen, no read is taken for one."""

from __future__ import annotations

import io
import sys

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.db.models.expressions import RawSQL
from django.test import override_settings

from cachalot.analysis.catalogue import Catalogue
from cachalot.api import invalidate
from cachalot.core.decisions import Outcome, Reason
from cachalot.observe.events import record
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_hit,
    assert_kept_through,
    assert_missed,
    assert_not_cached,
    assert_refreshed_by,
    assert_true,
    execute,
    new_number,
)
from tests.testapp.models import Author, Book, Bookmark, MixedCase, Tag

pytestmark = pytest.mark.django_db(transaction=True)

PSYCOPG2 = settings.TEST_DB == "psycopg2"


def authors():
    """The table that the statements here write to."""
    return Author.objects.all()


def books():
    """A table whose name begins that of another, ``testapp_bookmark``."""
    return Book.objects.all()


def tags():
    """A table with a unique column."""
    return Tag.objects.all()


def name():
    """A text that is in no row yet."""
    return f"n{new_number()}"


def schema():
    """What may stand before a table's name."""
    return {"postgresql": "public", "sqlite": "main", "mysql": f"`{connection.settings_dict['NAME']}`"}[
        connection.vendor
    ]


#: Writes to the table of authors, for every database.
WRITES = {
    "insert": lambda: execute("INSERT INTO testapp_author (name) VALUES (%s)", [name()]),
    "update": lambda: execute("UPDATE testapp_author SET age = 5"),
    "small letters": lambda: execute("update testapp_author set age=6"),
    "delete": lambda: execute("DELETE FROM testapp_author WHERE name LIKE 'n%%'", []),
    "with a schema": lambda: execute(f"UPDATE {schema()}.testapp_author SET age = 7"),
    "quoted with a schema": lambda: execute(
        f"UPDATE {schema()}.{connection.ops.quote_name('testapp_author')} SET age = 8"
    ),
    "after a comment": lambda: execute("/* SELECT 1 */ -- SELECT 2\n UPDATE testapp_author SET age = 9"),
    "on several lines": lambda: execute("\n\tUPDATE\n\ttestapp_author\n\tSET age = 10\n"),
    "comment inside": lambda: execute("UPDATE/**/testapp_author/**/SET age=11"),
    "trailing semicolon": lambda: execute("UPDATE testapp_author SET age = 12;"),
    "percent signs": lambda: execute("UPDATE testapp_author SET name = '100 %'"),
    "from a query": lambda: execute("INSERT INTO testapp_author (name) SELECT title FROM testapp_book"),
    "for a subquery": lambda: execute(
        "UPDATE testapp_author SET age = 13 WHERE id IN (SELECT author_id FROM testapp_book)"
    ),
    "many": lambda: many("INSERT INTO testapp_author (name) VALUES (%s)", [[name()], [name()]]),
    "in a transaction": lambda: in_transaction("UPDATE testapp_author SET age = 14"),
    "named parameters": lambda: execute("UPDATE testapp_author SET age = %(age)s", {"age": 15}),
}

POSTGRESQL = {
    "cte that inserts": lambda: execute(
        f"WITH new AS (INSERT INTO testapp_author (name) VALUES ('{name()}') RETURNING id) SELECT * FROM new"
    ),
    "cte that deletes": lambda: execute(
        "WITH old AS (DELETE FROM testapp_author WHERE name LIKE 'n%' RETURNING id) SELECT count(*) FROM old"
    ),
    "cte that updates behind another": lambda: execute(
        "WITH a AS (SELECT 1), b AS (UPDATE testapp_author SET age = 20 RETURNING id) SELECT 1 FROM a"
    ),
    "on conflict": lambda: execute(
        "INSERT INTO testapp_author (id, name) VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET age = 21"
    ),
    "only": lambda: execute("UPDATE ONLY testapp_author AS a SET age = 22"),
    "update from": lambda: execute(
        "UPDATE testapp_author SET age = 23 FROM testapp_book b WHERE b.author_id = testapp_author.id"
    ),
    "delete using": lambda: execute(
        "DELETE FROM testapp_author USING testapp_tag WHERE testapp_author.name = testapp_tag.name || 'x'"
    ),
    "several statements": lambda: execute("SELECT 1; UPDATE testapp_author SET age = 24; SELECT 2"),
    "do": lambda: execute("DO $$ BEGIN UPDATE testapp_author SET age = 25; END $$"),
    "copy": lambda: copy_in(),  # noqa: PLW0108 - defined below
    "bytes": lambda: execute(b"UPDATE testapp_author SET age = 26"),
    "composed": lambda: execute(composed("UPDATE {} SET age = 27", "testapp_author")),
    "composed sql": lambda: execute(composed_sql("UPDATE testapp_author SET age = 28")),
    "prepared": lambda: [
        execute("PREPARE cachalot_p AS UPDATE testapp_author SET age = 29"),
        execute("EXECUTE cachalot_p"),
        execute("DEALLOCATE cachalot_p"),
    ],
    "explain analyze": lambda: execute("EXPLAIN ANALYZE UPDATE testapp_author SET age = 30"),
    "merge": lambda: merge(),  # noqa: PLW0108
    "procedure": lambda: call_procedure(),  # noqa: PLW0108
    "function": lambda: call_function(),  # noqa: PLW0108
    "function in a query": lambda: with_function("SELECT cachalot_grow()"),
    "truncate": lambda: execute("TRUNCATE TABLE testapp_author CASCADE"),
}
SQLITE = {
    "cte before an insert": lambda: execute(
        "WITH x(n) AS (SELECT 'cte') INSERT INTO testapp_author (name) SELECT n FROM x"
    ),
    "cte before an update": lambda: execute(
        "WITH x(n) AS (SELECT 40) UPDATE testapp_author SET age = (SELECT n FROM x)"
    ),
    "or ignore": lambda: execute(f"INSERT OR IGNORE INTO testapp_author (name) VALUES ('{name()}')"),
    "update or replace": lambda: execute("UPDATE OR REPLACE testapp_author SET age = 41"),
    "replace": lambda: execute("REPLACE INTO testapp_author (id, name) VALUES (1, 'replaced')"),
    "insert or replace": lambda: execute(
        "INSERT OR REPLACE INTO testapp_author (id, name) VALUES (1, 'again')"
    ),
    "backquotes": lambda: execute("UPDATE `testapp_author` SET age = 42"),
    "brackets": lambda: execute("UPDATE [testapp_author] SET age = 43"),
    "script": lambda: script("SELECT 1; UPDATE testapp_author SET age = 44; SELECT 2;"),
    "returning": lambda: execute("UPDATE testapp_author SET age = 45 RETURNING id"),
}
MYSQL = {
    "replace": lambda: execute("REPLACE INTO testapp_author (id, name) VALUES (900, 'replaced')"),
    "ignore": lambda: execute(f"INSERT IGNORE INTO testapp_author (name) VALUES ('{name()}')"),
    "on duplicate": lambda: execute(
        "INSERT INTO testapp_author (id, name) VALUES (900, 'x') ON DUPLICATE KEY UPDATE age = age + 1"
    ),
    "insert set": lambda: execute(f"INSERT INTO testapp_author SET name = '{name()}'"),
    "without into": lambda: execute(f"INSERT testapp_author (name) VALUES ('{name()}')"),
    "update of two tables": lambda: execute(
        "UPDATE testapp_book b JOIN testapp_author a ON b.author_id = a.id SET b.pages = 3, a.age = 50"
    ),
    "delete of one of two": lambda: execute(
        "DELETE a FROM testapp_author a LEFT JOIN testapp_book b ON b.author_id = a.id "
        "WHERE b.id IS NULL AND a.id < 0"
    ),
    "delete using": lambda: execute(
        "DELETE FROM testapp_author USING testapp_author "
        "JOIN testapp_tag ON testapp_author.name = concat(testapp_tag.name, 'x')"
    ),
    "low priority": lambda: execute("UPDATE LOW_PRIORITY testapp_author SET age = 51 ORDER BY id LIMIT 5"),
    "versioned comment": lambda: execute("/*!40000 UPDATE testapp_author SET age = 52 */"),
    "bytes": lambda: execute(b"UPDATE testapp_author SET age = 53"),
    "procedure": lambda: call_procedure(),  # noqa: PLW0108
    "prepared": lambda: [
        execute("PREPARE cachalot_p FROM 'UPDATE testapp_author SET age = 54'"),
        execute("EXECUTE cachalot_p"),
        execute("DEALLOCATE PREPARE cachalot_p"),
    ],
    "truncate": lambda: truncate_on_mysql(),  # noqa: PLW0108
}
ONLY = {"postgresql": POSTGRESQL, "sqlite": SQLITE, "mysql": MYSQL}


def many(sql, rows):
    """One statement with many rows."""
    with connection.cursor() as cursor:
        cursor.executemany(sql, rows)


def in_transaction(sql):
    """A statement that is committed later."""
    with transaction.atomic():
        execute(sql)


def script(text):
    """Of SQLite."""
    with connection.cursor() as cursor:
        cursor.executescript(text)


def psycopg_sql():
    """The module of the driver in use."""
    if PSYCOPG2:
        from psycopg2 import sql
    else:
        from psycopg import sql
    return sql


def composed(template, table):
    """A statement that the driver puts together, with quoted names."""
    sql = psycopg_sql()
    return sql.SQL(template).format(sql.Identifier(table))


def composed_sql(text):
    """Its simplest form."""
    return psycopg_sql().SQL(text)


def copy_in():
    """Rows in a stream of their own, as each driver wants it."""
    with connection.cursor() as cursor:
        if PSYCOPG2:
            cursor.copy_expert("COPY testapp_author (name) FROM STDIN", io.StringIO(f"{name()}\n"))
        else:
            with cursor.copy("COPY testapp_author (name) FROM STDIN") as copy:
                copy.write_row([name()])


def merge():
    """Of PostgreSQL 15."""
    if connection.pg_version < 150000:
        execute("UPDATE testapp_author SET age = 31")
        return
    execute(
        "MERGE INTO testapp_author a USING (SELECT 'm' AS n) s ON a.name = s.n "
        "WHEN MATCHED THEN UPDATE SET age = 32 WHEN NOT MATCHED THEN INSERT (name) VALUES (s.n)"
    )


def with_function(*statements):
    """A function that writes, for the time of some statements."""
    execute(
        "CREATE OR REPLACE FUNCTION cachalot_grow() RETURNS integer LANGUAGE sql AS "
        "'UPDATE testapp_author SET age = 33; SELECT 1'"
    )
    assert_cached(authors)
    for statement in statements:
        execute(statement)


def call_function():
    """A function through the cursor's own method."""
    with_function()
    callproc("cachalot_grow")


def callproc(procedure):
    """Nobody knows what a procedure does to the session, so it ends with it."""
    with connection.cursor() as cursor:
        cursor.callproc(procedure)
    connection.close()


def call_procedure():
    """A procedure, by CALL and by the cursor's own method."""
    procedure = "CREATE PROCEDURE cachalot_shrink() "
    body = "UPDATE testapp_author SET age = 34"
    execute("DROP PROCEDURE IF EXISTS cachalot_shrink")
    if connection.vendor == "postgresql":
        execute(f"{procedure} LANGUAGE sql AS '{body}'")
        assert_refreshed_by(authors, lambda: execute("CALL cachalot_shrink()"))
    else:
        execute(procedure + body)
        assert_refreshed_by(authors, lambda: execute("CALL cachalot_shrink()"))
        assert_refreshed_by(authors, lambda: callproc("cachalot_shrink"))
    execute("DROP PROCEDURE cachalot_shrink")
    assert_cached(authors)
    execute("UPDATE testapp_author SET age = 35")


def truncate_on_mysql():
    """Foreign keys forbid it, rows or not."""
    with connection.constraint_checks_disabled():
        execute("TRUNCATE testapp_author")


def test_write_through_a_cursor_refreshes(library):
    """Whatever form a write takes, results over the table it names are read anew."""
    cases = Cases()
    for form, write in {**WRITES, **ONLY[connection.vendor]}.items():
        with cases.case(form):
            assert_refreshed_by(authors, write)
    cases.check()


@pytest.mark.databases("postgresql", "mysql")
def test_connection_after_a_procedure(library):
    """A procedure may change settings out of sight: its connection is not cached unless it is vouched for."""
    execute("DROP PROCEDURE IF EXISTS cachalot_nothing")
    if connection.vendor == "mysql":
        execute("CREATE PROCEDURE cachalot_nothing() UPDATE testapp_author SET age = 1")
        procedure = "PROCEDURE cachalot_nothing"
    else:
        execute("CREATE FUNCTION cachalot_nothing() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
        procedure = "FUNCTION cachalot_nothing()"
    try:
        vouched = override_settings(CACHALOT_STABLE_FUNCTIONS=["cachalot_nothing"])
        with vouched, connection.cursor() as cursor:
            cursor.callproc("cachalot_nothing")
            assert_cached(authors)
        with connection.cursor() as cursor:
            cursor.callproc("cachalot_nothing")
        assert_not_cached(lambda: list(Author.objects.order_by("pk")), Reason.CONTEXT)
        connection.close()
        assert_cached(authors)
    finally:
        execute(f"DROP {procedure}")


def test_write_through_a_cursor_keeps_the_tables_it_does_not_name(library):
    """A statement that is understood ends the results of its own table alone, whatever it reads or quotes."""
    cases = Cases()
    for form, write in WRITES.items():
        if form == "delete":
            continue
        with cases.case(form):
            assert_kept_through(tags, write)
            if "query" not in form:
                assert_kept_through(books, write)
    cases.check()


def test_table_read_by_a_write_is_kept(library):
    """INSERT … SELECT changes one of its two tables."""
    assert_kept_through(books, WRITES["from a query"])
    assert_kept_through(books, WRITES["for a subquery"])


def test_truncate_refreshes_what_the_database_empties_with_it(library):
    """TRUNCATE … CASCADE reaches tables that the statement does not name."""
    if connection.vendor != "postgresql":
        pytest.skip("no TRUNCATE … CASCADE here")
    assert_cached(books)
    execute("TRUNCATE testapp_author CASCADE")
    assert assert_missed(books) == ("list", [])


def test_mixed_case_table_is_the_one_that_is_quoted(library):
    """A name in quotes means what it says, and is found in whatever case it was written to."""
    table = connection.ops.quote_name("TestApp_MixedCase")

    def read():
        return MixedCase.objects.order_by("pk")

    assert_refreshed_by(read, lambda: execute(f"UPDATE {table} SET value = 5"))
    if connection.vendor == "sqlite":
        assert_refreshed_by(read, lambda: execute("UPDATE TESTAPP_MIXEDCASE SET value = 6"))
        assert_refreshed_by(authors, lambda: execute("UPDATE TestApp_AUTHOR SET age = 6"))
    if connection.vendor == "postgresql":
        assert_refreshed_by(authors, lambda: execute("UPDATE TestApp_AUTHOR SET age = 6"))


def test_prefix_of_a_table_is_another_table(library):
    """``testapp_book`` is the beginning of ``testapp_bookmark``, and has nothing to do with it."""
    assert_kept_through(books, lambda: execute("UPDATE testapp_bookmark SET page = 9"))
    assert_kept_through(
        lambda: Bookmark.objects.order_by("pk"), lambda: execute("UPDATE testapp_book SET pages = 9")
    )
    assert_kept_through(books, lambda: execute("UPDATE testapp_book_tags SET tag_id = tag_id"))


HARMLESS = {
    "column called like a verb": "SELECT id AS updated_at, name AS delete_me FROM testapp_author",
    "verb in a literal": "SELECT 'UPDATE testapp_author SET age = 1' FROM testapp_author",
    "verb in a comment": "/* UPDATE testapp_author */ SELECT id FROM testapp_author -- DELETE testapp_tag",
    "table in a literal of a write": "UPDATE testapp_tag SET name = 'testapp_author' WHERE id < 0",
    "table in a literal of an insert": "INSERT INTO testapp_bookmark (book_id, page) "
    "SELECT id, 1 FROM testapp_book WHERE title = 'testapp_author'",
    "table as an alias": "DELETE FROM testapp_tag WHERE id IN (SELECT id FROM auth_group testapp_author)",
    "join": "SELECT * FROM testapp_author a JOIN testapp_book b ON b.author_id = a.id",
    "cte that reads": "WITH x AS (SELECT * FROM testapp_author) SELECT * FROM x",
    "union": "SELECT id FROM testapp_author UNION SELECT id FROM testapp_tag",
    "functions": "SELECT LOWER(name), COUNT(*) FROM testapp_author GROUP BY LOWER(name)",
    "parentheses": "(SELECT 1)",
    "savepoint": "SAVEPOINT x",
    "explained": "EXPLAIN SELECT * FROM testapp_author",
}


def test_read_through_a_cursor_costs_nothing(library):
    """Verbs and table names in the wrong place are no write."""
    cases = Cases()
    for form, sql in HARMLESS.items():
        if connection.vendor == "sqlite" and form == "parentheses":
            continue
        with cases.case(form):

            def read(sql=sql):
                with transaction.atomic():
                    execute(sql)

            assert_kept_through(authors, read)
    cases.check()


@pytest.mark.databases("postgresql")
def test_harmless_statements_of_postgresql_cost_nothing(library):
    """Statements about the session, and COPY to the client, change no row."""
    cases = Cases()
    statements = [
        "SHOW work_mem",
        "SET work_mem TO '5MB'",
        "RESET work_mem",
        "ANALYZE testapp_author",
        "VACUUM testapp_author",
    ]
    for sql in statements:
        with cases.case(sql):
            assert_true(authors)
            execute(sql)
            assert_cached(books)
    if not PSYCOPG2:
        with cases.case("copy out"), connection.cursor() as cursor:
            assert_cached(authors)
            with cursor.copy("COPY testapp_author TO STDOUT") as copy:
                assert list(copy)
            assert_hit(authors)
    cases.check()


def test_unknown_statement_ends_everything(library):
    """What is not understood may have changed any table."""
    statement = {
        "postgresql": "DO $$ BEGIN PERFORM 1; END $$",
        "mysql": "DO SLEEP(0)",
        "sqlite": "REINDEX testapp_tag",
    }[connection.vendor]
    assert_refreshed_by(authors, lambda: execute(statement))
    assert_refreshed_by(books, lambda: execute("CREATE TABLE cachalot_extra AS SELECT 1 AS x"))
    assert_refreshed_by(books, lambda: execute("DROP TABLE cachalot_extra"))


def test_raw_write_that_was_rolled_back_costs_nothing(library):
    """A raw statement belongs to its transaction like any other."""

    def fail():
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 - its end is what is tested
            execute("UPDATE testapp_author SET age = 5")
            raise ZeroDivisionError

    assert_kept_through(authors, fail)


def test_raw_write_inside_a_transaction_is_seen_by_it(library):
    """A transaction sees what it wrote, in whatever way it wrote it."""
    assert_cached(authors)
    with transaction.atomic():
        execute("UPDATE testapp_author SET age = 77")
        assert {author.age for author in authors()} == {77}
        many("UPDATE testapp_author SET age = %s", [[78], [79]])
        assert {author.age for author in authors()} == {79}
        transaction.set_rollback(True)
    assert 79 not in {author.age for author in authors()}
    assert_true(authors)


@pytest.mark.skipif(not PSYCOPG2, reason="copy_from is of psycopg2")
def test_copy_from_of_psycopg2_refreshes(library):
    """A method of the driver's cursor that no wrapper of Django sees."""

    def copy():
        with connection.cursor() as cursor:
            cursor.copy_from(io.StringIO(f"{name()}\n"), "testapp_author", columns=["name"])

    assert_refreshed_by(authors, copy)
    assert_kept_through(tags, copy)


@pytest.mark.skipif(settings.TEST_DB != "postgresql", reason="cursor.copy is of psycopg 3")
def test_copy_of_psycopg_is_a_write_of_its_table(library):
    """Only of its table, only if it was not aborted, and only once its rows are there."""
    assert_kept_through(books, copy_in)

    def abort():
        with (
            pytest.raises(ZeroDivisionError),
            connection.cursor() as cursor,
            cursor.copy("COPY testapp_author (name) FROM STDIN"),
        ):
            raise ZeroDivisionError

    assert_cached(authors)
    abort()
    assert_true(authors)


@pytest.mark.databases("sqlite")
def test_script_commits_what_was_open(library):
    """``executescript`` of SQLite ends an open transaction before it begins."""
    assert_cached(authors)
    assert_cached(tags)
    connection.set_autocommit(False)
    try:
        Author.objects.update(age=61)
        script("UPDATE testapp_tag SET name = name || '!';")
    finally:
        connection.rollback()
        connection.set_autocommit(True)
    assert_true(authors)
    assert_true(tags)
    assert Author.objects.first().age == 61


def test_raw_queryset_is_always_run(library):
    """``raw()`` reads the database itself, and costs nobody a result."""
    assert_cached(authors)

    def read():
        return [
            author.age
            for author in Author.objects.raw("SELECT id, name, age FROM testapp_author ORDER BY id")
        ]

    assert read() == [36, None, 80]
    execute("UPDATE testapp_author SET age = 4")
    assert read() == [4, 4, 4]
    assert_missed(authors)
    read()
    assert_hit(authors)


@pytest.mark.databases("postgresql", "sqlite")
def test_raw_queryset_that_writes_refreshes(library):
    """``raw()`` takes statements that write and return."""
    assert_refreshed_by(
        authors, lambda: list(Author.objects.raw("UPDATE testapp_author SET age = 8 RETURNING id, name, age"))
    )


def test_extra_tables_are_not_hidden_from_the_key_of_truth(library):
    """A table that the compiler does not report makes the read uncached, and never stale."""

    def read():
        return list(
            Author.objects.extra(
                tables=["testapp_tag"], where=["testapp_tag.name = %s"], params=["red"]
            ).order_by("pk")
        )

    def select():
        return list(
            Author.objects.extra(
                select={"n": "SELECT COUNT(*) FROM testapp_book b WHERE b.author_id = testapp_author.id"}
            )
        )

    def where():
        return list(Author.objects.extra(where=["id IN (SELECT author_id FROM testapp_book)"]))

    def raw():
        return list(Author.objects.filter(pk__in=RawSQL("SELECT author_id FROM testapp_book", [])))

    cases = Cases()
    for form, query in {"tables": read, "select": select, "where": where, "raw": raw}.items():
        with cases.case(form):
            assert_not_cached(query, Reason.UNTRACED_TABLE)
            before = assert_true(query)
            Tag.objects.filter(name="red").update(name="was red")
            Book.objects.all().delete()
            after = assert_true(query)
            assert (len(before), before) != (len(after), after)
            Tag.objects.filter(name="was red").update(name="red")
            Book.objects.create(title="again", author=library.authors[1])
    cases.check()


def test_extra_over_its_own_table_is_cached(library):
    """SQL by hand that names no other table is understood."""
    cases = Cases()
    for form, read in {
        "select": lambda: Author.objects.extra(select={"loud": "UPPER(testapp_author.name)"}),
        "where": lambda: Author.objects.extra(where=["age > %s"], params=[40]),
        "order": lambda: Author.objects.extra(order_by=["-name"]),
        "raw": lambda: Author.objects.annotate(twice=RawSQL("age * %s", [2])),
    }.items():
        with cases.case(form):
            assert_cached(read)
            assert_refreshed_by(read, lambda: Author.objects.update(age=F("age") + 1))
    cases.check()


def test_raw_writes_are_not_looked_at_where_a_project_says_so(library):
    """With ``CACHALOT_INVALIDATE_RAW = False`` a project invalidates by itself; the ORM still counts."""
    with override_settings(CACHALOT_INVALIDATE_RAW=False):
        assert_cached(authors)
        execute("UPDATE testapp_author SET age = 99")
        assert [author.age for author in authors()] == [36, None, 80]
        invalidate(Author)
        assert [author.age for author in authors()] == [99, 99, 99]
        assert_refreshed_by(authors, lambda: Author.objects.update(age=1))
        with transaction.atomic():
            execute("UPDATE testapp_tag SET name = 'x' WHERE name = 'red'")
            Author.objects.update(age=2)
        assert_true(authors)


def test_statement_that_fails_leaves_the_truth(library):
    """An error in a raw write is the user's, and nothing is stale or stuck after it."""
    assert_cached(authors)
    with pytest.raises(Exception, match="nothing_there"):
        execute("UPDATE testapp_author SET nothing_there = 1")
    assert_true(authors)
    assert_cached(authors)
    assert sys.exc_info() == (None, None, None)


def test_raw_reads_are_reported_as_bypasses_each_once():
    """Every read is a hit, a miss or a bypass with a reason: raw SQL is always run, and says so."""
    with record() as events:
        list(Author.objects.raw(f"SELECT * FROM {Author._meta.db_table}"))
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT COUNT(*) FROM {Author._meta.db_table}")
        list(Author.objects.all())
    reads = [(event.decision.outcome, event.decision.reason) for event in events]
    assert reads == [
        (Outcome.BYPASS, Reason.RAW),
        (Outcome.BYPASS, Reason.RAW),
        (Outcome.MISS, Reason.NEW),
    ]
    assert events[0].tables == {Author._meta.db_table}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only its catalogue knows what functions do")
def test_the_catalogue_is_asked_once_about_a_function(monkeypatch):
    """What a statement calls is found out once, before it is run, and not again after it."""
    asked = []
    original = Catalogue.functions_that_write

    def functions_that_write(self, functions):
        asked.append(functions)
        return original(self, functions)

    monkeypatch.setattr(Catalogue, "functions_that_write", functions_that_write)
    execute("SELECT pg_size_bytes('1 kB')")
    assert len(asked) == 1
