"""Random queries: each is a shape, and a function that asks it anew each time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.algebra import lookups, repeated, statements

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence


class Query(NamedTuple):
    """One query.

    :param shape: what kind it is.
    :param ask: runs it and returns what it gives, fit to be compared.
    """

    shape: str
    ask: Callable[[], Any]


SHAPES: dict[str, Callable[[random.Random], Callable[[], Any]]] = {
    "get by key": lookups.by_key,
    "get by unique": lookups.by_unique,
    "by tuple": lookups.by_tuple,
    "foreign key list": lookups.fk_list,
    "foreign key count": lookups.fk_count,
    "select_related": lookups.related,
    "many to many": lookups.many,
    "prefetch": lookups.prefetched,
    "generic": lookups.generic,
    "inherited": lookups.inherited,
    "text": lookups.text,
    "conditions": statements.conditions,
    "or and not": statements.alternatives,
    "aggregate": statements.aggregated,
    "subquery": statements.nested,
    "join": statements.joined,
    "union": statements.combined,
    "scan": statements.scanned,
    "again": repeated.again,
    "absent": repeated.absent,
}
USUAL = [
    "get by key",
    "get by unique",
    "foreign key list",
    "select_related",
    "many to many",
    "foreign key count",
]
"""What sites ask most of the time counts as often as the rest together."""


def draw(chance: random.Random, shapes: Sequence[str] = ()) -> Query:
    """Return a random query.

    :param shapes: those it may have; any if none are given.
    """
    shape = chance.choice(shapes or (USUAL if chance.random() < 0.5 else list(SHAPES)))
    return Query(shape, SHAPES[shape](chance))
