"""Finds out which rows an INSERT changes: those it inserts, and those it updates, being in conflict."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models.constants import OnConflict

from cachalot.analysis.canonical import Kind
from cachalot.analysis.writes import ChangedRows, effects_of_rows, rows_of_insert
from cachalot.orm.stored import UNKNOWN, stored_as_sent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.core.tags import Effects
    from cachalot.engine.session import Session

logger = logging.getLogger("cachalot")

_ON_CONFLICT = re.compile(r"\bON\s+(?:CONFLICT|DUPLICATE)\b", re.IGNORECASE)

_ONE_EQUALITY = frozenset({Kind.INTEGER, Kind.UUID})
"""Kinds of columns that are equal in one way only; a unique index may compare texts in another way."""


class Conflicts(NamedTuple):
    """What an INSERT does with rows that are in conflict with others.

    :param possible: whether it does anything: else they are an error.
    :param updates: whether it updates the others: else it leaves the new ones out.
    :param updated: columns that it sets in the others.
    :param target: columns in which rows may be in conflict; empty if in any unique ones.
    """

    possible: bool = False
    updates: bool = False
    updated: frozenset[str] = frozenset()
    target: frozenset[str] = frozenset()


class Insertion:
    """One INSERT of the ORM, in one statement or several.

    :param session: of its connection.
    :param keys: of its table.
    :param epoch: token under which they were learned.
    """

    def __init__(self, session: Session, keys: TableKeys, epoch: str) -> None:
        self._session = session
        self._keys = keys
        self._epoch = epoch
        self._rows: list[tuple[list[str | None], list[Any]]] = []
        self._conflicts = Conflicts()

    def note(self, query: Any, fields: Sequence[Any], rows: Iterable[Sequence[Any]]) -> bool:
        """Note rows, and return whether they are understood.

        :param query: an InsertQuery.
        :param fields: of the values; ``None`` for one that the database makes up.
        :param rows: of values.
        """
        try:
            self._conflicts = conflicts_of(query)
            columns = [None if field is None else field.column for field in fields]
            lenient = self._conflicts.possible
            stored = partial(stored_as_sent, self._session.connection, lenient=lenient)
            values = [
                [value if stored(field, value) else UNKNOWN for field, value in zip(fields, row, strict=True)]
                for row in rows
            ]
        except Exception:
            # A fault of ours: the rows are inserted, and all results of their table end.
            logger.exception("It cannot be told which rows a statement inserts.")
            return False
        self._rows.append((columns, values))
        return True

    def effects(self, names: Sequence[str | None], result: Any) -> Effects:
        """Return what it has changed.

        :param names: columns that were returned; ``None`` for one whose values are not those that are stored.
        :param result: rows of their values.
        """
        changed, conflicts = ChangedRows(self._keys), self._conflicts
        total = sum(len(rows) for _columns, rows in self._rows)
        complete = isinstance(result, list) and len(result) == total and len(self._rows) == 1
        left_out = conflicts.possible and not conflicts.updates
        returned = [_known(names, row) for row in result] if complete and not left_out else []
        for columns, rows in self._rows:
            rows_of_insert(changed, columns, rows, returned)
        inserted = partial(effects_of_rows, changed, self._epoch, member=True)
        if not conflicts.updates:
            return inserted(columns=None)
        known = frozenset(name for name in names if name is not None) if returned else frozenset[str]()
        for key in self._keys.keys:
            if not self._same_in_conflict(key, known):
                changed.lose(key)
        return inserted(columns=None) | inserted(columns=conflicts.updated)

    def _same_in_conflict(self, key: Key, returned: frozenset[str]) -> bool:
        """Return whether a key of a row that is updated instead was, and is, what is known.

        In the columns of the conflict it is as what was to be inserted. What has come back is as before if it
        is not set, and not computed anew.

        :param key: of the table.
        :param returned: columns of which values have come back.
        """
        if not self._keys.generated.isdisjoint(key):
            return False
        if self._conflicts.target.issuperset(key):
            return all(self._keys.kinds[column] in _ONE_EQUALITY for column in key)
        return returned.issuperset(key) and self._conflicts.updated.isdisjoint(key)


def conflicts_of(query: Any) -> Conflicts:
    """Return what an INSERT does with rows in conflict.

    :param query: an InsertQuery.
    """
    if query.on_conflict is None:
        return Conflicts()
    if query.on_conflict is OnConflict.IGNORE:
        return Conflicts(possible=True)
    updated, target = (
        frozenset(field.column for field in fields) for fields in (query.update_fields, query.unique_fields)
    )
    return Conflicts(possible=True, updates=True, updated=updated, target=target)


def does_as_said(query: Any, operations: Any, text: str) -> bool:
    """Return whether a statement does with rows in conflict what its query says; others may add something.

    :param query: an InsertQuery.
    :param operations: of its database.
    :param text: of the statement.
    """
    try:
        begins = operations.insert_statement(on_conflict=query.on_conflict)
        updated, target = (
            [field.column for field in some] for some in (query.update_fields, query.unique_fields)
        )
        suffix = operations.on_conflict_suffix_sql(query.fields, query.on_conflict, updated, target)
    except Exception:
        # A fault of ours: the statement is sent, and ends all results of its table.
        logger.exception("It cannot be told what a statement does with rows in conflict.")
        return False
    as_often = len(_ON_CONFLICT.findall(text)) == len(_ON_CONFLICT.findall(suffix))
    return bool(text.startswith(f"{begins} ") and suffix in text and as_often)


def _known(names: Sequence[str | None], row: Sequence[Any]) -> dict[str, Any]:
    """Return the values of a row that was returned, by the columns they are of."""
    return {name: value for name, value in zip(names, row, strict=False) if name is not None}
