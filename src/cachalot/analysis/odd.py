"""Tables that are not what their managed models say: views, relatives by inheritance, foreign tables.

A migration makes a table, and a statement by hand may put something else in its place, such as a view while
the table is given another name step by step. A write names one relation and changes another then. That is
seen to on the side of the readers: who reads one of two such relations depends on the other, too, so that
a writer need not know.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cachalot.analysis.catalogue import Behind


class Odd(NamedTuple):
    """What is odd in one database.

    :param beside: by relation, others whose writes change what it shows.
    :param refused: relations whose rows do not follow from tables.
    :param anywhere: relations whose writes may change any table.
    """

    beside: Mapping[str, frozenset[str]] = {}
    refused: frozenset[str] = frozenset()
    anywhere: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        """Return whether anything is odd."""
        return bool(self.beside or self.refused or self.anywhere)

    def around(self, relations: frozenset[str]) -> frozenset[str]:
        """Return relations, and all others whose writes change what these show."""
        found: set[str] = set()
        todo = list(relations)
        while todo:
            relation = todo.pop()
            if relation not in found:
                found.add(relation)
                todo += self.beside.get(relation, ())
        return self.anywhere.union(found)


def odd_of(found: Mapping[str, Behind | None]) -> Odd:
    """Return what is odd.

    :param found: what stands behind each odd relation; ``None`` if that is unknown.
    """
    beside: dict[str, set[str]] = defaultdict(set)
    refused, anywhere = set(), set()
    for relation, behind in found.items():
        if behind is None or behind.reading is None:
            refused.add(relation)
        else:
            beside[relation] |= behind.reading - {relation}
        if behind is None or behind.writing is None:
            anywhere.add(relation)
        else:
            for table in behind.writing - {relation}:
                beside[table].add(relation)
    return Odd(
        {relation: frozenset(others) for relation, others in beside.items() if others},
        frozenset(refused),
        frozenset(anywhere),
    )
