"""The keys of a table by which rows are told apart in tags, as its models and the catalogue state them.

A key is a column or a tuple of columns: the primary key, foreign keys, unique columns and tuples, and what a
generic foreign key consists of. They belong to the *table*: every write to it, through whatever model, must
change the tags of all of them. So all registered models of a table have to agree, and the database itself
must do nothing to its rows that a write does not say: a table with triggers, rules or parts has no keys.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist

from cachalot.analysis import canonical
from cachalot.analysis.canonical import Kind
from cachalot.analysis.rawsql import canonical_table
from cachalot.core.keys import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db import models

Key = tuple[str, ...]


class Stated(NamedTuple):
    """What the models of a table state.

    :param keys: all its keys.
    :param unique: those of which two rows never have the same value, NULL left aside.
    :param primary: the primary key.
    :param columns: all columns.
    :param generated: columns that the database computes.
    """

    keys: frozenset[Key]
    unique: frozenset[Key]
    primary: Key
    columns: frozenset[str]
    generated: frozenset[str]


class Columns(NamedTuple):
    """What the catalogue says about a table.

    :param plain: whether nothing but statements that name it changes its rows.
    :param kinds: how values are compared, for the columns of which that is known.
    :param changing: columns that the database sets or computes by itself in an UPDATE.
    :param references: foreign keys whose partners the database promises: column, table aimed at (canonical),
        column aimed at.
    :param required: columns that are never NULL, as far as that is known.
    :param names: all columns, those of the system among them.
    :param unique: columns in which the database lets no two rows be equal, as far as that is asked, by name.
    """

    plain: bool
    kinds: dict[str, str]
    changing: tuple[str, ...] = ()
    references: tuple[tuple[str, str, str], ...] = ()
    required: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class TableKeys:
    """The keys of one table.

    :param table: canonical name.
    :param name: as the models write it.
    :param keys: those whose values can be told apart, the primary key first, then the unique ones.
    :param unique: of these.
    :param primary: the primary key; empty if its values cannot be told apart.
    :param kinds: of the columns in keys.
    :param generated: columns that change without being set.
    :param all_columns: all its columns.
    :param sign: differs whenever two processes would not change the same tags for the same write.
    :param references: see :class:`Columns`.
    :param required: see :class:`Columns`.
    :param names: of its columns in the database, those of the system among them; in small letters.
    :param identified: whether the database is known to let no two rows have the same primary key.
    """

    table: str
    name: str
    keys: tuple[Key, ...]
    unique: frozenset[Key]
    primary: Key
    kinds: dict[str, Kind]
    generated: frozenset[str]
    all_columns: frozenset[str]
    sign: str
    references: frozenset[tuple[str, str, str]] = frozenset()
    required: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    identified: bool = False

    def columns(self) -> tuple[str, ...]:
        """Return the columns in keys, in a fixed order."""
        return tuple(self.kinds)

    def canonical(self, key: Key, values: Iterable[Any]) -> tuple[str, ...] | None:
        """Return the canonical texts of a value of a key, ``None`` if one of them has none."""
        texts = [
            canonical.canonical(self.kinds[column], value) for column, value in zip(key, values, strict=True)
        ]
        return None if None in texts else tuple(text for text in texts if text is not None)


def combined(table: str, name: str, stated: Stated, columns: Columns) -> TableKeys | None:
    """Return the keys of a table, ``None`` if it has none."""
    if not columns.plain or not all(map(_is_plain, (name, *stated.columns))):
        return None
    kinds = {column: Kind(kind) for column, kind in columns.kinds.items()}
    told = [key for key in stated.keys if all(column in kinds for column in key)]
    if not told:
        return None
    keys = tuple(
        sorted(told, key=lambda key: (key != stated.primary, key not in stated.unique, len(key), key))
    )
    used = {column: kinds[column] for column in sorted({column for key in keys for column in key})}
    # MySQL finds a column by its name in any case.
    changing = {column.lower() for column in columns.changing}
    generated = stated.generated | {column for column in stated.columns if column.lower() in changing}
    parts = (
        table,
        str(canonical.VERSION),
        repr(keys),
        repr([(column, kind.value) for column, kind in used.items()]),
        repr(sorted(stated.columns)),
        repr(sorted(generated)),
    )
    sign = digest(*(part.encode() for part in parts)).hex()[:8]
    primary = stated.primary if stated.primary in keys else ()
    unique = frozenset(key for key in keys if key in stated.unique)
    return TableKeys(
        table,
        name,
        keys,
        unique,
        primary,
        used,
        generated,
        stated.columns,
        sign,
        frozenset(columns.references),
        frozenset(columns.required),
        frozenset(column.lower() for column in (*stated.columns, *columns.names)),
        tuple(sorted(primary)) in map(tuple, columns.unique),
    )


def _is_plain(name: str) -> bool:
    """Return whether a name means the same in a text with parameters as alone."""
    return not any(character in name for character in '%"`')


_stated: tuple[Any, dict[str, tuple[str, Stated] | None]] | None = None


def stated_keys(table: str) -> tuple[str, Stated] | None:
    """Return the name of a table and what its models state; ``None`` if there are none, or they disagree."""
    global _stated  # noqa: PLW0603 - replaced as a whole when the registry has made a new list
    registered = apps.get_models(include_auto_created=True, include_swapped=True)
    if _stated is None or _stated[0] is not registered:
        by_table: dict[str, list[type[models.Model]]] = defaultdict(list)
        for model in registered:
            if not model._meta.proxy:
                by_table[canonical_table(model._meta.db_table)].append(model)
        _stated = (registered, {name: _agreed(found) for name, found in by_table.items()})
    return _stated[1].get(table)


def _agreed(found: list[type[models.Model]]) -> tuple[str, Stated] | None:
    stated = {(model._meta.db_table, _state(model)) for model in found}
    return stated.pop() if len(stated) == 1 and found[0]._meta.managed else None


def _state(model: type[models.Model]) -> Stated:
    meta = model._meta
    fields: list[Any] = [field for field in meta.local_concrete_fields if field.column is not None]
    primary = _primary(model)
    unique = {(field.column,) for field in fields if field.unique} | _unique_tuples(model)
    unique.add(primary)
    foreign = {(field.column,) for field in fields if field.remote_field is not None}
    return Stated(
        keys=frozenset(key for key in unique | foreign | _generic(model) if key and None not in key),
        unique=frozenset(unique),
        primary=primary,
        columns=frozenset(field.column for field in fields),
        generated=frozenset(field.column for field in fields if getattr(field, "generated", False)),
    )


def _primary(model: type[models.Model]) -> Key:
    meta = model._meta
    together = getattr(meta, "pk_fields", None)  # a CompositePrimaryKey, since Django 5.2
    fields = together or [meta.pk]
    return tuple(field.column for field in fields)


def _unique_tuples(model: type[models.Model]) -> set[Key]:
    named = [*model._meta.unique_together, *(one.fields for one in model._meta.total_unique_constraints)]
    return {key for key in (_columns(model, names) for names in named) if key}


def _columns(model: type[models.Model], names: Iterable[str]) -> Key:
    """Return the columns of fields; none if one of them is of another table."""
    try:
        fields: list[Any] = [model._meta.get_field(name) for name in names]
    except FieldDoesNotExist:
        return ()
    local = model._meta.local_concrete_fields
    return tuple(field.column for field in fields) if all(field in local for field in fields) else ()


def _generic(model: type[models.Model]) -> set[Key]:
    """Return what generic foreign keys consist of."""
    pairs = [
        (field.ct_field, field.fk_field)
        for field in model._meta.private_fields
        if hasattr(field, "ct_field") and hasattr(field, "fk_field") and field.model is model
    ]
    return {key for key in (_columns(model, pair) for pair in pairs) if key}
