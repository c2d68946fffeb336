"""The versions of rows that an UPDATE of PostgreSQL before 18 replaces, returned by the UPDATE itself.

A query in RETURNING has the snapshot of its statement, so that it sees each row as it was: the version
*seen*. The UPDATE makes a *new* version of the row, and ends the one that it *replaces*. Usually that is
the one seen. It is a later one if another transaction has changed the row since the snapshot and the UPDATE
has waited for it. PostgreSQL 18 returns what was replaced (``RETURNING old``); before it has to be shown
that nothing else was seen. Every version has the number of the transaction that has made it (xmin) and of
the one that has ended or locked it (xmax; manual, 5.6, System Columns). Asked is for the versions seen that
have the primary key of the new one.

*Claim.* If exactly one version is seen, if its xmax is the xmin of the new version, and if no two rows can
have the same primary key, then it is the one replaced.

Its xmax is the number of this transaction (or of its savepoint). It was not ended by an earlier statement
of it, for it is in the snapshot of this one. So this statement has ended it, or somebody has only locked
it:

* A lock of this transaction leaves its number as well, without ending the version. But then nobody else can
  have changed the row since, and another row with this primary key there is none: what was replaced is it.
* Several locks leave the number of a MultiXact, which is of another kind and may be the same. It is none if
  no MultiXact with this number is made yet, or if it is older than all that are left in the table (manual,
  24.1.5.1, Multixacts and Wraparound). ``mxid_age`` counts how many were made since, as 32 bits with a
  sign.
* If another transaction has given the row its primary key while the UPDATE waited, a version of another row
  is seen. That was ended by that transaction, whose number it has.

*Completeness.* As many versions are replaced as rows come back. If each has one of its own, told apart by
table and place (ctid), they are all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cachalot.analysis.canonical import Kind
from cachalot.analysis.relation import text

if TYPE_CHECKING:
    from collections.abc import Sequence

Version = tuple[Any, ...]
"""Values of the columns in keys of a table."""

_AGE = "pg_catalog.mxid_age"
_ARRAY = "pg_catalog.json_build_array"
_LIST = "pg_catalog.json_agg"

_FUNCTIONS = (f"{_AGE}(xid)", f'{_ARRAY}("any")', f"{_LIST}(anyelement)")

_ARGUMENTS = 100
"""A function of PostgreSQL has no more (manual, appendix K)."""

MAX_COLUMNS = _ARGUMENTS - 3
"""Columns in keys at most: beside them stand table, place and whether it was replaced."""


def readable(cursor: Any, table: str) -> tuple[bool, int | None]:
    """Return what a statement of the role of today may return of a table.

    :param cursor: of the driver.
    :param table: canonical name.
    :returns: whether all columns; the oldest MultiXact that may be in the table, if versions seen, too.
    :raises Exception: what the driver raises when the catalogue cannot be read.
    """
    cursor.execute(
        "SELECT bool_and(has_table_privilege(c.oid, 'SELECT')), "
        "bool_and(has_function_privilege(f, 'EXECUTE')), min(c.relminmxid::text), max(c.relminmxid::text) "
        "FROM pg_catalog.pg_class c, unnest(%s::text[]) f WHERE lower(c.relname) = %s AND c.relkind = 'r'",
        [list(_FUNCTIONS), table],
    )
    columns, functions, least, most = cursor.fetchone()
    seen = columns and functions and least == most
    return bool(columns), int(text(least)) if seen else None


def version_seen(table: str, columns: Sequence[str], primary: Sequence[str], old: str, oldest: int) -> str:
    """Return an expression for RETURNING: the versions of a row that are seen, as JSON.

    :param table: its name, quoted like all others.
    :param columns: those in keys.
    :param primary: those of the primary key.
    :param old: a name for the versions that is not that of the table.
    :param oldest: a MultiXact, none of those in the table is older; asked for less than 2**32 ago.
    """
    same = " AND ".join(f"{old}.{column} = {table}.{column}" for column in primary)
    age, greatest = f"{_AGE}({table}.xmin)", f"{_AGE}('{oldest}'::xid)"
    # Not made yet: no age. Older than all: more than the greatest age, which is one unless it is below zero.
    no_multixact = f"({age} <= 0 OR {greatest} >= 0 AND {age} > {greatest})"
    replaced = f"{old}.xmax = {table}.xmin AND {no_multixact}"
    values = ", ".join(f"{old}.{column}" for column in columns)
    version = f"{_ARRAY}({old}.tableoid, {old}.ctid, {replaced}, {values})"
    return f"(SELECT {_LIST}({version})::text FROM {table} AS {old} WHERE {same})"  # noqa: S608 - names


def replaced_versions(rows: Sequence[Any], kinds: Sequence[Kind]) -> list[Version] | None:
    """Return the versions that an UPDATE has replaced, ``None`` unless all are known.

    :param rows: what was returned; first the versions that were seen.
    :param kinds: of the values of a version.
    """
    found: dict[tuple[Any, Any], Version] = {}
    for row in rows:
        seen = json.loads(row[0] or "[]")
        if len(seen) != 1 or not seen[0][2]:
            return None
        relation, place, _replaced, *values = seen[0]
        found[relation, place] = tuple(map(_as_driver, values, kinds))
    return list(found.values()) if len(found) == len(rows) else None


def _as_driver(value: Any, kind: Kind) -> Any:
    return UUID(value) if kind is Kind.UUID and value is not None else value
