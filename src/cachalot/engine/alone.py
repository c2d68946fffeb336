"""A transaction around one write that would have committed by itself.

What a statement has changed is known in full when it has run (``RETURNING``), but the cache must be told
before it is committed. It is begun through the driver: to Django the connection stays in autocommit, and the
isolation level is the one that a statement in autocommit has. It begins when the first statement of the write
is about to be sent, and not while it is compiled: a field may read and write, and use ``atomic``, to find its
value. An execute wrapper may want a transaction of its own after the statement: then this one ends before. It
may also send the statement again, because it has failed or not: each time has a transaction of its own.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from django.db import OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.session import Session

_BEGIN = {"postgresql": "BEGIN", "mysql": "BEGIN", "sqlite": "BEGIN IMMEDIATE"}
"""SQLite takes its lock at once, and waits for it, as the statement itself would."""

_KEPT = "_cachalot_alone"
"""What has run is kept by it, whatever an execute wrapper asks the driver itself behind it."""


class Alone:
    """The transaction of one write.

    :param session: of its connection.
    :param marked: runs what commits, with MARK before and DONE after it, for all that the write may change.
    :ivar begun: whether it has begun, and holds a statement that has run.
    :ivar ending: whether it is being committed.
    :ivar sent: whether any statement of the write has come to a cursor of ours.
    """

    def __init__(self, session: Session, marked: Callable[[Callable[[], Any]], Any]) -> None:
        self._session = session
        self._marked = marked
        self.begun = False
        self.ending = False
        self.sent = False

    def run(self, statement: Callable[[], Any]) -> Any:
        """Run a statement of the write inside of it, or by itself, if there can be none.

        :raises django.db.Error: the database does not answer, SQLite is locked, or the statement has failed.
        """
        self.settle()
        self.sent = True
        if not self._begin():
            return self._marked(statement)
        try:
            result = statement()
            if self._session.may_be_aborted():
                _execute(self._session, f"SAVEPOINT {_KEPT}")
        except BaseException:
            roll_back(self._session)
            raise
        self.begun = True
        return result

    def settle(self) -> None:
        """Commit what was written so far: somebody wants something else of the connection.

        While rows of an INSERT are to be read SQLite does not commit; it goes on then.

        :raises django.db.Error: it was not committed, or it is not known whether it was.
        """
        if not self.begun:
            return
        try:
            self.end(lambda: self._marked(lambda: commit(self._session)), kept=self._session.reads_on())
        except OperationalError:
            if not self.begun:
                raise

    def end(self, finish: Callable[[], Any], *, kept: bool = False) -> None:
        """Let ``finish`` commit it, and roll back if that fails.

        :param kept: whether it goes on if SQLite does not commit it now.
        :raises django.db.Error: it was not committed, or it is not known whether it was.
        """
        self.begun, self.ending = False, True
        try:
            finish()
        except BaseException:
            self.begun = kept and not self._session.idle()
            if not self.begun:
                roll_back(self._session)
            raise
        finally:
            self.ending = False
        self._session.ended()

    def _begin(self) -> bool:
        session = self._session
        if not possible(session):
            return False
        session.connection.ensure_connection()
        if not possible(session):  # now that there is a connection to be asked
            return False
        session.begun()
        try:
            _execute(session, _BEGIN[session.connection.vendor])
        except BaseException:  # also a signal's, when it has begun
            roll_back(session)
            raise
        return True


def settle(session: Session) -> bool:
    """End the transaction of a write in autocommit, of which who comes in its middle knows nothing.

    :returns: whether there is none any more.
    :raises django.db.Error: it was not committed, or it is not known whether it was.
    """
    mine = session.work.alone
    if mine is None:
        return True
    mine.settle()
    return not mine.begun


def possible(session: Session) -> bool:
    """Return whether a transaction could begin now."""
    connection = session.connection
    if connection.vendor not in _BEGIN or session.level_pending or session.answers_later():
        return False
    if not connection.features.supports_transactions or session.tables_locked:
        return False
    if session.transaction() is not None or connection.allow_thread_sharing:
        return False  # the statements of other threads would be in it
    if session.settings.unknown:
        return False  # a procedure may have begun one, SQLite would lock databases that are attached
    return connection.connection is None or (connection.autocommit and session.idle())


def commit(session: Session) -> None:
    """Commit it.

    :raises django.db.Error: it was not committed, or it is not known whether it was.
    """
    if session.aborted():  # PostgreSQL would answer with ROLLBACK, and what has run be lost
        _execute(session, f"ROLLBACK TO SAVEPOINT {_KEPT}")
    # Whatever completion_type says (manual, COMMIT).
    _execute(session, "COMMIT AND NO CHAIN NO RELEASE" if session.connection.vendor == "mysql" else "COMMIT")


def roll_back(session: Session) -> None:
    """Roll it back, if it is there; where that fails Django is told to look at the connection."""
    connection = session.connection
    try:
        if connection.connection is not None and (connection.vendor == "mysql" or not session.idle()):
            _execute(session, "ROLLBACK")
    except Exception:  # noqa: BLE001 - the error that was the reason is raised
        connection.errors_occurred = True
    session.rolled_back()


def _execute(session: Session, text: str) -> None:
    connection = session.connection
    with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
        cursor.execute(text)
