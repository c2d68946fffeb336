"""What is sent in place of an UPDATE or DELETE, so that the database says which rows it changes.

What a database can say about the rows that a statement has met differs:

* ``RETURNING`` gives the values after an UPDATE (PostgreSQL, SQLite 3.35), or of what was deleted
  (MariaDB, too). For keys that are not set these are the values before it, too.
* The values *before* an UPDATE that sets keys come from ``RETURNING old`` (PostgreSQL 18), from the versions
  of the rows that the statement sees and replaces (PostgreSQL before, ``analysis.versions``), or from a
  SELECT behind a lock (SQLite).
* MariaDB and MySQL are asked after an UPDATE, in the same transaction: who has changed a key in between has
  changed the tags of the value before himself, so that a later value is as good (for keys that are not set).

The statement itself stays as Django has written it, so that it locks the same rows in the same order; only
what it returns is added. Where its condition does not restrict it to rows by key it is sent as it is, because
as many rows as a table has would come back, to learn what ``bulk`` says as well.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cachalot.analysis.versions import MAX_COLUMNS, replaced_versions, version_seen
from cachalot.engine.isolation import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cachalot.analysis.covers import Cover
    from cachalot.analysis.tablekeys import TableKeys
    from cachalot.engine.session import Session

_OLD = "_cachalot_old"
_NEW = "_cachalot_new"
_POSTGRESQL_18 = 180000
_SQLITE_RETURNING = (3, 35)

Statement = tuple[str, tuple[Any, ...]]
"""A text with its parameters."""

Rows = list[Any]
"""Values of the columns in keys, in the order of :meth:`TableKeys.columns`, of each row."""


class Sent(NamedTuple):
    """A statement as it is sent, and what is asked beside it.

    :param statement: what is sent.
    :param returns: whether the values after it of each row come back, at the end of what does.
    :param replaced: finds the values before it in the rows that come back; ``None`` if it does not know all.
    :param before: a query for the values before it; behind a lock.
    :param after: a query for the values after it.
    """

    statement: Statement
    returns: bool = False
    replaced: Callable[[Sequence[Any]], Rows | None] | None = None
    before: Statement | None = None
    after: Statement | None = None


class Parts(NamedTuple):
    """A statement, and its condition, with which it ends.

    :param sql: its text.
    :param params: its parameters.
    :param where: text of the condition, with the word WHERE; empty if it has none.
    :param where_params: of its parameters.
    :param nested: whether there are queries in it.
    """

    sql: str
    params: tuple[Any, ...]
    where: str
    where_params: tuple[Any, ...]
    nested: bool

    @property
    def statement(self) -> Statement:
        """The statement as it is."""
        return self.sql, self.params


def may_set(keys: TableKeys, columns: frozenset[str] | None, some: Iterable[str]) -> bool:
    """Return whether an UPDATE sets one of some columns, or the database computes it anew.

    :param keys: of its table.
    :param columns: that it sets; ``None`` for DELETE.
    :param some: those that are asked about.
    """
    return columns is not None and not (columns | keys.generated).isdisjoint(some)


class Rewriting:
    """One UPDATE or DELETE of a table with keys.

    :param session: of its connection.
    :param keys: of its table.
    :param columns: those that an UPDATE sets; ``None`` for DELETE.
    :param covers: the keys by which its condition restricts it.
    :param oldest: the oldest MultiXact in the table; ``None`` if the old versions of rows cannot be seen, or
        need not.
    """

    def __init__(
        self,
        session: Session,
        keys: TableKeys,
        columns: frozenset[str] | None,
        covers: list[Cover],
        oldest: int | None,
    ) -> None:
        self._session = session
        self._oldest = oldest
        self._old, self._new = (name + "_" * (keys.name == name) for name in (_OLD, _NEW))
        self._keys = keys
        self._columns = columns
        self._covers = covers
        self._quote = session.connection.ops.quote_name
        self._table = self._quote(keys.name)
        self._listed = [self._quote(column) for column in keys.columns()]

    def with_rows(self, parts: Parts) -> Sent:
        """Return what is sent for a statement, for its rows to be known.

        :param parts: of the statement.
        """
        vendor = self._session.connection.vendor
        if vendor == "mysql":
            return self._on_mysql(parts)
        if vendor == "sqlite" and _sqlite_version() < _SQLITE_RETURNING:
            return self.asked_afterwards(parts.statement)
        if not may_set(self._keys, self._columns, self._keys.kinds):
            return self._returning(parts)
        return self._returning_old(parts) if vendor == "postgresql" else self._behind_a_lock(parts)

    def asked_afterwards(self, statement: Statement) -> Sent:
        """Ask for the rows of an UPDATE by their primary key when it has run, if it does not change it.

        :param statement: what is sent.
        """
        primary = self._keys.primary
        over = [one for one in self._covers if one and all(atom.key == primary for atom in one)]
        if self._columns is None or not primary or not over or may_set(self._keys, self._columns, primary):
            return Sent(statement)
        session = self._session
        inside = session.connection.vendor == "mysql" and session.transaction() is not None
        if inside and session.level() is not Level.STATEMENT:
            # To read would begin the snapshot, or lock rows, which an UPDATE does not.
            return Sent(statement)
        one = " AND ".join(f"{self._quote(column)} = %s" for column in primary)
        atoms = min(over, key=len)
        where = f" WHERE {' OR '.join(f'({one})' for _ in atoms)}"
        return Sent(statement, after=self._select(where, [value for atom in atoms for value in atom.values]))

    def _on_mysql(self, parts: Parts) -> Sent:
        connection: Any = self._session.connection
        # MariaDB returns nothing of a DELETE that joins (manual, DELETE).
        of_one_table = parts.sql.startswith("DELETE FROM ") and not parts.nested
        if connection.mysql_is_mariadb and of_one_table:
            return self._returning(parts)
        return self.asked_afterwards(parts.statement)

    def _returning(self, parts: Parts, before: Statement | None = None) -> Sent:
        text = f"{parts.sql} RETURNING {', '.join(self._listed)}"
        return Sent((text, parts.params), returns=True, before=before)

    def _behind_a_lock(self, parts: Parts) -> Sent:
        return self._returning(parts, before=self._select(parts.where, parts.where_params))

    def _select(self, where: str, params: Iterable[Any]) -> Statement:
        return f"SELECT {', '.join(self._listed)} FROM {self._table}{where}", tuple(params)  # noqa: S608 - names

    def _returning_old(self, parts: Parts) -> Sent:
        connection: Any = self._session.connection
        if connection.pg_version >= _POSTGRESQL_18:
            width = len(self._listed)
            both = (self._old, self._new)
            returned = [f"{version}.{column}" for version in both for column in self._listed]
            versions = f"WITH (OLD AS {self._old}, NEW AS {self._new})"
            text = f"{parts.sql} RETURNING {versions} {', '.join(returned)}"
            return Sent(
                (text, parts.params), returns=True, replaced=lambda rows: [row[:width] for row in rows]
            )
        if self._oldest is None or not self._may_see_versions():
            return self._returning(parts)
        primary = [self._quote(column) for column in self._keys.primary]
        seen = version_seen(self._table, self._listed, primary, self._old, self._oldest)
        own = ", ".join(f"{self._table}.{column}" for column in self._listed)
        text, kinds = f"{parts.sql} RETURNING {seen}, {own}", tuple(self._keys.kinds.values())
        return Sent((text, parts.params), returns=True, replaced=partial(replaced_versions, kinds=kinds))

    def _may_see_versions(self) -> bool:
        """Return whether the old versions of rows are found by their primary key.

        Without an index each would be looked for in the whole table. To read an index in a SERIALIZABLE
        transaction is to be in conflict with others who write beside what is read (manual, 13.2.3).
        """
        return (
            self._keys.identified
            and not may_set(self._keys, self._columns, self._keys.primary)
            and len(self._listed) <= MAX_COLUMNS
            and self._session.level() is not Level.SERIALIZABLE
        )


def _sqlite_version() -> tuple[int, ...]:
    from sqlite3 import sqlite_version_info  # noqa: PLC0415 - a Python may have been built without it

    return sqlite_version_info
