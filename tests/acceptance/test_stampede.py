"""Many threads miss one query at the same moment: the database runs it once, and nobody gets old rows."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections, transaction
from django.test import override_settings

from cachalot.engine import stampede
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(transaction=True)

THREADS = 6


def names():
    """The query."""
    return list(Author.objects.order_by("pk").values_list("name", flat=True))


class Crowd:
    """Threads that run the query, of which the first is held at the database.

    :ivar executions: how often the database has run it.
    """

    def __init__(self, monkeypatch):
        self.executions = 0
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self._held = threading.Event()
        self._waiting = threading.Semaphore(0)
        self._threads = ThreadPoolExecutor(THREADS)
        original = stampede.Turn.wait

        def wait(turn):
            self._waiting.release()
            return original(turn)

        monkeypatch.setattr(stampede.Turn, "wait", wait)

    def read(self, read=names):
        """Run the query in a thread of its own."""
        return self._threads.submit(self._read, read)

    def _read(self, read):
        def held(execute, sql, params, many, context):
            with self._lock:
                self.executions += 1
                first = self.executions == 1
            if first:
                self._held.set()
                assert self._go_on.wait(30)
            return execute(sql, params, many, context)

        try:
            connection.ensure_connection()
            with connection.execute_wrapper(held):
                return read()
        finally:
            connections.close_all()

    def held(self):
        """Wait until the first is at the database."""
        assert self._held.wait(30)

    def waited_for(self, number):
        """Wait until some threads wait for the first."""
        for _ in range(number):
            assert self._waiting.acquire(timeout=30)

    def go_on(self):
        """Let the first go on."""
        self._go_on.set()

    def close(self):
        """End the threads."""
        self.go_on()
        self._threads.shutdown()


@pytest.fixture
def crowd(monkeypatch):
    """The threads."""
    made = Crowd(monkeypatch)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _author(transactional_db):
    Author.objects.create(name="before", age=1)


def test_simultaneous_misses_are_one_execution(crowd):
    """One thread runs the query, and all have its rows."""
    first = crowd.read()
    crowd.held()
    others = [crowd.read() for _ in range(THREADS - 1)]
    crowd.waited_for(THREADS - 1)
    crowd.go_on()
    assert [one.result(30) for one in (first, *others)] == [["before"]] * THREADS
    assert crowd.executions == 1


def test_write_while_others_wait(crowd, uncached):
    """Rows from before a write are not handed to a thread that came after it."""
    first = crowd.read()
    crowd.held()
    Author.objects.update(name="after")
    other = crowd.read()
    crowd.waited_for(1)
    crowd.go_on()
    first.result(30)
    assert other.result(30) == uncached(names) == ["after"]


def test_result_that_is_not_kept_is_not_waited_for_again(crowd):
    """Rows that are too many for an entry: all run the query at once, not one after the other."""
    with override_settings(CACHALOT_MAX_ROWS=0):
        first = crowd.read()
        crowd.held()
        others = [crowd.read() for _ in range(THREADS - 1)]
        crowd.waited_for(THREADS - 1)
        crowd.go_on()
        assert [one.result(30) for one in (first, *others)] == [["before"]] * THREADS
    assert crowd.executions == THREADS


def test_transaction_never_waits(crowd):
    """The first could be waiting for a lock that the transaction has."""

    def inside():
        with transaction.atomic():
            return names()

    first = crowd.read()
    crowd.held()
    assert crowd.read(inside).result(30) == ["before"]
    crowd.go_on()
    first.result(30)


def test_error_of_the_first(crowd, monkeypatch):
    """The query of the first fails; the others run it themselves."""

    def failing():
        def fail(execute, sql, params, many, context):
            execute(sql, params, many, context)
            raise ZeroDivisionError

        with connection.execute_wrapper(fail):
            return names()

    first = crowd.read(failing)
    crowd.held()
    other = crowd.read()
    crowd.waited_for(1)
    crowd.go_on()
    with pytest.raises(ZeroDivisionError):
        first.result(30)
    assert other.result(30) == ["before"]
