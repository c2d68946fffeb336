"""Forces interleavings: calls at a chosen moment of a read or a commit, and threads that go step by step."""

from __future__ import annotations

import copy
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import django
import pytest
from django.core.cache import caches
from django.db import connection, connections

from cachalot.api import cachalot_disabled
from cachalot.conf import current
from cachalot.core.steps import Add, Create, Done, GetMany, Mark, SetMany, is_entry
from cachalot.engine import switch
from cachalot.engine.caches import query_cache
from cachalot.engine.guard import Guard
from cachalot.testing import watch
from tests.conftest import evaluated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Seconds after which a thread that should have stopped at a step is taken for hanging.
PATIENCE = 30

#: For a test that gives SQLite settings by ``init_command``.
with_init_command = pytest.mark.skipif(
    django.VERSION < (5, 1), reason="init_command of SQLite came with Django 5.1"
)

MOMENTS = ("before MARK", "between MARK and COMMIT", "between COMMIT and DONE", "after DONE")
#: Those of a read that nothing answers.
READ_MOMENTS = ("before LOOK", "between LOOK and SELECT", "between SELECT and FILL", "after FILL")


def truth(read: Callable[[], T]) -> T:
    """What the database says."""
    with cachalot_disabled():
        result: T = evaluated(read())
        return result


def agreed(read: Callable[[], T]) -> T:
    """What the database says, once it is sure that cached reads say the same, also when they repeat."""
    expected = truth(read)
    for _ in range(3):
        same(evaluated(read()), expected)
    return expected


def same(cached: Any, expected: Any) -> None:
    """Fail unless a cached read said what the database says."""
    assert cached == expected, f"the cache says {cached!r}, the database says {expected!r}"


def agreed_everywhere(read: Callable[[], T], other: Callable[[Callable[[], T]], T]) -> T:
    """As :func:`agreed`, here and in another thread, which both come first once."""
    expected = truth(read)
    same(evaluated(read()), expected)
    same(other(lambda: agreed(read)), expected)
    return agreed(read)


def is_hit(read: Callable[[], Any]) -> bool:
    """Whether a read is answered from the cache without any help."""
    with watch() as seen:
        evaluated(read())
    return bool(seen.reads) and seen.hits == len(seen.reads)


def reasons(read: Callable[[], Any]) -> list[Any]:
    """Why each read was not a hit; None for one that was."""
    with watch() as seen:
        evaluated(read())
    return [decision.reason for decision in seen.decisions]


@contextmanager
def ended_by(error: type[BaseException]) -> Iterator[None]:
    """The block ends with an error, which goes no further."""
    with pytest.raises(error):
        yield


def let_readers_not_block_writers() -> None:
    """Give the file of a SQLite database its write-ahead log; Django before 5.1 cannot be told to do so."""
    if connection.vendor == "sqlite":
        connection.ensure_connection()
        connection.connection.execute("PRAGMA journal_mode=WAL")


# Moments.


_KINDS = {GetMany: "LOOK", Add: "ADD", Create: "CREATE", Mark: "MARK", Done: "DONE"}


def kind_of(step: Any) -> str:
    """The name of a step in the protocol."""
    if step == GetMany((switch.KEY,)):
        return "SWITCH"
    if isinstance(step, SetMany):
        return "FILL" if is_entry(step.lifetime) else "SET"
    return _KINDS[type(step)]


class Once:
    """Makes a call the first time it is reached in the thread that made it, and never inside of itself."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._thread = threading.get_ident()
        self.reached = False

    def __call__(self) -> None:
        """Make the call, unless it was made or another thread comes by."""
        if not self.reached and threading.get_ident() == self._thread:
            self.reached = True
            self._call()


@contextmanager
def during_commit(moment: str, call: Callable[[], Any]) -> Iterator[None]:
    """Make a call at one of the :data:`MOMENTS` of the next commit, or autocommit write, of this thread."""
    once, original = Once(call), Guard.commit

    def commit(guard: Guard, keys: Any, execute: Callable[[], Any], *more: Any) -> None:
        def watched() -> Any:
            at("between MARK and COMMIT")
            outcome = execute()
            at("between COMMIT and DONE")
            return outcome

        at("before MARK")
        original(guard, keys, watched, *more)
        at("after DONE")

    def at(reached: str) -> None:
        if reached == moment:
            once()

    with mock.patch.object(Guard, "commit", commit):
        yield
    assert once.reached, f"nothing was committed, so there was no moment {moment}"


@contextmanager
def at_step(kind: str, call: Callable[[], Any], *, after: bool = False) -> Iterator[None]:
    """Make a call before, or after, the next step of a kind that this thread asks of the cache."""
    once, original = Once(call), Guard.ask

    def ask(guard: Guard, step: Any) -> Any:
        wanted = kind_of(step) == kind
        if wanted and not after:
            once()
        answer = original(guard, step)
        if wanted and after:
            once()
        return answer

    with mock.patch.object(Guard, "ask", ask):
        yield
    assert once.reached, f"the cache was not asked for a {kind}"


@contextmanager
def at_statement(
    verb: str, call: Callable[[], Any], *, after: bool = False, alias: str = "default"
) -> Iterator[None]:
    """Make a call just before, or after, the database gets the next statement that begins with ``verb``."""
    once = Once(call)

    def wrapper(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        wanted = sql.lstrip().upper().startswith(verb)
        if wanted and not after:
            once()
        result = execute(sql, params, many, context)
        if wanted and after:
            once()
        return result

    with connections[alias].execute_wrapper(wrapper):
        yield
    assert once.reached, f"no {verb} reached the database"


@contextmanager
def during_read(moment: str, call: Callable[[], Any]) -> Iterator[None]:
    """Make a call at one of the :data:`READ_MOMENTS` of the next read of this thread that is no hit."""
    with {
        "before LOOK": lambda: at_step("LOOK", call),
        "between LOOK and SELECT": lambda: at_statement("SELECT", call),
        "between SELECT and FILL": lambda: at_statement("SELECT", call, after=True),
        "after FILL": lambda: at_step("FILL", call, after=True),
    }[moment]():
        yield


@contextmanager
def recorded_steps() -> Iterator[list[Any]]:
    """The steps that were asked of the cache."""
    original, steps = Guard.ask, []

    def ask(guard: Guard, step: Any) -> Any:
        if kind_of(step) != "SWITCH":
            # When it is looked at depends on the time.
            steps.append(step)
        return original(guard, step)

    with mock.patch.object(Guard, "ask", ask):
        yield steps


# Threads that go step by step.


class DeadError(BaseException):
    """Ends a thread where it stands."""


class Stepper:
    """Runs a call in a thread of its own that stops before each chosen step until it is told to go on.

    :param call: what to run.
    :param stops: kinds of steps to stop at; COMMIT and SELECT are those of the database.
    :ivar at: before which kind of step it stands; empty once it has ended.
    """

    local = threading.local()

    def __init__(self, call: Callable[[], Any], stops: set[str]) -> None:
        self._call = call
        self._stops = stops
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run)
        self._dies = False
        self.at = ""
        self.ended = False
        self.error: BaseException | None = None
        self.result: Any = None
        self._thread.start()
        self._wait()

    def _run(self) -> None:
        Stepper.local.current = self
        try:
            with connection.execute_wrapper(_stop_at_select):
                self.result = evaluated(self._call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the test
            self.error = error
        finally:
            connections.close_all()
            self.at = ""
            self.ended = True
            self._stopped.release()

    def _wait(self) -> None:
        assert self._stopped.acquire(timeout=PATIENCE), "it waits for another thread"

    @classmethod
    def reach(cls, kind: str) -> None:
        """Stop here if this thread is one that stops before such a step."""
        stepper = getattr(cls.local, "current", None)
        if stepper is not None and stepper._dies:
            raise DeadError  # What Django does at the end of a transaction, the dead do not.
        if stepper is not None and kind in stepper._stops:
            stepper.at = kind
            stepper._stopped.release()
            assert stepper._go.acquire(timeout=PATIENCE)
            if stepper._dies:
                raise DeadError

    def step(self) -> None:
        """Let it take one step."""
        if not self.ended:
            self._go.release()
            self._wait()

    def to(self, kind: str) -> bool:
        """Let it go on until it stands before such a step; returns False if it ends without one."""
        while not self.ended and self.at != kind:
            self.step()
        return not self.ended

    def die(self) -> None:
        """End it where it stands, as a process that is killed: nothing that it meant to do is done."""
        assert not self.ended
        self._dies = True
        self.step()
        self._thread.join(PATIENCE)
        assert isinstance(self.error, DeadError)
        self.error = None

    def finish(self) -> Any:
        """Let it run to its end; returns its result, raises its error."""
        while not self.ended:
            self.step()
        self._thread.join(PATIENCE)
        if self.error is not None:
            raise self.error
        return self.result


def _stop_at_select(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
    if sql.lstrip().upper().startswith("SELECT"):
        Stepper.reach("SELECT")
    return execute(sql, params, many, context)


@contextmanager
def stepping() -> Iterator[Callable[[Callable[[], Any], set[str]], Stepper]]:
    """Makes :class:`Stepper` objects; all of them have ended when the block ends."""
    ask, commit = Guard.ask, Guard.commit
    made: list[Stepper] = []

    def stopping_ask(guard: Guard, step: Any) -> Any:
        Stepper.reach(kind_of(step))
        return ask(guard, step)

    def stopping_commit(guard: Guard, keys: Any, execute: Callable[[], Any], *more: Any) -> None:
        def stopping() -> Any:
            Stepper.reach("COMMIT")
            return execute()

        commit(guard, keys, stopping, *more)

    def make(call: Callable[[], Any], stops: set[str]) -> Stepper:
        made.append(Stepper(call, stops))
        return made[-1]

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Guard, "ask", stopping_ask))
        stack.enter_context(mock.patch.object(Guard, "commit", stopping_commit))
        try:
            yield make
        finally:
            for stepper in made:
                stepper.finish()


def interleavings(first: int, second: int) -> list[str]:
    """Every order of ``first`` steps of R and ``second`` steps of W."""
    total = first + second
    return [
        "".join("R" if place in places else "W" for place in range(total))
        for places in combinations(range(total), first)
    ]


# The cache as the engine uses it.


def guard(alias: str | None = None) -> Guard:
    """The guard of the cache in use."""
    cache = query_cache(alias or current().cache)
    assert cache is not None
    return cache.guard


def end_pause() -> None:
    """Let the time pass for which the cache is left alone after an error."""
    guard()._until = 0.0


def keys_of(call: Callable[[], Any]) -> list[str]:
    """Every key of the cache that a call has to do with."""
    with recorded_steps() as steps:
        evaluated(call())
    return list(dict.fromkeys(key for step in steps for key in _keys_in(step)))


def _keys_in(step: Any) -> list[str]:
    if isinstance(step, (GetMany, Mark)):
        return list(step.keys)
    if isinstance(step, (Create, Done)):
        return [step.clock[0], *(key for key, _token in step.tokens)]
    return [step.key] if isinstance(step, Add) else [key for key, _value in step.values]


def evict(*keys: str) -> None:
    """Take keys out of the cache, as a full cache or the end of a lease does."""
    caches[current().cache].delete_many(keys)


def stays_true(read, write):
    """Cache a result, write, and see whether it is the one of the database.

    :param read: returns what can be listed.
    """
    list(read())
    list(read())
    write()
    same(list(read()), truth(lambda: list(read())))


def until(condition):
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it has not come"
        time.sleep(0.01)


@contextmanager
def alias(name, **changes):
    """One more alias of the database, as long as this lasts."""
    made = copy.deepcopy(connections.settings["default"])
    made.update(changes)
    connections.settings[name] = made
    try:
        # Not by ensure_connection(), which allows a test those aliases only that the settings have.
        connections[name].connect()
        yield
    finally:
        connections[name].close()
        del connections[name]
        del connections.settings[name]
