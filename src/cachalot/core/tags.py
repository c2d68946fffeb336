"""Tags: the names of what a query depends on and of what a write changes.

A query is answered from the cache only while no tag it depends on has been written. Safety is one rule: if a
write can change the result of a query then the two have a tag in common.

===================  ==========================================  =============================================
tag                  written by                                  read by
===================  ==========================================  =============================================
``row(T, k=v)``      writes to a row whose old or new ``k``      a table of the statement that is *covered* by
                     is ``v``                                    ``k = v``: no other row can matter to it
``member(T, k=v)``   those of them that change a column of a     the same, if it uses columns of keys only
                     key, or bring or take the row
``bulk(T, k)``       writes to rows whose ``k`` is not known     all that is covered by values of ``k``
``rows(T)``          INSERT, DELETE                              tables that are not covered, of which few
                                                                 columns are used
``col(T, c)``        UPDATE that sets ``c``; ``col(T, *)``: so   the same, for each of these columns, and
                     many columns that they are not listed       ``col(T, *)``
``whole(T)``         writes of which nothing finer is known      all that reads one of the tags above
``any(T)``           every write to the table                    all other tables of statements
``*`` (the epoch)    DDL, and writes that are not understood     every query
===================  ==========================================  =============================================

Why that is enough: let a write change the result of a query. The result is a function of, for each table of
the statement, the rows it can see there and the columns it uses of them. For a covered table these are the
rows with ``k = v``, so a row with ``k = v``, before or after the write, was written: ``row`` or ``bulk`` or
``whole``. For any other the write has inserted or deleted a row or set one of the columns. It is the argument
by which a selection is pushed down to a table, and the one by which optimistic concurrency control validates
a read set (Kung and Robinson, TODS 1981).
"""

from __future__ import annotations

import enum
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scope(enum.Enum):
    """How much of a database a tag stands for."""

    EPOCH = "*"
    ANY = "any"
    WHOLE = "whole"
    ROWS = "rows"
    COLUMN = "col"
    BULK = "bulk"
    ROW = "row"
    MEMBER = "member"


OF_ROWS = frozenset({Scope.ROW, Scope.MEMBER})
PASSING = frozenset({*OF_ROWS, Scope.WHOLE})
"""Tags whose tokens are not replaced but removed by a write: nobody may be reading them any more."""

MAX_WRITTEN = 200
"""Tags of rows that one write or transaction changes of a table at most; then they are ``bulk``."""

ALL_COLUMNS = "*"
"""Stands for the columns of no key, if a write changes too many columns to name them."""


class Tag(NamedTuple):
    """One thing that can change.

    :param scope: how much is meant.
    :param table: canonical name of the table; empty for the epoch.
    :param part: a column, the columns of a key, or these followed by as many canonical values.
    """

    scope: Scope
    table: str = ""
    part: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the tag as it is written in the documentation."""
        if self.scope is Scope.EPOCH:
            return "*"
        if self.scope in OF_ROWS:
            half = len(self.part) // 2
            values = [value[1:] or None for value in self.part[half:]]
            pairs = ", ".join(f"{key}={value}" for key, value in zip(self.part, values, strict=False))
            return f"{self.scope.value}({self.table}, {pairs})"
        return f"{self.scope.value}({', '.join((self.table, *self.part))})"

    def key(self) -> tuple[str, ...]:
        """Return the columns of the key that a tag of rows is about."""
        return self.part[: len(self.part) // 2] if self.scope in OF_ROWS else self.part


EPOCH = Tag(Scope.EPOCH)
"""Written by DDL and by every write that is not understood; every query depends on it."""


def any_of(table: str) -> Tag:
    """Return the tag that every write to ``table`` changes."""
    return Tag(Scope.ANY, table)


def whole_of(table: str) -> Tag:
    """Return the tag that is changed by writes of which nothing finer is known."""
    return Tag(Scope.WHOLE, table)


def dependencies(tables: Iterable[str]) -> tuple[Tag, ...]:
    """Return what a query over ``tables`` depends on if nothing finer is known, in a fixed order.

    :param tables: canonical names of tables.
    """
    return (EPOCH, *(any_of(table) for table in sorted(set(tables))))


class Fact(NamedTuple):
    """From what the finer tags of a write follow.

    :param table: canonical name.
    :param sign: of the keys of the table.
    :param epoch: token of the epoch under which they were learned.
    """

    table: str
    sign: str
    epoch: str


class Effects(NamedTuple):
    """What one or more writes change.

    :param whole: canonical names of tables in which anything may have changed.
    :param everything: whether anything else may have changed as well.
    :param parts: what has changed of other tables; ``any`` of each is among them.
    :param facts: from which ``parts`` follow, for each of their tables.
    """

    whole: frozenset[str] = frozenset()
    everything: bool = False
    parts: frozenset[Tag] = frozenset()
    facts: frozenset[Fact] = frozenset()

    def __or__(self, other: Effects) -> Effects:
        """Return what both change together."""
        return Effects(
            self.whole | other.whole,
            self.everything or other.everything,
            self.parts | other.parts,
            self.facts | other.facts,
        )

    def __bool__(self) -> bool:
        """Return whether anything changes at all."""
        return self.everything or bool(self.whole or self.parts)

    @property
    def tables(self) -> frozenset[str]:
        """Return the canonical names of all tables written."""
        return self.whole.union(tag.table for tag in self.parts) if self.parts else self.whole

    def coarse(self) -> Effects:
        """Return the same with nothing finer than tables."""
        return Effects(self.tables, self.everything)

    def bounded(self) -> Effects:
        """Return the same with ``bulk`` in the place of too many rows of a table."""
        bulk = {(tag.table, tag.part) for tag in self.parts if tag.scope is Scope.BULK}
        rows = [tag for tag in self.parts if tag.scope in OF_ROWS]
        counts = Counter(tag.table for tag in rows)
        many = {(tag.table, tag.key()) for tag in rows if counts[tag.table] > MAX_WRITTEN}
        if not many and not bulk:
            return self
        # Who depends on a row by a key depends on ``bulk`` of the key as well.
        left = (
            tag for tag in self.parts if tag.scope not in OF_ROWS or (tag.table, tag.key()) not in many | bulk
        )
        more = (Tag(Scope.BULK, table, key) for table, key in many)
        return self._replace(parts=frozenset((*left, *more)))

    def tags(self) -> tuple[Tag, ...]:
        """Return the tags that must die, in a fixed order."""
        found = {tag for tag in self.parts if tag.table not in self.whole}
        for table in self.whole:
            found |= {any_of(table), whole_of(table)}
        head = (EPOCH,) if self.everything else ()
        return (*head, *sorted(found, key=_place))

    def touches(self, tags: Iterable[Tag]) -> bool:
        """Return whether a result that depends on ``tags`` may differ afterwards."""
        return self.everything or any(tag.table in self.whole or tag in self.parts for tag in tags)


def _place(tag: Tag) -> tuple[str, str, tuple[str, ...]]:
    return tag.table, tag.scope.value, tag.part


NOTHING = Effects()
EVERYTHING = Effects(everything=True)
