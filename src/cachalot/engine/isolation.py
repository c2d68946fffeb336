"""What a transaction sees of the commits of others, by database and by what was set by hand."""

from __future__ import annotations

import enum
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class Level(enum.Enum):
    """What a transaction sees of the commits of others.

    STATEMENT: each statement sees what was committed before it. SNAPSHOT: all statements see the state at the
    first one. SERIALIZABLE: the database must see every read to find conflicts. DIRTY: rows may be seen that
    are never committed.
    """

    STATEMENT = "statement"
    SNAPSHOT = "snapshot"
    SERIALIZABLE = "serializable"
    DIRTY = "dirty"


_LEVELS = {
    "read uncommitted": Level.DIRTY,
    "read committed": Level.STATEMENT,
    "repeatable read": Level.SNAPSHOT,
    "serializable": Level.SERIALIZABLE,
}
#: MariaDB knows the name that MySQL uses since 11.1.
_QUESTIONS = {
    "postgresql": ("SHOW default_transaction_isolation",),
    "mysql": ("SELECT @@session.transaction_isolation", "SELECT @@session.tx_isolation"),
}
_ORDER = (Level.STATEMENT, Level.SNAPSHOT, Level.SERIALIZABLE, Level.DIRTY)


def named(name: str, vendor: str) -> Level:
    """Return the level that a database calls ``name``; one that is not known counts as the strictest.

    PostgreSQL treats READ UNCOMMITTED as READ COMMITTED (manual, 13.2 Transaction Isolation).
    """
    level = _LEVELS.get(name.lower(), Level.SERIALIZABLE)
    return Level.STATEMENT if level is Level.DIRTY and vendor == "postgresql" else level


def stricter(one: Level, other: Level) -> Level:
    """Return the one of two levels under which less may be served."""
    return max(one, other, key=_ORDER.index)


def configured(connection: BaseDatabaseWrapper) -> Level | None:
    """Return the level that the settings give to transactions, ``None`` if the server decides."""
    options = connection.settings_dict.get("OPTIONS") or {}
    if connection.vendor == "mysql":
        usual = options.get("isolation_level", "read committed")
        level = getattr(connection, "isolation_level", usual)
        return named(str(level), "mysql") if level else None
    level = getattr(connection, "isolation_level", None)
    if connection.vendor != "postgresql":
        return Level.SERIALIZABLE
    if options.get("isolation_level") is None:
        return None
    return named(str(getattr(level, "name", "")).replace("_", " "), "postgresql")


def asked(connection: BaseDatabaseWrapper) -> Level | None:
    """Return the default level of a server, ``None`` if it does not say.

    Neither SHOW (PostgreSQL, src/backend/tcop/pquery.c) nor a SELECT without tables (MySQL manual, Consistent
    Nonlocking Reads) takes a snapshot, so this may be the first statement of a transaction.
    """
    for question in _QUESTIONS.get(connection.vendor, ()):
        with suppress(Exception), connection.connection.cursor() as cursor:
            cursor.execute(question)
            return named(str(cursor.fetchone()[0]).replace("-", " "), connection.vendor)
    return None
