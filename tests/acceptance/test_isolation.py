"""No row crosses from one database, schema, role, tenant or time zone to another."""

from __future__ import annotations

import datetime as dt
import itertools
from contextvars import ContextVar

import pytest
from django.conf import settings
from django.db import connection, connections, models, transaction
from django.db.backends.signals import connection_created
from django.db.models import Func
from django.db.models.functions import Cast, TruncDay
from django.test import override_settings
from django.utils import timezone

from cachalot.api import explain
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
    execute_driver,
    run,
    uncached,
)
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.django_db(transaction=True)
postgresql = pytest.mark.databases("postgresql")
both_databases = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def names():
    """Say whose rows these are."""
    return [author.name for author in Author.objects.all()]


@pytest.fixture
def schemas(library):
    """Two schemas with a table of authors each; the other tables are in ``public`` alone."""
    for schema in ("tenant_a", "tenant_b"):
        execute(f"CREATE SCHEMA {schema}")
        execute(f"CREATE TABLE {schema}.testapp_author (LIKE public.testapp_author INCLUDING ALL)")
        execute(f"INSERT INTO {schema}.testapp_author (id, name) VALUES (1, '{schema}')")
    yield ("tenant_a", "tenant_b")
    connection.close()
    execute("DROP SCHEMA tenant_a CASCADE")
    execute("DROP SCHEMA tenant_b CASCADE")


@postgresql
def test_search_path_decides_whose_rows_are_read(schemas):
    """The same statement under two search paths is two reads, and coming back is a hit."""
    shared = assert_cached(names)
    for statement, params in (
        ("SET search_path TO tenant_a, public", None),
        ("SET SESSION search_path = tenant_b, public", None),
        ("SET search_path TO %s, public", ["tenant_a"]),
        ("SELECT set_config('search_path', %s, false)", ["tenant_b, public"]),
        ("SET SCHEMA 'tenant_a'", None),
    ):
        execute(statement, params)
        assert_true(names)
        assert names() == ["tenant_a" if "tenant_a" in f"{statement}{params}" else "tenant_b"]
    execute("SET search_path TO tenant_a, public")
    assert names() == ["tenant_a"]
    assert_cached(names)
    execute("RESET search_path")
    assert assert_hit(names) == shared
    execute("SET search_path TO tenant_a, public")
    execute("DISCARD ALL") if settings.TEST_DB != "psycopg2" else execute("RESET ALL")
    assert assert_true(names) == shared


@postgresql
def test_write_under_one_search_path_is_seen_under_the_other(schemas):
    """A name without a schema may mean the same table: a write under one path ends the results of all."""
    execute("SET search_path TO tenant_a, public")
    assert_cached(names)
    execute("SET search_path TO tenant_b, public")
    Author.objects.create(pk=2, name="more of b")
    execute("UPDATE tenant_a.testapp_author SET name = 'renamed'")
    execute("SET search_path TO tenant_a, public")
    assert assert_missed(names) == ("list", [("str", "'renamed'")])


@postgresql
def test_setting_of_a_transaction_ends_with_it(schemas):
    """SET LOCAL holds until COMMIT or ROLLBACK, and SET itself is undone by a rollback."""
    shared = assert_cached(names)
    with transaction.atomic():
        execute("SET LOCAL search_path TO tenant_a, public")
        assert names() == ["tenant_a"]
        assert_true(names)
    assert assert_hit(names) == shared
    for statement in ("SET LOCAL search_path TO tenant_a, public", "SET search_path TO tenant_a, public"):
        with transaction.atomic():
            execute(statement)
            assert names() == ["tenant_a"]
            transaction.set_rollback(True)
        assert assert_true(names) == shared
    with transaction.atomic():
        with pytest.raises(ZeroDivisionError), transaction.atomic():  # noqa: PT012 - its end is what is tested
            execute("SET search_path TO tenant_b, public")
            assert names() == ["tenant_b"]
            raise ZeroDivisionError
        assert assert_true(names) == shared
    with transaction.atomic():
        execute("SET search_path TO tenant_b, public")
        execute("SET LOCAL search_path TO tenant_a, public")
        assert names() == ["tenant_a"]
    assert names() == ["tenant_b"]
    assert_true(names)


@pytest.fixture
def reader(library):
    """A role that may see one author only."""
    role = f"reader_{connection.settings_dict['NAME']}"
    execute(f"CREATE ROLE {role}")
    execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
    execute("ALTER TABLE testapp_author ENABLE ROW LEVEL SECURITY")
    execute(f"CREATE POLICY only_bob ON testapp_author FOR SELECT TO {role} USING (name = 'Bob')")
    yield role
    connection.close()
    execute("DROP POLICY only_bob ON testapp_author")
    execute("ALTER TABLE testapp_author DISABLE ROW LEVEL SECURITY")
    execute(f"DROP OWNED BY {role}")
    execute(f"DROP ROLE {role}")


@postgresql
def test_role_decides_which_rows_are_seen(reader):
    """Under SET ROLE policies of the database hide rows from the same statement."""
    assert_cached(names)
    execute(f"SET ROLE {reader}")
    assert names() == ["Bob"]
    assert_cached(names)
    execute("RESET ROLE")
    assert len(names()) == 3
    assert_hit(names)
    execute(f"SET SESSION AUTHORIZATION {reader}")
    assert names() == ["Bob"]
    execute("RESET SESSION AUTHORIZATION")
    assert len(names()) == 3
    with transaction.atomic():
        execute(f"SET LOCAL ROLE {reader}")
        assert names() == ["Bob"]
    assert len(names()) == 3


user_id: ContextVar[str] = ContextVar("user_id", default="0")


def key_context(_connection):
    """What a project returns to tell its users apart."""
    return user_id.get()


@pytest.fixture
def row_level_security(reader):
    """Each user sees the author of the same age; the connection is told who it is where no one looks."""
    execute("DROP POLICY only_bob ON testapp_author")
    execute(
        f"CREATE POLICY only_bob ON testapp_author FOR SELECT TO {reader} "
        "USING (age = current_setting('app.uid', true)::int)"
    )

    def log_in(uid, *, seen=False):
        user_id.set(str(uid))
        if seen:
            execute("SELECT set_config('app.uid', %s, false)", [str(uid)])
        else:
            execute_driver(f"SET app.uid = '{uid}'")

    execute(f"SET ROLE {reader}")
    yield log_in
    user_id.set("0")


@postgresql
@override_settings(CACHALOT_KEY_CONTEXT="tests.acceptance.test_isolation.key_context")
def test_key_context_keeps_users_apart(row_level_security):
    """What the hook returns is part of every key, asked anew for each read."""
    log_in = row_level_security
    log_in(36)
    assert names() == ["Ada"]
    assert_cached(names)
    log_in(80)
    assert names() == ["Cy"]
    assert_cached(names)
    log_in(36)
    assert names() == ["Ada"]
    assert_hit(names)


@postgresql
def test_setting_of_the_application_keeps_users_apart(row_level_security):
    """``set_config`` through a cursor of Django is seen without any hook."""
    log_in = row_level_security
    for uid, name in ((36, "Ada"), (80, "Cy"), (36, "Ada")):
        log_in(uid, seen=True)
        assert names() == [name]
        assert_true(names)


@postgresql
def test_setting_of_the_session_ends_no_result(library):
    """A project that sets something at the beginning of each request does not flush its cache with it."""
    for statement in (
        "SELECT set_config('app.uid', '1', false)",
        "SELECT pg_catalog.set_config('app.uid', '1', true)",
        "SET app.uid = '1'",
        "RESET app.uid",
    ):
        assert_cached(names)
        with transaction.atomic():
            execute(statement)
            transaction.set_rollback(True)
        assert_hit(names)


@override_settings(CACHALOT_KEY_CONTEXT=lambda _connection: object())
def test_key_context_that_cannot_be_a_key_is_not_cached(library):
    """A value that has no bytes would put all users under one key."""
    from cachalot.core.decisions import Reason

    assert_not_cached(names, Reason.CONTEXT)


@both_databases
def test_two_databases_in_one_cache_share_nothing(library):
    """The same statement on two databases is two reads, though the cache has no prefix."""
    Author.objects.using("other").create(pk=library.authors[0].pk, name="Elsewhere")

    def elsewhere():
        return [author.name for author in Author.objects.using("other")]

    assert_cached(names)
    assert elsewhere() == ["Elsewhere"]
    assert_cached(elsewhere, "other")
    assert names() == ["Ada", "Bob", "Cy"]
    assert explain(Author.objects.using("other")).key != explain(Author.objects.all()).key
    assert_kept_through(elsewhere, lambda: Author.objects.create(name="here"), "other")
    assert_refreshed_by(elsewhere, lambda: Author.objects.using("other").create(name="there"), "other")


def test_name_of_the_database_is_part_of_the_key(library):
    """Parallel test databases differ in nothing but their name."""
    key = explain(Author.objects.all()).key
    name = connection.settings_dict["NAME"]
    try:
        connection.settings_dict["NAME"] = f"{name}_2"
        assert explain(Author.objects.all()).key != key
    finally:
        connection.settings_dict["NAME"] = name
    assert explain(Author.objects.all()).key == key


class Tenant:
    """What django-tenants does to a connection: a name on it, and the search path through the driver."""

    def __init__(self, schema):
        connection.schema_name = schema
        execute_driver(
            f"SET search_path = {schema}, public" if schema != "public" else "SET search_path = public"
        )


@pytest.fixture
def tenants(schemas):
    """Gives back what was put on the connection."""
    yield Tenant
    vars(connections["default"]).pop("schema_name", None)


@postgresql
def test_tenants_share_nothing_but_the_public_tables(tenants):
    """Each tenant has its own rows; a write to a shared table is seen by all of them."""

    def tags():
        return [tag.name for tag in Tag.objects.all()]

    for schema in ("tenant_a", "tenant_b", "tenant_a", "public"):
        tenants(schema)
        assert names() == ([schema] if schema != "public" else ["Ada", "Bob", "Cy"])
        assert_cached(names)
        assert_cached(tags)
    tenants("tenant_a")
    assert_hit(names)
    Tag.objects.create(name="from tenant a")
    for schema in ("tenant_b", "tenant_a", "public"):
        tenants(schema)
        assert "from tenant a" in tags()
        assert_true(tags)
        assert_true(names)
    tenants("tenant_a")
    Author.objects.create(pk=2, name="second")
    assert names() == ["tenant_a", "second"]
    tenants("tenant_b")
    assert names() == ["tenant_b"]


@postgresql
def test_time_zone_of_the_session_is_part_of_the_key(library):
    """A time turned into text by the database depends on the zone of its session."""

    def texts():
        return list(Book.objects.annotate(t=Cast("created", models.CharField())).values_list("t", flat=True))

    utc = assert_cached(texts)
    for statement in (
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET timezone TO 'America/Lima'",
        "SET LOCAL TIME ZONE 'Asia/Kabul'",
    ):
        with transaction.atomic():
            execute(statement)
            assert assert_true(texts) != utc
            transaction.set_rollback(True)
        assert assert_true(texts) == utc
    execute("SET TIME ZONE 'Asia/Tokyo'")
    try:
        assert assert_cached(texts) != utc
    finally:
        connection.close()
    assert assert_true(texts) == utc


def test_time_zone_of_django_is_part_of_the_key(library):
    """The day a moment belongs to depends on where it is asked."""
    if connection.vendor == "mysql":
        pytest.skip("no zones are installed in the private MariaDB")

    def days():
        return list(Book.objects.annotate(d=TruncDay("created")).values_list("d", flat=True))

    utc = assert_cached(days)
    with timezone.override(dt.timezone(dt.timedelta(hours=9))):
        assert assert_cached(days) != utc
    assert assert_hit(days) == utc


@pytest.mark.databases("mysql")
def test_settings_of_mysql_are_part_of_the_key(library):
    """The zone, the SQL mode and the database of a session change what the same statement means."""

    def moment():
        return list(
            Author.objects.annotate(t=Func("id", function="FROM_UNIXTIME", output_field=models.TextField()))
        )

    def texts():
        return [str(author.t) for author in moment()]

    utc = assert_cached(texts)
    execute("SET time_zone = '+05:00'")
    assert assert_true(texts) != utc
    execute("SET @@session.time_zone = '+07:00'")
    assert assert_true(texts) != utc
    connection.close()
    assert assert_true(texts) == utc


@pytest.mark.databases("mysql")
@both_databases
def test_use_of_another_database_is_not_mistaken(library):
    """After USE the same names mean other tables."""
    Author.objects.using("other").create(name="Elsewhere")
    assert_cached(names)
    execute(f"USE `{connections['other'].settings_dict['NAME']}`")
    try:
        assert names() == ["Elsewhere"]
        assert_true(names)
        execute(f"USE `{connection.settings_dict['NAME']}`")
        assert names() == ["Ada", "Bob", "Cy"]
    finally:
        connection.close()


@pytest.mark.databases("sqlite")
def test_pragma_that_changes_results_is_part_of_the_key(library):
    """``case_sensitive_like`` changes what a filter finds."""

    def found():
        return [author.name for author in Author.objects.filter(name__contains="A")]

    assert_cached(found)
    execute("PRAGMA case_sensitive_like = ON")
    try:
        assert assert_true(found) == assert_true(found)
        assert_true(lambda: Author.objects.filter(name__contains="a"))
    finally:
        connection.close()
    assert_true(found)


@pytest.mark.databases("sqlite")
@both_databases
def test_temporary_table_hides_the_one_that_was_cached(library):
    """What one connection sees under a name is not what the others see."""
    assert_cached(names)
    execute("CREATE TEMP TABLE testapp_author AS SELECT 1 AS id, 'temporary' AS name, 1 AS age")
    try:
        assert names() == ["temporary"]
        assert_true(names)
    finally:
        connection.close()
    assert names() == ["Ada", "Bob", "Cy"]


@postgresql
def test_handler_of_new_connections_decides_whose_rows_are_read(schemas):
    """A project may SET something whenever it connects; reads of such a connection have keys of their own."""
    shared = assert_cached(names)

    def handler(connection, **kwargs):
        if connection.alias == "default":
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO tenant_a, public")

    connection.close()
    connection_created.connect(handler)
    try:
        connection.ensure_connection()
        for _ in range(3):
            assert names() == ["tenant_a"]
        assert_cached(names)
        connection.close()
        assert uncached(names) == ("list", [("str", "'tenant_a'")])
        assert names() == ["tenant_a"]
    finally:
        connection_created.disconnect(handler)
        connection.close()
    assert assert_true(names) == shared


@postgresql
def test_closed_connection_with_a_handler_is_not_answered_with_rows_of_others(schemas):
    """A process that will SET something must not take, before it connects, what another process stored."""
    assert_cached(names)

    def handler(connection, **kwargs):
        if connection.alias == "default":
            with connection.cursor() as cursor:
                cursor.execute("SET search_path TO tenant_a, public")

    connection.close()
    connection_created.connect(handler)
    try:
        assert names() == ["tenant_a"]
    finally:
        connection_created.disconnect(handler)
        connection.close()


@pytest.fixture
def twin(transactional_db):
    """A second alias of the first database, in the place of the second database."""
    before, settings_before = connections["other"], connections.settings["other"]
    before.close()
    connections.settings["other"] = dict(connection.settings_dict)
    connections["other"] = connections.create_connection("other")
    yield "other"
    connections["other"].close()
    connections["other"], connections.settings["other"] = before, settings_before


@both_databases
def test_two_aliases_of_one_database_see_each_others_writes(library, twin):
    """State belongs to the database, not to the name a project gives it."""

    def there():
        return [author.name for author in Author.objects.using(twin)]

    assert_cached(names)
    assert_refreshed_by(there, lambda: Author.objects.create(name="here"), twin)
    assert_refreshed_by(names, lambda: Author.objects.using(twin).create(name="there"))
    assert_refreshed_by(names, lambda: execute("DELETE FROM testapp_author WHERE name = 'here'", alias=twin))

    def in_transaction():
        with transaction.atomic(using=twin):
            Author.objects.using(twin).create(name="in a transaction")

    assert_refreshed_by(names, in_transaction)
    assert_true(there)


@both_databases
def test_two_users_of_one_server_do_not_share_results(library, twin):
    """Another user of the database may see other rows: it has other keys, and the same invalidation."""
    connections[twin].settings_dict["OPTIONS"] = {**connections[twin].settings_dict.get("OPTIONS", {})}
    keys = set()
    for user in ("", "somebody"):
        connections[twin].settings_dict["USER"] = user
        connections[twin].close()
        keys.add(explain(Author.objects.using(twin)).key)
        with override_settings(CACHALOT_TIMEOUT=99):
            keys.add(explain(Author.objects.using(twin)).key)
    assert len(keys) == 2


def test_cases_are_all_different(library):
    """What the keys are made of, once over: text, parameters, alias and shape."""
    reads = [
        Author.objects.all(),
        Author.objects.filter(age=1),
        Author.objects.filter(age=2),
        Tag.objects.all(),
    ]
    keys = [explain(read).key for read in reads]
    for one, two in itertools.combinations(keys, 2):
        assert one != two
    cases = Cases()
    for read in reads:
        with cases.case(str(read.query)):
            run(lambda read=read: read.all())
            assert_hit(lambda read=read: read.all())
    cases.check()
