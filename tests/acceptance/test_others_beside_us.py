"""Forks, tasks, threads that share a connection, engines and compilers of others."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback
from contextlib import suppress

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.cache import caches
from django.db import DatabaseError, connection, connections, transaction
from django.test import override_settings

from cachalot.api import cachalot_disabled
from tests.acceptance.racing import agreed, same, truth
from tests.testapp import models as m
from tests.testapp.models import Author, Book, NullFK, Tag

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("new_connection")]


def names():
    """The names of all authors."""
    return list(Author.objects.values_list("name", flat=True))


def in_a_child(call):
    """Run a call in a forked process; return what went wrong there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        out = b""
        try:
            signal.alarm(25)
            call()
        except BaseException:  # noqa: BLE001 - shown by the test
            out = traceback.format_exc().encode()
        os.write(write, out or b"ok")
        os._exit(0)
    os.close(write)
    return pid, read


def result(child):
    """What a forked process has said."""
    pid, read = child
    text = b""
    while True:
        got = os.read(read, 65536)
        if not got:
            break
        text += got
    os.waitpid(pid, 0)
    os.close(read)
    return text.decode()


@pytest.mark.caches("redis", "django-redis", "pymemcache", "pylibmc", "file")
def test_fork_after_reads():
    """gunicorn --preload: something is read before the fork, the connections of the database are closed."""
    for number in range(5):
        Author.objects.create(name=f"a{number}")
    pks = list(Author.objects.values_list("pk", flat=True))
    for pk in pks:
        Author.objects.get(pk=pk), Author.objects.get(pk=pk)
    connections.close_all()

    def work(mine):
        def run():
            for turn in range(60):
                Author.objects.filter(pk=mine).update(age=turn)
                for pk in pks:
                    seen = Author.objects.get(pk=pk).age
                    if pk == mine:
                        assert seen == turn, (seen, turn)
                    len(Author.objects.all())

        return run

    children = [in_a_child(work(pk)) for pk in pks[:3]]
    problem = None
    try:
        work(pks[4])()
    except BaseException:  # noqa: BLE001 - shown by the test
        problem = traceback.format_exc()
    said = [result(one) for one in children]
    assert said == ["ok"] * 3, "\n".join(said)
    assert problem is None, problem
    with cachalot_disabled():
        expected = [Author.objects.get(pk=pk).age for pk in pks]
    same([Author.objects.get(pk=pk).age for pk in pks], expected)


def test_async_tasks_at_once():
    """Tasks of one loop, each of which reads what it has written."""

    async def one(number):
        author = await Author.objects.acreate(name=f"a{number}")
        for turn in range(5):
            await Author.objects.filter(pk=author.pk).aupdate(age=turn)
            assert (await Author.objects.aget(pk=author.pk)).age == turn
            author.age = turn + 100
            await author.asave()
            assert [x.age async for x in Author.objects.filter(pk=author.pk)] == [turn + 100]
            await Author.objects.acount()
        await author.adelete()
        assert not await Author.objects.filter(pk=author.pk).aexists()

    async def main():
        await asyncio.gather(*(one(number) for number in range(6)))

    async_to_sync(main)()
    assert agreed(names) == []


def test_async_iterator_half_consumed_while_others_write():
    """A task that stops reading in the middle leaves the others right."""
    for number in range(5):
        Author.objects.create(name=f"a{number}")

    async def main():
        seen = []
        async for author in Author.objects.all().aiterator(chunk_size=1):
            seen.append(author.name)
            await Author.objects.filter(pk=author.pk).aupdate(name=author.name + "x")
            if len(seen) == 3:
                break
        return seen

    assert len(async_to_sync(main)()) == 3
    agreed(names)


def test_async_cancelled_in_the_middle():
    """A task may be cancelled while it writes."""
    author = Author.objects.create(name="a")
    names(), names()

    async def main():
        task = asyncio.ensure_future(Author.objects.filter(pk=author.pk).aupdate(name="b"))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await sync_to_async(lambda: None)()

    async_to_sync(main)()
    agreed(names)


def test_scopes_do_not_leak_between_tasks():
    """What one task switches off stays on for the others."""
    author = Author.objects.create(name="a")

    async def off():
        with cachalot_disabled():
            await asyncio.sleep(0.01)
            await Author.objects.aget(pk=author.pk)

    async def on():
        await Author.objects.aget(pk=author.pk)

    async def main():
        await asyncio.gather(*(f() for f in (off, on) * 4))

    async_to_sync(main)()
    agreed(names)


def test_cache_cleared_in_the_middle_of_everything(other_connection):
    """The cache may be emptied at any moment."""
    author = Author.objects.create(name="a")

    def clearing(execute, *statement):
        caches["default"].clear()
        result = execute(*statement)
        caches["default"].clear()
        return result

    with connection.execute_wrapper(clearing):
        names()
        Author.objects.filter(pk=author.pk).update(name="b")
        names()
        with transaction.atomic():
            Author.objects.filter(pk=author.pk).update(name="c")
            names()
    agreed(names)
    other_connection(lambda: agreed(names))


def test_key_functions_and_versions(settings):
    """Prefixes, versions and key functions of a Django cache are respected."""
    config = {**settings.CACHES}
    config["default"] = {
        **config["default"],
        "KEY_PREFIX": "p%s {x}",
        "VERSION": 7,
        "KEY_FUNCTION": "tests.acceptance.test_others_beside_us.make_key",
    }
    if settings.TEST_CACHE not in ("locmem", "redis", "file"):
        pytest.skip()
    with override_settings(CACHES=config):
        author = Author.objects.create(name="a")
        names(), names()
        Author.objects.filter(pk=author.pk).update(name="b")
        agreed(names)
        with transaction.atomic():
            author.name = "c"
            author.save()
        agreed(names)


def make_key(key, prefix, version):
    """A key function of a project."""
    return f"{version}/{prefix}/{key}".replace(" ", "_")


def test_cursor_that_passes_no_wrappers(monkeypatch):
    """An engine whose cursors have an ``execute`` of their own."""
    from django.db.backends.utils import CursorWrapper

    author = Author.objects.create(name="a")
    names(), names()

    class Own(CursorWrapper):
        def execute(self, sql, params=None):
            with self.db.wrap_database_errors:
                return self.cursor.execute(sql) if params is None else self.cursor.execute(sql, params)

    monkeypatch.setitem(
        connections["default"].__dict__, "make_cursor", lambda cursor: Own(cursor, connections["default"])
    )
    Author.objects.filter(pk=author.pk).update(name="b")
    monkeypatch.undo()
    same(names(), truth(names))


def test_compiler_that_runs_sql_of_its_own(monkeypatch):
    """A compiler of a third party that sends a second statement around each UPDATE."""
    from django.db.models.sql.compiler import SQLUpdateCompiler

    author = Author.objects.create(name="a")
    original = SQLUpdateCompiler.execute_sql

    def execute_sql(self, *args, **kwargs):
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET age = 1")
        result = original(self, *args, **kwargs)
        with self.connection.cursor() as cursor:
            cursor.execute("UPDATE testapp_tag SET name = 'after'")
        return result

    Tag.objects.create(name="x")
    tags = lambda: list(Tag.objects.values_list("name", flat=True))  # noqa: E731
    names(), tags()
    monkeypatch.setattr(SQLUpdateCompiler, "execute_sql", execute_sql)
    Author.objects.filter(pk=author.pk).update(name="b")
    agreed(names), agreed(tags)
    agreed(lambda: list(Author.objects.values_list("age", flat=True)))


@pytest.mark.databases("sqlite", "postgresql")
@pytest.mark.parametrize("said", [False, True], ids=["unsaid", "said to be left out"])
def test_compiler_that_updates_on_conflict(monkeypatch, said):
    """A compiler of a third party whose INSERT updates a row that is there, unsaid by the query."""
    from django.db.models.sql.compiler import SQLInsertCompiler

    one, two = (Author.objects.create(name=name) for name in "ab")
    row = NullFK.objects.create(author=one)
    original = SQLInsertCompiler.as_sql

    def as_sql(self, *args, **kwargs):
        left_out = " ON CONFLICT DO NOTHING"
        upsert = " ON CONFLICT (id) DO UPDATE SET author_id = EXCLUDED.author_id"
        texts = [(sql.replace(left_out, ""), params) for sql, params in original(self, *args, **kwargs)]
        parts = [(sql.replace(" OR IGNORE", "").partition(" RETURNING "), params) for sql, params in texts]
        return [(sql[0] + upsert + sql[1] + sql[2], params) for sql, params in parts]

    lists = [lambda author=author: list(NullFK.objects.filter(author=author)) for author in (one, two)]
    for read in lists:
        agreed(read)
    monkeypatch.setattr(SQLInsertCompiler, "as_sql", as_sql)
    NullFK.objects.bulk_create([NullFK(pk=row.pk, author=two)], ignore_conflicts=said)
    for read in lists:
        agreed(read)
    assert truth(lambda: NullFK.objects.get().author_id) == two.pk


def test_second_statement_of_a_compiler_fails(monkeypatch):
    """A statement that fails behind a write, and is passed over, does not undo it."""
    from django.db.models.sql.compiler import SQLUpdateCompiler

    author = Author.objects.create(name="a")
    names(), names()
    original = SQLUpdateCompiler.execute_sql

    def execute_sql(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        with suppress(DatabaseError), self.connection.cursor() as cursor:
            cursor.execute("UPDATE nothing_there SET name = 'after'")
        return result

    monkeypatch.setattr(SQLUpdateCompiler, "execute_sql", execute_sql)
    Author.objects.filter(pk=author.pk).update(name="b")
    assert truth(names) == ["b"]
    same(names(), ["b"])


@pytest.mark.databases("postgresql")
def test_deadlock_of_two_single_writes(other_connection):
    """Each is one statement; Django alone never has two locks in autocommit."""
    one, _two = Author.objects.create(name="a"), Author.objects.create(name="b")
    # a wrapper that counts writes in one row, after each write
    m.Counter.objects.create(last=0)

    def counting(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if "testapp_author" in sql and sql.startswith("UPDATE"):
            with context["connection"].cursor() as cursor:
                cursor.execute("UPDATE testapp_counter SET last = last + 1")
        return result

    def inner(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if "testapp_counter" in sql and threading.current_thread() is threading.main_thread():

            def there():
                with connection.cursor() as cursor:
                    cursor.execute("SET lock_timeout = '300ms'")
                    cursor.execute("UPDATE testapp_counter SET last = last + 10")

            other_connection(there)
        return result

    with connection.execute_wrapper(inner), connection.execute_wrapper(counting):
        Author.objects.filter(pk=one.pk).update(name="c")
    assert truth(lambda: m.Counter.objects.get().last) == 11


def test_on_commit_hook_that_raises_and_reads():
    """A hook may read, write and raise."""
    author = Author.objects.create(name="a")
    names()
    seen = []

    def hook():
        seen.append(names())
        Author.objects.filter(pk=author.pk).update(name="c")
        seen.append(names())
        raise ZeroDivisionError

    with suppress(ZeroDivisionError), transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="b")
        transaction.on_commit(hook)
    assert seen == [["b"], ["c"]]
    agreed(names)


def test_nested_everything(other_connection):
    """Savepoints in savepoints, some of which are rolled back, show what the database shows."""
    author = Author.objects.create(name="a")
    names()
    with transaction.atomic():
        Author.objects.filter(pk=author.pk).update(name="b")
        with suppress(ZeroDivisionError), transaction.atomic():
            Author.objects.filter(pk=author.pk).update(name="c")
            names()
            with transaction.atomic():
                Author.objects.create(name="d")
                names()
            sid = transaction.savepoint()
            Author.objects.all().delete()
            assert names() == []
            transaction.savepoint_rollback(sid)
            assert names() == ["c", "d"]
            raise ZeroDivisionError
        assert names() == ["b"]
        same(other_connection(names), ["a"])
        transaction.set_rollback(True)
    assert agreed(names) == ["a"]


@pytest.mark.databases("sqlite")
def test_dirty_reads_of_a_shared_cache(tmp_path):
    """PRAGMA read_uncommitted on a database in memory that connections share."""
    import sqlite3

    settings = {**connection.settings_dict, "NAME": "file:hazard?mode=memory&cache=shared"}
    keep = sqlite3.connect(settings["NAME"], uri=True, isolation_level=None)
    keep.execute("CREATE TABLE testapp_author (id integer primary key autoincrement, name text, age int)")
    keep.execute("INSERT INTO testapp_author (name) VALUES ('a')")
    kind = type(connections["default"])
    one, before = kind(settings, "default"), connections["default"]
    one.settings_dict["OPTIONS"] = {"timeout": 1}
    connections["default"] = one
    try:
        with one.cursor() as cursor:
            cursor.execute("PRAGMA read_uncommitted=1")
        keep.execute("BEGIN")
        keep.execute("UPDATE testapp_author SET name = 'dirty'")
        names()
        keep.execute("ROLLBACK")
        same(names(), ["a"])
    finally:
        one.close()
        connections["default"] = before
        keep.close()


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("write", ["update", "save"])
def test_wrapper_that_explains_first(both, write, inside):
    """A profiler has the plan of each statement shown before it is run, on the same cursor."""
    from contextlib import nullcontext

    author = Author.objects.create(name="a")
    names(), names()

    def explaining(execute, sql, params, many, context):
        if sql.startswith(("UPDATE", "DELETE", "WITH")):
            word = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
            execute(word + sql, params, many, context)
            context["cursor"].fetchall()
        return execute(sql, params, many, context)

    with transaction.atomic() if inside else nullcontext(), connection.execute_wrapper(explaining):
        if write == "update":
            assert Author.objects.filter(pk=author.pk).update(name="b") == 1
        else:
            author.name = "b"
            author.save()
    assert truth(names) == ["b"]
    same(names(), ["b"])


def test_wrapper_that_begins_by_hand_after_the_statement(both):
    """A wrapper may begin a transaction by hand behind a write that was committed."""
    author = Author.objects.create(name="a")
    names(), names()

    def logged(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("UPDATE") and "testapp_author" in sql:
            with context["connection"].cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute("INSERT INTO testapp_counter (last) VALUES (7)")
                cursor.execute("ROLLBACK")
        return result

    with connection.execute_wrapper(logged):
        Author.objects.filter(pk=author.pk).update(name="b")
    assert truth(names) == ["b"]
    assert truth(m.Counter.objects.count) == 0
    same(names(), ["b"])


@pytest.mark.databases("sqlite")
def test_other_thread_of_a_shared_connection_reads(both, monkeypatch):
    """A live server reads while the test writes: what is rolled back then is nowhere."""
    Tag.objects.create(name="a")
    tag = Tag.objects.create(name="b")
    shared = connections["default"]
    shared.close()
    monkeypatch.setitem(shared.settings_dict["OPTIONS"], "check_same_thread", False)
    shared.inc_thread_sharing()
    tags = lambda: list(Tag.objects.values_list("name", flat=True))  # noqa: E731

    def in_a_thread(call):
        def run():
            connections["default"] = shared
            call()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)

    class Later(Exception):
        pass

    def meanwhile(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if threading.current_thread() is threading.main_thread() and sql.startswith("UPDATE"):
            in_a_thread(tags)
            raise Later
        return result

    names()  # the outbox is read
    try:
        with shared.execute_wrapper(meanwhile), suppress(Later):
            Tag.objects.filter(pk=tag.pk).update(name="c")
    finally:
        shared.dec_thread_sharing()
    same(tags(), truth(tags))


@pytest.mark.databases("postgresql")
def test_server_side_binding(both):
    """Parameters that the server binds have no types of their own."""
    from django.db.models import Case, F, Value, When
    from django.db.models.functions import Concat

    before = connections["default"]
    kind = type(before)
    settings = {
        **before.settings_dict,
        "OPTIONS": {**before.settings_dict["OPTIONS"], "server_side_binding": True},
    }
    connections["default"] = kind(settings, "default")
    from cachalot.orm.install import install

    install()
    try:
        author, other = Author.objects.create(name="a"), Author.objects.create(name="z")
        book = Book.objects.create(title="x", author=author)
        tag = Tag.objects.create(name="t")
        tag.name = "u"
        tag.save()
        assert Tag.objects.filter(name="u").update(name=Concat(F("name"), Value("v"))) == 1
        assert (
            Tag.objects.filter(pk=tag.pk).update(
                name=Case(When(name="uv", then=Value("w")), default=Value("n"))
            )
            == 1
        )
        assert (
            Book.objects.filter(author=author, pk__in=[book.pk]).update(author=other, pages=F("pages") + 1)
            == 1
        )
        book.refresh_from_db()
        book.pages = 7
        book.save()
        Book.objects.bulk_update([book], ["pages", "author"])
        m.NullFK.objects.create(author=author)
        assert m.NullFK.objects.filter(author=author).update(author=None) == 1
        assert Tag.objects.filter(name__in=["w", "q"])._raw_delete("default") == 1
        agreed(names)
    finally:
        connections["default"].close()
        connections["default"] = before


@pytest.mark.databases("postgresql")
def test_connection_dropped_at_each_statement_of_a_write(other_connection):
    """The server ends the connection before BEGIN, before the statement and before COMMIT."""
    from cachalot.engine import alone

    author = Author.objects.create(name="a")
    names(), names()
    original = alone._execute
    for text in ("BEGIN", "COMMIT"):
        pid = connection.connection.info.backend_pid if connection.connection else None
        if pid is None:
            connection.ensure_connection()
            pid = connection.connection.info.backend_pid

        def dropping(session, what, text=text, pid=pid):
            if what == text:

                def kill():
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])

                other_connection(kill)
            return original(session, what)

        alone._execute = dropping
        try:
            with pytest.raises(DatabaseError):
                Author.objects.filter(pk=author.pk).update(name=text)
        finally:
            alone._execute = original
        assert not connection.is_usable()
        connection.close_if_unusable_or_obsolete()
        assert connection.connection is None
        expected = truth(names)
        same(names(), expected)
        Author.objects.filter(pk=author.pk).update(name="again")
        agreed(names)


def test_wrapper_that_writes_after_an_insert(both):
    """A wrapper may write to another table behind an INSERT."""

    def logged(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if sql.startswith("INSERT") and "testapp_author" in sql:
            m.Counter.objects.all().update(last=7)
        return result

    m.Counter.objects.create()
    with connection.execute_wrapper(logged):
        Author.objects.create(name="b")
    same(names(), ["b"])
    assert truth(names) == ["b"]
    assert truth(lambda: m.Counter.objects.get().last) == 7


def test_connection_that_is_forbidden(monkeypatch):
    """Where tests forbid to connect, a read raises what it raises in Django alone."""

    def forbidden(*_args):
        raise AssertionError("connected too early")

    def refused():
        raise asyncio.InvalidStateError

    names()
    connection.close()
    monkeypatch.setattr(type(connections["default"]), "ensure_connection", forbidden)
    monkeypatch.setattr(connections["default"], "cursor", refused)
    with pytest.raises(asyncio.InvalidStateError):
        list(Author.objects.filter(name="never asked for"))
