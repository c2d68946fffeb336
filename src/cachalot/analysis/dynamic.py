"""Dynamic covers: tables whose rows that matter are known from the rows that the query gives.

A list of books with their authors needs the authors of these books and no others, but who they are is known
only when it has run. Let a table A be joined by ``B.c = A.k``, where ``k`` is unique in A, to a table B that
is covered. Then only rows of A matter whose ``k`` is a ``c`` of those rows of B; and all of these values
stand in the result, if no row of B is missing there because of what A holds:

* A is used in the list of SELECT and in equalities of joins only; in ORDER BY too, while nothing is cut off.
  Where a row of B has its partner, ``A.k`` is ``B.c``: conditions on it ask about B.
* The same is true of every table that is joined to A, and of those joined to them: a condition at the end of
  a chain makes each link decide which row is looked at.
* Rows are neither grouped nor made distinct, and there are no subqueries.

A row that has no partner is dropped by an inner join. Where the database promises that there is one, it is
missing for no reason but a NULL. Otherwise the result depends on what would bring the partner, too: rows that
come to A, and other values of the columns by which A is joined.

So the values found cover A. What they are worth, although their tokens were read late, is argued in
``core.protocol`` (``settle``).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models import Field
from django.db.models.expressions import Col

from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.trace import qualified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.analysis.trace import Block, Join, Recording

MAX_FOUND = 64
"""Values that may be found; with more of them a result depends on the table."""


class Found(NamedTuple):
    """Which column of the result covers a table.

    :param key: the key of the table, of one column.
    :param place: of its values in a row.
    :param comes: whether a row that comes to the table may matter that nobody has found.
    :param also: columns of the table whose new values may make a row appear that nobody has found.
    """

    key: Key
    place: int
    comes: bool = False
    also: frozenset[str] = frozenset()


def found_covers(
    recording: Recording, sql: str, covered: Iterable[str], keys_of: Callable[[str], TableKeys | None]
) -> dict[str, Found]:
    """Return the dynamic covers of a statement by alias.

    :param recording: of its compilation.
    :param sql: its text.
    :param covered: aliases of tables that are covered by conditions.
    :param keys_of: returns the keys of a table by its canonical name.
    """
    if len(recording.blocks) != 1 or recording.opaque or not _plain(recording.blocks[0].compiler):
        return {}
    block = recording.blocks[0]
    if block.compiler.query.is_sliced and not _ordered_by_columns(block.compiler.connection, sql):
        return {}
    return _Search(block, sql, keys_of).run(set(covered))


def _plain(compiler: Any) -> bool:
    """Return whether each row of the result is one row of each table, and every such row is there."""
    query = compiler.query
    changed = query.distinct or query.group_by is not None or query.combinator
    conditions = getattr(compiler, "having", None) or getattr(compiler, "qualify", None)
    return not changed and not conditions and not getattr(query, "is_summary", False)


def _is_plain(field: Any) -> bool:
    """Return whether what is selected of a field is its column, and no function of it."""
    return getattr(type(field), "select_format", None) is Field.select_format


def _ordered_by_columns(connection: Any, sql: str) -> bool:
    """Return whether a text that is cut off is ordered by columns that it names, if at all.

    An alias, or the place of a column in the result, does not show whose column decides.
    """
    head, found, tail = sql.rpartition(" ORDER BY ")
    if not found:
        return True
    column = qualified(connection).pattern
    item = re.compile(rf"(?:{column})(?: IS(?: NOT)? NULL)?(?: ASC| DESC)?(?: NULLS (?:FIRST|LAST))?")
    items = _CUT.split(tail)[0].split(", ")
    return _is_balanced(head) and all(item.fullmatch(one) for one in items)


_CUT = re.compile(r" (?:LIMIT|OFFSET|FETCH) ")


class _Search:
    def __init__(self, block: Block, sql: str, keys_of: Callable[[str], TableKeys | None]) -> None:
        self._block = block
        self._keys = {alias: keys_of(canonical_table(name)) for alias, name in block.tables.items()}
        self._places: dict[tuple[str, str], int] = {}
        self._listed: Counter[tuple[str, str]] = Counter()
        place = 0
        for expression, *_ in block.compiler.select:
            if type(expression) is Col and _is_plain(expression.output_field):
                pair = (expression.alias, str(expression.target.column))
                self._places.setdefault(pair, place)
                self._listed[pair] += 1
            # A key of several columns is one expression.
            place += len(expression.get_cols()) if hasattr(expression, "get_cols") else 1
        self._named = self._names(sql)

    def _names(self, sql: str) -> Counter[tuple[str, str]]:
        """Return how often each column is named; not in ORDER BY, if nothing is cut off."""
        query = self._block.compiler.query
        pairs = qualified(self._block.compiler.connection).findall(
            sql if query.is_sliced else _unordered(sql)
        )
        return Counter((quoted or plain, column) for quoted, plain, column in pairs)

    def run(self, covered: set[str]) -> dict[str, Found]:
        found: dict[str, Found] = {}
        new = True
        while new:
            new = False
            for join in self._block.joins.values():
                for alias, other in ((join.alias, join.parent), (join.parent, join.alias)):
                    if alias in covered or other not in covered or self._keys.get(alias) is None:
                        continue
                    cover = self._by(join, alias)
                    if cover is not None:
                        found[alias] = cover
                        covered.add(alias)
                        new = True
        return found

    def _by(self, join: Join, alias: str) -> Found | None:
        """Return the cover of a table by one join, ``None`` if it does not cover it."""
        keys = self._keys[alias]
        if keys is None or len(join.columns) != 1 or join.conditions:
            return None
        theirs, own = join.columns[0]
        kept = join.outer
        if alias == join.alias:
            column, other, foreign = own, join.parent, theirs
        elif kept:
            return None  # its rows are there without those of the other table
        else:
            column, other, foreign = theirs, join.alias, own
        if (column,) not in keys.unique:
            return None
        same = self._keys[other]
        alike = same is not None and same.kinds.get(foreign) is keys.kinds[column]
        also = self._quiet(alias, join, column) if alike else None
        if also is None:
            return None
        comes = not kept and not self._promised(other, foreign, alias, column)
        place = self._places.get((other, foreign))
        if place is None and not kept:
            place = self._places.get((alias, column))
        if comes:
            also.add(column)
        return None if place is None else Found((column,), place, comes, frozenset(also))

    def _quiet(self, alias: str, by: Join, column: str) -> set[str] | None:
        """Return which columns of a table decide, by joins alone, whether a row is seen.

        :param by: the join that is followed to the table.
        :param column: its column in that join.
        :returns: ``None`` if the table, or one that is joined to it, decides it by anything else.
        """
        also: set[str] = set()
        allowed = Counter({(alias, column): 1})
        for join in self._block.joins.values():
            if join.parent != alias or join is by:
                continue
            beyond = [self._quiet(join.alias, join, own) for _theirs, own in join.columns]
            if None in beyond or (join.outer and self._drops(join.alias)) or self._multiplies(join):
                return None
            for (theirs, own), further in zip(join.columns, beyond, strict=True):
                allowed[alias, theirs] += 1
                if not join.outer and (further or not self._always(alias, theirs, join.alias, own)):
                    also.add(theirs)
        for pair, count in self._named.items():
            free = pair[1] == column and not by.outer
            if pair[0] == alias and not free and count > self._listed[pair] + allowed[pair]:
                return None
        return also

    def _multiplies(self, join: Join) -> bool:
        """Return whether the rows of a join decide how many there are before some are cut off."""
        keys = self._keys.get(join.alias)
        one = keys is not None and tuple(own for _theirs, own in join.columns) in keys.unique
        return bool(self._block.compiler.query.is_sliced) and not one

    def _drops(self, alias: str) -> bool:
        """Return whether an inner join to a table, or beyond, drops rows."""
        beyond = [join for join in self._block.joins.values() if join.parent == alias]
        return any(not join.outer or self._drops(join.alias) for join in beyond)

    def _promised(self, alias: str, column: str, target: str, target_column: str) -> bool:
        """Return whether the database promises that a value of a column has its partner."""
        keys = self._keys[alias]
        wanted = canonical_table(self._block.tables[target])
        return keys is not None and (column, wanted, target_column) in keys.references

    def _always(self, alias: str, column: str, target: str, target_column: str) -> bool:
        """Return whether the database promises that there is a value, and that it has its partner."""
        keys = self._keys[alias]
        required = keys is not None and column in keys.required
        return required and self._promised(alias, column, target, target_column)


def _unordered(sql: str) -> str:
    """Return a text without the ORDER BY at its end; that of a window stands in parentheses."""
    head = sql.rpartition(" ORDER BY ")[0]
    return head if head and _is_balanced(head) else sql


def _is_balanced(text: str) -> bool:
    return text.count("(") == text.count(")")
