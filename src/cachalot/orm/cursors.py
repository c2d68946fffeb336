"""The cursors of a connection: every statement that passes them is seen.

Every statement passes the execute wrapper, also those of the ORM; the writes of the ORM have announced their
text beforehand, and ``statements`` looks at all others. ``callproc``, ``copy`` and the like do not pass the
wrapper, so the class of the cursor is extended for them.
"""

from __future__ import annotations

import operator
import re
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from django.db import Error

from cachalot.core.tags import NOTHING
from cachalot.engine.alone import settle
from cachalot.orm.statements import before, judge, pin, run_raw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from django.db.backends.utils import CursorWrapper

    from cachalot.engine.alone import Alone
    from cachalot.engine.session import Session
    from cachalot.orm.rowwrites import RowWrite

    Seen = Callable[..., Any]

_SESSION = "_cachalot_session"


class StatementWrapper:
    """The execute wrapper of one connection.

    :param session: its session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """Run one statement of a cursor."""
        session = self._session
        if session.initialising:
            return self._as_it_is(partial(execute, sql, params, many, context))
        if isinstance(sql, str) and sql in session.work.expected:

            def send(text: Any, parameters: Any) -> Any:
                return execute(text, parameters, many, context)

            return self._run_expected(sql, params, send, context["cursor"], many=many)
        settle(session)
        session.level_pending = False
        text = text_of(sql, context)
        run = partial(execute, sql, params, many, context)
        return self._as_it_is(lambda: run_raw(session, text, run, params, once=not many))

    def _as_it_is(self, run: Callable[[], Any]) -> Any:
        """Run a statement that is not the one which is about to be sent."""
        work = self._session.work
        outer, work.sending = work.sending, None
        try:
            return run()
        finally:
            work.sending = outer

    def _run_expected(
        self, sql: str, params: Any, execute: Callable[[Any, Any], Any], cursor: Any, *, many: bool
    ) -> Any:
        """Run a statement of a write of the ORM, and what belongs to it as near to the driver as can be.

        Execute wrappers of others come between here and there: they may begin transactions before and after
        the statement, or keep it from the database.
        """
        work = self._session.work
        sending = Sending(self._session, (sql, params), work.row_writes.get(sql), work.alone)
        if many or not isinstance(cursor, _Seeing):
            return sending(execute, cursor, (sql, params))
        outer, work.sending = work.sending, sending
        try:
            return execute(sql, params)
        finally:
            work.sending = outer
            sending.end()


_COMMENTS = re.compile(r"^\s*(?:/\*.*?\*/\s*)+|\s*(?:/\*.*?\*/\s*)+;?\s*$", re.DOTALL)


class Sending:
    """A statement of a write of the ORM that is about to be sent.

    :param session: of its connection.
    :param announced: its text and parameters.
    :param row_write: what learns about its rows, if they are told apart.
    :param alone: the transaction of the write, if it has one of its own.
    """

    def __init__(
        self, session: Session, announced: tuple[str, Any], row_write: RowWrite | None, alone: Alone | None
    ) -> None:
        self._session = session
        self._announced = announced
        self._row_write = row_write
        self._alone = alone
        self._sent = False

    def __call__(self, execute: Callable[[Any, Any], Any], cursor: Any, statement: tuple[Any, Any]) -> Any:
        """Send it.

        :param execute: has the driver send a text with parameters.
        :param statement: text and parameters, as they have come through all execute wrappers.
        """
        self._sent = True
        same, writes = self._compare(*statement, cursor)

        def run() -> Any:
            self._session.level_pending = False
            before(self._session)
            row_write = self._row_write if writes else None
            if row_write is None:
                result = execute(*statement)
            else:
                result = row_write.run(execute, cursor, statement, same=same)
            pin(self._session)
            return result

        try:
            return self._send(run)
        except Error as error:
            if self._row_write is None or not self._row_write.was_wrong(error):
                raise
        return self._send(partial(execute, *statement))

    def _send(self, run: Callable[[], Any]) -> Any:
        return run() if self._alone is None else self._alone.run(run)

    def _compare(self, sql: Any, params: Any, cursor: Any) -> tuple[bool, bool]:
        """See whether it is what was announced; a comment beside it changes nothing.

        :returns: whether it is, and whether it writes at all: it may be an EXPLAIN of what was announced.
        """
        announced = self._announced[0]
        same = writes = sql is announced
        if not same:
            text = text_of(sql, {"cursor": cursor})
            same = isinstance(sql, str) and announced in sql and _COMMENTS.sub("", sql) == announced
            effects = NOTHING if same else judge(self._session, text).effects
            self._session.work.surprises |= effects
            writes = same or bool(effects)
        same = same and _are_the_same(params, self._announced[1])
        if self._row_write is not None and not same:
            self._row_write.understood = False
        return same, writes

    def end(self) -> None:
        """Note that it was not sent, as far as can be seen: whoever kept it may have sent it otherwise."""
        if not self._sent and self._row_write is not None:
            self._row_write.understood = False


def _are_the_same(ones: Any, others: Any) -> bool:
    """Return whether two sets of parameters hold the same objects; what equals what is not asked of them."""
    if ones is others:
        return True
    listed = isinstance(ones, (list, tuple)) and isinstance(others, (list, tuple))
    return listed and len(ones) == len(others) and all(map(operator.is_, ones, others))


def text_of(sql: Any, context: Any) -> str | None:
    """Return the text of a statement, ``None`` if it cannot be known."""
    if isinstance(sql, str):
        return sql
    if isinstance(sql, (bytes, bytearray)):
        try:
            return sql.decode()
        except UnicodeDecodeError:
            return None
    as_string = getattr(sql, "as_string", None)
    if as_string is None:
        return None
    try:
        return str(as_string(context["cursor"].cursor))
    except Exception:  # noqa: BLE001 - a statement that cannot be written out is one that is not understood
        return None


class _Seeing:
    """Mixed into the class of a cursor wrapper.

    The session is found through the connection: another package may make instances of a subclass of its own.
    What ``super()`` has is that class's, of which the types know nothing here.
    """

    db: Any

    def _execute(self, *args: Any, **kwargs: Any) -> Any:
        """Send a statement, behind all execute wrappers."""
        session = self.db.__dict__.get(_SESSION)
        sending = None if session is None else session.work.sending
        if sending is None:
            return super()._execute(*args, **kwargs)  # type: ignore[misc]

        def execute(sql: Any, params: Any) -> Any:
            return super(_Seeing, self)._execute(sql, params, *args[2:], **kwargs)  # type: ignore[misc]

        session.work.sending = None
        try:
            return sending(execute, self, (*args, None)[:2])
        finally:
            session.work.sending = sending  # an execute wrapper may try again

    def callproc(self, procname: str, params: Any = None, kparams: Any = None) -> Any:
        """Call a stored procedure, after which anything may have changed."""

        def execute() -> Any:
            return super(_Seeing, self).callproc(procname, params, kparams)  # type: ignore[misc]

        session = self.db.__dict__.get(_SESSION)
        return execute() if session is None else run_raw(session, f"CALL {procname}()", execute)

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]
        return _seen(self, name, value) if name in _SEEN else value


def _seen(cursor: Any, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of the driver's cursor whose statements are seen."""
    session = cursor.db.__dict__.get(_SESSION)
    return original if session is None else _SEEN[name](session, original, cursor)


_classes: dict[type, type] = {}


def seeing_cursor(cursor: CursorWrapper) -> CursorWrapper:
    """Let a cursor's ``callproc``, ``copy`` and ``executescript`` be seen."""
    kind = type(cursor)
    seeing = _classes.get(kind)
    if seeing is None:
        # CursorDebugWrapper has some of them as methods of its own, which __getattr__ would not see.
        own = {name: _seen_method(kind, name) for name in _SEEN if hasattr(kind, name)}
        seeing = _classes[kind] = type(kind.__name__, (_Seeing, kind), {"__module__": kind.__module__, **own})
    cursor.__class__ = seeing
    return cursor


def _seen_method(kind: type, name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        original = partial(getattr(kind, name), self)
        return _seen(self, name, original)(*args, **kwargs)

    return method


def _seen_copy(session: Session, copy: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """psycopg 3: ``with cursor.copy(statement) as copy``, whose rows arrive until the block ends."""

    @contextmanager
    def seen(statement: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        text = text_of(statement, {"cursor": cursor})
        before(session)
        # Now, because the connection cannot be asked for anything while rows are being copied.
        judged = judge(session, text)
        manager = copy(statement, *args, **kwargs)
        value = manager.__enter__()
        left: list[Any] = []

        def leave() -> None:
            left.append(manager.__exit__(None, None, None))

        try:
            yield value
        except BaseException as error:
            if not manager.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            run_raw(session, text, leave, judged=judged)

    return seen


def _seen_statement(session: Session, run: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """``copy_expert`` of psycopg2, and ``executescript`` of SQLite."""

    def seen(statement: Any, *args: Any, **kwargs: Any) -> Any:
        return run_raw(
            session, text_of(statement, {"cursor": cursor}), lambda: run(statement, *args, **kwargs)
        )

    return seen


def _seen_script(session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    """``executescript`` of SQLite commits what is open before it begins."""

    def seen(script: Any) -> Any:
        text = f"COMMIT; {script}" if isinstance(script, str) else None
        return run_raw(session, text, lambda: run(script))

    return seen


def _seen_table(session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    """``copy_from(file, table)`` of psycopg2."""

    def seen(file: Any, table: str, *args: Any, **kwargs: Any) -> Any:
        return run_raw(session, f'COPY "{table}" FROM STDIN', lambda: run(file, table, *args, **kwargs))

    return seen


def _seen_nothing(_session: Session, run: Callable[..., Any], _cursor: Any) -> Callable[..., Any]:
    return run


def _seen_stream(session: Session, run: Callable[..., Any], cursor: Any) -> Callable[..., Any]:
    """``stream`` of psycopg 3, whose rows arrive until the iteration ends."""

    def seen(statement: Any, *args: Any, **kwargs: Any) -> Any:
        before(session)
        text = text_of(statement, {"cursor": cursor})
        judged = judge(session, text)
        if judged.reads():
            return run(statement, *args, **kwargs)
        return run_raw(session, text, lambda: iter(list(run(statement, *args, **kwargs))), judged=judged)

    return seen


_SEEN: dict[str, Callable[[Session, Seen, Any], Seen]] = {
    "copy": _seen_copy,
    "copy_expert": _seen_statement,
    "copy_from": _seen_table,
    "copy_to": _seen_nothing,
    "stream": _seen_stream,
    "executescript": _seen_script,
}
