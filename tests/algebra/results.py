"""What a query gives, as values that can be compared."""

from __future__ import annotations

from typing import Any


def plain(value: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a result as values that can be compared: objects with all that was fetched with them.

    :param inside: the objects around it.
    """
    if hasattr(value, "_meta"):
        return _object(value, (*inside, id(value))) if id(value) not in inside else value.pk
    if isinstance(value, dict):
        return {key: plain(one, inside) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, inside) for one in value]
    return value


def _object(value: Any, inside: tuple[int, ...]) -> Any:
    columns = value._meta.concrete_fields
    fields = {column.attname: value.__dict__.get(column.attname, "deferred") for column in columns}
    related = {name: plain(one, inside) for name, one in value._state.fields_cache.items()}
    prefetched = getattr(value, "_prefetched_objects_cache", {})
    fetched = {name: listed(many, inside) for name, many in prefetched.items()}
    extra = {
        name: value.__dict__[name] for name in ("total", "place", "some", "latest") if name in value.__dict__
    }
    return type(value).__name__, fields, related, fetched, extra


def listed(rows: Any, inside: tuple[int, ...] = ()) -> list[Any]:
    """Return rows in an order that does not depend on the database."""
    return sorted((plain(row, inside) for row in rows), key=repr)


def got(manager: Any, **conditions: Any) -> Any:
    """Return the one object, ``None``, or a word that stands for several."""
    try:
        return plain(manager.get(**conditions))
    except manager.model.DoesNotExist:
        return None
    except manager.model.MultipleObjectsReturned:
        return "several"
