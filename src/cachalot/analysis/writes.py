"""From a write to what it changes.

A write of the ORM names its table; a raw statement is read by the tokenizer. To this come the tables that the
database changes by itself. What cannot be understood changes everything.

Of a table with keys it is told which rows have changed, by the values of their keys: all that a changed row
had before and has afterwards. Values that are not known change ``bulk`` of their key. What an instance in
memory says its row was like is never one of them: it may be out of date.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cachalot.analysis.rawsql import Kind, Statement, canonical_table
from cachalot.analysis.schema import written_with
from cachalot.analysis.volatility import may_write
from cachalot.core.tags import (
    ALL_COLUMNS,
    EVERYTHING,
    MAX_WRITTEN,
    NOTHING,
    Effects,
    Fact,
    Scope,
    Tag,
    any_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.conf import Config

MAX_SET = 8
"""An UPDATE that sets more columns changes ``col(T, *)`` in the place of each of them that is of no key."""


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


class ChangedRows:
    """The rows of one table that a write has changed, by the values of their keys.

    :param keys: of the table.
    """

    def __init__(self, keys: TableKeys) -> None:
        self.keys = keys
        self._values: dict[Key, set[tuple[str, ...]]] = {key: set() for key in keys.keys}
        self._unknown: set[Key] = set()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add one version of a row.

        :param row: values by column; of columns that are missing nothing is known.
        """
        for key in self.keys.keys:
            if key in self._unknown:
                continue
            known = all(column in row for column in key)
            texts = self.keys.canonical(key, [row[column] for column in key]) if known else None
            if texts is None:
                self.lose(key)
            else:
                self.allow(key, [texts])

    def allow(self, key: Key, values: Iterable[tuple[str, ...]]) -> None:
        """Add values that a key of the rows may have."""
        self._values[key].update(values)
        if len(self._values[key]) > MAX_WRITTEN:
            self.lose(key)

    def lose(self, key: Key) -> None:
        """Note that not all values of a key are known."""
        self._unknown.add(key)
        self._values[key].clear()

    def tags(self, *, member: bool) -> set[Tag]:
        """Return the tags of these rows.

        :param member: whether columns of keys have changed, or rows have come or gone.
        """
        table = self.keys.table
        scopes = (Scope.ROW, Scope.MEMBER) if member else (Scope.ROW,)
        found = {Tag(Scope.BULK, table, key) for key in self._unknown}
        for key, values in self._values.items():
            found.update(Tag(scope, table, key + texts) for texts in values for scope in scopes)
        return found


def effects_of_rows(
    changed: ChangedRows, epoch: str, *, columns: frozenset[str] | None, member: bool
) -> Effects:
    """Return what a write changes of which the rows are known.

    :param epoch: token under which the keys were learned.
    :param columns: those that an UPDATE may have changed; ``None`` for INSERT and DELETE.
    :param member: whether columns of keys have changed, or rows have come or gone.
    """
    table = changed.keys.table
    parts = {any_of(table), *changed.tags(member=member)}
    if columns is None:
        parts.add(Tag(Scope.ROWS, table))
    else:
        names = columns | changed.keys.generated
        if len(names) > MAX_SET:
            names = names & set(changed.keys.kinds) | {ALL_COLUMNS}
        parts.update(Tag(Scope.COLUMN, table, (name,)) for name in names)
    fact = Fact(table, changed.keys.sign, epoch)
    return Effects(parts=frozenset(parts), facts=frozenset({fact})).bounded()


def rows_of_insert(
    changed: ChangedRows,
    columns: Sequence[str | None],
    values: Iterable[Sequence[Any]],
    returned: Sequence[Mapping[str, Any]],
) -> None:
    """Add the rows of an INSERT.

    :param columns: of the values that are inserted, ``None`` for one that the database makes up.
    :param values: rows of values; expressions are not known.
    :param returned: what the database has returned of each row, by column; empty if it has returned nothing.
    """
    for index, row in enumerate(values):
        known = {
            column: value
            for column, value in zip(columns, row, strict=True)
            if column is not None and not hasattr(value, "as_sql")
        }
        changed.add({**known, **returned[index]} if index < len(returned) else known)
