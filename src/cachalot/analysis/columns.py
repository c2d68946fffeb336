"""What the catalogue says about the columns of a table: how values are compared, and who else writes them.

Where two relations of one name exist, in different schemas, all of them must be plain, and a column has a
kind only if it has the same one in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachalot.analysis.canonical import Kind
from cachalot.analysis.relation import ACTS
from cachalot.analysis.relation import text as _text
from cachalot.analysis.tablekeys import Columns

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN = Columns(plain=False, kinds={})

_POSTGRESQL_KINDS = {
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "bool": Kind.INTEGER,
    "uuid": Kind.UUID,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.PADDED,
}


def of_postgresql(cursor: Any, table: str) -> Columns:
    """Return what PostgreSQL says: a table without triggers or rules, parents or parts, in its own heap.

    A policy of row-level security reads columns that no statement names. What the system columns of a row
    mean is known of the access method "heap" only (manual, 63, Table Access Method Interface).
    """
    cursor.execute(
        "SELECT c.relkind::text, c.relpersistence::text, c.relispartition OR EXISTS "
        "(SELECT 1 FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid), EXISTS "
        "(SELECT 1 FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal) OR EXISTS "
        "(SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid) OR c.relrowsecurity "
        "OR EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' "
        "AND k.confrelid = c.oid AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))) "
        "OR NOT EXISTS (SELECT 1 FROM pg_catalog.pg_am m WHERE m.oid = c.relam AND m.amname = 'heap') "
        "FROM pg_catalog.pg_class c "
        "WHERE lower(c.relname) = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        [table],
    )
    rows = cursor.fetchall()
    if not rows or any(
        (_text(kind), _text(life)) != ("r", "p") or kin or acts for kind, life, kin, acts in rows
    ):
        return UNKNOWN
    # A collation that is not deterministic finds texts equal whose bytes differ (manual, 24.2.2.4). In a
    # database without an encoding a text may be none that can be sent to a client.
    cursor.execute(
        "SELECT c.oid::bigint, a.attname::text, t.typname::text, coalesce(o.collisdeterministic, true) AND "
        "(current_setting('server_encoding') <> 'SQL_ASCII' OR t.typcategory <> 'S'), "
        "a.attnotnull, a.attgenerated::text, a.attnum > 0 "
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid "
        "JOIN pg_catalog.pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation "
        "WHERE lower(c.relname) = %s AND c.relkind = 'r' AND NOT a.attisdropped",
        [table],
    )
    found: dict[Any, dict[str, str]] = {}
    required, changing, names = set(), set(), set()
    for relation, label, name, deterministic, not_null, generated, of_user in cursor.fetchall():
        column = _text(label)
        names.add(column)
        if not of_user:
            continue
        kind = _POSTGRESQL_KINDS.get(_text(name)) if deterministic else None
        found.setdefault(relation, {})[column] = "" if kind is None else kind.value
        if not_null:
            required.add(column)
        if _text(generated):
            changing.add(column)
    columns = Columns(True, _common(found.values()), tuple(sorted(changing)), names=tuple(sorted(names)))
    if len(found) != 1:
        return columns
    return columns._replace(
        references=_references(cursor, table),
        required=tuple(sorted(required)),
        unique=_unique(cursor, next(iter(found))),
    )


def _unique(cursor: Any, relation: Any) -> tuple[tuple[str, ...], ...]:
    """Return the columns of the indexes by which PostgreSQL lets no two rows be equal at any time."""
    cursor.execute(
        "SELECT (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_catalog.pg_attribute a "
        "WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])) "
        "FROM pg_catalog.pg_index i WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid "
        "AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL",
        [relation],
    )
    return tuple(sorted(tuple(map(_text, row[0])) for row in cursor.fetchall()))


def _references(cursor: Any, table: str) -> tuple[tuple[str, str, str], ...]:
    """Return the foreign keys of one column that PostgreSQL has validated and enforces, by names.

    A table aimed at whose name stands for several relations is not known by it.
    """
    cursor.execute(
        "SELECT a.attname::text, lower(t.relname)::text, b.attname::text FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f' AND k.convalidated "
        "AND cardinality(k.conkey) = 1 "
        "JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1] "
        "JOIN pg_catalog.pg_class t ON t.oid = k.confrelid "
        "JOIN pg_catalog.pg_attribute b ON b.attrelid = t.oid AND b.attnum = k.confkey[1] "
        "WHERE lower(c.relname) = %s AND c.relkind = 'r' AND t.relkind = 'r' AND 1 = (SELECT count(*) "
        "FROM pg_catalog.pg_class x WHERE lower(x.relname) = lower(t.relname) "
        "AND x.relkind IN ('r', 'p', 'v', 'm', 'f'))",
        [table],
    )
    rows = cursor.fetchall()
    return tuple(sorted((_text(own), _text(aimed), _text(theirs)) for own, aimed, theirs in rows))


def of_sqlite(cursor: Any, table: str) -> Columns:
    """Return what SQLite says; a collation is known from the text of the table only."""
    for catalogue in ("sqlite_temp_master", "sqlite_master"):
        cursor.execute(f"SELECT 1 FROM {catalogue} WHERE type = 'trigger' AND lower(tbl_name) = ?", [table])  # noqa: S608
        if cursor.fetchall():
            return UNKNOWN
    cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND lower(name) = ?", [table])
    rows = cursor.fetchall()
    if len(rows) != 1 or rows[0][1].upper().lstrip().startswith("CREATE VIRTUAL"):
        return UNKNOWN
    name, sql = rows[0]
    if "CONFLICT" in sql.upper():
        return UNKNOWN  # ON CONFLICT REPLACE deletes other rows
    cursor.execute(
        f'SELECT 1 FROM pragma_foreign_key_list(?) WHERE lower("table") = ? AND (on_delete {ACTS} '  # noqa: S608
        f"OR on_update {ACTS})",
        [name, table],
    )
    if cursor.fetchall():
        return UNKNOWN
    collated = "COLLATE" in sql.upper()
    cursor.execute("SELECT name, type, hidden FROM pragma_table_xinfo(?)", [name])
    kinds, changing, names = {}, [], []
    for column, declared, hidden in cursor.fetchall():
        kind = _affinity(declared.lower())
        if kind is not None and not (collated and kind is Kind.TEXT):
            kinds[column] = kind.value
        if hidden in _GENERATED_BY_SQLITE:
            changing.append(column)
        names.append(column)
    return Columns(True, kinds, tuple(changing), names=(*names, *_ROWIDS))


_GENERATED_BY_SQLITE = (2, 3)
"""What the pragma table_xinfo says of columns that are computed, virtual and stored."""

_ROWIDS = ("rowid", "oid", "_rowid_")


def _affinity(declared: str) -> Kind | None:
    """Return the kind of a declared type, by the rules of SQLite (Datatypes in SQLite, 3.1)."""
    if "int" in declared or declared == "bool":
        return Kind.INTEGER
    return Kind.TEXT if declared.startswith(("char", "varchar", "text")) else None


def of_mysql(cursor: Any, table: str) -> Columns:
    """Return what MariaDB and MySQL say; triggers are shown to those who may have some (SHOW TRIGGERS)."""
    cursor.execute(
        "SELECT t.engine, (SELECT count(*) FROM information_schema.triggers g WHERE g.event_object_schema = "  # noqa: S608
        "t.table_schema AND g.event_object_table = t.table_name) + (SELECT count(*) FROM "
        "information_schema.referential_constraints k WHERE k.constraint_schema = t.table_schema "
        "AND k.table_name = t.table_name AND k.referenced_table_name = t.table_name "
        f"AND (k.delete_rule {ACTS} OR k.update_rule {ACTS})) FROM information_schema.tables t "
        "WHERE t.table_schema = DATABASE() AND lower(t.table_name) = %s AND t.table_type = 'BASE TABLE'",
        [table],
    )
    rows = cursor.fetchall()
    if len(rows) != 1 or _text(rows[0][0]).lower() != "innodb" or rows[0][1]:
        return UNKNOWN
    cursor.execute(
        "SELECT column_name, data_type, character_maximum_length, collation_name, extra "
        "FROM information_schema.columns WHERE table_schema = DATABASE() AND lower(table_name) = %s",
        [table],
    )
    kinds, changing, names = {}, [], []
    for column, data_type, length, collation, extra in cursor.fetchall():
        kind = _mysql_kind(_text(data_type).lower(), length, _text(collation or ""))
        if kind is not None:
            kinds[_text(column)] = kind.value
        if any(word in _text(extra or "").lower() for word in ("on update", "generated")):
            changing.append(_text(column))
        names.append(_text(column))
    return Columns(True, kinds, tuple(changing), names=tuple(names))


def _mysql_kind(data_type: str, length: Any, collation: str) -> Kind | None:
    if data_type.endswith("int"):
        return Kind.INTEGER
    if data_type == "uuid":
        return Kind.UUID
    if data_type not in {"char", "varchar"}:
        return None
    if collation.endswith("_bin"):
        return Kind.PADDED  # 'a' = 'a ' in most collations (manual, PAD SPACE)
    return Kind.HEXADECIMAL if data_type == "char" and length == 32 else None  # noqa: PLR2004 - digits of a UUID


def _common(found: Iterable[dict[str, str]]) -> dict[str, str]:
    tables = list(found)
    if not tables:
        return {}
    return {
        column: kind
        for column, kind in tables[0].items()
        if kind and all(one.get(column) == kind for one in tables[1:])
    }


LOOK_UPS = {"postgresql": of_postgresql, "sqlite": of_sqlite, "mysql": of_mysql}
