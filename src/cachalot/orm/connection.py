"""Attaches a session to each database connection and sees every edge of its transactions.

Everything is set on the connection *object*: its compilers, its cursors, its edges. ``connect``, ``cursor``
and ``chunked_cursor`` stay untouched, because ``SimpleTestCase`` replaces them. ``_commit``, ``_rollback``
and ``_set_autocommit`` are where all ways of ending a transaction meet, manual ones included; savepoints and
the BEGIN of SQLite are statements, and ``cursors`` sees them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from cachalot.conf import current
from cachalot.engine.alone import settle
from cachalot.engine.caches import query_cache
from cachalot.engine.session import Session
from cachalot.orm.compilers import traced_class
from cachalot.orm.cursors import StatementWrapper, seeing_cursor
from cachalot.orm.notices import announce

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

SESSION = "_cachalot_session"
ORIGINALS = "_cachalot_originals"


def session_of(connection: BaseDatabaseWrapper) -> Session | None:
    """Return the session of a connection, ``None`` if it was not attached."""
    session: Session | None = connection.__dict__.get(SESSION)
    return session


def attach(connection: BaseDatabaseWrapper) -> Session:
    """Give a connection a session, and take its seams. Doing it twice does no harm.

    :returns: its session.
    """
    attached = session_of(connection)
    if attached is not None:
        return attached
    session = Session(connection)
    connection.__dict__[SESSION] = session
    connection.__dict__[ORIGINALS] = {}
    _replace(connection, "_commit", _committing(session))
    _replace(connection, "_rollback", _rolling_back(session))
    _replace(connection, "_set_autocommit", _setting_autocommit(session))
    _replace(connection, "set_autocommit", _setting_mode(session))
    _replace(connection, "run_and_clear_commit_hooks", _running_hooks(session))
    _replace(connection, "init_connection_state", _initialising(session))
    _replace(connection, "make_cursor", _making_cursor)
    _replace(connection, "make_debug_cursor", _making_cursor)
    _replace(connection, "copy", _copying)
    _replace(connection, "close", _settling(session))
    _replace(connection, "on_commit", _settling(session))
    original = _weak(connection.ops.compiler)
    connection.ops.__dict__["compiler"] = lambda name: traced_class(original(name))
    if connection.vendor == "postgresql":
        shown = _weak(connection.ops.last_executed_query)
        connection.ops.__dict__["last_executed_query"] = _showing(session, shown)
    connection.execute_wrappers.insert(0, StatementWrapper(session))
    return session


def detach(connection: BaseDatabaseWrapper) -> None:
    """Give a connection back what ``attach`` took."""
    if SESSION not in connection.__dict__:
        return
    for name, value in connection.__dict__.pop(ORIGINALS).items():
        if value is _ABSENT:
            del connection.__dict__[name]
        else:
            connection.__dict__[name] = value
    connection.ops.__dict__.pop("compiler", None)
    connection.ops.__dict__.pop("last_executed_query", None)
    connection.execute_wrappers[:] = [
        one for one in connection.execute_wrappers if not isinstance(one, StatementWrapper)
    ]
    del connection.__dict__[SESSION]


_ABSENT = object()

Original = Callable[..., Any]


def _replace(connection: BaseDatabaseWrapper, name: str, make: Callable[[Original], Original]) -> None:
    """Put ``make(original)`` in the place of a method of one connection."""
    original = getattr(connection, name)
    connection.__dict__[ORIGINALS][name] = connection.__dict__.get(name, _ABSENT)
    connection.__dict__[name] = _like(original, make(_weak(original)))


def _weak(method: Original) -> Original:
    """Return a callable that does not keep the object of a method alive, on which it is going to hang."""
    try:
        reference = WeakMethod(method)
    except TypeError:
        return method  # somebody has put a function there

    def call(*args: Any, **kwargs: Any) -> Any:
        alive = reference()
        if alive is None:
            raise ReferenceError("the connection is gone")
        return alive(*args, **kwargs)

    return _like(method, call)


def _like(method: Original, function: Original) -> Original:
    """Let a function look like a method, without keeping that method."""
    update_wrapper(function, method)
    del function.__wrapped__  # type: ignore[attr-defined]
    return function


def _committing(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def _commit() -> Any:
            settle(session)
            cache = query_cache(current().cache)
            if cache is None:
                return original()
            result = cache.writes.commit(session, original)
            cache.writes.between(session)
            if session.manual:
                announce(session)
            return result

        return _commit

    return make


def _rolling_back(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def _rollback() -> Any:
            settle(session)
            result = original()
            session.rolled_back()
            _use_moment(session)
            return result

        return _rollback

    return make


def _setting_autocommit(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def _set_autocommit(autocommit: bool) -> Any:
            cache = query_cache(current().cache)
            if not autocommit or cache is None:
                return original(autocommit)
            # MySQL and SQLite commit what is open when autocommit is switched on.
            return cache.writes.commit(session, lambda: original(autocommit))

        return _set_autocommit

    return make


def _setting_mode(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def set_autocommit(autocommit: bool, *args: Any, **kwargs: Any) -> Any:
            settle(session)
            if not autocommit and session.connection.autocommit:
                _use_moment(session, begins=True)
            forced = bool(args and args[0]) or kwargs.get(
                "force_begin_transaction_with_broken_autocommit", False
            )
            result = original(autocommit, *args, **kwargs)
            session.manual = not autocommit and not forced
            if autocommit:
                announce(session)
            return result

        return set_autocommit

    return make


def _showing(session: Session, original: Original) -> Original:
    """Let the log of queries show a statement as Django has written it: the driver knows what was added."""

    def last_executed_query(cursor: Any, sql: Any, params: Any) -> Any:
        if session.work.rewritten is None or session.work.rewritten() is not cursor:
            return original(cursor, sql, params)
        # The operations of PostgreSQL have it, not those of every database, which is what the type says.
        return session.connection.ops.compose_sql(sql, params)  # type: ignore[attr-defined]

    return last_executed_query


def _settling(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def settled(*args: Any, **kwargs: Any) -> Any:
            settle(session)
            return original(*args, **kwargs)

        return settled

    return make


def _use_moment(session: Session, *, begins: bool = False) -> None:
    """Use a moment between two transactions; see ``Writes.between``."""
    cache = query_cache(current().cache)
    if cache is not None:
        cache.writes.between(session, begins=begins)


def _running_hooks(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def run_and_clear_commit_hooks() -> Any:
            announce(session)
            return original()

        return run_and_clear_commit_hooks

    return make


def _initialising(session: Session) -> Callable[[Original], Original]:
    def make(original: Original) -> Original:
        def init_connection_state() -> Any:
            # What Django itself sets on every new connection follows from the settings, which are in every
            # key.
            method = type(session.connection).init_connection_state
            session.initialising = method.__module__.startswith("django.")
            try:
                return original()
            finally:
                session.initialising = False

        return init_connection_state

    return make


def _copying(original: Original) -> Original:
    def copy(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        attach(made)
        return made

    return copy


def _making_cursor(original: Original) -> Original:
    def make_cursor(cursor: Any) -> Any:
        return seeing_cursor(original(cursor))

    return make_cursor
