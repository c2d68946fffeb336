"""Dynamic covers: tables whose rows that matter are known from the rows that the query gives.

A list of books with their authors needs the authors of these books and no others, but who they are is known
only when it has run. Let a table A be joined by ``B.c = A.k``, where ``k`` is unique in A, to a table B that
is covered. Then only rows of A matter whose ``k`` is a ``c`` of those rows of B; and all of these values
stand in the result, if nothing that is looked up in A decides which rows of B are seen:

* A is used in the list of SELECT and in equalities of joins only; in ORDER BY too, while nothing is cut off;
* rows of B without a partner stay (an outer join), or there are none, by a foreign key that the database
  enforces;
* rows are neither grouped nor made distinct, and there are no subqueries.

So the values found cover A. What they are worth, although their tokens were read late, is argued in
``core.protocol`` (``settle``).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from django.apps import apps
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
    """

    key: Key
    place: int


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
    return _Search(recording.blocks[0], sql, keys_of).run(set(covered))


def _plain(compiler: Any) -> bool:
    """Return whether each row of the result is one row of each table, and every such row is there."""
    query = compiler.query
    changed = query.distinct or query.group_by is not None or query.combinator
    conditions = getattr(compiler, "having", None) or getattr(compiler, "qualify", None)
    return not changed and not conditions and not getattr(query, "is_summary", False)


class _Search:
    def __init__(self, block: Block, sql: str, keys_of: Callable[[str], TableKeys | None]) -> None:
        self._block = block
        self._keys = {alias: keys_of(canonical_table(name)) for alias, name in block.tables.items()}
        self._places: dict[tuple[str, str], int] = {}
        self._listed: Counter[tuple[str, str]] = Counter()
        for place, (expression, *_) in enumerate(block.compiler.select):
            if isinstance(expression, Col):
                pair = (expression.alias, str(expression.target.column))
                self._places.setdefault(pair, place)
                self._listed[pair] += 1
        self._named = self._names(sql)

    def _names(self, sql: str) -> Counter[tuple[str, str]]:
        """Return how often each column is named; not in ORDER BY, if nothing is cut off."""
        query = self._block.compiler.query
        text = sql if query.is_sliced else sql.rpartition(" ORDER BY ")[0] or sql
        pairs = qualified(self._block.compiler.connection).findall(text)
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
        column, other, foreign = (
            (own, join.parent, theirs) if alias == join.alias else (theirs, join.alias, own)
        )
        if (column,) not in keys.unique or not self._only_listed(alias, column):
            return None
        kept = join.outer and alias == join.alias
        if not kept and not self._enforced(other, foreign, alias, column):
            return None
        place = self._places.get((other, foreign))
        if place is None and not kept:
            place = self._places.get((alias, column))
        return None if place is None else Found((column,), place)

    def _only_listed(self, alias: str, key: str) -> bool:
        """Return whether nothing but the list of SELECT, and joins that drop no row, use a table."""
        joined: Counter[tuple[str, str]] = Counter()
        for join in self._block.joins.values():
            for theirs, own in join.columns:
                if join.parent == alias and (join.outer or self._enforced(alias, theirs, join.alias, own)):
                    joined[alias, theirs] += 1
        return all(
            count == self._listed[pair] + joined[pair]
            for pair, count in self._named.items()
            if pair[0] == alias and pair[1] != key
        )

    def _enforced(self, alias: str, column: str, target: str, target_column: str) -> bool:
        """Return whether the database itself sees to it that a foreign key has a partner."""
        connection = self._block.compiler.connection
        if not connection.features.supports_foreign_keys:
            return False
        source, wanted = self._block.tables[alias], self._block.tables[target]
        return (source, column, wanted, target_column) in _constraints()


_kept: tuple[Any, frozenset[tuple[str, str, str, str]]] | None = None


def _constraints() -> frozenset[tuple[str, str, str, str]]:
    """Return the foreign keys with a constraint: table, column, table and column aimed at."""
    global _kept  # noqa: PLW0603 - replaced as a whole when the registry has made a new list
    registered = apps.get_models(include_auto_created=True, include_swapped=True)
    if _kept is None or _kept[0] is not registered:
        fields = (
            (model, field)
            for model in registered
            if model._meta.managed and not model._meta.proxy
            for field in _columns(model)
            if field.remote_field is not None and getattr(field, "db_constraint", False)
        )
        found = frozenset(
            (
                model._meta.db_table,
                str(field.column),
                field.target_field.model._meta.db_table,
                str(field.target_field.column),
            )
            for model, field in fields
        )
        _kept = (registered, found)
    return _kept[1]


def _columns(model: Any) -> Iterable[Any]:
    fields: Iterable[Any] = model._meta.local_concrete_fields
    return fields
