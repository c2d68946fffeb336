"""Finds out which rows a write of the ORM changes: by what is inserted or returned, or by reading them.

What is sent in its place, and what is asked beside it, is up to the database (``orm.rewriting``); what an
INSERT does is in ``orm.insertions``.
"""

from __future__ import annotations

import logging
import weakref
from contextlib import closing
from typing import TYPE_CHECKING, Any

from cachalot.analysis.catalogue import asked
from cachalot.analysis.covers import all_covers_of
from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.writes import ChangedRows, effects_of_rows
from cachalot.core.tags import MAX_WRITTEN, NOTHING, Effects
from cachalot.orm.insertions import Insertion, does_as_said
from cachalot.orm.rewriting import Parts, Rewriting, Sent, may_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cachalot.analysis.covers import Cover
    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.analysis.trace import Recording
    from cachalot.engine.session import Session

MAX_ATOMS = 200
"""Values in the condition of a write at most for its rows to be told apart."""

logger = logging.getLogger("cachalot")


class RowWrite:
    """One statement of the ORM that writes, and what is found out about its rows.

    :param session: of its connection.
    :param keys: of its table.
    :param epoch: token under which they were learned.
    :param forget: forgets what is known about the schema, because it is out of date.
    :param oldest: the oldest MultiXact in the table; ``None`` if the old versions of its rows cannot be seen.
    :ivar table: canonical name of the table.
    :ivar understood: whether it is known how the statement names its rows, and that no other was sent.
    :ivar unseen: whether there is a statement, and it has not come to a cursor of ours.
    """

    def __init__(
        self,
        session: Session,
        keys: TableKeys,
        epoch: str,
        forget: Callable[[], None],
        oldest: int | None = None,
    ) -> None:
        self._session = session
        self._keys = keys
        self._epoch = epoch
        self._forget = forget
        self._oldest = oldest
        self._insertion = Insertion(session, keys, epoch)
        self._original: str | None = None
        self._sent: Sent | None = None
        self._columns: frozenset[str] | None = None
        self._covers: dict[Key, list[tuple[str, ...]]] = {}
        self._counted = True
        self._touched = False
        self._lost = False
        self._before: list[Any] | None = None
        self._after: list[Any] | None = None
        self.table = keys.table
        self.understood = False
        self.unseen = True

    # INSERT.

    def inserts(self, query: Any, fields: Sequence[Any], rows: Iterable[Sequence[Any]]) -> None:
        """Note the rows of an INSERT; see :meth:`Insertion.note`."""
        self.understood = self._insertion.note(query, fields, rows)

    def sends(self, query: Any, texts: Iterable[str]) -> None:
        """Note what is sent for an INSERT.

        :param query: an InsertQuery.
        :param texts: of the statements.
        """
        operations = self._session.connection.ops
        self.understood &= all(does_as_said(query, operations, text) for text in texts)

    def effects_of_insert(self, names: Sequence[str | None], result: Any) -> Effects:
        """Return what an INSERT has changed; see :meth:`Insertion.effects`."""
        return self._insertion.effects(names, result)

    # UPDATE and DELETE.

    def sends_nothing(self) -> None:
        """Note that there is no statement: no row can fulfil its condition, or it sets nothing here."""
        self.understood, self.unseen = True, False

    def rewrites(
        self,
        compiler: Any,
        recording: Recording,
        statement: tuple[str, tuple[Any, ...]],
        columns: frozenset[str] | None,
    ) -> None:
        """Look at an UPDATE or DELETE, and note the statement that is to be sent instead.

        :param compiler: of the statement.
        :param recording: of its compilation.
        :param statement: its text and parameters.
        :param columns: those that an UPDATE sets; ``None`` for DELETE.
        """
        try:
            self._sent = self._rewritten(compiler, recording, statement[0], tuple(statement[1]), columns)
            self._original = statement[0]
        except Exception:
            # A fault of ours: the statement is sent as it is, and ends all results of its table.
            logger.exception("It cannot be told which rows a statement changes.")
            self.understood = False

    def _rewritten(
        self,
        compiler: Any,
        recording: Recording,
        sql: str,
        params: tuple[Any, ...],
        columns: frozenset[str] | None,
    ) -> Sent:
        self._columns = columns
        where = compiler.query.where
        table = compiler.query.base_table
        outcome = recording.blocks[0].outcomes.get(id(where))
        if table is None or canonical_table(table) != self._keys.table:
            return Sent((sql, params))
        self.understood = True
        text = "" if outcome is None or outcome.sql is None else f" WHERE {outcome.sql}"
        # Of a statement whose rows are returned SQLite does not know the number before they are read.
        self._counted = not getattr(compiler, "returning_fields", None)
        if not text:
            return Sent((sql, params))
        covers = self._cover(compiler, recording, where)
        set_ = [key for key in self._keys.keys if may_set(self._keys, columns, key)]
        oldest = None if all(key in self._covers for key in set_) else self._oldest
        rewriting = Rewriting(self._session, self._keys, columns, covers, oldest)
        if not covers or not self._counted or not sql.endswith(text):
            return rewriting.asked_afterwards((sql, params))
        of_text = tuple(outcome.params) if outcome else ()
        return rewriting.with_rows(Parts(sql, params, text, of_text, nested=len(recording.blocks) > 1))

    def _cover(self, compiler: Any, recording: Recording, where: Any) -> list[Cover]:
        block = recording.blocks[0]
        block.tables = {compiler.query.base_table: self._keys.name}
        covers = all_covers_of(block, where, lambda _table: self._keys, MAX_ATOMS)
        for key in self._keys.keys:
            over = [one for one in covers if all(atom.key == key for atom in one)]
            texts = [[self._keys.canonical(key, atom.values) for atom in one] for one in over]
            known = [[text for text in one if text is not None] for one in texts if None not in one]
            if known:
                self._covers[key] = min(known, key=len)
        return [one for one in covers if all(atom.key in self._covers for atom in one)]

    # Running it.

    def run(
        self,
        execute: Callable[[Any, Any], Any],
        cursor: Any,
        statement: tuple[Any, Any],
        *,
        same: bool,
    ) -> Any:
        """Run the statement, and read what there is to read about its rows.

        :param execute: has the driver send a text with parameters.
        :param cursor: of Django, on which it runs.
        :param statement: text and parameters.
        :param same: whether they are those that were looked at.
        """
        self.unseen = False
        if not same:
            self._touched = True
            return execute(*statement)
        sent = self._sent or Sent(statement)
        if sent.before is not None:
            self._lock()
            self._before = [*(self._before or ()), *self._read(*sent.before)]
        driver = cursor.cursor
        if self._session.connection.vendor == "postgresql":
            self._session.work.rewritten = weakref.ref(driver)
        result = execute(*self._text_for(*statement))
        if sent.returns and driver.description is None:
            self.understood = False  # somebody has kept the statement from the database
        elif sent.returns:
            self._take_if_possible(sent, driver)
        else:
            self._touched |= not self._counted or getattr(driver, "rowcount", -1) != 0
            if self._touched and sent.after is not None:
                self._look_behind(*sent.after)
        return result

    def _look_behind(self, text: str, params: Any) -> None:
        """Read the rows that the statement has changed. It has run: a failure to see them is not its own."""
        try:
            rows = asked(self._session.connection, lambda cursor: _rows(cursor, text, params))
            self._after = [*(self._after or ()), *rows]
        except Exception:  # noqa: BLE001 - of the driver
            self._forget()
            self.understood = False

    def _text_for(self, sql: str, params: Any) -> tuple[str, Any]:
        """Return what is sent for the statement, whose text may have comments around it."""
        if self._sent is None or self._original is None:
            return sql, params
        text, parameters = self._sent.statement
        return sql.replace(self._original, text, 1), parameters

    def was_wrong(self, error: BaseException) -> bool:
        """Return whether it may have failed for what was added to it, and may be sent as it was.

        Another process has changed the schema, or what this role may read, and this one has not heard of it.
        """
        if self._sent is None or not _may_be_about_what_is_added(error):
            return False
        self._forget()
        self.understood = False
        return not self._session.aborted()

    def _take_if_possible(self, sent: Sent, driver: Any) -> None:
        """Take what comes back; on PostgreSQL it is here, and not to be able to read it is no error."""
        try:
            self._take(sent, driver)
        except Exception:
            if self._session.connection.vendor != "postgresql":
                raise
            logger.exception("It cannot be read which rows a statement has changed.")
            self.understood = False

    def _take(self, sent: Sent, driver: Any) -> None:
        """Take the rows that were returned; after too many of them they are only passed over."""
        rows: list[Any] = []
        for row in iter(driver.fetchone, None):
            self._touched = True
            if len(rows) <= MAX_WRITTEN:
                rows.append(row)
        width = len(self._keys.columns())
        self._after = [*(self._after or ()), *(row[-width:] for row in rows)]
        if sent.replaced is not None:
            replaced = sent.replaced(rows)
            self._lost |= replaced is None
            self._before = [*(self._before or ()), *(replaced or ())]

    def _lock(self) -> None:
        """Let SQLite wait for its lock before it reads; a reader that wants to write later may not wait.

        It is what the statement itself would do first (manual, SQLITE_BUSY_SNAPSHOT).
        """
        quote = self._session.connection.ops.quote_name
        # Of the columns that the models have one may come with a later migration.
        known = self._keys.kinds.keys() - self._keys.generated
        column = quote(min(known or self._keys.all_columns - self._keys.generated))
        table = quote(self._keys.name)
        self._read(f"UPDATE {table} SET {column} = {column} WHERE 0", ())  # noqa: S608 - names of the schema

    def _read(self, sql: str, params: tuple[Any, ...]) -> list[Any]:
        """Read through the driver, so that no query count of the user changes."""
        connection = self._session.connection
        with connection.wrap_database_errors, closing(connection.create_cursor()) as cursor:
            return _rows(cursor, sql, params)

    # What it has changed.

    def effects(self) -> Effects:
        """Return what the statement has changed."""
        if not self._touched:
            return NOTHING
        if self._lost or (self._sent is not None and self._sent.before is not None and not self._same_rows()):
            self._before = None
        changed = ChangedRows(self._keys)
        moved, columns = self._moved(), self._columns
        if columns is not None and not moved:
            columns -= set(self._keys.kinds)
            if not columns | self._keys.generated:
                # Keys were set to what they were. Columns of the system, which change all the same, are read
                # by those who depend on all writes to the table.
                return effects_of_rows(changed, self._epoch, columns=columns, member=False)
        for key in self._keys.keys:
            if not may_set(self._keys, self._columns, key):
                self._add(changed, key, self._after, self._covers.get(key))
            else:
                self._add(changed, key, self._before, self._covers.get(key))
                self._add(changed, key, self._after, None)
        return effects_of_rows(changed, self._epoch, columns=columns, member=moved)

    def _same_rows(self) -> bool:
        """Return whether the rows that were read before a statement are those that it has met.

        The condition may call functions, and time may have passed.
        """
        primary = self._keys.primary
        if not primary or may_set(self._keys, self._columns, primary):
            return False
        places = [self._keys.columns().index(column) for column in primary]

        def keys(rows: list[Any]) -> list[str]:
            return sorted(repr([row[place] for place in places]) for row in rows)

        return keys(self._before or []) == keys(self._after or [])

    def _moved(self) -> bool:
        """Return whether a column of a key may have changed, or rows have come or gone."""
        if self._columns is None:
            return True
        if not may_set(self._keys, self._columns, self._keys.kinds):
            return False
        before, after = self._before, self._after
        if before is None or after is None or not self._keys.primary or len(after) > MAX_WRITTEN:
            return True
        return before != after

    def _add(
        self, changed: ChangedRows, key: Key, rows: list[Any] | None, covered: list[tuple[str, ...]] | None
    ) -> None:
        """Add the values of one key, before or after the statement.

        :param covered: all that it can have been, by the condition of the statement.
        """
        if rows is not None and len(rows) <= MAX_WRITTEN:
            self._add_rows(changed, key, rows)
        elif covered is not None:
            changed.allow(key, covered)
        else:
            changed.lose(key)

    def _add_rows(self, changed: ChangedRows, key: Key, rows: list[Any]) -> None:
        places = [self._keys.columns().index(column) for column in key]
        for row in rows:
            texts = self._keys.canonical(key, [row[place] for place in places])
            if texts is None:
                changed.lose(key)
                return
            changed.allow(key, [texts])


def _rows(cursor: Any, sql: str, params: Any) -> list[Any]:
    cursor.execute(sql, params)
    return list(cursor.fetchmany(MAX_WRITTEN + 1)) if cursor.description else []


_ADDED_IS_WRONG = ("42", "0A", "54", "22021", "22P05")
"""Beginnings of SQLSTATEs: what is not there or not allowed, is not supported, too much, or no text."""

_BAD_FIELD = frozenset({"1054", "1142", "1143"})
"""ER_BAD_FIELD_ERROR, ER_TABLEACCESS_DENIED_ERROR and ER_COLUMNACCESS_DENIED_ERROR of MySQL."""


def _may_be_about_what_is_added(error: BaseException) -> bool:
    """Return whether a database may have refused a statement for what was added to it, and has not run it."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""
    said = str(error.args[0] if error.args else "")
    return state.startswith(_ADDED_IS_WRONG) or said in _BAD_FIELD or said.startswith("no such column")
