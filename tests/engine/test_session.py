"""What is known about one connection: its settings, its savepoints, its transaction, its driver."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
from django.db import OperationalError, connection, connections, transaction

from cachalot.analysis.rawsql import analyse
from cachalot.conf import current
from cachalot.core.tags import EPOCH, EVERYTHING, NOTHING, Effects, any_of
from cachalot.engine.isolation import Level
from cachalot.engine.session import Session
from cachalot.engine.transaction import MAX_LOCAL_BYTES, OVERHEAD_BYTES, LocalResult
from cachalot.orm.connection import session_of
from tests.testapp.models import Author

AUTHOR, BOOK = Effects(frozenset({"author"})), Effects(frozenset({"book"}))


class Connection(SimpleNamespace):
    """A connection; a session refers to it weakly."""


_alive = []


def connection_of(vendor: str = "postgresql", **options):
    """Return what a session asks of a connection, without a database."""
    settings = {"ENGINE": vendor, "NAME": "db", "HOST": "", "PORT": "", "OPTIONS": {}}
    known = {
        "alias": "default",
        "vendor": vendor,
        "settings_dict": settings,
        "connection": SimpleNamespace(**({"in_transaction": True} if vendor == "sqlite" else {})),
        "in_atomic_block": False,
        "autocommit": True,
        "needs_rollback": False,
        "closed_in_transaction": False,
        "timezone": None,
        "timezone_name": "UTC",
        "Database": SimpleNamespace(__name__="driver", __version__="3.1"),
    }
    made = Connection(**{**known, **options})
    _alive.append(made)
    return made


@pytest.fixture
def session():
    """The session of a PostgreSQL connection in autocommit."""
    return Session(connection_of())


def send(session, sql, params=None):
    """Note a statement that moves the session, as the cursor's seam would."""
    for statement in analyse(sql, session.connection.vendor):
        session.setting_changed(statement, sql, params)


def begin(session):
    """Open a transaction, and look at it."""
    session.connection.in_atomic_block = True
    return session.transaction()


def end(session, *, commit=True):
    """Close the transaction."""
    session.connection.in_atomic_block = False
    (session.ended if commit else session.rolled_back)()


def savepoint(session, name):
    """Note a savepoint inside of a transaction."""
    session.savepoint(name, begins=False)


def context(session):
    """Return what of the session is in keys."""
    return session.context(current())


class TestSettings:
    """Two sessions have one context only if the same settings are in force in both."""

    def test_setting_with_a_name(self, session):
        """A setting changes the context, another value gives another one, and the same value the same."""
        contexts = [context(session)]
        for sql in ("SET search_path TO a", "SET search_path TO b", "SET search_path TO a"):
            send(session, sql)
            contexts.append(context(session))
        assert contexts[1] == contexts[3]
        assert len(set(contexts)) == 3

    def test_order_of_settings_with_names(self, session):
        """Independent settings may be sent in any order."""
        other = Session(connection_of())
        for one, statements in (
            (session, ("SET search_path TO a", "SET ROLE x")),
            (other, ("SET ROLE x", "SET search_path TO a")),
        ):
            for sql in statements:
                send(one, sql)
        assert context(session) == context(other)

    @pytest.mark.parametrize(
        "back", ["RESET search_path", "SET search_path TO DEFAULT", "RESET ALL", "DISCARD ALL"]
    )
    def test_setting_that_is_taken_back(self, session, back):
        """After a reset the context is the first one."""
        first = context(session)
        send(session, "SET search_path TO a")
        send(session, back)
        assert context(session) == first

    def test_reset_all_keeps_the_role(self, session):
        """RESET ALL does not touch the role."""
        send(session, "SET ROLE x")
        with_role = context(session)
        send(session, "RESET ALL")
        assert context(session) == with_role

    def test_setting_without_a_name(self, session):
        """What cannot be read forms a chain: never again a context of before."""
        contexts = [context(session)]
        sql = "SELECT set_config(%s, %s, false)"
        for params in (["a.b", "1"], ["a.b", "2"], ["a.b", "1"]):
            send(session, sql, params)
            contexts.append(context(session))
        assert len(set(contexts)) == 4

    def test_chains_that_are_equal(self, session):
        """Two connections that were sent the same statements share their context."""
        other = Session(connection_of())
        for one in (session, other):
            send(one, "SELECT set_config(%s, %s, false)", ["a.b", "1"])
        assert context(session) == context(other)

    def test_parameter_that_cannot_be_written_down(self, session):
        """A setting whose value is unknown leaves no context, until everything is discarded."""
        send(session, "SELECT set_config('a.b', %s, false)", [object()])
        assert context(session) is None
        send(session, "DISCARD ALL")
        assert context(session) is not None

    def test_local_setting_ends_with_its_transaction(self, session):
        """SET LOCAL is forgotten at the end of the transaction, whatever the end."""
        first = context(session)
        for commit in (True, False):
            begin(session)
            send(session, "SET LOCAL search_path = a")
            assert context(session) != first
            end(session, commit=commit)
            assert context(session) == first

    @pytest.mark.parametrize(
        "sql", ["SELECT set_config(%s, %s, true)", "SELECT set_config('app.tenant', %s, true)"]
    )
    def test_local_setting_of_a_function(self, session, sql):
        """What set_config has set for a transaction is not in force after it: the contexts differ."""
        begin(session)
        send(session, sql, ["app.tenant", "7"][sql.count("%s") == 1 :])
        inside = context(session)
        end(session)
        assert context(session) != inside

    def test_local_setting_after_a_chain_has_begun(self, session):
        """A statement that could not be read does not make a later SET LOCAL outlive its transaction."""
        send(session, "SELECT set_config(%s, %s, false)", ["a.b", "1"])
        begin(session)
        send(session, "SET LOCAL search_path = a")
        inside = context(session)
        end(session)
        assert context(session) != inside

    def test_setting_that_is_rolled_back(self, session):
        """PostgreSQL takes a setting back with the transaction in which it was made."""
        first = context(session)
        begin(session)
        send(session, "SET search_path TO a")
        end(session, commit=False)
        assert context(session) == first

    def test_setting_without_a_name_that_is_rolled_back(self, session):
        """A chain that was rolled back is not in force any more."""
        begin(session)
        send(session, "SELECT set_config(%s, %s, false)", ["a.b", "1"])
        inside = context(session)
        end(session, commit=False)
        assert context(session) != inside

    @pytest.mark.parametrize("sql", ["SET search_path TO a", "SET LOCAL search_path TO a"])
    def test_setting_that_is_rolled_back_to_a_savepoint(self, session, sql):
        """A setting made after a savepoint goes with it."""
        begin(session)
        before = context(session)
        savepoint(session, "s")
        send(session, sql)
        session.roll_back_to("s")
        assert context(session) == before

    def test_reset_all_inside_of_a_transaction(self, session):
        """RESET ALL ends local settings as well."""
        begin(session)
        send(session, "SET LOCAL search_path TO a")
        inside = context(session)
        send(session, "RESET ALL")
        assert context(session) != inside

    def test_setting_survives_a_rollback_on_mysql(self):
        """MySQL keeps settings over a rollback."""
        session = Session(connection_of("mysql"))
        begin(session)
        send(session, "SET sql_mode = 'ANSI'")
        inside = context(session)
        end(session, commit=False)
        assert context(session) == inside

    def test_time_zone_of_the_connection(self, session):
        """The time zone in which rows are read is in the context."""
        first = context(session)
        session.connection.timezone_name = "Europe/Paris"
        assert context(session) != first

    def test_schema_of_the_tenant(self, session):
        """The tenant's schema is in the context."""
        first = context(session)
        session.connection.schema_name = "tenant"
        assert context(session) != first

    def test_hook_of_the_project(self, session, settings):
        """The value of CACHALOT_KEY_CONTEXT is in the context; one that cannot be a key leaves none."""
        contexts = []
        for value in (1, "1", object()):
            settings.CACHALOT_KEY_CONTEXT = lambda _connection, value=value: value
            contexts.append(context(session))
        assert contexts[0] != contexts[1]
        assert contexts[2] is None


class TestFrames:
    """What was written is known by savepoint."""

    def test_effects_of_savepoints(self, session):
        """What was written before and after a savepoint is written by the transaction."""
        written = begin(session)
        written.note(AUTHOR)
        savepoint(session, "s")
        written.note(BOOK)
        assert written.effects() == AUTHOR | BOOK

    def test_rollback_to_a_savepoint(self, session):
        """What was written since is gone, also in inner savepoints; the savepoint stays."""
        written = begin(session)
        written.note(AUTHOR)
        savepoint(session, "outer")
        written.note(BOOK)
        savepoint(session, "inner")
        written.note(EVERYTHING)
        session.roll_back_to("outer")
        assert written.effects() == AUTHOR
        assert [frame.name for frame in written.frames] == ["", "outer"]

    def test_release(self, session):
        """What was written since belongs to the level below, and goes with it."""
        written = begin(session)
        savepoint(session, "outer")
        savepoint(session, "inner")
        written.note(BOOK)
        session.release("inner")
        assert written.effects() == BOOK
        session.roll_back_to("outer")
        assert written.effects() == NOTHING

    def test_savepoints_of_one_name(self, session):
        """The newest savepoint of a name is meant."""
        written = begin(session)
        savepoint(session, "s")
        written.note(AUTHOR)
        savepoint(session, "s")
        written.note(BOOK)
        session.roll_back_to("s")
        assert written.effects() == AUTHOR

    @pytest.mark.parametrize("call", ["release", "roll_back_to"])
    def test_savepoint_that_is_not_known(self, session, call):
        """Nothing is forgotten for a name that was never given."""
        written = begin(session)
        written.note(AUTHOR)
        getattr(session, call)("nobody")
        assert written.effects() == AUTHOR

    def test_own_results(self, session):
        """A write and a rollback end the own results that they touch, and those only."""
        written = begin(session)
        results = {
            b"a": LocalResult((EPOCH, any_of("author")), None, b""),
            b"b": LocalResult((EPOCH, any_of("book")), None, b""),
        }
        for key, result in results.items():
            written.keep(key, result)
        savepoint(session, "s")
        written.note(AUTHOR)
        assert set(written.local) == {b"b"}
        written.keep(b"a", results[b"a"])
        session.roll_back_to("s")
        assert set(written.local) == {b"b"}
        written.note(EVERYTHING)
        assert not written.local

    def test_bound_of_own_results(self, session):
        """A transaction keeps a bounded number of bytes, those of its latest results."""
        written = begin(session)
        payload = bytes(MAX_LOCAL_BYTES // 8 - OVERHEAD_BYTES)
        for number in range(20):
            written.keep(b"%d" % number, LocalResult((), None, payload))
        assert list(written.local) == [b"%d" % number for number in range(12, 20)]

    def test_end_of_the_transaction(self, session):
        """The next transaction begins with nothing."""
        begin(session).note(AUTHOR)
        end(session)
        assert session.transaction() is None
        assert begin(session).effects() == NOTHING

    def test_transaction_that_ended_without_a_word(self, session):
        """Whether there is a transaction is asked of the connection: nothing stays behind."""
        begin(session).note(AUTHOR)
        session.connection.in_atomic_block = False
        assert session.transaction() is None
        assert begin(session).effects() == NOTHING


class TestEdges:
    """All ways to be in a transaction."""

    def test_begin_sent_as_a_statement(self, session):
        """After BEGIN there is a transaction, until it ends."""
        session.begun()
        assert session.transaction() is not None
        session.ended()
        assert session.transaction() is None

    def test_manual_transaction_management(self, session):
        """With autocommit off there is a transaction."""
        session.connection.autocommit = False
        assert session.transaction() is not None

    def test_autocommit_switched_off_by_a_statement(self, session):
        """SET autocommit = 0 is seen, although Django does not know of it."""
        session.autocommit_set(off=True)
        assert session.transaction() is not None
        session.autocommit_set(off=False)
        assert session.transaction() is None

    def test_another_connection_of_the_driver(self, session):
        """With another connection of the driver settings, transaction and level begin anew."""
        first = context(session)
        send(session, "SET search_path TO a")
        session.begun()
        session.transaction().note(AUTHOR)
        session.level_changed("serializable", once=False)
        session.setting_unknown()
        session.connection.connection = SimpleNamespace()
        assert session.transaction() is None
        assert context(session) == first
        assert session._level is None

    def test_database_in_memory_that_was_closed(self):
        """Another connection to :memory: is another database."""
        made = connection_of("sqlite")
        made.settings_dict["NAME"] = ":memory:"
        session = Session(made)
        first = session.namespace(current()).root
        made.connection = SimpleNamespace(in_transaction=False)
        assert session.namespace(current()).root != first


class TestLevels:
    """What a transaction sees of others."""

    @pytest.mark.parametrize(
        ("name", "level"),
        [
            ("read uncommitted", Level.STATEMENT),
            ("read committed", Level.STATEMENT),
            ("repeatable read", Level.SNAPSHOT),
            ("serializable", Level.SERIALIZABLE),
            ("something new", Level.SERIALIZABLE),
        ],
    )
    def test_level_set_by_hand(self, session, name, level):
        """The level that was set is taken; an unknown one counts as the strictest."""
        session._server_level = Level.STATEMENT
        session.level_changed(name, once=False)
        assert session.level() is level

    def test_strictest_level_wins(self, session):
        """A level that was set stays for the connection: nobody knows for how long it was meant."""
        session._server_level = Level.STATEMENT
        session.level_changed("serializable", once=False)
        session.level_changed("read committed", once=False)
        assert session.level() is Level.SERIALIZABLE

    def test_mysql(self):
        """Django sets the level of MySQL; without one the server is asked, or the strictest is assumed."""
        assert Session(connection_of("mysql", isolation_level="read committed")).level() is Level.STATEMENT
        assert Session(connection_of("mysql", isolation_level="read uncommitted")).level() is Level.DIRTY
        assert Session(connection_of("mysql", isolation_level=None)).level() is Level.SERIALIZABLE

    def test_sqlite(self):
        """Inside BEGIN SQLite shows one snapshot, without it each statement has its own."""
        made = connection_of("sqlite")
        session = Session(made)
        assert session.level() is Level.SNAPSHOT
        made.connection.in_transaction = False
        assert session.level() is Level.STATEMENT

    def test_unknown_database(self):
        """Of a database nobody knows the strictest is assumed."""
        assert Session(connection_of("oracle")).level() is Level.SERIALIZABLE


@pytest.mark.django_db(transaction=True)
class TestRealConnection:
    """The same on the database under test."""

    def test_connection_that_is_closed_and_opened_again(self):
        """What belonged to the old connection is gone."""
        connection.ensure_connection()
        session = session_of(connections["default"])
        session.setting_unknown()
        assert context(session) is None
        connection.close()
        connection.ensure_connection()
        assert context(session) is not None

    def test_atomic_blocks(self):
        """Frames follow nested atomic blocks, and what was rolled back is not committed."""
        session = session_of(connections["default"])
        with transaction.atomic():
            Author.objects.create(name="Ann")
            effects = session.transaction().effects()
            with contextlib.suppress(ZeroDivisionError), transaction.atomic():
                Author.objects.all().delete()
                assert len(session.transaction().frames) == 2
                assert 1 / 0
            assert session.transaction().effects() == effects
            with transaction.atomic(savepoint=False):
                assert len(session.transaction().frames) == 1
        assert session.transaction() is None

    def test_begin_that_fails(self, monkeypatch):
        """A connection that cannot be opened leaves nothing on the thread."""
        connection.close()

        def fail(*_args, **_kwargs):
            raise connection.Database.OperationalError("no route")

        monkeypatch.setattr(connection, "get_new_connection", fail)
        with pytest.raises(Exception, match="no route"), transaction.atomic():
            raise AssertionError
        monkeypatch.undo()
        session = session_of(connections["default"])
        assert session.transaction() is None
        Author.objects.create(name="Ann")
        assert [author.name for author in Author.objects.all()] == ["Ann"]

    def test_commit_that_fails(self, monkeypatch):
        """After a failed commit the next transaction begins with nothing."""
        session = session_of(connections["default"])

        def fail():
            raise OperationalError("lost")

        with monkeypatch.context() as patch:
            block = transaction.atomic()
            block.__enter__()
            Author.objects.create(name="Ann")
            patch.setattr(connection, "commit", fail)
            with pytest.raises(OperationalError):
                block.__exit__(None, None, None)
        connection.close()
        assert session.transaction() is None
        assert list(Author.objects.all()) == []
