"""What is different between the rows that were kept and those of the database now, in a sentence.

Cells are compared by type and value, so that ``1`` is not ``True`` and a NaN is itself. Rows may hold what
cannot be hashed. The sentence holds no value of a row: it goes to logs.
"""

from __future__ import annotations

import datetime as dt
import enum
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from cachalot.codecs.pickled import encode

_SIMPLE: Final = frozenset({bool, bytes, dt.date, dt.datetime, dt.time, int, str, type(None), UUID})
"""Types of almost all cells: equal to their equals, and hashed in no time."""


class Order(enum.Enum):
    """What a statement says about its rows."""

    FIXED = "they come in an order"
    ANY = "they come in any order"
    ARBITRARY = "the database chooses which of them come"


def difference(kept: Sequence[Any], now: Sequence[Any], order: Order) -> str:
    """Return how two results of one statement differ; empty if they are the same.

    :param kept: the rows that were kept.
    :param now: the rows of the database.
    :param order: what the statement says about them.
    :raises ValueError: a cell cannot be compared.
    """
    if len(kept) != len(now):
        return f"{len(kept)} rows were kept, the database has {'more' if len(now) > len(kept) else len(now)}"
    if order is Order.ARBITRARY:
        return ""
    before, after = list(map(_row, kept)), list(map(_row, now))
    if before == after:
        return ""
    other = sum((Counter(after) - Counter(before)).values())
    if not other:
        return "the same rows in another order" if order is Order.FIXED else ""
    return f"{other} of {len(now)} rows differ{_columns(before, after, other)}"


def _columns(before: list[Hashable], after: list[Hashable], other: int) -> str:
    """Return in which columns rows differ, if it is plain which row was which."""
    pairs = [(one, two) for one, two in zip(before, after, strict=True) if one != two]
    columns: set[int] = set()
    for one, two in pairs:
        if not isinstance(one, tuple) or not isinstance(two, tuple) or len(one) != len(two):
            return ""
        columns.update(
            place for place, cells in enumerate(zip(one, two, strict=True), 1) if cells[0] != cells[1]
        )
    if len(pairs) != other:
        return ""
    return f" (column {', '.join(map(str, sorted(columns)))} of the statement)"


def _row(row: Any) -> Hashable:
    # Whether a row is a list or a tuple depends on the way it came, not on the database.
    return tuple(map(_cell, row)) if isinstance(row, (list, tuple)) else _cell(row)


def _cell(value: Any) -> Hashable:
    """Return something that can be hashed, and is equal for equal cells of equal type."""
    kind = type(value)
    if kind in _SIMPLE:
        return kind, value
    if isinstance(value, (memoryview, bytearray)):
        return kind, bytes(value)
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(_cell, value))
    if isinstance(value, Mapping):
        return kind, frozenset((_cell(key), _cell(one)) for key, one in value.items())
    if isinstance(value, AbstractSet):
        return kind, frozenset(map(_cell, value))
    if isinstance(value, (float, Decimal)):
        return kind, value if _is_number(value) else str(value)
    return kind, value if _compares(value) else encode(value)


def _compares(value: Any) -> bool:
    """Return whether a value is equal to its equals, and can be hashed."""
    if "__eq__" not in {name for cls in type(value).__mro__[:-1] for name in vars(cls)}:
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_number(value: float | Decimal) -> bool:
    return not value.is_nan() if isinstance(value, Decimal) else value == value  # noqa: PLR0124 - NaN is not
