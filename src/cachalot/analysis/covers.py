"""From the conditions of one block of a statement to the rows that can matter of each of its tables.

A *cover* of a table is a set of values of its keys such that the block gives the same if the table had no
other rows: a selection that may be pushed down to the table (tags.py says what it is used for). Conditions
are judged by the text they were compiled to, not by their class: ``column = %s``, ``column IN (%s, …)`` and
``column IS NULL``, and the same for tuples, mean what they mean whoever has written them. All else covers
nothing.

* ``P AND Q``: what either covers. Several columns that are covered make up keys of several columns.
* ``P OR Q``: a table that both cover, by both together. ``NOT``, ``XOR``: nothing.
* ``IS NULL`` covers nothing on the side of an outer join that may have no row: it asks for those.
* Conditions of an ON clause cover the table that is joined, never the one it is joined to.
* An equality by which tables are joined hands a cover on: to the table joined always, back to the other only
  if rows without a partner are dropped, by an inner join or by a condition of WHERE.

``HAVING`` never covers: it sees groups.
"""

from __future__ import annotations

from itertools import islice, product
from typing import TYPE_CHECKING, Any, NamedTuple

from django.db.models.expressions import Col

from cachalot.analysis.rawsql import canonical_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.analysis.trace import Block, Join, Outcome

MAX_ATOMS = 50
"""Values in a cover at most: a page of a list, whose relations are fetched by ``IN``."""


class Atom(NamedTuple):
    """One value of one key.

    :param key: its columns.
    :param values: one for each; a parameter, marked or plain, or ``None`` for NULL.
    """

    key: Key
    values: tuple[Any, ...]


Cover = tuple[Atom, ...]


class Covers(dict[str, "list[Cover]"]):
    """Covers by alias; each of them is enough. ``impossible`` when no row at all can matter."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.impossible = False
        self._most = most

    def add(self, alias: str, cover: Cover) -> bool:
        """Add a cover of reasonable size, and return whether it is new."""
        known = self.setdefault(alias, [])
        if len(cover) > self._most or cover in known:
            return False
        known.append(cover)
        return True


def covers_of(block: Block, where: Any, keys_of: Callable[[str], TableKeys | None]) -> dict[str, Cover]:
    """Return the best cover of each table of a block that has one.

    :param block: the block, as it was compiled.
    :param where: its WHERE clause, without what belongs to HAVING; ``None`` if it has none.
    :param keys_of: returns the keys of a table by its canonical name.
    :returns: by alias.
    """
    return _Search(block, keys_of, MAX_ATOMS).run(where)


def all_covers_of(
    block: Block, where: Any, keys_of: Callable[[str], TableKeys | None], most: int
) -> list[Cover]:
    """Return all covers of the one table of an UPDATE or DELETE; see :func:`covers_of`.

    :param most: values in a cover at most.
    """
    (alias,) = block.tables
    return _Search(block, keys_of, most).condition(where).get(alias, [])


class _Search:
    def __init__(self, block: Block, keys_of: Callable[[str], TableKeys | None], most: int) -> None:
        self._most = most
        self._block = block
        self._keys = {alias: keys_of(canonical_table(table)) for alias, table in block.tables.items()}
        self._quote = block.compiler.connection.ops.quote_name
        self._outer = {alias for alias in block.tables if self._may_have_no_row(alias)}

    def _may_have_no_row(self, alias: str) -> bool:
        join = self._block.joins.get(alias)
        return join is not None and (join.outer or self._may_have_no_row(join.parent))

    def run(self, where: Any) -> dict[str, Cover]:
        firm = Covers(self._most) if where is None else self.condition(where)
        if firm.impossible:
            return {}
        loose = self._of_on_clauses(firm)
        new = True
        while new:
            new = False
            for join in self._block.joins.values():
                new |= self._hand_on(join, firm, loose)
        found = {}
        for alias in self._block.tables:
            best = self._best(alias, [*firm.get(alias, ()), *loose.get(alias, ())])
            if best is not None:
                found[alias] = best
        return found

    def _of_on_clauses(self, firm: Covers) -> Covers:
        """Return what conditions of ON clauses cover; that of an inner join is as good as one of WHERE."""
        loose = Covers(self._most)
        for alias, join in self._block.joins.items():
            for condition in join.conditions:
                for cover in self.condition(condition).get(alias, ()):
                    (loose if alias in self._outer else firm).add(alias, cover)
        self._join_columns(loose)
        self._join_columns(firm)
        return loose

    # Conditions.

    def condition(self, node: Any) -> Covers:
        """Return what a condition that was compiled covers."""
        outcome = self._block.outcomes.get(id(node))
        if outcome is None or outcome.sql is None:
            found = Covers(self._most)
            found.impossible = outcome is not None and not outcome.true
            return found
        children, connector = getattr(node, "children", None), getattr(node, "connector", None)
        if children is None or connector is None:
            return self._leaf(outcome)
        if node.negated:
            return Covers(self._most)
        if connector == "AND" or len(children) == 1:
            return self._all(map(self.condition, children))
        return self._either(list(map(self.condition, children))) if connector == "OR" else Covers(self._most)

    def _all(self, parts: Iterable[Covers]) -> Covers:
        found = Covers(self._most)
        for part in parts:
            found.impossible |= part.impossible
            for alias, covers in part.items():
                for cover in covers:
                    found.add(alias, cover)
        self._join_columns(found)
        return found

    def _either(self, parts: list[Covers]) -> Covers:
        possible = [part for part in parts if not part.impossible]
        found = Covers(self._most)
        found.impossible = not possible
        for alias in self._block.tables if possible else ():
            best = [self._best(alias, part.get(alias, ())) for part in possible]
            if None not in best:
                found.add(alias, _distinct(atom for one in best if one is not None for atom in one))
        return found

    def _join_columns(self, found: Covers) -> None:
        """Make covers by keys of several columns from covers by each of them."""
        for alias, covers in list(found.items()):
            keys = self._keys.get(alias)
            single = {
                cover[0].key[0]: cover
                for cover in covers
                if cover and all(atom.key == cover[0].key for atom in cover) and len(cover[0].key) == 1
            }
            for key in () if keys is None else keys.keys:
                if len(key) > 1 and all(column in single for column in key):
                    chosen = product(*(single[column] for column in key))
                    found.add(
                        alias,
                        tuple(
                            Atom(key, tuple(atom.values[0] for atom in one))
                            for one in islice(chosen, self._most + 1)
                        ),
                    )

    def _leaf(self, outcome: Outcome) -> Covers:
        found = Covers(self._most)
        columns = _columns(outcome.node)
        alias = columns[0].alias if columns else None
        if alias not in self._block.tables or any(one.alias != alias for one in columns):
            return found
        key = tuple(str(one.target.column) for one in columns)
        values = _values(outcome.sql or "", self._texts(columns), outcome.params)
        if values is not None and not (None in values and alias in self._outer):
            found.add(alias, _distinct(Atom(key, (one,) if one is None else one) for one in values))
        return found

    def _texts(self, columns: tuple[Any, ...]) -> list[str]:
        compiler = self._block.compiler
        # Since Django 6.1 the one that knows aliases has the shorter name.
        name = getattr(compiler, "quote_name", None) or compiler.quote_name_unless_alias
        return [f"{name(one.alias)}.{self._quote(one.target.column)}" for one in columns]

    # Joins.

    def _hand_on(self, join: Join, firm: Covers, loose: Covers) -> bool:
        """Hand covers on over the equalities of a join, and return whether anything is new."""
        new = False
        for theirs, own in join.columns:
            if not self._comparable(join, theirs, own):
                continue
            for cover in _over(firm.get(join.parent, ()), theirs):
                place = loose if join.alias in self._outer else firm
                new |= place.add(join.alias, _moved(cover, own))
            for cover in _over(loose.get(join.parent, ()), theirs):
                new |= loose.add(join.alias, _moved(cover, own))
            for cover in _over(firm.get(join.alias, ()), own):
                new |= firm.add(join.parent, _moved(cover, theirs))
        if new:
            self._join_columns(firm)
            self._join_columns(loose)
        return new

    def _comparable(self, join: Join, theirs: str, own: str) -> bool:
        """Return whether both columns tell the same values apart."""
        parent, child = self._keys.get(join.parent), self._keys.get(join.alias)
        if parent is None or child is None or theirs not in parent.kinds or own not in child.kinds:
            return False
        return parent.kinds[theirs] is child.kinds[own]

    # The choice.

    def _best(self, alias: str, covers: Iterable[Cover]) -> Cover | None:
        """Return the cover by the fewest rows: by unique keys, then by few values."""
        keys = self._keys.get(alias)
        if keys is None:
            return None
        known = set(keys.keys)
        usable = [cover for cover in covers if all(atom.key in known for atom in cover)]
        return min(usable, key=lambda cover: _rank(cover, keys), default=None)


def _distinct(atoms: Iterable[Atom]) -> Cover:
    """Return atoms without those that stand at the same places in the text.

    That two places hold the same value says nothing about the next statement with this text.
    """
    return tuple({(atom.key, *map(id, atom.values)): atom for atom in atoms}.values())


def _rank(cover: Cover, keys: TableKeys) -> tuple[bool, int, int]:
    columns = min((len(atom.key) for atom in cover), default=0)
    return any(atom.key not in keys.unique for atom in cover), len(cover), -columns


def _columns(node: Any) -> tuple[Any, ...]:
    """Return the columns on the left side of a condition; none if there is anything else."""
    left = getattr(node, "lhs", None)
    if isinstance(left, Col):
        return (left,)
    columns = tuple(left.get_cols()) if left is not None and type(left).__name__ == "ColPairs" else ()
    return columns if all(isinstance(one, Col) for one in columns) else ()


def _values(sql: str, columns: list[str], params: tuple[Any, ...]) -> list[Any] | None:
    """Return the values that a condition allows, tuples or ``None`` for NULL; ``None`` if it is another.

    :param columns: texts of the columns that are compared.
    """
    if len(columns) == 1 and sql == f"{columns[0]} IS NULL":
        return [None]
    width = len(columns)
    count, rest = divmod(len(params), width)
    if rest or not count or None in params or sql not in _comparisons(columns, count):
        return None
    return [params[at : at + width] for at in range(0, len(params), width)]


def _comparisons(columns: list[str], count: int) -> set[str]:
    """Return the texts by which columns are compared with so many values."""
    left, one = columns[0], "%s"
    if len(columns) > 1:
        left, one = f"({', '.join(columns)})", f"({', '.join(['%s'] * len(columns))})"
    found = {f"{left} IN ({', '.join([one] * count)})"}
    # Django 5.2 writes tuples out.
    each = " AND ".join(f"{column} = %s" for column in columns)
    if len(columns) > 1:
        found.add(f"({' OR '.join([f'({each})'] * count)})")
    if count == 1:
        found |= {f"{left} = {one}", f"({each})" if len(columns) > 1 else each}
    return found


def _over(covers: Iterable[Cover], column: str) -> list[Cover]:
    """Return those covers that are by values of one column, none of them NULL."""
    return [
        cover for cover in covers if all(atom.key == (column,) and atom.values != (None,) for atom in cover)
    ]


def _moved(cover: Cover, column: str) -> Cover:
    return tuple(Atom((column,), atom.values) for atom in cover)
