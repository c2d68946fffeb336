"""A transaction around one statement that would have committed by itself.

What a statement has changed is known in full when it has run (``RETURNING``), but the cache must be told
before it is committed. It is begun through the driver: to Django the connection stays in autocommit, and the
isolation level is the one that a statement in autocommit has.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cachalot.engine.session import Session

_BEGIN = {"postgresql": "BEGIN", "mysql": "BEGIN", "sqlite": "BEGIN IMMEDIATE"}
"""SQLite takes its lock at once, and waits for it, as the statement itself would."""

_IDLE = 0
"""libpq's PQTRANS_IDLE."""


def begin(session: Session) -> bool:
    """Begin a transaction, and return whether that was possible.

    :raises django.db.Error: the database does not answer, or SQLite is locked.
    """
    connection = session.connection
    text = _BEGIN.get(connection.vendor)
    if text is None or session.level_pending or session.answers_later():
        return False
    connection.ensure_connection()
    if not connection.autocommit or not connection.features.supports_transactions or not _idle(session):
        return False
    _execute(session, text)
    session.begun()
    return True


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
