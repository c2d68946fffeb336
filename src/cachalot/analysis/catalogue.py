"""What stands behind a relation that no managed model owns: a view, a table made by hand, a partition.

The catalogue of the database is asked through the driver, so that no query count of the user changes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cachalot.analysis import columns as columns_of
from cachalot.analysis.rawsql import Kind, analyse
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

_ENDS = frozenset({"temporary", "foreign", "absent"})
"""Relations whose rows are not for the cache, and whose writes change nothing else."""


class Behind(NamedTuple):
    """What stands behind a relation that no managed model owns.

    :param reading: every relation whose writes can change what reading it gives; ``None`` if that is unknown.
    :param writing: every relation that a write to it can change; ``None`` if that is unknown.
    """

    reading: frozenset[str] | None
    writing: frozenset[str] | None


class _Relation(NamedTuple):
    """One row of the catalogue.

    :param kind: ``"table"``, ``"view"``, one of ``_ENDS``, or ``"other"``.
    :param definition: the query of a view.
    :param kin: parents and parts of a table.
    :param acts: whether a view has triggers or rules of its own.
    """

    kind: str
    definition: str = ""
    kin: frozenset[str] = frozenset()
    acts: bool = False


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
            return row.kind == "table" or (writing and row.kind in _ENDS)
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

    def _look_up(self, relation: str) -> _Relation:
        look_up = _LOOK_UPS.get(self._connection.vendor)
        if not relation or look_up is None:
            return _Relation("other")
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
        """Return what a statement of the role of today may return of a table of PostgreSQL.

        :param table: canonical name.
        :returns: whether all columns; the oldest MultiXact that may be in the table, if old versions, too.
        :raises Exception: what the driver raises when the catalogue cannot be read.
        """
        return self._ask(lambda cursor: columns_of.readable(cursor, table))

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


def _look_up_postgresql(cursor: Any, relation: str) -> _Relation:
    cursor.execute(
        "SELECT c.oid, c.relkind, c.relpersistence, pg_get_viewdef(c.oid), "
        "c.relhastriggers OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r "
        "WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') FROM pg_catalog.pg_class c "
        "WHERE lower(c.relname) = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [relation],
    )
    rows = cursor.fetchall()
    kinds = {_text(row[1]) for row in rows}
    if any(_text(row[2]) == "t" for row in rows):
        return _Relation("temporary")
    if kinds and kinds <= {"r", "p"}:
        cursor.execute(
            "WITH RECURSIVE up(oid) AS (SELECT oid FROM pg_catalog.pg_class WHERE lower(relname) = %s "
            "UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.oid), "
            "down(oid) AS (SELECT oid FROM up UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i "
            "JOIN down ON i.inhparent = down.oid) "
            "SELECT DISTINCT lower(c.relname) FROM pg_catalog.pg_class c JOIN down ON c.oid = down.oid",
            [relation],
        )
        return _Relation("table", kin=frozenset(_text(row[0]) for row in cursor.fetchall()))
    if kinds == {"f"}:
        return _Relation("foreign")
    if kinds == {"m"}:
        return _Relation("table")
    if kinds == {"v"} and len(rows) == 1:
        return _Relation("view", _text(rows[0][3]), acts=bool(rows[0][4]))
    return _Relation("other" if rows else "absent")


def _look_up_mysql(cursor: Any, relation: str) -> _Relation:
    cursor.execute(
        "SELECT t.table_type, v.view_definition FROM information_schema.tables t "
        "LEFT JOIN information_schema.views v "
        "ON v.table_schema = t.table_schema AND v.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND lower(t.table_name) = %s",
        [relation],
    )
    rows = cursor.fetchall()
    if len(rows) != 1:
        return _Relation("other" if rows else "absent")
    kind = {"BASE TABLE": "table", "VIEW": "view"}.get(_text(rows[0][0]), "other")
    return _Relation(kind, _text(rows[0][1] or ""))


def _look_up_sqlite(cursor: Any, relation: str) -> _Relation:
    for catalogue in ("sqlite_temp_master", "sqlite_master"):
        cursor.execute(
            f"SELECT type, sql FROM {catalogue} WHERE lower(name) = ? AND type IN ('table', 'view')",  # noqa: S608
            [relation],
        )
        rows = cursor.fetchall()
        if rows and catalogue == "sqlite_temp_master":
            return _Relation("temporary")
        if rows:
            kind, sql = rows[0]
            if kind == "view":
                return _Relation("view", _after_as(sql))
            virtual = sql.upper().lstrip().startswith("CREATE VIRTUAL")
            return _Relation("foreign" if virtual else "table")
    return _Relation("absent")


def _after_as(sql: str) -> str:
    """Return the query of ``CREATE VIEW name [(columns)] AS query``, its comments and line ends kept."""
    found = re.search(r"\bAS\s+(?=(?:SELECT|WITH|VALUES)\b)", sql, re.IGNORECASE)
    return sql[found.end() :] if found else ""


def _harmless_postgresql(cursor: Any, functions: frozenset[str]) -> frozenset[str]:
    cursor.execute(
        "SELECT lower(proname) FROM pg_catalog.pg_proc WHERE lower(proname) = ANY(%s) "
        "GROUP BY 1 HAVING bool_and(provolatile <> 'v')",
        [sorted(functions)],
    )
    return frozenset(_text(row[0]) for row in cursor.fetchall())


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, (bytes, bytearray)) else str(value)


_LOOK_UPS = {
    "postgresql": _look_up_postgresql,
    "mysql": _look_up_mysql,
    "sqlite": _look_up_sqlite,
}
