"""Every read is a hit, a miss or a bypass for a reason that people can read, and ``explain`` says which."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.db import connection, models, transaction
from django.db.models import Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now
from django.db.models.sql.constants import CURSOR
from django.test import override_settings

from cachalot.api import cachalot_disabled, explain, stats
from cachalot.core.decisions import Outcome, Reason
from cachalot.testing import watch
from tests.acceptance.shapes import Cases, execute, run
from tests.acceptance.test_keys import Stateful
from tests.testapp.models import Author, AuthorStats, Book

pytestmark = pytest.mark.django_db(transaction=True)

AUTHORS = "testapp_author"


def reason_of(queryset):
    """What ``explain`` says."""
    return explain(queryset).decision.reason


def test_explanation_follows_the_life_of_a_result(library):
    """New, hit, changed, hit."""
    queryset = Author.objects.filter(age__gt=1)
    found = explain(queryset)
    assert (found.decision.outcome, found.decision.reason) == (Outcome.MISS, Reason.NEW)
    assert found.tables == (AUTHORS,)
    columns = {f"col({AUTHORS}, {column})" for column in ("*", "id", "name", "age")}
    assert set(found.invalidated_by) == {"*", f"whole({AUTHORS})", f"rows({AUTHORS})"} | columns
    assert AUTHORS in found.sql
    assert found.key
    list(queryset.all())
    assert explain(queryset).decision.outcome is Outcome.HIT
    Author.objects.update(age=3)
    assert reason_of(queryset) is Reason.CHANGED
    list(queryset.all())
    assert explain(queryset).decision.outcome is Outcome.HIT
    assert "hit" in str(explain(queryset))
    assert AUTHORS in str(explain(queryset))


def test_explanation_runs_nothing(library):
    """It compiles, and asks the cache; the database hears nothing of it, and the queryset stays as it was."""
    queryset = Author.objects.filter(books__pages__gt=1)
    _, sent = run(lambda: str(explain(queryset)))
    assert not sent
    assert queryset._result_cache is None
    with pytest.raises(TypeError, match="list"):
        explain([])


def test_explanation_says_why_a_read_is_not_cached(library):
    """Each reason that a queryset or the settings can give, from ``explain`` and from the read itself."""
    stateful = Value(Stateful("x", 1), output_field=models.TextField())
    querysets = {
        Reason.RANDOM: (Author.objects.order_by("?"), {}),
        Reason.VOLATILE: (Author.objects.extra(where=["CURRENT_TIMESTAMP IS NOT NULL"]), {}),
        Reason.TIME_WORD: (Author.objects.filter(name="now"), {}),
        Reason.PARAMETER: (Author.objects.annotate(v=stateful), {}),
        Reason.UNTRACED_TABLE: (
            Author.objects.filter(pk__in=RawSQL("SELECT author_id FROM testapp_book", [])),
            {},
        ),
        Reason.NOT_UNDERSTOOD: (Author.objects.extra(where=["1 = 1; SELECT 1"]), {}),
        Reason.TABLE: (Author.objects.all(), {"CACHALOT_UNCACHABLE_TABLES": [AUTHORS]}),
        Reason.DISABLED: (Author.objects.all(), {"CACHALOT_ENABLED": False}),
        Reason.DATABASE: (Author.objects.all(), {"CACHALOT_DATABASES": ["other"]}),
        Reason.CONTEXT: (Author.objects.all(), {"CACHALOT_KEY_CONTEXT": lambda _connection: object()}),
        Reason.CACHE_UNFIT: (
            Author.objects.all(),
            {
                "CACHES": {
                    **settings.CACHES,
                    "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
                },
                "CACHALOT_CACHE": "dummy",
            },
        ),
    }
    cases = Cases()
    for reason, (queryset, changed) in querysets.items():
        with cases.case(reason.name), override_settings(**changed):
            found = explain(queryset)
            assert found.decision.outcome is Outcome.BYPASS
            assert found.decision.reason is reason
            assert reason.value in str(found)
            if reason is not Reason.NOT_UNDERSTOOD:
                with watch() as seen:
                    list(queryset.all())
                assert [decision.reason for decision in seen.decisions] == [reason]
    cases.check()


def test_explanation_of_relations_that_cannot_be_followed(library):
    """A view that shows the time."""
    execute(
        "CREATE VIEW testapp_authorstats AS SELECT id AS author_id, name, 1 AS books FROM testapp_author "
        "WHERE CURRENT_TIMESTAMP IS NOT NULL"
    )
    try:
        assert reason_of(AuthorStats.objects.all()) is Reason.UNKNOWN_RELATION
    finally:
        execute("DROP VIEW testapp_authorstats")


def test_explanation_of_locks(library):
    """FOR UPDATE locks rows of the database, where it is known."""
    if not connection.features.has_select_for_update:
        pytest.skip("no FOR UPDATE on this database")
    with transaction.atomic():
        queryset = Author.objects.select_for_update()
        assert reason_of(queryset) is Reason.LOCKING
        with watch() as seen:
            list(queryset)
        assert [decision.reason for decision in seen.decisions] == [Reason.LOCKING]


def test_explained_statement_is_run(library):
    """EXPLAIN tells about today."""
    with watch() as seen:
        assert Author.objects.all().explain()
        assert Author.objects.all().explain()
    assert [decision.reason for decision in seen.decisions] == [Reason.EXPLAIN] * 2


def test_read_for_a_cursor_is_run(library):
    """Who asks for the cursor gets one."""
    with watch() as seen:
        Author.objects.all().query.get_compiler("default").execute_sql(CURSOR).close()
    assert [decision.reason for decision in seen.decisions] == [Reason.CURSOR]


def test_scope_that_switches_off_is_a_reason(library):
    """In ``cachalot_disabled`` every read says so."""
    list(Author.objects.all())
    with cachalot_disabled():
        assert reason_of(Author.objects.all()) is Reason.DISABLED
    assert reason_of(Author.objects.all()) is None


def test_uncommitted_write_is_a_reason(library):
    """Inside a transaction the tables it wrote to are its own."""
    list(Author.objects.all())
    with transaction.atomic():
        Author.objects.update(age=1)
        assert reason_of(Author.objects.all()) is Reason.UNCOMMITTED
        transaction.set_rollback(True)
    assert reason_of(Author.objects.all()) is None


def test_serializable_transaction_is_a_reason(library):
    """The database must see the reads of a serializable transaction."""
    if connection.vendor != "postgresql":
        pytest.skip("only where a transaction is told to be serializable")
    list(Author.objects.all())
    with transaction.atomic():
        execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert reason_of(Author.objects.all()) is Reason.SERIALIZABLE
    connection.close()


def test_dirty_transaction_is_a_reason(library):
    """What others have not committed is nobody's result."""
    if connection.vendor != "mysql":
        pytest.skip("only MySQL shows rows that are not committed")
    execute("SET SESSION TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
    with transaction.atomic():
        assert reason_of(Author.objects.all()) is Reason.READ_UNCOMMITTED
    connection.close()


def test_result_that_is_too_large_is_a_reason(library):
    """It is returned, and says why it will be run again."""
    with override_settings(CACHALOT_MAX_ROWS=1), watch() as seen:
        list(Author.objects.all())
    assert [decision.reason for decision in seen.decisions] == [Reason.TOO_LARGE]


def test_stored_value_that_cannot_be_read_is_a_reason(library):
    """Foreign bytes under the key are a miss."""
    from django.core.cache import caches

    list(Author.objects.all())
    key = explain(Author.objects.all()).key
    for value in (b"garbage", None, 5, {"a": 1}):
        caches["default"].set(key, value)
        found = explain(Author.objects.all()).decision
        assert found.outcome is Outcome.MISS
        assert found.reason in {Reason.UNDECODABLE, Reason.NEW}
        list(Author.objects.all())
        assert explain(Author.objects.all()).decision.outcome is Outcome.HIT


def test_empty_result_is_explained(library):
    """A read without a statement has nothing to be cached."""
    assert explain(Author.objects.none()).decision.outcome is Outcome.BYPASS
    assert explain(Author.objects.none()).sql == ""


def test_every_read_is_counted_with_its_reason(library):
    """Of a mixed bag of reads none is without a decision, and all are in the statistics."""
    with watch() as seen:
        list(Author.objects.all())
        list(Author.objects.all())
        list(Author.objects.order_by("?"))
        list(Author.objects.annotate(t=Now()))
        Book.objects.count()
        Book.objects.aggregate(models.Max("pages"))
        list(Book.objects.iterator())
    assert len(seen.reads) == 7
    for decision in seen.decisions:
        assert (decision.reason is None) == (decision.outcome is Outcome.HIT)
        assert decision.reason is None or isinstance(decision.reason, Reason)
    assert (seen.hits, seen.misses, seen.bypasses) == (1, 4, 2)
    assert stats()
