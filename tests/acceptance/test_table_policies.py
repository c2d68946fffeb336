"""``CACHALOT_TABLES``: which policy a query has, and that none of them can make it wrong."""

from __future__ import annotations

import pytest
from django.core.cache import caches
from django.db import transaction
from django.test import override_settings

from cachalot.analysis.policies import Policy, policy_of
from cachalot.api import explain
from cachalot.conf import current
from cachalot.core.decisions import Reason
from cachalot.engine.caches import query_cache
from cachalot.stores.base import Tier
from tests.acceptance.shapes import (
    Cases,
    assert_cached,
    assert_hit,
    assert_kept_through,
    assert_missed,
    assert_not_cached,
    assert_refreshed_by,
    assert_true,
)
from tests.testapp.models import Author, Book, MixedCase, Tag

pytestmark = pytest.mark.django_db(transaction=True)

AUTHOR, BOOK, TAG = "testapp_author", "testapp_book", "testapp_tag"
AUTHOR_AND_BOOK = frozenset({AUTHOR, BOOK})


def authors():
    """One table."""
    return list(Author.objects.order_by("pk"))


def books():
    """Two tables."""
    return list(Book.objects.select_related("author").order_by("pk"))


def tags():
    """Another one."""
    return list(Tag.objects.order_by("pk"))


def policy(*tables, **settings):
    """The policy of tables under ``CACHALOT_TABLES``."""
    with override_settings(CACHALOT_TABLES=settings.pop("policies"), **settings):
        return policy_of(frozenset(tables), current())


def test_table_can_be_named_in_every_usual_way():
    """A model by its label, a table by its name, both in any case, and patterns for either."""
    for name in (
        "testapp.Author",
        "TESTAPP.author",
        "testapp_author",
        "TestApp_Author",
        "testapp.*",
        "*_author",
        "*",
    ):
        assert not policy(AUTHOR, policies={name: {"enabled": False}}).enabled, name
    for name in ("testapp.Book", "testapp_autho", "author", "auth.*", "testapp"):
        assert policy(AUTHOR, policies={name: {"enabled": False}}).enabled, name


def test_more_precise_name_has_the_last_word():
    """Patterns, the shorter the weaker, then names; option by option, whatever order they are written in."""
    policies = {
        "testapp.Author": {"enabled": True},
        "testapp_*": {"timeout": 60},
        "*": {"enabled": False, "timeout": 10, "granularity": "table"},
    }
    for written in (policies, dict(reversed(policies.items()))):
        assert policy(AUTHOR, policies=written) == Policy(True, 60.0, "table", "default")
        assert policy(BOOK, policies=written) == Policy(False, 60.0, "table", "default")
        assert policy("auth_user", policies=written) == Policy(False, 10.0, "table", "default")


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({}, Policy(True, 100.0, "row", "default")),
        ({AUTHOR: {"enabled": False}}, Policy(False, 100.0, "row", "default")),
        ({AUTHOR: {"timeout": 50}, BOOK: {"timeout": 70}}, Policy(True, 50.0, "row", "default")),
        ({AUTHOR: {"timeout": 500}}, Policy(True, 100.0, "row", "default")),
        ({AUTHOR: {"timeout": 500}, BOOK: {"timeout": None}}, Policy(True, 500.0, "row", "default")),
        ({"*": {"timeout": None}}, Policy(True, None, "row", "default")),
        ({AUTHOR: {"timeout": 0}}, Policy(True, 0.0, "row", "default")),
        ({AUTHOR: {"granularity": "table"}}, Policy(True, 100.0, "table", "default")),
        ({AUTHOR: {"cache": "second"}}, Policy(True, 100.0, "row", "default")),
        ({AUTHOR: {"cache": "second"}, BOOK: {"cache": "third"}}, Policy(True, 100.0, "row", "default")),
        ({AUTHOR: {"cache": "second"}, BOOK: {"cache": "second"}}, Policy(True, 100.0, "row", "second")),
    ],
)
def test_strictest_of_the_tables_of_a_query_wins(policies, expected):
    """One table excludes, the shortest time counts, whole tables before rows, another cache if all say so."""
    assert policy(*AUTHOR_AND_BOOK, policies=policies, CACHALOT_TIMEOUT=100) == expected


def test_row_can_be_the_exception():
    """``CACHALOT_GRANULARITY`` is the default of tables without a granularity of their own."""
    policies = {AUTHOR: {"granularity": "row"}}
    assert policy(AUTHOR, policies=policies, CACHALOT_GRANULARITY="table").granularity == "row"
    assert policy(BOOK, policies=policies, CACHALOT_GRANULARITY="table").granularity == "table"


def test_table_that_is_not_enabled_is_not_cached_and_still_invalidates(library):
    """One excluded table keeps the whole statement out; the next setting finds the truth."""
    assert_cached(books)
    with override_settings(CACHALOT_TABLES={"testapp.Author": {"enabled": False}}):
        assert_not_cached(authors, Reason.TABLE)
        assert_not_cached(books, Reason.TABLE)
        assert_cached(tags)
        Author.objects.update(name="Somebody else")
    assert_missed(books)
    with override_settings(CACHALOT_TABLES={"*": {"enabled": False}, "testapp.MixedCase": {"enabled": True}}):
        assert_not_cached(tags, Reason.TABLE)
        assert_cached(lambda: list(MixedCase.objects.all()))


def test_timeout_of_a_table_is_that_of_its_entries(library, monkeypatch):
    """The time is handed to the cache with the entry, for joins the shortest."""
    given = {}
    store = query_cache("default").guard._store
    original = store.set_many

    def set_many(values, lifetime):
        given.update((key, getattr(lifetime, "seconds", lifetime)) for key, _value in values)
        return original(values, lifetime)

    monkeypatch.setattr(store, "set_many", set_many)
    cases = Cases()
    with override_settings(CACHALOT_TABLES={BOOK: {"timeout": 7}, AUTHOR: {"timeout": None}}):
        for name, read, seconds in (
            ("one", Author.objects.all(), None),
            ("joined", Book.objects.select_related("author"), 7.0),
            ("without", Tag.objects.all(), 86400.0),
        ):
            with cases.case(name):
                list(read.all())
                assert given[explain(read).key] == seconds
    cases.check()


def test_timeout_of_nothing_keeps_nothing(library):
    """A time of 0 is never served."""
    with override_settings(CACHALOT_TABLES={AUTHOR: {"timeout": 0}}):
        for _ in range(3):
            assert_missed(authors)
            assert_missed(books)
        assert_cached(tags)


def test_granularity_of_a_table(library):
    """A table at table level ends with every write to it, the others row by row."""
    if query_cache("default").guard.tier is not Tier.INTENTS:
        pytest.skip("This cache has no rows to tell apart.")
    one, other = Author.objects.create(name="One"), Author.objects.create(name="Other")

    def an_author():
        return Author.objects.get(pk=one.pk)

    def change_other_author():
        other.age = (other.age or 0) + 1
        other.save()

    assert_cached(an_author)
    assert_kept_through(an_author, change_other_author)
    with override_settings(CACHALOT_TABLES={"testapp.Author": {"granularity": "table"}}):
        assert_refreshed_by(an_author, change_other_author)
        book, another = Book.objects.order_by("pk")[:2]
        assert_kept_through(
            lambda: Book.objects.get(pk=book.pk), lambda: Book.objects.filter(pk=another.pk).update(title="x")
        )
    assert_true(an_author)
    assert_cached(an_author)
    assert_kept_through(an_author, change_other_author)


def test_entries_in_another_cache(library):
    """The rows lie in the cache that the policy names, the state of the tables where it always is."""
    with override_settings(CACHALOT_TABLES={"testapp.*": {"cache": "second"}}):
        assert_cached(authors)
        key = explain(Author.objects.order_by("pk")).key
        assert key in query_cache("second").guard._store.get_many([key])
        assert key not in query_cache("default").guard._store.get_many([key])
        assert_refreshed_by(authors, lambda: Author.objects.create(name="New"))
        assert_kept_through(authors, lambda: Tag.objects.create(name="new"))
        assert_cached(books)
        caches["second"].clear()
        assert_missed(books)
        assert_cached(books)
        caches["default"].clear()
        assert_missed(books)


def test_entry_that_comes_back_from_another_cache_is_not_served(library):
    """An entry that was kept before a write stays dead, also when nobody could remove it."""
    with override_settings(CACHALOT_TABLES={"testapp.*": {"cache": "second"}}):
        assert_cached(authors)
        key = explain(Author.objects.order_by("pk")).key
        store = query_cache("second").guard._store
        old = store.get_many([key])[key]
        Author.objects.update(name="Somebody else")
        assert_missed(authors)
        caches["second"].clear()
        store.set_many([(key, old)], lifetime())
        assert_missed(authors)


def lifetime():
    """As that of any entry."""
    from cachalot.core.steps import Timeout

    return Timeout(60.0)


def test_entries_in_another_cache_inside_transactions(library):
    """What a transaction has written is seen by itself, and afterwards by everybody."""
    with override_settings(CACHALOT_TABLES={"testapp.*": {"cache": "second"}}):
        assert_cached(authors)
        with transaction.atomic():
            Author.objects.create(name="New")
            assert_true(authors)
            assert_true(authors)
        assert_missed(authors)
        assert_hit(authors)


def test_cache_that_is_away_is_a_miss(library, monkeypatch):
    """If only the cache of the entries is away, every read is a miss and right."""
    with override_settings(CACHALOT_TABLES={"testapp.*": {"cache": "second"}}):
        assert_cached(authors)
        guard = query_cache("second").guard
        monkeypatch.setattr(guard, "_until", float("inf"))
        monkeypatch.setattr(guard, "_pause", 1.0)
        for _ in range(2):
            assert_missed(authors)
        Author.objects.update(name="Somebody else")
        assert_missed(authors)
        monkeypatch.setattr(guard, "_until", 0.0)
        assert_missed(authors)
        assert_hit(authors)


def test_cache_that_cannot_hold_entries(library):
    """An unfit cache is said so, and nothing is kept."""
    with override_settings(CACHALOT_TABLES={"testapp.Author": {"cache": "nowhere"}}):
        assert_not_cached(authors, Reason.CACHE_UNFIT)
        assert_cached(tags)
