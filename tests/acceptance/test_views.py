"""Relations behind which other tables stand: views, materialized views, partitions, inherited tables."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import override_settings

from cachalot.api import explain
from cachalot.core.decisions import Reason
from tests.acceptance.shapes import (
    assert_cached,
    assert_kept_through,
    assert_missed,
    assert_not_cached,
    assert_refreshed_by,
    assert_true,
    execute,
)
from tests.testapp.models import AUTHOR_STATS_VIEW, Author, AuthorStats, Book, Category, Tag

pytestmark = pytest.mark.django_db(transaction=True)

NAMES_VIEW = "CREATE VIEW testapp_authorstats AS SELECT id AS author_id, name, 0 AS books FROM testapp_author"


def stats():
    """What the view shows."""
    return AuthorStats.objects.order_by("pk")


@pytest.fixture
def relation(library):
    """Makes what stands behind the unmanaged model, and takes it away again.

    Call it with statements and what to drop, in the order of dropping.
    """
    dropped = []

    def make(*statements, drop=("VIEW testapp_authorstats",)):
        for statement in statements:
            execute(statement)
        dropped[:0] = drop

    yield make
    for what in dropped:
        execute(f"DROP {what}")


@pytest.fixture
def view(relation):
    """The books of each author, counted by the database."""
    relation(AUTHOR_STATS_VIEW)


def test_view_refreshes_with_the_tables_behind_it(view):
    """A view depends on what its definition reads, as the catalogue of the database says."""
    assert_refreshed_by(stats, lambda: Author.objects.update(name="renamed"))
    assert_refreshed_by(stats, lambda: Book.objects.first().delete())
    assert_refreshed_by(stats, lambda: execute("UPDATE testapp_author SET name = 'by hand'"))
    assert_refreshed_by(stats, lambda: execute("DELETE FROM testapp_book WHERE pages < 0"))


def test_view_is_kept_through_writes_of_other_tables(view):
    """And on nothing else."""
    assert_kept_through(stats, lambda: Tag.objects.create(name="other"))
    assert set(explain(stats()).tables) == {"testapp_authorstats", "testapp_author", "testapp_book"}


def test_join_with_a_view_refreshes(view, library):
    """A view in a join or in a subquery counts like one alone."""

    def joined():
        return Author.objects.filter(authorstats__books__gt=0).select_related("authorstats")

    def nested():
        return Tag.objects.exclude(pk__in=AuthorStats.objects.filter(books=2).values("pk"))

    assert_refreshed_by(joined, lambda: Book.objects.filter(author=library.authors[2]).delete())
    assert_refreshed_by(nested, lambda: Book.objects.all().delete())


def test_view_upon_a_view_refreshes(relation):
    """Views are followed down to the tables."""
    relation(
        "CREATE VIEW testapp_lower AS SELECT author_id, COUNT(*) AS n FROM testapp_book GROUP BY author_id",
        "CREATE VIEW testapp_authorstats AS SELECT a.id AS author_id, a.name AS name, l.n AS books "
        "FROM testapp_author a JOIN testapp_lower l ON l.author_id = a.id",
        drop=("VIEW testapp_authorstats", "VIEW testapp_lower"),
    )
    assert_refreshed_by(stats, lambda: Book.objects.first().delete())
    assert_refreshed_by(stats, lambda: Author.objects.update(name="renamed"))
    assert_kept_through(stats, lambda: Tag.objects.create(name="other"))


def test_redefined_view_is_read_anew(view):
    """A new definition may depend on other tables; it is asked for again."""
    assert_cached(stats)

    def redefine():
        execute("DROP VIEW testapp_authorstats")
        execute(
            "CREATE VIEW testapp_authorstats AS SELECT id AS author_id, name, 7 AS books FROM testapp_tag"
        )

    assert_refreshed_by(stats, redefine)
    assert_refreshed_by(
        stats,
        lambda: Tag.objects.update(name="one") if Tag.objects.count() == 1 else Tag.objects.first().delete(),
    )
    assert_kept_through(stats, lambda: Author.objects.update(name="renamed"))


@pytest.mark.databases("postgresql", "mysql")
def test_replaced_view_is_read_anew(view):
    """CREATE OR REPLACE is a new definition, too."""
    assert_refreshed_by(
        stats,
        lambda: execute(
            "CREATE OR REPLACE VIEW testapp_authorstats AS "
            "SELECT a.id AS author_id, a.name AS name, COUNT(a.id) AS books "
            "FROM testapp_author a GROUP BY a.id, a.name"
        ),
    )
    assert_kept_through(stats, lambda: Book.objects.first().delete())
    assert_refreshed_by(stats, lambda: Author.objects.update(name="renamed"))


def test_view_that_shows_the_time_is_not_cached(relation):
    """A view is as volatile as its definition."""
    relation(
        "CREATE VIEW testapp_authorstats AS SELECT id AS author_id, name, 1 AS books FROM testapp_author "
        "WHERE CURRENT_TIMESTAMP IS NOT NULL"
    )
    assert_not_cached(lambda: list(stats()), Reason.UNKNOWN_RELATION)


def test_view_upon_a_view_that_shows_the_time_is_not_cached(relation):
    """At any depth."""
    relation(
        "CREATE VIEW testapp_lower AS SELECT id, name, CURRENT_TIMESTAMP AS t FROM testapp_author",
        "CREATE VIEW testapp_authorstats AS SELECT id AS author_id, name, 1 AS books FROM testapp_lower",
        drop=("VIEW testapp_authorstats", "VIEW testapp_lower"),
    )
    assert_not_cached(lambda: list(stats()), Reason.UNKNOWN_RELATION)


def test_temporary_table_is_not_cached(relation):
    """What only this connection sees has no name in the cache."""
    relation(
        "CREATE TEMPORARY TABLE testapp_authorstats AS "
        "SELECT id AS author_id, name, 1 AS books FROM testapp_author",
        drop=("TABLE testapp_authorstats",),
    )
    assert_not_cached(lambda: list(stats()), Reason.UNKNOWN_RELATION, Reason.CONTEXT)
    assert_true(stats)
    connection.close()
    relation("CREATE TABLE testapp_authorstats (author_id integer, name varchar(9), books integer)", drop=())


def test_table_made_by_hand_is_cached(relation):
    """A table without a managed model is a table: what writes to it is seen."""
    relation(
        "CREATE TABLE testapp_authorstats AS SELECT id AS author_id, name, 1 AS books FROM testapp_author",
        drop=("TABLE testapp_authorstats",),
    )
    assert_refreshed_by(stats, lambda: execute("UPDATE testapp_authorstats SET books = 2"))
    assert_refreshed_by(stats, lambda: AuthorStats.objects.update(books=3))
    assert_kept_through(stats, lambda: Author.objects.update(age=3))


@pytest.mark.databases("sqlite")
def test_virtual_table_is_not_cached(relation):
    """Nobody knows where its rows come from."""
    relation(
        "CREATE VIRTUAL TABLE testapp_authorstats USING fts4(author_id, name, books)",
        drop=("TABLE testapp_authorstats",),
    )
    assert_not_cached(lambda: list(stats().values_list("name")), Reason.UNKNOWN_RELATION)


@pytest.mark.databases("postgresql")
def test_relation_of_unknown_kind_is_not_cached_until_declared(relation):
    """A view upon a function that is not known: only the project can say what it depends on."""
    relation(
        "CREATE FUNCTION cachalot_rows() RETURNS TABLE (author_id bigint, name varchar, books integer) "
        "LANGUAGE sql AS 'SELECT id, name, 1 FROM testapp_author'",
        "CREATE VIEW testapp_authorstats AS SELECT * FROM cachalot_rows()",
        drop=("VIEW testapp_authorstats", "FUNCTION cachalot_rows()"),
    )
    assert_not_cached(lambda: list(stats()), Reason.UNKNOWN_RELATION)
    with override_settings(CACHALOT_WRITE_DEPENDENCIES={"testapp_author": ["testapp_authorstats"]}):
        assert_refreshed_by(stats, lambda: Author.objects.update(name="declared"))
    with override_settings(CACHALOT_ADDITIONAL_TABLES=["testapp_authorstats"]):
        assert_cached(stats)


@pytest.mark.databases("postgresql")
def test_materialized_view_changes_when_it_is_refreshed(relation):
    """Its rows are its own: a write to the tables behind it changes nothing, REFRESH does."""
    relation(
        AUTHOR_STATS_VIEW.replace("CREATE VIEW", "CREATE MATERIALIZED VIEW"),
        "CREATE UNIQUE INDEX testapp_authorstats_pk ON testapp_authorstats (author_id)",
        drop=("MATERIALIZED VIEW testapp_authorstats",),
    )
    assert_cached(stats)
    Author.objects.update(name="renamed")
    assert_true(stats)
    assert_refreshed_by(stats, lambda: execute("REFRESH MATERIALIZED VIEW testapp_authorstats"))
    assert stats().first().name == "renamed"
    Book.objects.all().delete()
    assert_refreshed_by(
        stats, lambda: execute("REFRESH MATERIALIZED VIEW CONCURRENTLY public.testapp_authorstats")
    )
    assert stats().first().books == 0


@pytest.mark.databases("postgresql", "mysql")
def test_write_through_a_view_refreshes_the_table_behind_it(relation):
    """An updatable view is another name of its table."""
    relation(NAMES_VIEW)
    authors = Author.objects.all
    assert_refreshed_by(authors, lambda: AuthorStats.objects.update(name="through the ORM"))
    assert_refreshed_by(authors, lambda: execute("UPDATE testapp_authorstats SET name = 'through a cursor'"))
    assert_refreshed_by(stats, lambda: AuthorStats.objects.update(name="itself"))
    assert_kept_through(Tag.objects.all, lambda: AuthorStats.objects.update(name="others"))


@pytest.mark.databases("sqlite")
def test_write_through_a_view_with_a_trigger_refreshes_the_table_behind_it(relation):
    """INSTEAD OF makes a view of SQLite writable."""
    relation(
        NAMES_VIEW,
        "CREATE TRIGGER write_stats INSTEAD OF UPDATE ON testapp_authorstats BEGIN "
        "UPDATE testapp_author SET name = NEW.name WHERE id = NEW.author_id; END",
    )
    assert_refreshed_by(Author.objects.all, lambda: AuthorStats.objects.update(name="through the ORM"))
    assert_refreshed_by(
        Author.objects.all, lambda: execute("UPDATE testapp_authorstats SET name = 'through a cursor'")
    )


@pytest.mark.databases("postgresql")
def test_write_to_a_partition_refreshes_the_whole(relation):
    """The rows of a partition are rows of its parent, under two names."""
    relation(
        "CREATE TABLE testapp_authorstats (author_id bigint, name varchar(99), books integer) "
        "PARTITION BY RANGE (author_id)",
        "CREATE TABLE testapp_authorstats_low PARTITION OF testapp_authorstats FOR VALUES FROM (0) TO (1000)",
        "CREATE TABLE testapp_authorstats_high PARTITION OF testapp_authorstats "
        "FOR VALUES FROM (1000) TO (9999)",
        drop=("TABLE testapp_authorstats",),
    )
    assert_refreshed_by(
        stats, lambda: execute("INSERT INTO testapp_authorstats VALUES (1, 'by the parent', 1)")
    )
    assert_refreshed_by(
        stats, lambda: execute("INSERT INTO testapp_authorstats_low VALUES (2, 'directly', 1)")
    )
    assert_refreshed_by(stats, lambda: execute("UPDATE testapp_authorstats_high SET books = 2"))
    assert_refreshed_by(stats, lambda: execute("TRUNCATE testapp_authorstats_low"))
    assert_refreshed_by(
        stats,
        lambda: execute(
            "CREATE TABLE testapp_authorstats_rest PARTITION OF testapp_authorstats "
            "FOR VALUES FROM (9999) TO (99999)"
        ),
    )
    assert_refreshed_by(
        stats, lambda: execute("INSERT INTO testapp_authorstats_rest VALUES (9999, 'new', 1)")
    )


@pytest.mark.databases("postgresql")
def test_write_to_an_inheriting_table_refreshes_its_parent(relation):
    """Reading a table of PostgreSQL reads those that inherit from it, also below a managed model."""
    relation(
        "CREATE TABLE testapp_category_archive (since date) INHERITS (testapp_category)",
        drop=("TABLE testapp_category_archive",),
    )
    read = Category.objects.count
    assert_refreshed_by(
        read, lambda: execute("INSERT INTO testapp_category_archive (id, name) VALUES (9001, 'archived')")
    )
    assert_refreshed_by(read, lambda: execute("DELETE FROM testapp_category_archive"))
    assert_kept_through(Tag.objects.all, lambda: execute("DELETE FROM testapp_category_archive"))


def test_missing_relation_is_the_error_of_the_database(library):
    """A view that is not there raises what it raises without a cache, and nothing is left behind."""
    from django.db import DatabaseError

    with pytest.raises(DatabaseError):
        list(stats())
    with pytest.raises(DatabaseError):
        list(stats())
    execute(NAMES_VIEW)
    try:
        assert_cached(stats)
    finally:
        execute("DROP VIEW testapp_authorstats")
    with pytest.raises(DatabaseError):
        list(stats())


@pytest.mark.databases("postgresql")
def test_view_in_another_schema_of_the_same_name_is_not_mistaken(relation):
    """Two relations of one name, of which only the search path says which is meant: not guessed."""
    relation(
        NAMES_VIEW,
        "CREATE SCHEMA cachalot_a",
        "CREATE VIEW cachalot_a.testapp_authorstats AS "
        "SELECT id AS author_id, name, 5 AS books FROM testapp_tag",
        drop=("VIEW testapp_authorstats", "SCHEMA cachalot_a CASCADE"),
    )
    assert_true(stats)
    Author.objects.update(name="renamed")
    assert_true(stats)
    execute("SET search_path TO cachalot_a, public")
    assert_true(stats)
    Tag.objects.filter(name="red").update(name="renamed")
    assert_true(stats)
    execute("RESET search_path")
    assert_true(stats)


def test_dropped_and_made_table_is_read_anew(relation):
    """DDL ends results, whoever sends it."""
    relation(
        "CREATE TABLE testapp_authorstats (author_id integer, name varchar(9), books integer)",
        "INSERT INTO testapp_authorstats VALUES (1, 'one', 1)",
        drop=("TABLE testapp_authorstats",),
    )
    assert_cached(stats)
    execute("DROP TABLE testapp_authorstats")
    execute("CREATE TABLE testapp_authorstats (author_id integer, name varchar(9), books integer)")
    assert assert_missed(stats) == ("list", [])
