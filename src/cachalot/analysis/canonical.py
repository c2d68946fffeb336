"""From the value of a column to text that is equal whenever the database says that two values are equal.

One law: if the database finds ``x = y`` in a column then ``canonical(kind, x) == canonical(kind, y)``. To
merge values that differ costs a hit, to tell equal values apart costs a wrong row. So what is not certain has
no canonical text at all (``None``), and who meets it falls back to the table.

The kind follows from the type and the collation of the column as the catalogue states them, never from the
Python field alone. Decimals, floats, dates and the like have none: scales, time zones and rounding make equal
what looks different. The first character of the text tells ``NULL`` from every value.
"""

from __future__ import annotations

import enum
import re
from typing import Any
from uuid import UUID

VERSION = 1
"""Changes whenever a canonical text does; it is in the sign of every table."""


class Kind(enum.Enum):
    """How the values of a column are compared."""

    INTEGER = "integer"
    UUID = "uuid"
    TEXT = "text"
    PADDED = "padded"
    HEXADECIMAL = "hexadecimal"


_SENT_AS_THEY_ARE = frozenset({str, int, bool, UUID})

_OF_LIBRARIES = frozenset({"django.utils.safestring", "psycopg.types.numeric"})
"""Where subclasses of these come from that mean the same: text for templates, integers of psycopg 3."""

NULL = "-"
"""The canonical text of NULL."""

_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_UUID = re.compile(
    r"\{?[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}\}?", re.ASCII
)


def canonical(kind: Kind, value: Any) -> str | None:
    """Return the canonical text of a value, ``None`` if it has none.

    :param kind: of its column.
    :param value: a parameter as it is sent, or a value as the driver returns it.
    """
    if value is None:
        return NULL
    type_of = type(value)
    if type_of not in _SENT_AS_THEY_ARE and type_of.__module__ not in _OF_LIBRARIES:
        return None  # a driver may have been told to send something else for it
    if kind is Kind.INTEGER:
        return f"={int.__index__(value)}" if isinstance(value, int) else None
    if kind is Kind.UUID and isinstance(value, UUID):
        return f"={value.hex}"
    if not isinstance(value, str):
        return None
    return _of_text(kind, str.__str__(value))


def _of_text(kind: Kind, value: str) -> str | None:
    if kind is Kind.UUID:
        plain = value.strip("{}").replace("-", "").lower() if _UUID.fullmatch(value) else None
    elif kind is Kind.HEXADECIMAL:
        plain = value.lower() if _HEXADECIMAL.fullmatch(value) else None
    elif kind is Kind.PADDED:
        plain = value.rstrip(" ")
    else:
        plain = value
    return None if plain is None else f"={plain}"
