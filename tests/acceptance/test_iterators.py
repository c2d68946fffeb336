"""``.iterator()`` stays what it is: lazy, and small in memory however many rows there are."""

from __future__ import annotations

import tracemalloc

import pytest
from django.db import connection, transaction
from django.test import override_settings

from cachalot.core.decisions import Outcome, Reason
from cachalot.testing import watch
from tests.acceptance.shapes import (
    assert_cached,
    assert_hit,
    assert_not_cached,
    assert_true,
    execute,
    run,
)
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.django_db(transaction=True)

MILLION = 1_000_000
MEGABYTE = 2**20


def fill(count):
    """Many rows, made by the database itself."""
    numbers = {
        "postgresql": f"SELECT n FROM generate_series(1, {count}) AS n",
        "sqlite": (
            f"WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) "
            "SELECT n FROM s"
        ),
        "mysql": f"SELECT seq AS n FROM seq_1_to_{count}",
    }[connection.vendor]
    text = "CONCAT('author ', s.n)" if connection.vendor != "sqlite" else "'author ' || s.n"
    execute(f"INSERT INTO testapp_author (name, age) SELECT {text}, s.n FROM ({numbers}) s")


def test_first_row_is_there_before_the_last_is_read():
    """Rows are handed on as they come, chunk by chunk, also while they are collected for the cache."""
    fill(5000)
    chunks = []
    compiler = Author.objects.all().query.get_compiler("default")
    rows = compiler.execute_sql(chunked_fetch=True, chunk_size=100)
    for chunk in rows:
        chunks.append(len(chunk))
        if len(chunks) == 1:
            break
    assert chunks == [100]
    rows.close()
    iterator = Author.objects.iterator(chunk_size=10)
    assert next(iterator).name == "author 1"
    iterator.close()


def test_iteration_that_was_given_up_stores_nothing():
    """Half a result is no result."""
    fill(500)
    with watch() as seen:
        iterator = Author.objects.iterator(chunk_size=50)
        next(iterator)
        iterator.close()
    assert [decision.reason for decision in seen.decisions] == [Reason.ABANDONED]
    assert len(list(Author.objects.all())) == 500
    Author.objects.update(age=1)

    def fail():
        for author in Author.objects.iterator(chunk_size=50):
            if author.name == "author 200":
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    _, sent = run(lambda: len(list(Author.objects.iterator(chunk_size=50))))
    assert sent
    assert_hit(lambda: len(list(Author.objects.iterator(chunk_size=50))))


def test_iteration_to_the_end_is_cached(library):
    """What came by itself to its end is stored, in whatever chunks."""
    for size in (1, 2, 3, 100):
        Author.objects.update(age=size)
        assert_cached(lambda size=size: list(Author.objects.iterator(chunk_size=size)))


def test_hit_of_an_iterator_is_an_iterator(library):
    """It can be left in the middle, and closed."""
    list(Author.objects.iterator())
    iterator = Author.objects.iterator()
    assert next(iterator).name == "Ada"
    iterator.close()
    compiler = Author.objects.all().query.get_compiler("default")
    rows = compiler.execute_sql(chunked_fetch=True)
    assert iter(rows) is iter(rows)


@pytest.mark.timeout(300)
def test_a_million_rows_are_never_in_memory_together():
    """Collecting for the cache stops at its bounds, and the rows stream on: below 50 MB at the peak."""
    if connection.vendor == "mysql":
        pytest.skip("mysqlclient reads the whole result before the first row")
    fill(MILLION)
    count = 0
    tracemalloc.start()
    try:
        for _ in Author.objects.values_list("pk", "name", "age").iterator():
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == MILLION
    assert peak < 50 * MEGABYTE
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:  # to delete a million rows that others may refer to takes long
            cursor.execute("TRUNCATE testapp_author CASCADE")


def test_result_beyond_the_bounds_is_returned_and_not_stored():
    """More rows or more bytes than one entry may have: a miss every time, with all rows."""
    fill(300)
    for bound in ({"CACHALOT_MAX_ROWS": 299}, {"CACHALOT_MAX_BYTES": 1000}):
        with override_settings(**bound):
            for read in (
                lambda: list(Author.objects.all()),
                lambda: list(Author.objects.iterator(chunk_size=7)),
            ):
                for _ in range(2):
                    with watch() as seen:
                        assert len(read()) == 300
                    assert [decision.reason for decision in seen.decisions] == [Reason.TOO_LARGE]
    with override_settings(CACHALOT_MAX_ROWS=300):
        assert_cached(lambda: list(Author.objects.iterator(chunk_size=7)))


def test_iterators_are_left_alone_where_a_project_says_so(library):
    """With ``CACHALOT_CACHE_ITERATORS = False`` iterators always ask the database; lists do not."""
    with override_settings(CACHALOT_CACHE_ITERATORS=False):
        assert_cached(lambda: list(Author.objects.all()))
        assert_not_cached(lambda: list(Author.objects.iterator()), Reason.ITERATOR)
        assert_true(lambda: list(Author.objects.iterator()))
    assert_hit(lambda: list(Author.objects.iterator()))


def test_write_during_an_iteration_is_not_hidden_by_it():
    """Rows that were read before a write must not be stored after it."""
    fill(300)
    with watch() as seen:
        for number, _ in enumerate(Author.objects.iterator(chunk_size=10)):
            if number == 150:
                Book.objects.create(
                    title="unrelated", author_id=Author.objects.values_list("pk", flat=True)[0]
                )
                Author.objects.filter(name="author 1").update(age=-5)
    assert any(decision.outcome is Outcome.MISS for decision in seen.decisions)
    assert_true(lambda: list(Author.objects.values_list("age").order_by("pk")))
    assert_true(lambda: list(Author.objects.iterator(chunk_size=10)))
    assert_true(lambda: list(Author.objects.all()))


def test_iteration_inside_a_transaction_sees_its_writes(library):
    """An iterator in a transaction that has written is not answered with what is committed."""
    assert_cached(lambda: list(Author.objects.iterator()))
    with transaction.atomic():
        Author.objects.create(name="mine")
        assert [author.name for author in Author.objects.iterator()][-1] == "mine"
        assert [author.name for author in Author.objects.iterator()][-1] == "mine"
        transaction.set_rollback(True)
    assert [author.name for author in Author.objects.iterator()][-1] == "Cy"
    assert_true(lambda: list(Author.objects.iterator()))
