"""What kind of relation a name stands for, as the catalogue of each database says."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

ACTS = "IN ('CASCADE', 'SET NULL', 'SET DEFAULT')"
"""What SQLite and MySQL call the rules by which a constraint changes the rows that refer to others."""

ENDS = frozenset({"temporary", "foreign", "absent"})
"""Relations whose rows are not for the cache, and whose writes change nothing else."""


class Relation(NamedTuple):
    """One row of the catalogue.

    :param kind: ``"table"``, ``"view"``, one of :data:`ENDS`, or ``"other"``.
    :param definition: the query of a view.
    :param kin: parents and parts of a table.
    :param acts: whether a view has triggers or rules of its own.
    """

    kind: str
    definition: str = ""
    kin: frozenset[str] = frozenset()
    acts: bool = False


def _look_up_postgresql(cursor: Any, relation: str) -> Relation:
    cursor.execute(
        "SELECT c.oid, c.relkind, c.relpersistence, pg_get_viewdef(c.oid), "
        "c.relhastriggers OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r "
        "WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') FROM pg_catalog.pg_class c "
        "WHERE lower(c.relname) = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [relation],
    )
    rows = cursor.fetchall()
    kinds = {text(row[1]) for row in rows}
    if any(text(row[2]) == "t" for row in rows):
        return Relation("temporary")
    if kinds and kinds <= {"r", "p"}:
        cursor.execute(
            "WITH RECURSIVE up(oid) AS (SELECT oid FROM pg_catalog.pg_class WHERE lower(relname) = %s "
            "UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN up ON i.inhrelid = up.oid), "
            "down(oid) AS (SELECT oid FROM up UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i "
            "JOIN down ON i.inhparent = down.oid) "
            "SELECT DISTINCT lower(c.relname) FROM pg_catalog.pg_class c JOIN down ON c.oid = down.oid",
            [relation],
        )
        return Relation("table", kin=frozenset(text(row[0]) for row in cursor.fetchall()))
    if kinds == {"f"}:
        return Relation("foreign")
    if kinds == {"m"}:
        return Relation("table")
    if kinds == {"v"} and len(rows) == 1:
        return Relation("view", text(rows[0][3]), acts=bool(rows[0][4]))
    return Relation("other" if rows else "absent")


def _look_up_mysql(cursor: Any, relation: str) -> Relation:
    cursor.execute(
        "SELECT t.table_type, v.view_definition FROM information_schema.tables t "
        "LEFT JOIN information_schema.views v "
        "ON v.table_schema = t.table_schema AND v.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND lower(t.table_name) = %s",
        [relation],
    )
    rows = cursor.fetchall()
    if len(rows) != 1:
        return Relation("other" if rows else "absent")
    kind = {"BASE TABLE": "table", "VIEW": "view"}.get(text(rows[0][0]), "other")
    return Relation(kind, text(rows[0][1] or ""))


def _look_up_sqlite(cursor: Any, relation: str) -> Relation:
    for catalogue in ("sqlite_temp_master", "sqlite_master"):
        cursor.execute(
            f"SELECT type, sql FROM {catalogue} WHERE lower(name) = ? AND type IN ('table', 'view')",  # noqa: S608
            [relation],
        )
        rows = cursor.fetchall()
        if rows and catalogue == "sqlite_temp_master":
            return Relation("temporary")
        if rows:
            kind, sql = rows[0]
            if kind == "view":
                return Relation("view", _after_as(sql))
            virtual = sql.upper().lstrip().startswith("CREATE VIRTUAL")
            return Relation("foreign" if virtual else "table")
    return Relation("absent")


def _after_as(sql: str) -> str:
    """Return the query of ``CREATE VIEW name [(columns)] AS query``, its comments and line ends kept."""
    found = re.search(r"\bAS\s+(?=(?:SELECT|WITH|VALUES)\b)", sql, re.IGNORECASE)
    return sql[found.end() :] if found else ""


def text(value: Any) -> str:
    """Return a text of the catalogue, which some drivers give as bytes."""
    return value.decode() if isinstance(value, (bytes, bytearray)) else str(value)


LOOK_UPS = {
    "postgresql": _look_up_postgresql,
    "mysql": _look_up_mysql,
    "sqlite": _look_up_sqlite,
}
