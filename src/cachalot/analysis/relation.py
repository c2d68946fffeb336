"""What kind of relation a name stands for, as the catalogue of each database says."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

ACTS = "IN ('CASCADE', 'SET NULL', 'SET DEFAULT')"
"""What SQLite and MySQL call the rules by which a constraint changes the rows that refer to others."""

ENDS = frozenset({"temporary", "foreign", "absent", "without transactions"})
"""Relations whose rows are not for the cache, and whose writes change nothing else."""


class Relation(NamedTuple):
    """One row of the catalogue.

    :param kind: ``"table"``, ``"view"``, one of :data:`ENDS`, or ``"other"``.
    :param definition: the query of a view.
    :param kin: parents and parts of a table.
    :param acts: whether a view has triggers or rules of its own.
    :param deleted_with: tables it refers to, where the database acts itself when their rows are deleted.
    :param changed_with: the same for rows whose values are changed.
    """

    kind: str
    definition: str = ""
    kin: frozenset[str] = frozenset()
    acts: bool = False
    deleted_with: frozenset[str] = frozenset()
    changed_with: frozenset[str] = frozenset()


def _with_actions(relation: Relation, found: list[Any]) -> Relation:
    """Add what the database does by itself.

    :param found: table referred to, whether it acts when rows of it are deleted, and when they are changed.
    """
    return relation._replace(
        deleted_with=frozenset(text(parent) for parent, deleted, _changed in found if deleted),
        changed_with=frozenset(text(parent) for parent, _deleted, changed in found if changed),
    )


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
        table = Relation("table", kin=frozenset(text(row[0]) for row in cursor.fetchall()))
        cursor.execute(
            "SELECT lower(p.relname), k.confdeltype IN ('c', 'n', 'd'), k.confupdtype IN ('c', 'n', 'd') "
            "FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid "
            "JOIN pg_catalog.pg_class p ON p.oid = k.confrelid "
            "WHERE k.contype = 'f' AND lower(c.relname) = %s AND k.confrelid <> k.conrelid",
            [relation],
        )
        return _with_actions(table, cursor.fetchall())
    if kinds == {"f"}:
        return Relation("foreign")
    if kinds == {"m"}:
        return Relation("table")
    if kinds == {"v"} and len(rows) == 1:
        return Relation("view", text(rows[0][3]), acts=bool(rows[0][4]))
    return Relation("other" if rows else "absent")


_WITH_TRANSACTIONS = "SELECT engine FROM information_schema.engines WHERE transactions = 'YES'"


def _look_up_mysql(cursor: Any, relation: str) -> Relation:
    cursor.execute(
        "SELECT t.table_type, v.view_definition, t.table_type = 'BASE TABLE' AND t.engine NOT IN "  # noqa: S608
        f"({_WITH_TRANSACTIONS}) FROM information_schema.tables t LEFT JOIN information_schema.views v "
        "ON v.table_schema = t.table_schema AND v.table_name = t.table_name "
        "WHERE t.table_schema = DATABASE() AND lower(t.table_name) = %s",
        [relation],
    )
    rows = cursor.fetchall()
    if len(rows) != 1:
        return Relation("other" if rows else "absent")
    if rows[0][2]:
        return Relation("without transactions")  # a rollback does not undo what is written to it
    kind = {"BASE TABLE": "table", "VIEW": "view"}.get(text(rows[0][0]), "other")
    if kind != "table":
        return Relation(kind, text(rows[0][1] or ""))
    cursor.execute(
        f"SELECT lower(referenced_table_name), delete_rule {ACTS}, update_rule {ACTS} "  # noqa: S608
        "FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE() "
        "AND lower(table_name) = %s AND lower(referenced_table_name) <> lower(table_name)",
        [relation],
    )
    return _with_actions(Relation(kind), list(cursor.fetchall()))


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
            return Relation("foreign") if virtual else _with_actions_of_sqlite(cursor, relation)
    return Relation("absent")


def _with_actions_of_sqlite(cursor: Any, relation: str) -> Relation:
    cursor.execute(
        f'SELECT lower(f."table"), f.on_delete {ACTS}, f.on_update {ACTS} '  # noqa: S608
        "FROM sqlite_master m, pragma_foreign_key_list(m.name) f "
        "WHERE m.type = 'table' AND lower(m.name) = ? AND lower(f.\"table\") <> lower(m.name)",
        [relation],
    )
    return _with_actions(Relation("table"), cursor.fetchall())


def _odd_in_postgresql(cursor: Any, names: frozenset[str]) -> frozenset[str]:
    cursor.execute(
        "SELECT DISTINCT lower(c.relname) FROM pg_catalog.pg_class c WHERE lower(c.relname) = ANY(%s) AND "
        "(c.relkind IN ('v', 'f') OR c.relkind IN ('r', 'p') AND (EXISTS (SELECT 1 FROM "
        "pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)) OR EXISTS (SELECT 1 FROM "
        "pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' "
        "AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd')))))",
        [sorted(names)],
    )
    return frozenset(text(row[0]) for row in cursor.fetchall())


def _odd_in_mysql(cursor: Any, _names: frozenset[str]) -> frozenset[str]:
    cursor.execute(
        "SELECT lower(table_name) FROM information_schema.tables WHERE table_schema = DATABASE() "  # noqa: S608
        f"AND (table_type <> 'BASE TABLE' OR engine NOT IN ({_WITH_TRANSACTIONS})) "
        "UNION SELECT lower(table_name) FROM information_schema.referential_constraints "
        f"WHERE constraint_schema = DATABASE() AND (delete_rule {ACTS} OR update_rule {ACTS})"
    )
    return frozenset(text(row[0]) for row in cursor.fetchall())


def _odd_in_sqlite(cursor: Any, _names: frozenset[str]) -> frozenset[str]:
    found: set[str] = set()
    for catalogue in ("sqlite_temp_master", "sqlite_master"):
        cursor.execute(
            f"SELECT lower(name) FROM {catalogue} WHERE type = 'view' "  # noqa: S608
            "OR type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
        )
        found.update(row[0] for row in cursor.fetchall())
    cursor.execute(
        "SELECT lower(m.name) FROM sqlite_master m, pragma_foreign_key_list(m.name) f "  # noqa: S608
        f"WHERE m.type = 'table' AND (f.on_delete {ACTS} OR f.on_update {ACTS})"
    )
    return frozenset(found.union(row[0] for row in cursor.fetchall()))


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

ODD = {"postgresql": _odd_in_postgresql, "mysql": _odd_in_mysql, "sqlite": _odd_in_sqlite}
