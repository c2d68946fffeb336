"""From the text of a read to what its result depends on, as far as the text decides it; once per text.

What a statement depends on is a function of its text and of the values of some of its parameters. So the
covers are searched once for each text, in a compilation of its own in which the parameters are marked, and
what is kept says at which places the values stand. A text whose second compilation differs from the first
one has no covers.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cachalot.analysis.covers import covers_of
from cachalot.analysis.dynamic import MAX_FOUND, Found, found_covers
from cachalot.analysis.rawsql import canonical_table
from cachalot.analysis.trace import Marked, Recording, qualified
from cachalot.core.tags import ALL_COLUMNS, EPOCH, Scope, Tag, any_of, whole_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from cachalot.analysis.covers import Cover
    from cachalot.analysis.tablekeys import Key, TableKeys
    from cachalot.analysis.trace import Block

MAX_TAGS = 64
"""Tags of rows that one statement depends on at most; the tables with most of them go over to ``any``."""

MAX_COLUMNS = 3
"""A table that is not covered, of which more columns are used, depends on ``any``: one tag for many."""

_WORDS = re.compile(r"\w+")
_LABELS = re.compile(r" AS [\"`]\w+[\"`]")


class Source(NamedTuple):
    """Where the values of one value of a key stand: places of parameters, ``None`` for NULL."""

    key: Key
    places: tuple[int | None, ...]


@dataclass(frozen=True)
class Part:
    """One table of a statement.

    :param keys: its keys; ``None`` if it has none.
    :param table: its canonical name.
    :param cover: the rows that matter; ``None`` if all do.
    :param otherwise: what it depends on if the values in the cover cannot be told apart.
    :param member: whether only columns of keys are used of it.
    :param found: the column of the result whose values cover it, if nothing else does.
    """

    table: str
    keys: TableKeys | None
    cover: tuple[Source, ...] | None
    otherwise: tuple[Tag, ...]
    member: bool = False
    found: Found | None = None

    def tags(self, params: Sequence[Any]) -> tuple[Tag, ...]:
        """Return what it depends on, for some parameters, apart from what is found in the rows."""
        if self.found is not None:
            return self._around_found(self.found)
        if self.cover is None or self.keys is None:
            return self.otherwise
        found: list[Tag] = [whole_of(self.table)]
        scope = Scope.MEMBER if self.member else Scope.ROW
        for key, places in self.cover:
            values = [None if place is None else params[place] for place in places]
            texts = self.keys.canonical(key, values)
            if texts is None:
                return self.otherwise
            found += (Tag(Scope.BULK, self.table, key), Tag(scope, self.table, key + texts))
        return tuple(found)

    def _around_found(self, found: Found) -> tuple[Tag, ...]:
        """Return what it depends on whatever is found in the rows."""
        tags = [whole_of(self.table), Tag(Scope.BULK, self.table, found.key)]
        if found.comes:
            tags.append(Tag(Scope.ROWS, self.table))
        return (*tags, *_columns_of(self.table, self.keys, found.also))

    def tag_of(self, value: Any) -> Tag | None:
        """Return what it depends on by one value that was found; ``None`` if it has no canonical text."""
        if self.found is None or self.keys is None:
            return None
        texts = self.keys.canonical(self.found.key, (value,))
        scope = Scope.MEMBER if self.member else Scope.ROW
        return None if texts is None else Tag(scope, self.table, self.found.key + texts)


@dataclass(frozen=True)
class Shape:
    """What the text of a read decides about its dependencies.

    :param parts: its tables.
    :param keys: of all its tables that have keys.
    """

    parts: tuple[Part, ...]
    keys: tuple[TableKeys, ...]

    def tags(self, params: Sequence[Any]) -> tuple[Tag, ...]:
        """Return what the read depends on, each tag once, in a fixed order."""
        found = dict.fromkeys((EPOCH,))
        for part in self.parts:
            found.update(dict.fromkeys(part.tags(params)))
        return tuple(found)

    def dynamic(self, tags: tuple[Tag, ...]) -> tuple[Part, ...]:
        """Return the tables of which it is found in the rows what a read depends on.

        :param tags: what it depends on in any case; a table of which that is ``any`` needs nothing finer.
        """
        return tuple(part for part in self.parts if part.found is not None and any_of(part.table) not in tags)


def found_in(parts: Sequence[Part], rows: Sequence[Any]) -> tuple[Tag, ...] | None:
    """Return the tags of the rows of some tables that are found in the rows of a result.

    :returns: ``None`` if there are too many, or if they cannot be told apart.
    """
    found: dict[Tag, None] = {}
    for part in parts:
        place = 0 if part.found is None else part.found.place
        values = {row[place] for row in rows if row[place] is not None}
        if len(found) + len(values) > MAX_FOUND:
            return None
        for value in values:
            tag = part.tag_of(value)
            if tag is None:
                return None
            found[tag] = None
    return tuple(sorted(found, key=str))


def shape_of(
    recording: Recording, sql: str, params: Sequence[Any], keys_of: Callable[[str], TableKeys | None]
) -> Shape:
    """Return the shape of a read.

    :param recording: of a compilation in which parameters were marked.
    :param sql: its text.
    :param params: its parameters, marked where they stand in conditions.
    :param keys_of: returns the keys of a table by its canonical name.
    """
    if not _all_were_compiled(recording, sql):
        return Shape(tuple(map(_all_of, sorted(recording.tables))), ())
    places = _places(params)
    used = None if recording.opaque else _used(recording, sql, keys_of)
    parts: list[Part] = []
    for block in recording.blocks:
        covers = {} if recording.opaque else covers_of(block, _where(block), keys_of)
        sources = {alias: _sources(cover, places) for alias, cover in covers.items()}
        firm = [alias for alias, cover in sources.items() if cover is not None]
        found = {} if used is None else found_covers(recording, sql, firm, keys_of)
        for alias, name in block.tables.items():
            part = _part(canonical_table(name), alias, sources.get(alias), used, keys_of)
            parts.append(replace(part, found=found[alias]) if alias in found else part)
    parts += [_all_of(table) for table in sorted(recording.tables - {part.table for part in parts})]
    keys = {part.table: part.keys for part in parts if part.keys is not None}
    return Shape(tuple(_bounded(parts)), tuple(keys.values()))


def _places(params: Sequence[Any]) -> dict[int, int]:
    """Return where marked parameters stand, by identity; -1 for one that stands at several places."""
    places: dict[int, int] = {}
    for place, one in enumerate(params):
        if isinstance(one, Marked):
            places[id(one)] = -1 if id(one) in places else place
    return places


def _where(block: Block) -> Any:
    return getattr(block.compiler, "where", None)


def _all_of(table: str) -> Part:
    return Part(table, None, None, (any_of(table),))


def _part(
    table: str,
    alias: str,
    cover: tuple[Source, ...] | None,
    used: dict[str, set[str]] | None,
    keys_of: Callable[[str], TableKeys | None],
) -> Part:
    keys = keys_of(table)
    if keys is None:
        return _all_of(table)
    columns = None if used is None else used.get(alias, set())
    member = columns is not None and columns <= set(keys.kinds) - keys.generated
    return Part(table, keys, cover, _uncovered(table, keys, columns), member)


def _uncovered(table: str, keys: TableKeys, columns: set[str] | None) -> tuple[Tag, ...]:
    """Return what a table depends on of which any row may matter."""
    if columns is None or len(columns) > MAX_COLUMNS:
        return (any_of(table),)
    return (whole_of(table), Tag(Scope.ROWS, table), *_columns_of(table, keys, columns))


def _columns_of(table: str, keys: TableKeys | None, columns: AbstractSet[str]) -> tuple[Tag, ...]:
    """Return what a result depends on that uses some columns of any row."""
    # Which columns of keys an UPDATE has changed is always said one by one.
    named = columns <= set(() if keys is None else keys.kinds)
    return tuple(
        Tag(Scope.COLUMN, table, (name,)) for name in (*([] if named else [ALL_COLUMNS]), *sorted(columns))
    )


def _sources(cover: Cover | None, places: dict[int, int]) -> tuple[Source, ...] | None:
    """Return where the values of a cover stand; ``None`` if one of them cannot be found again."""
    if cover is None:
        return None
    found = []
    for atom in cover:
        at = tuple(None if value is None else places.get(id(value), -1) for value in atom.values)
        if -1 in at:
            return None
        found.append(Source(atom.key, at))
    return tuple(found)


def _bounded(parts: list[Part]) -> Iterable[Part]:
    """Let the tables with most rows go over to ``any`` while there are too many."""
    sizes = sorted((len(part.cover or ()), index) for index, part in enumerate(parts))
    total = sum(size for size, _index in sizes)
    too_many = set()
    while total > MAX_TAGS:
        size, index = sizes.pop()
        total -= size
        too_many.add(index)
    return (_all_of(part.table) if index in too_many else part for index, part in enumerate(parts))


def _used(
    recording: Recording, sql: str, keys_of: Callable[[str], TableKeys | None]
) -> dict[str, set[str]] | None:
    """Return the columns used of each alias; ``None`` if one is used that cannot be told.

    The compiler and the text are two witnesses, and what either names is used. A name that stands by itself
    in the text and is that of a column may be one: SQL that an expression has written. A column of which the
    models do not know may follow from any other.
    """
    names = qualified(recording.blocks[0].compiler.connection)
    found: dict[str, set[str]] = {}
    for alias, column in {*_pairs(names, sql), *recording.used}:
        found.setdefault(alias, set()).add(column)
    if not _all_are_known(recording, found, keys_of):
        return None
    tables = [keys_of(table) for table in recording.tables]
    columns = {column for keys in tables if keys is not None for column in keys.names}
    return None if columns.intersection(_bare_words(names, sql)) else found


def _pairs(names: re.Pattern[str], sql: str) -> Iterable[tuple[str, str]]:
    """Return the names in a text that have another one before them, with that."""
    return ((quoted or plain, name) for quoted, plain, name in names.findall(sql))


def _bare_words(names: re.Pattern[str], sql: str) -> Iterable[str]:
    """Return the words of a text that are not such names, in small letters.

    The name of a column of the result is none of a table, unless it stands elsewhere, too.
    """
    return (word.lower() for word in _WORDS.findall(_LABELS.sub(" ", names.sub(" ", sql))))


def _all_are_known(
    recording: Recording, used: dict[str, set[str]], keys_of: Callable[[str], TableKeys | None]
) -> bool:
    """Return whether every column that is used of a table is one of its models, written as they write it."""
    tables = {alias: name for block in recording.blocks for alias, name in block.tables.items()}
    small = {alias.lower() for alias in tables}
    for alias, columns in used.items():
        keys = keys_of(canonical_table(tables[alias])) if alias in tables else None
        if alias not in tables and alias.lower() in small:
            return False
        if keys is not None and not columns <= keys.all_columns:
            return False
    return True


def _all_were_compiled(recording: Recording, sql: str) -> bool:
    """Return whether every mention of a table in a text is one that was compiled.

    An expression may write a SELECT of its own, or give a whole row to a function; ``extra(tables=…)`` is not
    compiled either. A table that is compiled somewhere else in the statement does not show it by its name. A
    row is named by its alias, too, and a table with its schema looks like a column.
    """
    if not recording.blocks:
        return False
    names = qualified(recording.blocks[0].compiler.connection)
    words = Counter(_bare_words(names, sql))
    named = [(alias, name) for block in recording.blocks for alias, name in block.tables.items()]
    compiled = Counter(canonical_table(name) for _alias, name in named)
    compiled.update(alias.lower() for alias, name in named if alias != name)
    aliases = {alias for alias, _name in named}
    pairs = _pairs(names, sql)
    if any(canonical_table(name) in recording.tables and first not in aliases for first, name in pairs):
        return False
    return all(words[one] == compiled[one] for one in (*recording.tables, *compiled))
