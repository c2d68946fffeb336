"""What a project may decide: which databases and tables are cached, for how long, and under which names."""

from __future__ import annotations

import pytest
from django.core.cache import caches
from django.db import connection, transaction
from django.test import override_settings

from cachalot.api import explain, invalidate
from cachalot.core.decisions import Reason
from cachalot.stores.django_cache import seconds
from cachalot.stores.making import make_store
from cachalot.testing import watch
from cachalot.utils import get_query_cache_key, get_table_cache_key
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
)
from tests.testapp.models import Author, Book, MixedCase, Tag

pytestmark = pytest.mark.django_db(transaction=True)


def authors():
    """One table."""
    return list(Author.objects.all())


def books():
    """Two tables."""
    return list(Book.objects.select_related("author"))


def tags():
    """Another one."""
    return list(Tag.objects.all())


def test_switched_off_is_not_cached_and_still_invalidates(library):
    """``CACHALOT_ENABLED = False`` stops serving and storing; a write in that time counts afterwards."""
    assert_cached(authors)
    with override_settings(CACHALOT_ENABLED=False):
        assert_not_cached(authors, Reason.DISABLED)
        Author.objects.update(age=2)
        execute("UPDATE testapp_tag SET name = 'x' WHERE name = 'red'")
    assert_missed(authors)
    assert_cached(authors)


def test_only_listed_tables_are_cached(library):
    """Every table of a statement must be listed, by name or by app."""
    cases = Cases()
    for setting in (
        {"CACHALOT_ONLY_CACHABLE_TABLES": ["testapp_author"]},
        {"CACHALOT_ONLY_CACHABLE_TABLES": ["TESTAPP_AUTHOR"], "CACHALOT_ONLY_CACHABLE_APPS": ["auth"]},
    ):
        with override_settings(**setting), cases.case(str(setting)):
            assert_cached(authors)
            assert_not_cached(books, Reason.TABLE)
            assert_not_cached(tags, Reason.TABLE)
    with override_settings(CACHALOT_ONLY_CACHABLE_APPS=["testapp"]), cases.case("app"):
        assert_cached(books)
        assert_cached(tags)
        assert_cached(lambda: list(MixedCase.objects.all()))
    with override_settings(CACHALOT_ONLY_CACHABLE_APPS=["auth"]), cases.case("another app"):
        assert_not_cached(books, Reason.TABLE)
    cases.check()


def test_listed_tables_are_not_cached(library):
    """One excluded table keeps the whole statement out."""
    with override_settings(CACHALOT_UNCACHABLE_TABLES=["testapp_author"]):
        assert_not_cached(authors, Reason.TABLE)
        assert_not_cached(books, Reason.TABLE)
        assert_cached(tags)
    with override_settings(CACHALOT_UNCACHABLE_TABLES=["TestApp_MixedCase"]):
        assert_not_cached(lambda: list(MixedCase.objects.all()), Reason.TABLE)
    with override_settings(CACHALOT_UNCACHABLE_APPS=["testapp"]):
        assert_not_cached(tags, Reason.TABLE)
    with override_settings(
        CACHALOT_ONLY_CACHABLE_APPS=["testapp"], CACHALOT_UNCACHABLE_TABLES=["testapp_tag"]
    ):
        assert_cached(authors)
        assert_not_cached(tags, Reason.TABLE)
    assert_cached(tags)


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_only_listed_databases_are_cached(library):
    """By alias; the others are still invalidated, for whoever caches them."""

    def elsewhere():
        return list(Author.objects.using("other"))

    with override_settings(CACHALOT_DATABASES=["default"]):
        assert_cached(authors)
        assert_not_cached(elsewhere, Reason.DATABASE)
    assert_cached(elsewhere, "other")
    with override_settings(CACHALOT_DATABASES={"other"}):
        assert_not_cached(authors, Reason.DATABASE)
        Author.objects.create(name="in between")
    assert_missed(authors)
    with override_settings(CACHALOT_DATABASES=()):
        assert_not_cached(authors, Reason.DATABASE)


def test_result_expires(library):
    """``CACHALOT_TIMEOUT`` is handed to the cache with every result, and ends none that is younger."""
    given = []
    store = type(make_store("default"))
    original = store.set_many

    def set_many(self, values, lifetime):
        given.extend((key, seconds(lifetime)) for key, _value in values)
        return original(self, values, lifetime)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "set_many", set_many)
        for timeout in (30, None, 0.5):
            with override_settings(CACHALOT_TIMEOUT=timeout):
                invalidate(Author)
                key = explain(Author.objects.all()).key
                authors()
                assert (key, timeout) in given, timeout
                given.clear()


def test_result_without_time_is_not_kept(library):
    """A time of nothing is never served."""
    with override_settings(CACHALOT_TIMEOUT=0):
        for _ in range(3):
            assert_missed(authors)


def constant(*_args):
    """The worst of all names: one for everything."""
    return "always the same"


def named_by_table(alias, table):
    """What projects write."""
    return f"{alias}-{table}"


def named_by_text(compiler):
    """What projects write."""
    return compiler.as_sql()[0]


def test_names_of_a_project_never_mix_rows(library):
    """Whatever the keygens return, a read has its own rows, and a write ends what depends on it."""
    cases = Cases()
    path = "tests.acceptance.test_policies."
    for query, table in (
        (f"{path}constant", None),
        (None, f"{path}constant"),
        (f"{path}constant", f"{path}constant"),
        (f"{path}named_by_text", f"{path}named_by_table"),
        ("cachalot.utils.get_query_cache_key", "cachalot.utils.get_table_cache_key"),
    ):
        chosen = {"CACHALOT_QUERY_KEYGEN": query, "CACHALOT_TABLE_KEYGEN": table}
        with override_settings(**chosen), cases.case(str(chosen)):
            for read in (authors, books, tags, authors, books, tags):
                assert_true(read)
            for read in (authors, books, tags):
                assert_hit(read)
            for number in (1, 2):
                assert_cached(lambda number=number: list(Author.objects.filter(age__gt=number * 40)))
            assert_refreshed_by(authors, lambda: Author.objects.update(age=5))
            assert_refreshed_by(books, lambda: Author.objects.update(age=6))
            assert_refreshed_by(
                tags, lambda: execute("UPDATE testapp_tag SET name = 'a' WHERE name = 'nothing'")
            )
    cases.check()


def test_tables_of_one_name_are_invalidated_together(library):
    """A keygen that gives two tables one name makes them one for invalidation."""
    with override_settings(CACHALOT_TABLE_KEYGEN=lambda alias, table: "one"):
        assert_refreshed_by(tags, lambda: Author.objects.update(age=1))
    assert_kept_through(tags, lambda: Author.objects.update(age=1))


def test_keys_can_be_asked_for(library):
    """The functions of ``utils`` name what is in the cache."""
    with override_settings(CACHALOT_TIMEOUT=None):
        authors()
        key = get_query_cache_key(Author.objects.all().query.get_compiler("default"))
        table_key = get_table_cache_key("default", "testapp_author")
        assert set(make_store("default").get_many([key, table_key])) >= {key, table_key}
        caches["default"].delete(key)
        assert_missed(authors)
        assert key == explain(Author.objects.all()).key
        assert get_table_cache_key("default", "testapp_author") != get_table_cache_key(
            "default", "testapp_book"
        )
        assert get_table_cache_key("default", "testapp_author") != get_table_cache_key(
            "other", "testapp_author"
        )


def test_another_cache_is_another_cache(library):
    """``CACHALOT_CACHE`` chooses where results are; going back finds no stale ones."""
    assert_cached(authors)
    with override_settings(CACHALOT_CACHE="second"):
        assert_missed(authors)
        assert_cached(authors)
        invalidate(Author)
        assert_missed(authors)
    assert_missed(authors)
    assert_cached(authors)
    Author.objects.update(age=9)
    with override_settings(CACHALOT_CACHE="second"):
        # It was not told of the write that went by.
        assert_missed(authors)
        assert_cached(authors)


def test_setting_accepted_for_compatibility_changes_nothing(library):
    """``CACHALOT_FINAL_SQL_CHECK`` is complete without it."""
    for value in (True, False):
        with override_settings(CACHALOT_FINAL_SQL_CHECK=value):
            assert_refreshed_by(books, lambda: Author.objects.update(age=1))


def test_wrong_setting_that_could_serve_wrong_rows_stops_the_cache(library):
    """A hook that cannot be imported is not ignored: nothing is served without it."""
    assert_cached(authors)
    with override_settings(CACHALOT_KEY_CONTEXT="nowhere.to_be.found"), watch() as seen:
        assert_true(authors)
        assert not seen.hits


def test_migrations_are_not_cached(library):
    """The table of migrations is excluded by default."""
    from django.db.migrations.recorder import MigrationRecorder

    recorder = MigrationRecorder(connection)
    recorder.ensure_schema()
    assert_not_cached(lambda: list(recorder.migration_qs), Reason.TABLE)


def test_settings_changed_inside_a_transaction_hold_at_once(library):
    """No setting waits for the end of anything."""
    with transaction.atomic():
        authors()
        with override_settings(CACHALOT_ENABLED=False):
            assert_not_cached(authors, Reason.DISABLED)
