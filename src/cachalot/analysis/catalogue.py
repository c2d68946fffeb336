"""What stands behind a relation that no managed model owns: a view, a table made by hand, a partition.

The catalogue of the database is asked through the driver, so that no query count of the user changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cachalot.analysis import columns as columns_of
from cachalot.analysis import versions
from cachalot.analysis.rawsql import Kind, analyse
from cachalot.analysis.relation import ENDS, LOOK_UPS, Relation, text
from cachalot.analysis.tablekeys import Columns
from cachalot.analysis.volatility import unstable

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.db.backends.base.base import BaseDatabaseWrapper

    from cachalot.conf import Config

Answer = TypeVar("Answer")

MAX_DEPTH = 20
"""Views upon views deeper than this are not followed."""

_IN_TRANSACTION = 2
"""libpq's PQTRANS_INTRANS."""


class Behind(NamedTuple):
    """What stands behind a relation that no managed model owns.

    :param reading: every relation whose writes can change what reading it gives; ``None`` if that is unknown.
    :param writing: every relation that a write to it can change; ``None`` if that is unknown.
    """

    reading: frozenset[str] | None
    writing: frozenset[str] | None


class Catalogue:
    """What the catalogue of one database says.

    :param connection: an open connection to it.
    :param config: the settings of today.
    """

    def __init__(self, connection: BaseDatabaseWrapper, config: Config) -> None:
        self._connection = connection
        self._config = config

    def behind(self, relation: str) -> Behind:
        """Return what stands behind a relation.

        :param relation: canonical name.
        :raises Exception: what the driver raises when the catalogue cannot be read.
        """
        read: set[str] = set()
        written: set[str] = set()
        readable = self._collect(relation, read, MAX_DEPTH, writing=False)
        writable = self._collect(relation, written, MAX_DEPTH, writing=True)
        return Behind(frozenset(read) if readable else None, frozenset(written) if writable else None)

    def _collect(self, relation: str, found: set[str], depth: int, *, writing: bool) -> bool:
        """Add what stands behind a relation, and return whether all of it is known."""
        if relation in found:
            return True
        if depth == 0:
            return False
        found.add(relation)
        row = self._look_up(relation)
        found.update(row.kin)
        if row.kind != "view":
            return row.kind == "table" or (writing and row.kind in ENDS)
        if writing and (row.acts or self._connection.vendor == "sqlite"):
            return False
        tables = self._read_by(row.definition, writing=writing)
        return bool(tables) and all(
            self._collect(table, found, depth - 1, writing=writing) for table in sorted(tables or ())
        )

    def _read_by(self, definition: str, *, writing: bool) -> frozenset[str] | None:
        """Return what the definition of a view reads, ``None`` if its result does not follow from tables."""
        vendor = self._connection.vendor
        statements = analyse(definition, vendor)
        if len(statements) != 1 or statements[0].kind is not Kind.READ:
            return None
        if not writing and unstable(statements[0].functions, vendor, self._config.stable_functions):
            return None
        return statements[0].reads

    def _look_up(self, relation: str) -> Relation:
        look_up = LOOK_UPS.get(self._connection.vendor)
        if not relation or look_up is None:
            return Relation("other")
        return self._ask(lambda cursor: look_up(cursor, relation))

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        return asked(self._connection, question)

    def columns(self, table: str) -> Columns:
        """Return what decides on the keys of a table.

        :param table: canonical name.
        :raises Exception: what the driver raises when the catalogue cannot be read.
        """
        look_up = columns_of.LOOK_UPS.get(self._connection.vendor)
        return Columns(False, {}) if look_up is None else self._ask(lambda cursor: look_up(cursor, table))

    def readable(self, table: str) -> tuple[bool, int | None]:
        """Return what a statement of PostgreSQL may return of a table; see :func:`versions.readable`."""
        return self._ask(lambda cursor: versions.readable(cursor, table))

    def functions_that_write(self, functions: frozenset[str]) -> frozenset[str]:
        """Return which functions of the database may change rows: in PostgreSQL those declared VOLATILE.

        :raises Exception: what the driver raises when the catalogue cannot be read.
        """
        if self._connection.vendor == "sqlite":
            return frozenset()  # they are written in the language of the program, and have no connection
        if self._connection.vendor != "postgresql" or not functions:
            return functions
        return functions - self._ask(lambda cursor: _harmless_postgresql(cursor, functions))


def asked(connection: BaseDatabaseWrapper, question: Callable[[Any], Answer]) -> Answer:
    """Ask through the driver; an error leaves the transaction of the user as it was.

    :param connection: an open connection.
    :param question: asks, given a cursor of the driver.
    :raises Exception: what the driver raises.
    """
    driver = connection.connection
    inside = connection.vendor == "postgresql" and int(driver.info.transaction_status) == _IN_TRANSACTION
    cursor = driver.cursor()
    try:
        return _saved(cursor, question) if inside else question(cursor)
    finally:
        cursor.close()


def _saved(cursor: Any, question: Callable[[Any], Answer]) -> Answer:
    """Ask so that an error leaves the transaction of the user as it was."""
    cursor.execute("SAVEPOINT cachalot_catalogue")
    try:
        return question(cursor)
    except Exception:
        cursor.execute("ROLLBACK TO SAVEPOINT cachalot_catalogue")
        raise
    finally:
        cursor.execute("RELEASE SAVEPOINT cachalot_catalogue")


def _harmless_postgresql(cursor: Any, functions: frozenset[str]) -> frozenset[str]:
    cursor.execute(
        "SELECT lower(proname) FROM pg_catalog.pg_proc WHERE lower(proname) = ANY(%s) "
        "GROUP BY 1 HAVING bool_and(provolatile <> 'v')",
        [sorted(functions)],
    )
    return frozenset(text(row[0]) for row in cursor.fetchall())
