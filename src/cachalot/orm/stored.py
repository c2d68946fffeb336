"""Whether the value that an INSERT sends is the one that the row then has.

Databases make values fit, some of them without an error: blanks at the end are cut, NULL makes a row number,
and what is too large becomes what is nearest. A value of which that is possible is not known, which costs
precision; to believe it would cost a wrong row.
"""

from __future__ import annotations

from typing import Any


class _Unknown:
    """Stands for a value that is not known, as an expression does."""

    as_sql = None


UNKNOWN = _Unknown()


def stored_as_sent(connection: Any, field: Any, value: Any, *, lenient: bool) -> bool:
    """Return whether a value is stored as it is sent.

    :param connection: to the database.
    :param field: the field; ``None`` for a value that the database makes up.
    :param value: as it is sent.
    :param lenient: whether the statement lets MySQL store what it otherwise refuses (INSERT IGNORE).
    """
    if field is None or hasattr(value, "as_sql"):
        return True
    if hasattr(field, "get_placeholder") or hasattr(field, "get_placeholder_sql"):
        return False  # the database does something to it
    if value is None:
        # As a primary key it makes a number, in SQLite (ROWIDs and the INTEGER PRIMARY KEY) and in MySQL.
        return bool(field.null) and not field.primary_key
    if isinstance(value, str):
        return _fits(connection, getattr(field, "target_field", field), value)
    if connection.vendor != "mysql":
        return True
    if isinstance(value, int) and not isinstance(value, bool):
        ranges = connection.ops.integer_field_ranges
        least, most = ranges.get(getattr(field, "target_field", field).get_internal_type(), (0, -1))
        return bool(least <= value <= most)
    return isinstance(value, bool) or not lenient


def _fits(connection: Any, target: Any, value: str) -> bool:
    """Return whether a text is stored letter by letter.

    Blanks beyond the length of a column are cut without an error (SQL-92, 9.2); how long the column is the
    model may not know. MySQL without its strict mode cuts letters, too, and replaces those it does not have.
    """
    if connection.vendor == "sqlite":
        return True
    if value.endswith(" "):
        return False
    longest = getattr(target, "max_length", None)
    short = longest is None or len(value) <= longest
    return connection.vendor != "mysql" or (short and value.isascii())
