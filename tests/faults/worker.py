"""The inside of a worker process: runs what it is told, and stops at yield points until it is told to go on.

A worker says where it is over a pipe and waits there, so that whoever holds the other end can kill it at that
very point. The points are before and after each of :data:`STEPS`: what the engine asks of its store, COMMIT
(outside of a transaction the statement that commits by itself) and QUERY.

This module is imported before Django is configured: each process has settings of its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.db.backends.base.base import BaseDatabaseWrapper

from cachalot.core.steps import Life, is_entry
from cachalot.engine import alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

#: LOOK is every question to the cache; FILL stores a result.
SESSION = "_cachalot_session"
STEPS = ("LOOK", "CREATE", "QUERY", "FILL", "MARK", "COMMIT", "DONE")
_PR_SET_PDEATHSIG = 1


class Points:
    """The yield points of this process.

    :param channel: to whoever watches it.

    :ivar stop: where to stop next; nowhere if it is empty. Stopping once is enough.
    """

    def __init__(self, channel: Connection) -> None:
        self._channel = channel
        self.stop = ""

    def reach(self, point: str) -> None:
        """Stop here if this is where to stop."""
        if point == self.stop:
            self.stop = ""
            self._channel.send(("at", point))
            assert self._channel.recv() == "go"

    def around(self, step: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call with a point before and after it, also when it fails."""
        self.reach(f"before {step}")
        try:
            result = call(*args, **kwargs)
            self.succeeded(step)
            return result
        finally:
            self.reach(f"after {step}")

    def succeeded(self, step: str) -> None:
        """What was between two points has gone well."""


class StoppingStore:
    """A store with yield points around what it is asked."""

    def __init__(self, store: Any, points: Points) -> None:
        self._store = store
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def get_many(self, keys: Any) -> Any:
        """As in the store."""
        return self._points.around("LOOK", self._store.get_many, keys)

    def set_many(self, values: Any, lifetime: Life) -> Any:
        """As in the store."""
        step = "FILL" if is_entry(lifetime) else "SET"
        return self._points.around(step, self._store.set_many, values, lifetime)

    def create(self, step: Any) -> Any:
        """As in the store."""
        return self._points.around("CREATE", self._store.create, step)

    def mark(self, step: Any) -> Any:
        """As in the store."""
        return self._points.around("MARK", self._store.mark, step)

    def done(self, step: Any) -> Any:
        """As in the store."""
        return self._points.around("DONE", self._store.done, step)


def stop_at_commits(points: Points) -> None:
    """Let every connection stop where its database commits; to be called before Django is configured."""
    commit = BaseDatabaseWrapper._commit

    def _commit(connection: BaseDatabaseWrapper) -> Any:
        return points.around("COMMIT", commit, connection)

    BaseDatabaseWrapper._commit = _commit  # type: ignore[method-assign]
    own = alone.commit
    alone.commit = lambda session: points.around("COMMIT", own, session)


def _stop_at_statements(points: Points) -> None:
    """Let the connections of this thread stop at queries, and at statements that commit by themselves."""

    def around(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        verb = sql.lstrip().split(None, 1)[0].upper()
        if verb == "SELECT":
            return points.around("QUERY", execute, sql, params, many, context)
        session = context["connection"].__dict__[SESSION]
        # The transaction of a write in autocommit begins further inside.
        inside = session.transaction() is not None or session.work.alone is not None
        if verb in {"INSERT", "UPDATE", "DELETE"} and not inside:
            return points.around("COMMIT", execute, sql, params, many, context)
        return execute(sql, params, many, context)

    # Last is innermost: what cachalot does around a statement is outside of it.
    connection.execute_wrappers.append(around)


def shift_clock(seconds: float) -> None:
    """Let the wall clock of this process be wrong by so many seconds."""
    right, right_ns = time.time, time.time_ns
    time.time = lambda: right() + seconds
    time.time_ns = lambda: right_ns() + int(seconds * 1e9)


def die_with_parent() -> None:
    """Have the kernel end this process when the one that has made it is gone (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def configure(values: dict[str, Any]) -> None:
    """Start Django with these settings.

    :param values: settings; ``CLOCK`` is the number of seconds by which the clock is wrong.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests first, and they end the workers
    if shift := values.pop("CLOCK", 0):
        shift_clock(shift)
    settings.configure(**values)
    import django

    django.setup()


def install(points: Points) -> None:
    """Put the yield points where they belong."""
    from cachalot.conf import current
    from cachalot.engine.caches import query_cache

    _stop_at_statements(points)
    cache = query_cache(current().cache)
    if cache is not None:
        cache.guard._store = StoppingStore(cache.guard._store, points)  # type: ignore[assignment]


def serve(channel: Connection, values: dict[str, Any]) -> None:
    """Be a worker until the channel is closed.

    Understands ``(name, arguments, stop)``: the function ``name`` of ``tests.faults.actions`` is called and
    answered by ``("done", result)`` or ``("raised", names of the classes of the error, its text)``.
    """
    points = Points(channel)
    stop_at_commits(points)
    configure(values)
    install(points)
    from tests.faults import actions

    channel.send(("ready", os.getpid()))
    while True:
        try:
            name, arguments, points.stop = channel.recv()
        except EOFError:
            return
        # As at the end of a request: a connection that the database has dropped is not used again.
        close_old_connections()
        try:
            answer: tuple[Any, ...] = ("done", getattr(actions, name)(*arguments))
        except Exception as error:  # noqa: BLE001 - the watcher decides whether it is one too many
            answer = ("raised", [one.__name__ for one in type(error).__mro__], str(error))
        points.stop = ""
        channel.send(answer)
