"""Transactions of every kind: a reader sees what its own connection sees, and shows it to nobody else."""

from __future__ import annotations

import gc
import itertools
import threading
from contextlib import contextmanager, suppress
from unittest import mock

import pytest
from django.core.exceptions import ObjectDoesNotExist
from django.db import (
    DatabaseError,
    IntegrityError,
    OperationalError,
    connection,
    connections,
    transaction,
)
from django.db.models import Sum
from django.db.transaction import TransactionManagementError

from cachalot.core.decisions import Reason
from cachalot.engine.guard import Guard
from cachalot.orm.connection import attach
from tests.acceptance.racing import (
    agreed,
    agreed_everywhere,
    at_statement,
    during_commit,
    ended_by,
    evict,
    is_hit,
    keys_of,
    kind_of,
    let_readers_not_block_writers,
    reasons,
    recorded_steps,
    truth,
)
from tests.testapp.models import Author, Book, Tag

pytestmark = pytest.mark.django_db(transaction=True)

#: Databases whose transactions are READ COMMITTED unless told otherwise; Django tells MariaDB.
READ_COMMITTED = pytest.mark.databases("postgresql", "mysql")

#: Its name changed in Django 6.1.
savepoint_create = getattr(transaction, "savepoint_create", None) or transaction.savepoint


def names():
    """The read of most tests."""
    return list(Author.objects.values_list("name", flat=True))


def count():
    """Another shape."""
    return Author.objects.count()


def rename(name):
    """A write that commits, for the other connection."""
    return lambda: Author.objects.update(name=name)


def add(name):
    """Another."""
    return lambda: Author.objects.create(name=name)


def send(*statements):
    """Send statements through a cursor."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.fixture
def author():
    """A row that all of them know."""
    return Author.objects.create(name="before", age=1)


@pytest.fixture(autouse=True)
def _no_transaction_left(transactional_db):
    """What a failing test has left open must not lock the tables that the database is cleaned of."""
    let_readers_not_block_writers()
    yield
    connection.close()


class ExpectedError(Exception):
    """Ends a block."""


# Atomic blocks and savepoints.


@pytest.mark.parametrize("kept", list(itertools.product([True, False], repeat=4)), ids=str)
def test_savepoints_three_deep(kept, author, other_connection):
    """At every edge of nested blocks a read is that of the connection; others see only what is committed."""
    agreed(names)

    def level(depth):
        with suppress(ExpectedError), transaction.atomic():
            Author.objects.create(name=f"in {depth}")
            agreed(names)
            agreed(count)
            if depth < len(kept) - 1:
                level(depth + 1)
            Author.objects.filter(pk=author.pk).update(age=100 + depth)
            agreed(names)
            assert other_connection(lambda: agreed(names)) == ["before"]
            if not kept[depth]:
                raise ExpectedError
        agreed(names)
        agreed(lambda: list(Author.objects.values_list("age")))

    level(0)
    agreed_everywhere(names, other_connection)
    agreed_everywhere(count, other_connection)
    agreed_everywhere(lambda: list(Author.objects.values_list("age")), other_connection)


def test_savepoint_rollback_by_hand(author, other_connection):
    """Rows that were created and counted after a savepoint are gone with it."""
    with transaction.atomic():
        outer = savepoint_create()
        Author.objects.create(name="kept")
        inner = savepoint_create()
        Author.objects.create(name="dropped")
        assert agreed(count) == 3
        transaction.savepoint_rollback(inner)
        assert agreed(count) == 2
        transaction.savepoint_commit(outer)
        assert agreed(names) == ["before", "kept"]
        third = savepoint_create()
        Author.objects.all().delete()
        assert agreed(count) == 0
        transaction.savepoint_rollback(third)
        assert agreed(count) == 2
    assert agreed_everywhere(names, other_connection) == ["before", "kept"]


def test_savepoint_rollback_of_all_leaves_nothing():
    """Acceptance: create and count in a savepoint, roll it back, and the count is 0."""
    with transaction.atomic():
        sid = savepoint_create()
        Author.objects.create(name="dropped")
        assert agreed(count) == 1
        transaction.savepoint_rollback(sid)
        assert agreed(count) == 0
    assert agreed(count) == 0


def test_result_read_before_a_savepoint_survives_its_rollback(author, other_connection):
    """A rollback to a savepoint brings back what was written before it, not what was cached before it."""
    with transaction.atomic():
        Author.objects.create(name="kept")
        assert agreed(count) == 2
        with suppress(ExpectedError), transaction.atomic():
            Author.objects.create(name="dropped")
            assert agreed(count) == 3
            raise ExpectedError
        assert agreed(count) == 2
    assert agreed_everywhere(count, other_connection) == 2


def test_inner_block_without_savepoint_that_fails(author, other_connection):
    """Its error marks the whole transaction; Django refuses reads, cached or not, and all is rolled back."""
    agreed(names)
    with suppress(ExpectedError), transaction.atomic():
        with suppress(ExpectedError), transaction.atomic(savepoint=False):
            Author.objects.create(name="dropped")
            agreed(names)
            raise ExpectedError
        with pytest.raises(TransactionManagementError):
            names()
        assert other_connection(lambda: agreed(names)) == ["before"]
    assert agreed_everywhere(names, other_connection) == ["before"]


def test_inner_block_without_savepoint_that_succeeds(author, other_connection):
    """Its writes belong to the transaction."""
    with transaction.atomic():
        with transaction.atomic(savepoint=False):
            Author.objects.create(name="kept")
        assert agreed(count) == 2
        assert other_connection(lambda: agreed(count)) == 1
    assert agreed_everywhere(count, other_connection) == 2


def test_set_rollback(author, other_connection):
    """A transaction that was told to roll back leaves nothing, without any exception."""
    agreed(names)
    with transaction.atomic():
        Author.objects.create(name="dropped")
        assert agreed(count) == 2
        transaction.set_rollback(True)
    assert agreed_everywhere(names, other_connection) == ["before"]
    assert is_hit(names)


def test_set_rollback_that_is_taken_back(author, other_connection):
    """Told to roll back inside a savepoint, and then not to."""
    with transaction.atomic():
        sid = savepoint_create()
        with ended_by(ExpectedError), transaction.atomic(savepoint=False):
            Author.objects.create(name="dropped")
            raise ExpectedError
        transaction.set_rollback(False)
        transaction.savepoint_rollback(sid)
        assert agreed(count) == 1
        Author.objects.create(name="kept")
    assert agreed_everywhere(names, other_connection) == ["before", "kept"]


@pytest.mark.parametrize("fails", [True, False])
def test_durable_block(fails, author, other_connection):
    """A durable block is an outermost block like any other."""
    with suppress(ExpectedError), transaction.atomic(durable=True):
        Author.objects.create(name="new")
        assert agreed(count) == 2
        assert other_connection(lambda: agreed(count)) == 1
        if fails:
            raise ExpectedError
    assert agreed_everywhere(count, other_connection) == (1 if fails else 2)


def test_everything_rolled_back_leaves_what_was_cached(author):
    """A rollback is no write."""
    agreed(names)
    with suppress(ExpectedError), transaction.atomic():
        Author.objects.update(name="dropped")
        raise ExpectedError
    assert is_hit(names)
    assert agreed(names) == ["before"]


def test_own_results_are_not_given_to_others(author, other_connection):
    """Nothing that is read after the first write of a transaction is published, also of other tables."""
    book = Book.objects.create(title="before", author=author)

    def titles():
        return list(Book.objects.values_list("author__name", "title"))

    with suppress(ExpectedError), transaction.atomic():
        Author.objects.update(name="dropped")
        assert agreed(titles) == [("dropped", "before")]
        agreed(lambda: Author.objects.get(pk=book.author_id).name)
        assert other_connection(lambda: agreed(titles)) == [("before", "before")]
        raise ExpectedError
    assert agreed_everywhere(titles, other_connection) == [("before", "before")]


# Manual transactions.


@contextmanager
def manual():
    """Autocommit switched off, as for code that manages its transactions itself."""
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


def test_manual_transaction_that_rolls_back(author, other_connection):
    """What is created and counted is seen by nobody else, and by nobody after the rollback."""
    agreed(count)
    with manual():
        Author.objects.create(name="dropped")
        assert agreed(count) == 2
        assert other_connection(lambda: agreed(count)) == 1
        transaction.rollback()
        assert agreed(count) == 1
    assert agreed_everywhere(count, other_connection) == 1


def test_manual_transactions_that_commit(author, other_connection):
    """Each commit is seen by all, and the transaction after it stands on its own."""
    agreed(count)
    with manual():
        for number in range(2, 5):
            Author.objects.create(name=f"number {number}")
            assert agreed(count) == number
            assert other_connection(lambda: agreed(count)) == number - 1
            transaction.commit()
            assert agreed_everywhere(count, other_connection) == number
            transaction.commit()
        Author.objects.all().delete()
        assert agreed(count) == 0
        assert other_connection(lambda: agreed(count)) == 4
        transaction.rollback()
    assert agreed_everywhere(count, other_connection) == 4


def test_atomic_block_in_a_manual_transaction(author, other_connection):
    """With autocommit off a block is a savepoint, so its end commits nothing."""
    agreed(count)
    with manual():
        with transaction.atomic():
            Author.objects.create(name="kept")
        with suppress(ExpectedError), transaction.atomic():
            Author.objects.create(name="dropped")
            assert agreed(count) == 3
            raise ExpectedError
        assert agreed(count) == 2
        # Python's sqlite3 begins no transaction before a SAVEPOINT, so the end of the block commits there.
        assert other_connection(lambda: agreed(count)) == (2 if connection.vendor == "sqlite" else 1)
        transaction.commit()
    assert agreed_everywhere(names, other_connection) == ["before", "kept"]


@pytest.mark.databases("sqlite", "mysql")
def test_autocommit_switched_on_commits_what_is_open(author, other_connection):
    """SQLite and MySQL commit by themselves then."""
    agreed(count)
    transaction.set_autocommit(False)
    try:
        Author.objects.create(name="kept")
        assert other_connection(lambda: agreed(count)) == 1
    finally:
        transaction.set_autocommit(True)
    assert agreed_everywhere(count, other_connection) == 2


# Transactions through a cursor.


@pytest.mark.parametrize("begin", ["BEGIN", "START TRANSACTION", "  begin ;", "/* x */ BEGIN"])
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK", "commit;"])
def test_transaction_sent_through_a_cursor(begin, end, author, other_connection):
    """The ORM of this connection works inside a transaction that Django does not know of."""
    if connection.vendor == "sqlite" and "START" in begin:
        pytest.skip("SQLite knows no START TRANSACTION")
    agreed(count)
    send(begin)
    try:
        Author.objects.create(name="new")
        assert agreed(count) == 2
        assert other_connection(lambda: agreed(count)) == 1
    finally:
        send(end)
    expected = 2 if "commit" in end.lower() else 1
    assert agreed_everywhere(count, other_connection) == expected
    assert is_hit(count)
    add("in autocommit again")()
    assert agreed_everywhere(count, other_connection) == expected + 1


def test_savepoints_sent_through_a_cursor(author, other_connection):
    """SAVEPOINT, ROLLBACK TO and RELEASE mean what they say, also with names in quotes and other cases."""
    agreed(count)
    send("BEGIN", "SAVEPOINT one")
    add("in one")()
    assert agreed(count) == 2
    send("SAVEPOINT two")
    add("in two")()
    assert agreed(count) == 3
    send("ROLLBACK TO SAVEPOINT TWO")
    assert agreed(count) == 2
    add("in two again")()
    assert agreed(count) == 3
    send("RELEASE SAVEPOINT two")
    assert agreed(count) == 3
    send("SAVEPOINT three")
    add("in three")()
    assert agreed(count) == 4
    send("ROLLBACK TO three")
    assert agreed(count) == 3
    send("RELEASE SAVEPOINT three", "ROLLBACK TO SAVEPOINT one")
    assert agreed(count) == 1
    add("after all")()
    agreed(count)
    assert other_connection(lambda: agreed(count)) == 1
    send("COMMIT")
    agreed_everywhere(names, other_connection)


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("end", ["RELEASE outer_one", "ROLLBACK TO outer_one; RELEASE outer_one", "COMMIT"])
def test_savepoint_outside_of_a_transaction(end, author, other_connection):
    """In SQLite a SAVEPOINT alone begins a transaction, and its RELEASE commits it."""
    agreed(count)
    send("SAVEPOINT outer_one")
    add("in the savepoint")()
    assert agreed(count) == 2
    assert other_connection(lambda: agreed(count)) == 1
    send("SAVEPOINT inner_one", "RELEASE inner_one")
    assert other_connection(lambda: agreed(count)) == 1
    send(*end.split(";"))
    assert agreed_everywhere(count, other_connection) == (1 if "ROLLBACK" in end else 2)


@pytest.mark.databases("postgresql", "sqlite")
def test_savepoints_of_one_name(author, other_connection):
    """The newer of two savepoints hides the older one, until it is released; in MySQL it replaces it."""
    send("BEGIN", "SAVEPOINT one")
    add("in one")()
    send("SAVEPOINT one")
    add("in the second one")()
    assert agreed(count) == 3
    send("ROLLBACK TO one")
    assert agreed(count) == 2
    send("RELEASE SAVEPOINT one", "ROLLBACK TO SAVEPOINT one")
    assert agreed(count) == 1
    send("COMMIT")
    assert agreed_everywhere(names, other_connection) == ["before"]


@pytest.mark.databases("mysql")
def test_savepoint_whose_name_is_used_again(author, other_connection):
    """In MySQL the newer of two savepoints takes the place of the older one."""
    send("BEGIN", "SAVEPOINT one")
    add("in one")()
    send("SAVEPOINT one")
    add("in the second one")()
    send("ROLLBACK TO one")
    assert agreed(count) == 2
    send("RELEASE SAVEPOINT one")
    assert agreed(count) == 2
    assert other_connection(lambda: agreed(count)) == 1
    send("COMMIT")
    assert agreed_everywhere(names, other_connection) == ["before", "in one"]


def test_savepoints_sent_through_a_cursor_of_an_atomic_block(author, other_connection):
    """Savepoints by hand and those of Django stand in one stack."""
    with transaction.atomic():
        add("kept")()
        send("SAVEPOINT mine")
        with transaction.atomic():
            add("dropped")()
            assert agreed(count) == 3
        send("ROLLBACK TO SAVEPOINT mine")
        assert agreed(count) == 2
    assert agreed_everywhere(names, other_connection) == ["before", "kept"]


@pytest.mark.databases("mysql")
@pytest.mark.parametrize("statement", ["BEGIN", "SET autocommit = 1", "CREATE TABLE races_ddl (x int)"])
def test_statement_that_commits_by_itself(statement, author, other_connection):
    """MySQL ends an open transaction before such a statement."""
    agreed(count)
    send("SET autocommit = 0") if "autocommit" in statement else send("BEGIN")
    try:
        add("kept")()
        assert other_connection(lambda: agreed(count)) == 1
        send(statement)
        assert other_connection(lambda: agreed(count)) == 2
        agreed(count)
    finally:
        send("ROLLBACK", "SET autocommit = 1", "DROP TABLE IF EXISTS races_ddl")
    assert agreed_everywhere(count, other_connection) == 2


# What a transaction sees of others under READ COMMITTED.


@READ_COMMITTED
def test_commits_of_others_are_seen_by_a_transaction_that_wrote(author, other_connection):
    """Under READ COMMITTED a transaction's own result ends with a commit of another to the same table."""
    with transaction.atomic():
        mine = Author.objects.create(name="mine")
        assert agreed(names) == ["before", "mine"]
        other_connection(lambda: Author.objects.filter(pk=author.pk).update(name="theirs"))
        assert names() == ["theirs", "mine"]
        assert agreed(names) == ["theirs", "mine"]
        other_connection(lambda: Author.objects.filter(pk=author.pk).delete())
        assert names() == ["mine"]
        mine.delete()
        assert agreed(names) == []
    assert agreed_everywhere(names, other_connection) == []


@READ_COMMITTED
def test_commits_of_others_are_seen_by_a_transaction_that_only_reads(author, other_connection):
    """Under READ COMMITTED there is no snapshot to keep."""
    with transaction.atomic():
        assert agreed(names) == ["before"]
        other_connection(rename("after"))
        assert agreed(names) == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]


@READ_COMMITTED
def test_own_result_repeats_without_the_database(author, queries):
    """Inside a transaction that wrote, a read that repeats is not sent again while nobody commits."""
    with transaction.atomic():
        add("mine")()
        names()
        with queries() as sent:
            assert names() == ["before", "mine"]
        assert not sent.sql
        add("mine too")()
        assert agreed(names) == ["before", "mine", "mine too"]


@READ_COMMITTED
@pytest.mark.parametrize("written", [Tag, Author], ids=["another table", "another row"])
def test_result_that_the_writes_leave_alone_repeats_without_the_database(
    written, author, other_connection, queries
):
    """What a transaction reads beside its own writes repeats until it or somebody else changes that, too."""

    def name():
        return Author.objects.get(pk=author.pk).name

    def renamed(name):
        return lambda: Author.objects.filter(pk=author.pk).update(name=name)

    with transaction.atomic():
        written.objects.create(name="mine")
        assert agreed(name) == "before"
        with queries() as sent:
            assert name() == "before"
        assert not sent.sql
        other_connection(renamed("theirs"))
        assert agreed(name) == "theirs"
        with transaction.atomic():
            renamed("mine")()
            assert agreed(name) == "mine"
            transaction.set_rollback(True)
        assert agreed(name) == "theirs"
        renamed("mine too")()
        assert agreed(name) == "mine too"
    assert agreed_everywhere(name, other_connection) == "mine too"


META = {"list": [1, [2]], "text": "x"}


@pytest.mark.parametrize("inside", [True, False], ids=["own results", "shared results"])
def test_caller_changes_what_it_got(inside, author):
    """Rows, lists, dictionaries, JSON values and bytes belong to the caller; the next one gets its own."""
    Book.objects.create(title="x", author=author, meta=META, payload=b"\x00\x01")
    books = Book.objects.order_by("pk")

    def check():
        for _ in range(3):
            rows = list(books.values("meta", "title"))
            assert rows == [{"meta": META, "title": "x"}]
            rows[0]["meta"]["list"][1].append(3)
            rows[0]["title"] = "y"
            rows.clear()
            lists = list(books.values_list("meta", flat=True))
            assert lists == [META]
            lists[0]["list"].clear()
            del lists[0]
            book = books.get()
            assert (book.meta, bytes(book.payload)) == (META, b"\x00\x01")
            book.meta["list"].append("mine")
            book.meta["more"] = True
            if isinstance(book.payload, bytearray):
                book.payload[0] = 9
            assert Book.objects.aggregate(n=Sum("pages")).pop("n") == 0

    if not inside:
        check()
        return
    with transaction.atomic():
        Book.objects.update(pages=0)
        check()


@pytest.mark.databases("postgresql")
def test_caller_changes_an_array(author):
    """A list that the driver itself makes is not shared either."""
    from django.contrib.postgres.aggregates import ArrayAgg

    def array():
        return Author.objects.aggregate(names=ArrayAgg("name"))["names"]

    for _ in range(3):
        got = array()
        assert got == ["before"]
        got.append("mine")


# Snapshots.


@contextmanager
def reconnected(**options):
    """Connections of all threads that open while this lasts have other options."""
    settings = connections.settings["default"]
    before = settings.get("OPTIONS", {})
    connection.close()
    settings["OPTIONS"] = {**before, **options}
    try:
        yield
    finally:
        connection.close()
        settings["OPTIONS"] = before


def postgresql_level(name):
    """The driver's own constant."""
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return getattr(IsolationLevel, name)


@contextmanager
def by_options(level):
    """The isolation level of every connection, as projects configure it."""
    if connection.vendor == "postgresql":
        level = postgresql_level(level.upper().replace(" ", "_"))
    with reconnected(isolation_level=level), transaction.atomic():
        yield


@contextmanager
def by_set_transaction(level):
    """The isolation level of one transaction, by a statement."""
    with transaction.atomic():
        send(f"SET TRANSACTION ISOLATION LEVEL {level}")
        yield


@contextmanager
def by_set_session(level):
    """The isolation level of one session, by a statement before the transaction."""
    set_session = "SET SESSION CHARACTERISTICS AS" if connection.vendor == "postgresql" else "SET SESSION"
    send(f"{set_session} TRANSACTION ISOLATION LEVEL {level}")
    try:
        with transaction.atomic():
            yield
    finally:
        connection.close()


@contextmanager
def by_begin(level):
    """The isolation level in the BEGIN that a cursor sends."""
    send(f"BEGIN ISOLATION LEVEL {level}")
    try:
        yield
    except BaseException:
        send("ROLLBACK")
        raise
    send("COMMIT")


@contextmanager
def by_default(_level):
    """Every transaction of SQLite."""
    with transaction.atomic():
        yield


@contextmanager
def by_plain_begin(_level):
    """The same, through a cursor."""
    send("BEGIN")
    try:
        yield
    finally:
        send("ROLLBACK")


@contextmanager
def by_session_variable(level):
    """The isolation level of one session, as a variable of it."""
    if connection.vendor == "postgresql":
        send(f"SET default_transaction_isolation TO '{level.lower()}'")
    else:
        send(f"SET SESSION tx_isolation = '{level.replace(' ', '-')}'")
    try:
        with transaction.atomic():
            yield
    finally:
        connection.close()


@contextmanager
def by_set_config(level):
    """The same, by a function of PostgreSQL."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('default_transaction_isolation', %s, false)", [level.lower()])
    try:
        with transaction.atomic():
            yield
    finally:
        connection.close()


@contextmanager
def by_transaction_variable(level):
    """The isolation level of one transaction, as a variable of it."""
    with transaction.atomic():
        send(f"SET LOCAL transaction_isolation = '{level.lower()}'")
        yield


@contextmanager
def by_database(level):
    """The isolation level that the database has for all who connect."""
    name = connection.ops.quote_name(connection.settings_dict["NAME"])
    send(f"ALTER DATABASE {name} SET default_transaction_isolation TO '{level.lower()}'")
    connection.close()
    try:
        with transaction.atomic():
            yield
    finally:
        connection.close()
        send(f"ALTER DATABASE {name} RESET default_transaction_isolation")
        connection.close()


@contextmanager
def by_driver_options(level):
    """The isolation level in what the driver sends when it connects."""
    if connection.vendor == "postgresql":
        options = {"options": f"-c default_transaction_isolation={level.lower().replace(' ', chr(92) + ' ')}"}
    else:
        options = {
            "init_command": f"SET SESSION TRANSACTION ISOLATION LEVEL {level}",
            "isolation_level": None,
        }
    with reconnected(**options), transaction.atomic():
        yield


@contextmanager
def by_start_transaction(level):
    """The isolation level in the other word for BEGIN, among other modes."""
    send(f"START TRANSACTION READ WRITE, ISOLATION LEVEL {level}, NOT DEFERRABLE")
    try:
        yield
    except BaseException:
        send("ROLLBACK")
        raise
    send("COMMIT")


WAYS = {
    by_options: ("postgresql", "mysql"),
    by_set_transaction: ("postgresql",),
    by_set_session: ("postgresql", "mysql"),
    by_begin: ("postgresql",),
    by_start_transaction: ("postgresql",),
    by_session_variable: ("postgresql", "mysql"),
    by_transaction_variable: ("postgresql",),
    by_set_config: ("postgresql",),
    by_database: ("postgresql",),
    by_driver_options: ("postgresql", "mysql"),
    by_default: ("sqlite",),
    by_plain_begin: ("sqlite",),
}
#: In MySQL readers of a serializable transaction lock, and in SQLite there is but one level.
SNAPSHOTS = [
    (way, level)
    for way, vendors in WAYS.items()
    for level in ("REPEATABLE READ", "SERIALIZABLE")
    if connection.vendor in vendors and (level == "REPEATABLE READ" or connection.vendor == "postgresql")
]


@pytest.fixture(params=SNAPSHOTS, ids=lambda param: f"{param[0].__name__}-{param[1]}")
def snapshot(request):
    """A context manager for a transaction that sees the state of its first statement."""
    way, level = request.param
    return lambda: way(level)


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_snapshot_reader_sees_its_snapshot(warm, snapshot, author, other_connection):
    """All reads of a transaction with a snapshot see the state of the first, whatever others commit."""
    Tag.objects.create(name="first")
    with snapshot():
        if warm:
            other_connection(names)
        assert Tag.objects.count() == 1
        other_connection(rename("after"))
        other_connection(names)
        for _ in range(3):
            assert names() == ["before"]
            assert truth(names) == ["before"]
        assert count() == 1
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("emptied", [True, False])
def test_snapshot_reader_does_not_poison_the_cache(emptied, snapshot, author, other_connection):
    """What is read from an old snapshot is never served to those who come later."""
    with snapshot():
        assert Tag.objects.count() == 0
        other_connection(rename("after"))
        if emptied:
            evict(*keys_of(names))
        assert names() == ["before"]
        assert other_connection(lambda: agreed(names)) == ["after"]
        assert names() == ["before"]
    assert agreed_everywhere(names, other_connection) == ["after"]


@pytest.mark.parametrize("write", ["insert", "update", "delete"])
def test_snapshot_reader_while_a_commit_is_in_flight(write, snapshot, author, other_connection):
    """A snapshot taken between MARK and COMMIT outlives the DONE, and what it reads is old by then."""

    def change():
        if write == "insert":
            add("after")()
        elif write == "update":
            rename("after")()
        else:
            Author.objects.all().delete()

    with snapshot():
        main_reads = threading.Event()
        reached = threading.Event()

        def wait():
            reached.set()
            assert main_reads.wait(30)

        def commit():
            with during_commit("between MARK and COMMIT", wait):
                change()

        future = other_connection.start(commit)
        try:
            assert reached.wait(30)
            assert names() == ["before"]
        finally:
            main_reads.set()
            future.result(30)
        for _ in range(2):
            assert names() == ["before"]
            assert truth(names) == ["before"]
    assert agreed_everywhere(names, other_connection) != ["before"]


def test_snapshot_reader_after_the_lease_of_a_dead_writer(snapshot, author, other_connection):
    """A commit that was never told, and whose mark has ended, is not mixed into a snapshot of before."""

    def change_and_die():
        with mock.patch.object(Guard, "_finish", return_value=None):
            rename("after")()

    agreed(names)
    tags = [key for key in keys_of(names) if ":v:" in key]
    with snapshot():
        assert Tag.objects.count() == 0
        other_connection(change_and_die)
        evict(*tags)
        assert other_connection(lambda: agreed(names)) == ["after"]
        assert names() == ["before"]
        evict(*keys_of(names))
        assert names() == ["before"]
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_first_reader_after_the_lease_of_a_dead_writer_has_a_snapshot(snapshot, author, other_connection):
    """It stores nothing under the tokens it draws, for they are younger than what it sees."""

    def change_and_die():
        with mock.patch.object(Guard, "_finish", return_value=None):
            rename("after")()

    agreed(names)
    tags = [key for key in keys_of(names) if ":v:" in key]
    with snapshot():
        assert Tag.objects.count() == 0
        other_connection(change_and_die)
        evict(*tags)
        assert names() == ["before"]
        assert other_connection(lambda: agreed(names)) == ["after"]
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_snapshot_reader_sees_its_own_writes(snapshot, author, other_connection):
    """Own writes are part of what a snapshot sees."""
    with suppress(ExpectedError), snapshot():
        assert names() == ["before"]
        add("mine")()
        for _ in range(2):
            assert names() == ["before", "mine"]
        assert other_connection(lambda: agreed(names)) == ["before"]
        raise ExpectedError
    agreed_everywhere(names, other_connection)


def test_snapshot_ends_with_its_transaction(snapshot, author, other_connection):
    """The next transaction has a snapshot of its own."""
    with snapshot():
        assert names() == ["before"]
    other_connection(rename("after"))
    with snapshot():
        assert names() == ["after"]
        other_connection(rename("later"))
        assert names() == ["after"]
    assert agreed_everywhere(names, other_connection) == ["later"]


def outcome(call):
    """What a call ended with, as the class of the error."""
    try:
        return call()
    except DatabaseError as error:
        return type(error)


@pytest.mark.parametrize("cached", [False, True], ids=["uncached", "cached"])
def test_snapshot_keeps_its_write_conflict(cached, snapshot, author, other_connection):
    """A read-modify-write whose row another has changed in between fails, also if the read was a hit."""
    if connection.vendor == "mysql":
        pytest.skip("MariaDB finds no such conflict by default")

    def grow():
        with snapshot():
            if cached:
                other_connection(lambda: [Author.objects.get(pk=author.pk) for _ in range(2)])
                mine = Author.objects.get(pk=author.pk)
            else:
                mine = truth(lambda: Author.objects.get(pk=author.pk))
            other_connection(lambda: Author.objects.update(age=50))
            mine.age += 1
            mine.save()
        return "no conflict"

    assert outcome(grow) is OperationalError
    assert agreed_everywhere(lambda: Author.objects.get().age, other_connection) == 50


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("how", [by_options, by_set_transaction, by_set_session, by_begin])
def test_serializable_transaction_keeps_its_conflicts(how, author, other_connection):
    """Two transactions that each read what the other writes cannot both commit, warm cache or not."""
    second = Author.objects.create(name="second", age=1)

    def total():
        return Author.objects.aggregate(n=Sum("age"))["n"]

    def theirs():
        with by_set_transaction("SERIALIZABLE"):
            assert total() == 2
            Author.objects.filter(pk=second.pk).update(age=0)

    def both():
        with how("SERIALIZABLE"):
            other_connection(lambda: agreed(total))
            assert total() == 2
            other_connection(theirs)
            Author.objects.filter(pk=author.pk).update(age=0)

    assert outcome(both) is OperationalError
    assert agreed_everywhere(total, other_connection) == 1


@pytest.mark.databases("postgresql")
def test_read_only_serializable_transaction_does_not_hide_an_anomaly(author, other_connection):
    """Every read of a serializable transaction reaches the database, which must know of it."""
    with by_set_transaction("SERIALIZABLE"):
        agreed(names)
        assert not is_hit(lambda: Author.objects.filter(name="before").count())


def test_snapshot_shares_the_cache_while_nothing_changes(author, other_connection):
    """A transaction is served from the cache once its first statement has pinned its snapshot."""
    way = {"postgresql": by_set_transaction, "mysql": by_set_session, "sqlite": by_default}[connection.vendor]
    if connection.vendor == "mysql":
        pytest.skip("the name of the level is part of the key there")
    agreed(names)
    agreed(Tag.objects.count)
    with way("REPEATABLE READ"):
        assert Tag.objects.count() == 0
        hit = is_hit(names)
        other_connection(lambda: Tag.objects.create(name="new"))
        assert Tag.objects.count() == 0
        assert names() == ["before"]
    assert hit
    assert agreed_everywhere(Tag.objects.count, other_connection) == 1


# Errors.


def test_integrity_error_in_autocommit(author, other_connection):
    """A statement that failed has changed nothing, and the table is not left dark."""
    Tag.objects.create(name="x")
    read = lambda: list(Tag.objects.values_list("name", flat=True))  # noqa: E731
    agreed(read)
    with pytest.raises(IntegrityError):
        Tag.objects.create(name="x")
    assert agreed_everywhere(read, other_connection) == ["x"]
    assert is_hit(read)


def test_integrity_error_in_a_transaction(author, other_connection):
    """Inside a savepoint it takes back only the savepoint; without one, everything."""
    Tag.objects.create(name="x")
    read = lambda: list(Tag.objects.values_list("name", flat=True))  # noqa: E731
    with transaction.atomic():
        Tag.objects.create(name="kept")
        with ended_by(IntegrityError), transaction.atomic():
            Tag.objects.create(name="dropped")
            agreed(read)
            Tag.objects.create(name="x")
        assert agreed(read) == ["x", "kept"]
    assert agreed_everywhere(read, other_connection) == ["x", "kept"]
    with ended_by(IntegrityError), transaction.atomic():
        Tag.objects.create(name="dropped")
        agreed(read)
        Tag.objects.create(name="x")
    assert agreed_everywhere(read, other_connection) == ["x", "kept"]


@READ_COMMITTED
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_get_or_create_under_contention(warm, other_connection):
    """When another inserts the same key between the SELECT and the INSERT, its row is got."""
    if warm:
        agreed(lambda: list(Tag.objects.filter(name="x")))
    with transaction.atomic():
        if warm:
            with pytest.raises(ObjectDoesNotExist):
                Tag.objects.get(name="x")
        with at_statement("INSERT", lambda: other_connection(lambda: Tag.objects.create(name="x"))):
            tag, created = Tag.objects.get_or_create(name="x")
        assert (tag.name, created) == ("x", False)
        assert agreed(lambda: Tag.objects.get(name="x")) == tag
    assert agreed_everywhere(lambda: Tag.objects.filter(name="x").count(), other_connection) == 1


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
def test_get_or_create_in_autocommit_under_contention(warm, other_connection):
    """The same without a transaction around it."""
    if warm:
        agreed(lambda: list(Tag.objects.filter(name="x")))

    def insert():
        other_connection(lambda: Tag.objects.create(name="x"))

    # Django wraps the creation in a block, and SQLite begins it before the INSERT, without a lock.
    with at_statement("INSERT", insert):
        tag, created = Tag.objects.get_or_create(name="x")
    assert (tag.name, created) == ("x", False)
    assert agreed_everywhere(lambda: Tag.objects.filter(name="x").count(), other_connection) == 1


@READ_COMMITTED
def test_select_for_update_always_reaches_the_database(author, queries):
    """A lock cannot come from a cache, nor can what it protects."""
    for _ in range(2):
        with transaction.atomic(), queries() as sent:
            assert list(Author.objects.select_for_update()) == [author]
        assert len(sent.sql) == 1


class NotReachedError(OperationalError):
    """The database cannot be reached."""


@pytest.mark.parametrize("failing", ["connect", "begin"])
def test_begin_that_fails(failing, author, other_connection):
    """A block that could not be entered leaves nothing on the thread: later writes are seen by all."""
    agreed(names)
    name = "_start_transaction_under_autocommit" if connection.vendor == "sqlite" else "_set_autocommit"
    if failing == "connect":
        connection.close()
        name = "get_new_connection"
    with (
        mock.patch.object(connection, name, side_effect=NotReachedError),
        pytest.raises(NotReachedError),
        transaction.atomic(),
    ):
        pytest.fail("it was entered")
    connection.close()
    session = connection._cachalot_session
    assert session.transaction() is None
    agreed(names)
    rename("after")()
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert other_connection(lambda: is_hit(names))


@pytest.mark.databases("postgresql", "sqlite")
def test_commit_that_violates_a_deferred_constraint(author, other_connection):
    """A failed commit has changed nothing; later writes in the thread are seen by all."""
    agreed(names)
    with ended_by(IntegrityError), transaction.atomic():
        Author.objects.update(name="dropped")
        Book.objects.create(title="x", author_id=author.pk + 1000)
        assert agreed(names) == ["dropped"]
    assert agreed_everywhere(names, other_connection) == ["before"]
    assert agreed_everywhere(Book.objects.count, other_connection) == 0
    rename("after")()
    assert agreed_everywhere(names, other_connection) == ["after"]
    assert is_hit(names)


@pytest.mark.databases("postgresql", "sqlite")
def test_manual_commit_that_violates_a_deferred_constraint(author, other_connection):
    """The same where no block rolls back; what PostgreSQL has rolled back SQLite still has."""
    agreed(names)
    with manual():
        Author.objects.update(name="dropped")
        Book.objects.create(title="x", author_id=author.pk + 1000)
        with pytest.raises(IntegrityError):
            transaction.commit()
        assert other_connection(lambda: agreed(names)) == ["before"]
        agreed(names)
        transaction.rollback()
        assert agreed(names) == ["before"]
    assert agreed_everywhere(names, other_connection) == ["before"]


def server_id():
    """What the server calls this connection."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_backend_pid()" if connection.vendor == "postgresql" else "SELECT CONNECTION_ID()"
        )
        return cursor.fetchone()[0]


def kill(number):
    """Have the server end a connection, and wait until it is gone."""
    with connection.cursor() as cursor:
        if connection.vendor == "mysql":
            cursor.execute(f"KILL HARD CONNECTION {number}")
            return
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [number])


@READ_COMMITTED
def test_connection_killed_in_a_transaction(author, other_connection):
    """What was written is gone; the thread goes on with a new connection and writes are seen by all."""
    agreed(names)
    with ended_by(DatabaseError), transaction.atomic():
        number = server_id()
        rename("dropped")()
        assert agreed(names) == ["dropped"]
        other_connection(lambda: kill(number))
        Author.objects.update(name="too late")
    connection.close()
    assert agreed_everywhere(names, other_connection) == ["before"]
    rename("after")()
    assert agreed_everywhere(names, other_connection) == ["after"]


@READ_COMMITTED
def test_connection_killed_in_autocommit(author, other_connection):
    """The thread goes on with a new connection, without anything of the old one."""
    agreed(names)
    number = server_id()
    other_connection(lambda: kill(number))
    with pytest.raises(DatabaseError):
        rename("after")()
    connection.close_if_unusable_or_obsolete()
    connection.close()
    assert agreed_everywhere(names, other_connection) == ["before"]
    rename("after")()
    assert agreed_everywhere(names, other_connection) == ["after"]


@READ_COMMITTED
@pytest.mark.parametrize("committed", [True, False])
def test_connection_lost_in_the_commit(committed, author, other_connection):
    """Nobody knows whether it was committed: the marks stay until the lease ends; nothing old is served."""
    agreed(names)
    if connection.settings_dict["ENGINE"].endswith("postgresql") and "psycopg2" in str(
        type(connection.connection)
    ):
        pytest.skip("the commit of psycopg2 cannot be replaced")

    def lost():
        driver = connection.connection
        number = server_id()
        if committed:
            type(driver).commit(driver)
        other_connection(lambda: kill(number))
        driver.close()
        raise connection.Database.OperationalError("the connection was lost")

    with ended_by(DatabaseError), transaction.atomic():
        rename("after")()
        with_lost = mock.patch.object(connection.connection, "commit", lost)
        with_lost.start()
    connection.close()
    expected = ["after"] if committed else ["before"]
    assert other_connection(lambda: (agreed(names), reasons(names))) == (expected, [Reason.DARK])
    assert agreed(names) == expected
    evict(*keys_of(names)[1:])
    assert agreed_everywhere(names, other_connection) == expected
    assert is_hit(names)
    rename("at last")()
    assert agreed_everywhere(names, other_connection) == ["at last"]


def test_connection_closed_in_a_transaction(author, other_connection):
    """What was written is rolled back by the server, and the next transaction begins with nothing."""
    agreed(names)
    with suppress(DatabaseError), transaction.atomic():
        rename("dropped")()
        connection.close()
    assert agreed_everywhere(names, other_connection) == ["before"]
    with transaction.atomic():
        assert agreed(names) == ["before"]
        rename("after")()
    assert agreed_everywhere(names, other_connection) == ["after"]


# Other ways to the same database.


def test_write_through_a_copied_connection(author, other_connection):
    """A connection that was copied writes to the same tables."""
    agreed(names)
    copied = connection.copy()
    try:
        with copied.cursor() as cursor:
            cursor.execute("UPDATE testapp_author SET name = 'after'")
    finally:
        copied.close()
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_orm_on_a_copied_connection(author, other_connection):
    """A copied connection may be given an alias of its own, and is used by the ORM then."""
    agreed(names)
    connections["copied"] = connection.copy("copied")
    try:
        read = lambda: list(Author.objects.using("copied").values_list("name", flat=True))  # noqa: E731
        assert agreed(read) == ["before"]
        Author.objects.using("copied").update(name="after")
        assert agreed(names) == agreed(read) == ["after"]
        with transaction.atomic(using="copied"):
            Author.objects.using("copied").update(name="later")
            assert agreed(read) == ["later"]
            assert agreed(names) == ["after"]
    finally:
        connections["copied"].close()
        del connections["copied"]
    assert agreed_everywhere(names, other_connection) == ["later"]


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_prepared_transaction(end, author, other_connection):
    """What was prepared in one connection is committed in another, which does not know what was written."""
    agreed(names)
    send("BEGIN")
    rename("after")()
    assert agreed(names) == ["after"]
    send("PREPARE TRANSACTION 'races'")
    assert agreed_everywhere(names, other_connection) == ["before"]
    other_connection(lambda: send(f"{end} PREPARED 'races'"))
    assert agreed_everywhere(names, other_connection) == (["after"] if end == "COMMIT" else ["before"])


@pytest.mark.databases("mysql")
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_distributed_transaction(end, author, other_connection):
    """The same in the words of MySQL."""
    agreed(names)
    send("XA START 'races'")
    try:
        rename("after")()
        agreed(names)
        assert other_connection(lambda: agreed(names)) == ["before"]
        send("XA END 'races'", "XA PREPARE 'races'")
        assert other_connection(lambda: agreed(names)) == ["before"]
    finally:
        send(f"XA {end} 'races'")
    assert agreed_everywhere(names, other_connection) == (["after"] if end == "COMMIT" else ["before"])


# What follows the commit.


def test_on_commit_hook_comes_after_done(author, other_connection):
    """A task that an on_commit hook starts reads the new rows, and so does the hook."""
    agreed(names)
    seen = []
    with transaction.atomic():
        transaction.on_commit(lambda: seen.append(agreed_everywhere(names, other_connection)))
        rename("after")()
        assert other_connection(lambda: agreed(names)) == ["before"]
    assert seen == [["after"]]
    assert other_connection(lambda: is_hit(names))


def test_on_commit_hook_of_a_block_in_a_manual_transaction(author, other_connection):
    """Django runs it when autocommit is switched on again; what was committed is seen by then."""
    agreed(names)
    seen = []
    transaction.set_autocommit(False)
    try:
        with transaction.atomic():
            rename("after")()
            transaction.on_commit(lambda: seen.append(other_connection(lambda: agreed(names))))
        other_connection(lambda: agreed(names))
        transaction.commit()
        assert other_connection(lambda: agreed(names)) == ["after"]
    finally:
        transaction.set_autocommit(True)
    assert seen == [["after"]]
    assert agreed_everywhere(names, other_connection) == ["after"]


def test_on_commit_hook_that_writes(author, other_connection):
    """A write of a hook is a write of its own."""
    with transaction.atomic():
        transaction.on_commit(rename("from the hook"))
        rename("after")()
        agreed(names)
    assert agreed_everywhere(names, other_connection) == ["from the hook"]


def test_many_saves_in_one_transaction_are_one_mark_and_one_done(author):
    """However many writes a transaction holds, the cache is told twice."""
    with recorded_steps() as steps, transaction.atomic():
        for age in range(200):
            author.age = age
            author.save()
    kinds = [kind_of(step) for step in steps]
    assert [kind for kind in kinds if kind in {"MARK", "DONE"}] == ["MARK", "DONE"]
    assert agreed(lambda: Author.objects.get().age) == 199


def test_what_hangs_on_a_connection_does_not_refer_back_to_it():
    """A connection that nobody holds is gone as soon as it would be without cachalot."""

    def holders(*, attached):
        # Not opened: every connection is attached to when it is.
        made = type(connections["default"])(connection.settings_dict, "default")
        if attached:
            attach(made)
        return len(gc.get_referrers(made))

    assert holders(attached=True) == holders(attached=False)
