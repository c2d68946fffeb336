"""The outbox: invalidations that wait in the database itself, written by the transaction they belong to.

A row is visible exactly when its transaction is committed, whoever commits it, and it survives the process
that wrote it. It names tables, not keys: the process that delivers it computes the keys from its settings.

Rows are read, delivered and only then deleted, each by its number: at least once. Two processes may deliver
the same row, which costs misses. Rejected: ``DELETE … RETURNING`` over rows that others have not locked (SKIP
LOCKED). Who skips the rows that another process is about to deliver goes on before they are delivered.

All statements go through the driver's own cursor: they are neither seen nor counted as those of the user.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import Error

from cachalot.conf import OUTBOX_TABLE
from cachalot.core.tags import EVERYTHING, NOTHING, Effects, Scope
from cachalot.observe.events import CacheEvent, emit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.conf import Config
    from cachalot.engine.session import Session

logger = logging.getLogger("cachalot")

PAGE = 500
"""Rows read at a time."""

ASK_AGAIN_SECONDS = 60
"""After this time a table that was not there is looked for again: another process may have migrated."""

_SAVEPOINT = "cachalot_outbox_row"

_IS_THERE = {
    "postgresql": f"SELECT 1 WHERE to_regclass('{OUTBOX_TABLE}') IS NOT NULL",
    "mysql": "SELECT 1 FROM information_schema.tables "  # noqa: S608 - nothing of the user
    f"WHERE table_schema = DATABASE() AND table_name = '{OUTBOX_TABLE}'",
    "sqlite": f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{OUTBOX_TABLE}'",  # noqa: S608 - the same
}

_DECIDING = ("search_path", "role", "session_authorization")
"""Settings of a session that decide which table a name means."""

MAX_PLACES = 10_000
"""Places known at a time: a project may have as many schemas as customers."""

Place = tuple[str, ...]

_there: dict[Place, tuple[bool, float]] = {}
"""Whether there is a table, and when that was asked."""


def forget(**_kwargs: object) -> None:
    """Forget which databases have the table, after a migration."""
    _there.clear()


def place_of(session: Session, config: Config) -> Place:
    """Return what decides on which table a connection sees, and how much of it.

    The database; the alias, for a replica sees less than its primary; and the schema in which names are
    found.
    """
    connection = session.connection
    schema = str(getattr(connection, "schema_name", ""))
    # Elsewhere no setting decides; what is set for each request there must not make a place of its own.
    decided = session.settings.of(_DECIDING) if connection.vendor == "postgresql" else ()
    return session.namespace(config).root, connection.alias, schema, *decided


def supported(session: Session) -> bool:
    """Return whether a database of this kind can have an outbox."""
    return session.connection.vendor in _IS_THERE


def is_there(session: Session, config: Config) -> bool:
    """Return whether the database of an open connection has the table; asked once.

    :raises django.db.Error: the database does not answer.
    """
    connection = session.connection
    if not supported(session) or connection.connection is None or session.answers_later():
        return False
    place = place_of(session, config)
    there, asked = _there.get(place, (False, float("-inf")))
    if not there and time.monotonic() - asked > ASK_AGAIN_SECONDS:
        with _protected(session):
            there = bool(_ask(connection, _IS_THERE[connection.vendor]))
        if len(_there) > MAX_PLACES:
            _there.clear()
        _there[place] = (there, time.monotonic())
    return there


def ask_again(session: Session, config: Config) -> None:
    """Forget whether a database has the table, after an error."""
    _there.pop(place_of(session, config), None)


def put(session: Session, cache: str, effects: Effects, config: Config, gid: str = "") -> bool:
    """Insert a row, into the transaction of a connection if there is one.

    :param cache: alias of the cache that is to be told.
    :param gid: name under which the transaction is about to be prepared; empty for any other.
    :returns: whether it is there. If it is not, nothing else has changed.
    :raises django.db.Error: the transaction itself is lost.
    """
    text = (
        f"INSERT INTO {OUTBOX_TABLE} (id, created, cache, tags, gid) "  # noqa: S608 - nothing of the user
        "VALUES (%s, CURRENT_TIMESTAMP, %s, %s, %s)"
    )
    # Drawn here: a number of the database would be the answer to a lastval() or LAST_INSERT_ID() of the user.
    number = int.from_bytes(os.urandom(8), "big") >> 1
    try:
        with _protected(session):
            _execute(session.connection, text, (number, cache, _written(effects), gid[:255]))
    except _NotInsertedError as error:
        ask_again(session, config)
        logger.warning("The outbox did not take an invalidation: %s", error)
        return False
    return True


def tell(effects: Effects) -> None:
    """Tell those who listen that an invalidation waits in the outbox."""
    emit(CacheEvent("outbox", ", ".join(map(str, effects.tags()))))


def rows(session: Session, cache: str, after: int) -> list[tuple[int, Effects]]:
    """Return the next rows for a cache, in the order of their numbers, and what they end.

    :param after: number of the last row seen.
    :raises django.db.Error: the database does not answer, or does not have the table.
    """
    text = f"SELECT id, tags FROM {OUTBOX_TABLE} WHERE id > %s AND cache = %s ORDER BY id LIMIT {PAGE}"  # noqa: S608 - nothing of the user
    return [(number, _read(tags)) for number, tags in _ask(session.connection, text, (after, cache))]


def remove(session: Session, numbers: Sequence[int]) -> None:
    """Delete rows that were delivered.

    MariaDB locks what it scans, also rows of transactions that are prepared; one row at a time it scans none.

    :raises django.db.Error: the database does not let us.
    """
    connection = session.connection
    if connection.vendor != "mysql":
        places = ", ".join(["%s"] * len(numbers))
        _execute(connection, f"DELETE FROM {OUTBOX_TABLE} WHERE id IN ({places})", numbers)  # noqa: S608 - places
        return
    with _transaction(connection):
        for number in numbers:
            _execute(connection, f"DELETE FROM {OUTBOX_TABLE} WHERE id = %s", (number,))  # noqa: S608 - nothing of the user


@contextmanager
def _transaction(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """A transaction around what is run in autocommit; what is not autocommit is in one already."""
    if not connection.autocommit:
        yield
        return
    _execute(connection, "BEGIN")
    try:
        yield
        _execute(connection, "COMMIT")
    except BaseException:
        with suppress(Error):
            _execute(connection, "ROLLBACK")
        raise


class _NotInsertedError(Error):
    """A statement has failed, and its transaction has not."""


@contextmanager
def _protected(session: Session) -> Iterator[None]:
    """Let a statement that fails leave the transaction around it as it was."""
    connection = session.connection
    if session.transaction() is None:
        try:
            yield
        except Error as error:
            raise _NotInsertedError(str(error)) from error
        return
    try:
        _execute(connection, f"SAVEPOINT {_SAVEPOINT}")
    except Error as error:
        raise _NotInsertedError(str(error)) from error
    try:
        yield
    except Error as error:
        try:
            _execute(connection, f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        except Error:
            # There is no transaction any more: to commit it now would be to commit nothing, in silence.
            raise error from None
        raise _NotInsertedError(str(error)) from error
    _execute(connection, f"RELEASE SAVEPOINT {_SAVEPOINT}")


@contextmanager
def _cursor(connection: BaseDatabaseWrapper) -> Iterator[Any]:
    driver: Any = connection.connection
    with connection.wrap_database_errors, closing(driver.cursor()) as cursor:
        yield cursor


def _run(cursor: Any, vendor: str, text: str, params: Sequence[Any]) -> None:
    if vendor == "sqlite":
        text = text.replace("%s", "?")
    if params:
        cursor.execute(text, tuple(params))
    else:
        cursor.execute(text)


def _execute(connection: BaseDatabaseWrapper, text: str, params: Sequence[Any] = ()) -> None:
    with _cursor(connection) as cursor:
        _run(cursor, connection.vendor, text, params)


def _ask(connection: BaseDatabaseWrapper, text: str, params: Sequence[Any] = ()) -> list[Any]:
    with _cursor(connection) as cursor:
        _run(cursor, connection.vendor, text, params)
        return list(cursor.fetchall())


def _written(effects: Effects) -> str:
    coarse = effects.coarse()
    tables = [[Scope.ANY.value, table] for table in sorted(coarse.whole)]
    return json.dumps([[Scope.EPOCH.value, ""], *tables] if coarse.everything else tables)


def _read(text: str) -> Effects:
    """Return what a row ends; what a later release has written and this one does not know is everything."""
    try:
        total = NOTHING
        for scope, table in json.loads(text):
            total |= Effects(frozenset({str(table)})) if scope == Scope.ANY.value else EVERYTHING
    except (TypeError, ValueError):
        return EVERYTHING
    return total
