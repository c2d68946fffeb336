"""What is changed of Django: all given back, and none in the way of others' engines and caches."""

from __future__ import annotations

import warnings

import pytest
from django.conf import settings
from django.core.cache import caches
from django.core.cache.backends.locmem import LocMemCache
from django.core.checks import run_checks
from django.db import connection, connections, models
from django.db.models.query import QuerySet
from django.test import override_settings

from cachalot.api import cachalot_disabled, explain
from cachalot.core.decisions import Outcome, Reason
from cachalot.orm.compilers import traced_class
from cachalot.orm.install import install, uninstall
from cachalot.testing import watch
from tests.acceptance.shapes import (
    assert_cached,
    assert_hit,
    assert_kept_through,
    assert_refreshed_by,
    assert_true,
    run,
)
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.django_db(transaction=True)


def authors():
    """One table."""
    return list(Author.objects.all())


def look_of(alias="default"):
    """Everything that may have been changed, by identity."""
    one = connections[alias]
    return {
        "connection": {
            key: id(value) for key, value in vars(one).items() if callable(value) or "cachalot" in key
        },
        "ops": {key: id(value) for key, value in vars(one.ops).items() if callable(value)},
        "wrappers": list(map(id, one.execute_wrappers)),
        "handler": {key: id(value) for key, value in vars(connections).items() if callable(value)},
        "queryset": id(QuerySet._fetch_all),
        "classes": {
            name: id(vars(cls)[name])
            for cls in type(one).__mro__
            for name in vars(cls)
            if callable(vars(cls)[name]) and "__" not in name
        },
    }


@pytest.fixture
def given_back():
    """Whatever a test does, the seams are there afterwards."""
    yield
    install()


def test_uninstall_gives_every_original_back(library, given_back):
    """A connection looks as if nothing had ever been installed, and a new one as Django makes it."""
    uninstall()
    bare = look_of()
    fresh = connections.create_connection("default")
    assert not [key for key in vars(fresh) if "cachalot" in key]
    assert {key for key in vars(connection) if callable(vars(connection)[key])} == {
        key for key in vars(fresh) if callable(vars(fresh)[key])
    }
    assert set(vars(connection.ops)) == set(vars(fresh.ops)) | (
        set(vars(connection.ops)) & {"compiler", "_cache"}
    )
    assert "compiler" not in vars(connection.ops)
    assert connection.execute_wrappers == []
    assert "create_connection" not in vars(connections)
    install()
    with cachalot_disabled(all_queries=True):
        authors()
    assert look_of() != bare
    uninstall()
    assert look_of() == bare
    _, sent = run(authors)
    assert sent
    _, sent = run(authors)
    assert sent


def test_install_twice_is_install_once(library, given_back):
    """One wrapper and one session, however often it is called."""
    install()
    once = look_of()
    install()
    assert look_of() == once
    assert_cached(authors)
    uninstall()
    uninstall()
    assert connection.execute_wrappers == []


def test_wrapper_of_the_user_stays_where_it_is(library, given_back):
    """``execute_wrapper`` is shared with others; only our own entry goes."""
    seen = []

    def wrapper(execute, sql, params, many, context):
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(wrapper):
        list(Tag.objects.all())
        uninstall()
        assert connection.execute_wrappers == [wrapper]
        list(Tag.objects.all())
        install()
        assert wrapper in connection.execute_wrappers
    assert len(seen) == 2


class Engine:
    """A project's own kind of a connection, over whatever engine is tested."""

    @staticmethod
    def of(connection):
        """A connection of a trivial subclass of the same engine."""
        kind = type(connection)
        subclass = type("DatabaseWrapper", (kind,), {"__module__": "project.engine", "extra": 1})
        return subclass(dict(connection.settings_dict), connection.alias)


def test_subclassed_engine_is_cached(library):
    """An engine is judged by its vendor, not by its path."""
    before = connections["default"]
    before.close()
    made = Engine.of(before)
    made.settings_dict["ENGINE"] = "project.engine"
    connections["default"] = made
    try:
        install()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_refreshed_by(authors, lambda: Author.objects.create(name="new"))
            assert_cached(lambda: Book.objects.select_related("author"))
    finally:
        connections["default"].close()
        connections["default"] = before


def test_compiler_of_an_engine_stays_the_base(library):
    """A third-party compiler is extended, not replaced; and made once."""
    compiler = Author.objects.all().query.get_compiler("default")
    module = connection.ops.compiler_module
    assert any(
        cls.__module__ == module or cls.__module__.startswith("django") for cls in type(compiler).__mro__[1:]
    )
    assert type(compiler) is type(Author.objects.all().query.get_compiler("default"))

    class Strange:
        """No compiler of Django."""

    assert traced_class(Strange) is Strange


class OwnCache(LocMemCache):
    """A project's own kind of a cache."""


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_subclassed_cache_is_used_without_a_warning(library):
    """A cache is judged by what it can do."""
    own = {**settings.CACHES, "own": {"BACKEND": f"{__name__}.OwnCache", "LOCATION": "own"}}
    with override_settings(CACHES=own, CACHALOT_CACHE="own"):
        found = [message for message in run_checks() if str(message.id).startswith("cachalot")]
        assert not [
            message for message in found if message.id in {"cachalot.W001", "cachalot.W002", "cachalot.W003"}
        ]
        assert_refreshed_by(authors, lambda: Author.objects.create(name="new"))
        caches["own"].clear()


def test_cache_that_cannot_hold_state_is_left_alone(library):
    """A cache that forgets everything at once makes reads uncached, and breaks nothing."""
    dummy = {**settings.CACHES, "dummy": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    with override_settings(CACHES=dummy, CACHALOT_CACHE="dummy"):
        with watch() as seen:
            authors()
            Author.objects.create(name="new")
            assert_true(authors)
        assert {decision.reason for decision in seen.decisions} <= {Reason.CACHE_UNFIT, Reason.DISABLED}
    assert_cached(authors)


def test_schema_editor_ends_every_result(library):
    """CREATE, ALTER and DROP through the schema editor change what statements mean."""

    class Extra(models.Model):
        number = models.IntegerField(default=0)

        class Meta:
            app_label = "testapp_extra"
            db_table = "testapp_extra"

    def create():
        with connection.schema_editor() as editor:
            editor.create_model(Extra)

    def alter():
        field = models.CharField(max_length=5, default="x")
        field.set_attributes_from_name("extra")
        with connection.schema_editor() as editor:
            editor.add_field(Extra, field)

    def drop():
        with connection.schema_editor() as editor:
            editor.delete_model(Extra)

    def collect():
        with connection.schema_editor(collect_sql=True) as editor:
            editor.delete_model(Extra)

    before = explain(Author.objects.all())
    assert "*" in before.invalidated_by
    try:
        assert_refreshed_by(authors, create)
        assert_refreshed_by(authors, alter)
        assert_kept_through(authors, collect)
    finally:
        assert_refreshed_by(authors, drop)


def test_instrumentation_sees_what_it_saw_before(library):
    """A hit is no query, a miss is one, and the log of queries shows the user's own statement once."""
    _, sent = run(authors)
    assert len(sent) == 1
    _, sent = run(authors)
    assert not sent
    _, sent = run(lambda: Author.objects.update(age=1))
    assert len(sent) == 1
    _, sent = run(lambda: Author.objects.create(name="one"))
    assert len(sent) == 1
    with watch() as seen:
        authors()
    assert [decision.outcome for decision in seen.decisions] == [Outcome.MISS]
    assert_hit(authors)
