"""Entries in another cache than the tags they depend on.

An entry is valid if its stamp is that of the tokens read at the same look, wherever it was kept meanwhile:
one that was lost, is old or comes back from the dead is a miss. So only the tags need a store with marks,
and the order of ``core.protocol`` is kept: the entry is read first.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cachalot.core.steps import GetMany
from cachalot.stores.base import StoreAway

if TYPE_CHECKING:
    from collections.abc import Generator

    from cachalot.engine.guard import Guard

Result = TypeVar("Result")


def entry_apart(
    steps: Generator[Any, Any, Result], entry_key: str, entries: Guard
) -> Generator[Any, Any, Result]:
    """Ask another store for an entry; a cache that is away has none.

    :param steps: a generator of ``core.protocol`` that reads.
    :param entry_key: key of the entry.
    :param entries: the way to the store that holds it.
    :returns: a generator of the other steps, with the same result.
    """
    answer: Any = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if not isinstance(step, GetMany) or entry_key not in step.keys:
            answer = yield step
            continue
        found: dict[str, Any] = {}
        with suppress(StoreAway):
            found = entries.ask(GetMany((entry_key,)))
        answer = yield GetMany(tuple(key for key in step.keys if key != entry_key))
        if entry_key in found:
            answer = {**answer, entry_key: found[entry_key]}
