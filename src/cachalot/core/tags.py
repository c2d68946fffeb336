"""Tags: the names of what a query depends on and of what a write changes.

A query is answered from the cache only while no tag it depends on has been written. Safety is one rule: if a
write can change the result of a query then the two have a tag in common. ``any(T)`` stands for everything in
a table, the epoch for everything in a database; a write that is not understood changes the epoch. Finer tags
(rows, columns) fit beside these two: a tag is its kind, its table and what part of the table is meant.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Scope(enum.Enum):
    """How much of a database a tag stands for."""

    EPOCH = "*"
    ANY = "any"


class Tag(NamedTuple):
    """One thing that can change.

    :param scope: how much is meant.
    :param table: canonical name of the table; empty for the epoch.
    """

    scope: Scope
    table: str = ""

    def __str__(self) -> str:
        """Return the tag as it is written in the documentation."""
        return "*" if self.scope is Scope.EPOCH else f"{self.scope.value}({self.table})"


EPOCH = Tag(Scope.EPOCH)
"""Written by DDL and by every write that is not understood; every query depends on it."""


def any_of(table: str) -> Tag:
    """Return the tag that every write to ``table`` changes."""
    return Tag(Scope.ANY, table)


def dependencies(tables: Iterable[str]) -> tuple[Tag, ...]:
    """Return what a query over ``tables`` depends on, in a fixed order.

    :param tables: canonical names of tables.
    """
    return (EPOCH, *(any_of(table) for table in sorted(set(tables))))


class Effects(NamedTuple):
    """What one or more writes change.

    :param tables: canonical names of the tables written.
    :param everything: whether anything else may have changed as well.
    """

    tables: frozenset[str] = frozenset()
    everything: bool = False

    def __or__(self, other: Effects) -> Effects:
        """Return what both change together."""
        return Effects(self.tables | other.tables, self.everything or other.everything)

    def __bool__(self) -> bool:
        """Return whether anything changes at all."""
        return self.everything or bool(self.tables)

    def tags(self) -> tuple[Tag, ...]:
        """Return the tags that must die, in a fixed order."""
        head = (EPOCH,) if self.everything else ()
        return (*head, *(any_of(table) for table in sorted(self.tables)))

    def touches(self, tags: Iterable[Tag]) -> bool:
        """Return whether a result that depends on ``tags`` may differ afterwards."""
        return self.everything or any(tag.table in self.tables for tag in tags)


NOTHING = Effects()
EVERYTHING = Effects(everything=True)
