"""One database or two, one result or two: what looks alike must not be taken for the same."""

from __future__ import annotations

import contextvars
import copy
from datetime import datetime, timezone

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.apps import apps
from django.db import connection, connections, models, transaction
from django.test import override_settings

from cachalot.api import cachalot_disabled, invalidate, invalidation_deferred
from tests.acceptance.racing import agreed, alias, is_hit, truth, with_init_command
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])


@pytest.fixture
def model_of():
    """Makes models for the time of a test."""
    made = []

    def make(table, **options):
        meta = type("Meta", (), {"app_label": "testapp", "db_table": table, **options})
        name = f"Made{len(made)}"
        fields = {"name": models.CharField(max_length=100), "__module__": __name__, "Meta": meta}
        made.append(type(name, (models.Model,), fields))
        return made[-1]

    yield make
    for model in made:
        del apps.all_models["testapp"][model._meta.model_name]
    apps.clear_cache()


def execute(sql, using="default"):
    """Send a statement."""
    with connections[using].cursor() as cursor:
        cursor.execute(sql)


def names(using="default"):
    """The read of most tests."""
    return list(Author.objects.using(using).order_by("pk").values_list("name", flat=True))


# Replicas and mirrors.


def test_mirror_lags_like_a_declared_replica(monkeypatch):
    """What MIRROR names is a replica: what it has not heard of is not stored for its primary."""
    for using in ("default", "other"):
        Author.objects.using(using).create(pk=1, name="before")
    monkeypatch.setitem(connections.settings["other"], "TEST", {"MIRROR": "default"})
    with override_settings(CACHALOT_REPLICA_LAG=300):
        Author.objects.update(name="after")
        assert names("other") == ["before"]
        assert agreed(names) == ["after"]


@pytest.mark.databases("sqlite")
@with_init_command
def test_replica_with_options_of_its_own():
    """A replica has the results of its primary only if its options are the same."""
    for name in ("Ab", "aB"):
        Author.objects.create(name=name)
    options = copy.deepcopy(connections.settings["default"]["OPTIONS"])
    options["init_command"] += "; PRAGMA case_sensitive_like=ON"

    def read(using="default"):
        return [
            author.name for author in Author.objects.using(using).filter(name__contains="A").order_by("pk")
        ]

    with alias("replica", OPTIONS=options), override_settings(CACHALOT_REPLICAS={"replica": "default"}):
        assert agreed(read) == ["Ab", "aB"]
        assert agreed(lambda: read("replica")) == ["Ab"]


@pytest.mark.databases("postgresql")
def test_replica_with_a_schema_of_its_own():
    """The same, where the options name another schema."""
    Author.objects.create(name="public")
    execute("CREATE SCHEMA apart")
    try:
        execute("CREATE TABLE apart.testapp_author AS SELECT id, 'apart' AS name FROM testapp_author")
        options = {"options": "-c search_path=apart,public"}
        with alias("replica", OPTIONS=options), override_settings(CACHALOT_REPLICAS={"replica": "default"}):
            assert agreed(names) == ["public"]
            assert [*Author.objects.using("replica").values_list("name", flat=True)] == ["apart"]
    finally:
        execute("DROP SCHEMA apart CASCADE")


@pytest.mark.databases("postgresql")
def test_replica_with_a_user_of_its_own():
    """Rows that policies hide from the user of the replica are not shown to it from the cache."""
    for name in ("public", "secret"):
        Author.objects.create(name=name)
    execute("CREATE ROLE some_reader LOGIN")
    try:
        execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO some_reader")
        execute("ALTER TABLE testapp_author ENABLE ROW LEVEL SECURITY")
        execute("CREATE POLICY some_rows ON testapp_author FOR SELECT TO some_reader USING (name = 'public')")
        with (
            alias("replica", USER="some_reader"),
            override_settings(CACHALOT_REPLICAS={"replica": "default"}),
        ):
            assert agreed(names) == ["public", "secret"]
            assert agreed(lambda: names("replica")) == ["public"]
    finally:
        execute("DROP POLICY IF EXISTS some_rows ON testapp_author")
        execute("ALTER TABLE testapp_author DISABLE ROW LEVEL SECURITY")
        execute("DROP OWNED BY some_reader")
        execute("DROP ROLE some_reader")


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("name", ["file::memory:", "file:apart?mode=memory"])
def test_databases_in_memory_that_are_not_shared(name):
    """Without a shared cache each connection to a database in memory has one of its own."""
    with alias("one", NAME=name), alias("two", NAME=name):
        for using in ("one", "two"):
            execute("CREATE TABLE testapp_author (id INTEGER PRIMARY KEY, name TEXT)", using)
            execute(f"INSERT INTO testapp_author (name) VALUES ('{using}')", using)
        assert agreed(lambda: names("one")) == ["one"]
        assert agreed(lambda: names("two")) == ["two"]


@pytest.mark.parametrize(
    "chosen",
    [
        {"CACHALOT_TABLE_KEYGEN": "tests.acceptance.test_identities.other_keys"},
        {"CACHALOT_REPLICAS": {"other": "default"}},
    ],
)
def test_settings_that_name_keys_for_a_while(chosen):
    """A write under other names of keys ends what was stored before."""
    Author.objects.create(name="before")
    assert agreed(names) == ["before"]
    with override_settings(**chosen):
        Author.objects.update(name="after")
    assert agreed(names) == ["after"]


def other_keys(db_alias, table):
    """Names of keys that a project may have chosen."""
    return f"chosen-{db_alias}-{table}"


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("first", [True, False])
def test_use_of_time_zones(first):
    """A time that was read with USE_TZ is not given to those who have none."""
    Book.objects.create(
        title="x",
        author=Author.objects.create(name="x"),
        created=datetime(2026, 1, 1, tzinfo=timezone.utc),
    )

    def aware():
        return Book.objects.values_list("created", flat=True).get().tzinfo is not None

    for using in (first, not first, first):
        with override_settings(USE_TZ=using, TIME_ZONE="UTC"):
            assert agreed(aware) is using


# Isolation.


@pytest.mark.databases("mysql")
@pytest.mark.parametrize("how", ["option", "statement", "once"])
def test_dirty_read_in_autocommit(how, other_connection):
    """Rows that nobody has committed are not stored, outside of a transaction either."""
    Author.objects.create(name="before")
    options = copy.deepcopy(connections.settings["default"]["OPTIONS"])
    if how == "option":
        options["isolation_level"] = "read uncommitted"

    def begin():
        transaction.set_autocommit(False)
        Author.objects.update(name="dirty")

    def end():
        transaction.rollback()
        transaction.set_autocommit(True)

    with alias("dirty", OPTIONS=options):
        names("dirty")
        Author.objects.update(name="now")
        if how != "option":
            scope = {"statement": "SESSION", "once": ""}[how]
            execute(f"SET {scope} TRANSACTION ISOLATION LEVEL READ UNCOMMITTED", "dirty")
        other_connection(begin)
        names("dirty")
        other_connection(end)
        assert names("dirty") == truth(names) == ["now"]
        assert other_connection(names) == ["now"]


@pytest.mark.databases("mysql")
def test_level_that_the_server_decides(other_connection):
    """Where the settings leave the level to the server it is asked, and a new commit is seen at once."""
    Author.objects.create(name="before")
    options = copy.deepcopy(connections.settings["default"]["OPTIONS"])
    options |= {
        "isolation_level": None,
        "init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    }

    def rename(name):
        other_connection(lambda: Author.objects.update(name=name))

    with alias("plain", OPTIONS=options), transaction.atomic(using="plain"):
        for name in ("one", "two"):
            rename(name)
            assert names("plain") == [name]
            assert names("plain") == [name]


@pytest.mark.databases("sqlite")
@with_init_command
def test_what_a_connection_begins_with_is_read():
    """A connection that sees what nobody has committed, or files of its own, from the start is not cached."""
    Author.objects.create(name="x")
    options = copy.deepcopy(connections.settings["default"]["OPTIONS"])
    options["init_command"] += "; PRAGMA read_uncommitted=1"
    with alias("dirty", OPTIONS=options):
        names("dirty")
        assert not is_hit(lambda: names("dirty"))
    assert agreed(names) == ["x"]


# Relations that only look like managed tables.


def assert_stays_true(model, using, create, drop):
    """What is read of a view changes with the table behind it."""
    Author.objects.using(using).create(name="before")
    try:
        for sql in create:
            execute(sql, using)

        def read():
            return list(model.objects.using(using).values_list("name", flat=True))

        assert agreed(read) == ["before"]
        Author.objects.using(using).update(name="after")
        assert agreed(read) == ["after"]
    finally:
        for sql in drop:
            execute(sql, using)


def view_of_authors(name):
    """The statement that makes one."""
    return f"CREATE VIEW {name} AS SELECT id, name FROM testapp_author"


def test_view_of_another_database_that_has_the_name_of_a_managed_table(model_of):
    """The catalogue is asked for a view also where a model of another database has a table of that name."""
    model_of("made_reader")
    view = model_of("made_reader", managed=False)
    assert_stays_true(view, "other", [view_of_authors("made_reader")], ["DROP VIEW made_reader"])


def test_view_in_the_place_of_a_swapped_model(model_of, settings):
    """A model that was swapped out has no table; what has its name may be a view."""
    settings.MADE_READER_MODEL = "testapp.Author"
    model_of("made_reader", swappable="MADE_READER_MODEL")
    view = model_of("made_reader", managed=False)
    assert_stays_true(view, "default", [view_of_authors("made_reader")], ["DROP VIEW made_reader"])


def test_view_with_a_dot_in_its_name(model_of):
    """A dot within a name divides nothing: it is not the view, or table, that has the rest for a name."""
    name = connection.ops.quote_name("reporting.testapp_tag")
    view = model_of("reporting.testapp_tag", managed=False)
    assert_stays_true(view, "default", [view_of_authors(name)], [f"DROP VIEW {name}"])


@pytest.mark.databases("postgresql")
def test_view_of_another_schema_that_has_the_name_of_a_managed_table(model_of):
    """The same, in a schema of its own."""
    create = ["CREATE SCHEMA reporting", view_of_authors("reporting.testapp_tag")]
    view = model_of('reporting"."testapp_tag', managed=False)
    assert_stays_true(view, "default", create, ["DROP SCHEMA reporting CASCADE"])


# Scopes that end elsewhere than they began.


def importer():
    """An import that is written as a generator."""
    with invalidation_deferred():
        for number in range(3):
            Author.objects.update(name=f"after {number}")
            yield number


def test_invalidations_put_off_by_a_generator_that_is_closed_elsewhere(other_connection):
    """A generator may be closed in another context than it was begun in; its invalidations are not lost."""
    Author.objects.create(name="before")
    assert other_connection(lambda: agreed(names)) == ["before"]
    steps = importer()
    contextvars.copy_context().run(next, steps)
    steps.close()
    assert other_connection(lambda: agreed(names)) == ["after 0"]


def test_scope_that_has_ended_elsewhere_puts_nothing_off(other_connection):
    """What a context goes on to write after the end of a scope that it was given is told to all."""
    Tag.objects.create(name="before")

    def tags():
        return list(Tag.objects.values_list("name", flat=True))

    assert other_connection(lambda: agreed(tags)) == ["before"]

    async def main():
        steps = importer()
        await sync_to_async(next)(steps)
        await sync_to_async(steps.close)()
        await Tag.objects.aupdate(name="after")

    contextvars.copy_context().run(async_to_sync(main))
    assert other_connection(lambda: agreed(tags)) == ["after"]


@pytest.mark.databases("sqlite", "mysql")  # django.contrib.postgres looks the alias up
def test_writes_of_a_copied_connection_are_not_put_off(other_connection):
    """The copy of a connection may be gone when the scope ends: what it writes is told at once."""
    Author.objects.create(name="before")
    assert other_connection(lambda: agreed(names)) == ["before"]
    fresh = connection.copy(alias="fresh")
    try:
        with invalidation_deferred(), fresh.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET name = 'after'")
    finally:
        fresh.close()
    assert other_connection(lambda: agreed(names)) == ["after"]


def test_scope_that_tasks_share_is_left_in_any_order():
    """One object may be entered by two tasks; each leaves its own, and a stranger's end changes nothing."""
    shared = cachalot_disabled()
    one, two = contextvars.copy_context(), contextvars.copy_context()
    one.run(shared.__enter__)
    two.run(shared.__enter__)
    one.run(shared.__exit__, None, None, None)
    Author.objects.create(name="x")
    assert agreed(names) == ["x"]
    assert one.run(is_hit, names)
    assert not two.run(is_hit, names)
    contextvars.copy_context().run(shared.__exit__, None, None, None)


# Results that a policy keeps in another cache.


@pytest.mark.caches("locmem")
def test_invalidation_of_the_cache_in_which_a_policy_keeps_results():
    """``cache_alias`` may name the cache that holds the results, though their state is in another."""
    Author.objects.create(name="before")
    with override_settings(CACHALOT_TABLES={"testapp.Author": {"cache": "second"}}):
        assert agreed(names) == ["before"]
        driver = connection.cursor().cursor
        driver.execute("UPDATE testapp_author SET name = 'after'")
        invalidate(Author, cache_alias="second")
        assert agreed(names) == ["after"]
