"""The cache fails and the process that wrote dies: what it has written is invalidated all the same."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from unittest import mock
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, connections, transaction
from django.test import TestCase, override_settings

from cachalot.api import CacheUnavailableError, invalidate, stats
from cachalot.conf import current
from cachalot.core.decisions import Reason
from cachalot.engine import caches as engine_caches
from cachalot.engine import outbox
from cachalot.engine.draining import Draining
from cachalot.engine.writes import Writes
from cachalot.models import Outbox
from cachalot.orm.connection import session_of
from tests.acceptance.faulty import FaultyCache, faults, used
from tests.acceptance.racing import (
    agreed,
    agreed_everywhere,
    end_pause,
    ended_by,
    guard,
    is_hit,
    reasons,
    truth,
)
from tests.testapp.models import Author, Tag

pytestmark = pytest.mark.django_db(transaction=True)

AUTHORS = '[["any", "testapp_author"]]'


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def tags():
    """Another read."""
    return list(Tag.objects.values_list("name", flat=True))


def rename(name):
    """A write in autocommit."""
    Author.objects.update(name=name)


def rename_in_block(name):
    """A write in a transaction."""
    with transaction.atomic():
        rename(name)


def rename_raw(name):
    """A write of a cursor in autocommit."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE testapp_author SET name = %s", [name])


def rename_in_raw_block(name):
    """A transaction that is begun and committed by statements."""
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE testapp_author SET name = %s", [name])
        cursor.execute("COMMIT")


def rename_with_autocommit_off(name):
    """A transaction of a connection that has none between its statements and the next commit."""
    connection.set_autocommit(False)
    try:
        rename(name)
        connection.commit()
    finally:
        connection.rollback()
        connection.set_autocommit(True)


WRITES = [rename, rename_in_block, rename_raw, rename_in_raw_block, rename_with_autocommit_off]


def waiting(alias="default"):
    """What is in the outbox, by numbers."""
    return truth(lambda: list(Outbox.objects.using(alias).order_by("id").values_list("tags", flat=True)))


def die():
    """Whatever this process remembers about caches is lost."""
    engine_caches.forget()


@pytest.fixture(autouse=True)
def cache(transactional_db):
    """A cache that can fail, warm and in use; and the row that is written."""
    Author.objects.create(name="before", age=1)
    with used(f"{FaultyCache.__module__}.{FaultyCache.__qualname__}"):
        from django.core.cache import caches

        caches["outage"].clear()
        agreed(names)
        agreed(tags)
        yield
    outbox.forget()


def unseen():
    """What is written in the block is written by another program."""
    return mock.patch.object(connections["default"], "execute_wrappers", [])


@contextmanager
def outage():
    """The cache does not answer."""
    faults.fault = "raise"
    try:
        yield
    finally:
        faults.mend()


def written_by_the_dead(write=rename):
    """A write of an outage, by a process that is no more."""
    with outage():
        write("after")
        die()


# The outbox.


@pytest.mark.parametrize("write", WRITES)
def test_writer_dies_during_an_outage(write, other_connection):
    """No process serves what was stored before the write of one that is no more."""
    written_by_the_dead(write)
    assert waiting() == [AUTHORS]
    assert names() == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert waiting() == []
    assert is_hit(names)


def test_writer_dies_that_had_a_journal_only(settings):
    """What is remembered by the process ends with it; so the tests here would see a stale result."""
    settings.CACHALOT_ON_CACHE_FAILURE = "journal"
    written_by_the_dead()
    assert waiting() == []
    assert (names(), truth(names)) == (["before"], ["after"])


def test_another_process_writes_and_dies(settings):
    """A process that alone cannot reach the cache leaves nothing stale behind for those who can."""
    settings.CACHALOT_OUTBOX_INTERVAL = 0
    code = """
import os, django, tests.settings as settings
settings.CACHES["outage"] = {
    "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": "redis://127.0.0.1:1/0"
}
settings.CACHALOT_CACHE = "outage"
django.setup()
from tests.testapp.models import Author
Author.objects.update(name="after")
os._exit(9)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60, check=False
    )
    assert done.returncode == 9
    assert waiting() == [AUTHORS]
    assert agreed(names) == ["after"]
    assert waiting() == []


def test_reader_that_noticed_the_outage(other_connection):
    """A process whose cache did not answer reads the outbox before it serves anything again."""
    agreed(names)
    with outage():
        other_connection(lambda: rename("after"))
        assert names() == ["after"]
        guard()._undelivered.clear()
    end_pause()
    assert names() == ["after"]
    assert waiting() == []


def test_cache_that_stays_away_is_asked_without_the_database():
    """As long as the cache does not answer the outbox is not read."""
    written_by_the_dead()
    with outage(), mock.patch.object(outbox, "rows", side_effect=outbox.rows) as rows:
        for _ in range(20):
            names()
            rename_in_block("later")
        assert rows.call_count <= 1


def test_first_read_is_inside_a_transaction(other_connection):
    """The outbox is read just before a transaction begins."""
    written_by_the_dead()
    with transaction.atomic():
        assert waiting() == []
        assert names() == ["after"]
        assert agreed(names) == ["after"]
    written_by_the_dead(lambda _name: rename("later"))
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        assert waiting() == []
        assert names() == ["later"]
        cursor.execute("COMMIT")
    assert agreed_everywhere(names, other_connection) == ["later"]


def test_outage_inside_a_transaction(other_connection):
    """In a transaction the outbox is not read: nothing is served until its end."""
    with transaction.atomic():
        Tag.objects.count()
        with outage():
            other_connection(lambda: rename("after"))
            Tag.objects.count()
            die()
        assert reasons(names) == [Reason.UNDELIVERED]
        assert waiting() == [AUTHORS] or connection.vendor != "postgresql"
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


def test_connection_without_autocommit(other_connection):
    """Where there is no autocommit, the outbox is read after each commit and rollback."""
    written_by_the_dead()
    connection.set_autocommit(False)
    try:
        die()
        assert names() == ["after"]
        connection.commit()
        assert waiting() == []
        agreed(names)
        with outage():
            other_connection(lambda: rename("later"))
            Tag.objects.count()
            die()
        connection.rollback()
        assert names() == ["later"]
    finally:
        connection.rollback()
        connection.set_autocommit(True)


def test_only_the_database_that_is_read_is_asked():
    """A database that nobody uses gets no connection."""
    connections["other"].close()
    die()
    agreed(names)
    with outage():
        rename("after")
    end_pause()
    agreed(names)
    assert connections["other"].connection is None


def test_outbox_costs_one_statement_for_each_process():
    """Hits do not read the outbox again."""
    die()
    with mock.patch.object(outbox, "rows", side_effect=outbox.rows) as rows:
        for _ in range(10):
            names()
        with transaction.atomic():
            names()
    assert rows.call_count == 1


def test_row_of_a_process_that_reaches_the_cache_no_more(settings, other_connection):
    """A process whose own cache always answered looks again after the interval, and no sooner."""
    agreed(names)
    other_connection(lambda: raw_row("default", AUTHORS))
    with unseen():
        rename_raw("after")
    assert names() == ["before"]
    settings.CACHALOT_OUTBOX_INTERVAL = 0
    assert names() == ["after"]


def raw_row(alias, text):
    """Somebody else has left a row."""
    number = uuid4().int >> 65
    row = Outbox(id=number, created="2026-01-01T00:00Z", cache="outage", tags=text, gid="")
    row.save(using=alias, force_insert=True)


# What the row holds.


def test_transaction_that_is_rolled_back_leaves_no_row():
    """The row is part of the transaction."""
    with outage(), ended_by(ZeroDivisionError), transaction.atomic():
        rename("never")
        1 / 0  # noqa: B018
    assert waiting() == []
    assert agreed(names) == ["before"]


def test_savepoint_that_is_rolled_back():
    """Only what is committed is in the row."""
    with outage(), transaction.atomic():
        rename("after")
        with ended_by(ZeroDivisionError), transaction.atomic():
            Tag.objects.create(name="never")
            1 / 0  # noqa: B018
    assert waiting() == [AUTHORS]


def test_commit_that_fails():
    """A transaction whose COMMIT fails leaves no row."""
    with outage(), ended_by(DatabaseError), transaction.atomic():
        rename("never")
        with mock.patch.object(connection, "connection", wraps=connection.connection) as driver:
            driver.commit.side_effect = connection.Database.OperationalError("not now")
            transaction.get_connection()._commit()
    assert waiting() == []


@pytest.mark.parametrize("raw", [False, True], ids=["orm", "raw"])
def test_statement_in_autocommit_that_fails(raw):
    """Its error is that of Django alone, and it leaves neither a row nor a transaction."""
    Tag.objects.create(name="one")
    with outage():
        with ended_by(IntegrityError):
            if raw:
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO testapp_tag (name) VALUES ('one')")
            else:
                Tag.objects.bulk_create([Tag(name="one")])
        assert waiting() == []
        Tag.objects.create(name="two")
        assert waiting() == ['[["any", "testapp_tag"]]']
    connection.close()
    assert truth(tags) == ["one", "two"]


def test_statement_in_autocommit_returns_what_it_returns():
    """A statement in a transaction of its own gives its result."""
    with outage():
        assert Author.objects.update(name="after") == 1
        made = Author.objects.create(name="new", age=2)
        assert made.pk
        with connection.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET name = 'raw'")
            assert cursor.rowcount == 2
    assert truth(names) == ["raw", "raw"]


def test_writes_inside_a_write():
    """A write that makes other writes puts all of them in one transaction with one row."""
    with outage():
        with connection.execute_wrapper(_also_writes_a_tag()):
            rename("after")
        assert waiting() == ['[["any", "testapp_author"], ["any", "testapp_tag"]]']
        die()
    assert agreed(names) == ["after"]
    assert agreed(tags) == ["beside"]


def _also_writes_a_tag():
    done = []

    def wrapper(execute, sql, params, many, context):
        if sql.startswith("UPDATE") and not done:
            done.append(sql)
            Tag.objects.bulk_create([Tag(name="beside")])
        return execute(sql, params, many, context)

    return wrapper


def test_statement_that_cannot_run_in_a_transaction():
    """What is more than a plain write of rows is run as it is, and remembered by the process."""
    with outage():
        with connection.cursor() as cursor:
            cursor.executemany("UPDATE testapp_author SET name = %s", [["one"], ["after"]])
            if connection.vendor != "mysql":
                cursor.execute("VACUUM")
        assert waiting() == []
        assert guard().undelivered()
    end_pause()
    assert agreed(names) == ["after"]


def test_row_that_the_database_does_not_take():
    """An outbox that fails does not fail the commit; the process remembers instead."""
    with mock.patch.object(outbox, "_written", return_value=None), outage():
        rename_in_block("after")
        rename("later")
        with transaction.atomic():
            rename("last")
    assert waiting() == []
    end_pause()
    assert agreed(names) == ["last"]


def test_invalidation_by_hand_during_an_outage():
    """What the API invalidates is kept as well."""
    with unseen():
        rename_raw("after")
    with outage():
        invalidate(Author, db_alias="default", cache_alias="outage")
        assert waiting() == [AUTHORS]
        die()
    assert agreed(names) == ["after"]


def test_row_of_a_later_release(other_connection):
    """A row that says more than this release understands invalidates everything."""
    for text in ('[["row", "testapp_author", "7"]]', "garbage", "[7]", '{"a": 1}'):
        other_connection(lambda text=text: raw_row("default", text))
        with unseen():
            rename_raw(text)
        die()
        assert agreed(names) == [text]
        assert waiting() == []


def test_row_for_another_cache():
    """Rows wait for the cache that was away."""
    raw_row("default", AUTHORS)
    Outbox.objects.update(cache="default")
    die()
    agreed(names)
    assert waiting() == [AUTHORS]


def test_outbox_itself_is_never_cached(settings):
    """Whatever the settings say, the outbox is read from the database."""
    settings.CACHALOT_UNCACHABLE_TABLES = ()
    assert reasons(lambda: list(Outbox.objects.all())) == [Reason.TABLE]


def test_many_rows():
    """Rows are read by the page."""
    with mock.patch.object(outbox, "PAGE", 2), outage():
        for number in range(5):
            rename(f"{number}")
        assert len(waiting()) == 5
        die()
        faults.mend()
        before = stats().get("cache_drained", 0)
        assert agreed(names) == ["4"]
        assert waiting() == []
        assert stats()["cache_drained"] - before == 5


def test_counts():
    """Who asks is told how much went to the outbox and how much was delivered."""
    before = stats()
    written_by_the_dead()
    agreed(names)
    after = stats()
    assert after["cache_outbox"] - before.get("cache_outbox", 0) == 1
    assert after["cache_drained"] - before.get("cache_drained", 0) == 1


def test_rows_that_cannot_be_deleted():
    """A process that may not delete, as on a replica, delivers each row once."""
    written_by_the_dead()
    with (
        mock.patch.object(outbox, "remove", side_effect=DatabaseError("read-only")),
        mock.patch.object(Writes, "deliver", autospec=True, side_effect=Writes.deliver) as deliver,
    ):
        agreed(names)
        with outage():
            names()
        end_pause()
        assert agreed(names) == ["after"]
    assert deliver.call_count == 1
    assert len(waiting()) == 1


def test_delivery_that_fails_leaves_the_rows():
    """A row is deleted only after it was delivered."""
    written_by_the_dead()
    with mock.patch.object(Writes, "deliver", side_effect=RuntimeError("killed")):
        assert reasons(names) == [Reason.UNDELIVERED]
    assert waiting() == [AUTHORS]
    assert agreed(names) == ["after"]


def test_two_processes_deliver_at_once(other_connection):
    """Who comes while another process is about to deliver a row serves nothing that is older than it."""
    written_by_the_dead()
    original, reached, go_on = Writes.deliver, threading.Event(), threading.Event()

    def deliver(cache, session, effects, config):
        if threading.current_thread() is not threading.main_thread():
            reached.set()
            assert go_on.wait(30)
        original(cache, session, effects, config)

    with mock.patch.object(Writes, "deliver", deliver):
        first = other_connection.start(names)
        assert reached.wait(30)
        die()
        try:
            assert names() == ["after"]
            assert agreed(names) == ["after"]
        finally:
            go_on.set()
        assert first.result(30) == ["after"]
    assert waiting() == []
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_two_processes_delete_at_once():
    """A row that somebody else has deleted meanwhile is no error."""
    written_by_the_dead()
    original = outbox.remove

    def remove(session, numbers):
        original(session, numbers)
        original(session, numbers)

    with mock.patch.object(outbox, "remove", remove):
        assert names() == ["after"]
    assert waiting() == []


# Databases without the table.


@pytest.fixture
def not_migrated():
    """The database has no outbox."""
    with connection.schema_editor() as editor:
        editor.delete_model(Outbox)
    outbox.forget()
    yield
    with connection.schema_editor() as editor:
        editor.create_model(Outbox)
    outbox.forget()


@pytest.mark.parametrize("write", WRITES)
def test_database_without_outbox(write, not_migrated, other_connection):
    """Without the table everything works, and the process remembers."""
    agreed(names)
    with outage():
        write("after")
        assert guard().undelivered()
    end_pause()
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)
    die()
    with transaction.atomic():
        assert reasons(names) != [Reason.UNDELIVERED]
        assert is_hit(names)


def test_table_that_is_dropped_later(other_connection):
    """A process that knew of a table which is gone does not fail for it."""
    agreed(names)
    with connection.schema_editor() as editor:
        editor.delete_model(Outbox)
    try:
        agreed(names)
        with outage():
            rename_in_block("after")
            rename("later")
        end_pause()
        assert agreed_everywhere(names, other_connection) == ["later"]
        assert is_hit(names)
    finally:
        with connection.schema_editor() as editor:
            editor.create_model(Outbox)


def test_migrate_is_noticed(not_migrated):
    """After `migrate` the outbox is used."""
    agreed(names)
    with connection.schema_editor() as editor:
        editor.create_model(Outbox)
    call_command("migrate", "--fake", verbosity=0)
    with outage():
        rename("after")
    assert waiting() == [AUTHORS]
    with connection.schema_editor() as editor:
        editor.delete_model(Outbox)


class InTestCase(TestCase):
    """Everything happens in one transaction, which is never committed."""

    def test_reads_are_cached(self):
        """The outbox cannot be read there, and need not be."""
        die()
        with used(f"{FaultyCache.__module__}.{FaultyCache.__qualname__}"):
            names()
            assert is_hit(names)


# The other policies.


@pytest.mark.parametrize("write", WRITES)
def test_raise(write, settings):
    """Nothing is written while the cache does not answer, and the program is told."""
    settings.CACHALOT_ON_CACHE_FAILURE = "raise"
    with outage():
        with pytest.raises(CacheUnavailableError):
            write("never")
        if connection.in_atomic_block is False and write is rename_in_raw_block:
            connection.connection.rollback()
            connection.close()
        assert truth(names) == ["before"]
        assert names() == ["before"]
    end_pause()
    write("after")
    assert agreed(names) == ["after"]


def test_raise_in_a_block_with_hooks(settings):
    """A block whose COMMIT is refused is rolled back like any other, and its hooks are not run."""
    settings.CACHALOT_ON_CACHE_FAILURE = "raise"
    ran = []
    with outage(), ended_by(CacheUnavailableError), transaction.atomic():
        rename("never")
        transaction.on_commit(lambda: ran.append(1))
    assert (ran, truth(names)) == ([], ["before"])
    assert issubclass(CacheUnavailableError, DatabaseError)


def test_ignore(settings):
    """Nothing is remembered and nothing raised; what was stored before may be served until it expires."""
    settings.CACHALOT_ON_CACHE_FAILURE = "ignore"
    with outage():
        rename("after")
        rename_in_block("later")
        invalidate(Author, db_alias="default", cache_alias="outage")
        assert guard().undelivered() == 0
    assert waiting() == []
    end_pause()
    assert (names(), truth(names)) == (["before"], ["later"])


# Prepared transactions.


@pytest.mark.databases("postgresql", "mysql")
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_prepared_transaction_that_another_program_ends(end, settings):
    """Whoever commits it makes its row visible; a rollback takes the row away."""
    cursor = connection.cursor()
    if connection.vendor == "mysql":
        cursor.execute("XA START 'one'")
        cursor.execute("UPDATE testapp_author SET name = 'after'")
        cursor.execute("XA END 'one'")
        cursor.execute("XA PREPARE 'one'")
        connection.close()  # until then MariaDB lets nobody else end it
    else:
        cursor.execute("BEGIN")
        cursor.execute("UPDATE testapp_author SET name = 'after'")
        cursor.execute("PREPARE TRANSACTION 'one'")
    assert agreed(names) == ["before"]
    assert waiting() == []
    with unseen(), connection.cursor() as cursor:
        cursor.execute(f"XA {end} 'one'" if connection.vendor == "mysql" else f"{end} PREPARED 'one'")
    expected = {"commit": ["after"], "rollback": ["before"]}[end]
    numbers = truth(lambda: list(Outbox.objects.values_list("gid", flat=True)))
    assert numbers == (["one"] if end == "commit" else [])
    settings.CACHALOT_OUTBOX_INTERVAL = 0
    assert agreed(names) == expected
    assert waiting() == []


# The command.


def drain(*arguments):
    """What the command printed."""
    out = StringIO()
    call_command("drain_cachalot", *arguments, stdout=out)
    return out.getvalue().splitlines()


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_command():
    """The command delivers, and says how many rows."""
    written_by_the_dead()
    assert drain("-d", "default", "-c", "outage") == [
        "Delivered 1 row of the database 'default' to the cache 'outage'."
    ]
    assert waiting() == []
    with mock.patch.object(outbox, "rows", return_value=[]):
        assert agreed(names) == ["after"]
    assert "Delivered 0 rows of the database 'other' to the cache 'second'." in drain()


def test_command_during_an_outage():
    """The command fails while the cache does not answer, and the rows stay."""
    written_by_the_dead()
    with outage(), pytest.raises(CommandError, match="does not answer"):
        drain("-c", "outage")
    assert waiting() == [AUTHORS]


@pytest.mark.parametrize("arguments", [("-d", "nobody"), ("-c", "nobody")])
def test_command_with_a_wrong_name(arguments):
    """A name that does not exist is an error that says what there is."""
    with pytest.raises(CommandError, match=r"There is no .* 'nobody'"):
        drain(*arguments)


def test_command_without_outbox(not_migrated):
    """Where there is no table the command says how to make it."""
    assert drain("-d", "default", "-c", "outage") == [
        "The database 'default' has no outbox; run `manage.py migrate` to make it."
    ]


LAST_ID = {
    "postgresql": "SELECT lastval()",
    "mysql": "SELECT LAST_INSERT_ID()",
    "sqlite": "SELECT last_insert_rowid()",
}


def test_row_of_the_outbox_is_not_the_last_one_inserted():
    """Code that asks the database for the number of its last row gets that of its own."""
    with outage(), connection.cursor() as cursor:
        cursor.execute("INSERT INTO testapp_author (name, age) VALUES ('new', 1)")
        cursor.execute(LAST_ID[connection.vendor])
        (number,) = cursor.fetchone()
    assert truth(lambda: Author.objects.get(name="new").pk) == number


@pytest.mark.databases("sqlite", "mysql")  # on PostgreSQL django.contrib.postgres asks for it by its name
def test_write_of_a_connection_that_django_does_not_know():
    """A copy of a connection under a name of its own writes in an outage as ever."""
    copied = connection.copy("copied")
    try:
        with outage(), copied.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET name = 'after'")
    finally:
        copied.close()
    assert truth(names) == ["after"]


@pytest.mark.databases("mysql")
def test_level_of_the_next_transaction_is_not_used_up():
    """SET TRANSACTION is for what comes next, and that is not a look into the outbox."""
    with mock.patch.object(Draining, "_look") as look, override_settings(CACHALOT_OUTBOX_INTERVAL=0.0):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        look.reset_mock()
        with transaction.atomic():
            assert not look.called
            Tag.objects.create(name="new")
        with transaction.atomic():
            assert look.called


@pytest.mark.databases("postgresql")
def test_look_under_one_search_path_is_none_under_another():
    """What a connection has seen of the outbox says nothing about what another one would see."""
    session, config = session_of(connections["default"]), current()
    before = outbox.place_of(session, config)
    with connection.cursor() as cursor:
        cursor.execute("SET search_path TO public, pg_temp")
        try:
            assert outbox.place_of(session, config) != before
        finally:
            cursor.execute("RESET search_path")
    assert outbox.place_of(session, config)[1] == "default"


@pytest.mark.databases("postgresql")
def test_variable_of_a_transaction_is_no_other_outbox():
    """Row-level security sets a variable in each transaction; that does not make its reads uncached."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('cachalot.tenant', 'one', true)")
        names()
        assert is_hit(names)
