"""From a write to what it changes.

A write of the ORM names its table; a raw statement is read by the tokenizer. To this come the tables that the
database changes by itself. What cannot be understood changes everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachalot.analysis.rawsql import Kind, Statement, canonical_table
from cachalot.analysis.schema import written_with
from cachalot.analysis.volatility import may_write
from cachalot.core.tags import EVERYTHING, NOTHING, Effects

if TYPE_CHECKING:
    from cachalot.conf import Config


def effects_on(tables: frozenset[str], config: Config) -> Effects:
    """Return what changes when rows of ``tables`` are written."""
    return Effects(written_with(tables, config))


def effects_of_query(query: Any, config: Config) -> Effects:
    """Return what a write of the ORM changes, before it is compiled.

    :param query: an InsertQuery, UpdateQuery or DeleteQuery.
    """
    # Not query.base_table: that property keeps its first answer, which is None before the query is compiled.
    names = {query.get_meta().db_table, *(join.table_name for join in list(query.alias_map.values())[:1])}
    return effects_on(frozenset(map(canonical_table, names)), config)


def unknown_functions(statement: Statement, vendor: str, config: Config) -> frozenset[str]:
    """Return the functions a statement calls of which it is not known by name that they change nothing."""
    return may_write(statement.functions, vendor, config.stable_functions)


def effects_of_statement(statement: Statement, config: Config) -> Effects:
    """Return what one statement changes, its functions left out of account."""
    if statement.kind in _UNKNOWN:
        return EVERYTHING
    return effects_on(statement.writes, config) if statement.writes else NOTHING


_UNKNOWN = frozenset({Kind.UNKNOWN, Kind.COMMIT_PREPARED})
