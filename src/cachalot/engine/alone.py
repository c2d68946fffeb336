"""A transaction around one write that would have committed by itself.

What a statement has changed is known in full when it has run (``RETURNING``), but the cache must be told
before it is committed. It is begun through the driver: to Django the connection stays in autocommit, and the
isolation level is the one that a statement in autocommit has. It begins when the first statement of the write
is about to be sent, and not while it is compiled: a field may read and write, and use ``atomic``, to find its
value. An execute wrapper may want a transaction of its own after the statement: then this one ends before.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from cachalot.engine.session import Session

_BEGIN = {"postgresql": "BEGIN", "mysql": "BEGIN", "sqlite": "BEGIN IMMEDIATE"}
"""SQLite takes its lock at once, and waits for it, as the statement itself would."""

_IDLE = 0
"""libpq's PQTRANS_IDLE."""


class Alone:
    """The transaction of one write.

    :param session: of its connection.
    :param marked: runs what commits, with MARK before and DONE after it, for all that the write may change.
    :ivar begun: whether it has begun and has not ended.
    :ivar unsent: whether a statement of the write has not come to a cursor of ours.
    """

    def __init__(self, session: Session, marked: Callable[[Callable[[], Any]], Any]) -> None:
        self._session = session
        self._marked = marked
        self.begun = False
        self.unsent = False

    def run(self, statement: Callable[[], Any]) -> Any:
        """Run a statement of the write inside of it, or by itself, if there can be none.

        :raises django.db.Error: the database does not answer, SQLite is locked, or the statement has failed.
        """
        if not self.begun and possible(self._session):
            self._begin()
        return statement() if self.begun else self._marked(statement)

    def settle(self) -> None:
        """Commit what was written so far: somebody wants to begin, commit or roll back by himself.

        :raises django.db.Error: it was not committed, or it is not known whether it was.
        """
        if not self.begun:
            return
        try:
            self._marked(lambda: commit(self._session))
        except BaseException:
            roll_back(self._session)
            raise
        finally:
            self.begun = False
        self._session.ended()

    def _begin(self) -> None:
        session = self._session
        session.connection.ensure_connection()
        if possible(session):  # now that there is a connection to be asked
            _execute(session, _BEGIN[session.connection.vendor])
            session.begun()
            self.begun = True


def possible(session: Session) -> bool:
    """Return whether a transaction could begin now."""
    connection = session.connection
    if connection.vendor not in _BEGIN or session.level_pending or session.answers_later():
        return False
    if not connection.features.supports_transactions or session.tables_locked:
        return False
    if session.transaction() is not None:
        return False
    return connection.connection is None or (connection.autocommit and _idle(session))


def commit(session: Session) -> None:
    """Commit it.

    :raises django.db.Error: it was not committed, or it is not known whether it was.
    """
    _execute(session, "COMMIT")


def roll_back(session: Session) -> None:
    """Roll it back; a connection on which that fails is closed, as nobody else knows of the transaction."""
    try:
        if session.connection.connection is not None:
            _execute(session, "ROLLBACK")
    except Exception:  # noqa: BLE001 - the error that was the reason is raised
        with suppress(Exception):
            session.connection.connection.close()
    session.rolled_back()


def _idle(session: Session) -> bool:
    """Return whether the driver has no transaction, no COPY and no pipeline under way."""
    connection = session.connection
    if connection.vendor == "sqlite":
        return not connection.connection.in_transaction
    if connection.vendor != "postgresql":
        return True
    return int(connection.connection.info.transaction_status) == _IDLE


def _execute(session: Session, text: str) -> None:
    connection = session.connection
    with connection.wrap_database_errors, closing(connection.connection.cursor()) as cursor:
        cursor.execute(text)
