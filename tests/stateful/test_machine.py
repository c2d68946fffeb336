"""Random reads and writes of many shapes: what the cache answers is what the database answers."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest
from django.core.cache import caches
from django.core.management.color import no_style
from django.db import DatabaseError, connection, transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cachalot import testing
from cachalot.api import cachalot_disabled, cachalot_refreshing, invalidate, invalidation_deferred, stats
from tests.stateful.shapes import READS, WRITES, plain
from tests.testapp.models import AUTHOR_STATS_VIEW, Author, Book, Bookmark, Chapter, Tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import OtherConnection

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
EXAMPLES, STEPS = (3000, 60) if NIGHTLY else (60, 30)
# To shrink takes minutes: within the time limit of a test the steps as they were found say more than none.
PHASES = [Phase.generate, Phase.shrink] if NIGHTLY else [Phase.generate]
#: How many of the last reads are read again after every step.
REMEMBERED = 2

numbers = st.integers(0, 5)
actors = st.sampled_from([0, 1])
read_shapes = st.sampled_from(sorted(READS))
write_shapes = st.sampled_from(sorted(WRITES))
kinds = st.sampled_from(["atomic", "atomic", "atomic", "raw", "manual"])
isolations = st.sampled_from(["", "", "", "REPEATABLE READ", "SERIALIZABLE"])


class RolledBack(Exception):
    """Ends an atomic block."""


class Actor:
    """One connection, and the transactions that are open on it.

    :param call: runs a callable in the thread of the connection.
    """

    def __init__(self, call: Callable[[Callable[[], Any]], Any]) -> None:
        self.call = call
        self.open: list[Any] = []

    def begin(self, kind: str, isolation: str) -> None:
        """Open a transaction, or a savepoint in one."""
        if self.open and (self.open[0] in {"raw", "manual"} or kind != "atomic"):
            return
        self.open.append(self.call(lambda: self._begin(kind, isolation if not self.open else "")))

    def _begin(self, kind: str, isolation: str) -> Any:
        if kind == "raw":
            execute("BEGIN")
            return kind
        if kind == "manual":
            transaction.set_autocommit(False)
            return kind
        block = transaction.atomic()
        block.__enter__()
        if isolation and connection.vendor == "postgresql":
            execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
        return block

    def end(self, *, commit: bool) -> None:
        """Close the innermost."""
        if self.open:
            block = self.open.pop()
            self.call(lambda: self._end(block, commit=commit))

    def _end(self, block: Any, *, commit: bool) -> None:
        if block == "raw":
            execute("COMMIT" if commit else "ROLLBACK")
        elif block == "manual":
            (transaction.commit if commit else transaction.rollback)()
            transaction.set_autocommit(True)
        elif commit:
            with contextlib.suppress(DatabaseError):
                block.__exit__(None, None, None)
        else:
            block.__exit__(RolledBack, RolledBack(), None)

    def abort(self) -> None:
        """Close all of them."""
        while self.open:
            self.end(commit=False)

    def read(self, shape: str, n: int) -> Any:
        """Read through the cache."""
        return self.call(lambda: plain(READS[shape](n)))

    def truth(self, shape: str, n: int) -> Any:
        """Read the same from the database."""

        def uncached() -> Any:
            with cachalot_disabled():
                return plain(READS[shape](n))

        return self.call(uncached)


def execute(sql: str) -> None:
    """Send a raw statement."""
    with connection.cursor() as cursor:
        cursor.execute(sql)


def reconnect() -> None:
    """Close the connection of this thread; the next statement opens another."""
    connection.close()


def in_this_thread(call: Callable[[], Any]) -> Any:
    """Run it here."""
    return call()


def keys_of_ours() -> list[str]:
    """Return the keys in the cache that can be deleted one by one, without their prefix."""
    cache = caches["default"]
    if hasattr(cache, "_cache") and isinstance(cache._cache, dict):
        full = list(cache._cache)
    elif hasattr(cache, "client"):  # django-redis
        full = [key.decode() for key in cache.client.get_client().scan_iter("*c3:*")]
    elif hasattr(getattr(cache, "_cache", None), "get_client"):
        full = [key.decode() for key in cache._cache.get_client().scan_iter("*c3:*")]
    else:
        return []
    return sorted("c3:" + key.partition("c3:")[2] for key in full if "c3:" in key)


class Machine(RuleBasedStateMachine):
    """Two connections to one database and one cache.

    Nobody waits for a lock: only one of the two has writes that are not committed. What fails all the same (a
    conflict of snapshots, a duplicate) ends its transaction, as it would in a view.
    """

    other: OtherConnection
    hits = 0

    def __init__(self) -> None:
        super().__init__()
        self.actors = [Actor(in_this_thread), Actor(self.other)]
        self.dirty: Actor | None = None
        self.remembered: list[tuple[Actor, str, int]] = []
        self.steps = 0

    @initialize(shape=read_shapes, n=numbers)
    def rows(self, shape: str, n: int) -> None:
        """Something to begin with, and something that is looked at even if no rule ever reads."""
        self.remembered = [(self.actors[0], shape, n)]
        author = Author.objects.create(name="Ann", age=2)
        book = Book.objects.create(title="title0", author=author, pages=3)
        book.tags.add(Tag.objects.create(name="tag0"))
        Chapter.objects.create(book=book, number=1)
        Bookmark.objects.create(book=book)

    @rule(who=actors, shape=read_shapes, n=numbers)
    def reads(self, who: int, shape: str, n: int) -> None:
        """Read, and read again: what was stored is compared as well."""
        actor = self.actors[who]
        self.compare(actor, shape, n)

    def compare(self, actor: Actor, shape: str, n: int) -> None:
        """Compare two cached reads with an uncached one, and look at them again after the next steps."""
        first = actor.read(shape, n)
        again = actor.read(shape, n)
        truth = actor.truth(shape, n)
        assert first == truth, f"{shape}({n})"
        assert again == truth, f"{shape}({n}), read again"
        if (actor, shape, n) not in self.remembered:
            self.remembered = [*self.remembered, (actor, shape, n)][-REMEMBERED:]

    @rule(who=actors, shape=write_shapes, n=numbers, guarded=st.booleans())
    def writes(self, who: int, shape: str, n: int, guarded: bool) -> None:
        """Write; with a savepoint of its own if guarded."""
        self.write(self.actors[who], lambda: WRITES[shape](n), guarded=guarded)

    def write(self, actor: Actor, call: Callable[[], Any], *, guarded: bool = False) -> None:
        """Write, unless the other one has written and not committed."""
        if self.dirty not in {None, actor}:
            return
        if actor.open:
            self.dirty = actor
        raw = bool(actor.open) and actor.open[0] == "raw"

        def run() -> None:
            with transaction.atomic() if guarded and not raw else contextlib.nullcontext():
                call()

        try:
            actor.call(run)
        except DatabaseError:
            if raw or not guarded:
                actor.abort()
        self.clean(actor)

    def clean(self, actor: Actor) -> None:
        """Note that a connection has no open transaction."""
        if not actor.open and self.dirty is actor:
            self.dirty = None

    @rule(who=actors, shape=write_shapes, n=numbers, other=read_shapes)
    def writes_put_off(self, who: int, shape: str, n: int, other: str) -> None:
        """Write in a scope that puts invalidations off: the scope itself reads the truth."""
        actor = self.actors[who]

        def run() -> None:
            with invalidation_deferred():
                WRITES[shape](n)
                cached = plain(READS[other](n))
                with cachalot_disabled():
                    assert cached == plain(READS[other](n)), f"{other}({n}) after {shape}"

        self.write(actor, run)

    @rule(who=actors, shape=write_shapes, n=numbers)
    def writes_with_the_cache_switched_off(self, who: int, shape: str, n: int) -> None:
        """Switched off is only reading."""
        self.write(self.actors[who], cachalot_disabled()(lambda: WRITES[shape](n)))

    @rule(who=actors, shape=read_shapes, n=numbers)
    def refreshes(self, who: int, shape: str, n: int) -> None:
        """Read in a scope that runs every query and stores its rows."""
        self.actors[who].call(cachalot_refreshing()(lambda: plain(READS[shape](n))))
        self.compare(self.actors[who], shape, n)

    @rule(who=actors, kind=kinds, isolation=isolations)
    def begins(self, who: int, kind: str, isolation: str) -> None:
        """Open a transaction or a savepoint."""
        self.actors[who].begin(kind, isolation)

    @rule(who=actors, commit=st.booleans())
    def ends(self, who: int, commit: bool) -> None:
        """Close the innermost block."""
        self.actors[who].end(commit=commit)
        self.clean(self.actors[who])

    @rule(who=actors, shape=write_shapes, n=numbers, other=read_shapes, commit=st.booleans())
    def writes_in_a_savepoint(self, who: int, shape: str, n: int, other: str, commit: bool) -> None:
        """Write and read in a savepoint, close it, and read again."""
        actor = self.actors[who]
        outermost = not actor.open
        if outermost:
            actor.begin("atomic", "")
        depth = len(actor.open)
        actor.begin("atomic", "")
        self.write(actor, lambda: WRITES[shape](n))
        self.check(actor, "main_tables", 0)
        self.compare(actor, other, n)
        if len(actor.open) > depth:
            actor.end(commit=commit)
        self.check(actor, "main_tables", 0)
        self.compare(actor, other, n)
        if outermost:
            actor.end(commit=True)
        self.clean(actor)

    @rule(who=actors, shape=write_shapes, n=numbers, pinning=read_shapes, other=read_shapes)
    def writes_while_the_other_looks(self, who: int, shape: str, n: int, pinning: str, other: str) -> None:
        """Read in a transaction, write on the other connection, and read on both."""
        actor, writer = self.actors[who], self.actors[1 - who]
        if not actor.open:
            actor.begin("atomic", "REPEATABLE READ" if n % 2 else "")
        self.compare(actor, pinning, n)
        self.write(writer, lambda: WRITES[shape](n))
        self.compare(writer, other, n)
        self.compare(actor, other, n)
        self.compare(writer, other, n)

    @rule(share=st.integers(0, 99), how_many=st.integers(1, 4))
    def keys_are_evicted(self, share: int, how_many: int) -> None:
        """Take any keys away."""
        for _ in range(how_many):
            keys = keys_of_ours()
            if keys:
                caches["default"].delete(keys[share % len(keys)])

    @rule()
    def cache_is_flushed(self) -> None:
        """Take all keys away."""
        caches["default"].clear()

    @rule(who=actors, models=st.sampled_from([(), (Author,), ("testapp.Book", Tag)]))
    def invalidates(self, who: int, models: tuple[Any, ...]) -> None:
        """Invalidate by hand."""
        self.actors[who].call(lambda: invalidate(*models))

    @rule(who=actors)
    def reconnects(self, who: int) -> None:
        """Lose the connection, outside of transactions."""
        if not self.actors[who].open:
            self.actors[who].call(reconnect)

    @invariant()
    def what_was_read_lately_is_still_true(self) -> None:
        """Read the last reads again, the very last on both connections, and the main tables."""
        for actor, shape, n in self.remembered:
            self.check(actor, shape, n)
        for actor, shape, n in self.remembered[-1:]:
            self.check(self.actors[actor is self.actors[0]], shape, n)
        self.steps += 1
        self.check(self.actors[self.steps % 2], "main_tables", 0)

    def check(self, actor: Actor, shape: str, n: int) -> None:
        """Compare one cached read with an uncached one."""
        assert actor.read(shape, n) == actor.truth(shape, n), f"{shape}({n})"

    def teardown(self) -> None:
        """Leave nothing behind, neither rows nor keys."""
        for actor in self.actors:
            actor.abort()
            actor.call(reconnect)
        empty_all_tables()
        caches["default"].clear()
        Machine.hits += stats()["hits"]
        testing.reset()


def empty_all_tables() -> None:
    """Delete all rows of the app."""
    existing = connection.introspection.django_table_names(only_existing=True)
    tables = [table for table in existing if table.lower().startswith("testapp_")]
    connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))


@pytest.fixture
def database(transactional_db: None, other_connection: OtherConnection) -> Iterator[OtherConnection]:
    """A database with the view, in which readers do not wait for writers."""
    if connection.vendor == "sqlite":
        execute("PRAGMA journal_mode=WAL")
    execute(AUTHOR_STATS_VIEW)
    yield other_connection
    execute("DROP VIEW testapp_authorstats")


@pytest.mark.timeout(0 if NIGHTLY else 900)
def test_what_the_cache_answers_is_what_the_database_answers(database: OtherConnection) -> None:
    """After any steps a read through the cache equals the same read on the same connection without it."""
    Machine.other, Machine.hits = database, 0
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=not NIGHTLY,
            phases=PHASES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Machine.hits > EXAMPLES
